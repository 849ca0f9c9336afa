/* In builds with the thread sanitizer only. Its runtime (of gcc 12) does not know pthread_clockjoin_np: what was joined by it
 * seems to run on, and the next thread with the same id ends the program. Here it is made of the join that the runtime knows. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

enum { LOOK_NS = 1000000 };

static bool passed(clockid_t clock, const struct timespec *until)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec > until->tv_sec || (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec);
}

int pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock, const struct timespec *until)
{
	const struct timespec step = { .tv_nsec = LOOK_NS };
	int r;

	while ((r = pthread_tryjoin_np(thread, result)) == EBUSY && !passed(clock, until))
		nanosleep(&step, NULL);
	return r == EBUSY ? ETIMEDOUT : r;
}
