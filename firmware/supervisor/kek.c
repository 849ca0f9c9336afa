/* See kek.h. Two session slots: while a fresh process proves the key, its predecessor logs out. */
#include "kek.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"
#include "hal/hash.h"
#include "session.h"
#include "tpm.h"
#include "volume.h"

/* A login that was good stands for this long for its PIN: those that begin meanwhile need not come one after the other. */
#define LOGIN_TRUST_NS (2 * SEC_NS)
/* A TPM that did not answer is asked again after this; what it unsealed for a KEK that nothing hangs on is let go after that. */
#define TPM_AGAIN_NS (SEC_NS)
#define PIN_HELD_NS  (30 * SEC_NS)

struct kek {
	struct agent *agent;
	const struct kek_config *config;
	bool enrolled, damaged, software_token;
	struct kek_record pins;
	struct pin_record pin;
	bool pin_turn_taken, pin_in_flight; /* the second: its PIN is being tried right now */
	bool pin_was_refused;               /* told to the volumes */
	char pin_trouble[TEXT_MAX_BYTES];   /* what is wrong with the PIN file; empty: nothing */
	struct session probers[2];
	unsigned active, failures, since_fresh, users;
	struct timer next;
	uint64_t last_good_ns, login_good_ns;

	/* a PIN that is sealed */
	struct sealed_record sealed; /* size 0: none */
	struct tpm_ask *unsealing;
	int page_fd; /* what was unsealed; -1: nothing */
	struct timer let_go;
	struct judgement fault; /* cause CAUSE_NONE: none */
	uint64_t fault_ns;
};

static bool has_pin(const struct kek *k)
{
	return k->config->pin_path[0] != '\0' || k->config->pin_sealed;
}

/* What the operator is to do with another PIN. */
static void pin_remedy(const struct kek *k, char *out, size_t size)
{
	if (k->config->pin_sealed)
		snprintf(out, size, "seal the right one: fallgate seal-pin %s", k->config->name);
	else
		snprintf(out, size, "write the right one to %.150s", k->config->pin_path);
}

/* ---- the PIN ---- */

/* Each sealing gives other bytes, of the same PIN too. */
static bool sealed_identity(const struct kek *k, struct pin_record *out)
{
	const struct hash_part part = { k->sealed.blob, k->sealed.size };
	uint8_t hash[HASH_BYTES];

	hash_sha256(hash, &part, 1);
	out->inode = get_le64(hash);
	out->mtime_ns = get_le64(hash + 8);
	out->size = k->sealed.size;
	return k->sealed.size > 0;
}

static bool pin_file_identity(const struct kek *k, struct pin_record *out)
{
	struct stat st;

	if (k->config->pin_sealed)
		return sealed_identity(k, out);

	if (stat(k->config->pin_path, &st) != 0)
		return false;
	out->inode = st.st_ino;
	out->size = (uint64_t)st.st_size;
	out->mtime_ns = (uint64_t)st.st_mtim.tv_sec * SEC_NS + (uint64_t)st.st_mtim.tv_nsec;
	return true;
}

static bool same_pin(const struct pin_record *a, const struct pin_record *b)
{
	return a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

/* A check keeps what became of a PIN, too, as soon as there is a state directory to keep it in. */
static int write_pin(struct kek *k, enum pin_state state)
{
	k->pin.state = state;
	return k->agent->read_only && k->agent->records.dir_fd < 0
		       ? 0
		       : records_write_pin(&k->agent->records, k->config->name, &k->pin);
}

/* A PIN that was refused, or whose result nobody saw, stands in the file still. */
static bool pin_spent(const struct kek *k)
{
	struct pin_record now = { .state = PIN_UNKNOWN };

	if (!has_pin(k) || k->pin_in_flight || (k->pin.state != PIN_REFUSED && k->pin.state != PIN_PENDING))
		return false;
	return pin_file_identity(k, &now) && same_pin(&now, &k->pin);
}

/* The file holds the PIN that was good last time, or there is none. */
static bool pin_proven(const struct kek *k)
{
	struct pin_record now = { .state = PIN_UNKNOWN };

	return !has_pin(k) || (k->pin.state == PIN_GOOD && pin_file_identity(k, &now) && same_pin(&now, &k->pin));
}

/* Not mapped here, so not wiped by hand where the kernel has secret memory: it clears those pages itself when the last descriptor
 * is gone. A memfd that stands in for it takes a write. */
static void let_page_go(struct kek *k)
{
	static const uint8_t zeroes[4096];

	timer_disarm(&k->agent->loop, &k->let_go);
	if (k->page_fd < 0)
		return;
	if (pwrite(k->page_fd, zeroes, sizeof zeroes, 0) < 0) /* secret memory */
		errno = 0;
	close(k->page_fd);
	k->page_fd = -1;
}

static void let_go_due(void *context)
{
	struct kek *k = context;

	if (k->users == 0)
		let_page_go(k);
	else
		timer_arm(&k->agent->loop, &k->let_go, boot_now() + PIN_HELD_NS);
}

static void set_fault(struct kek *k, int error, const char *what)
{
	bool definite = tpm_definite(error);

	k->fault = (struct judgement){ .proof = definite ? PROOF_REFUSED : PROOF_AMBIGUOUS,
				       .cause = definite ? CAUSE_ACCESS_REVOKED : CAUSE_UNREACHABLE };
	k->fault_ns = boot_now();
	if (definite)
		snprintf(k->fault.text, sizeof k->fault.text,
			 "the PIN of KEK %s stays sealed: %.110s; if that was meant to be: fallgate seal-pin %s", k->config->name,
			 what, k->config->name);
	else
		snprintf(k->fault.text, sizeof k->fault.text, "the PIN of KEK %s cannot be unsealed now: %.180s", k->config->name,
			 what);
	log_error("%s", k->fault.text);
}

static void unsealed(void *context, const struct msg_tp_reply *r, int *page_fd)
{
	struct kek *k = context;

	k->unsealing = NULL;
	if (r->error != 0) {
		set_fault(k, r->error, r->text);
		return;
	}
	k->page_fd = *page_fd;
	*page_fd = -1;
	timer_arm(&k->agent->loop, &k->let_go, boot_now() + PIN_HELD_NS);
}

static void begin_unsealing(struct kek *k)
{
	struct msg_tp_request q = { .verb = TP_UNSEAL, .sealed_size = k->sealed.size };

	k->fault.cause = CAUSE_NONE;
	if (k->sealed.size == 0) {
		set_fault(k, ERR_NOT_FOUND, "there is none");
		return;
	}
	strcpy(q.kek, k->config->name);
	memcpy(q.sealed, k->sealed.blob, sizeof q.sealed);
	if (tpm_ask(&k->unsealing, k->agent, &q, -1, unsealed, k) != 0) {
		k->unsealing = NULL;
		set_fault(k, ERR_UNREACHABLE, "fallgate-tpm cannot be started; see the log");
	}
}

bool kek_pin_ready(struct kek *k)
{
	if (!k->config->pin_sealed || pin_spent(k))
		return true;
	if (k->page_fd >= 0) {
		timer_arm(&k->agent->loop, &k->let_go, boot_now() + PIN_HELD_NS);
		return true;
	}
	if (k->unsealing == NULL &&
	    (k->fault.cause == CAUSE_NONE || (k->fault.proof == PROOF_AMBIGUOUS && boot_now() - k->fault_ns > TPM_AGAIN_NS)))
		begin_unsealing(k);
	return k->unsealing == NULL;
}

bool kek_pin_fault(const struct kek *k, struct judgement *j)
{
	if (!k->config->pin_sealed || k->page_fd >= 0 || k->fault.cause == CAUSE_NONE || pin_spent(k))
		return false;
	*j = k->fault;
	return true;
}

bool kek_seals_pin(const struct kek *k)
{
	return k->config->pin_sealed;
}

bool kek_pin_gone(const struct kek *k)
{
	return k->config->pin_sealed && k->page_fd < 0 && !pin_spent(k);
}

int kek_pin_sealed(struct kek *k, const struct sealed_record *sealed)
{
	int r = records_write_sealed(&k->agent->records, k->config->name, sealed);

	if (r != 0)
		return r;
	k->sealed = *sealed;
	k->fault.cause = CAUSE_NONE;
	if (k->unsealing != NULL)
		tpm_abandon(k->unsealing);
	k->unsealing = NULL;
	let_page_go(k);
	return 0;
}

/* A PIN that was good may have been changed since: of many sessions one finds that out, not each for itself. */
static bool pin_trusted(const struct kek *k)
{
	return !has_pin(k) || (pin_proven(k) && k->login_good_ns != 0 && boot_now() - k->login_good_ns < LOGIN_TRUST_NS);
}

bool kek_pin_turn(struct kek *k, bool *turn)
{
	*turn = false;
	if (pin_trusted(k) || pin_spent(k))
		return true;
	if (k->pin_turn_taken)
		return false;
	k->pin_turn_taken = *turn = true;
	return true;
}

/* Each login finds it again: it is logged when it is new. */
static void note_pin_trouble(struct kek *k, const char *what)
{
	char text[sizeof k->pin_trouble];

	snprintf(text, sizeof text, "the PIN file %.120s cannot be used: %.40s; it must be a regular file, mode 0600",
		 k->config->pin_path, what);
	if (strcmp(text, k->pin_trouble) != 0)
		log_error("KEK %s: %s", k->config->name, text);
	strcpy(k->pin_trouble, text);
}

static bool open_pin_file(struct kek *k, int *fd)
{
	struct stat st;

	if (k->config->pin_sealed) {
		*fd = k->page_fd >= 0 ? fcntl(k->page_fd, F_DUPFD_CLOEXEC, 0) : -1;
		return *fd >= 0;
	}

	*fd = open(k->config->pin_path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (*fd < 0 || fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode) || (st.st_mode & 077) != 0) {
		note_pin_trouble(k, *fd < 0 ? strerror(errno) : "others may read it, or it is no file");
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		return false;
	}
	k->pin_trouble[0] = '\0';
	return true;
}

/* A check may have tried a new PIN while this agent ran. */
static void hear_of_checks(struct kek *k)
{
	struct pin_record now = { .state = PIN_UNKNOWN }, kept;

	if (k->agent->records.dir_fd >= 0 && !pin_proven(k) &&
	    records_read_pin(&k->agent->records, k->config->name, &kept) == 0 && pin_file_identity(k, &now) &&
	    same_pin(&kept, &now))
		k->pin = kept;
}

bool kek_pin_begin(struct kek *k, bool turn, int *fd, bool *renewed)
{
	struct pin_record now = { .state = PIN_UNKNOWN };

	*fd = -1;
	*renewed = false;
	if (!has_pin(k))
		return true;
	if (pin_spent(k))
		return false;
	hear_of_checks(k);
	if (pin_spent(k))
		return false;
	if (!pin_file_identity(k, &now)) {
		if (!k->config->pin_sealed)
			note_pin_trouble(k, strerror(errno));
		return false;
	}
	if ((!turn && !pin_proven(k)) || !open_pin_file(k, fd))
		return false;
	if (k->pin.state == PIN_GOOD && same_pin(&now, &k->pin))
		return true;
	/* An untried PIN: that it is being tried is durable before it is. */
	*renewed = k->pin.state == PIN_REFUSED || k->pin.state == PIN_PENDING;
	k->pin = now;
	if (write_pin(k, PIN_PENDING) != 0) {
		log_error("KEK %s: no login: that the PIN is being tried could not be recorded", k->config->name);
		close(*fd);
		*fd = -1;
		k->pin.state = PIN_UNKNOWN;
		return false;
	}
	k->pin_in_flight = true;
	return true;
}

const char *kek_pin_trouble(const struct kek *k)
{
	return k->pin_trouble[0] != '\0' && !pin_spent(k) ? k->pin_trouble : NULL;
}

void kek_pin_refused(struct kek *k)
{
	struct pin_record now = { .state = PIN_UNKNOWN };
	char remedy[PATH_MAX_BYTES];

	if (!has_pin(k) || !pin_file_identity(k, &now))
		return;
	now.state = PIN_REFUSED;
	if (k->pin.state == PIN_REFUSED && same_pin(&k->pin, &now))
		return;
	k->pin = now;
	let_page_go(k);
	pin_remedy(k, remedy, sizeof remedy);
	log_error("KEK %s: the token refused the PIN; it is not tried again; %s", k->config->name, remedy);
	write_pin(k, PIN_REFUSED);
}

static void give_turn_back(struct kek *k, bool *turn)
{
	if (*turn)
		k->pin_turn_taken = k->pin_in_flight = false;
	*turn = false;
}

void kek_pin_end(struct kek *k, bool *turn, bool refused, bool good)
{
	bool tried = *turn && k->pin_in_flight;

	give_turn_back(k, turn);
	if (good)
		k->login_good_ns = boot_now();
	if (refused)
		kek_pin_refused(k);
	else if (tried)
		write_pin(k, good ? PIN_GOOD : PIN_UNKNOWN);
}

void kek_pin_abandon(struct kek *k, bool *turn)
{
	char remedy[PATH_MAX_BYTES];

	if (*turn && k->pin_in_flight) { /* the record says pending already */
		pin_remedy(k, remedy, sizeof remedy);
		log_error("KEK %s: nobody saw whether the PIN was taken; it counts as refused; %s", k->config->name, remedy);
	}
	give_turn_back(k, turn);
}

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
	} else if (pin_spent(k)) {
		j.cause = CAUSE_ACCESS_REVOKED;
		k->pin_was_refused = true;
		pin_remedy(k, remedy, sizeof remedy);
		snprintf(j.text, sizeof j.text, "the PIN was refused, or nobody saw whether it was; %.180s", remedy);
	} else if (kek_pin_fault(k, &fault) && fault.proof == PROOF_REFUSED) {
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
	for (unsigned i = 0; i < 2; i++)
		session_init(&k->probers[i], a, k, &prober_events, k);
	timer_init(&k->next, probe_due, k);
	timer_init(&k->let_go, let_go_due, k);
	k->page_fd = -1;
	if (a->records.dir_fd >= 0) {
		r = records_read_kek(&a->records, config->name, &k->pins);
		k->enrolled = r == 0;
		k->damaged = r != 0 && r != ERR_NOT_FOUND;
		if (config->pin_sealed && records_read_sealed(&a->records, config->name, &k->sealed) == ERR_CORRUPT)
			set_fault(k, ERR_CORRUPT, "its record was altered");
		if (records_read_pin(&a->records, config->name, &k->pin) == ERR_CORRUPT) {
			/* fail closed: the PIN that stands there now counts as refused */
			pin_file_identity(k, &k->pin);
			k->pin.state = PIN_REFUSED;
		}
	}
	k->pin_was_refused = pin_spent(k);
	*out = k;
	return 0;
}

void kek_destroy(struct kek *k)
{
	timer_disarm(&k->agent->loop, &k->next);
	if (k->unsealing != NULL)
		tpm_abandon(k->unsealing);
	let_page_go(k);
	for (unsigned i = 0; i < 2; i++)
		session_end(&k->probers[i]);
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

	if (k->users++ == 0)
		timer_arm(&k->agent->loop, &k->next, due);
}

void kek_release(struct kek *k)
{
	if (k->users == 0 || --k->users > 0)
		return;
	timer_disarm(&k->agent->loop, &k->next);
	session_close(&k->probers[k->active]);
	if (k->page_fd >= 0)
		timer_arm(&k->agent->loop, &k->let_go, boot_now() + PIN_HELD_NS);
}

bool kek_busy(const struct kek *k)
{
	return k->probers[0].child.alive || k->probers[1].child.alive;
}
