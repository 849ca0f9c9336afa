/* The verbs: reading, writing, zeroing, extents, opening and closing. A write's order is fixed: take places in the open group,
 * seal into private memory, and in one instant put entries into the group, slots into the tree and ciphertext into the held set;
 * the device comes later (commit.c). A read copies slots and held ciphertext first and verifies after; nothing unverified leaves
 * this file. */
#include "volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "engine.h"
#include "format.h"
#include "hal/block.h"
#include "hal/entropy.h"

enum {
	CACHE_LEAST = 64,
	DIRTY_LEAST = 64, /* more than LEAVES_PER_IO paths to the top */
	BAD_TAGS_DEFAULT = 1 << 20,
};

/* Nodes, nodes, sectors, log entries: 4 KiB, 8 KiB (with its place in the batch), 4 KiB, and in a recovery 80 bytes each. */
static const struct {
	size_t cache, dirty, held, pending;
} presets[] = {
	[VOLUME_BOARD] = { 2048, 1024, 2048, 131072 },
	[VOLUME_SERVER] = { 32768, 8192, 16384, 1048576 },
};

_Static_assert(DIRTY_LEAST >= LEAVES_PER_IO * LEVELS_MAX, "one piece of a write must fit between two checkpoints");

/* One piece of a request: at most IO_SECTORS sectors, of which the first and the last may be touched in part. */
struct piece {
	uint64_t lba;
	size_t count;
	size_t head; /* bytes of the first sector before the request */
	size_t size; /* bytes of the request in this piece */
};

static struct piece piece_at(const struct volume *v, uint64_t at, size_t left)
{
	struct piece p = { .lba = at / SECTOR_BYTES, .head = at % SECTOR_BYTES };
	size_t room = v->piece_max * SECTOR_BYTES - p.head;

	p.size = left < room ? left : room;
	p.count = (p.head + p.size + SECTOR_BYTES - 1) / SECTOR_BYTES;
	return p;
}

/* Which edge buffer stands in for sector i; -1: the sector is covered whole. */
static int edge_of(const struct piece *p, size_t i)
{
	if (i == 0 && (p->head != 0 || p->size < SECTOR_BYTES))
		return 0;
	if (i == p->count - 1 && (p->head + p->size) % SECTOR_BYTES != 0)
		return 1;
	return -1;
}

/* Where the request's bytes of sector i lie: in the sector, and in the request's piece. */
struct overlap {
	size_t in_sector, in_piece, size;
};

static struct overlap overlap_of(const struct piece *p, size_t i)
{
	struct overlap o = { .in_sector = i == 0 ? p->head : 0 };
	size_t end = p->head + p->size - i * SECTOR_BYTES;

	o.in_piece = i == 0 ? 0 : i * SECTOR_BYTES - p->head;
	o.size = (end < SECTOR_BYTES ? end : SECTOR_BYTES) - o.in_sector;
	return o;
}

static bool in_volume(const struct volume *v, uint64_t size, uint64_t at)
{
	uint64_t end;

	return add_u64(&end, at, size) && end <= volume_size(v);
}

/* Who may try often enough forges a tag one day: after 2^20 failures (SPEC.md, "Bounds") there is no next try. What was accepted
 * before is still flushed, locked and closed: it is ours. */
static int check_tags(struct volume *v)
{
	if (atomic_load(&v->tree.bad_tags) < v->bad_tags_max)
		return 0;
	if (!atomic_exchange(&v->alarm, true))
		log_error("volume: %llu tags have failed since it was opened: damage all over, or somebody is guessing; nothing "
			  "more is read or accepted until it is opened again",
			  (unsigned long long)v->bad_tags_max);
	return ERR_FAILSTOP;
}

static uint64_t sectors_touched(uint64_t size, uint64_t at)
{
	return (at % SECTOR_BYTES + size + SECTOR_BYTES - 1) / SECTOR_BYTES;
}

/* --- reading ----------------------------------------------------------------------------------------------------------- */

static void use_slots(struct request *q, size_t count)
{
	if (q->slots_used < count)
		q->slots_used = count;
}

/* With tree.lock: what is held of a sealed sector is the ciphertext to open, for the device may not have it yet (R13). */
static void copy_held(struct volume *v, struct request *q, uint64_t lba, size_t i)
{
	const uint8_t *bytes = NULL;

	if (q->slots[i].state == SLOT_SEALED && v->held.buckets != NULL && !MUTANT(v, MUTANT_R13_READ_PAST_HELD))
		bytes = held_find(&v->held, lba, q->slots[i].ctr);
	q->held[i] = bytes != NULL;
	if (bytes != NULL)
		memcpy(q->out[i], bytes, SECTOR_BYTES);
}

/* The same without a lock, as most reads find it: the leaves cached, nothing of the range held. The range entry keeps both so. */
static bool peek_slots(struct volume *v, struct request *q, uint64_t lba, size_t count)
{
	const unsigned fanout = v->header.geometry.fanout;

	for (size_t done = 0, n; done < count; done += n) {
		unsigned first = (unsigned)((lba + done) % fanout);

		n = fanout - first < count - done ? fanout - first : count - done;
		if (!tree_peek(&v->tree, (lba + done) / fanout, first, (unsigned)n, q->slots + done))
			return false;
	}
	for (size_t i = 0; i < count; i++)
		if (!held_nothing(&v->held, lba + i))
			return false;
	memset(q->held, 0, count * sizeof q->held[0]);
	return true;
}

/* Slots of [lba, lba+count) as they are now, and in q->out what is held of them; the range entry keeps them so. */
static int copy_slots(struct volume *v, struct request *q, uint64_t lba, size_t count)
{
	const struct slot zero = { .state = SLOT_ZERO };
	const unsigned fanout = v->header.geometry.fanout;
	int r = 0;

	use_slots(q, count);
	if (peek_slots(v, q, lba, count))
		return 0;
	pthread_mutex_lock(&v->tree.lock);
	for (size_t done = 0; done < count && r == 0;) {
		unsigned first = (unsigned)((lba + done) % fanout), zero_level;
		size_t n = fanout - first < count - done ? fanout - first : count - done;
		struct node *leaf;

		r = tree_pin(&v->tree, 1, (lba + done) / fanout, false, &leaf, &zero_level);
		for (size_t i = done; i < done + n && r == 0; i++) {
			if (leaf == NULL)
				q->slots[i] = zero;
			else
				tree_get(leaf, first + (unsigned)(i - done), &q->slots[i]);
			copy_held(v, q, lba + i, i);
		}
		if (leaf != NULL)
			tree_unpin(&v->tree, leaf);
		done += n;
	}
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}

/* Counted each time, said each time the count doubles: a damaged region must not fill the log. */
static void report_bad(struct volume *v, uint64_t lba)
{
	uint64_t count = atomic_fetch_add(&v->tree.bad_tags, 1) + 1;

	if ((count & (count - 1)) == 0)
		log_error("volume: sector %llu failed its tag twice; failed tags since open: %llu", (unsigned long long)lba,
			  (unsigned long long)count);
}

static int read_device(struct volume *v, uint8_t *to, uint64_t lba, size_t count)
{
	return v->dev->ops->read(v->dev, to, count * SECTOR_BYTES, geometry_offset(&v->header.geometry, 0, lba, 0));
}

/* A sector that failed is read once more: a transfer may have gone wrong on its way. */
static int open_again(struct volume *v, struct request *q, uint64_t lba, size_t i)
{
	const uint8_t *again = q->spare;
	int r = read_device(v, q->spare, lba, 1);

	if (r == 0)
		r = sectors_open(&v->sealer, &q->run, lba, 1, &again, &q->out[i], &q->slots[i], &q->good[i]);
	if (r < 0)
		return r;
	if (q->good[i])
		return 0;
	report_bad(v, lba);
	return ERR_CORRUPT;
}

/* How many of the n sectors from i on one device read fills: neighbours in memory too, and none of them held. */
static size_t one_read(const struct request *q, size_t i, size_t n)
{
	size_t m = 1;

	while (m < n && !q->held[i + m] && q->out[i + m] == q->out[i] + m * SECTOR_BYTES)
		m++;
	return m;
}

/* Sectors i .. i+n-1 of the piece from lba on are SEALED: their ciphertext goes where the plaintext is wanted, and is opened in
 * place, in runs of leases. */
static int read_sealed(struct volume *v, struct request *q, uint64_t lba, size_t i, size_t n)
{
	int r = 0;

	for (size_t k = i, m; k < i + n && r == 0; k += m) {
		m = 1;
		if (q->held[k])
			continue;
		m = one_read(q, k, i + n - k);
		r = read_device(v, q->out[k], lba + k, m);
	}
	if (r == 0)
		r = sectors_open(&v->sealer, &q->run, lba + i, n, (const uint8_t *const *)q->out + i, q->out + i, q->slots + i,
				 q->good + i);
	for (size_t k = i; k < i + n && r == 0; k++)
		if (!q->good[k])
			r = open_again(v, q, lba + k, k);
	return r;
}

/* Fills q->out[0 .. count-1] with the plaintext of sectors from lba on; q->slots is used. */
static int read_sectors(struct volume *v, struct request *q, uint64_t lba, size_t count)
{
	int r = copy_slots(v, q, lba, count);

	for (size_t i = 0, n; i < count && r == 0; i += n) {
		enum slot_state state = (enum slot_state)q->slots[i].state;

		for (n = 1; i + n < count && q->slots[i + n].state == state;)
			n++;
		if (state == SLOT_SEALED) {
			r = read_sealed(v, q, lba, i, n);
		} else if (state == SLOT_ZERO) {
			for (size_t k = i; k < i + n; k++)
				memset(q->out[k], 0, SECTOR_BYTES);
		} else {
			r = ERR_CORRUPT;
		}
	}
	return r;
}

static int read_piece(struct volume *v, struct request *q, const struct piece *p, uint8_t *to)
{
	int r;

	for (size_t i = 0; i < p->count; i++) {
		int e = edge_of(p, i);

		q->edges_used |= e >= 0;
		q->out[i] = e >= 0 ? q->edge[e] : to + overlap_of(p, i).in_piece;
	}
	r = read_sectors(v, q, p->lba, p->count);
	for (size_t i = 0; i < p->count && r == 0; i++) {
		struct overlap o = overlap_of(p, i);

		if (edge_of(p, i) >= 0)
			memcpy(to + o.in_piece, q->out[i] + o.in_sector, o.size);
	}
	return r;
}

static int read_range(struct volume *v, uint8_t *to, size_t size, uint64_t at)
{
	struct request *q = pool_take(&v->pool);
	int r = q == NULL ? ERR_NOMEM : 0;

	for (size_t done = 0; done < size && r == 0;) {
		struct piece p = piece_at(v, at + done, size - done);

		r = read_piece(v, q, &p, to + done);
		done += p.size;
	}
	if (q != NULL)
		pool_return(&v->pool, q);
	return r;
}

int volume_read(struct volume *v, void *buf, size_t size, uint64_t at)
{
	struct range range;
	int r;

	if (!in_volume(v, size, at))
		return ERR_RANGE;
	if (size == 0)
		return atomic_load(&v->locked) ? ERR_REVOKED : 0;
	r = check_tags(v);
	if (r == 0)
		r = range_enter(&v->ranges, &range, at / SECTOR_BYTES, sectors_touched(size, at), false);
	if (r == 0) {
		r = read_range(v, buf, size, at);
		range_leave(&v->ranges, &range);
	}
	if (r == 0 && atomic_load(&v->locked))
		r = ERR_REVOKED;
	if (r < 0) {
		secret_wipe(buf, size);
		return r;
	}
	atomic_fetch_add(&v->read_ops, 1);
	atomic_fetch_add(&v->read_bytes, size);
	return 0;
}

/* --- writing ----------------------------------------------------------------------------------------------------------- */

/* What the rest of a partly written sector holds. *blank: the sector is ZERO. */
static int fill_edge(struct volume *v, struct request *q, uint64_t lba, uint8_t *edge, bool *blank)
{
	int r;

	q->edges_used = true;
	q->out[0] = edge;
	r = read_sectors(v, q, lba, 1);
	*blank = r == 0 && q->slots[0].state == SLOT_ZERO;
	return r;
}

/* Fills the edges and points q->in at each sector's plaintext. from == NULL: zeroes. */
static int gather(struct volume *v, struct request *q, const struct piece *p, const uint8_t *from)
{
	for (size_t i = 0; i < p->count; i++) {
		struct overlap o = overlap_of(p, i);
		int e = edge_of(p, i);
		bool blank;
		int r;

		if (e < 0) {
			q->in[i] = from + o.in_piece;
			continue;
		}
		r = fill_edge(v, q, p->lba + i, q->edge[e], &blank);
		if (r < 0)
			return r;
		if (from == NULL)
			memset(q->edge[e] + o.in_sector, 0, o.size);
		else
			memcpy(q->edge[e] + o.in_sector, from + o.in_piece, o.size);
		q->in[i] = q->edge[e];
	}
	return 0;
}

static void unpin_leaves(struct volume *v, struct request *q)
{
	for (unsigned i = 0; i < q->leaf_count; i++)
		tree_unpin(&v->tree, q->leaves[i]);
	q->leaf_count = 0;
}

/* With tree.lock. */
static int pin_leaves(struct volume *v, struct request *q, uint64_t lba, size_t count)
{
	const unsigned fanout = v->header.geometry.fanout;
	uint64_t first = lba / fanout, last = (lba + count - 1) / fanout;
	unsigned unused;
	int r = 0;

	q->leaf_count = 0;
	for (uint64_t i = first; i <= last && r == 0; i++) {
		r = tree_pin(&v->tree, 1, i, true, &q->leaves[q->leaf_count], &unused);
		if (r == 0)
			q->leaf_count++;
	}
	return r;
}

static size_t need_of_leaves(const void *request)
{
	const struct request *q = request;
	size_t need = 0;

	for (unsigned i = 0; i < q->leaf_count; i++)
		need += tree_dirty_need(q->leaves[i]);
	return need;
}

static struct node *leaf_of(const struct volume *v, const struct request *q, const struct piece *p, size_t i)
{
	const unsigned fanout = v->header.geometry.fanout;

	return q->leaves[(p->lba + i) / fanout - p->lba / fanout];
}

/* What the sectors of a piece will be: where in the group, and which version. */
struct places {
	size_t first;
	uint64_t ctr;
	uint8_t salt[AEAD_SALT_BYTES];
};

/* Leaves, counters, places in the group, room in the held set and among the dirty nodes: from here on the group waits for this
 * piece. */
static int register_piece(struct volume *v, struct request *q, const struct piece *p, struct places *to)
{
	int r;

	pthread_mutex_lock(&v->tree.lock);
	r = pin_leaves(v, q, p->lba, p->count);
	if (r == 0)
		r = engine_room(v, need_of_leaves, q, p->count);
	if (r == 0)
		r = engine_places(v, p->count, &to->first);
	if (r < 0) {
		unpin_leaves(v, q);
		pthread_mutex_unlock(&v->tree.lock);
		return r;
	}
	to->ctr = v->log.ctr_base + to->first;
	memcpy(to->salt, v->log.salt, sizeof to->salt);
	for (unsigned i = 0; i < q->leaf_count; i++)
		tree_mark_dirty(&v->tree, q->leaves[i]);
	held_reserve(&v->held, p->count, q->cells);
	v->sealing++;
	pthread_mutex_unlock(&v->tree.lock);
	return 0;
}

/* From the request's buffer into the reserved cells, in leases of at most 64. */
static int seal_piece(struct volume *v, struct request *q, const struct piece *p, const struct places *to)
{
	int r = 0;

	use_slots(q, p->count);
	for (size_t i = 0; i < p->count; i++) {
		struct slot *s = &q->slots[i];

		memcpy(s->salt, to->salt, sizeof s->salt);
		s->gen_ix = v->sealer.active;
		s->state = SLOT_SEALED;
		s->ctr = to->ctr + i;
		q->out[i] = q->cells[i]->bytes;
	}
	for (size_t i = 0; i < p->count && r == 0; i += AEAD_RUN_MAX) {
		size_t n = p->count - i < AEAD_RUN_MAX ? p->count - i : AEAD_RUN_MAX;

		r = sectors_seal(&v->sealer, &q->run, p->lba + i, n, q->in + i, q->out + i, q->slots + i);
	}
	return r;
}

/* With tree.lock: group, tree and held set name the new versions. */
static void take_in(struct volume *v, struct request *q, const struct piece *p, const struct places *to)
{
	for (size_t i = 0; i < p->count; i++) {
		struct log_entry *e = &v->log.group[to->first + i];

		e->kind = LOG_SEAL;
		e->index = p->lba + i;
		memcpy(e->tag, q->slots[i].tag, sizeof e->tag);
		tree_put(leaf_of(v, q, p, i), (unsigned)((p->lba + i) % v->header.geometry.fanout), &q->slots[i]);
		held_add(&v->held, q->cells[i], p->lba + i, to->ctr + i);
	}
	if (v->held.sectors > v->held.max / 4)
		pthread_cond_signal(&v->kick);
}

/* The moment of acceptance. A lock that came first has closed the group: then nothing has happened, and the places are void. */
static int accept_piece(struct volume *v, struct request *q, const struct piece *p, const struct places *to, int sealed)
{
	int r = sealed;

	pthread_mutex_lock(&v->tree.lock);
	if (r == 0)
		r = engine_admits(v);
	if (r == 0)
		take_in(v, q, p, to);
	else
		held_give_back(&v->held, p->count, q->cells);
	unpin_leaves(v, q);
	v->sealing--;
	if (v->sealing == 0)
		pthread_cond_broadcast(&v->changed);
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}

static int write_piece(struct volume *v, struct request *q, const struct piece *p, const uint8_t *from)
{
	struct places to;
	int r = gather(v, q, p, from);

	if (r == 0)
		r = register_piece(v, q, p, &to);
	if (r < 0)
		return r;
	return accept_piece(v, q, p, &to, seal_piece(v, q, p, &to));
}

static int write_range(struct volume *v, const uint8_t *from, size_t size, uint64_t at)
{
	struct request *q = pool_take(&v->pool);
	int r = q == NULL ? ERR_NOMEM : 0;

	for (size_t done = 0; done < size && r == 0;) {
		struct piece p = piece_at(v, at + done, size - done);

		r = write_piece(v, q, &p, from + done);
		done += p.size;
	}
	if (q != NULL)
		pool_return(&v->pool, q);
	return r;
}

/* Common to what changes the volume. */
static int check_change(struct volume *v, uint64_t size, uint64_t at)
{
	int r = check_tags(v);

	if (!in_volume(v, size, at))
		return ERR_RANGE;
	if (v->read_only)
		return ERR_DENIED;
	return r < 0 ? r : engine_admits(v);
}

int volume_write(struct volume *v, const void *buf, size_t size, uint64_t at, bool fua)
{
	struct range range;
	int r = check_change(v, size, at);

	if (r < 0 || size == 0)
		return r;
	r = range_enter(&v->ranges, &range, at / SECTOR_BYTES, sectors_touched(size, at), true);
	if (r < 0)
		return r;
	r = write_range(v, buf, size, at);
	range_leave(&v->ranges, &range);
	if (r == 0 && fua)
		r = engine_flush(v);
	if (r < 0)
		return r;
	atomic_fetch_add(&v->write_ops, 1);
	atomic_fetch_add(&v->written_bytes, size);
	return 0;
}

int volume_flush(struct volume *v)
{
	int r = engine_admits(v);

	/* Past a deadline the lock is near: whether it is in time for what is not sealed yet is not for this call to promise. */
	if (r == 0 && keyring_expired(v->keys))
		r = ERR_REVOKED;
	if (r == 0 && !v->read_only)
		r = engine_flush(v);
	if (r == 0)
		atomic_fetch_add(&v->flush_ops, 1);
	return r;
}

/* --- zeroing ----------------------------------------------------------------------------------------------------------- */

/* The largest stretch from lba on that is one run of whole objects of one level under one parent. */
struct cut {
	unsigned level; /* of the objects; their slots are in a node of level + 1, or in the root */
	uint64_t index; /* of the first object */
	unsigned count;
	uint64_t sectors; /* how far it reaches, not past the volume's end */
};

static struct cut cut_at(const struct geometry *g, uint64_t lba, uint64_t end)
{
	struct cut c = { .level = 0 };
	uint64_t last;

	while (c.level < g->levels) {
		uint64_t span = g->span[c.level + 1];

		if (lba % span != 0 || (end - lba < span && end != g->n_sectors))
			break;
		c.level++;
	}
	c.index = lba / g->span[c.level];
	/* An object that the volume's end cuts short is whole when the range reaches that end. */
	last = end == g->n_sectors ? g->count[c.level] : end / g->span[c.level];
	if (last > c.index - c.index % g->fanout + g->fanout)
		last = c.index - c.index % g->fanout + g->fanout;
	c.count = (unsigned)(last - c.index);
	c.sectors = c.count * g->span[c.level];
	if (c.sectors > end - lba)
		c.sectors = end - lba;
	return c;
}

static size_t need_of_node(const void *node)
{
	return node == NULL ? 0 : tree_dirty_need(node);
}

/* With tree.lock. n: the node that holds the slots; NULL: the root record does. */
static int zero_slots(struct volume *v, struct node *n, const struct cut *c)
{
	unsigned first = (unsigned)(c->index % v->header.geometry.fanout);
	size_t place;
	int r = engine_room(v, need_of_node, n, 1);

	if (r < 0)
		return r;
	if (tree_is_zero(&v->tree, n, first, c->count))
		return 0;
	r = engine_places(v, 1, &place);
	if (r < 0)
		return r;
	v->log.group[place] = (struct log_entry){ LOG_ZERO, (uint8_t)c->level, c->index, c->count, { 0 } };
	if (!MUTANT(v, MUTANT_R14_ZERO_NOT_IN_NODE))
		tree_zero(&v->tree, n, first, c->count, v->log.ctr_base + place);
	if (n == NULL)
		v->root_dirty = true;
	else
		tree_mark_dirty(&v->tree, n);
	return 0;
}

/* Zeroes the first cut of [*lba, end) and moves *lba past it, or past the ZERO object that covers it. */
static int zero_cut(struct volume *v, uint64_t *lba, uint64_t end)
{
	const struct geometry *g = &v->header.geometry;
	struct cut c = cut_at(g, *lba, end);
	struct node *n = NULL;
	unsigned zero_level = 0;
	int r = 0;

	pthread_mutex_lock(&v->tree.lock);
	if (c.level < g->levels)
		r = tree_pin(&v->tree, c.level + 1, c.index / g->fanout, false, &n, &zero_level);
	if (r == 0 && (n != NULL || c.level == g->levels)) {
		r = zero_slots(v, n, &c);
		*lba += c.sectors;
	} else if (r == 0) {
		uint64_t past = (*lba / g->span[zero_level] + 1) * g->span[zero_level];

		*lba = past < end ? past : end;
	}
	if (n != NULL)
		tree_unpin(&v->tree, n);
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}

static int zero_part(struct volume *v, uint64_t lba, size_t head, size_t size)
{
	struct piece p = { .lba = lba, .count = 1, .head = head, .size = size };
	struct request *q = pool_take(&v->pool);
	int r;

	if (q == NULL)
		return ERR_NOMEM;
	q->out[0] = q->spare;
	r = copy_slots(v, q, lba, 1);
	if (r == 0 && q->slots[0].state != SLOT_ZERO)
		r = write_piece(v, q, &p, NULL);
	pool_return(&v->pool, q);
	return r;
}

static int zero_range(struct volume *v, uint64_t size, uint64_t at)
{
	uint64_t end = at + size;
	uint64_t lba = at / SECTOR_BYTES, last = end / SECTOR_BYTES;
	size_t head = at % SECTOR_BYTES, tail = end % SECTOR_BYTES;
	int r = 0;

	if (lba == last)
		return zero_part(v, lba, head, (size_t)size);
	if (head != 0)
		r = zero_part(v, lba++, head, SECTOR_BYTES - head);
	while (r == 0 && lba < last)
		r = zero_cut(v, &lba, last);
	if (r == 0 && tail != 0)
		r = zero_part(v, last, 0, tail);
	return r;
}

int volume_zero(struct volume *v, uint64_t size, uint64_t at, bool punch, bool fua)
{
	struct range range;
	int r = check_change(v, size, at);

	(void)punch; /* DESIGN.md, "Discards": nothing is passed to the backing store yet */
	if (r < 0 || size == 0)
		return r;
	r = range_enter(&v->ranges, &range, at / SECTOR_BYTES, sectors_touched(size, at), true);
	if (r < 0)
		return r;
	r = zero_range(v, size, at);
	range_leave(&v->ranges, &range);
	if (r == 0 && fua)
		r = engine_flush(v);
	if (r == 0)
		atomic_fetch_add(&v->zero_ops, 1);
	return r;
}

/* --- extents ----------------------------------------------------------------------------------------------------------- */

/* One run of equal state from lba on, as long as one look at the tree shows, at most to end. */
static int next_extent(struct volume *v, uint64_t lba, uint64_t end, uint64_t *past, bool *zero)
{
	const struct geometry *g = &v->header.geometry;
	unsigned zero_level = 0, i = (unsigned)(lba % g->fanout);
	struct node *leaf;
	struct slot s;
	int r;

	pthread_mutex_lock(&v->tree.lock);
	r = tree_pin(&v->tree, 1, lba / g->fanout, false, &leaf, &zero_level);
	if (r == 0 && leaf == NULL) {
		*zero = true;
		*past = (lba / g->span[zero_level] + 1) * g->span[zero_level];
	} else if (r == 0) {
		tree_get(leaf, i, &s);
		*zero = s.state == SLOT_ZERO;
		for (*past = lba + 1, i++; i < g->fanout; i++, (*past)++) {
			tree_get(leaf, i, &s);
			if ((s.state == SLOT_ZERO) != *zero)
				break;
		}
		tree_unpin(&v->tree, leaf);
	}
	pthread_mutex_unlock(&v->tree.lock);
	if (*past > end)
		*past = end;
	return r;
}

int volume_extents(struct volume *v, uint64_t size, uint64_t at, volume_extent_fn *fn, void *context)
{
	uint64_t end = at + size, from = at;
	bool state = false;
	int r;

	if (!in_volume(v, size, at))
		return ERR_RANGE;
	r = check_tags(v);
	if (r < 0)
		return r;
	for (uint64_t here = at; here < end;) {
		uint64_t past = 0;
		bool zero = false;

		r = next_extent(v, here / SECTOR_BYTES, v->header.geometry.n_sectors, &past, &zero);

		if (r < 0)
			return r;
		if (here > at && zero != state) {
			r = fn(context, from, here - from, state);
			if (r != 0)
				return r;
			from = here;
		}
		state = zero;
		here = past > end / SECTOR_BYTES ? end : past * SECTOR_BYTES;
	}
	return from < end ? fn(context, from, end - from, state) : 0;
}

/* --- opening and closing ----------------------------------------------------------------------------------------------- */

/* Is this copy of the header made with the keys in the ring, and the one the appliance pinned? */
static int authenticate(struct keyring *k, const struct header *h, const uint8_t *bytes, const struct volume_options *o,
			char *why, size_t why_size)
{
	const struct generation *g = &h->generations[h->active];
	uint8_t kcv[KCV_BYTES], mac[32];
	int r = keyring_kcv(k, kcv, g->gen_no);

	if (r < 0) {
		snprintf(why, why_size, "the header's active key generation %u is not loaded", g->gen_no);
		return ERR_FOREIGN;
	}
	if (o->kcv != NULL && memcmp(o->kcv, g->kcv, KCV_BYTES) != 0) {
		snprintf(why, why_size, "the header's key-check value is not the pinned one");
		return ERR_FOREIGN;
	}
	if (memcmp(kcv, g->kcv, KCV_BYTES) != 0) {
		snprintf(why, why_size, "the header's key-check value is not that of the loaded key");
		return ERR_FOREIGN;
	}
	r = header_mac(k, mac, g->gen_no, bytes);
	if (r < 0) {
		snprintf(why, why_size, "the header's MAC cannot be checked (%s)", error_text(r));
		return r;
	}
	if (compare_secret(mac, h->mac, sizeof mac) != 0) {
		snprintf(why, why_size, "the header's MAC is wrong: it was altered");
		return ERR_CORRUPT;
	}
	return 0;
}

static bool named_by(const struct root *root, const struct header *h)
{
	return memcmp(root->header_hash[0], h->hash, 32) == 0 || memcmp(root->header_hash[1], h->hash, 32) == 0;
}

static int read_root(struct volume *v, const struct header *h, char *why, size_t why_size)
{
	unsigned bad;
	int r = roots_read(v->dev, v->keys, &h->geometry, h->uuid, &v->root, &bad);

	atomic_fetch_add(&v->tree.bad_tags, bad);
	if (r < 0)
		snprintf(why, why_size, "no root record can be used (%s)", error_text(r));
	else if (bad > 0)
		log_warning("volume: %u newer root records failed their tags; an older copy is used", bad);
	return r;
}

/* Chooses among the copies the one that the root names; *chosen is it. The better one goes first. */
static int choose_header(struct volume *v, const struct header_pair *pair, unsigned better, const struct volume_options *o,
			 unsigned *chosen, char *why, size_t why_size)
{
	int r = ERR_CORRUPT;

	for (unsigned attempt = 0; attempt < 2; attempt++) {
		unsigned copy = attempt == 0 ? better : 1 - better;
		const struct header *h = &pair->header[copy];

		if (pair->result[copy] != 0)
			continue;
		r = authenticate(v->keys, h, pair->bytes[copy], o, why, why_size);
		if (r == 0)
			r = read_root(v, h, why, why_size);
		if (r == 0 && !named_by(&v->root, h)) {
			snprintf(why, why_size, "the root record names another header: this one is old");
			r = ERR_CORRUPT;
		}
		if (r == 0) {
			*chosen = copy;
			return 0;
		}
		if (r == ERR_REVOKED)
			return r;
	}
	return r;
}

static int check_header(const struct header *h, const struct volume_options *o, char *why, size_t why_size)
{
	if (o->expect_size != 0 && o->expect_size != h->geometry.n_sectors * SECTOR_BYTES) {
		snprintf(why, why_size, "the volume has %llu bytes, the appliance's record says %llu",
			 (unsigned long long)(h->geometry.n_sectors * SECTOR_BYTES), (unsigned long long)o->expect_size);
		return ERR_FOREIGN;
	}
	if (!o->read_only && h->feature_ro_compat != 0) {
		snprintf(why, why_size, "it has features that this program can only read around: open it read-only");
		return ERR_FOREIGN;
	}
	return 0;
}

/* Rewrites the copy that was not chosen if it differs. A failure here is worth a line, not the volume. */
static void repair_header(struct volume *v, const struct header_pair *pair, unsigned chosen)
{
	unsigned other = 1 - chosen;
	int r;

	if (v->read_only || (pair->result[other] == 0 && memcmp(pair->bytes[0], pair->bytes[1], HEADER_BYTES) == 0))
		return;
	r = v->dev->ops->write(v->dev, pair->bytes[chosen], HEADER_BYTES, v->header.geometry.header_off[other]);
	if (r == 0)
		r = v->dev->ops->flush(v->dev);
	if (r == 0)
		log_warning("volume: header %c was damaged and has been written again", other == 0 ? 'A' : 'B');
	else
		log_warning("volume: header %c is damaged and could not be written (%s)", other == 0 ? 'A' : 'B', error_text(r));
}

static int read_metadata(struct volume *v, const struct volume_options *o, char *why, size_t why_size)
{
	struct header_pair *pair = calloc(1, sizeof *pair);
	unsigned better, chosen = 0;
	int r;

	if (pair == NULL)
		return ERR_NOMEM;
	r = headers_read(v->dev, pair, &better, o->test_geometry, why, why_size);
	if (r == 0)
		r = choose_header(v, pair, better, o, &chosen, why, why_size);
	if (r == 0)
		r = check_header(&pair->header[chosen], o, why, why_size);
	if (r == 0) {
		v->header = pair->header[chosen];
		repair_header(v, pair, chosen);
	}
	free(pair);
	return r;
}

static bool device_fits(const struct volume *v, const struct volume_options *o, char *why, size_t why_size)
{
	const struct block *dev = v->dev;

	if (!dev->is_device || dev->atomic_bytes == 0 || dev->atomic_bytes >= SECTOR_BYTES || v->read_only || o->assume_4k)
		return true;
	snprintf(why, why_size,
		 "the device promises to write %u bytes at once, not 4096: a power cut could tear a sector; set "
		 "assume_4k = yes for the volume if it is known to do better",
		 dev->atomic_bytes);
	return false;
}

/* The root is authentic: what it names is what was written last on this medium. A power cut between root and counter leaves the
 * root one ahead, and nothing else does. */
static int check_anchor(struct volume *v, const struct volume_options *o, char *why, size_t why_size)
{
	uint64_t named = v->root.anchor, count = o->anchor_count;
	bool current = named == count || named == count + 1;
	const char *wrong = NULL;

	switch (o->anchor) {
	case ANCHOR_IGNORE:
	case ANCHOR_ACCEPT:
	case ANCHOR_POLICY_COUNT:
		break;
	case ANCHOR_NONE:
		wrong = named != 0 ? "the volume is bound to a TPM's counter: give it anti_rollback = tpm" : NULL;
		break;
	case ANCHOR_BIND:
		wrong = named != 0 && !current ? "the volume is bound to another counter than this TPM has for it" : NULL;
		break;
	case ANCHOR_CHECK:
		wrong = current         ? NULL
			: named < count ? "rolled back: the volume has been opened since this state of it was written"
					: "the volume is ahead of the TPM's counter: another TPM, or the counter was lost";
		break;
	}
	v->anchor_durable = named;
	if (wrong == NULL)
		return 0;
	snprintf(why, why_size, "%s (it names %llu, the counter is at %llu)", wrong, (unsigned long long)named,
		 (unsigned long long)count);
	return ERR_CORRUPT;
}

/* A new session: its own salt, its own id, and a root on the device that says "not closed" before anything is accepted. What the
 * log held beyond the last root is in the tree by then, and goes to the device with that root. */
static int begin_session(struct volume *v, const struct volume_options *o, char *why, size_t why_size)
{
	bool replayed = false;
	int r = engine_recover(v, &replayed, why, why_size);

	if (r < 0 || v->read_only)
		return r;
	r = entropy_fill(v->root.session, sizeof v->root.session);
	if (r == 0) {
		/* A header update that was cut ends here: both copies are the chosen one, and nothing else opens any more. */
		memcpy(v->root.header_hash[0], v->header.hash, sizeof v->header.hash);
		memcpy(v->root.header_hash[1], v->header.hash, sizeof v->header.hash);
		v->root.opens++;
		if (o->anchor >= ANCHOR_BIND)
			v->root.anchor = o->anchor_count + 1;
		v->root.unwraps++;
		r = engine_checkpoint(v, false, true);
	}
	if (r < 0)
		snprintf(why, why_size, "the session's first root record cannot be written (%s)", error_text(r));
	else if (replayed)
		log_notice("volume: it was not closed: %llu log entries replayed, %llu objects fell back, %llu sectors lost",
			   (unsigned long long)v->recovered, (unsigned long long)v->fallen_back, (unsigned long long)v->lost);
	return r;
}

static size_t at_least(size_t value, size_t otherwise, size_t least)
{
	if (value == 0)
		value = otherwise;
	return value < least ? least : value;
}

/* The dirty nodes of a checkpoint must fit into an eighth of the log. */
static size_t dirty_limit(const struct volume *v, const struct volume_options *o)
{
	const struct geometry *g = &v->header.geometry;
	size_t least = g->fanout == FANOUT ? DIRTY_LEAST : 2 * (size_t)LEVELS_MAX;
	size_t most = g->log_blocks / 8 * (g->fanout == FANOUT ? LOG_ENTRIES : 4 * (size_t)g->fanout);
	size_t want = at_least(o->dirty_nodes_max, presets[o->preset].dirty, least);

	return want > most ? most : want;
}

static int allocate(struct volume *v, const struct volume_options *o)
{
	const struct geometry *g = &v->header.geometry;
	size_t held;
	int r;

	v->piece_max = g->fanout == FANOUT ? IO_SECTORS : g->fanout;
	held = at_least(o->held_max / SECTOR_BYTES, presets[o->preset].held, v->piece_max);
	v->tree.clean_max = at_least(o->cache_nodes, presets[o->preset].cache, g->fanout == FANOUT ? CACHE_LEAST : 1);
	v->tree.dirty_max = dirty_limit(v, o);
	v->tree.read_only = v->read_only;
	r = tree_init(&v->tree, g, &v->sealer, v->dev, &v->root.top);
	if (r == 0 && !v->read_only)
		r = batch_init(&v->batch, v->tree.dirty_max);
	if (r == 0 && !v->read_only)
		r = engine_log_init(v, held, at_least(o->pending_max, presets[o->preset].pending, 1));
	return r;
}

static void volume_free(struct volume *v)
{
	writeback_stop(v);
	tree_destroy(&v->tree);
	batch_destroy(&v->batch);
	engine_log_destroy(v);
	sealer_destroy(&v->sealer);
	range_destroy(&v->ranges);
	pool_destroy(&v->pool);
	pthread_cond_destroy(&v->changed);
	pthread_cond_destroy(&v->kick);
	pthread_mutex_destroy(&v->sync_lock);
	pthread_mutex_destroy(&v->header_lock);
	pthread_mutex_destroy(&v->lock_once);
	secret_wipe(v, sizeof *v);
	free(v);
}

static struct volume *volume_new(struct block *dev, struct keyring *k, const struct volume_options *o)
{
	struct volume *v = calloc(1, sizeof *v);
	pthread_condattr_t clock;

	if (v == NULL)
		return NULL;
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&v->kick, &clock);
	pthread_condattr_destroy(&clock);
	pthread_mutex_init(&v->sync_lock, NULL);
	pthread_mutex_init(&v->header_lock, NULL);
	v->stepped = o->stepped;
	v->mutant = o->mutant;
	v->skip_log_damage = o->skip_log_damage;
	v->bad_tags_max = o->bad_tags_max == 0 ? BAD_TAGS_DEFAULT : o->bad_tags_max;
	v->dev = dev;
	v->keys = k;
	v->read_only = o->read_only;
	range_init(&v->ranges);
	pthread_cond_init(&v->changed, NULL);
	pthread_mutex_init(&v->lock_once, NULL);
	return v;
}

int volume_open(struct volume **out, struct block *dev, struct keyring *k, const struct volume_options *o, char *why,
		size_t why_size)
{
	static const struct volume_options defaults;
	struct volume *v;
	int r;

	*out = NULL;
	snprintf(why, why_size, "out of memory");
	if (o == NULL)
		o = &defaults;
	v = volume_new(dev, k, o);
	if (v == NULL)
		return ERR_NOMEM;
	r = device_fits(v, o, why, why_size) ? read_metadata(v, o, why, why_size) : ERR_UNSUPPORTED;
	if (r == 0)
		r = check_anchor(v, o, why, why_size);
	if (r == 0 && (r = sealer_init(&v->sealer, k, &v->header, v->root.ctr_next)) < 0)
		snprintf(why, why_size, "no entropy for a salt: nothing may be sealed");
	if (r == 0)
		r = allocate(v, o);
	if (r == 0)
		r = begin_session(v, o, why, why_size);
	if (r == 0)
		r = writeback_start(v);
	if (r < 0) {
		volume_free(v);
		return r;
	}
	snprintf(why, why_size, "open");
	*out = v;
	return 0;
}

uint64_t volume_size(const struct volume *v)
{
	return v->header.geometry.n_sectors * SECTOR_BYTES;
}

void volume_stats(struct volume *v, struct volume_stats *out)
{
	memset(out, 0, sizeof *out);
	out->read_ops = atomic_load(&v->read_ops);
	out->write_ops = atomic_load(&v->write_ops);
	out->flush_ops = atomic_load(&v->flush_ops);
	out->zero_ops = atomic_load(&v->zero_ops);
	out->read_bytes = atomic_load(&v->read_bytes);
	out->written_bytes = atomic_load(&v->written_bytes);
	out->bad_tags = atomic_load(&v->tree.bad_tags);
	out->alarm = atomic_load(&v->alarm);
	out->failstop = atomic_load(&v->failstop) || out->alarm;
	pthread_mutex_lock(&v->tree.lock);
	out->dirty_nodes = v->tree.dirty_count;
	out->held_bytes = v->held.sectors * SECTOR_BYTES;
	out->log_blocks = v->log.written_blocks;
	out->checkpoints = v->checkpoints;
	out->recovered = v->recovered;
	out->fallen_back = v->fallen_back;
	out->lost = v->lost;
	pthread_mutex_unlock(&v->tree.lock);
}

int volume_close(struct volume *v)
{
	int r = 0;

	writeback_stop(v);
	if (!atomic_load(&v->locked) && !v->read_only)
		r = engine_checkpoint(v, true, true);
	volume_free(v);
	return r;
}

uint64_t volume_anchor(struct volume *v)
{
	uint64_t count;

	pthread_mutex_lock(&v->tree.lock);
	count = v->anchor_durable;
	pthread_mutex_unlock(&v->tree.lock);
	return count;
}

void volume_raise_anchor(struct volume *v, uint64_t count)
{
	pthread_mutex_lock(&v->tree.lock);
	if (count > v->root.anchor && !v->read_only) {
		v->root.anchor = count;
		v->anchor_due = true;
		pthread_cond_signal(&v->kick);
	}
	pthread_mutex_unlock(&v->tree.lock);
}
