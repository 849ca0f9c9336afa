/* fallgate-ublk: the broker of the kernel's block devices. It owns /dev/ublk-control, which takes a right that the processes with
 * keys and the one that decides must not have, and knows neither keys nor data.
 * What must hold: it waits for nobody but for the next event; what it may do is fixed before the supervisor's first message is
 * read: two capabilities, a ring of three operations, a filter that leaves it no new processes or sockets, and no files but, for
 * writing, settings of virtual devices (where the kernel has Landlock); when the supervisor is gone, so are its devices, and then
 * it. One at a time (a lock in run_dir): what an earlier one of the same run_dir left in the kernel is found by a mark and taken
 * away. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "devices.h"
#include "hal/sandbox.h"
#include "ipc/channel.h"

enum {
	SUPERVISOR_FD = 3,
	LOCK_WAIT_MS = 5000,
	LOCK_STEP_MS = 50,
	TELL_WAIT_MS = 20,
	INFO_WAIT_MS = 5000,
	MESSAGES_A_ROUND = 16,
	FD_SUPERVISOR = 0,
	FD_CONTROL,
	FD_TIMER,
	FD_COUNT,
};

static const char help[] =
	"usage: fallgate-ublk run_dir=PATH\n"
	"       fallgate-ublk --help | --version\n"
	"\n"
	"Makes and removes the kernel's block devices of Fallgate volumes (export = ublk), by order of the Fallgate agent,\n"
	"which starts it as root with its channel as descriptor 3.\n";

struct broker {
	struct channel supervisor;
	struct ublk_control *control;
	struct devices *devices;
	int timer_fd;
	bool alone; /* the supervisor is gone */
};

/* ---- the world of the devices ---- */

static void tell(void *context, const struct message *m)
{
	struct broker *b = context;
	struct pollfd p = { .fd = b->supervisor.fd, .events = POLLOUT };
	int r = channel_send(&b->supervisor, m, NULL, 0);

	if (r == ERR_BUSY && poll(&p, 1, TELL_WAIT_MS) == 1)
		r = channel_send(&b->supervisor, m, NULL, 0);
	if (r == ERR_BUSY)
		log_error("%s was not sent: the supervisor does not read its channel", message_row(m->type)->name);
}

static int give(void *context, uint32_t device, uint32_t uid, uint32_t gid)
{
	char path[32];

	(void)context;
	snprintf(path, sizeof path, "/dev/ublkc%u", device);
	return fchownat(AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : error_from_errno(errno);
}

static int open_depth(void *context, uint32_t device)
{
	char path[64];

	(void)context;
	snprintf(path, sizeof path, "/sys/block/ublkb%u/queue/nr_requests", device);
	return openat(AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
}

/* ---- start ---- */

static const char *parse_run_dir(int argc, char **argv)
{
	static const char key[] = "run_dir=";

	if (argc != 2 || strncmp(argv[1], key, sizeof key - 1) != 0 || argv[1][sizeof key - 1] != '/')
		return NULL;
	return argv[1] + sizeof key - 1;
}

/* FNV-1a: it tells agents of one machine apart, no more. */
static uint64_t mark_of(const char *run_dir)
{
	uint64_t mark = UINT64_C(0xcbf29ce484222325);
	char path[PATH_MAX_BYTES + 32];

	snprintf(path, sizeof path, "fallgate-ublk %s", run_dir);
	for (const char *c = path; *c != '\0'; c++)
		mark = (mark ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
	return mark;
}

/* Held until the end: while an earlier broker still takes devices away, its numbers may be given to nobody. */
static int wait_for_turn(const char *run_dir)
{
	const struct timespec step = { .tv_nsec = LOCK_STEP_MS * 1000000 };
	char path[PATH_MAX_BYTES + 32];
	int fd;

	snprintf(path, sizeof path, "%s/ublk.lock", run_dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	for (int ms = 0; fd >= 0 && ms < LOCK_WAIT_MS; ms += LOCK_STEP_MS) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		nanosleep(&step, NULL);
	}
	log_error("%s: %s", path,
		  fd < 0 ? strerror(errno) : "an earlier broker still takes its devices away; something keeps one of them open");
	return fd < 0 ? error_from_errno(errno) : ERR_BUSY;
}

static bool is_marked(struct broker *b, uint32_t device, uint64_t mark)
{
	struct ublk_command *c = calloc(1, sizeof *c); /* not freed if the kernel keeps it */
	struct pollfd p = { .fd = b->control->ops->fd(b->control), .events = POLLIN };
	bool found;

	if (c == NULL)
		return false;
	c->verb = UBLK_INFO;
	c->info.device = device;
	if (b->control->ops->begin(b->control, c) != 0 || poll(&p, 1, INFO_WAIT_MS) != 1 ||
	    b->control->ops->next(b->control) != c)
		return false;
	found = c->error == 0 && c->info.mark == mark;
	free(c);
	return found;
}

/* All are asked before the first is taken away: while they are asked nothing else may be under way in the ring. */
static void find_leftovers(struct broker *b, uint64_t mark)
{
	DIR *dir = opendir("/dev");
	const struct dirent *e;
	uint32_t found[DEVICES_MAX];
	unsigned device, count = 0;
	char rest;

	if (dir == NULL)
		return;
	while (count < DEVICES_MAX && (e = readdir(dir)) != NULL)
		if (sscanf(e->d_name, "ublkc%u%c", &device, &rest) == 1 && is_marked(b, device, mark))
			found[count++] = device;
	closedir(dir);
	for (unsigned i = 0; i < count; i++)
		devices_leftover(b->devices, found[i]);
}

static void say_hello(struct broker *b)
{
	struct message m;

	message_init(&m, MSG_HELLO, 0);
	snprintf(m.body.hello.version, sizeof m.body.hello.version, "%s", FALLGATE_VERSION);
	m.body.hello.pid = (int32_t)getpid();
	tell(b, &m);
}

/* A machine short of memory may be waiting for a device that waits for this process. */
static void guard_against_reclaim(void)
{
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0 || mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
		log_warning("no guard against a machine short of memory (%s): start the agent as root", strerror(errno));
}

static int begin(struct broker *b, const char *run_dir)
{
	const struct devices_world world = { .context = b, .tell = tell, .give = give, .open_depth = open_depth };
	uint64_t mark = mark_of(run_dir);
	int r = wait_for_turn(run_dir);

	if (r == 0)
		r = ublk_control_open(&b->control);
	if (r == 0)
		r = devices_create(&b->devices, b->control, &world, mark);
	if (r != 0)
		return r;
	b->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (b->timer_fd < 0)
		return ERR_IO;
	channel_init(&b->supervisor, SUPERVISOR_FD, ROLE_UBLK, ROLE_SUPERVISOR);
	find_leftovers(b, mark);
	sandbox_write_only_beneath("/sys/devices/virtual"); /* said if not: what is left is what the filter allows */
	r = sandbox_keep_broker_rights();
	if (r == 0)
		r = sandbox_enter(SANDBOX_BROKER);
	if (r == 0)
		say_hello(b);
	return r;
}

/* ---- the loop ---- */

static void lose_supervisor(struct broker *b, const char *why)
{
	log_error("%s: all block devices are taken away", why);
	b->alone = true;
	devices_end(b->devices);
}

/* False: nothing more for now. */
static bool take_message(struct broker *b)
{
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count = 0;
	int r = channel_receive(&b->supervisor, &m, fds, &count, NULL);

	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
	if (r == 1)
		devices_take(b->devices, &m);
	else if (r != ERR_BUSY)
		lose_supervisor(b, r == ERR_PROTOCOL ? "the supervisor's message is none" : "the supervisor is gone");
	return r == 1;
}

static void set_timer(const struct broker *b)
{
	uint64_t due = devices_due_ns(b->devices);
	const struct itimerspec at = { .it_value = { .tv_sec = (time_t)(due / 1000000000u),
						     .tv_nsec = (long)(due % 1000000000u) } };

	timerfd_settime(b->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void round_once(struct broker *b)
{
	struct pollfd p[FD_COUNT + DEVICES_WATCHED_MAX] = {
		[FD_SUPERVISOR] = { .fd = b->alone ? -1 : b->supervisor.fd, .events = POLLIN },
		[FD_CONTROL] = { .fd = b->control->ops->fd(b->control), .events = POLLIN },
		[FD_TIMER] = { .fd = b->timer_fd, .events = POLLIN },
	};
	unsigned n = FD_COUNT + devices_watched(b->devices, p + FD_COUNT);
	uint64_t fired;

	set_timer(b);
	if (poll(p, n, -1) < 0 && errno != EINTR)
		fatal("poll: %s", strerror(errno));
	if (p[FD_TIMER].revents != 0 && read(b->timer_fd, &fired, sizeof fired) < 0)
		fired = 0; /* set anew meanwhile */
	devices_look(b->devices);
	for (int i = 0; p[FD_SUPERVISOR].revents != 0 && i < MESSAGES_A_ROUND && take_message(b); i++)
		continue;
}

static void block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

int main(int argc, char **argv)
{
	static struct broker b;
	const char *run_dir = parse_run_dir(argc, argv);
	int r;

	log_open("fallgate-ublk", LOG_LEVEL_INFO);
	if (sandbox_harden() != 0)
		fatal("the process could not be hardened");
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return printf("fallgate-ublk %s\n", FALLGATE_VERSION) > 0 ? 0 : 1;
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return fputs(help, stdout) >= 0 ? 0 : 1;
	if (run_dir == NULL) {
		fputs(help, stderr);
		return error_exit_code(ERR_USAGE);
	}
	block_signals();
	guard_against_reclaim();
	r = begin(&b, run_dir);
	if (r != 0)
		return error_exit_code(r);
	while (!b.alone || !devices_none(b.devices))
		round_once(&b);
	return 0;
}
