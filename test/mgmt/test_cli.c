/* The command line and the credentials file: what is refused, and with which line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"

#include "arguments.h"
#include "credentials.h"

enum { WORDS_MAX = 12 };

static char folder[] = "/tmp/fallgate-test-XXXXXX";

static int read_line(struct arguments *a, const char *line, char *text, size_t size)
{
	static char copy[512];
	char *argv[WORDS_MAX + 2] = { (char *)"fallgate" };
	int argc = 1;

	snprintf(copy, sizeof copy, "%s", line);
	for (char *w = strtok(copy, " "); w != NULL && argc <= WORDS_MAX; w = strtok(NULL, " "))
		argv[argc++] = w;
	return arguments_read(a, argc, argv, text, size);
}

/* clang-format off */
static const char *const refused[][2] = {
	{ "",                              "a verb is missing" },
	{ "frobnicate",                    "is no verb" },
	{ "config",                        "is no verb" },
	{ "config frob",                   "is no verb" },
	{ "status --frob",                 "is not an option" },
	{ "status --credentials",          "lacks its value" },
	{ "status --json=1",               "one too many" },
	{ "status a b",                    "does not take 'b'" },
	{ "status A",                      "is not a volume's name" },
	{ "status ../x",                   "is not a volume's name" },
	{ "status --force",                "does not take --force" },
	{ "create a --forc",               "'--forc' is not an option" },
	{ "status --cred /x",              "is not an option" },
	{ "status a --local",              "neither NAME nor --watch" },
	{ "status --local --watch",        "neither NAME nor --watch" },
	{ "volumes a",                     "does not take 'a'" },
	{ "attach",                        "needs NAME" },
	{ "attach a --all",                "does not take --all" },
	{ "restore a --force",             "does not take --force" },
	{ "restore a --local",             "does not take --local" },
	{ "revoke",                        "needs NAME or --all" },
	{ "revoke a --all",                "and not both" },
	{ "revoke a --force",              "does not take --force" },
	{ "enroll a",                      "needs --role" },
	{ "enroll --role king a",          "needs --role" },
	{ "enroll --role none a",          "needs --role" },
	{ "enroll --role officer",         "needs IDENTITY" },
	{ "enroll --role officer a;b",     "an identity is" },
	{ "enroll --role officer 0123456789012345678901234567890123456789012345678901234567890123", "an identity is" },
	{ "stop now",                      "does not take 'now'" },
	{ "volumes --watch",               "does not take --watch" },
};
/* clang-format on */

static void what_makes_no_sense_is_refused_with_a_line(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
		struct arguments a;
		char text[256] = "";

		if (read_line(&a, refused[i][0], text, sizeof text) != ERR_USAGE || strstr(text, refused[i][1]) == NULL)
			fail_msg("'%s' -> '%s'", refused[i][0], text);
	}
}

static void options_stand_anywhere(void **state)
{
	struct arguments a;
	char text[256];

	(void)state;
	assert_int_equal(read_line(&a, "--credentials f status --json demo --watch", text, sizeof text), 0);
	assert_int_equal(a.verb, VERB_STATUS);
	assert_string_equal(a.credentials, "f");
	assert_string_equal(a.name, "demo");
	assert_true(a.json && a.watch && !a.force);
	assert_int_equal(read_line(&a, "revoke --all --local --run-dir /r", text, sizeof text), 0);
	assert_true(a.all && a.local && a.name == NULL);
	assert_int_equal(read_line(&a, "config check --config /c", text, sizeof text), 0);
	assert_int_equal(a.verb, VERB_CONFIG_CHECK);
	assert_int_equal(read_line(&a, "enroll --role operator me@host --out f", text, sizeof text), 0);
	assert_int_equal(a.role_number, USER_OPERATOR);
	assert_int_equal(read_line(&a, "frobnicate --help", text, sizeof text), 0);
	assert_int_equal(a.verb, VERB_HELP);
	assert_int_equal(read_line(&a, "version", text, sizeof text), 0);
	assert_int_equal(read_line(&a, "status -- -x", text, sizeof text), ERR_USAGE);
	assert_non_null(strstr(text, "'-x' is not a volume's name"));
}

static void a_line_with_control_characters_is_shown_harmless(void **state)
{
	char *argv[] = { (char *)"fallgate", (char *)"status", (char *)"a\n\033[2J", NULL };
	struct arguments a;
	char text[256];

	(void)state;
	assert_int_equal(arguments_read(&a, 3, argv, text, sizeof text), ERR_USAGE);
	assert_null(strchr(text, '\n'));
	assert_null(strchr(text, '\033'));
}

/* ---- credentials ---- */

static void write_file(char *path, const char *content, unsigned mode)
{
	FILE *f;

	snprintf(path, 128, "%s/credentials", folder);
	unlink(path);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(content, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF"

static int load(struct credentials *c, const char *content, unsigned mode, char *text, size_t size)
{
	char path[128];

	write_file(path, content, mode);
	return credentials_load(c, path, text, size);
}

static void a_file_open_to_others_is_refused(void **state)
{
	static const unsigned loose[] = { 0644, 0640, 0604, 0620, 0601 };
	const char *good = "[agent]\naddress=127.0.0.1:1\nidentity=a\nkey=" KEY "\n";
	static const struct credentials none;
	struct credentials c;
	char text[512];

	(void)state;
	for (size_t i = 0; i < sizeof loose / sizeof loose[0]; i++) {
		assert_int_equal(load(&c, good, loose[i], text, sizeof text), ERR_DENIED);
		assert_non_null(strstr(text, "chmod 600"));
		assert_memory_equal(&c, &none, sizeof c);
	}
	assert_int_equal(load(&c, good, 0600, text, sizeof text), 0);
	assert_int_equal(load(&c, good, 0400, text, sizeof text), 0);
	assert_string_equal(c.identity, "a");
	assert_int_equal(c.key[0], 0x01);
	assert_int_equal(c.key[31], 0xef);
}

static void a_file_of_somebody_else_is_refused(void **state)
{
	struct credentials c;
	char path[128], text[512];

	(void)state;
	if (geteuid() != 0)
		skip();
	write_file(path, "[agent]\naddress=127.0.0.1:1\nidentity=a\nkey=" KEY "\n", 0600);
	assert_int_equal(chown(path, 65534, 65534), 0);
	assert_int_equal(credentials_load(&c, path, text, sizeof text), ERR_DENIED);
	assert_non_null(strstr(text, "belongs to user 65534"));
}

/* clang-format off */
static const char *const bad_files[][2] = {
	{ "",                                                                             "needs address, identity and key" },
	{ "[agent]\naddress=127.0.0.1:1\nidentity=a\n",                                   "needs address, identity and key" },
	{ "address=127.0.0.1:1\nidentity=a\nkey=" KEY "\n",                               "needs address, identity and key" },
	{ "[agent]\naddress=127.0.0.1:1\nidentity=a\nkey=12\n",                           "key (64 hex" },
	{ "[agent]\naddress=127.0.0.1:1\nidentity=a\nkey=" KEY "00\n",                    "key (64 hex" },
	{ "[agent]\naddress=127.0.0.1:1\nidentity=a\nkey=x123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n", "key (64 hex" },
	{ "[agent]\naddress=127.0.0.1:1\nidentity=\nkey=" KEY "\n",                       "identity is not" },
	{ "[agent]\naddress=127.0.0.1:1\nidentity=a\nidentity=b\nkey=" KEY "\n",          "identity is not" },
	{ "[agent]\nidentity=0123456789012345678901234567890123456789012345678901234567890123\n", "identity is not" },
	{ "[agent]\nwhat is this\n",                                                      ":2 is not" },
};
/* clang-format on */

static void a_wrong_file_is_named_and_its_content_is_not(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
		static const struct credentials none;
		struct credentials c;
		char text[512] = "";

		if (load(&c, bad_files[i][0], 0600, text, sizeof text) != ERR_CONFIG || strstr(text, bad_files[i][1]) == NULL)
			fail_msg("%zu: '%s'", i, text);
		assert_non_null(strstr(text, folder));
		assert_null(strstr(text, "0123456789abcdef"));
		assert_memory_equal(&c, &none, sizeof c);
	}
}

static void a_missing_file_says_how_to_get_one(void **state)
{
	struct credentials c;
	char text[512];

	(void)state;
	assert_int_equal(credentials_load(&c, "/nonexistent/credentials", text, sizeof text), ERR_NOT_FOUND);
	assert_non_null(strstr(text, "enroll"));
	assert_int_equal(credentials_load(&c, folder, text, sizeof text), ERR_DENIED);
}

static void what_is_saved_is_what_is_loaded_and_nobody_elses(void **state)
{
	struct credentials c = { .address = "[::1]:5684", .identity = "me@host" }, again;
	char path[128], text[512];
	struct stat s;

	(void)state;
	memset(c.key, 0xa5, sizeof c.key);
	snprintf(path, sizeof path, "%s/deep/er/credentials", folder);
	umask(0);
	assert_int_equal(credentials_check_place(path, false, text, sizeof text), 0);
	assert_int_equal(credentials_save(&c, path, false, text, sizeof text), 0);
	assert_int_equal(stat(path, &s), 0);
	assert_int_equal(s.st_mode & 07777, 0600);
	assert_int_equal(s.st_nlink, 1);
	assert_int_equal(credentials_load(&again, path, text, sizeof text), 0);
	assert_memory_equal(&c, &again, sizeof c);

	assert_int_equal(credentials_check_place(path, false, text, sizeof text), ERR_EXISTS);
	assert_non_null(strstr(text, "--force"));
	assert_int_equal(credentials_save(&c, path, false, text, sizeof text), ERR_EXISTS);
	strcpy(c.identity, "other");
	assert_int_equal(credentials_check_place(path, true, text, sizeof text), 0);
	assert_int_equal(credentials_save(&c, path, true, text, sizeof text), 0);
	assert_int_equal(credentials_load(&again, path, text, sizeof text), 0);
	assert_string_equal(again.identity, "other");
	assert_int_equal(credentials_check_place(folder, true, text, sizeof text), ERR_EXISTS);
}

static void the_place_of_credentials_is_looked_up_in_order(void **state)
{
	char path[CREDENTIALS_PATH_MAX], text[256];

	(void)state;
	setenv("HOME", "/home/me", 1);
	setenv("FALLGATE_CREDENTIALS", "/e", 1);
	assert_int_equal(credentials_path(path, "/given", text, sizeof text), 0);
	assert_string_equal(path, "/given");
	assert_int_equal(credentials_path(path, NULL, text, sizeof text), 0);
	assert_string_equal(path, "/e");
	unsetenv("FALLGATE_CREDENTIALS");
	assert_int_equal(credentials_path(path, NULL, text, sizeof text), 0);
	assert_string_equal(path, "/home/me/.config/fallgate/credentials");
	unsetenv("HOME");
	assert_int_equal(credentials_path(path, NULL, text, sizeof text), ERR_CONFIG);
	assert_non_null(strstr(text, "--credentials"));
}

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) == NULL ? -1 : 0;
}

static int drop_folder(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof command, "rm -r %s", folder);
	return system(command) == 0 ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_makes_no_sense_is_refused_with_a_line),
		cmocka_unit_test(options_stand_anywhere),
		cmocka_unit_test(a_line_with_control_characters_is_shown_harmless),
		cmocka_unit_test(a_file_open_to_others_is_refused),
		cmocka_unit_test(a_file_of_somebody_else_is_refused),
		cmocka_unit_test(a_wrong_file_is_named_and_its_content_is_not),
		cmocka_unit_test(a_missing_file_says_how_to_get_one),
		cmocka_unit_test(what_is_saved_is_what_is_loaded_and_nobody_elses),
		cmocka_unit_test(the_place_of_credentials_is_looked_up_in_order),
	};

	return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
