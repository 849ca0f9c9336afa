/* Who feeds the watchdog, and who does not: a real loop, writer and records; the device and the writer's silence are played here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/watchdog.h"
#include "supervisor/agent.h"
#include "supervisor/volume.h"
#include "supervisor/watchdog.h"

uint64_t __real_writer_silent_ns(struct writer *w);
uint64_t __wrap_writer_silent_ns(struct writer *w);

/* ---- the device ---- */

static struct {
	struct watchdog_facts facts;
	int open_error, feed_error;
	bool armed, stops;
	unsigned feeds;
	char path[64];
} device;

int watchdog_open(struct watchdog **out, const char *path, unsigned timeout_s, char *why, size_t why_size)
{
	(void)timeout_s;
	snprintf(device.path, sizeof device.path, "%s", path);
	snprintf(why, why_size, "%s: refused", path);
	*out = device.open_error == 0 ? (struct watchdog *)&device : NULL;
	device.armed = device.open_error == 0;
	return device.open_error;
}

const struct watchdog_facts *watchdog_facts(const struct watchdog *w)
{
	assert_ptr_equal(w, &device);
	return &device.facts;
}

int watchdog_feed(struct watchdog *w)
{
	assert_ptr_equal(w, &device);
	assert_true(device.armed);
	device.feeds += device.feed_error == 0;
	return device.feed_error;
}

bool watchdog_stop(struct watchdog *w)
{
	assert_ptr_equal(w, &device);
	device.armed = !device.stops;
	return device.stops;
}

/* ---- the agent ---- */

static struct agent agent;
static struct volume volume;
static char dir[64];
static uint64_t silent_ns;

uint64_t __wrap_writer_silent_ns(struct writer *w)
{
	return silent_ns != 0 ? silent_ns : __real_writer_silent_ns(w);
}

static int begin(void **state)
{
	(void)state;
	memset(&agent, 0, sizeof agent);
	memset(&volume, 0, sizeof volume);
	memset(&device, 0, sizeof device);
	silent_ns = 0;
	device.facts = (struct watchdog_facts){ .identity = "dog", .timeout_s = 1, .outlives = true };
	device.stops = true;
	strcpy(dir, "/tmp/fallgate-feed-XXXXXX");
	assert_non_null(mkdtemp(dir));
	strcpy(agent.config.watchdog, "/dev/watchdog7");
	agent.config.watchdog_timeout_ns = 10 * SEC_NS;
	agent.records.dir_fd = agent.ledger.fd = -1;
	agent.volumes[0] = &volume;
	assert_int_equal(loop_init(&agent.loop), 0);
	assert_int_equal(records_open(&agent.records, dir, true), 0);
	assert_int_equal(ledger_open(&agent.ledger, &agent.records), 0);
	return writer_start(&agent.writer, &agent.records, &agent.ledger);
}

static int end(void **state)
{
	char command[96];

	(void)state;
	watchdog_end(&agent);
	writer_stop(agent.writer);
	ledger_close(&agent.ledger);
	records_close(&agent.records);
	loop_close(&agent.loop);
	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	return system(command);
}

static void nothing(void *context)
{
	(void)context;
}

/* Feeds during so many milliseconds of a loop that goes round. */
static unsigned feeds_in(unsigned ms)
{
	uint64_t until = boot_now() + ms * MS_NS;
	unsigned before = device.feeds;
	struct timer t;

	timer_init(&t, nothing, NULL);
	while (boot_now() < until) {
		timer_arm(&agent.loop, &t, boot_now() + 20 * MS_NS);
		loop_once(&agent.loop);
	}
	timer_disarm(&agent.loop, &t);
	return device.feeds - before;
}

static bool posture_good(void)
{
	char text[160];

	return watchdog_posture(&agent, text, sizeof text);
}

static bool posture_says(const char *words)
{
	char text[160];

	watchdog_posture(&agent, text, sizeof text);
	return strstr(text, words) != NULL;
}

static void a_loop_that_goes_round_feeds(void **state)
{
	(void)state;
	assert_int_equal(watchdog_start(&agent), 0);
	assert_string_equal(device.path, "/dev/watchdog7");
	assert_true(feeds_in(900) >= 2);
	assert_true(posture_says("watchdog: dog, 1 s") && posture_good());
	device.facts.outlives = false;
	assert_true(posture_says("stops if the agent dies") && !posture_good());
	watchdog_end(&agent);
	assert_false(device.armed);
	assert_int_equal(feeds_in(400), 0);
}

/* A timer that is due again at once keeps the loop from ever waiting: nothing else is served. */
static struct timer busy;
static unsigned fired;

static void again(void *context)
{
	(void)context;
	if (fired++ < 2000000 && device.facts.timeout_s != 0) {
		timer_arm(&agent.loop, &busy, boot_now());
		if (fired % 1000 == 0)
			usleep(1000);
	}
}

static void a_loop_that_only_runs_its_timers_does_not(void **state)
{
	uint64_t began;

	(void)state;
	assert_int_equal(watchdog_start(&agent), 0);
	assert_true(feeds_in(600) >= 1);
	device.feeds = 0;
	timer_init(&busy, again, NULL);
	timer_arm(&agent.loop, &busy, boot_now());
	began = boot_now();
	loop_once(&agent.loop);
	assert_true(boot_now() - began > SEC_NS);
	assert_true(device.feeds <= 1); /* the one of before the first round */
	assert_true(posture_says("not fed"));
}

static void a_writer_that_does_not_answer_starves_it(void **state)
{
	(void)state;
	assert_int_equal(watchdog_start(&agent), 0);
	silent_ns = 61 * SEC_NS;
	assert_int_equal(feeds_in(600), 0);
	assert_true(posture_says("not fed") && !posture_good());
	silent_ns = 59 * SEC_NS;
	assert_true(feeds_in(600) >= 1);
	silent_ns = 0;
	assert_true(feeds_in(600) >= 1); /* the real one answers, every time it is asked */
}

/* Only a data plane may have a key that is not wiped; an hsm that is stuck in its driver is the HSM's outage. */
static void keys_that_may_be_in_ram_starve_it(void **state)
{
	(void)state;
	agent.volume_count = 1;
	volume.gate.state = GATE_WIPE_UNCONFIRMED;
	volume.dataplane.alive = true;
	volume.dataplane.stage = STAGE_LOCKING;
	assert_int_equal(watchdog_start(&agent), 0);
	assert_int_equal(feeds_in(600), 0);
	volume.dataplane.stage = STAGE_WIPED;
	assert_true(feeds_in(600) >= 1);
	volume.dataplane.stage = STAGE_LOCKING;
	volume.dataplane.alive = false;
	assert_true(feeds_in(600) >= 1);
	for (unsigned s = 0; s < GATE_STATE_COUNT; s++) {
		volume.dataplane.alive = true;
		volume.gate.state = (enum gate_state)s;
		assert_int_equal(feeds_in(450) == 0, s == GATE_WIPE_UNCONFIRMED);
	}
}

static void a_device_that_goes_away_is_said(void **state)
{
	(void)state;
	assert_int_equal(watchdog_start(&agent), 0);
	device.feed_error = ERR_IO;
	feeds_in(450);
	assert_true(posture_says("does not take its food") && !posture_good());
	device.feed_error = 0;
	assert_true(feeds_in(450) >= 1);
	assert_true(posture_says("dog, 1 s"));
}

static void what_is_named_must_be_there(void **state)
{
	(void)state;
	device.open_error = ERR_BUSY;
	assert_int_equal(watchdog_start(&agent), ERR_BUSY);
	assert_null(agent.watchdog);
	strcpy(agent.config.watchdog, "auto");
	assert_int_equal(watchdog_start(&agent), 0);
	assert_string_equal(device.path, "/dev/watchdog0");
	assert_true(posture_says("no watchdog: /dev/watchdog0: refused"));
	watchdog_end(&agent);
	device.path[0] = '\0';
	strcpy(agent.config.watchdog, "none");
	assert_int_equal(watchdog_start(&agent), 0);
	assert_string_equal(device.path, "");
	assert_false(posture_says("watchdog"));
}

/* Another boot, brought about by the watchdog, `after_s` seconds after the one before. */
static uint32_t restarted(unsigned after_s)
{
	struct watchdog_record r;

	watchdog_end(&agent);
	if (records_read_watchdog(&agent.records, &r) == 0) {
		strcpy(r.boot_id, "another");
		r.armed_wall_ns = wall_now() - after_s * SEC_NS;
		assert_int_equal(records_write_watchdog(&agent.records, &r), 0);
	}
	device.facts.caused_start = true;
	assert_int_equal(watchdog_start(&agent), 0);
	assert_int_equal(records_read_watchdog(&agent.records, &r), 0);
	return r.resets;
}

static void one_that_restarts_again_and_again_is_left_alone(void **state)
{
	char command[128];

	(void)state;
	for (uint32_t i = 1; i < 5; i++) {
		assert_int_equal(restarted(30), i);
		assert_true(device.armed);
		watchdog_end(&agent);
		assert_int_equal(watchdog_start(&agent), 0); /* the agent alone: the same boot */
		assert_true(device.armed);
	}
	assert_int_equal(restarted(30), 5);
	assert_false(device.armed);
	assert_true(posture_says("left alone"));
	assert_int_equal(feeds_in(300), 0);
	assert_int_equal(restarted(700), 1); /* the last start lasted */
	assert_true(device.armed);
	for (uint32_t i = 2; i < 6; i++)
		restarted(1);
	assert_false(device.armed);
	device.facts.nowayout = true; /* it would run on, unfed */
	assert_int_equal(restarted(1), 6);
	assert_true(device.armed);
	writer_stop(agent.writer);
	snprintf(command, sizeof command, "test $(grep -c watchdog-restart '%s'/ledger*) = 11", dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(writer_start(&agent.writer, &agent.records, &agent.ledger), 0);
}

static void a_start_by_hand_begins_the_count_anew(void **state)
{
	struct watchdog_record r;

	(void)state;
	for (uint32_t i = 1; i < 5; i++)
		restarted(1);
	watchdog_end(&agent);
	assert_int_equal(records_read_watchdog(&agent.records, &r), 0);
	strcpy(r.boot_id, "another");
	assert_int_equal(records_write_watchdog(&agent.records, &r), 0);
	device.facts.caused_start = false;
	assert_int_equal(watchdog_start(&agent), 0);
	assert_int_equal(records_read_watchdog(&agent.records, &r), 0);
	assert_int_equal(r.resets, 0);
	assert_true(device.armed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_loop_that_goes_round_feeds, begin, end),
		cmocka_unit_test_setup_teardown(a_loop_that_only_runs_its_timers_does_not, begin, end),
		cmocka_unit_test_setup_teardown(a_writer_that_does_not_answer_starves_it, begin, end),
		cmocka_unit_test_setup_teardown(keys_that_may_be_in_ram_starve_it, begin, end),
		cmocka_unit_test_setup_teardown(a_device_that_goes_away_is_said, begin, end),
		cmocka_unit_test_setup_teardown(what_is_named_must_be_there, begin, end),
		cmocka_unit_test_setup_teardown(one_that_restarts_again_and_again_is_left_alone, begin, end),
		cmocka_unit_test_setup_teardown(a_start_by_hand_begins_the_count_anew, begin, end),
	};

	log_open("test", (enum log_level)0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
