/* Making volumes and reading headers and roots back. What must stay true: what is read here is hostile until a MAC or a tag said
 * otherwise; a format that is cut short leaves a device without any FGV1 magic, or a whole volume. */
#include "format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/block.h"
#include "hal/entropy.h"
#include "sector.h"

enum { H_MAC_AND_HASH = 0xFC0 };

/* --- headers ----------------------------------------------------------------------------------------------------------- */

static int read_header(struct block *dev, struct header_pair *pair, unsigned copy, uint64_t at, bool any)
{
	int r = dev->ops->read(dev, pair->bytes[copy], HEADER_BYTES, at);

	if (r < 0) {
		snprintf(pair->why[copy], sizeof pair->why[copy], "it cannot be read (%s)", error_text(r));
		return ERR_IO;
	}
	return header_decode_any(&pair->header[copy], pair->bytes[copy], dev->size, any, pair->why[copy], sizeof pair->why[copy]);
}

static unsigned better_of(const struct header_pair *pair)
{
	if (pair->result[0] != 0 || pair->result[1] != 0)
		return pair->result[0] != 0;
	return pair->header[1].seq > pair->header[0].seq;
}

static bool both(const struct header_pair *pair, int result)
{
	return pair->result[0] == result && pair->result[1] == result;
}

static bool either(const struct header_pair *pair, int result)
{
	return pair->result[0] == result || pair->result[1] == result;
}

/* Neither copy can be used: the answer is the more telling of the two. */
static int none_usable(const struct header_pair *pair, char *why, size_t why_size)
{
	static const int telling[] = { ERR_RANGE, ERR_CORRUPT, ERR_IO };
	unsigned copy = 0;
	int r = ERR_FOREIGN;

	for (size_t i = 0; i < sizeof telling / sizeof telling[0]; i++)
		if (either(pair, telling[i])) {
			r = telling[i];
			break;
		}
	copy = pair->result[0] != r;
	if (both(pair, ERR_FOREIGN))
		snprintf(why, why_size, "%s", pair->why[0]);
	else if (r == ERR_RANGE)
		snprintf(why, why_size, "%s", pair->why[copy]);
	else
		snprintf(why, why_size, "header A: %s; header B: %s", pair->why[0], pair->why[1]);
	return r;
}

int headers_read(struct block *dev, struct header_pair *pair, unsigned *better, bool any_geometry, char *why, size_t why_size)
{
	uint64_t b_at;

	if (dev->size < 2 * (uint64_t)HEADER_BYTES) {
		snprintf(why, why_size, "backing of %llu bytes is too small for any volume", (unsigned long long)dev->size);
		return ERR_FOREIGN;
	}
	pair->result[0] = read_header(dev, pair, 0, 0, any_geometry);
	b_at = pair->result[0] == 0 ? pair->header[0].geometry.header_off[1] : dev->size - HEADER_BYTES;
	pair->result[1] = read_header(dev, pair, 1, b_at, any_geometry);
	if (pair->result[0] != 0 && pair->result[1] != 0)
		return none_usable(pair, why, why_size);
	*better = better_of(pair);
	if (pair->result[0] != 0)
		snprintf(why, why_size, "header B only (header A: %s)", pair->why[0]);
	else if (pair->result[1] != 0)
		snprintf(why, why_size, "header A only (header B: %s)", pair->why[1]);
	else
		snprintf(why, why_size, "both headers good");
	return 0;
}

void header_info(struct volume_header_info *out, const struct header *h)
{
	memset(out, 0, sizeof *out);
	memcpy(out->uuid, h->uuid, UUID_BYTES);
	out->header_seq = h->seq;
	out->size = h->geometry.n_sectors * SECTOR_BYTES;
	out->created = h->created;
	memcpy(out->label, h->label, sizeof out->label);
	out->active_gen = h->generations[h->active].gen_no;
	out->slot_count = h->slot_count;
	memcpy(out->slots, h->slots, sizeof out->slots);
}

int volume_read_header(struct block *dev, struct volume_header_info *out, char *why, size_t why_size)
{
	struct header_pair *pair = calloc(1, sizeof *pair);
	unsigned better;
	int r;

	if (pair == NULL) {
		snprintf(why, why_size, "out of memory");
		return ERR_NOMEM;
	}
	r = headers_read(dev, pair, &better, false, why, why_size);
	if (r == 0)
		header_info(out, &pair->header[better]);
	free(pair);
	return r;
}

int header_mac(struct keyring *keys, uint8_t mac[static 32], uint32_t gen_no, const uint8_t bytes[static HEADER_BYTES])
{
	uint8_t *copy = malloc(HEADER_BYTES);
	int r;

	if (copy == NULL)
		return ERR_NOMEM;
	memcpy(copy, bytes, HEADER_BYTES);
	memset(copy + H_MAC_AND_HASH, 0, SECTOR_BYTES - H_MAC_AND_HASH);
	r = keyring_header_mac(keys, mac, gen_no, copy, HEADER_BYTES);
	free(copy);
	return r;
}

/* --- roots ------------------------------------------------------------------------------------------------------------- */

struct ring_entry {
	uint64_t seq;
	const uint8_t *block;
};

static size_t collect(struct ring_entry *entries, size_t count, const uint8_t *ring, const uint8_t *uuid)
{
	for (unsigned i = 0; i < ROOT_RING; i++) {
		const uint8_t *block = ring + i * (size_t)SECTOR_BYTES;
		struct root r;
		size_t at = count;

		if (!root_decode_clear(&r, block, uuid) || r.seq % ROOT_RING != i)
			continue;
		for (; at > 0 && entries[at - 1].seq < r.seq; at--)
			entries[at] = entries[at - 1];
		entries[at] = (struct ring_entry){ r.seq, block };
		count++;
	}
	return count;
}

static int newest_that_opens(struct keyring *keys, const uint8_t *uuid, const struct ring_entry *entries, size_t count,
			     struct root *out, unsigned *bad)
{
	for (size_t i = 0; i < count; i++) {
		int r = root_open(keys, out, entries[i].block, uuid);

		if (r == 0 || r == ERR_REVOKED)
			return r;
		(*bad)++;
	}
	return ERR_CORRUPT;
}

int roots_read(struct block *dev, struct keyring *keys, const struct geometry *g, const uint8_t uuid[static UUID_BYTES],
	       struct root *out, unsigned *bad)
{
	enum { RING_BYTES = ROOT_RING * SECTOR_BYTES };
	uint8_t *rings = aligned_alloc(SECTOR_BYTES, 2 * RING_BYTES);
	struct ring_entry entries[2 * ROOT_RING];
	size_t count = 0;
	unsigned unread = 0;
	int r;

	*bad = 0;
	if (rings == NULL)
		return ERR_NOMEM;
	for (unsigned c = 0; c < 2; c++) {
		if (dev->ops->read(dev, rings + c * (size_t)RING_BYTES, RING_BYTES, g->root_off[c]) < 0)
			unread++;
		else
			count = collect(entries, count, rings + c * (size_t)RING_BYTES, uuid);
	}
	r = unread == 2 ? ERR_IO : newest_that_opens(keys, uuid, entries, count, out, bad);
	free(rings);
	return r;
}

int write_durably(struct block *dev, const void *in, size_t size, uint64_t at)
{
	int r;

	if (dev->ops->write_fua != NULL)
		return dev->ops->write_fua(dev, in, size, at);
	r = dev->ops->write(dev, in, size, at);
	return r < 0 ? r : dev->ops->flush(dev);
}

/* A sealed root block, to both rings, each followed by a flush. */
static int write_root(struct block *dev, const struct geometry *g, uint64_t seq, uint8_t block[static SECTOR_BYTES])
{
	block_checksum(block);
	for (unsigned c = 0; c < 2; c++) {
		int r = write_durably(dev, block, SECTOR_BYTES, g->root_off[c] + seq % ROOT_RING * SECTOR_BYTES);

		if (r < 0)
			return r;
	}
	return 0;
}

/* --- making ------------------------------------------------------------------------------------------------------------ */

uint64_t volume_backing_size(uint64_t size)
{
	uint64_t n = size / SECTOR_BYTES;

	if (size == 0 || size % SECTOR_BYTES != 0)
		return 0;
	return geometry_minimum(n, geometry_log_blocks(n));
}

static unsigned fanout_of(const struct volume_format *f)
{
	return f->fanout == 0 ? FANOUT : f->fanout;
}

static uint64_t log_blocks_of(const struct volume_format *f, uint64_t n)
{
	return f->log_blocks == 0 ? geometry_log_blocks(n) : f->log_blocks;
}

uint64_t volume_backing_size_for(const struct volume_format *f)
{
	uint64_t n = f->size / SECTOR_BYTES;

	if (f->size == 0 || f->size % SECTOR_BYTES != 0 || fanout_of(f) < FANOUT_LEAST || fanout_of(f) > FANOUT)
		return 0;
	return geometry_minimum_any(n, log_blocks_of(f, n), fanout_of(f));
}

/* The most sectors that fit into backing bytes: both the log and the tree grow with the sectors, so halving finds it. */
static uint64_t most_sectors(uint64_t backing)
{
	uint64_t low = 0, high = backing / SECTOR_BYTES;

	while (low < high) {
		uint64_t middle = low + (high - low + 1) / 2;
		uint64_t need = volume_backing_size(middle * SECTOR_BYTES);

		if (need != 0 && need <= backing)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

static int make_header(struct header *h, struct block *dev, struct keyring *keys, const struct volume_format *f)
{
	uint64_t n = f->size == 0 ? most_sectors(dev->size) : f->size / SECTOR_BYTES;
	struct generation *g = &h->generations[0];
	int r;

	if (f->size % SECTOR_BYTES != 0 || f->slot.wrapped_size == 0 || f->slot.wrapped_size > WRAPPED_MAX ||
	    f->slot.id_size > sizeof f->slot.id || f->slot.gen_no == 0)
		return ERR_RANGE;
	if (f->label != NULL && strlen(f->label) > VOLUME_LABEL_MAX)
		return ERR_RANGE;
	r = geometry_compute_any(&h->geometry, n, log_blocks_of(f, n), fanout_of(f), dev->size - dev->size % SECTOR_BYTES);
	if (r < 0)
		return r;
	memcpy(h->uuid, f->uuid, UUID_BYTES);
	h->seq = 1;
	h->created = f->now;
	if (f->label != NULL)
		memcpy(h->label, f->label, strlen(f->label));
	g->gen_no = f->slot.gen_no;
	g->state = GENERATION_ACTIVE;
	g->created = f->now;
	g->ctr_start = 1;
	h->slot_count = 1;
	h->slots[0] = f->slot;
	return keyring_kcv(keys, g->kcv, g->gen_no);
}

static int make_root(struct root *r, const struct header *h, const uint8_t *header_bytes)
{
	memset(r, 0, sizeof *r);
	r->seq = 1;
	r->gen_no = h->generations[h->active].gen_no;
	r->clean = true;
	r->ctr_next = 1;
	r->tail_seq = 1;
	r->top.state = SLOT_ZERO;
	memcpy(r->header_hash[0], header_bytes + HEADER_HASH_AT, 32);
	memcpy(r->header_hash[1], header_bytes + HEADER_HASH_AT, 32);
	return entropy_fill(r->salt, sizeof r->salt);
}

static int write_flushed(struct block *dev, const void *in, size_t size, uint64_t at)
{
	int r = dev->ops->write(dev, in, size, at);

	return r < 0 ? r : dev->ops->flush(dev);
}

/* Zeroes the header blocks and rings that are there: from here on the device holds no volume. */
static int clear_old(struct block *dev, const struct geometry *g, const uint8_t *zeroes)
{
	for (unsigned c = 0; c < 2; c++) {
		int r = dev->ops->write(dev, zeroes, SECTOR_BYTES, g->header_off[c]);

		if (r == 0)
			r = dev->ops->write(dev, zeroes, ROOT_RING * SECTOR_BYTES, g->root_off[c]);
		if (r < 0)
			return r;
	}
	return dev->ops->flush(dev);
}

/* Everything but the first sectors of the headers, which carry the magic. */
static int write_bodies(struct block *dev, const struct geometry *g, const uint8_t *header, uint8_t *root)
{
	for (unsigned c = 0; c < 2; c++) {
		int r = dev->ops->write(dev, header + SECTOR_BYTES, HEADER_BYTES - SECTOR_BYTES, g->header_off[c] + SECTOR_BYTES);

		if (r < 0)
			return r;
	}
	return write_root(dev, g, 1, root);
}

static int write_volume(struct block *dev, const struct geometry *g, const uint8_t *header, uint8_t *root, const uint8_t *zeroes)
{
	int r = clear_old(dev, g, zeroes);

	if (r == 0)
		r = write_bodies(dev, g, header, root);
	if (r == 0)
		r = write_flushed(dev, header, SECTOR_BYTES, g->header_off[0]);
	if (r == 0)
		r = write_flushed(dev, header, SECTOR_BYTES, g->header_off[1]);
	return r;
}

static int seal_and_write(struct block *dev, struct keyring *keys, const struct header *h, uint8_t *buffers)
{
	uint8_t *header = buffers, *root = buffers + HEADER_BYTES, *zeroes = root + SECTOR_BYTES;
	uint8_t mac[32];
	struct root first;
	int r;

	header_encode(header, h);
	r = header_mac(keys, mac, h->generations[h->active].gen_no, header);
	if (r < 0)
		return r;
	header_finish(header, mac);
	r = make_root(&first, h, header);
	if (r == 0)
		r = root_seal(keys, root, &first, h->uuid);
	if (r < 0)
		return r;
	memset(zeroes, 0, ROOT_RING * SECTOR_BYTES);
	return write_volume(dev, &h->geometry, header, root, zeroes);
}

int volume_format(struct block *dev, struct keyring *keys, const struct volume_format *f)
{
	struct header *h = calloc(1, sizeof *h);
	uint8_t *buffers = aligned_alloc(SECTOR_BYTES, HEADER_BYTES + (1 + ROOT_RING) * SECTOR_BYTES);
	int r = ERR_NOMEM;

	if (h != NULL && buffers != NULL)
		r = make_header(h, dev, keys, f);
	if (r == 0)
		r = seal_and_write(dev, keys, h, buffers);
	free(buffers);
	free(h);
	return r;
}
