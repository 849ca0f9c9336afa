/* message_check: nothing that breaks a described field passes, and no field of message.h is left undescribed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/error.h"
#include "hal/secret_memory.h"
#include "revocation/revocation.h"
#include "sample.h"
#include "volume/volume.h"

#define TESTED(list) (sizeof(list) / sizeof((list)[0]))

static int check(const struct message *m)
{
	const struct message_row *row = message_row(m->type);

	return message_check(m, sample_bytes(m), row->max_fds, sample_sender(m->type), (enum process_role)row->receiver);
}

/* Written down a second time on purpose: the code's list is compared with this one by behaviour, this one with the header by
 * count. high is the largest good byte. */
struct text_case {
	uint32_t type;
	size_t offset, size;
};
struct byte_case {
	uint32_t type;
	size_t offset;
	unsigned low, high;
};

#define T(t, member, f)                                                                                                          \
	{                                                                                                                        \
		t, offsetof(struct message, body.member.f) - offsetof(struct message, body),                                     \
			sizeof(((struct message *)0)->body.member.f)                                                             \
	}
#define B(t, member, f, lo, hi)                                                                                                  \
	{                                                                                                                        \
		t, offsetof(struct message, body.member.f) - offsetof(struct message, body), lo, hi                              \
	}

/* clang-format off */
static const struct text_case texts[] = {
	T(MSG_HELLO, hello, version),
	T(MSG_HSM_OPEN, hsm_open, module), T(MSG_HSM_OPEN, hsm_open, init_args), T(MSG_HSM_OPEN, hsm_open, uri),
	T(MSG_HSM_OPENED, hsm_opened, label), T(MSG_HSM_OPENED, hsm_opened, token_label),
	T(MSG_HSM_OPENED, hsm_opened, token_serial), T(MSG_HSM_OPENED, hsm_opened, start_date),
	T(MSG_HSM_OPENED, hsm_opened, end_date), T(MSG_HSM_OPENED, hsm_opened, text),
	T(MSG_HSM_UNWRAP, hsm_ticket, volume),
	T(MSG_HSM_VERDICT, hsm_verdict, start_date), T(MSG_HSM_VERDICT, hsm_verdict, end_date),
	T(MSG_HSM_VERDICT, hsm_verdict, text),
	T(MSG_PAGE_UNWRAP, page, volume),
	T(MSG_DP_ATTACH, dp_attach, name), T(MSG_DP_ATTACH, dp_attach, kernel),
	T(MSG_DP_CREATE, dp_create, name), T(MSG_DP_CREATE, dp_create, kek_label), T(MSG_DP_CREATE, dp_create, token),
	T(MSG_DP_CREATE, dp_create, kernel),
	T(MSG_DP_READY, dp_ready, text),
	T(MSG_DP_OPENED, dp_opened, kernel), T(MSG_DP_OPENED, dp_opened, text),
	T(MSG_DP_CREATED, dp_created, text),
	T(MSG_DP_JOB_DONE, dp_job_done, text),
	T(MSG_DP_EVENT, dp_event, text),
	T(MSG_MG_REQUEST, mg_request, identity), T(MSG_MG_REQUEST, mg_request, volume),
	T(MSG_MG_REPLY, mg_reply, text),
	T(MSG_MG_VOLUME, mg_volume, name), T(MSG_MG_VOLUME, mg_volume, kek), T(MSG_MG_VOLUME, mg_volume, export_uri),
	T(MSG_MG_VOLUME, mg_volume, kernel), T(MSG_MG_VOLUME, mg_volume, text),
	T(MSG_HK_RUN, hk_run, program), T(MSG_HK_RUN, hk_run, volume), T(MSG_HK_RUN, hk_run, event), T(MSG_HK_RUN, hk_run, from),
	T(MSG_HK_RUN, hk_run, state), T(MSG_HK_RUN, hk_run, cause), T(MSG_HK_RUN, hk_run, remedy), T(MSG_HK_RUN, hk_run, text),
	T(MSG_UB_ADD, ub_add, name), T(MSG_UB_READY, ub_ready, name), T(MSG_UB_READY, ub_ready, text), T(MSG_UB_GO, ub_go, name),
	T(MSG_UB_STARTED, ub_started, name), T(MSG_UB_STARTED, ub_started, text), T(MSG_UB_HOLD, ub_hold, name),
	T(MSG_UB_REMOVE, ub_remove, name), T(MSG_UB_GONE, ub_gone, name), T(MSG_UB_GONE, ub_gone, text),
	T(MSG_MG_GONE, mg_gone, name),
	T(MSG_MG_AGENT, mg_agent, version), T(MSG_MG_AGENT, mg_agent, users), T(MSG_MG_AGENT, mg_agent, sandbox),
	T(MSG_MG_AGENT, mg_agent, posture),
	T(MSG_MG_LISTEN, mg_listen, address),
	T(MSG_MG_CREDENTIAL, mg_credential, identity),
	T(MSG_CON_REQUEST, con_request, identity), T(MSG_CON_REQUEST, con_request, volume),
	T(MSG_CON_REPLY, con_reply, text), T(MSG_CON_REPLY, con_reply, coap_address),
	T(MSG_TP_REQUEST, tp_request, kek), T(MSG_TP_REPLY, tp_reply, kind), T(MSG_TP_REPLY, tp_reply, bank), T(MSG_TP_REPLY, tp_reply, text),
	T(MSG_CON_SEAL_PIN, con_seal_pin, kek),
	T(MSG_CON_JOB, con_job, volume), T(MSG_CON_JOB_DONE, con_job_done, text),
};

static const struct byte_case bools[] = {
	B(MSG_HSM_OPEN, hsm_open, login_allowed, 0, 1),
	B(MSG_HSM_OPEN, hsm_open, pin_renewed, 0, 1), B(MSG_HSM_OPEN, hsm_open, pin_in_page, 0, 1),
	B(MSG_HSM_OPENED, hsm_opened, login_refused, 0, 1), B(MSG_HSM_OPENED, hsm_opened, software_token, 0, 1),
	B(MSG_HSM_VERDICT, hsm_verdict, login_refused, 0, 1),
	B(MSG_DP_LOCK, dp_lock, hold, 0, 1),
	B(MSG_HK_RUN, hk_run, latched, 0, 1), B(MSG_CON_REPLY, con_reply, durable, 0, 1),
	B(MSG_UB_ADD, ub_add, read_only, 0, 1), B(MSG_UB_ADD, ub_add, fetched, 0, 1), B(MSG_UB_READY, ub_ready, kept, 0, 1),
	B(MSG_DP_ATTACH, dp_attach, read_only, 0, 1), B(MSG_DP_ATTACH, dp_attach, assume_4k, 0, 1),
	B(MSG_DP_ATTACH, dp_attach, server, 0, 1),
	B(MSG_DP_CREATE, dp_create, force, 0, 1), B(MSG_DP_CREATE, dp_create, assume_4k, 0, 1),
	B(MSG_DP_JOB, dp_job, options.accept_loss, 0, 1), B(MSG_DP_JOB, dp_job, options.repair, 0, 1),
	B(MSG_DP_JOB, dp_job, options.output, 0, 1), B(MSG_DP_JOB, dp_job, options.map, 0, 1),
	B(MSG_DP_JOB, dp_job, options.input, 0, 1),
	B(MSG_DP_READY, dp_ready, ok, 0, 1),
	B(MSG_DP_WIPED, dp_wiped, self, 0, 1),
	B(MSG_DP_STATS, dp_stats, failstop, 0, 1),
	B(MSG_MG_REQUEST, mg_request, has_if_match, 0, 1), B(MSG_MG_REQUEST, mg_request, force, 0, 1),
	B(MSG_MG_REPLY, mg_reply, durable, 0, 1),
	B(MSG_MG_VOLUME, mg_volume, latched, 0, 1), B(MSG_MG_VOLUME, mg_volume, formatted, 0, 1),
	B(MSG_MG_VOLUME, mg_volume, attach_auto, 0, 1),
	B(MSG_MG_AGENT, mg_agent, audit_good, 0, 1),
	B(MSG_CON_JOB, con_job, options.accept_loss, 0, 1), B(MSG_CON_JOB, con_job, options.repair, 0, 1),
	B(MSG_CON_JOB, con_job, options.output, 0, 1), B(MSG_CON_JOB, con_job, options.map, 0, 1),
	B(MSG_CON_JOB, con_job, options.input, 0, 1),
};

static const struct byte_case enums[] = {
	B(MSG_HSM_OPENED, hsm_opened, verdict, 0, VERDICT_COUNT - 1), B(MSG_HSM_OPENED, hsm_opened, type, 0, 2),
	B(MSG_HSM_PROBE, hsm_probe, hash, 0, 2), B(MSG_HSM_UNWRAP, hsm_ticket, hash, 0, 2),
	B(MSG_HSM_VERDICT, hsm_verdict, verdict, 0, VERDICT_COUNT - 1),
	B(MSG_PAGE_DONE, page_done, verdict, 0, VERDICT_COUNT - 1),
	B(MSG_DP_CREATE, dp_create, kek_type, 1, 2), B(MSG_DP_CREATE, dp_create, hash, 0, 2),
	B(MSG_DP_JOB, dp_job, verb, 1, JOB_VERB_COUNT - 1),
	B(MSG_TP_REQUEST, tp_request, verb, 1, TP_VERB_COUNT - 1),
	B(MSG_DP_TICKET, dp_ticket, anchor, 0, ANCHOR_POLICY_COUNT - 1),
	B(MSG_HK_RUN, hk_run, hook, 1, HOOK_COUNT - 1),
	B(MSG_UB_GONE, ub_gone, reason, 1, UB_REASON_COUNT - 1),
	B(MSG_DP_LOCK, dp_lock, cause, 0, CAUSE_COUNT - 1),
	B(MSG_DP_OPENED, dp_opened, verdict, 0, VERDICT_COUNT - 1),
	B(MSG_DP_OPENED, dp_opened, memory, 0, SECRET_MEMORY_LOCKED_MEMFD),
	B(MSG_DP_WIPED, dp_wiped, cause, 0, CAUSE_COUNT - 1),
	B(MSG_DP_EVENT, dp_event, event, 1, 3),
	B(MSG_MG_REQUEST, mg_request, verb, 1, MG_VERB_COUNT - 1), B(MSG_MG_REQUEST, mg_request, role, 0, 3),
	B(MSG_MG_VOLUME, mg_volume, state, 0, GATE_STATE_COUNT - 1), B(MSG_MG_VOLUME, mg_volume, cause, 0, CAUSE_COUNT - 1),
	B(MSG_MG_VOLUME, mg_volume, latch_cause, 0, CAUSE_COUNT - 1),
	B(MSG_MG_VOLUME, mg_volume, memory, 0, SECRET_MEMORY_LOCKED_MEMFD),
	B(MSG_MG_CREDENTIAL, mg_credential, role, 0, 3),
	B(MSG_CON_REQUEST, con_request, verb, 1, CON_ACCEPT_ROLLBACK), B(MSG_CON_REQUEST, con_request, role, 0, 3),
	B(MSG_CON_JOB, con_job, verb, 1, JOB_VERB_COUNT - 1),
};

/* high: the size of the array that the field measures. */
static const struct byte_case sizes[] = {
	B(MSG_TP_REQUEST, tp_request, sealed_size, 0, SEALED_MAX_BYTES), B(MSG_TP_REPLY, tp_reply, sealed_size, 0, SEALED_MAX_BYTES),
	B(MSG_HSM_OPENED, hsm_opened, modulus_size, 0, MODULUS_MAX_BYTES), B(MSG_HSM_OPENED, hsm_opened, exponent_size, 0, 8),
	B(MSG_HSM_OPENED, hsm_opened, id_size, 0, 62),
	B(MSG_HSM_PROBE, hsm_probe, wrapped_size, 0, WRAP_MAX_BYTES),
	B(MSG_HSM_VERDICT, hsm_verdict, wrapped_size, 0, WRAP_MAX_BYTES),
	B(MSG_PAGE_UNWRAP, page, wrapped_size, 0, WRAP_MAX_BYTES),
	B(MSG_PAGE_DONE, page_done, wrapped_size, 0, WRAP_MAX_BYTES),
	B(MSG_DP_CREATE, dp_create, kek_id_size, 0, 62),
};

static const struct byte_case errors[] = {
	B(MSG_DP_READY, dp_ready, error, 0, 0), B(MSG_DP_OPENED, dp_opened, error, 0, 0),
	B(MSG_DP_CREATED, dp_created, error, 0, 0), B(MSG_DP_DRAINED, dp_drained, error, 0, 0),
	B(MSG_TP_REPLY, tp_reply, error, 0, 0), B(MSG_MG_REPLY, mg_reply, error, 0, 0), B(MSG_MG_VOLUME, mg_volume, lock_drain_error, 0, 0),
	B(MSG_CON_REPLY, con_reply, error, 0, 0), B(MSG_DP_JOB_DONE, dp_job_done, error, 0, 0),
	B(MSG_CON_JOB_DONE, con_job_done, error, 0, 0),
	B(MSG_UB_READY, ub_ready, error, 0, 0), B(MSG_UB_STARTED, ub_started, error, 0, 0),
};
/* clang-format on */

static void samples_are_good_and_every_type_has_a_row(void **state)
{
	struct message m;

	(void)state;
	assert_null(message_row(MSG_NONE));
	assert_null(message_row(MSG_TYPE_COUNT));
	assert_null(message_row(UINT32_MAX));
	for (uint32_t t = MSG_NONE + 1; t < MSG_TYPE_COUNT; t++) {
		assert_non_null(message_row(t));
		assert_true(message_row(t)->size <= sizeof m.body);
		sample_message(&m, t, 7);
		assert_int_equal(check(&m), 0);
	}
}

static void a_text_without_its_end_is_refused(void **state)
{
	struct message m;

	(void)state;
	for (size_t i = 0; i < TESTED(texts); i++) {
		sample_message(&m, texts[i].type, 0);
		memset((char *)&m.body + texts[i].offset, 'a', texts[i].size);
		assert_int_equal(check(&m), ERR_PROTOCOL);
	}
}

static void bytes_out_of_range_are_refused(const struct byte_case *cases, size_t count)
{
	struct message m;

	for (size_t i = 0; i < count; i++) {
		for (unsigned v = 0; v < 256; v++) {
			sample_message(&m, cases[i].type, 0);
			((uint8_t *)&m.body)[cases[i].offset] = (uint8_t)v;
			assert_int_equal(check(&m), v >= cases[i].low && v <= cases[i].high ? 0 : ERR_PROTOCOL);
		}
	}
}

static void bools_are_0_or_1(void **state)
{
	(void)state;
	bytes_out_of_range_are_refused(bools, TESTED(bools));
}

static void enums_are_in_range(void **state)
{
	(void)state;
	bytes_out_of_range_are_refused(enums, TESTED(enums));
}

static void sizes_fit_their_arrays(void **state)
{
	struct message m;
	uint16_t v;

	(void)state;
	for (size_t i = 0; i < TESTED(sizes); i++) {
		for (uint32_t n = 0; n <= UINT16_MAX; n++) {
			sample_message(&m, sizes[i].type, 0);
			v = (uint16_t)n;
			memcpy((uint8_t *)&m.body + sizes[i].offset, &v, sizeof v);
			assert_int_equal(check(&m), n <= sizes[i].high ? 0 : ERR_PROTOCOL);
		}
	}
}

static void errors_are_of_the_table(void **state)
{
	static const int32_t bad[] = { 1, ERR_LAST, ERR_LAST - 1, INT32_MIN, INT32_MAX };
	struct message m;

	(void)state;
	for (size_t i = 0; i < TESTED(errors); i++) {
		for (int32_t e = 0; e > ERR_LAST; e--) {
			sample_message(&m, errors[i].type, 0);
			memcpy((uint8_t *)&m.body + errors[i].offset, &e, sizeof e);
			assert_int_equal(check(&m), 0);
		}
		for (size_t b = 0; b < TESTED(bad); b++) {
			memcpy((uint8_t *)&m.body + errors[i].offset, &bad[b], sizeof bad[b]);
			assert_int_equal(check(&m), ERR_PROTOCOL);
		}
	}
}

static void dates_are_8_digits_or_nothing(void **state)
{
	static const char *const bad[] = { "2026010", "202601011", "2026-1-1", "today" };
	struct message m;

	(void)state;
	sample_message(&m, MSG_HSM_VERDICT, 0);
	sample_text(m.body.hsm_verdict.end_date, "20261231");
	assert_int_equal(check(&m), 0);
	for (size_t i = 0; i < TESTED(bad); i++) {
		memset(m.body.hsm_verdict.end_date, 0, sizeof m.body.hsm_verdict.end_date);
		memcpy(m.body.hsm_verdict.end_date, bad[i], strlen(bad[i]));
		assert_int_equal(check(&m), ERR_PROTOCOL);
	}
}

static void names_that_reach_file_names_are_good_names(void **state)
{
	static const char *const good[] = { "a", "0", "vol-1", "a_b-c", "abcdefghijklmnopqrstuvwxyz01234" };
	static const char *const bad[] = { "",    "-a",  "_a",   "A",     "a/b", "..",   "a.b",
					   "a b", "a\n", "\x80", "a\x80", "a%s", "a\\b", "abcdefghijklmnopqrstuvwxyz012345" };
	struct message m;

	(void)state;
	for (size_t i = 0; i < TESTED(good); i++)
		assert_true(message_name_good(good[i]));
	for (size_t i = 0; i < TESTED(bad); i++)
		assert_false(message_name_good(bad[i]));
	sample_message(&m, MSG_DP_ATTACH, 0);
	sample_text(m.body.dp_attach.name, "../x");
	assert_int_equal(check(&m), ERR_PROTOCOL);
	for (uint32_t t = MSG_UB_ADD; t <= MSG_UB_GONE; t++) { /* the name comes first in all of them */
		sample_message(&m, t, 0);
		sample_text(m.body.ub_add.name, "../x");
		assert_int_equal(check(&m), ERR_PROTOCOL);
	}
	sample_text(m.body.dp_attach.name, "");
	assert_int_equal(check(&m), ERR_PROTOCOL);
	sample_message(&m, MSG_MG_REQUEST, 0);
	assert_int_equal(check(&m), 0); /* empty: all volumes */
	sample_text(m.body.mg_request.volume, "../x");
	assert_int_equal(check(&m), ERR_PROTOCOL);
}

/* A body inside a body: its fields are judged there too. */
static void the_volume_of_a_job_is_judged_like_one_that_is_attached(void **state)
{
	struct message m;
	struct msg_dp_attach *v = &m.body.dp_job.volume;

	(void)state;
	sample_message(&m, MSG_DP_JOB, 0);
	sample_text(v->name, "../x");
	assert_int_equal(check(&m), ERR_PROTOCOL);
	sample_message(&m, MSG_DP_JOB, 0);
	memset(v->kernel, 'a', sizeof v->kernel);
	assert_int_equal(check(&m), ERR_PROTOCOL);
	sample_message(&m, MSG_DP_JOB, 0);
	*(uint8_t *)&v->read_only = 2;
	assert_int_equal(check(&m), ERR_PROTOCOL);
	sample_message(&m, MSG_DP_JOB, 0);
	*(uint8_t *)&v->assume_4k = 2;
	assert_int_equal(check(&m), ERR_PROTOCOL);
	sample_message(&m, MSG_DP_JOB, 0);
	*(uint8_t *)&v->server = 2;
	assert_int_equal(check(&m), ERR_PROTOCOL);
}

static void direction_size_and_descriptor_count_are_exact(void **state)
{
	struct message m;

	(void)state;
	for (uint32_t t = MSG_NONE + 1; t < MSG_TYPE_COUNT; t++) {
		const struct message_row *row = message_row(t);

		sample_message(&m, t, 0);
		for (int from = 0; from < ROLE_COUNT; from++) {
			for (int to = 0; to < ROLE_COUNT; to++) {
				bool allowed = (row->sender == ROLE_COUNT || row->sender == from) && row->receiver == to;

				assert_int_equal(message_check(&m, sample_bytes(&m), row->max_fds, (enum process_role)from,
							       (enum process_role)to),
						 allowed ? 0 : ERR_PROTOCOL);
			}
		}
		assert_int_equal(message_check(&m, sample_bytes(&m), row->max_fds + 1u, sample_sender(t),
					       (enum process_role)row->receiver),
				 ERR_PROTOCOL);
		if (row->min_fds > 0)
			assert_int_equal(
				message_check(&m, sample_bytes(&m), 0, sample_sender(t), (enum process_role)row->receiver),
				ERR_PROTOCOL);
		for (size_t n = 0; n <= sizeof m; n++)
			assert_int_equal(message_check(&m, n, row->max_fds, sample_sender(t), (enum process_role)row->receiver),
					 n == sample_bytes(&m) ? 0 : ERR_PROTOCOL);
		m.size++;
		assert_int_equal(check(&m), ERR_PROTOCOL);
	}
}

/* Lines of message.h that begin, after one tab, with this type, byte arrays aside: the fields of bodies. */
static size_t fields_in_header(const char *type)
{
	char line[256], start[32];
	FILE *f = fopen(MESSAGE_H, "r");
	size_t count = 0;

	assert_non_null(f);
	snprintf(start, sizeof start, "\t%s ", type);
	while (fgets(line, sizeof line, f) != NULL)
		count += strncmp(line, start, strlen(start)) == 0 && (type[0] == 'c' || strchr(line, '[') == NULL);
	fclose(f);
	return count;
}

static void no_field_of_the_header_is_forgotten(void **state)
{
	(void)state;
	assert_int_equal(fields_in_header("char"), TESTED(texts));
	assert_int_equal(fields_in_header("bool"), TESTED(bools) - 5);     /* a job's options travel in two messages */
	assert_int_equal(fields_in_header("uint8_t"), TESTED(enums) + 3);  /* struct message_row has three lines of them */
	assert_int_equal(fields_in_header("int32_t"), TESTED(errors) + 4); /* four pids */
	assert_int_equal(fields_in_header("uint16_t"), TESTED(sizes) + 2); /* bits of the key; a device's queues */
}

static void counts_of_other_rooms_enums_are_right(void **state)
{
	(void)state;
	assert_int_equal(MESSAGE_GATE_STATES, GATE_STATE_COUNT);
	assert_int_equal(MESSAGE_GATE_CAUSES, CAUSE_COUNT);
	assert_int_equal(MESSAGE_MEMORY_KINDS, SECRET_MEMORY_LOCKED_MEMFD + 1);
}

static void a_tickets_anchor_is_the_volumes(void **state)
{
	(void)state;
	assert_int_equal(TICKET_ANCHOR_IGNORE, ANCHOR_IGNORE);
	assert_int_equal(TICKET_ANCHOR_NONE, ANCHOR_NONE);
	assert_int_equal(TICKET_ANCHOR_BIND, ANCHOR_BIND);
	assert_int_equal(TICKET_ANCHOR_CHECK, ANCHOR_CHECK);
	assert_int_equal(TICKET_ANCHOR_ACCEPT, ANCHOR_ACCEPT);
	assert_int_equal(TICKET_ANCHOR_COUNT, ANCHOR_POLICY_COUNT);
}

static void every_verdict_and_role_has_its_own_name(void **state)
{
	(void)state;
	for (int v = 0; v < VERDICT_COUNT; v++)
		for (int w = 0; w < v; w++)
			assert_string_not_equal(verdict_name((enum hsm_verdict)v), verdict_name((enum hsm_verdict)w));
	assert_string_equal(verdict_name(VERDICT_NOT_YET_VALID), "not-yet-valid");
	assert_string_equal(verdict_name(VERDICT_COUNT), "unknown");
	for (int v = JOB_CHECK; v < JOB_VERB_COUNT; v++)
		for (int w = JOB_CHECK; w < v; w++)
			assert_string_not_equal(job_verb_name((enum job_verb)v), job_verb_name((enum job_verb)w));
	assert_string_equal(job_verb_name(JOB_VERB_COUNT), "unknown");
	assert_string_equal(role_name(USER_OFFICER), "officer");
	assert_string_equal(role_name((enum role)4), "unknown");
}

/* 2 million random mutations: whatever passes can be printed and indexed safely, checked by walking what was described. */
static void what_passes_is_safe_to_use(void **state)
{
	struct message m;
	unsigned passed = 0;

	(void)state;
	srand(1);
	for (unsigned n = 0; n < 2000000; n++) {
		uint32_t t = 1 + (uint32_t)rand() % (MSG_TYPE_COUNT - 1);

		sample_message(&m, t, 0);
		for (int k = 0; k <= rand() % 4; k++)
			((uint8_t *)&m)[(size_t)rand() % (sample_bytes(&m) > sizeof m ? sizeof m : sample_bytes(&m))] =
				(uint8_t)rand();
		if (message_check(&m, offsetof(struct message, body) + message_row(t)->size, message_row(t)->max_fds,
				  sample_sender(t), (enum process_role)message_row(t)->receiver) != 0)
			continue;
		passed++;
		assert_non_null(message_row(m.type));
		for (size_t i = 0; i < TESTED(texts); i++)
			if (texts[i].type == m.type)
				assert_true(strnlen((char *)&m.body + texts[i].offset, texts[i].size) < texts[i].size);
		for (size_t i = 0; i < TESTED(enums); i++)
			if (enums[i].type == m.type)
				assert_in_range(((uint8_t *)&m.body)[enums[i].offset], enums[i].low, enums[i].high);
	}
	assert_in_range(passed, 1000, 1999999);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_text_without_its_end_is_refused),
		cmocka_unit_test(samples_are_good_and_every_type_has_a_row),
		cmocka_unit_test(bools_are_0_or_1),
		cmocka_unit_test(enums_are_in_range),
		cmocka_unit_test(sizes_fit_their_arrays),
		cmocka_unit_test(errors_are_of_the_table),
		cmocka_unit_test(dates_are_8_digits_or_nothing),
		cmocka_unit_test(names_that_reach_file_names_are_good_names),
		cmocka_unit_test(the_volume_of_a_job_is_judged_like_one_that_is_attached),
		cmocka_unit_test(direction_size_and_descriptor_count_are_exact),
		cmocka_unit_test(no_field_of_the_header_is_forgotten),
		cmocka_unit_test(counts_of_other_rooms_enums_are_right),
		cmocka_unit_test(a_tickets_anchor_is_the_volumes),
		cmocka_unit_test(every_verdict_and_role_has_its_own_name),
		cmocka_unit_test(what_passes_is_safe_to_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
