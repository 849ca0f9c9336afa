/* dump: the layout, or the path to one sector, for people. What must stay true: numbers and names of the clear parts, with a key
 * also those of roots and slots; never a wrapped key, never a tag or salt of a sealed slot, never data. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "hal/block.h"
#include "offline_work.h"

typedef unsigned long long number;

static void hex(char *out, const uint8_t *in, size_t size)
{
	out[0] = '\0';
	for (size_t i = 0; i < size; i++)
		snprintf(out + 2 * i, 3, "%02x", in[i]);
}

/* --- header ------------------------------------------------------------------------------------------------------------ */

static void dump_region(struct offline *w, const char *what, uint64_t at, uint64_t blocks)
{
	offline_say(w, OFFLINE_NOTE, "  %12llu  %10llu blocks  %s", (number)at, (number)blocks, what);
}

static void dump_regions(struct offline *w)
{
	const struct geometry *g = &w->header->geometry;
	char what[64];

	offline_say(w, OFFLINE_NOTE, "regions (byte offset, length):");
	dump_region(w, "header A", g->header_off[0], HEADER_BYTES / SECTOR_BYTES);
	dump_region(w, "root ring A", g->root_off[0], ROOT_RING);
	dump_region(w, "log", g->log_off, g->log_blocks);
	for (unsigned c = 0; c < COPIES; c++)
		for (unsigned l = 1; l <= g->levels; l++) {
			if (c == 1 && l == 1)
				continue;
			snprintf(what, sizeof what, "nodes of level %u, copy %c", l, copy_name(c));
			dump_region(w, what, g->node_off[c][l], g->count[l]);
		}
	dump_region(w, "data", g->data_off, g->n_sectors);
	dump_region(w, "root ring B", g->root_off[1], ROOT_RING);
	dump_region(w, "header B", g->header_off[1], HEADER_BYTES / SECTOR_BYTES);
}

static void dump_slots(struct offline *w)
{
	const struct header *h = w->header;

	for (unsigned i = 0; i < h->slot_count; i++) {
		const struct kek_slot *s = &h->slots[i];
		char print[2 * KEK_FINGERPRINT_BYTES + 1], id[2 * sizeof s->id + 1];

		hex(print, s->fingerprint, sizeof s->fingerprint);
		hex(id, s->id, s->id_size);
		offline_say(w, OFFLINE_NOTE, "KEK slot: %s, generation %u, label '%s', token '%s', id %s",
			    s->type == KEK_SLOT_AES_KW ? "AES key wrap" : "RSA-OAEP", s->gen_no, s->label, s->token, id);
		offline_say(w, OFFLINE_NOTE, "  fingerprint %s", print);
	}
}

static void dump_header(struct offline *w)
{
	static const char *const states[] = { "free", "active", "retiring", "destroyed" };
	const struct header *h = w->header;
	char text[2 * 32 + 1];

	for (unsigned c = 0; c < COPIES; c++)
		offline_say(w, OFFLINE_NOTE, "header %c: %s", copy_name(c), w->pair->result[c] == 0 ? "whole" : w->pair->why[c]);
	hex(text, h->uuid, sizeof h->uuid);
	offline_say(w, OFFLINE_NOTE, "uuid %s, label '%s', header %llu, created %llu", text, h->label, (number)h->seq,
		    (number)h->created);
	hex(text, h->hash, sizeof h->hash);
	offline_say(w, OFFLINE_NOTE, "header hash %s, MAC %s", text, w->authentic ? "right" : "not looked at");
	offline_say(w, OFFLINE_NOTE, "%llu sectors, fanout %u, %u levels, log of %llu blocks, backing %llu bytes (device: %llu)",
		    (number)h->geometry.n_sectors, h->geometry.fanout, h->geometry.levels, (number)h->geometry.log_blocks,
		    (number)h->geometry.backing_size, (number)w->dev->size);
	for (unsigned i = 0; i < GENERATIONS; i++)
		if (h->generations[i].state != GENERATION_FREE)
			offline_say(w, OFFLINE_NOTE, "generation %u: %s, created %llu, from counter %llu on",
				    h->generations[i].gen_no, states[h->generations[i].state], (number)h->generations[i].created,
				    (number)h->generations[i].ctr_start);
	dump_slots(w);
	dump_regions(w);
}

/* --- roots and log ----------------------------------------------------------------------------------------------------- */

static const char *state_name(unsigned state)
{
	static const char *const names[] = { "INVALID", "SEALED", "ZERO", "BAD" };

	return state < sizeof names / sizeof names[0] ? names[state] : "impossible";
}

static int dump_root(struct offline *w, unsigned copy, unsigned place, const uint8_t *block)
{
	struct root r;
	int opened;

	if (!root_decode_clear(&r, block, w->header->uuid)) {
		offline_say(w, OFFLINE_NOTE, "root ring %c, place %u: %s", copy_name(copy), place,
			    block_blank(block) ? "blank" : "no root record of this volume");
		return 0;
	}
	opened = w->keys == NULL ? ERR_NOT_FOUND : root_open(w->keys, &r, block, w->header->uuid);
	if (opened == ERR_REVOKED)
		return offline_because(w, ERR_REVOKED, "the gate was shut: stopped");
	if (opened != 0)
		offline_say(w, OFFLINE_NOTE, "root ring %c, place %u: root %llu, generation %u%s", copy_name(copy), place,
			    (number)r.seq, r.gen_no, w->keys == NULL ? "" : ", its tag is WRONG");
	else
		offline_say(w, OFFLINE_NOTE,
			    "root ring %c, place %u: root %llu, %s, next counter %llu, settled %llu, log from %llu, top %s %llu, "
			    "opens %llu, header %s",
			    copy_name(copy), place, (number)r.seq, r.clean ? "closed" : "not closed", (number)r.ctr_next,
			    (number)r.settled, (number)r.tail_seq, state_name(r.top.state), (number)r.top.ctr, (number)r.opens,
			    memcmp(r.header_hash[0], r.header_hash[1], 32) == 0 ? "settled" : "being changed");
	return 0;
}

static int dump_roots(struct offline *w)
{
	uint8_t *blocks = aligned_alloc(SECTOR_BYTES, ROOT_RING * SECTOR_BYTES);
	int r = blocks == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : 0;

	for (unsigned c = 0; c < COPIES && r == 0; c++) {
		bool good[ROOT_RING];

		r = offline_read(w, blocks, ROOT_RING, w->header->geometry.root_off[c], good);
		for (unsigned i = 0; i < ROOT_RING && r == 0; i++) {
			if (good[i])
				r = dump_root(w, c, i, blocks + i * (size_t)SECTOR_BYTES);
			else
				offline_say(w, OFFLINE_NOTE, "root ring %c, place %u: cannot be read", copy_name(c), i);
		}
	}
	free(blocks);
	return r;
}

static int dump_log(struct offline *w)
{
	const struct geometry *g = &w->header->geometry;
	uint64_t count = 0, least = UINT64_MAX, most = 0, entries = 0;
	uint8_t *block = aligned_alloc(SECTOR_BYTES, SECTOR_BYTES);
	int r = block == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : 0;

	for (uint64_t i = 0; i < g->log_blocks && r == 0; i++) {
		struct log_head h;
		bool good;

		r = offline_read(w, block, 1, g->log_off + i * SECTOR_BYTES, &good);
		if (!logblock_decode_clear(&h, block, w->header->uuid) || h.seq % g->log_blocks != i)
			continue;
		count++;
		entries += h.count;
		least = h.seq < least ? h.seq : least;
		most = h.seq > most ? h.seq : most;
	}
	free(block);
	if (r == 0 && count > 0)
		offline_say(w, OFFLINE_NOTE, "log: %llu blocks with %llu entries, numbers %llu to %llu", (number)count,
			    (number)entries, (number)least, (number)most);
	else if (r == 0)
		offline_say(w, OFFLINE_NOTE, "log: no blocks");
	return r;
}

/* --- one sector -------------------------------------------------------------------------------------------------------- */

static int dump_node(struct offline *w, unsigned level, uint64_t index, unsigned copy)
{
	uint64_t at = geometry_offset(&w->header->geometry, level, index, copy);
	uint8_t *block = aligned_alloc(SECTOR_BYTES, SECTOR_BYTES);
	struct node_clear n;
	bool good;
	int r = block == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : offline_read(w, block, 1, at, &good);

	if (r == 0 && node_decode_clear(&n, block, w->header->uuid))
		offline_say(w, OFFLINE_NOTE, "  copy %c at %llu: version %llu, generation %u%s", copy_name(copy), (number)at,
			    (number)n.ctr, n.gen_no, n.level == level && n.index == index ? "" : ", of ANOTHER place");
	else if (r == 0)
		offline_say(w, OFFLINE_NOTE, "  copy %c at %llu: %s", copy_name(copy), (number)at,
			    !good                ? "cannot be read"
			    : block_blank(block) ? "blank"
						 : "no node of this volume");
	free(block);
	return r;
}

/* What the recovered tree says of the object; with tree.lock. */
static void dump_slot(struct offline *w, struct volume *v, unsigned level, uint64_t index)
{
	const unsigned fanout = v->header.geometry.fanout;
	struct slot s = v->tree.top;
	unsigned zero_level = 0;
	struct node *n = NULL;
	int r = 0;

	if (level < v->header.geometry.levels)
		r = tree_pin(&v->tree, level + 1, index / fanout, false, &n, &zero_level);
	if (n != NULL) {
		tree_get(n, (unsigned)(index % fanout), &s);
		tree_unpin(&v->tree, n);
	}
	if (r < 0)
		offline_say(w, OFFLINE_NOTE, "  its slot: a node above does not open");
	else if (zero_level > 0)
		offline_say(w, OFFLINE_NOTE, "  its slot: none, the node of level %u above it is ZERO", zero_level);
	else
		offline_say(w, OFFLINE_NOTE, "  its slot: %s, version %llu, generation index %u", state_name(s.state),
			    (number)s.ctr, s.gen_ix);
}

static int dump_path(struct offline *w, struct volume *v)
{
	const struct geometry *g = &w->header->geometry;
	int r = 0;

	for (unsigned l = g->levels; l >= 1 && r == 0; l--) {
		uint64_t index = w->o->dump_at / g->span[l];

		offline_say(w, OFFLINE_NOTE, "node %llu of level %u:", (number)index, l);
		if (v != NULL)
			dump_slot(w, v, l, index);
		for (unsigned c = 0; c < (l >= 2 ? 2u : 1u) && r == 0; c++)
			r = dump_node(w, l, index, c);
	}
	if (r == 0)
		offline_say(w, OFFLINE_NOTE, "sector %llu at %llu:", (number)w->o->dump_at,
			    (number)geometry_offset(g, 0, w->o->dump_at, 0));
	if (r == 0 && v != NULL)
		dump_slot(w, v, 0, w->o->dump_at);
	return r;
}

static int dump_sector(struct offline *w)
{
	struct volume *v = NULL;
	int r;

	if (w->o->dump_at >= w->header->geometry.n_sectors)
		return offline_because(w, ERR_RANGE, "the volume has %llu sectors", (number)w->header->geometry.n_sectors);
	if (w->keys != NULL && offline_open(w, &v, false) < 0) {
		offline_say(w, OFFLINE_NOTE, "%.150s: slots cannot be shown", w->why);
		v = NULL;
	}
	if (v != NULL)
		pthread_mutex_lock(&v->tree.lock);
	r = dump_path(w, v);
	if (v != NULL) {
		pthread_mutex_unlock(&v->tree.lock);
		volume_close(v);
	}
	return r;
}

int offline_dump(struct offline *w)
{
	int r = offline_headers(w);

	if (r == 0 && w->keys != NULL)
		r = offline_authenticate(w);
	if (r < 0 && (w->header == NULL || r == ERR_REVOKED || r == ERR_NOMEM))
		return r;
	if (w->o->dump_at != UINT64_MAX)
		return dump_sector(w);
	dump_header(w);
	r = dump_roots(w);
	return r == 0 ? dump_log(w) : r;
}
