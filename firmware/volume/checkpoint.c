/* From the tree in memory to the tree on the device, and the lock, which is the opposite: it leaves the tree to the next open and
 * seals only what the log does not hold yet. What must stay true: the nodes of a checkpoint are sealed at one instant, when every
 * version they name is in the log or in the group that is sealed with them (R14); they are written when those versions are
 * settled (R5), after their own log entries, level by level with a flush between (R6), and the root last; log space is free once
 * the root after next is durable in both rings (R7). */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "engine.h"
#include "format.h"
#include "hal/block.h"

/* --- sealing, under tree.lock ------------------------------------------------------------------------------------------ */

/* The batch's nodes as log entries: their counters are consecutive, their tags stand at the start of their blocks. */
static void list_nodes(struct volume *v)
{
	for (size_t i = 0; i < v->batch.count; i++) {
		struct log_entry *e = &v->log.nodes[i];

		memset(e, 0, sizeof *e);
		e->kind = LOG_SEAL;
		e->level = (uint8_t)v->batch.where[i].level;
		e->index = v->batch.where[i].index;
		memcpy(e->tag, v->batch.blocks + i * SECTOR_BYTES, AEAD_TAG_BYTES);
	}
}

static int seal_root(struct volume *v, bool clean)
{
	uint64_t unused;

	/* A sequence number is used up even by an attempt that fails: salt and number must not meet twice. */
	v->root.seq++;
	sealer_take_reserved(&v->sealer, 0, v->root.salt, &unused);
	v->root.gen_no = v->sealer.gen_no[v->sealer.active];
	v->root.clean = clean;
	v->root.ctr_next = sealer_next(&v->sealer);
	v->root.settled = v->root.ctr_next - 1;
	v->root.tail_seq = v->log.next_seq;
	memcpy(v->root.prev_tag, v->log.last_tag, sizeof v->root.prev_tag);
	v->root.top = v->tree.top;
	return root_seal(v->keys, v->batch.root, &v->root, v->header.uuid);
}

/* All dirty nodes, the log blocks that name them, and the root that will name the top: all or nothing. */
static int seal_tree(struct volume *v, bool clean)
{
	struct log before = v->log;
	uint8_t salt[AEAD_SALT_BYTES];
	uint64_t first;
	int r;

	sealer_take_reserved(&v->sealer, 0, salt, &first);
	/* R4: entries go when the node that takes them over is settled, and not before. */
	r = MUTANT(v, MUTANT_R4_ENTRY_DROPPED) && v->root.seq % 2 == 0 ? 0 : tree_seal(&v->tree, &v->batch);
	if (r < 0)
		return r;
	list_nodes(v);
	/* The blocks are written once the round's data is flushed: then this mark is true. */
	r = engine_seal_entries(v, &v->log.node_out, v->log.nodes, v->batch.count, first, salt,
				v->log.frozen && !MUTANT(v, MUTANT_R9_LOSERS_LEFT) ? v->log.settled : first - 1);
	if (MUTANT(v, MUTANT_R7_TAIL_BEFORE_ROOT) && v->log.next_seq < v->log.tail + v->log.blocks)
		v->log.next_seq = v->log.tail + v->log.blocks; /* the very block that the last root begins with */
	if (r == 0)
		r = seal_root(v, clean);
	if (r < 0) {
		/* Nothing of this was written: the chain goes on from where it was. */
		v->log = before;
		tree_unseal(&v->tree, &v->batch);
		return r;
	}
	v->log.node_ctr = v->batch.count > 0 ? first : 0;
	v->root_dirty = v->anchor_due = false;
	return 0;
}

/* --- writing, without any lock or key ---------------------------------------------------------------------------------- */

/* Sealed neighbours that are neighbours on the device too: one write. */
static size_t stretch(const struct batch *b, size_t from)
{
	size_t n = 1;

	while (from + n < b->count && n < IO_SECTORS && b->where[from + n].level == b->where[from].level &&
	       b->where[from + n].index == b->where[from].index + n)
		n++;
	return n;
}

static int write_stretch(struct volume *v, struct batch *b, size_t i, size_t n)
{
	unsigned level = b->where[i].level, copies = level >= 2 ? 2 : 1;
	uint8_t *blocks = b->blocks + i * SECTOR_BYTES;

	for (size_t k = 0; k < n; k++)
		block_checksum(blocks + k * SECTOR_BYTES);
	for (unsigned copy = 0; copy < copies; copy++) {
		uint64_t at = geometry_offset(&v->header.geometry, level, b->where[i].index, copy);
		int r = v->dev->ops->write(v->dev, blocks, n * SECTOR_BYTES, at);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Lowest level first, a flush behind each. */
static int write_nodes(struct volume *v, struct batch *b)
{
	int r = 0;

	for (size_t i = 0, n; i < b->count && r == 0; i += n) {
		n = stretch(b, i);
		r = write_stretch(v, b, i, n);
		if (r == 0 && (i + n == b->count || b->where[i + n].level != b->where[i].level) &&
		    !MUTANT(v, MUTANT_R6_NO_LEVEL_FLUSH))
			r = engine_sync(v);
	}
	return r;
}

/* Whoever opened this volume behind our back has written a root with our next number, or a later one, where ours is to go. The
 * block is not authenticated here (there may be no key): a forger can stop us, which he could anyway. */
static bool root_place_is_ours(struct volume *v, uint64_t seq)
{
	_Alignas(SECTOR_BYTES) uint8_t block[SECTOR_BYTES];
	const struct geometry *g = &v->header.geometry;
	struct root there;

	if (v->dev->ops->read(v->dev, block, sizeof block, g->root_off[0] + seq % ROOT_RING * SECTOR_BYTES) < 0)
		return true;
	return !root_decode_clear(&there, block, v->header.uuid) || there.seq < seq;
}

static int write_tree(struct volume *v, uint64_t root_seq)
{
	int r = write_nodes(v, &v->batch);

	if (r < 0)
		return r;
	if (!root_place_is_ours(v, root_seq)) {
		log_error("volume: another process or host has opened this volume too: stop that one");
		return ERR_BUSY;
	}
	block_checksum(v->batch.root);
	if (MUTANT(v, MUTANT_R7_TAIL_BEFORE_ROOT))
		return v->dev->ops->write(v->dev, v->batch.root, SECTOR_BYTES,
					  v->header.geometry.root_off[0] + root_seq % ROOT_RING * SECTOR_BYTES);
	for (unsigned c = 0; c < 2 && r == 0; c++)
		r = engine_write_durably(v, v->batch.root, SECTOR_BYTES,
					 v->header.geometry.root_off[c] + root_seq % ROOT_RING * SECTOR_BYTES);
	return r;
}

/* --- both -------------------------------------------------------------------------------------------------------------- */

/* What one checkpoint carries from its sealing to its end. */
struct checkpoint {
	struct round round;
	int sealed; /* what sealing the tree came to */
	uint64_t root_seq, tail, settled, anchor;
};

/* The round's log blocks and data, settled; then the blocks that name the nodes. The committer's turn is ours meanwhile. */
static int write_logged(struct volume *v, struct checkpoint *c)
{
	bool flush = !MUTANT(v, MUTANT_R5_UNSETTLED_IN_NODE) && !(v->log.frozen && MUTANT(v, MUTANT_R10_NO_FLUSH_IN_OPEN));
	uint64_t covers;
	int r = round_write(v, &c->round);

	pthread_mutex_lock(&v->tree.lock);
	round_finish(v, &c->round, r);
	covers = v->writes;
	pthread_mutex_unlock(&v->tree.lock);
	if (r == 0 && flush)
		r = engine_sync(v);
	if (r == 0 && c->sealed == 0)
		r = engine_write_log(v, &v->log.node_out);
	pthread_mutex_lock(&v->tree.lock);
	if (r == 0) {
		v->flushed = covers;
		if (c->sealed == 0)
			v->log.written_blocks += v->log.node_out.count;
		if (c->sealed == 0 && v->log.node_out.count > 0)
			v->log.durable_seq = v->log.node_out.first_seq + v->log.node_out.count - 1;
	}
	v->committing = false;
	pthread_cond_broadcast(&v->changed);
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}

/* With tree.lock. */
static void finish(struct volume *v, const struct checkpoint *c)
{
	struct log *l = &v->log;

	tree_release(&v->tree, &v->batch);
	l->older_tail = MUTANT(v, MUTANT_R7_TAIL_BEFORE_ROOT) ? c->tail : l->tail;
	l->tail = c->tail;
	l->node_ctr = 0;
	l->frozen = false;
	if (c->settled > l->settled)
		l->settled = c->settled;
	v->anchor_durable = c->anchor;
	v->checkpoints++;
}

/* With tree.lock, which goes away while it writes. */
static int run_checkpoint(struct volume *v, bool clean)
{
	struct checkpoint c = { .sealed = ERR_STATE };
	int r;

	while (v->committing && !atomic_load(&v->locked))
		pthread_cond_wait(&v->changed, &v->tree.lock);
	r = engine_admits(v);
	if (r < 0)
		return r;
	v->committing = true;
	r = round_close(v, &c.round);
	if (r < 0) {
		v->committing = false;
		engine_open_gate(v);
		return r;
	}
	c.sealed = seal_tree(v, clean);
	c.root_seq = v->root.seq;
	c.tail = v->log.next_seq;
	c.settled = v->root.settled;
	c.anchor = v->root.anchor;
	if (c.sealed == 0)
		v->log.entries = 0;
	engine_open_gate(v);
	pthread_mutex_unlock(&v->tree.lock);
	r = write_logged(v, &c);
	if (r == 0 && c.sealed == 0)
		r = write_tree(v, c.root_seq);
	pthread_mutex_lock(&v->tree.lock);
	v->batch.has_root = false;
	if (r < 0)
		engine_fail(v, "writing the tree", r);
	else if (c.sealed == 0)
		finish(v, &c);
	return r < 0 ? r : c.sealed;
}

static bool anything_new(const struct volume *v)
{
	return v->root_dirty || v->anchor_due || v->tree.dirty_count > 0 || v->log.count > 0;
}

int engine_checkpoint(struct volume *v, bool clean, bool force)
{
	int r;

	pthread_mutex_lock(&v->tree.lock);
	while (v->checkpointing && !atomic_load(&v->locked))
		pthread_cond_wait(&v->changed, &v->tree.lock);
	r = engine_admits(v);
	if (r == 0 && (clean || force || anything_new(v))) {
		v->checkpointing = true;
		r = run_checkpoint(v, clean);
		v->checkpointing = false;
		pthread_cond_broadcast(&v->changed);
	}
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}

/* --- apart: the lock --------------------------------------------------------------------------------------------------- */

/* Not while nodes are on their way, which the drain does not wait to see settled; nor where nothing has happened. */
static bool wants_mark(const struct volume *v)
{
	const struct log *l = &v->log;

	return l->entries > 0 && l->node_ctr == 0 && !l->frozen && l->next_seq - l->older_tail < l->blocks;
}

/* With tree.lock: the last of what was accepted goes into log blocks. Places whose sector is not sealed stay void, and whoever
 * was about to fill them hears ERR_REVOKED. Behind them, for the drain's end, the block that says all of it is settled: without
 * it the next open would have to believe an older version of whatever changed last, should the newest be spoilt meanwhile. */
static int seal_last(struct volume *v)
{
	int r = 0;

	if (atomic_load(&v->failstop))
		return ERR_FAILSTOP;
	if (v->read_only)
		return 0;
	keyring_privileged_begin(v->keys);
	if (v->log.count > 0)
		r = engine_seal_group(v, &v->log.last);
	if (r == 0 && wants_mark(v))
		r = engine_seal_mark(v, &v->log.mark);
	keyring_privileged_end(v->keys);
	return r;
}

void volume_lock_keys(struct volume *v, uint64_t *cut_ns, uint64_t *wiped_ns)
{
	pthread_mutex_lock(&v->lock_once);
	if (!v->lock_done) {
		keyring_shut(v->keys);
		v->cut_ns = engine_now_ns();
		pthread_mutex_lock(&v->tree.lock);
		atomic_store(&v->locked, true);
		v->lock_result = seal_last(v);
		keyring_wipe(v->keys);
		v->wiped_ns = engine_now_ns();
		tree_wipe(&v->tree);
		secret_wipe(&v->root.top, sizeof v->root.top);
		if (v->log.group != NULL)
			secret_wipe(v->log.group, v->log.room * sizeof v->log.group[0]);
		pthread_cond_broadcast(&v->changed);
		pthread_cond_signal(&v->kick);
		pthread_mutex_unlock(&v->tree.lock);
		range_abort(&v->ranges);
		v->lock_done = true;
	}
	*cut_ns = v->cut_ns;
	*wiped_ns = v->wiped_ns;
	pthread_mutex_unlock(&v->lock_once);
}

/* With tree.lock, which it gives back while it writes. */
static int drain(struct volume *v)
{
	struct round round = { 0 };
	int r;

	if (v->lock_result < 0 || atomic_load(&v->failstop))
		return ERR_FAILSTOP;
	round.held = held_take(&v->held);
	round.first = held_by_place(&v->held, round.held, false);
	pthread_mutex_unlock(&v->tree.lock);
	r = engine_write_log(v, &v->log.last);
	if (r == 0)
		r = engine_write_held(v, round.first);
	if (r == 0)
		r = engine_sync(v);
	/* Nothing is lost if the mark does not get there: the next open then looks at what is in place. */
	if (r == 0)
		engine_write_log(v, &v->log.mark);
	pthread_mutex_lock(&v->tree.lock);
	round_finish(v, &round, r);
	return r;
}

int volume_lock_drain(struct volume *v)
{
	int r;

	pthread_mutex_lock(&v->tree.lock);
	if (!atomic_load(&v->locked)) {
		pthread_mutex_unlock(&v->tree.lock);
		return ERR_STATE;
	}
	while (v->committing || v->checkpointing || v->flushing)
		pthread_cond_wait(&v->changed, &v->tree.lock);
	if (v->read_only)
		v->drained = true;
	if (!v->drained) {
		v->checkpointing = true; /* a second drainer waits for this one */
		v->drain_result = drain(v);
		v->checkpointing = false;
		v->drained = true;
		pthread_cond_broadcast(&v->changed);
	}
	r = v->drain_result;
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}
