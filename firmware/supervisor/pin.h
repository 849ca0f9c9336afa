/* The PIN of one KEK's token: which one stands in its file or its sealed record, what became of it, and who may try it. What must
 * hold: that a new PIN is being tried is durable before it is; one that was refused, or whose result nobody saw, is not tried
 * again until another is given; an untried PIN is tried by one process at a time; what a TPM unsealed stays in its page and is
 * let go as soon as it is not needed. */
#ifndef FALLGATE_SUPERVISOR_PIN_H
#define FALLGATE_SUPERVISOR_PIN_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "records.h"
#include "verdict.h"

struct agent;
struct pin;

/* Reads its records. 0 or ERR_NOMEM. */
int pin_create(struct pin **out, struct agent *a, const struct kek_config *config);
void pin_destroy(struct pin *p);

/* A volume hangs on its KEK, or none does any more: what was unsealed is kept, or let go after a while. */
void pin_use(struct pin *p, bool used);

/* It was refused, or nobody saw whether it was, and no other was given since. */
bool pin_spent(const struct pin *p);
/* What the operator is to do with another PIN. */
void pin_remedy(const struct pin *p, char *out, size_t size);

/* ---- a PIN that is sealed ---- */
bool pin_is_sealed(const struct pin *p);
/* Another one was sealed. 0 or ERR_* (not durable: the old one stands). */
int pin_seal(struct pin *p, const struct sealed_record *sealed);
/* Whether it can be had now. false: a TPM is unsealing it; again soon. */
bool pin_ready(struct pin *p);
/* Why it cannot be had, as the verdict that this is; false: nothing is wrong. */
bool pin_fault(const struct pin *p, struct judgement *j);
/* What a TPM unsealed was let go since this session asked for its turn. */
bool pin_gone(const struct pin *p);

/* ---- a login ---- */
/* An untried PIN, or one whose last good login is a while ago, is tried by one process at a time: a session that may come to try
 * it takes the turn before it starts. false: it is another's turn. *turn: whether this session has it; pin_end and pin_abandon
 * give it back. */
bool pin_turn(struct pin *p, bool *turn);
/* May log in; *fd: the PIN file, or the page that a TPM unsealed it to, or -1; *renewed: a new PIN after one that was refused. */
bool pin_begin(struct pin *p, bool turn, int *fd, bool *renewed);
/* Why pin_begin had no file to hand over, as one line with what to do; NULL: it had, or another reason not to. */
const char *pin_trouble(const struct pin *p);
void pin_end(struct pin *p, bool *turn, bool refused, bool good);
void pin_refused(struct pin *p);
void pin_abandon(struct pin *p, bool *turn); /* nobody saw the result, if it was tried */

#endif
