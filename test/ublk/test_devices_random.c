/* The broker's devices in a random world: a supervisor that asks for anything at any time, servers that end, a kernel that
 * answers late, refuses, and gives a number that is free again to somebody else. Time and processes are made up here, so that
 * minutes take none. What must hold is said at `order`, `end_of_waiting` and `end_of_agent`. Arguments: how many worlds, and the
 * first one's number. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/log.h"
#include "ublk/devices.h"

enum { WORLDS = 2000, STEPS = 150, LONG = 400, VOLUMES = 2, SERVERS = 3, NUMBERS = 64, UNDER_WAY = 4 * VOLUMES };
#define MS UINT64_C(1000000)

static unsigned worlds = WORLDS, first = 1, world;
static uint64_t dice, now_ns;
static struct devices *devices;

static unsigned below(unsigned n)
{
	dice = dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(dice >> 33) % n;
}

/* ---- time and processes ---- */

static int servers[SERVERS]; /* readable once the process has ended */

int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
long __wrap_syscall(long number, ...);

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
	(void)clock;
	*t = (struct timespec){ .tv_sec = (time_t)(now_ns / 1000000000u), .tv_nsec = (long)(now_ns % 1000000000u) };
	return 0;
}

/* pidfd_open is all that is called so. */
long __wrap_syscall(long number, ...)
{
	va_list arguments;
	int pid;

	va_start(arguments, number);
	pid = va_arg(arguments, int);
	va_end(arguments);
	if (number == SYS_pidfd_open && pid >= 1 && pid <= SERVERS)
		return fcntl(servers[pid - 1], F_DUPFD_CLOEXEC, 0);
	errno = ESRCH;
	return -1;
}

static void end_server(unsigned i)
{
	eventfd_write(servers[i], 1);
	devices_look(devices);
}

/* Another process of that number. */
static void new_server(unsigned i)
{
	close(servers[i]);
	servers[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(servers[i] >= 0);
}

/* ---- the kernel ---- */

enum owner { NOBODY, OURS, SOMEBODY };

static struct {
	struct ublk_control control;
	struct ublk_command *orders[UNDER_WAY], *answers[UNDER_WAY];
	unsigned order_count, answer_count;
	enum owner owner[NUMBERS];
	bool born[NUMBERS];
} kernel;

/* One order at a time for a device, and none for a number that is not ours. */
static int order(struct ublk_control *c, struct ublk_command *o)
{
	(void)c;
	for (unsigned i = 0; i < kernel.order_count; i++)
		assert_ptr_not_equal(kernel.orders[i], o);
	assert_true(kernel.order_count < UNDER_WAY);
	if (o->verb != UBLK_ADD && o->verb != UBLK_SETTING) {
		assert_in_range(o->info.device, 0, NUMBERS - 1);
		assert_int_equal(kernel.owner[o->info.device], OURS);
	}
	kernel.orders[kernel.order_count++] = o;
	return 0;
}

static void cancel(struct ublk_control *c, struct ublk_command *o)
{
	(void)c;
	(void)o;
}

static struct ublk_command *next(struct ublk_control *c)
{
	(void)c;
	return kernel.answer_count > 0 ? kernel.answers[--kernel.answer_count] : NULL;
}

static int no_fd(const struct ublk_control *c)
{
	(void)c;
	return -1;
}

static const struct ublk_control_ops kernel_ops = { .begin = order, .cancel = cancel, .next = next, .fd = no_fd };

const char *ublk_verb_name(enum ublk_verb verb)
{
	(void)verb;
	return "a verb";
}

static void take_effect(struct ublk_command *o)
{
	uint32_t *number = &o->info.device;

	if (o->verb == UBLK_ADD) {
		for (*number = 0; kernel.owner[*number] != NOBODY;)
			assert_true(++*number < NUMBERS);
		kernel.owner[*number] = OURS;
		kernel.born[*number] = false;
	} else if (o->verb == UBLK_START) {
		kernel.born[*number] = true;
	} else if (o->verb == UBLK_DELETE) {
		kernel.owner[*number] = below(4) == 0 ? SOMEBODY : NOBODY;
	}
}

static int trouble(enum ublk_verb verb)
{
	static const int any[] = { EINTR, EINVAL, EBUSY, EPERM, ENOMEM, EIO, ECANCELED };
	static const int passing[] = { EINTR, EBUSY, ECANCELED };

	return verb == UBLK_DELETE || (verb == UBLK_RENEW && below(4) != 0) ? passing[below(3)] : any[below(7)];
}

static int error_of(int errnum)
{
	return errnum == 0 ? 0 : errnum == EINTR || errnum == ECANCELED ? ERR_TIMEOUT : error_from_errno(errnum);
}

static void answer(unsigned which, bool well)
{
	struct ublk_command *o = kernel.orders[which];

	kernel.orders[which] = kernel.orders[--kernel.order_count];
	o->errnum = well ? 0 : trouble(o->verb);
	o->error = error_of(o->errnum);
	if (well)
		take_effect(o);
	kernel.answers[kernel.answer_count++] = o;
	devices_look(devices);
}

/* A setting waits for the queue: it is often the last that ends. */
static void answer_any(bool well)
{
	unsigned which = kernel.order_count > 0 ? below(kernel.order_count) : 0;

	if (kernel.order_count > 0 && (kernel.orders[which]->verb != UBLK_SETTING || below(8) == 0))
		answer(which, well);
}

/* ---- the supervisor ---- */

static unsigned asked, ready, ordered, started;

static void tell(void *context, const struct message *m)
{
	(void)context;
	assert_int_equal(message_check(m, offsetof(struct message, body) + m->size, 0, ROLE_UBLK, ROLE_SUPERVISOR), 0);
	ready += m->type == MSG_UB_READY;
	started += m->type == MSG_UB_STARTED;
}

static int give(void *context, uint32_t device, uint32_t uid, uint32_t gid)
{
	(void)context;
	(void)uid;
	(void)gid;
	assert_int_equal(kernel.owner[device], OURS);
	return below(20) == 0 ? ERR_DENIED : 0;
}

static int open_depth(void *context, uint32_t device)
{
	(void)context;
	(void)device;
	return below(4) == 0 ? -1 : open("/dev/null", O_WRONLY | O_CLOEXEC);
}

static void fill(struct message *m)
{
	if (m->type == MSG_UB_ADD) {
		m->body.ub_add.size = below(8) != 0 ? 1u << 20 : 512 * below(3) + below(2);
		m->body.ub_add.hold_ns = below(2) == 0 ? 0 : (1 + below(5)) * 1000 * MS;
		m->body.ub_add.read_only = below(6) == 0;
		m->body.ub_add.fetched = below(2) == 0;
		asked++;
	} else if (m->type == MSG_UB_GO) {
		m->body.ub_go.pid = (int32_t)below(SERVERS + 2);
		ordered++;
	} else if (m->type == MSG_UB_HOLD) {
		m->body.ub_hold.until_ns = below(3) != 0 ? now_ns + below(4000) * MS : below(2);
	}
}

static void say(enum message_type type)
{
	struct message m;

	memset(&m, 0, sizeof m);
	m.type = type;
	m.size = message_row(type)->size;
	m.nonce = 1 + below(1000);
	snprintf(m.body.ub_add.name, NAME_MAX_BYTES, "v%u", below(VOLUMES)); /* the first field of each of them */
	fill(&m);
	assert_int_equal(message_check(&m, offsetof(struct message, body) + m.size, 0, ROLE_SUPERVISOR, ROLE_UBLK), 0);
	devices_take(devices, &m);
	assert_true(ready <= asked && started <= ordered);
}

/* ---- a world ---- */

static void begin(unsigned number)
{
	const struct devices_world w = { .tell = tell, .give = give, .open_depth = open_depth };

	dice = number;
	memset(&kernel, 0, sizeof kernel);
	kernel.control.ops = &kernel_ops;
	asked = ready = ordered = started = 0;
	now_ns = 1000 * MS;
	for (unsigned i = 0; i < SERVERS; i++)
		servers[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(devices_create(&devices, &kernel.control, &w, 1), 0);
	if (below(4) != 0)
		return;
	kernel.owner[7] = OURS;
	kernel.born[7] = true;
	devices_leftover(devices, 7);
}

static void step(void)
{
	unsigned which = below(16);

	if (which < 2) {
		say(MSG_UB_ADD);
	} else if (which < 4) {
		say(MSG_UB_GO);
	} else if (which == 4) {
		say(below(2) == 0 ? MSG_UB_HOLD : MSG_UB_REMOVE);
	} else if (which < 11) {
		answer_any(below(4) != 0);
	} else if (which < 13) {
		which = below(SERVERS);
		end_server(which);
		new_server(which);
	} else {
		now_ns += below(1500) * MS;
		devices_look(devices);
	}
}

static void let_time_pass(void)
{
	for (unsigned i = 0; i < LONG; i++) {
		for (unsigned k = below(8); k > 0; k--)
			answer_any(true);
		now_ns += 100 * MS;
		devices_look(devices);
	}
}

/* Nobody asks any more and nobody serves: no block device is there whose requests would wait for ever. */
static void end_of_waiting(void)
{
	for (unsigned i = 0; i < SERVERS; i++)
		end_server(i);
	let_time_pass();
	for (unsigned i = 0; i < NUMBERS; i++)
		assert_false(kernel.owner[i] == OURS && kernel.born[i]);
}

/* Nothing is left in the kernel. */
static void end_of_agent(void)
{
	devices_end(devices);
	let_time_pass();
	assert_true(devices_none(devices));
	for (unsigned i = 0; i < NUMBERS; i++)
		assert_int_not_equal(kernel.owner[i], OURS);
}

static void end(void)
{
	for (unsigned i = 0; i < SERVERS; i++)
		close(servers[i]);
	free(devices);
}

static void what_must_hold_does_in_every_world(void **state)
{
	(void)state;
	for (world = first; world < first + worlds; world++) {
		begin(world);
		for (unsigned i = 0; i < STEPS; i++)
			step();
		if (below(2) == 0)
			end_of_waiting();
		end_of_agent();
		end();
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(what_must_hold_does_in_every_world) };

	worlds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : worlds;
	first = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : first;
	log_open("devices", LOG_LEVEL_ERROR);
	if (cmocka_run_group_tests(tests, NULL, NULL) == 0)
		return 0;
	fprintf(stderr, "in world %u: %s 1 %u\n", world, argv[0], world);
	return 1;
}
