/* What an hsm's answer means for a gate. Pure. What must hold: only a good verdict from the pinned key, whose answer is the
 * challenge's plaintext, inside its dates, is good; nothing that proves nothing is called definite. */
#ifndef FALLGATE_SUPERVISOR_VERDICT_H
#define FALLGATE_SUPERVISOR_VERDICT_H

#include <stdbool.h>
#include <time.h>

#include "records.h"

enum proof { PROOF_GOOD, PROOF_REFUSED, PROOF_AMBIGUOUS };

struct judgement {
	enum proof proof;
	enum gate_cause cause; /* NONE if good */
	char text[TEXT_MAX_BYTES];
};

/* What each verdict means: definite or not. */
enum proof verdict_proof(enum hsm_verdict v);
/* ERR_* for the outside: 0, ERR_REFUSED, ERR_UNREACHABLE. */
int judgement_error(const struct judgement *j);

/* MSG_HSM_OPENED against the pins (NULL: nothing is pinned yet, any fit key will do). */
void judge_opened(struct judgement *j, const struct kek_record *pins, const struct msg_hsm_opened *o, time_t now);

/* MSG_HSM_VERDICT of a probe against the challenge that was sent (RSA) or the fingerprint (AES). */
void judge_probe(struct judgement *j, const struct kek_record *pins, const uint8_t challenge[static CHALLENGE_BYTES],
		 const struct msg_hsm_verdict *v, time_t now);

/* Of a ticket: verdict alone. */
void judge_ticket(struct judgement *j, const struct msg_hsm_verdict *v);

/* A process that hung, died or could not be started. */
void judge_lost(struct judgement *j, const char *what);

#endif
