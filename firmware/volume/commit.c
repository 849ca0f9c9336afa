/* From acceptance to the place: the open group, its log blocks, the in-place writes, and the flush that all who wait share.
 * What must stay true: one commit at a time, so that log blocks become durable in order (R2) and no two versions of a sector are
 * under way together (R3); no sector is written before the log block that names it is durable (R1); after a failed write or
 * flush nothing is acknowledged any more (R11). The group is sealed under tree.lock and written without any lock or key. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/log.h"
#include "engine.h"
#include "format.h"
#include "hal/block.h"

enum { DATA_TRIES = 3, TEST_ENTRIES_PER_SLOT = 4 };

uint64_t engine_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int engine_admits(const struct volume *v)
{
	if (atomic_load(&v->locked))
		return ERR_REVOKED;
	return atomic_load(&v->failstop) ? ERR_FAILSTOP : 0;
}

/* With tree.lock. */
void engine_fail(struct volume *v, const char *what, int error)
{
	if (!atomic_exchange(&v->failstop, true))
		log_error("volume: %s failed: %s; nothing more is acknowledged until the volume is opened again", what,
			  error_text(error));
	pthread_cond_broadcast(&v->changed);
}

/* --- the log's room ---------------------------------------------------------------------------------------------------- */

static size_t blocks_for(const struct log *l, size_t entries)
{
	return (entries + l->per_block - 1) / l->per_block;
}

static int sealed_log_init(struct sealed_log *s, size_t room)
{
	s->room = room;
	s->blocks = aligned_alloc(SECTOR_BYTES, room * SECTOR_BYTES);
	if (s->blocks == NULL)
		return ERR_NOMEM;
	/* Touched now: a lock must not wait for the kernel to find pages. */
	memset(s->blocks, 0, room * SECTOR_BYTES);
	return 0;
}

/* After the tree's limits are set. */
int engine_log_init(struct volume *v, size_t held_sectors, uint64_t entries_max)
{
	const struct geometry *g = &v->header.geometry;
	struct log *l = &v->log;
	uint64_t node_blocks, most;
	int r;

	l->blocks = g->log_blocks;
	l->per_block = g->fanout == FANOUT ? LOG_ENTRIES : (size_t)TEST_ENTRIES_PER_SLOT * g->fanout;
	l->entries_max = entries_max;
	/* A group takes at most an eighth of the log, and one piece always fits. */
	most = l->blocks / 8 * l->per_block;
	l->room = held_sectors + v->piece_max;
	if (l->room > most)
		l->room = most;
	if (l->room < v->piece_max)
		l->room = v->piece_max;
	node_blocks = blocks_for(l, v->tree.dirty_max);
	l->reserve = 3 * node_blocks + 1 > l->blocks * 3 / 8 ? 3 * node_blocks + 1 : l->blocks * 3 / 8;
	l->group = calloc(l->room, sizeof l->group[0]);
	l->nodes = calloc(v->tree.dirty_max, sizeof l->nodes[0]);
	v->parts = calloc(IO_SECTORS, sizeof v->parts[0]);
	if (l->group == NULL || l->nodes == NULL || v->parts == NULL)
		return ERR_NOMEM;
	r = held_init(&v->held, held_sectors);
	if (r == 0)
		r = sealed_log_init(&l->out, blocks_for(l, l->room));
	if (r == 0)
		r = sealed_log_init(&l->last, blocks_for(l, l->room));
	if (r == 0)
		r = sealed_log_init(&l->node_out, node_blocks);
	if (r == 0)
		r = sealed_log_init(&l->mark, 1);
	return r;
}

void engine_log_destroy(struct volume *v)
{
	struct log *l = &v->log;

	held_destroy(&v->held);
	free(l->group);
	free(l->nodes);
	free(l->out.blocks);
	free(l->last.blocks);
	free(l->node_out.blocks);
	free(l->mark.blocks);
	free(v->parts);
}

bool engine_due(const struct volume *v)
{
	const struct log *l = &v->log;

	if (MUTANT(v, MUTANT_R8_NO_RESERVE))
		return false;
	return l->next_seq - l->tail >= l->blocks / 4 || l->entries + l->count >= l->entries_max;
}

static bool log_has_room(const struct log *l, size_t entries)
{
	return l->next_seq - l->older_tail + blocks_for(l, l->count + entries) + l->reserve <= l->blocks;
}

/* What stands between a change and its place; the first that does. */
enum obstacle { CLEAR, GATE, FULL, DIRTY, LOG };

/* The volume's own thread checkpoints when it is due; a writer only when that thread cannot keep up, or does not exist. */
static bool overdue(const struct volume *v)
{
	return v->stepped ? engine_due(v) : v->log.entries + v->log.count >= 2 * v->log.entries_max;
}

static enum obstacle obstacle(const struct volume *v, size_t dirty, size_t entries)
{
	if (v->gate)
		return GATE;
	if (v->log.count + entries > v->log.room || v->held.sectors + entries > v->held.max)
		return FULL;
	if (v->tree.dirty_count + dirty > v->tree.dirty_max || overdue(v))
		return DIRTY;
	return log_has_room(&v->log, entries) || MUTANT(v, MUTANT_R8_NO_RESERVE) ? CLEAR : LOG;
}

static int remove_obstacle(struct volume *v, enum obstacle o)
{
	int r;

	if (o == GATE) {
		pthread_cond_wait(&v->changed, &v->tree.lock);
		return 0;
	}
	pthread_mutex_unlock(&v->tree.lock);
	r = o == FULL ? engine_commit(v) : engine_checkpoint(v, false, o == LOG);
	pthread_mutex_lock(&v->tree.lock);
	return r;
}

int engine_room(struct volume *v, size_t (*need)(const void *), const void *what, size_t entries)
{
	for (;;) {
		int r = engine_admits(v);
		enum obstacle o;

		if (r < 0)
			return r;
		o = obstacle(v, need(what), entries);
		if (o == CLEAR)
			return 0;
		r = remove_obstacle(v, o);
		if (r < 0)
			return r;
	}
}

int engine_places(struct volume *v, size_t entries, size_t *first)
{
	struct log *l = &v->log;
	uint8_t salt[AEAD_SALT_BYTES];
	uint64_t ctr;
	int r = sealer_take(&v->sealer, entries, l->count == 0, salt, &ctr);

	if (r < 0)
		return r;
	if (l->count == 0) {
		memcpy(l->salt, salt, sizeof salt);
		l->ctr_base = ctr;
		pthread_cond_signal(&v->kick);
	}
	*first = l->count;
	memset(l->group + l->count, 0, entries * sizeof l->group[0]);
	l->count += entries;
	v->last_change_ns = v->stepped ? 0 : engine_now_ns();
	return 0;
}

/* --- sealing ----------------------------------------------------------------------------------------------------------- */

int engine_seal_entries(struct volume *v, struct sealed_log *out, const struct log_entry *entries, size_t count,
			uint64_t ctr_base, const uint8_t *salt, uint64_t settled)
{
	struct log *l = &v->log;
	struct log_head h = {
		.gen_ix = v->sealer.active,
		.gen_no = v->sealer.gen_no[v->sealer.active],
		.settled = settled,
		.root_seq = v->root.seq,
	};
	int r = 0;

	memcpy(h.salt, salt, sizeof h.salt);
	memcpy(h.prev_tag, l->last_tag, sizeof h.prev_tag);
	out->count = 0;
	out->first_seq = l->next_seq;
	h.prefix_seq = out == &l->node_out ? l->next_seq - 1 : l->durable_seq;
	for (size_t done = 0; done < count && r == 0; done += h.count) {
		uint8_t *block = out->blocks + out->count * SECTOR_BYTES;

		if (out->count == out->room)
			return ERR_STATE;
		h.seq = out->first_seq + out->count++;
		h.count = (uint16_t)(count - done < l->per_block ? count - done : l->per_block);
		h.ctr_base = ctr_base + done;
		r = logblock_seal(&v->sealer, block, &h, entries + done);
		memcpy(h.prev_tag, block, sizeof h.prev_tag);
	}
	if (r < 0) {
		out->count = 0;
		return r;
	}
	memcpy(l->last_tag, h.prev_tag, sizeof l->last_tag);
	l->next_seq += out->count;
	l->entries += count;
	return 0;
}

int engine_seal_mark(struct volume *v, struct sealed_log *out)
{
	struct log *l = &v->log;
	struct log_head h = {
		.seq = l->next_seq,
		.gen_ix = v->sealer.active,
		.gen_no = v->sealer.gen_no[v->sealer.active],
		.prefix_seq = l->durable_seq,
		.root_seq = v->root.seq,
	};
	int r;

	sealer_take_reserved(&v->sealer, 0, h.salt, &h.ctr_base);
	h.settled = h.ctr_base - 1;
	memcpy(h.prev_tag, l->last_tag, sizeof h.prev_tag);
	out->first_seq = h.seq;
	r = logblock_seal(&v->sealer, out->blocks, &h, NULL);
	if (r < 0)
		return r;
	out->count = 1;
	memcpy(l->last_tag, out->blocks, sizeof l->last_tag);
	l->next_seq++;
	return 0;
}

int engine_seal_group(struct volume *v, struct sealed_log *out)
{
	struct log *l = &v->log;
	uint64_t settled = l->settled;
	int r;

	if (MUTANT(v, MUTANT_D_AHEAD))
		settled = l->ctr_base + l->count - 1;
	r = engine_seal_entries(v, out, l->group, l->count, l->ctr_base, l->salt, settled);
	if (r < 0)
		return r;
	secret_wipe(l->group, l->count * sizeof l->group[0]);
	l->count = 0;
	return 0;
}

/* --- durability -------------------------------------------------------------------------------------------------------- */

int engine_sync(struct volume *v)
{
	int r;

	pthread_mutex_lock(&v->sync_lock);
	r = v->sync_failed ? ERR_FAILSTOP : v->dev->ops->flush(v->dev);
	if (r < 0 && MUTANT(v, MUTANT_R11_FLUSH_RETRIED))
		r = v->dev->ops->flush(v->dev);
	v->sync_failed |= r < 0;
	pthread_mutex_unlock(&v->sync_lock);
	return r;
}

int engine_write_durably(struct volume *v, const void *in, size_t size, uint64_t at)
{
	int r;

	pthread_mutex_lock(&v->sync_lock);
	r = v->sync_failed ? ERR_FAILSTOP : write_durably(v->dev, in, size, at);
	v->sync_failed |= r < 0;
	pthread_mutex_unlock(&v->sync_lock);
	return r;
}

/* --- writing ----------------------------------------------------------------------------------------------------------- */

static uint64_t log_offset(const struct volume *v, uint64_t seq)
{
	return v->header.geometry.log_off + seq % v->log.blocks * SECTOR_BYTES;
}

/* Blocks from..from+n-1 of log, durable when it returns. */
static int write_blocks(struct volume *v, struct sealed_log *log, size_t from, size_t n)
{
	int r = 0;

	for (size_t done = 0, part; done < n && r == 0; done += part) {
		uint64_t seq = log->first_seq + from + done, left = v->log.blocks - seq % v->log.blocks;

		part = n - done < left ? n - done : (size_t)left;
		r = engine_write_durably(v, log->blocks + (from + done) * SECTOR_BYTES, part * SECTOR_BYTES, log_offset(v, seq));
	}
	return r;
}

int engine_write_log(struct volume *v, struct sealed_log *log)
{
	for (size_t i = 0; i < log->count; i++)
		logblock_checksum(log->blocks + i * SECTOR_BYTES);
	return write_blocks(v, log, 0, log->count);
}

static int write_parts(struct block *dev, const struct block_part *parts, unsigned count, uint64_t at)
{
	int r = 0;

	if (dev->ops->write_parts != NULL && count > 1)
		return dev->ops->write_parts(dev, parts, count, at);
	for (unsigned i = 0; i < count && r == 0; at += parts[i++].size)
		r = dev->ops->write(dev, parts[i].bytes, parts[i].size, at);
	return r;
}

/* Neighbours from s on, by place and then by memory. Returns the first that is not one of them. */
static const struct held_sector *gather_parts(struct volume *v, const struct held_sector *s, unsigned *count)
{
	struct block_part *part = v->parts;
	const uint64_t first = s->lba;
	uint64_t next = first;

	*part = (struct block_part){ s->bytes, 0 };
	for (; s != NULL && s->lba == next && next - first < IO_SECTORS; s = s->after, next++) {
		if (s->bytes != part->bytes + part->size)
			*++part = (struct block_part){ s->bytes, 0 };
		part->size += SECTOR_BYTES;
	}
	*count = (unsigned)(part - v->parts) + 1;
	return s;
}

int engine_write_held(struct volume *v, const struct held_sector *s)
{
	while (s != NULL) {
		uint64_t at = geometry_offset(&v->header.geometry, 0, s->lba, 0);
		unsigned count;
		int r = ERR_IO;

		s = gather_parts(v, s, &count);
		for (int i = 0; i < DATA_TRIES && r < 0; i++)
			r = write_parts(v->dev, v->parts, count, at);
		if (r < 0)
			return r;
	}
	return 0;
}

static int mutant_write_round(struct volume *v, struct sealed_log *log, const struct held_sector *first)
{
	int r = 0;

	if (MUTANT(v, MUTANT_R1_DATA_BEFORE_LOG)) {
		r = engine_write_held(v, first);
		return r == 0 ? engine_write_log(v, log) : r;
	}
	for (size_t i = 0; i < log->count; i++)
		logblock_checksum(log->blocks + i * SECTOR_BYTES);
	for (size_t i = log->count; i-- > 0 && r == 0;) {
		r = write_blocks(v, log, i, 1);
		if (r == 0 && i + 1 == log->count)
			r = engine_write_held(v, first);
	}
	return r;
}

/* R1 and R2: the blocks, and only then what they name. */
static int write_round(struct volume *v, struct sealed_log *log, const struct held_sector *first)
{
	int r;

	if (MUTANT(v, MUTANT_R1_DATA_BEFORE_LOG) || MUTANT(v, MUTANT_R2_NO_PREFIX))
		return mutant_write_round(v, log, first);
	r = engine_write_log(v, log);
	return r < 0 ? r : engine_write_held(v, first);
}

/* --- the commit -------------------------------------------------------------------------------------------------------- */

int round_close(struct volume *v, struct round *round)
{
	int r;

	memset(round, 0, sizeof *round);
	v->gate = true;
	while (v->sealing > 0 && !atomic_load(&v->locked))
		pthread_cond_wait(&v->changed, &v->tree.lock);
	r = engine_admits(v);
	if (r == 0) {
		round->last_ctr = v->log.count > 0 ? v->log.ctr_base + v->log.count - 1 : v->log.written_ctr;
		r = engine_seal_group(v, &v->log.out);
	}
	if (r < 0)
		return r;
	round->held = held_take(&v->held);
	round->first = held_by_place(&v->held, round->held, MUTANT(v, MUTANT_R3_OLD_AFTER_NEW));
	return 0;
}

int round_write(struct volume *v, struct round *round)
{
	return write_round(v, &v->log.out, round->first);
}

void round_finish(struct volume *v, struct round *round, int result)
{
	/* What the device refused stays where reads find it. */
	if (result < 0) {
		engine_fail(v, "writing the log or the data it names", result);
		return;
	}
	held_release(&v->held, round->held);
	v->log.written_blocks += v->log.out.count;
	if (v->log.out.count > 0)
		v->log.durable_seq = v->log.out.first_seq + v->log.out.count - 1;
	v->log.out.count = 0;
	v->log.written_ctr = round->last_ctr;
	v->writes += round->first != NULL;
}

void engine_open_gate(struct volume *v)
{
	v->gate = false;
	pthread_cond_broadcast(&v->changed);
}

static int commit_group(struct volume *v)
{
	struct round round;
	int r;

	v->committing = true;
	r = round_close(v, &round);
	engine_open_gate(v);
	if (r == 0) {
		pthread_mutex_unlock(&v->tree.lock);
		r = round_write(v, &round);
		pthread_mutex_lock(&v->tree.lock);
		round_finish(v, &round, r);
	}
	v->committing = false;
	pthread_cond_broadcast(&v->changed);
	return r;
}

int engine_commit(struct volume *v)
{
	int r;

	pthread_mutex_lock(&v->tree.lock);
	while (v->committing && !atomic_load(&v->locked))
		pthread_cond_wait(&v->changed, &v->tree.lock);
	r = engine_admits(v);
	if (r == 0 && v->log.count > 0)
		r = commit_group(v);
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}

/* --- flushing ---------------------------------------------------------------------------------------------------------- */

/* With tree.lock. Never past a node that is on its way: its data may be settled, it is not. */
static void settle(struct volume *v, uint64_t ctr)
{
	struct log *l = &v->log;

	if (l->node_ctr != 0 && ctr >= l->node_ctr)
		ctr = l->node_ctr - 1;
	if (!l->frozen && ctr > l->settled)
		l->settled = ctr;
}

/* With tree.lock, which goes away while the device flushes. */
static int flush_device(struct volume *v)
{
	uint64_t covers = v->writes, ctr = v->log.written_ctr;
	int r;

	v->flushing = true;
	pthread_mutex_unlock(&v->tree.lock);
	r = engine_sync(v);
	pthread_mutex_lock(&v->tree.lock);
	v->flushing = false;
	if (r < 0) {
		engine_fail(v, "a flush of the device", r);
	} else {
		v->flushed = covers;
		settle(v, ctr);
	}
	pthread_cond_broadcast(&v->changed);
	return r;
}

int engine_flush(struct volume *v)
{
	int r = engine_commit(v);
	uint64_t want;

	pthread_mutex_lock(&v->tree.lock);
	want = v->writes;
	while (r == 0 && v->flushed < want) {
		r = engine_admits(v);
		if (r == 0 && v->flushing)
			pthread_cond_wait(&v->changed, &v->tree.lock);
		else if (r == 0)
			r = flush_device(v);
	}
	if (r == 0 && v->flushed == v->writes)
		settle(v, v->log.written_ctr);
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}
