/* Volumes whose export is ublk, among a broker and servers that fail on demand: when the block device appears, when it goes, when
 * what waits for it is let go, and what the agent makes of a broker that dies, hangs or lies. No kernel takes part. */
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/broker.h"

static int setup(void **state)
{
	(void)state;
	rig_up("devices");
	volume->config.export = EXPORT_UBLK;
	volume->config.hold_timeout_ns = 60 * SEC_NS;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return rig_down();
}

static void hold(uint64_t timeout_ns)
{
	volume->config.hold = true;
	volume->config.hold_timeout_ns = timeout_ns;
}

/* How often the broker heard that order. */
static unsigned orders(const char *what)
{
	char text[16384];
	unsigned n = 0;

	get("broker.orders", text, sizeof text);
	for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what))
		n++;
	return n;
}

/* Where the name in the folder of devices leads; "": nowhere. */
static void leads_to(const char *name, char *out, size_t size)
{
	char path[300];
	ssize_t n;

	snprintf(path, sizeof path, "%s/dev/%s", dir, name);
	n = readlink(path, out, size - 1);
	out[n > 0 ? n : 0] = '\0';
}

static void assert_leads_to(const char *name, const char *target)
{
	char found[64];

	leads_to(name, found, sizeof found);
	assert_string_equal(found, target);
}

static bool wait_for_device(enum device_state s, unsigned ms)
{
	for (unsigned i = 0; i < ms / 5 + 1 && volume->device.state != s; i++)
		run_for(5);
	return volume->device.state == s;
}

/* ---- its beginning ---- */

static void a_device_appears_with_the_first_key(void **state)
{
	struct msg_mg_volume status = { .state = 0 };
	char text[8192], path[200];

	(void)state;
	put("hsm.mode", "disabled");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_DISABLED, 8000);
	run_for(500);
	assert_true(volume->dataplane.alive); /* ready, and nobody can ask it anything */
	assert_int_equal(volume->device.state, DEVICE_READY);
	assert_int_equal(orders("GO demo"), 0);
	assert_leads_to("demo", "");
	volume_status(volume, &status);
	assert_string_equal(status.export_uri, "");
	put("hsm.mode", "good");
	put("broker.orders", "");
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	assert_int_equal(orders("ADD"), 0);
	assert_int_equal(orders("GO demo"), 1);
	/* the first may have been of a server that was refused its key, if the refusal was not there before it */
	assert_in_range(volume->device.number, 0, 1);
	snprintf(path, sizeof path, "../ublkb%u", volume->device.number);
	assert_leads_to("demo", path);
	volume_status(volume, &status);
	path_of(path, "dev/demo");
	assert_string_equal(status.export_uri, path);
	snprintf(path, sizeof path, "devices/ublkb%u", volume->device.number);
	get(path, text, sizeof text);
	assert_string_equal(text, "FALLGATE_VOLUME=demo\n");
	get("dataplane.given", text, sizeof text);
	assert_non_null(strstr(text, "fd 0\nfd 1\nfd 2\nfd 3\n"));
	assert_null(strstr(text, "fd 4"));
	snprintf(path, sizeof path, "serve\nname=demo\ndevice=%u\nqueues=2\ndepth=64\nhold=no\n", volume->device.number);
	assert_non_null(strstr(text, path));
	assert_non_null(strstr(text, "env LD_BIND_NOW=1\n"));
	get("broker.given", text, sizeof text);
	assert_null(strstr(text, "fd 4"));
	snprintf(path, sizeof path, "\nrun_dir=%s\n", dir);
	assert_non_null(strstr(text, path));
}

/* Not before the kernel says that it takes requests. */
static void nothing_is_available_before_the_device_is(void **state)
{
	(void)state;
	put("broker.mode", "slow-go");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	assert_true(wait_for_device(DEVICE_GOING, 8000));
	assert_int_equal(volume->gate.state, GATE_UNLOCKING);
	run_for(100);
	assert_int_equal(volume->gate.state, GATE_UNLOCKING);
	assert_leads_to("demo", "");
	expect(GATE_AVAILABLE, CAUSE_NONE, 2000);
}

static void a_foreign_thing_in_its_place_is_left_alone(void **state)
{
	char path[200];
	struct msg_mg_volume status = { .state = 0 };

	(void)state;
	path_of(path, "dev");
	assert_int_equal(mkdir(path, 0755), 0);
	put("dev/demo", "somebody's");
	attach();
	volume_status(volume, &status);
	assert_string_equal(status.export_uri, "/dev/ublkb0");
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
	expect(GATE_LOCKED, CAUSE_NONE, 2000);
	run_for(300);
	get("dev/demo", path, sizeof path);
	assert_string_equal(path, "somebody's");
}

static void names_of_a_killed_agent_are_swept_away(void **state)
{
	char path[200];
	struct stat st;

	(void)state;
	path_of(path, "dev");
	assert_int_equal(mkdir(path, 0755), 0);
	path_of(path, "devices");
	assert_int_equal(mkdir(path, 0755), 0);
	path_of(path, "dev/stale");
	assert_int_equal(symlink("../ublkb77", path), 0);
	path_of(path, "dev/disk");
	assert_int_equal(symlink("../demo.img", path), 0);
	put("dev/file", "x");
	put("devices/ublkb77", "FALLGATE_VOLUME=stale\n");
	/* the number has another owner by now, and the name is this agent's */
	put("ublkb78", "x");
	path_of(path, "dev/taken");
	assert_int_equal(symlink("../ublkb78", path), 0);
	put("devices/ublkb78", "FALLGATE_VOLUME=taken\n");
	/* a mark names what it likes: nothing but a link to that device is touched */
	put("devices/ublkb79", "FALLGATE_VOLUME=disk\n");
	put("devices/ublkb80", "FALLGATE_VOLUME=../demo.img\n");
	device_sweep(agent);
	path_of(path, "dev/taken");
	assert_int_equal(lstat(path, &st), -1);
	path_of(path, "demo.img");
	assert_int_equal(lstat(path, &st), 0);
	path_of(path, "dev/stale");
	assert_int_equal(lstat(path, &st), -1);
	path_of(path, "devices/ublkb77");
	assert_int_equal(lstat(path, &st), -1);
	path_of(path, "dev/disk");
	assert_int_equal(lstat(path, &st), 0);
	path_of(path, "dev/file");
	assert_int_equal(lstat(path, &st), 0);
}

/* ---- on_lock = fail ---- */

static void a_lock_ends_the_device_and_the_next_key_brings_another(void **state)
{
	(void)state;
	attach();
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	run_for(1000);
	assert_leads_to("demo", "");
	assert_int_equal(orders("HOLD"), 0);
	assert_int_equal(orders("GO demo"), 1); /* the next server waits keyless, and its device is not let go */
	volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	assert_leads_to("demo", "../ublkb1");
	assert_int_equal(orders("ADD demo 0 fetched\n") + orders("ADD demo 0\n"), 2);
}

static void a_dead_server_is_replaced_with_its_device(void **state)
{
	(void)state;
	attach();
	assert_int_equal(kill(volume->dataplane.pid, SIGKILL), 0);
	expect(GATE_INACCESSIBLE, CAUSE_ENGINE, 2000);
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	assert_leads_to("demo", "../ublkb1");
}

static void a_detach_takes_the_device_away(void **state)
{
	char path[200];
	struct stat st;

	(void)state;
	attach();
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
	expect(GATE_LOCKED, CAUSE_NONE, 2000);
	for (int i = 0; i < 200 && volume_busy(volume); i++)
		run_for(10);
	assert_false(volume_busy(volume));
	assert_leads_to("demo", "");
	path_of(path, "devices/ublkb0");
	assert_int_equal(stat(path, &st), -1);
	attach();
}

/* Orders cross on their way: what answers an older one starts nothing. */
static void attach_and_detach_at_every_moment(void **state)
{
	(void)state;
	put("broker.mode", "slow-go");
	for (unsigned wait = 0; wait < 700; wait += 35) {
		volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
		run_for(wait + 1);
		volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
		assert_true(reach(GATE_LOCKED, 3000));
		if (wait % 2 == 0)
			continue; /* attached again at once */
		for (int i = 0; i < 300 && volume_busy(volume); i++)
			run_for(10);
		assert_false(volume_busy(volume));
		assert_leads_to("demo", "");
	}
	put("broker.mode", "good");
	attach();
}

static void revoke_at_every_moment_of_the_first_key(void **state)
{
	(void)state;
	put("broker.mode", "slow-go");
	for (unsigned wait = 0; wait < 700; wait += 35) {
		volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
		run_for(wait + 1);
		volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
		assert_true(reach(GATE_INACCESSIBLE, 2000));
		assert_string_equal(gate_cause_name(volume->gate.cause), "commanded");
		run_for(500); /* whatever was said in the meantime */
		assert_int_equal(volume->gate.state, GATE_INACCESSIBLE);
		assert_int_not_equal(volume->device.state, DEVICE_LIVE);
		assert_leads_to("demo", "");
		volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
		volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
		assert_int_equal(volume->gate.state, GATE_LOCKED);
	}
}

/* ---- on_lock = hold ---- */

static void a_held_device_survives_a_lock(void **state)
{
	struct msg_mg_volume status = { .state = 0 };

	(void)state;
	hold(60 * SEC_NS);
	attach();
	assert_int_equal(orders("ADD demo 60000000000\n"), 1);
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	run_for(1000);
	assert_int_equal(orders("HOLD demo"), 1);
	assert_int_equal(orders("REMOVE"), 0);
	assert_leads_to("demo", "../ublkb0"); /* a slow disk is a disk */
	volume_status(volume, &status);
	assert_non_null(strstr(status.export_uri, "/dev/demo"));
	assert_true(volume->dataplane.alive);
	assert_int_equal(volume->device.state, DEVICE_READY);
	volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	assert_leads_to("demo", "../ublkb0");
	assert_int_equal(orders("ADD demo 60000000000 fetched\n"), 1);
	assert_int_equal(orders("GO demo"), 2);
}

static void a_held_device_survives_its_server(void **state)
{
	char text[16384];

	(void)state;
	hold(60 * SEC_NS);
	attach();
	for (int i = 0; i < 3; i++) {
		assert_int_equal(kill(volume->dataplane.pid, SIGKILL), 0);
		expect(GATE_INACCESSIBLE, CAUSE_ENGINE, 2000);
		expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
		assert_leads_to("demo", "../ublkb0");
	}
	assert_int_equal(orders("REMOVE"), 0);
	assert_int_equal(orders("HOLD demo"), 3);
	run_for(200);
	get("state/ledger", text, sizeof text);
	assert_null(strstr(text, "died-undrained")); /* what was answered is on the disk */
}

/* A keyless successor that dies before it was given the device costs nothing of the time, and nothing of the device. */
static void successors_may_die_while_it_is_held(void **state)
{
	(void)state;
	hold(60 * SEC_NS);
	attach();
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	for (int i = 0; i < 3; i++) {
		for (int n = 0; n < 500 && !volume->dataplane_ready; n++)
			run_for(10);
		assert_true(volume->dataplane_ready);
		assert_int_equal(kill(volume->dataplane.pid, SIGKILL), 0);
		run_for(100);
	}
	volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	expect(GATE_AVAILABLE, CAUSE_NONE, 12000);
	assert_leads_to("demo", "../ublkb0");
	assert_int_equal(orders("ADD demo 60000000000 fetched\n"), 4);
}

static void the_end_of_a_hold_ends_the_device(void **state)
{
	uint64_t began;

	(void)state;
	hold(2 * SEC_NS);
	attach();
	began = boot_now();
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	while (volume->hold_until_ns != 0 && boot_now() - began < 5 * SEC_NS)
		run_for(10);
	assert_in_range(boot_now() - began, 2 * SEC_NS, 2 * SEC_NS + 800 * MS_NS); /* of the lock, not of the server's end */
	assert_true(ledger_says("hold-timeout"));
	assert_leads_to("demo", "");
	run_for(500);
	volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	assert_leads_to("demo", "../ublkb1");
}

/* Nothing waits for a key that only an officer brings back, nor for a volume that is put away. */
static void what_is_not_held_is_let_go(void **state)
{
	static const enum gate_event events[] = { EV_TAMPER, EV_INTEGRITY_ALARM, EV_DETACH };

	(void)state;
	hold(60 * SEC_NS);
	for (unsigned i = 0; i < 3; i++) {
		char target[32];

		attach();
		snprintf(target, sizeof target, "../ublkb%u", volume->device.number);
		assert_leads_to("demo", target);
		put("broker.orders", "");
		volume_feed(volume, events[i], CAUSE_NONE, "test", "");
		assert_true(reach(events[i] == EV_DETACH ? GATE_LOCKED : GATE_INACCESSIBLE, 1000));
		run_for(500);
		assert_leads_to("demo", "");
		assert_int_equal(orders("REMOVE demo"), 1);
		assert_int_equal(orders("HOLD"), 0);
		assert_int_equal(volume->hold_until_ns, 0);
		volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
		volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
		assert_true(reach(GATE_LOCKED, 1000));
		run_for(300);
	}
}

static void a_tamper_while_it_is_held_ends_the_hold(void **state)
{
	(void)state;
	hold(60 * SEC_NS);
	attach();
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	run_for(600);
	assert_int_equal(volume->device.state, DEVICE_READY);
	volume_feed(volume, EV_TAMPER, CAUSE_NONE, "test", "");
	run_for(600);
	assert_int_equal(orders("REMOVE demo"), 1);
	assert_leads_to("demo", "");
	volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	assert_leads_to("demo", "../ublkb1");
}

static void revoke_and_restore_without_pause(void **state)
{
	(void)state;
	hold(60 * SEC_NS);
	put("dataplane.mode", "slow-drain");
	attach();
	for (unsigned i = 0; i < 3; i++) {
		volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
		assert_true(reach(GATE_INACCESSIBLE, 1000));
		volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
		expect(GATE_AVAILABLE, CAUSE_NONE, 10000);
		assert_leads_to("demo", "../ublkb0");
	}
}

/* ---- brokers ---- */

static void a_kernel_without_ublk_is_said_and_looked_at_again(void **state)
{
	(void)state;
	put("broker.mode", "no-ublk");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_ENGINE, 3000);
	assert_string_equal(volume->text, "the kernel has no ?ublk");
	put("broker.mode", "good");
	expect(GATE_AVAILABLE, CAUSE_NONE, 12000);
}

/* mode: what becomes of the broker; each time the volume comes back once it is good. */
static void a_broker_that_fails_is_replaced(void **state)
{
	static const char *const modes[] = { "die-at-start", "die-at-add",      "nonsense", "die-at-go",
					     "go-fails",     "gone-when-ready", "stale" };

	(void)state;
	for (unsigned i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		put("broker.mode", modes[i]);
		volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
		run_for(1500);
		if (volume->gate.state == GATE_AVAILABLE)
			fail_msg("available with a broker that is %s", modes[i]);
		assert_leads_to("demo", "");
		put("broker.mode", "good");
		if (!reach(GATE_AVAILABLE, 25000))
			fail_msg("not back from %s: %s (%s)", modes[i], gate_state_name(volume->gate.state), volume->text);
		volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
		expect(GATE_LOCKED, CAUSE_NONE, 2000);
		run_for(300);
		if (i == 1 || i == 0) { /* a fresh one for each of these */
			broker_stop(agent);
		}
	}
}

static void a_broker_that_hangs_is_replaced(void **state)
{
	(void)state;
	put("broker.mode", "deaf");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	run_for(2000);
	put("broker.mode", "good");
	expect(GATE_AVAILABLE, CAUSE_NONE, 25000);
}

static void a_go_that_is_never_answered_ends_in_a_lock(void **state)
{
	(void)state;
	put("broker.mode", "hang-go");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	assert_true(wait_for_device(DEVICE_GOING, 8000));
	while (orders("GO demo") == 0) /* heard, in that mode */
		run_for(10);
	put("broker.mode", "good");
	assert_true(reach(GATE_INACCESSIBLE, 12000));
	expect(GATE_AVAILABLE, CAUSE_NONE, 12000);
}

/* Its devices go with it: locked in order, and back with a new device, held or not. */
static void a_broker_that_dies_locks(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		if (i == 1)
			hold(60 * SEC_NS);
		attach();
		put("broker.mode", "die");
		expect(GATE_INACCESSIBLE, CAUSE_ENGINE, 3000);
		assert_int_not_equal(volume->wiped_ns, 0);
		assert_leads_to("demo", "");
		assert_int_equal(volume->hold_until_ns, 0);
		put("broker.mode", "good");
		expect(GATE_AVAILABLE, CAUSE_NONE, 12000);
		assert_leads_to("demo", "../ublkb0"); /* a new broker's first */
		volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
		expect(GATE_LOCKED, CAUSE_NONE, 2000);
		run_for(300);
		broker_stop(agent);
	}
}

static void a_device_that_is_taken_away_locks(void **state)
{
	(void)state;
	attach();
	put("broker.mode", "take-away");
	assert_true(reach(GATE_INACCESSIBLE, 3000));
	assert_int_not_equal(volume->wiped_ns, 0);
	put("broker.mode", "good");
	expect(GATE_AVAILABLE, CAUSE_NONE, 12000);
}

static void two_volumes_have_a_device_each(void **state)
{
	struct volume *first = volume, *second = rig_add_volume("other");

	(void)state;
	hold(60 * SEC_NS);
	attach();
	volume = second;
	attach();
	assert_leads_to("demo", "../ublkb0");
	assert_leads_to("other", "../ublkb1");
	volume_feed(second, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	run_for(300);
	assert_leads_to("other", "");
	assert_int_equal(first->gate.state, GATE_AVAILABLE);
	assert_int_equal(first->device.state, DEVICE_LIVE);
	volume = first;
}

static void what_is_missing_is_said(void **state)
{
	char text[TEXT_MAX_BYTES], path[200];

	(void)state;
	assert_true(device_possible(&agent->config, "/dev/null", text));
	assert_false(device_possible(&agent->config, "/dev/there-is-none", text));
	assert_string_equal(
		text, "the kernel has no ublk (/dev/there-is-none is missing): modprobe ublk_drv (linux 6.8 and later), or use "
		      "export = nbd");
	path_of(path, "fallgate-ublk");
	assert_int_equal(unlink(path), 0);
	assert_false(device_possible(&agent->config, "/dev/null", text));
	assert_non_null(strstr(text, "this build has no ublk"));
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_ENGINE, 3000);
	assert_non_null(strstr(volume->text, "this build has no ublk"));
}

#define DEVICE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		DEVICE(a_device_appears_with_the_first_key),
		DEVICE(nothing_is_available_before_the_device_is),
		DEVICE(a_foreign_thing_in_its_place_is_left_alone),
		DEVICE(names_of_a_killed_agent_are_swept_away),
		DEVICE(a_lock_ends_the_device_and_the_next_key_brings_another),
		DEVICE(a_dead_server_is_replaced_with_its_device),
		DEVICE(a_detach_takes_the_device_away),
		DEVICE(attach_and_detach_at_every_moment),
		DEVICE(revoke_at_every_moment_of_the_first_key),
		DEVICE(a_held_device_survives_a_lock),
		DEVICE(a_held_device_survives_its_server),
		DEVICE(successors_may_die_while_it_is_held),
		DEVICE(the_end_of_a_hold_ends_the_device),
		DEVICE(what_is_not_held_is_let_go),
		DEVICE(a_tamper_while_it_is_held_ends_the_hold),
		DEVICE(revoke_and_restore_without_pause),
		DEVICE(a_kernel_without_ublk_is_said_and_looked_at_again),
		DEVICE(a_broker_that_fails_is_replaced),
		DEVICE(a_broker_that_hangs_is_replaced),
		DEVICE(a_go_that_is_never_answered_ends_in_a_lock),
		DEVICE(a_broker_that_dies_locks),
		DEVICE(a_device_that_is_taken_away_locks),
		DEVICE(two_volumes_have_a_device_each),
		DEVICE(what_is_missing_is_said),
	};

	if (!rig_begin("test_devices", argc, argv))
		return 2;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
