/* check: looks at everything that is not data, in the order in which an opening needs it, and says which verb mends what. What
 * must stay true: nothing is written; every byte is hostile; without a key a block that carries no magic of ours is nothing that
 * can be judged, and is not called damaged. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/block.h"
#include "offline_work.h"

enum { CHUNK = 64 };

/* --- headers and geometry ---------------------------------------------------------------------------------------------- */

static void tell_volume(struct offline *w)
{
	const struct header *h = w->header;
	char uuid[2 * UUID_BYTES + 1];

	for (unsigned i = 0; i < UUID_BYTES; i++)
		snprintf(uuid + 2 * (size_t)i, 3, "%02x", h->uuid[i]);
	offline_say(w, OFFLINE_NOTE, "volume %s, label '%s', %llu bytes, header %llu, key generation %u, %u KEK slots", uuid,
		    h->label, (unsigned long long)(h->geometry.n_sectors * SECTOR_BYTES), (unsigned long long)h->seq,
		    h->generations[h->active].gen_no, h->slot_count);
}

static void check_copies(struct offline *w)
{
	const struct header_pair *p = w->pair;

	for (unsigned c = 0; c < COPIES; c++) {
		if (p->result[c] == 0)
			continue;
		if (p->result[1 - c] == 0)
			offline_say(w, OFFLINE_REPAIRABLE, "header %c: %s; repair-header writes it again from header %c",
				    copy_name(c), p->why[c], copy_name(1 - c));
		else
			offline_say(w, OFFLINE_REPAIRABLE, "header %c: %s; header-restore puts the backup back", copy_name(c),
				    p->why[c]);
	}
	if (p->result[0] == 0 && p->result[1] == 0 && memcmp(p->bytes[0], p->bytes[1], HEADER_BYTES) != 0)
		offline_say(w, OFFLINE_REPAIRABLE,
			    "the headers differ (A is number %llu, B is %llu): an update was cut, or one was altered; "
			    "attaching the volume, or repair-header with the key, settles it",
			    (unsigned long long)p->header[0].seq, (unsigned long long)p->header[1].seq);
}

static void check_device(struct offline *w)
{
	const struct geometry *g = &w->header->geometry;

	if (g->backing_size > w->dev->size) {
		offline_say(
			w, OFFLINE_LOSS,
			"the device is %llu bytes smaller than the volume: what lay there is gone; salvage takes out the rest",
			(unsigned long long)(g->backing_size - w->dev->size));
		w->result->lost++;
	} else if (g->backing_size < w->dev->size) {
		offline_say(w, OFFLINE_NOTE,
			    "the device is %llu bytes larger than the volume: header B and root ring B are not at its end",
			    (unsigned long long)(w->dev->size - g->backing_size));
	}
}

/* With a key: the copies that are whole, one by one. */
static int check_macs(struct offline *w)
{
	for (unsigned c = 0; c < COPIES; c++) {
		int r;

		if (w->pair->result[c] != 0)
			continue;
		r = offline_header_mac(w, &w->pair->header[c], w->pair->bytes[c]);
		if (r == ERR_REVOKED)
			return offline_because(w, r, "the gate was shut: stopped");
		if (r == ERR_CORRUPT)
			offline_say(w, OFFLINE_REPAIRABLE,
				    "header %c: its MAC is wrong: it was altered by somebody without the key", copy_name(c));
		else if (r < 0)
			offline_say(w, OFFLINE_REPAIRABLE, "header %c: it was not made with this volume's key", copy_name(c));
		else if (w->root_result == 0 && !offline_named(w, &w->pair->header[c]))
			offline_say(w, OFFLINE_REPAIRABLE,
				    "header %c: the newest root record names another one: this one is old; repair-header writes "
				    "it again",
				    copy_name(c));
	}
	return 0;
}

/* --- root rings -------------------------------------------------------------------------------------------------------- */

struct ring_view {
	bool read[COPIES][ROOT_RING], blank[COPIES][ROOT_RING];
	uint64_t seq[COPIES][ROOT_RING]; /* 0: none there that can be believed */
	int opened[COPIES][ROOT_RING];
	uint8_t blocks[COPIES][ROOT_RING * SECTOR_BYTES];
};

static int view_rings(struct offline *w, struct ring_view *v)
{
	const struct geometry *g = &w->header->geometry;
	int r = 0;

	for (unsigned c = 0; c < COPIES && r == 0; c++) {
		r = offline_read(w, v->blocks[c], ROOT_RING, g->root_off[c], v->read[c]);
		for (unsigned i = 0; i < ROOT_RING && r == 0; i++) {
			const uint8_t *block = v->blocks[c] + i * (size_t)SECTOR_BYTES;
			struct root root;

			w->result->checked++;
			v->blank[c][i] = v->read[c][i] && block_blank(block);
			if (root_decode_clear(&root, block, w->header->uuid) && root.seq % ROOT_RING == i)
				v->seq[c][i] = root.seq;
			if (w->keys == NULL || v->seq[c][i] == 0)
				continue;
			v->opened[c][i] = root_open(w->keys, &root, block, w->header->uuid);
			if (v->opened[c][i] == ERR_REVOKED)
				r = offline_because(w, ERR_REVOKED, "the gate was shut: stopped");
			secret_wipe(&root, sizeof root);
		}
	}
	return r;
}

static bool whole(const struct ring_view *v, unsigned c, unsigned i)
{
	return v->seq[c][i] != 0 && v->opened[c][i] == 0;
}

static const char *fault_of(const struct ring_view *v, unsigned c, unsigned i)
{
	if (!v->read[c][i])
		return "cannot be read";
	if (v->opened[c][i] != 0)
		return "fails its tag: it was altered";
	return v->blank[c][i] ? "is blank" : "is damaged (checksum, place or volume)";
}

/* Places are used in turn: one that no root has reached yet is blank in both rings. */
static void judge_place(struct offline *w, const struct ring_view *v, unsigned i)
{
	if (v->blank[0][i] && v->blank[1][i])
		return;
	for (unsigned c = 0; c < COPIES; c++) {
		if (whole(v, c, i))
			continue;
		if (whole(v, 1 - c, i))
			offline_say(w, OFFLINE_REPAIRABLE,
				    "root ring %c, place %u %s; the other ring has it, and the next four openings write it again",
				    copy_name(c), i, fault_of(v, c, i));
		else
			offline_say(w, OFFLINE_NOTE, "root ring %c, place %u %s, and so is the other ring's", copy_name(c), i,
				    fault_of(v, c, i));
	}
	if (whole(v, 0, i) && whole(v, 1, i) && v->seq[0][i] != v->seq[1][i])
		offline_say(w, OFFLINE_NOTE, "root rings, place %u: numbers %llu and %llu: a write was cut there", i,
			    (unsigned long long)v->seq[0][i], (unsigned long long)v->seq[1][i]);
}

static int check_rings(struct offline *w)
{
	struct ring_view *v = calloc(1, sizeof *v);
	uint64_t newest = 0;
	int r = v == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : view_rings(w, v);

	for (unsigned i = 0; i < ROOT_RING && r == 0; i++) {
		judge_place(w, v, i);
		for (unsigned c = 0; c < COPIES; c++)
			if (whole(v, c, i) && v->seq[c][i] > newest)
				newest = v->seq[c][i];
	}
	if (r == 0 && newest == 0) {
		offline_say(w, OFFLINE_LOSS,
			    "no root record is left: the volume cannot be opened; salvage takes out what the nodes vouch for");
		w->result->lost++;
	} else if (r == 0) {
		offline_say(w, OFFLINE_NOTE, "newest root record: %llu", (unsigned long long)newest);
	}
	free(v);
	return r;
}

/* --- the log, without a key -------------------------------------------------------------------------------------------- */

struct log_view {
	uint64_t *seq;             /* per place; 0: none there that can be believed */
	uint64_t proof, proof_seq; /* the largest prefix_seq, and who says so */
	uint64_t unreadable, damaged;
};

static void view_log_block(struct offline *w, struct log_view *v, uint64_t place, const uint8_t *block, bool good)
{
	struct log_head h;

	w->result->checked++;
	v->unreadable += !good;
	if (!logblock_decode_clear(&h, block, w->header->uuid) || h.seq == 0 || h.seq % w->header->geometry.log_blocks != place) {
		v->damaged +=
			good && memcmp(block + 0x1C, "FGL1", 4) == 0 && memcmp(block + 0x38, w->header->uuid, UUID_BYTES) == 0;
		return;
	}
	v->seq[place] = h.seq;
	if (h.prefix_seq < h.seq && h.prefix_seq > v->proof) {
		v->proof = h.prefix_seq;
		v->proof_seq = h.seq;
	}
}

static int view_log(struct offline *w, struct log_view *v)
{
	const struct geometry *g = &w->header->geometry;
	uint8_t *blocks = aligned_alloc(SECTOR_BYTES, CHUNK * SECTOR_BYTES);
	int r = blocks == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : 0;

	for (uint64_t at = 0; at < g->log_blocks && r == 0; at += CHUNK) {
		size_t n = g->log_blocks - at < CHUNK ? (size_t)(g->log_blocks - at) : CHUNK;
		bool good[CHUNK];

		r = offline_read(w, blocks, n, g->log_off + at * SECTOR_BYTES, good);
		for (size_t i = 0; i < n && r == 0; i++)
			view_log_block(w, v, at + i, blocks + i * SECTOR_BYTES, good[i]);
	}
	free(blocks);
	return r;
}

/* A number that was durable once stands in its place, or a later lap's does. */
static void judge_log(struct offline *w, const struct log_view *v)
{
	const uint64_t blocks = w->header->geometry.log_blocks;
	uint64_t from = v->proof > blocks ? v->proof - blocks + 1 : 1, holes = 0, first = 0;

	for (uint64_t seq = from; seq <= v->proof; seq++)
		if (v->seq[seq % blocks] < seq) {
			first = holes == 0 ? seq : first;
			holes++;
		}
	if (holes > 0)
		offline_say(w, OFFLINE_REPAIRABLE,
			    "log: %llu blocks from %llu on are gone that were durable (block %llu says so); if they are still "
			    "needed, repair-log with the key opens the volume without them",
			    (unsigned long long)holes, (unsigned long long)first, (unsigned long long)v->proof_seq);
	if (v->unreadable > 0)
		offline_say(w, OFFLINE_REPAIRABLE, "log: %llu blocks cannot be read; repair-log with the key writes them anew",
			    (unsigned long long)v->unreadable);
	if (v->damaged > 0)
		offline_say(w, OFFLINE_NOTE,
			    "log: %llu blocks carry the volume's mark and a wrong checksum or place: damage, or cut writes",
			    (unsigned long long)v->damaged);
}

static int check_log(struct offline *w)
{
	struct log_view v = { .seq = calloc(w->header->geometry.log_blocks, sizeof(uint64_t)) };
	int r = v.seq == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : view_log(w, &v);

	if (r == 0)
		judge_log(w, &v);
	free(v.seq);
	return r;
}

/* --- nodes, without a key ---------------------------------------------------------------------------------------------- */

enum node_look { LOOK_NOTHING, LOOK_GOOD, LOOK_DAMAGED };

/* What can be said of a block in the place of (level, index). */
static enum node_look look(const struct offline *w, const uint8_t *block, bool good, unsigned level, uint64_t index)
{
	struct node_clear n;

	if (!good)
		return LOOK_DAMAGED;
	if (node_decode_clear(&n, block, w->header->uuid))
		return n.level == level && n.index == index ? LOOK_GOOD : LOOK_DAMAGED;
	return memcmp(block + 0x1C, "FGN1", 4) == 0 && memcmp(block + 0x38, w->header->uuid, UUID_BYTES) == 0 ? LOOK_DAMAGED
													      : LOOK_NOTHING;
}

static void judge_node(struct offline *w, unsigned level, uint64_t index, const enum node_look *looks)
{
	const struct geometry *g = &w->header->geometry;
	uint64_t first = index * g->span[level], count = g->span[level];

	for (unsigned c = 0; c < COPIES; c++)
		if (level >= 2 && looks[c] == LOOK_DAMAGED && looks[1 - c] == LOOK_GOOD)
			offline_say(w, OFFLINE_REPAIRABLE,
				    "node %llu of level %u: copy %c is damaged; scrub --repair writes it again",
				    (unsigned long long)index, level, copy_name(c));
	if (looks[0] != LOOK_DAMAGED || (level >= 2 && looks[1] == LOOK_GOOD))
		return;
	if (count > g->n_sectors - first)
		count = g->n_sectors - first;
	offline_lost(
		w, first, count,
		"the node that vouches for them is damaged (unless they were zeroed since): salvage gets what the log knows");
}

/* However many nodes a header claims: what lies past the device's end is gone in one step. */
static int past_the_end(struct offline *w, unsigned level, uint64_t from)
{
	const struct geometry *g = &w->header->geometry;

	if (level == 1)
		offline_lost(w, from * g->span[1], g->n_sectors - from * g->span[1], "their nodes lie past the device's end");
	return 0;
}

static int check_level(struct offline *w, unsigned level, uint8_t *const blocks[COPIES])
{
	const struct geometry *g = &w->header->geometry;
	unsigned copies = level >= 2 ? COPIES : 1;
	int r = 0;

	for (uint64_t at = 0; at < g->count[level] && r == 0; at += CHUNK) {
		size_t n = g->count[level] - at < CHUNK ? (size_t)(g->count[level] - at) : CHUNK;
		bool good[COPIES][CHUNK];

		if (geometry_offset(g, level, at, 0) >= w->dev->size)
			return past_the_end(w, level, at);

		for (unsigned c = 0; c < copies && r == 0; c++)
			r = offline_read(w, blocks[c], n, geometry_offset(g, level, at, c), good[c]);
		for (size_t i = 0; i < n && r == 0; i++) {
			enum node_look looks[COPIES] = { LOOK_NOTHING, LOOK_NOTHING };

			for (unsigned c = 0; c < copies; c++)
				looks[c] = look(w, blocks[c] + i * SECTOR_BYTES, good[c][i], level, at + i);
			judge_node(w, level, at + i, looks);
			w->result->checked += copies;
		}
	}
	return r;
}

static int check_nodes(struct offline *w)
{
	uint8_t *blocks = aligned_alloc(SECTOR_BYTES, COPIES * CHUNK * SECTOR_BYTES);
	uint8_t *const copies[COPIES] = { blocks, blocks + CHUNK * SECTOR_BYTES };
	int r = blocks == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : 0;

	for (unsigned l = w->header->geometry.levels; l >= 1 && r == 0; l--)
		r = check_level(w, l, copies);
	free(blocks);
	return r;
}

/* --- all of it --------------------------------------------------------------------------------------------------------- */

static uint64_t node_bytes(const struct geometry *g)
{
	uint64_t blocks = 0;

	for (unsigned l = 1; l <= g->levels; l++)
		blocks += g->count[l] * (l >= 2 ? COPIES : 1);
	return blocks * SECTOR_BYTES;
}

static int check_clear_parts(struct offline *w)
{
	int r;

	offline_expect(w, w->header->geometry.log_blocks * SECTOR_BYTES + node_bytes(&w->header->geometry));
	r = check_log(w);
	if (r == 0)
		r = check_nodes(w);
	if (r == 0 && w->keys == NULL)
		offline_say(w, OFFLINE_NOTE, "looked at without the key: checksums and places; nothing here proves who wrote it");
	return r;
}

/* With a key the log is followed as an opening does, and the tree is walked: that says more than any checksum. */
static int check_tree(struct offline *w)
{
	struct volume *v;
	int r = offline_open(w, &v, false);
	char why[LINE_BYTES];

	if (r != 0 && r != ERR_REVOKED && r != ERR_NOMEM) {
		snprintf(why, sizeof why, "%s", w->why);
		r = offline_open(w, &v, true);
		if (r != 0 && r != ERR_REVOKED && r != ERR_NOMEM) {
			offline_say(w, OFFLINE_LOSS, "%s; salvage takes out what the nodes vouch for", why);
			w->result->lost++;
			return check_clear_parts(w);
		}
		if (r == 0)
			offline_say(w, OFFLINE_REPAIRABLE,
				    "log: %llu blocks from %llu on are damaged or cannot be read: the volume does not open; "
				    "repair-log goes on "
				    "without them",
				    (unsigned long long)v->gaps.blocks, (unsigned long long)v->gaps.first);
	}
	if (r < 0)
		return r;
	offline_expect(w, node_bytes(&w->header->geometry));
	/* What was replayed is said by the walk. */
	if (v->root.clean || v->recovered == 0)
		offline_say(w, OFFLINE_NOTE,
			    v->root.clean ? "it was closed in good order" : "it was not closed, and its log holds nothing new");
	r = offline_walk(w, v, false);
	volume_close(v);
	return r;
}

static int check_headers(struct offline *w)
{
	int r, macs;

	tell_volume(w);
	check_copies(w);
	check_device(w);
	if (w->keys == NULL)
		return 0;
	r = offline_authenticate(w);
	if (r == ERR_REVOKED || r == ERR_NOMEM)
		return r;
	macs = check_macs(w);
	return macs < 0 ? macs : r;
}

int offline_check(struct offline *w)
{
	int r = offline_headers(w);

	if (w->header == NULL)
		return r;
	r = check_headers(w);
	if (r == 0)
		r = check_rings(w);
	if (r < 0)
		return r;
	/* Without headers on the device the engine opens nothing, whatever a backup says. */
	return w->root_result == 0 && w->header != &w->from_backup ? check_tree(w) : check_clear_parts(w);
}
