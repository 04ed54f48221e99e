/* SPDX-License-Identifier: Apache-2.0
 * fio as the reference of the disk: one leg on a file that was written before. */
#ifndef BENCH_FIO_H
#define BENCH_FIO_H

#include "tools/bench/bench.h"

struct bench_fio {
	char file[640];
	char log[640];
	const char *engine; /* "io_uring", or "libaio" where the kernel forbids it */
	uint64_t file_bytes;
};

struct bench_fio_figures {
	double ns, cpu_ns;
};

/* Writes the file once. NOT_FOUND: fio is not installed. */
kvc_status_t bench_fio_begin(struct bench_fio *fio, const char *folder, uint64_t file_bytes);
/* Moves leg_bytes (rounded down to whole blocks) at offset_bytes, in blocks of block_bytes, `depth` at a time, past the page cache.
 * What fio measured is scaled to leg_bytes. */
kvc_status_t bench_fio_leg(const struct bench_fio *fio, bool write, uint64_t offset_bytes, uint64_t leg_bytes,
                           uint64_t block_bytes, uint32_t depth, struct bench_fio_figures *ret_figures);
void bench_fio_end(struct bench_fio *fio);

#endif
