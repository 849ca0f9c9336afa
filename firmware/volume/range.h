/* A lock over sectors: readers of a range share it, a writer has it alone, in order of arrival. While no writer is there or
 * waits, readers enter and leave without a mutex: each marks its range in a place of its own, which a writer that comes looks
 * through. Held across data I/O, so a lock of the keys never takes it; range_abort makes those who still wait leave. Entries live
 * on their owners' stacks. */
#ifndef FALLGATE_VOLUME_RANGE_H
#define FALLGATE_VOLUME_RANGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { RANGE_PLACES = 64 };

struct range {
	uint64_t first, count;
	bool exclusive;
	_Atomic uint64_t *place; /* NULL: it is in the list */
	struct range *next;
};

struct range_lock {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct range *head;
	atomic_bool aborted;
	atomic_uint writers; /* in the list */
	_Atomic uint64_t places[RANGE_PLACES];
};

void range_init(struct range_lock *l);
void range_destroy(struct range_lock *l);

/* Waits until no earlier entry conflicts. 0, or ERR_REVOKED after range_abort (then there is nothing to leave). */
int range_enter(struct range_lock *l, struct range *r, uint64_t first, uint64_t count, bool exclusive);
void range_leave(struct range_lock *l, struct range *r);
void range_abort(struct range_lock *l);

#endif
