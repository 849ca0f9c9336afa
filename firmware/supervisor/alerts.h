/* What is told when a gate moves: the journal or syslog with fields, observers, a program; and what is done above the device when
 * one shuts. What must hold: it is queued before the order that cuts the first I/O is given (the sequence numbers say so), and
 * nothing of it is ever waited for: what cannot be handed over at once is left out, and said. */
#ifndef FALLGATE_SUPERVISOR_ALERTS_H
#define FALLGATE_SUPERVISOR_ALERTS_H

#include "revocation/revocation.h"

struct agent;
struct volume;

/* Before the supervisor's filter: what it starts must not be behind it. 0 or ERR_*. */
int alerts_start(struct agent *a);
void alerts_stop(struct agent *a);

/* The transition of `v` that `event` made. */
void alerts_queue(struct volume *v, const struct gate *before, enum gate_event event);

/* The volume's gate has shut, or it was purged: its mount hook. */
void alerts_mount_hook(struct volume *v);

#endif
