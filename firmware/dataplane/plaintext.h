/* Plaintext outside the engine: the request buffers of the NBD server and the clients behind them. (The server of a block device
 * in the kernel has buffers of its own: ublk_face.h says what becomes of them.) What must hold: no byte of a buffer is touched
 * that the calling thread does not hold at that moment. The server (nbdkit 1.32) keeps one buffer a thread, which grows (by
 * realloc, zeroed anew), never shrinks, and is freed when the thread ends; a request that gets a buffer always reaches the
 * plugin, or is the last one of its thread. So inside a call of the plugin, and only there, the buffer noted last is sure to be
 * alive. From this follows what is wiped and what is not:
 *  - written data: as soon as it is sealed, before the call returns;
 *  - read data: at the thread's next call, whatever it is, as far as that does not overwrite it; it must outlive the call itself,
 *    because the reply is sent from it. An idle connection keeps its last replies (`-t` buffers of them) until then;
 *  - at a lock: nobody may touch another thread's buffer. Instead the clients' connections are shut for reading: each thread sees
 *    the end, and its buffer is freed, which wipes it (glibc.malloc.perturb, set by whoever starts the server); the process then
 *    ends and is executed anew. A client that does not take its replies keeps its threads until the process ends, 50 ms later;
 *  - data of a write that the server itself refuses passes 8 KiB of its stack, and socket queues are the kernel's: not reached.
 */
#ifndef FALLGATE_DATAPLANE_PLAINTEXT_H
#define FALLGATE_DATAPLANE_PLAINTEXT_H

#include <stddef.h>

/* At the start of a call that has no buffer of its own: wipes what the thread's last read left. */
void plaintext_enter(void);

/* At the start of a read into buf: wipes what would stay of the last one and notes this one. */
void plaintext_reading(void *buf, size_t size);

/* At the start of a write from buf: wipes what would stay of the last read behind it. */
void plaintext_writing(void *buf, size_t size);

/* When buf's data is sealed, or refused: wipes it. */
void plaintext_done(void *buf, size_t size);

/* Shuts every client's connection for reading, so that its threads end. Replies under way still leave. */
void plaintext_cut_clients(void);

#endif
