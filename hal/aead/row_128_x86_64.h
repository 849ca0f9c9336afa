/* A row of one block, for the kernels with 128-bit registers. */
#ifndef HAL_AEAD_ROW_128_X86_64_H
#define HAL_AEAD_ROW_128_X86_64_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m128i row;

#define row_xor            _mm_xor_si128
#define row_zero           _mm_setzero_si128
#define row_unpack_low     _mm_unpacklo_epi64
#define row_unpack_high    _mm_unpackhi_epi64
#define row_aesenc         _mm_aesenc_si128
#define row_aesenclast     _mm_aesenclast_si128
#define row_clmul          _mm_clmulepi64_si128
#define row_load(p)        _mm_loadu_si128((const __m128i *)(p))
#define row_store(p, v)    _mm_storeu_si128((__m128i *)(p), v)
#define row_swap_halves(v) _mm_shuffle_epi32(v, 0x4e)
#define row_shift_up(v)    _mm_slli_si128(v, 8)
#define row_shift_down(v)  _mm_srli_si128(v, 8)
#define row_broadcast(v)   (v)
#define row_of(v)          (v)
#define row_gather(blocks) ((blocks)[0])
#define row_first(v)       (v)
#define row_fold(v)        (v)
#define row_xor3(a, b, c)  _mm_xor_si128(_mm_xor_si128(a, b), c)
#define row_tail(v, next)  (next) /* it has no other blocks */
#define row_byte_swap(v)   _mm_shuffle_epi8(v, _mm_load_si128((const __m128i *)byte_order))

static const _Alignas(16) uint8_t byte_order[16] = { 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0 };

/* A row of `size` bytes or, if that is less than a row, filled up with zeroes. */
static inline __attribute__((always_inline)) row row_load_part(const uint8_t *bytes, size_t size)
{
	uint8_t part[sizeof(row)] = { 0 };

	if (size >= sizeof part)
		return row_load(bytes);
	memcpy(part, bytes, size);
	return row_load(part);
}

static inline __attribute__((always_inline)) void row_store_part(uint8_t *bytes, row v, size_t size)
{
	uint8_t part[sizeof(row)];

	if (size >= sizeof part) {
		row_store(bytes, v);
		return;
	}
	row_store(part, v);
	memcpy(bytes, part, size);
}

#endif
