/* See creation.h. Two parts: enrolment (only for a KEK without pins), then the volume. */
#include "creation.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "backing.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "challenge.h"
#include "hal/entropy.h"
#include "job.h"
#include "kek.h"
#include "mgmt.h"
#include "randomness.h"
#include "volume.h"

enum { DEADLINE_S = 60, AGAIN_MS = 100 };

struct creation {
	struct agent *agent;
	struct msg_mg_request request;
	struct volume_config config;
	struct kek *kek;
	bool enrolling;
	bool doubted;           /* an answer that proves nothing bought its one more try */
	struct kek_record pins; /* being enrolled */
	struct session session;
	struct child creator;
	struct timer deadline, again;
	struct opening *opening; /* of the backing store */
	int backing_fd, hsm_fd;
	bool file_made;
	struct volume_record record;
	bool created_good, hsm_good, hsm_gone;
	enum gate_cause latch; /* it was revoked before it was there; CAUSE_NONE: no */
	bool over;             /* answered: waits for its processes to be gone */
};

static void step_on(struct creation *c);

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void reap_all(void *context)
{
	struct creation *c = context;
	bool gone;

	if (session_ticketed(&c->session) || session_idle(&c->session))
		session_kill(&c->session);
	else /* it may be in its login */
		session_close(&c->session);
	gone = !c->session.child.alive;
	gone = child_kill_and_reap(&c->creator) && gone;
	if (!gone) {
		timer_arm(&c->agent->loop, &c->again, boot_now() + AGAIN_MS * MS_NS);
		return;
	}
	timer_disarm(&c->agent->loop, &c->again);
	c->agent->creation = NULL;
	explicit_bzero(c, sizeof *c);
	free(c);
}

/* Answers and winds up. The struct is freed from the loop: this may be its own callback. */
static void finish(struct creation *c, int error, const char *text)
{
	struct volume *v = volume_find(c->agent, c->config.name);

	if (c->over)
		return;
	c->over = true;
	timer_disarm(&c->agent->loop, &c->deadline);
	opening_abandon(c->opening);
	c->opening = NULL;
	if (error != 0 && c->file_made)
		unlink(c->config.backing);
	close_fd(&c->backing_fd);
	close_fd(&c->hsm_fd);
	log_line(error == 0 ? LOG_LEVEL_NOTICE : LOG_LEVEL_ERROR, "volume %s: creation for %s: %s%s%s", c->config.name,
		 c->request.identity, error == 0 ? "done" : error_text(error), text[0] != '\0' ? ": " : "", text);
	mgmt_reply(c->agent, c->request.id, error, v != NULL ? v->gate.seq : 0, error == 0, text);
	timer_init(&c->again, reap_all, c);
	timer_arm(&c->agent->loop, &c->again, 0);
}

static void __attribute__((format(printf, 3, 4))) fail(struct creation *c, int error, const char *format, ...)
{
	char text[TEXT_MAX_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	finish(c, error, text);
}

/* ---- the volume is there ---- */

static void adopt(struct creation *c)
{
	struct agent *a = c->agent;
	struct volume *v = volume_find(a, c->config.name);
	struct gate_record gate = { .attach_wanted = c->config.attach_auto };
	int r;

	if (v != NULL) /* what is latched stays so */
		gate = (struct gate_record){ .latched = v->gate.latched,
					     .latch_cause = v->gate.latched ? v->gate.latch_cause : CAUSE_NONE,
					     .seq = v->gate.seq,
					     .attach_wanted = v->attach_wanted || c->config.attach_auto };
	else if (c->latch != CAUSE_NONE)
		gate = (struct gate_record){
			.latched = true, .latch_cause = c->latch, .seq = 1, .attach_wanted = gate.attach_wanted
		};
	/* the gate first: a volume's record without one would be a latched volume */
	r = records_write_gate(&a->records, c->config.name, &gate);
	if (r == 0)
		r = records_write_volume(&a->records, c->config.name, &c->record);
	if (r == 0 && v == NULL) {
		if (a->volume_count == CONFIG_VOLUMES_MAX)
			r = ERR_NOSPACE;
		else if ((r = volume_create(&v, a, c->config.name, &c->config)) == 0)
			a->volumes[a->volume_count++] = v;
	}
	if (r != 0) {
		fail(c, r, "the record of the new volume cannot be kept; see the state directory");
		return;
	}
	volume_configure(v, &c->config);
	v->record = c->record;
	v->formatted = true;
	v->damaged = false;
	v->attach_wanted = v->attach_wanted || c->config.attach_auto;
	snprintf(v->identity, sizeof v->identity, "%s", c->request.identity);
	volume_audit(v, "created", v->gate.state, "");
	volume_write_gate(v);
	mgmt_push_volume(a, v); /* who is told that it is made, and asks then, finds it made */
	finish(c, 0, v->gate.latched ? "created; the gate is latched: an officer's restore opens it" : "created");
	if (c->config.attach_auto && v->gate.state == GATE_LOCKED)
		volume_feed(v, EV_ATTACH, CAUSE_NONE, c->request.identity, NULL);
	mgmt_push_volume(a, v);
}

static void check_done(struct creation *c)
{
	if (c->created_good && c->hsm_good && c->hsm_gone && !c->over)
		adopt(c);
}

/* ---- the creator ---- */

/* One that has ended already has said why, or its death will tell: what it said is still to be read. */
static int tell_creator(struct creation *c, const struct message *m, int fd)
{
	int r = child_send(&c->creator, m, &fd, 1);

	return r == ERR_IO ? 0 : r;
}

static int send_tickets(struct creation *c)
{
	const struct kek_record *pins = kek_pins(c->kek);
	struct msg_hsm_ticket t = {
		.gen_no = 1, .hash = pins->hash, .dataplane_pid = c->creator.pid, .dataplane_uid = (uint32_t)c->creator.uid
	};
	struct message m;
	struct msg_dp_create *d = &m.body.dp_create;
	int r = entropy_fill(&t.ticket, sizeof t.ticket);

	if (r != 0)
		return r;
	strcpy(t.volume, c->config.name);
	message_init(&m, MSG_DP_CREATE, c->request.id);
	strcpy(d->name, c->config.name);
	memcpy(d->uuid, c->record.uuid, sizeof d->uuid);
	d->size = c->config.size;
	d->force = c->request.force;
	d->assume_4k = c->config.assume_4k;
	d->kek_type = pins->type;
	d->hash = pins->hash;
	memcpy(d->fingerprint, pins->fingerprint, sizeof d->fingerprint);
	memcpy(d->kek_label, pins->label, sizeof d->kek_label);
	memcpy(d->kek_id, pins->id, sizeof d->kek_id);
	d->kek_id_size = pins->id_size;
	snprintf(d->token, sizeof d->token, "%s", pins->token_label);
	d->now = wall_now() / SEC_NS;
	memcpy(d->kernel, c->config.kernel, sizeof d->kernel);
	r = tell_creator(c, &m, c->backing_fd);
	if (r == 0)
		r = session_ticket(&c->session, true, &t);
	message_init(&m, MSG_DP_TICKET, c->request.id + 1);
	m.body.dp_ticket = (struct msg_dp_ticket){
		.ticket = t.ticket, .generation = 1, .hsm_pid = c->session.child.pid, .hsm_uid = (uint32_t)c->session.child.uid
	};
	if (r == 0)
		r = tell_creator(c, &m, c->hsm_fd);
	close_fd(&c->hsm_fd);
	close_fd(&c->backing_fd);
	c->creator.stage = STAGE_CREATING;
	return r;
}

static void creator_hello(void *owner, struct child *child)
{
	struct creation *c = owner;
	int r = c->over ? 0 : send_tickets(c);

	(void)child;
	if (r != 0)
		fail(c, r, "the creating processes do not take their orders");
}

static void creator_message(void *owner, struct child *child, const struct message *m, int *fds, unsigned count)
{
	struct creation *c = owner;
	const struct msg_dp_created *d = &m->body.dp_created;
	char text[TEXT_MAX_BYTES];

	(void)child;
	(void)fds;
	(void)count;
	if (c->over)
		return;
	if (d->error != 0) {
		finish(c, d->error, log_printable(text, sizeof text, d->text));
		return;
	}
	memcpy(c->record.kcv, d->kcv, sizeof c->record.kcv);
	memcpy(c->record.fingerprint, kek_pins(c->kek)->fingerprint, sizeof c->record.fingerprint);
	c->record.gen_no = d->gen_no;
	c->record.size = d->size;
	c->created_good = true;
	check_done(c);
}

static void creator_death(void *owner, struct child *child, int status)
{
	struct creation *c = owner;

	(void)child;
	if (!c->created_good)
		fail(c, ERR_IO, "the creating process ended without an answer (%s %d); see the log",
		     WIFSIGNALED(status) ? "signal" : "exit code", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static const struct child_events creator_events = { creator_hello, creator_message, creator_death };

static int start_creator(struct creation *c)
{
	snprintf(c->creator.label, sizeof c->creator.label, "creator of %s", c->config.name);
	return child_start_one_shot(&c->creator, PEER_CREATOR, &c->agent->config, "create");
}

/* ---- the hsm ---- */

static void pin_key(struct creation *c, const struct msg_hsm_opened *o)
{
	struct kek_record *p = &c->pins;
	uint8_t hash = p->hash;

	memset(p, 0, sizeof *p);
	p->type = o->type;
	p->bits = o->bits;
	p->modulus_size = o->modulus_size;
	p->exponent_size = o->exponent_size;
	memcpy(p->modulus, o->modulus, sizeof p->modulus);
	memcpy(p->exponent, o->exponent, sizeof p->exponent);
	log_printable(p->label, sizeof p->label, o->label);
	log_printable(p->token_label, sizeof p->token_label, o->token_label);
	p->id_size = o->id_size;
	memcpy(p->id, o->id, sizeof p->id);
	if (p->type == KEK_RSA_OAEP) {
		p->hash = hash != OAEP_NONE ? hash : OAEP_SHA256;
		fingerprint_rsa(p->fingerprint, p->modulus, p->modulus_size, p->exponent, p->exponent_size);
	}
}

static void enrolled(struct creation *c)
{
	int r = kek_enroll(c->kek, &c->pins);

	if (r != 0) {
		fail(c, r, "the pins of KEK %s cannot be kept; see the state directory", c->config.kek);
		return;
	}
	log_notice("KEK %s: enrolled: %s, %u bits%s", c->config.kek, c->pins.type == KEK_RSA_OAEP ? "RSA-OAEP" : "AES key wrap",
		   c->pins.bits, c->pins.hash == OAEP_SHA1 ? ", SHA-1 (the token has no SHA-256 for OAEP)" : "");
	c->enrolling = false;
	session_kill(&c->session);
	step_on(c);
}

/* A hiccup of the HSM costs a fresh process, not the whole creation. Not once the creator is there: its backing store is given
 * away. */
static bool ask_again(struct creation *c, const struct judgement *j, enum session_step step)
{
	if (j->proof != PROOF_AMBIGUOUS || step == SESSION_TICKET || c->doubted)
		return false;
	c->doubted = true;
	log_warning("volume %s: KEK %s: %s: asked once more", c->config.name, c->config.kek, j->text);
	close_fd(&c->hsm_fd);
	session_kill(&c->session);
	timer_arm(&c->agent->loop, &c->again, boot_now() + AGAIN_MS * MS_NS);
	return true;
}

static void enrol_probed(struct creation *c, const struct judgement *said)
{
	struct session *s = &c->session;
	struct judgement j = *said;

	if (c->pins.type == KEK_AES_KW && c->pins.canary_size == 0 &&
	    j.proof == PROOF_GOOD) { /* the canary is made: now prove it */
		c->pins.canary_size = s->verdict.wrapped_size;
		memcpy(c->pins.canary, s->verdict.wrapped, s->verdict.wrapped_size);
		fingerprint_aes(c->pins.fingerprint, s->verdict.answer);
		explicit_bzero(s->verdict.answer, sizeof s->verdict.answer);
		if (c->pins.canary_size == 0 || session_probe(s, &c->pins) != 0)
			fail(c, ERR_PROTOCOL, "the hsm made no canary");
		return;
	}
	if (j.proof == PROOF_GOOD)
		judge_probe(&j, &c->pins, s->challenge, &s->verdict, time(NULL));
	if (j.proof == PROOF_GOOD) {
		enrolled(c);
	} else if (ask_again(c, &j, SESSION_PROBED)) {
		return;
	} else if (c->pins.type == KEK_RSA_OAEP && c->pins.hash == OAEP_SHA256) { /* many tokens know OAEP with SHA-1 only */
		c->pins.hash = OAEP_SHA1;
		session_kill(s);
		step_on(c);
	} else {
		fail(c, judgement_error(&j), "KEK %s did not pass its proof: %.160s", c->config.kek, j.text);
	}
}

static void hsm_result(void *owner, struct session *s, enum session_step step, const struct judgement *j)
{
	struct creation *c = owner;
	int r = 0;

	if (c->over)
		return;
	if (c->enrolling && step == SESSION_PROBED) {
		enrol_probed(c, j);
		return;
	}
	if (j->proof != PROOF_GOOD) {
		if (!ask_again(c, j, step))
			fail(c, judgement_error(j), "KEK %s: %.180s", c->config.kek, j->text);
		return;
	}
	if (step == SESSION_OPENED && c->enrolling)
		pin_key(c, &s->opened);
	if (step == SESSION_OPENED)
		r = session_probe(s, c->enrolling ? &c->pins : s->pins);
	else if (step == SESSION_PROBED)
		r = start_creator(c);
	else
		c->hsm_good = true;
	if (r != 0)
		fail(c, r, "the next step could not be started");
	check_done(c);
}

static void hsm_ended(void *owner, struct session *s, bool good)
{
	struct creation *c = owner;

	if (s->silent || c->over)
		return;
	c->hsm_gone = good;
	if (!good)
		fail(c, ERR_UNREACHABLE, "the one-shot hsm process failed; see the log");
	else
		check_done(c);
}

static const struct session_events session_callbacks = { hsm_result, hsm_ended };

static int start_session(struct creation *c)
{
	int pair[2], r;

	if (c->enrolling)
		return session_start(&c->session, NULL, -1);
	r = channel_pair(pair);
	if (r != 0)
		return r;
	r = session_start(&c->session, kek_pins(c->kek), pair[1]);
	close(pair[1]);
	if (r == 0)
		c->hsm_fd = pair[0];
	else
		close(pair[0]);
	return r;
}

static void step_on(struct creation *c)
{
	int r = start_session(c);

	if (r == ERR_BUSY)
		timer_arm(&c->agent->loop, &c->again, boot_now() + AGAIN_MS * MS_NS);
	else if (r != 0)
		fail(c, r, "the hsm process cannot be started; see the log");
}

static void try_again(void *context)
{
	step_on(context);
}

static void deadline(void *context)
{
	fail(context, ERR_TIMEOUT, "not done within %d s", DEADLINE_S);
}

/* ---- the request ---- */

static int refuse_early(struct agent *a, const struct msg_mg_request *request, struct volume_config *config, char *text)
{
	static struct config_errors errors; /* 100 KiB: not on the stack */
	const struct volume *v = volume_find(a, request->volume);
	const struct kek *kek;
	int r = config_load_volume(&a->config, request->volume, config, &errors);

	text[0] = '\0';
	if (r == ERR_NOT_FOUND)
		snprintf(text, TEXT_MAX_BYTES, "there is no volumes.d/%s.conf; write it first", request->volume);
	else if (r != 0)
		snprintf(text, TEXT_MAX_BYTES, "%.250s", errors.line[0]);
	if (r != 0)
		return r;
	kek = kek_find(a, config->kek);
	if (v != NULL && (v->formatted || v->damaged) && !request->force) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is there already; force destroys what is on it", request->volume);
		return ERR_EXISTS;
	}
	if (v != NULL && job_on(v, text))
		return ERR_BUSY;
	if (v != NULL && (v->gate.state != GATE_LOCKED || volume_busy(v))) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is attached; detach it first", request->volume);
		return ERR_STATE;
	}
	if (v == NULL && a->volume_count == CONFIG_VOLUMES_MAX) {
		snprintf(text, TEXT_MAX_BYTES, "the agent has %d volumes, and room for no more; leave one out, and start it anew",
			 CONFIG_VOLUMES_MAX);
		return ERR_STATE;
	}
	if (kek == NULL || kek_damaged(kek)) {
		snprintf(text, TEXT_MAX_BYTES,
			 "the record of KEK %s is damaged; bring it back from a backup of the state directory", config->kek);
		return ERR_CORRUPT;
	}
	return 0;
}

static void backing_opened(void *context, int fd, bool created, const char *text)
{
	struct creation *c = context;

	c->opening = NULL;
	c->backing_fd = fd;
	c->file_made = created;
	if (fd < 0)
		finish(c, fd, text);
	else
		step_on(c);
}

/* What a creation that failed was latched with: the next one lifts nothing. */
static enum gate_cause latch_left_behind(const struct agent *a, const char *name)
{
	struct gate_record gate;
	int r = records_read_gate(&a->records, name, &gate);

	if (r == ERR_NOT_FOUND)
		return CAUSE_NONE;
	if (r != 0)
		return CAUSE_RECORD_LOST;
	return gate.latched ? gate.latch_cause : CAUSE_NONE;
}

int creation_begin(struct agent *a, const struct msg_mg_request *request, char text[static TEXT_MAX_BYTES])
{
	struct volume_config config;
	struct creation *c;
	int r;

	if (a->creation != NULL) {
		snprintf(text, TEXT_MAX_BYTES, "another volume is being created; try again when it is done");
		return ERR_BUSY;
	}
	if (!randomness_good(text, TEXT_MAX_BYTES))
		return ERR_UNSUPPORTED;
	r = refuse_early(a, request, &config, text);
	if (r != 0)
		return r;
	c = calloc(1, sizeof *c);
	if (c == NULL || entropy_fill(c->record.uuid, sizeof c->record.uuid) != 0) {
		free(c);
		return ERR_NOMEM;
	}
	c->agent = a;
	c->request = *request;
	c->config = config;
	c->kek = kek_find(a, config.kek);
	c->enrolling = kek_pins(c->kek) == NULL;
	c->backing_fd = c->hsm_fd = -1;
	if (volume_find(a, config.name) == NULL)
		c->latch = latch_left_behind(a, config.name);
	if (!c->enrolling)
		c->pins = *kek_pins(c->kek);
	strcpy(c->record.kek, config.kek);
	c->creator.loop = &a->loop;
	c->creator.events = &creator_events;
	c->creator.owner = c;
	session_init(&c->session, a, c->kek, &session_callbacks, c);
	timer_init(&c->deadline, deadline, c);
	timer_init(&c->again, try_again, c);
	timer_arm(&a->loop, &c->deadline, boot_now() + DEADLINE_S * SEC_NS);
	a->creation = c;
	if (opening_start(&c->opening, a, &config, OPENING_CREATE, backing_opened, c) != 0)
		fail(c, ERR_NOMEM, "its backing store cannot be opened; see the log");
	return 0;
}

bool creation_latch(struct agent *a, const char *volume, enum gate_cause cause)
{
	struct creation *c = a->creation;
	struct gate_record gate = { .latched = true, .latch_cause = cause, .seq = 1 };

	if (c == NULL || c->over || (volume[0] != '\0' && strcmp(volume, c->config.name) != 0))
		return false;
	if (volume_find(a, c->config.name) != NULL || c->latch == cause)
		return true; /* it has a gate of its own, which hears of it too */
	c->latch = cause;
	log_warning("volume %s: latched (%s) while it is being created", c->config.name, gate_cause_name(cause));
	writer_gate(a->writer, c->config.name, &gate);
	return true;
}

void creation_abort(struct agent *a)
{
	if (a->creation == NULL)
		return;
	finish(a->creation, ERR_STATE, "the agent is being stopped");
	timer_disarm(&a->loop, &a->creation->again);
	reap_all(a->creation);
}
