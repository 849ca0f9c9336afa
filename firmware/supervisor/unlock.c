/* Opening the gate: a fresh proof in a one-shot hsm, a ticket to both sides, and service only when the volume is open and that
 * hsm is reaped. What must hold: cancelling kills and reaps the hsm; nothing of a cancelled unlock is believed later. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"
#include "kek.h"
#include "volume.h"

enum { UNLOCK_DEADLINE_S = 10, AGAIN_MS = 100 };

static void close_hsm_fd(struct volume *v)
{
	if (v->hsm_fd >= 0)
		close(v->hsm_fd);
	v->hsm_fd = -1;
}

/* Both halves are there: keys are in RAM, and whoever unwrapped them is gone. */
static void check_done(struct volume *v)
{
	if (!v->opened_good || !anchor_settled(&v->anchor) || !v->hsm_good || !v->hsm_gone || v->gate.state != GATE_UNLOCKING)
		return;
	if (v->config.export == EXPORT_UBLK && v->device.state != DEVICE_LIVE) {
		device_go(v); /* and here again when it takes requests */
		return;
	}
	v->dataplane.stage = STAGE_SERVING;
	v->unlock_wanted = false;
	v->text[0] = '\0';
	volume_feed(v, EV_DEK_LOADED, CAUSE_NONE, NULL, NULL);
}

static void failed(struct volume *v, const struct judgement *j)
{
	enum gate_event event = j->proof == PROOF_AMBIGUOUS     ? EV_FRESH_AMBIGUOUS
				: j->cause == CAUSE_DEK_REFUSED ? EV_DEK_REFUSED
								: EV_FRESH_REFUSED;

	volume_feed(v, event, j->cause, NULL, j->text);
}

static int send_tickets(struct volume *v)
{
	struct message m;
	struct msg_hsm_ticket t = { .gen_no = v->record.gen_no,
				    .dataplane_pid = v->dataplane.pid,
				    .dataplane_uid = (uint32_t)v->dataplane.uid };
	const struct kek_record *pins = kek_pins(v->kek);
	int r = pins != NULL ? entropy_fill(&t.ticket, sizeof t.ticket) : ERR_STATE;

	if (r != 0)
		return r;
	t.hash = pins->hash;
	strcpy(t.volume, v->config.name);
	dataplane_send_deadlines(v); /* no lease is given without */
	r = session_ticket(&v->unlock, false, &t);
	if (r != 0)
		return r;
	v->generation++;
	message_init(&m, MSG_DP_TICKET, v->generation);
	m.body.dp_ticket = (struct msg_dp_ticket){ .ticket = t.ticket,
						   .generation = v->generation,
						   .hsm_pid = v->unlock.child.pid,
						   .hsm_uid = (uint32_t)v->unlock.child.uid };
	anchor_ticket(&v->anchor, &m.body.dp_ticket);
	r = child_send(&v->dataplane, &m, &v->hsm_fd, 1);
	close_hsm_fd(v);
	if (r == 0)
		v->dataplane.stage = STAGE_UNLOCKING;
	return r;
}

static void on_result(void *owner, struct session *s, enum session_step step, const struct judgement *j)
{
	struct volume *v = owner;
	struct judgement lost;
	int r = 0;

	if (v->gate.state != GATE_UNLOCKING)
		return;
	if (j->proof != PROOF_GOOD) {
		failed(v, j);
		return;
	}
	switch (step) {
	case SESSION_OPENED:
		r = session_probe(s, s->pins);
		break;
	case SESSION_PROBED:
		kek_note_good(v->kek, s->asked_ns);
		r = send_tickets(v);
		break;
	case SESSION_TICKET:
		v->hsm_good = true;
		check_done(v);
		break;
	}
	if (r != 0) {
		judge_lost(&lost, "the unlock could not be asked for");
		failed(v, &lost);
	}
}

static void on_ended(void *owner, struct session *s, bool good)
{
	struct volume *v = owner;

	enum gate_event held = v->held;

	if (held != EV_COUNT) { /* the wipe waited for this process to be gone */
		v->held = EV_COUNT;
		timer_disarm(&v->agent->loop, &v->wipe_deadline);
		timer_disarm(&v->agent->loop, &v->reap_deadline);
		volume_feed(v, held, v->held_cause, NULL, NULL);
		return;
	}
	if (s->silent || v->gate.state != GATE_UNLOCKING)
		return;
	v->hsm_gone = good;
	if (good)
		check_done(v);
	else
		volume_feed(v, EV_HSM_DEAD, CAUSE_NONE, NULL, "the one-shot hsm process failed; see the log");
}

static const struct session_events unlock_events = { on_result, on_ended };

static void begin_again(void *context)
{
	unlock_try(context);
}

static void deadline(void *context)
{
	struct volume *v = context;

	volume_feed(v, EV_UNLOCK_DEADLINE, CAUSE_NONE, NULL,
		    v->dataplane_ready ? "the unlock took longer than 10 s"
		    : v->text[0]       ? NULL
				       : "the dataplane was not ready within 10 s");
}

void unlock_init(struct volume *v)
{
	v->hsm_fd = -1;
	session_init(&v->unlock, v->agent, v->kek, &unlock_events, v);
	timer_init(&v->unlock_begin, begin_again, v);
	timer_init(&v->unlock_deadline, deadline, v);
}

void unlock_start(struct volume *v)
{
	v->unlock_wanted = true;
	anchor_forget(&v->anchor);
	timer_arm(&v->agent->loop, &v->unlock_deadline, boot_now() + UNLOCK_DEADLINE_S * SEC_NS);
	unlock_try(v);
}

void unlock_try(struct volume *v)
{
	struct judgement j;
	int pair[2], r;

	if (!v->unlock_wanted || !v->dataplane_ready || v->dataplane.stage != STAGE_KEYLESS || v->hsm_fd >= 0)
		return;
	if (!anchor_ready(&v->anchor, &j))
		return;
	if (j.cause != CAUSE_NONE) {
		unlock_unsettled(v, &j);
		return;
	}
	v->opened_good = v->hsm_good = v->hsm_gone = false;
	v->unlock.kek = v->kek;
	if (kek_pins(v->kek) == NULL) {
		j = (struct judgement){ .proof = PROOF_REFUSED, .cause = CAUSE_MODULE_BROKEN };
		snprintf(j.text, sizeof j.text, "the record of KEK %s is missing or damaged; bring it back from a backup",
			 v->config.kek);
		failed(v, &j);
		return;
	}
	if (memcmp(kek_pins(v->kek)->fingerprint, v->record.fingerprint, FINGERPRINT_BYTES) != 0) {
		j = (struct judgement){ .proof = PROOF_REFUSED, .cause = CAUSE_DEK_REFUSED };
		snprintf(j.text, sizeof j.text, "the volume was made under another KEK than %s is now; name that one",
			 v->config.kek);
		failed(v, &j);
		return;
	}
	r = channel_pair(pair);
	if (r == 0) {
		r = session_start(&v->unlock, kek_pins(v->kek), pair[1]);
		close(pair[1]);
		if (r == 0)
			v->hsm_fd = pair[0];
		else
			close(pair[0]);
	}
	if (r != 0) /* a PIN is being tried, or no process could be had: the deadline bounds it */
		timer_arm(&v->agent->loop, &v->unlock_begin, boot_now() + AGAIN_MS * MS_NS);
}

bool unlock_cancel(struct volume *v)
{
	timer_disarm(&v->agent->loop, &v->unlock_deadline);
	timer_disarm(&v->agent->loop, &v->unlock_begin);
	v->unlock_wanted = v->opened_good = v->hsm_good = v->hsm_gone = false;
	anchor_forget(&v->anchor);
	close_hsm_fd(v);
	if (session_ticketed(&v->unlock) && !session_kill(&v->unlock))
		return false;
	session_close(&v->unlock); /* it may be in its login: it has no ticket, and can do no harm on its way out */
	v->held = EV_COUNT;        /* it waited for this; what comes now follows from the step that cancels */
	return true;
}

bool unlock_held(struct volume *v, enum gate_event how, enum gate_cause cause)
{
	if (!session_ticketed(&v->unlock) || (v->gate.state == GATE_UNLOCKING && unlock_cancel(v)))
		return false;
	v->held = how;
	v->held_cause = cause;
	return true;
}

void unlock_device_started(struct volume *v)
{
	check_done(v);
}

void unlock_settled(struct volume *v)
{
	check_done(v);
}

/* It does not latch: that the TPM cannot say is no proof of a rollback. */
void unlock_unsettled(struct volume *v, const struct judgement *why)
{
	if (why->proof == PROOF_AMBIGUOUS)
		volume_feed(v, EV_FRESH_AMBIGUOUS, why->cause, NULL, why->text);
	else
		volume_feed(v, EV_RECOVERY_REFUSED, CAUSE_ENGINE, NULL, why->text);
}

void unlock_opened(struct volume *v, const struct message *m)
{
	const struct msg_dp_opened *o = &m->body.dp_opened;
	bool damage = o->error == ERR_CORRUPT || o->error == ERR_FOREIGN;

	if (o->generation != v->generation || v->gate.state != GATE_UNLOCKING) {
		volume_feed(v, EV_LATE_ANSWER, CAUSE_NONE, NULL, NULL);
		return;
	}
	v->opened = *o;
	if (o->error == 0) {
		v->opened_good = true;
		v->bad_tags_seen = v->bad_tags_told = 0;
		anchor_opened(&v->anchor, o->anchor_count);
		check_done(v);
	} else if (o->verdict == VERDICT_GOOD) {
		volume_feed(v, EV_RECOVERY_REFUSED, damage ? CAUSE_INTEGRITY : CAUSE_ENGINE, NULL, o->text);
	} /* else the hsm's own verdict, or its death, says what it was */
}
