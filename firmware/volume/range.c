/* The list is as long as there are requests in flight, a few dozen at most: walking it costs less than any cleverness. */
#include "range.h"

#include <stddef.h>

#include "base/error.h"

void range_init(struct range_lock *l)
{
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	l->head = NULL;
	atomic_init(&l->aborted, false);
	atomic_init(&l->writers, 0);
	for (size_t i = 0; i < RANGE_PLACES; i++)
		atomic_init(&l->places[i], 0);
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

/* --- readers in places ------------------------------------------------------------------------------------------------- */

enum { COUNT_BITS = 16 };

static uint64_t mark_of(uint64_t first, uint64_t count)
{
	return first << COUNT_BITS | count;
}

static bool place_conflicts(uint64_t mark, const struct range *r)
{
	const struct range there = { .first = mark >> COUNT_BITS, .count = mark % (1u << COUNT_BITS) };

	return mark != 0 && conflict(&there, r);
}

/* A place is emptied before it is asked who waits, and a writer is counted before it looks: one sees the other. */
static void leave_place(struct range_lock *l, _Atomic uint64_t *place)
{
	atomic_store(place, 0);
	if (atomic_load(&l->writers) == 0)
		return;
	pthread_mutex_lock(&l->lock);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

/* The mark is set before it is asked whether a writer is there: the same the other way round. */
static bool enter_place(struct range_lock *l, struct range *r)
{
	if (r->count == 0 || r->count >> COUNT_BITS != 0 || r->first >> (64 - COUNT_BITS) != 0)
		return false;
	for (size_t i = 0; i < RANGE_PLACES && atomic_load(&l->writers) == 0; i++) {
		uint64_t empty = 0;

		if (atomic_load_explicit(&l->places[i], memory_order_relaxed) != 0 ||
		    !atomic_compare_exchange_strong(&l->places[i], &empty, mark_of(r->first, r->count)))
			continue;
		if (atomic_load(&l->writers) == 0 && !atomic_load(&l->aborted)) {
			r->place = &l->places[i];
			return true;
		}
		leave_place(l, &l->places[i]);
		break;
	}
	return false;
}

static bool places_conflict(const struct range_lock *l, const struct range *r)
{
	for (size_t i = 0; i < RANGE_PLACES && r->exclusive; i++)
		if (place_conflicts(atomic_load(&l->places[i]), r))
			return true;
	return false;
}

/* --- the list ---------------------------------------------------------------------------------------------------------- */

/* Entries before r came earlier: r waits for those it conflicts with, so nobody is overtaken and nobody starves. */
static bool must_wait(const struct range_lock *l, const struct range *r)
{
	for (const struct range *e = l->head; e != r; e = e->next)
		if (conflict(e, r))
			return true;
	return places_conflict(l, r);
}

static void unlink_range(struct range_lock *l, struct range *r)
{
	struct range **link = &l->head;

	while (*link != r)
		link = &(*link)->next;
	*link = r->next;
	if (r->exclusive)
		atomic_fetch_sub(&l->writers, 1);
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
	r->place = NULL;
	if (!exclusive && enter_place(l, r))
		return 0;
	pthread_mutex_lock(&l->lock);
	if (exclusive)
		atomic_fetch_add(&l->writers, 1);
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
	if (r->place != NULL) {
		leave_place(l, r->place);
		return;
	}
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
