/* Making a volume: prove the KEK (and pin it, the first time), then a one-shot dataplane formats the backing store with a key
 * that a one-shot hsm wraps. What must hold: no volume before its KEK passed a proof; a file that this made is removed when it
 * fails; a gate record that is there stays: re-creation lifts no latch. One at a time. */
#ifndef FALLGATE_SUPERVISOR_CREATION_H
#define FALLGATE_SUPERVISOR_CREATION_H

#include "ipc/message.h"
#include "revocation/revocation.h"

struct agent;

/* 0: under way, mgmt_reply comes later. Else the error, text says why. */
int creation_begin(struct agent *a, const struct msg_mg_request *request, char text[static TEXT_MAX_BYTES]);

/* A revoke, or a tamper, while `volume` (empty: whichever it is) is being made: it is latched when it is there, and the latch is
 * on its way to the disk now. True: one of that name is being made. */
bool creation_latch(struct agent *a, const char *volume, enum gate_cause cause);

/* The agent stops. */
void creation_abort(struct agent *a);

#endif
