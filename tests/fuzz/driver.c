/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a fuzz target without libFuzzer: each file of the folders given, all of its truncations (of large files: some), and fixed
 * mutations of it. The same inputs every time. Fails when a folder has no file: a corpus that is lost is seen.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/support/random.h"

enum { MUTATIONS = 300, TRUNCATIONS = 300, FILE_BYTES_MAX = 1 << 20 };

/* An exact copy on the heap, so that a sanitizer sees a read past its end. */
static void driver_try(const uint8_t *bytes, size_t length)
{
	uint8_t *copy = malloc(length != 0 ? length : 1);

	if (copy == NULL)
		abort();
	memcpy(copy, bytes, length);
	LLVMFuzzerTestOneInput(copy, length);
	free(copy);
}

static void driver_mutate(const uint8_t *bytes, size_t length)
{
	static const uint8_t notable[] = {0, 1, 0x7f, 0x80, 0xff, ' ', '\n', ':', '{', '['};
	uint64_t random = 0x9e3779b97f4a7c15 ^ length;
	uint8_t *mutant = malloc(length + 1);

	if (mutant == NULL)
		abort();
	for (unsigned i = 0; i < MUTATIONS && length > 0; i++) {
		memcpy(mutant, bytes, length);
		for (unsigned n = 1 + i % 4; n > 0; n--) {
			size_t at = random_step(&random) % length;

			if (i % 2 == 0)
				mutant[at] ^= (uint8_t)(1 << random_step(&random) % 8);
			else
				mutant[at] = notable[random_step(&random) % sizeof(notable)];
		}
		driver_try(mutant, length);
	}
	free(mutant);
}

static void driver_file(const char *path)
{
	uint8_t *bytes = malloc(FILE_BYTES_MAX);
	FILE *file = fopen(path, "rb");
	size_t length;

	if (bytes == NULL || file == NULL) {
		fprintf(stderr, "%s: cannot be read\n", path);
		exit(1);
	}
	length = fread(bytes, 1, FILE_BYTES_MAX, file);
	fclose(file);
	driver_try(bytes, length);
	for (size_t cut = 0; cut < length; cut += 1 + length / TRUNCATIONS)
		driver_try(bytes, cut);
	driver_mutate(bytes, length);
	free(bytes);
}

static unsigned driver_folder(const char *folder)
{
	struct dirent **names;
	int count = scandir(folder, &names, NULL, alphasort);
	unsigned files = 0;
	char path[4096];

	for (int i = 0; i < count; i++) {
		if (names[i]->d_name[0] != '.') {
			snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
			driver_file(path);
			files++;
		}
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	return files;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		unsigned files = driver_folder(argv[i]);

		printf("%s: %u files\n", argv[i], files);
		if (files == 0)
			return 1;
	}
	return argc > 1 ? 0 : 2;
}
