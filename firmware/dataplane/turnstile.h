/* Where requests meet the volume: who is inside with it, who waits for the key to come back, who is turned away. What must hold:
 * shutting waits for nobody and takes no lock, for keys are wiped right after it; a volume that is shut out is freed only when
 * nobody is inside any more; a request that waits does so until a time that was fixed when the gate fell, whatever hangs
 * meanwhile. What waits, and how much of it: a request for each of the server's threads, its payload in the server's buffer. */
#ifndef FALLGATE_DATAPLANE_TURNSTILE_H
#define FALLGATE_DATAPLANE_TURNSTILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct volume;

struct turnstile {
	_Atomic(struct volume *) volume; /* NULL: shut */
	_Atomic uint64_t until_ns;       /* CLOCK_BOOTTIME: while it is shut, requests wait until then; 0: they do not wait */
	atomic_bool holds;               /* requests wait at all */
	atomic_uint inside, waiting;
	pthread_mutex_t lock; /* with `changed`: the waiters' */
	pthread_cond_t changed;
	int wake_fd; /* raised when the last one leaves a turnstile that is shut */
};

/* Shut, nobody waits. */
void turnstile_init(struct turnstile *t, int wake_fd);

/* Lets everybody in, those who wait first. */
void turnstile_open(struct turnstile *t, struct volume *v);

/* From now on nobody gets in. Never waits. */
void turnstile_shut(struct turnstile *t, uint64_t until_ns);

/* Those who wait are turned away now. */
void turnstile_give_up(struct turnstile *t);

/* Nobody is inside: after turnstile_shut nobody will be. */
bool turnstile_empty(struct turnstile *t);

/* A request: the volume, or NULL at once while it is shut. */
struct volume *turnstile_try(struct turnstile *t);
void turnstile_leave(struct turnstile *t);

/* A request that was not let in (refused: NULL), or that was refused a key inside: true when it may try again, false when it has
 * waited for as long as it may. */
bool turnstile_wait(struct turnstile *t, const struct volume *refused);

#endif
