/* Random bytes from the kernel (getrandom), with a health check: a repeated or constant block is refused, for good. */
#ifndef HAL_ENTROPY_H
#define HAL_ENTROPY_H

#include <stddef.h>

/* Fills out. 0 or ERR_UNSUPPORTED (the source failed its health check, or there is none: nothing may be sealed). Thread-safe. */
int entropy_fill(void *out, size_t size);

#endif
