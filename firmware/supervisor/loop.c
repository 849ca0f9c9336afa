/* See loop.h. One event a wait: a callback may end what the next event would have been for. */
#include "loop.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * SEC_NS + (uint64_t)t.tv_nsec;
}

uint64_t boot_now(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}

uint64_t wall_now(void)
{
	return clock_ns(CLOCK_REALTIME);
}

static void set_timerfd(struct loop *l)
{
	struct itimerspec at = { 0 };

	if (l->first != NULL) {
		at.it_value.tv_sec = (time_t)(l->first->at_ns / SEC_NS);
		at.it_value.tv_nsec = (long)(l->first->at_ns % SEC_NS);
		if (l->first->at_ns == 0)
			at.it_value.tv_nsec = 1; /* all zeroes would disarm */
	}
	if (timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) != 0)
		fatal("a timer cannot be set: %s", strerror(errno));
}

static void timerfd_ready(void *context)
{
	struct loop *l = context;
	uint64_t expirations;

	if (read(l->timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
		fatal("the timer cannot be read: %s", strerror(errno));
}

int loop_init(struct loop *l)
{
	l->first = NULL;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	l->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->epoll_fd < 0 || l->timer_fd < 0) {
		log_error("epoll or a boot-time timer cannot be had from this kernel: %s", strerror(errno));
		return ERR_IO;
	}
	return loop_watch(l, &l->timer_watch, l->timer_fd, timerfd_ready, l);
}

void loop_close(struct loop *l)
{
	close(l->epoll_fd);
	close(l->timer_fd);
}

int loop_watch(struct loop *l, struct watch *w, int fd, void (*ready)(void *), void *context)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = w };

	*w = (struct watch){ .fd = fd, .ready = ready, .context = context };
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0)
		return 0;
	w->fd = -1;
	log_error("descriptor %d cannot be watched: %s", fd, strerror(errno));
	return ERR_IO;
}

void loop_unwatch(struct loop *l, struct watch *w)
{
	if (w->fd >= 0)
		epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->fd = -1;
}

void timer_init(struct timer *t, void (*fire)(void *), void *context)
{
	*t = (struct timer){ .fire = fire, .context = context };
}

void timer_disarm(struct loop *l, struct timer *t)
{
	if (!t->armed)
		return;
	for (struct timer **at = &l->first; *at != NULL; at = &(*at)->next)
		if (*at == t) {
			*at = t->next;
			break;
		}
	t->armed = false;
}

void timer_arm(struct loop *l, struct timer *t, uint64_t at_ns)
{
	struct timer **at = &l->first;

	timer_disarm(l, t);
	while (*at != NULL && (*at)->at_ns <= at_ns)
		at = &(*at)->next;
	t->next = *at;
	t->at_ns = at_ns;
	t->armed = true;
	*at = t;
}

static void fire_due(struct loop *l)
{
	while (l->first != NULL && l->first->at_ns <= boot_now()) {
		struct timer *t = l->first;

		timer_disarm(l, t);
		t->fire(t->context);
	}
}

void loop_once(struct loop *l)
{
	struct epoll_event e;
	int n;

	set_timerfd(l);
	n = epoll_wait(l->epoll_fd, &e, 1, -1);
	if (n < 0 && errno != EINTR)
		fatal("epoll_wait: %s", strerror(errno));
	l->rounds++;
	if (n == 1) {
		struct watch *w = e.data.ptr;

		w->ready(w->context);
	}
	fire_due(l);
}
