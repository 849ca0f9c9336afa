/* The real fallgate-hsm with SoftHSM2 (behind the module that fails on order) and with NSS: what it says of keys
 * that work, are disabled, deleted, replaced or hidden, and whom it refuses to unwrap for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "exchange.h"
#include "rig.h"

static struct message canary; /* of the last AES key that was probed for the first time */

static struct rig *fresh(void **state)
{
	struct rig *r = *state;

	rig_stop(r);
	return r;
}

static enum hsm_verdict open_verdict(struct rig *r, const char *object, struct message *opened)
{
	rig_start(r, false);
	rig_open(r, object, "pin", true, opened);
	return opened->body.hsm_opened.verdict;
}

static void open_good(struct rig *r, const char *object, struct message *opened)
{
	if (open_verdict(r, object, opened) != VERDICT_GOOD)
		fail_msg("%s: %s", object, opened->body.hsm_opened.text);
}

/* A first proof: for AES, one that makes the canary. */
static void prove_first(struct rig *r, const struct message *opened)
{
	struct message none = { 0 };
	enum hsm_verdict v = rig_probe(r, opened, &none, &canary);

	if (v != VERDICT_GOOD)
		fail_msg("%s", canary.body.hsm_verdict.text);
}

static enum hsm_verdict prove(struct rig *r, const struct message *opened)
{
	struct message answer;
	enum hsm_verdict v = rig_probe(r, opened, &canary, &answer);

	/* Every refusal says what, where and what to do. */
	assert_true(v == VERDICT_GOOD || strlen(answer.body.hsm_verdict.text) > 20);
	assert_null(strstr(answer.body.hsm_verdict.text, "24681357"));
	return v;
}

/* ---- one data key ---- */

static void start_one_shot(struct rig *r, const char *object, struct message *opened)
{
	rig_start(r, true);
	rig_open(r, object, "pin", true, opened);
	if (opened->body.hsm_opened.verdict != VERDICT_GOOD)
		fail_msg("%s: %s", object, opened->body.hsm_opened.text);
}

/* Makes a data key: its payload and its wrap. */
static void wrap_one(struct rig *r, const char *object, uint8_t payload[static PAYLOAD], struct msg_page_done *wrapped)
{
	struct message opened;
	struct exchange x;
	uint8_t before[PAYLOAD];

	start_one_shot(r, object, &opened);
	exchange_new(r, &x, &opened, true);
	exchange_fill(&x, before);
	if (exchange_run(r, &x) != VERDICT_GOOD)
		fail_msg("%s", x.verdict.body.hsm_verdict.text);
	memcpy(payload, x.page.base, PAYLOAD);
	assert_memory_not_equal(payload, before, 32);                 /* the token's random was stirred in */
	assert_memory_equal(payload + 32, before + 32, PAYLOAD - 32); /* the bind was not touched */
	assert_true(exchange_zero_from(&x, PAYLOAD));
	*wrapped = x.done.body.page_done;
	exchange_free(&x);
}

/* Unwraps a blob: the verdict, and what the page holds then. */
static enum hsm_verdict unwrap_one(struct rig *r, const char *object, const uint8_t *blob, uint16_t size,
				   uint8_t payload[static PAYLOAD])
{
	struct message opened;
	struct exchange x;
	enum hsm_verdict v;

	start_one_shot(r, object, &opened);
	exchange_new(r, &x, &opened, false);
	x.page_half.body.page.wrapped_size = size;
	memcpy(x.page_half.body.page.wrapped, blob, size);
	v = exchange_run(r, &x);
	memcpy(payload, x.page.base, PAYLOAD);
	assert_true(exchange_zero_from(&x, v == VERDICT_GOOD ? PAYLOAD : 0));
	exchange_free(&x);
	return v;
}

static void whole_life(struct rig *r, const char *object, enum kek_type type, unsigned bits)
{
	uint8_t made[PAYLOAD], back[PAYLOAD];
	struct msg_page_done wrapped;
	struct message opened;

	open_good(r, object, &opened);
	assert_int_equal(opened.body.hsm_opened.type, type);
	assert_int_equal(opened.body.hsm_opened.bits, bits);
	assert_int_equal(opened.body.hsm_opened.modulus_size, type == KEK_RSA_OAEP ? bits / 8 : 0);
	assert_true(opened.body.hsm_opened.software_token);
	assert_string_equal(opened.body.hsm_opened.token_label, "cust omer");
	prove_first(r, &opened);
	for (int i = 0; i < 3; i++)
		assert_int_equal(prove(r, &opened), VERDICT_GOOD);
	wrap_one(r, object, made, &wrapped);
	assert_int_equal(wrapped.wrapped_size, type == KEK_RSA_OAEP ? bits / 8 : PAYLOAD + 8);
	assert_int_equal(unwrap_one(r, object, wrapped.wrapped, wrapped.wrapped_size, back), VERDICT_GOOD);
	assert_memory_equal(back, made, PAYLOAD);
}

/* ---- keys that work ---- */

static void softhsm_keys_open_prove_wrap_and_unwrap(void **state)
{
	struct rig *r = fresh(state);

	whole_life(r, "object=rsa2048", KEK_RSA_OAEP, 2048);
	whole_life(r, "object=rsa3072;type=private", KEK_RSA_OAEP, 3072);
	whole_life(r, "id=%04%96", KEK_RSA_OAEP, 4096);
	whole_life(r, "object=aes256", KEK_AES_KW, 256);
}

static void nss_keys_open_prove_wrap_and_unwrap(void **state)
{
	struct rig *r = fresh(state);

	whole_life(r, "object=rsa2048", KEK_RSA_OAEP, 2048);
	whole_life(r, "object=aes256", KEK_AES_KW, 256);
}

/* SoftHSM2 has OAEP with SHA-1 only: the supervisor learns that at enrolment. */
static void a_hash_that_the_token_lacks_is_the_modules_fault(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;

	open_good(r, "object=rsa2048", &opened);
	r->hash = OAEP_SHA256;
	assert_int_equal(prove(r, &opened), VERDICT_MODULE_BROKEN);
	r->hash = OAEP_SHA1;
	assert_int_equal(prove(r, &opened), VERDICT_GOOD);
}

/* ---- keys that were taken away ---- */

static void check_disabled(struct rig *r, const char *object, const char *label)
{
	struct message opened, again;
	char command[64];

	open_good(r, object, &opened);
	prove_first(r, &opened);
	snprintf(command, sizeof command, "disable --label %s", label);
	assert_int_equal(rig_custodian(r, command), 0);
	assert_int_equal(prove(r, &opened), VERDICT_DISABLED);
	assert_int_equal(open_verdict(r, object, &again), VERDICT_DISABLED);
	assert_non_null(strstr(again.body.hsm_opened.text, strcmp(label, "aes256") == 0 ? "CKA_UNWRAP" : "CKA_DECRYPT"));
	snprintf(command, sizeof command, "enable --label %s", label);
	assert_int_equal(rig_custodian(r, command), 0);
	open_good(r, object, &opened);
	assert_int_equal(prove(r, &opened), VERDICT_GOOD);
}

static void a_disabled_key_is_named_and_comes_back(void **state)
{
	struct rig *r = fresh(state);

	check_disabled(r, "object=rsa2048", "rsa2048");
	check_disabled(r, "object=aes256", "aes256");
}

static void enabling_is_seen_by_the_process_that_saw_it_disabled(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;

	open_good(r, "object=rsa2048", &opened);
	assert_int_equal(rig_custodian(r, "disable --label rsa2048"), 0);
	assert_int_equal(prove(r, &opened), VERDICT_DISABLED);
	assert_int_equal(rig_custodian(r, "enable --label rsa2048"), 0);
	assert_int_equal(prove(r, &opened), VERDICT_GOOD);
}

static void check_deleted_then_replaced(struct rig *r, const char *type)
{
	struct message opened, again;
	char command[128];
	/* For RSA the public key tells before anything is decrypted; for AES the canary does. */
	const char *told_by = strcmp(type, "rsa2048") == 0 ? "another key bears its name" : "the proof";

	snprintf(command, sizeof command, "make-kek --type %s --label mortal --id 0bad", type);
	assert_int_equal(rig_custodian(r, command), 0);
	open_good(r, "object=mortal", &opened);
	prove_first(r, &opened);
	assert_int_equal(rig_custodian(r, "delete --yes --label mortal"), 0);
	assert_int_equal(prove(r, &opened), VERDICT_DELETED);
	assert_int_equal(prove(r, &opened), VERDICT_DELETED);
	assert_int_equal(rig_custodian(r, command), 0);
	/* The same names, another key: never used in the old one's place. */
	assert_int_equal(rig_probe(r, &opened, &canary, &again), VERDICT_REPLACED);
	assert_non_null(strstr(again.body.hsm_verdict.text, told_by));
	assert_int_equal(rig_custodian(r, "delete --yes --label mortal"), 0);
	assert_int_equal(open_verdict(r, "object=mortal", &again), VERDICT_DELETED);
}

static void a_deleted_key_is_deleted_and_its_double_is_replaced(void **state)
{
	struct rig *r = fresh(state);

	check_deleted_then_replaced(r, "rsa2048");
	check_deleted_then_replaced(r, "aes256");
}

static void two_keys_of_one_name_are_refused(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;

	rig_odd_key(r, "twin", true, false, true, true, 32);
	open_good(r, "object=twin", &opened);
	prove_first(r, &opened);
	rig_odd_key(r, "twin", true, false, true, true, 32);
	assert_int_equal(prove(r, &opened), VERDICT_KEY_UNFIT);
	assert_int_equal(open_verdict(r, "object=twin", &opened), VERDICT_KEY_UNFIT);
}

static void keys_that_do_not_fit_are_told_why(void **state)
{
	static const struct {
		const char *label;
		bool sensitive, extractable, wrap, unwrap;
		unsigned long bytes;
		enum hsm_verdict verdict;
		const char *first, *second;
	} rows[] = {
		{ "soft", false, false, true, true, 32, VERDICT_KEY_UNFIT, "CKA_SENSITIVE", "CKA_SENSITIVE" },
		{ "loose", true, true, true, true, 32, VERDICT_KEY_UNFIT, "CKA_EXTRACTABLE", "CKA_EXTRACTABLE" },
		{ "both", false, true, true, false, 32, VERDICT_KEY_UNFIT, "CKA_SENSITIVE, it is CKA_EXTRACTABLE", "CKA_UNWRAP" },
		{ "nowrap", true, false, false, true, 32, VERDICT_DISABLED, "CKA_WRAP", "missing" },
		{ "nothing", true, false, false, false, 32, VERDICT_DISABLED, "CKA_WRAP CKA_UNWRAP", "missing" },
		{ "short", true, false, true, true, 16, VERDICT_KEY_UNFIT, "256 bits", "256" },
	};
	struct rig *r = fresh(state);
	struct message opened;
	char object[64];

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		rig_odd_key(r, rows[i].label, rows[i].sensitive, rows[i].extractable, rows[i].wrap, rows[i].unwrap,
			    rows[i].bytes);
		snprintf(object, sizeof object, "object=%s", rows[i].label);
		assert_int_equal(open_verdict(r, object, &opened), rows[i].verdict);
		if (strstr(opened.body.hsm_opened.text, rows[i].first) == NULL ||
		    strstr(opened.body.hsm_opened.text, rows[i].second) == NULL)
			fail_msg("%s: %s", rows[i].label, opened.body.hsm_opened.text);
	}
}

static void dates_are_heeded_though_the_token_does_not(void **state)
{
	struct rig *r = fresh(state);
	struct message opened, again;

	open_good(r, "object=rsa2048", &opened);
	assert_int_equal(rig_custodian(r, "set-dates --label rsa2048 --end 20200101"), 0);
	assert_int_equal(prove(r, &opened), VERDICT_EXPIRED);
	assert_int_equal(open_verdict(r, "object=rsa2048", &again), VERDICT_EXPIRED);
	assert_string_equal(again.body.hsm_opened.end_date, "20200101");
	assert_int_equal(rig_custodian(r, "set-dates --label rsa2048 --start 20980101 --end 20990101"), 0);
	assert_int_equal(open_verdict(r, "object=rsa2048", &again), VERDICT_NOT_YET_VALID);
	assert_int_equal(rig_custodian(r, "set-dates --label rsa2048 --start 20200101"), 0);
	open_good(r, "object=rsa2048", &again);
	assert_string_equal(again.body.hsm_opened.end_date, "20990101");
	assert_int_equal(rig_custodian(r, "set-dates --label rsa2048 --start none --end none"), 0);
	open_good(r, "object=rsa2048", &again);
	assert_string_equal(again.body.hsm_opened.end_date, "");
}

/* ---- the token ---- */

static void a_store_that_is_away_is_weather_and_one_process_recovers(void **state)
{
	struct rig *r = fresh(state);
	struct message opened, again;

	open_good(r, "object=aes256", &opened);
	prove_first(r, &opened);
	assert_int_equal(rig_shell(r, "mkdir away && mv tokens/* away/"), 0);
	assert_int_equal(prove(r, &opened), VERDICT_UNREACHABLE);
	assert_int_equal(prove(r, &opened), VERDICT_UNREACHABLE);
	assert_int_equal(rig_shell(r, "mv away/* tokens/ && rmdir away"), 0);
	assert_int_equal(prove(r, &opened), VERDICT_GOOD);
	assert_int_equal(rig_shell(r, "mv tokens gone"), 0);
	assert_int_equal(prove(r, &opened), VERDICT_UNREACHABLE);
	assert_int_equal(open_verdict(r, "object=aes256", &again), VERDICT_UNREACHABLE);
	assert_int_equal(rig_shell(r, "mv gone tokens"), 0);
	open_good(r, "object=aes256", &again);
}

static void another_serial_under_the_label_is_another_token(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;

	assert_int_equal(open_verdict(r, "serial=0123456789abcdef;object=aes256", &opened), VERDICT_TOKEN_GONE);
}

static void lost_sessions_are_found_again_with_one_login(void **state)
{
	static const char *const codes[] = { "0xb3", "0xb0", "0x101", "0x90", "0x190", "0x82", "0x60", "0x5" };
	struct rig *r = fresh(state);
	struct message opened;
	char fault[64];

	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		unsigned logins;

		snprintf(fault, sizeof fault, "C_Decrypt 0 1 rv %s\n", codes[i]);
		rig_fault(r, fault);
		open_good(r, "object=rsa2048", &opened);
		logins = rig_calls(r, "C_Login");
		assert_int_equal(prove(r, &opened), VERDICT_GOOD);
		assert_int_equal(rig_calls(r, "C_Login"), logins + 1);
		assert_int_equal(prove(r, &opened), VERDICT_GOOD);
		assert_int_equal(rig_calls(r, "C_Login"), logins + 1);
	}
	rig_fault(r, "");
}

static void a_module_that_stays_sick_is_told_as_the_table_says(void **state)
{
	static const struct {
		const char *fault;
		enum hsm_verdict verdict;
	} rows[] = {
		{ "C_Decrypt 0 9 rv 0x30\n", VERDICT_UNREACHABLE },
		{ "C_Decrypt 0 9 rv 0xb3\n", VERDICT_UNREACHABLE },
		{ "C_Decrypt 0 9 rv 0x5\n", VERDICT_REPLACED },
		{ "C_Decrypt 0 9 rv 0x40\n", VERDICT_REPLACED },
		{ "C_Decrypt 0 9 rv 0x68\n", VERDICT_DISABLED },
		{ "C_Decrypt 0 9 rv 0x63\n", VERDICT_MODULE_BROKEN },
		{ "C_Decrypt 0 9 rv 0x54\n", VERDICT_MODULE_BROKEN },
		{ "C_DecryptInit 0 9 rv 0x80000007\n", VERDICT_UNREACHABLE },
		{ "C_FindObjects 2 9 rv 0x31\n", VERDICT_UNREACHABLE },
		{ "C_Decrypt 0 9 rv 0x54321\n", VERDICT_MODULE_BROKEN },
	};
	struct rig *r = fresh(state);
	struct message opened;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		enum hsm_verdict v;

		rig_fault(r, rows[i].fault);
		open_good(r, "object=rsa2048;type=private", &opened);
		v = prove(r, &opened);
		if (v != rows[i].verdict)
			fail_msg("%s: %s instead of %s", rows[i].fault, verdict_name(v), verdict_name(rows[i].verdict));
	}
	rig_fault(r, "");
}

/* The canary alone could be answered from memory. */
static void an_aes_proof_needs_a_fresh_wrap(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;

	open_good(r, "object=aes256", &opened);
	prove_first(r, &opened);
	rig_fault(r, "C_WrapKey 0 9 rv 0x30\n");
	open_good(r, "object=aes256", &opened);
	assert_int_equal(prove(r, &opened), VERDICT_UNREACHABLE);
	rig_fault(r, "");
}

static void a_key_is_deleted_only_if_its_token_is_well(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;

	assert_int_equal(open_verdict(r, "object=nobody", &opened), VERDICT_DELETED);
	rig_fault(r, "C_GetTokenInfo 1 9 rv 0x5\n"); /* well while it is looked for, not when it is looked at again */
	assert_int_equal(open_verdict(r, "object=nobody", &opened), VERDICT_UNREACHABLE);
	rig_fault(r, "");
}

static void opening_tells_weather_from_a_broken_module(void **state)
{
	static const struct {
		const char *fault;
		enum hsm_verdict verdict;
	} rows[] = {
		{ "C_Initialize 0 9 rv 0x30\n", VERDICT_UNREACHABLE },  { "C_Initialize 0 9 rv 0x6\n", VERDICT_UNREACHABLE },
		{ "C_Initialize 0 9 rv 0x7\n", VERDICT_MODULE_BROKEN }, { "C_GetSlotList 0 9 rv 0x30\n", VERDICT_UNREACHABLE },
		{ "C_OpenSession 0 9 rv 0xe0\n", VERDICT_UNREACHABLE }, { "C_OpenSession 0 9 rv 0xb1\n", VERDICT_UNREACHABLE },
		{ "C_Login 0 9 rv 0x30\n", VERDICT_UNREACHABLE },
	};
	struct rig *r = fresh(state);
	struct message opened;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		rig_fault(r, rows[i].fault);
		assert_int_equal(open_verdict(r, "object=rsa2048", &opened), rows[i].verdict);
		assert_false(opened.body.hsm_opened.login_refused);
	}
	rig_fault(r, "");
}

/* ---- the PIN ---- */

static void a_refused_pin_is_tried_exactly_once(void **state)
{
	struct rig *r = fresh(state);
	unsigned logins = rig_calls(r, "C_Login");
	struct message opened;

	rig_start(r, false);
	rig_open(r, "object=aes256", "wrong-pin", true, &opened);
	assert_int_equal(opened.body.hsm_opened.verdict, VERDICT_ACCESS_REVOKED);
	assert_true(opened.body.hsm_opened.login_refused);
	assert_non_null(strstr(opened.body.hsm_opened.text, "CKR_PIN_INCORRECT"));
	assert_null(strstr(opened.body.hsm_opened.text, "11111111"));
	assert_int_equal(rig_calls(r, "C_Login"), logins + 1);
	/* The token's counter is low now: not even the right PIN is tried, unless it is a new one. */
	rig_start(r, false);
	rig_open(r, "object=aes256", "pin", true, &opened);
	assert_int_equal(opened.body.hsm_opened.verdict, VERDICT_ACCESS_REVOKED);
	assert_false(opened.body.hsm_opened.login_refused);
	assert_int_equal(rig_calls(r, "C_Login"), logins + 1);
	r->pin_renewed = true;
	open_good(r, "object=aes256", &opened);
	r->pin_renewed = false;
	open_good(r, "object=aes256", &opened);
	/* Or the customer logs in by other means. */
	rig_start(r, false);
	rig_open(r, "object=aes256", "wrong-pin", true, &opened);
	assert_int_equal(open_verdict(r, "object=aes256", &opened), VERDICT_ACCESS_REVOKED);
	assert_int_equal(rig_custodian(r, "list"), 0);
	open_good(r, "object=aes256", &opened);
}

static void the_last_try_is_never_ours(void **state)
{
	struct rig *r = fresh(state);
	unsigned logins = rig_calls(r, "C_Login");
	struct message opened;

	rig_fault(r, "C_GetTokenInfo 0 0 flags 0x20000\n");
	assert_int_equal(open_verdict(r, "object=aes256", &opened), VERDICT_ACCESS_REVOKED);
	r->pin_renewed = true;
	assert_int_equal(open_verdict(r, "object=aes256", &opened), VERDICT_ACCESS_REVOKED);
	assert_non_null(strstr(opened.body.hsm_opened.text, "one try left"));
	r->pin_renewed = false;
	assert_int_equal(rig_calls(r, "C_Login"), logins);
	rig_fault(r, "");
}

static void a_login_that_is_not_allowed_is_not_tried(void **state)
{
	struct rig *r = fresh(state);
	unsigned logins = rig_calls(r, "C_Login");
	struct message opened;

	rig_start(r, false);
	rig_open(r, "object=aes256", "pin", false, &opened);
	assert_int_equal(opened.body.hsm_opened.verdict, VERDICT_ACCESS_REVOKED);
	rig_open(r, "object=aes256", NULL, true, &opened);
	assert_int_equal(opened.body.hsm_opened.verdict, VERDICT_ACCESS_REVOKED);
	rig_open(r, "object=aes256", "empty-pin", true, &opened);
	assert_int_equal(opened.body.hsm_opened.verdict, VERDICT_ACCESS_REVOKED);
	assert_int_equal(rig_calls(r, "C_Login"), logins);
}

/* A restart logs in again; if the PIN was changed meanwhile, once and never more. */
static void a_pin_changed_behind_our_back_ends_the_logins(void **state)
{
	struct rig *r = fresh(state);
	struct message opened, answer;
	unsigned logins;

	rig_fault(r, "C_Decrypt 0 1 rv 0xb3\n");
	open_good(r, "object=rsa2048", &opened);
	assert_int_equal(rig_custodian(r, "--new-pin-file wrong-pin set-pin"), 0);
	logins = rig_calls(r, "C_Login");
	assert_int_equal(rig_probe(r, &opened, &canary, &answer), VERDICT_ACCESS_REVOKED);
	assert_true(answer.body.hsm_verdict.login_refused);
	assert_int_equal(rig_calls(r, "C_Login"), logins + 1);
	for (int i = 0; i < 3; i++) /* what is left of that process: it tries no PIN again */
		assert_int_not_equal(prove(r, &opened), VERDICT_GOOD);
	assert_int_equal(rig_calls(r, "C_Login"), logins + 1);
	rig_fault(r, "");
	assert_int_equal(rig_shell(r, "cp pin right-pin && cp wrong-pin pin"), 0);
	assert_int_equal(rig_custodian(r, "--new-pin-file right-pin set-pin"), 0);
	assert_int_equal(rig_shell(r, "cp right-pin pin"), 0);
	open_good(r, "object=rsa2048", &opened);
}

/* ---- data keys that are not for us ---- */

static void a_foreign_or_damaged_blob_leaves_an_empty_page(struct rig *r, const char *object, const char *foreign)
{
	uint8_t made[PAYLOAD], back[PAYLOAD];
	struct msg_page_done ours, theirs;

	wrap_one(r, object, made, &ours);
	wrap_one(r, foreign, made, &theirs);
	assert_int_equal(unwrap_one(r, object, theirs.wrapped, theirs.wrapped_size, back), VERDICT_DEK_REFUSED);
	assert_int_equal(unwrap_one(r, object, ours.wrapped, (uint16_t)(ours.wrapped_size - 1), back), VERDICT_DEK_REFUSED);
	assert_int_equal(unwrap_one(r, object, ours.wrapped, 0, back), VERDICT_DEK_REFUSED);
	ours.wrapped[7] ^= 1;
	assert_int_equal(unwrap_one(r, object, ours.wrapped, ours.wrapped_size, back), VERDICT_DEK_REFUSED);
	ours.wrapped[7] ^= 1;
	assert_int_equal(unwrap_one(r, object, ours.wrapped, ours.wrapped_size, back), VERDICT_GOOD);
}

static void foreign_blobs_are_refused(void **state)
{
	struct rig *r = fresh(state);

	a_foreign_or_damaged_blob_leaves_an_empty_page(r, "object=rsa2048", "object=rsa2048b");
	a_foreign_or_damaged_blob_leaves_an_empty_page(r, "object=aes256", "object=aes256b");
}

/* A payload of another length is none of ours, though the key opens it: here the 32 bytes of a canary. */
static void a_payload_of_another_length_is_refused(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;
	uint8_t back[PAYLOAD];

	open_good(r, "object=aes256", &opened);
	prove_first(r, &opened);
	assert_int_equal(
		unwrap_one(r, "object=aes256", canary.body.hsm_verdict.wrapped, canary.body.hsm_verdict.wrapped_size, back),
		VERDICT_DEK_REFUSED);
}

static void a_shorter_payload_under_the_right_key_is_refused_and_wiped(void **state)
{
	static const uint8_t short_payload[CHALLENGE_BYTES] = { 1, 2, 3 };
	struct rig *r = fresh(state);
	uint8_t blob[WRAP_MAX_BYTES], back[PAYLOAD];
	struct message opened;
	uint16_t size;

	open_good(r, "object=rsa2048", &opened);
	size = rig_encrypt(&opened.body.hsm_opened, r->hash, short_payload, blob);
	assert_int_equal(unwrap_one(r, "object=rsa2048", blob, size, back), VERDICT_DEK_REFUSED);
}

enum wrong {
	WRONG_NOTHING,
	WRONG_TICKET,
	WRONG_VOLUME,
	WRONG_GENERATION,
	WRONG_PID,
	WRONG_UID,
	WRONG_VERB,
	WRONG_PAGE,
	WRONG_COUNT
};

static void spoil(struct exchange *x, enum wrong wrong)
{
	switch (wrong) {
	case WRONG_TICKET:
		x->page_half.body.page.ticket++;
		break;
	case WRONG_VOLUME:
		strcpy(x->page_half.body.page.volume, "other");
		break;
	case WRONG_GENERATION:
		x->page_half.body.page.gen_no++;
		break;
	case WRONG_PID:
		x->ticket.body.hsm_ticket.dataplane_pid++;
		break;
	case WRONG_UID:
		x->ticket.body.hsm_ticket.dataplane_uid++;
		break;
	case WRONG_VERB:
		x->ticket.type = MSG_HSM_WRAP;
		break;
	case WRONG_PAGE:
		close(x->fd);
		x->fd = memfd_create("two pages", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		assert_int_equal(ftruncate(x->fd, 8192), 0);
		break;
	case WRONG_NOTHING:
	case WRONG_COUNT:
		break;
	}
}

static void halves_that_differ_unwrap_nothing(void **state)
{
	struct rig *r = fresh(state);
	uint8_t made[PAYLOAD];
	struct msg_page_done wrapped;
	struct message opened, m;
	struct exchange x;
	unsigned count;
	int fds[CHANNEL_FDS_MAX];

	wrap_one(r, "object=aes256", made, &wrapped);
	for (enum wrong w = WRONG_NOTHING; w < WRONG_COUNT; w++) {
		start_one_shot(r, "object=aes256", &opened);
		exchange_new(r, &x, &opened, false);
		x.page_half.body.page.wrapped_size = wrapped.wrapped_size;
		memcpy(x.page_half.body.page.wrapped, wrapped.wrapped, wrapped.wrapped_size);
		spoil(&x, w);
		rig_send(&r->supervisor, &x.ticket, NULL, 0);
		rig_send(&r->dataplane, &x.page_half, &x.fd, 1);
		if (w == WRONG_NOTHING) {
			rig_receive(&r->dataplane, &m, MSG_PAGE_DONE);
			assert_int_equal(rig_reap(r), 0);
			assert_memory_equal(x.page.base, made, PAYLOAD);
		} else {
			assert_int_equal(channel_receive_wait(&r->dataplane, &m, fds, &count, NULL, PROCESS_TIMEOUT_MS), 0);
			assert_int_equal(rig_reap(r), 70);
			assert_true(exchange_zero_from(&x, 0));
		}
		exchange_free(&x);
	}
}

/* ---- the process itself ---- */

static void it_leaves_when_the_supervisor_does(void **state)
{
	struct rig *r = fresh(state);
	struct message opened, m;

	open_good(r, "object=aes256", &opened);
	channel_close(&r->supervisor);
	assert_int_equal(rig_reap(r), 0);
	open_good(r, "object=aes256", &opened);
	message_init(&m, MSG_HSM_CLOSE, 0);
	rig_send(&r->supervisor, &m, NULL, 0);
	assert_int_equal(rig_reap(r), 0);
	start_one_shot(r, "object=aes256", &opened);
	channel_close(&r->dataplane);
	assert_int_equal(rig_reap(r), 1);
}

static void a_message_at_the_wrong_moment_ends_it(void **state)
{
	struct rig *r = fresh(state);
	struct message opened, m;

	rig_start(r, false);
	message_init(&m, MSG_HSM_PROBE, 1);
	rig_send(&r->supervisor, &m, NULL, 0);
	assert_int_equal(rig_reap(r), 70);
	open_good(r, "object=aes256", &opened);
	message_init(&m, MSG_HSM_UNWRAP, 1); /* in a process that is not one-shot */
	strcpy(m.body.hsm_ticket.volume, "demo");
	rig_send(&r->supervisor, &m, NULL, 0);
	assert_int_equal(rig_reap(r), 70);
	open_good(r, "object=rsa2048", &opened);
	message_init(&m, MSG_HSM_PROBE, 1); /* an RSA key without a challenge */
	m.body.hsm_probe.hash = OAEP_SHA1;
	rig_send(&r->supervisor, &m, NULL, 0);
	assert_int_equal(rig_reap(r), 70);
}

/* ---- NSS: another module's words for the same things ---- */

static void nss_words_mean_the_same(void **state)
{
	struct rig *r = fresh(state);
	struct message opened;

	check_disabled(r, "object=rsa2048", "rsa2048");
	check_disabled(r, "object=aes256", "aes256");
	check_deleted_then_replaced(r, "rsa2048");
	check_deleted_then_replaced(r, "aes256");
	/* All its tokens have the serial 0000000000000000: that does not make another one ours. */
	assert_int_equal(open_verdict(r, "pkcs11:token=nobody;serial=0000000000000000;object=aes256", &opened),
			 VERDICT_UNREACHABLE);
	rig_start(r, false);
	rig_open(r, "object=aes256", "wrong-pin", true, &opened);
	assert_int_equal(opened.body.hsm_opened.verdict, VERDICT_ACCESS_REVOKED);
	assert_true(opened.body.hsm_opened.login_refused);
}

/* ---- groups ---- */

static struct rig rig; /* cmocka hands states around by pointer */

static int new_keys(void **state, bool nss)
{
	rig_new(&rig, nss);
	*state = &rig;
	if (rig_custodian(&rig, "make-kek --type rsa2048 --label rsa2048 --id 0448") != 0 ||
	    rig_custodian(&rig, "make-kek --type aes256 --label aes256 --id 0256") != 0)
		return -1;
	if (nss)
		return 0;
	return rig_custodian(&rig, "make-kek --type rsa3072 --label rsa3072 --id 0472") ||
	       rig_custodian(&rig, "make-kek --type rsa4096 --label rsa4096 --id 0496") ||
	       rig_custodian(&rig, "make-kek --type rsa2048 --label rsa2048b --id 0449") ||
	       rig_custodian(&rig, "make-kek --type aes256 --label aes256b --id 0257");
}

static int new_softhsm(void **state)
{
	return new_keys(state, false);
}

static int new_nss(void **state)
{
	return new_keys(state, true);
}

static int remove_rig(void **state)
{
	rig_remove(*state);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest softhsm[] = {
		cmocka_unit_test(halves_that_differ_unwrap_nothing),
		cmocka_unit_test(softhsm_keys_open_prove_wrap_and_unwrap),
		cmocka_unit_test(a_hash_that_the_token_lacks_is_the_modules_fault),
		cmocka_unit_test(a_disabled_key_is_named_and_comes_back),
		cmocka_unit_test(enabling_is_seen_by_the_process_that_saw_it_disabled),
		cmocka_unit_test(a_deleted_key_is_deleted_and_its_double_is_replaced),
		cmocka_unit_test(two_keys_of_one_name_are_refused),
		cmocka_unit_test(keys_that_do_not_fit_are_told_why),
		cmocka_unit_test(dates_are_heeded_though_the_token_does_not),
		cmocka_unit_test(a_store_that_is_away_is_weather_and_one_process_recovers),
		cmocka_unit_test(another_serial_under_the_label_is_another_token),
		cmocka_unit_test(lost_sessions_are_found_again_with_one_login),
		cmocka_unit_test(a_module_that_stays_sick_is_told_as_the_table_says),
		cmocka_unit_test(an_aes_proof_needs_a_fresh_wrap),
		cmocka_unit_test(a_key_is_deleted_only_if_its_token_is_well),
		cmocka_unit_test(opening_tells_weather_from_a_broken_module),
		cmocka_unit_test(a_refused_pin_is_tried_exactly_once),
		cmocka_unit_test(the_last_try_is_never_ours),
		cmocka_unit_test(a_login_that_is_not_allowed_is_not_tried),
		cmocka_unit_test(a_pin_changed_behind_our_back_ends_the_logins),
		cmocka_unit_test(foreign_blobs_are_refused),
		cmocka_unit_test(a_payload_of_another_length_is_refused),
		cmocka_unit_test(a_shorter_payload_under_the_right_key_is_refused_and_wiped),
		cmocka_unit_test(it_leaves_when_the_supervisor_does),
		cmocka_unit_test(a_message_at_the_wrong_moment_ends_it),
	};
	const struct CMUnitTest nss[] = {
		cmocka_unit_test(nss_keys_open_prove_wrap_and_unwrap),
		cmocka_unit_test(nss_words_mean_the_same),
	};

	if (argc == 2 && strcmp(argv[1], "nss") == 0)
		return cmocka_run_group_tests(nss, new_nss, remove_rig);
	return cmocka_run_group_tests(softhsm, new_softhsm, remove_rig);
}
