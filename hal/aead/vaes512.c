/* AES-256-GCM on VAES and VPCLMULQDQ, 512-bit registers: a row is four blocks, sixteen abreast.
 * Where the time goes on the cores this was tuned on: a row has 13 AESENC, 3 VPCLMULQDQ of three operations each (one starts
 * every other cycle), and 6 xors and shuffles, which four vector pipes do in 7 cycles: no more than the cipher alone, which has a
 * round more. Measured are 7.1 while all is in the first cache, 7.4 when each step also reads and writes the second, and for each
 * sector some 65 cycles more: associated data, the end of the hash, 200 instructions between the last group and the next first
 * one, a tenth of the call. The products go the way of Karatsuba two rows at a time, and a sector has one reduction. */
#include <immintrin.h>
#include <stdint.h>

typedef __m512i row;

enum { WIDE = 16, COUNTED_ROWS = 64 };

#define row_xor         _mm512_xor_si512
#define row_zero        _mm512_setzero_si512
#define row_unpack_low  _mm512_unpacklo_epi64
#define row_unpack_high _mm512_unpackhi_epi64
#define row_aesenc      _mm512_aesenc_epi128
#define row_aesenclast  _mm512_aesenclast_epi128
#define row_clmul       _mm512_clmulepi64_epi128
#define row_broadcast   _mm512_broadcast_i32x4
#define row_first       _mm512_castsi512_si128
#define row_of          _mm512_zextsi128_si512
#define row_gather(blocks)                                                                                                       \
	_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i((blocks)[1], (blocks)[0])),                                   \
			   _mm256_set_m128i((blocks)[3], (blocks)[2]), 1)
#define row_load           _mm512_loadu_si512
#define row_store          _mm512_storeu_si512
#define row_swap_halves(v) _mm512_shuffle_epi32(v, 0x4e)
#define row_shift_up(v)    _mm512_bslli_epi128(v, 8)
#define row_shift_down(v)  _mm512_bsrli_epi128(v, 8)
#define row_xor3(a, b, c)  _mm512_ternarylogic_epi64(a, b, c, 0x96)
#define row_tail(v, next)  _mm512_mask_mov_epi64(v, 0xf0, next) /* v, but for the last two blocks */
/* VPERMB can take its bytes from memory, VPSHUFB cannot: in the assembly below that saves a load. */
#define row_byte_swap(v)        _mm512_permutexvar_epi8(_mm512_load_si512(byte_order), v)
#define row_load_part(p, n)     _mm512_maskz_loadu_epi8(row_mask(n), p)
#define row_store_part(p, v, n) _mm512_mask_storeu_epi8(p, row_mask(n), v)

#define SWAPPED(n)                                                                                                               \
	(n) + 15, (n) + 14, (n) + 13, (n) + 12, (n) + 11, (n) + 10, (n) + 9, (n) + 8, (n) + 7, (n) + 6, (n) + 5, (n) + 4,        \
		(n) + 3, (n) + 2, (n) + 1, (n)
static const _Alignas(64) uint8_t byte_order[64] = { SWAPPED(0), SWAPPED(16), SWAPPED(32), SWAPPED(48) };

static inline __attribute__((always_inline)) __mmask64 row_mask(size_t size)
{
	return size >= sizeof(row) ? ~UINT64_C(0) : (UINT64_C(1) << size) - 1;
}

static inline __attribute__((always_inline)) __m128i row_fold(row v)
{
	const __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));

	return _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

#include "rows_x86_64.h"
#include "counted_x86_64.h"

/* Rows are zmm0 to zmm15, two rows under the hash zmm16 to zmm18, products zmm19 and zmm20, a round key zmm21, the order of bytes
 * zmm22. */
#define AES4(a, b, c, d)                                                                                                         \
	"vaesenc %%zmm21, %%zmm" a ", %%zmm" a "\n\t"                                                                            \
	"vaesenc %%zmm21, %%zmm" b ", %%zmm" b "\n\t"                                                                            \
	"vaesenc %%zmm21, %%zmm" c ", %%zmm" c "\n\t"                                                                            \
	"vaesenc %%zmm21, %%zmm" d ", %%zmm" d "\n\t"
#define KEY(i) "vmovdqa64 64*" #i "(%[keys]), %%zmm21\n\t"
#define ROUND(i, first, second, third, fourth)                                                                                   \
	KEY(i)                                                                                                                   \
	AES4("0", "1", "2", "3")                                                                                                 \
	first AES4("4", "5", "6", "7") second AES4("8", "9", "10", "11") third AES4("12", "13", "14", "15") fourth
#define START(i, from)                                                                                                           \
	"vpxorq 64*" #i "(%[counted]), %[" from "], %%zmm" #i "\n\t"                                                             \
	"prefetcht0 64*" #i "(%[ahead])\n\t"
#define LAST(i, spare)                                                                                                           \
	"vpxorq 64*" #i "(%[in]), %%zmm21, %%zmm" spare "\n\t"                                                                   \
	"vaesenclast %%zmm" spare ", %%zmm" #i ", %%zmm" #i "\n\t"
#define STORE(i) "vmovdqu64 %%zmm" #i ", 64*" #i "(%[out])\n\t"

/* The hash of a pair of rows in six parts of one multiplication each: these are microcode on some cores, and two of them side by
 * side hold up all that could start. */
#define PAIR1(i)                                                                                                                 \
	"vpermb 128*" #i "(%[hashed]), %%zmm22, %%zmm16\n\t"                                                                     \
	"vpermb 128*" #i "+64(%[hashed]), %%zmm22, %%zmm17\n\t"                                                                  \
	"vpclmulqdq $0x00, 128*" #i "(%[powers]), %%zmm16, %%zmm19\n\t"
#define PAIR2(i)                                                                                                                 \
	"vpclmulqdq $0x00, 128*" #i "+64(%[powers]), %%zmm17, %%zmm20\n\t"                                                       \
	"vpternlogq $0x96, %%zmm19, %%zmm20, %[low]\n\t"
#define PAIR3(i)                                                                                                                 \
	"vpclmulqdq $0x11, 128*" #i "(%[powers]), %%zmm16, %%zmm19\n\t"                                                          \
	"vpunpcklqdq %%zmm17, %%zmm16, %%zmm18\n\t"                                                                              \
	"vpunpckhqdq %%zmm17, %%zmm16, %%zmm16\n\t"
#define PAIR4(i)                                                                                                                 \
	"vpclmulqdq $0x11, 128*" #i "+64(%[powers]), %%zmm17, %%zmm20\n\t"                                                       \
	"vpxorq %%zmm16, %%zmm18, %%zmm18\n\t"                                                                                   \
	"vpternlogq $0x96, %%zmm19, %%zmm20, %[high]\n\t"
#define PAIR5(i) "vpclmulqdq $0x00, 64*" #i "(%[middles]), %%zmm18, %%zmm19\n\t"
#define PAIR6(i)                                                                                                                 \
	"vpclmulqdq $0x11, 64*" #i "(%[middles]), %%zmm18, %%zmm20\n\t"                                                          \
	"vpternlogq $0x96, %%zmm19, %%zmm20, %[middle]\n\t"
#define NONE(i) ""

// clang-format off
/* Assembly, because left to themselves the compilers draw cipher and hash apart, or spill. The hash begins a little late and ends
 * among the stores: begun at once, an open from memory to memory took a quarter longer. */
#define STEP(PART1, PART2, PART3, PART4, PART5, PART6) \
	__asm__ volatile("vmovdqa64 %[order], %%zmm22\n\t" \
	START(0, "these") START(1, "these") START(2, "these") START(3, "these") START(4, "these") START(5, "these") \
	START(6, "these") START(7, "these") START(8, "these") START(9, "these") START(10, "these") START(11, "these") \
	START(12, "these") START(13, "these") START(14, "these") START(15, "last") \
	ROUND(2, "", PART1(0), PART2(0), PART3(0)) ROUND(3, PART4(0), PART5(0), PART6(0), PART1(1)) \
	ROUND(4, PART2(1), PART3(1), PART4(1), PART5(1)) ROUND(5, PART6(1), PART1(2), PART2(2), PART3(2)) \
	ROUND(6, PART4(2), PART5(2), PART6(2), PART1(3)) ROUND(7, PART2(3), PART3(3), PART4(3), PART5(3)) \
	ROUND(8, PART6(3), PART1(4), PART2(4), PART3(4)) ROUND(9, PART4(4), PART5(4), PART6(4), PART1(5)) \
	ROUND(10, PART2(5), PART3(5), PART4(5), PART5(5)) ROUND(11, PART6(5), PART1(6), PART2(6), PART3(6)) \
	ROUND(12, PART4(6), PART5(6), PART6(6), PART1(7)) ROUND(13, PART2(7), PART3(7), PART4(7), "") \
	KEY(14) LAST(0, "16") STORE(0) LAST(1, "17") STORE(1) LAST(2, "16") STORE(2) PART5(7) LAST(3, "17") STORE(3) \
	LAST(4, "16") STORE(4) LAST(5, "17") STORE(5) LAST(6, "16") STORE(6) PART6(7) LAST(7, "17") STORE(7) \
	LAST(8, "16") STORE(8) LAST(9, "17") STORE(9) LAST(10, "16") STORE(10) LAST(11, "17") STORE(11) \
	LAST(12, "16") STORE(12) LAST(13, "17") STORE(13) LAST(14, "16") STORE(14) LAST(15, "17") STORE(15) \
	: [low] "+v"(h->low), [middle] "+v"(h->middle), [high] "+v"(h->high) \
	: [these] "v"(these), [last] "v"(last), [order] "m"(byte_order), [in] "r"(in), [out] "r"(out), [hashed] "r"(hashed), \
	  [powers] "r"(k->powers + h->at), [middles] "r"(middles_at(k, h->at)), [keys] "r"(k->round_keys), \
	  [counted] "r"(counter_table(k, c)), [ahead] "r"(ahead) \
	: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
	  "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "memory")
// clang-format on

/* Processors fetch ahead by themselves only to the end of a page, which a sector is. */
INLINE void step(const struct key_state *k, struct counter *c, const uint8_t *in, uint8_t *out, struct hash *h,
		 const uint8_t *hashed, const uint8_t *ahead, const bool hashing)
{
	const row these = counter_these(c);
	const row last = counter_last(c);

	if (hashing)
		STEP(PAIR1, PAIR2, PAIR3, PAIR4, PAIR5, PAIR6);
	else
		STEP(NONE, NONE, NONE, NONE, NONE, NONE);
	counter_next(c);
}

#include "runs_x86_64.h"

const struct aead_kernel aead_vaes512 = AEAD_KERNEL("vaes512", aead_has_vaes512);
