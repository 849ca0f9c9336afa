/* See volume_job.h. Three things are listened to: the agent, the job's pipe, and signals. The pipe's lines are those of
 * dataplane/offline.h: a letter, a space, and two numbers (p) or a text (n, m, r, l: a finding of that severity). */
#include "volume_job.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "console.h"
#include "ipc/channel.h"

enum {
	LINE_MAX_BYTES = 512, /* more than any good line */
	STOP_MS = 10000,      /* how long an agent may take to end a job that was called off */
	LAST_WORDS_MS = 2000, /* how long the pipe may stay open after the agent said that the job is over */
};

struct run {
	struct channel agent;
	int pipe_fd, signal_fd; /* -1: at its end */
	const struct offline_sink *sink;
	char line[LINE_MAX_BYTES];
	size_t used;
	bool stopped; /* called off, by a signal or by the sink */
	bool signalled;
	bool heard;      /* the job has begun */
	bool broken;     /* the pipe held what is no line */
	bool done;       /* the agent's answer is there */
	int64_t give_up; /* CLOCK_MONOTONIC ms; 0: never */
	struct msg_con_job_done answer;
	int error; /* of the conversation */
	char *why;
	size_t why_size;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The agent sees the end of what we say, ends the job, and still answers. */
static void call_off(struct run *r)
{
	if (r->stopped || r->done)
		return;
	r->stopped = true;
	r->give_up = now_ms() + STOP_MS;
	shutdown(r->agent.fd, SHUT_WR);
}

static void fail(struct run *r, int error, const char *text)
{
	if (r->error == 0)
		snprintf(r->why, r->why_size, "%s", text);
	r->error = r->error != 0 ? r->error : error;
}

/* ---- the job's lines ---- */

static bool number(const char **at, char end, uint64_t *out)
{
	char *rest;

	if (**at < '0' || **at > '9')
		return false;
	errno = 0;
	*out = strtoull(*at, &rest, 10);
	if (errno != 0 || *rest != end)
		return false;
	*at = rest + 1;
	return true;
}

static bool take_progress(struct run *r, const char *text)
{
	uint64_t done, total;

	if (!number(&text, ' ', &done) || !number(&text, '\0', &total) || done > total)
		return false;
	if (r->sink->progress != NULL && !r->sink->progress(r->sink->context, done, total))
		call_off(r);
	return true;
}

static bool take_finding(struct run *r, char letter, const char *text)
{
	static const char letters[] = {
		[OFFLINE_NOTE] = 'n', [OFFLINE_MENDED] = 'm', [OFFLINE_REPAIRABLE] = 'r', [OFFLINE_LOSS] = 'l'
	};
	char shown[LINE_MAX_BYTES];

	for (size_t i = 0; i < sizeof letters; i++)
		if (letters[i] == letter) {
			r->sink->say(r->sink->context, (enum offline_severity)i, log_printable(shown, sizeof shown, text));
			return true;
		}
	return false;
}

static bool take_line(struct run *r)
{
	const char *line = r->line;

	if (strlen(line) != r->used || r->used < 3 || line[1] != ' ')
		return false; /* a NUL inside, or no letter and text */
	return line[0] == 'p' ? take_progress(r, line + 2) : take_finding(r, line[0], line + 2);
}

static void take_byte(struct run *r, char c)
{
	r->heard = true;
	if (r->broken)
		return;
	if (c == '\n') {
		r->line[r->used] = '\0';
		r->broken = !take_line(r);
		r->used = 0;
	} else if (r->used < sizeof r->line - 1) {
		r->line[r->used++] = c;
	} else {
		r->broken = true;
	}
	if (r->broken) {
		fail(r, ERR_PROTOCOL, "the job's process wrote what is no line of a job: ended");
		call_off(r);
	}
}

static void pipe_ready(struct run *r)
{
	char bytes[4096];
	ssize_t n = read(r->pipe_fd, bytes, sizeof bytes);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	for (ssize_t i = 0; i < n; i++)
		take_byte(r, bytes[i]);
	if (n <= 0) {
		close(r->pipe_fd);
		r->pipe_fd = -1;
	}
}

/* ---- the agent and the user ---- */

/* No answer. Its processes end with it. */
static void lost_agent(struct run *r, int e)
{
	if (e == 1 || e == ERR_PROTOCOL)
		fail(r, ERR_PROTOCOL, "the agent answered with what is no answer: client and agent are of two releases");
	else if (r->heard)
		fail(r, ERR_STATE, "the agent ended, and the job with it");
	else
		fail(r, ERR_DENIED,
		     "the agent closed the console: it ended, or this user may not use it, or client and agent are of two "
		     "releases");
}

static void agent_ready(struct run *r)
{
	int fds[CHANNEL_FDS_MAX];
	struct message m;
	unsigned count;
	int e = channel_receive(&r->agent, &m, fds, &count, NULL);

	if (e == ERR_BUSY)
		return;
	while (count > 0)
		close(fds[--count]);
	if (e == 1 && m.type == MSG_CON_JOB_DONE) {
		r->done = true;
		r->answer = m.body.con_job_done;
		r->give_up = now_ms() + LAST_WORDS_MS;
	} else {
		lost_agent(r, e);
		r->done = true;
		r->give_up = now_ms() + LAST_WORDS_MS;
	}
}

static void signal_ready(struct run *r)
{
	struct signalfd_siginfo info;

	if (read(r->signal_fd, &info, sizeof info) != sizeof info)
		return;
	r->signalled = true;
	if (r->stopped) {
		fail(r, ERR_STATE,
		     "stopped; whether the agent has ended the job already is not known: see fallgate status --local");
		r->give_up = now_ms();
	}
	call_off(r);
}

static void listen_once(struct run *r)
{
	struct pollfd p[] = {
		{ .fd = r->done ? -1 : r->agent.fd, .events = POLLIN },
		{ .fd = r->pipe_fd, .events = POLLIN },
		{ .fd = r->signal_fd, .events = POLLIN },
	};
	int64_t left = r->give_up == 0 ? -1 : r->give_up - now_ms();

	if (poll(p, 3, left > 0 ? (int)left : r->give_up != 0 ? 0 : -1) < 0)
		return;
	if (p[1].revents != 0)
		pipe_ready(r);
	if (p[0].revents != 0)
		agent_ready(r);
	if (p[2].revents != 0)
		signal_ready(r);
}

/* Over when both have ended: the answer is there, and the pipe, which the job's process held, is closed. */
static void listen_to_all(struct run *r)
{
	while (!r->done || r->pipe_fd >= 0) {
		listen_once(r);
		if (r->give_up != 0 && now_ms() >= r->give_up) {
			if (!r->done)
				fail(r, ERR_TIMEOUT, "the agent did not end the job in time; see its log");
			return;
		}
	}
}

static int ask(struct run *r, const struct volume_job *job, int write_fd)
{
	const int given[] = { job->output_fd, job->map_fd, job->input_fd };
	int fds[CHANNEL_FDS_MAX] = { write_fd };
	unsigned count = 1;
	struct message m;
	struct msg_con_job *q = &m.body.con_job;

	message_init(&m, MSG_CON_JOB, 0);
	q->verb = (uint8_t)job->verb;
	q->options = (struct job_options){ .dump_at = job->dump_at,
					   .accept_loss = job->accept_loss,
					   .repair = job->repair,
					   .output = job->output_fd >= 0,
					   .map = job->map_fd >= 0,
					   .input = job->input_fd >= 0 };
	for (unsigned i = 0; i < 3; i++)
		if (given[i] >= 0)
			fds[count++] = given[i];
	snprintf(q->volume, sizeof q->volume, "%s", job->volume);
	return channel_send(&r->agent, &m, fds, count);
}

static void finish(struct run *r, struct offline_result *result)
{
	const struct msg_con_job_done *d = &r->answer;
	char text[TEXT_MAX_BYTES];

	if (r->error != 0 || !r->done)
		return;
	*result = (struct offline_result){ d->counts.checked, d->counts.mended, d->counts.repairable, d->counts.lost };
	if (r->used > 0) {
		fail(r, ERR_PROTOCOL, "the job's last line was cut short");
	} else if (d->error != 0 && r->signalled) {
		fail(r, ERR_STATE, "interrupted: the job is ended, its keys are wiped; what was not said yet was not looked at");
	} else if (d->error != 0) {
		log_printable(text, sizeof text, d->text);
		fail(r, d->error, text[0] != '\0' ? text : error_text(d->error));
	}
}

static void converse(struct run *r, const struct volume_job *job, struct offline_result *result)
{
	int pipe_fds[2];

	if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
		fail(r, ERR_NOMEM, "no pipe could be made for the job's lines");
		return;
	}
	r->pipe_fd = pipe_fds[0];
	fcntl(r->pipe_fd, F_SETFL, O_NONBLOCK);
	if (ask(r, job, pipe_fds[1]) != 0) {
		fail(r, ERR_DENIED,
		     "the agent closed the console: this user may not use it, or client and agent are of two releases");
		close(pipe_fds[1]);
	} else {
		close(pipe_fds[1]); /* else its end would never be seen */
		listen_to_all(r);
		finish(r, result);
	}
	if (r->pipe_fd >= 0)
		close(r->pipe_fd);
}

int volume_job_run(const struct volume_job *job, const struct offline_sink *sink, struct offline_result *result, char *why,
		   size_t why_size)
{
	struct run r = { .sink = sink, .pipe_fd = -1, .why = why, .why_size = why_size };
	sigset_t stops, before;
	int fd;

	*result = (struct offline_result){ 0 };
	why[0] = '\0';
	if (!message_name_good(job->volume)) {
		fail(&r, ERR_USAGE, "a job is for a volume that the agent knows by its name");
		return r.error;
	}
	fd = console_open(job->run_dir, why, why_size);
	if (fd < 0)
		return fd;
	sigemptyset(&stops);
	sigaddset(&stops, SIGINT);
	sigaddset(&stops, SIGTERM);
	sigaddset(&stops, SIGHUP);
	sigprocmask(SIG_BLOCK, &stops, &before);
	r.signal_fd = signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK);
	channel_init(&r.agent, fd, ROLE_CONSOLE, ROLE_SUPERVISOR);
	converse(&r, job, result);
	channel_close(&r.agent);
	if (r.signal_fd >= 0)
		close(r.signal_fd);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return r.error;
}
