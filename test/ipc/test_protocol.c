/* PROTOCOL.md's table of messages and message_rows say the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "sample.h"

static const char *const roles[] = {
	[ROLE_SUPERVISOR] = "supervisor",
	[ROLE_HSM] = "hsm",
	[ROLE_DATAPLANE] = "dataplane",
	[ROLE_MGMT] = "mgmt",
	[ROLE_CONSOLE] = "console",
	[ROLE_HOOKS] = "hooks",
	[ROLE_UBLK] = "ublk",
	[ROLE_TPM] = "tpm",
	[ROLE_COUNT] = "any",
};

static void expect(char *out, size_t size, const struct message_row *row)
{
	char fds[16];

	if (row->min_fds == row->max_fds)
		snprintf(fds, sizeof fds, "%u", row->min_fds);
	else
		snprintf(fds, sizeof fds, "%u-%u", row->min_fds, row->max_fds);
	snprintf(out, size, "| %s | %s | %s | %s | ", row->name, roles[row->sender], roles[row->receiver], fds);
}

static void the_table_of_the_document_is_the_table_of_the_code(void **state)
{
	char line[512], want[256];
	FILE *f = fopen(PROTOCOL_MD, "r");
	uint32_t type = MSG_NONE + 1;

	(void)state;
	assert_non_null(f);
	while (fgets(line, sizeof line, f) != NULL && strncmp(line, "| message |", 11) != 0)
		;
	assert_non_null(fgets(line, sizeof line, f)); /* |---| */
	while (fgets(line, sizeof line, f) != NULL && line[0] == '|') {
		assert_true(type < MSG_TYPE_COUNT);
		expect(want, sizeof want, message_row(type++));
		if (strncmp(line, want, strlen(want)) != 0)
			fail_msg("PROTOCOL.md says '%s', the code '%s'", line, want);
	}
	fclose(f);
	assert_int_equal(type, MSG_TYPE_COUNT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_of_the_document_is_the_table_of_the_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
