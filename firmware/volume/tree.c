/* The node cache. What must stay true is in tree.h. Nodes are a page each, taken from the kernel in chunks that a core dump
 * leaves out, and never given back before the end: a lock wipes them all by walking the chunks. */
#include "tree.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "hal/block.h"

enum { CHUNK_NODES = 63 };

struct node_chunk {
	struct node_chunk *next;
	struct node nodes[CHUNK_NODES];
};

/* --- batches ----------------------------------------------------------------------------------------------------------- */

int batch_init(struct batch *b, size_t room)
{
	memset(b, 0, sizeof *b);
	b->room = room;
	b->nodes = calloc(room, sizeof b->nodes[0]);
	b->where = calloc(room, sizeof b->where[0]);
	b->blocks = aligned_alloc(SECTOR_BYTES, (room + 1) * SECTOR_BYTES);
	if (b->nodes == NULL || b->where == NULL || b->blocks == NULL) {
		batch_destroy(b);
		return ERR_NOMEM;
	}
	/* Touched now: a lock must not wait for the kernel to find pages. */
	memset(b->blocks, 0, (room + 1) * SECTOR_BYTES);
	b->root = b->blocks + room * SECTOR_BYTES;
	return 0;
}

void batch_destroy(struct batch *b)
{
	free(b->nodes);
	free(b->where);
	free(b->blocks);
	memset(b, 0, sizeof *b);
}

/* --- lists ------------------------------------------------------------------------------------------------------------- */

static void queue_append(struct node_queue *q, struct node *n)
{
	n->prev = q->tail;
	n->next = NULL;
	if (q->tail != NULL)
		q->tail->next = n;
	else
		q->head = n;
	q->tail = n;
	q->count++;
}

static void queue_remove(struct node_queue *q, struct node *n)
{
	if (n->prev != NULL)
		n->prev->next = n->next;
	else
		q->head = n->next;
	if (n->next != NULL)
		n->next->prev = n->prev;
	else
		q->tail = n->prev;
	q->count--;
}

/* Puts n into the list its state calls for. */
static void settle(struct tree *t, struct node *n)
{
	enum node_list want = LIST_NONE;

	if (n->dirty)
		want = LIST_DIRTY;
	else if (n->pins == 0 && n->children == 0 && !n->dead)
		want = LIST_CLEAN;
	if (n->list == want)
		return;
	if (n->list == LIST_CLEAN)
		queue_remove(&t->clean, n);
	else if (n->list == LIST_DIRTY)
		queue_remove(&t->dirty[n->level], n);
	n->list = (uint8_t)want;
	if (want == LIST_CLEAN)
		queue_append(&t->clean, n);
	else if (want == LIST_DIRTY)
		queue_append(&t->dirty[n->level], n);
}

static void set_dirty(struct tree *t, struct node *n, bool dirty)
{
	if (n->dirty == dirty)
		return;
	n->dirty = dirty;
	if (dirty)
		t->dirty_count++;
	else
		t->dirty_count--;
	settle(t, n);
}

static struct node *_Atomic *bucket(const struct tree *t, unsigned level, uint64_t index)
{
	uint64_t h = (index + ((uint64_t)level << 56)) * UINT64_C(0x9E3779B97F4A7C15);

	return &t->buckets[(h >> 32) & t->bucket_mask];
}

static struct node *find(const struct tree *t, unsigned level, uint64_t index)
{
	struct node *n = *bucket(t, level, index);

	while (n != NULL && (n->index != index || n->level != level))
		n = n->chain;
	return n;
}

/* For tree_peek: from here to change_end what it copies of n is not to be believed. False: n is not in the cache, nobody can. */
static bool change_begin(struct node *n)
{
	unsigned version = atomic_load_explicit(&n->version, memory_order_relaxed);

	if (version % 2 != 0)
		return false;
	atomic_store_explicit(&n->version, version + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	return true;
}

static void change_end(struct node *n)
{
	atomic_store_explicit(&n->version, atomic_load_explicit(&n->version, memory_order_relaxed) + 1, memory_order_release);
}

static void insert(struct tree *t, struct node *n, struct node *parent)
{
	struct node *_Atomic *b = bucket(t, n->level, n->index);

	n->chain = *b;
	change_end(n);
	*b = n;
	n->parent = parent;
	if (parent != NULL) {
		parent->children++;
		settle(t, parent);
	}
	settle(t, n);
}

static void give_back(struct tree *t, struct node *n)
{
	secret_wipe(n->slots, sizeof n->slots);
	n->parent = NULL;
	n->chain = t->free;
	t->free = n;
}

/* Takes n out of the cache; its children are gone already. */
static void drop(struct tree *t, struct node *n)
{
	struct node *_Atomic *link = bucket(t, n->level, n->index);

	(void)change_begin(n);
	while (*link != n)
		link = &(*link)->chain;
	*link = n->chain;
	n->dead = true;
	set_dirty(t, n, false);
	settle(t, n);
	if (n->parent != NULL) {
		n->parent->children--;
		settle(t, n->parent);
	}
	n->parent = NULL;
	if (n->pins == 0)
		give_back(t, n);
}

/* --- memory ------------------------------------------------------------------------------------------------------------ */

static int grow(struct tree *t)
{
	struct node_chunk *chunk = mmap(NULL, sizeof *chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (chunk == MAP_FAILED)
		return ERR_NOMEM;
	(void)madvise(chunk, sizeof *chunk, MADV_DONTDUMP);
	chunk->next = t->chunks;
	t->chunks = chunk;
	for (size_t i = 0; i < CHUNK_NODES; i++) {
		chunk->nodes[i].version = 1;
		chunk->nodes[i].chain = t->free;
		t->free = &chunk->nodes[i];
	}
	t->allocated += CHUNK_NODES;
	return 0;
}

/* The least recently used node that may go: what was peeked at since it was last looked at goes to the end once more. */
static struct node *evictable(struct tree *t)
{
	struct node *n = t->clean.head;

	while (n != NULL && atomic_exchange(&n->peeked, false)) {
		queue_remove(&t->clean, n);
		queue_append(&t->clean, n);
		n = t->clean.head;
	}
	return n;
}

/* A node outside the cache, pinned once. When everything is pinned or dirty the cache grows past its size rather than wait: who
 * would wait may hold the pins that another one waits for. */
static struct node *take(struct tree *t, unsigned level, uint64_t index)
{
	struct node *n = NULL;

	if (t->free == NULL && t->allocated >= t->clean_max + t->dirty_max)
		n = evictable(t);
	if (n != NULL)
		drop(t, n);
	if (t->free == NULL && grow(t) < 0)
		return NULL;
	n = t->free;
	t->free = n->chain;
	n->chain = NULL;
	n->parent = n->prev = n->next = NULL;
	n->index = index;
	n->level = (uint8_t)level;
	n->pins = 1;
	n->children = 0;
	n->list = LIST_NONE;
	n->dirty = n->dead = false;
	n->peeked = false;
	return n;
}

int tree_init(struct tree *t, const struct geometry *g, struct sealer *s, struct block *dev, const struct slot *top)
{
	size_t buckets = 64;

	while (buckets < 2 * (t->clean_max + t->dirty_max))
		buckets *= 2;
	t->buckets = calloc(buckets, sizeof t->buckets[0]);
	if (t->buckets == NULL)
		return ERR_NOMEM;
	t->bucket_mask = buckets - 1;
	t->geometry = g;
	t->sealer = s;
	t->dev = dev;
	t->top = *top;
	pthread_mutex_init(&t->lock, NULL);
	return 0;
}

void tree_destroy(struct tree *t)
{
	if (t->buckets == NULL)
		return;
	while (t->chunks != NULL) {
		struct node_chunk *chunk = t->chunks;

		t->chunks = chunk->next;
		secret_wipe(chunk, sizeof *chunk);
		munmap(chunk, sizeof *chunk);
	}
	free(t->buckets);
	pthread_mutex_destroy(&t->lock);
}

void tree_wipe(struct tree *t)
{
	t->shut = true;
	for (struct node_chunk *chunk = t->chunks; chunk != NULL; chunk = chunk->next)
		for (size_t i = 0; i < CHUNK_NODES; i++) {
			(void)change_begin(&chunk->nodes[i]);
			secret_wipe(chunk->nodes[i].slots, SEALED_BYTES);
		}
	secret_wipe(&t->top, sizeof t->top);
}

/* --- slots ------------------------------------------------------------------------------------------------------------- */

void tree_get(const struct node *n, unsigned i, struct slot *out)
{
	slot_decode(out, n->slots + (size_t)i * SLOT_BYTES);
}

void tree_put(struct node *n, unsigned i, const struct slot *in)
{
	bool cached = change_begin(n);

	slot_encode(n->slots + (size_t)i * SLOT_BYTES, in);
	if (cached)
		change_end(n);
}

/* Slots stand at multiples of 4, not of 8. */
typedef uint64_t __attribute__((aligned(4), may_alias)) slot_word;

/* Slots that may be torn; the version tells. No race detector can know that. */
__attribute__((no_sanitize("thread"), noinline)) static bool copy_slots(const struct node *n, uint64_t index, unsigned first,
									unsigned count, struct slot *out)
{
	const volatile struct node *looked = n;
	const volatile slot_word *from = (const volatile slot_word *)(const void *)(n->slots + (size_t)first * SLOT_BYTES);
	uint64_t words[SLOT_BYTES / sizeof *from];

	if (looked->level != 1 || looked->index != index)
		return false;
	for (unsigned i = 0; i < count; i++) {
		for (size_t k = 0; k < sizeof words / sizeof words[0]; k++)
			words[k] = *from++;
		slot_decode(&out[i], (const uint8_t *)words);
	}
	secret_wipe(words, sizeof words);
	return true;
}

enum { CHAIN_MAX = 64 }; /* a chain that changes under a walk may lead anywhere, but not for ever */

bool tree_peek(const struct tree *t, uint64_t index, unsigned first, unsigned count, struct slot *out)
{
	struct node *n = *bucket(t, 1, index);
	bool good = false;

	for (unsigned steps = 0; n != NULL && steps < CHAIN_MAX; n = n->chain, steps++) {
		unsigned version = atomic_load_explicit(&n->version, memory_order_acquire);

		if (version % 2 != 0 || !copy_slots(n, index, first, count, out))
			continue;
		atomic_thread_fence(memory_order_acquire);
		good = atomic_load_explicit(&n->version, memory_order_relaxed) == version;
		break;
	}
	if (good && !atomic_load_explicit(&n->peeked, memory_order_relaxed))
		atomic_store_explicit(&n->peeked, true, memory_order_relaxed);
	return good;
}

/* What the parent, or the root record, says of (parent's level - 1, index). */
static void slot_of(const struct tree *t, const struct node *parent, uint64_t index, struct slot *out)
{
	if (parent == NULL)
		*out = t->top;
	else
		tree_get(parent, (unsigned)(index % t->geometry->fanout), out);
}

static void fill_zero(struct node *n, uint64_t ctr)
{
	const struct slot zero = { .state = SLOT_ZERO, .ctr = ctr };

	for (unsigned i = 0; i < FANOUT; i++)
		tree_put(n, i, &zero);
}

/* --- loading ----------------------------------------------------------------------------------------------------------- */

static int read_copy(struct tree *t, struct node *n, const struct slot *slot, unsigned copy)
{
	_Alignas(SECTOR_BYTES) uint8_t block[SECTOR_BYTES];
	int r = t->dev->ops->read(t->dev, block, sizeof block, geometry_offset(t->geometry, n->level, n->index, copy));

	if (r < 0)
		return ERR_IO;
	return node_open(t->sealer, n->slots, block, n->level, n->index, slot);
}

/* Without the lock. The second attempt is the second copy, or the same place again where there is only one. */
static int fetch(struct tree *t, struct node *n, const struct slot *slot, bool *second)
{
	int first = read_copy(t, n, slot, 0);
	int r;

	*second = false;
	if (first == 0 || first == ERR_REVOKED)
		return first;
	*second = true;
	r = read_copy(t, n, slot, n->level >= 2 ? 1 : 0);
	return r == ERR_IO ? first : r;
}

static void discard_loaded(struct tree *t, struct node *n)
{
	n->pins = 0;
	give_back(t, n);
}

/* A node whose first copy was bad is written again, both copies, by the next checkpoint. */
static void heal(struct tree *t, struct node *n)
{
	atomic_fetch_add(&t->bad_tags, 1);
	if (!t->read_only && t->dirty_count + tree_dirty_need(n) <= t->dirty_max)
		tree_mark_dirty(t, n);
}

/* Loads one node below a cached parent. 0: look again (it is there now, or something changed meanwhile). */
static int load(struct tree *t, struct node *parent, unsigned level, uint64_t index, const struct slot *slot)
{
	struct node *n;
	struct slot now;
	bool second, stale;
	int r;

	if (parent != NULL)
		parent->pins++;
	n = take(t, level, index);
	if (n == NULL) {
		if (parent != NULL)
			tree_unpin(t, parent);
		return ERR_NOMEM;
	}
	pthread_mutex_unlock(&t->lock);
	r = fetch(t, n, slot, &second);
	pthread_mutex_lock(&t->lock);

	if (t->shut) {
		if (parent != NULL)
			tree_unpin(t, parent);
		discard_loaded(t, n);
		return ERR_REVOKED;
	}
	stale = (parent != NULL && parent->dead) || find(t, level, index) != NULL;
	if (!stale) {
		slot_of(t, parent, index, &now);
		stale = !slot_same(&now, slot);
	}
	if (r < 0 || stale) {
		discard_loaded(t, n);
		if (!stale && r == ERR_CORRUPT)
			atomic_fetch_add(&t->bad_tags, 1);
	} else {
		n->pins = 0;
		insert(t, n, parent);
		if (second)
			heal(t, n);
	}
	if (parent != NULL)
		tree_unpin(t, parent);
	return stale ? 0 : r;
}

static int create_zero(struct tree *t, struct node *parent, unsigned level, uint64_t index, uint64_t ctr)
{
	struct node *n;

	if (parent != NULL)
		parent->pins++;
	n = take(t, level, index);
	if (n != NULL) {
		fill_zero(n, ctr);
		n->pins = 0;
		insert(t, n, parent);
	}
	if (parent != NULL)
		tree_unpin(t, parent);
	return n == NULL ? ERR_NOMEM : 0;
}

/* One step of the descent: makes the node (level, index) cached, or says that it is ZERO. */
static int step(struct tree *t, struct node *parent, unsigned level, uint64_t index, bool create, bool *zero)
{
	struct slot slot;

	slot_of(t, parent, index, &slot);
	if (slot.state == SLOT_SEALED)
		return load(t, parent, level, index, &slot);
	if (slot.state != SLOT_ZERO)
		return ERR_CORRUPT;
	if (create)
		return create_zero(t, parent, level, index, slot.ctr);
	*zero = true;
	return 0;
}

/* From the top down to (level, index): what is not cached is loaded, with the lock away meanwhile. */
static int descend(struct tree *t, unsigned level, uint64_t index, bool create, struct node **out, unsigned *zero_level)
{
	const struct geometry *g = t->geometry;
	struct node *n = NULL;
	bool zero = false;

	for (unsigned l = g->levels; l >= level;) {
		uint64_t i = index / g->span[l - level];
		struct node *child;

		if (t->shut)
			return ERR_REVOKED;
		child = find(t, l, i);
		if (child == NULL) {
			int r = step(t, n, l, i, create, &zero);

			if (r < 0)
				return r;
			if (zero) {
				*zero_level = l;
				return 0;
			}
			/* The lock was away: start over, everything above is cached or will be loaded again. */
			l = g->levels;
			n = NULL;
			continue;
		}
		n = child;
		l--;
	}
	*out = n;
	return 0;
}

int tree_pin(struct tree *t, unsigned level, uint64_t index, bool create, struct node **out, unsigned *zero_level)
{
	struct node *n;

	*out = NULL;
	if (t->shut)
		return ERR_REVOKED;
	n = find(t, level, index);
	if (n == NULL) {
		int r = descend(t, level, index, create, &n, zero_level);

		if (r < 0 || n == NULL)
			return r;
	}
	n->pins++;
	settle(t, n);
	*out = n;
	return 0;
}

void tree_unpin(struct tree *t, struct node *n)
{
	n->pins--;
	if (n->pins == 0 && n->dead)
		give_back(t, n);
	else
		settle(t, n);
}

size_t tree_dirty_need(const struct node *n)
{
	size_t need = 0;

	while (n != NULL && !n->dirty) {
		need++;
		n = n->parent;
	}
	return need;
}

void tree_mark_dirty(struct tree *t, struct node *n)
{
	for (; n != NULL && !n->dirty; n = n->parent)
		set_dirty(t, n, true);
}

/* --- zeroing ----------------------------------------------------------------------------------------------------------- */

/* Drops every cached node that lies under objects first .. last of `level`, children before parents. */
static void drop_below(struct tree *t, unsigned level, uint64_t first, uint64_t last)
{
	for (unsigned l = 1; l <= level; l++) {
		uint64_t span = t->geometry->span[level - l];

		for (struct node_chunk *chunk = t->chunks; chunk != NULL; chunk = chunk->next)
			for (size_t i = 0; i < CHUNK_NODES; i++) {
				struct node *n = &chunk->nodes[i];

				if (n->level == l && n->index / span >= first && n->index / span <= last &&
				    find(t, l, n->index) == n)
					drop(t, n);
			}
	}
}

/* A slot is out of date while the node below it is dirty: only a slot without a cached node speaks for itself. */
bool tree_is_zero(const struct tree *t, const struct node *n, unsigned first, unsigned count)
{
	struct slot s;

	if (n == NULL)
		return t->top.state == SLOT_ZERO && find(t, t->geometry->levels, 0) == NULL;
	for (unsigned i = first; i < first + count; i++) {
		tree_get(n, i, &s);
		if (s.state != SLOT_ZERO || (n->level > 1 && find(t, n->level - 1u, n->index * t->geometry->fanout + i) != NULL))
			return false;
	}
	return true;
}

void tree_zero(struct tree *t, struct node *n, unsigned first, unsigned count, uint64_t ctr)
{
	const struct slot zero = { .state = SLOT_ZERO, .ctr = ctr };

	if (n == NULL) {
		drop_below(t, t->geometry->levels, 0, 0);
		t->top = zero;
		return;
	}
	if (n->level > 1 && n->children > 0) {
		uint64_t base = n->index * t->geometry->fanout;

		drop_below(t, n->level - 1u, base + first, base + first + count - 1);
	}
	for (unsigned i = 0; i < count; i++)
		tree_put(n, first + i, &zero);
}

/* --- sealing ----------------------------------------------------------------------------------------------------------- */

/* Seals up to a run of level l's dirty nodes. Their parents' slots are set: the parents are dirty and come later. */
static int seal_some(struct tree *t, struct batch *b, unsigned l)
{
	size_t count = t->dirty[l].count < AEAD_RUN_MAX ? t->dirty[l].count : AEAD_RUN_MAX;
	uint8_t salt[AEAD_SALT_BYTES];
	struct node *n = t->dirty[l].head;
	uint64_t ctr;
	int r;

	sealer_take_reserved(t->sealer, count, salt, &ctr);
	b->run.count = 0;
	for (size_t i = 0; i < count; i++, n = n->next) {
		struct slot *s = &b->slots[i];

		memcpy(s->salt, salt, sizeof salt);
		s->gen_ix = t->sealer->active;
		s->state = SLOT_SEALED;
		s->ctr = ctr + i;
		node_add(t->sealer, &b->run, b->blocks + (b->count + i) * SECTOR_BYTES, n->slots, l, n->index, s);
	}
	r = nodes_seal(t->sealer, &b->run, salt);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		n = t->dirty[l].head;
		b->nodes[b->count] = n;
		b->where[b->count].level = l;
		b->where[b->count].index = n->index;
		b->count++;
		n->pins++;
		set_dirty(t, n, false);
		if (n->parent == NULL)
			t->top = b->slots[i];
		else
			tree_put(n->parent, (unsigned)(n->index % t->geometry->fanout), &b->slots[i]);
	}
	return 0;
}

int tree_seal(struct tree *t, struct batch *b)
{
	b->count = 0;
	if (t->dirty_count > b->room)
		return ERR_STATE;
	for (unsigned l = 1; l <= t->geometry->levels; l++)
		while (t->dirty[l].head != NULL) {
			int r = seal_some(t, b, l);

			if (r < 0) {
				tree_unseal(t, b);
				return r;
			}
		}
	return 0;
}

void tree_unseal(struct tree *t, struct batch *b)
{
	for (size_t i = 0; i < b->count; i++) {
		b->nodes[i]->pins--;
		set_dirty(t, b->nodes[i], true);
	}
	b->count = 0;
}

void tree_release(struct tree *t, struct batch *b)
{
	for (size_t i = 0; i < b->count; i++)
		tree_unpin(t, b->nodes[i]);
	b->count = 0;
}
