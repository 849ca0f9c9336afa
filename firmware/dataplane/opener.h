/* Opening a volume in a thread of its own: recovery reads and writes the disk, and an order to lock must not wait for that.
 * What must hold: a wipe of the ring makes a running opening fail; what it opened is the control thread's alone after join. */
#ifndef FALLGATE_DATAPLANE_OPENER_H
#define FALLGATE_DATAPLANE_OPENER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "volume/volume.h"

struct opener {
	pthread_t thread;
	struct block *dev;
	struct keyring *ring;
	struct volume_options options;
	uint8_t kcv[KCV_BYTES];
	int wake_fd; /* an eventfd, raised at the end */
	atomic_bool done;
	struct volume *volume; /* the result, valid after join */
	int error;
	char why[160];
};

/* Starts; the fields dev, ring, options, kcv and wake_fd are set. 0 or ERR_NOMEM. */
int opener_start(struct opener *o);

/* After done: collects the thread. Returns its error. */
int opener_join(struct opener *o);

#endif
