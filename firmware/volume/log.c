/* Encoding and decoding of log blocks: every offset is a line of SPEC.md. */
#include "log.h"

#include <string.h>

#include "base/bytes.h"

enum { L_CRC = 0x7C, KIND_SHIFT = 60, LEVEL_SHIFT = 56 };

static const uint64_t index_mask = (UINT64_C(1) << LEVEL_SHIFT) - 1;

static void encode_entry(uint8_t *out, const struct log_entry *e)
{
	memset(out, 0, LOG_ENTRY_BYTES);
	put_le64(out, (uint64_t)e->kind << KIND_SHIFT | (uint64_t)e->level << LEVEL_SHIFT | (e->index & index_mask));
	if (e->kind == LOG_SEAL)
		memcpy(out + 8, e->tag, AEAD_TAG_BYTES);
	else if (e->kind == LOG_ZERO)
		put_le64(out + 8, e->count);
}

void logblock_encode(uint8_t block[static SECTOR_BYTES], const struct log_head *h, const uint8_t uuid[static UUID_BYTES],
		     const struct log_entry *entries)
{
	memset(block, 0, SECTOR_BYTES);
	memcpy(block + 0x10, h->salt, AEAD_SALT_BYTES);
	memcpy(block + 0x1C, "FGL1", 4);
	put_le64(block + 0x20, h->seq);
	memcpy(block + 0x28, h->prev_tag, AEAD_TAG_BYTES);
	memcpy(block + 0x38, uuid, UUID_BYTES);
	put_le16(block + 0x48, h->gen_ix);
	put_le16(block + 0x4A, h->count);
	put_le32(block + 0x4C, h->gen_no);
	put_le64(block + 0x50, h->ctr_base);
	put_le64(block + 0x58, h->settled);
	put_le64(block + 0x60, h->prefix_seq);
	put_le64(block + 0x68, h->root_seq);
	for (size_t i = 0; i < h->count; i++)
		encode_entry(block + LOG_CLEAR_BYTES + i * LOG_ENTRY_BYTES, &entries[i]);
}

static uint32_t block_crc(const uint8_t *block)
{
	static const uint8_t zeroes[4];
	uint32_t crc = crc32c(0, block, L_CRC);

	crc = crc32c(crc, zeroes, sizeof zeroes);
	return crc32c(crc, block + LOG_CLEAR_BYTES, LOG_SEALED_BYTES);
}

void logblock_checksum(uint8_t block[static SECTOR_BYTES])
{
	put_le32(block + L_CRC, block_crc(block));
}

bool logblock_decode_clear(struct log_head *h, const uint8_t block[static SECTOR_BYTES], const uint8_t uuid[static UUID_BYTES])
{
	if (memcmp(block + 0x1C, "FGL1", 4) != 0 || memcmp(block + 0x38, uuid, UUID_BYTES) != 0)
		return false;
	if (get_le32(block + L_CRC) != block_crc(block))
		return false;
	memcpy(h->salt, block + 0x10, AEAD_SALT_BYTES);
	h->seq = get_le64(block + 0x20);
	memcpy(h->prev_tag, block + 0x28, AEAD_TAG_BYTES);
	h->gen_ix = get_le16(block + 0x48);
	h->count = get_le16(block + 0x4A);
	h->gen_no = get_le32(block + 0x4C);
	h->ctr_base = get_le64(block + 0x50);
	h->settled = get_le64(block + 0x58);
	h->prefix_seq = get_le64(block + 0x60);
	h->root_seq = get_le64(block + 0x68);
	return h->count <= LOG_ENTRIES && h->gen_ix < GENERATIONS && h->ctr_base <= UINT64_MAX - LOG_ENTRIES;
}

static bool decode_entry(struct log_entry *e, const uint8_t *in)
{
	uint64_t word = get_le64(in);

	memset(e, 0, sizeof *e);
	e->kind = (uint8_t)(word >> KIND_SHIFT);
	e->level = (uint8_t)(word >> LEVEL_SHIFT & 0xF);
	e->index = word & index_mask;
	if (e->kind == LOG_SEAL)
		memcpy(e->tag, in + 8, AEAD_TAG_BYTES);
	else if (e->kind == LOG_ZERO)
		e->count = get_le64(in + 8);
	return e->kind <= LOG_BAD && e->level <= LEVELS_MAX;
}

bool logblock_decode_entries(struct log_entry *entries, const struct log_head *h, const uint8_t plain[static LOG_SEALED_BYTES])
{
	for (size_t i = 0; i < h->count; i++)
		if (!decode_entry(&entries[i], plain + i * LOG_ENTRY_BYTES))
			return false;
	return true;
}

void logblock_slot(struct slot *s, const struct log_head *h, const struct log_entry *e, unsigned i)
{
	static const uint8_t states[] = { SLOT_INVALID, SLOT_SEALED, SLOT_ZERO, SLOT_BAD };

	memset(s, 0, sizeof *s);
	s->state = states[e->kind];
	s->ctr = h->ctr_base + i;
	if (e->kind != LOG_SEAL)
		return;
	memcpy(s->tag, e->tag, AEAD_TAG_BYTES);
	memcpy(s->salt, h->salt, AEAD_SALT_BYTES);
	s->gen_ix = h->gen_ix;
}
