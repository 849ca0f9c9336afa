/* What is remembered, and what is made of it: order, limits, late answers, and bodies at their largest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "mgmt/body.h"
#include "mgmt/render.h"
#include "mgmt/state.h"
#include "revocation/revocation.h"

static uint8_t buffer[RENDER_BODY_MAX];
static struct body_item items[8192];

static void put(struct state *s, const char *name)
{
	struct msg_mg_volume v = { .state = GATE_AVAILABLE };

	snprintf(v.name, sizeof v.name, "%s", name);
	assert_int_equal(state_put_volume(s, &v), 0);
}

static void a_late_answer_finds_nobody(void **state)
{
	static struct state s;
	struct pending *p = state_pending_add(&s);
	uint64_t id = p->id;

	(void)state;
	assert_ptr_equal(state_pending_find(&s, id), p);
	state_pending_free(p);
	assert_null(state_pending_find(&s, id));
	assert_null(state_pending_find(&s, 0));
	p = state_pending_add(&s);
	assert_true(p->id != id);
	assert_null(state_pending_find(&s, id));
}

static void too_many_requests_are_not_taken(void **state)
{
	static struct state s;

	(void)state;
	for (int i = 0; i < STATE_PENDING_MAX; i++)
		assert_non_null(state_pending_add(&s));
	assert_null(state_pending_add(&s));
	state_pending_free(&s.pending[5]);
	assert_ptr_equal(state_pending_add(&s), &s.pending[5]);
}

static void volumes_stand_in_order_and_are_replaced(void **state)
{
	struct state *s = calloc(1, sizeof *s);
	struct msg_mg_volume v = { .gate_seq = 9 };

	(void)state;
	put(s, "b");
	put(s, "c");
	put(s, "a");
	strcpy(v.name, "b");
	assert_int_equal(state_put_volume(s, &v), 0);
	assert_int_equal(s->count, 3);
	assert_string_equal(s->volumes[0]->name, "a");
	assert_string_equal(s->volumes[2]->name, "c");
	assert_int_equal(state_volume(s, "b")->gate_seq, 9);
	state_drop_volume(s, "b");
	state_drop_volume(s, "none");
	assert_null(state_volume(s, "b"));
	assert_string_equal(s->volumes[1]->name, "c");
	state_free(s);
	free(s);
}

/* The most volumes, each with the longest fields: every body fits and is as strict as what is asked of others. */
static void the_largest_bodies_fit(void **state)
{
	struct state *s = calloc(1, sizeof *s);
	struct body b = { .items = items, .room = sizeof items / sizeof items[0] };
	struct msg_mg_volume v;
	int size;

	(void)state;
	memset(&v, 0xff, sizeof v);
	memset(v.export_uri, 'u', sizeof v.export_uri - 1);
	memset(v.text, '\xff', sizeof v.text - 1);
	v.export_uri[sizeof v.export_uri - 1] = v.text[sizeof v.text - 1] = v.kernel[sizeof v.kernel - 1] = '\0';
	v.state = GATE_WIPE_UNCONFIRMED;
	v.cause = v.latch_cause = CAUSE_SUPERVISOR_LOST;
	v.latched = v.formatted = v.attach_auto = v.stats.failstop = true;
	v.lock_drain_error = ERR_IO;
	for (int i = 0; i < STATE_VOLUMES_MAX; i++) {
		snprintf(v.name, sizeof v.name, "volume-with-a-rather-long-%05u", (unsigned)i % 100000u);
		snprintf(v.kek, sizeof v.kek, "kek-with-a-rather-long-na-%05u", (unsigned)i % 100000u);
		assert_int_equal(state_put_volume(s, &v), 0);
	}
	strcpy(v.name, "one-more");
	assert_int_equal(state_put_volume(s, &v), ERR_NOSPACE);
	memset(s->agent.posture, 'p', sizeof s->agent.posture - 1);

	size = render_status(buffer, sizeof buffer, s);
	assert_true(size > 0);
	assert_int_equal(body_decode(&b, buffer, (size_t)size), 0);
	assert_int_equal(body_find(&b, items, "volumes")->number, STATE_VOLUMES_MAX);
	size = render_volumes(buffer, sizeof buffer, s);
	assert_true(size > 0);
	assert_int_equal(body_decode(&b, buffer, (size_t)size), 0);
	size = render_volume(buffer, sizeof buffer, s->volumes[0], 0);
	assert_true(size > 0);
	assert_int_equal(body_decode(&b, buffer, (size_t)size), 0);
	size = render_gate(buffer, sizeof buffer, s->volumes[0]);
	assert_true(size > 0 && size < 1024); /* one datagram */
	assert_int_equal(body_decode(&b, buffer, (size_t)size), 0);
	size = render_posture(buffer, sizeof buffer, s);
	assert_true(size > 0);
	assert_int_equal(body_decode(&b, buffer, (size_t)size), 0);
	state_free(s);
	free(s);
}

/* A buffer that is one byte short is noticed at every size, by every body. */
static void a_short_buffer_is_noticed(void **state)
{
	struct state *s = calloc(1, sizeof *s);
	const struct msg_mg_volume *v;
	int whole;

	(void)state;
	put(s, "v");
	v = state_volume(s, "v");
	strcpy(s->agent.posture, "good: a\nweak: b");
	whole = render_gate(buffer, sizeof buffer, v);
	for (int i = 0; i < whole; i++)
		assert_int_equal(render_gate(buffer, (size_t)i, v), ERR_NOSPACE);
	whole = render_status(buffer, sizeof buffer, s);
	for (int i = 0; i < whole; i++)
		assert_int_equal(render_status(buffer, (size_t)i, s), ERR_NOSPACE);
	whole = render_posture(buffer, sizeof buffer, s);
	for (int i = 0; i < whole; i++)
		assert_int_equal(render_posture(buffer, (size_t)i, s), ERR_NOSPACE);
	whole = render_problem(buffer, sizeof buffer, ERR_UNREACHABLE, "");
	for (int i = 0; i < whole; i++)
		assert_int_equal(render_problem(buffer, (size_t)i, ERR_UNREACHABLE, ""), ERR_NOSPACE);
	state_free(s);
	free(s);
}

static void the_gate_tells_the_latch_and_its_remedy(void **state)
{
	struct body b = { .items = items, .room = sizeof items / sizeof items[0] };
	struct msg_mg_volume v = { .name = "v",
				   .state = GATE_INACCESSIBLE,
				   .cause = CAUSE_UNREACHABLE,
				   .latched = true,
				   .latch_cause = CAUSE_COMMANDED,
				   .gate_seq = 300,
				   .lock_detected_ns = 5000,
				   .lock_cut_ns = 5010,
				   .lock_wiped_ns = 5030,
				   .lock_drain_error = ERR_IO };
	const struct body_item *lock;
	char text[128];
	uint64_t n;

	(void)state;
	assert_int_equal(body_decode(&b, buffer, (size_t)render_gate(buffer, sizeof buffer, &v)), 0);
	assert_true(body_text(body_find(&b, items, "state"), text, sizeof text));
	assert_string_equal(text, "INACCESSIBLE");
	assert_true(body_text(body_find(&b, items, "latch_cause"), text, sizeof text));
	assert_string_equal(text, gate_cause_name(CAUSE_COMMANDED));
	assert_true(body_text(body_find(&b, items, "remedy"), text, sizeof text));
	assert_string_equal(text, gate_cause_remedy(CAUSE_COMMANDED));
	assert_true(body_uint(body_find(&b, items, "gate_seq"), &n));
	assert_int_equal(n, 300);
	lock = body_find(&b, items, "lock");
	assert_true(body_uint(body_find(&b, lock, "cut_ns"), &n));
	assert_int_equal(n, 5010);
	assert_true(body_uint(body_find(&b, lock, "wiped_ns"), &n));
	assert_int_equal(n, 5030);
	assert_null(body_find(&b, lock, "drained_ns"));
	assert_true(body_text(body_find(&b, lock, "drain_error"), text, sizeof text));
	assert_string_equal(text, "io");
}

static void the_posture_is_one_finding_a_line(void **state)
{
	struct body b = { .items = items, .room = sizeof items / sizeof items[0] };
	struct state *s = calloc(1, sizeof *s);
	const struct body_item *findings, *second;
	char text[64];
	bool good;

	(void)state;
	strcpy(s->agent.posture, "good: keys in memfd_secret\n\nweak: a software token\n");
	assert_int_equal(body_decode(&b, buffer, (size_t)render_posture(buffer, sizeof buffer, s)), 0);
	findings = body_find(&b, items, "findings");
	assert_int_equal(findings->number, 2);
	assert_true(body_bool(body_find(&b, body_first(findings), "good"), &good));
	assert_true(good);
	second = body_behind(&b, body_first(findings));
	assert_true(body_bool(body_find(&b, second, "good"), &good));
	assert_false(good);
	assert_true(body_text(body_find(&b, second, "what"), text, sizeof text));
	assert_string_equal(text, "a software token");
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_late_answer_finds_nobody),
		cmocka_unit_test(too_many_requests_are_not_taken),
		cmocka_unit_test(volumes_stand_in_order_and_are_replaced),
		cmocka_unit_test(the_largest_bodies_fit),
		cmocka_unit_test(a_short_buffer_is_noticed),
		cmocka_unit_test(the_gate_tells_the_latch_and_its_remedy),
		cmocka_unit_test(the_posture_is_one_finding_a_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
