/* See tpm.h. */
#include "tpm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "children.h"

enum { ANSWER_S = 6, LINGERING_MAX = 16 };

struct tpm_ask {
	struct agent *agent;
	struct tpm_ask *next;
	struct child child;
	struct timer deadline;
	struct msg_tp_request request;
	int fd;
	bool killed;
	tpm_answered *answered; /* NULL: it was, or it is abandoned */
	void *context;
};

/* What it was when the agent started. */
struct tpm_state {
	struct tpm_ask *asks;
	struct msg_tp_reply facts;
	bool known;
};

static void tell(struct tpm_ask *t, const struct msg_tp_reply *r, int *page_fd)
{
	tpm_answered *answered = t->answered;

	t->answered = NULL;
	if (answered != NULL)
		answered(t->context, r, page_fd);
}

static void tell_lost(struct tpm_ask *t, const char *what)
{
	struct msg_tp_reply r = { .error = ERR_UNREACHABLE };
	int none = -1;

	if (t->answered == NULL)
		return;
	snprintf(r.text, sizeof r.text, "%s", what);
	log_warning("TPM: %s", what);
	tell(t, &r, &none);
}

static void forget(struct tpm_ask *t)
{
	struct tpm_ask **at = &t->agent->tpm->asks;

	while (*at != NULL && *at != t)
		at = &(*at)->next;
	if (*at == t)
		*at = t->next;
	timer_disarm(&t->agent->loop, &t->deadline);
	if (t->fd >= 0)
		close(t->fd);
	explicit_bzero(t, sizeof *t);
	free(t);
}

/* ---- its process ---- */

static void end(struct tpm_ask *t)
{
	t->killed = true;
	child_kill(&t->child, NULL); /* it is forgotten when it is reaped */
}

/* A TPM that hangs holds whoever asks it in the kernel, killed or not: each of them costs descriptors, which others need too. */
static bool too_many_linger(const struct tpm_state *s)
{
	unsigned n = 0;

	for (const struct tpm_ask *t = s->asks; t != NULL; t = t->next)
		n += t->killed;
	if (n >= LINGERING_MAX)
		log_error("TPM: %u processes that asked it are killed and not gone: it is not asked again before some are", n);
	return n >= LINGERING_MAX;
}

static void on_hello(void *owner, struct child *c)
{
	struct tpm_ask *t = owner;
	struct message m;

	message_init(&m, MSG_TP_REQUEST, 1);
	m.body.tp_request = t->request;
	if (child_send(c, &m, &t->fd, t->fd >= 0 ? 1 : 0) != 0) {
		child_kill(c, NULL);
		return;
	}
	c->stage = STAGE_ASKED;
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
}

static void on_message(void *owner, struct child *c, const struct message *m, int *fds, unsigned count)
{
	struct tpm_ask *t = owner;
	const struct msg_tp_reply *r = &m->body.tp_reply;
	int none = -1;

	c->stage = STAGE_SPENT; /* and now it ends, or is ended */
	if ((count == 1) != (t->request.verb == TP_UNSEAL && r->error == 0)) {
		child_kill(c, "its answer is not to this question");
		return;
	}
	tell(t, r, count == 1 ? &fds[0] : &none);
}

static void on_death(void *owner, struct child *c, int status)
{
	struct tpm_ask *t = owner;

	(void)c;
	(void)status;
	tell_lost(t, "the process that asks the TPM ended without an answer; see the log");
	forget(t);
}

static const struct child_events tpm_events = { on_hello, on_message, on_death };

static void deadline_passed(void *context)
{
	struct tpm_ask *t = context;
	char text[80];

	child_hear(&t->child);
	snprintf(text, sizeof text, "the TPM did not answer within %d s", ANSWER_S);
	tell_lost(t, text);
	end(t);
}

static int start(struct tpm_ask *t)
{
	const struct config *c = &t->agent->config;
	char program[PATH_MAX_BYTES + 32];
	const char *arguments[] = { program, c->tpm, NULL };
	struct child_plan plan = { .peer = PEER_TPM,
				   .program = program,
				   .arguments = arguments,
				   .environment = { "TSS2_LOG=all+none" }, /* its library's words: ours are in the answer */
				   .fds = { -1 },
				   .fd_count = 1,
				   .locked_memory = true,
				   .user = c->user_tpm };

	snprintf(program, sizeof program, "%s/fallgate-tpm", c->libexec_dir);
	snprintf(t->child.label, sizeof t->child.label, "tpm");
	t->child.loop = &t->agent->loop;
	t->child.events = &tpm_events;
	t->child.owner = t;
	return child_start(&t->child, &plan);
}

int tpm_ask(struct tpm_ask **out, struct agent *a, const struct msg_tp_request *q, int fd, tpm_answered *answered, void *context)
{
	struct tpm_ask *t;
	int r;

	if (a->tpm == NULL)
		a->tpm = calloc(1, sizeof *a->tpm);
	if (a->tpm == NULL)
		return ERR_NOMEM;
	if (too_many_linger(a->tpm))
		return ERR_BUSY;
	t = calloc(1, sizeof *t);
	if (t == NULL)
		return ERR_NOMEM;
	t->agent = a;
	t->request = *q;
	t->answered = answered;
	t->context = context;
	t->fd = fd >= 0 ? dup(fd) : -1;
	timer_init(&t->deadline, deadline_passed, t);
	t->next = a->tpm->asks;
	a->tpm->asks = t;
	r = fd >= 0 && t->fd < 0 ? ERR_IO : start(t);
	if (r != 0) {
		forget(t);
		return r;
	}
	timer_arm(&a->loop, &t->deadline, boot_now() + ANSWER_S * SEC_NS);
	*out = t;
	return 0;
}

void tpm_abandon(struct tpm_ask *t)
{
	t->answered = NULL;
	end(t);
}

bool tpm_definite(int error)
{
	return error != ERR_UNREACHABLE && error != ERR_NOMEM && error != ERR_IO;
}

/* ---- posture ---- */

static void list_pcrs(uint32_t pcrs, char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	for (unsigned i = 0; i < 24 && used < size; i++)
		if ((pcrs & 1u << i) != 0)
			used += (size_t)snprintf(out + used, size - used, "%s%u", used > 0 ? "," : "", i);
}

bool tpm_posture(const struct agent *a, bool *good, char *out, size_t size)
{
	const struct msg_tp_reply *f = a->tpm != NULL ? &a->tpm->facts : NULL;
	char pcrs[80], zero[80];

	if (a->config.tpm[0] == '\0')
		return false;
	*good = false;
	if (f == NULL || !a->tpm->known) {
		snprintf(out, size, "the TPM at %.60s has not answered yet", a->config.tpm);
		return true;
	}
	list_pcrs(a->config.tpm_pcrs, pcrs, sizeof pcrs);
	list_pcrs(f->zero, zero, sizeof zero);
	if (f->error != 0)
		snprintf(out, size, "the TPM at %.40s: %.100s", a->config.tpm, f->text);
	else if (f->zero == a->config.tpm_pcrs)
		snprintf(out, size, "TPM 2.0 (%s, %s): PCRs %s are all zero: nobody measures this boot", f->kind, f->bank, pcrs);
	else
		snprintf(out, size, "TPM 2.0 (%s, %s), PCRs %s%s%s", f->kind, f->bank, pcrs, f->zero != 0 ? "; still zero: " : "",
			 zero);
	*good = f->error == 0 && f->zero != a->config.tpm_pcrs;
	return true;
}

static void looked(void *context, const struct msg_tp_reply *r, int *page_fd)
{
	struct agent *a = context;
	char text[200];
	bool good;

	(void)page_fd;
	a->tpm->facts = *r;
	a->tpm->known = true;
	if (!tpm_posture(a, &good, text, sizeof text))
		return;
	if (good)
		log_notice("%s", text);
	else
		log_warning("%s", text);
}

void tpm_start(struct agent *a)
{
	const struct msg_tp_request q = { .verb = TP_LOOK, .pcrs = a->config.tpm_pcrs };
	struct tpm_ask *look;

	if (a->config.tpm[0] != '\0')
		tpm_ask(&look, a, &q, -1, looked, a);
}

void tpm_stop(struct agent *a)
{
	if (a->tpm == NULL)
		return;
	while (a->tpm->asks != NULL) {
		struct tpm_ask *t = a->tpm->asks;

		t->answered = NULL;
		child_kill_and_reap(&t->child); /* one that is not gone by then goes with the supervisor */
		child_let_go(&t->child);
		forget(t);
	}
	free(a->tpm);
	a->tpm = NULL;
}
