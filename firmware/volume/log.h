/* The bytes of log blocks, and which of them follow each other (SPEC.md, "Log blocks"). Pure: no I/O, no keys, no memory.
 * What must hold: the decoders take hostile bytes; a decoded block has at most LOG_ENTRIES entries, each of a known kind. */
#ifndef FALLGATE_VOLUME_LOG_H
#define FALLGATE_VOLUME_LOG_H

#include "layout.h"

enum {
	LOG_CLEAR_BYTES = 0x80, /* clear part; the rest is sealed */
	LOG_SEALED_BYTES = SECTOR_BYTES - LOG_CLEAR_BYTES,
	LOG_AAD_END = 0x7C, /* the clear bytes from CLEAR_AAD_AT up to here are authenticated */
	LOG_ENTRY_BYTES = 24,
	LOG_ENTRIES = 165,
};

enum log_kind { LOG_NONE, LOG_SEAL, LOG_ZERO, LOG_BAD };

/* What happened to an object. Its counter is the block's base plus its place; salt and generation are the block's. */
struct log_entry {
	uint8_t kind, level;
	uint64_t index;
	uint64_t count;              /* ZERO: so many objects from index on */
	uint8_t tag[AEAD_TAG_BYTES]; /* SEAL */
};

struct log_head {
	uint64_t seq;
	uint8_t salt[AEAD_SALT_BYTES];
	uint8_t prev_tag[AEAD_TAG_BYTES];
	uint16_t gen_ix, count;
	uint32_t gen_no;
	uint64_t ctr_base, settled, prefix_seq, root_seq;
};

void logblock_encode(uint8_t block[static SECTOR_BYTES], const struct log_head *h, const uint8_t uuid[static UUID_BYTES],
		     const struct log_entry *entries);

/* Clear part of hostile bytes. False: no log block of this volume, a wrong checksum, or more entries than fit. */
bool logblock_decode_clear(struct log_head *h, const uint8_t block[static SECTOR_BYTES], const uint8_t uuid[static UUID_BYTES]);

/* The opened part. False: an entry of a kind or level that no version 1 writes. */
bool logblock_decode_entries(struct log_entry *entries, const struct log_head *h, const uint8_t plain[static LOG_SEALED_BYTES]);

/* Puts the CRC-32C in; needs no key. */
void logblock_checksum(uint8_t block[static SECTOR_BYTES]);

/* The counter of entry i as a slot of the object it names. */
void logblock_slot(struct slot *s, const struct log_head *h, const struct log_entry *e, unsigned i);

#endif
