/* The serving dataplane's control thread: takes the supervisor's orders, keeps the deadlines, gets the key, and lets the gate
 * fall. What must hold: it never waits for a disk or for an hsm while a key is in RAM, except in the lock's own drain, when none
 * is left; MSG_DP_WIPED goes out the moment the keys are gone; a lost, silent or malformed supervisor ends in wiped keys and the
 * end of the process. A gate that falls ends the process, unless the volume is held: then the process stays for its clients'
 * connections, which nobody could take over, and gets a new ring and opens the volume anew when the key comes back. Nothing of
 * the old ring or volume is used again. */
#ifndef FALLGATE_DATAPLANE_CONTROL_H
#define FALLGATE_DATAPLANE_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

struct control;
struct volume;

/* Values of enum gate_cause, for locks that nobody ordered with a cause. This room does not see revocation.h: a test compares. */
enum { LOCK_CAUSE_UNREACHABLE = 8, LOCK_CAUSE_SUPERVISOR_LOST = 15, LOCK_CAUSE_ENGINE = 16, LOCK_CAUSE_DETACHED = 17 };

/* True if fd is one end of a SOCK_SEQPACKET pair, as the agent hands it out. */
bool control_fd_good(int fd);

/* Makes what the thread needs, takes fd over and says hello. 0, ERR_NOMEM, ERR_IO. Before the sandbox. */
int control_create(struct control **out, int fd);

/* When a volume was attached and its header found good, before the supervisor hears of it: `prepare` makes the export; its error
 * refuses the attachment. On the control thread. Before control_start. */
void control_on_attach(struct control *c, int (*prepare)(void *context), void *context);

/* Starts the thread. 0 or ERR_NOMEM. In the sandbox. */
int control_start(struct control *c);

/* Returns when the supervisor has attached a volume and its header was found good: from then on the export exists. If that never
 * comes, neither does the return: the control thread ends the process. */
void control_wait_ready(struct control *c);

/* After control_wait_ready. */
uint64_t control_size(const struct control *c);
bool control_read_only(const struct control *c);

/* The volume for one request, or NULL while there is no key. Any thread. */
struct volume *control_enter(struct control *c);

/* Its end, with the request's error; after NULL, with ERR_REVOKED. Waits while the volume is held, if it was the gate that
 * stopped the request: true when it is to be tried again. Any thread. */
bool control_leave(struct control *c, struct volume *v, int error);

/* An operation ended with this error: the control thread looks whether there is something to tell. Any thread. */
void control_noticed(struct control *c, int error);

/* A thread of this process has failed and stands still: lock, and end. `orderly`: memory can be trusted, so what is acknowledged
 * is written. Any thread, from a signal handler; on the control thread itself it ends the process at once. */
void control_fault(struct control *c, bool orderly);

/* A client's connection stands still until the process ends. Returns how many do by now. Any thread, from a signal handler. */
unsigned control_client_stuck(struct control *c);

/* A client came or went. False: the gate is falling, nobody may come, or there are too many. Any thread. */
bool control_client_came(struct control *c);
void control_client_went(struct control *c);

#endif
