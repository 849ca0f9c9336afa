/* See turnstile.h. Who enters counts itself first and looks after; who shuts takes the volume away first and counts after: one of
 * the two sees the other. */
#include "turnstile.h"

#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "keyslot.h"

#define SHUTTING_NS UINT64_C(2000000)
#define LOOK_NS     UINT64_C(1000000000) /* a suspended machine's time passes too: the clock is looked at again */

void turnstile_init(struct turnstile *t, int wake_fd)
{
	pthread_condattr_t monotonic;

	atomic_init(&t->volume, NULL);
	atomic_init(&t->until_ns, 0);
	atomic_init(&t->holds, false);
	atomic_init(&t->inside, 0);
	atomic_init(&t->waiting, 0);
	t->wake_fd = wake_fd;
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&t->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

void turnstile_open(struct turnstile *t, struct volume *v)
{
	pthread_mutex_lock(&t->lock);
	atomic_store(&t->volume, v);
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

void turnstile_shut(struct turnstile *t, uint64_t until_ns)
{
	atomic_store(&t->until_ns, until_ns);
	atomic_store(&t->volume, NULL);
}

void turnstile_give_up(struct turnstile *t)
{
	pthread_mutex_lock(&t->lock);
	atomic_store(&t->until_ns, 0);
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

bool turnstile_empty(struct turnstile *t)
{
	return atomic_load(&t->inside) == 0;
}

struct volume *turnstile_try(struct turnstile *t)
{
	struct volume *v;

	atomic_fetch_add(&t->inside, 1);
	v = atomic_load(&t->volume);
	if (v == NULL)
		turnstile_leave(t);
	return v;
}

void turnstile_leave(struct turnstile *t)
{
	uint64_t one = 1;

	if (atomic_fetch_sub(&t->inside, 1) == 1 && atomic_load(&t->volume) == NULL && write(t->wake_fd, &one, sizeof one) < 0)
		return; /* the counter is full: it is raised */
}

static void sleep_on(struct turnstile *t, uint64_t ns)
{
	struct timespec at;
	uint64_t nsec;

	clock_gettime(CLOCK_MONOTONIC, &at);
	nsec = (uint64_t)at.tv_nsec + (ns < LOOK_NS ? ns : LOOK_NS);
	at.tv_sec += (time_t)(nsec / 1000000000u);
	at.tv_nsec = (long)(nsec % 1000000000u);
	pthread_cond_timedwait(&t->changed, &t->lock, &at);
}

bool turnstile_wait(struct turnstile *t, const struct volume *refused)
{
	bool again;

	if (!atomic_load(&t->holds))
		return false;
	atomic_fetch_add(&t->waiting, 1);
	pthread_mutex_lock(&t->lock);
	if (refused != NULL && atomic_load(&t->volume) == refused)
		sleep_on(t, SHUTTING_NS); /* a deadline passed this instant: whoever shuts is on his way */
	for (;;) {
		uint64_t until, now = boot_now_ns();

		/* The time after the volume: who shuts sets them the other way round, and the time of a fall before is over. */
		again = atomic_load(&t->volume) != NULL;
		until = atomic_load(&t->until_ns);
		if (again || now >= until)
			break;
		sleep_on(t, until - now);
	}
	pthread_mutex_unlock(&t->lock);
	atomic_fetch_sub(&t->waiting, 1);
	return again;
}
