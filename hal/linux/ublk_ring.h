/* Rings that can do what they were made for and nothing else. */
#ifndef HAL_LINUX_UBLK_RING_H
#define HAL_LINUX_UBLK_RING_H

#include <stddef.h>
#include <stdint.h>

#include <liburing.h>

/* A ring of so many entries that takes these operations only; with files (count may be 0), on these files only, as number 0, 1,
 * ... No registration of any kind is taken any more. 0, ERR_UNSUPPORTED, ERR_NOMEM; logged. */
int ublk_ring_make(struct io_uring *ring, unsigned entries, unsigned flags, const uint8_t *operations, size_t count,
		   const int *files, unsigned file_count);

#endif
