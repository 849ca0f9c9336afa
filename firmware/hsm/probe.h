/* The proof that the KEK works now: by the same function and mechanism as a data key's unwrap. */
#ifndef FALLGATE_HSM_PROBE_H
#define FALLGATE_HSM_PROBE_H

#include "ipc/message.h"
#include "kek.h"

/* False: the question makes no sense for this key; nothing was done. */
bool probe_run(struct kek *k, const struct msg_hsm_probe *question, struct msg_hsm_verdict *answer);

/* The common part of a verdict message. */
void verdict_fill(struct msg_hsm_verdict *out, const struct report *r);

#endif
