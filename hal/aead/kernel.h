/* Shared by the kernels of this folder and by nobody else: the limits of GCM and how a kernel leaves nothing behind. */
#ifndef HAL_AEAD_KERNEL_H
#define HAL_AEAD_KERNEL_H

#include "hal/aead.h"

/* SP 800-38D with a 96-bit IV: 2^32 - 2 blocks, then the counter would come round to J0 and repeat key stream. */
#define AEAD_SIZE_MAX ((UINT64_C(1) << 36) - 32)

/* The bit lengths of AAD and text must fit 64 bits. */
#define AEAD_AAD_MAX (UINT64_C(1) << 60)

/* Ends the process on a message longer than GCM allows: to go on would repeat key stream. */
void aead_check_lengths(const struct aead_item *items, size_t count);

/* Ends `count` items of an open, each with its kernel's verdict in `good`: here and nowhere else that stops being a secret.
 * Zeroes the output of the bad ones, and returns how many they were. */
size_t aead_conclude(struct aead_item *items, size_t count);

/* Zeroes the stack below the caller's frame, as far as `size`, where a kernel's inner functions spilled registers. Call it from
 * the function that called those, after aead_clear_registers. */
void aead_wipe_stack(size_t size);

/* What inner functions may use of the stack in all: one alone, and with two that it calls. The build holds each frame to less. */
enum { AEAD_STACK_ONE = 1280, AEAD_STACK_MAX = 3072 };

extern const struct aead_kernel aead_portable;
extern const struct aead_kernel aead_aesni;
extern const struct aead_kernel aead_aesni_sse;
extern const struct aead_kernel aead_vaes256;
extern const struct aead_kernel aead_vaes512;
extern const struct aead_kernel aead_armv8;

#endif
