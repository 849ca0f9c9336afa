/* The sealed volume: bytes in, sealed 4 KiB sectors in place, an authenticated tree above them (SPEC.md, DESIGN.md).
 * What must hold: a write is sealed before it is acknowledged; no plaintext is kept; the sealing of the last log block, the
 * wiping of keys and the writing of what was sealed happen in that order on a lock; a power cut at any instant leaves each
 * sector as it was at the last flush or as some later write made it; a failed tag is an error, never data; a failed write or
 * flush is fail-stop: no acknowledgement after it until the volume is opened again.
 * Every function is thread-safe unless it says otherwise. */
#ifndef FALLGATE_VOLUME_VOLUME_H
#define FALLGATE_VOLUME_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keyring.h"

struct block;
struct volume;

enum {
	SECTOR_BYTES = 4096,
	KEK_SLOTS = 8,
	KEK_FINGERPRINT_BYTES = 32,
	WRAPPED_MAX = 632, /* a wrapped 48-byte payload: RSA-4096 fits */
	VOLUME_LABEL_MAX = 63,
};

enum kek_slot_type { KEK_SLOT_AES_KW = 1, KEK_SLOT_RSA_OAEP = 2 };
enum kek_slot_hash { KEK_HASH_NONE = 0, KEK_HASH_SHA256 = 1, KEK_HASH_SHA1 = 2 };

/* A KEK slot as it stands in the header. Hints (label, id, token) are for people; the fingerprint is what is matched. */
struct kek_slot {
	enum kek_slot_type type;
	enum kek_slot_hash hash;
	uint8_t fingerprint[KEK_FINGERPRINT_BYTES];
	char label[64];
	uint8_t id[62];
	uint16_t id_size;
	char token[64];
	uint32_t gen_no;
	uint16_t wrapped_size;
	uint8_t wrapped[WRAPPED_MAX];
};

/* What a header says before any key is there: hostile until the volume is opened. */
struct volume_header_info {
	uint8_t uuid[UUID_BYTES];
	uint64_t header_seq;
	uint64_t size;    /* bytes offered to the client */
	uint64_t created; /* seconds since the epoch */
	char label[VOLUME_LABEL_MAX + 1];
	uint32_t active_gen;
	unsigned slot_count; /* active slots below */
	struct kek_slot slots[KEK_SLOTS];
};

/* Parses the better of the two headers (magic, SHA-256, version, geometry against the device's size). 0, ERR_FOREIGN (no FGV1
 * header: `why` says what was found), ERR_CORRUPT (both damaged), ERR_RANGE (backing smaller than the header says), ERR_IO.
 * why: one clause for the log, always terminated. */
int volume_read_header(struct block *dev, struct volume_header_info *out, char *why, size_t why_size);

struct volume_format {
	uint8_t uuid[UUID_BYTES];
	uint64_t size; /* client bytes wanted, a multiple of 4096; 0: as much as fits */
	const char *label;
	struct kek_slot slot; /* the first KEK slot, with the wrapped payload of generation gen_no */
	uint64_t now;         /* seconds since the epoch */
	/* Tiny geometries for tests; 0 = the standard. Such a volume opens only with volume_options.test_geometry. */
	unsigned fanout;     /* slots used in a node, 4 .. 100 */
	uint64_t log_blocks; /* at least 8 */
};

/* The same as volume_backing_size for the geometry that f asks for. */
uint64_t volume_backing_size_for(const struct volume_format *f);

/* How large a backing file must be for `size` client bytes (multiple of 4096, > 0). 0 if it does not fit in 63 bits. */
uint64_t volume_backing_size(uint64_t size);

/* Writes headers, empty log, root records: O(1) in the volume's size. The ring holds generation slot.gen_no. Everything but the
 * magic of header A is written and flushed first, so that a cut leaves "no volume", not half of one. 0, ERR_RANGE (backing too
 * small), ERR_IO, ERR_NOSPACE. */
int volume_format(struct block *dev, struct keyring *k, const struct volume_format *f);

/* How much memory an open volume may take: some 28 MiB, for a small board, or some 300, for a server (DESIGN.md, "Memory"). */
enum volume_preset { VOLUME_BOARD, VOLUME_SERVER };

/* A count outside the medium that only goes up (a TPM's). The newest root names the count that it was written under; an older
 * medium put back names a lower one. What an opening makes of it: */
enum volume_anchor {
	ANCHOR_IGNORE, /* offline tools, tests: what the root names is kept */
	ANCHOR_NONE,   /* this appliance has no counter for it: refuse a volume that names one */
	ANCHOR_BIND,   /* the counter is new: the volume names none yet, or was cut while it was bound to this one */
	ANCHOR_CHECK,  /* the volume names this count, or the next (cut before the counter was stepped); else refuse */
	ANCHOR_ACCEPT, /* an officer says that this older medium is meant */
	ANCHOR_POLICY_COUNT
};

struct volume_options {
	enum volume_anchor anchor;
	uint64_t anchor_count; /* the counter's; from BIND on the session's roots name the next */
	bool read_only;
	enum volume_preset preset; /* for each of the four below that is 0 */
	size_t cache_nodes;        /* clean nodes kept */
	size_t dirty_nodes_max;    /* a checkpoint runs before more are dirty; bounds its size */
	size_t held_max;           /* bytes of sealed sectors that wait for their place */
	size_t pending_max;        /* log entries after which a checkpoint runs; bounds a recovery */
	const uint8_t *kcv;    /* KCV_BYTES pinned by the appliance: a mismatch is ERR_FOREIGN. NULL only in tests and tools */
	uint64_t expect_size;  /* pinned client size in bytes; 0 = do not check */
	bool assume_4k;        /* open a device that does not promise to write 4096 bytes at once */
	bool stepped;          /* no thread of its own: all work is done inside the calls, in a fixed order */
	bool test_geometry;    /* accept fanouts and log sizes that no standard volume has */
	uint64_t bad_tags_max; /* reads and changes are ERR_FAILSTOP after so many failed tags since open; 0 = 2^20 */
	bool skip_log_damage;  /* offline repair only: blocks of the log that are damaged are passed over, not refused */
	int mutant;            /* enum volume_mutant, only in a build with FALLGATE_MUTANTS; 0 = none */
};

/* Authenticates header and root with the ring's keys, recovers, and is ready to serve. Takes neither dev nor ring over: the
 * caller closes and destroys them after volume_close. 0, ERR_FOREIGN, ERR_CORRUPT, ERR_IO, ERR_REVOKED, ERR_UNSUPPORTED (the
 * device may tear 4 KiB), ERR_NOSPACE (the log was used up by recoveries that were cut); `why` names the reason. */
int volume_open(struct volume **out, struct block *dev, struct keyring *k, const struct volume_options *o, char *why,
		size_t why_size);

uint64_t volume_size(const struct volume *v);

/* Any offset and length inside the volume (else ERR_RANGE). ERR_CORRUPT: some sector's tag failed; buf is wiped whole.
 * ERR_REVOKED: the gate is shut; buf is wiped. */
int volume_read(struct volume *v, void *buf, size_t size, uint64_t at);

/* Sealed when it returns 0; durable after the next flush, or at once with fua. Unaligned edges are read, verified, merged. */
int volume_write(struct volume *v, const void *buf, size_t size, uint64_t at, bool fua);

/* Zeroes (write-zeroes, trim). `punch`: the backing may be discarded too where the policy allows. */
int volume_zero(struct volume *v, uint64_t size, uint64_t at, bool punch, bool fua);

/* Makes every acknowledged write durable. All connections share it. ERR_FAILSTOP after any failure. */
int volume_flush(struct volume *v);

/* Calls fn for runs of equal state that cover [at, at+size); stops when fn returns non-zero and returns that. */
typedef int volume_extent_fn(void *context, uint64_t at, uint64_t size, bool zero);
int volume_extents(struct volume *v, uint64_t size, uint64_t at, volume_extent_fn *fn, void *context);

/* The lock, part one: stop admission, seal the log block of what was accepted last, wipe every key, cached node and plaintext.
 * Microseconds, no I/O, no allocation, no waiting for I/O. From its return on, reads and writes answer ERR_REVOKED. Idempotent.
 * Reports CLOCK_BOOTTIME ns of the moment admission stopped and of the moment the keys were gone. */
void volume_lock_keys(struct volume *v, uint64_t *cut_ns, uint64_t *wiped_ns);

/* The lock, part two, without keys: waits for writes in flight, writes the log block, then the ciphertext it names, flushes. No
 * checkpoint and no root: the next open recovers. 0, or the error
 * with which acknowledged writes may have been lost (ERR_IO, ERR_NOSPACE, ERR_FAILSTOP). */
int volume_lock_drain(struct volume *v);

/* What the header in force says. */
void volume_header(struct volume *v, struct volume_header_info *out);

/* Replaces the header's KEK slots by these, all of the active generation, while the volume serves (a KEK rotated, added,
 * removed). 0: both copies and the root say so, durably; the old header opens nothing any more. A power cut, a kill or an error
 * leaves the old header or the new one in force, never none, and the next opening settles which. ERR_RANGE (a slot is
 * impossible), ERR_DENIED (read-only), ERR_REVOKED, ERR_CORRUPT (no copy on the device is the one in force), ERR_FAILSTOP and
 * what led there. */
int volume_set_slots(struct volume *v, const struct kek_slot *slots, unsigned count);

/* The count that the newest durable root names; 0: none. Once the counter is stepped to it, everything older is refused. */
uint64_t volume_anchor(struct volume *v);

/* The roots from now on name this count, and the volume's thread writes one soon. */
void volume_raise_anchor(struct volume *v, uint64_t count);

/* With `stepped`: one step of what the thread does otherwise: writes what is held, then a checkpoint if one is due. 0 or an
 * error. */
int volume_step(struct volume *v);

struct volume_stats {
	uint64_t read_ops, write_ops, flush_ops, zero_ops;
	uint64_t read_bytes, written_bytes;
	uint64_t bad_tags; /* sectors and nodes whose tag failed since open */
	uint64_t dirty_nodes;
	bool failstop;        /* reads and writes end in ERR_FAILSTOP until it is opened again */
	bool alarm;           /* ... because of so many bad_tags, not of the device: what was accepted is still written */
	uint64_t held_bytes;  /* sealed, not yet in place */
	uint64_t log_blocks;  /* written since open */
	uint64_t checkpoints; /* since open */
	uint64_t recovered;   /* log entries replayed by the open */
	uint64_t fallen_back; /* objects whose newest version the cut had kept from its place */
	uint64_t lost;        /* sectors that recovery found in no version it may accept: they are BAD */
};
void volume_stats(struct volume *v, struct volume_stats *out);

/* Flushes with root clean=1 if the keys are still there, and frees. After a lock it only frees. 0 or the flush's error. */
int volume_close(struct volume *v);

#endif
