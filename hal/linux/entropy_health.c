/* See entropy_health.h. Cut-offs for 2^-40: 1 + 40 / H, and 1 + the 1 - 2^-40 quantile of the binomial (512, 2^-H); the test
 * works them out again. */
#include "entropy_health.h"

const struct entropy_claim entropy_eight_bits = { 6, 19 }, entropy_one_bit = { 41, 336 };

static void look(struct entropy_health *h, uint8_t byte)
{
	h->row = h->row > 0 && byte == h->last ? h->row + 1 : 1;
	h->last = byte;
	if (h->in_window == 0) {
		h->first = byte;
		h->same = 0;
	}
	h->same += byte == h->first;
	h->in_window = (h->in_window + 1) % ENTROPY_WINDOW;
	h->failed = h->failed || h->row >= h->claim->repeats || h->same >= h->claim->proportion;
}

bool entropy_health(struct entropy_health *h, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		look(h, bytes[i]);
	return !h->failed;
}
