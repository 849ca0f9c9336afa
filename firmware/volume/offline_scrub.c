/* Walking the tree of a volume that is open read-only: every node, both copies, and with scrub every sector. A volume that was
 * not closed is walked as its recovery, done in memory, leaves it. What must stay true: a copy of a node is rewritten only with
 * bytes that opened under the slot that its parent holds, and only by scrub with repair; plaintext is wiped as soon as its tag
 * was judged. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "hal/block.h"
#include "offline_work.h"

struct walk {
	struct offline *w;
	struct volume *v;
	bool sectors;
	bool wrote;
	uint64_t zero, sealed;   /* sectors of each kind */
	uint8_t *blocks[COPIES]; /* a node's copies */
	uint8_t *io;             /* FANOUT sectors as they are on the device */
	uint8_t *plain;          /* AEAD_RUN_MAX of them opened, and a node */
	struct run run;
};

int offline_open(struct offline *w, struct volume **v, bool repair)
{
	const struct volume_options options = {
		.read_only = true,
		.stepped = true,
		.kcv = w->o->kcv,
		.assume_4k = true,
		.test_geometry = w->o->test_geometry,
		.skip_log_damage = repair,
		.bad_tags_max = UINT64_MAX,
	};
	char why[160];
	int r = volume_open(v, w->dev, w->keys, &options, why, sizeof why);

	return r < 0 ? offline_because(w, r, "the volume does not open: %s", why) : 0;
}

static uint64_t sectors_below(const struct geometry *g, unsigned level, uint64_t index)
{
	uint64_t first = index * g->span[level];

	return g->span[level] < g->n_sectors - first ? g->span[level] : g->n_sectors - first;
}

/* --- nodes ------------------------------------------------------------------------------------------------------------- */

/* Without the tree's lock: which copies of the node are the version that slot names. *good: one of them, -1: none. */
static int judge_copies(struct walk *k, unsigned level, uint64_t index, const struct slot *slot, bool bad[COPIES], int *good)
{
	struct offline *w = k->w;
	unsigned copies = level >= 2 ? COPIES : 1;
	int r = 0;

	*good = -1;
	for (unsigned c = 0; c < copies && r == 0; c++) {
		bool read;
		int opened;

		r = offline_read(w, k->blocks[c], 1, geometry_offset(&k->v->header.geometry, level, index, c), &read);
		opened = node_open(&k->v->sealer, k->plain, k->blocks[c], level, index, slot);
		secret_wipe(k->plain, SEALED_BYTES);
		if (opened == ERR_REVOKED)
			return offline_because(w, ERR_REVOKED, "the gate was shut: stopped");
		bad[c] = opened != 0;
		if (!bad[c])
			*good = (int)c;
		w->result->checked++;
	}
	return r;
}

static int mend_copy(struct walk *k, unsigned level, uint64_t index, unsigned bad, unsigned good)
{
	struct offline *w = k->w;
	int r = w->dev->ops->write(w->dev, k->blocks[good], SECTOR_BYTES,
				   geometry_offset(&k->v->header.geometry, level, index, bad));

	if (r < 0) {
		offline_say(w, OFFLINE_REPAIRABLE, "node %llu of level %u: copy %c is damaged and cannot be written (%s)",
			    (unsigned long long)index, level, copy_name(bad), error_text(r));
		return 0;
	}
	k->wrote = true;
	offline_say(w, OFFLINE_MENDED, "node %llu of level %u: copy %c is written again from copy %c", (unsigned long long)index,
		    level, copy_name(bad), copy_name(good));
	return 0;
}

static int check_copies(struct walk *k, unsigned level, uint64_t index, const struct slot *slot)
{
	bool bad[COPIES] = { false, false };
	int good, r = judge_copies(k, level, index, slot, bad, &good);

	for (unsigned c = 0; c < COPIES && r == 0 && good >= 0; c++) {
		if (!bad[c])
			continue;
		if (k->w->o->repair && k->w->verb == OFFLINE_SCRUB)
			r = mend_copy(k, level, index, c, (unsigned)good);
		else
			offline_say(k->w, OFFLINE_REPAIRABLE,
				    "node %llu of level %u: copy %c is damaged or old; scrub --repair writes it again",
				    (unsigned long long)index, level, copy_name(c));
	}
	return r;
}

static int lost_below(struct walk *k, unsigned level, uint64_t index)
{
	uint64_t count = sectors_below(&k->v->header.geometry, level, index);

	offline_lost(k->w, index * k->v->header.geometry.span[level], count,
		     "no copy of a node above them opens: they are errors until they are written again; salvage takes out what "
		     "the log knows");
	return k->sectors ? offline_step(k->w, count * SECTOR_BYTES) : 0;
}

/* --- sectors ----------------------------------------------------------------------------------------------------------- */

/* The sectors of one leaf from lba on, count of them, all SEALED. */
static int open_sectors(struct walk *k, uint64_t lba, size_t count, const struct slot *slots, bool *good)
{
	for (size_t done = 0, n; done < count; done += n) {
		const uint8_t *in[AEAD_RUN_MAX];
		uint8_t *out[AEAD_RUN_MAX];
		int r;

		n = count - done < AEAD_RUN_MAX ? count - done : AEAD_RUN_MAX;
		for (size_t i = 0; i < n; i++) {
			in[i] = k->io + (done + i) * SECTOR_BYTES;
			out[i] = k->plain + i * SECTOR_BYTES;
			good[done + i] = false;
		}
		r = sectors_open(&k->v->sealer, &k->run, lba + done, n, in, out, slots + done, good + done);
		secret_wipe(k->plain, n * SECTOR_BYTES);
		if (r == ERR_REVOKED)
			return offline_because(k->w, ERR_REVOKED, "the gate was shut: stopped");
	}
	return 0;
}

/* A transfer may have gone wrong on its way: what fails is read once more. */
static int prove_stretch(struct walk *k, uint64_t lba, size_t count, const struct slot *slots)
{
	bool read[FANOUT], good[FANOUT];
	int r = offline_read(k->w, k->io, count, geometry_offset(&k->v->header.geometry, 0, lba, 0), read);

	if (r == 0)
		r = open_sectors(k, lba, count, slots, good);
	for (size_t i = 0; i < count && r == 0; i++) {
		uint64_t at = geometry_offset(&k->v->header.geometry, 0, lba + i, 0);

		k->w->result->checked++;
		if (!good[i] && read[i] && k->w->dev->ops->read(k->w->dev, k->io, SECTOR_BYTES, at) == 0)
			r = open_sectors(k, lba + i, 1, slots + i, &good[i]);
		if (r == 0 && !good[i])
			offline_lost(k->w, lba + i, 1,
				     read[i] ? "the tag is wrong: damaged or altered" : "cannot be read from the device");
	}
	return r;
}

static int prove_sectors(struct walk *k, uint64_t lba, size_t count, const struct slot *slots)
{
	int r = 0;

	for (size_t i = 0, n; i < count && r == 0; i += n) {
		for (n = 1; i + n < count && slots[i + n].state == slots[i].state;)
			n++;
		if (slots[i].state == SLOT_SEALED) {
			k->sealed += n;
			if (k->sectors)
				r = prove_stretch(k, lba + i, n, slots + i);
			continue;
		}
		k->zero += slots[i].state == SLOT_ZERO ? n : 0;
		if (slots[i].state == SLOT_BAD)
			offline_lost(k->w, lba + i, n,
				     "lost since an earlier recovery or repair: errors until they are written again");
		else if (slots[i].state != SLOT_ZERO)
			offline_lost(k->w, lba + i, n, "their node holds what no version 1 writes");
		if (k->sectors)
			r = offline_step(k->w, n * SECTOR_BYTES);
	}
	return r;
}

/* --- the walk ---------------------------------------------------------------------------------------------------------- */

static int walk_node(struct walk *k, unsigned level, uint64_t index, const struct slot *slot);

/* With tree.lock and n pinned. */
static int walk_children(struct walk *k, struct node *n)
{
	const struct geometry *g = &k->v->header.geometry;
	int r = 0;

	for (unsigned i = 0; i < g->fanout && r == 0; i++) {
		uint64_t index = n->index * g->fanout + i;
		struct slot slot;

		if (index >= g->count[n->level - 1u])
			break;
		tree_get(n, i, &slot);
		r = walk_node(k, n->level - 1u, index, &slot);
	}
	return r;
}

static int walk_leaf(struct walk *k, const struct node *n)
{
	const struct geometry *g = &k->v->header.geometry;
	uint64_t lba = n->index * g->fanout;
	size_t count = (size_t)sectors_below(g, 1, n->index);
	struct slot slots[FANOUT];

	for (unsigned i = 0; i < count; i++)
		tree_get(n, i, &slots[i]);
	return prove_sectors(k, lba, count, slots);
}

static int skip_zero(struct walk *k, unsigned level, uint64_t index)
{
	uint64_t count = sectors_below(&k->v->header.geometry, level, index);

	k->zero += count;
	return k->sectors ? offline_step(k->w, count * SECTOR_BYTES) : 0;
}

/* With tree.lock. slot: what the parent says, which is what lies on the device, also of a node that the replay has changed. */
static int walk_node(struct walk *k, unsigned level, uint64_t index, const struct slot *slot)
{
	struct node *n;
	unsigned zero_level;
	int r = tree_pin(&k->v->tree, level, index, false, &n, &zero_level);

	if (r == ERR_CORRUPT || r == ERR_IO)
		return lost_below(k, level, index);
	if (r < 0)
		return offline_because(k->w, r, "walking the tree: %s", error_text(r));
	if (n == NULL)
		return skip_zero(k, level, index);
	if (slot->state == SLOT_SEALED)
		r = check_copies(k, level, index, slot);
	if (r == 0)
		r = level == 1 ? walk_leaf(k, n) : walk_children(k, n);
	tree_unpin(&k->v->tree, n);
	return r;
}

static int walk_all(struct walk *k)
{
	struct volume *v = k->v;
	struct slot top;
	int r;

	pthread_mutex_lock(&v->tree.lock);
	top = v->tree.top;
	r = walk_node(k, v->header.geometry.levels, 0, &top);
	pthread_mutex_unlock(&v->tree.lock);
	if (k->wrote && v->dev->ops->flush(v->dev) < 0 && r == 0)
		r = offline_because(k->w, ERR_IO, "what was written could not be flushed");
	return r;
}

static void say_total(struct walk *k)
{
	const struct volume *v = k->v;

	if (v->recovered > 0)
		offline_say(k->w, OFFLINE_NOTE,
			    "it was not closed: %llu log entries were replayed in memory, %llu objects fell back, as the next "
			    "opening will do",
			    (unsigned long long)v->recovered, (unsigned long long)v->fallen_back);
	offline_say(k->w, OFFLINE_NOTE, "sectors: %llu written%s, %llu zero", (unsigned long long)k->sealed,
		    k->sectors ? ", each looked at" : "", (unsigned long long)k->zero);
}

int offline_walk(struct offline *w, struct volume *v, bool sectors)
{
	struct walk *k = calloc(1, sizeof *k);
	uint8_t *room = aligned_alloc(SECTOR_BYTES, (COPIES + FANOUT + AEAD_RUN_MAX) * SECTOR_BYTES);
	int r = k == NULL || room == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : 0;

	if (r == 0) {
		k->w = w;
		k->v = v;
		k->sectors = sectors;
		k->blocks[0] = room;
		k->blocks[1] = room + SECTOR_BYTES;
		k->io = room + COPIES * SECTOR_BYTES;
		k->plain = k->io + FANOUT * SECTOR_BYTES;
		r = walk_all(k);
		if (r == 0)
			say_total(k);
	}
	free(room);
	free(k);
	return r;
}

int offline_scrub(struct offline *w)
{
	struct volume *v;
	int r = offline_headers(w);

	if (r == 0)
		r = offline_authenticate(w);
	if (r == 0)
		r = offline_open(w, &v, false);
	if (r < 0)
		return r;
	offline_expect(w, w->header->geometry.n_sectors * SECTOR_BYTES);
	r = offline_walk(w, v, true);
	volume_close(v);
	return r;
}
