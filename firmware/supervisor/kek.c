/* See kek.h. */
#include "kek.h"

#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "base/error.h"
#include "pin.h"

struct kek {
	struct agent *agent;
	const struct kek_config *config;
	bool enrolled, damaged, software_token;
	struct kek_record pins;
	struct pin *pin;
	uint64_t last_good_ns;
};

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
	if (a->records.dir_fd >= 0) {
		r = records_read_kek(&a->records, config->name, &k->pins);
		k->enrolled = r == 0;
		k->damaged = r != 0 && r != ERR_NOT_FOUND;
	}
	*out = k;
	return 0;
}

void kek_destroy(struct kek *k)
{
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
