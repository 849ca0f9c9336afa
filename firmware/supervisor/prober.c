/* See prober.h. Two session slots: while a fresh process proves the key, its predecessor logs out. */
#include "prober.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"
#include "kek.h"
#include "pin.h"
#include "session.h"
#include "volume.h"

struct prober {
	struct agent *agent;
	struct kek *kek;
	const struct kek_config *config; /* the KEK's */
	struct pin *pin;                 /* the KEK's */
	bool pin_was_refused;            /* told to the volumes */
	struct session sessions[2];
	unsigned active, failures, since_fresh, users;
	struct timer next;
};

/* ---- telling the volumes ---- */

static void tell_volumes(struct prober *p, bool fresh, const struct judgement *j)
{
	for (unsigned i = 0; i < p->agent->volume_count; i++)
		if (volume_kek(p->agent->volumes[i]) == p->kek)
			volume_proof(p->agent->volumes[i], fresh, j);
}

static void tell_pin_renewed(struct prober *p)
{
	p->pin_was_refused = false;
	log_notice("KEK %s: the new PIN is good", p->config->name);
	for (unsigned i = 0; i < p->agent->volume_count; i++)
		if (volume_kek(p->agent->volumes[i]) == p->kek)
			volume_pin_renewed(p->agent->volumes[i]);
}

/* The first doubt is settled by its own fresh probe; from the second on it is an HSM that is down. */
uint64_t prober_backoff(uint64_t interval_ns, unsigned failures, uint16_t chance)
{
	if (failures < 2)
		return interval_ns;
	return interval_ns + interval_ns / 4 + interval_ns / 2 * chance / UINT16_MAX;
}

static void schedule(struct prober *p, uint64_t from_ns, enum proof proof)
{
	uint16_t chance;
	uint64_t wait;

	p->failures = proof == PROOF_AMBIGUOUS ? p->failures + 1 : 0;
	if (entropy_fill(&chance, sizeof chance) != 0)
		chance = UINT16_MAX / 2;
	wait = prober_backoff(p->config->probe_interval_ns, p->failures, chance);
	if (p->users > 0 && !p->next.armed)
		timer_arm(&p->agent->loop, &p->next, from_ns + wait);
}

static void settle(struct prober *p, bool fresh, uint64_t began_ns, const struct judgement *j)
{
	if (j->proof == PROOF_GOOD) {
		kek_note_good(p->kek, began_ns);
		if (p->pin_was_refused)
			tell_pin_renewed(p);
	}
	tell_volumes(p, fresh, j);
	schedule(p, j->proof == PROOF_GOOD ? began_ns : boot_now(), j->proof);
}

/* ---- probing ---- */

static void on_result(void *owner, struct session *s, enum session_step step, const struct judgement *j)
{
	struct prober *p = owner;
	struct judgement lost;

	if (p->users == 0) {
		session_close(s);
		return;
	}
	if (step == SESSION_OPENED && j->proof == PROOF_GOOD) {
		if (session_probe(s, kek_pins(p->kek)) == 0)
			return;
		judge_lost(&lost, "the proof could not be asked for");
		j = &lost;
	}
	if (j->proof != PROOF_GOOD)
		session_close(s); /* whatever it holds, the next proof begins afresh */
	/* s->probes counts the good ones, this one included: only a process's first proof is a fresh one */
	settle(p, s->probes == (j->proof == PROOF_GOOD ? 1 : 0), s->asked_ns, j);
}

static void on_ended(void *owner, struct session *s, bool good)
{
	struct prober *p = owner;
	struct judgement j;

	(void)good;
	if (s->silent || p->users == 0 || s != &p->sessions[p->active])
		return;
	judge_lost(&j, "the hsm process ended between two proofs");
	settle(p, false, boot_now(), &j);
}

static const struct session_events prober_events = { on_result, on_ended };

static void start_fresh(struct prober *p)
{
	struct session *old = &p->sessions[p->active], *fresh = &p->sessions[p->active ^ 1];
	struct judgement j;
	int r;

	session_close(old);
	p->active ^= 1;
	p->since_fresh = 0;
	session_close(fresh);
	r = session_start(fresh, kek_pins(p->kek), -1);
	if (r == ERR_BUSY) {
		timer_arm(&p->agent->loop, &p->next, boot_now() + 100 * MS_NS);
	} else if (r != 0) {
		judge_lost(&j, "the hsm process could not be started");
		settle(p, true, boot_now(), &j);
	}
}

/* Without a process: there is nothing to ask with. */
static bool settle_without_asking(struct prober *p)
{
	struct judgement j = { .proof = PROOF_REFUSED }, fault;
	char remedy[PATH_MAX_BYTES];

	if (kek_pins(p->kek) == NULL) {
		j.cause = CAUSE_MODULE_BROKEN;
		snprintf(j.text, sizeof j.text,
			 "the record of KEK %s is %s; bring keks/%s back from a backup of the state directory", p->config->name,
			 kek_damaged(p->kek) ? "damaged" : "missing", p->config->name);
	} else if (pin_spent(p->pin)) {
		j.cause = CAUSE_ACCESS_REVOKED;
		p->pin_was_refused = true;
		pin_remedy(p->pin, remedy, sizeof remedy);
		snprintf(j.text, sizeof j.text, "the PIN was refused, or nobody saw whether it was; %.180s", remedy);
	} else if (pin_fault(p->pin, &fault) && fault.proof == PROOF_REFUSED) {
		p->pin_was_refused = true;
		j = fault;
	} else {
		return false;
	}
	session_close(&p->sessions[p->active]);
	settle(p, false, boot_now(), &j);
	return true;
}

static void probe_due(void *context)
{
	struct prober *p = context;
	struct session *s = &p->sessions[p->active];

	if (p->users == 0 || s->asked || settle_without_asking(p))
		return;
	if (session_idle(s) && ++p->since_fresh < p->config->fresh_every && session_probe(s, kek_pins(p->kek)) == 0)
		return;
	start_fresh(p);
}

void prober_fresh(struct prober *p)
{
	if (p->users == 0)
		return;
	session_close(&p->sessions[p->active]);
	p->since_fresh = p->config->fresh_every;
	timer_arm(&p->agent->loop, &p->next, 0);
}

/* ---- life ---- */

int prober_create(struct prober **out, struct agent *a, struct kek *k)
{
	struct prober *p = calloc(1, sizeof *p);

	if (p == NULL)
		return ERR_NOMEM;
	p->agent = a;
	p->kek = k;
	p->config = kek_config(k);
	p->pin = kek_pin(k);
	for (unsigned i = 0; i < 2; i++)
		session_init(&p->sessions[i], a, k, &prober_events, p);
	timer_init(&p->next, probe_due, p);
	p->pin_was_refused = pin_spent(p->pin);
	*out = p;
	return 0;
}

void prober_destroy(struct prober *p)
{
	timer_disarm(&p->agent->loop, &p->next);
	for (unsigned i = 0; i < 2; i++)
		session_end(&p->sessions[i]);
	free(p);
}

struct prober *prober_find(struct agent *a, const char *kek)
{
	for (unsigned i = 0; i < a->kek_count; i++)
		if (strcmp(kek_config(a->keks[i])->name, kek) == 0)
			return a->probers[i];
	return NULL;
}

void prober_use(struct prober *p)
{
	uint64_t due = kek_last_good(p->kek) != 0 ? kek_last_good(p->kek) + p->config->probe_interval_ns : 0;

	if (p->users++ > 0)
		return;
	pin_use(p->pin, true);
	timer_arm(&p->agent->loop, &p->next, due);
}

void prober_release(struct prober *p)
{
	if (p->users == 0 || --p->users > 0)
		return;
	timer_disarm(&p->agent->loop, &p->next);
	session_close(&p->sessions[p->active]);
	pin_use(p->pin, false);
}

bool prober_busy(const struct prober *p)
{
	return p->sessions[0].child.alive || p->sessions[1].child.alive;
}
