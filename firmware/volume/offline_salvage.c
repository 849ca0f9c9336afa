/* salvage: takes out every sector that something authentic vouches for, with no root, upper level or header needed. Leaves are
 * found by their address and opened by what they say of themselves; the log adds what is newer, the upper levels, as far as they
 * open, say what was zeroed since. What must stay true: nothing is written to the volume; each sector that goes out opened under
 * a slot of this volume for this very place, or is ZERO by such a slot; everything else is in the map. Whether all of it is of
 * one moment, nobody can say: that is what roots are for. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/block.h"
#include "offline_work.h"

enum { CHUNK = 64, MAP_LINE = 80 };

static const char no_opening[] = "nothing that the volume's nodes or log know of them opens";
static const char no_leaf[] = "the node that vouched for them is gone, and the log does not know them";
static const char no_word[] = "no node says anything of them: never written, or the nodes are gone";

/* A block of the log, by its place in the ring. */
struct log_place {
	uint64_t seq, prefix_seq, ctr_base; /* seq 0: no block that opens */
	uint8_t tag[AEAD_TAG_BYTES], prev_tag[AEAD_TAG_BYTES];
	bool believed;
};

/* An entry of a sector: `order` counts blocks from the oldest believed one on, so that it grows with the counter. */
struct log_record {
	uint64_t lba;
	uint32_t order;
	uint8_t entry;
};

struct zero_range {
	uint64_t first, end, ctr;
};

/* The newest copy of an upper node that opens, one of each level: leaves are visited in order. */
struct ancestor {
	bool tried, there;
	uint64_t index;
	uint8_t slots[SEALED_BYTES];
};

struct salvage {
	struct offline *w;
	const struct geometry *g;
	struct sealer sealer;
	struct run run;
	struct log_place *places;
	uint64_t oldest; /* the least number believed */
	struct log_record *records;
	size_t record_count, record_room, next_record;
	struct zero_range *zeroes;
	size_t zero_count, zero_room, next_zero;
	struct zero_range **active;
	size_t active_count;
	struct ancestor above[LEVELS_MAX + 1];
	uint8_t *leaves; /* CHUNK blocks */
	uint8_t *io;     /* FANOUT sectors */
	uint8_t *plain;  /* as many, opened */
	uint8_t block[SECTOR_BYTES];
	uint8_t slots[SEALED_BYTES];
	struct log_entry entries[LOG_ENTRIES]; /* of the block cached_seq */
	struct log_head cached;
	uint64_t cached_seq;
	struct {
		uint64_t first, count;
		const char *word;
	} missing;
	uint64_t taken, zero, missed;
};

static int revoked(struct salvage *s)
{
	return offline_because(s->w, ERR_REVOKED, "the gate was shut: stopped");
}

static int no_memory(struct salvage *s)
{
	return offline_because(s->w, ERR_NOMEM, "out of memory");
}

/* --- the log ----------------------------------------------------------------------------------------------------------- */

static int view_place(struct salvage *s, uint64_t place, const uint8_t *block)
{
	struct log_place *p = &s->places[place];
	struct log_head h;
	int r = logblock_open(&s->sealer, &h, s->entries, block);

	s->w->result->checked++;
	if (r == ERR_REVOKED)
		return revoked(s);
	if (r != 0 || h.seq == 0 || h.seq % s->g->log_blocks != place)
		return 0;
	p->seq = h.seq;
	p->prefix_seq = h.prefix_seq;
	p->ctr_base = h.ctr_base;
	memcpy(p->tag, block, sizeof p->tag);
	memcpy(p->prev_tag, h.prev_tag, sizeof p->prev_tag);
	return 0;
}

static int view_log(struct salvage *s)
{
	int r = 0;

	for (uint64_t at = 0; at < s->g->log_blocks && r == 0; at += CHUNK) {
		size_t n = s->g->log_blocks - at < CHUNK ? (size_t)(s->g->log_blocks - at) : CHUNK;
		bool good[CHUNK];

		r = offline_read(s->w, s->leaves, n, s->g->log_off + at * SECTOR_BYTES, good);
		for (size_t i = 0; i < n && r == 0; i++)
			r = view_place(s, at + i, s->leaves + i * SECTOR_BYTES);
	}
	return r;
}

/* What is older than one round of the ring has been overwritten, unless somebody put it back. */
static void forget_the_old(struct salvage *s, uint64_t end)
{
	s->oldest = UINT64_MAX;
	for (uint64_t i = 0; i < s->g->log_blocks; i++) {
		struct log_place *p = &s->places[i];

		if (end - p->seq > s->g->log_blocks)
			p->believed = false;
		if (p->believed && p->seq < s->oldest)
			s->oldest = p->seq;
	}
}

/* A block was part of the log if a later one says that it was durable, or if it continues such a one. What a cut left behind the
 * end of the log, and a later session never took up, says neither. */
static void believe(struct salvage *s)
{
	uint64_t proven = 0, seq;

	for (uint64_t i = 0; i < s->g->log_blocks; i++)
		if (s->places[i].seq != 0 && s->places[i].prefix_seq < s->places[i].seq && s->places[i].prefix_seq > proven)
			proven = s->places[i].prefix_seq;
	for (uint64_t i = 0; i < s->g->log_blocks; i++)
		s->places[i].believed = s->places[i].seq != 0 && s->places[i].seq <= proven;
	for (seq = proven + 1;; seq++) {
		struct log_place *p = &s->places[seq % s->g->log_blocks], *before = &s->places[(seq - 1) % s->g->log_blocks];
		bool first = seq == 1;

		if (p->seq != seq ||
		    (!first && (before->seq != seq - 1 || memcmp(p->prev_tag, before->tag, sizeof p->prev_tag) != 0)))
			break;
		p->believed = true;
	}
	forget_the_old(s, seq);
}

static int add_record(struct salvage *s, uint64_t lba, uint64_t seq, unsigned entry)
{
	if (s->record_count == s->record_room) {
		size_t room = s->record_room == 0 ? 4096 : 2 * s->record_room;
		struct log_record *more = realloc(s->records, room * sizeof *more);

		if (more == NULL)
			return no_memory(s);
		s->records = more;
		s->record_room = room;
	}
	s->records[s->record_count++] = (struct log_record){ lba, (uint32_t)(seq - s->oldest), (uint8_t)entry };
	return 0;
}

static int add_zero(struct salvage *s, const struct log_entry *e, uint64_t ctr)
{
	uint64_t span = s->g->span[e->level];

	if (e->count == 0 || e->count > FANOUT)
		return 0;
	if (s->zero_count == s->zero_room) {
		size_t room = s->zero_room == 0 ? 256 : 2 * s->zero_room;
		struct zero_range *more = realloc(s->zeroes, room * sizeof *more);

		if (more == NULL)
			return no_memory(s);
		s->zeroes = more;
		s->zero_room = room;
	}
	s->zeroes[s->zero_count++] = (struct zero_range){ e->index * span, e->index * span + e->count * span, ctr };
	return 0;
}

static int take_block(struct salvage *s, const struct log_head *h)
{
	int r = 0;

	for (unsigned i = 0; i < h->count && r == 0; i++) {
		const struct log_entry *e = &s->entries[i];

		if (e->level > s->g->levels || e->index >= s->g->count[e->level])
			continue;
		if (e->kind == LOG_ZERO)
			r = add_zero(s, e, h->ctr_base + i);
		else if (e->level == 0 && e->kind != LOG_NONE)
			r = add_record(s, e->index, h->seq, i);
	}
	return r;
}

/* The block of this number into entries; kept, since neighbours ask for it again. 1: there; 0: not any more; or an error. */
static int open_block(struct salvage *s, uint64_t seq)
{
	uint64_t at = s->g->log_off + seq % s->g->log_blocks * SECTOR_BYTES;
	int r;

	if (s->cached_seq == seq)
		return 1;
	s->cached_seq = 0;
	if (s->w->dev->ops->read(s->w->dev, s->block, SECTOR_BYTES, at) < 0)
		return 0;
	r = logblock_open(&s->sealer, &s->cached, s->entries, s->block);
	if (r == ERR_REVOKED)
		return revoked(s);
	if (r != 0 || s->cached.seq != seq)
		return 0;
	s->cached_seq = seq;
	return 1;
}

static int by_lba(const void *a, const void *b)
{
	const struct log_record *x = a, *y = b;

	if (x->lba != y->lba)
		return x->lba < y->lba ? -1 : 1;
	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	return x->entry < y->entry ? -1 : x->entry > y->entry;
}

static int by_first(const void *a, const void *b)
{
	const struct zero_range *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

static int read_log(struct salvage *s)
{
	int r = view_log(s);

	if (r < 0)
		return r;
	believe(s);
	for (uint64_t i = 0; i < s->g->log_blocks && r >= 0; i++) {
		if (!s->places[i].believed)
			continue;
		r = open_block(s, s->places[i].seq);
		if (r == 1)
			r = take_block(s, &s->cached);
	}
	if (r < 0)
		return r;
	if (s->record_count > 0)
		qsort(s->records, s->record_count, sizeof s->records[0], by_lba);
	if (s->zero_count > 0)
		qsort(s->zeroes, s->zero_count, sizeof s->zeroes[0], by_first);
	s->active = calloc(s->zero_count + 1, sizeof s->active[0]);
	return s->active == NULL ? no_memory(s) : 0;
}

/* The newest ZERO of the log over lba. Sectors are asked for in order. */
static uint64_t zeroed_by_log(struct salvage *s, uint64_t lba)
{
	uint64_t ctr = 0;

	while (s->next_zero < s->zero_count && s->zeroes[s->next_zero].first <= lba)
		s->active[s->active_count++] = &s->zeroes[s->next_zero++];
	for (size_t i = 0; i < s->active_count;) {
		if (s->active[i]->end <= lba) {
			s->active[i] = s->active[--s->active_count];
			continue;
		}
		ctr = s->active[i]->ctr > ctr ? s->active[i]->ctr : ctr;
		i++;
	}
	return ctr;
}

/* --- nodes ------------------------------------------------------------------------------------------------------------- */

/* Opens a block as the node (level, index) that it says it is. 1: slots and *ctr; 0: it is not; or an error. */
static int open_node(struct salvage *s, const uint8_t *block, unsigned level, uint64_t index, uint8_t *slots, uint64_t *ctr)
{
	struct slot slot = { .state = SLOT_SEALED };
	struct node_clear n;
	int r;

	if (!node_decode_clear(&n, block, s->w->header->uuid) || n.level != level || n.index != index)
		return 0;
	memcpy(slot.tag, block, sizeof slot.tag);
	memcpy(slot.salt, n.salt, sizeof slot.salt);
	slot.gen_ix = n.gen_ix;
	slot.ctr = n.ctr;
	r = node_open(&s->sealer, slots, block, level, index, &slot);
	if (r == ERR_REVOKED)
		return revoked(s);
	*ctr = n.ctr;
	return r == 0;
}

/* The upper node above, the newer of its copies that open. */
static int load_above(struct salvage *s, unsigned level, uint64_t index)
{
	struct ancestor *a = &s->above[level];
	uint64_t best = 0;

	if (a->tried && a->index == index)
		return 0;
	*a = (struct ancestor){ .tried = true, .index = index };
	for (unsigned c = 0; c < COPIES; c++) {
		uint8_t slots[SEALED_BYTES];
		uint64_t ctr = 0;
		int r = 0;

		if (s->w->dev->ops->read(s->w->dev, s->block, SECTOR_BYTES, geometry_offset(s->g, level, index, c)) == 0)
			r = open_node(s, s->block, level, index, slots, &ctr);
		if (r < 0)
			return r;
		if (r == 1 && (!a->there || ctr > best)) {
			memcpy(a->slots, slots, sizeof slots);
			a->there = true;
			best = ctr;
		}
	}
	return 0;
}

/* What is known of a leaf from above: the newest ZERO over it, and whether its parent says that there is one. */
struct word_from_above {
	uint64_t zero_ctr;
	bool zero, sealed;
};

static void take_word(struct word_from_above *word, const struct slot *slot, bool parent)
{
	if (slot->state == SLOT_ZERO && (!word->zero || slot->ctr > word->zero_ctr)) {
		word->zero = true;
		word->zero_ctr = slot->ctr;
	}
	if (parent && slot->state == SLOT_SEALED)
		word->sealed = true;
}

static int ask_above(struct salvage *s, uint64_t leaf, struct word_from_above *word)
{
	*word = (struct word_from_above){ 0 };
	for (unsigned l = 2; l <= s->g->levels; l++) {
		uint64_t child = leaf / s->g->span[l - 2];
		struct slot slot;
		int r = load_above(s, l, child / s->g->fanout);

		if (r < 0)
			return r;
		if (!s->above[l].there)
			continue;
		slot_decode(&slot, s->above[l].slots + child % s->g->fanout * SLOT_BYTES);
		take_word(word, &slot, l == 2);
	}
	if (s->w->root_result == 0)
		take_word(word, &s->w->root.top, s->g->levels == 1);
	return 0;
}

/* --- what comes out ---------------------------------------------------------------------------------------------------- */

static int write_all(struct salvage *s, int fd, const void *bytes, size_t size, uint64_t at, bool placed)
{
	for (size_t done = 0; done < size;) {
		const char *from = (const char *)bytes + done;
		ssize_t n = placed ? pwrite(fd, from, size - done, (off_t)(at + done)) : write(fd, from, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return offline_because(
				s->w, n == 0 || errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? ERR_NOSPACE : ERR_IO,
				"the output cannot be written (%s): what is out so far is good",
				n == 0 ? "no space" : strerror(errno));
		done += (size_t)n;
	}
	return 0;
}

static int map_line(struct salvage *s, const char *line)
{
	return s->w->o->map_fd < 0 ? 0 : write_all(s, s->w->o->map_fd, line, strlen(line), 0, false);
}

static int end_missing(struct salvage *s)
{
	char line[MAP_LINE];

	if (s->missing.count == 0)
		return 0;
	snprintf(line, sizeof line, "%llu %llu %s\n", (unsigned long long)s->missing.first, (unsigned long long)s->missing.count,
		 s->missing.word == no_word ? "unknown" : "lost");
	s->missing.count = 0;
	return map_line(s, line);
}

static int miss(struct salvage *s, uint64_t lba, const char *word)
{
	int r = 0;

	s->missed++;
	offline_lost(s->w, lba, 1, word);
	if (s->missing.count > 0 && s->missing.first + s->missing.count == lba && s->missing.word == word) {
		s->missing.count++;
		return 0;
	}
	r = end_missing(s);
	s->missing.first = lba;
	s->missing.count = 1;
	s->missing.word = word;
	return r;
}

static int begin_output(struct salvage *s)
{
	const struct offline_options *o = s->w->o;
	char line[2 * MAP_LINE], uuid[2 * UUID_BYTES + 1];
	struct stat st;
	int r;

	if (fstat(o->output_fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size != 0)
		return offline_because(s->w, ERR_UNSUPPORTED, "the output must be an empty regular file");
	if (ftruncate(o->output_fd, (off_t)(s->g->n_sectors * SECTOR_BYTES)) != 0)
		return offline_because(s->w, ERR_NOSPACE, "the output cannot be given its size (%s)", strerror(errno));
	for (unsigned i = 0; i < UUID_BYTES; i++)
		snprintf(uuid + 2 * (size_t)i, 3, "%02x", s->w->header->uuid[i]);
	r = map_line(s,
		     "# fallgate salvage map 1: what is missing of the output; all else is authentic sector by sector.\n"
		     "# NOT FRESH: the sectors need not be of one moment, and some may be older than the volume's last state.\n");
	snprintf(line, sizeof line, "# volume %s, %llu sectors of 4096 bytes; below: first, count, lost or unknown\n", uuid,
		 (unsigned long long)s->g->n_sectors);
	return r == 0 ? map_line(s, line) : r;
}

/* --- one leaf's sectors ------------------------------------------------------------------------------------------------ */

/* The versions that may be a sector's, newest first. */
struct versions {
	const struct log_record *records; /* of the log, oldest first */
	size_t count;
	struct slot leaf; /* what the leaf says; INVALID: there is no leaf */
	uint64_t zero_ctr;
	bool zero;
};

enum outcome { OUT_MISSING, OUT_ZERO, OUT_OPENED };

/* sectors_open for one, io and plain at place i. 1: it opened. */
static int open_as(struct salvage *s, uint64_t lba, size_t i, const struct slot *slot)
{
	const uint8_t *in = s->io + i * SECTOR_BYTES;
	uint8_t *out = s->plain + i * SECTOR_BYTES;
	bool good = false;
	int r;

	if (slot->gen_ix >= GENERATIONS)
		return 0;
	r = sectors_open(&s->sealer, &s->run, lba, 1, &in, &out, slot, &good);
	if (r == ERR_REVOKED)
		return revoked(s);
	return r == 0 && good;
}

/* The version in a record of the log, as a slot. 1, 0 (the block is gone), or an error. */
static int slot_of_record(struct salvage *s, const struct log_record *record, struct slot *slot)
{
	int r = open_block(s, s->oldest + record->order);

	if (r == 1)
		logblock_slot(slot, &s->cached, &s->entries[record->entry], record->entry);
	return r;
}

/* Newest first; a ZERO cuts off all that is older than itself. */
static int best_version(struct salvage *s, uint64_t lba, size_t i, const struct versions *v, enum outcome *out)
{
	struct slot slot;
	int r;

	for (size_t k = v->count; k-- > 0;) {
		r = slot_of_record(s, &v->records[k], &slot);
		if (r < 0)
			return r;
		if (r == 0 || slot.state != SLOT_SEALED)
			continue;
		if (v->leaf.state != SLOT_INVALID && slot.ctr <= v->leaf.ctr)
			break;
		if (v->zero && slot.ctr < v->zero_ctr)
			break;
		r = open_as(s, lba, i, &slot);
		if (r != 0) {
			*out = OUT_OPENED;
			return r < 0 ? r : 0;
		}
	}
	if (v->zero && (v->leaf.state == SLOT_INVALID || v->zero_ctr > v->leaf.ctr)) {
		*out = OUT_ZERO;
		return 0;
	}
	r = v->leaf.state == SLOT_SEALED ? open_as(s, lba, i, &v->leaf) : 0;
	*out = r == 1 ? OUT_OPENED : v->leaf.state == SLOT_ZERO ? OUT_ZERO : OUT_MISSING;
	return r < 0 ? r : 0;
}

static void records_of(struct salvage *s, uint64_t lba, struct versions *v)
{
	if (s->record_count == 0)
		return;
	while (s->next_record < s->record_count && s->records[s->next_record].lba < lba)
		s->next_record++;
	v->records = s->records + s->next_record;
	v->count = 0;
	while (s->next_record + v->count < s->record_count && v->records[v->count].lba == lba)
		v->count++;
}

struct leaf {
	bool there;
	uint64_t ctr;
	struct word_from_above word;
};

static void gather(struct salvage *s, const struct leaf *leaf, uint64_t lba, unsigned i, struct versions *v)
{
	uint64_t z = zeroed_by_log(s, lba);

	memset(v, 0, sizeof *v);
	records_of(s, lba, v);
	v->zero = leaf->word.zero || z > 0;
	v->zero_ctr = z > leaf->word.zero_ctr ? z : leaf->word.zero_ctr;
	if (!leaf->there)
		return;
	slot_decode(&v->leaf, s->slots + i * (size_t)SLOT_BYTES);
	/* A leaf holds every ZERO that is older than itself. */
	if (v->zero && v->zero_ctr < leaf->ctr)
		v->zero = false;
}

static int take_out(struct salvage *s, uint64_t lba, unsigned i, const struct leaf *leaf, bool readable)
{
	struct versions v;
	enum outcome out = OUT_MISSING;
	int r = 0;

	gather(s, leaf, lba, i, &v);
	if (!readable && v.leaf.state == SLOT_SEALED)
		v.leaf.state = SLOT_BAD;
	r = best_version(s, lba, i, &v, &out);
	if (r < 0)
		return r;
	s->w->result->checked++;
	if (out == OUT_MISSING) {
		const char *word = leaf->there || v.count > 0 ? no_opening : leaf->word.sealed ? no_leaf : no_word;

		return miss(s, lba, word);
	}
	s->zero += out == OUT_ZERO;
	s->taken += out == OUT_OPENED;
	if (out == OUT_OPENED)
		r = write_all(s, s->w->o->output_fd, s->plain + i * (size_t)SECTOR_BYTES, SECTOR_BYTES, lba * SECTOR_BYTES, true);
	return r;
}

/* Is there anything that speaks of these sectors but their ancestors? */
static bool log_knows(const struct salvage *s, uint64_t first, uint64_t end)
{
	size_t i = s->next_record;

	while (i < s->record_count && s->records[i].lba < first)
		i++;
	return i < s->record_count && s->records[i].lba < end;
}

static int take_leaf(struct salvage *s, uint64_t index, const uint8_t *block)
{
	struct leaf leaf = { 0 };
	uint64_t first = index * s->g->fanout, left = s->g->n_sectors - first;
	size_t count = left < s->g->fanout ? (size_t)left : s->g->fanout;
	bool readable[FANOUT] = { false };
	int r = ask_above(s, index, &leaf.word);

	if (r == 0)
		r = open_node(s, block, 1, index, s->slots, &leaf.ctr);
	if (r < 0)
		return r;
	leaf.there = r == 1;
	s->w->result->checked++;
	r = 0;
	/* Sectors of which nothing is known need not be read. */
	if (leaf.there || log_knows(s, first, first + count))
		r = offline_read(s->w, s->io, count, geometry_offset(s->g, 0, first, 0), readable);
	else
		r = offline_step(s->w, count * SECTOR_BYTES);
	for (unsigned i = 0; i < count && r == 0; i++)
		r = take_out(s, first + i, i, &leaf, readable[i]);
	secret_wipe(s->plain, FANOUT * SECTOR_BYTES);
	secret_wipe(s->slots, sizeof s->slots);
	return r;
}

/* --- all of it --------------------------------------------------------------------------------------------------------- */

static int take_leaves(struct salvage *s)
{
	int r = 0;

	for (uint64_t at = 0; at < s->g->count[1] && r == 0; at += CHUNK) {
		size_t n = s->g->count[1] - at < CHUNK ? (size_t)(s->g->count[1] - at) : CHUNK;
		bool good[CHUNK];

		r = offline_read(s->w, s->leaves, n, geometry_offset(s->g, 1, at, 0), good);
		for (size_t i = 0; i < n && r == 0; i++)
			r = take_leaf(s, at + i, s->leaves + i * SECTOR_BYTES);
	}
	return r;
}

static int run_salvage(struct salvage *s)
{
	int r = begin_output(s), end;

	if (r == 0)
		r = read_log(s);
	if (r == 0)
		r = take_leaves(s);
	end = end_missing(s);
	if (r == 0)
		r = end;
	if (r == 0 && (fsync(s->w->o->output_fd) != 0 || (s->w->o->map_fd >= 0 && fsync(s->w->o->map_fd) != 0)))
		r = offline_because(s->w, ERR_IO, "the output cannot be made durable (%s)", strerror(errno));
	if (r == 0)
		offline_say(s->w, OFFLINE_NOTE,
			    "%llu sectors taken out, %llu zero, %llu missing. Each is authentic; together they are NOT FRESH: "
			    "not proven to be of one moment, nor the newest",
			    (unsigned long long)s->taken, (unsigned long long)s->zero, (unsigned long long)s->missed);
	return r;
}

static int allocate(struct salvage *s)
{
	s->places = calloc(s->g->log_blocks, sizeof s->places[0]);
	s->leaves = aligned_alloc(SECTOR_BYTES, (CHUNK + 2 * FANOUT) * SECTOR_BYTES);
	if (s->places == NULL || s->leaves == NULL)
		return no_memory(s);
	s->io = s->leaves + CHUNK * SECTOR_BYTES;
	s->plain = s->io + FANOUT * SECTOR_BYTES;
	return 0;
}

int offline_salvage(struct offline *w)
{
	struct salvage *s;
	int r = offline_headers(w);

	if (r == 0)
		r = offline_authenticate(w);
	if (r < 0)
		return r;
	s = calloc(1, sizeof *s);
	if (s == NULL)
		return offline_because(w, ERR_NOMEM, "out of memory");
	s->w = w;
	s->g = &w->header->geometry;
	r = sealer_init(&s->sealer, w->keys, w->header, 0);
	if (r < 0)
		r = offline_because(w, r, "no entropy");
	if (r == 0)
		r = allocate(s);
	if (r == 0) {
		offline_expect(w, (s->g->log_blocks + s->g->count[1] + s->g->n_sectors) * SECTOR_BYTES);
		r = run_salvage(s);
	}
	sealer_destroy(&s->sealer);
	free(s->places);
	free(s->records);
	free(s->zeroes);
	free(s->active);
	free(s->leaves);
	secret_wipe(s, sizeof *s);
	free(s);
	return r;
}
