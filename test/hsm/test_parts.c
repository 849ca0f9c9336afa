/* The parts of the hsm process that need no module: URIs, periods of validity, the halves of a ticket, PIN files. */
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

#include "base/error.h"
#include "hsm/kek.h"
#include "hsm/pin.h"
#include "hsm/token.h"
#include "hsm/unwrap.h"

/* ---- URIs ---- */

static void uris_that_could_match_too_much_are_refused(void **state)
{
	static const struct {
		const char *uri;
		const char *why; /* part of the text */
	} rows[] = {
		{ "pkcs11:token=t;object=k?pin-value=SECRET99", "pin-value" },
		{ "pkcs11:token=t;object=k?pin-source=file:/p&pin-value=SECRET99", "pin-value" },
		{ "pkcs11:token=t;object=k;foo=bar", "RFC 7512" },
		{ "pkcs11:token=t;object=k?what=ever", "pin-source" },
		{ "pkcs11:token=t;object=k?pin-source=file:/p&pin-valu=SECRET99", "pin-source" },
		{ "pkcs11:token=t;object=k?module-path=/m.so", "pin-source" },
		{ "pkcs11:token=t;object=k%4", "not a PKCS#11 URI" },
		{ "token=t;object=k", "not a PKCS#11 URI" },
		{ "", "not a PKCS#11 URI" },
		{ "http://example.org/", "not a PKCS#11 URI" },
		{ "pkcs11:", "names no token" },
		{ "pkcs11:object=k", "names no token" },
		{ "pkcs11:token=;object=k", "names no token" },
		{ "pkcs11:manufacturer=m;model=x;object=k", "names no token" },
		{ "pkcs11:token=t", "names no key" },
		{ "pkcs11:token=t;type=private", "names no key" },
		{ "pkcs11:token=t;object=", "names no key" },
		{ "pkcs11:token=t;slot-id=3;object=k", "slot" },
		{ "pkcs11:token=t;slot-description=left;object=k", "slot" },
		{ "pkcs11:token=t;object=k;type=cert", "no key-encryption key" },
		{ "pkcs11:token=t;object=k;type=public", "no key-encryption key" },
	};
	char text[TEXT_MAX_BYTES];
	struct token *t;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		if (token_new(&t, rows[i].uri, text) != ERR_CONFIG)
			fail_msg("'%s' was taken", rows[i].uri);
		assert_null(t);
		if (strstr(text, rows[i].why) == NULL)
			fail_msg("'%s' was refused for another reason: %s", rows[i].uri, text);
		assert_null(strstr(text, "SECRET99"));
	}
}

static void good_uris_are_taken(void **state)
{
	static const char *const rows[] = {
		"pkcs11:token=my%20token;object=kek",
		"pkcs11:serial=0123456789abcdef;id=%01%02",
		"pkcs11:token=t;object=k;type=private?pin-source=file:/run/pin",
		"pkcs11:token=t;object=k;type=secret-key",
		"pkcs11:token=t;manufacturer=m;model=x;id=%ff",
	};
	char text[TEXT_MAX_BYTES];
	struct token *t;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		if (token_new(&t, rows[i], text) != 0)
			fail_msg("'%s': %s", rows[i], text);
		token_free(t);
	}
}

static void a_module_that_does_not_load_is_named(void **state)
{
	char text[TEXT_MAX_BYTES] = "";
	struct token *t;

	(void)state;
	assert_int_equal(token_new(&t, "pkcs11:token=t;object=k", text), 0);
	assert_int_equal(token_load(t, "/nonexistent/module.so", text), ERR_NOT_FOUND);
	assert_non_null(strstr(text, "/nonexistent/module.so"));
	assert_int_equal(token_load(t, "relative.so", text), ERR_NOT_FOUND);
	token_free(t);
}

/* ---- validity ---- */

static void dates_are_whole_days_of_utc(void **state)
{
	const time_t noon = 1783425600; /* 2026-07-07 12:00 UTC */

	(void)state;
	assert_int_equal(kek_validity("", "", noon), VERDICT_GOOD);
	assert_int_equal(kek_validity("20260707", "20260707", noon), VERDICT_GOOD);
	assert_int_equal(kek_validity("", "20260706", noon), VERDICT_EXPIRED);
	assert_int_equal(kek_validity("20260708", "", noon), VERDICT_NOT_YET_VALID);
	assert_int_equal(kek_validity("", "20260707", noon + 12 * 3600 - 1), VERDICT_GOOD);
	assert_int_equal(kek_validity("", "20260707", noon + 12 * 3600), VERDICT_EXPIRED);
	assert_int_equal(kek_validity("20260707", "", noon - 12 * 3600), VERDICT_GOOD);
	assert_int_equal(kek_validity("20260707", "", noon - 12 * 3600 - 1), VERDICT_NOT_YET_VALID);
	assert_int_equal(kek_validity("", "2026XX07", noon), VERDICT_KEY_UNFIT);
	assert_int_equal(kek_validity("20261307", "", noon), VERDICT_KEY_UNFIT);
	assert_int_equal(kek_validity("", "20260700", noon), VERDICT_KEY_UNFIT);
	assert_int_equal(kek_validity("", "2026070", noon), VERDICT_KEY_UNFIT);
}

/* ---- tickets ---- */

static struct ticket_halves agreeing(void)
{
	struct ticket_halves h = { .has_ticket = true, .has_page = true };

	h.ticket = (struct msg_hsm_ticket){
		.ticket = 7, .volume = "demo", .gen_no = 2, .dataplane_pid = 100, .dataplane_uid = 1000
	};
	h.page = (struct msg_page){ .ticket = 7, .volume = "demo", .gen_no = 2 };
	h.sender = (struct channel_peer){ .pid = 100, .uid = 1000 };
	return h;
}

static void one_difference_is_enough(void **state)
{
	struct ticket_halves h = agreeing();

	(void)state;
	assert_null(halves_differ(&h));
	h.page.ticket = 8;
	assert_non_null(halves_differ(&h));
	h = agreeing();
	strcpy(h.page.volume, "demo2");
	assert_non_null(halves_differ(&h));
	h = agreeing();
	h.page.gen_no = 3;
	assert_non_null(halves_differ(&h));
	h = agreeing();
	h.sender.pid = 101;
	assert_non_null(halves_differ(&h));
	h = agreeing();
	h.sender.uid = 0;
	assert_non_null(halves_differ(&h));
	h = agreeing();
	h.page_wraps = true;
	assert_non_null(halves_differ(&h));
	h = agreeing();
	h.ticket_wraps = true;
	assert_non_null(halves_differ(&h));
}

/* ---- PIN files ---- */

static int file_with(const void *content, size_t size)
{
	int fd = memfd_create("pin", 0);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, size), (ssize_t)size);
	return fd;
}

static int read_from(const void *content, size_t size, char *out)
{
	int fd = file_with(content, size);
	struct pin pin;
	int r = pin_read(&pin, fd);

	if (r == 0) {
		memcpy(out, pin.bytes, pin.size);
		out[pin.size] = '\0';
	}
	pin_wipe(&pin);
	close(fd);
	return r;
}

static void a_pin_is_the_first_line(void **state)
{
	char out[PIN_MAX + 1], longest[PIN_MAX + 2];

	(void)state;
	assert_int_equal(read_from("1234\n", 5, out), 0);
	assert_string_equal(out, "1234");
	assert_int_equal(read_from("1234", 4, out), 0);
	assert_string_equal(out, "1234");
	assert_int_equal(read_from("1234\r\nmore", 10, out), 0);
	assert_string_equal(out, "1234");
	memset(longest, 'x', sizeof longest);
	assert_int_equal(read_from(longest, PIN_MAX, out), 0);
	assert_int_equal(strlen(out), PIN_MAX);
	assert_int_equal(read_from(longest, PIN_MAX + 1, out), ERR_CONFIG);
	assert_int_equal(read_from("", 0, out), ERR_CONFIG);
	assert_int_equal(read_from("\n1234\n", 6, out), ERR_CONFIG);
	assert_int_equal(read_from("12\00034\n", 6, out), ERR_CONFIG);
}

static void a_pin_can_be_read_again(void **state)
{
	int fd = file_with("1234\n", 5);
	struct pin pin;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pin_read(&pin, fd), 0);
		assert_int_equal(pin.size, 4);
		pin_wipe(&pin);
		assert_null(pin.bytes);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(uris_that_could_match_too_much_are_refused),
		cmocka_unit_test(good_uris_are_taken),
		cmocka_unit_test(a_module_that_does_not_load_is_named),
		cmocka_unit_test(dates_are_whole_days_of_utc),
		cmocka_unit_test(one_difference_is_enough),
		cmocka_unit_test(a_pin_is_the_first_line),
		cmocka_unit_test(a_pin_can_be_read_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
