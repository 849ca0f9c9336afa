/* The block device's face in the kernel: the queues of one ublk device over the volume engine. Who stands behind a queue (the
 * kernel, or a test) is hal/ublk.h's matter. What must hold: a request is answered once or never; without a key nothing of it is
 * looked at; a failed tag is EIO, never data; a request that was answered well is durable where the device has no volatile cache
 * (hold), and after a flush or with FUA where it has one. With hold, what a key is wanting for is not answered: the kernel gives
 * it to the next server. Nothing is allocated for a request. Plaintext: each worker has one buffer of its own, ordinary memory of
 * this process, and wipes what a request left in it before the request is answered, whatever became of it. A lock waits (50 ms at
 * most) for the workers to come out of the volume, so an orderly end leaves none. What the kernel keeps above the device (page
 * cache, requests in flight) nobody here can wipe. */
#ifndef FALLGATE_DATAPLANE_UBLK_FACE_H
#define FALLGATE_DATAPLANE_UBLK_FACE_H

#include <stdbool.h>

#include "hal/ublk.h"

struct control;
struct ublk_face;

/* The queues are those of one device, all of one depth. Makes every buffer and thread there will be; they wait. 0 or ERR_NOMEM.
 * For the life of the process. */
int ublk_face_create(struct ublk_face **out, struct control *c, struct ublk_queue *const *queues, unsigned count, bool hold);

/* Returns when the kernel has heard of every queue. Once, for control_on_attach. 0, ERR_BUSY, ERR_IO. */
int ublk_face_fetch(void *face);

#endif
