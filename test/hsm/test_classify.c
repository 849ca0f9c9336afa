/* Every row of the table of return codes, in every look that changes its meaning. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <p11-kit/pkcs11.h>

#include "hsm/classify.h"

static const struct look lost = { STAGE_PROBE, TOKEN_UNSEEN, KEY_UNSEEN, true, false };
static const struct look swapped = { STAGE_PROBE, TOKEN_OTHER, KEY_UNSEEN, true, false };
static const struct look absent = { STAGE_PROBE, TOKEN_GOOD, KEY_UNSEEN, true, false };
static const struct look other = { STAGE_PROBE, TOKEN_GOOD, KEY_OTHER, true, false };
static const struct look present = { STAGE_PROBE, TOKEN_GOOD, KEY_SEEN, true, false };
static const struct look wrapping = { STAGE_PROBE, TOKEN_GOOD, KEY_SEEN, true, true };
static const struct look never_worked = { STAGE_PROBE, TOKEN_GOOD, KEY_SEEN, false, false };
static const struct look dek = { STAGE_DEK, TOKEN_GOOD, KEY_SEEN, true, false };
static const struct look starting = { STAGE_START, TOKEN_UNSEEN, KEY_UNSEEN, false, false };

struct expected {
	unsigned long ckr;
	const struct look *look;
	enum hsm_verdict verdict;
};

static void check(const struct expected *rows, size_t count)
{
	char number[32];

	for (size_t i = 0; i < count; i++) {
		enum hsm_verdict v = classify(rows[i].ckr, rows[i].look);

		if (v != rows[i].verdict)
			fail_msg("row %zu, %s: %s instead of %s", i, classify_ckr_name(rows[i].ckr, number, sizeof number),
				 verdict_name(v), verdict_name(rows[i].verdict));
	}
}

#define CHECK(rows) check(rows, sizeof rows / sizeof rows[0])

static void weather_is_never_a_refusal(void **state)
{
	static const unsigned long codes[] = { CKR_DEVICE_ERROR,
					       CKR_DEVICE_MEMORY,
					       CKR_HOST_MEMORY,
					       CKR_FUNCTION_FAILED,
					       CKR_SESSION_COUNT,
					       CKR_VENDOR_DEFINED,
					       CKR_VENDOR_DEFINED | 0x4e534350,
					       CKR_SESSION_HANDLE_INVALID,
					       CKR_SESSION_CLOSED,
					       CKR_USER_NOT_LOGGED_IN,
					       CKR_OPERATION_ACTIVE,
					       CKR_OPERATION_NOT_INITIALIZED,
					       CKR_CRYPTOKI_NOT_INITIALIZED,
					       CKR_CRYPTOKI_ALREADY_INITIALIZED,
					       0x201 /* CKR_TOKEN_RESOURCE_EXCEEDED */ };
	static const struct look *const looks[] = { &lost, &swapped, &absent, &other, &present, &never_worked, &dek, &starting };

	(void)state;
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
		for (size_t j = 0; j < sizeof looks / sizeof looks[0]; j++)
			assert_int_equal(classify(codes[i], looks[j]), VERDICT_UNREACHABLE);
}

static void no_token_is_weather_unless_another_sits_there(void **state)
{
	static const struct expected rows[] = {
		{ CKR_TOKEN_NOT_PRESENT, &lost, VERDICT_UNREACHABLE },
		{ CKR_TOKEN_NOT_PRESENT, &swapped, VERDICT_TOKEN_GONE },
		{ CKR_DEVICE_REMOVED, &lost, VERDICT_UNREACHABLE },
		{ CKR_DEVICE_REMOVED, &swapped, VERDICT_TOKEN_GONE },
		{ CKR_SLOT_ID_INVALID, &lost, VERDICT_UNREACHABLE },
		{ CKR_SLOT_ID_INVALID, &swapped, VERDICT_TOKEN_GONE },
		{ CKR_TOKEN_NOT_RECOGNIZED, &lost, VERDICT_UNREACHABLE },
		{ CKR_TOKEN_NOT_RECOGNIZED, &swapped, VERDICT_TOKEN_GONE },
		{ CKR_TOKEN_NOT_PRESENT, &starting, VERDICT_UNREACHABLE },
	};

	(void)state;
	CHECK(rows);
}

static void the_pin_and_the_rights_are_definite(void **state)
{
	static const struct expected rows[] = {
		{ CKR_PIN_INCORRECT, &present, VERDICT_ACCESS_REVOKED },
		{ CKR_PIN_LOCKED, &present, VERDICT_ACCESS_REVOKED },
		{ CKR_PIN_EXPIRED, &present, VERDICT_ACCESS_REVOKED },
		{ CKR_PIN_INVALID, &present, VERDICT_ACCESS_REVOKED },
		{ CKR_PIN_LEN_RANGE, &present, VERDICT_ACCESS_REVOKED },
		{ CKR_USER_PIN_NOT_INITIALIZED, &present, VERDICT_ACCESS_REVOKED },
		{ CKR_KEY_FUNCTION_NOT_PERMITTED, &present, VERDICT_DISABLED },
		{ CKR_KEY_FUNCTION_NOT_PERMITTED, &dek, VERDICT_DISABLED },
		{ CKR_ACTION_PROHIBITED, &present, VERDICT_DISABLED },
		{ CKR_KEY_TYPE_INCONSISTENT, &present, VERDICT_DISABLED },
		{ CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, &present, VERDICT_DISABLED },
		{ CKR_WRAPPING_KEY_TYPE_INCONSISTENT, &present, VERDICT_DISABLED },
		{ CKR_KEY_TYPE_INCONSISTENT, &never_worked, VERDICT_MODULE_BROKEN },
	};

	(void)state;
	CHECK(rows);
}

static void a_stale_handle_is_settled_by_looking(void **state)
{
	static const unsigned long codes[] = { CKR_OBJECT_HANDLE_INVALID, CKR_KEY_HANDLE_INVALID,
					       CKR_UNWRAPPING_KEY_HANDLE_INVALID, CKR_WRAPPING_KEY_HANDLE_INVALID };

	(void)state;
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		assert_int_equal(classify(codes[i], &lost), VERDICT_UNREACHABLE);
		assert_int_equal(classify(codes[i], &swapped), VERDICT_TOKEN_GONE);
		assert_int_equal(classify(codes[i], &absent), VERDICT_DELETED);
		assert_int_equal(classify(codes[i], &other), VERDICT_REPLACED);
		assert_int_equal(classify(codes[i], &present), VERDICT_UNREACHABLE);
	}
}

static void a_refused_payload_depends_on_whose_it_was(void **state)
{
	static const unsigned long codes[] = { CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE,
					       CKR_WRAPPED_KEY_INVALID,    CKR_WRAPPED_KEY_LEN_RANGE,
					       CKR_GENERAL_ERROR,          CKR_DATA_INVALID,
					       CKR_DATA_LEN_RANGE,         CODE_PAYLOAD };

	(void)state;
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		assert_int_equal(classify(codes[i], &present), VERDICT_REPLACED);
		assert_int_equal(classify(codes[i], &dek), VERDICT_DEK_REFUSED);
		assert_int_equal(classify(codes[i], &wrapping), VERDICT_UNREACHABLE); /* none was given */
		assert_int_equal(classify(codes[i], &lost), VERDICT_UNREACHABLE);
		assert_int_equal(classify(codes[i], &swapped), VERDICT_TOKEN_GONE);
		assert_int_equal(classify(codes[i], &absent), VERDICT_DELETED);
		assert_int_equal(classify(codes[i], &other), VERDICT_REPLACED);
		assert_int_equal(classify(codes[i], &starting), VERDICT_UNREACHABLE);
	}
}

static void what_is_not_known_fails_closed(void **state)
{
	static const unsigned long codes[] = { CKR_MECHANISM_INVALID,
					       CKR_MECHANISM_PARAM_INVALID,
					       CKR_ARGUMENTS_BAD,
					       CKR_FUNCTION_NOT_SUPPORTED,
					       CKR_TEMPLATE_INCOMPLETE,
					       CKR_TEMPLATE_INCONSISTENT,
					       CKR_ATTRIBUTE_READ_ONLY,
					       CKR_ATTRIBUTE_SENSITIVE,
					       CKR_ATTRIBUTE_TYPE_INVALID,
					       CKR_ATTRIBUTE_VALUE_INVALID,
					       CKR_CANCEL,
					       CKR_BUFFER_TOO_SMALL,
					       CKR_NEW_PIN_MODE,
					       CKR_RANDOM_NO_RNG,
					       CKR_KEY_UNEXTRACTABLE,
					       0x7fffffff };

	(void)state;
	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		assert_int_equal(classify(codes[i], &present), VERDICT_MODULE_BROKEN);
		assert_int_equal(classify(codes[i], &dek), VERDICT_MODULE_BROKEN);
		assert_int_equal(classify(codes[i], &starting), VERDICT_MODULE_BROKEN);
	}
}

/* No code but CKR_OK is ever good, and the numbers are the standard's. */
static void only_ok_is_good(void **state)
{
	char number[32];

	(void)state;
	for (unsigned long ckr = 0; ckr < 0x1000; ckr++) {
		assert_int_equal(classify(ckr, &present) == VERDICT_GOOD, ckr == CKR_OK);
		assert_int_equal(classify(ckr, &dek) == VERDICT_GOOD, ckr == CKR_OK);
	}
#define NAMED(x) assert_string_equal(classify_ckr_name(x, number, sizeof number), #x)
	NAMED(CKR_OK);
	NAMED(CKR_HOST_MEMORY);
	NAMED(CKR_SLOT_ID_INVALID);
	NAMED(CKR_GENERAL_ERROR);
	NAMED(CKR_FUNCTION_FAILED);
	NAMED(CKR_ARGUMENTS_BAD);
	NAMED(CKR_NEED_TO_CREATE_THREADS);
	NAMED(CKR_CANT_LOCK);
	NAMED(CKR_ATTRIBUTE_READ_ONLY);
	NAMED(CKR_ATTRIBUTE_SENSITIVE);
	NAMED(CKR_ATTRIBUTE_TYPE_INVALID);
	NAMED(CKR_ATTRIBUTE_VALUE_INVALID);
	NAMED(CKR_ACTION_PROHIBITED);
	NAMED(CKR_DATA_INVALID);
	NAMED(CKR_DATA_LEN_RANGE);
	NAMED(CKR_DEVICE_ERROR);
	NAMED(CKR_DEVICE_MEMORY);
	NAMED(CKR_DEVICE_REMOVED);
	NAMED(CKR_ENCRYPTED_DATA_INVALID);
	NAMED(CKR_ENCRYPTED_DATA_LEN_RANGE);
	NAMED(CKR_FUNCTION_NOT_SUPPORTED);
	NAMED(CKR_KEY_HANDLE_INVALID);
	NAMED(CKR_KEY_SIZE_RANGE);
	NAMED(CKR_KEY_TYPE_INCONSISTENT);
	NAMED(CKR_KEY_FUNCTION_NOT_PERMITTED);
	NAMED(CKR_KEY_NOT_WRAPPABLE);
	NAMED(CKR_KEY_UNEXTRACTABLE);
	NAMED(CKR_MECHANISM_INVALID);
	NAMED(CKR_MECHANISM_PARAM_INVALID);
	NAMED(CKR_OBJECT_HANDLE_INVALID);
	NAMED(CKR_OPERATION_ACTIVE);
	NAMED(CKR_OPERATION_NOT_INITIALIZED);
	NAMED(CKR_PIN_INCORRECT);
	NAMED(CKR_PIN_INVALID);
	NAMED(CKR_PIN_LEN_RANGE);
	NAMED(CKR_PIN_EXPIRED);
	NAMED(CKR_PIN_LOCKED);
	NAMED(CKR_SESSION_CLOSED);
	NAMED(CKR_SESSION_COUNT);
	NAMED(CKR_SESSION_HANDLE_INVALID);
	NAMED(CKR_TEMPLATE_INCOMPLETE);
	NAMED(CKR_TEMPLATE_INCONSISTENT);
	NAMED(CKR_TOKEN_NOT_PRESENT);
	NAMED(CKR_TOKEN_NOT_RECOGNIZED);
	NAMED(CKR_UNWRAPPING_KEY_HANDLE_INVALID);
	NAMED(CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT);
	NAMED(CKR_USER_NOT_LOGGED_IN);
	NAMED(CKR_USER_PIN_NOT_INITIALIZED);
	NAMED(CKR_USER_ANOTHER_ALREADY_LOGGED_IN);
	NAMED(CKR_WRAPPED_KEY_INVALID);
	NAMED(CKR_WRAPPED_KEY_LEN_RANGE);
	NAMED(CKR_WRAPPING_KEY_HANDLE_INVALID);
	NAMED(CKR_WRAPPING_KEY_TYPE_INCONSISTENT);
	NAMED(CKR_RANDOM_NO_RNG);
	NAMED(CKR_BUFFER_TOO_SMALL);
	NAMED(CKR_CRYPTOKI_NOT_INITIALIZED);
	NAMED(CKR_CRYPTOKI_ALREADY_INITIALIZED);
#undef NAMED
	assert_string_equal(classify_ckr_name(CKR_VENDOR_DEFINED | 1, number, sizeof number), "CKR 0x80000001");
}

/* A restart logs in again: it must never follow a refused PIN, nor hide a definite answer. */
static void a_restart_is_for_lost_things_only(void **state)
{
	static const unsigned long worth[] = { CKR_SESSION_HANDLE_INVALID,
					       CKR_SESSION_CLOSED,
					       CKR_USER_NOT_LOGGED_IN,
					       CKR_OPERATION_ACTIVE,
					       CKR_OPERATION_NOT_INITIALIZED,
					       CKR_CRYPTOKI_NOT_INITIALIZED,
					       CKR_OBJECT_HANDLE_INVALID,
					       CKR_KEY_HANDLE_INVALID,
					       CKR_UNWRAPPING_KEY_HANDLE_INVALID,
					       CKR_WRAPPING_KEY_HANDLE_INVALID,
					       CKR_GENERAL_ERROR };
	size_t found = 0;

	(void)state;
	for (size_t i = 0; i < sizeof worth / sizeof worth[0]; i++)
		assert_true(classify_worth_a_restart(worth[i]));
	for (unsigned long ckr = 0; ckr < 0x1000; ckr++)
		found += classify_worth_a_restart(ckr);
	assert_int_equal(found, sizeof worth / sizeof worth[0]);
	assert_false(classify_worth_a_restart(CKR_VENDOR_DEFINED | 5));
	assert_true(classify_is_login_refusal(CKR_PIN_INCORRECT));
	assert_true(classify_is_login_refusal(CKR_PIN_LOCKED));
	assert_false(classify_is_login_refusal(CKR_DEVICE_ERROR));
	assert_false(classify_is_login_refusal(CKR_USER_PIN_NOT_INITIALIZED)); /* none was compared */
	assert_true(classify_is_no_pin(CKR_USER_PIN_NOT_INITIALIZED));
	assert_false(classify_is_no_pin(CKR_PIN_INCORRECT) || classify_is_no_pin(CKR_OK));
	assert_false(classify_is_login_refusal(CKR_OK));
}

static void every_verdict_has_a_remedy(void **state)
{
	(void)state;
	for (int v = 0; v <= VERDICT_COUNT; v++) /* one past the end as well */
		assert_true(strlen(classify_remedy((enum hsm_verdict)v)) > 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weather_is_never_a_refusal),
		cmocka_unit_test(no_token_is_weather_unless_another_sits_there),
		cmocka_unit_test(the_pin_and_the_rights_are_definite),
		cmocka_unit_test(a_stale_handle_is_settled_by_looking),
		cmocka_unit_test(a_refused_payload_depends_on_whose_it_was),
		cmocka_unit_test(what_is_not_known_fails_closed),
		cmocka_unit_test(only_ok_is_good),
		cmocka_unit_test(a_restart_is_for_lost_things_only),
		cmocka_unit_test(every_verdict_has_a_remedy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
