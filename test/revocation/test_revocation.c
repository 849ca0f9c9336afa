/* The gate: the shameful cases by name, then every property over the whole table, then damaged tables, which must be caught. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "properties.h"
#include "revocation/revocation.h"

static struct gate at(enum gate_state s, enum gate_cause c)
{
	return (struct gate){ .state = s, .cause = c, .seq = 40 };
}

static struct gate latched(enum gate_state s, enum gate_cause c)
{
	return (struct gate){ .state = s, .cause = c, .latched = true, .latch_cause = c, .seq = 40 };
}

static void expect(struct gate_step step, enum gate_state state, enum gate_cause cause, uint32_t actions)
{
	assert_string_equal(gate_state_name(step.next.state), gate_state_name(state));
	assert_string_equal(gate_cause_name(step.next.cause), gate_cause_name(cause));
	assert_int_equal(step.actions & actions, actions);
}

static void revoke_during_an_unlock_kills_the_hsm_first(void **state)
{
	struct gate g = at(GATE_UNLOCKING, CAUSE_NONE);
	struct gate_step step = revocation_step(&g, EV_REVOKE, CAUSE_NONE);

	(void)state;
	expect(step, GATE_LOCKING, CAUSE_COMMANDED, ACT_CANCEL_UNWRAP | ACT_SEND_LOCK | ACT_WRITE_LATCH);
	assert_true(step.next.latched);
	assert_true(ACT_CANCEL_UNWRAP < ACT_SEND_LOCK && ACT_SEND_LOCK < ACT_WRITE_LATCH); /* effects run in bit order */
}

static void a_later_revoke_wins_during_a_wipe(void **state)
{
	struct gate g = at(GATE_LOCKING, CAUSE_DISABLED);
	struct gate_step step = revocation_step(&g, EV_REVOKE, CAUSE_NONE);

	(void)state;
	expect(step, GATE_LOCKING, CAUSE_COMMANDED, ACT_WRITE_LATCH);
	step = revocation_step(&step.next, EV_WIPED, CAUSE_NONE);
	expect(step, GATE_INACCESSIBLE, CAUSE_COMMANDED, ACT_NONE);
	step = revocation_step(&step.next, EV_PROOF_GOOD, CAUSE_NONE);
	expect(step, GATE_INACCESSIBLE, CAUSE_COMMANDED, ACT_NONE);
	assert_false(step.changed);
	assert_int_equal(step.actions, ACT_NONE);
}

static void a_delayed_restore_cannot_undo_a_second_revoke(void **state)
{
	struct gate g = latched(GATE_INACCESSIBLE, CAUSE_COMMANDED);
	struct gate_step step = revocation_step(&g, EV_REVOKE, CAUSE_NONE);

	(void)state;
	assert_false(step.changed);
	assert_int_equal(step.next.seq, g.seq + 1);
	assert_int_equal(step.actions & ACT_WRITE_LATCH, ACT_WRITE_LATCH);
}

static void ambiguity_then_outage_then_lock(void **state)
{
	struct gate g = at(GATE_AVAILABLE, CAUSE_NONE);
	struct gate_step step = revocation_step(&g, EV_PROOF_AMBIGUOUS, CAUSE_NONE);

	(void)state;
	expect(step, GATE_SUSPECT, CAUSE_UNREACHABLE, ACT_PROBE_FRESH);
	step = revocation_step(&step.next, EV_FRESH_AMBIGUOUS, CAUSE_NONE);
	expect(step, GATE_OUTAGE, CAUSE_UNREACHABLE, ACT_START_OUTAGE);
	expect(revocation_step(&step.next, EV_PROOF_GOOD, CAUSE_NONE), GATE_AVAILABLE, CAUSE_NONE,
	       ACT_EXTEND_LEASE | ACT_STOP_OUTAGE);
	expect(revocation_step(&step.next, EV_FRESH_REFUSED, CAUSE_DELETED), GATE_LOCKING, CAUSE_DELETED, ACT_SEND_LOCK);
	expect(revocation_step(&step.next, EV_OUTAGE_OVER, CAUSE_NONE), GATE_LOCKING, CAUSE_UNREACHABLE, ACT_SEND_LOCK);
}

static void a_lock_that_is_not_confirmed_kills(void **state)
{
	struct gate g = at(GATE_LOCKING, CAUSE_DISABLED);
	struct gate_step step = revocation_step(&g, EV_WIPE_DEADLINE, CAUSE_NONE);

	(void)state;
	expect(step, GATE_WIPE_UNCONFIRMED, CAUSE_DISABLED, ACT_KILL_DATAPLANE);
	expect(revocation_step(&step.next, EV_REAP_DEADLINE, CAUSE_NONE), GATE_WIPE_UNCONFIRMED, CAUSE_DISABLED, ACT_ALARM);
	expect(revocation_step(&step.next, EV_DATAPLANE_DEAD, CAUSE_NONE), GATE_INACCESSIBLE, CAUSE_DISABLED,
	       ACT_START_DATAPLANE);
}

static void a_detach_ends_in_locked_and_keeps_a_latch(void **state)
{
	struct gate g = at(GATE_AVAILABLE, CAUSE_NONE);
	struct gate_step step = revocation_step(&g, EV_DETACH, CAUSE_NONE);

	(void)state;
	expect(step, GATE_LOCKING, CAUSE_DETACHED, ACT_SEND_LOCK);
	expect(revocation_step(&step.next, EV_WIPED, CAUSE_NONE), GATE_LOCKED, CAUSE_NONE, ACT_STOP_DATAPLANE);
	expect(revocation_step(&step.next, EV_DATAPLANE_DEAD, CAUSE_NONE), GATE_LOCKED, CAUSE_NONE, ACT_STOP_DATAPLANE);
	g = latched(GATE_INACCESSIBLE, CAUSE_TAMPER);
	step = revocation_step(&g, EV_DETACH, CAUSE_NONE);
	expect(step, GATE_LOCKED, CAUSE_TAMPER, ACT_STOP_DATAPLANE);
	assert_true(step.next.latched);
	step = revocation_step(&step.next, EV_ATTACH, CAUSE_NONE);
	expect(step, GATE_INACCESSIBLE, CAUSE_TAMPER, ACT_START_DATAPLANE);
	assert_int_equal(step.actions & ACT_START_UNLOCK, 0);
}

static void a_lost_record_is_latched(void **state)
{
	struct gate g = revocation_initial(false, false, CAUSE_NONE, 3);

	(void)state;
	assert_true(g.latched);
	expect(revocation_step(&g, EV_ATTACH, CAUSE_NONE), GATE_INACCESSIBLE, CAUSE_RECORD_LOST, ACT_START_DATAPLANE);
	g = revocation_step(&g, EV_RESTORE, CAUSE_NONE).next;
	assert_false(g.latched);
	expect(revocation_step(&g, EV_ATTACH, CAUSE_NONE), GATE_UNLOCKING, CAUSE_NONE, ACT_START_UNLOCK | ACT_START_DATAPLANE);
	assert_true(revocation_initial(true, true, CAUSE_COUNT, 3).latched);
	assert_int_equal(revocation_initial(true, true, CAUSE_COUNT, 3).latch_cause, CAUSE_RECORD_LOST);
}

static void damage_latches_and_weather_does_not(void **state)
{
	struct gate g = at(GATE_UNLOCKING, CAUSE_NONE);

	(void)state;
	assert_true(revocation_step(&g, EV_RECOVERY_REFUSED, CAUSE_INTEGRITY).next.latched);
	assert_false(revocation_step(&g, EV_RECOVERY_REFUSED, CAUSE_ENGINE).next.latched);
}

static void a_refusal_without_a_cause_is_still_a_refusal(void **state)
{
	struct gate g = at(GATE_AVAILABLE, CAUSE_NONE);

	(void)state;
	expect(revocation_step(&g, EV_PROOF_REFUSED, CAUSE_NONE), GATE_LOCKING, CAUSE_MODULE_BROKEN, ACT_SEND_LOCK);
	expect(revocation_step(&g, EV_PROOF_REFUSED, CAUSE_DETACHED), GATE_LOCKING, CAUSE_MODULE_BROKEN, ACT_SEND_LOCK);
	expect(revocation_step(&g, EV_PROOF_REFUSED, CAUSE_COUNT + 9), GATE_LOCKING, CAUSE_MODULE_BROKEN, ACT_SEND_LOCK);
}

static void nonsense_is_fault(void **state)
{
	struct gate g = at(GATE_STATE_COUNT, CAUSE_NONE);
	struct gate_row row;

	(void)state;
	expect(revocation_step(&g, EV_PROOF_GOOD, CAUSE_NONE), GATE_FAULT, CAUSE_ENGINE, ACT_KILL_DATAPLANE | ACT_RECORD_DEFECT);
	g = at(GATE_AVAILABLE, CAUSE_NONE);
	expect(revocation_step(&g, EV_COUNT, CAUSE_NONE), GATE_FAULT, CAUSE_ENGINE, ACT_KILL_DATAPLANE | ACT_RECORD_DEFECT);
	assert_false(revocation_row(GATE_STATE_COUNT, EV_ATTACH, &row));
	assert_false(revocation_row(GATE_LOCKED, EV_COUNT, &row));
}

static void the_same_refusal_each_second_is_silent(void **state)
{
	struct gate g = at(GATE_INACCESSIBLE, CAUSE_UNREACHABLE);
	struct gate_step step = revocation_step(&g, EV_PROOF_REFUSED, CAUSE_DISABLED);

	(void)state;
	expect(step, GATE_INACCESSIBLE, CAUSE_DISABLED, ACT_AUDIT | ACT_ALERT);
	step = revocation_step(&step.next, EV_PROOF_REFUSED, CAUSE_DISABLED);
	assert_false(step.changed);
	assert_int_equal(step.actions, ACT_NONE);
}

static void every_word_is_there_and_once(void **state)
{
	(void)state;
	for (enum gate_cause c = 0; c < CAUSE_COUNT; c++) {
		assert_true(strlen(gate_cause_remedy(c)) > 10);
		assert_string_equal(gate_remedy(c, false), gate_cause_remedy(c));
		assert_non_null(strstr(gate_remedy(c, true), "an officer's restore"));
		assert_null(strstr(gate_remedy(c, true), "next good proof"));
		if (gate_cause_latches(c))
			assert_string_equal(gate_remedy(c, true), gate_cause_remedy(c));
		for (enum gate_cause d = 0; d < c; d++)
			assert_string_not_equal(gate_cause_name(c), gate_cause_name(d));
	}
	for (enum gate_event e = 0; e < EV_COUNT; e++)
		for (enum gate_event f = 0; f < e; f++)
			assert_string_not_equal(gate_event_name(e), gate_event_name(f));
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		for (enum gate_state t = 0; t < s; t++)
			assert_string_not_equal(gate_state_name(s), gate_state_name(t));
	assert_string_equal(gate_action_name(ACT_CANCEL_UNWRAP), "cancel-unwrap");
	assert_string_equal(gate_action_name(ACT_ALARM), "alarm");
	assert_string_equal(gate_action_name(ACT_REATTACH), "reattach");
	assert_string_equal(gate_action_name(ACT_REATTACH << 1), "?");
}

static void the_table_keeps_every_property(void **state)
{
	const char *why = properties_breach(revocation_table);

	(void)state;
	if (why != NULL)
		fail_msg("%s", why);
}

/* ---- damaged tables ---- */

struct mutant {
	enum gate_state state;
	enum gate_event event;
	enum gate_state next;
	uint32_t drop, add; /* actions */
	uint8_t rule;       /* enum gate_rule */
};

#define SAME_RULE RULE_UNWRITTEN

/* clang-format off */
static const struct mutant mutants[] = {
	{ GATE_AVAILABLE,        EV_REVOKE,              GATE_AVAILABLE,    0,                   0, SAME_RULE },      /* revoke ignored */
	{ GATE_AVAILABLE,        EV_REVOKE,              GATE_LOCKING,      ACT_SEND_LOCK,       0, SAME_RULE },      /* nobody told to wipe */
	{ GATE_OUTAGE,           EV_REVOKE,              GATE_INACCESSIBLE, 0,                   0, SAME_RULE },      /* round the wipe */
	{ GATE_UNLOCKING,        EV_REVOKE,              GATE_LOCKING,      ACT_CANCEL_UNWRAP,   0, SAME_RULE },      /* a late unwrap */
	{ GATE_UNLOCKING,        EV_UNLOCK_DEADLINE,     GATE_LOCKING,      ACT_CANCEL_UNWRAP,   0, SAME_RULE },
	{ GATE_LOCKING,          EV_REVOKE,              GATE_LOCKING,      0,                   0, RULE_KEEP },      /* the later revoke lost */
	{ GATE_LOCKED,           EV_REVOKE,              GATE_LOCKED,       0,                   0, RULE_KEEP },
	{ GATE_FAULT,            EV_REVOKE,              GATE_FAULT,        0,                   0, RULE_KEEP },
	{ GATE_INACCESSIBLE,     EV_PROOF_GOOD,          GATE_UNLOCKING,    0,                   0, RULE_CLEAR },     /* opens a latch */
	{ GATE_INACCESSIBLE,     EV_FRESH_GOOD,          GATE_INACCESSIBLE, ACT_START_UNLOCK,    0, RULE_KEEP },      /* never back */
	{ GATE_INACCESSIBLE,     EV_PIN_RENEWED,         GATE_UNLOCKING,    0,                   0, RULE_OPEN },      /* opens too much */
	{ GATE_INACCESSIBLE,     EV_DETACH,              GATE_LOCKED,       0,                   0, RULE_RESTORE },   /* detach clears a latch */
	{ GATE_LOCKED,           EV_ATTACH,              GATE_UNLOCKING,    0,                   0, RULE_CLEAR },     /* attach under a latch */
	{ GATE_AVAILABLE,        EV_PROOF_REFUSED,       GATE_SUSPECT,      0,                   0, SAME_RULE },      /* a definite no, doubted */
	{ GATE_OUTAGE,           EV_FRESH_REFUSED,       GATE_OUTAGE,       0,                   0, RULE_KEEP },
	{ GATE_AVAILABLE,        EV_PROOF_AMBIGUOUS,     GATE_LOCKING,      0,       ACT_SEND_LOCK, SAME_RULE },      /* locks on a hiccup */
	{ GATE_AVAILABLE,        EV_PROOF_AMBIGUOUS,     GATE_AVAILABLE,    0,                   0, RULE_KEEP },      /* or shrugs */
	{ GATE_SUSPECT,          EV_FRESH_AMBIGUOUS,     GATE_SUSPECT,      0,                   0, RULE_KEEP },
	{ GATE_SUSPECT,          EV_FRESH_AMBIGUOUS,     GATE_OUTAGE,       ACT_START_OUTAGE,    0, SAME_RULE },      /* budget never begun */
	{ GATE_OUTAGE,           EV_OUTAGE_OVER,         GATE_OUTAGE,       0,                   0, RULE_KEEP },      /* budget without an end */
	{ GATE_OUTAGE,           EV_PROOF_GOOD,          GATE_AVAILABLE,    ACT_STOP_OUTAGE,     0, SAME_RULE },
	{ GATE_SUSPECT,          EV_REVOKE,              GATE_LOCKING,      ACT_STOP_OUTAGE,     0, SAME_RULE },
	{ GATE_AVAILABLE,        EV_PROOF_GOOD,          GATE_AVAILABLE,    ACT_EXTEND_LEASE,    0, SAME_RULE },
	{ GATE_AVAILABLE,        EV_PROOF_AMBIGUOUS,     GATE_SUSPECT,      0,    ACT_EXTEND_LEASE, SAME_RULE },      /* a lease for nothing */
	{ GATE_LOCKING,          EV_WIPE_DEADLINE,       GATE_INACCESSIBLE, ACT_KILL_DATAPLANE,  0, SAME_RULE },      /* believed wiped */
	{ GATE_LOCKING,          EV_WIPE_DEADLINE,       GATE_LOCKING,      0,                   0, RULE_KEEP },
	{ GATE_LOCKING,          EV_DEK_LOADED,          GATE_AVAILABLE,    0,                   0, RULE_CLEAR },     /* the wipe undone */
	{ GATE_LOCKING,          EV_WIPED,               GATE_INACCESSIBLE, 0,                   0, RULE_KEEP },      /* a detach never ends */
	{ GATE_WIPE_UNCONFIRMED, EV_REAP_DEADLINE,       GATE_INACCESSIBLE, 0,                   0, SAME_RULE },
	{ GATE_AVAILABLE,        EV_DEK_LOADED,          GATE_FAULT,        ACT_KILL_DATAPLANE,  0, SAME_RULE },
	{ GATE_INACCESSIBLE,     EV_DEK_LOADED,          GATE_AVAILABLE,    0,    ACT_EXTEND_LEASE, RULE_CLEAR },     /* a key from nowhere */
	{ GATE_FAULT,            EV_PROOF_GOOD,          GATE_UNLOCKING,    0,    ACT_START_UNLOCK, RULE_OPEN },
	{ GATE_AVAILABLE,        EV_DATAPLANE_DEAD,      GATE_AVAILABLE,    0,                   0, RULE_KEEP },
	{ GATE_INACCESSIBLE,     EV_DATAPLANE_DEAD,      GATE_INACCESSIBLE, ACT_START_DATAPLANE, 0, SAME_RULE },
	{ GATE_INACCESSIBLE,     EV_RESTORE,             GATE_UNLOCKING,    ACT_CLEAR_LATCH,     0, SAME_RULE },
	{ GATE_ERASED,           EV_RESTORE,             GATE_LOCKED,       0,                   0, RULE_RESTORE },
	{ GATE_PURGED,           EV_RESTORE,             GATE_PURGED,       0,                   0, RULE_KEEP },
	{ GATE_PURGED,           EV_ATTACH,              GATE_UNLOCKING,    0,    ACT_START_UNLOCK, RULE_CLEAR },
	{ GATE_SUSPECT,          EV_LATE_ANSWER,         GATE_AVAILABLE,    0,                   0, RULE_CLEAR },
	{ GATE_OUTAGE,           EV_MGMT_DEAD,           GATE_LOCKING,      0,       ACT_SEND_LOCK, RULE_SET },
	{ GATE_SUSPECT,          EV_PROOF_GOOD,          GATE_SUSPECT,      0,                   0, RULE_COUNT },     /* not written */
};
/* clang-format on */

static void every_mutant_is_caught(void **state)
{
	static struct gate_row copy[GATE_STATE_COUNT][EV_COUNT];

	(void)state;
	for (size_t i = 0; i < sizeof mutants / sizeof mutants[0]; i++) {
		const struct mutant *m = &mutants[i];
		struct gate_row *row = &copy[m->state][m->event];
		const char *why;

		memcpy(copy, revocation_table, sizeof copy);
		row->next = m->next;
		row->actions = (row->actions & ~m->drop) | m->add;
		if (m->rule != SAME_RULE)
			row->rule = m->rule;
		why = properties_breach((gate_rows)copy);
		if (why == NULL)
			fail_msg("mutant %zu (%s + %s) was not caught", i, gate_state_name(m->state), gate_event_name(m->event));
	}
}

/* A row rubbed out, anywhere, is noticed. */
static void a_missing_row_is_caught_anywhere(void **state)
{
	static struct gate_row copy[GATE_STATE_COUNT][EV_COUNT];

	(void)state;
	for (unsigned s = 0; s < GATE_STATE_COUNT; s++)
		for (unsigned e = 0; e < EV_COUNT; e++) {
			struct gate g = at(s, CAUSE_NONE);

			memcpy(copy, revocation_table, sizeof copy);
			memset(&copy[s][e], 0, sizeof copy[s][e]);
			assert_non_null(properties_breach((gate_rows)copy));
			assert_int_equal(revocation_apply((gate_rows)copy, &g, e, CAUSE_NONE).next.state, GATE_FAULT);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(revoke_during_an_unlock_kills_the_hsm_first),
		cmocka_unit_test(a_later_revoke_wins_during_a_wipe),
		cmocka_unit_test(a_delayed_restore_cannot_undo_a_second_revoke),
		cmocka_unit_test(ambiguity_then_outage_then_lock),
		cmocka_unit_test(a_lock_that_is_not_confirmed_kills),
		cmocka_unit_test(a_detach_ends_in_locked_and_keeps_a_latch),
		cmocka_unit_test(a_lost_record_is_latched),
		cmocka_unit_test(damage_latches_and_weather_does_not),
		cmocka_unit_test(a_refusal_without_a_cause_is_still_a_refusal),
		cmocka_unit_test(nonsense_is_fault),
		cmocka_unit_test(the_same_refusal_each_second_is_silent),
		cmocka_unit_test(every_word_is_there_and_once),
		cmocka_unit_test(the_table_keeps_every_property),
		cmocka_unit_test(every_mutant_is_caught),
		cmocka_unit_test(a_missing_row_is_caught_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
