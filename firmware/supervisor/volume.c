/* See volume.h. The gate is fed here, and here only; its serving process is started, heard and buried here. */
#include "volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "indication.h"
#include "job.h"
#include "kek.h"
#include "mgmt.h"
#include "prober.h"

/* A dataplane of a supervisor that died holds its backing store for up to 1 s. */
enum {
	BUSY_S = 3,
	KEYLESS_END_MS = 2000,
	RESTART_MAX_S = 5,
	UNLOCK_RETRY_MAX_S = 30,
	SEQ_MARGIN = 64,
	READY_S = 10,
	BAD_TAGS_TOLD_S = 60,
};

/* ---- the gate ---- */

static bool attached(enum gate_state s)
{
	return s != GATE_LOCKED && s != GATE_PURGED && s != GATE_ERASED && s != GATE_FAULT;
}

/* An unlock is only tried after a good proof, so at most once in an interval. One that the HSM was too far for need not wait
 * longer: when it is back for good, so is the volume. What was refused is asked again ever less often. */
static uint64_t unlock_wait(const struct volume *v)
{
	if (v->gate.cause == CAUSE_UNREACHABLE)
		return 0;
	return v->unlock_failures < 5 ? SEC_NS << v->unlock_failures : UNLOCK_RETRY_MAX_S * SEC_NS;
}

/* A countdown begins when the gate is shut to the volume and ends when it serves or is detached; tries to open it in between do
 * not stop it, nor does the end of the agent. */
static void count_down(struct volume *v)
{
	enum gate_state now = v->gate.state;
	uint64_t after = v->config.purge_after_ns, wall = wall_now(), left;
	bool detached = now == GATE_LOCKED && !v->agent->stopping;

	if (now == GATE_AVAILABLE || detached || now == GATE_PURGED || now == GATE_ERASED || after == 0)
		v->purge_at_ns = 0;
	timer_disarm(&v->agent->loop, &v->purge_due);
	if (now != GATE_INACCESSIBLE || after == 0)
		return;
	if (v->purge_at_ns == 0)
		v->purge_at_ns = wall + after;
	left = v->purge_at_ns > wall ? v->purge_at_ns - wall : 0;
	timer_arm(&v->agent->loop, &v->purge_due, boot_now() + (left < after ? left : after)); /* a clock set back buys no time */
}

static void note_transition(struct volume *v, const struct gate *before)
{
	enum gate_state now = v->gate.state;

	if (now == before->state)
		return;
	v->since_wall_ns = wall_now();
	if (now == GATE_LOCKING) {
		v->detected_ns = v->arrived_ns;
		v->cut_ns = v->wiped_ns = v->drained_ns = v->order_sequence = 0;
		v->drain_error = 0;
	}
	count_down(v);
	if (before->latched && !v->gate.latched)
		v->integrity = (struct integrity){ 0 };
	/* a block device is not there before the first key: nobody waits for that */
	if (v->config.hold &&
	    (gate_state_serves(before->state) || (before->state == GATE_LOCKED && v->config.export == EXPORT_NBD)))
		v->hold_until_ns = boot_now() + v->config.hold_timeout_ns;
	if (before->state == GATE_UNLOCKING && now != GATE_AVAILABLE) {
		v->retry_at_ns = boot_now() + unlock_wait(v);
		v->unlock_failures++;
	} else if (now == GATE_AVAILABLE) {
		v->unlock_failures = 0;
		v->retry_at_ns = 0;
		v->restarts = 0;
	}
	if (v->gate.cause == CAUSE_NONE)
		v->text[0] = '\0';
}

static void use_kek(struct volume *v)
{
	bool wanted = attached(v->gate.state);

	if (wanted == v->kek_used || v->kek == NULL)
		return;
	v->kek_used = wanted;
	if (wanted)
		prober_use(v->prober);
	else
		prober_release(v->prober);
}

/* What waits in the kernel goes on waiting, or is let go, as the gate now says. */
static void follow_with_device(struct volume *v, const struct gate *before)
{
	if (v->config.hold && gate_state_serves(before->state) && !gate_state_serves(v->gate.state)) {
		if (volume_holds(v))
			device_hold(v);
		else
			device_doom(v);
	}
	device_settle(v);
}

static void step(struct volume *v, enum gate_event event, enum gate_cause cause)
{
	struct gate before = v->gate;
	struct gate_step s = revocation_step(&before, event, cause);

	job_gate_event(v, event); /* before anything is written */
	v->gate = s.next;
	note_transition(v, &before);
	effects_run(v, s.actions, &before, event);
	if (v->config.export == EXPORT_UBLK)
		follow_with_device(v, &before);
	use_kek(v);
	if (s.next.seq != before.seq)
		volume_write_gate(v);
	if (s.changed || (s.actions & ACT_AUDIT) != 0)
		mgmt_push_volume(v->agent, v);
	indication_update(v->agent);
	if (gate_state_serves(s.next.state) && !gate_state_serves(before.state))
		mgmt_push_agent(v->agent); /* the posture says where the keys are */
}

void volume_queue(struct volume *v, enum gate_event event, enum gate_cause cause)
{
	if (v->queued == EVENT_QUEUE)
		fatal("volume %s: more events follow from one step than there is room for: a defect", v->config.name);
	v->queue[v->queued++] = (struct queued_event){ event, cause };
}

/* Steps never nest: what happens inside one waits for its end. */
static void flush_queue(struct volume *v)
{
	if (v->stepping)
		return;
	v->stepping = true;
	while (v->queued > 0) {
		struct queued_event e = v->queue[0];

		memmove(v->queue, v->queue + 1, --v->queued * sizeof v->queue[0]);
		step(v, e.event, e.cause);
	}
	v->stepping = false;
	v->identity[0] = '\0';
}

void volume_feed(struct volume *v, enum gate_event event, enum gate_cause cause, const char *identity, const char *text)
{
	char before[TEXT_MAX_BYTES];

	if (!v->stepping)
		v->arrived_ns = boot_now();
	if (identity != NULL)
		snprintf(v->identity, sizeof v->identity, "%s", identity);
	memcpy(before, v->text, sizeof before);
	if (text != NULL)
		log_printable(v->text, sizeof v->text, text);
	volume_queue(v, event, cause);
	flush_queue(v);
	if (strcmp(before, v->text) != 0)
		mgmt_push_volume(v->agent, v); /* a step that changed nothing else pushes nothing */
}

void volume_proof(struct volume *v, bool fresh, const struct judgement *j)
{
	static const enum gate_event events[2][3] = {
		{ [PROOF_GOOD] = EV_PROOF_GOOD, [PROOF_REFUSED] = EV_PROOF_REFUSED, [PROOF_AMBIGUOUS] = EV_PROOF_AMBIGUOUS },
		{ [PROOF_GOOD] = EV_FRESH_GOOD, [PROOF_REFUSED] = EV_FRESH_REFUSED, [PROOF_AMBIGUOUS] = EV_FRESH_AMBIGUOUS },
	};

	job_proof(v, fresh, j);
	if (!v->kek_used || (v->gate.state == GATE_UNLOCKING && j->proof == PROOF_AMBIGUOUS))
		return; /* the unlock has its own fresh process */
	if (v->gate.state == GATE_INACCESSIBLE && j->proof == PROOF_GOOD && (!v->dataplane_ready || boot_now() < v->retry_at_ns))
		return; /* nobody there to take a key yet, or the last try is too fresh: the next proof is a second away */
	volume_feed(v, events[fresh][j->proof], j->cause, NULL, j->proof != PROOF_GOOD && !v->gate.latched ? j->text : NULL);
}

void volume_pin_renewed(struct volume *v)
{
	if (v->dataplane_ready || v->gate.state != GATE_INACCESSIBLE)
		volume_feed(v, EV_PIN_RENEWED, CAUSE_NONE, NULL, NULL);
}

static const char damaged_text[] = "the record of volume %s is damaged; bring it back from a backup of the state directory";

int volume_attachable(const struct volume *v, char text[static TEXT_MAX_BYTES])
{
	if (v->damaged) {
		snprintf(text, TEXT_MAX_BYTES, damaged_text, v->config.name);
		return ERR_CORRUPT;
	}
	if (!v->formatted) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is not created yet; create it first", v->config.name);
		return ERR_NOT_FOUND;
	}
	if (!v->configured || v->kek == NULL) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s has no file in volumes.d; write one and start the agent anew",
			 v->config.name);
		return ERR_CONFIG;
	}
	return job_on(v, text) ? ERR_BUSY : 0;
}

/* ---- records and ledger ---- */

void volume_write_gate(struct volume *v)
{
	const struct gate_record record = { .latched = v->gate.latched,
					    .latch_cause = v->gate.latched ? v->gate.latch_cause : CAUSE_NONE,
					    .seq = v->gate.seq,
					    .attach_wanted = v->attach_wanted,
					    .purged = v->gate.state == GATE_PURGED,
					    .purge_at_ns = v->purge_at_ns };

	if (v->agent->writer != NULL)
		writer_gate(v->agent->writer, v->config.name, &record);
}

void volume_gate_written(struct volume *v, uint64_t seq, int error)
{
	if (error != 0) {
		v->gate_durable = false; /* tried again at the next tick */
		return;
	}
	if (seq > v->durable_seq)
		v->durable_seq = seq;
	v->gate_durable = v->durable_seq >= v->gate.seq;
}

void volume_audit(struct volume *v, const char *event, enum gate_state from, const char *text)
{
	struct ledger_entry e = { .gate_seq = v->gate.seq,
				  .latched = v->gate.latched,
				  .wall_ns = wall_now(),
				  .boot_ns = boot_now(),
				  .detected_ns = v->detected_ns,
				  .cut_ns = v->cut_ns,
				  .wiped_ns = v->wiped_ns,
				  .drained_ns = v->drained_ns,
				  .drain_error = v->drain_error };
	bool of_lock = from == GATE_LOCKING || v->gate.state == GATE_LOCKING || v->gate.state == GATE_WIPE_UNCONFIRMED ||
		       (v->drained_ns != 0 && strcmp(event, "drained") == 0);

	if (of_lock) {
		e.alert_sequence = v->alert_sequence;
		e.order_sequence = v->order_sequence;
	}
	if (!of_lock)
		e.detected_ns = e.cut_ns = e.wiped_ns = e.drained_ns = 0;
	snprintf(e.volume, sizeof e.volume, "%s", v->config.name);
	snprintf(e.event, sizeof e.event, "%s", event);
	snprintf(e.from, sizeof e.from, "%s", gate_state_name(from));
	snprintf(e.to, sizeof e.to, "%s", gate_state_name(v->gate.state));
	snprintf(e.cause, sizeof e.cause, "%s", gate_cause_name(v->gate.cause));
	snprintf(e.identity, sizeof e.identity, "%s", v->identity);
	snprintf(e.text, sizeof e.text, "%s", text);
	if (v->agent->writer != NULL)
		writer_ledger(v->agent->writer, &e);
}

/* ---- the serving process ---- */

void volume_send_deadlines(struct volume *v)
{
	struct message m;

	if (!v->dataplane.alive || v->dataplane.stage < STAGE_ATTACHING || v->dataplane.stage >= STAGE_LOCKING)
		return;
	message_init(&m, MSG_DP_DEADLINES, 0);
	m.body.dp_deadlines.heartbeat_ns = boot_now() + 2 * SEC_NS;
	m.body.dp_deadlines.proof_ns = kek_proof_deadline(v->kek);
	child_send(&v->dataplane, &m, NULL, 0);
}

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

void volume_not_ready(struct volume *v, const char *text)
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

void volume_serve_device(struct volume *v)
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

void volume_start_dataplane(struct volume *v)
{
	v->dataplane_wanted = true;
	if (v->dataplane.alive || v->restart.armed)
		return; /* its successor comes when it is reaped */
	if (v->restarts > 0)
		restart_later(v, restart_wait(v));
	else
		restart_later(v, 0); /* from the loop: not inside a step */
}

void volume_stop_dataplane(struct volume *v)
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
		volume_end_hold(v); /* else on its way: what it drains is worth waiting for */
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

/* Tampering and damage: what waits in the buffers of the process is not kept for a key that only an officer brings back. */
bool volume_holds(const struct volume *v)
{
	bool distrusted = v->gate.latched && (v->gate.latch_cause == CAUSE_TAMPER || v->gate.latch_cause == CAUSE_INTEGRITY);

	return v->config.hold && !distrusted && v->gate.cause != CAUSE_DETACHED;
}

void volume_end_hold(struct volume *v)
{
	enum stage s = v->dataplane.stage;

	v->hold_until_ns = 0;
	if (v->config.hold && v->config.export == EXPORT_UBLK)
		device_doom(v);
	if (v->config.hold && v->dataplane.alive && (s == STAGE_KEYLESS || s == STAGE_DRAINED))
		child_kill(&v->dataplane, "what it holds is let go");
}

/* A process that outlives its lock, for the connections that wait in it. What waits for a block device does so in the kernel. */
static bool stays(const struct volume *v)
{
	return v->config.hold && v->config.export == EXPORT_NBD;
}

void volume_pins(const struct volume *v, struct msg_dp_attach *out)
{
	strcpy(out->name, v->config.name);
	memcpy(out->uuid, v->record.uuid, sizeof out->uuid);
	memcpy(out->kcv, v->record.kcv, sizeof out->kcv);
	memcpy(out->fingerprint, v->record.fingerprint, sizeof out->fingerprint);
	out->gen_no = v->record.gen_no;
	out->size = v->record.size;
	out->read_only = v->config.read_only;
	out->assume_4k = v->config.assume_4k;
	out->server = v->config.server;
	out->cache_mib = v->config.cache_mib;
	strcpy(out->kernel, v->config.kernel);
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
		volume_send_deadlines(v);
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

bool volume_held(struct volume *v, enum gate_event how, enum gate_cause cause)
{
	if (!session_ticketed(&v->unlock) || (v->gate.state == GATE_UNLOCKING && unlock_cancel(v)))
		return false;
	v->held = how;
	v->held_cause = cause;
	return true;
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
		if (volume_held(v, waited_for ? EV_WIPED : EV_DATAPLANE_SELF_LOCK, w->cause))
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
	if (!expected && !((waited_for || v->gate.state == GATE_UNLOCKING) && volume_held(v, EV_DATAPLANE_DEAD, CAUSE_NONE))) {
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
		volume_start_dataplane(v);
}

static const struct child_events dataplane_events = { on_hello, on_message, on_death };

/* ---- timers ---- */

static void outage_over(void *context)
{
	volume_feed(context, EV_OUTAGE_OVER, CAUSE_NONE, NULL, "the HSM was out of reach for longer than the outage budget");
}

static void purge_due(void *context)
{
	volume_feed(context, EV_PURGE_DUE, CAUSE_NONE, NULL, "purge_after is over: only an officer's restore opens it again");
}

/* A false alarm would kill a process that is writing what was acknowledged. */
static void wipe_deadline(void *context)
{
	struct volume *v = context;

	child_hear(&v->unlock.child);
	child_hear(&v->dataplane);
	if (v->gate.state == GATE_LOCKING)
		volume_feed(v, EV_WIPE_DEADLINE, CAUSE_NONE, NULL, NULL);
}

static void reap_deadline(void *context)
{
	struct volume *v = context;

	if (v->retired && v->dataplane.alive && v->gate.state == GATE_LOCKED) {
		child_kill(&v->dataplane, "it was told to end and did not"); /* keyless: nothing is lost */
		return;
	}
	volume_feed(v, EV_REAP_DEADLINE, CAUSE_NONE, NULL, NULL);
}

static void tick(void *context)
{
	struct volume *v = context;

	timer_arm(&v->agent->loop, &v->tick, boot_now() + TICK_MS * MS_NS);
	if (v->kek != NULL)
		volume_send_deadlines(v);
	if (++v->ticks % 2 != 0)
		return;
	if (!v->gate_durable)
		volume_write_gate(v);
	if (gate_state_serves(v->gate.state) || v->untold)
		mgmt_push_volume(v->agent, v);
}

/* ---- life ---- */

static void read_records(struct volume *v, const char *name)
{
	struct gate_record gate = { .seq = 0 };
	const struct records *r = &v->agent->records;
	int volume_error = records_read_volume(r, name, &v->record), gate_error = records_read_gate(r, name, &gate);
	bool fresh;

	v->formatted = volume_error == 0;
	v->damaged = volume_error != 0 && volume_error != ERR_NOT_FOUND;
	if (v->damaged)
		snprintf(v->text, sizeof v->text, damaged_text, name);
	/* no trace of it: a volume that is still to be created. A trace without a gate record: latched. */
	fresh = volume_error == ERR_NOT_FOUND && gate_error == ERR_NOT_FOUND;
	/* the last steps before a crash may have raised the sequence without a record */
	v->gate =
		revocation_initial(fresh || gate_error == 0, gate.latched, gate.latch_cause, gate.seq + (fresh ? 0 : SEQ_MARGIN));
	if (gate_error == 0 && gate.latched && gate.purged)
		v->gate = revocation_initial_purged(gate.latch_cause, gate.seq + SEQ_MARGIN);
	v->purge_at_ns = gate_error == 0 ? gate.purge_at_ns : 0;
	if (!fresh && gate_error != 0)
		log_error("volume %s: its gate record is %s: latched until an officer restores it", name,
			  gate_error == ERR_NOT_FOUND ? "missing" : "damaged");
	v->attach_wanted = gate_error == 0 && gate.attach_wanted;
	v->gate_durable = fresh || gate_error == 0;
	v->durable_seq = gate.seq;
}

int volume_create(struct volume **out, struct agent *a, const char *name, const struct volume_config *config)
{
	struct volume *v = calloc(1, sizeof *v);

	if (v == NULL)
		return ERR_NOMEM;
	v->agent = a;
	v->listen_fd = -1;
	v->held = EV_COUNT;
	v->since_wall_ns = wall_now();
	snprintf(v->config.name, sizeof v->config.name, "%s", name);
	v->dataplane.loop = &a->loop;
	v->dataplane.events = &dataplane_events;
	v->dataplane.owner = v;
	timer_init(&v->restart, restart_due, v);
	device_init(v);
	timer_init(&v->ready_deadline, ready_deadline, v);
	timer_init(&v->outage_over, outage_over, v);
	timer_init(&v->wipe_deadline, wipe_deadline, v);
	timer_init(&v->reap_deadline, reap_deadline, v);
	timer_init(&v->tick, tick, v);
	timer_init(&v->purge_due, purge_due, v);
	v->busy_until_ns = boot_now() + BUSY_S * SEC_NS;
	read_records(v, name);
	if (config != NULL)
		volume_configure(v, config);
	anchor_init(&v->anchor, v);
	unlock_init(v);
	timer_arm(&a->loop, &v->tick, boot_now() + TICK_MS * MS_NS);
	*out = v;
	return 0;
}

void volume_configure(struct volume *v, const struct volume_config *config)
{
	v->config = *config;
	v->configured = true;
	v->kek = kek_find(v->agent, config->kek);
	v->prober = prober_find(v->agent, config->kek);
}

/* One that has wiped is writing what was acknowledged: it ends by itself. */
static void part_from_dataplane(struct volume *v)
{
	if (v->dataplane.stage != STAGE_WIPED && v->dataplane.stage != STAGE_DRAINED)
		child_kill_and_reap(&v->dataplane);
	child_let_go(&v->dataplane);
}

void volume_destroy(struct volume *v)
{
	struct timer *timers[] = { &v->restart, &v->outage_over,    &v->wipe_deadline, &v->reap_deadline,
				   &v->tick,    &v->ready_deadline, &v->purge_due };

	job_destroy(v);
	unlock_cancel(v);
	if (v->kek != NULL)
		session_end(&v->unlock);
	opening_abandon(v->opening);
	opening_abandon(v->purging);
	part_from_dataplane(v);
	device_forget(v);
	for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++)
		timer_disarm(&v->agent->loop, timers[i]);
	export_unlisten(v);
	free(v);
}

struct volume *volume_find(struct agent *a, const char *name)
{
	for (unsigned i = 0; i < a->volume_count; i++)
		if (strcmp(a->volumes[i]->config.name, name) == 0)
			return a->volumes[i];
	return NULL;
}

struct kek *volume_kek(const struct volume *v)
{
	return v->kek;
}

bool volume_busy(const struct volume *v)
{
	return v->dataplane.alive || v->device.state != DEVICE_NONE || v->unlock.child.alive || v->job != NULL;
}
