/* Intel's ipsec-mb: its three managers, by the direct calls for GCM, which are its fastest. */
#include <intel-ipsec-mb.h>

#include "contender.h"

struct manager {
	void (*init)(IMB_MGR *m);
	uint64_t features;
	IMB_MGR *m;
	_Alignas(64) struct gcm_key_data key;
};

static const char *prepare(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	struct manager *g = c->self;
	_Alignas(64) uint8_t aligned_key[BENCH_KEY]; /* it reads the key by aligned loads */

	memcpy(aligned_key, key, sizeof aligned_key);
	g->m = alloc_mb_mgr(0);
	if (g->m == NULL)
		return "alloc_mb_mgr failed";
	if ((g->m->features & g->features) != g->features)
		return "this processor lacks the instructions";
	g->init(g->m);
	if (imb_get_errno(g->m) != 0)
		return imb_get_strerror(imb_get_errno(g->m));
	IMB_AES256_GCM_PRE(g->m, aligned_key, &g->key);
	return NULL;
}

static void seal(const struct contender *c, const struct job *job)
{
	struct manager *g = c->self;
	struct gcm_context_data context;
	uint8_t iv[BENCH_IV];

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		IMB_AES256_GCM_ENC(g->m, &g->key, &context, job->out + i * BENCH_SECTOR, job->in + i * BENCH_SECTOR, BENCH_SECTOR,
				   iv, job->aad, BENCH_AAD, job->tags + i * BENCH_TAG, BENCH_TAG);
	}
}

static size_t open(const struct contender *c, const struct job *job)
{
	struct manager *g = c->self;
	struct gcm_context_data context;
	uint8_t iv[BENCH_IV];
	uint8_t tag[BENCH_TAG];
	size_t bad = 0;

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		IMB_AES256_GCM_DEC(g->m, &g->key, &context, job->out + i * BENCH_SECTOR, job->in + i * BENCH_SECTOR, BENCH_SECTOR,
				   iv, job->aad, BENCH_AAD, tag, BENCH_TAG);
		bad += memcmp(tag, job->tags + i * BENCH_TAG, BENCH_TAG) != 0;
	}
	return bad;
}

#define MANAGER(id, text, initialise, flags)                                                                                     \
	static struct manager manager_##id = { .init = initialise, .features = flags };                                          \
	extern const struct contender contender_ipsec_mb_##id;                                                                   \
	const struct contender contender_ipsec_mb_##id = {                                                                       \
		.name = "ipsec-mb-" text, .prepare = prepare, .seal = seal, .open = open, .self = &manager_##id                  \
	}

MANAGER(avx512, "avx512", init_mb_mgr_avx512, IMB_CPUFLAGS_AVX512);
MANAGER(avx2, "avx2", init_mb_mgr_avx2, IMB_CPUFLAGS_AVX2);
MANAGER(sse, "sse", init_mb_mgr_sse, IMB_CPUFLAGS_SSE);
