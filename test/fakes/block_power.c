/* Pages never change once written: states are arrays of pointers to them, NULL for a page of zeroes. */
#include "fakes/block_power.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "fakes/block_parts.h"

enum { ARENA_PAGES = 64 };

struct arena {
	uint8_t **chunks;
	size_t chunk_count, used; /* used: pages */
};

/* One 4 KiB write that a cut may lose. bytes NULL: zeroes (a discard). */
struct pending {
	uint32_t page;
	const uint8_t *bytes;
	bool doomed; /* a flush of it has failed: no later one helps */
};

struct pending_list {
	struct pending *items;
	size_t count, room;
};

struct power {
	struct block block;
	pthread_mutex_t lock;
	size_t pages;
	struct arena arena;
	const uint8_t **start;         /* durable where the record begins */
	const uint8_t **view;          /* what a read sees */
	struct pending_list inherited; /* unflushed where the record begins */
	struct power_event *events;
	size_t event_count, event_room;
	const uint8_t **written; /* pages of all events, in order */
	size_t written_count, written_room;
	uint64_t discard_seed;
	struct power_fault fault;
	unsigned long seen, failed;
	bool recording, off;
	struct block *lower;
};

struct power_cursor {
	const struct power *device;
	const uint8_t **durable;
	struct pending_list pending;
	size_t at, fresh;
};

static const uint8_t zero_page[POWER_PAGE];

static struct power *of(struct block *b)
{
	return (struct power *)b;
}

static const struct power *of_const(const struct block *b)
{
	return (const struct power *)b;
}

static void *must(void *p)
{
	if (p == NULL)
		abort();
	return p;
}

static void *grow(void *items, size_t *room, size_t count, size_t size)
{
	if (count < *room)
		return items;
	*room = *room == 0 ? 64 : *room * 2;
	return must(realloc(items, *room * size));
}

static uint8_t *arena_page(struct arena *a)
{
	size_t chunk = a->used / ARENA_PAGES;

	if (chunk == a->chunk_count) {
		a->chunks = must(realloc(a->chunks, (chunk + 1) * sizeof *a->chunks));
		a->chunks[a->chunk_count++] = must(malloc(ARENA_PAGES * (size_t)POWER_PAGE));
	}
	return a->chunks[chunk] + a->used++ % ARENA_PAGES * POWER_PAGE;
}

static void arena_free(struct arena *a)
{
	for (size_t i = 0; i < a->chunk_count; i++)
		free(a->chunks[i]);
	free(a->chunks);
}

static void pend(struct pending_list *l, uint32_t page, const uint8_t *bytes, bool doomed)
{
	l->items = grow(l->items, &l->room, l->count, sizeof *l->items);
	l->items[l->count++] = (struct pending){ page, bytes, doomed };
}

/* --- the device -------------------------------------------------------------------------------------------------------- */

static size_t add_event(struct power *m, enum power_kind kind, uint64_t at, uint64_t size, uint64_t mark)
{
	m->events = grow(m->events, &m->event_room, m->event_count, sizeof *m->events);
	m->events[m->event_count] = (struct power_event){ .kind = kind,
							  .page = (uint32_t)(at / POWER_PAGE),
							  .pages = (uint32_t)(size / POWER_PAGE),
							  .first = m->written_count,
							  .mark = mark };
	return m->event_count++;
}

static void add_page(struct power *m, const uint8_t *bytes)
{
	m->written = grow(m->written, &m->written_room, m->written_count, sizeof *m->written);
	m->written[m->written_count++] = bytes;
}

/* With the lock. 0, or what this call is to fail with. */
static int judge(struct power *m, enum power_kind kind, uint64_t at, uint64_t size)
{
	const struct power_fault *f = &m->fault;
	unsigned long times = f->times == 0 ? 1 : f->times;

	if (m->off)
		return ERR_IO;
	if ((f->kinds & 1u << kind) == 0 || (f->to != 0 && (at >= f->to || f->from >= at + size)))
		return 0;
	m->seen++;
	if (m->seen < f->nth || m->seen - f->nth >= times)
		return 0;
	m->failed++;
	return f->error;
}

static bool in_range(const struct block *b, uint64_t size, uint64_t at)
{
	return size % POWER_PAGE == 0 && at % POWER_PAGE == 0 && at <= b->size && size <= b->size - at;
}

static int power_read(struct block *b, void *out, size_t size, uint64_t at)
{
	struct power *m = of(b);
	int r;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	pthread_mutex_lock(&m->lock);
	r = judge(m, POWER_READ, at, size);
	if (r == 0 && m->lower != NULL) {
		r = m->lower->ops->read(m->lower, out, size, at);
		pthread_mutex_unlock(&m->lock);
		return r;
	}
	for (size_t done = 0; done < size && r == 0; done += POWER_PAGE) {
		const uint8_t *page = m->view[(at + done) / POWER_PAGE];

		memcpy((uint8_t *)out + done, page == NULL ? zero_page : page, POWER_PAGE);
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

/* With the lock. */
static void put(struct power *m, enum power_kind kind, const uint8_t *in, uint64_t size, uint64_t at)
{
	if (size == 0)
		return;
	if (m->lower != NULL &&
	    (kind == POWER_FUA ? m->lower->ops->write_fua : m->lower->ops->write)(m->lower, in, size, at) != 0)
		abort();
	if (m->recording)
		add_event(m, kind, at, size, 0);
	for (uint64_t done = 0; done < size; done += POWER_PAGE) {
		uint8_t *page = arena_page(&m->arena);

		memcpy(page, in + done, POWER_PAGE);
		m->view[(at + done) / POWER_PAGE] = page;
		if (m->recording)
			add_page(m, page);
	}
}

static int write_as(struct block *b, enum power_kind kind, const void *in, size_t size, uint64_t at)
{
	struct power *m = of(b);
	uint64_t upto = size;
	int r;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	pthread_mutex_lock(&m->lock);
	r = judge(m, kind, at, size);
	if (r < 0)
		upto = m->off ? 0 : m->fault.pages_done * (uint64_t)POWER_PAGE;
	/* what a refused FUA write has changed is not durable */
	put(m, r < 0 ? POWER_WRITE : kind, in, upto < size ? upto : size, at);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int power_write(struct block *b, const void *in, size_t size, uint64_t at)
{
	return write_as(b, POWER_WRITE, in, size, at);
}

static int power_write_fua(struct block *b, const void *in, size_t size, uint64_t at)
{
	return write_as(b, POWER_FUA, in, size, at);
}

static int power_flush(struct block *b)
{
	struct power *m = of(b);
	int r;

	pthread_mutex_lock(&m->lock);
	r = judge(m, POWER_FLUSH, 0, b->size);
	if (r == 0 && m->lower != NULL)
		r = m->lower->ops->flush(m->lower);
	if (m->recording && !m->off && (r == 0 || !m->fault.unreachable))
		add_event(m, r == 0 ? POWER_FLUSH : POWER_FLUSH_LOST, 0, 0, 0);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static bool reads_zero(const struct power *m, uint64_t page)
{
	uint64_t x = (m->discard_seed + page) * UINT64_C(0x9E3779B97F4A7C15);

	return m->discard_seed == 1 || (m->discard_seed != 0 && (x >> 40 & 1) != 0);
}

static int power_discard(struct block *b, uint64_t size, uint64_t at)
{
	struct power *m = of(b);
	int r;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	pthread_mutex_lock(&m->lock);
	r = judge(m, POWER_DISCARD, at, size);
	if (r == 0 && m->lower != NULL)
		r = m->lower->ops->discard(m->lower, size, at);
	if (r == 0 && size > 0 && m->recording)
		add_event(m, POWER_DISCARD, at, size, 0);
	for (uint64_t n = at / POWER_PAGE; r == 0 && n < (at + size) / POWER_PAGE; n++) {
		if (reads_zero(m, n))
			m->view[n] = NULL;
		if (m->recording)
			add_page(m, NULL);
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

static void power_close(struct block *b)
{
	struct power *m = of(b);

	arena_free(&m->arena);
	free(m->start);
	free(m->view);
	free(m->inherited.items);
	free(m->events);
	free(m->written);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static const struct block_ops ops_with_fua = {
	.read = power_read,
	.write = power_write,
	.write_parts = write_parts_as_one,
	.write_fua = power_write_fua,
	.flush = power_flush,
	.discard = power_discard,
	.close = power_close,
};

static const struct block_ops ops_without_fua = {
	.read = power_read,
	.write = power_write,
	.write_parts = write_parts_as_one,
	.flush = power_flush,
	.discard = power_discard,
	.close = power_close,
};

void power_offer_fua(struct block *b, bool offer)
{
	b->ops = offer ? &ops_with_fua : &ops_without_fua;
}

struct block *power_new(uint64_t size)
{
	struct power *m = must(calloc(1, sizeof *m));

	m->block.ops = &ops_with_fua;
	m->block.size = size;
	m->block.atomic_bytes = POWER_PAGE;
	m->pages = size / POWER_PAGE;
	m->start = must(calloc(m->pages + 1, sizeof *m->start));
	m->view = must(calloc(m->pages + 1, sizeof *m->view));
	m->discard_seed = 1;
	pthread_mutex_init(&m->lock, NULL);
	return &m->block;
}

struct block *power_copy(struct block *from)
{
	struct block *to = power_new(from->size);
	uint8_t page[POWER_PAGE];

	for (uint64_t at = 0; at < from->size; at += POWER_PAGE)
		if (from->ops->read(from, page, POWER_PAGE, at) != 0 || to->ops->write(to, page, POWER_PAGE, at) != 0)
			abort();
	if (to->ops->flush(to) != 0)
		abort();
	return to;
}

static void mark_lower(struct power *m, uint64_t value)
{
	uint8_t page[POWER_PAGE] = { 0 };

	if (m->lower == NULL)
		return;
	put_le64(page, value);
	if (m->lower->ops->write(m->lower, page, sizeof page, m->lower->size - sizeof page) != 0)
		abort();
}

void power_mirror(struct block *b, struct block *lower)
{
	of(b)->lower = lower;
}

/* The arena stays: what is there now lies in it. */
void power_record(struct block *b)
{
	struct power *m = of(b);

	mark_lower(m, POWER_RECORD_BEGINS);
	memcpy(m->start, m->view, m->pages * sizeof *m->view);
	m->inherited.count = m->event_count = m->written_count = 0;
	m->recording = true;
	m->off = false;
}

void power_mark(struct block *b, uint64_t value)
{
	struct power *m = of(b);

	pthread_mutex_lock(&m->lock);
	mark_lower(m, value);
	if (m->recording)
		add_event(m, POWER_MARK, 0, 0, value);
	pthread_mutex_unlock(&m->lock);
}

size_t power_events(const struct block *b)
{
	return of_const(b)->event_count;
}

const struct power_event *power_event(const struct block *b, size_t i)
{
	return &of_const(b)->events[i];
}

void power_switch(struct block *b, bool on)
{
	struct power *m = of(b);

	pthread_mutex_lock(&m->lock); /* a volume's own thread may be writing */
	m->off = !on;
	pthread_mutex_unlock(&m->lock);
}

void power_discards(struct block *b, uint64_t seed)
{
	of(b)->discard_seed = seed;
}

void power_fail(struct block *b, struct power_fault fault)
{
	struct power *m = of(b);

	pthread_mutex_lock(&m->lock);
	m->fault = fault;
	m->seen = m->failed = 0;
	pthread_mutex_unlock(&m->lock);
}

unsigned long power_failed(const struct block *b)
{
	return of_const(b)->failed;
}

void power_peek(struct block *b, void *out, size_t size, uint64_t at)
{
	for (size_t done = 0, n; done < size; done += n) {
		const uint8_t *page = of(b)->view[(at + done) / POWER_PAGE];
		size_t in_page = (at + done) % POWER_PAGE;

		n = POWER_PAGE - in_page < size - done ? POWER_PAGE - in_page : size - done;
		memcpy((uint8_t *)out + done, (page == NULL ? zero_page : page) + in_page, n);
	}
}

void power_poke(struct block *b, uint32_t page, const uint8_t *bytes)
{
	struct power *m = of(b);

	m->start[page] = m->view[page] = memcpy(arena_page(&m->arena), bytes, POWER_PAGE);
}

bool power_blank(const struct block *b, uint32_t page)
{
	const uint8_t *bytes = of_const(b)->view[page];

	return bytes == NULL || memcmp(bytes, zero_page, POWER_PAGE) == 0;
}

/* --- walking the record ------------------------------------------------------------------------------------------------ */

/* The event at c->at is issued. */
static void issue(struct power_cursor *c)
{
	const struct power *m = c->device;
	const struct power_event *e;

	c->fresh = 0;
	if (c->at == m->event_count)
		return;
	e = &m->events[c->at];
	if (e->kind != POWER_WRITE && e->kind != POWER_FUA && e->kind != POWER_DISCARD)
		return;
	for (uint32_t i = 0; i < e->pages; i++)
		pend(&c->pending, e->page + i, m->written[e->first + i], false);
	c->fresh = e->pages;
}

/* Writes of these pages are durable now: nothing older can come back. */
static void settle_fua(struct power_cursor *c, const struct power_event *e)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->pending.count; i++) {
		const struct pending p = c->pending.items[i];

		if (p.page < e->page || p.page - e->page >= e->pages)
			c->pending.items[kept++] = p;
		else
			c->durable[p.page] = p.bytes;
	}
	c->pending.count = kept;
}

/* A discard that changed nothing. */
static bool idle(const struct power *m, const struct pending *p)
{
	return p->bytes == NULL && !reads_zero(m, p->page);
}

static bool newer_is_sound(const struct power_cursor *c, size_t i)
{
	for (size_t k = i + 1; k < c->pending.count; k++)
		if (c->pending.items[k].page == c->pending.items[i].page && !c->pending.items[k].doomed)
			return true;
	return false;
}

/* Doomed ones stay unless a sound newer write of the page is durable now. */
static void settle_flush(struct power_cursor *c)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->pending.count; i++) {
		const struct pending p = c->pending.items[i];

		if (p.doomed && !newer_is_sound(c, i))
			c->pending.items[kept++] = p;
		else if (!p.doomed && !idle(c->device, &p))
			c->durable[p.page] = p.bytes;
	}
	c->pending.count = kept;
}

/* The event at c->at is done. */
static void settle(struct power_cursor *c)
{
	const struct power_event *e = &c->device->events[c->at];

	if (e->kind == POWER_FUA)
		settle_fua(c, e);
	if (e->kind == POWER_FLUSH)
		settle_flush(c);
	for (size_t i = 0; e->kind == POWER_FLUSH_LOST && i < c->pending.count; i++)
		c->pending.items[i].doomed = true;
}

struct power_cursor *power_cursor_new(const struct block *b)
{
	const struct power *m = of_const(b);
	struct power_cursor *c = must(calloc(1, sizeof *c));

	c->device = m;
	c->durable = must(calloc(m->pages + 1, sizeof *c->durable));
	memcpy(c->durable, m->start, m->pages * sizeof *c->durable);
	for (size_t i = 0; i < m->inherited.count; i++)
		pend(&c->pending, m->inherited.items[i].page, m->inherited.items[i].bytes, m->inherited.items[i].doomed);
	issue(c);
	return c;
}

void power_cursor_free(struct power_cursor *c)
{
	free(c->pending.items);
	free(c->durable);
	free(c);
}

bool power_cursor_next(struct power_cursor *c)
{
	if (c->at == c->device->event_count)
		return false;
	settle(c);
	c->at++;
	issue(c);
	return true;
}

size_t power_cursor_at(const struct power_cursor *c)
{
	return c->at;
}

size_t power_pending(const struct power_cursor *c)
{
	return c->pending.count;
}

size_t power_fresh(const struct power_cursor *c)
{
	return c->fresh;
}

bool power_doomed(const struct power_cursor *c)
{
	for (size_t i = 0; i < c->pending.count; i++)
		if (c->pending.items[i].doomed)
			return true;
	return false;
}

void power_event_page(const struct block *b, size_t event, uint32_t index, uint8_t *out)
{
	const struct power *m = of_const(b);

	memcpy(out, m->written[m->events[event].first + index], POWER_PAGE);
}

/* --- images ------------------------------------------------------------------------------------------------------------ */

struct block *power_image_new(const struct block *like)
{
	return power_new(like->size);
}

static struct power *begin_image(struct block *image, const struct power_cursor *c)
{
	struct power *m = of(image);

	memcpy(m->start, c->durable, m->pages * sizeof *m->start);
	m->block.ops = c->device->block.ops;
	m->discard_seed = c->device->discard_seed;
	m->arena.used = 0;
	m->fault = (struct power_fault){ 0 };
	m->inherited.count = m->event_count = m->written_count = 0;
	m->recording = true;
	m->off = false;
	return m;
}

void power_cut(struct block *image, const struct power_cursor *c, const bool *keep)
{
	struct power *m = begin_image(image, c);

	for (size_t i = 0; i < c->pending.count; i++)
		if (keep[i] && !idle(c->device, &c->pending.items[i]))
			m->start[c->pending.items[i].page] = c->pending.items[i].bytes;
	memcpy(m->view, m->start, m->pages * sizeof *m->view);
}

void power_kill(struct block *image, const struct power_cursor *c, const bool *keep)
{
	struct power *m = begin_image(image, c);

	memcpy(m->view, m->start, m->pages * sizeof *m->view);
	for (size_t i = 0; i < c->pending.count; i++) {
		const struct pending *p = &c->pending.items[i];

		if (!keep[i] || idle(c->device, p))
			continue;
		m->view[p->page] = p->bytes;
		pend(&m->inherited, p->page, p->bytes, p->doomed);
	}
}

/* Moves what a read sees into an arena of its own. */
static void compact(struct power *m)
{
	struct arena old = m->arena;

	m->arena = (struct arena){ 0 };
	for (size_t i = 0; i < m->pages; i++)
		if (m->view[i] != NULL)
			m->view[i] = memcpy(arena_page(&m->arena), m->view[i], POWER_PAGE);
	arena_free(&old);
}

void power_cut_here(struct block *b, uint64_t seed)
{
	struct power *m = of(b);
	struct power_cursor *c = power_cursor_new(b);

	while (power_cursor_next(c))
		;
	for (size_t i = 0; i < c->pending.count; i++) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		if ((seed >> 40 & 1) != 0 && !idle(m, &c->pending.items[i]))
			c->durable[c->pending.items[i].page] = c->pending.items[i].bytes;
	}
	memcpy(m->view, c->durable, m->pages * sizeof *m->view);
	power_cursor_free(c);
	compact(m);
	power_record(b);
}
