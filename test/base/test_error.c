/* The whole error table: every value has a name, a text and an exit code of its own, and an errno that an NBD client knows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"

static void no_two_errors_look_the_same(void **state)
{
	(void)state;
	for (int a = 0; a > ERR_LAST; a--) {
		for (int b = 0; b > a; b--) {
			assert_string_not_equal(error_name(a), error_name(b));
			assert_string_not_equal(error_text(a), error_text(b));
			assert_int_not_equal(error_exit_code(a), error_exit_code(b));
		}
	}
}

static bool is_stable_name(const char *name)
{
	for (const char *c = name; *c != '\0'; c++)
		if (!islower((unsigned char)*c) && *c != '-')
			return false;
	return name[0] != '\0' && name[0] != '-';
}

static void names_texts_and_codes_have_their_form(void **state)
{
	(void)state;
	for (int e = 0; e > ERR_LAST; e--) {
		assert_true(is_stable_name(error_name(e)));
		assert_string_not_equal(error_name(e), "unknown");
		assert_true(strlen(error_text(e)) > 3);
		assert_int_not_equal(error_text(e)[strlen(error_text(e)) - 1], '.');
		if (e == 0)
			assert_int_equal(error_exit_code(e), 0);
		else
			assert_in_range(error_exit_code(e), 2, 62);
	}
}

static void values_outside_the_table_are_unknown(void **state)
{
	static const int bad[] = { 1, INT_MAX, ERR_LAST, ERR_LAST - 1, INT_MIN };

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_string_equal(error_name(bad[i]), "unknown");
		assert_non_null(error_text(bad[i]));
		assert_int_equal(error_exit_code(bad[i]), 63);
		assert_int_equal(error_to_errno(bad[i]), EIO);
	}
}

/* The protocol has these and no others (NBD: errors; nbdkit turns the rest into EINVAL, which means "your mistake"). */
static void a_revoked_volume_says_shutdown_and_damage_says_io(void **state)
{
	(void)state;
	assert_int_equal(error_to_errno(ERR_NONE), 0);
	assert_int_equal(error_to_errno(ERR_REVOKED), ESHUTDOWN);
	assert_int_equal(error_to_errno(ERR_CORRUPT), EIO);
	assert_int_equal(error_to_errno(ERR_FAILSTOP), EIO);
	assert_int_equal(error_to_errno(ERR_NOSPACE), ENOSPC);
	for (int e = -1; e > ERR_LAST; e--)
		assert_true(error_to_errno(e) > 0);
}

static void every_errno_becomes_an_error(void **state)
{
	(void)state;
	assert_int_equal(error_from_errno(0), ERR_NONE);
	assert_int_equal(error_from_errno(EIO), ERR_IO);
	assert_int_equal(error_from_errno(ENOSPC), ERR_NOSPACE);
	assert_int_equal(error_from_errno(EDQUOT), ERR_NOSPACE);
	assert_int_equal(error_from_errno(ENOENT), ERR_NOT_FOUND);
	assert_int_equal(error_from_errno(EACCES), ERR_DENIED);
	assert_int_equal(error_from_errno(ENOMEM), ERR_NOMEM);
	for (int e = 1; e < 4096; e++)
		assert_true(error_from_errno(e) < 0 && error_from_errno(e) > ERR_LAST);
	assert_int_equal(error_from_errno(-1), ERR_IO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_two_errors_look_the_same),
		cmocka_unit_test(names_texts_and_codes_have_their_form),
		cmocka_unit_test(values_outside_the_table_are_unknown),
		cmocka_unit_test(a_revoked_volume_says_shutdown_and_damage_says_io),
		cmocka_unit_test(every_errno_becomes_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
