/* The pool of working buffers: as many as there were ever requests at once. Nothing in it is plaintext while it lies here. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

void pool_init(struct pool *p)
{
	pthread_mutex_init(&p->lock, NULL);
	p->free = NULL;
}

static void request_free(struct request *q)
{
	free(q->edge[0]);
	free(q);
}

void pool_destroy(struct pool *p)
{
	while (p->free != NULL) {
		struct request *q = p->free;

		p->free = q->next;
		request_free(q);
	}
	pthread_mutex_destroy(&p->lock);
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
	struct request *q;

	pthread_mutex_lock(&p->lock);
	q = p->free;
	if (q != NULL)
		p->free = q->next;
	pthread_mutex_unlock(&p->lock);
	return q != NULL ? q : request_new();
}

/* The slots that passed through are node plaintext: they go with the edges. */
void pool_return(struct pool *p, struct request *q)
{
	secret_wipe(q->edge[0], (size_t)EDGES * SECTOR_BYTES);
	secret_wipe(q->slots, sizeof q->slots);
	pthread_mutex_lock(&p->lock);
	q->next = p->free;
	p->free = q;
	pthread_mutex_unlock(&p->lock);
}
