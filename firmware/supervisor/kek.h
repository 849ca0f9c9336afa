/* One KEK: its pins, its prober, its PIN. What must hold: while a volume hangs on it, it is probed every interval, every n-th
 * time in a fresh process, and each verdict reaches every one of its volumes; a PIN that was refused, or whose result nobody saw,
 * is not tried again until its file changes. */
#ifndef FALLGATE_SUPERVISOR_KEK_H
#define FALLGATE_SUPERVISOR_KEK_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "records.h"
#include "verdict.h"

struct agent;
struct kek;

/* Reads its records. 0 or ERR_NOMEM. A KEK without record is one to be enrolled at a volume's creation. */
int kek_create(struct kek **out, struct agent *a, const struct kek_config *config);
void kek_destroy(struct kek *k); /* its processes are killed */

const struct kek_config *kek_config(const struct kek *k);
const struct kek_record *kek_pins(const struct kek *k); /* NULL: not enrolled */
bool kek_damaged(const struct kek *k);                  /* there is a record, and it is not believed */
bool kek_software_token(const struct kek *k);
struct kek *kek_find(struct agent *a, const char *name);

/* Pins what was proven. 0 or ERR_* (not durable: not enrolled). */
int kek_enroll(struct kek *k, const struct kek_record *pins);

/* A volume hangs on it, or no longer does. The first starts the prober, an interval after the last good proof. */
void kek_use(struct kek *k);
void kek_release(struct kek *k);
bool kek_busy(const struct kek *k); /* a prober of it is alive: nobody uses it any more, and it is logging out */

/* Reap the long-lived process, probe in a fresh one, now. */
void kek_probe_fresh(struct kek *k);

/* How long until it is asked again, after so many failures in a row: an HSM that is down after 1 1/4 to 1 3/4 intervals, by
 * chance. Two intervals after it is back it has been asked; and the appliances of a site do not ask in step. */
uint64_t kek_backoff(uint64_t interval_ns, unsigned failures, uint16_t chance);

/* A good proof that began then, by whomever. */
void kek_note_good(struct kek *k, uint64_t began_ns);
uint64_t kek_last_good(const struct kek *k); /* CLOCK_BOOTTIME of its beginning; 0: none yet */

/* start of the last good proof + outage budget + grace; 0: none yet */
uint64_t kek_proof_deadline(const struct kek *k);

/* ---- for sessions ---- */
void kek_note_opened(struct kek *k, const struct msg_hsm_opened *o);
/* An untried PIN, or one whose last good login is a while ago, is tried by one process at a time: a session that may come to try
 * it takes the turn before it starts. false: it is another's turn. *turn: whether this session has it; kek_pin_end and
 * kek_pin_abandon give it back. */
bool kek_pin_turn(struct kek *k, bool *turn);
/* Whether its PIN can be had now. false: a TPM is unsealing it; again soon. */
bool kek_pin_ready(struct kek *k);
/* Why it cannot be had, as the verdict that this is; false: nothing is wrong. */
bool kek_pin_fault(const struct kek *k, struct judgement *j);
/* Another PIN was sealed for it. 0 or ERR_* (not durable: the old one stands). */
int kek_pin_sealed(struct kek *k, const struct sealed_record *sealed);
bool kek_seals_pin(const struct kek *k);
/* A PIN from a TPM was let go since this session asked for its turn. */
bool kek_pin_gone(const struct kek *k);
/* May log in; *fd: the PIN file, or the page that a TPM unsealed it to, or -1; *renewed: a new PIN after one that was refused. */
bool kek_pin_begin(struct kek *k, bool turn, int *fd, bool *renewed);
/* Why kek_pin_begin had no file to hand over, as one line with what to do; NULL: it had, or another reason not to. */
const char *kek_pin_trouble(const struct kek *k);
void kek_pin_end(struct kek *k, bool *turn, bool refused, bool good);
void kek_pin_refused(struct kek *k);
void kek_pin_abandon(struct kek *k, bool *turn); /* nobody saw the result, if it was tried */

#endif
