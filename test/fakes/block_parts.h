/* For block devices made for tests: a write from several pieces of memory as one call of the device's own write, so that it is
 * counted, recorded and refused as one. */
#ifndef FALLGATE_TEST_FAKES_BLOCK_PARTS_H
#define FALLGATE_TEST_FAKES_BLOCK_PARTS_H

#include <stdlib.h>
#include <string.h>

#include "hal/block.h"

static inline int write_parts_as_one(struct block *b, const struct block_part *parts, unsigned count, uint64_t at)
{
	size_t size = 0;
	uint8_t *all;
	int r;

	for (unsigned i = 0; i < count; i++)
		size += parts[i].size;
	all = malloc(size);
	if (all == NULL)
		abort();
	for (unsigned i = 0, done = 0; i < count; done += (unsigned)parts[i++].size)
		memcpy(all + done, parts[i].bytes, parts[i].size);
	r = b->ops->write(b, all, size, at);
	free(all);
	return r;
}

#endif
