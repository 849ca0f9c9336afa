/* The table of held sectors. Cells are as many as sectors may be held, allocated at open: adding never fails. */
#include "held.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { HELD_BLOCK = 4096 };

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
	for (size_t i = 0; i < max_sectors; i++) {
		h->cells[i].next = h->free;
		h->free = &h->cells[i];
	}
	return 0;
}

/* A parcel whose sectors were all overtaken is in no cell: the open list owns it. */
void held_destroy(struct held *h)
{
	while (h->open != NULL) {
		struct parcel *p = h->open;

		h->open = p->next;
		parcel_free(p);
	}
	free(h->buckets);
	free(h->cells);
	memset(h, 0, sizeof *h);
}

struct parcel *parcel_new(size_t count)
{
	struct parcel *p = calloc(1, sizeof *p);

	if (p == NULL)
		return NULL;
	p->count = count;
	p->bytes = aligned_alloc(HELD_BLOCK, count * HELD_BLOCK);
	if (p->bytes == NULL) {
		free(p);
		return NULL;
	}
	return p;
}

void parcel_free(struct parcel *p)
{
	if (p == NULL)
		return;
	free(p->bytes);
	free(p);
}

static struct held_sector **link_of(const struct held *h, uint64_t lba)
{
	struct held_sector **link = &h->buckets[(lba * UINT64_C(0x9E3779B97F4A7C15) >> 32) & h->bucket_mask];

	while (*link != NULL && (*link)->lba != lba)
		link = &(*link)->next;
	return link;
}

void held_add(struct held *h, struct parcel *p)
{
	for (size_t i = 0; i < p->count; i++) {
		struct held_sector **link = link_of(h, p->lba + i);

		if (*link == NULL) {
			*link = h->free;
			h->free = h->free->next;
			(*link)->next = NULL;
			(*link)->lba = p->lba + i;
		}
		(*link)->parcel = p;
	}
	p->next = NULL;
	*h->open_end = p;
	h->open_end = &p->next;
}

struct parcel *held_take(struct held *h)
{
	struct parcel *list = h->open;

	h->open = NULL;
	h->open_end = &h->open;
	return list;
}

static bool newest(const struct held *h, const struct parcel *p, size_t i)
{
	const struct held_sector *s = *link_of(h, p->lba + i);

	return s != NULL && s->parcel == p;
}

size_t held_collect(const struct held *h, const struct parcel *list, bool all, struct extent *out)
{
	size_t count = 0;

	for (const struct parcel *p = list; p != NULL; p = p->next)
		for (size_t i = 0, n; i < p->count; i += n) {
			n = 1;
			if (!all && !newest(h, p, i))
				continue;
			while (i + n < p->count && (all || newest(h, p, i + n)))
				n++;
			out[count++] = (struct extent){ p->lba + i, p->ctr + i, n, p->bytes + i * HELD_BLOCK };
		}
	return count;
}

void held_release(struct held *h, struct parcel *list)
{
	while (list != NULL) {
		struct parcel *p = list;

		for (size_t i = 0; i < p->count; i++) {
			struct held_sector **link = link_of(h, p->lba + i), *s = *link;

			if (s == NULL || s->parcel != p)
				continue;
			*link = s->next;
			s->next = h->free;
			h->free = s;
		}
		h->sectors -= p->count;
		list = p->next;
		parcel_free(p);
	}
}

const uint8_t *held_find(const struct held *h, uint64_t lba, uint64_t ctr)
{
	const struct held_sector *s = *link_of(h, lba);

	if (s == NULL || s->parcel->ctr + (lba - s->parcel->lba) != ctr)
		return NULL;
	return s->parcel->bytes + (lba - s->parcel->lba) * HELD_BLOCK;
}
