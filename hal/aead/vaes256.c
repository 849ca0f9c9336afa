/* AES-256-GCM on VAES and VPCLMULQDQ, 256-bit registers: a row is two blocks, eight abreast. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256i row;

enum { WIDE = 8, COUNTED_ROWS = 128 };

#define row_xor            _mm256_xor_si256
#define row_zero           _mm256_setzero_si256
#define row_unpack_low     _mm256_unpacklo_epi64
#define row_unpack_high    _mm256_unpackhi_epi64
#define row_aesenc         _mm256_aesenc_epi128
#define row_aesenclast     _mm256_aesenclast_epi128
#define row_clmul          _mm256_clmulepi64_epi128
#define row_broadcast      _mm256_broadcastsi128_si256
#define row_first          _mm256_castsi256_si128
#define row_load(p)        _mm256_loadu_si256((const __m256i *)(p))
#define row_store(p, v)    _mm256_storeu_si256((__m256i *)(p), v)
#define row_swap_halves(v) _mm256_shuffle_epi32(v, 0x4e)
#define row_shift_up(v)    _mm256_bslli_epi128(v, 8)
#define row_shift_down(v)  _mm256_bsrli_epi128(v, 8)
#define row_xor3(a, b, c)  _mm256_xor_si256(_mm256_xor_si256(a, b), c)
#define row_fold(v)        _mm_xor_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1))
#define row_of(v)          _mm256_inserti128_si256(_mm256_setzero_si256(), v, 0) /* a cast leaves the other lane undefined */
#define row_gather(blocks) _mm256_set_m128i((blocks)[1], (blocks)[0])
#define row_tail(v, next)  (next) /* it has no other blocks */
#define row_byte_swap(v)   _mm256_shuffle_epi8(v, _mm256_load_si256((const __m256i *)byte_order))

static const _Alignas(32) uint8_t byte_order[32] = {
	15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
};

/* The low block of `size` bytes, filled up with zeroes. */
static inline __attribute__((always_inline)) __m128i block_load_part(const uint8_t *bytes, size_t size)
{
	uint8_t part[16] = { 0 };

	if (size >= sizeof part)
		return _mm_loadu_si128((const __m128i *)bytes);
	memcpy(part, bytes, size);
	return _mm_loadu_si128((const __m128i *)part);
}

/* A row of `size` bytes or, if that is less than a row, filled up with zeroes. */
static inline __attribute__((always_inline)) row row_load_part(const uint8_t *bytes, size_t size)
{
	if (size >= 32)
		return row_load(bytes);
	if (size <= 16)
		return row_of(block_load_part(bytes, size));
	return _mm256_inserti128_si256(row_of(block_load_part(bytes, 16)), block_load_part(bytes + 16, size - 16), 1);
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

#define VECTOR "ymm"
#define STRIDE "32"
#define LATE   "%%ymm12"

#include "rows_x86_64.h"
#include "counted_x86_64.h"
#include "step_vex_x86_64.h"
#include "runs_x86_64.h"

const struct aead_kernel aead_vaes256 = AEAD_KERNEL("vaes256", aead_has_vaes256);
