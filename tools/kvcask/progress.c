/* SPDX-License-Identifier: Apache-2.0
 * Progress bars. */
#include <unistd.h>

#include "base/clock.h"
#include "tools/kvcask/print.h"

enum { PROGRESS_CELLS = 24 };
#define PROGRESS_FIRST_NS KVCI_SECOND
#define PROGRESS_STEP_NS (100 * KVCI_MS)

void print_progress_begin(struct print_progress *progress, const char *what)
{
	*progress = (struct print_progress){ .what = what, .begin_ns = kvci_clock_ns() };
}

void print_progress_show(struct print_progress *progress, uint64_t done, uint64_t total, bool bytes)
{
	uint64_t now_ns = kvci_clock_ns();
	double elapsed_s = (double)(now_ns - progress->begin_ns) / 1e9, left_s;
	unsigned cells = total != 0 ? (unsigned)((double)done / (double)total * PROGRESS_CELLS) : 0;

	if (!isatty(STDERR_FILENO) || now_ns - progress->begin_ns < PROGRESS_FIRST_NS ||
	    now_ns - progress->shown_ns < PROGRESS_STEP_NS)
		return;
	progress->shown = true;
	progress->shown_ns = now_ns;
	if (cells > PROGRESS_CELLS)
		cells = PROGRESS_CELLS;
	fprintf(stderr, "\r%s [%.*s%.*s] ", progress->what, (int)cells, "########################",
	        (int)(PROGRESS_CELLS - cells), "........................");
	if (bytes)
		fprintf(stderr, "%s of %s, %s", print_bytes(done), print_bytes(total), print_rate((double)done / elapsed_s));
	else
		fprintf(stderr, "%s of %s", print_count(done), print_count(total));
	left_s = done != 0 && total > done ? elapsed_s * (double)(total - done) / (double)done : 0;
	if (left_s > 0)
		fprintf(stderr, ", %s left", print_duration(left_s));
	fputs("\033[K", stderr);
	fflush(stderr);
}

void print_progress_end(struct print_progress *progress)
{
	if (progress->shown)
		fputs("\r\033[K", stderr);
	progress->shown = false;
}
