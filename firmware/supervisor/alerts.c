/* See alerts.h. The journal takes one datagram of KEY=VALUE lines, syslog one line; neither is waited for. Programs are run by
 * fallgate-hooks. */
#include "alerts.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "children.h"
#include "mgmt.h"
#include "volume.h"

enum { DATAGRAM_BYTES = 2048, RESTART_MS = 1000, END_MS = 500, MOUNT_LIMIT_S = 30 };

static const char journal_path[] = "/run/systemd/journal/socket", syslog_path[] = "/dev/log";

/* `journalctl MESSAGE_ID=...` finds every transition. */
static const char message_id[] = "5b1c8f0e4d6a4a0c9a3f7e21c4d8b960";

struct alerts {
	struct agent *agent;
	int fd; /* -1: nobody to send to */
	bool journal, lost;
	struct sockaddr_un to;
	struct child hooks;
	bool hooks_wanted;
	struct timer restart;
};

/* ---- journal, syslog ---- */

static bool is_bad(enum gate_state s)
{
	return s != GATE_AVAILABLE && s != GATE_LOCKED && s != GATE_UNLOCKING;
}

static size_t journal_entry(const struct volume *v, const struct gate *before, enum gate_event event, char *out, size_t size)
{
	const struct gate *g = &v->gate;
	int n = snprintf(out, size,
			 "MESSAGE=volume %s: %s -> %s (%s)%s%s\nMESSAGE_ID=%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=fallgated\n"
			 "FALLGATE_VOLUME=%s\nFALLGATE_FROM=%s\nFALLGATE_STATE=%s\nFALLGATE_EVENT=%s\nFALLGATE_CAUSE=%s\n"
			 "FALLGATE_LATCHED=%s\nFALLGATE_REMEDY=%s\nFALLGATE_GATE_SEQ=%llu\nFALLGATE_SEQUENCE=%llu\n"
			 "FALLGATE_QUEUED_NS=%llu\nFALLGATE_PURGE_AT_NS=%llu\nFALLGATE_TEXT=%s\n",
			 v->config.name, gate_state_name(before->state), gate_state_name(g->state), gate_event_name(event),
			 v->text[0] != '\0' ? ": " : "", v->text, message_id, is_bad(g->state) ? 4 : 5, v->config.name,
			 gate_state_name(before->state), gate_state_name(g->state), gate_event_name(event),
			 gate_cause_name(g->cause), g->latched ? "yes" : "no",
			 g->cause != CAUSE_NONE ? gate_remedy(g->cause, g->latched) : "", (unsigned long long)g->seq,
			 (unsigned long long)v->alert_sequence, (unsigned long long)boot_now(),
			 (unsigned long long)v->purge_at_ns, v->text);

	return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

/* Facility daemon. */
static size_t syslog_entry(const struct volume *v, const struct gate *before, enum gate_event event, char *out, size_t size)
{
	const struct gate *g = &v->gate;
	int n = snprintf(out, size,
			 "<%d>fallgated[%d]: volume=%s from=%s state=%s event=%s cause=%s latched=%s gate_seq=%llu sequence=%llu "
			 "purge_at_ns=%llu text=\"%s\"",
			 3 * 8 + (is_bad(g->state) ? 4 : 5), (int)getpid(), v->config.name, gate_state_name(before->state),
			 gate_state_name(g->state), gate_event_name(event), gate_cause_name(g->cause), g->latched ? "yes" : "no",
			 (unsigned long long)g->seq, (unsigned long long)v->alert_sequence, (unsigned long long)v->purge_at_ns,
			 v->text);

	return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static void send_entry(struct alerts *a, const struct volume *v, const struct gate *before, enum gate_event event)
{
	char entry[DATAGRAM_BYTES];
	size_t size = (a->journal ? journal_entry : syslog_entry)(v, before, event, entry, sizeof entry);
	bool sent = sendto(a->fd, entry, size, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&a->to, sizeof a->to) >= 0;

	if (!sent && !a->lost)
		log_warning("alerts: %s takes none: %s; they are left out until it does", a->to.sun_path, strerror(errno));
	a->lost = !sent;
}

/* ---- programs ---- */

static void start_hooks(struct alerts *a)
{
	char program[PATH_MAX_BYTES + 32];
	const char *arguments[] = { program, NULL };
	struct child_plan plan = { .peer = PEER_HOOKS,
				   .program = program,
				   .arguments = arguments,
				   .fds = { -1 },
				   .fd_count = 1,
				   .block_signals = true };

	snprintf(program, sizeof program, "%s/fallgate-hooks", a->agent->config.libexec_dir);
	snprintf(a->hooks.label, sizeof a->hooks.label, "hooks");
	if (child_start(&a->hooks, &plan) != 0)
		timer_arm(&a->agent->loop, &a->restart, boot_now() + RESTART_MS * MS_NS);
}

static void restart_due(void *context)
{
	start_hooks(context);
}

static void on_hello(void *owner, struct child *c)
{
	(void)owner;
	(void)c;
}

static void on_message(void *owner, struct child *c, const struct message *m, int *fds, unsigned count)
{
	(void)owner;
	(void)c;
	(void)m;
	(void)fds;
	(void)count;
}

static void on_death(void *owner, struct child *c, int status)
{
	struct alerts *a = owner;

	(void)c;
	(void)status;
	if (a->agent->stopping)
		return;
	log_error("hooks ended; started again, behind the supervisor's filter: nothing is unmounted until the agent starts anew");
	timer_arm(&a->agent->loop, &a->restart, boot_now() + RESTART_MS * MS_NS);
}

static const struct child_events hooks_events = { on_hello, on_message, on_death };

static void run_hook(struct volume *v, const struct gate *before, enum gate_event event, enum hook hook, const char *program)
{
	struct alerts *a = v->agent->alerts;
	const struct config *c = &v->agent->config;
	const struct gate *g = &v->gate;
	struct message m;
	struct msg_hk_run *r = &m.body.hk_run;

	if (a == NULL || !a->hooks.alive)
		return;
	message_init(&m, MSG_HK_RUN, 0);
	r->hook = (uint8_t)hook;
	snprintf(r->program, sizeof r->program, "%s", program);
	r->uid = c->alert_user.set ? c->alert_user.uid : 0;
	r->gid = c->alert_user.set ? c->alert_user.gid : 0;
	r->time_limit_ms = hook == HOOK_ALERT_PROGRAM ? (uint32_t)(c->alert_limit_ns / MS_NS) : MOUNT_LIMIT_S * 1000;
	snprintf(r->volume, sizeof r->volume, "%s", v->config.name);
	snprintf(r->event, sizeof r->event, "%s", gate_event_name(event));
	snprintf(r->from, sizeof r->from, "%s", gate_state_name(before->state));
	snprintf(r->state, sizeof r->state, "%s", gate_state_name(g->state));
	snprintf(r->cause, sizeof r->cause, "%s", gate_cause_name(g->cause));
	snprintf(r->remedy, sizeof r->remedy, "%s", g->cause != CAUSE_NONE ? gate_remedy(g->cause, g->latched) : "");
	snprintf(r->text, sizeof r->text, "%s", v->text);
	r->latched = g->latched;
	r->gate_seq = g->seq;
	r->sequence = v->alert_sequence;
	r->purge_at_ns = v->purge_at_ns;
	if (channel_send(&a->hooks.channel, &m, NULL, 0) != 0)
		log_warning("volume %s: a hook was left out: fallgate-hooks does not keep up", v->config.name);
}

/* ---- for the others ---- */

void alerts_queue(struct volume *v, const struct gate *before, enum gate_event event)
{
	struct agent *agent = v->agent;

	v->alert_sequence = ++agent->sequence;
	if (agent->alerts != NULL && agent->alerts->fd >= 0)
		send_entry(agent->alerts, v, before, event);
	if (agent->config.alert_program[0] != '\0')
		run_hook(v, before, event, HOOK_ALERT_PROGRAM, agent->config.alert_program);
	mgmt_push_volume(agent, v);
}

void alerts_mount_hook(struct volume *v)
{
	static const enum hook hooks[] = {
		[MOUNT_DROP_CACHES] = HOOK_DROP_CACHES, [MOUNT_UNMOUNT] = HOOK_UNMOUNT, [MOUNT_PROGRAM] = HOOK_MOUNT_PROGRAM
	};

	if (v->config.mount != MOUNT_NONE)
		run_hook(v, &v->gate, EV_PURGE_DUE, hooks[v->config.mount], v->config.mount_path);
}

static void open_log(struct alerts *a)
{
	const struct config *c = &a->agent->config;
	const char *path = c->alert_log_path;

	if (c->alert_log == ALERT_LOG_OFF)
		return;
	a->journal = c->alert_log == ALERT_LOG_JOURNAL || (c->alert_log == ALERT_LOG_AUTO && access(journal_path, F_OK) == 0);
	if (c->alert_log == ALERT_LOG_AUTO && !a->journal && access(syslog_path, F_OK) != 0)
		return;
	if (path[0] == '\0')
		path = a->journal ? journal_path : syslog_path;
	a->to.sun_family = AF_UNIX;
	snprintf(a->to.sun_path, sizeof a->to.sun_path, "%.100s", path);
	a->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int alerts_start(struct agent *agent)
{
	struct alerts *a = calloc(1, sizeof *a);

	if (a == NULL)
		return ERR_NOMEM;
	a->agent = agent;
	a->fd = -1;
	a->hooks.loop = &agent->loop;
	a->hooks.events = &hooks_events;
	a->hooks.owner = a;
	timer_init(&a->restart, restart_due, a);
	open_log(a);
	a->hooks_wanted = agent->config.alert_program[0] != '\0';
	for (unsigned i = 0; i < agent->config.volume_count; i++)
		a->hooks_wanted = a->hooks_wanted || agent->config.volumes[i].mount != MOUNT_NONE;
	agent->alerts = a;
	if (a->hooks_wanted)
		start_hooks(a);
	return 0;
}

void alerts_stop(struct agent *agent)
{
	struct alerts *a = agent->alerts;

	if (a == NULL)
		return;
	agent->alerts = NULL;
	timer_disarm(&agent->loop, &a->restart);
	if (a->hooks.alive) { /* its end of file: it ends what it started, and itself */
		struct pollfd p = { .fd = a->hooks.pidfd, .events = POLLIN };

		shutdown(a->hooks.channel.fd, SHUT_RDWR);
		poll(&p, 1, END_MS);
	}
	child_kill_and_reap(&a->hooks);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
}
