/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench/fio.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/alloc.h"
#include "tools/bench/world.h"

/* fio's own figure: bytes a second of the only job. */
static kvc_status_t fio_speed(const char *text, const char *direction, double *ret_bytes_a_second)
{
	const char *begin = strchr(text, '{'); /* notes may come before the JSON */
	json_t *root = begin == NULL ? NULL : json_loads(begin, JSON_DISABLE_EOF_CHECK, NULL);
	const json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
	const json_t *speed = json_object_get(json_object_get(job, direction), "bw_bytes");
	kvc_status_t status = json_is_number(speed) && json_number_value(speed) > 0 ? KVC_OK : KVC_IO;

	if (status == KVC_OK)
		*ret_bytes_a_second = json_number_value(speed);
	json_decref(root);
	return status;
}

kvc_status_t bench_fio_leg(const struct bench_fio *fio, bool write, uint64_t offset_bytes, uint64_t leg_bytes,
                           uint64_t block_bytes, uint32_t depth, double *ret_ns)
{
	char file[700], rw[32], engine[64], size[64], offset[64], bs[64], iodepth[64];
	const char *arguments[] = {
		"fio", "--name=kvcask", file, rw, engine, size, offset, bs, iodepth, "--direct=1", "--thread", "--overwrite=1",
		"--allow_file_create=1", "--randrepeat=0", "--norandommap=1", "--output-format=json", "--eta=never", NULL,
	};
	uint64_t moved = leg_bytes / block_bytes * block_bytes;
	char *text;
	double speed = 0;

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
	status = fio_speed(text, write ? "write" : "read", &speed);
	kvci_free(text);
	if (status == KVC_OK)
		*ret_ns = (double)leg_bytes / speed * 1e9;
	return status;
}

kvc_status_t bench_fio_begin(struct bench_fio *fio, const char *folder, uint64_t file_bytes)
{
	double ns;

	*fio = (struct bench_fio){ .engine = "io_uring", .file_bytes = file_bytes };
	snprintf(fio->file, sizeof(fio->file), "%s/fio.data", folder);
	snprintf(fio->log, sizeof(fio->log), "%s/fio.log", folder);
	kvc_status_t status = bench_fio_leg(fio, true, 0, file_bytes, 1 << 20, 16, &ns);
	if (status == KVC_IO) {
		fio->engine = "libaio";
		status = bench_fio_leg(fio, true, 0, file_bytes, 1 << 20, 16, &ns);
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
