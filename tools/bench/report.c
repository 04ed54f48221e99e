/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "tools/bench/bench.h"

void bench_result_count(struct bench_result *result, const char *name, double value)
{
	if (result->count_count < BENCH_COUNTS_MAX)
		result->counts[result->count_count++] = (struct bench_count){ name, value };
}

/* The bar as people read it, and whether it is met. */
static bool result_bar(const struct bench_result *result, const char **ret_of, const char **ret_sign)
{
	*ret_of = *ret_sign = "";
	switch (result->bar_kind) {
	case BENCH_BAR_RATIO_MIN:
		*ret_of = "ratio";
		*ret_sign = ">=";
		return result->ratio >= result->bar;
	case BENCH_BAR_OURS_MAX:
		*ret_of = "ours";
		*ret_sign = "<=";
		return result->ours <= result->bar;
	case BENCH_BAR_P50_US_MAX:
		*ret_of = "p50_us";
		*ret_sign = "<=";
		return result->p50_us <= result->bar;
	case BENCH_BAR_NONE:
		break;
	}
	return true;
}

bool bench_result_met(const struct bench_result *result)
{
	const char *of, *sign;

	return result_bar(result, &of, &sign);
}

/* Names and units are this program's own words: nothing in them needs escaping. */
static void report_json(const struct bench_result *result)
{
	const char *of, *sign;
	bool met = result_bar(result, &of, &sign);

	printf("{\"bench\":\"%s\",\"case\":\"%s\",\"ours\":%.6g,\"reference\":%.6g,\"reference_name\":\"%s\",\"unit\":\"%s\","
	       "\"ratio\":%.4g,\"spread\":%.4g,\"p50_us\":%.6g,\"p99_us\":%.6g,\"n\":%llu",
	       result->bench, result->name, result->ours, result->reference, result->reference_name, result->unit,
	       result->ratio, result->spread, result->p50_us, result->p99_us, (unsigned long long)result->n);
	if (result->bar_kind != BENCH_BAR_NONE)
		printf(",\"bar\":\"%s %s %g\",\"met\":%s", of, sign, result->bar, met ? "true" : "false");
	if (result->count_count != 0) {
		printf(",\"counts\":{");
		for (uint32_t i = 0; i < result->count_count; i++)
			printf("%s\"%s\":%.6g", i == 0 ? "" : ",", result->counts[i].name, result->counts[i].value);
		printf("}");
	}
	printf("}\n");
}

/* A number in a column, or a dash when it was not taken. */
static void report_cell(double value, int width)
{
	if (value == 0)
		printf(" %*s", width, "-");
	else if (value >= 100)
		printf(" %*.0f", width, value);
	else
		printf(" %*.3g", width, value);
}

static void report_line(const struct bench_result *result)
{
	const char *of, *sign;
	bool met = result_bar(result, &of, &sign);

	printf("%-10s %-30s", result->bench, result->name);
	report_cell(result->ours, 8);
	report_cell(result->reference, 8);
	printf(" %-9s %-14s", result->unit, result->reference_name);
	report_cell(result->ratio, 6);
	report_cell(result->spread, 6);
	report_cell(result->p50_us, 8);
	report_cell(result->p99_us, 8);
	printf(" %6llu", (unsigned long long)result->n);
	if (result->bar_kind != BENCH_BAR_NONE)
		printf("  %s %s %g: %s", of, sign, result->bar, met ? "met" : "MISSED");
	for (uint32_t i = 0; i < result->count_count; i++)
		printf("%s%s %.4g", i == 0 ? "\n             " : ", ", result->counts[i].name, result->counts[i].value);
	printf("\n");
}

void bench_report_add(struct bench_report *report, const struct bench_result *result)
{
	if (report->options->json) {
		report_json(result);
	} else {
		if (report->printed == 0)
			printf("%-10s %-30s %8s %8s %-9s %-14s %6s %6s %8s %8s %6s  bar\n", "bench", "case", "ours", "ref",
			       "unit", "reference", "ratio", "spread", "p50_us", "p99_us", "n");
		report_line(result);
	}
	fflush(stdout);
	report->printed++;
	report->missed += !bench_result_met(result);
}

void bench_note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("bench: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
}

void bench_progress(const struct bench_options *options, const char *what, uint64_t done, uint64_t total)
{
	bool terminal = isatty(STDERR_FILENO) == 1;

	if (!options->progress && !terminal)
		return;
	if (total == 0) {
		fputs(terminal ? "\r\033[K" : "", stderr);
		return;
	}
	fprintf(stderr, "%s%s: %llu of %llu%s", terminal ? "\r\033[K" : "", what, (unsigned long long)done,
	        (unsigned long long)total, terminal ? "" : "\n");
}
