/* Where everything of an FGV1 volume lies, and the bytes of header, root record and node (SPEC.md). Pure: no I/O, no keys.
 * What must hold: the decoders take hostile bytes; a geometry that passed geometry_compute has no region outside the backing
 * store and no two regions that overlap, and every offset derived from it fits 63 bits. */
#ifndef FALLGATE_VOLUME_LAYOUT_H
#define FALLGATE_VOLUME_LAYOUT_H

#include "volume.h"

enum {
	FANOUT = 100,
	SLOT_BYTES = 40,
	LEVELS_MAX = 8,
	GENERATIONS = 4,
	HEADER_BYTES = 65536,
	HEADER_HASH_AT = 0xFE0,
	ROOT_RING = 4,
	CLEAR_BYTES = 0x60,                        /* clear part of nodes and root records; the rest is sealed */
	SEALED_BYTES = SECTOR_BYTES - CLEAR_BYTES, /* = FANOUT * SLOT_BYTES */
	CLEAR_AAD_AT = 0x10,                       /* the clear bytes that are authenticated: from here ... */
	CLEAR_AAD_END = 0x5C,                      /* ... up to here */
	LOG_BLOCKS_MIN = 256,
	LOG_BLOCKS_MAX = 65536,
	FANOUT_LEAST = 4, /* the limits of test geometries */
	LOG_BLOCKS_LEAST = 8,
};

/* Regions in order: header A, ring A, zeroes up to 1 MiB, log, upper levels A, level 1, data, upper levels B, ring B, header
 * B. */
struct geometry {
	uint64_t n_sectors;
	uint64_t backing_size;
	uint64_t log_off, log_blocks;
	uint64_t data_off;
	uint64_t root_off[2];
	uint64_t header_off[2];
	unsigned fanout;                      /* slots used in a node: FANOUT but for tests */
	unsigned levels;                      /* of nodes; the node of this level is the top */
	uint64_t count[LEVELS_MAX + 1];       /* objects per level; count[0] = n_sectors */
	uint64_t span[LEVELS_MAX + 2];        /* sectors below one object of a level; span[0] = 1 */
	uint64_t node_off[2][LEVELS_MAX + 1]; /* [1][l] = 0: no second copy */
};

/* The log's size in blocks for a volume of n_sectors. */
uint64_t geometry_log_blocks(uint64_t n_sectors);

/* Smallest backing store for n_sectors; 0: does not fit 63 bits. */
uint64_t geometry_minimum(uint64_t n_sectors, uint64_t log_blocks);

/* 0, or ERR_RANGE: no sectors, log size outside its limits, backing too small or not a multiple of 4096. */
int geometry_compute(struct geometry *g, uint64_t n_sectors, uint64_t log_blocks, uint64_t backing_size);

/* Both for test geometries too: fanout 4 .. 100, log from 8 blocks on. */
uint64_t geometry_minimum_any(uint64_t n_sectors, uint64_t log_blocks, unsigned fanout);
int geometry_compute_any(struct geometry *g, uint64_t n_sectors, uint64_t log_blocks, unsigned fanout, uint64_t backing_size);

/* Byte offset of copy 0 or 1 of an object; level 0 is data. */
uint64_t geometry_offset(const struct geometry *g, unsigned level, uint64_t index, unsigned copy);

enum generation_state { GENERATION_FREE, GENERATION_ACTIVE, GENERATION_RETIRING, GENERATION_DESTROYED };

struct generation {
	uint32_t gen_no;
	enum generation_state state;
	uint64_t created, ctr_start;
	uint8_t kcv[KCV_BYTES];
};

struct header {
	uint8_t uuid[UUID_BYTES];
	uint64_t seq;
	uint64_t feature_compat, feature_ro_compat;
	uint64_t created;
	char label[VOLUME_LABEL_MAX + 1];
	struct geometry geometry;
	struct generation generations[GENERATIONS];
	unsigned active; /* index of the one active generation */
	unsigned slot_count;
	struct kek_slot slots[KEK_SLOTS]; /* active ones, packed; their blob is the active generation's */
	uint8_t mac[32], hash[32];
};

/* Encodes everything but MAC and SHA-256, which stay zero. */
void header_encode(uint8_t out[static HEADER_BYTES], const struct header *h);

/* The MAC goes over the header with MAC and SHA-256 zero; header_finish puts both in. */
void header_finish(uint8_t out[static HEADER_BYTES], const uint8_t mac[static 32]);

/* Hostile bytes to a struct. ERR_FOREIGN: magic, version or features; ERR_CORRUPT: SHA-256 or a field no version 1 writes;
 * ERR_RANGE: the header wants a larger backing store than device_size. why says which. The MAC is not checked here. */
int header_decode(struct header *h, const uint8_t in[static HEADER_BYTES], uint64_t device_size, char *why, size_t why_size);

/* The same; with `any` a test geometry is good too. */
int header_decode_any(struct header *h, const uint8_t in[static HEADER_BYTES], uint64_t device_size, bool any, char *why,
		      size_t why_size);

enum slot_state { SLOT_INVALID, SLOT_SEALED, SLOT_ZERO, SLOT_BAD };

struct slot {
	uint8_t tag[AEAD_TAG_BYTES];
	uint8_t salt[AEAD_SALT_BYTES];
	uint16_t gen_ix;
	uint16_t state;
	uint64_t ctr;
};

void slot_encode(uint8_t out[static SLOT_BYTES], const struct slot *s);
void slot_decode(struct slot *s, const uint8_t in[static SLOT_BYTES]);
bool slot_same(const struct slot *a, const struct slot *b);

/* The clear part of a node but for tag and checksum. */
struct node_clear {
	uint8_t salt[AEAD_SALT_BYTES];
	uint64_t ctr, index;
	uint8_t level;
	uint16_t gen_ix;
	uint32_t gen_no;
};

void node_encode_clear(uint8_t block[static CLEAR_BYTES], const struct node_clear *n, const uint8_t uuid[static UUID_BYTES]);

/* True if the clear part is byte for byte what node_encode_clear writes for n, and the tag is `tag`. */
bool node_clear_is(const uint8_t block[static SECTOR_BYTES], const struct node_clear *n, const uint8_t uuid[static UUID_BYTES],
		   const uint8_t tag[static AEAD_TAG_BYTES]);

struct root {
	uint64_t seq;
	uint32_t gen_no;
	uint8_t salt[AEAD_SALT_BYTES];
	bool clean;
	uint8_t session[16];
	uint64_t ctr_next;
	uint64_t settled;
	uint64_t tail_seq;
	uint8_t prev_tag[AEAD_TAG_BYTES];
	struct slot top;
	uint8_t header_hash[2][32]; /* current, next */
	uint32_t rekey_from, rekey_to, rekey_state;
	uint64_t rekey_cursor;
	uint64_t anchor;
	uint64_t opens, unwraps;
};

void root_encode_clear(uint8_t block[static CLEAR_BYTES], const struct root *r, const uint8_t uuid[static UUID_BYTES]);
void root_encode_sealed(uint8_t plain[static SEALED_BYTES], const struct root *r);

/* Clear part of hostile bytes: seq, gen_no and salt. False: no root record of this volume, or its checksum is wrong. */
bool root_decode_clear(struct root *r, const uint8_t block[static SECTOR_BYTES], const uint8_t uuid[static UUID_BYTES]);
void root_decode_sealed(struct root *r, const uint8_t plain[static SEALED_BYTES]);

/* Puts the CRC-32C into the clear part of a node or root; needs no key, so it runs when the block is written. */
void block_checksum(uint8_t block[static SECTOR_BYTES]);
bool block_checksum_good(const uint8_t block[static SECTOR_BYTES]);

uint32_t crc32c(uint32_t crc, const void *data, size_t size);

#endif
