/* See console.h. */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "credentials.h"
#include "ipc/channel.h"
#include "job.h"
#include "kek.h"
#include "manage.h"
#include "mgmt.h"
#include "randomness.h"
#include "permit.h"
#include "pin.h"
#include "tpm.h"
#include "volume.h"

enum { CONNECTIONS_MAX = JOBS_MAX + 8 };

struct connection {
	struct console *console;
	struct channel channel;
	struct watch watch;
	enum stage stage; /* TALKING, JOB, or ASKED: its PIN is being sealed */
	char identity[IDENTITY_MAX_BYTES];
};

struct console {
	struct agent *agent;
	int fd, dir_fd; /* dir_fd: the run directory, locked: what stands in it is this agent's */
	char path[sizeof((struct sockaddr_un *)0)->sun_path];
	struct watch watch;
	struct connection connections[CONNECTIONS_MAX];
	struct {
		struct tpm_ask *ask;       /* NULL: no PIN is being sealed */
		struct connection *client; /* NULL: gone */
		struct kek *kek;
		uint64_t nonce;
	} sealing;
};

static void hang_up(struct connection *c)
{
	manage_forget(c->console->agent, c);
	job_client_gone(c->console->agent, c, false);
	if (c->console->sealing.client == c)
		c->console->sealing.client = NULL;
	loop_unwatch(&c->console->agent->loop, &c->watch);
	channel_close(&c->channel);
	c->channel.fd = -1;
}

static void reply(struct connection *c, struct message *m, uint64_t nonce, int error, const char *text)
{
	m->nonce = nonce;
	m->body.con_reply.error = error;
	log_printable(m->body.con_reply.text, sizeof m->body.con_reply.text, text);
	if (channel_send(&c->channel, m, NULL, 0) != 0)
		hang_up(c);
	explicit_bzero(m, sizeof *m);
}

/* Who may do what is the customer's business: each change of it is a line of the ledger. */
static void audit(struct agent *a, const char *event, const char *identity, const char *role)
{
	struct ledger_entry e = { .wall_ns = wall_now(), .boot_ns = boot_now() };

	snprintf(e.event, sizeof e.event, "%s", event);
	snprintf(e.identity, sizeof e.identity, "%s", identity);
	snprintf(e.text, sizeof e.text, "%s%s", role, role[0] != '\0' ? ", at the console" : "at the console");
	if (a->writer != NULL)
		writer_ledger(a->writer, &e);
}

static void enroll(struct connection *c, const struct message *q)
{
	struct agent *a = c->console->agent;
	const struct msg_con_request *r = &q->body.con_request;
	const enum role before = credentials_role(a->credentials, r->identity);
	struct message m;
	char text[TEXT_MAX_BYTES], place[64] = "";
	int e;

	message_init(&m, MSG_CON_REPLY, q->nonce);
	if (!randomness_good(text, sizeof text)) {
		reply(c, &m, q->nonce, ERR_UNSUPPORTED, text);
		return;
	}
	if (before != USER_NONE)
		snprintf(place, sizeof place, " in the place of the %s of that name", role_name(before));
	snprintf(text, sizeof text, "%s%s", role_name(r->role), place);
	e = credentials_enroll(a->credentials, r->identity, r->role, m.body.con_reply.psk);
	if (e == 0) {
		log_notice("console: %s enrolled as %s", r->identity, text);
		audit(a, "enrolled", r->identity, text);
		mgmt_push_credential(a, r->identity, r->role, m.body.con_reply.psk);
		manage_address(a, m.body.con_reply.coap_address, sizeof m.body.con_reply.coap_address);
	}
	snprintf(text, sizeof text, "is enrolled%s%s", place, before != USER_NONE ? ", whose key no longer works" : "");
	reply(c, &m, q->nonce, e,
	      e == 0           ? text
	      : e == ERR_USAGE ? "an identity is 1 to 63 of A-Z a-z 0-9 . _ @ -, a role is auditor, operator or officer"
			       : "the credentials could not be written; make room in the state directory, see the agent's log");
}

static void remove_identity(struct connection *c, const struct message *q)
{
	struct agent *a = c->console->agent;
	const char *identity = q->body.con_request.identity;
	struct message m;
	int e = credentials_remove(a->credentials, identity);

	if (e == 0) {
		log_notice("console: %s removed", identity);
		audit(a, "removed", identity, "");
		mgmt_push_credential(a, identity, USER_NONE, NULL);
	}
	message_init(&m, MSG_CON_REPLY, q->nonce);
	reply(c, &m, q->nonce, e,
	      e == 0               ? "removed; its sessions are closed"
	      : e == ERR_NOT_FOUND ? "no such identity is enrolled; the agent's log has a line for each that was"
				   : "not removed: the record could not be written; see the agent's log");
}

static void revoked(void *context, uint64_t id, int error, uint64_t seq, bool durable, const char *text)
{
	struct message m;

	(void)seq;
	message_init(&m, MSG_CON_REPLY, id);
	m.body.con_reply.durable = durable;
	reply(context, &m, id, error, text);
}

/* As many as have room, behind the one that the request names: the client asks on until there are none. */
static void status(struct connection *c, const struct message *q)
{
	const char *behind = q->body.con_request.volume;
	struct agent *a = c->console->agent;
	char text[TEXT_MAX_BYTES] = "";
	bool begun = behind[0] == '\0';
	struct message m;

	for (unsigned i = 0; i < a->volume_count && strlen(text) < sizeof text - 100; i++) {
		const struct volume *v = a->volumes[i];
		bool why = v->gate.cause != CAUSE_NONE;

		if (begun)
			snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s %s%s%s%s%s", text[0] != '\0' ? "; " : "",
				 v->config.name, gate_state_name(v->gate.state), why ? "(" : "",
				 why ? gate_cause_name(v->gate.cause) : "", why ? ")" : "",
				 v->job != NULL ? " (a job is under way)" : "");
		begun = begun || strcmp(v->config.name, behind) == 0;
	}
	if (a->volume_count == 0)
		snprintf(text, sizeof text, "no volumes");
	message_init(&m, MSG_CON_REPLY, q->nonce);
	reply(c, &m, q->nonce, 0, text);
}

static void accept_rollback(struct connection *c, const struct message *q)
{
	struct agent *a = c->console->agent;
	struct volume *v = volume_find(a, q->body.con_request.volume);
	char text[TEXT_MAX_BYTES] = "the agent knows no such volume";
	int e = v != NULL ? anchor_accept(&v->anchor, text) : ERR_NOT_FOUND;
	struct message m;

	if (e == 0) {
		log_warning("volume %s: its next opening takes an older state of it (%s)", v->config.name, c->identity);
		volume_audit(v, "rollback-accepted", v->gate.state, c->identity);
	}
	message_init(&m, MSG_CON_REPLY, q->nonce);
	reply(c, &m, q->nonce, e, text);
}

/* The client that waits for it may be gone by then. */
static void sealed(void *context, const struct msg_tp_reply *r, int *page_fd)
{
	struct console *console = context;
	struct connection *c = console->sealing.client;
	struct kek *k = console->sealing.kek;
	struct sealed_record record = { .size = r->sealed_size };
	char text[TEXT_MAX_BYTES];
	struct message m;
	int e = r->error;

	(void)page_fd;
	console->sealing.ask = NULL;
	snprintf(text, sizeof text, "not sealed: %.200s", r->text);
	if (e == 0) {
		memcpy(record.blob, r->sealed, sizeof record.blob);
		e = pin_seal(kek_pin(k), &record);
		snprintf(text, sizeof text, "%s",
			 e == 0 ? "sealed to this boot state; a PIN file of this KEK can be removed now"
				: "not sealed: the record could not be written; make room in the state directory");
	}
	if (e == 0) {
		log_notice("KEK %s: a PIN was sealed to the boot state", kek_config(k)->name);
		audit(console->agent, "pin-sealed", c != NULL ? c->identity : "console", kek_config(k)->name);
	}
	if (c == NULL)
		return;
	c->stage = STAGE_TALKING;
	message_init(&m, MSG_CON_REPLY, console->sealing.nonce);
	reply(c, &m, console->sealing.nonce, e, text);
}

static const char *cannot_seal(const struct console *console, const struct kek *k)
{
	if (k == NULL)
		return "there is no such [kek NAME] in the configuration";
	if (console->agent->config.tpm[0] == '\0')
		return "the configuration names no TPM: tpm = /dev/tpmrm0 in [agent]";
	if (!pin_is_sealed(kek_pin(k)))
		return "this KEK takes its PIN from elsewhere: write pin-source=tpm: into its uri first, "
		       "and start the agent anew";
	if (console->sealing.ask != NULL)
		return "another PIN is being sealed; try again in a moment";
	return NULL;
}

static void seal_pin(struct connection *c, const struct message *q, int fd)
{
	struct console *console = c->console;
	struct agent *a = console->agent;
	struct msg_tp_request request = { .verb = TP_SEAL, .pcrs = a->config.tpm_pcrs };
	struct kek *k = kek_find(a, q->body.con_seal_pin.kek);
	const char *why = cannot_seal(console, k);
	struct message m;

	if (why == NULL) {
		strcpy(request.kek, q->body.con_seal_pin.kek);
		console->sealing.client = c;
		console->sealing.kek = k;
		console->sealing.nonce = q->nonce;
		if (tpm_ask(&console->sealing.ask, a, &request, fd, sealed, console) == 0) {
			c->stage = STAGE_ASKED; /* it says nothing meanwhile */
			return;
		}
		console->sealing.ask = NULL;
		why = "fallgate-tpm cannot be started; see the agent's log";
	}
	message_init(&m, MSG_CON_REPLY, q->nonce);
	reply(c, &m, q->nonce, ERR_STATE, why);
}

static void stop(struct connection *c, const struct message *q)
{
	struct message m;

	message_init(&m, MSG_CON_REPLY, q->nonce);
	reply(c, &m, q->nonce, 0, "stopping: every volume is locked and drained first");
	agent_stop(c->console->agent);
}

/* It wants nothing more but the answer: one who stopped talking is hung up on. */
static void job_answered(void *context, uint64_t nonce, const struct msg_con_job_done *d)
{
	struct connection *c = context;
	struct message m;

	message_init(&m, MSG_CON_JOB_DONE, nonce);
	m.body.con_job_done = *d;
	c->stage = STAGE_TALKING;
	if (channel_send(&c->channel, &m, NULL, 0) != 0 || c->watch.fd < 0)
		hang_up(c);
}

static void begin_job(struct connection *c, const struct message *q, int *fds, unsigned count)
{
	const struct job_request request = {
		.order = &q->body.con_job, .identity = c->identity, .nonce = q->nonce, .fds = fds, .count = count, .context = c
	};
	struct msg_con_job_done refused = { 0 };

	c->stage = STAGE_JOB;
	refused.error = job_begin(c->console->agent, &request, job_answered, refused.text);
	if (refused.error != 0)
		job_answered(c, q->nonce, &refused);
}

/* The end of what it says. A job is ended, and its end is still told: the other half of the connection may be open. */
static void no_more_requests(struct connection *c)
{
	if (c->stage != STAGE_JOB) {
		hang_up(c);
		return;
	}
	loop_unwatch(&c->console->agent->loop, &c->watch);
	job_client_gone(c->console->agent, c, true);
}

static void take_request(struct connection *c, const struct message *q)
{
	const struct msg_con_request *r = &q->body.con_request;

	switch ((enum con_verb)r->verb) {
	case CON_ENROLL:
		enroll(c, q);
		break;
	case CON_REVOKE:
		manage_revoke(c->console->agent, r->volume, c->identity, q->nonce, revoked, c);
		break;
	case CON_STATUS:
		status(c, q);
		break;
	case CON_STOP:
		stop(c, q);
		break;
	case CON_ACCEPT_ROLLBACK:
		accept_rollback(c, q);
		break;
	case CON_REMOVE:
		remove_identity(c, q);
		break;
	}
}

static void connection_ready(void *context)
{
	struct connection *c = context;
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count = 0;
	int r = channel_receive(&c->channel, &m, fds, &count, NULL);

	if (r == ERR_BUSY)
		return;
	if (r == 1 && permit_allows(PEER_CONSOLE, c->stage, m.type)) {
		if (m.type == MSG_CON_JOB)
			begin_job(c, &m, fds, count);
		else if (m.type == MSG_CON_SEAL_PIN)
			seal_pin(c, &m, fds[0]);
		else
			take_request(c, &m);
	} else if (r == 0) {
		no_more_requests(c);
	} else {
		if (r == ERR_PROTOCOL || r == 1)
			log_error("console: %s sent what is no request; hung up", c->identity);
		hang_up(c);
	}
	for (unsigned i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	explicit_bzero(&m, sizeof m);
}

static struct connection *free_connection(struct console *c)
{
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		if (c->connections[i].channel.fd < 0)
			return &c->connections[i];
	return NULL;
}

static void listener_ready(void *context)
{
	struct console *c = context;
	int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC);
	struct connection *n = free_connection(c);
	struct ucred who;
	socklen_t size = sizeof who;

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || (who.uid != 0 && who.uid != geteuid()) || n == NULL) {
		log_warning("console: a connection was turned away: %s",
			    n == NULL ? "too many" : "neither root nor the agent's own user");
		close(fd);
		return;
	}
	channel_init(&n->channel, fd, ROLE_SUPERVISOR, ROLE_CONSOLE);
	n->stage = STAGE_TALKING;
	snprintf(n->identity, sizeof n->identity, "console:uid=%u", (unsigned)who.uid);
	if (loop_watch(&c->agent->loop, &n->watch, fd, connection_ready, n) != 0) {
		channel_close(&n->channel);
		n->channel.fd = -1;
	}
}

/* Before anything in it is replaced: another agent's console is its owner's last resort. */
static int lock_run_dir(struct console *c)
{
	const char *path = c->agent->config.run_dir;

	c->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->dir_fd >= 0 && flock(c->dir_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	log_error("run_dir %s: %s; stop that one, or give this one a run_dir of its own", path,
		  errno == EWOULDBLOCK ? "another agent uses it" : strerror(errno));
	return errno == EWOULDBLOCK ? ERR_BUSY : error_from_errno(errno);
}

static int listen_at(struct console *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	mode_t before;
	bool good;

	if (strlen(c->agent->config.run_dir) + sizeof "/console.sock" > sizeof c->path) {
		log_error("run_dir is too long for a socket's path; shorten it");
		return ERR_CONFIG;
	}
	snprintf(c->path, sizeof c->path, "%.90s/console.sock", c->agent->config.run_dir);
	memcpy(address.sun_path, c->path, sizeof c->path);
	c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(c->path);
	before = umask(0177);
	good = c->fd >= 0 && bind(c->fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(c->fd, CONNECTIONS_MAX) == 0;
	umask(before);
	if (good)
		return 0;
	log_error("console: cannot listen at %s: %s", c->path, strerror(errno));
	if (c->fd >= 0)
		close(c->fd);
	return ERR_IO;
}

int console_start(struct agent *a)
{
	struct console *c = calloc(1, sizeof *c);
	int r;

	if (c == NULL)
		return ERR_NOMEM;
	c->agent = a;
	c->dir_fd = -1;
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		c->connections[i].console = c;
		c->connections[i].channel.fd = -1;
		c->connections[i].watch.fd = -1;
	}
	r = lock_run_dir(c);
	if (r == 0)
		r = listen_at(c);
	if (r == 0)
		r = loop_watch(&a->loop, &c->watch, c->fd, listener_ready, c);
	if (r != 0) {
		if (c->dir_fd >= 0)
			close(c->dir_fd);
		free(c);
		return r;
	}
	a->console = c;
	return 0;
}

void console_stop(struct agent *a)
{
	struct console *c = a->console;

	if (c == NULL)
		return;
	if (c->sealing.ask != NULL)
		tpm_abandon(c->sealing.ask);
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		if (c->connections[i].channel.fd >= 0)
			hang_up(&c->connections[i]);
	loop_unwatch(&a->loop, &c->watch);
	close(c->fd);
	unlink(c->path);
	close(c->dir_fd);
	a->console = NULL;
	free(c);
}
