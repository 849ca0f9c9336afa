/* The list is as long as there are requests in flight, a few dozen at most: walking it costs less than any cleverness. */
#include "range.h"

#include <stddef.h>

#include "base/error.h"

void range_init(struct range_lock *l)
{
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	l->head = NULL;
	l->aborted = false;
}

void range_destroy(struct range_lock *l)
{
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
}

static bool conflict(const struct range *a, const struct range *b)
{
	if (!a->exclusive && !b->exclusive)
		return false;
	return a->first < b->first + b->count && b->first < a->first + a->count;
}

/* Entries before r came earlier: r waits for those it conflicts with, so nobody is overtaken and nobody starves. */
static bool must_wait(const struct range_lock *l, const struct range *r)
{
	for (const struct range *e = l->head; e != r; e = e->next)
		if (conflict(e, r))
			return true;
	return false;
}

static void unlink_range(struct range_lock *l, struct range *r)
{
	struct range **link = &l->head;

	while (*link != r)
		link = &(*link)->next;
	*link = r->next;
	pthread_cond_broadcast(&l->changed);
}

int range_enter(struct range_lock *l, struct range *r, uint64_t first, uint64_t count, bool exclusive)
{
	struct range **link = &l->head;
	int result = 0;

	r->first = first;
	r->count = count;
	r->exclusive = exclusive;
	r->next = NULL;
	pthread_mutex_lock(&l->lock);
	while (*link != NULL)
		link = &(*link)->next;
	*link = r;
	while (!l->aborted && must_wait(l, r))
		pthread_cond_wait(&l->changed, &l->lock);
	if (l->aborted) {
		unlink_range(l, r);
		result = ERR_REVOKED;
	}
	pthread_mutex_unlock(&l->lock);
	return result;
}

void range_leave(struct range_lock *l, struct range *r)
{
	pthread_mutex_lock(&l->lock);
	unlink_range(l, r);
	pthread_mutex_unlock(&l->lock);
}

void range_abort(struct range_lock *l)
{
	pthread_mutex_lock(&l->lock);
	l->aborted = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}
