/* Rings by themselves, on this kernel: what is not on the list is refused, and the list cannot be changed. No ublk driver is
 * needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "ublk_ring.h"

static const uint8_t only_read[] = { IORING_OP_READ };

static struct {
	struct io_uring ring;
	int listed, other; /* one that the ring may read, and one that it may not */
	uint64_t value;
} t;

static int make_ring(void **state)
{
	struct ublk_ring_rules rules = { .operations = only_read, .count = 1, .files = &t.listed, .file_count = 1 };
	int r;

	(void)state;
	t.listed = eventfd(7, EFD_CLOEXEC);
	t.other = eventfd(9, EFD_CLOEXEC);
	r = ublk_ring_make(&t.ring, 8, 0, &rules);
	if (r == ERR_UNSUPPORTED)
		t.ring.ring_fd = -1; /* this kernel, or this machine's owner, allows no rings */
	return r == 0 || r == ERR_UNSUPPORTED ? 0 : -1;
}

static int drop_ring(void **state)
{
	(void)state;
	if (t.ring.ring_fd >= 0)
		io_uring_queue_exit(&t.ring);
	close(t.listed);
	close(t.other);
	return 0;
}

static void skip_without_rings(void)
{
	if (t.ring.ring_fd >= 0)
		return;
	print_message("no io_uring here: skipped\n");
	skip();
}

/* What the kernel says to one operation on a file, or on a number of the list (fixed). */
static int try(uint8_t operation, int file, uint8_t flags)
{
	struct io_uring_sqe *e = io_uring_get_sqe(&t.ring);
	struct io_uring_cqe *done;
	int r;

	if (e == NULL)
		return -ENOSPC;
	memset(e, 0, sizeof *e);
	e->opcode = operation;
	e->fd = file;
	e->flags = flags;
	e->addr = (uint64_t)(uintptr_t)&t.value;
	e->len = sizeof t.value;
	assert_true(io_uring_submit(&t.ring) >= 0);
	assert_int_equal(io_uring_wait_cqe(&t.ring, &done), 0);
	r = done->res;
	io_uring_cqe_seen(&t.ring, done);
	return r;
}

static void what_is_listed_works(void **state)
{
	(void)state;
	skip_without_rings();
	assert_int_equal(try(IORING_OP_READ, 0, IOSQE_FIXED_FILE), sizeof t.value);
	assert_int_equal(t.value, 7);
}

static void every_other_operation_is_refused(void **state)
{
	(void)state;
	skip_without_rings();
	for (uint8_t op = IORING_OP_NOP; op < IORING_OP_LAST; op++)
		if (op != IORING_OP_READ)
			assert_int_equal(try(op, 0, IOSQE_FIXED_FILE), -EACCES);
}

static void every_other_file_is_refused(void **state)
{
	(void)state;
	skip_without_rings();
	assert_int_equal(try(IORING_OP_READ, t.other, 0), -EACCES);
	assert_int_equal(try(IORING_OP_READ, t.listed, 0), -EACCES);
	assert_int_equal(try(IORING_OP_READ, 1, IOSQE_FIXED_FILE), -EBADF);
	assert_int_equal(try(IORING_OP_READ, 0, IOSQE_FIXED_FILE | IOSQE_ASYNC), -EACCES);
	assert_int_equal(try(IORING_OP_READ, 0, IOSQE_FIXED_FILE | IOSQE_IO_LINK), -EACCES);
}

static int registration(unsigned what, const void *argument, unsigned count)
{
	return syscall(SYS_io_uring_register, t.ring.ring_fd, what, argument, count) < 0 ? errno : 0;
}

static void nothing_can_be_registered_any_more(void **state)
{
	struct io_uring_restriction all = { .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_OPENAT };
	struct io_uring_files_update update = { .offset = 0, .fds = (uint64_t)(uintptr_t)&t.other };
	struct iovec memory = { &t.value, sizeof t.value };

	(void)state;
	skip_without_rings();
	assert_int_not_equal(registration(IORING_REGISTER_RESTRICTIONS, &all, 1), 0);
	assert_int_not_equal(registration(IORING_REGISTER_ENABLE_RINGS, NULL, 0), 0);
	assert_int_not_equal(registration(IORING_REGISTER_FILES_UPDATE, &update, 1), 0);
	assert_int_not_equal(registration(IORING_UNREGISTER_FILES, NULL, 0), 0);
	assert_int_not_equal(registration(IORING_REGISTER_BUFFERS, &memory, 1), 0);
	assert_int_not_equal(registration(IORING_REGISTER_PERSONALITY, NULL, 0), 0);
	every_other_file_is_refused(NULL);
	what_is_listed_works(NULL);
}

static void flags_are_allowed_where_they_were_listed(void **state)
{
	struct ublk_ring_rules rules = { .operations = only_read, .count = 1, .flags = IOSQE_ASYNC };

	(void)state;
	skip_without_rings();
	io_uring_queue_exit(&t.ring);
	assert_int_equal(ublk_ring_make(&t.ring, 8, 0, &rules), 0);
	assert_int_equal(try(IORING_OP_READ, t.other, IOSQE_ASYNC), sizeof t.value);
	assert_int_equal(t.value, 9);
	assert_int_equal(try(IORING_OP_READ, t.other, IOSQE_IO_LINK), -EACCES);
	assert_int_equal(try(IORING_OP_WRITE, t.other, 0), -EACCES);
}

static void too_long_a_list_is_refused(void **state)
{
	static const uint8_t many[] = { 1, 2, 3, 4, 5 };
	struct ublk_ring_rules rules = { .operations = many, .count = sizeof many };
	struct io_uring ring;

	(void)state;
	skip_without_rings();
	assert_int_equal(ublk_ring_make(&ring, 8, 0, &rules), ERR_UNSUPPORTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_listed_works, make_ring, drop_ring),
		cmocka_unit_test_setup_teardown(every_other_operation_is_refused, make_ring, drop_ring),
		cmocka_unit_test_setup_teardown(every_other_file_is_refused, make_ring, drop_ring),
		cmocka_unit_test_setup_teardown(nothing_can_be_registered_any_more, make_ring, drop_ring),
		cmocka_unit_test_setup_teardown(flags_are_allowed_where_they_were_listed, make_ring, drop_ring),
		cmocka_unit_test_setup_teardown(too_long_a_list_is_refused, make_ring, drop_ring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
