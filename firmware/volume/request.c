/* The pool of working buffers: as many as there were ever requests at once, up to the pool's places. Taken and returned without a
 * lock: a place is a pointer that changes hands whole. Nothing in it is plaintext while it lies here. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static void request_free(struct request *q)
{
	free(q->edge[0]);
	free(q);
}

void pool_destroy(struct pool *p)
{
	for (size_t i = 0; i < POOL_PLACES; i++) {
		struct request *q = atomic_exchange(&p->places[i], NULL);

		if (q != NULL)
			request_free(q);
	}
}

static struct request *request_new(void)
{
	struct request *q = calloc(1, sizeof *q);

	if (q == NULL)
		return NULL;
	q->edge[0] = aligned_alloc(SECTOR_BYTES, (EDGES + 1) * (size_t)SECTOR_BYTES);
	if (q->edge[0] == NULL) {
		free(q);
		return NULL;
	}
	for (size_t e = 1; e < EDGES; e++)
		q->edge[e] = q->edge[0] + e * SECTOR_BYTES;
	q->spare = q->edge[0] + (size_t)EDGES * SECTOR_BYTES;
	return q;
}

struct request *pool_take(struct pool *p)
{
	for (size_t i = 0; i < POOL_PLACES; i++) {
		struct request *q = NULL;

		if (atomic_load_explicit(&p->places[i], memory_order_relaxed) != NULL)
			q = atomic_exchange(&p->places[i], NULL);
		if (q != NULL)
			return q;
	}
	return request_new();
}

/* The slots that passed through are node plaintext: they go with the edges. Only what was used is wiped. */
void pool_return(struct pool *p, struct request *q)
{
	if (q->edges_used)
		secret_wipe(q->edge[0], (size_t)EDGES * SECTOR_BYTES);
	secret_wipe(q->slots, q->slots_used * sizeof q->slots[0]);
	q->edges_used = false;
	q->slots_used = 0;
	for (size_t i = 0; i < POOL_PLACES; i++) {
		struct request *none = NULL;

		if (atomic_load_explicit(&p->places[i], memory_order_relaxed) == NULL &&
		    atomic_compare_exchange_strong(&p->places[i], &none, q))
			return;
	}
	request_free(q);
}
