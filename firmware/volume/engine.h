/* What the files of the engine share: the open volume, and the requests' buffers. Who may hold what, outermost first:
 *   range entry  >  tree.lock  >  the sealer's, the ring's and the pool's own short mutexes.
 * Only the range entry and a node pin are held across I/O. volume_lock_keys takes tree.lock and the short
 * mutexes, never a range. */
#ifndef FALLGATE_VOLUME_ENGINE_H
#define FALLGATE_VOLUME_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "range.h"
#include "tree.h"

enum {
	IO_SECTORS = 256, /* most sectors in one device call: 1 MiB */
	LEAVES_PER_IO = IO_SECTORS / FANOUT + 2,
	EDGES = 2, /* the partial first and last sectors of a request */
};

/* One thread's working room for one piece of a request. Holds ciphertext; the edges hold plaintext and are wiped after use. */
struct request {
	struct request *next;
	uint8_t *io; /* IO_SECTORS * 4096 */
	uint8_t *edge[EDGES];
	union {
		const uint8_t *in[IO_SECTORS];
		uint8_t *out[IO_SECTORS];
	};
	struct slot slots[IO_SECTORS];
	struct slot old[IO_SECTORS];
	bool good[IO_SECTORS];
	struct node *leaves[LEAVES_PER_IO];
	unsigned leaf_count;
	struct run run;
};

struct pool {
	pthread_mutex_t lock;
	struct request *free;
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
	struct root root;   /* as last sealed */
	unsigned in_flight; /* data writes whose slots are in the tree and which the device has not answered */
	bool gate;          /* a checkpoint waits for in_flight to reach 0: no new ones */
	bool checkpointing;
	bool root_dirty; /* the top slot changed without a dirty node */
	int lost;        /* a data write failed after the lock had sealed its slots */
	bool drained;
	int drain_result;
	atomic_bool locked;      /* keys are gone; set under tree.lock */
	atomic_bool failstop;    /* set under tree.lock */
	struct batch batches[2]; /* [0] the checkpoint's, [1] the lock's */

	pthread_mutex_t lock_once; /* lets one thread at a time into volume_lock_keys */
	bool lock_done;
	int lock_result;
	uint64_t cut_ns, wiped_ns;

	_Atomic uint64_t read_ops, write_ops, flush_ops, zero_ops, read_bytes, written_bytes;
};

/* --- checkpoint.c ------------------------------------------------------------------------------------------------------ */

/* ERR_REVOKED or ERR_FAILSTOP if nothing may be changed any more, else 0. */
int engine_admits(const struct volume *v);

/* Makes everything in the tree durable: waits for data writes in flight, seals all that is dirty and the root, then writes it
 * without keys. clean is what the root says; with clean it is written even if nothing is dirty. Joins one that is under way. */
int engine_checkpoint(struct volume *v, bool clean);

/* --- request.c --------------------------------------------------------------------------------------------------------- */

void pool_init(struct pool *p);
void pool_destroy(struct pool *p);
struct request *pool_take(struct pool *p); /* NULL: no memory */
void pool_return(struct pool *p, struct request *q);

#endif
