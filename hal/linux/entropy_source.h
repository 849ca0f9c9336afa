/* Where entropy.c takes its bytes from: the kernel (entropy_getrandom.c), or in its test a source that misbehaves. */
#ifndef HAL_LINUX_ENTROPY_SOURCE_H
#define HAL_LINUX_ENTROPY_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

/* Fills all of out, or false. Waits until the source is seeded, for ever if need be. */
bool entropy_source(void *out, size_t size);

#endif
