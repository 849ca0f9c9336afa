/* Geometry and the encoders and decoders of FGV1. Every offset in here is a line of SPEC.md; nothing is read from the device
 * and nothing is believed: a decoder either fills its struct from checked bytes or says why not. */
#include "layout.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/hash.h"

static const uint8_t magic[8] = { 'F', 'G', 'V', 'O', 'L', '\r', '\n', 0x1A };

enum {
	MAJOR = 1,
	SUITE_XAES_GCM = 1,
	SECTOR_LOG2 = 12,
	COPIES_UPPER = 2,
	COPIES_L1 = 1,
	TAIL_BYTES = ROOT_RING * SECTOR_BYTES + HEADER_BYTES, /* ring B and header B */
	MIB = 1 << 20,

	H_MAJOR = 0x008,
	H_BYTES = 0x00C,
	H_UUID = 0x010,
	H_SEQ = 0x020,
	H_COMPAT = 0x028,
	H_RO_COMPAT = 0x030,
	H_INCOMPAT = 0x038,
	H_SUITE = 0x040,
	H_SECTOR_LOG2 = 0x044,
	H_FANOUT = 0x048,
	H_SLOT_SIZE = 0x04A,
	H_LEVELS = 0x04C,
	H_SECTORS = 0x050,
	H_DATA_OFF = 0x058,
	H_LOG_OFF = 0x060,
	H_LOG_BLOCKS = 0x068,
	H_ROOT_OFF = 0x070,
	H_HEADER_OFF = 0x080,
	H_NODES_A = 0x090,
	H_NODES_B = 0x0D0,
	H_BACKING = 0x110,
	H_CREATED = 0x118,
	H_LABEL = 0x120,
	H_GENERATIONS = 0x200,
	GENERATION_BYTES = 64,
	H_MAC = 0xFC0,
	H_HASH = 0xFE0,

	S_STATE = 0x000,
	S_TYPE = 0x004,
	S_CREATED = 0x008,
	S_REWRAP = 0x010,
	S_FLAGS = 0x018,
	S_HASH_ALG = 0x01C,
	S_FINGERPRINT = 0x020,
	S_LABEL = 0x040,
	S_ID_SIZE = 0x080,
	S_ID = 0x082,
	S_TOKEN = 0x0C0,
	S_WRAPS = 0x200,
	WRAP_BYTES = 640,
	S_HASH = 0xFE0,
	SLOT_ACTIVE = 1,
};

/* --- geometry ---------------------------------------------------------------------------------------------------------- */

static bool round_up(uint64_t *v, uint64_t to)
{
	return add_u64(v, *v, to - 1) && (*v -= *v % to, true);
}

uint64_t geometry_log_blocks(uint64_t n_sectors)
{
	uint64_t blocks = n_sectors / 1024 + (n_sectors % 1024 != 0);
	uint64_t least = n_sectors >= 65536 ? 4096 : LOG_BLOCKS_MIN; /* 16 MiB; below 256 MiB of data 1 MiB */

	if (blocks < least)
		return least;
	return blocks > LOG_BLOCKS_MAX ? LOG_BLOCKS_MAX : blocks;
}

/* Levels, counts, and offsets up to the end of the upper levels' second copy, which goes to *end. */
static bool place(struct geometry *g, uint64_t *end)
{
	uint64_t at = MIB, bytes = 0;

	g->count[0] = g->n_sectors;
	g->span[0] = 1;
	do {
		uint64_t below = g->count[g->levels];

		g->levels++;
		if (g->levels > LEVELS_MAX)
			return false;
		g->count[g->levels] = below / g->fanout + (below % g->fanout != 0);
		g->span[g->levels] = g->span[g->levels - 1] * g->fanout;
	} while (g->count[g->levels] > 1);
	g->span[g->levels + 1] = g->span[g->levels] * g->fanout; /* at most 100^9 = 10^18 */

	g->log_off = at;
	at += g->log_blocks * SECTOR_BYTES;
	for (unsigned l = 2; l <= g->levels; l++) {
		g->node_off[0][l] = at;
		if (!mul_u64(&bytes, g->count[l], SECTOR_BYTES) || !add_u64(&at, at, bytes))
			return false;
	}
	g->node_off[0][1] = at;
	if (!mul_u64(&bytes, g->count[1], SECTOR_BYTES) || !add_u64(&at, at, bytes) || !round_up(&at, MIB))
		return false;
	g->data_off = at;
	if (!mul_u64(&bytes, g->n_sectors, SECTOR_BYTES) || !add_u64(&at, at, bytes) || !round_up(&at, MIB))
		return false;
	for (unsigned l = 2; l <= g->levels; l++) {
		g->node_off[1][l] = at;
		if (!mul_u64(&bytes, g->count[l], SECTOR_BYTES) || !add_u64(&at, at, bytes))
			return false;
	}
	*end = at;
	return true;
}

uint64_t geometry_minimum(uint64_t n_sectors, uint64_t log_blocks)
{
	return geometry_minimum_any(n_sectors, log_blocks, FANOUT);
}

uint64_t geometry_minimum_any(uint64_t n_sectors, uint64_t log_blocks, unsigned fanout)
{
	struct geometry g = { .n_sectors = n_sectors, .log_blocks = log_blocks, .fanout = fanout };
	uint64_t end;

	if (n_sectors == 0 || !place(&g, &end) || !add_u64(&end, end, TAIL_BYTES) || end > INT64_MAX)
		return 0;
	return end;
}

int geometry_compute(struct geometry *g, uint64_t n_sectors, uint64_t log_blocks, uint64_t backing_size)
{
	return log_blocks < LOG_BLOCKS_MIN ? ERR_RANGE : geometry_compute_any(g, n_sectors, log_blocks, FANOUT, backing_size);
}

int geometry_compute_any(struct geometry *g, uint64_t n_sectors, uint64_t log_blocks, unsigned fanout, uint64_t backing_size)
{
	uint64_t end;

	memset(g, 0, sizeof *g);
	g->n_sectors = n_sectors;
	g->log_blocks = log_blocks;
	g->backing_size = backing_size;
	g->fanout = fanout;
	if (n_sectors == 0 || log_blocks < LOG_BLOCKS_LEAST || log_blocks > LOG_BLOCKS_MAX)
		return ERR_RANGE;
	if (fanout < FANOUT_LEAST || fanout > FANOUT)
		return ERR_RANGE;
	if (backing_size % SECTOR_BYTES != 0 || backing_size > INT64_MAX || !place(g, &end))
		return ERR_RANGE;
	if (backing_size < TAIL_BYTES || end > backing_size - TAIL_BYTES)
		return ERR_RANGE;
	g->root_off[0] = HEADER_BYTES;
	g->root_off[1] = backing_size - TAIL_BYTES;
	g->header_off[0] = 0;
	g->header_off[1] = backing_size - HEADER_BYTES;
	return 0;
}

uint64_t geometry_offset(const struct geometry *g, unsigned level, uint64_t index, unsigned copy)
{
	uint64_t base = level == 0 ? g->data_off : g->node_off[copy][level];

	return base + index * SECTOR_BYTES;
}

/* --- header ------------------------------------------------------------------------------------------------------------ */

static void sha256(uint8_t out[static 32], const uint8_t *data, size_t size)
{
	const struct hash_part part = { data, size };

	hash_sha256(out, &part, 1);
}

static void encode_geometry(uint8_t *out, const struct geometry *g)
{
	out[H_LEVELS] = (uint8_t)g->levels;
	out[H_LEVELS + 1] = COPIES_UPPER;
	out[H_LEVELS + 2] = COPIES_L1;
	out[H_LEVELS + 3] = SECTOR_LOG2;
	put_le64(out + H_SECTORS, g->n_sectors);
	put_le64(out + H_DATA_OFF, g->data_off);
	put_le64(out + H_LOG_OFF, g->log_off);
	put_le64(out + H_LOG_BLOCKS, g->log_blocks);
	for (unsigned c = 0; c < 2; c++) {
		put_le64(out + H_ROOT_OFF + 8 * c, g->root_off[c]);
		put_le64(out + H_HEADER_OFF + 8 * c, g->header_off[c]);
	}
	for (unsigned l = 1; l <= LEVELS_MAX; l++) {
		put_le64(out + H_NODES_A + 8 * (l - 1), g->node_off[0][l]);
		put_le64(out + H_NODES_B + 8 * (l - 1), g->node_off[1][l]);
	}
	put_le64(out + H_BACKING, g->backing_size);
}

static void encode_generation(uint8_t *out, const struct generation *g)
{
	put_le32(out, g->gen_no);
	out[4] = (uint8_t)g->state;
	put_le64(out + 0x08, g->created);
	put_le64(out + 0x10, g->ctr_start);
	memcpy(out + 0x18, g->kcv, KCV_BYTES);
}

static void encode_slot(uint8_t *out, const struct kek_slot *s, uint64_t created, unsigned generation)
{
	uint8_t *wrap = out + S_WRAPS + generation * (size_t)WRAP_BYTES;

	put_le32(out + S_STATE, SLOT_ACTIVE);
	put_le32(out + S_TYPE, (uint32_t)s->type);
	put_le64(out + S_CREATED, created);
	put_le64(out + S_REWRAP, created);
	put_le32(out + S_HASH_ALG, (uint32_t)s->hash);
	memcpy(out + S_FINGERPRINT, s->fingerprint, KEK_FINGERPRINT_BYTES);
	memcpy(out + S_LABEL, s->label, sizeof s->label);
	put_le16(out + S_ID_SIZE, s->id_size);
	memcpy(out + S_ID, s->id, s->id_size);
	memcpy(out + S_TOKEN, s->token, sizeof s->token);
	put_le16(wrap, s->wrapped_size);
	put_le32(wrap + 4, s->gen_no);
	memcpy(wrap + 8, s->wrapped, s->wrapped_size);
	sha256(out + S_HASH, out, S_HASH);
}

void header_encode(uint8_t out[static HEADER_BYTES], const struct header *h)
{
	memset(out, 0, HEADER_BYTES);
	memcpy(out, magic, sizeof magic);
	put_le16(out + H_MAJOR, MAJOR);
	put_le32(out + H_BYTES, HEADER_BYTES);
	memcpy(out + H_UUID, h->uuid, UUID_BYTES);
	put_le64(out + H_SEQ, h->seq);
	put_le64(out + H_COMPAT, h->feature_compat);
	put_le64(out + H_RO_COMPAT, h->feature_ro_compat);
	put_le32(out + H_SUITE, SUITE_XAES_GCM);
	put_le32(out + H_SECTOR_LOG2, SECTOR_LOG2);
	put_le16(out + H_FANOUT, (uint16_t)h->geometry.fanout);
	put_le16(out + H_SLOT_SIZE, SLOT_BYTES);
	encode_geometry(out, &h->geometry);
	put_le64(out + H_CREATED, h->created);
	memcpy(out + H_LABEL, h->label, sizeof h->label);
	for (size_t i = 0; i < GENERATIONS; i++)
		encode_generation(out + H_GENERATIONS + i * GENERATION_BYTES, &h->generations[i]);
	for (size_t i = 0; i < h->slot_count; i++)
		encode_slot(out + (1 + i) * SECTOR_BYTES, &h->slots[i], h->created, h->active);
}

static void header_hash(uint8_t hash[static 32], const uint8_t in[static HEADER_BYTES])
{
	static const uint8_t zeroes[32];
	const struct hash_part parts[] = {
		{ in, H_HASH },
		{ zeroes, sizeof zeroes },
		{ in + SECTOR_BYTES, HEADER_BYTES - SECTOR_BYTES },
	};

	hash_sha256(hash, parts, sizeof parts / sizeof parts[0]);
}

void header_finish(uint8_t out[static HEADER_BYTES], const uint8_t mac[static 32])
{
	memcpy(out + H_MAC, mac, 32);
	header_hash(out + H_HASH, out);
}

__attribute__((format(printf, 3, 4))) static void because(char *why, size_t size, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(why, size, format, arguments);
	va_end(arguments);
}

static int check_fixed(const uint8_t *in, char *why, size_t why_size)
{
	if (memcmp(in, magic, sizeof magic) != 0) {
		because(why, why_size, "no FGV1 magic");
		return ERR_FOREIGN;
	}
	if (get_le16(in + H_MAJOR) != MAJOR) {
		because(why, why_size, "format version %u, this program knows %d", get_le16(in + H_MAJOR), MAJOR);
		return ERR_FOREIGN;
	}
	if (get_le64(in + H_INCOMPAT) != 0) {
		because(why, why_size, "features 0x%llx, unknown to this program", (unsigned long long)get_le64(in + H_INCOMPAT));
		return ERR_FOREIGN;
	}
	return 0;
}

static bool constants_good(const uint8_t *in, bool any)
{
	bool standard = get_le16(in + H_FANOUT) == FANOUT && get_le64(in + H_LOG_BLOCKS) >= LOG_BLOCKS_MIN;

	return get_le32(in + H_BYTES) == HEADER_BYTES && get_le32(in + H_SUITE) == SUITE_XAES_GCM &&
	       get_le32(in + H_SECTOR_LOG2) == SECTOR_LOG2 && (any || standard) && get_le16(in + H_SLOT_SIZE) == SLOT_BYTES;
}

/* Recomputes the geometry from its three inputs and requires the header to say exactly the same. */
static int decode_geometry(struct geometry *g, const uint8_t *in, uint64_t device_size, char *why, size_t why_size)
{
	uint64_t backing = get_le64(in + H_BACKING);
	uint8_t expect[H_CREATED] = { 0 };

	if (geometry_compute_any(g, get_le64(in + H_SECTORS), get_le64(in + H_LOG_BLOCKS), get_le16(in + H_FANOUT), backing) <
	    0) {
		because(why, why_size, "the header's sizes contradict each other");
		return ERR_CORRUPT;
	}
	encode_geometry(expect, g);
	if (memcmp(expect + H_LEVELS, in + H_LEVELS, H_CREATED - H_LEVELS) != 0) {
		because(why, why_size, "the header's offsets are not those of its sizes");
		return ERR_CORRUPT;
	}
	if (backing > device_size) {
		because(why, why_size, "backing is %llu bytes smaller than the header says",
			(unsigned long long)(backing - device_size));
		return ERR_RANGE;
	}
	return 0;
}

static bool decode_generations(struct header *h, const uint8_t *in)
{
	unsigned active = 0;

	for (unsigned i = 0; i < GENERATIONS; i++) {
		const uint8_t *at = in + H_GENERATIONS + i * GENERATION_BYTES;
		struct generation *g = &h->generations[i];

		if (at[4] > GENERATION_DESTROYED)
			return false;
		g->gen_no = get_le32(at);
		g->state = (enum generation_state)at[4];
		g->created = get_le64(at + 0x08);
		g->ctr_start = get_le64(at + 0x10);
		memcpy(g->kcv, at + 0x18, KCV_BYTES);
		if (g->state == GENERATION_FREE)
			continue;
		if (g->gen_no == 0)
			return false;
		for (unsigned j = 0; j < i; j++)
			if (h->generations[j].state != GENERATION_FREE && h->generations[j].gen_no == g->gen_no)
				return false;
		if (g->state == GENERATION_ACTIVE) {
			h->active = i;
			active++;
		}
	}
	return active == 1;
}

static void copy_text(char *out, const uint8_t *in, size_t size)
{
	memcpy(out, in, size);
	out[size - 1] = '\0';
}

static bool decode_slot(struct kek_slot *s, const uint8_t *in, const struct header *h)
{
	const uint8_t *wrap = in + S_WRAPS + h->active * (size_t)WRAP_BYTES;
	uint32_t type = get_le32(in + S_TYPE), hash = get_le32(in + S_HASH_ALG);
	uint8_t digest[32];

	sha256(digest, in, S_HASH);
	if (memcmp(digest, in + S_HASH, sizeof digest) != 0)
		return false;
	if (type != KEK_SLOT_AES_KW && type != KEK_SLOT_RSA_OAEP)
		return false;
	if (hash > KEK_HASH_SHA1)
		return false;
	s->type = (enum kek_slot_type)type;
	s->hash = (enum kek_slot_hash)hash;
	memcpy(s->fingerprint, in + S_FINGERPRINT, KEK_FINGERPRINT_BYTES);
	copy_text(s->label, in + S_LABEL, sizeof s->label);
	copy_text(s->token, in + S_TOKEN, sizeof s->token);
	s->id_size = get_le16(in + S_ID_SIZE);
	s->wrapped_size = get_le16(wrap);
	s->gen_no = get_le32(wrap + 4);
	if (s->id_size > sizeof s->id || s->wrapped_size == 0 || s->wrapped_size > WRAPPED_MAX)
		return false;
	if (s->gen_no != h->generations[h->active].gen_no)
		return false;
	memcpy(s->id, in + S_ID, s->id_size);
	memcpy(s->wrapped, wrap + 8, s->wrapped_size);
	return true;
}

static int decode_slots(struct header *h, const uint8_t *in, char *why, size_t why_size)
{
	for (unsigned i = 0; i < KEK_SLOTS; i++) {
		const uint8_t *at = in + (1 + i) * (size_t)SECTOR_BYTES;

		if (get_le32(at + S_STATE) != SLOT_ACTIVE)
			continue;
		if (!decode_slot(&h->slots[h->slot_count], at, h)) {
			because(why, why_size, "KEK slot %u holds values that no version 1 writes", i);
			return ERR_CORRUPT;
		}
		h->slot_count++;
	}
	return 0;
}

int header_decode(struct header *h, const uint8_t in[static HEADER_BYTES], uint64_t device_size, char *why, size_t why_size)
{
	return header_decode_any(h, in, device_size, false, why, why_size);
}

int header_decode_any(struct header *h, const uint8_t in[static HEADER_BYTES], uint64_t device_size, bool any, char *why,
		      size_t why_size)
{
	int r = check_fixed(in, why, why_size);

	if (r < 0)
		return r;
	memset(h, 0, sizeof *h);
	header_hash(h->hash, in);
	if (memcmp(h->hash, in + H_HASH, sizeof h->hash) != 0) {
		because(why, why_size, "its SHA-256 is wrong");
		return ERR_CORRUPT;
	}
	memcpy(h->mac, in + H_MAC, sizeof h->mac);
	if (!constants_good(in, any)) {
		because(why, why_size, "a constant of version 1 has another value");
		return ERR_CORRUPT;
	}
	r = decode_geometry(&h->geometry, in, device_size, why, why_size);
	if (r < 0)
		return r;
	if (!decode_generations(h, in)) {
		because(why, why_size, "the generation table is impossible");
		return ERR_CORRUPT;
	}
	memcpy(h->uuid, in + H_UUID, UUID_BYTES);
	h->seq = get_le64(in + H_SEQ);
	h->feature_compat = get_le64(in + H_COMPAT);
	h->feature_ro_compat = get_le64(in + H_RO_COMPAT);
	h->created = get_le64(in + H_CREATED);
	copy_text(h->label, in + H_LABEL, sizeof h->label);
	return decode_slots(h, in, why, why_size);
}

/* --- slots, nodes, roots ----------------------------------------------------------------------------------------------- */

void slot_encode(uint8_t out[static SLOT_BYTES], const struct slot *s)
{
	memcpy(out, s->tag, AEAD_TAG_BYTES);
	memcpy(out + 0x10, s->salt, AEAD_SALT_BYTES);
	put_le16(out + 0x1C, s->gen_ix);
	put_le16(out + 0x1E, s->state);
	put_le64(out + 0x20, s->ctr);
}

void slot_decode(struct slot *s, const uint8_t in[static SLOT_BYTES])
{
	memcpy(s->tag, in, AEAD_TAG_BYTES);
	memcpy(s->salt, in + 0x10, AEAD_SALT_BYTES);
	s->gen_ix = get_le16(in + 0x1C);
	s->state = get_le16(in + 0x1E);
	s->ctr = get_le64(in + 0x20);
}

bool slot_same(const struct slot *a, const struct slot *b)
{
	return a->ctr == b->ctr && a->state == b->state && a->gen_ix == b->gen_ix && memcmp(a->tag, b->tag, sizeof a->tag) == 0 &&
	       memcmp(a->salt, b->salt, sizeof a->salt) == 0;
}

void node_encode_clear(uint8_t block[static CLEAR_BYTES], const struct node_clear *n, const uint8_t uuid[static UUID_BYTES])
{
	memset(block, 0, CLEAR_BYTES);
	memcpy(block + 0x10, n->salt, AEAD_SALT_BYTES);
	memcpy(block + 0x1C, "FGN1", 4);
	put_le64(block + 0x20, n->ctr);
	put_le64(block + 0x28, n->index);
	block[0x30] = n->level;
	block[0x31] = 1;
	put_le16(block + 0x32, n->gen_ix);
	put_le32(block + 0x34, n->gen_no);
	memcpy(block + 0x38, uuid, UUID_BYTES);
}

bool node_clear_is(const uint8_t block[static SECTOR_BYTES], const struct node_clear *n, const uint8_t uuid[static UUID_BYTES],
		   const uint8_t tag[static AEAD_TAG_BYTES])
{
	uint8_t expect[CLEAR_BYTES];

	node_encode_clear(expect, n, uuid);
	return memcmp(block, tag, AEAD_TAG_BYTES) == 0 &&
	       memcmp(block + CLEAR_AAD_AT, expect + CLEAR_AAD_AT, CLEAR_AAD_END - CLEAR_AAD_AT) == 0;
}

void root_encode_clear(uint8_t block[static CLEAR_BYTES], const struct root *r, const uint8_t uuid[static UUID_BYTES])
{
	memset(block, 0, CLEAR_BYTES);
	memcpy(block + 0x10, r->salt, AEAD_SALT_BYTES);
	memcpy(block + 0x1C, "FGR1", 4);
	put_le64(block + 0x20, r->seq);
	memcpy(block + 0x28, uuid, UUID_BYTES);
	put_le32(block + 0x38, r->gen_no);
}

void root_encode_sealed(uint8_t plain[static SEALED_BYTES], const struct root *r)
{
	memset(plain, 0, SEALED_BYTES);
	plain[0x00] = r->clean;
	memcpy(plain + 0x08, r->session, sizeof r->session);
	put_le64(plain + 0x18, r->ctr_next);
	put_le64(plain + 0x20, r->settled);
	put_le64(plain + 0x28, r->tail_seq);
	memcpy(plain + 0x30, r->prev_tag, AEAD_TAG_BYTES);
	slot_encode(plain + 0x40, &r->top);
	memcpy(plain + 0x68, r->header_hash[0], 32);
	memcpy(plain + 0x88, r->header_hash[1], 32);
	put_le32(plain + 0xA8, r->rekey_from);
	put_le32(plain + 0xAC, r->rekey_to);
	put_le64(plain + 0xB0, r->rekey_cursor);
	put_le32(plain + 0xB8, r->rekey_state);
	put_le64(plain + 0xC0, r->anchor);
	put_le64(plain + 0xC8, r->opens);
	put_le64(plain + 0xD0, r->unwraps);
}

bool root_decode_clear(struct root *r, const uint8_t block[static SECTOR_BYTES], const uint8_t uuid[static UUID_BYTES])
{
	if (memcmp(block + 0x1C, "FGR1", 4) != 0 || memcmp(block + 0x28, uuid, UUID_BYTES) != 0 || !block_checksum_good(block))
		return false;
	memset(r, 0, sizeof *r);
	memcpy(r->salt, block + 0x10, AEAD_SALT_BYTES);
	r->seq = get_le64(block + 0x20);
	r->gen_no = get_le32(block + 0x38);
	return true;
}

void root_decode_sealed(struct root *r, const uint8_t plain[static SEALED_BYTES])
{
	r->clean = plain[0x00] == 1;
	memcpy(r->session, plain + 0x08, sizeof r->session);
	r->ctr_next = get_le64(plain + 0x18);
	r->settled = get_le64(plain + 0x20);
	r->tail_seq = get_le64(plain + 0x28);
	memcpy(r->prev_tag, plain + 0x30, AEAD_TAG_BYTES);
	slot_decode(&r->top, plain + 0x40);
	memcpy(r->header_hash[0], plain + 0x68, 32);
	memcpy(r->header_hash[1], plain + 0x88, 32);
	r->rekey_from = get_le32(plain + 0xA8);
	r->rekey_to = get_le32(plain + 0xAC);
	r->rekey_cursor = get_le64(plain + 0xB0);
	r->rekey_state = get_le32(plain + 0xB8);
	r->anchor = get_le64(plain + 0xC0);
	r->opens = get_le64(plain + 0xC8);
	r->unwraps = get_le64(plain + 0xD0);
}

/* --- checksum ---------------------------------------------------------------------------------------------------------- */

/* Eight tables of the reflected polynomial 0x82F63B78, filled once: the only writable data of this file. */
static uint32_t crc_table[8][256];

static void crc_fill(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1)));
		crc_table[0][i] = c;
	}
	for (uint32_t i = 0; i < 256; i++)
		for (int t = 1; t < 8; t++)
			crc_table[t][i] = (crc_table[t - 1][i] >> 8) ^ crc_table[0][crc_table[t - 1][i] & 0xFF];
}

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const uint8_t *p = data;

	pthread_once(&once, crc_fill);
	crc = ~crc;
	for (; size >= 8; size -= 8, p += 8) {
		uint32_t low = get_le32(p) ^ crc, high = get_le32(p + 4);

		crc = crc_table[7][low & 0xFF] ^ crc_table[6][low >> 8 & 0xFF] ^ crc_table[5][low >> 16 & 0xFF] ^
		      crc_table[4][low >> 24] ^ crc_table[3][high & 0xFF] ^ crc_table[2][high >> 8 & 0xFF] ^
		      crc_table[1][high >> 16 & 0xFF] ^ crc_table[0][high >> 24];
	}
	for (; size > 0; size--, p++)
		crc = (crc >> 8) ^ crc_table[0][(crc ^ *p) & 0xFF];
	return ~crc;
}

static uint32_t block_crc(const uint8_t *block)
{
	static const uint8_t zeroes[4];
	uint32_t crc = crc32c(0, block, CLEAR_AAD_END);

	crc = crc32c(crc, zeroes, sizeof zeroes);
	return crc32c(crc, block + CLEAR_BYTES, SEALED_BYTES);
}

void block_checksum(uint8_t block[static SECTOR_BYTES])
{
	put_le32(block + CLEAR_AAD_END, block_crc(block));
}

bool block_checksum_good(const uint8_t block[static SECTOR_BYTES])
{
	return get_le32(block + CLEAR_AAD_END) == block_crc(block);
}
