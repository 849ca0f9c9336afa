/* Opening after anything: the log that the newest root needs is read, checked and replayed into the tree in memory; the session's
 * first checkpoint then brings it to the device. What must stay true: a version is believed only if it is sealed into the chain;
 * of what may not be settled (counters past D) the newest that opens on the medium wins, of what is settled the newest alone is
 * right; nothing is written here, so that a cut during recovery only means doing it again; D stays where it was until the root
 * that drops the log is durable (R9), because until then the losing versions are still in it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "engine.h"
#include "hal/block.h"

enum { SCAN_BLOCKS = 64 };

/* One entry of the log, as a slot of what it names. */
struct record {
	struct slot slot;
	uint64_t index, count; /* count: of a ZERO */
	uint8_t level;
	bool cut; /* a later ZERO made it void */
};

struct records {
	struct record *all;
	size_t count, room;
};

static void drop_records(struct records *p)
{
	if (p->all != NULL)
		secret_wipe(p->all, p->count * sizeof p->all[0]);
	free(p->all);
}

static int add_record(struct records *p, const struct record *r)
{
	if (p->count == p->room) {
		size_t room = p->room == 0 ? 1024 : 2 * p->room;
		struct record *all = malloc(room * sizeof *all);

		if (all == NULL)
			return ERR_NOMEM;
		if (p->count > 0)
			memcpy(all, p->all, p->count * sizeof *all);
		drop_records(p);
		p->all = all;
		p->room = room;
	}
	p->all[p->count++] = *r;
	return 0;
}

struct recovery {
	struct volume *v;
	struct records log;   /* in order of counters */
	struct records nodes; /* SEAL entries of nodes, by level from the top, index, counter */
	struct records tests; /* entries of sectors past D, by sector and counter */
	uint8_t *scan;        /* SCAN_BLOCKS */
	uint8_t block[2][SECTOR_BYTES];
	struct log_entry entries[LOG_ENTRIES];
	struct run run;
	char *why;
	size_t why_size;
};

/* --- reading the chain ------------------------------------------------------------------------------------------------- */

static bool entry_fits(const struct geometry *g, const struct log_entry *e)
{
	if (e->level > g->levels || e->index >= g->count[e->level])
		return false;
	if (e->kind != LOG_ZERO)
		return e->kind == LOG_SEAL || e->level == 0;
	return e->count > 0 && e->count <= g->fanout && e->count <= g->count[e->level] - e->index &&
	       (e->level == g->levels || e->index % g->fanout + e->count <= g->fanout);
}

static int take_entries(struct recovery *p, const struct log_head *h)
{
	struct log *l = &p->v->log;

	for (unsigned i = 0; i < h->count; i++) {
		const struct log_entry *e = &p->entries[i];
		struct record record = { .index = e->index, .count = e->count, .level = e->level };
		int r;

		if (e->kind == LOG_NONE)
			continue;
		if (!entry_fits(&p->v->header.geometry, e)) {
			snprintf(p->why, p->why_size, "log block %llu names what is not in the volume",
				 (unsigned long long)h->seq);
			return ERR_CORRUPT;
		}
		logblock_slot(&record.slot, h, e, i);
		r = add_record(&p->log, &record);
		if (r < 0)
			return r;
	}
	if (h->settled > l->settled)
		l->settled = h->settled;
	if (h->ctr_base + h->count > l->written_ctr + 1)
		l->written_ctr = h->ctr_base + h->count - 1;
	return 0;
}

static uint64_t place_of(const struct volume *v, uint64_t seq)
{
	return v->header.geometry.log_off + seq % v->log.blocks * SECTOR_BYTES;
}

/* For an offline repair a block that cannot be read is one that is damaged. */
static int read_singly(struct recovery *p, uint64_t from, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (p->v->dev->ops->read(p->v->dev, p->scan + i * SECTOR_BYTES, SECTOR_BYTES, place_of(p->v, from + i)) < 0)
			memset(p->scan + i * SECTOR_BYTES, 0, SECTOR_BYTES);
	return 0;
}

/* The block of this number, from a buffer of neighbours; NULL and *r on a read error. */
static const uint8_t *fetch(struct recovery *p, uint64_t seq, bool first, int *r)
{
	uint64_t in_ring = seq % p->v->log.blocks, from = in_ring - in_ring % SCAN_BLOCKS;
	uint64_t n = p->v->log.blocks - from < SCAN_BLOCKS ? p->v->log.blocks - from : SCAN_BLOCKS;

	if (first || in_ring % SCAN_BLOCKS == 0) {
		*r = p->v->dev->ops->read(p->v->dev, p->scan, n * SECTOR_BYTES, place_of(p->v, from));
		if (*r < 0 && p->v->skip_log_damage)
			*r = read_singly(p, from, n);
		if (*r < 0) {
			snprintf(p->why, p->why_size, "the log cannot be read (%s)", error_text(*r));
			return NULL;
		}
	}
	return p->scan + (in_ring - from) * SECTOR_BYTES;
}

/* Follows the chain to its end, from the block l->next_seq on, which is to follow l->last_tag. */
static int follow_chain(struct recovery *p)
{
	struct log *l = &p->v->log;
	uint64_t from = l->next_seq;
	int r = 0;

	while (l->next_seq - l->tail < l->blocks) {
		const uint8_t *block = fetch(p, l->next_seq, l->next_seq == from, &r);
		struct log_head h;

		if (block == NULL)
			return r;
		r = logblock_open(&p->v->sealer, &h, p->entries, block);
		if (r == ERR_REVOKED)
			return r;
		if (r < 0 || h.seq != l->next_seq || memcmp(h.prev_tag, l->last_tag, sizeof h.prev_tag) != 0)
			break;
		r = take_entries(p, &h);
		if (r < 0)
			return r;
		memcpy(l->last_tag, block, sizeof l->last_tag);
		l->next_seq++;
	}
	return 0;
}

/* A block behind the end that says "everything up to the end and beyond was durable when I was sealed" proves that the end is a
 * hole: damage, or somebody's work, and no power cut. 1: *head is the first such block. */
static int find_proof(struct recovery *p, struct log_head *head)
{
	struct log *l = &p->v->log;
	int r = 0;

	for (uint64_t seq = l->next_seq + 1; seq < l->tail + l->blocks; seq++) {
		const uint8_t *block = fetch(p, seq, seq == l->next_seq + 1, &r);

		if (block == NULL)
			return r;
		if (!logblock_decode_clear(head, block, p->v->sealer.uuid) || head->seq != seq || head->prefix_seq < l->next_seq)
			continue;
		r = logblock_open(&p->v->sealer, head, p->entries, block);
		if (r == 0 || r == ERR_REVOKED)
			return r == 0 ? 1 : r;
	}
	return 0;
}

/* Goes on behind the hole: the block that proves it is as authentic as any, and so is what follows it. What the hole named is
 * unknown: its counters are gone, and objects whose newest version it held do not open. */
static void pass_hole(struct recovery *p, const struct log_head *head)
{
	struct log *l = &p->v->log;
	struct log_gaps *gaps = &p->v->gaps;

	if (gaps->blocks == 0)
		gaps->first = l->next_seq;
	gaps->blocks += head->seq - l->next_seq;
	if (head->ctr_base > l->written_ctr + 1)
		gaps->entries += head->ctr_base - l->written_ctr - 1;
	l->next_seq = head->seq;
	memcpy(l->last_tag, head->prev_tag, sizeof l->last_tag);
}

/* All of the log from the root's tail on. */
static int follow(struct recovery *p)
{
	struct volume *v = p->v;
	int r = follow_chain(p);

	/* Behind a root that says "closed" there is no log, unless newer roots are gone. */
	while (r == 0 && (!v->root.clean || p->log.count > 0)) {
		struct log_head head;

		r = find_proof(p, &head);
		if (r <= 0)
			return r;
		if (!v->skip_log_damage) {
			snprintf(p->why, p->why_size,
				 "log block %llu is damaged: a later one proves that it was whole; 'fallgate volume "
				 "repair-log' opens the volume without it",
				 (unsigned long long)v->log.next_seq);
			return ERR_CORRUPT;
		}
		pass_hole(p, &head);
		r = follow_chain(p);
	}
	return r;
}

/* --- what is on the medium --------------------------------------------------------------------------------------------- */

/* With tree.lock: 1 if the version opens, 0 if not, or an error. */
static int node_is(struct recovery *p, unsigned level, uint64_t index, const struct slot *s)
{
	struct volume *v = p->v;

	for (unsigned copy = 0; copy < (level >= 2 ? 2u : 1u); copy++) {
		uint64_t at = geometry_offset(&v->header.geometry, level, index, copy);
		int r = v->dev->ops->read(v->dev, p->block[0], SECTOR_BYTES, at);

		if (r < 0)
			return r;
		r = node_open(&v->sealer, p->block[1], p->block[0], level, index, s);
		secret_wipe(p->block[1], SECTOR_BYTES);
		if (r == 0 || r == ERR_REVOKED)
			return r == 0 ? 1 : r;
	}
	return 0;
}

/* The sector's bytes are in block[0]. */
static int sector_is(struct recovery *p, uint64_t lba, const struct slot *s)
{
	const uint8_t *in = p->block[0];
	uint8_t *out = p->block[1];
	bool good = false;
	int r = sectors_open(&p->v->sealer, &p->run, lba, 1, &in, &out, s, &good);

	secret_wipe(p->block[1], SECTOR_BYTES);
	if (r == ERR_REVOKED)
		return r;
	return r == 0 && good;
}

/* --- nodes ------------------------------------------------------------------------------------------------------------- */

static int by_object(const void *a, const void *b)
{
	const struct record *x = a, *y = b;

	if (x->level != y->level)
		return x->level > y->level ? -1 : 1;
	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return x->slot.ctr < y->slot.ctr ? -1 : x->slot.ctr > y->slot.ctr;
}

static size_t same_object(const struct records *p, size_t from)
{
	size_t n = 1;

	while (from + n < p->count && p->all[from + n].level == p->all[from].level &&
	       p->all[from + n].index == p->all[from].index)
		n++;
	return n;
}

/* Candidates c[0..n-1], oldest first, above what the parent says (*slot). Sets *slot to the winner. 1: found; 0: none; or an
 * error. *newest: it is the last candidate. */
static int node_winner(struct recovery *p, const struct record *c, size_t n, struct slot *slot, bool *newest)
{
	const struct log *l = &p->v->log;

	for (size_t i = n; i-- > 0 && c[i].slot.ctr > slot->ctr;) {
		int r = node_is(p, c[i].level, c[i].index, &c[i].slot);

		if (r != 0) {
			*slot = c[i].slot;
			*newest = i == n - 1;
			return r;
		}
		if (c[i].slot.ctr <= l->settled)
			return 0;
	}
	*newest = c[n - 1].slot.ctr <= slot->ctr;
	return slot->state == SLOT_SEALED ? node_is(p, c[0].level, c[0].index, slot) : 1;
}

/* parent: NULL for the top, which the root names. */
static void put_node(struct volume *v, struct node *parent, unsigned at, const struct slot *s)
{
	if (parent == NULL) {
		v->tree.top = *s;
		v->root_dirty = true;
		return;
	}
	tree_put(parent, at, s);
	tree_mark_dirty(&v->tree, parent);
}

/* With tree.lock. Puts the winner's slot into the parent; a node that fell back becomes dirty: the first checkpoint seals it
 * anew. One that did not is left alone, so that recoveries that are cut get on from one to the next, and use little log. */
static int settle_node(struct recovery *p, const struct record *c, size_t n)
{
	struct volume *v = p->v;
	const unsigned fanout = v->header.geometry.fanout, at = (unsigned)(c->index % fanout);
	bool top = c->level == v->header.geometry.levels, newest = false;
	struct node *parent = NULL, *node = NULL;
	struct slot slot = v->tree.top, before;
	unsigned unused;
	int r = 0;

	if (!top)
		r = tree_pin(&v->tree, c->level + 1u, c->index / fanout, true, &parent, &unused);
	if (r < 0)
		return r;
	if (!top)
		tree_get(parent, at, &slot);
	before = slot;
	r = node_winner(p, c, n, &slot, &newest);
	if (r == 1) {
		v->fallen_back += !newest;
		if (!slot_same(&before, &slot))
			put_node(v, parent, at, &slot);
		r = slot.state == SLOT_SEALED && !newest ? tree_pin(&v->tree, c->level, c->index, false, &node, &unused) : 0;
	} else if (r == 0) {
		r = ERR_CORRUPT;
	}
	if (node != NULL) {
		tree_mark_dirty(&v->tree, node);
		tree_unpin(&v->tree, node);
	}
	if (parent != NULL)
		tree_unpin(&v->tree, parent);
	return r;
}

/* What is lost is lost with its subtree: reads below it say so. Said each time the count doubles. */
static int unless_corrupt(struct recovery *p, const struct record *c, int r)
{
	if (r != ERR_CORRUPT)
		return r;
	p->v->lost++;
	if ((p->v->lost & (p->v->lost - 1)) == 0)
		log_error("volume: recovery: no version of object %llu of level %u that the log allows is on the medium; lost so "
			  "far: %llu",
			  (unsigned long long)c->index, c->level, (unsigned long long)p->v->lost);
	return 0;
}

/* A ZERO needs nothing on the medium: its entry is all there is to it. Objects that the tree knows in a newer version have seen
 * it already (R14). */
static int zero_in_tree(struct recovery *p, const struct record *c)
{
	struct volume *v = p->v;
	const unsigned fanout = v->header.geometry.fanout, first = (unsigned)(c->index % fanout);
	struct node *n;
	unsigned unused;
	int r;

	if (c->level == v->header.geometry.levels) {
		if (v->tree.top.ctr < c->slot.ctr) {
			tree_zero(&v->tree, NULL, 0, 1, c->slot.ctr);
			v->root_dirty = true;
		}
		return 0;
	}
	r = tree_pin(&v->tree, c->level + 1u, c->index / fanout, true, &n, &unused);
	if (r < 0)
		return r;
	for (unsigned i = first; i < first + c->count; i++) {
		struct slot now;

		tree_get(n, i, &now);
		if (now.ctr >= c->slot.ctr)
			continue;
		tree_zero(&v->tree, n, i, 1, c->slot.ctr);
		tree_mark_dirty(&v->tree, n);
	}
	tree_unpin(&v->tree, n);
	return 0;
}

/* With the level above settled: first what the log zeroed of this one, then the versions that are newer than that. In this order
 * a ZERO never covers a node that was found after it, and what such a node says of its children counts. */
static int zero_nodes(struct recovery *p, unsigned level)
{
	int r = 0;

	for (size_t i = 0; i < p->log.count && r == 0; i++)
		if (p->log.all[i].level == level && p->log.all[i].slot.state == SLOT_ZERO)
			r = unless_corrupt(p, &p->log.all[i], zero_in_tree(p, &p->log.all[i]));
	return r;
}

static int settle_nodes(struct recovery *p)
{
	size_t at = 0, n;
	int r = 0;

	for (size_t i = 0; i < p->log.count && r == 0; i++)
		if (p->log.all[i].level > 0 && p->log.all[i].slot.state == SLOT_SEALED)
			r = add_record(&p->nodes, &p->log.all[i]);
	if (p->nodes.count > 0)
		qsort(p->nodes.all, p->nodes.count, sizeof p->nodes.all[0], by_object);
	for (unsigned level = p->v->header.geometry.levels; level > 0 && r == 0; level--) {
		r = zero_nodes(p, level);
		for (; at < p->nodes.count && p->nodes.all[at].level == level && r == 0; at += n) {
			n = same_object(&p->nodes, at);
			r = unless_corrupt(p, &p->nodes.all[at], settle_node(p, &p->nodes.all[at], n));
		}
	}
	return r;
}

/* --- replaying --------------------------------------------------------------------------------------------------------- */

static int pin_leaf(struct recovery *p, uint64_t lba, struct node **leaf, unsigned *at)
{
	const unsigned fanout = p->v->header.geometry.fanout;
	unsigned unused;

	*at = (unsigned)(lba % fanout);
	return tree_pin(&p->v->tree, 1, lba / fanout, true, leaf, &unused);
}

static void put_and_unpin(struct recovery *p, struct node *leaf, unsigned at, const struct slot *s)
{
	tree_put(leaf, at, s);
	tree_mark_dirty(&p->v->tree, leaf);
	tree_unpin(&p->v->tree, leaf);
}

/* A sector's entry: settled, it is the truth; past D it has to be looked for. */
static int replay_sector(struct recovery *p, const struct record *c)
{
	struct node *leaf;
	struct slot now;
	unsigned at;
	int r;

	if (c->slot.ctr > p->v->log.settled)
		return add_record(&p->tests, c);
	r = pin_leaf(p, c->index, &leaf, &at);
	if (r < 0)
		return r;
	tree_get(leaf, at, &now);
	if (c->slot.ctr > now.ctr)
		put_and_unpin(p, leaf, at, &c->slot);
	else
		tree_unpin(&p->v->tree, leaf);
	return 0;
}

static void cut_tests(struct recovery *p, const struct record *c)
{
	uint64_t span = p->v->header.geometry.span[c->level], first = c->index * span, end = first + c->count * span;

	for (size_t i = 0; i < p->tests.count; i++)
		if (p->tests.all[i].index >= first && p->tests.all[i].index < end)
			p->tests.all[i].cut = true;
}

static int replay(struct recovery *p)
{
	int r = 0;

	for (size_t i = 0; i < p->log.count && r == 0; i++) {
		const struct record *c = &p->log.all[i];

		if (c->slot.state == SLOT_ZERO)
			cut_tests(p, c);
		if (c->level > 0)
			continue;
		r = c->slot.state == SLOT_ZERO ? zero_in_tree(p, c) : replay_sector(p, c);
		r = unless_corrupt(p, c, r);
	}
	return r;
}

/* --- sectors that may not be settled ----------------------------------------------------------------------------------- */

/* c[0..n-1], oldest first, above what the leaf says (*slot). As node_winner. */
static int sector_winner(struct recovery *p, const struct record *c, size_t n, struct slot *slot, bool *newest)
{
	struct volume *v = p->v;
	int r = v->dev->ops->read(v->dev, p->block[0], SECTOR_BYTES, geometry_offset(&v->header.geometry, 0, c->index, 0));

	for (size_t i = n; i-- > 0 && r == 0 && c[i].slot.ctr > slot->ctr && !c[i].cut;) {
		if (c[i].slot.state == SLOT_SEALED)
			r = sector_is(p, c->index, &c[i].slot);
		else
			r = 1;
		if (r == 1) {
			*slot = c[i].slot;
			*newest = i == n - 1;
		}
	}
	if (r != 0)
		return r;
	*newest = c[n - 1].slot.ctr <= slot->ctr || c[n - 1].cut;
	return slot->state == SLOT_SEALED ? sector_is(p, c->index, slot) : 1;
}

static int settle_sector(struct recovery *p, const struct record *c, size_t n)
{
	struct node *leaf;
	struct slot slot, before;
	bool newest = true;
	unsigned at;
	int r = pin_leaf(p, c->index, &leaf, &at);

	if (r < 0)
		return r;
	tree_get(leaf, at, &slot);
	before = slot;
	r = sector_winner(p, c, n, &slot, &newest);
	if (r == 0) {
		memset(&slot, 0, sizeof slot);
		slot.state = SLOT_BAD;
		slot.ctr = c[n - 1].slot.ctr;
	}
	p->v->fallen_back += r == 1 && !newest;
	if (r < 0 || slot_same(&before, &slot))
		tree_unpin(&p->v->tree, leaf);
	else
		put_and_unpin(p, leaf, at, &slot);
	if (r < 0)
		return r;
	return r == 1 ? 0 : ERR_CORRUPT;
}

static int settle_sectors(struct recovery *p)
{
	int r = 0;

	if (p->tests.count > 0)
		qsort(p->tests.all, p->tests.count, sizeof p->tests.all[0], by_object);
	for (size_t i = 0, n; i < p->tests.count && r == 0; i += n) {
		n = same_object(&p->tests, i);
		r = unless_corrupt(p, &p->tests.all[i], settle_sector(p, &p->tests.all[i], n));
	}
	return r;
}

/* --- all of it --------------------------------------------------------------------------------------------------------- */

/* The log may have touched more nodes than a checkpoint of this configuration takes: this once, it takes them all. */
static int make_room(struct volume *v)
{
	struct log *l = &v->log;
	size_t need = v->tree.dirty_count, blocks;
	int r;

	if (v->read_only)
		return 0;
	blocks = (need + l->per_block - 1) / l->per_block;
	if (need > v->batch.room) {
		batch_destroy(&v->batch);
		free(l->nodes);
		free(l->node_out.blocks);
		l->nodes = calloc(need, sizeof l->nodes[0]);
		l->node_out.room = blocks;
		l->node_out.blocks = aligned_alloc(SECTOR_BYTES, blocks * SECTOR_BYTES);
		r = batch_init(&v->batch, need);
		if (r < 0 || l->nodes == NULL || l->node_out.blocks == NULL)
			return ERR_NOMEM;
	}
	return l->next_seq - l->tail + blocks > l->blocks ? ERR_NOSPACE : 0;
}

static void start_log(struct volume *v)
{
	struct log *l = &v->log;

	l->blocks = v->header.geometry.log_blocks;
	l->next_seq = l->tail = l->older_tail = v->root.tail_seq;
	memcpy(l->last_tag, v->root.prev_tag, sizeof l->last_tag);
	l->settled = v->root.settled;
	l->written_ctr = v->root.ctr_next - 1;
	l->frozen = true;
}

static int recover(struct recovery *p)
{
	struct volume *v = p->v;
	int r = follow(p);

	if (r < 0)
		return r;
	v->log.durable_seq = v->log.next_seq - 1;
	sealer_skip(&v->sealer, v->log.written_ctr + 1);
	r = settle_nodes(p);
	if (r == 0)
		r = replay(p);
	if (r == 0)
		r = settle_sectors(p);
	if (r < 0)
		snprintf(p->why, p->why_size, "the log cannot be replayed (%s)", error_text(r));
	v->recovered = p->log.count;
	return r;
}

static int sync_before(struct volume *v)
{
	if (v->read_only || v->root.clean || MUTANT(v, MUTANT_R10_NO_FLUSH_IN_OPEN))
		return 0;
	return engine_sync(v);
}

int engine_recover(struct volume *v, bool *replayed, char *why, size_t why_size)
{
	struct recovery *p = calloc(1, sizeof *p);
	int r = p == NULL ? ERR_NOMEM : 0;

	if (r == 0) {
		p->v = v;
		p->why = why;
		p->why_size = why_size;
		p->scan = aligned_alloc(SECTOR_BYTES, SCAN_BLOCKS * SECTOR_BYTES);
		r = p->scan == NULL ? ERR_NOMEM : sync_before(v);
	}
	start_log(v);
	if (r == 0) {
		pthread_mutex_lock(&v->tree.lock);
		r = recover(p);
		pthread_mutex_unlock(&v->tree.lock);
		*replayed = p->log.count > 0;
	}
	if (r == 0) {
		r = make_room(v);
		if (r == ERR_NOSPACE)
			snprintf(why, why_size, "the log is full: recovery was cut too often; open it read-only and copy it");
	}
	if (p != NULL) {
		free(p->scan);
		drop_records(&p->log);
		drop_records(&p->nodes);
		drop_records(&p->tests);
		secret_wipe(p, sizeof *p);
		free(p);
	}
	return r;
}
