/* Addresses: numeric, whole, and nothing that resolves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cmocka.h>

#include "base/error.h"
#include "mgmt/address.h"

static void what_is_no_numeric_address_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		":",
		"127.0.0.1",
		"127.0.0.1:",
		"127.0.0.1:0",
		"127.0.0.1:65536",
		"127.0.0.1:123456",
		"127.0.0.1:56a",
		"127.0.0.1:+5",
		"localhost:5684",
		"127.0.0:5684",
		"::1:5684",
		"[::1]",
		"[::1]:",
		"[]:5684",
		"[::1:5684",
		"[::1]5684",
		"[127.0.0.1]:5684",
		"1111111111111111111111111111111111111111111111111111111111111111:1",
		"[1111111111111111111111111111111111111111111111111111111111111111]:1",
	};
	struct sockaddr_storage a;
	socklen_t size;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		if (address_parse(&a, &size, bad[i]) != ERR_USAGE)
			fail_msg("%s was taken", bad[i]);
}

static void both_families_are_read(void **state)
{
	struct sockaddr_storage a;
	struct sockaddr_in *four = (struct sockaddr_in *)&a;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&a;
	socklen_t size;

	(void)state;
	assert_int_equal(address_parse(&a, &size, "127.0.0.1:5684"), 0);
	assert_int_equal(four->sin_family, AF_INET);
	assert_int_equal(ntohs(four->sin_port), 5684);
	assert_int_equal(ntohl(four->sin_addr.s_addr), INADDR_LOOPBACK);
	assert_int_equal(size, sizeof *four);
	assert_int_equal(address_parse(&a, &size, "[::1]:65535"), 0);
	assert_int_equal(six->sin6_family, AF_INET6);
	assert_int_equal(ntohs(six->sin6_port), 65535);
	assert_memory_equal(&six->sin6_addr, &in6addr_loopback, sizeof in6addr_loopback);
	assert_int_equal(size, sizeof *six);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_no_numeric_address_is_refused),
		cmocka_unit_test(both_families_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
