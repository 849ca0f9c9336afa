/* AES-256-GCM on AES-NI and PCLMULQDQ, 128-bit registers in AVX's encodings: a row is one block, eight abreast. */
#include "row_128_x86_64.h"

enum { WIDE = 8, COUNTED_ROWS = 256 };

#define VECTOR "xmm"
#define STRIDE "16"
#define LATE   "%%xmm7"

#include "rows_x86_64.h"
#include "counted_x86_64.h"
#include "step_vex_x86_64.h"
#include "runs_x86_64.h"

static bool usable(void)
{
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("avx");
}

const struct aead_kernel aead_aesni = AEAD_KERNEL("aesni", usable);
