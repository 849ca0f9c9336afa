/* See manage.h. */
#include "manage.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "creation.h"
#include "credentials.h"
#include "mgmt.h"
#include "volume.h"
#include "wallclock.h"

enum {
	PENDING_MAX = 32,
	DURABLE_WAIT_MS = 5000, /* a busy disk's flush takes seconds; mgmt and the clients wait longer than this */
	RESTART_MAX_S = 5,
	AGENT_PUSH_S = 2,
	STOP_TRIES = 50,
	LOOK_S = 1,
	HUNG_S = 5,
	BIND_TRIES = 40,
	BIND_WAIT_MS = 50,
	RELEASE_WAIT_MS = 15000, /* a disk may take long for what was acknowledged; mgmt and the clients wait longer than this */
	RELEASE_LOOK_MS = 20
};

/* A revoke whose latches are on their way to the disk. */
struct pending {
	bool used;
	uint64_t id;
	manage_revoked *done;
	void *context;
	uint64_t until_ns;
	char volume[NAME_MAX_BYTES];      /* empty: all */
	uint64_t seq[CONFIG_VOLUMES_MAX]; /* 0: not one of them */
};

/* A detach whose volume is still somebody's: what was acknowledged is written, its process and its device go. */
struct leaving {
	uint64_t id;
	struct volume *volume; /* NULL: a free place */
	uint64_t until_ns;
};

struct management {
	struct agent *agent;
	struct mgmt mgmt;
	unsigned failures;
	uint64_t started_ns;
	struct timer restart, durable_wait, release_look, agent_push, look;
	struct pending pending[PENDING_MAX];
	struct leaving leaving[PENDING_MAX];
};

/* ---- revoke ---- */

static bool all_durable(const struct agent *a, const struct pending *p)
{
	for (unsigned i = 0; i < a->volume_count; i++)
		if (p->seq[i] != 0 && a->volumes[i]->durable_seq < p->seq[i])
			return false;
	return true;
}

static void answer_pending(struct agent *a, struct pending *p, bool durable)
{
	const struct volume *v = p->volume[0] != '\0' ? volume_find(a, p->volume) : NULL;

	p->used = false;
	p->done(p->context, p->id, 0, v != NULL ? v->gate.seq : 0, durable,
		durable ? "revoked; the latch is on disk"
			: "revoked; the latch is NOT on disk: a restart would lose it; see the log");
}

void manage_written(struct agent *a)
{
	struct management *g = a->management;

	for (unsigned i = 0; g != NULL && i < PENDING_MAX; i++)
		if (g->pending[i].used && all_durable(a, &g->pending[i]))
			answer_pending(a, &g->pending[i], true);
}

void manage_not_written(struct agent *a, const struct volume *v, uint64_t seq)
{
	struct management *g = a->management;

	for (unsigned i = 0; g != NULL && i < PENDING_MAX; i++)
		for (unsigned k = 0; k < a->volume_count && g->pending[i].used; k++)
			if (a->volumes[k] == v && g->pending[i].seq[k] != 0 && g->pending[i].seq[k] <= seq)
				answer_pending(a, &g->pending[i], false);
}

static void durable_wait_over(void *context)
{
	struct management *g = context;
	uint64_t now = boot_now(), next = 0;

	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct pending *p = &g->pending[i];

		if (p->used && p->until_ns <= now)
			answer_pending(g->agent, p, false);
		else if (p->used && (next == 0 || p->until_ns < next))
			next = p->until_ns;
	}
	if (next != 0)
		timer_arm(&g->agent->loop, &g->durable_wait, next);
}

static struct pending *free_pending(struct management *g)
{
	for (unsigned i = 0; i < PENDING_MAX; i++)
		if (!g->pending[i].used)
			return &g->pending[i];
	return NULL;
}

void agent_revoke_all(struct agent *a, const char *identity)
{
	for (unsigned i = 0; i < a->volume_count; i++)
		volume_feed(a->volumes[i], EV_REVOKE, CAUSE_NONE, identity, "");
	creation_latch(a, "", CAUSE_COMMANDED);
}

void manage_revoke(struct agent *a, const char *volume, const char *identity, uint64_t id, manage_revoked *done, void *context)
{
	struct management *g = a->management;
	struct volume *v = volume[0] != '\0' ? volume_find(a, volume) : NULL;
	struct pending *p;

	if (volume[0] != '\0' && v == NULL && creation_latch(a, volume, CAUSE_COMMANDED)) {
		done(context, id, 0, 0, false, "revoked while it is being created: it is latched when it is there");
		return;
	}
	if (volume[0] != '\0' && v == NULL) {
		done(context, id, ERR_NOT_FOUND, 0, false, "there is no such volume");
		return;
	}
	if (v != NULL)
		volume_feed(v, EV_REVOKE, CAUSE_NONE, identity, "");
	else
		agent_revoke_all(a, identity);
	p = g != NULL ? free_pending(g) : NULL;
	if (p == NULL) {
		done(context, id, 0, v != NULL ? v->gate.seq : 0, false,
		     "revoked; whether the latch is on disk is not known yet");
		return;
	}
	*p = (struct pending){
		.used = true, .id = id, .done = done, .context = context, .until_ns = boot_now() + DURABLE_WAIT_MS * MS_NS
	};
	snprintf(p->volume, sizeof p->volume, "%s", volume);
	for (unsigned i = 0; i < a->volume_count; i++)
		p->seq[i] = v == NULL || v == a->volumes[i] ? a->volumes[i]->gate.seq : 0;
	if (all_durable(a, p))
		answer_pending(a, p, true);
	else if (!g->durable_wait.armed)
		timer_arm(&a->loop, &g->durable_wait, p->until_ns);
}

void manage_forget(struct agent *a, const void *context)
{
	for (unsigned i = 0; a->management != NULL && i < PENDING_MAX; i++)
		if (a->management->pending[i].context == context)
			a->management->pending[i].used = false;
}

/* ---- requests of mgmt ---- */

static void reply_revoked(void *context, uint64_t id, int error, uint64_t seq, bool durable, const char *text)
{
	mgmt_reply(context, id, error, seq, durable, text);
}

/* ERR_NONE and later: the verb answers by itself. */
enum { ANSWERED = 1 };

static int do_create(struct agent *a, const struct msg_mg_request *q, struct volume *v, char *text)
{
	int r = creation_begin(a, q, text);

	(void)v;
	return r == 0 ? ANSWERED : r;
}

static int do_attach(struct agent *a, const struct msg_mg_request *q, struct volume *v, char *text)
{
	int r = volume_attachable(v, text);

	(void)a;
	if (r != 0)
		return r;
	if (v->gate.latched) {
		snprintf(text, TEXT_MAX_BYTES, "the gate is latched (%s); what lifts it: %s",
			 gate_cause_name(v->gate.latch_cause), gate_remedy(v->gate.latch_cause, true));
		return ERR_REVOKED;
	}
	if (v->gate.state != GATE_LOCKED) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is attached already, or on its way (%s)", v->config.name,
			 gate_state_name(v->gate.state));
		return ERR_STATE;
	}
	v->attach_wanted = true;
	volume_feed(v, EV_ATTACH, CAUSE_NONE, q->identity, "");
	return 0;
}

/* Nothing of it runs any more; or somebody attached it anew, and the answer is not about that. */
static bool released(const struct volume *v)
{
	return !volume_busy(v) || gate_state_serves(v->gate.state) || v->gate.state == GATE_UNLOCKING;
}

static void look_at_leaving(void *context)
{
	struct management *g = context;
	uint64_t now = boot_now();
	bool more = false;

	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct leaving *l = &g->leaving[i];
		const struct volume *v = l->volume;

		if (v == NULL)
			continue;
		if (!released(v) && now < l->until_ns) {
			more = true;
			continue;
		}
		l->volume = NULL;
		mgmt_reply(g->agent, l->id, released(v) ? 0 : ERR_TIMEOUT, v->gate.seq, false,
			   released(v)                          ? ""
			   : gate_state_has_keys(v->gate.state) ? "not done yet: the keys are not confirmed wiped; see the status"
								: "keys are wiped; what was acknowledged is still being written");
	}
	if (more)
		timer_arm(&g->agent->loop, &g->release_look, now + RELEASE_LOOK_MS * MS_NS);
}

/* Whoever is told "done" may take the backing store, or start a job: so it is told when they can. */
static int answer_when_released(struct agent *a, uint64_t id, struct volume *v, char *text)
{
	struct management *g = a->management;

	if (released(v))
		return 0;
	for (unsigned i = 0; g != NULL && i < PENDING_MAX; i++)
		if (g->leaving[i].volume == NULL) {
			g->leaving[i] = (struct leaving){ id, v, boot_now() + RELEASE_WAIT_MS * MS_NS };
			if (!g->release_look.armed)
				timer_arm(&a->loop, &g->release_look, boot_now() + RELEASE_LOOK_MS * MS_NS);
			return ANSWERED;
		}
	snprintf(text, TEXT_MAX_BYTES, "it is being detached; too many wait for that already: see its status");
	return ERR_BUSY;
}

static int do_detach(struct agent *a, const struct msg_mg_request *q, struct volume *v, char *text)
{
	if (v->gate.state == GATE_LOCKED && v->job == NULL && volume_busy(v)) /* an earlier one's, not over yet */
		return answer_when_released(a, q->id, v, text);
	if (v->gate.state == GATE_LOCKED && v->job == NULL) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is not attached", v->config.name);
		return ERR_STATE;
	}
	if (v->job == NULL)
		v->attach_wanted = false;
	volume_feed(v, EV_DETACH, CAUSE_NONE, q->identity, "");
	return answer_when_released(a, q->id, v, text);
}

static int do_revoke(struct agent *a, const struct msg_mg_request *q, struct volume *v, char *text)
{
	(void)v;
	(void)text;
	manage_revoke(a, q->volume, q->identity, q->id, reply_revoked, a);
	return ANSWERED;
}

static int do_restore(struct agent *a, const struct msg_mg_request *q, struct volume *v, char *text)
{
	(void)a;
	if (!q->has_if_match || q->if_match != v->gate.seq) {
		snprintf(text, TEXT_MAX_BYTES,
			 "%s: the gate's sequence is %llu; look at its status, then restore with that number",
			 q->has_if_match ? "the gate has moved since" : "a restore must name the gate's sequence",
			 (unsigned long long)v->gate.seq);
		return ERR_STATE;
	}
	if (!v->gate.latched && v->gate.cause == CAUSE_CLOCK && v->gate.state == GATE_INACCESSIBLE) {
		wallclock_trust(a->wallclock, q->identity);
		return 0;
	}
	if (!v->gate.latched) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is not latched; it opens by itself when its cause is lifted",
			 v->config.name);
		return ERR_STATE;
	}
	if (v->gate.state != GATE_LOCKED && v->gate.state != GATE_INACCESSIBLE && v->gate.state != GATE_PURGED) {
		snprintf(text, TEXT_MAX_BYTES, "not in state %s; try again when the wipe is done",
			 gate_state_name(v->gate.state));
		return ERR_STATE;
	}
	volume_feed(v, EV_RESTORE, CAUSE_NONE, q->identity, "");
	return 0;
}

/* clang-format off */
static const struct verb {
	const char *name;
	enum role role;     /* this one, and no other: nobody has two */
	bool needs_volume;  /* one that is there */
	int (*run)(struct agent *a, const struct msg_mg_request *q, struct volume *v, char *text);
} verbs[MG_VERB_COUNT] = {
	[MG_CREATE]  = { "create",  USER_OPERATOR, false, do_create },
	[MG_ATTACH]  = { "attach",  USER_OPERATOR, true,  do_attach },
	[MG_DETACH]  = { "detach",  USER_OPERATOR, true,  do_detach },
	[MG_REVOKE]  = { "revoke",  USER_OFFICER,  false, do_revoke },
	[MG_RESTORE] = { "restore", USER_OFFICER,  true,  do_restore },
};
/* clang-format on */

static int run_request(struct agent *a, const struct msg_mg_request *q, struct volume *v, char text[static TEXT_MAX_BYTES])
{
	const struct verb *verb = &verbs[q->verb];

	if (q->role != verb->role || !identity_good(q->identity)) {
		snprintf(text, TEXT_MAX_BYTES, "%s is for the role %s; %s has %s", verb->name, role_name(verb->role), q->identity,
			 role_name(q->role));
		return ERR_DENIED;
	}
	if (a->stopping && q->verb != MG_REVOKE) {
		snprintf(text, TEXT_MAX_BYTES, "the agent is being stopped");
		return ERR_STATE;
	}
	if (verb->needs_volume && v == NULL) {
		snprintf(text, TEXT_MAX_BYTES, "there is no such volume");
		return ERR_NOT_FOUND;
	}
	if (q->verb == MG_CREATE && !message_name_good(q->volume)) {
		snprintf(text, TEXT_MAX_BYTES, "a new volume needs a name");
		return ERR_USAGE;
	}
	return verb->run(a, q, v, text);
}

static void on_message(void *owner, struct child *c, const struct message *m, int *fds, unsigned count)
{
	struct agent *a = ((struct management *)owner)->agent;
	struct msg_mg_request q = m->body.mg_request;
	struct volume *v = q.volume[0] != '\0' ? volume_find(a, q.volume) : NULL;
	char text[TEXT_MAX_BYTES] = "", identity[IDENTITY_MAX_BYTES];
	int r;

	(void)c;
	(void)fds;
	(void)count;
	memcpy(identity, q.identity, sizeof identity);
	log_printable(q.identity, sizeof q.identity, identity);
	log_notice("request: %s %s by %s (%s)", verbs[q.verb].name, q.volume, q.identity, role_name(q.role));
	r = run_request(a, &q, v, text);
	if (r != ANSWERED)
		mgmt_reply(a, q.id, r, v != NULL ? v->gate.seq : 0, false, text);
}

/* ---- the process ---- */

void manage_address(const struct agent *a, char *out, size_t size)
{
	const struct config *c = &a->config;

	snprintf(out, size, strchr(c->coap_address, ':') != NULL ? "[%.45s]:%u" : "%.45s:%u", c->coap_address, c->coap_port);
}

static void push_one_credential(void *context, const struct msg_mg_credential *one)
{
	mgmt_push_credential(context, one->identity, one->role, one->psk);
}

/* Without mgmt nobody revokes from afar: one that hangs is replaced like one that died. */
static void look_due(void *context)
{
	struct management *g = context;

	mgmt_look(&g->mgmt);
	if (boot_now() - g->mgmt.caught_up_ns > HUNG_S * SEC_NS)
		child_kill(&g->mgmt.child, "it does not read its channel");
	timer_arm(&g->agent->loop, &g->look, boot_now() + LOOK_S * SEC_NS);
}

static void on_hello(void *owner, struct child *c)
{
	struct management *g = owner;
	struct agent *a = g->agent;
	struct message m;

	message_init(&m, MSG_MG_LISTEN, 0);
	manage_address(a, m.body.mg_listen.address, sizeof m.body.mg_listen.address);
	if (child_send(c, &m, NULL, 0) != 0) {
		child_kill(c, "it does not take its address");
		return;
	}
	if (a->credentials != NULL)
		credentials_each(a->credentials, push_one_credential, a);
	mgmt_push_agent(a);
	for (unsigned i = 0; i < a->volume_count; i++)
		mgmt_push_volume(a, a->volumes[i]);
}

static void start_process(struct management *g);

static void on_death(void *owner, struct child *c, int status)
{
	struct management *g = owner;
	struct agent *a = g->agent;

	(void)c;
	if (a->stopping)
		return;
	log_error("mgmt ended (%s %d); started again", WIFSIGNALED(status) ? "signal" : "exit code",
		  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	for (unsigned i = 0; i < a->volume_count; i++)
		volume_feed(a->volumes[i], EV_MGMT_DEAD, CAUSE_NONE, NULL, NULL);
	if (boot_now() - g->started_ns > 60 * SEC_NS)
		g->failures = 0;
	timer_arm(&a->loop, &g->restart, boot_now() + ((100 * MS_NS) << (g->failures < 5 ? g->failures++ : 5)));
}

static const struct child_events mgmt_events = { on_hello, on_message, on_death };

static void start_process(struct management *g)
{
	const struct config *c = &g->agent->config;
	char program[PATH_MAX_BYTES + 32];
	const char *arguments[] = { program, NULL };
	struct child_plan plan = {
		.peer = PEER_MGMT, .program = program, .arguments = arguments, .fds = { -1 }, .fd_count = 1, .user = c->user_mgmt
	};

	snprintf(program, sizeof program, "%s/fallgate-mgmt", c->libexec_dir);
	snprintf(g->mgmt.child.label, sizeof g->mgmt.child.label, "mgmt");
	g->started_ns = g->mgmt.caught_up_ns = boot_now();
	if (child_start(&g->mgmt.child, &plan) != 0)
		timer_arm(&g->agent->loop, &g->restart, boot_now() + RESTART_MAX_S * SEC_NS);
}

static void restart_due(void *context)
{
	start_process(context);
}

static void agent_push_due(void *context)
{
	struct management *g = context;

	mgmt_push_agent(g->agent);
	timer_arm(&g->agent->loop, &g->agent_push, boot_now() + AGENT_PUSH_S * SEC_NS);
}

static int bind_once(const struct config *c)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(c->coap_port) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(c->coap_port) };
	bool four = inet_pton(AF_INET, c->coap_address, &in.sin_addr) == 1;
	int fd;

	if (!four && inet_pton(AF_INET6, c->coap_address, &in6.sin6_addr) != 1)
		return ERR_CONFIG;
	fd = socket(four ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && bind(fd, four ? (struct sockaddr *)&in : (struct sockaddr *)&in6, four ? sizeof in : sizeof in6) == 0) {
		close(fd);
		return 0;
	}
	if (fd >= 0)
		close(fd); /* leaves errno alone */
	return ERR_BUSY;
}

/* mgmt binds the address itself (libcoap adopts no socket). That it can be had is tried here, at start, where a person sees it.
 * The mgmt of a supervisor that was killed a moment ago may still be on its way out. */
static int try_address(const struct config *c)
{
	const struct timespec wait = { .tv_nsec = BIND_WAIT_MS * MS_NS };
	int r = bind_once(c), e;

	for (int i = 0; i < BIND_TRIES && r == ERR_BUSY && errno == EADDRINUSE; i++) {
		nanosleep(&wait, NULL);
		r = bind_once(c);
	}
	e = errno;
	if (r != 0)
		log_error("coap: cannot listen at %s port %u: %s; free the address, or set another in [agent]", c->coap_address,
			  c->coap_port, strerror(e));
	return r;
}

int manage_start(struct agent *a)
{
	struct management *g;
	int r = try_address(&a->config);

	if (r != 0)
		return r;
	g = calloc(1, sizeof *g);
	if (g == NULL)
		return ERR_NOMEM;
	g->agent = a;
	g->mgmt.child.loop = &a->loop;
	g->mgmt.child.events = &mgmt_events;
	g->mgmt.child.owner = g;
	timer_init(&g->restart, restart_due, g);
	timer_init(&g->durable_wait, durable_wait_over, g);
	timer_init(&g->release_look, look_at_leaving, g);
	timer_init(&g->agent_push, agent_push_due, g);
	timer_init(&g->look, look_due, g);
	timer_arm(&a->loop, &g->look, boot_now() + LOOK_S * SEC_NS);
	timer_arm(&a->loop, &g->agent_push, boot_now() + AGENT_PUSH_S * SEC_NS);
	a->management = g;
	a->mgmt = &g->mgmt;
	start_process(g);
	return 0;
}

void manage_stop(struct agent *a)
{
	struct management *g = a->management;

	if (g == NULL)
		return;
	a->management = NULL;
	a->mgmt = NULL;
	timer_disarm(&a->loop, &g->restart);
	timer_disarm(&a->loop, &g->durable_wait);
	timer_disarm(&a->loop, &g->release_look);
	timer_disarm(&a->loop, &g->agent_push);
	timer_disarm(&a->loop, &g->look);
	for (int i = 0; i < STOP_TRIES && !child_kill_and_reap(&g->mgmt.child); i++)
		; /* so that its address is free when the agent is gone */
	free(g);
}
