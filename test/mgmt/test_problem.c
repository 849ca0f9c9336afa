/* Every error with its code and its remedy, written out once more: a remedy that changes is to be read by somebody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "mgmt/problem.h"

struct expectation {
	int error;
	unsigned class, detail;
	const char *remedy;
};

/* clang-format off */
static const struct expectation table[] = {
	{ ERR_NONE,        2, 4, "" },
	{ ERR_USAGE,       4, 0, "check the command against its manual page, fallgate(1)" },
	{ ERR_CONFIG,      5, 0, "run 'fallgate config check' and correct the file and line it names" },
	{ ERR_NOMEM,       5, 0, "free memory on the agent's machine or raise its locked-memory limit, then try again" },
	{ ERR_IO,          5, 0, "look at the kernel log of the agent's machine for the failing device" },
	{ ERR_NOSPACE,     5, 0, "make room on, or enlarge, the backing store" },
	{ ERR_BUSY,        4, 9, "wait for the other operation, or stop the process that holds it, then try again" },
	{ ERR_EXISTS,      4, 9, "use another name, or --force if what is there may be overwritten" },
	{ ERR_NOT_FOUND,   4, 4, "see 'fallgate volumes' for the names that exist" },
	{ ERR_RANGE,       4, 0, "correct the size or alignment in the volume's configuration" },
	{ ERR_CORRUPT,     5, 0, "treat it as damage or tampering: keep the device as it is and restore from a backup" },
	{ ERR_FOREIGN,     4, 9, "point the volume's configuration at the right device, or create the volume first" },
	{ ERR_REVOKED,     4, 9, "see 'fallgate status NAME' for the cause and what lifts it" },
	{ ERR_REFUSED,     4, 9, "have the HSM's custodian allow the key, its rights and its PIN" },
	{ ERR_UNREACHABLE, 5, 3, "check the HSM and the way to it; the agent goes on by itself when it answers" },
	{ ERR_TIMEOUT,     5, 4, "see 'fallgate status' for what happened, then try again" },
	{ ERR_DENIED,      4, 3, "use the credentials of an identity with the role for it, or enroll one at the console" },
	{ ERR_STATE,       4, 9, "see 'fallgate status NAME' for the present state, then decide again" },
	{ ERR_PROTOCOL,    5, 0, "install the client and the agent from one release, and report it if they are" },
	{ ERR_UNSUPPORTED, 5, 1, "use a build or board that has it; 'fallgate posture' shows what this one has" },
	{ ERR_FAILSTOP,    5, 0, "detach the volume, repair the device, attach it again" },
};
/* clang-format on */

static void every_error_has_its_line(void **state)
{
	(void)state;
	assert_int_equal(sizeof table / sizeof table[0], -ERR_LAST);
	for (int i = 0; i < -ERR_LAST; i++) {
		assert_int_equal(table[i].error, -i);
		assert_int_equal(problem_code(-i), table[i].class << 5 | table[i].detail);
		assert_string_equal(problem_remedy(-i), table[i].remedy);
	}
}

static void an_unknown_error_is_the_agents_fault(void **state)
{
	static const int unknown[] = { 1, 77, ERR_LAST, -1000 };

	(void)state;
	for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
		assert_int_equal(problem_code(unknown[i]), 5 << 5);
		assert_string_equal(problem_remedy(unknown[i]), "look at the agent's log");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_error_has_its_line),
		cmocka_unit_test(an_unknown_error_is_the_agents_fault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
