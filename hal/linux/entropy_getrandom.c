/* The kernel's generator. getrandom waits until it is seeded, which is what an early boot needs. */
#include "entropy_source.h"

#include <errno.h>
#include <sys/random.h>

bool entropy_source(void *out, size_t size)
{
	char *at = out;
	ssize_t got;

	while (size > 0) {
		got = getrandom(at, size, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		at += got;
		size -= (size_t)got;
	}
	return true;
}
