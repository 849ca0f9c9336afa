/* The bound of the processor: AES-256 in counter mode alone, 512-bit registers, all round keys in registers. No tag, no
 * associated data. The key schedule is any: its bytes do not change the time. */
#include <immintrin.h>

#include "contender.h"

enum { ROUNDS = 14, ROW = 64, WIDE = 8 };

extern const struct contender contender_ctr_vaes512;

static const char *prepare(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	__m128i *keys = c->self;

	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("vpclmulqdq"))
		return "this processor lacks the instructions";
	for (int i = 0; i <= ROUNDS; i++)
		keys[i] = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(key + i % 2 * 16)), _mm_set1_epi8((char)(17 * i)));
	return NULL;
}

static __m512i broadcast(__m128i v)
{
	return _mm512_broadcast_i32x4(v);
}

#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define START(i)                                                                                                                 \
	__m512i s##i = _mm512_xor_si512(                                                                                         \
		k[0], _mm512_shuffle_epi8(_mm512_add_epi32(counter, broadcast(_mm_set_epi32(0, 0, 0, 4 * (i)))), order));
#define ENCRYPT(i) s##i = _mm512_aesenc_epi128(s##i, k[r]);
#define LAST(i)                                                                                                                  \
	_mm512_storeu_si512(out + (i)*ROW,                                                                                       \
			    _mm512_aesenclast_epi128(s##i, _mm512_xor_si512(k[ROUNDS], _mm512_loadu_si512(in + (i)*ROW))));

static void sector(const __m512i k[ROUNDS + 1], const uint8_t *in, uint8_t *out, uint64_t nonce)
{
	const __m512i order = broadcast(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
	const __m512i first = _mm512_set_epi32(0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2);
	__m512i counter = _mm512_add_epi32(broadcast(_mm_set_epi64x((long long)nonce, 0)), first);

	for (const uint8_t *end = in + BENCH_SECTOR; in < end; in += WIDE * ROW, out += WIDE * ROW) {
		EACH(START)
		counter = _mm512_add_epi32(counter, broadcast(_mm_set_epi32(0, 0, 0, 4 * WIDE)));
#pragma GCC unroll 16
		for (int r = 1; r < ROUNDS; r++) {
			EACH(ENCRYPT)
		}
		EACH(LAST)
	}
}

static void seal(const struct contender *c, const struct job *job)
{
	const __m128i *keys = c->self;
	__m512i k[ROUNDS + 1];

	for (int i = 0; i <= ROUNDS; i++)
		k[i] = broadcast(keys[i]);
	for (size_t i = 0; i < job->sectors; i++)
		sector(k, job->in + i * BENCH_SECTOR, job->out + i * BENCH_SECTOR, job->first_nonce + i);
}

static size_t open(const struct contender *c, const struct job *job)
{
	seal(c, job);
	return 0;
}

static __m128i round_keys[ROUNDS + 1];
const struct contender contender_ctr_vaes512 = {
	.name = "ctr-vaes512", .prepare = prepare, .seal = seal, .open = open, .self = round_keys
};
