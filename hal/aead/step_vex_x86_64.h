/* One step in VEX encodings, for rows of one or two blocks: eight rows in sixteen registers. VECTOR is the registers' name,
 * STRIDE a row's size as text, LATE the register with what the last row but one starts from.
 * Where the time goes: a row has 13 AESENC, 3 PCLMULQDQ, 5 1/2 xors and 2 shuffles. On the cores this was tuned on four vector
 * pipes take two AESENC a cycle, and a PCLMULQDQ is three operations (and a cycle of dispatch by itself): 6 1/2 cycles for the
 * AESENC alone, 7.4 for all of it; measured are 7.8 in open and 8.1 in seal. Nothing was gained by having as much between any two
 * multiplications. The hash begins a little late, so that a seal need not wait for what it has just stored, and its last part is
 * among the stores. */
#ifndef HAL_AEAD_STEP_VEX_X86_64_H
#define HAL_AEAD_STEP_VEX_X86_64_H

#include "counted_x86_64.h"

// clang-format off
/* Rows are registers 0 to 7, two rows under the hash 8 to 10, a product 11, a round key 12; three are left for the sums. */
#define V(n) "%%" VECTOR n
#define AES4(a, b, c, d)                                                                                                         \
	"vaesenc " V("12") ", " V(a) ", " V(a) "\n\t"                                                                            \
	"vaesenc " V("12") ", " V(b) ", " V(b) "\n\t"                                                                            \
	"vaesenc " V("12") ", " V(c) ", " V(c) "\n\t"                                                                            \
	"vaesenc " V("12") ", " V(d) ", " V(d) "\n\t"
#define KEY(i)               "vmovdqa " STRIDE "*" #i "(%[keys]), " V("12") "\n\t"
#define ROUND(i, one, other) KEY(i) AES4("0", "1", "2", "3") one AES4("4", "5", "6", "7") other
#define START(i, from)       "vpxor " STRIDE "*" #i "(%[counted]), " from ", " V(#i) "\n\t"
#define LAST(i, spare)                                                                                                           \
	"vpxor " STRIDE "*" #i "(%[in]), " V("12") ", " V(spare) "\n\t"                                                          \
	"vaesenclast " V(spare) ", " V(#i) ", " V(#i) "\n\t"
#define STORE(i) "vmovdqu " V(#i) ", " STRIDE "*" #i "(%[out])\n\t"

/* The hash of a pair of rows in six parts of one multiplication each: these are microcode on some cores, and two of them side by
 * side hold up all that could start. */
#define PAIR1(i)                                                                                                                 \
	"vmovdqu 2*" STRIDE "*" #i "(%[hashed]), " V("8") "\n\t"                                                                 \
	"vmovdqu 2*" STRIDE "*" #i "+" STRIDE "(%[hashed]), " V("9") "\n\t"                                                      \
	"vpshufb %[order], " V("8") ", " V("8") "\n\t"                                                                           \
	"vpshufb %[order], " V("9") ", " V("9") "\n\t"                                                                           \
	"vpclmulqdq $0x00, 2*" STRIDE "*" #i "(%[powers]), " V("8") ", " V("11") "\n\t"                                          \
	"vpxor " V("11") ", %[low], %[low]\n\t"
#define PAIR2(i)                                                                                                                 \
	"vpclmulqdq $0x00, 2*" STRIDE "*" #i "+" STRIDE "(%[powers]), " V("9") ", " V("11") "\n\t"                               \
	"vpxor " V("11") ", %[low], %[low]\n\t"
#define PAIR3(i)                                                                                                                 \
	"vpclmulqdq $0x11, 2*" STRIDE "*" #i "(%[powers]), " V("8") ", " V("11") "\n\t"                                          \
	"vpxor " V("11") ", %[high], %[high]\n\t"                                                                                \
	"vpunpcklqdq " V("9") ", " V("8") ", " V("10") "\n\t"                                                                    \
	"vpunpckhqdq " V("9") ", " V("8") ", " V("8") "\n\t"
#define PAIR4(i)                                                                                                                 \
	"vpclmulqdq $0x11, 2*" STRIDE "*" #i "+" STRIDE "(%[powers]), " V("9") ", " V("11") "\n\t"                               \
	"vpxor " V("11") ", %[high], %[high]\n\t"                                                                                \
	"vpxor " V("8") ", " V("10") ", " V("10") "\n\t"
#define PAIR5(i)                                                                                                                 \
	"vpclmulqdq $0x00, " STRIDE "*" #i "(%[middles]), " V("10") ", " V("11") "\n\t"                                          \
	"vpxor " V("11") ", %[middle], %[middle]\n\t"
#define PAIR6(i)                                                                                                                 \
	"vpclmulqdq $0x11, " STRIDE "*" #i "(%[middles]), " V("10") ", " V("11") "\n\t"                                          \
	"vpxor " V("11") ", %[middle], %[middle]\n\t"
#define NONE(i) ""

/* Assembly, because left to themselves the compilers draw cipher and hash apart, or spill. */
#define STEP(PART1, PART2, PART3, PART4, PART5, PART6) \
	__asm__ volatile(START(0, V("12")) START(1, V("12")) START(2, V("12")) START(3, V("12")) START(4, V("12")) \
	START(5, V("12")) START(6, LATE) START(7, V("7")) \
	ROUND(2, "", PART1(0)) ROUND(3, PART2(0), PART3(0)) ROUND(4, PART4(0), PART5(0)) \
	ROUND(5, PART6(0), PART1(1)) ROUND(6, PART2(1), PART3(1)) ROUND(7, PART4(1), PART5(1)) \
	ROUND(8, PART6(1), PART1(2)) ROUND(9, PART2(2), PART3(2)) ROUND(10, PART4(2), PART5(2)) \
	ROUND(11, PART6(2), PART1(3)) ROUND(12, PART2(3), PART3(3)) ROUND(13, PART4(3), PART5(3)) \
	KEY(14) LAST(0, "8") STORE(0) LAST(1, "9") STORE(1) LAST(2, "8") STORE(2) LAST(3, "9") STORE(3) PART6(3) \
	LAST(4, "8") STORE(4) LAST(5, "9") STORE(5) LAST(6, "10") STORE(6) LAST(7, "11") STORE(7) \
	: [low] "+x"(h->low), [middle] "+x"(h->middle), [high] "+x"(h->high), [these] "+x"(these), [last] "+x"(last) \
	: [order] "m"(byte_order), [in] "r"(in), [out] "r"(out), [hashed] "r"(hashed), [powers] "r"(k->powers + h->at), \
	  [middles] "r"(middles_at(k, h->at)), [keys] "r"(k->round_keys), [counted] "r"(counter_table(k, c)) \
	: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm8", "xmm9", "xmm10", "xmm11", "memory")
// clang-format on

INLINE void step(const struct key_state *k, struct counter *c, const uint8_t *in, uint8_t *out, struct hash *h,
		 const uint8_t *hashed, const uint8_t *ahead, const bool hashing)
{
	/* where the assembly has the last row and the round key */
	register row last __asm__(VECTOR "7");
	register row these __asm__(VECTOR "12");

	(void)ahead;
	these = counter_these(c);
	last = counter_last(c);
	if (hashing)
		STEP(PAIR1, PAIR2, PAIR3, PAIR4, PAIR5, PAIR6);
	else
		STEP(NONE, NONE, NONE, NONE, NONE, NONE);
	counter_next(c);
}

#endif
