/* How many sectors and nodes that fail their check are too many. Pure: a vessel that every failure fills by one and that empties
 * steadily, `limit` in `window`. What must hold: `limit` failures at once always reach it; fewer than `limit` in any `window`,
 * from empty, never do; no count, whoever reports it, makes it overflow. */
#ifndef FALLGATE_SUPERVISOR_INTEGRITY_H
#define FALLGATE_SUPERVISOR_INTEGRITY_H

#include <stdbool.h>
#include <stdint.h>

struct integrity {
	uint64_t level_ns; /* what is in the vessel, as the time it takes to empty */
	uint64_t at_ns;    /* when that was so */
};

/* `count` more have failed. True: it is too many. limit 0: never. */
bool integrity_count(struct integrity *i, uint32_t limit, uint64_t window_ns, uint64_t now_ns, uint64_t count);

#endif
