/* The process that serves a volume: started, heard and buried here, and started anew as long as it is wanted. What must hold: it
 * has its backing store and its deadlines before a key is asked for; what it says of a wipe counts for its own generation only;
 * the words of one that was told to end for good no longer concern the gate. */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "backing.h"
#include "base/error.h"
#include "base/log.h"
#include "kek.h"
#include "mgmt.h"
#include "volume.h"

/* A dataplane of a supervisor that died holds its backing store for up to 1 s. */
enum { BUSY_S = 3, KEYLESS_END_MS = 2000, RESTART_MAX_S = 5, READY_S = 10, BAD_TAGS_TOLD_S = 60 };

void dataplane_send_deadlines(struct volume *v)
{
	struct message m;

	if (!v->dataplane.alive || v->dataplane.stage < STAGE_ATTACHING || v->dataplane.stage >= STAGE_LOCKING)
		return;
	message_init(&m, MSG_DP_DEADLINES, 0);
	m.body.dp_deadlines.heartbeat_ns = boot_now() + 2 * SEC_NS;
	m.body.dp_deadlines.proof_ns = kek_proof_deadline(v->kek);
	child_send(&v->dataplane, &m, NULL, 0);
}

/* ---- its start ---- */

static void restart_later(struct volume *v, uint64_t wait_ns)
{
	timer_arm(&v->agent->loop, &v->restart, boot_now() + wait_ns);
}

static uint64_t restart_wait(const struct volume *v)
{
	uint64_t wait = v->restarts < 6 ? (100 * MS_NS) << v->restarts : RESTART_MAX_S * SEC_NS;

	return wait < RESTART_MAX_S * SEC_NS ? wait : RESTART_MAX_S * SEC_NS;
}

/* The process cannot serve: for a volume that waits for it, that is the end of the try. */
static void not_ready(struct volume *v, const char *text)
{
	log_error("volume %s: %s", v->config.name, text);
	volume_feed(v, EV_RECOVERY_REFUSED, CAUSE_ENGINE, NULL, text);
}

void dataplane_not_ready(struct volume *v, const char *text)
{
	v->restarts = v->restarts < 6 ? v->restarts + 1 : 6;
	if (v->dataplane_wanted)
		restart_later(v, restart_wait(v));
	not_ready(v, text);
}

static void launch(struct volume *v, const struct child_plan *plan)
{
	snprintf(v->dataplane.label, sizeof v->dataplane.label, "dataplane of %s", v->config.name);
	v->dataplane_ready = v->retired = false;
	v->generation = 0;
	timer_arm(&v->agent->loop, &v->ready_deadline, boot_now() + READY_S * SEC_NS);
	if (child_start(&v->dataplane, plan) != 0) {
		restart_later(v, RESTART_MAX_S * SEC_NS);
		not_ready(v, "its process cannot be started; see the log");
	}
}

void dataplane_serve_device(struct volume *v)
{
	const struct config *c = &v->agent->config;
	char program[PATH_MAX_BYTES + 32], name[NAME_MAX_BYTES + 8], device[24], queues[24], depth[24];
	const char *arguments[] = {
		program, "serve", name, device, queues, depth, v->config.hold ? "hold=yes" : "hold=no", NULL
	};
	struct child_plan plan = { .peer = PEER_DATAPLANE,
				   .program = program,
				   .arguments = arguments,
				   .fds = { -1 },
				   .fd_count = 1,
				   .environment = { "GLIBC_TUNABLES=glibc.malloc.perturb=90" },
				   .block_signals = true,
				   .io_flusher = true,
				   .locked_memory = true,
				   .user = c->user_dataplane };

	snprintf(program, sizeof program, "%s/fallgate-dataplane", c->libexec_dir);
	snprintf(name, sizeof name, "name=%s", v->config.name);
	snprintf(device, sizeof device, "device=%u", v->device.number);
	snprintf(queues, sizeof queues, "queues=%u", v->device.queues);
	snprintf(depth, sizeof depth, "depth=%u", v->device.depth);
	launch(v, &plan);
}

static void serve_nbd(struct volume *v)
{
	const struct config *c = &v->agent->config;
	char plugin[PATH_MAX_BYTES + 32], name[NAME_MAX_BYTES + 8];
	const char *arguments[] = { c->nbdkit, "-f", "-t", "8", plugin, "fd=4", name, NULL };
	struct child_plan plan = { .peer = PEER_DATAPLANE,
				   .program = c->nbdkit,
				   .arguments = arguments,
				   .fd_count = 2,
				   .environment = { "GLIBC_TUNABLES=glibc.malloc.perturb=90" },
				   .socket_activation = true,
				   .block_signals = true,
				   .locked_memory = true,
				   .user = c->user_dataplane };

	snprintf(plugin, sizeof plugin, "%s/fallgate-nbd.so", c->libexec_dir);
	snprintf(name, sizeof name, "name=%s", v->config.name);
	if (v->listen_fd < 0)
		v->listen_fd = export_listen(v);
	if (v->listen_fd < 0) {
		v->listen_fd = -1;
		restart_later(v, RESTART_MAX_S * SEC_NS);
		not_ready(v, "its listening socket cannot be made; see the log");
		return;
	}
	plan.fds[0] = v->listen_fd;
	plan.fds[1] = -1;
	launch(v, &plan);
}

static void start_process(struct volume *v)
{
	if (v->config.export == EXPORT_UBLK)
		device_ask(v);
	else
		serve_nbd(v);
}

static void ready_deadline(void *context)
{
	struct volume *v = context;

	if (v->dataplane.alive && v->dataplane.stage < STAGE_KEYLESS)
		child_kill(&v->dataplane, "it was not ready in time");
}

static void restart_due(void *context)
{
	struct volume *v = context;

	if (v->dataplane_wanted && !v->dataplane.alive)
		start_process(v);
}

void dataplane_start(struct volume *v)
{
	v->dataplane_wanted = true;
	if (v->dataplane.alive || v->restart.armed)
		return; /* its successor comes when it is reaped */
	if (v->restarts > 0)
		restart_later(v, restart_wait(v));
	else
		restart_later(v, 0); /* from the loop: not inside a step */
}

void dataplane_stop(struct volume *v)
{
	struct message m;

	v->dataplane_wanted = false;
	v->restarts = 0;
	v->hold_until_ns = 0;
	timer_disarm(&v->agent->loop, &v->restart);
	export_unlisten(v);
	v->retired = true;
	if (!v->dataplane.alive)
		return;
	if (v->dataplane.stage >= STAGE_LOCKING) {
		dataplane_end_hold(v); /* else on its way: what it drains is worth waiting for */
		return;
	}
	message_init(&m, MSG_DP_DETACH, 0);
	if (v->dataplane.stage < STAGE_KEYLESS || child_send(&v->dataplane, &m, NULL, 0) != 0) {
		child_kill(&v->dataplane, NULL);
		return;
	}
	v->dataplane.stage = STAGE_LOCKING;
	timer_arm(&v->agent->loop, &v->reap_deadline, boot_now() + KEYLESS_END_MS * MS_NS);
}

void dataplane_end_hold(struct volume *v)
{
	enum stage s = v->dataplane.stage;

	v->hold_until_ns = 0;
	if (v->config.hold && v->config.export == EXPORT_UBLK)
		device_doom(v);
	if (v->config.hold && v->dataplane.alive && (s == STAGE_KEYLESS || s == STAGE_DRAINED))
		child_kill(&v->dataplane, "what it holds is let go");
}

/* ---- what it says ---- */

/* A process that outlives its lock, for the connections that wait in it. What waits for a block device does so in the kernel. */
static bool stays(const struct volume *v)
{
	return v->config.hold && v->config.export == EXPORT_NBD;
}

/* The one that asked may be gone by now, and its successor not heard yet: that one asks again. */
static void backing_opened(void *context, int fd, bool created, const char *text)
{
	struct volume *v = context;
	struct message m;
	int r;

	(void)created;
	v->opening = NULL;
	if (!v->dataplane.alive || v->dataplane.stage != STAGE_IDLE) {
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd < 0) {
		child_kill(&v->dataplane, NULL);
		v->restarts = v->restarts < 6 ? v->restarts + 1 : 6;
		not_ready(v, text);
		return;
	}
	message_init(&m, MSG_DP_ATTACH, v->gate.seq);
	volume_pins(v, &m.body.dp_attach);
	m.body.dp_attach.connections = v->config.connections;
	if (stays(v)) {
		m.body.dp_attach.hold_ns = v->config.hold_timeout_ns;
		m.body.dp_attach.hold_until_ns = v->hold_until_ns;
	}
	r = child_send(&v->dataplane, &m, &fd, 1);
	close(fd);
	if (r == 0)
		v->dataplane.stage = STAGE_ATTACHING;
	else
		child_kill(&v->dataplane, "it does not take its volume");
}

static void on_hello(void *owner, struct child *c)
{
	struct volume *v = owner;

	if (v->opening != NULL || opening_start(&v->opening, v->agent, &v->config, OPENING_WRITE, backing_opened, v) == 0)
		return;
	child_kill(c, NULL);
	v->restarts = v->restarts < 6 ? v->restarts + 1 : 6;
	not_ready(v, "its backing store cannot be opened; see the log");
}

static void take_ready(struct volume *v, const struct msg_dp_ready *r)
{
	if (v->dataplane.stage == STAGE_LOCKING)
		return; /* crossed the order to lock */
	if (v->dataplane.stage == STAGE_DRAINED && (!stays(v) || !r->ok || v->hold_until_ns == 0 || v->retired)) {
		child_kill(&v->dataplane, stays(v) ? NULL : "it was to end, and says that it is ready");
		return;
	}
	if (r->ok) {
		v->dataplane.stage = STAGE_KEYLESS;
		v->dataplane_ready = v->device.fetched = true;
		v->busy_until_ns = 0;
		dataplane_send_deadlines(v);
		unlock_try(v);
		return;
	}
	v->dataplane.stage = STAGE_REFUSED;
	child_kill(&v->dataplane, NULL);
	if (r->error == ERR_BUSY && boot_now() < v->busy_until_ns)
		return; /* its predecessor is on its way out: tried again when this one is reaped */
	v->restarts = v->restarts < 6 ? v->restarts + 1 : 6;
	not_ready(v, r->text);
}

static void take_wiped(struct volume *v, const struct msg_dp_wiped *w)
{
	bool waited_for = v->gate.state == GATE_LOCKING || v->gate.state == GATE_WIPE_UNCONFIRMED;
	bool self = w->self && v->dataplane.stage != STAGE_LOCKING;

	if (w->generation != v->generation) {
		child_kill(&v->dataplane, "it speaks of another generation than its own");
		return;
	}
	v->dataplane.stage = STAGE_WIPED;
	v->dataplane_ready = false;
	device_settle(v);
	if (v->retired && !waited_for)
		return;
	if (self && !waited_for)
		v->drained_ns = 0;
	/* its own deadline may have been there before the supervisor found a reason */
	if ((self && !waited_for) || w->cut_ns < v->detected_ns)
		v->detected_ns = w->cut_ns;
	v->cut_ns = w->cut_ns;
	v->wiped_ns = w->wiped_ns;
	log_notice("volume %s: wiped %llu us after it was detected (I/O cut after %llu us)", v->config.name,
		   (unsigned long long)((v->wiped_ns - v->detected_ns) / 1000),
		   (unsigned long long)((v->cut_ns - v->detected_ns) / 1000));
	if (waited_for || v->gate.state == GATE_UNLOCKING) {
		/* not before the unwrapping hsm is reaped; a wipe deadline runs on */
		if (unlock_held(v, waited_for ? EV_WIPED : EV_DATAPLANE_SELF_LOCK, w->cause))
			return;
	}
	timer_disarm(&v->agent->loop, &v->wipe_deadline);
	if (waited_for)
		volume_feed(v, EV_WIPED, CAUSE_NONE, NULL, NULL);
	else
		volume_feed(v, EV_DATAPLANE_SELF_LOCK, w->cause, NULL, "the dataplane locked itself: a deadline passed");
}

static void take_drained(struct volume *v, const struct msg_dp_drained *d)
{
	v->dataplane.stage = STAGE_DRAINED;
	if (v->drained_ns == 0) { /* else a process that had no key and was told to end: the lock is longer ago */
		v->drained_ns = d->drained_ns;
		v->drain_error = d->error;
	}
	if (d->error != 0)
		v->hold_until_ns = 0;
	if (d->error != 0 && v->config.hold && v->config.export == EXPORT_UBLK)
		device_doom(v);
	if (d->error != 0)
		log_error("volume %s: acknowledged writes may be lost: the drain after the lock failed: %s", v->config.name,
			  error_text(d->error));
	if (v->held == EV_WIPED) /* the gate has not heard of the wipe yet */
		volume_audit(v, gate_event_name(EV_DRAINED), v->gate.state, error_text(d->error));
	else
		volume_feed(v, EV_DRAINED, CAUSE_NONE, NULL,
			    d->error != 0 ? "the drain after the lock failed: acknowledged writes may be lost" : NULL);
	mgmt_push_volume(v->agent, v);
}

/* Damage in one place: told, recorded, counted; the reader got an error, and the rest of the volume goes on. Told when the count
 * doubles, and once a minute: a dataplane that says it without end fills no ledger. */
static void count_bad_tags(struct volume *v, uint64_t count, const char *text)
{
	uint64_t more = count > v->bad_tags_seen ? count - v->bad_tags_seen : 0, now = boot_now();
	char alarm[TEXT_MAX_BYTES];

	if (more == 0)
		return;
	v->bad_tags_seen = count;
	if (count / 2 >= v->bad_tags_told || now - v->bad_tags_told_ns > BAD_TAGS_TOLD_S * SEC_NS) {
		v->bad_tags_told = count;
		v->bad_tags_told_ns = now;
		log_error("volume %s: %llu sectors failed their check: %s", v->config.name, (unsigned long long)count, text);
		snprintf(v->text, sizeof v->text, "%s", text);
		volume_audit(v, "bad-tag", v->gate.state, text);
		mgmt_push_volume(v->agent, v);
	}
	if (!integrity_count(&v->integrity, v->config.integrity_limit, v->config.integrity_window_ns, now, more) ||
	    (v->gate.latched && v->gate.latch_cause == CAUSE_INTEGRITY))
		return;
	snprintf(alarm, sizeof alarm,
		 "integrity_limit: %u or more sectors failed their check within %llu s; %llu since it was opened",
		 v->config.integrity_limit, (unsigned long long)(v->config.integrity_window_ns / SEC_NS),
		 (unsigned long long)count);
	volume_feed(v, EV_INTEGRITY_ALARM, CAUSE_NONE, NULL, alarm);
}

static void take_event(struct volume *v, const struct msg_dp_event *e)
{
	char text[TEXT_MAX_BYTES];

	log_printable(text, sizeof text, e->text);
	if (e->event == DP_EVENT_FAILSTOP) {
		volume_feed(v, EV_ENGINE_FAILSTOP, CAUSE_NONE, NULL, text);
		return;
	}
	if (e->event == DP_EVENT_HOLD_OVER) {
		if (v->hold_until_ns == 0)
			return; /* said already */
		v->hold_until_ns = 0;
		volume_feed(v, EV_HOLD_TIMEOUT, CAUSE_NONE, NULL, NULL);
		return;
	}
	count_bad_tags(v, e->count, text);
}

static void on_message(void *owner, struct child *c, const struct message *m, int *fds, unsigned count)
{
	struct volume *v = owner;

	(void)c;
	(void)fds;
	(void)count;
	switch (m->type) {
	case MSG_DP_READY:
		take_ready(v, &m->body.dp_ready);
		break;
	case MSG_DP_OPENED:
		unlock_opened(v, m);
		break;
	case MSG_DP_WIPED:
		take_wiped(v, &m->body.dp_wiped);
		break;
	case MSG_DP_DRAINED:
		take_drained(v, &m->body.dp_drained);
		break;
	case MSG_DP_EVENT:
		take_event(v, &m->body.dp_event);
		break;
	case MSG_DP_STATS:
		v->stats = m->body.dp_stats;
		anchor_named(&v->anchor, v->stats.anchor_count);
		break;
	default:
		break;
	}
}

static void on_death(void *owner, struct child *c, int status)
{
	struct volume *v = owner;
	/* of a block device that is held every answered write is on the disk: nothing is lost by this end */
	bool kept = v->config.hold && v->config.export == EXPORT_UBLK;
	bool served = c->stage == STAGE_SERVING || c->stage == STAGE_LOCKING || c->stage == STAGE_WIPED;
	bool waited_for = v->gate.state == GATE_LOCKING || v->gate.state == GATE_WIPE_UNCONFIRMED;
	bool opens = v->gate.state == GATE_UNLOCKING || gate_state_serves(v->gate.state);
	/* in an unlock: the predecessor that still had to drain, or one that never got as far as a key */
	bool expected = v->gate.state == GATE_UNLOCKING &&
			(c->stage == STAGE_WIPED || c->stage == STAGE_DRAINED || c->stage < STAGE_KEYLESS);

	timer_disarm(&v->agent->loop, &v->reap_deadline);
	v->dataplane_ready = false;
	memset(&v->stats, 0, sizeof v->stats);
	if (c->stage != STAGE_DRAINED && !v->retired)
		log_warning("dataplane of %s ended (%s %d, %s)", v->config.name, WIFSIGNALED(status) ? "signal" : "exit code",
			    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), stage_name(c->stage));
	if (served && !v->retired && !kept) {
		if (c->stage == STAGE_WIPED) {
			v->drained_ns = boot_now();
			v->drain_error = ERR_IO;
		}
		volume_audit(v, "died-undrained", v->gate.state, "acknowledged writes that were not flushed may be lost");
	}
	if (c->stage <= STAGE_KEYLESS)
		v->restarts = v->restarts < 6 ? v->restarts + 1 : 6;
	if (boot_now() < v->busy_until_ns)
		v->restarts = 1; /* waiting for a predecessor: short steps */
	if (!expected && !((waited_for || v->gate.state == GATE_UNLOCKING) && unlock_held(v, EV_DATAPLANE_DEAD, CAUSE_NONE))) {
		timer_disarm(&v->agent->loop, &v->wipe_deadline);
		/* of a volume that is shut already the status goes on telling why it is */
		volume_feed(v, EV_DATAPLANE_DEAD, CAUSE_NONE, NULL,
			    served && !v->retired && opens ? "the dataplane's process ended" : NULL);
	}
	if (v->config.export == EXPORT_UBLK)
		device_server_ended(v);
	if (served && !kept) /* what was not flushed may be lost: nobody waits as if nothing had happened */
		v->hold_until_ns = 0;
	if (v->dataplane_wanted && !v->dataplane.alive && !v->restart.armed)
		dataplane_start(v);
}

static const struct child_events dataplane_events = { on_hello, on_message, on_death };

/* ---- life ---- */

void dataplane_init(struct volume *v)
{
	v->listen_fd = -1;
	v->dataplane.loop = &v->agent->loop;
	v->dataplane.events = &dataplane_events;
	v->dataplane.owner = v;
	timer_init(&v->restart, restart_due, v);
	timer_init(&v->ready_deadline, ready_deadline, v);
	v->busy_until_ns = boot_now() + BUSY_S * SEC_NS;
}

void dataplane_forget(struct volume *v)
{
	opening_abandon(v->opening);
	/* one that has wiped is writing what was acknowledged: it ends by itself */
	if (v->dataplane.stage != STAGE_WIPED && v->dataplane.stage != STAGE_DRAINED)
		child_kill_and_reap(&v->dataplane);
	child_let_go(&v->dataplane);
	timer_disarm(&v->agent->loop, &v->restart);
	timer_disarm(&v->agent->loop, &v->ready_deadline);
	export_unlisten(v);
}
