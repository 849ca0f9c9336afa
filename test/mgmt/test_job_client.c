/* The client's side of a job against an agent that lies: what the job's process writes reaches the terminal as numbers and
 * printable text or not at all, and the client comes back whatever the agent does. The agent is a forked child that plays one
 * script. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "ipc/channel.h"
#include "volume_job.h"

#define TEXT(s) .bytes = (s), .size = sizeof(s) - 1

struct script {
	const char *bytes; /* into the pipe */
	size_t size;
	unsigned signals; /* SIGINT to the client, so often */
	bool until_end;   /* wait until the client stops talking */
	bool mute;        /* no answer: the connection is closed */
	bool hold;        /* ... or nothing happens at all */
	bool keep_pipe;   /* the pipe is not closed before the answer was given, a second later */
	enum message_type type;
	int error;
	const char *text;
	unsigned fds; /* that must come; 0: 1 */
};

static char dir[64];
static pid_t agent;

static struct heard {
	unsigned steps, findings, severity[4];
	uint64_t done, total;
	char text[600];
	bool stop;
} heard;

static void say(void *context, enum offline_severity severity, const char *text)
{
	struct heard *h = context;

	h->findings++;
	h->severity[severity]++;
	snprintf(h->text, sizeof h->text, "%s", text);
	for (const char *c = text; *c != '\0'; c++)
		assert_true(*c >= ' ' && *c <= '~');
}

static bool progress(void *context, uint64_t done, uint64_t total)
{
	struct heard *h = context;

	h->steps++;
	h->done = done;
	h->total = total;
	return !h->stop;
}

static void path_of(struct sockaddr_un *address)
{
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path, sizeof address->sun_path, "%s/console.sock", dir);
}

/* ---- the agent ---- */

static void give_answer(struct channel *c, const struct script *s, uint64_t nonce)
{
	struct message m;

	message_init(&m, s->type != MSG_NONE ? s->type : MSG_CON_JOB_DONE, nonce);
	if (s->type == MSG_NONE) {
		m.body.con_job_done = (struct msg_con_job_done){ .error = s->error, .counts = { 10, 20, 30, 40 } };
		snprintf(m.body.con_job_done.text, TEXT_MAX_BYTES, "%s", s->text != NULL ? s->text : "");
	}
	if (channel_send(c, &m, NULL, 0) != 0)
		_exit(5);
}

_Noreturn static void play(int listener, const struct script *s)
{
	struct channel c;
	struct message m, more;
	int fds[CHANNEL_FDS_MAX], none[CHANNEL_FDS_MAX];
	unsigned count, no;

	channel_init(&c, accept(listener, NULL, NULL), ROLE_SUPERVISOR, ROLE_CONSOLE);
	if (channel_receive_wait(&c, &m, fds, &count, NULL, 5000) != 1 || m.type != MSG_CON_JOB)
		_exit(2);
	if (count != (s->fds != 0 ? s->fds : 1) || m.body.con_job.verb != JOB_SALVAGE || m.body.con_job.options.dump_at != 77 ||
	    strcmp(m.body.con_job.volume, "demo") != 0 || !m.body.con_job.options.accept_loss || m.body.con_job.options.repair)
		_exit(3);
	if (write(fds[0], s->bytes, s->size) != (ssize_t)s->size)
		_exit(4);
	for (unsigned i = 0; i < s->signals; i++) {
		kill(getppid(), SIGINT);
		usleep(100000);
	}
	if (s->until_end && channel_receive_wait(&c, &more, none, &no, NULL, 5000) != 0)
		_exit(6);
	if (s->hold)
		for (;;)
			pause();
	if (!s->keep_pipe)
		close(fds[0]);
	if (!s->mute)
		give_answer(&c, s, m.nonce);
	if (s->keep_pipe)
		sleep(1);
	_exit(0);
}

static void start(const struct script *s)
{
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	path_of(&address);
	unlink(address.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(listen(fd, 1), 0);
	agent = fork();
	if (agent == 0)
		play(fd, s);
	close(fd);
}

static void end(bool killed)
{
	int status;

	if (killed)
		kill(agent, SIGKILL);
	assert_int_equal(waitpid(agent, &status, 0), agent);
	if (!killed)
		assert_int_equal(status, 0);
}

/* ---- the client ---- */

static int run(const struct script *s, struct offline_result *result, char why[static 256])
{
	const struct offline_sink sink = { .context = &heard, .say = say, .progress = progress };
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	const struct volume_job job = { .run_dir = dir,
					.volume = "demo",
					.verb = JOB_SALVAGE,
					.accept_loss = true,
					.dump_at = 77,
					.output_fd = s->fds > 1 ? fd : -1,
					.map_fd = s->fds > 2 ? fd : -1,
					.input_fd = s->fds > 3 ? fd : -1 };
	bool stop = heard.stop;
	int r;

	heard = (struct heard){ .stop = stop };
	start(s);
	r = volume_job_run(&job, &sink, result, why, 256);
	end(s->hold);
	close(fd);
	heard.stop = false;
	return r;
}

static void expect(const struct script *s, int error, const char *says)
{
	struct offline_result result;
	char why[256];
	int r = run(s, &result, why);

	if (r != error || strstr(why, says) == NULL)
		fail_msg("%s: \"%s\", not %s: \"%s\"", error_name(r), why, error_name(error), says);
	for (const char *c = why; *c != '\0'; c++)
		assert_true(*c >= ' ' && *c <= '~');
}

static void a_job_is_heard_to_its_end(void **state)
{
	const struct script s = { TEXT("n first\np 5 10\nm second\nr third\nl fourth\np 10 10\n"), .fds = 4 };
	struct offline_result result;
	char why[256];

	(void)state;
	assert_int_equal(run(&s, &result, why), 0);
	assert_string_equal(why, "");
	assert_int_equal(heard.findings, 4);
	assert_int_equal(heard.severity[OFFLINE_NOTE], 1);
	assert_int_equal(heard.severity[OFFLINE_MENDED], 1);
	assert_int_equal(heard.severity[OFFLINE_REPAIRABLE], 1);
	assert_int_equal(heard.severity[OFFLINE_LOSS], 1);
	assert_string_equal(heard.text, "fourth");
	assert_int_equal(heard.steps, 2);
	assert_int_equal(heard.done, 10);
	assert_int_equal(result.checked, 10);
	assert_int_equal(result.mended, 20);
	assert_int_equal(result.repairable, 30);
	assert_int_equal(result.lost, 40);
}

static void nothing_that_moves_a_cursor_gets_through(void **state)
{
	const struct script line = { TEXT("n \033[2J\x80\xff\ttext\r\n") };
	const struct script answer = { TEXT(""), .error = ERR_FOREIGN, .text = "\033]0;title\a no" };

	(void)state;
	expect(&line, 0, "");
	assert_string_equal(heard.text, "?[2J???text?");
	expect(&answer, ERR_FOREIGN, "?]0;title? no");
}

static void what_is_no_line_ends_the_job(void **state)
{
	static char endless[4096];
	const struct script scripts[] = {
		{ TEXT("x what\n") },
		{ TEXT("\n") },
		{ TEXT("n\n") },
		{ TEXT("n \n") },
		{ TEXT("n:text\n") },
		{ TEXT("p 5\n") },
		{ TEXT("p 5 4\n") },
		{ TEXT("p -1 5\n") },
		{ TEXT("p 1 5 9\n") },
		{ TEXT("p  1 5\n") },
		{ TEXT("p 0x1 5\n") },
		{ TEXT("p 1 99999999999999999999\n") },
		{ TEXT("n a\0b\n") },
		{ TEXT("\0n text\n") },
		{ TEXT("p 1 \n") },
		{ TEXT("p +1 5\n") },
		{ .bytes = endless, .size = sizeof endless },
		{ TEXT("n cut short") },
	};

	(void)state;
	memset(endless, 'n', sizeof endless);
	for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
		expect(&scripts[i], ERR_PROTOCOL, "line");
		assert_int_equal(heard.findings + heard.steps, 0);
	}
}

static void a_job_that_wrote_nonsense_is_called_off(void **state)
{
	const struct script s = { TEXT("x what\n"), .until_end = true, .error = ERR_STATE, .text = "called off" };

	(void)state;
	expect(&s, ERR_PROTOCOL, "no line");
}

static void an_agent_that_ends_or_speaks_of_something_else_is_told(void **state)
{
	const struct script closes = { TEXT("n one\n"), .mute = true };
	const struct script silent = { TEXT(""), .mute = true };
	const struct script other = { TEXT(""), .type = MSG_CON_REPLY };

	(void)state;
	expect(&closes, ERR_STATE, "ended, and the job with it");
	assert_int_equal(heard.findings, 1);
	expect(&silent, ERR_DENIED, "closed the console");
	expect(&other, ERR_PROTOCOL, "two releases");
}

static void lines_that_come_after_the_answer_are_heard(void **state)
{
	const struct script s = { TEXT("n one\n"), .keep_pipe = true };

	(void)state;
	expect(&s, 0, "");
	assert_int_equal(heard.findings, 1);
}

static void one_signal_ends_the_job_and_waits(void **state)
{
	const struct script s = { TEXT("n one\n"), .signals = 1, .until_end = true, .error = ERR_STATE, .text = "called off" };
	const struct script done = { TEXT("n one\n"), .signals = 1, .until_end = true }; /* it was just over */

	(void)state;
	expect(&s, ERR_STATE, "interrupted");
	expect(&done, 0, "");
}

static void a_second_signal_does_not_wait(void **state)
{
	const struct script s = { TEXT(""), .signals = 2, .hold = true };
	struct timespec before, after;

	(void)state;
	clock_gettime(CLOCK_MONOTONIC, &before);
	expect(&s, ERR_STATE, "not known");
	clock_gettime(CLOCK_MONOTONIC, &after);
	assert_true(after.tv_sec - before.tv_sec < 5);
}

static void a_sink_that_has_enough_ends_the_job(void **state)
{
	const struct script s = { TEXT("p 1 9\n"), .until_end = true, .error = ERR_STATE, .text = "the client called it off" };

	(void)state;
	heard.stop = true;
	expect(&s, ERR_STATE, "called it off");
}

static void without_an_agent_it_says_so(void **state)
{
	const struct volume_job job = {
		.run_dir = "/nonexistent", .volume = "demo", .verb = JOB_CHECK, .output_fd = -1, .map_fd = -1, .input_fd = -1
	};
	const struct volume_job path = { .run_dir = "/nonexistent", .volume = "../demo", .verb = JOB_CHECK };
	const struct offline_sink sink = { .context = &heard, .say = say, .progress = progress };
	struct offline_result result;
	char why[256];

	(void)state;
	assert_int_equal(volume_job_run(&job, &sink, &result, why, sizeof why), ERR_TIMEOUT);
	assert_non_null(strstr(why, "no agent at"));
	assert_int_equal(volume_job_run(&path, &sink, &result, why, sizeof why), ERR_USAGE);
}

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/fallgate-client-XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int remove_dir(void **state)
{
	struct sockaddr_un address;

	(void)state;
	path_of(&address);
	unlink(address.sun_path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_that_moves_a_cursor_gets_through),
		cmocka_unit_test(what_is_no_line_ends_the_job),
		cmocka_unit_test(a_job_is_heard_to_its_end),
		cmocka_unit_test(a_job_that_wrote_nonsense_is_called_off),
		cmocka_unit_test(an_agent_that_ends_or_speaks_of_something_else_is_told),
		cmocka_unit_test(lines_that_come_after_the_answer_are_heard),
		cmocka_unit_test(one_signal_ends_the_job_and_waits),
		cmocka_unit_test(a_second_signal_does_not_wait),
		cmocka_unit_test(a_sink_that_has_enough_ends_the_job),
		cmocka_unit_test(without_an_agent_it_says_so),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
