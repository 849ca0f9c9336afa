/* A lock over sectors: readers of a range share it, a writer has it alone, in order of arrival. Held across data I/O, so a lock
 * of the keys never takes it; range_abort makes those who still wait leave. Entries live on their owners' stacks. */
#ifndef FALLGATE_VOLUME_RANGE_H
#define FALLGATE_VOLUME_RANGE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct range {
	uint64_t first, count;
	bool exclusive;
	struct range *next;
};

struct range_lock {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct range *head;
	bool aborted;
};

void range_init(struct range_lock *l);
void range_destroy(struct range_lock *l);

/* Waits until no earlier entry conflicts. 0, or ERR_REVOKED after range_abort (then there is nothing to leave). */
int range_enter(struct range_lock *l, struct range *r, uint64_t first, uint64_t count, bool exclusive);
void range_leave(struct range_lock *l, struct range *r);
void range_abort(struct range_lock *l);

#endif
