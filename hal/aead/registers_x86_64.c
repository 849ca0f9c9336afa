/* Vector registers of x86-64. What must hold: called last, on the way out of a kernel, and then none of xmm/ymm/zmm 0-31 holds
 * key stream, a round key or a power of H: a signal frame or a lazily bound call would copy them to the stack. */
#include "hal/aead.h"

#define CLEAR_SSE(n) "pxor %%xmm" #n ", %%xmm" #n "\n\t"
#define CLEAR_512(n) "vpxorq %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#define LOW16                                                                                                                    \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",      \
		"xmm14", "xmm15"

static void clear_sse(void)
{
	__asm__ volatile(CLEAR_SSE(0) CLEAR_SSE(1) CLEAR_SSE(2) CLEAR_SSE(3) CLEAR_SSE(4) CLEAR_SSE(5) CLEAR_SSE(6) CLEAR_SSE(7)
				 CLEAR_SSE(8) CLEAR_SSE(9) CLEAR_SSE(10) CLEAR_SSE(11) CLEAR_SSE(12) CLEAR_SSE(13) CLEAR_SSE(14)
					 CLEAR_SSE(15)::
						 : LOW16);
}

/* zmm16-31 exist only here and no code outside a 512-bit kernel or libc touches them: no clobbers to declare. */
static void clear_high_512(void)
{
	__asm__ volatile(CLEAR_512(16) CLEAR_512(17) CLEAR_512(18) CLEAR_512(19) CLEAR_512(20) CLEAR_512(21) CLEAR_512(22)
				 CLEAR_512(23) CLEAR_512(24) CLEAR_512(25) CLEAR_512(26) CLEAR_512(27) CLEAR_512(28) CLEAR_512(29)
					 CLEAR_512(30) CLEAR_512(31)
			 :);
}

void aead_clear_registers(void)
{
	if (!__builtin_cpu_supports("avx")) {
		clear_sse();
		return;
	}
	if (__builtin_cpu_supports("avx512f"))
		clear_high_512();
	__asm__ volatile("vzeroall" ::: LOW16);
}
