/* Identities: a stranger learns nothing, a removed one has nothing, a full table says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "mgmt/credentials.h"

static struct credentials c;

static int put(const char *identity, enum role role, uint8_t fill)
{
	struct msg_mg_credential m = { .role = (uint8_t)role };

	snprintf(m.identity, sizeof m.identity, "%s", identity);
	memset(m.psk, fill, sizeof m.psk);
	return credentials_put(&c, &m);
}

static enum role role_of(const char *identity)
{
	return credentials_role(&c, (const uint8_t *)identity, strlen(identity));
}

static void an_unknown_identity_gets_a_key_that_is_never_the_same(void **state)
{
	uint8_t a[PSK_BYTES], b[PSK_BYTES];

	(void)state;
	memset(&c, 0, sizeof c);
	put("alice", USER_OFFICER, 1);
	assert_int_equal(credentials_psk(&c, a, (const uint8_t *)"mallory", 7), 0);
	assert_int_equal(credentials_psk(&c, b, (const uint8_t *)"mallory", 7), 0);
	assert_memory_not_equal(a, b, sizeof a);
	assert_int_equal(credentials_psk(&c, a, NULL, 0), 0);
	assert_int_equal(role_of("mallory"), USER_NONE);
	assert_int_equal(role_of(""), USER_NONE);
	assert_int_equal(credentials_role(&c, NULL, 0), USER_NONE);
}

static void a_known_identity_gets_its_own_key(void **state)
{
	uint8_t key[PSK_BYTES], expected[PSK_BYTES];

	(void)state;
	memset(&c, 0, sizeof c);
	put("alice", USER_OFFICER, 1);
	put("alic", USER_AUDITOR, 2);
	memset(expected, 1, sizeof expected);
	assert_int_equal(credentials_psk(&c, key, (const uint8_t *)"alice", 5), 0);
	assert_memory_equal(key, expected, sizeof key);
	assert_true(credentials_key_is(&c, (const uint8_t *)"alice", 5, key, sizeof key));
	assert_false(credentials_key_is(&c, (const uint8_t *)"alic", 4, key, sizeof key));
	assert_false(credentials_key_is(&c, (const uint8_t *)"alice", 5, key, sizeof key - 1));
	assert_false(credentials_key_is(&c, (const uint8_t *)"mallory", 7, key, sizeof key));
	assert_false(credentials_key_is(&c, NULL, 0, key, sizeof key));
	assert_int_equal(role_of("alice"), USER_OFFICER);
	assert_int_equal(role_of("alic"), USER_AUDITOR);
	assert_int_equal(role_of("alicea"), USER_NONE);
	assert_int_equal(credentials_role(&c, (const uint8_t *)"alice\0", 6), USER_NONE);
}

static void removing_leaves_no_trace(void **state)
{
	static const struct credential none;
	uint8_t key[PSK_BYTES], old[PSK_BYTES];

	(void)state;
	memset(&c, 0, sizeof c);
	put("alice", USER_OFFICER, 1);
	assert_int_equal(put("alice", USER_NONE, 0), 0);
	assert_int_equal(role_of("alice"), USER_NONE);
	memset(old, 1, sizeof old);
	assert_int_equal(credentials_psk(&c, key, (const uint8_t *)"alice", 5), 0);
	assert_memory_not_equal(key, old, sizeof key);
	assert_memory_equal(&c.rows[0], &none, sizeof none);
	assert_int_equal(put("alice", USER_NONE, 0), 0);
}

static void putting_again_replaces(void **state)
{
	(void)state;
	memset(&c, 0, sizeof c);
	put("alice", USER_OFFICER, 1);
	put("alice", USER_AUDITOR, 2);
	assert_int_equal(role_of("alice"), USER_AUDITOR);
	put("alice", USER_NONE, 0);
	assert_int_equal(role_of("alice"), USER_NONE);
}

static void a_full_table_refuses_and_keeps_the_others(void **state)
{
	char name[16];

	(void)state;
	memset(&c, 0, sizeof c);
	for (int i = 0; i < CREDENTIALS_MAX; i++) {
		snprintf(name, sizeof name, "id%d", i);
		assert_int_equal(put(name, USER_AUDITOR, 3), 0);
	}
	assert_int_equal(put("one-more", USER_OFFICER, 4), ERR_NOSPACE);
	assert_int_equal(role_of("one-more"), USER_NONE);
	assert_int_equal(role_of("id0"), USER_AUDITOR);
	assert_int_equal(role_of("id255"), USER_AUDITOR);
	assert_int_equal(put("id7", USER_OPERATOR, 4), 0);
}

static void an_empty_or_endless_identity_is_refused(void **state)
{
	struct msg_mg_credential m = { .role = USER_OFFICER };
	uint8_t longer[IDENTITY_MAX_BYTES + 8];

	(void)state;
	memset(&c, 0, sizeof c);
	assert_int_equal(credentials_put(&c, &m), ERR_USAGE);
	memset(m.identity, 'a', sizeof m.identity);
	assert_int_equal(credentials_put(&c, &m), ERR_USAGE);
	m.identity[IDENTITY_MAX_BYTES - 1] = '\0';
	assert_int_equal(credentials_put(&c, &m), 0);
	memset(longer, 'a', sizeof longer);
	assert_int_equal(credentials_role(&c, longer, IDENTITY_MAX_BYTES - 1), USER_OFFICER);
	assert_int_equal(credentials_role(&c, longer, IDENTITY_MAX_BYTES), USER_NONE);
	assert_int_equal(credentials_role(&c, longer, sizeof longer), USER_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_unknown_identity_gets_a_key_that_is_never_the_same),
		cmocka_unit_test(a_known_identity_gets_its_own_key),
		cmocka_unit_test(removing_leaves_no_trace),
		cmocka_unit_test(putting_again_replaces),
		cmocka_unit_test(a_full_table_refuses_and_keeps_the_others),
		cmocka_unit_test(an_empty_or_endless_identity_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
