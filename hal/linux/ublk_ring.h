/* Rings that can do what they were made for and nothing else. */
#ifndef HAL_LINUX_UBLK_RING_H
#define HAL_LINUX_UBLK_RING_H

#include <stddef.h>
#include <stdint.h>

#include <liburing.h>

struct ublk_ring_rules {
	const uint8_t *operations; /* it takes these, and no others */
	size_t count;
	uint8_t flags;    /* IOSQE_* that may come with them */
	const int *files; /* on these files only, as number 0, 1, ...; none: on any */
	unsigned file_count;
};

/* A ring of so many entries. No registration of any kind is taken any more. 0, ERR_UNSUPPORTED, ERR_NOMEM; logged. */
int ublk_ring_make(struct io_uring *ring, unsigned entries, unsigned flags, const struct ublk_ring_rules *rules);

#endif
