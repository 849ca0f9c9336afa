/* The supervisor's one thread of decisions: descriptors that became readable and times that came, one at a time. What must hold:
 * times are CLOCK_BOOTTIME (a suspended machine's deadlines pass); a flood on one descriptor never starves a timer or another
 * descriptor; a watch or timer may be taken away from inside any callback. */
#ifndef FALLGATE_SUPERVISOR_LOOP_H
#define FALLGATE_SUPERVISOR_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#define MS_NS  UINT64_C(1000000)
#define SEC_NS UINT64_C(1000000000)

struct watch {
	int fd; /* -1: none */
	void (*ready)(void *context);
	void *context;
};

struct timer {
	bool armed;
	uint64_t at_ns;
	void (*fire)(void *context);
	void *context;
	struct timer *next;
};

struct loop {
	int epoll_fd, timer_fd;
	struct timer *first; /* armed ones, the earliest first */
	uint64_t rounds;     /* how often it has waited */
	struct watch timer_watch;
};

/* 0, or ERR_IO (logged). */
int loop_init(struct loop *l);
void loop_close(struct loop *l);

/* 0 or ERR_IO. */
int loop_watch(struct loop *l, struct watch *w, int fd, void (*ready)(void *), void *context);
void loop_unwatch(struct loop *l, struct watch *w);

void timer_init(struct timer *t, void (*fire)(void *), void *context);
void timer_arm(struct loop *l, struct timer *t, uint64_t at_ns); /* again: moves it */
void timer_disarm(struct loop *l, struct timer *t);

/* Waits for one thing and does it, then every timer that is due. */
void loop_once(struct loop *l);

uint64_t boot_now(void); /* CLOCK_BOOTTIME */
uint64_t wall_now(void); /* CLOCK_REALTIME */

#endif
