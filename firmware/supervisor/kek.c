/* See kek.h. Two session slots: while a fresh process proves the key, its predecessor logs out. */
#include "kek.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"
#include "pin.h"
#include "session.h"
#include "volume.h"

struct kek {
	struct agent *agent;
	const struct kek_config *config;
	bool enrolled, damaged, software_token;
	struct kek_record pins;
	struct pin *pin;
	bool pin_was_refused; /* told to the volumes */
	struct session probers[2];
	unsigned active, failures, since_fresh, users;
	struct timer next;
	uint64_t last_good_ns;
};

/* ---- telling the volumes ---- */

static void tell_volumes(struct kek *k, bool fresh, const struct judgement *j)
{
	for (unsigned i = 0; i < k->agent->volume_count; i++)
		if (volume_kek(k->agent->volumes[i]) == k)
			volume_proof(k->agent->volumes[i], fresh, j);
}

static void tell_pin_renewed(struct kek *k)
{
	k->pin_was_refused = false;
	log_notice("KEK %s: the new PIN is good", k->config->name);
	for (unsigned i = 0; i < k->agent->volume_count; i++)
		if (volume_kek(k->agent->volumes[i]) == k)
			volume_pin_renewed(k->agent->volumes[i]);
}

/* The first doubt is settled by its own fresh probe; from the second on it is an HSM that is down. */
uint64_t kek_backoff(uint64_t interval_ns, unsigned failures, uint16_t chance)
{
	if (failures < 2)
		return interval_ns;
	return interval_ns + interval_ns / 4 + interval_ns / 2 * chance / UINT16_MAX;
}

static void schedule(struct kek *k, uint64_t from_ns, enum proof proof)
{
	uint16_t chance;
	uint64_t wait;

	k->failures = proof == PROOF_AMBIGUOUS ? k->failures + 1 : 0;
	if (entropy_fill(&chance, sizeof chance) != 0)
		chance = UINT16_MAX / 2;
	wait = kek_backoff(k->config->probe_interval_ns, k->failures, chance);
	if (k->users > 0 && !k->next.armed)
		timer_arm(&k->agent->loop, &k->next, from_ns + wait);
}

static void settle(struct kek *k, bool fresh, uint64_t began_ns, const struct judgement *j)
{
	if (j->proof == PROOF_GOOD) {
		kek_note_good(k, began_ns);
		if (k->pin_was_refused)
			tell_pin_renewed(k);
	}
	tell_volumes(k, fresh, j);
	schedule(k, j->proof == PROOF_GOOD ? began_ns : boot_now(), j->proof);
}

/* ---- probing ---- */

static void on_result(void *owner, struct session *s, enum session_step step, const struct judgement *j)
{
	struct kek *k = owner;
	struct judgement lost;

	if (k->users == 0) {
		session_close(s);
		return;
	}
	if (step == SESSION_OPENED && j->proof == PROOF_GOOD) {
		if (session_probe(s, &k->pins) == 0)
			return;
		judge_lost(&lost, "the proof could not be asked for");
		j = &lost;
	}
	if (j->proof != PROOF_GOOD)
		session_close(s); /* whatever it holds, the next proof begins afresh */
	/* s->probes counts the good ones, this one included: only a process's first proof is a fresh one */
	settle(k, s->probes == (j->proof == PROOF_GOOD ? 1 : 0), s->asked_ns, j);
}

static void on_ended(void *owner, struct session *s, bool good)
{
	struct kek *k = owner;
	struct judgement j;

	(void)good;
	if (s->silent || k->users == 0 || s != &k->probers[k->active])
		return;
	judge_lost(&j, "the hsm process ended between two proofs");
	settle(k, false, boot_now(), &j);
}

static const struct session_events prober_events = { on_result, on_ended };

static void start_fresh(struct kek *k)
{
	struct session *old = &k->probers[k->active], *fresh = &k->probers[k->active ^ 1];
	struct judgement j;
	int r;

	session_close(old);
	k->active ^= 1;
	k->since_fresh = 0;
	session_close(fresh);
	r = session_start(fresh, &k->pins, -1);
	if (r == ERR_BUSY) {
		timer_arm(&k->agent->loop, &k->next, boot_now() + 100 * MS_NS);
	} else if (r != 0) {
		judge_lost(&j, "the hsm process could not be started");
		settle(k, true, boot_now(), &j);
	}
}

/* Without a process: there is nothing to ask with. */
static bool settle_without_asking(struct kek *k)
{
	struct judgement j = { .proof = PROOF_REFUSED }, fault;
	char remedy[PATH_MAX_BYTES];

	if (!k->enrolled) {
		j.cause = CAUSE_MODULE_BROKEN;
		snprintf(j.text, sizeof j.text,
			 "the record of KEK %s is %s; bring keks/%s back from a backup of the state directory", k->config->name,
			 k->damaged ? "damaged" : "missing", k->config->name);
	} else if (pin_spent(k->pin)) {
		j.cause = CAUSE_ACCESS_REVOKED;
		k->pin_was_refused = true;
		pin_remedy(k->pin, remedy, sizeof remedy);
		snprintf(j.text, sizeof j.text, "the PIN was refused, or nobody saw whether it was; %.180s", remedy);
	} else if (pin_fault(k->pin, &fault) && fault.proof == PROOF_REFUSED) {
		k->pin_was_refused = true;
		j = fault;
	} else {
		return false;
	}
	session_close(&k->probers[k->active]);
	settle(k, false, boot_now(), &j);
	return true;
}

static void probe_due(void *context)
{
	struct kek *k = context;
	struct session *s = &k->probers[k->active];

	if (k->users == 0 || s->asked || settle_without_asking(k))
		return;
	if (session_idle(s) && ++k->since_fresh < k->config->fresh_every && session_probe(s, &k->pins) == 0)
		return;
	start_fresh(k);
}

void kek_probe_fresh(struct kek *k)
{
	if (k->users == 0)
		return;
	session_close(&k->probers[k->active]);
	k->since_fresh = k->config->fresh_every;
	timer_arm(&k->agent->loop, &k->next, 0);
}

void kek_note_good(struct kek *k, uint64_t began_ns)
{
	if (began_ns > k->last_good_ns)
		k->last_good_ns = began_ns;
}

uint64_t kek_last_good(const struct kek *k)
{
	return k->last_good_ns;
}

uint64_t kek_proof_deadline(const struct kek *k)
{
	const struct kek_config *c = k->config;

	/* Grace: the supervisor, if it lives, has settled the matter by then: one interval, one hung probe, one fresh one. */
	return k->last_good_ns == 0 ? 0 : k->last_good_ns + c->outage_budget_ns + c->probe_interval_ns + 2 * c->hsm_deadline_ns;
}

/* ---- life ---- */

int kek_create(struct kek **out, struct agent *a, const struct kek_config *config)
{
	struct kek *k = calloc(1, sizeof *k);
	int r;

	if (k == NULL)
		return ERR_NOMEM;
	k->agent = a;
	k->config = config;
	if (pin_create(&k->pin, a, config) != 0) {
		free(k);
		return ERR_NOMEM;
	}
	for (unsigned i = 0; i < 2; i++)
		session_init(&k->probers[i], a, k, &prober_events, k);
	timer_init(&k->next, probe_due, k);
	if (a->records.dir_fd >= 0) {
		r = records_read_kek(&a->records, config->name, &k->pins);
		k->enrolled = r == 0;
		k->damaged = r != 0 && r != ERR_NOT_FOUND;
	}
	k->pin_was_refused = pin_spent(k->pin);
	*out = k;
	return 0;
}

void kek_destroy(struct kek *k)
{
	timer_disarm(&k->agent->loop, &k->next);
	for (unsigned i = 0; i < 2; i++)
		session_end(&k->probers[i]);
	pin_destroy(k->pin);
	free(k);
}

const struct kek_config *kek_config(const struct kek *k)
{
	return k->config;
}

const struct kek_record *kek_pins(const struct kek *k)
{
	return k->enrolled ? &k->pins : NULL;
}

struct pin *kek_pin(const struct kek *k)
{
	return k->pin;
}

bool kek_damaged(const struct kek *k)
{
	return k->damaged;
}

bool kek_software_token(const struct kek *k)
{
	return k->software_token;
}

void kek_note_opened(struct kek *k, const struct msg_hsm_opened *o)
{
	if (o->verdict == VERDICT_GOOD)
		k->software_token = o->software_token;
}

struct kek *kek_find(struct agent *a, const char *name)
{
	for (unsigned i = 0; i < a->kek_count; i++)
		if (strcmp(a->keks[i]->config->name, name) == 0)
			return a->keks[i];
	return NULL;
}

int kek_enroll(struct kek *k, const struct kek_record *pins)
{
	int r = records_write_kek(&k->agent->records, k->config->name, pins);

	if (r == 0) {
		k->pins = *pins;
		k->enrolled = true;
		k->damaged = false;
	}
	return r;
}

void kek_use(struct kek *k)
{
	uint64_t due = k->last_good_ns != 0 ? k->last_good_ns + k->config->probe_interval_ns : 0;

	if (k->users++ > 0)
		return;
	pin_use(k->pin, true);
	timer_arm(&k->agent->loop, &k->next, due);
}

void kek_release(struct kek *k)
{
	if (k->users == 0 || --k->users > 0)
		return;
	timer_disarm(&k->agent->loop, &k->next);
	session_close(&k->probers[k->active]);
	pin_use(k->pin, false);
}

bool kek_busy(const struct kek *k)
{
	return k->probers[0].child.alive || k->probers[1].child.alive;
}
