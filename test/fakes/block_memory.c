/* Pages in a hash table, each with its durable bytes and, since the last flush, newer ones. */
#include "fakes/block_memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "fakes/block_parts.h"
#include "hal/hash.h"

enum { PAGE = 4096, BUCKETS = 1 << 14 };

struct page {
	struct page *chain;     /* of the bucket */
	struct page *unflushed; /* next page with fresh bytes */
	uint64_t number;
	uint8_t *fresh; /* NULL: durable is all there is */
	uint8_t durable[PAGE];
};

struct memory {
	struct block block;
	pthread_mutex_t lock;
	struct page *buckets[BUCKETS];
	struct page *unflushed;
	size_t unflushed_count, page_count;
	unsigned long calls[MEMORY_CALLS];
	struct memory_fault fault;
	unsigned long seen, failed;
	block_memory_watch_fn *watch;
	void *watch_context;
};

static struct memory *of(struct block *b)
{
	return (struct memory *)b;
}

static void *must(void *p)
{
	if (p == NULL)
		abort();
	return p;
}

static struct page **bucket(struct memory *m, uint64_t number)
{
	return &m->buckets[(number * UINT64_C(0x9E3779B97F4A7C15)) >> 50];
}

static struct page *find(struct memory *m, uint64_t number)
{
	struct page *p = *bucket(m, number);

	while (p != NULL && p->number != number)
		p = p->chain;
	return p;
}

static struct page *find_or_make(struct memory *m, uint64_t number)
{
	struct page *p = find(m, number);

	if (p != NULL)
		return p;
	p = must(calloc(1, sizeof *p));
	p->number = number;
	p->chain = *bucket(m, number);
	*bucket(m, number) = p;
	m->page_count++;
	return p;
}

static const uint8_t *bytes_of(const struct page *p)
{
	return p->fresh != NULL ? p->fresh : p->durable;
}

static void write_page(struct memory *m, uint64_t number, const uint8_t *in)
{
	struct page *p = find_or_make(m, number);

	if (p->fresh == NULL) {
		p->fresh = must(malloc(PAGE));
		p->unflushed = m->unflushed;
		m->unflushed = p;
		m->unflushed_count++;
	}
	memcpy(p->fresh, in, PAGE);
}

/* Makes every page durable, or as keep says, at random. */
static void settle_pages(struct memory *m, bool cut, uint64_t seed)
{
	while (m->unflushed != NULL) {
		struct page *p = m->unflushed;
		bool keep = !cut;

		m->unflushed = p->unflushed;
		if (cut && seed != 0) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			keep = (seed >> 33 & 1) != 0;
		}
		if (keep)
			memcpy(p->durable, p->fresh, PAGE);
		free(p->fresh);
		p->fresh = NULL;
	}
	m->unflushed_count = 0;
}

/* --- calls ------------------------------------------------------------------------------------------------------------- */

static bool touches(const struct memory_fault *f, uint64_t at, uint64_t size)
{
	return f->to == 0 || (at < f->to && f->from < at + size);
}

/* With the lock. 0, or the error this call is to fail with. */
static int judge(struct memory *m, enum memory_call call, uint64_t at, uint64_t size)
{
	const struct memory_fault *f = &m->fault;
	unsigned long times = f->times == 0 ? 1 : f->times;

	m->calls[call]++;
	if (f->nth == 0 || f->call != call || !touches(f, at, size))
		return 0;
	m->seen++;
	if (m->seen < f->nth || m->seen - f->nth >= times)
		return 0;
	m->failed++;
	return f->error;
}

static void announce(struct memory *m, enum memory_call call, uint64_t at, uint64_t size)
{
	block_memory_watch_fn *fn;
	void *context;

	pthread_mutex_lock(&m->lock);
	fn = m->watch;
	context = m->watch_context;
	pthread_mutex_unlock(&m->lock);
	if (fn != NULL)
		fn(context, call, at, size);
}

static bool in_range(const struct block *b, uint64_t size, uint64_t at)
{
	return size % PAGE == 0 && at % PAGE == 0 && at <= b->size && size <= b->size - at;
}

static int memory_read(struct block *b, void *out, size_t size, uint64_t at)
{
	struct memory *m = of(b);
	int r;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	announce(m, MEMORY_READ, at, size);
	pthread_mutex_lock(&m->lock);
	r = judge(m, MEMORY_READ, at, size);
	for (size_t done = 0; done < size && r == 0; done += PAGE) {
		const struct page *p = find(m, (at + done) / PAGE);

		if (p == NULL)
			memset((uint8_t *)out + done, 0, PAGE);
		else
			memcpy((uint8_t *)out + done, bytes_of(p), PAGE);
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int memory_write(struct block *b, const void *in, size_t size, uint64_t at)
{
	struct memory *m = of(b);
	size_t upto = size;
	int r;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	announce(m, MEMORY_WRITE, at, size);
	pthread_mutex_lock(&m->lock);
	r = judge(m, MEMORY_WRITE, at, size);
	if (r < 0 && m->fault.pages_done * (size_t)PAGE < upto)
		upto = m->fault.pages_done * (size_t)PAGE;
	for (size_t done = 0; done < upto; done += PAGE)
		write_page(m, (at + done) / PAGE, (const uint8_t *)in + done);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int memory_flush(struct block *b)
{
	struct memory *m = of(b);
	int r;

	announce(m, MEMORY_FLUSH, 0, b->size);
	pthread_mutex_lock(&m->lock);
	r = judge(m, MEMORY_FLUSH, 0, b->size);
	if (r == 0)
		settle_pages(m, false, 0);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int memory_discard(struct block *b, uint64_t size, uint64_t at)
{
	static const uint8_t zeroes[PAGE];
	struct memory *m = of(b);
	int r;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	announce(m, MEMORY_DISCARD, at, size);
	pthread_mutex_lock(&m->lock);
	r = judge(m, MEMORY_DISCARD, at, size);
	for (uint64_t n = at / PAGE; n < (at + size) / PAGE && r == 0; n++)
		if (find(m, n) != NULL)
			write_page(m, n, zeroes);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static void memory_close(struct block *b)
{
	struct memory *m = of(b);

	for (size_t i = 0; i < BUCKETS; i++)
		while (m->buckets[i] != NULL) {
			struct page *p = m->buckets[i];

			m->buckets[i] = p->chain;
			free(p->fresh);
			free(p);
		}
	pthread_mutex_destroy(&m->lock);
	free(m);
}

struct block *block_memory_new(uint64_t size)
{
	static const struct block_ops ops = {
		.read = memory_read,
		.write = memory_write,
		.write_parts = write_parts_as_one,
		.flush = memory_flush,
		.discard = memory_discard,
		.close = memory_close,
	};
	struct memory *m = must(calloc(1, sizeof *m));

	m->block.ops = &ops;
	m->block.size = size;
	m->block.atomic_bytes = PAGE;
	pthread_mutex_init(&m->lock, NULL);
	return &m->block;
}

struct block *block_memory_copy_cut(struct block *b, uint64_t seed)
{
	struct memory *from = of(b), *to = of(block_memory_new(b->size));

	pthread_mutex_lock(&from->lock);
	for (size_t i = 0; i < BUCKETS; i++)
		for (const struct page *p = from->buckets[i]; p != NULL; p = p->chain) {
			bool keep = false;

			if (p->fresh != NULL && seed != 0) {
				seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
				keep = (seed >> 33 & 1) != 0;
			}
			memcpy(find_or_make(to, p->number)->durable, keep ? p->fresh : p->durable, PAGE);
		}
	pthread_mutex_unlock(&from->lock);
	return &to->block;
}

struct block *block_memory_copy(struct block *b)
{
	struct memory *from = of(b), *to = of(block_memory_new(b->size));

	pthread_mutex_lock(&from->lock);
	for (size_t i = 0; i < BUCKETS; i++)
		for (const struct page *p = from->buckets[i]; p != NULL; p = p->chain)
			memcpy(find_or_make(to, p->number)->durable, bytes_of(p), PAGE);
	pthread_mutex_unlock(&from->lock);
	return &to->block;
}

/* --- control ----------------------------------------------------------------------------------------------------------- */

void block_memory_fail(struct block *b, struct memory_fault fault)
{
	struct memory *m = of(b);

	pthread_mutex_lock(&m->lock);
	m->fault = fault;
	m->seen = m->failed = 0;
	pthread_mutex_unlock(&m->lock);
}

unsigned long block_memory_failed(struct block *b)
{
	struct memory *m = of(b);
	unsigned long n;

	pthread_mutex_lock(&m->lock);
	n = m->failed;
	pthread_mutex_unlock(&m->lock);
	return n;
}

unsigned long block_memory_calls(struct block *b, enum memory_call call)
{
	struct memory *m = of(b);
	unsigned long n;

	pthread_mutex_lock(&m->lock);
	n = m->calls[call];
	pthread_mutex_unlock(&m->lock);
	return n;
}

void block_memory_watch(struct block *b, block_memory_watch_fn *fn, void *context)
{
	struct memory *m = of(b);

	pthread_mutex_lock(&m->lock);
	m->watch = fn;
	m->watch_context = context;
	pthread_mutex_unlock(&m->lock);
}

void block_memory_peek(struct block *b, void *out, size_t size, uint64_t at)
{
	struct memory *m = of(b);

	pthread_mutex_lock(&m->lock);
	for (size_t done = 0, n; done < size; done += n) {
		size_t in_page = (at + done) % PAGE;
		const struct page *p = find(m, (at + done) / PAGE);

		n = PAGE - in_page < size - done ? PAGE - in_page : size - done;
		if (p == NULL)
			memset((uint8_t *)out + done, 0, n);
		else
			memcpy((uint8_t *)out + done, bytes_of(p) + in_page, n);
	}
	pthread_mutex_unlock(&m->lock);
}

void block_memory_poke(struct block *b, const void *in, size_t size, uint64_t at)
{
	struct memory *m = of(b);

	pthread_mutex_lock(&m->lock);
	for (size_t done = 0, n; done < size; done += n) {
		size_t in_page = (at + done) % PAGE;
		struct page *p = find_or_make(m, (at + done) / PAGE);

		n = PAGE - in_page < size - done ? PAGE - in_page : size - done;
		memcpy(p->durable + in_page, (const uint8_t *)in + done, n);
		if (p->fresh != NULL)
			memcpy(p->fresh + in_page, (const uint8_t *)in + done, n);
	}
	pthread_mutex_unlock(&m->lock);
}

void block_memory_cut(struct block *b, uint64_t seed)
{
	struct memory *m = of(b);

	pthread_mutex_lock(&m->lock);
	settle_pages(m, true, seed);
	pthread_mutex_unlock(&m->lock);
}

size_t block_memory_unflushed(struct block *b)
{
	struct memory *m = of(b);
	size_t n;

	pthread_mutex_lock(&m->lock);
	n = m->unflushed_count;
	pthread_mutex_unlock(&m->lock);
	return n;
}

/* --- looking at all of it ---------------------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
	const struct page *x = *(const struct page *const *)a, *y = *(const struct page *const *)b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static bool blank(const uint8_t *bytes)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, PAGE - 1) == 0;
}

/* With the lock. Freed by the caller. */
static const struct page **sorted(struct memory *m)
{
	const struct page **pages = must(calloc(m->page_count + 1, sizeof *pages));
	size_t count = 0;

	for (size_t i = 0; i < BUCKETS; i++)
		for (const struct page *p = m->buckets[i]; p != NULL; p = p->chain)
			pages[count++] = p;
	qsort(pages, count, sizeof *pages, by_number);
	return pages;
}

void block_memory_digest(struct block *b, uint8_t out[static 32])
{
	struct memory *m = of(b);
	const struct page **pages;
	uint8_t number[8], last[32] = { 0 };

	pthread_mutex_lock(&m->lock);
	pages = sorted(m);
	/* A chain of hashes: the hash interface takes all parts at once. */
	for (size_t i = 0; i < m->page_count; i++) {
		const struct hash_part parts[] = { { last, 32 }, { number, sizeof number }, { bytes_of(pages[i]), PAGE } };

		if (blank(bytes_of(pages[i])))
			continue;
		put_le64(number, pages[i]->number);
		hash_sha256(out, parts, 3);
		memcpy(last, out, sizeof last);
	}
	memcpy(out, last, sizeof last);
	free(pages);
	pthread_mutex_unlock(&m->lock);
}

bool block_memory_contains(struct block *b, const void *needle, size_t size)
{
	struct memory *m = of(b);
	bool found = false;

	pthread_mutex_lock(&m->lock);
	for (size_t i = 0; i < BUCKETS && !found; i++)
		for (const struct page *p = m->buckets[i]; p != NULL && !found; p = p->chain)
			found = memmem(bytes_of(p), PAGE, needle, size) != NULL;
	pthread_mutex_unlock(&m->lock);
	return found;
}
