/* This project's kernels, by name. */
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>

#include "contender.h"
#include "hal/aead.h"

struct mine {
	alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
	const struct aead_kernel *kernel;
};

static const char *prepare(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	struct mine *m = c->self;

	m->kernel = aead_kernel_by_name(c->name);
	if (m->kernel == NULL)
		return "not in a build for this processor";
	if (!m->kernel->usable())
		return "this processor lacks the instructions";
	if (aead_self_test(m->kernel) != 0)
		return "fails its known answers";
	m->kernel->expand(m->state, key);
	return NULL;
}

static size_t fill(struct aead_item items[AEAD_RUN_MAX], const struct job *job, size_t from)
{
	const size_t count = job->sectors - from < AEAD_RUN_MAX ? job->sectors - from : AEAD_RUN_MAX;

	for (size_t i = 0; i < count; i++) {
		items[i].in = job->in + (from + i) * BENCH_SECTOR;
		items[i].out = job->out + (from + i) * BENCH_SECTOR;
		items[i].tag = job->tags + (from + i) * BENCH_TAG;
		items[i].aad = job->aad;
		items[i].size = BENCH_SECTOR;
		items[i].aad_size = BENCH_AAD;
		nonce_of(items[i].iv, job->first_nonce + from + i);
	}
	return count;
}

static void seal(const struct contender *c, const struct job *job)
{
	const struct mine *m = c->self;
	struct aead_item items[AEAD_RUN_MAX];

	for (size_t at = 0; at < job->sectors; at += AEAD_RUN_MAX)
		m->kernel->seal_run(m->state, items, fill(items, job, at));
}

static size_t open(const struct contender *c, const struct job *job)
{
	const struct mine *m = c->self;
	struct aead_item items[AEAD_RUN_MAX];
	size_t bad = 0;

	for (size_t at = 0; at < job->sectors; at += AEAD_RUN_MAX)
		bad += m->kernel->open_run(m->state, items, fill(items, job, at));
	return bad;
}

#define KERNEL(kernel, is_slow)                                                                                                  \
	static struct mine mine_##kernel;                                                                                        \
	const struct contender contender_##kernel = {                                                                            \
		.name = #kernel, .prepare = prepare, .seal = seal, .open = open, .self = &mine_##kernel, .slow = is_slow         \
	}

extern const struct contender contender_vaes512, contender_vaes256, contender_aesni, contender_aesni_sse, contender_armv8,
	contender_portable;
KERNEL(vaes512, false);
KERNEL(vaes256, false);
KERNEL(aesni, false);
KERNEL(aesni_sse, false);
KERNEL(armv8, false);
KERNEL(portable, true);
