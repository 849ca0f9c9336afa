/* The broker's ring on this kernel, with another file in the driver's place and a kernel that is short of memory at first. No
 * ublk driver is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "base/error.h"
#include "hal/ublk.h"
#include "ublk_ring.h"

static struct ublk_control *control; /* NULL: no rings here */
static int refusals;

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

int __wrap_open(const char *path, int flags, ...)
{
	return __real_open(strcmp(path, "/dev/ublk-control") == 0 ? "/dev/null" : path, flags);
}

/* As the real one does then: what stands in the ring stays there. */
int __wrap_io_uring_submit(struct io_uring *ring)
{
	return refusals > 0 && refusals-- > 0 ? -EAGAIN : __real_io_uring_submit(ring);
}

static int make(void **state)
{
	int r = ublk_control_open(&control);

	(void)state;
	if (r == ERR_UNSUPPORTED)
		control = NULL;
	return r == 0 || r == ERR_UNSUPPORTED ? 0 : -1;
}

static void skip_without_rings(void)
{
	if (control != NULL)
		return;
	print_message("no io_uring here: skipped\n");
	skip();
}

/* A round of the broker: it looks for answers, then waits, at most so long. */
static struct ublk_command *answer_within(int rounds)
{
	struct pollfd p = { .fd = control->ops->fd(control), .events = POLLIN };
	struct ublk_command *c = NULL;

	for (int i = 0; i < rounds && c == NULL; i++) {
		c = control->ops->next(control);
		if (c == NULL)
			poll(&p, 1, 100);
	}
	return c;
}

static void an_order_is_answered(void **state)
{
	static struct ublk_command c = { .verb = UBLK_STOP };

	(void)state;
	skip_without_rings();
	refusals = 0;
	assert_int_equal(control->ops->begin(control, &c), 0);
	assert_ptr_equal(answer_within(50), &c);
}

/* Nothing else may ever be ordered: a device whose requests wait would do so for ever. */
static void an_order_that_the_kernel_has_no_memory_for_is_handed_over_again(void **state)
{
	static struct ublk_command c = { .verb = UBLK_STOP };

	(void)state;
	skip_without_rings();
	refusals = 3;
	assert_int_equal(control->ops->begin(control, &c), 0);
	assert_ptr_equal(answer_within(50), &c);
	assert_int_equal(refusals, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_order_is_answered),
		cmocka_unit_test(an_order_that_the_kernel_has_no_memory_for_is_handed_over_again),
	};

	return cmocka_run_group_tests(tests, make, NULL);
}
