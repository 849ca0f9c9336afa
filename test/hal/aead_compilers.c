/* One kernel built by two compilers, in one process: both must be equally fast. What must hold: the verdict is a ratio of rounds
 * in turn, so that a busy machine slows both. Arguments: the kernel's name and two modules that hold it. */
#include <dlfcn.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hal/aead.h"

enum { SECTOR = 4096, SECTORS = 16, AAD = 48, ROUNDS = 151, MICROSECONDS = 400 };

/* The highest that one may be faster than the other. */
static const double limit = 1.15;

struct build {
	alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
	const struct aead_kernel *kernel;
};

struct buffers {
	uint8_t plain[SECTORS][SECTOR], sealed[SECTORS][SECTOR], opened[SECTORS][SECTOR];
	uint8_t tags[SECTORS][AEAD_TAG_BYTES], aad[AAD];
};

static void load(struct build *b, const char *path, const char *name)
{
	const uint8_t key[AEAD_KEY_BYTES] = "the same for both of the builds";
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	char symbol[64];

	snprintf(symbol, sizeof symbol, "aead_%s", name);
	b->kernel = module == NULL ? NULL : dlsym(module, symbol);
	if (b->kernel == NULL) {
		fprintf(stderr, "no kernel %s in %s: %s\n", name, path, dlerror());
		exit(2);
	}
	if (!b->kernel->usable()) {
		printf("skipped: this processor cannot run %s\n", name);
		exit(77);
	}
	b->kernel->expand(b->state, key);
}

static void fill(struct aead_item *items, struct buffers *m, bool open)
{
	for (size_t i = 0; i < SECTORS; i++) {
		items[i] = (struct aead_item){ .in = open ? m->sealed[i] : m->plain[i],
					       .out = open ? m->opened[i] : m->sealed[i],
					       .tag = m->tags[i],
					       .aad = m->aad,
					       .size = SECTOR,
					       .aad_size = AAD };
		items[i].iv[0] = (uint8_t)i;
	}
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Sectors a second of one build. */
static double rate(const struct build *b, struct aead_item *items, bool open)
{
	const double start = seconds();
	double spent;
	int done = 0;

	do {
		if (!open)
			b->kernel->seal_run(b->state, items, SECTORS);
		else if (b->kernel->open_run(b->state, items, SECTORS) != 0)
			exit(2);
		done += SECTORS;
		spent = seconds() - start;
	} while (spent < MICROSECONDS / 1e6);
	return done / spent;
}

static int ascending(const void *a, const void *b)
{
	const double x = *(const double *)a;
	const double y = *(const double *)b;

	return (x > y) - (x < y);
}

/* How much faster the first is: the median of the rounds' ratios, the two in another order each round. */
static double compare(const struct build builds[2], struct buffers *m, bool open)
{
	struct aead_item items[SECTORS];
	double ratios[ROUNDS];

	fill(items, m, open);
	for (size_t i = 0; i < ROUNDS; i++) {
		double rates[2];

		rates[i % 2] = rate(&builds[i % 2], items, open);
		rates[1 - i % 2] = rate(&builds[1 - i % 2], items, open);
		ratios[i] = rates[0] / rates[1];
	}
	qsort(ratios, ROUNDS, sizeof ratios[0], ascending);
	return ratios[ROUNDS / 2];
}

int main(int argc, char **argv)
{
	static struct build builds[2];
	static struct buffers m;
	double seal, open;

	if (argc != 4) {
		fprintf(stderr, "usage: %s KERNEL MODULE MODULE\n", argv[0]);
		return 2;
	}
	load(&builds[0], argv[2], argv[1]);
	load(&builds[1], argv[3], argv[1]);
	seal = compare(builds, &m, false);
	open = compare(builds, &m, true);
	printf("%s: %s is %.3f times as fast in seal and %.3f in open as %s; from %.3f to %.3f is right\n", argv[1], argv[2],
	       seal, open, argv[3], 1 / limit, limit);
	return seal > limit || seal < 1 / limit || open > limit || open < 1 / limit;
}
