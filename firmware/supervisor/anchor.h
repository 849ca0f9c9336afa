/* anti_rollback = tpm: a volume's bond with a counter of the TPM. What must hold: no key is asked for before the count is known;
 * the volume does not serve before the counter was stepped to what its root names; the counter is never stepped beyond what a
 * durable root names, so that no power cut leaves a volume that does not open. */
#ifndef FALLGATE_SUPERVISOR_ANCHOR_H
#define FALLGATE_SUPERVISOR_ANCHOR_H

#include "loop.h"
#include "records.h"
#include "verdict.h"

struct tpm_ask;
struct volume;

struct anchor {
	struct volume *volume;
	struct anchor_record record;
	struct tpm_ask *ask; /* under way */
	bool settled;        /* the counter is where the volume's root is: it may serve */
	bool remake;
	bool known;            /* count is the counter's */
	uint64_t count, named; /* named: by a durable root */
	uint64_t asked;        /* what the volume was last told to name; 0: nothing */
	bool accept;           /* an officer's wish, for the next opening */
	struct judgement fault;
	uint64_t fault_ns;
	struct timer due;
};

void anchor_init(struct anchor *n, struct volume *v);

/* For an unlock. false: the TPM is being asked; unlock_try comes again. true, and *fault: it cannot be known (cause NONE: all is
 * well). */
bool anchor_ready(struct anchor *n, struct judgement *fault);
void anchor_ticket(struct anchor *n, struct msg_dp_ticket *t);
/* The volume is open, and its root names this. */
void anchor_opened(struct anchor *n, uint64_t named);
bool anchor_settled(const struct anchor *n); /* it may serve */
/* From its statistics. */
void anchor_named(struct anchor *n, uint64_t named);
/* The opening is over, or is called off. */
void anchor_forget(struct anchor *n);

/* ERR_STATE and why not, or 0: the next opening takes the volume as it is. */
int anchor_accept(struct anchor *n, char text[static TEXT_MAX_BYTES]);

#endif
