/* SPDX-License-Identifier: Apache-2.0
 * Identity of a model or adapter by what is in its files. A model is gigabytes, so that of a large file name, size, header and samples count: of
 * safetensors each tensor is sampled at its begin, middle and end (a fine-tune of one layer changes every element of it), of other formats many places
 * at fixed offsets. What is small is hashed whole.
 *
 * The cache file has one line a file: digest, size, mtime, ctime, path. Whoever cannot read or write it does without. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "connector/internal.h"

enum {
	IDENTITY_WHOLE_BYTES = 16 << 20,  /* a file up to this size is hashed whole */
	IDENTITY_HEADER_BYTES_MAX = 100 << 20, /* as safetensors limits it */
	IDENTITY_FRONT_BYTES = 1 << 20,   /* of a format we do not know */
	IDENTITY_PLACES = 256,            /* fixed samples a file */
	IDENTITY_PLACE_BYTES = 4096,
	IDENTITY_TENSORS_MAX = 8192,      /* sampled a file */
	IDENTITY_TENSOR_BYTES = 512,      /* a sample of one */
	IDENTITY_DEPTH_MAX = 8,
	IDENTITY_CACHE_BYTES_MAX = 16 << 20,
	IDENTITY_HEX_BYTES = 64,
};

/* ---- a growing buffer ---- */

struct identity_buffer {
	uint8_t *bytes;
	size_t used, room;
};

static kvc_status_t identity_reserve(struct identity_buffer *buffer, size_t more, uint8_t **ret_at)
{
	if (buffer->room - buffer->used < more) {
		size_t room = buffer->room * 2 > buffer->used + more ? buffer->room * 2 : buffer->used + more;
		uint8_t *grown = kvci_realloc(buffer->bytes, room);

		if (grown == NULL)
			return client_fail(KVC_NO_MEMORY, "identity");
		buffer->bytes = grown;
		buffer->room = room;
	}
	*ret_at = buffer->bytes + buffer->used;
	return KVC_OK;
}

static kvc_status_t identity_put(struct identity_buffer *buffer, const void *bytes, size_t length_bytes)
{
	uint8_t *at = NULL;
	kvc_status_t status = identity_reserve(buffer, length_bytes, &at);

	if (status != KVC_OK || length_bytes == 0)
		return status;
	memcpy(at, bytes, length_bytes);
	buffer->used += length_bytes;
	return KVC_OK;
}

/* Bytes of a file into the buffer; a file that has become shorter is INVALID. */
static kvc_status_t identity_read(struct identity_buffer *buffer, int fd, uint64_t offset, size_t length_bytes, const char *path)
{
	uint8_t *at = NULL;
	kvc_status_t status = identity_reserve(buffer, length_bytes, &at);

	while (status == KVC_OK && length_bytes > 0) {
		ssize_t n = pread(fd, at, length_bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return client_fail(kvc_status_from_errno(errno), "%s: %s", path, strerror(errno));
		if (n == 0)
			return client_fail(KVC_INVALID, "%s changed while it was read", path);
		at += n;
		offset += (uint64_t)n;
		length_bytes -= (size_t)n;
		buffer->used += (size_t)n;
	}
	return status;
}

static void identity_hex(const uint8_t digest[32], char ret_hex[IDENTITY_HEX_BYTES + 1])
{
	for (unsigned i = 0; i < 32; i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
}

/* ---- samples of one file ---- */

/* Three samples of the tensor at [begin, end) of the data part. */
static kvc_status_t identity_sample_tensor(struct identity_buffer *buffer, int fd, uint64_t begin, uint64_t end, const char *path)
{
	uint64_t bytes = end - begin;
	size_t part = bytes < IDENTITY_TENSOR_BYTES ? (size_t)bytes : IDENTITY_TENSOR_BYTES;
	kvc_status_t status = identity_read(buffer, fd, begin, part, path);

	if (status == KVC_OK && bytes > 3 * IDENTITY_TENSOR_BYTES)
		status = identity_read(buffer, fd, begin + bytes / 2, part, path);
	if (status == KVC_OK && bytes > part)
		status = identity_read(buffer, fd, end - part, part, path);
	return status;
}

/* Offsets are read by looking for their key: the header is JSON of one shape, and what is not found is still covered by the header's
 * own bytes and the fixed samples. */
static kvc_status_t identity_sample_tensors(struct identity_buffer *buffer, int fd, uint64_t size, size_t header_at,
                                            size_t header_bytes, const char *path)
{
	static const char key[] = "\"data_offsets\"";
	size_t at = header_at, end = header_at + header_bytes;
	uint64_t data = 8 + header_bytes;

	for (unsigned count = 0; count < IDENTITY_TENSORS_MAX; count++) {
		/* The buffer moves when it grows: positions, no pointers. */
		const uint8_t *found = memmem(buffer->bytes + at, end - at, key, sizeof(key) - 1);
		char text[64];
		uint64_t from, to;
		size_t room;
		kvc_status_t status;

		if (found == NULL)
			return KVC_OK;
		at = (size_t)(found - buffer->bytes) + sizeof(key) - 1;
		room = end - at < sizeof(text) - 1 ? end - at : sizeof(text) - 1;
		memcpy(text, buffer->bytes + at, room);
		text[room] = '\0';
		if (sscanf(text, " : [ %" SCNu64 " , %" SCNu64, &from, &to) != 2 || from >= to || to > size - data)
			continue;
		status = identity_sample_tensor(buffer, fd, data + from, data + to, path);
		if (status != KVC_OK)
			return status;
	}
	return KVC_OK;
}

static kvc_status_t identity_sample(struct identity_buffer *buffer, int fd, uint64_t size, const char *path)
{
	uint64_t header_bytes = 0;
	size_t start = buffer->used, length = strlen(path);
	bool is_tensors = length > 12 && strcmp(path + length - 12, ".safetensors") == 0;
	kvc_status_t status = identity_read(buffer, fd, 0, sizeof(header_bytes), path);

	if (status != KVC_OK)
		return status;
	memcpy(&header_bytes, buffer->bytes + start, sizeof(header_bytes));
	is_tensors = is_tensors && header_bytes <= IDENTITY_HEADER_BYTES_MAX && header_bytes <= size - 8;
	if (!is_tensors)
		header_bytes = IDENTITY_FRONT_BYTES; /* this is called for larger files only */
	status = identity_read(buffer, fd, 8, header_bytes, path);
	if (status == KVC_OK && is_tensors)
		status = identity_sample_tensors(buffer, fd, size, start + 8, header_bytes, path);
	for (unsigned i = 0; status == KVC_OK && i < IDENTITY_PLACES; i++)
		status = identity_read(buffer, fd, (size - IDENTITY_PLACE_BYTES) / (IDENTITY_PLACES - 1) * i, IDENTITY_PLACE_BYTES,
		                       path);
	return status;
}

static kvc_status_t identity_digest_file(const char *path, const struct stat *file, uint8_t ret_digest[32])
{
	struct identity_buffer buffer = {.bytes = NULL};
	uint64_t size = (uint64_t)file->st_size;
	kvc_status_t status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return client_fail(kvc_status_from_errno(errno), "%s: %s", path, strerror(errno));
	if (size <= IDENTITY_WHOLE_BYTES)
		status = identity_read(&buffer, fd, 0, size, path);
	else
		status = identity_sample(&buffer, fd, size, path);
	close(fd);
	if (status == KVC_OK)
		status = kvci_sha256(buffer.bytes, buffer.used, ret_digest);
	kvci_free(buffer.bytes);
	return status;
}

/* ---- the cache file ---- */

struct identity_cache {
	const char *path; /* NULL: none */
	char *text;       /* what it held, or NULL */
	struct identity_buffer added;
};

static void identity_cache_open(struct identity_cache *cache, const char *path)
{
	struct stat file;
	struct identity_buffer buffer = {.bytes = NULL};
	int fd;

	memset(cache, 0, sizeof(*cache));
	cache->path = path;
	fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	if (fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_size <= IDENTITY_CACHE_BYTES_MAX &&
	    identity_read(&buffer, fd, 0, (size_t)file.st_size, path) == KVC_OK && identity_put(&buffer, "", 1) == KVC_OK)
		cache->text = (char *)buffer.bytes;
	else
		kvci_free(buffer.bytes);
	close(fd);
}

/* " size mtime ctime path\n": what follows the digest on a file's line. NULL: not to be cached. */
static char *identity_cache_key(const char *path, const struct stat *file)
{
	char real[PATH_MAX];

	if (realpath(path, real) == NULL || strchr(real, '\n') != NULL)
		return NULL;
	return kvci_asprintf(" %lld %lld.%09ld %lld.%09ld %s\n", (long long)file->st_size, (long long)file->st_mtim.tv_sec,
	                     file->st_mtim.tv_nsec, (long long)file->st_ctim.tv_sec, file->st_ctim.tv_nsec, real);
}

static bool identity_cache_find(const struct identity_cache *cache, const char *key, uint8_t ret_digest[32])
{
	const char *found = cache->text != NULL ? strstr(cache->text, key) : NULL;

	if (found == NULL || found - cache->text < IDENTITY_HEX_BYTES)
		return false;
	found -= IDENTITY_HEX_BYTES;
	if (found > cache->text && found[-1] != '\n')
		return false;
	for (unsigned i = 0; i < 32; i++) {
		unsigned byte;

		if (sscanf(found + 2 * i, "%2x", &byte) != 1)
			return false;
		ret_digest[i] = (uint8_t)byte;
	}
	return true;
}

static void identity_cache_add(struct identity_cache *cache, const char *key, const uint8_t digest[32])
{
	char hex[IDENTITY_HEX_BYTES + 1];

	identity_hex(digest, hex);
	if (identity_put(&cache->added, hex, IDENTITY_HEX_BYTES) != KVC_OK)
		return;
	if (identity_put(&cache->added, key, strlen(key)) != KVC_OK)
		cache->added.used -= IDENTITY_HEX_BYTES;
}

/* Written beside and renamed: another process may be reading. */
static void identity_cache_close(struct identity_cache *cache)
{
	size_t old_bytes = cache->text != NULL ? strlen(cache->text) : 0;
	char *temporary = NULL;
	int fd = -1;

	if (cache->added.used > 0)
		temporary = kvci_asprintf("%s.%d", cache->path, (int)getpid());
	if (temporary != NULL)
		fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0) {
		bool is_whole = write(fd, cache->text != NULL ? cache->text : "", old_bytes) == (ssize_t)old_bytes &&
		                write(fd, cache->added.bytes, cache->added.used) == (ssize_t)cache->added.used;

		if (close(fd) != 0 || !is_whole || rename(temporary, cache->path) != 0)
			unlink(temporary);
	}
	kvci_free(temporary);
	kvci_free(cache->text);
	kvci_free(cache->added.bytes);
}

/* ---- all files ---- */

struct identity_list {
	char **names; /* relative to the folder */
	size_t count, room;
};

static void identity_list_free(struct identity_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		kvci_free(list->names[i]);
	kvci_free(list->names);
}

static kvc_status_t identity_list_add(struct identity_list *list, char *name)
{
	if (list->count == list->room) {
		size_t room = list->room == 0 ? 32 : list->room * 2;
		char **grown = kvci_realloc(list->names, room * sizeof(*grown));

		if (grown == NULL) {
			kvci_free(name);
			return client_fail(KVC_NO_MEMORY, "identity");
		}
		list->names = grown;
		list->room = room;
	}
	list->names[list->count++] = name;
	return KVC_OK;
}

static bool identity_ends_with(const char *name, const char *end)
{
	size_t name_bytes = strlen(name), end_bytes = strlen(end);

	return name_bytes > end_bytes && strcmp(name + name_bytes - end_bytes, end) == 0;
}

/* What the values of a model depend on: its configuration, its quantisation, its weights. */
static bool identity_is_of_model(const char *name)
{
	static const char *const configs[] = {"config.json", "quantize_config.json", "quantization_config.json",
	                                      "hf_quant_config.json", "quant_config.json", "params.json"};
	static const char *const weights[] = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz"};

	for (unsigned i = 0; i < sizeof(configs) / sizeof(configs[0]); i++)
		if (strcmp(name, configs[i]) == 0)
			return true;
	for (unsigned i = 0; i < sizeof(weights) / sizeof(weights[0]); i++)
		if (identity_ends_with(name, weights[i]))
			return true;
	return false;
}

/* below: "" or "sub/". Hidden files are the download tools' own. */
static kvc_status_t identity_walk(const char *folder, const char *below, bool is_model, unsigned depth, struct identity_list *list)
{
	char *path = kvci_asprintf("%s/%s", folder, below);
	DIR *directory = path != NULL ? opendir(path) : NULL;
	kvc_status_t status = KVC_OK;
	struct dirent *entry;

	if (path == NULL)
		return client_fail(KVC_NO_MEMORY, "identity");
	if (directory == NULL)
		status = client_fail(kvc_status_from_errno(errno), "%s: %s", path, strerror(errno));
	while (status == KVC_OK && (entry = readdir(directory)) != NULL) {
		struct stat file;
		char *name;

		if (entry->d_name[0] == '.' || fstatat(dirfd(directory), entry->d_name, &file, 0) != 0)
			continue;
		if (S_ISDIR(file.st_mode) && !is_model && depth < IDENTITY_DEPTH_MAX) {
			char *deeper = kvci_asprintf("%s%s/", below, entry->d_name);

			status = deeper != NULL ? identity_walk(folder, deeper, is_model, depth + 1, list)
			                        : client_fail(KVC_NO_MEMORY, "identity");
			kvci_free(deeper);
		}
		if (!S_ISREG(file.st_mode) || (is_model && !identity_is_of_model(entry->d_name)))
			continue;
		name = kvci_asprintf("%s%s", below, entry->d_name);
		status = name != NULL ? identity_list_add(list, name) : client_fail(KVC_NO_MEMORY, "identity");
	}
	if (directory != NULL)
		closedir(directory);
	kvci_free(path);
	return status;
}

static int identity_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Adds name, size and digest of one file. */
static kvc_status_t identity_add_file(struct identity_buffer *all, const char *path, const char *name, struct identity_cache *cache)
{
	struct stat file;
	uint8_t digest[32];
	uint64_t size;
	char *key;
	kvc_status_t status = KVC_OK;

	if (stat(path, &file) != 0)
		return client_fail(kvc_status_from_errno(errno), "%s: %s", path, strerror(errno));
	key = cache->path != NULL ? identity_cache_key(path, &file) : NULL;
	if (key == NULL || !identity_cache_find(cache, key, digest)) {
		status = identity_digest_file(path, &file, digest);
		if (status == KVC_OK && key != NULL)
			identity_cache_add(cache, key, digest);
	}
	kvci_free(key);
	size = (uint64_t)file.st_size;
	if (status == KVC_OK)
		status = identity_put(all, name, strlen(name) + 1);
	if (status == KVC_OK)
		status = identity_put(all, &size, sizeof(size));
	return status == KVC_OK ? identity_put(all, digest, sizeof(digest)) : status;
}

static kvc_status_t identity_add_folder(struct identity_buffer *all, const char *folder, bool is_model, struct identity_cache *cache)
{
	struct identity_list list = {.names = NULL};
	kvc_status_t status = identity_walk(folder, "", is_model, 0, &list);

	if (status == KVC_OK && list.count == 0)
		status = client_fail(KVC_NOT_FOUND, is_model ? "%s has no config.json and no weights" : "%s is empty", folder);
	if (list.count > 0)
		qsort(list.names, list.count, sizeof(*list.names), identity_compare);
	for (size_t i = 0; status == KVC_OK && i < list.count; i++) {
		char *path = kvci_asprintf("%s/%s", folder, list.names[i]);

		status = path != NULL ? identity_add_file(all, path, list.names[i], cache) : client_fail(KVC_NO_MEMORY, "identity");
		kvci_free(path);
	}
	identity_list_free(&list);
	return status;
}

static kvc_status_t identity_of(const char *path, bool is_model, const char *cache_file, char **ret_text)
{
	struct identity_buffer all = {.bytes = NULL};
	struct identity_cache cache;
	struct stat file;
	uint8_t digest[32];
	char hex[IDENTITY_HEX_BYTES + 1];
	kvc_status_t status;

	if (path == NULL || ret_text == NULL)
		return client_fail(KVC_INVALID, "an argument is NULL");
	if (stat(path, &file) != 0)
		return client_fail(errno == ENOENT ? KVC_NOT_FOUND : kvc_status_from_errno(errno), "%s: %s", path, strerror(errno));
	identity_cache_open(&cache, cache_file);
	status = identity_put(&all, "kvcask identity 1", 18);
	if (status == KVC_OK && S_ISDIR(file.st_mode))
		status = identity_add_folder(&all, path, is_model, &cache);
	else if (status == KVC_OK) /* the name of a lone file says nothing */
		status = identity_add_file(&all, path, "", &cache);
	identity_cache_close(&cache);
	if (status == KVC_OK)
		status = kvci_sha256(all.bytes, all.used, digest);
	kvci_free(all.bytes);
	if (status != KVC_OK)
		return status;
	identity_hex(digest, hex);
	*ret_text = kvci_strdup(hex);
	return *ret_text != NULL ? KVC_OK : client_fail(KVC_NO_MEMORY, "identity");
}

kvc_status_t kvc_model_identity(const char *folder, const char *cache_file, char **ret_text)
{
	return identity_of(folder, true, cache_file, ret_text);
}

kvc_status_t kvc_content_identity(const char *path, char **ret_text)
{
	return identity_of(path, false, NULL, ret_text);
}
