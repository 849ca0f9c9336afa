/* The properties of the gate: local ones over every (state, event, carried cause, standing cause, latch), global ones over what
 * a breadth-first search from the initial gates reaches. What must hold: each is said without looking at how a row is written. */
#include "properties.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct visit {
	gate_rows table;
	struct gate now;
	enum gate_event event;
	enum gate_cause cause; /* carried */
	struct gate_step step;
};

static char breach[256];

static const char *broken(const struct visit *v, const char *what)
{
	snprintf(breach, sizeof breach, "%s: %s(%s%s%s) + %s(%s) -> %s(%s%s%s)", what, gate_state_name(v->now.state),
		 gate_cause_name(v->now.cause), v->now.latched ? ", latched " : "",
		 v->now.latched ? gate_cause_name(v->now.latch_cause) : "", gate_event_name(v->event), gate_cause_name(v->cause),
		 gate_state_name(v->step.next.state), gate_cause_name(v->step.next.cause),
		 v->step.next.latched ? ", latched " : "", v->step.next.latched ? gate_cause_name(v->step.next.latch_cause) : "");
	return breach;
}

static bool unconditional(enum gate_event e)
{
	return e == EV_REVOKE || e == EV_TAMPER || e == EV_INTEGRITY_ALARM;
}

static bool definite(enum gate_event e)
{
	return e == EV_PROOF_REFUSED || e == EV_FRESH_REFUSED || e == EV_DEK_REFUSED;
}

static bool usable(enum gate_state s) /* keys are there or coming, and nobody is wiping them */
{
	return gate_state_serves(s) || s == GATE_UNLOCKING;
}

static bool did(const struct visit *v, uint32_t action)
{
	return (v->step.actions & action) == action;
}

/* ---- local: one step ---- */

static const char *p_latch_is_only_lifted_by_restore(const struct visit *v)
{
	if (v->now.latched && !v->step.next.latched && v->event != EV_RESTORE)
		return broken(v, "a latch was lifted without a restore");
	return NULL;
}

static const char *p_latched_gate_never_opens(const struct visit *v)
{
	if (v->now.latched && !usable(v->now.state) && usable(v->step.next.state) && v->event != EV_RESTORE)
		return broken(v, "a latched gate opened");
	return NULL;
}

static const char *p_usable_is_never_latched(const struct visit *v)
{
	if (usable(v->step.next.state) && v->step.next.latched && !v->now.latched)
		return broken(v, "latched and still usable");
	return NULL;
}

static const char *p_revoke_is_unconditional(const struct visit *v)
{
	static const enum gate_cause meant[] = {
		[EV_REVOKE] = CAUSE_COMMANDED, [EV_TAMPER] = CAUSE_TAMPER, [EV_INTEGRITY_ALARM] = CAUSE_INTEGRITY
	};

	if (!unconditional(v->event))
		return NULL;
	if (usable(v->step.next.state))
		return broken(v, "a revoke left it usable");
	if (!v->step.next.latched || v->step.next.latch_cause != meant[v->event] || v->step.next.cause != meant[v->event])
		return broken(v, "a revoke did not latch and win");
	if (!did(v, ACT_WRITE_LATCH | ACT_AUDIT | ACT_ALERT))
		return broken(v, "a revoke was not made durable, told and recorded");
	if (v->step.next.seq <= v->now.seq)
		return broken(v, "a revoke did not raise the sequence");
	return NULL;
}

static const char *p_latch_changes_are_durable(const struct visit *v)
{
	if (v->step.next.latched != v->now.latched && !did(v, v->step.next.latched ? ACT_WRITE_LATCH : ACT_CLEAR_LATCH))
		return broken(v, "a change of the latch was not written");
	return NULL;
}

static const char *p_leaving_service_locks(const struct visit *v)
{
	bool gone = v->event == EV_DATAPLANE_DEAD || v->event == EV_DATAPLANE_SELF_LOCK;

	if (!usable(v->now.state) || usable(v->step.next.state) || gone)
		return NULL;
	if ((v->step.actions & (ACT_SEND_LOCK | ACT_KILL_DATAPLANE)) == 0)
		return broken(v, "service was left without a lock or a kill");
	if (v->step.next.state != GATE_LOCKING && v->step.next.state != GATE_FAULT)
		return broken(v, "service was left round the wipe");
	return NULL;
}

static const char *p_wipe_is_left_by_confirmation(const struct visit *v)
{
	bool wiping = v->now.state == GATE_LOCKING || v->now.state == GATE_WIPE_UNCONFIRMED;
	bool confirmed = v->event == EV_WIPED || v->event == EV_DATAPLANE_DEAD || v->event == EV_DATAPLANE_SELF_LOCK;

	if (wiping && !gate_state_has_keys(v->step.next.state) && !confirmed && !did(v, ACT_KILL_DATAPLANE))
		return broken(v, "a wipe was called done without a confirmation");
	if (wiping && usable(v->step.next.state))
		return broken(v, "a wipe was undone");
	if (v->now.state == GATE_LOCKING && confirmed &&
	    v->step.next.state != (v->now.cause == CAUSE_DETACHED ? GATE_LOCKED : GATE_INACCESSIBLE))
		return broken(v, "a confirmed wipe does not end where it should");
	if (v->now.state == GATE_LOCKING && v->event == EV_WIPE_DEADLINE &&
	    (v->step.next.state != GATE_WIPE_UNCONFIRMED || !did(v, ACT_KILL_DATAPLANE)))
		return broken(v, "the wipe deadline does not kill");
	return NULL;
}

static const char *p_unwrap_is_cancelled(const struct visit *v)
{
	if (v->now.state == GATE_UNLOCKING && v->step.next.state != GATE_UNLOCKING && v->step.next.state != GATE_AVAILABLE &&
	    !did(v, ACT_CANCEL_UNWRAP))
		return broken(v, "an unlock was left without killing its hsm");
	return NULL;
}

static const char *p_fault_kills(const struct visit *v)
{
	if (v->step.next.state == GATE_FAULT && v->now.state != GATE_FAULT && !did(v, ACT_KILL_DATAPLANE | ACT_RECORD_DEFECT))
		return broken(v, "FAULT without a kill and a record");
	if (v->now.state == GATE_FAULT && v->step.next.state != GATE_FAULT && v->event != EV_DETACH)
		return broken(v, "FAULT left by other than a detach");
	return NULL;
}

static const char *p_service_is_entered_by_proof(const struct visit *v)
{
	bool fresh = v->event == EV_FRESH_GOOD;

	if (!gate_state_serves(v->step.next.state) || gate_state_serves(v->now.state)) {
		if (v->step.next.state != GATE_AVAILABLE || v->now.state == GATE_AVAILABLE)
			return NULL;
		if (!(fresh || (v->event == EV_PROOF_GOOD && v->now.state == GATE_OUTAGE)))
			return broken(v, "AVAILABLE again without a proof");
		return did(v, ACT_EXTEND_LEASE | ACT_STOP_OUTAGE) ? NULL : broken(v, "back without a lease");
	}
	if (v->step.next.state != GATE_AVAILABLE || v->now.state != GATE_UNLOCKING || v->event != EV_DEK_LOADED)
		return broken(v, "service entered by another way than a loaded key");
	return did(v, ACT_EXTEND_LEASE) ? NULL : broken(v, "service without a lease");
}

static const char *p_lease_only_in_service_by_proof(const struct visit *v)
{
	bool proof = v->event == EV_PROOF_GOOD || v->event == EV_FRESH_GOOD || v->event == EV_DEK_LOADED;

	if (did(v, ACT_EXTEND_LEASE) && (v->step.next.state != GATE_AVAILABLE || !proof))
		return broken(v, "a lease without a proof");
	if (v->now.state == GATE_AVAILABLE && (v->event == EV_PROOF_GOOD || v->event == EV_FRESH_GOOD) &&
	    (!did(v, ACT_EXTEND_LEASE) || v->step.changed))
		return broken(v, "a good proof does not renew the lease");
	return NULL;
}

static const char *p_definite_refusal_locks_at_once(const struct visit *v)
{
	bool told = v->cause > CAUSE_NONE && v->cause < CAUSE_COUNT && v->cause != CAUSE_DETACHED;

	if (!definite(v->event) || !usable(v->now.state))
		return NULL;
	if (v->step.next.state != GATE_LOCKING)
		return broken(v, "a definite refusal did not lock");
	if (told && v->step.next.cause != v->cause)
		return broken(v, "a refusal's cause was lost");
	return NULL;
}

static const char *p_ambiguity_is_settled_first(const struct visit *v)
{
	bool ambiguous = v->event == EV_PROOF_AMBIGUOUS || v->event == EV_FRESH_AMBIGUOUS || v->event == EV_HSM_DEAD;

	if (!ambiguous || !gate_state_serves(v->now.state))
		return NULL;
	if (v->step.next.state == GATE_AVAILABLE || !gate_state_serves(v->step.next.state))
		return broken(v, "an ambiguity was not settled");
	if (v->step.next.state == GATE_OUTAGE && v->now.state != GATE_OUTAGE && !did(v, ACT_START_OUTAGE))
		return broken(v, "an outage without a running budget");
	if (v->step.next.state == GATE_SUSPECT && v->now.state != GATE_SUSPECT && !did(v, ACT_PROBE_FRESH))
		return broken(v, "SUSPECT without a fresh probe");
	if (v->now.state == GATE_SUSPECT && v->event == EV_FRESH_AMBIGUOUS && v->step.next.state != GATE_OUTAGE)
		return broken(v, "a fresh ambiguity is an outage");
	return NULL;
}

static const char *p_budget_ends(const struct visit *v)
{
	bool held = v->now.state == GATE_SUSPECT || v->now.state == GATE_OUTAGE;
	bool still = v->step.next.state == GATE_SUSPECT || v->step.next.state == GATE_OUTAGE;

	if (held && v->event == EV_OUTAGE_OVER && (v->step.next.state != GATE_LOCKING || v->step.next.cause != CAUSE_UNREACHABLE))
		return broken(v, "the outage budget does not lock");
	if (held && !still && !did(v, ACT_STOP_OUTAGE))
		return broken(v, "the outage timer is left running");
	return NULL;
}

static const char *p_detach_and_end(const struct visit *v)
{
	bool by_detach = v->event == EV_DETACH || v->now.cause == CAUSE_DETACHED;

	if (v->step.next.state == GATE_LOCKED && v->now.state != GATE_LOCKED && (!by_detach || !did(v, ACT_STOP_DATAPLANE)))
		return broken(v, "LOCKED by other than a detach, or with the export left");
	if (v->event == EV_DETACH && usable(v->now.state) &&
	    (v->step.next.state != GATE_LOCKING || v->step.next.cause != CAUSE_DETACHED))
		return broken(v, "a detach does not lock");
	return NULL;
}

static const char *p_export_returns(const struct visit *v)
{
	if (v->event == EV_DATAPLANE_DEAD && v->step.next.state == GATE_INACCESSIBLE && !did(v, ACT_START_DATAPLANE))
		return broken(v, "a dead dataplane is not replaced");
	if (v->event == EV_DATAPLANE_DEAD && usable(v->now.state) && v->step.next.state != GATE_INACCESSIBLE)
		return broken(v, "service without a process");
	return NULL;
}

static const char *p_unlock_starts_once(const struct visit *v)
{
	bool entered = v->step.next.state == GATE_UNLOCKING && v->now.state != GATE_UNLOCKING;

	if (entered != did(v, ACT_START_UNLOCK))
		return broken(v, "UNLOCKING entered without starting it, or started elsewhere");
	return NULL;
}

static const char *p_comes_back_by_itself(const struct visit *v)
{
	bool good = v->event == EV_PROOF_GOOD || v->event == EV_FRESH_GOOD;
	bool may = !v->now.latched && v->now.cause != CAUSE_CLOCK;

	if (v->now.state != GATE_INACCESSIBLE)
		return NULL;
	if (good && (v->step.next.state == GATE_UNLOCKING) != may)
		return broken(v, "a good proof opens exactly what is neither latched nor without a clock");
	if (v->event == EV_PIN_RENEWED &&
	    (v->step.next.state == GATE_UNLOCKING) != (!v->now.latched && v->now.cause == CAUSE_ACCESS_REVOKED))
		return broken(v, "a new PIN opens exactly what was shut for the old one");
	if (v->event == EV_CLOCK_TRUSTED &&
	    (v->step.next.state == GATE_UNLOCKING) != (!v->now.latched && v->now.cause == CAUSE_CLOCK))
		return broken(v, "a clock opens exactly what was shut for want of one");
	if (v->event == EV_RESTORE && (v->step.next.state != GATE_UNLOCKING || v->step.next.latched))
		return broken(v, "an officer's restore does not restore");
	return NULL;
}

static const char *p_sequence(const struct visit *v)
{
	bool must = v->step.changed || unconditional(v->event);

	if ((v->step.next.seq == v->now.seq + 1) != must || v->step.next.seq < v->now.seq)
		return broken(v, "the sequence rises with every change and every revoke, and only then");
	return NULL;
}

static const char *p_noise_is_ignored(const struct visit *v)
{
	if ((v->event == EV_LATE_ANSWER || v->event == EV_MGMT_DEAD) && (v->step.changed || v->step.actions != ACT_NONE))
		return broken(v, "noise had an effect");
	if (v->now.state == GATE_ERASED && v->step.next.state != GATE_ERASED && v->step.next.state != GATE_FAULT)
		return broken(v, "erased is for ever");
	return NULL;
}

static const char *p_surprising_keys_are_killed(const struct visit *v)
{
	bool expected = v->now.state == GATE_UNLOCKING || v->now.state == GATE_LOCKING || v->now.state == GATE_WIPE_UNCONFIRMED ||
			v->now.state == GATE_FAULT;

	if (v->event == EV_DEK_LOADED && !expected && v->step.next.state != GATE_FAULT)
		return broken(v, "a key from nowhere was accepted");
	if ((v->event == EV_WIPED || v->event == EV_DRAINED) && gate_state_serves(v->now.state) &&
	    v->step.next.state != GATE_FAULT)
		return broken(v, "a lock that nobody ordered was accepted");
	return NULL;
}

static const char *(*const local[])(const struct visit *) = {
	p_latch_is_only_lifted_by_restore,
	p_latched_gate_never_opens,
	p_usable_is_never_latched,
	p_revoke_is_unconditional,
	p_latch_changes_are_durable,
	p_leaving_service_locks,
	p_wipe_is_left_by_confirmation,
	p_unwrap_is_cancelled,
	p_fault_kills,
	p_service_is_entered_by_proof,
	p_lease_only_in_service_by_proof,
	p_definite_refusal_locks_at_once,
	p_ambiguity_is_settled_first,
	p_budget_ends,
	p_detach_and_end,
	p_export_returns,
	p_unlock_starts_once,
	p_comes_back_by_itself,
	p_sequence,
	p_noise_is_ignored,
	p_surprising_keys_are_killed,
};

static const char *check_local(gate_rows table, const struct gate *now)
{
	struct visit v = { .table = table, .now = *now };

	for (v.event = 0; v.event < EV_COUNT; v.event++)
		for (v.cause = CAUSE_NONE; v.cause < CAUSE_COUNT; v.cause++) {
			v.step = revocation_apply(table, &v.now, v.event, v.cause);
			for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
				const char *why = local[i](&v);

				if (why != NULL)
					return why;
			}
		}
	return NULL;
}

/* Every gate there could be; a usable one is never latched (that is what the search below proves). */
static const char *check_every_pair(gate_rows table)
{
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		for (enum gate_cause c = CAUSE_NONE; c < CAUSE_COUNT; c++)
			for (enum gate_cause l = CAUSE_NONE; l < CAUSE_COUNT; l++) {
				struct gate g = { s, c, l != CAUSE_NONE, l, 7 };
				const char *why = l != CAUSE_NONE && usable(s) ? NULL : check_local(table, &g);

				if (why != NULL)
					return why;
			}
	return NULL;
}

static const char *check_rows(gate_rows table)
{
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		for (enum gate_event e = 0; e < EV_COUNT; e++) {
			const struct gate_row *row = &table[s][e];

			if (row->rule == RULE_UNWRITTEN || row->rule >= RULE_COUNT || row->why == NULL || row->why[0] == '\0') {
				snprintf(breach, sizeof breach, "%s + %s is not written", gate_state_name(s), gate_event_name(e));
				return breach;
			}
		}
	return NULL;
}

/* ---- global: what can be reached ---- */

enum { CODES = GATE_STATE_COUNT * CAUSE_COUNT * CAUSE_COUNT };

static unsigned code_of(const struct gate *g)
{
	return ((unsigned)g->state * CAUSE_COUNT + (unsigned)g->cause) * CAUSE_COUNT +
	       (unsigned)(g->latched ? g->latch_cause : 0);
}

static struct gate gate_of(unsigned code)
{
	struct gate g = { .seq = 7 };

	g.latch_cause = code % CAUSE_COUNT;
	g.latched = g.latch_cause != CAUSE_NONE;
	g.cause = code / CAUSE_COUNT % CAUSE_COUNT;
	g.state = code / CAUSE_COUNT / CAUSE_COUNT;
	return g;
}

struct search {
	bool seen[CODES];
	unsigned queue[CODES], head, tail;
};

static void search_add(struct search *s, const struct gate *g)
{
	unsigned code = code_of(g);

	if (s->seen[code])
		return;
	s->seen[code] = true;
	s->queue[s->tail++] = code;
}

static void search_run(struct search *s, gate_rows table, bool (*allowed)(enum gate_event))
{
	while (s->head < s->tail) {
		struct gate now = gate_of(s->queue[s->head++]);

		for (enum gate_event e = 0; e < EV_COUNT; e++)
			for (enum gate_cause c = CAUSE_NONE; c < CAUSE_COUNT; c++) {
				struct gate_step step = revocation_apply(table, &now, e, c);

				if (allowed == NULL || allowed(e))
					search_add(s, &step.next);
			}
	}
}

static void search_begin(struct search *s)
{
	struct gate g = revocation_initial(true, false, CAUSE_NONE, 7);

	memset(s, 0, sizeof *s);
	search_add(s, &g);
	g = revocation_initial(false, false, CAUSE_NONE, 7);
	search_add(s, &g);
	for (enum gate_cause c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++) {
		g = revocation_initial(true, true, c, 7);
		search_add(s, &g);
	}
}

static const char *broken_gate(const struct gate *g, const char *what)
{
	snprintf(breach, sizeof breach, "%s: %s(%s%s)", what, gate_state_name(g->state), gate_cause_name(g->cause),
		 g->latched ? ", latched" : "");
	return breach;
}

static bool not_restore(enum gate_event e)
{
	return e != EV_RESTORE;
}

static bool follow_up(enum gate_event e)
{
	return e == EV_WIPED || e == EV_WIPE_DEADLINE || e == EV_REAP_DEADLINE || e == EV_DATAPLANE_DEAD;
}

/* From a gate that was just revoked, each way in which a process can end leads to a state without keys. */
static const char *check_revoked_ends(gate_rows table, const struct gate *now)
{
	static const enum gate_event ways[][3] = {
		{ EV_WIPED, EV_DRAINED, EV_DATAPLANE_DEAD },
		{ EV_DATAPLANE_DEAD, EV_DATAPLANE_DEAD, EV_DATAPLANE_DEAD },
		{ EV_WIPE_DEADLINE, EV_REAP_DEADLINE, EV_DATAPLANE_DEAD },
		{ EV_WIPE_DEADLINE, EV_WIPED, EV_DATAPLANE_DEAD },
	};

	for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
		struct gate g = revocation_apply(table, now, EV_REVOKE, CAUSE_NONE).next;

		for (unsigned i = 0; i < 3; i++)
			g = revocation_apply(table, &g, ways[w][i], CAUSE_NONE).next;
		if (gate_state_has_keys(g.state) || g.state == GATE_AVAILABLE || !g.latched)
			return broken_gate(&g, "a revoke did not end without keys, latched");
	}
	return NULL;
}

/* Out of every reachable gate there is a way to service (officers and operators allowed), except where erased. */
static const char *check_way_back(gate_rows table, const struct search *all)
{
	static bool can[CODES];
	bool more = true;

	memset(can, 0, sizeof can);
	while (more) {
		more = false;
		for (unsigned i = 0; i < all->tail; i++) {
			struct gate now = gate_of(all->queue[i]);
			bool *mine = &can[all->queue[i]];

			for (enum gate_event e = 0; e < EV_COUNT && !*mine; e++) {
				struct gate_step step = revocation_apply(table, &now, e, CAUSE_NONE);

				*mine = now.state == GATE_AVAILABLE || can[code_of(&step.next)];
				more |= *mine;
			}
		}
	}
	for (unsigned i = 0; i < all->tail; i++) {
		struct gate now = gate_of(all->queue[i]);

		if (!can[all->queue[i]] && now.state != GATE_ERASED)
			return broken_gate(&now, "no way leads back to service");
	}
	return NULL;
}

static const char *check_reachable(gate_rows table)
{
	static struct search all, after;
	bool states[GATE_STATE_COUNT] = { false };

	search_begin(&all);
	search_run(&all, table, NULL);
	memset(&after, 0, sizeof after);
	for (unsigned i = 0; i < all.tail; i++) {
		struct gate g = gate_of(all.queue[i]);
		const char *why = check_revoked_ends(table, &g);

		states[g.state] = true;
		if (why == NULL && usable(g.state) && g.latched)
			why = broken_gate(&g, "usable and latched can be reached");
		if (why != NULL)
			return why;
		if (g.latched && !gate_state_has_keys(g.state))
			search_add(&after, &g);
	}
	search_run(&after, table, not_restore);
	for (unsigned i = 0; i < after.tail; i++) {
		struct gate g = gate_of(after.queue[i]);

		if (gate_state_has_keys(g.state))
			return broken_gate(&g, "keys can be reached from a latched gate without a restore");
	}
	if (check_way_back(table, &all) != NULL)
		return breach;
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		if (!states[s]) {
			snprintf(breach, sizeof breach, "%s is never reached", gate_state_name(s));
			return breach;
		}
	return NULL;
}

/* A wiping gate needs no proof, no operator and no time to end: only what the process itself does. */
static const char *check_wiping_ends_alone(gate_rows table)
{
	static struct search s;

	for (enum gate_cause c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++) {
		struct gate g = { GATE_LOCKING, c, false, CAUSE_NONE, 7 };
		bool ended = false;

		memset(&s, 0, sizeof s);
		search_add(&s, &g);
		search_run(&s, table, follow_up);
		for (unsigned i = 0; i < s.tail; i++) {
			struct gate at = gate_of(s.queue[i]);

			ended |= !gate_state_has_keys(at.state);
			if (usable(at.state))
				return broken_gate(&at, "a wipe led back to service");
		}
		if (!ended)
			return broken_gate(&g, "a wipe never ends");
	}
	return NULL;
}

const char *properties_breach(gate_rows table)
{
	const char *why = check_rows(table);

	if (why == NULL)
		why = check_every_pair(table);
	if (why == NULL)
		why = check_wiping_ends_alone(table);
	if (why == NULL)
		why = check_reachable(table);
	return why;
}
