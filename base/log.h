/* SPDX-License-Identifier: Apache-2.0
 *
 * Log lines on stderr: `2026-01-31T12:00:00.123Z warn  disk: segment 7: checksum of record at 4096 is wrong`.
 * The first function that knows an error logs it; the rest pass the status on. Repeats of one call site beyond 10 a second
 * are counted and summed up in one line (KVCI_LOG_LIMITED does this; use it for whatever a client or disk can trigger).
 * Nobody waits for whoever reads stderr: a line that does not go in at once (a full pipe, a terminal that is held) is counted, and told with the next one
 * that does.
 * Threads: any.
 */
#ifndef KVCI_LOG_H
#define KVCI_LOG_H

#include <stdint.h>

enum kvci_log_level { KVCI_LOG_ERROR, KVCI_LOG_WARN, KVCI_LOG_INFO, KVCI_LOG_DEBUG };

/* "error", "warn", "info", "debug"; -1 when unknown. */
int kvci_log_level_parse(const char *text);
void kvci_log_set_level(enum kvci_log_level level);
/* A sink instead of stderr (tests, embedded users); NULL restores stderr. */
void kvci_log_set_sink(void (*sink)(void *context, enum kvci_log_level level, const char *line), void *context);
void kvci_log(enum kvci_log_level level, const char *module, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

struct kvci_log_limit {
	_Atomic uint64_t window_ns;
	_Atomic uint32_t count;
	_Atomic uint32_t suppressed;
};
int kvci_log_limit_pass(struct kvci_log_limit *limit, uint32_t *ret_suppressed);

#define KVCI_LOG_LIMITED(level, module, ...)                                                       \
	do {                                                                                       \
		static struct kvci_log_limit kvci_limit_;                                          \
		uint32_t kvci_suppressed_ = 0;                                                     \
		if (kvci_log_limit_pass(&kvci_limit_, &kvci_suppressed_)) {                        \
			if (kvci_suppressed_ != 0)                                                 \
				kvci_log(level, module, "(%u lines like the next were left out)",  \
				         kvci_suppressed_);                                        \
			kvci_log(level, module, __VA_ARGS__);                                      \
		}                                                                                  \
	} while (0)

#endif
