/* The machine's own source of noise (a hardware generator), judged beside the kernel's generator, which is what keys are made
 * from and which the kernel feeds from it. What must hold: nobody waits for it longer than he said; once it failed its test it is
 * bad for the life of the process. Variants: Linux's /dev/hwrng, none. */
#ifndef HAL_NOISE_H
#define HAL_NOISE_H

#include <stddef.h>

enum noise_state {
	NOISE_NONE,   /* there is none, or none that may be read */
	NOISE_GOOD,   /* passed the start-up test, and each look since */
	NOISE_SILENT, /* gives nothing, or not any more */
	NOISE_BAD     /* failed its health test */
};

/* Once. The start-up test, for at most wait_ms, and from then on a look now and then, by a thread of its own. What is so at the
 * end of the wait; why: one clause, unless it is good. */
enum noise_state noise_start(const char *path, unsigned wait_ms, char *why, size_t why_size);

/* What is so now. A source that was silent and speaks again is judged again. */
enum noise_state noise_now(void);

/* The kernel's name of it, or "". */
const char *noise_name(void);

#endif
