/* Random bytes from the kernel's generator (getrandom), with health tests. What must hold: nothing comes out before the start-up
 * test of this process was passed (it is made at the first draw at the latest); a repeated or constant block, or bytes that fail
 * the tests of NIST SP 800-90B, are refused, and then everything, for good. */
#ifndef HAL_ENTROPY_H
#define HAL_ENTROPY_H

#include <stddef.h>

/* Waits for the kernel's generator to be seeded, wait_ms at most, and makes the start-up test. 0, ERR_TIMEOUT or ERR_UNSUPPORTED;
 * logged. For the first process of the machine: the others find it seeded. */
int entropy_start(unsigned wait_ms);

/* Fills out. 0 or ERR_UNSUPPORTED (the source failed its health test, or there is none: nothing may be sealed). Thread-safe. */
int entropy_fill(void *out, size_t size);

#endif
