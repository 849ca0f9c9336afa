/* Preloaded into a process of the agent by tests: kills it at a chosen message, or lies to it about the time. What must hold:
 * without an order in the shared file nothing is changed; the file is mapped before the process shuts itself in, and nothing is
 * opened later. FALLGATE_SHIM_FILE names the file (struct shim_orders), FALLGATE_SHIM_ROLE the number of the process's role. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ipc/message.h"

enum { ROLES = 8, POINTS = 3, TYPES = 64, HEADER = offsetof(struct message, body) };
enum shim_point { BEFORE_SEND, AFTER_SEND, AFTER_RECEIVE };

/* All 32-bit words but the clocks; test/system/shim.py has the same. */
struct shim_orders {
	atomic_uint armed; /* 1: kill; the killed sets it to 2 */
	atomic_uint role, point, type, nth;
	atomic_uint state; /* 0, or 1 + the state that a MG_VOLUME must tell */
	atomic_uint killed_pid;
	atomic_uint clock_role;
	atomic_llong boot_ns, wall_ns; /* added to what that role's clocks say */
	atomic_uint seen[ROLES][POINTS][TYPES];
	atomic_uint states[ROLES][POINTS][TYPES]; /* of MG_VOLUME, by state */
};

static struct shim_orders *orders;
static unsigned role;
static ssize_t (*real_send)(int, const struct msghdr *, int);
static ssize_t (*real_receive)(int, struct msghdr *, int);
static int (*real_clock)(clockid_t, struct timespec *);
static time_t (*real_time)(time_t *);

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FALLGATE_SHIM_FILE"), *number = getenv("FALLGATE_SHIM_ROLE");
	int fd = path != NULL && number != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *at;

	real_send = (ssize_t(*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
	real_receive = (ssize_t(*)(int, struct msghdr *, int))dlsym(RTLD_NEXT, "recvmsg");
	real_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	real_time = (time_t(*)(time_t *))dlsym(RTLD_NEXT, "time");
	if (fd < 0)
		return;
	role = (unsigned)atoi(number) % ROLES;
	at = mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at != MAP_FAILED)
		orders = at;
}

/* ---- messages ---- */

static void die(void)
{
	atomic_store(&orders->killed_pid, (unsigned)getpid());
	atomic_store(&orders->armed, 2);
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGKILL);
	__builtin_trap();
}

static unsigned state_told(const struct message *m)
{
	return m->type == MSG_MG_VOLUME ? m->body.mg_volume.state % TYPES : 0;
}

static void look(const struct message *m, enum shim_point point)
{
	unsigned state = atomic_load(&orders->state);

	atomic_fetch_add(&orders->seen[role][point][m->type], 1);
	if (m->type == MSG_MG_VOLUME)
		atomic_fetch_add(&orders->states[role][point][state_told(m)], 1);
	if (atomic_load(&orders->armed) != 1 || atomic_load(&orders->role) != role || atomic_load(&orders->point) != point ||
	    atomic_load(&orders->type) != m->type || (state != 0 && state_told(m) != state - 1))
		return;
	if (atomic_fetch_sub(&orders->nth, 1) == 1)
		die();
}

/* A message of the agent, whole; anything else that passes a socket is not looked at. */
static const struct message *message_in(const struct msghdr *h, ssize_t size)
{
	const struct message *m = h->msg_iovlen == 1 ? h->msg_iov[0].iov_base : NULL;

	if (orders == NULL || m == NULL || size < HEADER || m->type == MSG_NONE || m->type >= MSG_TYPE_COUNT ||
	    m->type >= TYPES || (size_t)size != HEADER + (size_t)m->size)
		return NULL;
	return m;
}

ssize_t sendmsg(int fd, const struct msghdr *h, int flags)
{
	const struct message *m = message_in(h, (ssize_t)(h->msg_iovlen == 1 ? h->msg_iov[0].iov_len : 0));
	ssize_t r;

	if (m != NULL)
		look(m, BEFORE_SEND);
	r = real_send(fd, h, flags);
	if (m != NULL && r > 0)
		look(m, AFTER_SEND);
	return r;
}

ssize_t recvmsg(int fd, struct msghdr *h, int flags)
{
	ssize_t r = real_receive(fd, h, flags);
	const struct message *m = message_in(h, r);

	if (m != NULL)
		look(m, AFTER_RECEIVE);
	return r;
}

/* ---- clocks ---- */

static long long lie(clockid_t clock)
{
	if (orders == NULL || atomic_load(&orders->clock_role) != role)
		return 0;
	if (clock == CLOCK_BOOTTIME)
		return atomic_load(&orders->boot_ns);
	return clock == CLOCK_REALTIME ? atomic_load(&orders->wall_ns) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
	int r = real_clock(clock, t);
	long long ns = lie(clock);

	if (r == 0 && ns != 0) {
		ns += (long long)t->tv_sec * 1000000000 + t->tv_nsec;
		t->tv_sec = ns / 1000000000;
		t->tv_nsec = ns % 1000000000;
	}
	return r;
}

time_t time(time_t *out)
{
	time_t t = real_time(NULL) + (time_t)(lie(CLOCK_REALTIME) / 1000000000);

	if (out != NULL)
		*out = t;
	return t;
}
