/* Which vector instructions this x86-64 processor has and this kernel lets programs use. A file of its own, compiled without any
 * of those instructions: the question itself must run everywhere. */
#include <cpuid.h>
#include <stdint.h>

#include "processor_x86_64.h"

enum {
	XCR0_YMM = 0x06, /* xmm and the upper halves of ymm */
	XCR0_ZMM = 0xe6, /* those, mask registers, the upper halves of zmm, zmm16 to zmm31 */
	LEAF1_ECX = bit_PCLMUL | bit_SSSE3 | bit_OSXSAVE | bit_AVX | bit_AES,
	LEAF7_ECX = bit_VAES | bit_VPCLMULQDQ,
};

/* Bits of leaf 7 that are wanted beside VAES and VPCLMULQDQ, and registers that must be saved with a thread. */
static bool has(uint32_t ebx_wanted, uint32_t ecx_wanted, uint32_t xcr0_wanted)
{
	uint32_t eax, ebx, ecx, edx;
	uint32_t xcr0, unused;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & LEAF1_ECX) != LEAF1_ECX)
		return false;
	__asm__("xgetbv" : "=a"(xcr0), "=d"(unused) : "c"(0));
	if ((xcr0 & xcr0_wanted) != xcr0_wanted || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
		return false;
	ecx_wanted |= LEAF7_ECX;
	return (ebx & ebx_wanted) == ebx_wanted && (ecx & ecx_wanted) == ecx_wanted;
}

bool aead_has_vaes256(void)
{
	return has(bit_AVX2, 0, XCR0_YMM);
}

bool aead_has_vaes512(void)
{
	return has(bit_AVX2 | bit_AVX512F | bit_AVX512BW | bit_AVX512VL, bit_AVX512VBMI, XCR0_ZMM);
}
