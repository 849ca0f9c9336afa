/* See children.h. Between fork and exec only system calls are made: the supervisor has a second thread. */
#include "children.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/sandbox.h"

enum { FIRST_FD = 3, HIGH_FD = 64, REAP_MS = 20, HEAR_MAX = 64, LAST_WORDS_MAX = 1024 };

/* ---- the child's side, before exec ---- */

/* Decimal, without stdio. */
static void append_number(char *text, unsigned long n)
{
	char digits[24];
	size_t at = sizeof digits - 1;

	digits[at] = '\0';
	do {
		digits[--at] = (char)('0' + n % 10);
		n /= 10;
	} while (n > 0);
	memcpy(text + strlen(text), digits + at, sizeof digits - at);
}

static bool place_fds(int null_fd, int channel_fd, const struct child_plan *plan)
{
	int moved[CHILD_FDS_MAX], from;

	/* first out of the way of the numbers they are to have */
	for (unsigned i = 0; i < plan->fd_count; i++) {
		from = plan->fds[i] >= 0 ? plan->fds[i] : channel_fd;
		moved[i] = fcntl(from, F_DUPFD_CLOEXEC, HIGH_FD);
		if (moved[i] < 0)
			return false;
	}
	if (dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0)
		return false;
	for (unsigned i = 0; i < plan->fd_count; i++)
		if (dup2(moved[i], FIRST_FD + (int)i) < 0)
			return false;
	return syscall(SYS_close_range, FIRST_FD + plan->fd_count, ~0u, 0) == 0;
}

static void set_signals(bool block)
{
	sigset_t set;

	for (int s = 1; s < 32; s++)
		if (s != SIGKILL && s != SIGSTOP)
			signal(s, SIG_DFL);
	if (block)
		sigfillset(&set);
	else
		sigemptyset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
}

static bool set_limits(bool locked_memory)
{
	struct rlimit core = { 0, 0 }, locked;

	if (setrlimit(RLIMIT_CORE, &core) != 0)
		return false;
	if (!locked_memory || getrlimit(RLIMIT_MEMLOCK, &locked) != 0)
		return true;
	if (geteuid() == 0)
		locked.rlim_max = RLIM_INFINITY;
	locked.rlim_cur = locked.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &locked); /* a low limit is said by who needs more */
	return true;
}

_Noreturn static void become(const struct child_plan *plan, int null_fd, int channel_fd)
{
	static char listen_pid[48] = "LISTEN_PID=";
	const char *environment[CHILD_ENV_MAX + 7], *memfd = getenv("FALLGATE_SECRET_MEMORY");
	unsigned n = 0;

	set_signals(plan->block_signals);
	if (!place_fds(null_fd, channel_fd, plan) || !set_limits(plan->locked_memory))
		_exit(126);
	/* A server of a disk must not wait for that disk when it needs memory; the right to say so goes with the user. Where this
	 * one has none, the server says so. */
	if (plan->io_flusher)
		prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	if (plan->user.set && sandbox_drop_to(plan->user.uid, plan->user.gid) != 0)
		_exit(126);
	/* One that hangs must not outlive the supervisor and keep its address or its token. A dataplane must: it drains. */
	if (plan->peer == PEER_MGMT || plan->peer == PEER_HSM || plan->peer == PEER_TPM)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	environment[n++] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	environment[n++] = "LD_BIND_NOW=1";
	if (plan->locked_memory && memfd != NULL && strcmp(memfd, "memfd") == 0)
		environment[n++] =
			"FALLGATE_SECRET_MEMORY=memfd"; /* the fallback, for forensic tests and kernels that misbehave */
	if (plan->socket_activation) {
		append_number(listen_pid, (unsigned long)getpid());
		environment[n++] = "LISTEN_FDS=1";
		environment[n++] = listen_pid;
	}
	for (unsigned i = 0; i < CHILD_ENV_MAX && plan->environment[i] != NULL; i++)
		environment[n++] = plan->environment[i];
	environment[n] = NULL;
	execve(plan->program, (char *const *)(uintptr_t)plan->arguments, (char *const *)(uintptr_t)environment);
	_exit(127);
}

/* ---- the supervisor's side ---- */

static void close_fds(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void forget(struct child *c)
{
	loop_unwatch(c->loop, &c->channel_watch);
	loop_unwatch(c->loop, &c->pid_watch);
	channel_close(&c->channel);
	close(c->pidfd);
	c->alive = false;
}

void child_let_go(struct child *c)
{
	if (c->alive)
		forget(c);
}

void child_kill(struct child *c, const char *why)
{
	if (!c->alive)
		return;
	if (why != NULL)
		log_error("%s (pid %d, %s): killed: %s", c->label, (int)c->pid, stage_name(c->stage), why);
	syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}

static bool hello_good(const struct child *c, const struct message *m)
{
	return strcmp(m->body.hello.version, FALLGATE_VERSION) == 0 && m->body.hello.pid == c->pid;
}

/* One message, judged and handed on. */
static void take_message(struct child *c, const struct message *m, const struct channel_peer *sender, int *fds, unsigned count)
{
	const struct message_row *row = message_row(m->type);

	if (sender->pid != c->pid) {
		child_kill(c, "another process speaks on its channel");
	} else if (!permit_allows(c->peer, c->stage, m->type)) {
		log_error("%s (pid %d): %s is not allowed now", c->label, (int)c->pid, row->name);
		child_kill(c, "it broke the protocol");
	} else if (m->type == MSG_HELLO) {
		if (!hello_good(c, m)) {
			child_kill(c, "it is of another version; install all programs of one build");
			return;
		}
		c->stage = c->peer == PEER_MGMT || c->peer == PEER_BROKER ? STAGE_TALKING : STAGE_IDLE;
		c->events->hello(c->owner, c);
	} else {
		c->events->message(c->owner, c, m, fds, count);
	}
}

/* 1: one was there; else as channel_receive. */
static int receive_one(struct child *c)
{
	struct message m;
	struct channel_peer sender;
	int fds[CHANNEL_FDS_MAX] = { -1, -1, -1, -1, -1 };
	unsigned count = 0;
	int r = channel_receive(&c->channel, &m, fds, &count, &sender);

	if (r == 1)
		take_message(c, &m, &sender, fds, count);
	close_fds(fds, count);
	explicit_bzero(&m, sizeof m);
	return r;
}

/* true: there may be more. */
static bool hear_one(struct child *c)
{
	pid_t pid = c->pid;
	int r = receive_one(c);

	if (!c->alive || c->pid != pid)
		return false;
	if (r != 1 && r != ERR_BUSY) {
		loop_unwatch(c->loop, &c->channel_watch);
		child_kill(c, r == ERR_PROTOCOL ? "it broke the protocol" : NULL); /* the end of its channel is the end of it */
	}
	return r == 1;
}

static void channel_ready(void *context)
{
	hear_one(context);
}

/* Bounded: who talks without end is not waited for. */
void child_hear(struct child *c)
{
	for (int i = 0; i < HEAR_MAX && c->alive && hear_one(c); i++)
		;
}

static int reap(struct child *c)
{
	int status = 0;

	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static void pid_ready(void *context)
{
	struct child *c = context;
	pid_t pid = c->pid;
	int status;

	/* its last words, unless hearing them ended it here; what it started and left behind may speak on without end */
	for (int i = 0; i < LAST_WORDS_MAX && c->alive && c->pid == pid && receive_one(c) == 1; i++)
		;
	if (!c->alive || c->pid != pid)
		return;
	status = reap(c);
	forget(c);
	c->events->death(c->owner, c, status);
}

static int watch_child(struct child *c, int channel_fd)
{
	static const enum process_role roles[PEER_COUNT] = {
		[PEER_HSM] = ROLE_HSM,       [PEER_DATAPLANE] = ROLE_DATAPLANE, [PEER_CREATOR] = ROLE_DATAPLANE,
		[PEER_JOB] = ROLE_DATAPLANE, [PEER_MGMT] = ROLE_MGMT,           [PEER_CONSOLE] = ROLE_CONSOLE,
		[PEER_HOOKS] = ROLE_HOOKS,   [PEER_BROKER] = ROLE_UBLK,         [PEER_TPM] = ROLE_TPM,
	};

	channel_init(&c->channel, channel_fd, ROLE_SUPERVISOR, roles[c->peer]);
	c->alive = true;
	c->pid_watch.fd = c->channel_watch.fd = -1;
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (c->pidfd >= 0 && loop_watch(c->loop, &c->channel_watch, channel_fd, channel_ready, c) == 0 &&
	    loop_watch(c->loop, &c->pid_watch, c->pidfd, pid_ready, c) == 0)
		return 0;
	log_error("%s: cannot be watched: %s", c->label, strerror(errno));
	kill(c->pid, SIGKILL);
	reap(c);
	forget(c);
	return ERR_IO;
}

int child_start(struct child *c, const struct child_plan *plan)
{
	int pair[2], null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null_fd < 0 || channel_pair(pair) != 0) {
		log_error("%s: cannot be wired: %s", c->label, strerror(errno));
		if (null_fd >= 0)
			close(null_fd);
		return ERR_IO;
	}
	c->peer = plan->peer;
	c->stage = STAGE_NEW;
	c->uid = plan->user.set ? plan->user.uid : geteuid();
	c->pid = fork();
	if (c->pid == 0)
		become(plan, null_fd, pair[1]);
	close(null_fd);
	close(pair[1]);
	if (c->pid < 0) {
		log_error("%s: cannot be started: %s", c->label, strerror(errno));
		close(pair[0]);
		return ERR_NOMEM;
	}
	return watch_child(c, pair[0]);
}

int child_start_one_shot(struct child *c, enum peer peer, const struct config *config, const char *verb)
{
	char program[PATH_MAX_BYTES + 32];
	const char *arguments[] = { program, verb, NULL };
	struct child_plan plan = { .peer = peer,
				   .program = program,
				   .arguments = arguments,
				   .fds = { -1 },
				   .fd_count = 1,
				   .environment = { "GLIBC_TUNABLES=glibc.malloc.perturb=90" },
				   .locked_memory = true,
				   .user = config->user_dataplane };

	snprintf(program, sizeof program, "%s/fallgate-dataplane", config->libexec_dir);
	return child_start(c, &plan);
}

int child_send(struct child *c, const struct message *m, const int *fds, unsigned count)
{
	int r = c->alive ? channel_send(&c->channel, m, fds, count) : ERR_IO;

	if (r == ERR_BUSY)
		child_kill(c, "it does not read its channel");
	return r;
}

bool child_kill_and_reap(struct child *c)
{
	struct pollfd p = { .fd = c->pidfd, .events = POLLIN };

	if (!c->alive)
		return true;
	child_kill(c, NULL);
	if (poll(&p, 1, REAP_MS) != 1)
		return false;
	reap(c);
	forget(c);
	return true;
}
