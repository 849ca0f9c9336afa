/* Jobs on a volume that nobody serves, asked for at a real console, done by children that hang, lie, die and speak out of turn.
 * What is looked for each time: exactly one answer, no process left, two lines in the ledger, and a volume that can be attached
 * afterwards. */
#include "rig.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "supervisor/console.h"
#include "supervisor/job.h"
#include "supervisor/kek.h"

static struct channel client; /* fd -1: none */
static int lines_fd;          /* the reading end of the pipe */
static struct msg_con_job_done answer;

static void hang_up(void)
{
	channel_close(&client);
	if (lines_fd >= 0)
		close(lines_fd);
	lines_fd = -1;
}

static int setup(void **state)
{
	(void)state;
	rig_up("jobs");
	assert_int_equal(console_start(agent), 0);
	client.fd = lines_fd = -1;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hang_up();
	agent->stopping = true;
	console_stop(agent);
	return rig_down();
}

static bool answered(void)
{
	int fds[CHANNEL_FDS_MAX];
	struct message m;
	unsigned count;

	if (client.fd < 0 || channel_receive(&client, &m, fds, &count, NULL) != 1)
		return false;
	assert_int_equal(m.type, MSG_CON_JOB_DONE);
	assert_int_equal(m.nonce, 99);
	answer = m.body.con_job_done;
	return true;
}

static bool no_job(void)
{
	return volume->job == NULL;
}

static bool available(void)
{
	return volume->gate.state == GATE_AVAILABLE;
}

static bool locked(void)
{
	return volume->gate.state == GATE_LOCKED && !volume_busy(volume);
}

/* ---- the client ---- */

static void call(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	hang_up();
	snprintf(address.sun_path, sizeof address.sun_path, "%s/console.sock", dir);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	channel_init(&client, fd, ROLE_CONSOLE, ROLE_SUPERVISOR);
	run_for(20); /* taken */
}

static void request(struct message *m, enum job_verb verb)
{
	message_init(m, MSG_CON_JOB, 99);
	m->body.con_job.verb = (uint8_t)verb;
	strcpy(m->body.con_job.volume, "demo");
}

static void send_request(struct message *m, unsigned data_fds)
{
	int pair[2], fds[4];

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	if (lines_fd >= 0)
		close(lines_fd);
	lines_fd = pair[0];
	fds[0] = pair[1];
	for (unsigned i = 1; i <= data_fds; i++)
		fds[i] = pair[1];
	assert_int_equal(channel_send(&client, m, fds, 1 + data_fds), 0);
	close(pair[1]);
}

static void ask(enum job_verb verb)
{
	struct message m;

	call();
	request(&m, verb);
	send_request(&m, 0);
}

static void expect_answer(int error, const char *says)
{
	if (!until(answered, 8000))
		fail_msg("no answer; %s", volume->text);
	if (answer.error != error || strstr(answer.text, says) == NULL)
		fail_msg("the answer is %s: \"%s\", not %s: \"%s\"", error_name(answer.error), answer.text, error_name(error),
			 says);
	assert_null(volume->job); /* told when it is over */
	run_for(20);
	assert_false(answered());
}

/* How often a line with both stands in the ledger. */
static unsigned ledger_has(const char *event, const char *text)
{
	static char ledger[65536];
	char quoted[64];
	unsigned n = 0;

	get("state/ledger", ledger, sizeof ledger);
	snprintf(quoted, sizeof quoted, "\"event\":\"%s\"", event);
	for (char *line = strtok(ledger, "\n"); line != NULL; line = strtok(NULL, "\n"))
		n += strstr(line, quoted) != NULL && strstr(line, text) != NULL;
	return n;
}

/* The writer has a thread of its own, and the disk its own time. */
static void expect_ledger(unsigned n, const char *event, const char *text)
{
	for (int i = 0; i < 1000 && ledger_has(event, text) < n; i++)
		run_for(20);
	assert_int_equal(ledger_has(event, text), n);
}

/* Both halves of what every job must leave behind. */
static void expect_nothing_left(void)
{
	put("hsm.mode", "good");
	put("job.mode", "good");
	put("pin", "5678\n");
	if (volume->gate.latched)
		volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	if (!until(available, 8000))
		fail_msg("not attached afterwards: %s: %s", gate_state_name(volume->gate.state), volume->text);
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
	assert_true(until(locked, 3000));
}

static enum stage wanted_stage;
static bool wants_session;

/* The job stands where the test wants it. */
static bool at_stage(void)
{
	char text[TEXT_MAX_BYTES];

	return volume->job != NULL && job_stage(volume->job, wants_session) == wanted_stage && job_on(volume, text);
}

/* ---- what goes well ---- */

static void a_job_is_done_told_and_recorded(void **state)
{
	char text[4096];
	ssize_t n;

	(void)state;
	ask(JOB_CHECK);
	expect_answer(0, "");
	assert_int_equal(answer.counts.checked, 7);
	assert_int_equal(answer.counts.lost, 3);
	n = read(lines_fd, text, sizeof text); /* straight from the process, and its end: nobody else holds the pipe */
	assert_int_equal(n, strlen("n 2 descriptors, backing read-only\n"));
	assert_memory_equal(text, "n 2 descriptors, backing read-only\n", (size_t)n);
	assert_int_equal(read(lines_fd, text, sizeof text), 0);
	expect_ledger(1, "job-begun", "check");
	expect_ledger(1, "job-ended", "check: done");
	expect_ledger(1, "job-ended", "7 checked, 1 mended, 2 repairable, 3 lost; keys wiped");
	expect_ledger(1, "job-ended", "console:uid=");
	get("job.given", text, sizeof text);
	assert_non_null(strstr(text, "fd 0\nfd 1\nfd 2\nfd 3\n"));
	assert_null(strstr(text, "fd 4"));
	assert_null(strstr(text, "SECRET_OF_THE_PARENT"));
	expect_nothing_left();
}

/* A verb that does not write opens nothing for writing. */
static void the_store_is_opened_as_the_verb_needs_it(void **state)
{
	static const struct {
		enum job_verb verb;
		bool accept_loss, repair, writable;
	} rows[] = {
		{ JOB_CHECK, true, true, false },      { JOB_DUMP, true, true, false },
		{ JOB_SALVAGE, true, true, false },    { JOB_SCRUB, true, false, false },
		{ JOB_SCRUB, false, true, true },      { JOB_REPAIR_LOG, false, true, false },
		{ JOB_REPAIR_LOG, true, false, true }, { JOB_HEADER_RESTORE, true, false, true },
	};
	struct message m;
	char text[64];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		call();
		request(&m, rows[i].verb);
		m.body.con_job.options.accept_loss = rows[i].accept_loss;
		m.body.con_job.options.repair = rows[i].repair;
		m.body.con_job.options.output = m.body.con_job.options.map = true;
		send_request(&m, 2);
		expect_answer(0, "");
		memset(text, 0, sizeof text);
		assert_true(read(lines_fd, text, sizeof text - 1) > 0);
		assert_string_equal(text, rows[i].writable ? "n 4 descriptors, backing writable\n"
							   : "n 4 descriptors, backing read-only\n");
	}
}

/* How many descriptors of this process, which is the supervisor too, are of the job's pipe. */
static unsigned ends_of_the_pipe(void)
{
	struct stat pipe, st;
	unsigned n = 0;

	assert_int_equal(fstat(lines_fd, &pipe), 0);
	for (int fd = 0; fd < 1024; fd++)
		n += fstat(fd, &st) == 0 && st.st_dev == pipe.st_dev && st.st_ino == pipe.st_ino;
	return n;
}

static void what_the_client_lends_the_supervisor_does_not_keep(void **state)
{
	(void)state;
	put("job.mode", "works");
	wanted_stage = STAGE_SERVING;
	wants_session = false;
	ask(JOB_SCRUB);
	assert_true(until(at_stage, 5000));
	for (int i = 0; i < 50 && ends_of_the_pipe() > 1; i++)
		run_for(20);                     /* it is closed by a thread that may wait */
	assert_int_equal(ends_of_the_pipe(), 1); /* the client's reading end */
}

static void the_volume_is_nobody_elses_meanwhile(void **state)
{
	struct message m;
	char text[TEXT_MAX_BYTES];
	struct channel first;

	(void)state;
	put("job.mode", "works");
	wanted_stage = STAGE_SERVING;
	wants_session = false;
	ask(JOB_SCRUB);
	assert_true(until(at_stage, 5000));
	assert_int_equal(volume_attachable(volume, text), ERR_BUSY);
	assert_non_null(strstr(text, "a job under way (scrub"));
	assert_true(volume_busy(volume));
	/* a second one */
	first = client;
	client.fd = -1;
	call();
	request(&m, JOB_CHECK);
	send_request(&m, 0);
	assert_true(until(answered, 2000));
	assert_int_equal(answer.error, ERR_BUSY);
	assert_non_null(volume->job);
	hang_up();
	client = first;
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "operator", NULL);
	expect_answer(ERR_STATE, "detach");
	expect_nothing_left();
}

static void so_many_jobs_and_no_more_and_the_console_is_still_there(void **state)
{
	struct channel clients[JOBS_MAX];
	int pipes[JOBS_MAX];
	struct message m;
	char name[NAME_MAX_BYTES];

	(void)state;
	put("job.mode", "works");
	for (unsigned i = 0; i < JOBS_MAX; i++) {
		snprintf(name, sizeof name, "v%u", i);
		rig_add_volume(name);
		call();
		request(&m, JOB_SCRUB);
		strcpy(m.body.con_job.volume, name);
		send_request(&m, 0);
		clients[i] = client;
		pipes[i] = lines_fd;
		client.fd = lines_fd = -1;
	}
	run_for(300);
	for (unsigned i = 0; i < JOBS_MAX; i++)
		assert_non_null(agent->volumes[1 + i]->job);
	ask(JOB_SCRUB); /* of one more */
	assert_true(until(answered, 2000));
	assert_int_equal(answer.error, ERR_BUSY);
	assert_non_null(strstr(answer.text, "8 jobs"));
	message_init(&m, MSG_CON_REQUEST, 99);
	m.body.con_request.verb = CON_REVOKE;
	assert_int_equal(channel_send(&client, &m, NULL, 0), 0);
	run_for(1500);
	for (unsigned i = 0; i < JOBS_MAX; i++) {
		assert_null(agent->volumes[1 + i]->job);
		assert_true(agent->volumes[1 + i]->gate.latched);
		channel_close(&clients[i]);
		close(pipes[i]);
	}
}

/* ---- what is refused ---- */

static void expect_refusal(int error, const char *says)
{
	expect_answer(error, says);
	for (int i = 0; i < 1000 && ledger_has("job-refused", says) == 0; i++)
		run_for(20);
	assert_true(ledger_has("job-refused", says) >= 1);
	expect_ledger(0, "job-begun", "");
}

static void what_is_not_locked_and_free_is_refused(void **state)
{
	struct message m;

	(void)state;
	call();
	request(&m, JOB_CHECK);
	strcpy(m.body.con_job.volume, "other");
	send_request(&m, 0);
	expect_refusal(ERR_NOT_FOUND, "other");
	request(&m, JOB_SALVAGE); /* the same connection: a refusal costs nothing */
	m.body.con_job.options.output = true;
	send_request(&m, 0);
	expect_refusal(ERR_PROTOCOL, "descriptors");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	assert_true(until(available, 5000));
	ask(JOB_CHECK);
	expect_refusal(ERR_BUSY, "detach it first");
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", NULL);
	run_for(300);
	ask(JOB_CHECK);
	expect_refusal(ERR_REVOKED, "latched (commanded)");
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
	assert_true(until(locked, 3000));
	ask(JOB_CHECK); /* detached, and latched still */
	expect_refusal(ERR_REVOKED, "latched (commanded)");
	volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	ask(JOB_CHECK);
	expect_answer(0, "");
}

static void another_kek_than_the_volumes_is_refused(void **state)
{
	(void)state;
	volume->record.fingerprint[0] ^= 1;
	ask(JOB_CHECK);
	expect_refusal(ERR_REFUSED, "another KEK");
}

static void who_talks_while_its_job_runs_is_hung_up_on(void **state)
{
	struct message m;

	(void)state;
	put("job.mode", "works");
	wanted_stage = STAGE_SERVING;
	wants_session = false;
	ask(JOB_SCRUB);
	assert_true(until(at_stage, 5000));
	request(&m, JOB_CHECK);
	send_request(&m, 0);
	assert_true(until(no_job, 2000));
	assert_false(answered());
	expect_nothing_left();
}

/* ---- stages ---- */

static const struct stage_case {
	const char *hsm, *job;
	enum stage stage;
	bool session;
} stages[] = {
	{ "good", "hang-start", STAGE_NEW, false },     { "good", "hang-prepare", STAGE_ATTACHING, false },
	{ "hang-open", "works", STAGE_OPENING, true },  { "hang", "works", STAGE_PROBING, true },
	{ "hang-ticket", "works", STAGE_TICKET, true }, { "good", "works", STAGE_SERVING, false },
	{ "good", "works", STAGE_COUNT, false }, /* at once: its backing store is not open yet */
};
enum { STAGES = sizeof stages / sizeof stages[0] };

static void stand_at(const struct stage_case *s)
{
	put("hsm.mode", s->hsm);
	put("job.mode", s->job);
	wanted_stage = s->stage;
	wants_session = s->session;
	ask(JOB_SCRUB);
	if (s->stage != STAGE_COUNT && !until(at_stage, 5000))
		fail_msg("%s/%s: stage %s not reached", s->hsm, s->job, stage_name(s->stage));
	if (s->stage == STAGE_COUNT)
		while (volume->job == NULL)
			run_for(1);
}

static void a_revoke_at_any_stage_ends_it(void **state)
{
	uint64_t began;
	pid_t hsm, process;

	(void)state;
	for (unsigned i = 0; i < STAGES; i++) {
		stand_at(&stages[i]);
		job_pids(volume->job, &hsm, &process);
		began = boot_now();
		volume_feed(volume, EV_REVOKE, CAUSE_NONE, "officer", NULL);
		if (stages[i].stage == STAGE_TICKET)
			assert_int_equal(kill(hsm, 0), -1); /* reaped before anything else was done */
		expect_answer(ERR_REVOKED, "revoked");
		assert_true(boot_now() - began < 1500 * MS_NS);
		if (process > 0)
			assert_int_equal(kill(process, 0), -1);
		if (hsm > 0)
			assert_int_equal(kill(hsm, 0), -1);
		assert_true(volume->gate.latched);
		expect_ledger(i + 1, "job-ended", "scrub: revoked");
		expect_ledger(i + 1, "job-ended", "detected_ns");
		expect_nothing_left();
	}
	expect_ledger(2, "job-ended", "keys wiped"); /* from the ticket on */
	expect_ledger(STAGES - 2, "job-ended", "no key was loaded");
}

static void a_client_that_goes_at_any_stage_takes_its_job_with_it(void **state)
{
	(void)state;
	for (unsigned i = 0; i < STAGES; i++) {
		stand_at(&stages[i]);
		hang_up();
		if (!until(no_job, 2000))
			fail_msg("%s/%s: the job goes on", stages[i].hsm, stages[i].job);
		expect_ledger(i + 1, "job-ended", "went away");
		expect_nothing_left();
	}
}

static void a_client_that_only_stops_talking_gets_its_answer(void **state)
{
	(void)state;
	for (unsigned i = 0; i < STAGES; i++) {
		stand_at(&stages[i]);
		assert_int_equal(shutdown(client.fd, SHUT_WR), 0);
		expect_answer(ERR_STATE, "called it off");
		expect_nothing_left();
	}
}

static void every_event_that_locks_a_volume_ends_its_job(void **state)
{
	static const struct {
		enum gate_event event;
		int error;
	} rows[] = {
		{ EV_REVOKE, ERR_REVOKED },          { EV_TAMPER, ERR_REVOKED }, { EV_INTEGRITY_ALARM, ERR_REVOKED },
		{ EV_CLOCK_UNTRUSTED, ERR_REVOKED }, { EV_DETACH, ERR_STATE },
	};
	const struct stage_case running = { "good", "works", STAGE_SERVING, false };

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		stand_at(&running);
		volume_feed(volume, rows[i].event, CAUSE_NONE, "test", NULL);
		expect_answer(rows[i].error, "");
		expect_nothing_left();
	}
}

static void the_agent_may_end_at_any_stage(void **state)
{
	(void)state;
	for (unsigned i = 0; i < STAGES; i++) {
		stand_at(&stages[i]);
		job_destroy(volume);
		assert_null(volume->job);
		run_for(50);
		expect_nothing_left();
	}
}

/* ---- children that misbehave ---- */

static void a_process_that_never_confirms_is_killed(void **state)
{
	const struct stage_case deaf = { "good", "deaf", STAGE_SERVING, false };
	uint64_t began;

	(void)state;
	stand_at(&deaf);
	began = boot_now();
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", NULL);
	expect_answer(ERR_REVOKED, "revoked");
	assert_true(boot_now() - began >= 60 * MS_NS);
	assert_true(boot_now() - began < 1000 * MS_NS);
	expect_ledger(1, "job-ended", "keys gone with their process, which was killed");
	expect_nothing_left();
}

static void who_breaks_the_protocol_is_killed(void **state)
{
	static const char *const modes[] = { "done-first", "ready-twice", "wiped-unasked", "done-twice" };

	(void)state;
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		put("job.mode", modes[i]);
		ask(JOB_CHECK);
		if (strcmp(modes[i], "done-twice") == 0) /* it was done all the same, and its process is gone */
			expect_answer(0, "");
		else /* without an answer, or, where it had not been reaped yet, without being asked for the key */
			expect_answer(ERR_IO, "");
		expect_nothing_left();
	}
}

static void a_stale_wiped_is_not_believed(void **state)
{
	const struct stage_case stale = { "good", "stale", STAGE_SERVING, false };

	(void)state;
	stand_at(&stale);
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", NULL);
	expect_answer(ERR_REVOKED, "revoked");
	expect_ledger(1, "job-ended", "keys gone with their process");
}

static void a_process_that_dies_is_told(void **state)
{
	static const char *const modes[] = { "die-preparing", "die" };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		put("job.mode", modes[i]);
		ask(JOB_CHECK);
		expect_answer(ERR_IO, i == 0 ? "exit code 13" : "exit code 14");
		expect_nothing_left();
	}
}

static void one_that_does_not_exit_is_helped(void **state)
{
	(void)state;
	put("job.mode", "no-exit");
	ask(JOB_CHECK);
	expect_answer(0, "");
	expect_nothing_left();
}

static void one_that_locks_itself_is_believed(void **state)
{
	(void)state;
	put("job.mode", "self-lock");
	ask(JOB_CHECK);
	expect_answer(ERR_REVOKED, "a deadline passed");
	expect_nothing_left();
}

static void what_the_store_is_not_is_told_in_clean_text(void **state)
{
	(void)state;
	put("job.mode", "not-ready");
	ask(JOB_CHECK);
	expect_answer(ERR_FOREIGN, "another ?volume");
	expect_nothing_left();
}

static void a_store_that_is_not_there_is_told(void **state)
{
	char path[200];

	(void)state;
	path_of(path, "demo.img");
	unlink(path);
	ask(JOB_CHECK);
	expect_answer(ERR_NOT_FOUND, "demo.img");
	put("demo.img", "x");
	expect_nothing_left();
}

/* ---- the hsm ---- */

static void an_hsm_that_says_no_ends_it(void **state)
{
	static const struct {
		const char *mode, *says;
		int error;
	} rows[] = {
		{ "disabled", "disabled", ERR_REFUSED },
		{ "deleted", "deleted", ERR_REFUSED },
		{ "expired", "end date", ERR_REFUSED },
		{ "lie", "not the enrolled one", ERR_REFUSED },
		{ "dek-refused", "dek-refused", ERR_REFUSED },
		{ "crash", "ended without", ERR_UNREACHABLE },
		{ "hang-open", "did not answer", ERR_UNREACHABLE },
		{ "unreachable", "unreachable", ERR_UNREACHABLE },
		{ "other-version", "ended without", ERR_UNREACHABLE },
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		ask(JOB_CHECK); /* the PIN is known to be good */
		expect_answer(0, "");
		put("hsm.mode", rows[i].mode);
		put("job.mode", "works");
		ask(JOB_CHECK);
		expect_answer(rows[i].error, rows[i].says);
		expect_nothing_left();
	}
}

static void a_pin_that_was_refused_is_tried_once(void **state)
{
	char text[64];

	(void)state;
	put("hsm.mode", "refuse-pin");
	ask(JOB_CHECK);
	expect_answer(ERR_REFUSED, "");
	put("hsm.mode", "good");
	ask(JOB_CHECK);
	expect_answer(ERR_REFUSED, "");
	get("logins", text, sizeof text);
	assert_string_equal(text, "x");
	put("pin", "5678\n");
	ask(JOB_CHECK);
	expect_answer(0, "");
}

/* A running job hangs on its KEK as a volume that serves does. */
static void a_refusal_by_a_probe_ends_a_running_job(void **state)
{
	const struct stage_case running = { "good", "works", STAGE_SERVING, false };

	(void)state;
	stand_at(&running);
	run_for(400);
	assert_non_null(volume->job);
	put("hsm.mode", "disabled");
	expect_answer(ERR_REFUSED, "disabled");
	expect_ledger(1, "job-ended", "keys wiped");
	expect_nothing_left();
}

static void an_outage_spends_the_budget_and_one_that_ends_does_not(void **state)
{
	const struct stage_case running = { "good", "works", STAGE_SERVING, false };
	uint64_t last_good;

	(void)state;
	agent->config.keks[0].outage_budget_ns = 2000 * MS_NS;
	stand_at(&running);
	run_for(400);
	put("hsm.mode", "crash");
	run_for(300);
	put("hsm.mode", "good");
	run_for(2500);
	assert_non_null(volume->job);
	put("hsm.mode", "crash");
	last_good = kek_last_good(agent->keks[0]);
	expect_answer(ERR_UNREACHABLE, "outage budget");
	assert_true(boot_now() - last_good >= 2000 * MS_NS);
	expect_nothing_left();
}

static void a_budget_of_zero_ends_it_at_the_first_doubt(void **state)
{
	const struct stage_case running = { "good", "works", STAGE_SERVING, false };

	(void)state;
	agent->config.keks[0].outage_budget_ns = 0;
	stand_at(&running);
	put("hsm.mode", "unreachable");
	expect_answer(ERR_UNREACHABLE, "outage budget");
}

#define JOB(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		JOB(a_revoke_at_any_stage_ends_it),
		JOB(a_process_that_never_confirms_is_killed),
		JOB(a_job_is_done_told_and_recorded),
		JOB(the_store_is_opened_as_the_verb_needs_it),
		JOB(what_the_client_lends_the_supervisor_does_not_keep),
		JOB(the_volume_is_nobody_elses_meanwhile),
		JOB(so_many_jobs_and_no_more_and_the_console_is_still_there),
		JOB(what_is_not_locked_and_free_is_refused),
		JOB(another_kek_than_the_volumes_is_refused),
		JOB(who_talks_while_its_job_runs_is_hung_up_on),
		JOB(a_client_that_goes_at_any_stage_takes_its_job_with_it),
		JOB(a_client_that_only_stops_talking_gets_its_answer),
		JOB(every_event_that_locks_a_volume_ends_its_job),
		JOB(the_agent_may_end_at_any_stage),
		JOB(who_breaks_the_protocol_is_killed),
		JOB(a_stale_wiped_is_not_believed),
		JOB(a_process_that_dies_is_told),
		JOB(one_that_does_not_exit_is_helped),
		JOB(one_that_locks_itself_is_believed),
		JOB(what_the_store_is_not_is_told_in_clean_text),
		JOB(a_store_that_is_not_there_is_told),
		JOB(an_hsm_that_says_no_ends_it),
		JOB(a_pin_that_was_refused_is_tried_once),
		JOB(a_refusal_by_a_probe_ends_a_running_job),
		JOB(an_outage_spends_the_budget_and_one_that_ends_does_not),
		JOB(a_budget_of_zero_ends_it_at_the_first_doubt),
	};

	if (!rig_begin("test_jobs", argc, argv))
		return 2;
	setenv("SECRET_OF_THE_PARENT", "1", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
