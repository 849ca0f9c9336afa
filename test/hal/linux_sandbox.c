/* The walls: each profile in a child of its own, what must go on working and what must not. Without seccomp (sanitizers) only the
 * rest of the hardening is looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/sandbox.h"

enum { KILLED = 1000, SKIPPED = 77 };

/* What a probe needs that only exists before the filter. */
static struct {
	int file, pair[2], listener;
	char file_name[64], socket_name[64];
} ready;

/* A probe returns 0 if the thing was done, else an errno. */
typedef int probe(void);

static int result(long r)
{
	return r < 0 ? errno : 0;
}

static int do_read_and_write(void)
{
	char c[16] = "0123456789abcde";
	struct iovec v = { c, sizeof c };

	if (pwrite(ready.file, c, 8, 0) != 8 || pread(ready.file, c, 8, 0) != 8 || preadv(ready.file, &v, 1, 0) != 8)
		return errno;
	return result(fdatasync(ready.file));
}

static int do_allocate(void)
{
	void *p = malloc(1 << 20);
	void *q = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r = p == NULL || q == MAP_FAILED ? ENOMEM : 0;

	if (r == 0)
		r = result(mprotect(q, 4096, PROT_NONE)) + result(madvise(q, 65536, MADV_DONTDUMP)) + result(munmap(q, 65536));
	free(p);
	return r;
}

static void *thread(void *arg)
{
	pthread_setname_np(pthread_self(), "probe");
	return arg;
}

static int do_thread(void)
{
	pthread_t t;
	int r = pthread_create(&t, NULL, thread, NULL);

	return r != 0 ? r : pthread_join(t, NULL);
}

static int do_messages(void)
{
	char c = 'x';
	int r = result(send(ready.pair[0], &c, 1, MSG_NOSIGNAL)) + result(recv(ready.pair[1], &c, 1, 0));

	return r + result(setsockopt(ready.pair[0], SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
}

static int do_wait(void)
{
	struct itimerspec in = { .it_value.tv_nsec = 1000000 };
	struct epoll_event e = { .events = EPOLLIN };
	int timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC), set = epoll_create1(EPOLL_CLOEXEC), r;
	uint64_t n;

	if (timer < 0 || set < 0)
		return errno;
	r = result(timerfd_settime(timer, 0, &in, NULL)) + result(epoll_ctl(set, EPOLL_CTL_ADD, timer, &e));
	r += epoll_wait(set, &e, 1, 1000) == 1 ? 0 : ETIMEDOUT;
	r += result(read(timer, &n, sizeof n)) + result(close(timer)) + result(close(set));
	return r + result(close(eventfd(0, EFD_CLOEXEC))) + result(usleep(100));
}

static int do_clock(void)
{
	struct timespec t;
	struct stat st;
	uint8_t random[16];

	return result(clock_gettime(CLOCK_BOOTTIME, &t)) + result(fstat(0, &st)) + result(getentropy(random, sizeof random));
}

static void on_signal(int s)
{
	(void)s;
}

static int do_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	signal(SIGUSR1, on_signal);
	if (raise(SIGUSR1) != 0)
		return errno;
	return pthread_sigmask(SIG_BLOCK, &all, NULL);
}

static int do_secret_memory(void)
{
	int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC), plain = memfd_create("x", MFD_CLOEXEC);

	if (plain < 0 || (fd < 0 && errno != ENOSYS))
		return errno;
	return result(ftruncate(plain, 4096)) + result(close(plain));
}

static int do_accept(void)
{
	int fd = accept4(ready.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	return fd < 0 && errno == EAGAIN ? 0 : result(fd);
}

static int do_isatty(void)
{
	return isatty(ready.file) == 0 ? errno : 0;
}

static int do_open(void)
{
	return result(open("/etc/passwd", O_RDONLY | O_CLOEXEC));
}

static int do_unlink(void)
{
	return result(unlink(ready.file_name));
}

static int do_socket(void)
{
	return result(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

static int do_netlink(void)
{
	return result(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
}

static int do_connect(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = "/nonexistent" };

	return result(connect(ready.pair[0], (struct sockaddr *)&to, sizeof to));
}

static int do_fork(void)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		return errno;
	if (child == 0)
		_exit(0);
	return result(waitpid(child, &status, 0));
}

static int do_exec(void)
{
	char *const nothing[] = { NULL };
	int status;
	pid_t child = vfork();

	if (child == 0) {
		execve("/bin/true", (char *const[]){ (char *)(uintptr_t) "true", NULL }, nothing);
		_exit(errno);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return errno;
	return WIFSIGNALED(status) ? KILLED : WEXITSTATUS(status);
}

static int do_exec_here(void)
{
	return result(execve("/nonexistent", (char *const[]){ NULL }, (char *const[]){ NULL }));
}

static int do_executable_memory(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0;
}

static int do_make_executable(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return result(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}

static int do_ptrace(void)
{
	return result(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
}

static int do_read_other_memory(void)
{
	char a[8], b[8];
	struct iovec l = { a, 8 }, r = { b, 8 };

	return result(process_vm_readv(getpid(), &l, 1, &r, 1, 0));
}

static int do_dumpable_again(void)
{
	return result(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

static int do_mount(void)
{
	return result(mount("none", "/nonexistent", "tmpfs", 0, NULL));
}

static int do_new_namespace(void)
{
	return result(unshare(CLONE_NEWUSER));
}

static int do_clone_namespace(void)
{
	long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);

	if (child == 0)
		_exit(0);
	return result(child);
}

static int do_clone3(void)
{
	return result(syscall(SYS_clone3, NULL, 0));
}

static int do_bpf(void)
{
	return result(syscall(SYS_bpf, 0, NULL, 0));
}

static int do_keyctl(void)
{
	return result(syscall(SYS_keyctl, 0, -3, 0));
}

static int do_kexec(void)
{
	return result(syscall(SYS_kexec_load, 0, 0, NULL, 0));
}

static int do_io_uring(void)
{
	return result(syscall(SYS_io_uring_setup, 0, NULL));
}

static int do_enter_ring(void)
{
	return result(syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0));
}

static int do_create(void)
{
	return result(open(ready.file_name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static int do_give_away(void)
{
	return result(fchownat(AT_FDCWD, ready.file_name, getuid(), getgid(), AT_SYMLINK_NOFOLLOW));
}

static int do_pidfd_getfd(void)
{
	return result(syscall(SYS_pidfd_getfd, -1, 0, 0));
}

static int do_userfaultfd(void)
{
	return result(syscall(SYS_userfaultfd, 0));
}

static int do_reboot(void)
{
	return result(syscall(SYS_reboot, 0, 0, 0, NULL)); /* without the magic numbers: EINVAL where it is allowed */
}

static int do_push_input(void)
{
	return result(ioctl(ready.pair[0], TIOCSTI, "x"));
}

static int do_unknown_call(void)
{
	return result(syscall(1000));
}

static int do_kill(void)
{
	return result(kill(getppid(), 0));
}

static int do_bind(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), r;

	if (fd < 0)
		return errno;
	strcpy(at.sun_path, ready.socket_name);
	r = result(bind(fd, (struct sockaddr *)&at, sizeof at)) + result(listen(fd, 4)) + result(unlink(at.sun_path));
	return r + result(close(fd));
}

static int do_limits_and_owner(void)
{
	struct rlimit limit;

	return result(prlimit(0, RLIMIT_NOFILE, NULL, &limit)) + result(fchown(ready.file, getuid(), getgid())) +
	       result(setresuid((uid_t)-1, (uid_t)-1, (uid_t)-1)) + result((long)syscall(SYS_pidfd_open, getpid(), 0));
}

#define SAME(n)                                                                                                                  \
	{                                                                                                                        \
		n, n, n, n, n, n, n                                                                                              \
	}

/* In the order of enum sandbox_profile: supervisor, dataplane, mgmt, serve, broker, hsm, tpm. 0: works. KILLED: SIGSYS. Else the
 * errno. */
/* clang-format off */
static const struct {
	const char *name;
	probe *run;
	int want[7];
} probes[] = {
	{ "open",              do_open,              { 0, EPERM, EPERM, EPERM, 0, 0, EPERM } },
	{ "exec here",         do_exec_here,         { ENOENT, KILLED, KILLED, KILLED, KILLED, ENOENT, KILLED } },
	{ "fork",              do_fork,              { 0, KILLED, KILLED, KILLED, KILLED, 0, KILLED } },
	{ "executable memory", do_executable_memory, { 0, KILLED, KILLED, KILLED, KILLED, 0, KILLED } },
	{ "make executable",   do_make_executable,   { 0, KILLED, KILLED, KILLED, KILLED, 0, KILLED } },
	{ "ptrace",            do_ptrace,            { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "other memory",      do_read_other_memory, { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "pidfd_getfd",       do_pidfd_getfd,       { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "socket",            do_socket,            { 0, EPERM, EPERM, EPERM, KILLED, 0, EPERM } },
	{ "netlink",           do_netlink,           { 0, EPERM, EPERM, EPERM, KILLED, 0, EPERM } },
	{ "connect",           do_connect,           { ENOENT, EPERM, EPERM, EPERM, KILLED, ENOENT, EPERM } },
	{ "unlink",            do_unlink,            { 0, EPERM, EPERM, EPERM, KILLED, 0, EPERM } },
	{ "dumpable again",    do_dumpable_again,    { 0, KILLED, KILLED, KILLED, KILLED, 0, KILLED } },
	{ "unknown call",      do_unknown_call,      { ENOSYS, KILLED, KILLED, KILLED, KILLED, ENOSYS, KILLED } },
	{ "TIOCSTI",           do_push_input,        { ENOTTY, KILLED, KILLED, KILLED, KILLED, ENOTTY, KILLED } },
	{ "kill",              do_kill,              { 0, KILLED, KILLED, KILLED, KILLED, 0, KILLED } },
	{ "mount",             do_mount,             { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "unshare",           do_new_namespace,     { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "clone namespace",   do_clone_namespace,   { ENOSYS, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "clone3",            do_clone3,            { ENOSYS, ENOSYS, KILLED, ENOSYS, KILLED, ENOSYS, KILLED } },
	{ "bpf",               do_bpf,               { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "keyctl",            do_keyctl,            { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "kexec",             do_kexec,             { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "reboot",            do_reboot,            { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "userfaultfd",       do_userfaultfd,       { EPERM, KILLED, KILLED, KILLED, KILLED, EPERM, KILLED } },
	{ "io_uring",          do_io_uring,          { EFAULT, KILLED, KILLED, KILLED, KILLED, ENOSYS, KILLED } },
	{ "enter a ring",      do_enter_ring,        { EBADF, KILLED, KILLED, EBADF, EBADF, ENOSYS, KILLED } },
	{ "create",            do_create,            { 0, EPERM, EPERM, EPERM, KILLED, 0, EPERM } },
	{ "give away",         do_give_away,         { 0, KILLED, KILLED, KILLED, 0, 0, KILLED } },
	{ "exec a program",    do_exec,              { 0, KILLED, KILLED, KILLED, KILLED, 0, KILLED } },
	{ "bind and listen",   do_bind,              { 0, EPERM, EPERM, EPERM, KILLED, 0, EPERM } },
	{ "limits and owner",  do_limits_and_owner,  { 0, KILLED, KILLED, KILLED, KILLED, 0, KILLED } },
	{ "read and write",    do_read_and_write,    { 0, 0, KILLED, 0, KILLED, 0, KILLED } },
	{ "thread",            do_thread,            { 0, 0, KILLED, 0, KILLED, 0, KILLED } },
	{ "secret memory",     do_secret_memory,     { 0, 0, KILLED, 0, KILLED, 0, 0 } },
	{ "accept",            do_accept,            { 0, 0, KILLED, 0, KILLED, 0, KILLED } },
	{ "allocate",          do_allocate,          SAME(0) },
	{ "messages",          do_messages,          SAME(0) },
	{ "wait",              do_wait,              SAME(0) },
	{ "clock",             do_clock,             SAME(0) },
	{ "signals",           do_signals,           SAME(0) },
	{ "isatty",            do_isatty,            SAME(ENOTTY) },
};
/* clang-format on */

static const char *const profile_names[] = { "supervisor", "dataplane", "mgmt", "serve", "broker", "hsm", "tpm" };

static int make_ready(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	(void)state;
	strcpy(ready.file_name, "/tmp/fallgate-sandbox-XXXXXX");
	ready.file = mkstemp(ready.file_name);
	snprintf(ready.socket_name, sizeof ready.socket_name, "%.40s.socket", ready.file_name);
	ready.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (ready.file < 0 || bind(ready.listener, (struct sockaddr *)&at, sizeof(sa_family_t)) != 0)
		return -1;
	if (listen(ready.listener, 1) != 0)
		return -1;
	return socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ready.pair);
}

static int drop_ready(void **state)
{
	(void)state;
	unlink(ready.file_name);
	close(ready.file);
	close(ready.listener);
	close(ready.pair[0]);
	close(ready.pair[1]);
	return 0;
}

/* The answer goes through shared memory: an exit code has 8 bits. */
static int run_in(enum sandbox_profile profile, probe *run)
{
	int *answer = mmap(NULL, sizeof *answer, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status, r;
	pid_t child;

	*answer = -1;
	child = fork();
	if (child == 0) {
		if (sandbox_harden() != 0 || sandbox_enter(profile) != 0)
			_exit(1);
		*answer = run();
		_exit(0);
	}
	waitpid(child, &status, 0);
	r = *answer;
	munmap(answer, sizeof *answer);
	if (WIFSIGNALED(status))
		return WTERMSIG(status) == SIGSYS ? KILLED : -WTERMSIG(status);
	return WEXITSTATUS(status) == 0 ? r : -1000;
}

static void skip_without_seccomp(void)
{
	if (strcmp(sandbox_kind(), "seccomp") == 0)
		return;
	print_message("this build has no filters: skipped\n");
	skip();
}

static void each_profile_allows_and_refuses_what_its_table_says(void **state)
{
	int wrong = 0;

	(void)state;
	skip_without_seccomp();
	for (size_t i = 0; i < sizeof probes / sizeof probes[0]; i++) {
		for (int p = 0; p < 7; p++) {
			int got;

			make_ready(NULL);
			got = run_in((enum sandbox_profile)p, probes[i].run);
			drop_ready(NULL);
			if (got != probes[i].want[p])
				print_error("%s: %s: %d, not %d\n", profile_names[p], probes[i].name, got, probes[i].want[p]);
			wrong += got != probes[i].want[p];
		}
	}
	assert_int_equal(wrong, 0);
}

/* A child of the supervisor lives under both filters. */
static int enter_mgmt_and_wait(void)
{
	return sandbox_enter(SANDBOX_MGMT) != 0 ? EPERM : do_wait() + do_messages();
}

static int enter_dataplane_and_work(void)
{
	return sandbox_enter(SANDBOX_DATAPLANE) != 0 ? EPERM
						     : do_read_and_write() + do_thread() + do_secret_memory() + do_accept();
}

static int make_ring_and_serve(void)
{
	uint64_t params[15] = { 0 }; /* struct io_uring_params */
	int fd = (int)syscall(SYS_io_uring_setup, 4, params), r;

	if (fd < 0)
		return errno == ENOSYS || errno == EPERM ? 0 : errno; /* not this kernel's, or switched off */
	r = sandbox_enter(SANDBOX_SERVE) != 0 ? EPERM : result(syscall(SYS_io_uring_enter, fd, 0, 0, 0, NULL, 0));
	return r + do_read_and_write() + do_thread() + do_secret_memory();
}

static int enter_hsm_and_work(void)
{
	return sandbox_enter(SANDBOX_HSM) != 0 ? EPERM : do_open() + do_thread() + do_socket() + do_exec();
}

static void children_of_the_supervisor_can_do_their_work(void **state)
{
	(void)state;
	skip_without_seccomp();
	assert_int_equal(run_in(SANDBOX_SUPERVISOR, enter_mgmt_and_wait), 0);
	assert_int_equal(run_in(SANDBOX_SUPERVISOR, enter_dataplane_and_work), 0);
	assert_int_equal(run_in(SANDBOX_SUPERVISOR, make_ring_and_serve), 0);
	assert_int_equal(run_in(SANDBOX_SUPERVISOR, enter_hsm_and_work), 0);
}

/* A thread that was there before the filter is under it as well. */
static pthread_barrier_t barrier;

static void *open_after_the_filter(void *answer)
{
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	*(int *)answer = do_open();
	return NULL;
}

static int filtered_in_another_thread(void)
{
	pthread_t t;
	int answer = 0;

	pthread_barrier_init(&barrier, NULL, 2);
	if (pthread_create(&t, NULL, open_after_the_filter, &answer) != 0)
		return -1;
	pthread_barrier_wait(&barrier);
	if (sandbox_enter(SANDBOX_DATAPLANE) != 0)
		return -2;
	pthread_barrier_wait(&barrier);
	pthread_join(t, NULL);
	return answer;
}

static void the_filter_is_over_all_threads(void **state)
{
	(void)state;
	skip_without_seccomp();
	assert_int_equal(run_in(SANDBOX_HSM, filtered_in_another_thread), EPERM);
}

static int hardened(void)
{
	struct rlimit core;

	if (sandbox_harden() != 0 || getrlimit(RLIMIT_CORE, &core) != 0)
		return 1;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return 2;
	if (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
		return 3;
	return core.rlim_cur == 0 && core.rlim_max == 0 ? 0 : 4;
}

static int in_child(int (*run)(void))
{
	int status;
	pid_t child = fork();

	if (child == 0)
		_exit(run());
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_hardened_process_has_no_way_up_and_leaves_no_core(void **state)
{
	(void)state;
	assert_int_equal(in_child(hardened), 0);
}

static int without_rights(void)
{
	if (sandbox_keep_no_rights() != 0)
		return 1;
	if (chroot("/") == 0 || chown("/tmp", 1, 1) == 0)
		return 2;
	return sandbox_keep_broker_rights() == ERR_DENIED ? 0 : 3; /* they do not come back */
}

static int with_the_brokers_rights(void)
{
	char name[] = "/tmp/fallgate-rights-XXXXXX";
	int fd = mkstemp(name), r;

	if (sandbox_keep_broker_rights() != 0)
		return 1;
	r = fchownat(AT_FDCWD, name, 65534, 65534, AT_SYMLINK_NOFOLLOW) != 0 ? 2 : 0;
	if (r == 0 && (setresuid(65533, 65533, 65533) == 0 || open(name, O_RDONLY | O_CLOEXEC) >= 0))
		r = 3;
	unlink(name);
	close(fd);
	return r;
}

static void rights_are_kept_as_named_and_no_others(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("only root has rights to keep: skipped\n");
		skip();
	}
	assert_int_equal(in_child(without_rights), 0);
	assert_int_equal(in_child(with_the_brokers_rights), 0);
}

static int confined(void)
{
	char folder[] = "/tmp/fallgate-beneath-XXXXXX", inside[64], outside[64];
	int r = 0;

	if (mkdtemp(folder) == NULL || sandbox_harden() != 0)
		return 1;
	snprintf(inside, sizeof inside, "%s/file", folder);
	snprintf(outside, sizeof outside, "%s-beside", folder);
	close(open(inside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	close(open(outside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	if (sandbox_write_only_beneath(folder) != 0)
		r = SKIPPED;
	else if (open(inside, O_WRONLY | O_CLOEXEC) < 0)
		r = 2;
	else if (open(inside, O_RDONLY | O_CLOEXEC) >= 0 || open(inside, O_RDWR | O_CLOEXEC) >= 0)
		r = 3;
	else if (open(outside, O_WRONLY | O_CLOEXEC) >= 0 || open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0)
		r = 4;
	else if (unlink(inside) == 0 || mkdir(inside, 0700) == 0)
		r = 5;
	return r;
}

static void files_are_confined_to_one_folder(void **state)
{
	int r;

	(void)state;
	r = in_child(confined);
	assert_int_equal(system("rm -rf /tmp/fallgate-beneath-*"), 0);
	if (r == SKIPPED) {
		print_message("no Landlock here: skipped\n");
		skip();
	}
	assert_int_equal(r, 0);
}

static int dropped(void)
{
	if (sandbox_harden() != 0 || sandbox_drop_to(65534, 65533) != 0)
		return 1;
	if (getuid() != 65534 || geteuid() != 65534 || getgid() != 65533 || getgroups(0, NULL) != 0)
		return 2;
	if (setuid(0) == 0 || seteuid(0) == 0 || setgid(0) == 0)
		return 3;
	if (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
		return 4;
	return open("/etc/shadow", O_RDONLY | O_CLOEXEC) < 0 ? 0 : 5;
}

static int dropped_to_root(void)
{
	return sandbox_drop_to(0, 65533) != 0 && sandbox_drop_to(65534, 0) != 0 && geteuid() == 0 ? 0 : 1;
}

static void dropped_rights_do_not_come_back(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("only root has rights to drop: skipped\n");
		skip();
	}
	assert_int_equal(in_child(dropped), 0);
	assert_int_equal(in_child(dropped_to_root), 0);
}

static int drop_as_nobody(void)
{
	if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0)
		return SKIPPED;
	return sandbox_drop_to(65533, 65533) != 0 ? 0 : 1;
}

static void who_has_no_rights_cannot_change_user(void **state)
{
	(void)state;
	assert_int_equal(in_child(drop_as_nobody), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_profile_allows_and_refuses_what_its_table_says),
		cmocka_unit_test_setup_teardown(children_of_the_supervisor_can_do_their_work, make_ready, drop_ready),
		cmocka_unit_test(the_filter_is_over_all_threads),
		cmocka_unit_test(a_hardened_process_has_no_way_up_and_leaves_no_core),
		cmocka_unit_test(rights_are_kept_as_named_and_no_others),
		cmocka_unit_test(files_are_confined_to_one_folder),
		cmocka_unit_test(dropped_rights_do_not_come_back),
		cmocka_unit_test(who_has_no_rights_cannot_change_user),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
