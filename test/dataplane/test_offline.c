/* The one-shot that does jobs: what it takes, what it refuses, and that keys never outlive an order, a deadline or a listener. A
 * pipe that is full before the job begins holds a job where the test wants it: findings wait. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "dataplane/control.h"
#include "hal/block.h"
#include "stage.h"
#include "volume/offline.h"

enum { HEADER_BYTES = 16384, FAR_MS = 60000, EXIT_BROKEN_PROTOCOL = 70 };

static struct stage stage;
static int lines[2]; /* the pipe; -1: closed */
static char file[160];

static int set_stage(void **state)
{
	(void)state;
	stage_make(&stage);
	stage_create(&stage);
	lines[0] = lines[1] = -1;
	snprintf(file, sizeof file, "%s/file", stage.dir);
	return 0;
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int clear_stage(void **state)
{
	(void)state;
	close_end(&lines[0]);
	close_end(&lines[1]);
	unlink(file);
	stage_end(&stage);
	return 0;
}

/* ---- an order ---- */

static void make_pipe(void)
{
	close_end(&lines[0]);
	close_end(&lines[1]);
	assert_int_equal(pipe2(lines, O_CLOEXEC), 0);
}

static void fill_pipe(void)
{
	static const char full[4096];
	int flags = fcntl(lines[1], F_GETFL);

	assert_int_equal(fcntl(lines[1], F_SETFL, flags | O_NONBLOCK), 0);
	while (write(lines[1], full, sizeof full) > 0)
		;
}

static int open_file(int flags)
{
	int fd = open(file, flags | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static void order(struct message *m, enum job_verb verb)
{
	message_init(m, MSG_DP_JOB, 61);
	m->body.dp_job.volume = stage_pins(&stage);
	m->body.dp_job.verb = (uint8_t)verb;
}

/* With the pipe, and the descriptor that the order's options name, if any. */
static void send_order(struct message *m, int data_fd)
{
	int fds[3] = { stage_open_backing(&stage), lines[1], data_fd };

	stage_send(&stage, m, fds, data_fd >= 0 ? 3 : 2);
	close(fds[0]);
	close_end(&lines[1]);
}

static void expect_ready(int error, const char *says)
{
	struct message m;

	stage_next(&stage, MSG_DP_READY, &m, PATIENCE_MS);
	assert_int_equal(m.nonce, 61);
	if (m.body.dp_ready.error != error || strstr(m.body.dp_ready.text, says) == NULL)
		fail_msg("ready says %s: \"%s\", not %s: \"%s\"", error_name(m.body.dp_ready.error), m.body.dp_ready.text,
			 error_name(error), says);
	assert_int_equal(m.body.dp_ready.ok, error == 0);
	if (error != 0)
		assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), error_exit_code(error));
}

/* Up to the ticket. */
static void begin(enum job_verb verb)
{
	struct message m;

	make_pipe();
	stage_start_job(&stage);
	order(&m, verb);
	send_order(&m, -1);
	stage_deadlines(&stage, FAR_MS, FAR_MS);
	expect_ready(0, "");
}

static void expect_end(bool self, uint8_t cause, int error, const char *says)
{
	struct message m;

	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_wiped.generation, stage.generation);
	assert_int_equal(m.body.dp_wiped.self, self);
	assert_int_equal(m.body.dp_wiped.cause, cause);
	assert_true(m.body.dp_wiped.wiped_ns >= m.body.dp_wiped.cut_ns && m.body.dp_wiped.cut_ns > 0);
	stage_next(&stage, MSG_DP_JOB_DONE, &m, PATIENCE_MS);
	if (m.body.dp_job_done.error != error || strstr(m.body.dp_job_done.text, says) == NULL)
		fail_msg("it ended with %s: \"%s\", not %s: \"%s\"", error_name(m.body.dp_job_done.error),
			 m.body.dp_job_done.text, error_name(error), says);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), error_exit_code(error));
}

/* Keys in, and stuck at its first line. */
static void run_stuck(void)
{
	struct message m;

	make_pipe();
	fill_pipe();
	stage_start_job(&stage);
	order(&m, JOB_CHECK);
	send_order(&m, -1);
	stage_deadlines(&stage, FAR_MS, FAR_MS);
	expect_ready(0, "");
	stage_give_ticket(&stage);
	stage_hsm_unwraps(&stage);
	assert_false(stage_next_is(&stage, MSG_DP_WIPED, &m, 300));
}

static size_t read_lines(char *out, size_t size)
{
	size_t n = 0;
	ssize_t got;

	while ((got = read(lines[0], out + n, size - 1 - n)) > 0)
		n += (size_t)got;
	out[n] = '\0';
	return n;
}

/* ---- a job ---- */

static void a_check_runs_and_its_lines_are_lines(void **state)
{
	char text[65536], *line;
	unsigned findings = 0, steps = 0;
	uint64_t done, total, last = 0;

	(void)state;
	begin(JOB_CHECK);
	stage_give_ticket(&stage);
	stage_hsm_unwraps(&stage);
	expect_end(false, 0, 0, "");
	assert_true(read_lines(text, sizeof text) > 0);
	assert_int_equal(text[strlen(text) - 1], '\n');
	for (line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		assert_int_equal(line[1], ' ');
		if (line[0] == 'p') {
			assert_int_equal(sscanf(line, "p %lu %lu", &done, &total), 2);
			assert_true(done >= last && done <= total);
			last = done;
			steps++;
		} else {
			assert_non_null(strchr("nmrl", line[0]));
			assert_true(strlen(line) <= 202);
			findings++;
		}
	}
	assert_true(findings > 0);
	assert_true(steps > 0);
}

static void destroy_headers(void)
{
	uint8_t *noise = malloc(HEADER_BYTES);
	struct stat st;
	int fd = stage_open_backing(&stage);

	memset(noise, 0xa5, HEADER_BYTES);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(pwrite(fd, noise, HEADER_BYTES, 0), HEADER_BYTES);
	assert_int_equal(pwrite(fd, noise, HEADER_BYTES, st.st_size - HEADER_BYTES), HEADER_BYTES);
	close(fd);
	free(noise);
}

static void hear_nothing(void *context, enum offline_severity severity, const char *text)
{
	(void)context;
	(void)severity;
	(void)text;
}

static void back_up_header(void)
{
	struct offline_options options = { .output_fd = open_file(O_RDWR | O_CREAT | O_TRUNC), .input_fd = -1, .map_fd = -1 };
	const struct offline_sink sink = { .say = hear_nothing };
	struct offline_result result;
	struct block *dev;
	char why[256];

	assert_int_equal(block_open_fd(&dev, stage_open_backing(&stage)), 0);
	assert_int_equal(volume_offline(OFFLINE_HEADER_BACKUP, dev, NULL, &options, &sink, &result, why, sizeof why), 0);
	dev->ops->close(dev);
	close(options.output_fd);
}

static void the_header_comes_back_from_a_backup_though_none_is_left(void **state)
{
	struct volume_header_info *info = calloc(1, sizeof *info);
	struct block *dev;
	struct message m;
	char why[160];
	int fd;

	(void)state;
	back_up_header();
	destroy_headers();
	make_pipe();
	stage_start_job(&stage);
	order(&m, JOB_CHECK);
	send_order(&m, -1);
	expect_ready(ERR_CORRUPT, "header-restore");
	make_pipe();
	stage_start_job(&stage);
	order(&m, JOB_HEADER_RESTORE);
	m.body.dp_job.options.input = m.body.dp_job.options.accept_loss = true;
	fd = open_file(O_RDONLY);
	send_order(&m, fd);
	close(fd);
	stage_deadlines(&stage, FAR_MS, FAR_MS);
	expect_ready(0, "");
	stage_give_ticket(&stage);
	stage_hsm_unwraps(&stage);
	expect_end(false, 0, 0, "");
	assert_int_equal(block_open_fd(&dev, stage_open_backing(&stage)), 0);
	assert_int_equal(volume_read_header(dev, info, why, sizeof why), 0);
	assert_memory_equal(info->uuid, stage.uuid, 16);
	dev->ops->close(dev);
	free(info);
}

static void what_is_no_backup_of_this_volume_is_refused(void **state)
{
	static const off_t sizes[] = { 0, 1, 4096, 1 << 20, (1 << 20) + 1 };
	struct message m;
	int fd;

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		fd = open_file(O_RDWR | O_CREAT | O_TRUNC);
		assert_int_equal(ftruncate(fd, sizes[i]), 0);
		make_pipe();
		stage_start_job(&stage);
		order(&m, JOB_HEADER_RESTORE);
		m.body.dp_job.options.input = true;
		send_order(&m, fd);
		close(fd);
		expect_ready(ERR_FOREIGN, "backup");
	}
	back_up_header();
	fd = open_file(O_RDWR);
	make_pipe();
	stage_start_job(&stage);
	order(&m, JOB_HEADER_RESTORE);
	m.body.dp_job.options.input = true;
	m.body.dp_job.volume.uuid[3] ^= 1;
	send_order(&m, fd);
	expect_ready(ERR_FOREIGN, "uuid");
	assert_int_equal(pwrite(fd, "x", 1, 5000), 1);
	make_pipe();
	stage_start_job(&stage);
	order(&m, JOB_HEADER_RESTORE);
	m.body.dp_job.options.input = true;
	send_order(&m, fd);
	expect_ready(ERR_CORRUPT, "SHA-256");
	close(fd);
}

/* ---- the end of keys ---- */

static void an_order_wipes_at_once_whatever_the_worker_does(void **state)
{
	uint64_t began;
	struct message m;

	(void)state;
	run_stuck();
	began = boottime_ns();
	stage_lock(&stage, 12);
	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	assert_true(m.body.dp_wiped.wiped_ns - began < 500000000u); /* as in test_lock.c: a shared test machine */
	assert_int_equal(m.body.dp_wiped.cause, 12);
	stage_next(&stage, MSG_DP_JOB_DONE, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_job_done.error, ERR_REVOKED);
	assert_int_equal(m.body.dp_job_done.counts.repairable, 0); /* what did not open any more is no damage */
	assert_int_equal(m.body.dp_job_done.counts.lost, 0);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), error_exit_code(ERR_REVOKED));
}

static void the_end_of_the_supervisor_is_the_end(void **state)
{
	(void)state;
	run_stuck();
	channel_close(&stage.supervisor);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

static void deadlines_are_kept(void **state)
{
	(void)state;
	run_stuck();
	stage_deadlines(&stage, 200, FAR_MS);
	/* any message is worth 2 s, the deadline counts from the last one */
	expect_end(true, LOCK_CAUSE_SUPERVISOR_LOST, ERR_REVOKED, "silent");
	run_stuck();
	stage_deadlines(&stage, FAR_MS, 200);
	expect_end(true, LOCK_CAUSE_UNREACHABLE, ERR_REVOKED, "proof is too old");
}

static void without_a_deadline_no_key_is_taken(void **state)
{
	struct message m;

	(void)state;
	make_pipe();
	stage_start_job(&stage);
	order(&m, JOB_CHECK);
	send_order(&m, -1);
	expect_ready(0, "");
	stage_give_ticket(&stage);
	expect_end(false, 0, ERR_TIMEOUT, "no deadline");
}

static void a_client_that_does_not_listen_any_more_ends_it(void **state)
{
	(void)state;
	run_stuck();
	close_end(&lines[0]);
	expect_end(false, 0, ERR_STATE, "does not take");
}

static void a_finding_waits_for_a_slow_client(void **state)
{
	char text[70000 * 2];

	(void)state;
	run_stuck();
	read_lines(text, sizeof text); /* to its end */
	expect_end(false, 0, 0, "");
}

/* ---- the hsm ---- */

static void no_key_from_the_hsm_no_job(void **state)
{
	struct msg_page_done done = { .verdict = VERDICT_DEK_REFUSED };
	struct message m;
	int fd;

	(void)state;
	begin(JOB_CHECK);
	stage_give_ticket(&stage);
	channel_close(&stage.hsm); /* it died */
	expect_end(false, 0, ERR_UNREACHABLE, "hsm process");
	begin(JOB_CHECK);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &m, &fd);
	done.ticket = stage.ticket;
	stage_hsm_answers(&stage, &m, fd, done);
	expect_end(false, 0, ERR_REFUSED, "dek-refused");
	begin(JOB_CHECK);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &m, &fd);
	done.ticket = stage.ticket + 1;
	done.verdict = VERDICT_GOOD;
	stage_hsm_answers(&stage, &m, fd, done); /* another ticket's */
	expect_end(false, 0, ERR_PROTOCOL, "");
	stage.kcv[0] ^= 1; /* the key comes, and is not the pinned one */
	begin(JOB_CHECK);
	stage_give_ticket(&stage);
	stage_hsm_unwraps(&stage);
	expect_end(false, 0, ERR_FOREIGN, "not this volume's");
}

/* ---- what is refused ---- */

static void what_the_pins_do_not_say_is_refused(void **state)
{
	struct message m;

	(void)state;
	for (int i = 0; i < 4; i++) {
		make_pipe();
		stage_start_job(&stage);
		order(&m, JOB_CHECK);
		if (i == 0)
			m.body.dp_job.volume.uuid[0] ^= 1;
		else if (i == 1)
			m.body.dp_job.volume.size += 4096;
		else if (i == 2)
			m.body.dp_job.volume.fingerprint[0] ^= 1;
		else
			m.body.dp_job.volume.gen_no = 2;
		send_order(&m, -1);
		expect_ready(ERR_FOREIGN, i == 0 ? "uuid" : i == 1 ? "bytes" : "slot");
	}
}

static void a_store_that_somebody_serves_is_refused(void **state)
{
	struct block *dev;
	struct message m;

	(void)state;
	assert_int_equal(block_open_fd(&dev, stage_open_backing(&stage)), 0);
	make_pipe();
	stage_start_job(&stage);
	order(&m, JOB_CHECK);
	send_order(&m, -1);
	expect_ready(ERR_BUSY, "backing");
	dev->ops->close(dev);
}

static void a_pipe_must_be_the_writing_end_of_one(void **state)
{
	struct message m;
	int pair[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		stage_start_job(&stage);
		order(&m, JOB_CHECK);
		assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
		lines[1] = i == 0 ? dup(pair[0]) : open_file(O_WRONLY | O_CREAT);
		send_order(&m, -1);
		expect_ready(ERR_USAGE, "pipe");
		close(pair[0]);
		close(pair[1]);
	}
}

static void try_output(enum job_verb verb, int fd, int error, const char *says)
{
	struct message m;

	make_pipe();
	stage_start_job(&stage);
	order(&m, verb);
	m.body.dp_job.options.output = fd >= 0;
	send_order(&m, fd);
	if (fd >= 0)
		close(fd);
	expect_ready(error, says);
}

static void an_output_must_be_a_file_of_its_own(void **state)
{
	int pair[2];

	(void)state;
	try_output(JOB_SALVAGE, -1, ERR_USAGE, "needs its output");
	try_output(JOB_CHECK, open_file(O_RDWR | O_CREAT), ERR_USAGE, "takes no output");
	try_output(JOB_SALVAGE, stage_open_backing(&stage), ERR_USAGE, "own backing store");
	try_output(JOB_SALVAGE, open_file(O_RDONLY | O_CREAT), ERR_USAGE, "not open for writing");
	try_output(JOB_SALVAGE, open_file(O_RDWR | O_CREAT | O_APPEND), ERR_USAGE, "not open for writing");
	try_output(JOB_SALVAGE, open("/dev/null", O_RDWR | O_CLOEXEC), ERR_UNSUPPORTED, "regular file");
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	try_output(JOB_SALVAGE, pair[1], ERR_UNSUPPORTED, "regular file");
	close(pair[0]);
}

static void more_descriptors_than_named_end_the_process(void **state)
{
	struct message m;
	int fd = open_file(O_RDWR | O_CREAT);

	(void)state;
	make_pipe();
	stage_start_job(&stage);
	order(&m, JOB_SALVAGE);
	send_order(&m, fd);
	close(fd);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), EXIT_BROKEN_PROTOCOL);
}

/* ---- order of messages ---- */

static void messages_out_of_order_end_the_process(void **state)
{
	struct message m;

	(void)state;
	stage_start_job(&stage); /* a ticket before its order */
	stage_give_ticket(&stage);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), EXIT_BROKEN_PROTOCOL);
	begin(JOB_CHECK); /* a second order */
	make_pipe();
	order(&m, JOB_CHECK);
	send_order(&m, -1);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), EXIT_BROKEN_PROTOCOL);
	run_stuck(); /* a second ticket */
	stage_give_ticket(&stage);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), EXIT_BROKEN_PROTOCOL);
	begin(JOB_CHECK); /* an order of another kind of dataplane */
	message_init(&m, MSG_DP_DETACH, 0);
	stage_send(&stage, &m, NULL, 0);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), EXIT_BROKEN_PROTOCOL);
	run_stuck(); /* what is no message at all */
	assert_int_equal(write(stage.supervisor.fd, "junk", 4), 4);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), EXIT_BROKEN_PROTOCOL);
}

/* ipc knows no room above it: the names of a job's verbs are written down twice. */
static void the_verbs_of_jobs_are_the_engines(void **state)
{
	unsigned keyed = 0;

	(void)state;
	for (int v = 0; v < OFFLINE_VERBS; v++) {
		bool job = false;

		for (int j = JOB_CHECK; j < JOB_VERB_COUNT; j++)
			job = job || strcmp(job_verb_name((enum job_verb)j), offline_needs[v].name) == 0;
		keyed += job;
		assert_true(job || !offline_needs[v].key);
	}
	assert_int_equal(keyed, JOB_VERB_COUNT - JOB_CHECK);
}

#define ON_STAGE(f) cmocka_unit_test_setup_teardown(f, set_stage, clear_stage)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		ON_STAGE(an_order_wipes_at_once_whatever_the_worker_does),
		ON_STAGE(the_end_of_the_supervisor_is_the_end),
		ON_STAGE(deadlines_are_kept),
		ON_STAGE(without_a_deadline_no_key_is_taken),
		ON_STAGE(a_check_runs_and_its_lines_are_lines),
		ON_STAGE(the_header_comes_back_from_a_backup_though_none_is_left),
		ON_STAGE(what_is_no_backup_of_this_volume_is_refused),
		ON_STAGE(a_client_that_does_not_listen_any_more_ends_it),
		ON_STAGE(a_finding_waits_for_a_slow_client),
		ON_STAGE(no_key_from_the_hsm_no_job),
		ON_STAGE(what_the_pins_do_not_say_is_refused),
		ON_STAGE(a_store_that_somebody_serves_is_refused),
		ON_STAGE(a_pipe_must_be_the_writing_end_of_one),
		ON_STAGE(an_output_must_be_a_file_of_its_own),
		ON_STAGE(more_descriptors_than_named_end_the_process),
		ON_STAGE(messages_out_of_order_end_the_process),
		cmocka_unit_test(the_verbs_of_jobs_are_the_engines),
	};

	if (!stage_begin(argc, argv))
		return 2;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
