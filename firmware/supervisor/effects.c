/* What a step of the gate asks for, done: one row per action, run in the order of the bits. What must hold: no effect waits for a
 * disk, an hsm or a client; what an effect finds out becomes an event, fed when the step is over. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "alerts.h"
#include "backing.h"
#include "base/log.h"
#include "kek.h"
#include "prober.h"
#include "volume.h"

enum { WIPE_MS = 60, REAP_MS = 1000 };

struct step_context {
	const struct gate *before;
	enum gate_event event;
};

static void cancel_unwrap(struct volume *v, const struct step_context *s)
{
	(void)s;
	if (!unlock_cancel(v))
		log_error("volume %s: the unwrapping hsm (pid %d) is killed and not gone: nothing is called wiped before it is",
			  v->config.name, (int)v->unlock.child.pid);
}

static bool has_wiped(const struct volume *v)
{
	return v->dataplane.stage == STAGE_WIPED || v->dataplane.stage == STAGE_DRAINED;
}

/* No key is in the dataplane: it is gone, or it wiped before, and is still writing what was acknowledged. It hears no second
 * order, and killing it would lose those writes. */
static bool no_key_there(struct volume *v)
{
	enum gate_event how = v->dataplane.alive ? EV_WIPED : EV_DATAPLANE_DEAD;

	if (v->dataplane.alive && !has_wiped(v))
		return false;
	if (!unlock_held(v, how, CAUSE_NONE)) {
		timer_disarm(&v->agent->loop, &v->wipe_deadline);
		volume_queue(v, how, CAUSE_NONE);
	}
	return true;
}

static void send_lock(struct volume *v, const struct step_context *s)
{
	bool detach = v->gate.cause == CAUSE_DETACHED;
	struct message m;

	(void)s;
	timer_disarm(&v->agent->loop, &v->unlock_deadline);
	v->held = EV_COUNT; /* of a former dataplane: this one has to say it itself */
	timer_arm(&v->agent->loop, &v->wipe_deadline, boot_now() + WIPE_MS * MS_NS);
	if (no_key_there(v))
		return;
	if (v->dataplane.stage <
	    STAGE_KEYLESS) { /* it has no export and never saw a ticket: there is nothing to be polite about */
		child_kill(&v->dataplane, NULL);
		return;
	}
	v->order_sequence = ++v->agent->sequence;
	message_init(&m, detach ? MSG_DP_DETACH : MSG_DP_LOCK, v->gate.seq);
	if (!detach)
		m.body.dp_lock = (struct msg_dp_lock){ .cause = (uint8_t)v->gate.cause,
						       .hold = volume_holds(v),
						       .generation = v->generation };
	if (child_send(&v->dataplane, &m, NULL, 0) == 0)
		v->dataplane.stage = STAGE_LOCKING;
	else
		child_kill(&v->dataplane, "it cannot be told to lock");
}

static void kill_dataplane(struct volume *v, const struct step_context *s)
{
	(void)s;
	if (v->gate.state == GATE_FAULT)
		v->dataplane_wanted = false;
	if (v->dataplane.alive && (!has_wiped(v) || v->gate.state == GATE_FAULT))
		child_kill(&v->dataplane,
			   v->gate.state == GATE_FAULT ? "the gate is in FAULT" : "the wipe was not confirmed in time");
	else if (no_key_there(v) && v->held == EV_COUNT)
		return;
	timer_arm(&v->agent->loop, &v->reap_deadline, boot_now() + REAP_MS * MS_NS);
}

/* The record itself is written after every step that raises the sequence; here it only stops counting as durable. */
static void latch_changed(struct volume *v, const struct step_context *s)
{
	(void)s;
	v->gate_durable = false;
	if (v->gate.latched && !volume_holds(v))
		dataplane_end_hold(v);
}

static void start_dataplane(struct volume *v, const struct step_context *s)
{
	(void)s;
	dataplane_start(v);
}

static void stop_dataplane(struct volume *v, const struct step_context *s)
{
	(void)s;
	dataplane_stop(v);
}

static void start_unlock(struct volume *v, const struct step_context *s)
{
	(void)s;
	unlock_start(v);
}

static void probe_fresh(struct volume *v, const struct step_context *s)
{
	(void)s;
	prober_fresh(v->prober);
	if (v->gate.state == GATE_SUSPECT && kek_config(v->kek)->outage_budget_ns == 0) /* strict: the first ambiguity locks */
		volume_queue(v, EV_OUTAGE_OVER, CAUSE_NONE);
}

static void start_outage(struct volume *v, const struct step_context *s)
{
	(void)s;
	timer_arm(&v->agent->loop, &v->outage_over, kek_last_good(v->kek) + kek_config(v->kek)->outage_budget_ns);
}

static void stop_outage(struct volume *v, const struct step_context *s)
{
	(void)s;
	timer_disarm(&v->agent->loop, &v->outage_over);
}

static void extend_lease(struct volume *v, const struct step_context *s)
{
	(void)s;
	timer_disarm(&v->agent->loop, &v->unlock_deadline);
	dataplane_send_deadlines(v);
}

static void alarm_loud(struct volume *v, const struct step_context *s)
{
	(void)s;
	snprintf(v->text, sizeof v->text, "the %s (pid %d) is killed and not gone: keys may be in RAM; restart the machine",
		 v->dataplane.alive && !has_wiped(v) ? "dataplane" : "unwrapping hsm",
		 (int)(v->dataplane.alive && !has_wiped(v) ? v->dataplane.pid : v->unlock.child.pid));
	log_error("volume %s: ALARM: %s", v->config.name, v->text);
}

static void alert(struct volume *v, const struct step_context *s)
{
	alerts_queue(v, s->before, s->event);
}

/* For people, and last: standard error may be a pipe that nobody reads. */
static void log_step(struct volume *v, const struct step_context *s)
{
	const struct gate *g = &v->gate;
	bool bad = g->state != GATE_AVAILABLE && g->state != GATE_LOCKED && g->state != GATE_UNLOCKING;
	uint64_t wall = wall_now();
	char purge[48] = "";

	if (v->purge_at_ns != 0)
		snprintf(purge, sizeof purge, "; purged in %llu s",
			 (unsigned long long)(v->purge_at_ns > wall ? (v->purge_at_ns - wall) / SEC_NS : 0));
	log_line(bad ? LOG_LEVEL_WARNING : LOG_LEVEL_NOTICE, "volume %s: %s -> %s%s%s%s (%s)%s%s%s%s%s", v->config.name,
		 gate_state_name(s->before->state), gate_state_name(g->state), g->cause != CAUSE_NONE ? ", " : "",
		 g->cause != CAUSE_NONE ? gate_cause_name(g->cause) : "", g->latched ? ", latched" : "",
		 gate_event_name(s->event), v->text[0] != '\0' ? ": " : "", v->text, g->cause != CAUSE_NONE ? "; remedy: " : "",
		 g->cause != CAUSE_NONE ? gate_remedy(g->cause, g->latched) : "", purge);
}

static void audit(struct volume *v, const struct step_context *s)
{
	volume_audit(v, gate_event_name(s->event), s->before->state, v->text);
}

/* Ciphertext: nothing else of the volume is cached outside its process. */
static void purge_opened(void *context, int fd, bool created, const char *text)
{
	struct volume *v = context;

	(void)created;
	v->purging = NULL;
	if (fd < 0) {
		log_warning("volume %s: the cache of its backing store was not dropped: %s", v->config.name, text);
		return;
	}
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

static void purge_caches(struct volume *v, const struct step_context *s)
{
	(void)s;
	alerts_mount_hook(v);
	if (v->purging == NULL && opening_start(&v->purging, v->agent, &v->config, OPENING_READ, purge_opened, v) != 0)
		log_warning("volume %s: the cache of its backing store was not dropped", v->config.name);
}

/* No verb of this agent leads to ERASED; a table that got there did so by a defect, and nothing irreversible is done. */
static void destroy_wraps(struct volume *v, const struct step_context *s)
{
	(void)s;
	log_error("volume %s: the gate asks to destroy wrapped keys, which no order of this agent can mean: not done",
		  v->config.name);
}

static void record_defect(struct volume *v, const struct step_context *s)
{
	log_error("volume %s: DEFECT: %s cannot happen in %s; please report it", v->config.name, gate_event_name(s->event),
		  gate_state_name(s->before->state));
	volume_audit(v, "defect", s->before->state, "an event that the gate's table does not allow");
}

static void reattach(struct volume *v, const struct step_context *s)
{
	(void)s;
	volume_queue(v, EV_ATTACH, CAUSE_NONE);
}

/* clang-format off */
static const struct {
	enum gate_action action;
	void (*run)(struct volume *v, const struct step_context *s);
} effects[] = {
	{ ACT_ALARM,           alarm_loud },
	{ ACT_ALERT,           alert },
	{ ACT_CANCEL_UNWRAP,   cancel_unwrap },
	{ ACT_SEND_LOCK,       send_lock },
	{ ACT_KILL_DATAPLANE,  kill_dataplane },
	{ ACT_WRITE_LATCH,     latch_changed },
	{ ACT_CLEAR_LATCH,     latch_changed },
	{ ACT_START_DATAPLANE, start_dataplane },
	{ ACT_STOP_DATAPLANE,  stop_dataplane },
	{ ACT_START_UNLOCK,    start_unlock },
	{ ACT_PROBE_FRESH,     probe_fresh },
	{ ACT_START_OUTAGE,    start_outage },
	{ ACT_STOP_OUTAGE,     stop_outage },
	{ ACT_EXTEND_LEASE,    extend_lease },
	{ ACT_AUDIT,           audit },
	{ ACT_PURGE_CACHES,    purge_caches },
	{ ACT_DESTROY_WRAPS,   destroy_wraps },
	{ ACT_RECORD_DEFECT,   record_defect },
	{ ACT_REATTACH,        reattach },
};
/* clang-format on */

void effects_run(struct volume *v, uint32_t actions, const struct gate *before, enum gate_event event)
{
	const struct step_context s = { before, event };

	for (size_t i = 0; i < sizeof effects / sizeof effects[0]; i++)
		if ((actions & (uint32_t)effects[i].action) != 0)
			effects[i].run(v, &s);
	if ((actions & ACT_ALERT) != 0)
		log_step(v, &s);
	if (gate_state_serves(before->state) && !gate_state_serves(v->gate.state))
		alerts_mount_hook(v);
}
