/* Sealing and opening of objects: counters and salts, nonces, associated data, runs of at most 64 items under one key lease.
 * What must hold: a (salt, counter) pair is handed out once; the associated data names kind, level, place, generation, version
 * and volume of what is sealed, so that nothing opens anywhere else; nothing here waits for a device. */
#ifndef FALLGATE_VOLUME_SECTOR_H
#define FALLGATE_VOLUME_SECTOR_H

#include <pthread.h>

#include "log.h"

enum object_type { OBJECT_DATA = 1, OBJECT_NODE = 2, OBJECT_LOG = 3, OBJECT_ROOT = 4 };

enum { AAD_BYTES = 48, AAD_MAX = AAD_BYTES + LOG_AAD_END - CLEAR_AAD_AT };

struct sealer {
	struct keyring *keys;
	uint8_t uuid[UUID_BYTES];
	uint32_t gen_no[GENERATIONS]; /* 0: no such generation */
	uint16_t active;
	uint64_t ctr_limit;   /* no data is sealed from here on: the generation is used up */
	pthread_mutex_t lock; /* the fields below; held for a few instructions */
	uint64_t ctr_next;
	uint8_t salt[AEAD_SALT_BYTES];
	uint64_t salt_seals;
	uint64_t salt_since_ns;
};

/* A fresh salt from the entropy source. 0 or ERR_UNSUPPORTED. */
int sealer_init(struct sealer *s, struct keyring *keys, const struct header *h, uint64_t ctr_next);
void sealer_destroy(struct sealer *s);

/* Takes `count` consecutive counters and the salt to use them with, with renew a new salt when it is due. 0, ERR_UNSUPPORTED (no
 * entropy), ERR_STATE (the generation has sealed all it may: rotate the DEK). */
int sealer_take(struct sealer *s, uint64_t count, bool renew, uint8_t salt[static AEAD_SALT_BYTES], uint64_t *ctr);

/* The same for the tree itself: never renews the salt and never refuses, so that a lock can always seal what is dirty. */
void sealer_take_reserved(struct sealer *s, uint64_t count, uint8_t salt[static AEAD_SALT_BYTES], uint64_t *ctr);

uint64_t sealer_next(struct sealer *s);

/* Counters below `least` have been seen: none of them is handed out. */
void sealer_skip(struct sealer *s, uint64_t least);

/* Room for one run. Large: lives in a request or a batch, not on a stack. */
struct run {
	size_t count;
	struct aead_item items[AEAD_RUN_MAX];
	uint8_t aad[AEAD_RUN_MAX][AAD_MAX];
};

/* Seals count <= 64 sectors from lba on: plaintext in[i] to out[i]. slots[i] holds salt, generation and counter already,
 * all of one salt; its tag is filled in. 0 or ERR_REVOKED. */
int sectors_seal(struct sealer *s, struct run *run, uint64_t lba, size_t count, const uint8_t *const *in, uint8_t *const *out,
		 struct slot *slots);

/* Opens count sectors (any number), in[i] to out[i] (the same or apart), in runs of equal salt. good[i] tells which tags were
 * right; the others are zeroed. 0 (look at good), ERR_REVOKED, ERR_CORRUPT (a slot names a generation that does not exist). */
int sectors_open(struct sealer *s, struct run *run, uint64_t lba, size_t count, const uint8_t *const *in, uint8_t *const *out,
		 const struct slot *slots, bool *good);

/* Adds a node to a run: clear part and, once sealed, tag and ciphertext go to block; slot must hold salt, generation and counter
 * and gets the tag. */
void node_add(const struct sealer *s, struct run *run, uint8_t *block, const uint8_t *plain, unsigned level, uint64_t index,
	      struct slot *slot);

/* Seals the nodes added (all of one salt), and empties the run. */
int nodes_seal(struct sealer *s, struct run *run, const uint8_t salt[static AEAD_SALT_BYTES]);

/* Opens a node block read from the device against the slot its parent holds. 0, ERR_REVOKED, ERR_CORRUPT. */
int node_open(struct sealer *s, uint8_t plain[static SEALED_BYTES], const uint8_t block[static SECTOR_BYTES], unsigned level,
	      uint64_t index, const struct slot *slot);

/* Seals a root record into block under r->salt and r->seq. 0 or ERR_REVOKED. */
int root_seal(struct keyring *keys, uint8_t block[static SECTOR_BYTES], const struct root *r,
	      const uint8_t uuid[static UUID_BYTES]);

/* Opens one. 0, ERR_REVOKED, ERR_NOT_FOUND (not a root record of this volume at all), ERR_CORRUPT. */
int root_open(struct keyring *keys, struct root *r, const uint8_t block[static SECTOR_BYTES],
	      const uint8_t uuid[static UUID_BYTES]);

/* Encodes and seals a log block; its tag is then at the block's start. 0 or ERR_REVOKED. */
int logblock_seal(struct sealer *s, uint8_t block[static SECTOR_BYTES], const struct log_head *h,
		  const struct log_entry *entries);

/* Opens one. 0, ERR_REVOKED, ERR_NOT_FOUND (not a log block of this volume at all), ERR_CORRUPT. */
int logblock_open(struct sealer *s, struct log_head *h, struct log_entry entries[static LOG_ENTRIES],
		  const uint8_t block[static SECTOR_BYTES]);

#endif
