/* The authenticated tree in memory: cached nodes, their slots, which of them are dirty, and sealing all dirty ones into a batch.
 * What must hold, always under tree.lock: the parent of a cached node is cached; the ancestors of a dirty node are dirty; a node
 * that is dirty, pinned or has cached children is never evicted; a pinned node that is dropped is freed by its last unpin.
 * The lock is never held across I/O: tree_pin gives it back while it loads. tree_peek alone looks without it: a node's version is
 * odd while it is not in the cache or is being changed, and higher after each change. */
#ifndef FALLGATE_VOLUME_TREE_H
#define FALLGATE_VOLUME_TREE_H

#include <pthread.h>
#include <stdatomic.h>

#include "sector.h"

struct block;

enum node_list { LIST_NONE, LIST_CLEAN, LIST_DIRTY };

struct node {
	struct node *_Atomic chain; /* of the hash bucket, or of the free list */
	atomic_uint version;
	atomic_bool peeked;       /* since it was last considered for eviction */
	struct node *parent;      /* NULL: the top */
	struct node *prev, *next; /* of the list it is in */
	uint64_t index;
	uint32_t pins, children;
	uint8_t level;
	uint8_t list; /* enum node_list */
	bool dirty;
	bool dead; /* dropped while pinned */
	uint8_t slots[SEALED_BYTES];
};

struct node_queue {
	struct node *head, *tail;
	size_t count;
};

/* Sealed nodes on their way to the device: what a checkpoint or a lock leaves behind, writable without any key. */
struct batch {
	size_t count, room;
	struct node **nodes; /* pinned until the batch is released */
	struct {
		uint64_t index;
		unsigned level;
	} * where;
	uint8_t *blocks; /* room * 4096, then one for the root */
	uint8_t *root;   /* the sealed root record, if has_root */
	bool has_root;
	struct run run;
	struct slot slots[AEAD_RUN_MAX];
};

int batch_init(struct batch *b, size_t room);
void batch_destroy(struct batch *b);

struct tree {
	pthread_mutex_t lock;
	const struct geometry *geometry;
	struct sealer *sealer;
	struct block *dev;
	bool read_only;
	bool shut;       /* wiped: nothing is loaded or looked up any more */
	struct slot top; /* what the root record says of the top node */
	size_t clean_max, dirty_max, allocated;
	size_t dirty_count;
	struct node_queue dirty[LEVELS_MAX + 1];
	struct node_queue clean; /* evictable, least recently used first */
	struct node *free;
	struct node *_Atomic *buckets;
	size_t bucket_mask;
	struct node_chunk *chunks;
	_Atomic uint64_t bad_tags;
};

int tree_init(struct tree *t, const struct geometry *g, struct sealer *s, struct block *dev, const struct slot *top);
void tree_destroy(struct tree *t);

/* All below: with tree.lock held by the caller. */

/* Pins the node (level, index), loading it and its ancestors; the lock is given back meanwhile. If it or an ancestor is ZERO:
 * with create it is made (all slots ZERO, not dirty yet), without create *out is NULL and *zero_level the level of that ZERO.
 * 0, ERR_CORRUPT, ERR_IO, ERR_NOMEM, ERR_REVOKED. */
int tree_pin(struct tree *t, unsigned level, uint64_t index, bool create, struct node **out, unsigned *zero_level);
void tree_unpin(struct tree *t, struct node *n);

/* How many more nodes become dirty with n. */
size_t tree_dirty_need(const struct node *n);
void tree_mark_dirty(struct tree *t, struct node *n);

void tree_get(const struct node *n, unsigned i, struct slot *out);

/* Without the lock: the slots first .. first+count-1 of leaf `index` as they were at one instant. False: not cached, or changed
 * meanwhile; ask with the lock. */
bool tree_peek(const struct tree *t, uint64_t index, unsigned first, unsigned count, struct slot *out);
void tree_put(struct node *n, unsigned i, const struct slot *in);

/* Makes children first .. first+count-1 of n (NULL: the top node itself) ZERO as of ctr and drops what is cached below them.
 * The caller has found room for n's path among the dirty and marks it. */
void tree_zero(struct tree *t, struct node *n, unsigned first, unsigned count, uint64_t ctr);

/* True if all of these are ZERO already, with nothing cached below that says otherwise. */
bool tree_is_zero(const struct tree *t, const struct node *n, unsigned first, unsigned count);

/* Seals every dirty node, lowest level first, into b. All or nothing: on an error everything is dirty again. No allocation. */
int tree_seal(struct tree *t, struct batch *b);
void tree_unseal(struct tree *t, struct batch *b);  /* the batch will not be written: its nodes are dirty again */
void tree_release(struct tree *t, struct batch *b); /* the batch has been written */

/* Wipes every slot in memory, also of nodes just being loaded: the ring must be shut, so that nobody opens into one meanwhile.
 * After it nothing is found. */
void tree_wipe(struct tree *t);

#endif
