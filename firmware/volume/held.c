/* The table of held sectors. Cells and their bytes are as many as sectors may be held, taken at open: nothing here fails or
 * allocates later. Free cells are reused last in, first out: the bytes are still in the processor's cache. */
#include "held.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"

enum {
	HELD_BLOCK = 4096,
	BINS = 40, /* more than any list can fill: bin b holds a merge of 2^b runs */
};

int held_init(struct held *h, size_t max_sectors)
{
	size_t buckets = 64;

	while (buckets < max_sectors)
		buckets *= 2;
	memset(h, 0, sizeof *h);
	h->max = max_sectors;
	h->open_end = &h->open;
	h->bucket_mask = buckets - 1;
	h->buckets = calloc(buckets, sizeof h->buckets[0]);
	h->cells = calloc(max_sectors, sizeof h->cells[0]);
	if (h->buckets == NULL || h->cells == NULL)
		return ERR_NOMEM;
	/* From the kernel, not the heap: a page is taken when it is first used. */
	h->bytes = mmap(NULL, max_sectors * HELD_BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h->bytes == MAP_FAILED) {
		h->bytes = NULL;
		return ERR_NOMEM;
	}
	for (size_t i = max_sectors; i-- > 0;) {
		h->cells[i].bytes = h->bytes + i * HELD_BLOCK;
		h->cells[i].next = h->free;
		h->free = &h->cells[i];
	}
	return 0;
}

void held_destroy(struct held *h)
{
	if (h->bytes != NULL)
		munmap(h->bytes, h->max * HELD_BLOCK);
	free(h->buckets);
	free(h->cells);
	memset(h, 0, sizeof *h);
}

static void give_back(struct held *h, struct held_sector *s)
{
	s->next = h->free;
	h->free = s;
	h->sectors--;
}

void held_reserve(struct held *h, size_t count, struct held_sector **cells)
{
	for (size_t i = 0; i < count; i++) {
		cells[i] = h->free;
		h->free = h->free->next;
	}
	h->sectors += count;
}

/* In reverse: the next who reserves as many gets them in the same order. */
void held_give_back(struct held *h, size_t count, struct held_sector *const *cells)
{
	while (count-- > 0)
		give_back(h, cells[count]);
}

static struct held_sector *_Atomic *bucket_of(const struct held *h, uint64_t lba)
{
	return &h->buckets[(lba * UINT64_C(0x9E3779B97F4A7C15) >> 32) & h->bucket_mask];
}

/* Only a bucket that is empty says so without the lock: chains change. */
bool held_nothing(const struct held *h, uint64_t lba)
{
	return h->buckets == NULL || *bucket_of(h, lba) == NULL;
}

static struct held_sector *_Atomic *link_of(const struct held *h, uint64_t lba)
{
	struct held_sector *_Atomic *link = bucket_of(h, lba);

	while (*link != NULL && (*link)->lba != lba)
		link = &(*link)->chain;
	return link;
}

/* An overtaken version leaves the table; its cell goes with the round it belongs to. */
void held_add(struct held *h, struct held_sector *s, uint64_t lba, uint64_t ctr)
{
	struct held_sector *_Atomic *link = link_of(h, lba);

	s->lba = lba;
	s->ctr = ctr;
	s->chain = *link != NULL ? (struct held_sector *)(*link)->chain : NULL;
	*link = s;
	s->next = NULL;
	*h->open_end = s;
	h->open_end = &s->next;
}

struct held_sector *held_take(struct held *h)
{
	struct held_sector *list = h->open;

	h->open = NULL;
	h->open_end = &h->open;
	return list;
}

/* --- by place: a merge sort over runs that are in order already, so that sequential writes cost one walk ------------------- */

static bool before(const struct held_sector *a, const struct held_sector *b)
{
	return a->lba < b->lba || (a->lba == b->lba && a->ctr > b->ctr);
}

static struct held_sector *merge(struct held_sector *a, struct held_sector *b)
{
	struct held_sector *head = NULL, **end = &head;

	while (a != NULL && b != NULL) {
		struct held_sector **first = before(b, a) ? &b : &a;

		*end = *first;
		end = &(*first)->after;
		*first = *end;
	}
	*end = a != NULL ? a : b;
	return head;
}

static void put_run(struct held_sector *bins[static BINS], struct held_sector *run)
{
	size_t b = 0;

	for (; b < BINS - 1 && bins[b] != NULL; b++) {
		run = merge(bins[b], run);
		bins[b] = NULL;
	}
	bins[b] = merge(bins[b], run);
}

struct held_sector *held_by_place(const struct held *h, struct held_sector *list, bool all)
{
	struct held_sector *bins[BINS] = { NULL }, *run = NULL, *last = NULL;

	for (struct held_sector *s = list; s != NULL; s = s->next) {
		if (!all && *link_of(h, s->lba) != s)
			continue;
		s->after = NULL;
		if (last != NULL && before(last, s)) {
			last->after = s;
		} else {
			if (run != NULL)
				put_run(bins, run);
			run = s;
		}
		last = s;
	}
	for (size_t b = 0; b < BINS; b++)
		run = merge(bins[b], run);
	return run;
}

void held_release(struct held *h, struct held_sector *list)
{
	while (list != NULL) {
		struct held_sector *s = list;
		struct held_sector *_Atomic *link = link_of(h, s->lba);

		list = s->next;
		if (*link == s)
			*link = s->chain;
		give_back(h, s);
	}
}

const uint8_t *held_find(const struct held *h, uint64_t lba, uint64_t ctr)
{
	const struct held_sector *s = *link_of(h, lba);

	return s != NULL && s->ctr == ctr ? s->bytes : NULL;
}
