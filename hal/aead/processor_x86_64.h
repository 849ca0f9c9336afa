/* What the x86-64 kernels share: which of them may run, the cipher's key schedule, H's factor x. The last two are included by
 * each kernel, so that they are compiled with that kernel's flags: no SSE encodings between AVX ones. */
#ifndef HAL_AEAD_PROCESSOR_X86_64_H
#define HAL_AEAD_PROCESSOR_X86_64_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

bool aead_has_vaes256(void);
bool aead_has_vaes512(void);

/* v ^ v << 32 ^ v << 64 ^ v << 96: the running xor of FIPS 197's key expansion. */
static inline __attribute__((always_inline)) __m128i aead_running_xor(__m128i v)
{
	v = _mm_xor_si128(v, _mm_slli_si128(v, 4));
	return _mm_xor_si128(v, _mm_slli_si128(v, 8));
}

/* Macros, because AESKEYGENASSIST has its constant in the instruction. */
static inline __attribute__((always_inline)) void aead_expand_cipher(__m128i *keys, const uint8_t *raw)
{
	keys[0] = _mm_loadu_si128((const __m128i *)raw);
	keys[1] = _mm_loadu_si128((const __m128i *)(raw + 16));
#define WORD(i, constant, lanes) _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[(i)-1], constant), lanes)
#define EVEN(i, constant)        keys[i] = _mm_xor_si128(aead_running_xor(keys[(i)-2]), WORD(i, constant, 0xff))
#define ODD(i)                   keys[i] = _mm_xor_si128(aead_running_xor(keys[(i)-2]), WORD(i, 0, 0xaa))
	EVEN(2, 0x01);
	ODD(3);
	EVEN(4, 0x02);
	ODD(5);
	EVEN(6, 0x04);
	ODD(7);
	EVEN(8, 0x08);
	ODD(9);
	EVEN(10, 0x10);
	ODD(11);
	EVEN(12, 0x20);
	ODD(13);
	EVEN(14, 0x40);
#undef WORD
#undef EVEN
#undef ODD
}

/* H times x in the reflected field, without a branch on its top bit. */
static inline __attribute__((always_inline)) __m128i aead_times_x(__m128i h)
{
	const __m128i polynomial = _mm_set_epi64x((long long)0xc200000000000000, 1);
	const __m128i top = _mm_srai_epi32(_mm_shuffle_epi32(h, 0xff), 31);
	const __m128i carry = _mm_slli_si128(_mm_srli_epi64(h, 63), 8);

	return _mm_xor_si128(_mm_or_si128(_mm_slli_epi64(h, 1), carry), _mm_and_si128(top, polynomial));
}

#endif
