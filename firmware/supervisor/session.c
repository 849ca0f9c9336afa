/* See session.h. */
#include "session.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "challenge.h"
#include "hal/entropy.h"
#include "kek.h"
#include "pin.h"

enum { CLOSE_MS = 500 };

static enum session_step step_of(enum stage stage)
{
	return stage == STAGE_PROBING ? SESSION_PROBED : stage == STAGE_TICKET ? SESSION_TICKET : SESSION_OPENED;
}

/* The open question is answered with nothing. The process is gone or going. */
static void lose(struct session *s, enum stage stage, const char *what)
{
	struct judgement j;

	timer_disarm(&s->agent->loop, &s->deadline);
	s->asked = false;
	s->silent = true;
	judge_lost(&j, what);
	s->events->result(s->owner, s, step_of(stage), &j);
}

/* The PIN stays sealed: no process was started, no login is tried. */
static void tell_fault(struct session *s)
{
	struct judgement j;

	s->faulted = false;
	s->silent = true;
	if (!pin_fault(kek_pin(s->kek), &j))
		judge_lost(&j, "the PIN was sealed anew");
	s->events->result(s->owner, s, SESSION_OPENED, &j);
}

static void deadline_passed(void *context)
{
	struct session *s = context;
	enum stage stage;
	char text[TEXT_MAX_BYTES];

	if (s->faulted) {
		tell_fault(s);
		return;
	}
	child_hear(&s->child);
	if (s->deadline.armed)
		return; /* the answer was there, and the next question has its own time */
	stage = s->child.stage;
	if (s->silent || !s->child.alive) {
		child_kill(&s->child, NULL); /* it did not log out in time */
		return;
	}
	if (stage == STAGE_SPENT) {
		log_warning("the one-shot hsm process of KEK %s has answered and does not end: its module hangs in C_Finalize",
			    kek_config(s->kek)->name);
		child_kill(&s->child, NULL);
	}
	if (!s->asked)
		return;
	snprintf(text, sizeof text, "the HSM of KEK %s did not answer within %llu ms (%s)", kek_config(s->kek)->name,
		 (unsigned long long)(kek_config(s->kek)->hsm_deadline_ns / MS_NS), stage_name(stage));
	log_warning("%s", text);
	s->silent = true;
	child_kill_and_reap(&s->child);
	pin_abandon(kek_pin(s->kek), &s->pin_turn);
	lose(s, stage, text);
}

static int ask(struct session *s, struct message *m, const int *fds, unsigned count, enum stage stage)
{
	int r = child_send(&s->child, m, fds, count);

	if (r != 0)
		return r;
	s->child.stage = stage;
	s->nonce = m->nonce;
	s->asked = true;
	s->asked_ns = boot_now();
	timer_arm(&s->agent->loop, &s->deadline, s->asked_ns + kek_config(s->kek)->hsm_deadline_ns);
	return 0;
}

/* ---- the hsm speaks ---- */

static void on_hello(void *owner, struct child *c)
{
	struct session *s = owner;
	const struct kek_config *k = kek_config(s->kek);
	struct message m;
	int fd = -1;

	if (s->silent)
		return; /* it will read that it is to leave */
	if (pin_gone(kek_pin(s->kek))) {
		child_kill(c, "its PIN was sealed anew meanwhile");
		return;
	}
	message_init(&m, MSG_HSM_OPEN, s->nonce + 1);
	strcpy(m.body.hsm_open.module, k->module);
	strcpy(m.body.hsm_open.init_args, k->init_args);
	strcpy(m.body.hsm_open.uri, k->uri);
	m.body.hsm_open.login_allowed = pin_begin(kek_pin(s->kek), s->pin_turn, &fd, &m.body.hsm_open.pin_renewed);
	s->pin_withheld = !m.body.hsm_open.login_allowed;
	m.body.hsm_open.pin_in_page = fd >= 0 && pin_is_sealed(kek_pin(s->kek));
	if (ask(s, &m, &fd, fd >= 0 ? 1 : 0, STAGE_OPENING) != 0)
		child_kill(c, NULL);
	if (fd >= 0)
		close(fd);
}

static void take_opened(struct session *s, const struct message *m)
{
	struct judgement j;

	s->opened = m->body.hsm_opened;
	pin_end(kek_pin(s->kek), &s->pin_turn, s->opened.login_refused, s->opened.verdict == VERDICT_GOOD);
	kek_note_opened(s->kek, &s->opened);
	judge_opened(&j, s->pins, &s->opened, time(NULL));
	/* The process knows no more than that it was given no PIN. */
	if (s->pin_withheld && j.cause == CAUSE_ACCESS_REVOKED && pin_trouble(kek_pin(s->kek)) != NULL)
		snprintf(j.text, sizeof j.text, "%s", pin_trouble(kek_pin(s->kek)));
	s->events->result(s->owner, s, SESSION_OPENED, &j);
}

static void take_verdict(struct session *s, const struct message *m, enum stage stage)
{
	struct judgement j;

	s->verdict = m->body.hsm_verdict;
	if (s->verdict.login_refused)
		pin_refused(kek_pin(s->kek));
	if (stage == STAGE_TICKET) {
		judge_ticket(&j, &s->verdict);
		s->child.stage = STAGE_SPENT; /* and now it ends, or is ended */
		timer_arm(&s->agent->loop, &s->deadline, boot_now() + CLOSE_MS * MS_NS);
	} else if (s->pins != NULL) {
		judge_probe(&j, s->pins, s->challenge, &s->verdict, time(NULL));
		s->probes += j.proof == PROOF_GOOD;
	} else {
		judge_ticket(&j, &s->verdict); /* enrolment judges the answer itself */
	}
	s->events->result(s->owner, s, step_of(stage), &j);
}

static void on_message(void *owner, struct child *c, const struct message *m, int *fds, unsigned count)
{
	struct session *s = owner;
	enum stage stage = c->stage;

	(void)fds;
	(void)count;
	if (s->silent && m->type == MSG_HSM_OPENED)
		pin_end(kek_pin(s->kek), &s->pin_turn, m->body.hsm_opened.login_refused,
			m->body.hsm_opened.verdict == VERDICT_GOOD);
	if (s->silent && m->type == MSG_HSM_VERDICT && m->body.hsm_verdict.login_refused)
		pin_refused(kek_pin(s->kek));
	if (!s->asked || m->nonce != s->nonce)
		return; /* late: dropped */
	timer_disarm(&s->agent->loop, &s->deadline);
	s->asked = false;
	c->stage = STAGE_IDLE;
	if (m->type == MSG_HSM_OPENED)
		take_opened(s, m);
	else
		take_verdict(s, m, stage);
}

static void on_death(void *owner, struct child *c, int status)
{
	struct session *s = owner;
	bool good = c->stage == STAGE_SPENT; /* it has answered and is gone: how a module's C_Finalize ends is all one */
	char text[TEXT_MAX_BYTES];

	timer_disarm(&s->agent->loop, &s->deadline);
	pin_abandon(kek_pin(s->kek), &s->pin_turn);
	if (s->silent) {
		s->events->ended(s->owner, s, false);
		return;
	}
	if (good && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
		log_warning(
			"the one-shot hsm process of KEK %s ended badly after its answer (%s %d): its module fails in C_Finalize",
			kek_config(s->kek)->name, WIFSIGNALED(status) ? "signal" : "exit code",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	if (s->asked || c->stage == STAGE_NEW) {
		snprintf(text, sizeof text, "the hsm process of KEK %s ended without an answer (%s %d)", kek_config(s->kek)->name,
			 WIFSIGNALED(status) ? "signal" : "exit code",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		log_warning("%s", text);
		lose(s, c->stage, text);
		return;
	}
	s->events->ended(s->owner, s, good);
}

static const struct child_events hsm_events = { on_hello, on_message, on_death };

/* ---- the owner asks ---- */

void session_init(struct session *s, struct agent *a, struct kek *k, const struct session_events *events, void *owner)
{
	memset(s, 0, sizeof *s);
	s->agent = a;
	s->kek = k;
	s->events = events;
	s->owner = owner;
	s->child.loop = &a->loop;
	s->child.events = &hsm_events;
	s->child.owner = s;
	timer_init(&s->deadline, deadline_passed, s);
}

int session_start(struct session *s, const struct kek_record *pins, int dataplane_fd)
{
	const struct kek_config *k = kek_config(s->kek);
	char program[PATH_MAX_BYTES + 32];
	const char *arguments[] = { program, dataplane_fd >= 0 ? "--one-shot" : NULL, NULL };
	struct child_plan plan = { .peer = PEER_HSM,
				   .program = program,
				   .arguments = arguments,
				   .fds = { -1, dataplane_fd },
				   .fd_count = dataplane_fd >= 0 ? 2 : 1,
				   .user = s->agent->config.user_hsm };
	struct judgement fault;
	int r;

	if (s->child.alive || s->faulted || !pin_ready(kek_pin(s->kek)))
		return ERR_BUSY;
	if (pin_fault(kek_pin(s->kek), &fault)) {
		s->pins = pins;
		s->silent = s->asked = s->ticketed = false;
		s->faulted = true;
		timer_arm(&s->agent->loop, &s->deadline, 0);
		return 0;
	}
	if (!pin_turn(kek_pin(s->kek), &s->pin_turn))
		return ERR_BUSY;
	snprintf(program, sizeof program, "%s/fallgate-hsm", s->agent->config.libexec_dir);
	for (unsigned i = 0; i < k->environment_count; i++)
		plan.environment[i] = k->environment[i];
	snprintf(s->child.label, sizeof s->child.label, "hsm of KEK %s", k->name);
	s->pins = pins;
	s->silent = s->asked = s->ticketed = false;
	s->probes = 0;
	r = child_start(&s->child, &plan);
	if (r != 0) {
		pin_abandon(kek_pin(s->kek), &s->pin_turn);
		return r;
	}
	s->asked = true; /* HELLO has the same time as an answer */
	s->asked_ns = boot_now();
	timer_arm(&s->agent->loop, &s->deadline, s->asked_ns + k->hsm_deadline_ns);
	return 0;
}

int session_probe(struct session *s, const struct kek_record *key)
{
	struct message m;
	struct msg_hsm_probe *p = &m.body.hsm_probe;
	int r = 0;

	message_init(&m, MSG_HSM_PROBE, s->nonce + 1);
	if (key->type == KEK_RSA_OAEP) {
		p->hash = key->hash;
		r = challenge_make(key, s->challenge, p->wrapped, &p->wrapped_size);
	} else {
		p->wrapped_size = key->canary_size; /* 0: make one */
		memcpy(p->wrapped, key->canary, key->canary_size);
	}
	return r == 0 ? ask(s, &m, NULL, 0, STAGE_PROBING) : r;
}

int session_ticket(struct session *s, bool wrap, const struct msg_hsm_ticket *t)
{
	struct message m;

	message_init(&m, wrap ? MSG_HSM_WRAP : MSG_HSM_UNWRAP, s->nonce + 1);
	m.body.hsm_ticket = *t;
	s->ticketed = true;
	return ask(s, &m, NULL, 0, STAGE_TICKET);
}

bool session_idle(const struct session *s)
{
	return s->child.alive && !s->asked && !s->silent && s->child.stage == STAGE_IDLE;
}

void session_close(struct session *s)
{
	struct message m;

	if (s->faulted) {
		s->faulted = false;
		timer_disarm(&s->agent->loop, &s->deadline);
	}
	if (!s->child.alive || (s->silent && s->deadline.armed))
		return; /* gone, or told already */
	if (s->ticketed) {
		session_kill(s);
		return;
	}
	message_init(&m, MSG_HSM_CLOSE, 0);
	s->silent = true;
	s->asked = false;
	child_send(&s->child, &m, NULL, 0);
	explicit_bzero(s->challenge, sizeof s->challenge);
	timer_arm(&s->agent->loop, &s->deadline, boot_now() + CLOSE_MS * MS_NS);
}

bool session_ticketed(const struct session *s)
{
	return s->child.alive && s->ticketed;
}

bool session_kill(struct session *s)
{
	bool gone;

	timer_disarm(&s->agent->loop, &s->deadline);
	s->silent = true;
	s->asked = s->faulted = false;
	gone = child_kill_and_reap(&s->child);
	if (s->pin_turn) /* else it may have no KEK either: a volume whose file came later */
		pin_abandon(kek_pin(s->kek), &s->pin_turn);
	explicit_bzero(s->challenge, sizeof s->challenge);
	return gone;
}

void session_end(struct session *s)
{
	session_kill(s);
	child_let_go(&s->child);
}
