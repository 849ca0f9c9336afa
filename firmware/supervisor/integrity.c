/* See integrity.h. */
#include "integrity.h"

bool integrity_count(struct integrity *i, uint32_t limit, uint64_t window_ns, uint64_t now_ns, uint64_t count)
{
	uint64_t passed = now_ns > i->at_ns ? now_ns - i->at_ns : 0, one;

	if (limit == 0)
		return false;
	one = window_ns / limit;
	i->level_ns = i->level_ns > passed ? i->level_ns - passed : 0;
	i->at_ns = now_ns;
	i->level_ns += (count < limit ? count : limit) * one;
	if (i->level_ns > window_ns)
		i->level_ns = window_ns;
	return i->level_ns >= one * limit;
}
