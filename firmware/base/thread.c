/* Starting and awaiting threads. What must hold: the starter's own signal mask is afterwards what it was. */
#include "thread.h"

#include <signal.h>

int thread_start(pthread_t *out, void *(*body)(void *), void *context)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(out, NULL, body, context);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

struct timespec thread_deadline(unsigned ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

bool thread_joined_within(pthread_t thread, unsigned ms)
{
	struct timespec until = thread_deadline(ms);

	return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) == 0;
}
