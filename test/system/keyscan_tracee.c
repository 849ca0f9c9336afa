/* A process stopped under ptrace, and system calls that it is made to do. What must hold: each thread's registers are put back as
 * they were, so that a call it slept in starts anew; seccomp is suspended only while it is traced; every thread is detached. */
#include "keyscan.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 1024, SET_MAX = 16384, STOP_WAIT_MS = 2000, CODE_PAGE = 4096 };
#define SUSPEND_SECCOMP (1u << 21) /* PTRACE_O_SUSPEND_SECCOMP */

struct tracee {
	pid_t pid;
	pid_t threads[THREADS_MAX];
	size_t count;
	bool seccomp_suspended;
	uint64_t gate; /* the address of a system call instruction in it; 0: not looked for */
	int mem;
};

/* ---- the processor's words ---- */

#if defined(__x86_64__)
typedef struct user_regs_struct registers;
static const uint8_t gate_code[] = { 0x0f, 0x05 };
enum { GATE_STEP = 1, VECTOR_SET = 0x202 }; /* NT_X86_XSTATE */

static void set_call(registers *r, uint64_t gate, long number, const uint64_t a[6])
{
	r->rip = gate;
	r->rax = (unsigned long long)number;
	r->orig_rax = (unsigned long long)-1; /* no restart of the call it sleeps in, for now */
	r->rdi = a[0];
	r->rsi = a[1];
	r->rdx = a[2];
	r->r10 = a[3];
	r->r8 = a[4];
	r->r9 = a[5];
}

static long result_of(const registers *r)
{
	return (long)r->rax;
}
#elif defined(__aarch64__)
typedef struct user_regs_struct registers;
static const uint8_t gate_code[] = { 0x01, 0x00, 0x00, 0xd4 };
enum { GATE_STEP = 4, VECTOR_SET = NT_PRFPREG };

static void set_call(registers *r, uint64_t gate, long number, const uint64_t a[6])
{
	r->pc = gate;
	r->regs[8] = (unsigned long long)number;
	for (int i = 0; i < 6; i++)
		r->regs[i] = a[i];
}

static long result_of(const registers *r)
{
	return (long)r->regs[0];
}
#else
#error "keyscan knows the registers of x86-64 and aarch64"
#endif

/* ---- stopping and letting go ---- */

/* The signal that it stopped with; 0: it did not stop, or is gone. */
static int wait_stopped(pid_t thread)
{
	const struct timespec step = { .tv_nsec = 100000 };
	int status;

	for (int step_no = 0; step_no < STOP_WAIT_MS * 10; step_no++) {
		pid_t r = waitpid(thread, &status, __WALL | WNOHANG);

		if (r == thread)
			return WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
		if (r < 0)
			return 0;
		nanosleep(&step, NULL);
	}
	return 0;
}

static bool known(const struct tracee *t, pid_t thread)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->threads[i] == thread)
			return true;
	return false;
}

/* 1: stopped, 0: it ended meanwhile, -1: it could not be. */
static int stop_thread(struct tracee *t, pid_t thread)
{
	if (t->count == THREADS_MAX)
		return -1;
	if (ptrace(PTRACE_SEIZE, thread, 0, 0) != 0)
		return errno == ESRCH ? 0 : -1;
	if (ptrace(PTRACE_INTERRUPT, thread, 0, 0) != 0 || wait_stopped(thread) == 0)
		return errno == ESRCH ? 0 : -1;
	t->threads[t->count++] = thread;
	return 1;
}

/* How many threads were new; -1 on an error. */
static int stop_new_threads(struct tracee *t)
{
	char path[64];
	struct dirent *e;
	DIR *d;
	int fresh = 0;

	snprintf(path, sizeof path, "/proc/%d/task", (int)t->pid);
	d = opendir(path);
	if (d == NULL)
		return -1;
	while (fresh >= 0 && (e = readdir(d)) != NULL) {
		pid_t thread = (pid_t)atoi(e->d_name);
		int r = thread > 0 && !known(t, thread) ? stop_thread(t, thread) : 0;

		fresh = r < 0 ? -1 : fresh + r;
	}
	closedir(d);
	return fresh;
}

struct tracee *tracee_stop(pid_t pid)
{
	struct tracee *t = calloc(1, sizeof *t);
	char path[64];
	int fresh;

	if (t == NULL)
		abort();
	t->pid = pid;
	do
		fresh = stop_new_threads(t);
	while (fresh > 0);
	snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
	t->mem = open(path, O_RDONLY | O_CLOEXEC);
	if (fresh == 0 && t->count > 0 && t->mem >= 0)
		return t;
	fprintf(stderr, "keyscan: process %d cannot be stopped: %s\n", (int)pid, strerror(errno));
	tracee_release(t);
	return NULL;
}

void tracee_release(struct tracee *t)
{
	for (size_t i = 0; i < t->count; i++)
		if (ptrace(PTRACE_DETACH, t->threads[i], 0, 0) != 0)
			fprintf(stderr, "keyscan: thread %d was not let go: %s\n", (int)t->threads[i], strerror(errno));
	if (t->mem >= 0)
		close(t->mem);
	free(t);
}

/* ---- registers ---- */

static bool read_set(pid_t thread, int set, uint8_t *out, size_t *size)
{
	struct iovec v = { .iov_base = out, .iov_len = SET_MAX };

	if (ptrace(PTRACE_GETREGSET, thread, (void *)(uintptr_t)set, &v) != 0)
		return false;
	*size = v.iov_len;
	return true;
}

size_t tracee_registers(struct tracee *t, tracee_take *take, void *context)
{
	static const struct {
		int set;
		const char *name;
	} sets[] = { { NT_PRSTATUS, "general registers" }, { VECTOR_SET, "vector registers" } };
	static uint8_t data[SET_MAX];
	size_t blind = 0, size;
	char where[64];

	for (size_t i = 0; i < t->count; i++) {
		for (size_t j = 0; j < sizeof sets / sizeof sets[0]; j++) {
			snprintf(where, sizeof where, "thread %d %s", (int)t->threads[i], sets[j].name);
			if (read_set(t->threads[i], sets[j].set, data, &size)) {
				take(context, where, data, size);
			} else {
				fprintf(stderr, "keyscan: %s cannot be read: %s\n", where, strerror(errno));
				blind++;
			}
		}
	}
	return blind;
}

/* ---- calls ---- */

/* The filter would answer the injected call as it answers the process's own. */
static bool suspend_seccomp(struct tracee *t)
{
	unsigned options = SUSPEND_SECCOMP | PTRACE_O_TRACESYSGOOD;

	if (t->seccomp_suspended)
		return true;
	if (ptrace(PTRACE_SETOPTIONS, t->threads[0], 0, (void *)(uintptr_t)options) != 0) {
		fprintf(stderr, "keyscan: seccomp of process %d cannot be suspended: %s\n", (int)t->pid, strerror(errno));
		return false;
	}
	t->seccomp_suspended = true;
	return true;
}

static uint64_t find_code(const struct tracee *t, uint64_t from, uint64_t to)
{
	static uint8_t page[CODE_PAGE];

	for (; from < to; from += CODE_PAGE) {
		if (pread(t->mem, page, sizeof page, (off_t)from) != (ssize_t)sizeof page)
			return 0;
		for (size_t at = 0; at + sizeof gate_code <= sizeof page; at += GATE_STEP)
			if (memcmp(page + at, gate_code, sizeof gate_code) == 0)
				return from + at;
	}
	return 0;
}

static uint64_t find_gate(struct tracee *t)
{
	unsigned long long from, to;
	char path[64], line[1024], rights[8];
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/maps", (int)t->pid);
	f = fopen(path, "r");
	while (t->gate == 0 && f != NULL && fgets(line, sizeof line, f) != NULL)
		if (sscanf(line, "%llx-%llx %7s", &from, &to, rights) == 3 && rights[2] == 'x' && strstr(line, "[vsys") == NULL)
			t->gate = find_code(t, from, to);
	if (f != NULL)
		fclose(f);
	return t->gate;
}

/* Runs to the next edge of a system call. A process that a signal had stopped says so first, perhaps more than once. */
static bool run_to_edge(pid_t thread)
{
	for (int tries = 0; tries < 8; tries++) {
		int signal;

		if (ptrace(PTRACE_SYSCALL, thread, 0, 0) != 0)
			return false;
		signal = wait_stopped(thread);
		if (signal == 0 || signal == (SIGTRAP | 0x80))
			return signal != 0;
	}
	return false;
}

/* The first thread does one call. Its result, or -ENOSYS if it could not be made to. */
static long call(struct tracee *t, long number, uint64_t a, uint64_t b, uint64_t c)
{
	pid_t thread = t->threads[0];
	registers was, now;
	struct iovec v = { .iov_base = &was, .iov_len = sizeof was };
	long result = -ENOSYS;

	if (find_gate(t) == 0 || ptrace(PTRACE_GETREGSET, thread, (void *)NT_PRSTATUS, &v) != 0)
		return -ENOSYS;
	now = was;
	set_call(&now, t->gate, number, (const uint64_t[6]){ a, b, c });
	v.iov_base = &now;
	if (ptrace(PTRACE_SETREGSET, thread, (void *)NT_PRSTATUS, &v) == 0 && run_to_edge(thread) && run_to_edge(thread) &&
	    ptrace(PTRACE_GETREGSET, thread, (void *)NT_PRSTATUS, &v) == 0)
		result = result_of(&now);
	v = (struct iovec){ .iov_base = &was, .iov_len = sizeof was };
	if (ptrace(PTRACE_SETREGSET, thread, (void *)NT_PRSTATUS, &v) != 0)
		fprintf(stderr, "keyscan: registers of thread %d were not put back: %s\n", (int)thread, strerror(errno));
	return result;
}

/* ---- secret memory ---- */

/* Any readable text in the process does as a name: the first bytes of a mapped ELF file are one. */
static long make_memfd(struct tracee *t)
{
	unsigned long long from;
	char path[64], line[1024], start[8];
	long fd = -ENOENT;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/maps", (int)t->pid);
	f = fopen(path, "r");
	while (fd == -ENOENT && f != NULL && fgets(line, sizeof line, f) != NULL)
		if (sscanf(line, "%llx", &from) == 1 && strstr(line, " r--p 00000000 ") != NULL &&
		    pread(t->mem, start, sizeof start, (off_t)from) == (ssize_t)sizeof start &&
		    memcmp(start, ELFMAG, SELFMAG) == 0)
			fd = call(t, SYS_memfd_create, from, MFD_CLOEXEC, 0);
	if (f != NULL)
		fclose(f);
	return fd;
}

/* Reads what the process wrote, and wipes it there. */
static bool collect(const struct tracee *t, long fd, uint8_t *out, size_t size)
{
	char path[64];
	uint8_t *shared;
	int mine;

	snprintf(path, sizeof path, "/proc/%d/fd/%ld", (int)t->pid, fd);
	mine = open(path, O_RDWR | O_CLOEXEC);
	shared = mine >= 0 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, mine, 0) : MAP_FAILED;
	if (mine >= 0)
		close(mine);
	if (shared == MAP_FAILED)
		return false;
	memcpy(out, shared, size);
	explicit_bzero(shared, size);
	munmap(shared, size);
	return true;
}

static bool write_all(struct tracee *t, long fd, uint64_t address, size_t size)
{
	for (size_t done = 0; done < size;) {
		long n = call(t, SYS_write, (uint64_t)fd, address + done, size - done);

		if (n <= 0) {
			fprintf(stderr, "keyscan: process %d: write of secret memory: %s\n", (int)t->pid, strerror((int)-n));
			return false;
		}
		done += (size_t)n;
	}
	return true;
}

int tracee_read_secret(struct tracee *t, uint64_t address, size_t size, bool readable, uint8_t *out)
{
	bool good;
	long fd;

	if (!suspend_seccomp(t))
		return -1;
	fd = make_memfd(t);
	if (fd < 0) {
		fprintf(stderr, "keyscan: process %d: memfd_create: %s\n", (int)t->pid, strerror((int)-fd));
		return -1;
	}
	if (!readable)
		call(t, SYS_mprotect, address, size, PROT_READ);
	good = write_all(t, fd, address, size) && collect(t, fd, out, size);
	if (!readable)
		call(t, SYS_mprotect, address, size, PROT_NONE);
	call(t, SYS_close, (uint64_t)fd, 0, 0);
	return good ? 0 : -1;
}
