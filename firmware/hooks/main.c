/* fallgate-hooks: runs what a transition of a gate is to set off: an alert's program, and what is done to what is mounted above.
 * It decides nothing and is told no secret. It is started before the supervisor's filter stands, because unmounting is not
 * allowed behind that. What must hold: nobody waits for it; at most RUNNING_MAX run at once and QUEUE_MAX wait, more are counted
 * and left out; what runs longer than it may is killed with all that is left in its session; without its supervisor it ends, and
 * they with it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/sandbox.h"
#include "ipc/channel.h"
#include "ipc/message.h"

enum { SUPERVISOR_FD = 3, RUNNING_MAX = 4, QUEUE_MAX = 64, ENV_MAX = 20, ENV_BYTES = 400 };

struct running {
	pid_t pid; /* 0: free */
	uint64_t until_ms;
	char what[80];
};

struct hooks {
	struct channel supervisor;
	int signal_fd;
	struct running running[RUNNING_MAX];
	struct msg_hk_run queue[QUEUE_MAX];
	unsigned first, count, left_out;
};

/* File-level: too large for the stack, and the process has one. */
static struct hooks hooks;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* ---- in the child ---- */

static void limit(int what, rlim_t value)
{
	struct rlimit r = { value, value };

	setrlimit((__rlimit_resource_t)what, &r);
}

static void set_limits(const struct msg_hk_run *r)
{
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, 64);
	limit(RLIMIT_FSIZE, 16u << 20);
	limit(RLIMIT_AS, 1u << 30);
	limit(RLIMIT_CPU, r->time_limit_ms / 1000 + 1);
}

static void add(char *const *environment, unsigned *n, const char *key, const char *value)
{
	if (*n < ENV_MAX)
		snprintf(environment[(*n)++], ENV_BYTES, "%s=%s", key, value);
}

static void add_number(char *const *environment, unsigned *n, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof text, "%llu", (unsigned long long)value);
	add(environment, n, key, text);
}

_Noreturn static void run_program(const struct msg_hk_run *r)
{
	static char text[ENV_MAX][ENV_BYTES];
	char *environment[ENV_MAX + 1], *arguments[] = { (char *)(uintptr_t)r->program, NULL };
	unsigned n = 0;

	for (unsigned i = 0; i < ENV_MAX; i++)
		environment[i] = text[i];
	add(environment, &n, "PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
	add(environment, &n, "FALLGATE_VOLUME", r->volume);
	add(environment, &n, "FALLGATE_EVENT", r->event);
	add(environment, &n, "FALLGATE_FROM", r->from);
	add(environment, &n, "FALLGATE_STATE", r->state);
	add(environment, &n, "FALLGATE_CAUSE", r->cause);
	add(environment, &n, "FALLGATE_LATCHED", r->latched ? "yes" : "no");
	add(environment, &n, "FALLGATE_REMEDY", r->remedy);
	add(environment, &n, "FALLGATE_TEXT", r->text);
	add_number(environment, &n, "FALLGATE_GATE_SEQ", r->gate_seq);
	add_number(environment, &n, "FALLGATE_SEQUENCE", r->sequence);
	add_number(environment, &n, "FALLGATE_PURGE_AT_NS", r->purge_at_ns);
	environment[n] = NULL;
	execve(r->program, arguments, environment);
	_exit(127);
}

_Noreturn static void become(const struct msg_hk_run *r)
{
	int null_fd = open("/dev/null", O_RDWR), caches;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0 ||
	    syscall(SYS_close_range, 3, ~0u, 0) != 0)
		_exit(126);
	switch ((enum hook)r->hook) {
	case HOOK_DROP_CACHES:
		caches = open("/proc/sys/vm/drop_caches", O_WRONLY);
		_exit(caches >= 0 && write(caches, "1", 1) == 1 ? 0 : 125);
	case HOOK_UNMOUNT:
		_exit(umount2(r->program, MNT_DETACH | UMOUNT_NOFOLLOW) == 0 ? 0 : 125);
	case HOOK_MOUNT_PROGRAM:
		set_limits(r);
		run_program(r);
	case HOOK_ALERT_PROGRAM:
		set_limits(r);
		limit(RLIMIT_NPROC, 64);
		if ((r->uid != 0 && sandbox_drop_to(r->uid, r->gid) != 0) || sandbox_enter(SANDBOX_HSM) != 0)
			_exit(126);
		run_program(r);
	case HOOK_COUNT:
		break;
	}
	_exit(126);
}

/* ---- in the parent ---- */

static const char *name_of(uint8_t hook)
{
	static const char *const names[] = { "?", "the alert program", "drop_caches", "unmounting", "the mount program" };

	return hook < sizeof names / sizeof names[0] ? names[hook] : "?";
}

static struct running *free_place(void)
{
	for (unsigned i = 0; i < RUNNING_MAX; i++)
		if (hooks.running[i].pid == 0)
			return &hooks.running[i];
	return NULL;
}

static void start_next(struct running *place)
{
	const struct msg_hk_run next = hooks.queue[hooks.first], *r = &next;
	pid_t pid = fork();

	if (pid == 0)
		become(r);
	if (pid < 0)
		log_error("volume %s: %s was not run: %s", r->volume, name_of(r->hook), strerror(errno));
	if (pid > 0) {
		*place = (struct running){ .pid = pid, .until_ms = now_ms() + r->time_limit_ms };
		snprintf(place->what, sizeof place->what, "volume %.31s: %.30s", r->volume, name_of(r->hook));
	}
	hooks.first = (hooks.first + 1) % QUEUE_MAX;
	hooks.count--;
}

static void start_all(void)
{
	struct running *place;

	while (hooks.count > 0 && (place = free_place()) != NULL)
		start_next(place);
}

static void take(const struct msg_hk_run *r)
{
	if (hooks.count == QUEUE_MAX) {
		hooks.left_out++;
		if ((hooks.left_out & (hooks.left_out - 1)) == 0) /* said when the count doubles */
			log_warning("%u hooks were left out by now: those that run are too slow", hooks.left_out);
		return;
	}
	hooks.queue[(hooks.first + hooks.count++) % QUEUE_MAX] = *r;
}

static void reap(void)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(hooks.signal_fd, &info, sizeof info) == sizeof info)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (unsigned i = 0; i < RUNNING_MAX; i++) {
			struct running *p = &hooks.running[i];

			if (p->pid != pid)
				continue;
			kill(-pid, SIGKILL); /* what it left behind */
			if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
				log_warning("%s: %s %d", p->what, WIFEXITED(status) ? "exit code" : "signal",
					    WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
			p->pid = 0;
		}
}

static void kill_late(void)
{
	for (unsigned i = 0; i < RUNNING_MAX; i++) {
		struct running *p = &hooks.running[i];

		if (p->pid == 0 || now_ms() < p->until_ms)
			continue;
		log_warning("%s: killed: it ran for longer than it may", p->what);
		kill(-p->pid, SIGKILL);
		kill(p->pid, SIGKILL);
		p->until_ms = now_ms() + 1000;
	}
}

_Noreturn static void end(int code)
{
	for (unsigned i = 0; i < RUNNING_MAX; i++)
		if (hooks.running[i].pid != 0) {
			kill(-hooks.running[i].pid, SIGKILL);
			kill(hooks.running[i].pid, SIGKILL);
		}
	_exit(code);
}

static void hear(void)
{
	struct message m;
	int fds[CHANNEL_FDS_MAX], r;
	unsigned count;

	r = channel_receive(&hooks.supervisor, &m, fds, &count, NULL);
	if (r == 1 && m.type == MSG_HK_RUN)
		take(&m.body.hk_run);
	else if (r != ERR_BUSY)
		end(r == 0 ? 0 : 70);
}

static void say_hello(void)
{
	struct message m;

	message_init(&m, MSG_HELLO, 0);
	snprintf(m.body.hello.version, sizeof m.body.hello.version, "%s", FALLGATE_VERSION);
	m.body.hello.pid = (int32_t)getpid();
	if (channel_send(&hooks.supervisor, &m, NULL, 0) != 0)
		_exit(0);
}

static int listen_to_children(void)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	hooks.signal_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	return hooks.signal_fd < 0 ? ERR_IO : 0;
}

static bool any_running(void)
{
	for (unsigned i = 0; i < RUNNING_MAX; i++)
		if (hooks.running[i].pid != 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	struct pollfd p[2];

	log_open("fallgate-hooks", LOG_LEVEL_INFO);
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("fallgate-hooks %s\n", FALLGATE_VERSION);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		printf("fallgate-hooks: started by fallgated only; see fallgate.conf(5), [alerts] and mount\n");
		return 0;
	}
	if (argc != 1) {
		log_error("unknown argument; fallgated starts this program without any");
		return error_exit_code(ERR_USAGE);
	}
	if (sandbox_harden() != 0 || listen_to_children() != 0)
		return error_exit_code(ERR_UNSUPPORTED);
	channel_init(&hooks.supervisor, SUPERVISOR_FD, ROLE_HOOKS, ROLE_SUPERVISOR);
	say_hello();
	p[0] = (struct pollfd){ .fd = SUPERVISOR_FD, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = hooks.signal_fd, .events = POLLIN };
	for (;;) {
		poll(p, 2, any_running() ? 100 : -1);
		if (p[0].revents != 0)
			hear();
		reap();
		kill_late();
		start_all();
	}
}
