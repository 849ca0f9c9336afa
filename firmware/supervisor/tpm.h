/* Questions to the TPM, each put by a process of its own (fallgate-tpm). What must hold: every question has a deadline, at which
 * its process is killed; it is answered to its owner exactly once, and never after it was abandoned; the supervisor maps no page
 * and reads no pipe that a PIN is in. */
#ifndef FALLGATE_SUPERVISOR_TPM_H
#define FALLGATE_SUPERVISOR_TPM_H

#include <stdbool.h>
#include <stddef.h>

#include "ipc/message.h"

struct agent;
struct tpm_ask;

/* page_fd: with a good unseal the page, -1 else; who keeps it sets it to -1. From the loop. */
typedef void tpm_answered(void *context, const struct msg_tp_reply *r, int *page_fd);

/* fd: what goes with the question, or -1; it stays the caller's. 0 or ERR_* (logged: nobody is called). */
int tpm_ask(struct tpm_ask **out, struct agent *a, const struct msg_tp_request *q, int fd, tpm_answered *answered, void *context);
void tpm_abandon(struct tpm_ask *t); /* nobody is called any more */

/* A reply's error that asking again does not change: the TPM answered, and said no. */
bool tpm_definite(int error);

/* Looks at the TPM once, for posture and log. Without one in the configuration nothing happens. */
void tpm_start(struct agent *a);
void tpm_stop(struct agent *a);

/* The posture's line about the TPM; false: there is none in the configuration. */
bool tpm_posture(const struct agent *a, bool *good, char *out, size_t size);

#endif
