/* Orders from outside: mgmt's requests, the console's, signals; and mgmt's life. What must hold: mgmt is believed about who
 * spoke, not about what that one may do; a restore names the gate's sequence; a revoke is unconditional, and its answer says
 * whether the latch is on disk; whoever asks gets exactly one answer. */
#ifndef FALLGATE_SUPERVISOR_MANAGE_H
#define FALLGATE_SUPERVISOR_MANAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "ipc/message.h"

struct agent;
struct volume;

/* Starts mgmt, which is started again whenever it ends. 0 or ERR_* (the address is taken: logged). */
int manage_start(struct agent *a);
void manage_stop(struct agent *a);

/* A revoke of one volume, or of all (volume empty): acts at once; `done` is called when the latches are on disk, or a second
 * later. */
typedef void manage_revoked(void *context, uint64_t id, int error, uint64_t seq, bool durable, const char *text);
void manage_revoke(struct agent *a, const char *volume, const char *identity, uint64_t id, manage_revoked *done, void *context);

/* Whoever waits for a context's answer no longer does. */
void manage_forget(struct agent *a, const void *context);

/* Gate records were written; one was not: who waits for it hears so at once, though it is tried again. */
void manage_written(struct agent *a);
void manage_not_written(struct agent *a, const struct volume *v, uint64_t seq);

/* The address that mgmt listens on, "127.0.0.1:5684". */
void manage_address(const struct agent *a, char *out, size_t size);

#endif
