/* What a thread's request buffer keeps: nothing that the next call does not need; and clients are cut, nobody else. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "dataplane/plaintext.h"

enum { SIZE = 64 };

static uint8_t buffer[SIZE], elsewhere[SIZE];

static bool only(const uint8_t *p, uint8_t value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (p[i] != value)
			return false;
	return true;
}

static void a_read_of(uint8_t *where, size_t size)
{
	plaintext_reading(where, size);
	memset(where, 0xaa, size);
}

static void the_next_call_wipes_what_was_read(void **state)
{
	(void)state;
	a_read_of(buffer, SIZE);
	assert_true(only(buffer, 0xaa, SIZE)); /* the reply is sent from it */
	plaintext_enter();
	assert_true(only(buffer, 0, SIZE));
}

static void a_shorter_read_leaves_no_tail(void **state)
{
	(void)state;
	a_read_of(buffer, SIZE);
	a_read_of(buffer, 10);
	assert_true(only(buffer, 0xaa, 10));
	assert_true(only(buffer + 10, 0, SIZE - 10));
	plaintext_enter();
	assert_true(only(buffer, 0, SIZE));
}

static void a_write_leaves_nothing(void **state)
{
	(void)state;
	a_read_of(buffer, SIZE);
	memset(buffer, 0xbb, 20); /* the server receives into the same buffer */
	plaintext_writing(buffer, 20);
	assert_true(only(buffer, 0xbb, 20));
	assert_true(only(buffer + 20, 0, SIZE - 20));
	plaintext_done(buffer, 20);
	assert_true(only(buffer, 0, SIZE));
}

/* After growth the buffer is elsewhere: the old place may belong to anybody, and must not be touched. */
static void a_buffer_that_moved_is_left_alone(void **state)
{
	(void)state;
	a_read_of(buffer, SIZE);
	memset(buffer, 0xcc, SIZE); /* somebody else's by now */
	a_read_of(elsewhere, 8);
	assert_true(only(buffer, 0xcc, SIZE));
	plaintext_enter();
	assert_true(only(buffer, 0xcc, SIZE));
	assert_true(only(elsewhere, 0, 8));
}

static void only_clients_are_cut(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int client[2], channel[2], listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	char byte;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, client), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, channel), 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address.sun_family), 0);
	assert_int_equal(listen(listener, 1), 0);
	plaintext_cut_clients();
	assert_int_equal(recv(client[0], &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(recv(channel[0], &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(send(channel[0], "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL), 1);
	assert_int_equal(accept(listener, NULL, NULL), -1);
	assert_int_equal(errno, EAGAIN);
	for (int i = 0; i < 2; i++) {
		close(client[i]);
		close(channel[i]);
	}
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_next_call_wipes_what_was_read),
		cmocka_unit_test(a_shorter_read_leaves_no_tail),
		cmocka_unit_test(a_write_leaves_nothing),
		cmocka_unit_test(a_buffer_that_moved_is_left_alone),
		cmocka_unit_test(only_clients_are_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
