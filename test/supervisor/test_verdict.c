/* What an hsm's answer means, and who may say what: tables against tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "supervisor/challenge.h"
#include "supervisor/permit.h"
#include "supervisor/verdict.h"
#include "supervisor/wallclock.h"

enum { NOON = 1700049600 }; /* 2023-11-15 12:00 UTC */

static struct kek_record rsa_pins(void)
{
	struct kek_record k = { .type = KEK_RSA_OAEP, .hash = OAEP_SHA256, .modulus_size = 256, .exponent_size = 3 };

	memset(k.modulus, 0xc5, 256);
	memcpy(k.exponent, "\1\0\1", 3);
	fingerprint_rsa(k.fingerprint, k.modulus, 256, k.exponent, 3);
	return k;
}

static struct msg_hsm_opened rsa_opened(void)
{
	struct msg_hsm_opened o = { .verdict = VERDICT_GOOD, .type = KEK_RSA_OAEP, .modulus_size = 256, .exponent_size = 3 };

	memset(o.modulus, 0xc5, 256);
	memcpy(o.exponent, "\1\0\1", 3);
	return o;
}

static void only_the_right_answer_is_good(void **state)
{
	struct kek_record pins = rsa_pins();
	struct msg_hsm_verdict v = { .verdict = VERDICT_GOOD };
	uint8_t challenge[CHALLENGE_BYTES];
	struct judgement j;

	(void)state;
	memset(challenge, 0x77, sizeof challenge);
	memcpy(v.answer, challenge, sizeof challenge);
	judge_probe(&j, &pins, challenge, &v, NOON);
	assert_int_equal(j.proof, PROOF_GOOD);
	for (unsigned bit = 0; bit < 8 * CHALLENGE_BYTES; bit++) {
		v.answer[bit / 8] ^= (uint8_t)(1u << bit % 8);
		judge_probe(&j, &pins, challenge, &v, NOON);
		assert_int_equal(j.proof, PROOF_REFUSED);
		assert_int_equal(j.cause, CAUSE_REPLACED);
		v.answer[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void an_aes_canary_is_known_by_its_fingerprint(void **state)
{
	struct kek_record pins = { .type = KEK_AES_KW, .canary_size = 40 };
	struct msg_hsm_verdict v = { .verdict = VERDICT_GOOD };
	uint8_t unused[CHALLENGE_BYTES] = { 0 };
	struct judgement j;

	(void)state;
	memset(v.answer, 0x42, sizeof v.answer);
	fingerprint_aes(pins.fingerprint, v.answer);
	judge_probe(&j, &pins, unused, &v, NOON);
	assert_int_equal(j.proof, PROOF_GOOD);
	v.answer[31] ^= 1;
	judge_probe(&j, &pins, unused, &v, NOON);
	assert_int_equal(j.cause, CAUSE_REPLACED);
}

static void every_verdict_has_its_meaning(void **state)
{
	struct judgement j;
	struct msg_hsm_verdict v;

	(void)state;
	for (unsigned i = 0; i < VERDICT_COUNT; i++) {
		memset(&v, 0, sizeof v);
		v.verdict = (uint8_t)i;
		judge_ticket(&j, &v);
		assert_int_equal(j.proof, i == VERDICT_GOOD          ? PROOF_GOOD
					  : i == VERDICT_UNREACHABLE ? PROOF_AMBIGUOUS
								     : PROOF_REFUSED);
		assert_int_equal(j.cause == CAUSE_NONE, i == VERDICT_GOOD);
		assert_false(gate_cause_latches(j.cause)); /* an HSM cannot latch a gate */
		assert_int_equal(j.text[0] == '\0', i == VERDICT_GOOD);
	}
	assert_int_equal(verdict_proof(VERDICT_COUNT), PROOF_REFUSED);
	judge_lost(&j, "gone");
	assert_int_equal(j.proof, PROOF_AMBIGUOUS);
	assert_int_equal(judgement_error(&j), ERR_UNREACHABLE);
}

static void another_key_in_its_place_is_noticed(void **state)
{
	struct kek_record pins = rsa_pins();
	struct msg_hsm_opened o = rsa_opened();
	struct judgement j;

	(void)state;
	judge_opened(&j, &pins, &o, NOON);
	assert_int_equal(j.proof, PROOF_GOOD);
	o.modulus[100] ^= 4;
	judge_opened(&j, &pins, &o, NOON);
	assert_int_equal(j.cause, CAUSE_REPLACED);
	judge_opened(&j, NULL, &o, NOON); /* at enrolment any fit key will do */
	assert_int_equal(j.proof, PROOF_GOOD);
	o = rsa_opened();
	o.type = KEK_AES_KW;
	judge_opened(&j, &pins, &o, NOON);
	assert_int_equal(j.cause, CAUSE_REPLACED);
	o = rsa_opened();
	o.modulus_size = 128;
	judge_opened(&j, NULL, &o, NOON);
	assert_int_equal(j.proof, PROOF_REFUSED);
}

static void leading_zeroes_are_not_another_key(void **state)
{
	uint8_t a[FINGERPRINT_BYTES], b[FINGERPRINT_BYTES], padded[257] = { 0 }, exponent[4] = { 0, 1, 0, 1 };

	(void)state;
	memset(padded + 1, 0xc5, 256);
	fingerprint_rsa(a, padded, 257, exponent, 4);
	fingerprint_rsa(b, padded + 1, 256, exponent + 1, 3);
	assert_memory_equal(a, b, sizeof a);
}

static void dates_are_days_and_both_ends_are_inside(void **state)
{
	static const struct {
		const char *start, *end;
		enum gate_cause cause;
	} rows[] = {
		{ "", "", CAUSE_NONE },
		{ "20231115", "20231115", CAUSE_NONE },
		{ "20231116", "", CAUSE_NOT_YET_VALID },
		{ "", "20231114", CAUSE_EXPIRED },
		{ "20240101", "20200101", CAUSE_EXPIRED },
		{ "20200101", "20991231", CAUSE_NONE },
	};
	struct kek_record pins = rsa_pins();
	struct judgement j;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct msg_hsm_opened o = rsa_opened();

		strcpy(o.start_date, rows[i].start);
		strcpy(o.end_date, rows[i].end);
		judge_opened(&j, &pins, &o, NOON);
		assert_int_equal(j.cause, rows[i].cause);
	}
}

static void a_forged_text_cannot_forge_a_line(void **state)
{
	struct msg_hsm_verdict v = { .verdict = VERDICT_DISABLED, .text = "off\nfallgated: all is well" };
	struct judgement j;

	(void)state;
	judge_ticket(&j, &v);
	assert_string_equal(j.text, "off?fallgated: all is well");
}

static void a_challenge_is_fresh_and_of_the_keys_size(void **state)
{
	struct kek_record pins = rsa_pins();
	uint8_t a[CHALLENGE_BYTES], b[CHALLENGE_BYTES], x[WRAP_MAX_BYTES], y[WRAP_MAX_BYTES];
	uint16_t size;

	(void)state;
	pins.modulus[255] |= 1;
	for (uint8_t hash = OAEP_SHA256; hash <= OAEP_SHA1; hash++) {
		pins.hash = hash;
		assert_int_equal(challenge_make(&pins, a, x, &size), 0);
		assert_int_equal(size, 256);
		assert_int_equal(challenge_make(&pins, b, y, &size), 0);
		assert_memory_not_equal(a, b, sizeof a);
		assert_memory_not_equal(x, y, 256);
	}
	pins.modulus_size = 100;
	assert_int_equal(challenge_make(&pins, a, x, &size), ERR_RANGE);
	pins = rsa_pins();
	pins.exponent_size = 0;
	assert_int_equal(challenge_make(&pins, a, x, &size), ERR_UNSUPPORTED);
}

/* ---- the clock ---- */

static void a_clock_set_back_is_not_believed(void **state)
{
	const uint64_t noon = NOON * SEC_NS, boot = 1000 * SEC_NS;
	struct wallclock w = { .last_seen_ns = noon, .offset_ns = (int64_t)(noon - boot) };

	(void)state;
	assert_int_equal(wallclock_judge(&w, noon + SEC_NS, boot + SEC_NS), WALL_STEADY);
	assert_int_equal(wallclock_judge(&w, noon - 60 * SEC_NS, boot + 2 * SEC_NS), WALL_JUMPED); /* a small correction */
	assert_int_equal(wallclock_judge(&w, noon - 3600 * SEC_NS, boot + 3 * SEC_NS), WALL_UNTRUSTED);
	assert_int_equal(wallclock_judge(&w, noon - 3599 * SEC_NS, boot + 4 * SEC_NS), WALL_UNTRUSTED); /* and stays so */
	assert_int_equal(wallclock_judge(&w, noon + 5 * SEC_NS, boot + 5 * SEC_NS), WALL_JUMPED);
	assert_int_equal(wallclock_judge(&w, noon + 6 * SEC_NS, boot + 6 * SEC_NS), WALL_STEADY);
	assert_int_equal(wallclock_judge(&w, noon + 86400 * SEC_NS, boot + 7 * SEC_NS),
			 WALL_JUMPED); /* a machine that slept, or a set clock */
}

/* ---- the permit table ---- */

/* The whole table again, written the other way round: per peer and stage, what may come. */
static const struct {
	enum peer peer;
	enum stage stage;
	enum message_type types[8];
} allowed[] = {
	{ PEER_HSM, STAGE_NEW, { MSG_HELLO } },
	{ PEER_HSM, STAGE_OPENING, { MSG_HSM_OPENED } },
	{ PEER_HSM, STAGE_PROBING, { MSG_HSM_VERDICT } },
	{ PEER_HSM, STAGE_TICKET, { MSG_HSM_VERDICT } },
	{ PEER_DATAPLANE, STAGE_NEW, { MSG_HELLO } },
	{ PEER_DATAPLANE, STAGE_ATTACHING, { MSG_DP_READY, MSG_DP_EVENT, MSG_DP_STATS } },
	{ PEER_DATAPLANE, STAGE_REFUSED, { MSG_DP_EVENT, MSG_DP_STATS } },
	{ PEER_DATAPLANE, STAGE_KEYLESS, { MSG_DP_WIPED, MSG_DP_EVENT, MSG_DP_STATS } },
	{ PEER_DATAPLANE, STAGE_UNLOCKING, { MSG_DP_OPENED, MSG_DP_WIPED, MSG_DP_EVENT, MSG_DP_STATS } },
	{ PEER_DATAPLANE, STAGE_SERVING, { MSG_DP_WIPED, MSG_DP_EVENT, MSG_DP_STATS } },
	{ PEER_DATAPLANE, STAGE_LOCKING, { MSG_DP_READY, MSG_DP_OPENED, MSG_DP_WIPED, MSG_DP_EVENT, MSG_DP_STATS } },
	{ PEER_DATAPLANE, STAGE_WIPED, { MSG_DP_DRAINED, MSG_DP_EVENT, MSG_DP_STATS } },
	{ PEER_DATAPLANE, STAGE_DRAINED, { MSG_DP_READY, MSG_DP_EVENT } },
	{ PEER_CREATOR, STAGE_NEW, { MSG_HELLO } },
	{ PEER_CREATOR, STAGE_CREATING, { MSG_DP_CREATED } },
	{ PEER_JOB, STAGE_NEW, { MSG_HELLO } },
	{ PEER_JOB, STAGE_ATTACHING, { MSG_DP_READY } },
	{ PEER_JOB, STAGE_UNLOCKING, { MSG_DP_WIPED } },
	{ PEER_JOB, STAGE_SERVING, { MSG_DP_WIPED } },
	{ PEER_JOB, STAGE_LOCKING, { MSG_DP_WIPED } },
	{ PEER_JOB, STAGE_WIPED, { MSG_DP_JOB_DONE } },
	{ PEER_MGMT, STAGE_NEW, { MSG_HELLO } },
	{ PEER_HOOKS, STAGE_NEW, { MSG_HELLO } },
	{ PEER_MGMT, STAGE_TALKING, { MSG_MG_REQUEST } },
	{ PEER_BROKER, STAGE_NEW, { MSG_HELLO } },
	{ PEER_BROKER, STAGE_TALKING, { MSG_UB_READY, MSG_UB_STARTED, MSG_UB_GONE } },
	{ PEER_TPM, STAGE_NEW, { MSG_HELLO } },
	{ PEER_TPM, STAGE_ASKED, { MSG_TP_REPLY } },
	{ PEER_CONSOLE, STAGE_TALKING, { MSG_CON_REQUEST, MSG_CON_JOB, MSG_CON_SEAL_PIN } },
};

static bool listed(enum peer peer, enum stage stage, enum message_type type)
{
	for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++)
		for (unsigned k = 0;
		     allowed[i].peer == peer && allowed[i].stage == stage && k < 8 && allowed[i].types[k] != MSG_NONE; k++)
			if (allowed[i].types[k] == type)
				return true;
	return false;
}

static void everything_else_kills(void **state)
{
	(void)state;
	for (enum peer p = 0; p < PEER_COUNT; p++)
		for (enum stage s = 0; s < STAGE_COUNT; s++)
			for (enum message_type t = 0; t < MSG_TYPE_COUNT; t++)
				if (permit_allows(p, s, t) != listed(p, s, t))
					fail_msg("peer %d, stage %s, message %d", p, stage_name(s), t);
	assert_false(permit_allows(PEER_HSM, STAGE_COUNT, MSG_HELLO));
	assert_false(permit_allows(PEER_COUNT, STAGE_NEW, MSG_HELLO));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_the_right_answer_is_good),
		cmocka_unit_test(another_key_in_its_place_is_noticed),
		cmocka_unit_test(an_aes_canary_is_known_by_its_fingerprint),
		cmocka_unit_test(every_verdict_has_its_meaning),
		cmocka_unit_test(leading_zeroes_are_not_another_key),
		cmocka_unit_test(dates_are_days_and_both_ends_are_inside),
		cmocka_unit_test(a_forged_text_cannot_forge_a_line),
		cmocka_unit_test(a_challenge_is_fresh_and_of_the_keys_size),
		cmocka_unit_test(a_clock_set_back_is_not_believed),
		cmocka_unit_test(everything_else_kills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
