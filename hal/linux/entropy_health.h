/* The two health tests of NIST SP 800-90B, 4.4, over bytes: repetition count and adaptive proportion. They find a source that has
 * broken, not one that was made to look random. False alarms: once in 2^40 bytes or windows, if the source is at least as good as
 * said. */
#ifndef HAL_LINUX_ENTROPY_HEALTH_H
#define HAL_LINUX_ENTROPY_HEALTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENTROPY_WINDOW = 512, ENTROPY_START_BYTES = 1024 };

/* What is claimed of each byte: all eight bits (a generator's output), or one (what a noise source gives raw). */
struct entropy_claim {
	unsigned repeats;    /* so many of the same in a row are too many */
	unsigned proportion; /* so many of a window's first byte in it are too many */
};
extern const struct entropy_claim entropy_eight_bits, entropy_one_bit;

/* All zero at the beginning, but for the claim. */
struct entropy_health {
	const struct entropy_claim *claim;
	unsigned row, in_window, same;
	uint8_t last, first;
	bool failed;
};

/* False once it has failed, and then for good. */
bool entropy_health(struct entropy_health *h, const uint8_t *bytes, size_t size);

#endif
