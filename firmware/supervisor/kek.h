/* One KEK: what was pinned of it, its PIN (pin.h), and when it was last proven (by prober.h, or by whomever). What must hold: its
 * pins change only by an enrolment that is durable. */
#ifndef FALLGATE_SUPERVISOR_KEK_H
#define FALLGATE_SUPERVISOR_KEK_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "records.h"
#include "verdict.h"

struct agent;
struct kek;
struct pin;

/* Reads its records. 0 or ERR_NOMEM. A KEK without record is one to be enrolled at a volume's creation. */
int kek_create(struct kek **out, struct agent *a, const struct kek_config *config);
void kek_destroy(struct kek *k);

const struct kek_config *kek_config(const struct kek *k);
const struct kek_record *kek_pins(const struct kek *k); /* NULL: not enrolled */
bool kek_damaged(const struct kek *k);                  /* there is a record, and it is not believed */
bool kek_software_token(const struct kek *k);
struct pin *kek_pin(const struct kek *k);
struct kek *kek_find(struct agent *a, const char *name);

/* Pins what was proven. 0 or ERR_* (not durable: not enrolled). */
int kek_enroll(struct kek *k, const struct kek_record *pins);

/* A good proof that began then, by whomever. */
void kek_note_good(struct kek *k, uint64_t began_ns);
uint64_t kek_last_good(const struct kek *k); /* CLOCK_BOOTTIME of its beginning; 0: none yet */

/* start of the last good proof + outage budget + grace; 0: none yet */
uint64_t kek_proof_deadline(const struct kek *k);

/* What its token said of itself when it was opened. */
void kek_note_opened(struct kek *k, const struct msg_hsm_opened *o);

#endif
