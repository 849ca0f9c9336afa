/* What the machine shows of its volumes: the worst of those that are attached, once for each change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "hal/indicator.h"
#include "supervisor/agent.h"
#include "supervisor/indication.h"
#include "supervisor/volume.h"

static struct {
	int open_error;
	bool open;
	unsigned shows;
	enum indicator_state state;
	char text[64];
} light;

int indicator_open(struct indicator **out, const char *where, char *why, size_t why_size)
{
	assert_string_equal(where, "led:green");
	snprintf(why, why_size, "refused");
	light.open = light.open_error == 0;
	*out = light.open ? (struct indicator *)&light : NULL;
	return light.open_error;
}

void indicator_show(struct indicator *i, enum indicator_state state, const char *text)
{
	assert_ptr_equal(i, &light);
	assert_true(light.open);
	light.shows++;
	light.state = state;
	snprintf(light.text, sizeof light.text, "%s", text);
}

void indicator_close(struct indicator *i)
{
	assert_ptr_equal(i, &light);
	light.open = false;
}

bool indicator_where_good(const char *where)
{
	return where[0] != '\0';
}

static struct agent agent;
static struct volume volumes[3];

static int begin(void **state)
{
	(void)state;
	memset(&agent, 0, sizeof agent);
	memset(volumes, 0, sizeof volumes);
	memset(&light, 0, sizeof light);
	strcpy(agent.config.indicator, "led:green");
	for (unsigned i = 0; i < 3; i++) {
		agent.volumes[i] = &volumes[i];
		volumes[i].gate.state = GATE_AVAILABLE;
	}
	agent.volume_count = 3;
	return 0;
}

static int end(void **state)
{
	(void)state;
	indication_stop(&agent);
	return 0;
}

static enum indicator_state with(enum gate_state first, enum gate_state second)
{
	volumes[0].gate.state = first;
	volumes[1].gate.state = second;
	indication_update(&agent);
	return light.state;
}

static void the_worst_of_the_attached_is_shown(void **state)
{
	(void)state;
	indication_start(&agent);
	assert_int_equal(light.state, INDICATOR_STARTING);
	assert_int_equal(with(GATE_AVAILABLE, GATE_AVAILABLE), INDICATOR_AVAILABLE);
	assert_string_equal(light.text, "3 of 3 volumes open");
	assert_int_equal(with(GATE_AVAILABLE, GATE_OUTAGE), INDICATOR_OUTAGE);
	assert_string_equal(light.text, "3 of 3 volumes open"); /* it serves on its budget */
	assert_int_equal(with(GATE_SUSPECT, GATE_AVAILABLE), INDICATOR_OUTAGE);
	assert_int_equal(with(GATE_INACCESSIBLE, GATE_OUTAGE), INDICATOR_LOCKED);
	assert_int_equal(with(GATE_PURGED, GATE_AVAILABLE), INDICATOR_LOCKED);
	assert_int_equal(with(GATE_INACCESSIBLE, GATE_WIPE_UNCONFIRMED), INDICATOR_ALARM);
	assert_int_equal(with(GATE_FAULT, GATE_AVAILABLE), INDICATOR_ALARM);
}

static void a_volume_that_was_taken_away_is_no_trouble_unless_all_are(void **state)
{
	(void)state;
	indication_start(&agent);
	assert_int_equal(with(GATE_LOCKED, GATE_AVAILABLE), INDICATOR_AVAILABLE);
	assert_string_equal(light.text, "2 of 3 volumes open");
	volumes[2].gate.state = GATE_LOCKED;
	assert_int_equal(with(GATE_LOCKED, GATE_LOCKED), INDICATOR_LOCKED);
	agent.volume_count = 0;
	indication_update(&agent);
	assert_int_equal(light.state, INDICATOR_LOCKED);
}

static void an_opened_machine_and_a_hostile_disk_are_an_alarm(void **state)
{
	(void)state;
	indication_start(&agent);
	volumes[0].gate.latched = true;
	volumes[0].gate.latch_cause = CAUSE_COMMANDED;
	assert_int_equal(with(GATE_INACCESSIBLE, GATE_AVAILABLE), INDICATOR_LOCKED);
	volumes[0].gate.latch_cause = CAUSE_TAMPER;
	assert_int_equal(with(GATE_INACCESSIBLE, GATE_AVAILABLE), INDICATOR_ALARM);
	assert_int_equal(with(GATE_LOCKED, GATE_AVAILABLE), INDICATOR_ALARM);
	volumes[0].gate.latch_cause = CAUSE_INTEGRITY;
	assert_int_equal(with(GATE_LOCKED, GATE_AVAILABLE), INDICATOR_ALARM);
}

static void what_did_not_change_is_not_shown_again(void **state)
{
	unsigned before;

	(void)state;
	indication_start(&agent);
	with(GATE_AVAILABLE, GATE_AVAILABLE);
	before = light.shows;
	with(GATE_AVAILABLE, GATE_AVAILABLE);
	assert_int_equal(light.shows, before);
	with(GATE_AVAILABLE, GATE_LOCKED); /* the same colour, another number */
	assert_int_equal(light.shows, before + 1);
	agent.stopping = true;
	with(GATE_FAULT, GATE_FAULT);
	assert_int_equal(light.shows, before + 1);
	indication_stop(&agent);
	assert_int_equal(light.state, INDICATOR_STOPPED);
	assert_false(light.open);
}

static void one_that_cannot_be_had_stops_nobody(void **state)
{
	(void)state;
	light.open_error = ERR_NOT_FOUND;
	indication_start(&agent);
	with(GATE_FAULT, GATE_FAULT);
	assert_int_equal(light.shows, 0);
	light.open_error = 0;
	strcpy(agent.config.indicator, "none");
	indication_start(&agent);
	assert_false(light.open);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_worst_of_the_attached_is_shown, begin, end),
		cmocka_unit_test_setup_teardown(a_volume_that_was_taken_away_is_no_trouble_unless_all_are, begin, end),
		cmocka_unit_test_setup_teardown(an_opened_machine_and_a_hostile_disk_are_an_alarm, begin, end),
		cmocka_unit_test_setup_teardown(what_did_not_change_is_not_shown_again, begin, end),
		cmocka_unit_test_setup_teardown(one_that_cannot_be_had_stops_nobody, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
