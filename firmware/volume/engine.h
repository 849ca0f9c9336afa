/* What the files of the engine share: the open volume, and the requests' buffers. Who may hold what, outermost first:
 *   range entry  >  tree.lock  >  the sealer's, the ring's and the pool's own short mutexes.
 * Only the range entry and a node pin are held across I/O. volume_lock_keys takes tree.lock and the short
 * mutexes, never a range. */
#ifndef FALLGATE_VOLUME_ENGINE_H
#define FALLGATE_VOLUME_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine_mutants.h"
#include "held.h"
#include "range.h"
#include "tree.h"

enum {
	IO_SECTORS = 256,                        /* most sectors in one device call: 1 MiB */
	LEAVES_PER_IO = IO_SECTORS / FANOUT + 2, /* test geometries take smaller pieces */
	EDGES = 2,                               /* the partial first and last sectors of a request */
};

/* One thread's working room for one piece of a request: no data passes through it but that of sectors touched in part, which are
 * wiped after use. */
struct request {
	size_t slots_used; /* and to be wiped */
	bool edges_used;
	uint8_t *spare; /* a sector that is read once more */
	uint8_t *edge[EDGES];
	const uint8_t *in[IO_SECTORS];
	uint8_t *out[IO_SECTORS];
	struct held_sector *cells[IO_SECTORS]; /* a write's: where its ciphertext goes */
	struct slot slots[IO_SECTORS];
	bool held[IO_SECTORS]; /* out has this sector's ciphertext already */
	bool good[IO_SECTORS];
	struct node *leaves[LEAVES_PER_IO];
	unsigned leaf_count;
	struct run run;
};

enum { POOL_PLACES = 64 };

struct pool {
	_Atomic(struct request *) places[POOL_PLACES];
};

/* Sealed log blocks on their way to the device, first_seq and on; writable without any key. */
struct sealed_log {
	uint8_t *blocks;
	size_t count, room;
	uint64_t first_seq;
};

/* The log as the engine sees it, under tree.lock. A group is what has happened since the last log block: entry i has counter
 * ctr_base + i, and kind LOG_NONE until its sector is sealed. */
struct log {
	uint64_t blocks;  /* of the region */
	size_t per_block; /* entries put into one */
	uint64_t reserve; /* blocks that only checkpoints and recovery may take */
	uint64_t next_seq;
	uint8_t last_tag[AEAD_TAG_BYTES];
	uint64_t tail;        /* of the newest durable root */
	uint64_t older_tail;  /* of the root before: from here on nothing is overwritten */
	uint64_t durable_seq; /* this block and all before it are */
	uint64_t settled;     /* the mark D of DESIGN.md */
	bool frozen;          /* recovery: D stays until the root */
	uint64_t node_ctr;    /* first counter of the nodes a checkpoint is writing; 0: none */
	uint64_t written_ctr; /* everything up to here is in place, flushed or not */
	uint64_t entries;     /* since the tail */
	uint64_t entries_max;
	uint8_t salt[AEAD_SALT_BYTES];
	uint64_t ctr_base;
	size_t count, room;
	struct log_entry *group;
	struct log_entry *nodes;               /* as many as a batch holds */
	struct sealed_log out, node_out, last; /* a commit's, a checkpoint's, the lock's */
	struct sealed_log mark;                /* the lock's too: one block without entries */
	uint64_t written_blocks;               /* since open */
};

/* What an offline repair passed over in the log. */
struct log_gaps {
	uint64_t first, blocks; /* the first damaged block, and how many */
	uint64_t entries;       /* at most so many were in them */
};

struct volume {
	struct block *dev;
	struct keyring *keys;
	bool read_only;
	struct header header;
	struct sealer sealer;
	struct tree tree;
	struct range_lock ranges;
	struct pool pool;

	/* Under tree.lock; changed is signalled whenever one of them may let a waiter go on. */
	pthread_cond_t changed;
	struct root root; /* as last sealed */
	struct log log;
	struct held held;
	struct block_part *parts; /* the committer's: IO_SECTORS of them, neighbours become one write */
	unsigned sealing;         /* pieces that have places in the group and are not in them yet */
	bool gate;                /* the group is being closed: no new places */
	bool committing;          /* one thread at a time writes log blocks and the data they name */
	bool checkpointing, flushing;
	bool anchor_due; /* the root names another count than the last that was written */
	uint64_t anchor_durable;
	bool root_dirty;          /* the top slot changed without a dirty node */
	uint64_t writes, flushed; /* rounds of in-place writes, and how many of them a flush has covered */
	uint64_t checkpoints, recovered, fallen_back, lost;
	bool skip_log_damage;
	struct log_gaps gaps;
	uint64_t bad_tags_max;
	atomic_bool alarm; /* as many tags have failed: nothing more is opened or accepted, what was accepted still goes out */
	bool drained;
	int drain_result;
	atomic_bool locked;   /* keys are gone; set under tree.lock */
	atomic_bool failstop; /* set under tree.lock */
	struct batch batch;   /* the checkpoint's */
	size_t piece_max;     /* sectors of a request sealed and accepted at once */
	bool stepped;
	int mutant;

	bool has_writer, stop;
	pthread_t writer;
	pthread_cond_t kick; /* with tree.lock: the writer has something to look at */
	uint64_t last_change_ns;

	pthread_mutex_t header_lock; /* one header update at a time; taken before everything else, never by a lock of the keys */

	pthread_mutex_t sync_lock; /* held across a flush or durable write; no lock of the keys ever takes it */
	bool sync_failed;

	pthread_mutex_t lock_once; /* lets one thread at a time into volume_lock_keys */
	bool lock_done;
	int lock_result;
	uint64_t cut_ns, wiped_ns;

	_Atomic uint64_t read_ops, write_ops, flush_ops, zero_ops, read_bytes, written_bytes;
};

/* --- commit.c ---------------------------------------------------------------------------------------------------------- */

/* With tree.lock, which goes away meanwhile: waits until `entries` more log entries and as many held sectors, and the dirty nodes
 * that need(what) counts, may be added. 0, ERR_REVOKED, ERR_FAILSTOP, or why what would make room failed. */
int engine_room(struct volume *v, size_t (*need)(const void *), const void *what, size_t entries);

/* With tree.lock, after engine_room: takes places in the group and their counters. 0, ERR_UNSUPPORTED, ERR_STATE (the generation
 * has sealed all it may). */
int engine_places(struct volume *v, size_t entries, size_t *first);

/* Brings everything accepted so far into the log and to its place. Not durable yet. */
int engine_commit(struct volume *v);

/* engine_commit, and one device flush for all who wait. */
int engine_flush(struct volume *v);

/* With tree.lock: seals the group into out, all or nothing. */
int engine_seal_group(struct volume *v, struct sealed_log *out);

/* Seals entries as log blocks behind the last one. */
int engine_seal_entries(struct volume *v, struct sealed_log *out, const struct log_entry *entries, size_t count,
			uint64_t ctr_base, const uint8_t *salt, uint64_t settled);

/* A block without entries that says: whatever has a counter by now is settled. It may be written only once that is true. */
int engine_seal_mark(struct volume *v, struct sealed_log *out);

/* Writing, without lock or key. */
int engine_write_log(struct volume *v, struct sealed_log *log);
int engine_write_held(struct volume *v, const struct held_sector *first); /* in order of place */

/* The only ways to durability: one after the other, and none after one that failed, for a device or kernel tells of a lost write
 * once, and to whoever asks first. */
int engine_sync(struct volume *v);
int engine_write_durably(struct volume *v, const void *in, size_t size, uint64_t at);

/* One round from group to place. With tree.lock and `committing` taken: closes the gate (the caller opens it), waits for seals
 * under way, seals the group, takes what is held. */
struct round {
	struct held_sector *held, *first; /* in order of acceptance; of place */
	uint64_t last_ctr;
};
int round_close(struct volume *v, struct round *round);
int round_write(struct volume *v, struct round *round); /* without lock or key */
void round_finish(struct volume *v, struct round *round, int result);
void engine_open_gate(struct volume *v);

/* Is a checkpoint due? With tree.lock. */
bool engine_due(const struct volume *v);

void engine_fail(struct volume *v, const char *what, int error);
uint64_t engine_now_ns(void);

int engine_log_init(struct volume *v, size_t held_sectors, uint64_t entries_max);
void engine_log_destroy(struct volume *v);

/* --- recovery.c -------------------------------------------------------------------------------------------------------- */

/* Before anything else touches the tree: replays the log that the root needs into it. *replayed: there was something. */
int engine_recover(struct volume *v, bool *replayed, char *why, size_t why_size);

/* --- writeback.c ------------------------------------------------------------------------------------------------------- */

int writeback_start(struct volume *v);
void writeback_stop(struct volume *v);

/* --- checkpoint.c ------------------------------------------------------------------------------------------------------ */

/* ERR_REVOKED or ERR_FAILSTOP if nothing may be changed any more, else 0. */
int engine_admits(const struct volume *v);

/* Moves what the log says into the tree on the device, and the log's tail behind it. clean is what the root says. A root is
 * written if anything changed, and with force in any case. */
int engine_checkpoint(struct volume *v, bool clean, bool force);

/* --- request.c --------------------------------------------------------------------------------------------------------- */

void pool_destroy(struct pool *p);
struct request *pool_take(struct pool *p); /* NULL: no memory */
void pool_return(struct pool *p, struct request *q);

#endif
