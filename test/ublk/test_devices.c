/* The broker's devices with the test as kernel, supervisor and server: each step well, badly and late. Servers are real processes
 * that do nothing; time is the clock's. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "ublk/devices.h"

enum { UID = 990, GID = 991, MARK = 4711, NUMBER = 3, LIST = 64, HOLD_MS = 60000, SHORT_MS = 400 };
#define MS UINT64_C(1000000)

/* ---- the kernel, the supervisor, a server ---- */

static struct {
	struct ublk_control control;
	struct ublk_command *open[LIST]; /* begun, not answered */
	unsigned open_count;
	struct ublk_command *done[LIST];
	unsigned done_count;
	struct ublk_command *cancelled;
	enum ublk_verb verbs[4 * LIST]; /* everything that was begun */
	unsigned verb_count;
} kernel;

static struct {
	struct message told[LIST];
	unsigned count;
	int give_error;
	uint32_t given_device, given_uid, given_gid;
	int depth_fd, depth_errno;
} world;

static struct devices *devices;
static pid_t server;

static int fake_begin(struct ublk_control *c, struct ublk_command *command)
{
	(void)c;
	for (unsigned i = 0; i < kernel.open_count; i++)
		assert_ptr_not_equal(kernel.open[i], command); /* one at a time */
	assert_true(kernel.open_count < LIST && kernel.verb_count < 4 * LIST);
	kernel.open[kernel.open_count++] = command;
	kernel.verbs[kernel.verb_count++] = command->verb;
	return 0;
}

static void fake_cancel(struct ublk_control *c, struct ublk_command *command)
{
	(void)c;
	kernel.cancelled = command;
}

static struct ublk_command *fake_next(struct ublk_control *c)
{
	(void)c;
	return kernel.done_count > 0 ? kernel.done[--kernel.done_count] : NULL;
}

static int fake_fd(const struct ublk_control *c)
{
	(void)c;
	return -1;
}

static const struct ublk_control_ops fake_ops = { .begin = fake_begin, .cancel = fake_cancel, .next = fake_next, .fd = fake_fd };

static void tell(void *context, const struct message *m)
{
	(void)context;
	assert_true(world.count < LIST);
	assert_int_equal(message_check(m, offsetof(struct message, body) + m->size, 0, ROLE_UBLK, ROLE_SUPERVISOR), 0);
	world.told[world.count++] = *m;
}

static int give(void *context, uint32_t device, uint32_t uid, uint32_t gid)
{
	(void)context;
	world.given_device = device;
	world.given_uid = uid;
	world.given_gid = gid;
	return world.give_error;
}

static int open_depth(void *context, uint32_t device)
{
	(void)context;
	(void)device;
	errno = world.depth_errno;
	if (world.depth_errno != 0)
		return -1;
	world.depth_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	return world.depth_fd;
}

const char *ublk_verb_name(enum ublk_verb verb)
{
	(void)verb;
	return "a verb";
}

/* What is under way must be this; NULL if nothing is. */
static struct ublk_command *under_way(enum ublk_verb verb)
{
	for (unsigned i = 0; i < kernel.open_count; i++)
		if (kernel.open[i]->verb == verb)
			return kernel.open[i];
	return NULL;
}

static void answer(enum ublk_verb verb, int errnum)
{
	struct ublk_command *c = under_way(verb);

	if (c == NULL)
		fail_msg("command %d is not under way", (int)verb);
	for (unsigned i = 0; i < kernel.open_count; i++)
		if (kernel.open[i] == c)
			kernel.open[i] = kernel.open[--kernel.open_count];
	if (verb == UBLK_ADD && errnum == 0)
		c->info.device = NUMBER;
	c->errnum = errnum;
	c->error = errnum == 0 ? 0 : errnum == EINTR ? ERR_TIMEOUT : errnum == ENODEV ? ERR_NOT_FOUND : error_from_errno(errnum);
	kernel.done[kernel.done_count++] = c;
	devices_look(devices);
}

static void send(struct message *m)
{
	assert_int_equal(message_check(m, offsetof(struct message, body) + m->size, 0, ROLE_SUPERVISOR, ROLE_UBLK), 0);
	devices_take(devices, m);
}

static struct message blank(enum message_type type)
{
	struct message m;

	memset(&m, 0, sizeof m);
	m.type = type;
	m.size = message_row(type)->size;
	m.nonce = 23;
	strcpy(m.body.ub_add.name, "vol");
	return m;
}

static void add(uint64_t hold_ms, bool fetched)
{
	struct message m = blank(MSG_UB_ADD);

	m.body.ub_add.size = 1 << 20;
	m.body.ub_add.hold_ns = hold_ms * MS;
	m.body.ub_add.uid = UID;
	m.body.ub_add.gid = GID;
	m.body.ub_add.fetched = fetched;
	send(&m);
}

static void go(void)
{
	struct message m = blank(MSG_UB_GO);

	m.body.ub_go.pid = server;
	send(&m);
}

static void hold_until(uint64_t ns)
{
	struct message m = blank(MSG_UB_HOLD);

	m.body.ub_hold.until_ns = ns;
	send(&m);
}

static void take_away(void)
{
	struct message m = blank(MSG_UB_REMOVE);

	send(&m);
}

/* The oldest thing that was said and not heard yet. */
static struct message heard(enum message_type type)
{
	struct message m;

	if (world.count == 0)
		fail_msg("%s was not said", message_row(type)->name);
	m = world.told[0];
	memmove(world.told, world.told + 1, --world.count * sizeof m);
	if (m.type != type)
		fail_msg("%s was said, not %s", message_row(m.type)->name, message_row(type)->name);
	return m;
}

static void heard_ready(bool kept)
{
	struct message m = heard(MSG_UB_READY);

	assert_int_equal(m.body.ub_ready.error, 0);
	assert_int_equal(m.body.ub_ready.device, NUMBER);
	assert_int_equal(m.body.ub_ready.kept, kept);
	assert_int_equal(m.nonce, 23);
}

static void heard_gone(enum ub_reason reason)
{
	assert_int_equal(heard(MSG_UB_GONE).body.ub_gone.reason, reason);
}

static void start_server(void)
{
	server = fork();
	if (server == 0) {
		for (;;)
			pause();
	}
}

static void end_server(void)
{
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	server = 0;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_ms(long ms)
{
	const struct timespec t = { .tv_nsec = ms * 1000000 };

	nanosleep(&t, NULL);
}

/* ---- the usual way ---- */

static int set(void **state)
{
	const struct devices_world w = { .tell = tell, .give = give, .open_depth = open_depth };

	(void)state;
	memset(&kernel, 0, sizeof kernel);
	memset(&world, 0, sizeof world);
	kernel.control.ops = &fake_ops;
	start_server();
	return devices_create(&devices, &kernel.control, &w, MARK);
}

static int clear(void **state)
{
	(void)state;
	if (server > 0)
		end_server();
	free(devices);
	return 0;
}

static void make_ready(uint64_t hold_ms)
{
	add(hold_ms, false);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, 0);
	heard_ready(false);
}

static void make_live(uint64_t hold_ms)
{
	make_ready(hold_ms);
	go();
	answer(UBLK_START, 0);
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	answer(UBLK_SETTING, 0);
	assert_int_equal(kernel.open_count, 0);
}

static void goes(void)
{
	answer(UBLK_STOP, 0);
	answer(UBLK_DELETE, 0);
}

/* ---- tests ---- */

static void a_device_is_made_given_and_started(void **state)
{
	const struct ublk_command *c;

	(void)state;
	add(0, false);
	c = under_way(UBLK_ADD);
	assert_non_null(c);
	assert_int_equal(c->info.mark, MARK);
	assert_int_equal(c->info.depth, UBLK_DEPTH);
	assert_in_range(c->info.queues, 1, UBLK_QUEUES);
	assert_false(c->info.recover);
	answer(UBLK_ADD, 0);
	c = under_way(UBLK_PARAMETERS);
	assert_int_equal(c->shape.size, 1 << 20);
	assert_true(c->shape.volatile_cache);
	assert_int_equal(world.count, 0);
	answer(UBLK_PARAMETERS, 0);
	heard_ready(false);
	assert_int_equal(world.given_device, NUMBER);
	assert_int_equal(world.given_uid, UID);
	assert_int_equal(world.given_gid, GID);
	go();
	assert_int_equal(world.given_uid, 0); /* it has been opened: nobody else of that user is to */
	c = under_way(UBLK_START);
	assert_int_equal(c->pid, server);
	answer(UBLK_START, 0);
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	c = under_way(UBLK_SETTING);
	assert_non_null(c);
	assert_string_equal(c->setting, "63");
	answer(UBLK_SETTING, EINVAL); /* said, and lived with */
	assert_int_equal(fcntl(world.depth_fd, F_GETFD), -1);
	assert_false(devices_none(devices));
}

/* /sys is read-only under many a service unit: what that costs is said, and the device serves. */
static void a_setting_that_is_out_of_reach_is_said(void **state)
{
	int said = memfd_create("stderr", MFD_CLOEXEC), kept = dup(STDERR_FILENO);
	char text[512];
	ssize_t n;

	(void)state;
	world.depth_errno = EROFS;
	add(0, false);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, 0);
	heard_ready(false);
	go();
	dup2(said, STDERR_FILENO);
	answer(UBLK_START, 0);
	dup2(kept, STDERR_FILENO);
	close(kept);
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	assert_null(under_way(UBLK_SETTING));
	n = pread(said, text, sizeof text - 1, 0);
	close(said);
	assert_true(n >= 0);
	text[n] = '\0';
	assert_non_null(strstr(text, "nr_requests"));
	assert_non_null(strstr(text, strerror(EROFS)));
	assert_false(devices_none(devices));
}

static void a_held_device_shows_no_volatile_cache_and_recovers(void **state)
{
	(void)state;
	add(HOLD_MS, false);
	assert_true(under_way(UBLK_ADD)->info.recover);
	answer(UBLK_ADD, 0);
	assert_false(under_way(UBLK_PARAMETERS)->shape.volatile_cache);
}

/* An order that the kernel had no room for is handed over again when somebody looks. */
static void while_an_order_is_under_way_somebody_looks_every_second(void **state)
{
	uint64_t due;

	(void)state;
	add(HOLD_MS, false);
	due = devices_due_ns(devices);
	assert_in_range(due, 1, now_ns() + 1000 * MS);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, 0);
	heard_ready(false);
	assert_int_equal(devices_due_ns(devices), 0);
	go();
	answer(UBLK_START, 0);
	due = devices_due_ns(devices);
	assert_in_range(due, 1, now_ns() + 1000 * MS);
	answer(UBLK_SETTING, 0);
	assert_int_equal(devices_due_ns(devices), 0);
}

static void what_the_kernel_refuses_leaves_no_device(void **state)
{
	(void)state;
	add(0, false);
	answer(UBLK_ADD, EPERM);
	assert_int_not_equal(heard(MSG_UB_READY).body.ub_ready.error, 0);
	assert_true(devices_none(devices));
	add(0, false);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, EINVAL);
	assert_int_not_equal(heard(MSG_UB_READY).body.ub_ready.error, 0);
	goes();
	assert_true(devices_none(devices));
	world.give_error = ERR_DENIED;
	add(0, false);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, 0);
	assert_int_equal(heard(MSG_UB_READY).body.ub_ready.error, ERR_DENIED);
	goes();
	assert_true(devices_none(devices));
	assert_int_equal(world.count, 0); /* who was told of the error hears no more of it */
}

static void start_without_the_settings_answer(uint64_t hold_ms)
{
	make_ready(hold_ms);
	go();
	answer(UBLK_START, 0);
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	assert_non_null(under_way(UBLK_SETTING));
}

/* The setting waits for the queue, and may be the last thing that ends. */
static void a_setting_that_ends_last_does_not_stand_for_the_delete(void **state)
{
	(void)state;
	start_without_the_settings_answer(0);
	take_away();
	answer(UBLK_STOP, 0);
	answer(UBLK_DELETE, EINTR);
	answer(UBLK_SETTING, 0);
	assert_int_equal(world.count, 0);
	assert_false(devices_none(devices));
	sleep_ms(25);
	devices_look(devices);
	answer(UBLK_DELETE, 0);
	heard_gone(UB_REMOVED);
	assert_true(devices_none(devices));
}

/* The number is free from then on: the next to have it may be another program. */
static void a_number_is_deleted_once(void **state)
{
	(void)state;
	start_without_the_settings_answer(HOLD_MS);
	end_server();
	devices_look(devices);
	add(HOLD_MS, true);
	answer(UBLK_RENEW, EBUSY);
	take_away();
	goes();
	sleep_ms(25);
	devices_look(devices);
	assert_null(under_way(UBLK_DELETE));
	answer(UBLK_SETTING, EINTR);
	heard_gone(UB_REMOVED);
	assert_true(devices_none(devices));
}

static void sizes_that_no_device_has_are_refused(void **state)
{
	static const uint64_t bad[] = { 0, 511, 1000, UINT64_MAX, (uint64_t)INT64_MAX + 1 };

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct message m = blank(MSG_UB_ADD);

		m.body.ub_add.size = bad[i];
		send(&m);
		assert_int_equal(heard(MSG_UB_READY).body.ub_ready.error, ERR_RANGE);
	}
	assert_int_equal(kernel.verb_count, 0);
}

static void without_hold_the_device_goes_with_its_server(void **state)
{
	(void)state;
	make_live(0);
	end_server();
	devices_look(devices);
	assert_int_equal(world.count, 0);
	goes();
	heard_gone(UB_SERVER_GONE);
	assert_true(devices_none(devices));
}

static void with_hold_the_next_server_goes_on(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	for (int i = 0; i < 3; i++) {
		end_server();
		devices_look(devices);
		assert_int_equal(kernel.open_count, 0);
		assert_int_not_equal(devices_due_ns(devices), 0);
		add(HOLD_MS, true);
		assert_int_equal(world.given_uid, 0);
		answer(UBLK_RENEW, 0);
		heard_ready(true);
		assert_int_equal(world.given_uid, UID);
		start_server();
		go();
		answer(UBLK_GO_ON, 0);
		assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
		answer(UBLK_SETTING, 0);
		assert_int_equal(devices_due_ns(devices), 0); /* nobody waits any more */
	}
}

static void a_kernel_that_is_not_done_with_the_last_server_is_asked_again(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	end_server();
	add(HOLD_MS, true); /* and it is seen without a look */
	for (int i = 0; i < 3; i++) {
		answer(UBLK_RENEW, EBUSY);
		assert_null(under_way(UBLK_RENEW));
		assert_in_range(devices_due_ns(devices), now_ns() - 1000 * MS, now_ns() + 100 * MS);
		sleep_ms(30);
		devices_look(devices);
	}
	answer(UBLK_RENEW, 0);
	heard_ready(true);
}

static void a_kernel_that_stays_busy_does_not_end_the_hold(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	end_server();
	add(HOLD_MS, true);
	for (int i = 0; i < 500 && world.count == 0; i++) {
		if (under_way(UBLK_RENEW) != NULL)
			answer(UBLK_RENEW, EBUSY);
		sleep_ms(10);
		devices_look(devices);
	}
	assert_int_equal(heard(MSG_UB_READY).body.ub_ready.error, ERR_BUSY);
	assert_int_equal(kernel.open_count, 0);
	assert_in_range(devices_due_ns(devices), now_ns(), now_ns() + HOLD_MS * MS); /* it runs on */
	add(HOLD_MS, false);
	answer(UBLK_RENEW, 0);
	heard_ready(true);
}

static void a_server_that_nobody_fetched_for_needs_no_succession(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	end_server();
	devices_look(devices);
	add(HOLD_MS, true);
	answer(UBLK_RENEW, 0);
	heard_ready(true);
	add(HOLD_MS, false); /* it ended before it fetched */
	heard_ready(true);
	assert_int_equal(kernel.open_count, 0);
	add(HOLD_MS, true); /* it fetched, and ended without a key */
	answer(UBLK_RENEW, 0);
	heard_ready(true);
	add(HOLD_MS, true);
	answer(UBLK_RENEW, EINVAL); /* the kernel says that nobody came */
	heard_ready(true);
}

static void a_succession_that_fails_ends_the_hold(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	end_server();
	add(HOLD_MS, true);
	answer(UBLK_RENEW, ENOMEM);
	assert_int_not_equal(heard(MSG_UB_READY).body.ub_ready.error, 0);
	goes();
	heard_gone(UB_FAILED);
}

static void a_hold_is_over_by_the_clock(void **state)
{
	(void)state;
	make_live(SHORT_MS);
	end_server();
	devices_look(devices);
	assert_int_equal(kernel.open_count, 0);
	sleep_ms(SHORT_MS + 10);
	devices_look(devices);
	goes();
	heard_gone(UB_HOLD_OVER);
	assert_true(devices_none(devices));
}

static void a_hold_runs_on_while_servers_come_and_go(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	hold_until(now_ns() + SHORT_MS * MS);
	end_server();
	add(HOLD_MS, true);
	answer(UBLK_RENEW, 0);
	heard_ready(true);
	start_server();
	go();
	sleep_ms(SHORT_MS + 10);
	devices_look(devices);
	assert_ptr_equal(kernel.cancelled, under_way(UBLK_GO_ON)); /* it waits for a server that does not fetch */
	answer(UBLK_GO_ON, EINTR);
	goes();
	heard_gone(UB_HOLD_OVER);
}

static void a_hold_without_an_end_is_none(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	end_server();
	devices_look(devices);
	hold_until(0);
	assert_in_range(devices_due_ns(devices), now_ns(), now_ns() + HOLD_MS * MS);
}

static void a_server_that_ends_during_the_start_is_noticed(void **state)
{
	(void)state;
	make_ready(HOLD_MS);
	go();
	end_server();
	devices_look(devices);
	assert_ptr_equal(kernel.cancelled, under_way(UBLK_START));
	answer(UBLK_START, EINTR);
	assert_int_not_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	goes();
	heard_gone(UB_SERVER_GONE);
}

/* The order to call the start off came too late. */
static void a_start_that_comes_after_its_servers_end_is_none(void **state)
{
	(void)state;
	make_ready(0);
	go();
	end_server();
	devices_look(devices);
	answer(UBLK_START, 0);
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	answer(UBLK_SETTING, 0);
	goes();
	heard_gone(UB_SERVER_GONE);
}

static void a_server_that_ends_during_a_succession_leaves_the_hold(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	end_server();
	add(HOLD_MS, true);
	answer(UBLK_RENEW, 0);
	heard_ready(true);
	start_server();
	go();
	end_server();
	devices_look(devices);
	answer(UBLK_GO_ON, EINTR);
	assert_int_not_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	assert_int_equal(kernel.open_count, 0);
	add(HOLD_MS, true);
	answer(UBLK_RENEW, 0);
	heard_ready(true);
}

static void a_server_that_ended_before_go_is_no_server(void **state)
{
	pid_t was = server;

	(void)state;
	make_ready(HOLD_MS);
	end_server();
	server = was;
	go();
	server = 0;
	assert_int_not_equal(heard(MSG_UB_STARTED).body.ub_started.error, 0);
	goes();
	heard_gone(UB_SERVER_GONE);
}

static void go_without_a_device_is_refused(void **state)
{
	(void)state;
	go();
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, ERR_STATE);
	add(0, false);
	go();
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, ERR_STATE);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, 0);
	heard_ready(false);
	go();
	go();
	assert_int_equal(heard(MSG_UB_STARTED).body.ub_started.error, ERR_STATE);
	assert_non_null(under_way(UBLK_START));
}

static void add_for_a_served_device_is_refused(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	add(HOLD_MS, true);
	assert_int_equal(heard(MSG_UB_READY).body.ub_ready.error, ERR_BUSY);
	assert_int_equal(kernel.open_count, 0);
}

static void another_shape_is_another_device(void **state)
{
	struct message m = blank(MSG_UB_ADD);

	(void)state;
	make_live(HOLD_MS);
	end_server();
	devices_look(devices);
	m.body.ub_add.size = 2 << 20;
	m.body.ub_add.uid = UID;
	m.body.ub_add.gid = GID;
	m.body.ub_add.hold_ns = HOLD_MS * MS;
	send(&m);
	goes();
	heard_gone(UB_REMOVED);
	assert_int_equal(under_way(UBLK_ADD)->shape.size, 2 << 20);
}

static void remove_answers_once_whatever_is_under_way(void **state)
{
	(void)state;
	take_away();
	heard_gone(UB_REMOVED); /* there was none */
	add(0, false);
	take_away();
	answer(UBLK_ADD, 0); /* too late to be called off */
	goes();
	heard_gone(UB_REMOVED);
	add(0, false);
	take_away();
	answer(UBLK_ADD, EINTR);
	heard_gone(UB_REMOVED);
	make_live(HOLD_MS);
	take_away();
	take_away();
	answer(UBLK_STOP, EIO); /* whatever it says */
	answer(UBLK_DELETE, EINTR);
	sleep_ms(30);
	devices_look(devices);
	answer(UBLK_DELETE, 0);
	heard_gone(UB_REMOVED);
	assert_int_equal(world.count, 0);
	assert_true(devices_none(devices));
	add(0, false);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, EINVAL);
	heard(MSG_UB_READY);
	take_away(); /* of one that is going without a word, because its error was told */
	goes();
	heard_gone(UB_REMOVED);
}

static void add_waits_for_a_device_that_is_going(void **state)
{
	(void)state;
	make_live(0);
	end_server();
	devices_look(devices);
	add(0, false);
	assert_null(under_way(UBLK_ADD));
	goes();
	heard_gone(UB_SERVER_GONE);
	answer(UBLK_ADD, 0);
	answer(UBLK_PARAMETERS, 0);
	heard_ready(false);
}

static void a_setting_that_is_under_way_keeps_the_slot(void **state)
{
	(void)state;
	make_ready(0);
	go();
	answer(UBLK_START, 0);
	heard(MSG_UB_STARTED);
	take_away();
	goes();
	assert_int_equal(world.count, 0);
	assert_false(devices_none(devices));
	answer(UBLK_SETTING, ENODEV);
	heard_gone(UB_REMOVED);
	assert_true(devices_none(devices));
}

static void at_the_end_every_device_goes_and_nobody_is_told(void **state)
{
	(void)state;
	make_live(HOLD_MS);
	devices_end(devices);
	goes();
	assert_int_equal(world.count, 0);
	assert_true(devices_none(devices));
}

static void a_leftover_goes(void **state)
{
	(void)state;
	devices_leftover(devices, 9);
	assert_int_equal(under_way(UBLK_STOP)->info.device, 9);
	goes();
	assert_true(devices_none(devices));
	assert_int_equal(world.count, 0);
}

static void there_is_an_end_to_how_many(void **state)
{
	struct message m = blank(MSG_UB_ADD);

	(void)state;
	m.body.ub_add.size = 4096;
	for (int i = 0; i < DEVICES_MAX; i++) {
		snprintf(m.body.ub_add.name, sizeof m.body.ub_add.name, "v%d", i);
		send(&m);
	}
	assert_int_equal(world.count, 0);
	strcpy(m.body.ub_add.name, "one-more");
	send(&m);
	assert_int_equal(heard(MSG_UB_READY).body.ub_ready.error, ERR_NOSPACE);
}

/* Anything the supervisor may say and the kernel may answer, in any order: no defect, no command twice, and an end. */
static void any_order_ends_well(void **state)
{
	(void)state;
	srandom(1);
	for (int round = 0; round < 3000; round++) {
		static const int errors[] = { 0, 0, 0, 0, EBUSY, EINVAL, EINTR, EIO, ENODEV };

		switch (random() % 8) {
		case 0:
			add(random() % 2 ? HOLD_MS : 0, random() % 2);
			break;
		case 1:
			if (server == 0)
				start_server();
			go();
			break;
		case 2:
			hold_until(now_ns() + (uint64_t)(random() % 5) * MS);
			break;
		case 3:
			if (random() % 4 == 0)
				take_away();
			break;
		case 4:
			if (server > 0 && random() % 3 == 0)
				end_server();
			break;
		default:
			if (kernel.open_count > 0)
				answer(kernel.open[(unsigned)random() % kernel.open_count]->verb,
				       errors[(unsigned)random() % (sizeof errors / sizeof errors[0])]);
		}
		devices_look(devices);
		kernel.verb_count = 0;
		world.count = 0;
	}
	devices_end(devices);
	for (int i = 0; i < 100 && !devices_none(devices); i++) {
		if (kernel.open_count > 0)
			answer(kernel.open[0]->verb, 0);
		else
			sleep_ms(25);
		devices_look(devices);
	}
	assert_true(devices_none(devices));
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set, clear)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_device_is_made_given_and_started),
		TEST(a_setting_that_is_out_of_reach_is_said),
		TEST(a_held_device_shows_no_volatile_cache_and_recovers),
		TEST(while_an_order_is_under_way_somebody_looks_every_second),
		TEST(what_the_kernel_refuses_leaves_no_device),
		TEST(a_setting_that_ends_last_does_not_stand_for_the_delete),
		TEST(a_number_is_deleted_once),
		TEST(sizes_that_no_device_has_are_refused),
		TEST(without_hold_the_device_goes_with_its_server),
		TEST(with_hold_the_next_server_goes_on),
		TEST(a_kernel_that_is_not_done_with_the_last_server_is_asked_again),
		TEST(a_kernel_that_stays_busy_does_not_end_the_hold),
		TEST(a_server_that_nobody_fetched_for_needs_no_succession),
		TEST(a_succession_that_fails_ends_the_hold),
		TEST(a_hold_is_over_by_the_clock),
		TEST(a_hold_runs_on_while_servers_come_and_go),
		TEST(a_hold_without_an_end_is_none),
		TEST(a_server_that_ends_during_the_start_is_noticed),
		TEST(a_start_that_comes_after_its_servers_end_is_none),
		TEST(a_server_that_ends_during_a_succession_leaves_the_hold),
		TEST(a_server_that_ended_before_go_is_no_server),
		TEST(go_without_a_device_is_refused),
		TEST(add_for_a_served_device_is_refused),
		TEST(another_shape_is_another_device),
		TEST(remove_answers_once_whatever_is_under_way),
		TEST(add_waits_for_a_device_that_is_going),
		TEST(a_setting_that_is_under_way_keeps_the_slot),
		TEST(at_the_end_every_device_goes_and_nobody_is_told),
		TEST(a_leftover_goes),
		TEST(there_is_an_end_to_how_many),
		TEST(any_order_ends_well),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
