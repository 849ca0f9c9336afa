/* AES-256-GCM on AES-NI and PCLMULQDQ in SSE encodings, for the cores that have no AVX: a row is one block, eight abreast. */
#include "row_128_x86_64.h"

enum { WIDE = 8, COUNTED_ROWS = 256 };

#include "rows_x86_64.h"
#include "counted_x86_64.h"

/* Blocks are xmm0 to xmm7, two under the hash xmm8 to xmm10, a product xmm11, a round key xmm12; three are left for the sums. */
#define AES4(a, b, c, d)                                                                                                         \
	"aesenc %%xmm12, %%xmm" a "\n\t"                                                                                         \
	"aesenc %%xmm12, %%xmm" b "\n\t"                                                                                         \
	"aesenc %%xmm12, %%xmm" c "\n\t"                                                                                         \
	"aesenc %%xmm12, %%xmm" d "\n\t"
#define KEY(i)               "movdqa 16*" #i "(%[keys]), %%xmm12\n\t"
#define ROUND(i, one, other) KEY(i) AES4("0", "1", "2", "3") one AES4("4", "5", "6", "7") other
#define START(i, from)                                                                                                           \
	"movdqa 16*" #i "(%[counted]), %%xmm" #i "\n\t"                                                                          \
	"pxor %%xmm" from ", %%xmm" #i "\n\t"
#define START_LAST "pxor 16*7(%[counted]), %%xmm7\n\t"
#define LAST(i, spare)                                                                                                           \
	"movdqu 16*" #i "(%[in]), %%xmm" spare "\n\t"                                                                            \
	"pxor %%xmm12, %%xmm" spare "\n\t"                                                                                       \
	"aesenclast %%xmm" spare ", %%xmm" #i "\n\t"
#define STORE(i) "movdqu %%xmm" #i ", 16*" #i "(%[out])\n\t"

/* The hash of two blocks in six parts of one multiplication each: these are microcode on some cores, and two of them side by side
 * hold up all that could start. */
#define PAIR1(i)                                                                                                                 \
	"movdqu 32*" #i "(%[hashed]), %%xmm8\n\t"                                                                                \
	"movdqu 32*" #i "+16(%[hashed]), %%xmm9\n\t"                                                                             \
	"pshufb %[order], %%xmm8\n\t"                                                                                            \
	"pshufb %[order], %%xmm9\n\t"                                                                                            \
	"movdqa 32*" #i "(%[powers]), %%xmm11\n\t"                                                                               \
	"pclmulqdq $0x00, %%xmm8, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[low]\n\t"
#define PAIR2(i)                                                                                                                 \
	"movdqa 32*" #i "+16(%[powers]), %%xmm11\n\t"                                                                            \
	"pclmulqdq $0x00, %%xmm9, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[low]\n\t"
#define PAIR3(i)                                                                                                                 \
	"movdqa 32*" #i "(%[powers]), %%xmm11\n\t"                                                                               \
	"pclmulqdq $0x11, %%xmm8, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[high]\n\t"                                                                                              \
	"movdqa %%xmm8, %%xmm10\n\t"                                                                                             \
	"punpckhqdq %%xmm9, %%xmm8\n\t"                                                                                          \
	"punpcklqdq %%xmm9, %%xmm10\n\t"
#define PAIR4(i)                                                                                                                 \
	"movdqa 32*" #i "+16(%[powers]), %%xmm11\n\t"                                                                            \
	"pclmulqdq $0x11, %%xmm9, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[high]\n\t"                                                                                              \
	"pxor %%xmm8, %%xmm10\n\t"
#define PAIR5(i)                                                                                                                 \
	"movdqu 16*" #i "(%[middles]), %%xmm11\n\t"                                                                              \
	"pclmulqdq $0x00, %%xmm10, %%xmm11\n\t"                                                                                  \
	"pxor %%xmm11, %[middle]\n\t"
#define PAIR6(i)                                                                                                                 \
	"movdqu 16*" #i "(%[middles]), %%xmm11\n\t"                                                                              \
	"pclmulqdq $0x11, %%xmm10, %%xmm11\n\t"                                                                                  \
	"pxor %%xmm11, %[middle]\n\t"
#define NONE(i) ""

// clang-format off
/* Assembly, because left to themselves the compilers draw cipher and hash apart, or spill. */
#define STEP(PART1, PART2, PART3, PART4, PART5, PART6) \
	__asm__ volatile(START(0, "12") START(1, "12") START(2, "12") START(3, "12") START(4, "12") START(5, "12") \
	START(6, "7") START_LAST \
	ROUND(2, PART1(0), PART2(0)) ROUND(3, PART3(0), PART4(0)) ROUND(4, PART5(0), PART6(0)) \
	ROUND(5, PART1(1), PART2(1)) ROUND(6, PART3(1), PART4(1)) ROUND(7, PART5(1), PART6(1)) \
	ROUND(8, PART1(2), PART2(2)) ROUND(9, PART3(2), PART4(2)) ROUND(10, PART5(2), PART6(2)) \
	ROUND(11, PART1(3), PART2(3)) ROUND(12, PART3(3), PART4(3)) ROUND(13, PART5(3), PART6(3)) \
	KEY(14) LAST(0, "8") LAST(1, "9") LAST(2, "10") LAST(3, "11") LAST(4, "8") LAST(5, "9") LAST(6, "10") LAST(7, "11") \
	STORE(0) STORE(1) STORE(2) STORE(3) STORE(4) STORE(5) STORE(6) STORE(7) \
	: [low] "+x"(h->low), [middle] "+x"(h->middle), [high] "+x"(h->high), [these] "+x"(these), [last] "+x"(last) \
	: [order] "m"(byte_order), [in] "r"(in), [out] "r"(out), [hashed] "r"(hashed), [powers] "r"(k->powers + h->at), \
	  [middles] "r"(middles_at(k, h->at)), [keys] "r"(k->round_keys), [counted] "r"(counter_table(k, c)) \
	: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm8", "xmm9", "xmm10", "xmm11", "memory")
// clang-format on

INLINE void step(const struct key_state *k, struct counter *c, const uint8_t *in, uint8_t *out, struct hash *h,
		 const uint8_t *hashed, const uint8_t *ahead, const bool hashing)
{
	/* where the assembly has the last row and the round key */
	register row last __asm__("xmm7");
	register row these __asm__("xmm12");

	(void)ahead;
	these = counter_these(c);
	last = counter_last(c);
	if (hashing)
		STEP(PAIR1, PAIR2, PAIR3, PAIR4, PAIR5, PAIR6);
	else
		STEP(NONE, NONE, NONE, NONE, NONE, NONE);
	counter_next(c);
}

#include "runs_x86_64.h"

static bool usable(void)
{
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("ssse3");
}

const struct aead_kernel aead_aesni_sse = AEAD_KERNEL("aesni_sse", usable);
