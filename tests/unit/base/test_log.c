/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { THREADS = 4, LINES = 500 };

struct catch {
	unsigned count;
	char last[4096];
	enum kvci_log_level level;
};

static void catch_line(void *context, enum kvci_log_level level, const char *line)
{
	struct catch *caught = context;

	caught->count++;
	caught->level = level;
	snprintf(caught->last, sizeof(caught->last), "%s", line);
}

static void test_log__a_line__has_time_level_module_and_text(void **state)
{
	struct catch caught = {0};
	unsigned year, month, day, hour, minute, second, ms;
	char level[8], module[8];
	int end = 0;

	kvci_log_set_sink(catch_line, &caught);
	kvci_log(KVCI_LOG_WARN, "disk", "segment %d: %s", 7, "wrong");
	kvci_log_set_sink(NULL, NULL);
	assert_int_equal(caught.count, 1);
	assert_int_equal(caught.level, KVCI_LOG_WARN);
	assert_int_equal(sscanf(caught.last, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %7s %7[^:]: %n", &year, &month, &day, &hour, &minute,
	                        &second, &ms, level, module, &end), 9);
	assert_true(year >= 2024 && month <= 12 && ms < 1000);
	assert_string_equal(level, "warn");
	assert_string_equal(module, "disk");
	assert_string_equal(caught.last + end, "segment 7: wrong");
	assert_non_null(strstr(caught.last, "Z warn  disk: "));
}

static void test_log__level__less_important_lines_are_left_out(void **state)
{
	struct catch caught = {0};

	kvci_log_set_sink(catch_line, &caught);
	kvci_log(KVCI_LOG_DEBUG, "m", "not at info");
	assert_int_equal(caught.count, 0);
	kvci_log_set_level(KVCI_LOG_DEBUG);
	kvci_log(KVCI_LOG_DEBUG, "m", "at debug");
	assert_int_equal(caught.count, 1);
	kvci_log_set_level(KVCI_LOG_ERROR);
	kvci_log(KVCI_LOG_WARN, "m", "not at error");
	assert_int_equal(caught.count, 1);
	kvci_log_set_level(KVCI_LOG_INFO);
	kvci_log_set_sink(NULL, NULL);
}

static void test_log__level_names__are_parsed(void **state)
{
	assert_int_equal(kvci_log_level_parse("error"), KVCI_LOG_ERROR);
	assert_int_equal(kvci_log_level_parse("warn"), KVCI_LOG_WARN);
	assert_int_equal(kvci_log_level_parse("info"), KVCI_LOG_INFO);
	assert_int_equal(kvci_log_level_parse("debug"), KVCI_LOG_DEBUG);
	assert_int_equal(kvci_log_level_parse("Info"), -1);
	assert_int_equal(kvci_log_level_parse(""), -1);
}

static void test_log__bytes_of_others__draw_no_second_line_and_no_escape(void **state)
{
	struct catch caught = {0};
	char huge[5000];

	memset(huge, 'x', sizeof(huge) - 1);
	huge[sizeof(huge) - 1] = '\0';
	kvci_log_set_sink(catch_line, &caught);
	kvci_log(KVCI_LOG_INFO, "m", "%s", "name\n2026-01-01 error forged\x1b[2J");
	assert_null(strpbrk(caught.last, "\n\x1b"));
	kvci_log(KVCI_LOG_INFO, "m", "%s", huge);
	assert_true(strlen(caught.last) < 2048);
	assert_string_equal(caught.last + strlen(caught.last) - 4, "x...");
	kvci_log_set_sink(NULL, NULL);
}

static void *log_lines(void *context)
{
	for (unsigned i = 0; i < LINES; i++)
		kvci_log(KVCI_LOG_ERROR, "m", "thread %lu line %u end", (unsigned long)(uintptr_t)context, i);
	return NULL;
}

static void test_log__many_threads_on_stderr__whole_lines(void **state)
{
	char path[] = "/tmp/kvc_test_log_XXXXXX", line[4096];
	int saved = dup(STDERR_FILENO), fd = mkstemp(path);
	pthread_t threads[THREADS];
	unsigned lines = 0;
	FILE *file;

	assert_true(saved >= 0 && fd >= 0);
	fcntl(fd, F_SETFL, O_APPEND);
	dup2(fd, STDERR_FILENO);
	for (uintptr_t t = 0; t < THREADS; t++)
		assert_int_equal(pthread_create(&threads[t], NULL, log_lines, (void *)t), 0);
	for (unsigned t = 0; t < THREADS; t++)
		pthread_join(threads[t], NULL);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fd);
	file = fopen(path, "r");
	while (fgets(line, sizeof(line), file) != NULL) {
		assert_string_equal(line + strlen(line) - 5, " end\n");
		assert_int_equal(line[4], '-');
		lines++;
	}
	fclose(file);
	unlink(path);
	assert_int_equal(lines, THREADS * LINES);
}

/* Counts while threads write and the sink is taken away: after that, none may come. */
static void count_line(void *context, enum kvci_log_level level, const char *line)
{
	atomic_fetch_add((_Atomic unsigned *)context, 1);
}

static void test_log__sink_removed_while_threads_write__is_not_called_any_more(void **state)
{
	_Atomic unsigned count = 0;
	pthread_t threads[THREADS];
	unsigned after;
	int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC), saved = dup(STDERR_FILENO);

	dup2(null_fd, STDERR_FILENO);
	kvci_log_set_sink(count_line, (void *)&count);
	for (unsigned t = 0; t < THREADS; t++)
		assert_int_equal(pthread_create(&threads[t], NULL, log_lines, NULL), 0);
	while (atomic_load(&count) == 0)
		usleep(100);
	kvci_log_set_sink(NULL, NULL);
	after = atomic_load(&count);
	for (unsigned t = 0; t < THREADS; t++)
		pthread_join(threads[t], NULL);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null_fd);
	assert_int_equal(atomic_load(&count), after);
}

static void test_log__one_call_site_floods__ten_lines_a_second_and_a_sum(void **state)
{
	struct kvci_log_limit limit = {0};
	uint32_t suppressed = 99;
	unsigned passed = 0;

	for (unsigned i = 0; i < 1000; i++)
		passed += kvci_log_limit_pass(&limit, &suppressed) != 0;
	assert_true(passed >= 10 && passed <= 20); /* 20: a second went by in between */
	atomic_store(&limit.window_ns, kvci_clock_ns() - KVCI_SECOND); /* a second later */
	passed = (unsigned)kvci_log_limit_pass(&limit, &suppressed);
	assert_int_equal(passed, 1);
	assert_true(suppressed >= 980 && suppressed <= 990);
	assert_int_equal(kvci_log_limit_pass(&limit, &suppressed), 1);
	assert_int_equal(suppressed, 0);
}

static void test_log__limited_macro__counts_its_own_place(void **state)
{
	struct catch caught = {0};

	kvci_log_set_sink(catch_line, &caught);
	for (unsigned i = 0; i < 100; i++)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "m", "flood %u", i);
	assert_true(caught.count >= 10 && caught.count <= 22);
	KVCI_LOG_LIMITED(KVCI_LOG_WARN, "m", "another place");
	assert_non_null(strstr(caught.last, "another place"));
	kvci_log_set_sink(NULL, NULL);
}

/* What lies in a pipe that does not block. */
static unsigned read_lines(int fd, unsigned *ret_lost)
{
	char text[4096];
	unsigned lines = 0;
	ssize_t n;

	*ret_lost = 0;
	for (FILE *in = fdopen(dup(fd), "r");; lines++) {
		if (fgets(text, sizeof(text), in) == NULL) {
			fclose(in);
			break;
		}
		if (sscanf(text, "(%u lines were lost", ret_lost) == 1)
			lines--;
		else
			assert_non_null(strstr(text, "Z warn  m: nobody reads this\n"));
	}
	n = read(fd, text, 1);
	assert_int_equal(n, -1); /* nothing is left */
	return lines;
}

/* Without end where logging waits for its reader. */
static void test_log__nobody_reads__goes_on_and_says_so_later(void **state)
{
	enum { WRITTEN = 5000 };
	int saved = dup(STDERR_FILENO), pipe_fds[2];
	unsigned lost, before, after;

	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK), 0);
	dup2(pipe_fds[1], STDERR_FILENO);
	for (unsigned i = 0; i < WRITTEN; i++)
		kvci_log(KVCI_LOG_WARN, "m", "nobody reads this");
	before = read_lines(pipe_fds[0], &lost);
	kvci_log(KVCI_LOG_WARN, "m", "nobody reads this");
	dup2(saved, STDERR_FILENO);
	assert_int_equal(lost, 0);
	assert_true(before > 0 && before < WRITTEN);
	after = read_lines(pipe_fds[0], &lost);
	assert_int_equal(after, 1);
	assert_int_equal(before + lost, WRITTEN);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(saved);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_log__a_line__has_time_level_module_and_text),
		cmocka_unit_test(test_log__level__less_important_lines_are_left_out),
		cmocka_unit_test(test_log__level_names__are_parsed),
		cmocka_unit_test(test_log__bytes_of_others__draw_no_second_line_and_no_escape),
		cmocka_unit_test(test_log__many_threads_on_stderr__whole_lines),
		cmocka_unit_test(test_log__sink_removed_while_threads_write__is_not_called_any_more),
		cmocka_unit_test(test_log__one_call_site_floods__ten_lines_a_second_and_a_sum),
		cmocka_unit_test(test_log__limited_macro__counts_its_own_place),
		cmocka_unit_test(test_log__nobody_reads__goes_on_and_says_so_later),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
