/* Who may do what, as a second table written out by hand, against every role, resource and method. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "mgmt/roles.h"

/* Letters: a auditor, p operator, o officer. */
struct right {
	const char *get, *post;
};

/* clang-format off */
static const struct right rights[RESOURCE_COUNT] = {
	[RESOURCE_STATUS]     = { "apo", "" },
	[RESOURCE_VOLUMES]    = { "apo", "p" },
	[RESOURCE_VOLUME]     = { "apo", "" },
	[RESOURCE_STATE]      = { "apo", "" },
	[RESOURCE_ATTACH]     = { "",    "p" },
	[RESOURCE_DETACH]     = { "",    "p" },
	[RESOURCE_REVOKE]     = { "",    "o" },
	[RESOURCE_RESTORE]    = { "",    "o" },
	[RESOURCE_REVOKE_ALL] = { "",    "o" },
	[RESOURCE_POSTURE]    = { "apo", "" },
};
/* clang-format on */

static char letter(enum role r)
{
	return r == USER_AUDITOR ? 'a' : r == USER_OPERATOR ? 'p' : 'o';
}

static enum permit expected(enum role role, unsigned method, enum resource r)
{
	const char *who = method == METHOD_GET ? rights[r].get : method == METHOD_POST ? rights[r].post : "";

	if (who[0] == '\0')
		return PERMIT_NO_METHOD;
	return strchr(who, letter(role)) != NULL ? PERMIT_YES : PERMIT_NO_RIGHT;
}

static void nobody_may_do_anything(void **state)
{
	static const int roles[] = { USER_NONE, 4, 5, 255, -1 };

	(void)state;
	for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
		for (int r = 0; r < RESOURCE_COUNT; r++)
			for (unsigned method = 0; method < 32; method++)
				assert_int_equal(roles_permit((enum role)roles[i], method, (enum resource)r), PERMIT_NO_IDENTITY);
}

static void every_right_is_as_written(void **state)
{
	(void)state;
	for (int role = USER_AUDITOR; role <= USER_OFFICER; role++)
		for (int r = 0; r < RESOURCE_COUNT; r++)
			for (unsigned method = 0; method < 32; method++)
				assert_int_equal(roles_permit((enum role)role, method, (enum resource)r),
						 expected((enum role)role, method, (enum resource)r));
}

static void no_two_roles_may_change_the_same(void **state)
{
	(void)state;
	for (int r = 0; r < RESOURCE_COUNT; r++) {
		int may = 0;

		for (int role = USER_AUDITOR; role <= USER_OFFICER; role++)
			may += roles_permit((enum role)role, METHOD_POST, (enum resource)r) == PERMIT_YES;
		assert_true(may <= 1);
	}
}

static void what_may_undo_a_revoke_is_guarded_and_revoking_is_not(void **state)
{
	(void)state;
	for (int r = 0; r < RESOURCE_COUNT; r++)
		assert_int_equal(resource_row((enum resource)r)->guarded, r == RESOURCE_ATTACH || r == RESOURCE_RESTORE);
}

struct path {
	const char *text;
	int error;
	enum resource resource;
	const char *volume;
};

/* clang-format off */
static const struct path paths[] = {
	{ "status",               0, RESOURCE_STATUS, "" },
	{ "volumes",              0, RESOURCE_VOLUMES, "" },
	{ "revoke",               0, RESOURCE_REVOKE_ALL, "" },
	{ "posture",              0, RESOURCE_POSTURE, "" },
	{ "volumes/a",            0, RESOURCE_VOLUME, "a" },
	{ "volumes/vol-1_x/state",0, RESOURCE_STATE, "vol-1_x" },
	{ "volumes/state/state",  0, RESOURCE_STATE, "state" },
	{ "volumes/state",        0, RESOURCE_VOLUME, "state" },
	{ "volumes/a/attach",     0, RESOURCE_ATTACH, "a" },
	{ "volumes/a/detach",     0, RESOURCE_DETACH, "a" },
	{ "volumes/a/revoke",     0, RESOURCE_REVOKE, "a" },
	{ "volumes/a/restore",    0, RESOURCE_RESTORE, "a" },
	{ "volumes/0123456789012345678901234567890",  0, RESOURCE_VOLUME, "0123456789012345678901234567890" },
	{ "volumes/01234567890123456789012345678901", ERR_USAGE, 0, NULL },
	{ "volumes/",             ERR_USAGE, 0, NULL },
	{ "volumes//state",       ERR_USAGE, 0, NULL },
	{ "volumes/A",            ERR_USAGE, 0, NULL },
	{ "volumes/_a",           ERR_USAGE, 0, NULL },
	{ "volumes/a%2Fb",        ERR_USAGE, 0, NULL },
	{ "volumes/../state",     ERR_USAGE, 0, NULL },
	{ "volumes/a/b",          ERR_NOT_FOUND, 0, NULL },
	{ "volumes/a/b/state",    ERR_NOT_FOUND, 0, NULL },
	{ "volumes/a/state/",     ERR_NOT_FOUND, 0, NULL },
	{ "volume",               ERR_NOT_FOUND, 0, NULL },
	{ "",                     ERR_NOT_FOUND, 0, NULL },
	{ "statu",                ERR_NOT_FOUND, 0, NULL },
	{ "statuss",              ERR_NOT_FOUND, 0, NULL },
};
/* clang-format on */

static void paths_are_read_as_written(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
		struct target t;
		int r = roles_path(&t, paths[i].text, strlen(paths[i].text));

		if (r != paths[i].error)
			print_error("%s\n", paths[i].text);
		assert_int_equal(r, paths[i].error);
		if (r != 0)
			continue;
		assert_int_equal(t.resource, paths[i].resource);
		assert_string_equal(t.volume, paths[i].volume);
	}
}

static void a_nul_inside_a_name_is_no_name(void **state)
{
	struct target t;

	(void)state;
	assert_int_equal(roles_path(&t, "volumes/a\0b", 11), ERR_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_may_do_anything),
		cmocka_unit_test(every_right_is_as_written),
		cmocka_unit_test(no_two_roles_may_change_the_same),
		cmocka_unit_test(what_may_undo_a_revoke_is_guarded_and_revoking_is_not),
		cmocka_unit_test(paths_are_read_as_written),
		cmocka_unit_test(a_nul_inside_a_name_is_no_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
