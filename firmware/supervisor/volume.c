/* See volume.h. The gate is fed here, and here only. */
#include "volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "backing.h"
#include "base/error.h"
#include "base/log.h"
#include "indication.h"
#include "job.h"
#include "kek.h"
#include "mgmt.h"
#include "prober.h"

enum { UNLOCK_RETRY_MAX_S = 30, SEQ_MARGIN = 64 };

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

/* Tampering and damage: what waits in the buffers of the process is not kept for a key that only an officer brings back. */
bool volume_holds(const struct volume *v)
{
	bool distrusted = v->gate.latched && (v->gate.latch_cause == CAUSE_TAMPER || v->gate.latch_cause == CAUSE_INTEGRITY);

	return v->config.hold && !distrusted && v->gate.cause != CAUSE_DETACHED;
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
		dataplane_send_deadlines(v);
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
	v->held = EV_COUNT;
	v->since_wall_ns = wall_now();
	snprintf(v->config.name, sizeof v->config.name, "%s", name);
	device_init(v);
	timer_init(&v->outage_over, outage_over, v);
	timer_init(&v->wipe_deadline, wipe_deadline, v);
	timer_init(&v->reap_deadline, reap_deadline, v);
	timer_init(&v->tick, tick, v);
	timer_init(&v->purge_due, purge_due, v);
	dataplane_init(v);
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

void volume_destroy(struct volume *v)
{
	struct timer *timers[] = { &v->outage_over, &v->wipe_deadline, &v->reap_deadline, &v->tick, &v->purge_due };

	job_destroy(v);
	unlock_cancel(v);
	if (v->kek != NULL)
		session_end(&v->unlock);
	opening_abandon(v->purging);
	dataplane_forget(v);
	device_forget(v);
	for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++)
		timer_disarm(&v->agent->loop, timers[i]);
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
