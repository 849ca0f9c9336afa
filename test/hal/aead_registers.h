/* Every vector register of this processor, as it is at one place in a program. */
#ifndef TEST_HAL_AEAD_REGISTERS_H
#define TEST_HAL_AEAD_REGISTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct registers {
	_Alignas(64) uint8_t bytes[32][64];
};

/* Registers that a function gives back as it found them are the caller's: zero before the call, so that what is in them after it
 * was left there. */
static inline __attribute__((always_inline)) void clear_kept_registers(void)
{
#if defined(__aarch64__)
	__asm__ volatile("movi v8.2d, #0\n\tmovi v9.2d, #0\n\tmovi v10.2d, #0\n\tmovi v11.2d, #0\n\t"
			 "movi v12.2d, #0\n\tmovi v13.2d, #0\n\tmovi v14.2d, #0\n\tmovi v15.2d, #0\n\t" ::
				 : "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15");
#endif
}

#if defined(__x86_64__)
#define EACH8(DO, base)  DO(base, 0) DO(base, 1) DO(base, 2) DO(base, 3) DO(base, 4) DO(base, 5) DO(base, 6) DO(base, 7)
#define DUMP_SSE(_, n)   "movdqa %%xmm" #n ", 64*" #n "(%0)\n\t"
#define DUMP_SSE1(_, n)  "movdqa %%xmm1" #n ", 64*1" #n "(%0)\n\t"
#define DUMP_AVX(_, n)   "vmovdqa %%ymm" #n ", 64*" #n "(%0)\n\t"
#define DUMP_AVX1(_, n)  "vmovdqa %%ymm1" #n ", 64*1" #n "(%0)\n\t"
#define DUMP_512(ten, n) "vmovdqa64 %%zmm" #ten #n ", 64*" #ten #n "(%0)\n\t"

static inline __attribute__((always_inline)) void read_registers(struct registers *r)
{
	if (__builtin_cpu_supports("avx512f"))
		__asm__ volatile(EACH8(DUMP_512, ) DUMP_512(, 8) DUMP_512(, 9) EACH8(DUMP_512, 1) DUMP_512(1, 8) DUMP_512(1, 9)
					 EACH8(DUMP_512, 2) DUMP_512(2, 8) DUMP_512(2, 9) DUMP_512(3, 0)
						 DUMP_512(3, 1)::"r"(r->bytes)
				 : "memory");
	else if (__builtin_cpu_supports("avx"))
		__asm__ volatile(EACH8(DUMP_AVX, ) DUMP_AVX(, 8) DUMP_AVX(, 9) DUMP_AVX1(, 0) DUMP_AVX1(, 1) DUMP_AVX1(, 2)
					 DUMP_AVX1(, 3) DUMP_AVX1(, 4) DUMP_AVX1(, 5)::"r"(r->bytes)
				 : "memory");
	else
		__asm__ volatile(EACH8(DUMP_SSE, ) DUMP_SSE(, 8) DUMP_SSE(, 9) DUMP_SSE1(, 0) DUMP_SSE1(, 1) DUMP_SSE1(, 2)
					 DUMP_SSE1(, 3) DUMP_SSE1(, 4) DUMP_SSE1(, 5)::"r"(r->bytes)
				 : "memory");
}
#elif defined(__aarch64__)
#define DUMP_PAIR(n, m) "stp q" #n ", q" #m ", [%0], #32\n\t"

static inline __attribute__((always_inline)) void read_registers(struct registers *r)
{
	uint8_t *at = r->bytes[0];

	__asm__ volatile(DUMP_PAIR(0, 1) DUMP_PAIR(2, 3) DUMP_PAIR(4, 5) DUMP_PAIR(6, 7) DUMP_PAIR(8, 9) DUMP_PAIR(10, 11)
				 DUMP_PAIR(12, 13) DUMP_PAIR(14, 15) DUMP_PAIR(16, 17) DUMP_PAIR(18, 19) DUMP_PAIR(20, 21)
					 DUMP_PAIR(22, 23) DUMP_PAIR(24, 25) DUMP_PAIR(26, 27) DUMP_PAIR(28, 29) DUMP_PAIR(30, 31)
			 : "+r"(at)::"memory");
}
#endif

static inline bool all_zero(const struct registers *r)
{
	static const struct registers zero;

	return memcmp(r, &zero, sizeof zero) == 0;
}

#endif
