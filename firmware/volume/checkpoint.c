/* From the tree in memory to the tree on the device, in two steps that never mix: seal everything under tree.lock with keys and
 * without I/O, then write it with I/O and without keys. A checkpoint does both in turn; a lock does the first, wipes, and leaves
 * the second to volume_lock_drain. What must stay true: the first step names no data write that the device may still refuse,
 * except in a lock, which cannot wait; a write or flush that fails in the second step ends all acknowledgements. */
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/log.h"
#include "engine.h"
#include "format.h"
#include "hal/block.h"

static uint64_t boot_ns(void)
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

/* --- step one: seal, under tree.lock ----------------------------------------------------------------------------------- */

static int seal_all(struct volume *v, struct batch *b, bool clean)
{
	uint64_t unused;
	int r = tree_seal(&v->tree, b);

	if (r < 0)
		return r;
	/* A sequence number is used up even by an attempt that fails: salt and number must not meet twice. */
	v->root.seq++;
	sealer_take_reserved(&v->sealer, 0, v->root.salt, &unused);
	v->root.gen_no = v->sealer.gen_no[v->sealer.active];
	v->root.clean = clean;
	v->root.ctr_next = sealer_next(&v->sealer);
	v->root.top = v->tree.top;
	r = root_seal(v->keys, b->root, &v->root, v->header.uuid);
	if (r < 0) {
		tree_unseal(&v->tree, b);
		return r;
	}
	b->has_root = true;
	v->root_dirty = false;
	return 0;
}

/* --- step two: write, without any lock or key -------------------------------------------------------------------------- */

/* Sealed neighbours that are neighbours on the device too: one write. */
static size_t stretch(const struct batch *b, size_t from)
{
	size_t n = 1;

	while (from + n < b->count && n < IO_SECTORS && b->where[from + n].level == b->where[from].level &&
	       b->where[from + n].index == b->where[from].index + n)
		n++;
	return n;
}

static int write_nodes(struct volume *v, struct batch *b)
{
	for (size_t i = 0, n; i < b->count; i += n) {
		unsigned level = b->where[i].level, copies = level >= 2 ? 2 : 1;
		uint8_t *blocks = b->blocks + i * SECTOR_BYTES;

		n = stretch(b, i);
		for (size_t k = 0; k < n; k++)
			block_checksum(blocks + k * SECTOR_BYTES);
		for (unsigned copy = 0; copy < copies; copy++) {
			uint64_t at = geometry_offset(&v->header.geometry, level, b->where[i].index, copy);
			int r = v->dev->ops->write(v->dev, blocks, n * SECTOR_BYTES, at);

			if (r < 0)
				return r;
		}
	}
	return 0;
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

static int write_root(struct volume *v, struct batch *b, uint64_t seq)
{
	if (!root_place_is_ours(v, seq)) {
		log_error("volume: another process or host has opened this volume too: stop that one");
		return ERR_BUSY;
	}
	return root_write(v->dev, &v->header.geometry, seq, b->root);
}

/* `seq` is the root's in this batch. */
static int write_batch(struct volume *v, struct batch *b, uint64_t seq)
{
	int r = v->dev->ops->flush(v->dev);

	if (r == 0 && b->count > 0) {
		r = write_nodes(v, b);
		if (r == 0)
			r = v->dev->ops->flush(v->dev);
	}
	if (r == 0 && b->has_root)
		r = write_root(v, b, seq);
	if (r < 0)
		log_error("volume: writing the tree failed: %s; nothing more is acknowledged until the volume is opened again",
			  error_text(r));
	return r;
}

/* --- both: the checkpoint ---------------------------------------------------------------------------------------------- */

/* With tree.lock: closes the gate, lets the data writes in flight end, seals. */
static int quiesce_and_seal(struct volume *v, bool clean)
{
	int r;

	v->gate = true;
	while (v->in_flight > 0 && !atomic_load(&v->locked))
		pthread_cond_wait(&v->changed, &v->tree.lock);
	r = engine_admits(v);
	if (r == 0)
		r = seal_all(v, &v->batches[0], clean);
	v->gate = false;
	pthread_cond_broadcast(&v->changed);
	return r;
}

static int run_checkpoint(struct volume *v, bool clean)
{
	struct batch *b = &v->batches[0];
	uint64_t seq;
	int r = quiesce_and_seal(v, clean);

	if (r < 0)
		return r;
	seq = v->root.seq;
	pthread_mutex_unlock(&v->tree.lock);
	r = write_batch(v, b, seq);
	pthread_mutex_lock(&v->tree.lock);
	b->has_root = false;
	/* After a failure the nodes stay pinned: what the device holds of them is not known, memory is right for reading. */
	if (r == 0)
		tree_release(&v->tree, b);
	else
		atomic_store(&v->failstop, true);
	return r;
}

int engine_checkpoint(struct volume *v, bool clean)
{
	int r;

	pthread_mutex_lock(&v->tree.lock);
	while (v->checkpointing && !atomic_load(&v->locked))
		pthread_cond_wait(&v->changed, &v->tree.lock);
	r = engine_admits(v);
	if (r == 0 && (clean || v->root_dirty || v->tree.dirty_count > 0 || v->in_flight > 0)) {
		v->checkpointing = true;
		r = run_checkpoint(v, clean);
		v->checkpointing = false;
		pthread_cond_broadcast(&v->changed);
	}
	pthread_mutex_unlock(&v->tree.lock);
	return r;
}

/* --- apart: the lock --------------------------------------------------------------------------------------------------- */

static bool unsealed_state(const struct volume *v)
{
	return v->tree.dirty_count > 0 || v->root_dirty;
}

void volume_lock_keys(struct volume *v, uint64_t *cut_ns, uint64_t *wiped_ns)
{
	pthread_mutex_lock(&v->lock_once);
	if (!v->lock_done) {
		keyring_shut(v->keys);
		v->cut_ns = boot_ns();
		pthread_mutex_lock(&v->tree.lock);
		atomic_store(&v->locked, true);
		if (atomic_load(&v->failstop)) {
			v->lock_result = ERR_FAILSTOP;
		} else if (!v->read_only && unsealed_state(v)) {
			keyring_privileged_begin(v->keys);
			v->lock_result = seal_all(v, &v->batches[1], false);
			keyring_privileged_end(v->keys);
		}
		keyring_wipe(v->keys);
		v->wiped_ns = boot_ns();
		tree_wipe(&v->tree);
		secret_wipe(&v->root.top, sizeof v->root.top);
		pthread_cond_broadcast(&v->changed);
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
	struct batch *b = &v->batches[1];
	uint64_t seq = v->root.seq;
	int r = 0;

	if (v->lock_result < 0)
		return ERR_FAILSTOP;
	if (atomic_load(&v->failstop))
		return ERR_FAILSTOP;
	if (b->has_root) {
		pthread_mutex_unlock(&v->tree.lock);
		r = write_batch(v, b, seq);
		pthread_mutex_lock(&v->tree.lock);
		if (r < 0)
			atomic_store(&v->failstop, true);
	}
	return r < 0 ? r : v->lost;
}

int volume_lock_drain(struct volume *v)
{
	int r;

	pthread_mutex_lock(&v->tree.lock);
	if (!atomic_load(&v->locked)) {
		pthread_mutex_unlock(&v->tree.lock);
		return ERR_STATE;
	}
	while (v->in_flight > 0 || v->checkpointing)
		pthread_cond_wait(&v->changed, &v->tree.lock);
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
