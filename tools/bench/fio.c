/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench/fio.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/alloc.h"
#include "tools/bench/world.h"

/* fio's own figures of its only job. CPU is in percent of the time that the job ran. */
static kvc_status_t fio_figures(const char *text, const char *direction, uint64_t leg_bytes, struct bench_fio_figures *ret_figures)
{
	const char *begin = strchr(text, '{'); /* notes may come before the JSON */
	json_t *root = begin == NULL ? NULL : json_loads(begin, JSON_DISABLE_EOF_CHECK, NULL);
	const json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
	const json_t *moved = json_object_get(job, direction);
	double bytes = json_number_value(json_object_get(moved, "io_bytes"));
	double speed = json_number_value(json_object_get(moved, "bw_bytes"));
	double percent = json_number_value(json_object_get(job, "usr_cpu")) + json_number_value(json_object_get(job, "sys_cpu"));
	double ran_ms = json_number_value(json_object_get(job, "job_runtime"));

	json_decref(root);
	if (!(bytes > 0) || !(speed > 0))
		return KVC_IO;
	ret_figures->ns = (double)leg_bytes / speed * 1e9;
	ret_figures->cpu_ns = percent / 100 * ran_ms * 1e6 * (double)leg_bytes / bytes;
	return KVC_OK;
}

kvc_status_t bench_fio_leg(const struct bench_fio *fio, bool write, uint64_t offset_bytes, uint64_t leg_bytes,
                           uint64_t block_bytes, uint32_t depth, struct bench_fio_figures *ret_figures)
{
	char file[700], rw[32], engine[64], size[64], offset[64], bs[64], iodepth[64];
	const char *arguments[] = {
		"fio", "--name=kvcask", file, rw, engine, size, offset, bs, iodepth, "--direct=1", "--thread", "--overwrite=1",
		"--allow_file_create=1", "--randrepeat=0", "--norandommap=1", "--output-format=json", "--eta=never", NULL,
	};
	uint64_t moved = leg_bytes / block_bytes * block_bytes;
	char *text;

	snprintf(file, sizeof(file), "--filename=%s", fio->file);
	snprintf(rw, sizeof(rw), "--rw=%s", write ? "write" : "read");
	snprintf(engine, sizeof(engine), "--ioengine=%s", fio->engine);
	snprintf(size, sizeof(size), "--size=%llu", (unsigned long long)moved);
	snprintf(offset, sizeof(offset), "--offset=%llu", (unsigned long long)(offset_bytes / 4096 * 4096));
	snprintf(bs, sizeof(bs), "--bs=%llu", (unsigned long long)block_bytes);
	snprintf(iodepth, sizeof(iodepth), "--iodepth=%u", depth);
	kvc_status_t status = bench_spawn_read(arguments, fio->log, &text);
	if (status != KVC_OK)
		return status;
	status = fio_figures(text, write ? "write" : "read", leg_bytes, ret_figures);
	kvci_free(text);
	return status;
}

kvc_status_t bench_fio_begin(struct bench_fio *fio, const char *folder, uint64_t file_bytes)
{
	struct bench_fio_figures figures;

	*fio = (struct bench_fio){ .engine = "io_uring", .file_bytes = file_bytes };
	snprintf(fio->file, sizeof(fio->file), "%s/fio.data", folder);
	snprintf(fio->log, sizeof(fio->log), "%s/fio.log", folder);
	kvc_status_t status = bench_fio_leg(fio, true, 0, file_bytes, 1 << 20, 16, &figures);
	if (status == KVC_IO) {
		fio->engine = "libaio";
		status = bench_fio_leg(fio, true, 0, file_bytes, 1 << 20, 16, &figures);
	}
	if (status == KVC_NOT_FOUND)
		bench_note("fio is not installed: no reference for the disk (apt-get install fio)");
	return status;
}

void bench_fio_end(struct bench_fio *fio)
{
	if (fio->file[0] != '\0')
		unlink(fio->file);
	*fio = (struct bench_fio){ 0 };
}
