/* A failed assertion in the block server, survived or at least orderly. nbdkit 1.32.5 has one that any client can reach: when a
 * client goes while several replies wait, the first send fails, and the next thread finds the socket taken away and asserts.
 * What must hold: the thread that aborts never runs on. That one assertion costs its connection only: the thread stands still
 * with what it holds, which is nothing of the engine's, and the volume serves on; after FAULT_PARKED_MAX of them, and after any
 * other assertion, the gate falls in order and the agent starts a fresh process. An abort of any other kind (a damaged heap)
 * wipes the keys, but writes nothing more. */
#ifndef FALLGATE_DATAPLANE_FAULT_H
#define FALLGATE_DATAPLANE_FAULT_H

struct control;

enum { FAULT_PARKED_MAX = 8 }; /* each keeps a connection's threads, and their buffers, until the process ends */

/* From now on an abort in any thread tells the control thread and parks. Once, before other threads exist. */
void fault_watch(struct control *c);

#endif
