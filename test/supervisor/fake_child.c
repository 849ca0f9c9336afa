/* Children that fail on demand: started by the supervisor as fallgate-hsm, nbdkit or `fallgate-dataplane serve` (a serving
 * dataplane), fallgate-dataplane (a job), fallgate-ublk or fallgate-mgmt, it does what the file hsm.mode, dataplane.mode,
 * job.mode or broker.mode beside it says, read anew at every message. What must hold: in mode "good" it keeps the protocol, so
 * that whatever a test sees in another mode comes from that mode. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "ipc/channel.h"
#include "revocation/revocation.h"

static char dir[200];
static struct channel supervisor;
static uint32_t generation;
static char mode[64];

static void path_of(const char *name, char *out, size_t size)
{
	snprintf(out, size, "%s/%s", dir, name);
}

/* The mode as it stood when the order came: a test that changes it after the first answer means the next order. */
static void read_mode(const char *role)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s.mode", dir, role);
	f = fopen(path, "r");
	mode[0] = '\0';
	if (f != NULL && fgets(mode, sizeof mode, f) != NULL)
		mode[strcspn(mode, "\n")] = '\0';
	if (f != NULL)
		fclose(f);
}

static bool mode_is(const char *wanted)
{
	return strcmp(mode, wanted) == 0;
}

static void note(const char *file, const char *text)
{
	char path[256];
	int fd;

	path_of(file, path, sizeof path);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(9);
	close(fd);
}

_Noreturn static void hang(void)
{
	for (;;)
		pause();
}

static void tell(struct message *m)
{
	if (channel_send(&supervisor, m, NULL, 0) != 0)
		_exit(8);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- hsm ---- */

static void hsm_open(const struct message *q)
{
	struct message m;
	struct msg_hsm_opened *o = &m.body.hsm_opened;

	if (q->body.hsm_open.login_allowed)
		note("logins", "x");
	if (mode_is("hang-open"))
		hang();
	if (mode_is("slow-open"))
		usleep(250000);
	if (mode_is("slow-refuse-pin"))
		usleep(250000);
	message_init(&m, MSG_HSM_OPENED, q->nonce);
	o->type = KEK_AES_KW;
	o->bits = 256;
	if (mode_is("refuse-pin") || mode_is("slow-refuse-pin") || !q->body.hsm_open.login_allowed) {
		o->verdict = VERDICT_ACCESS_REVOKED;
		o->login_refused = q->body.hsm_open.login_allowed;
	} else if (mode_is("deleted")) {
		o->verdict = VERDICT_DELETED;
	} else if (mode_is("expired")) {
		strcpy(o->end_date, "20200101");
	}
	tell(&m);
}

static void hsm_probe(const struct message *q)
{
	struct message m;
	struct msg_hsm_verdict *v = &m.body.hsm_verdict;
	static int probes;

	if (mode_is("hang"))
		hang();
	if (mode_is("crash") || (mode_is("crash-second") && probes++ == 1))
		_exit(11);
	message_init(&m, MSG_HSM_VERDICT, q->nonce);
	memset(v->answer, mode_is("lie") ? 0x43 : 0x42, sizeof v->answer);
	if (mode_is("disabled"))
		v->verdict = VERDICT_DISABLED;
	if (mode_is("unreachable"))
		v->verdict = VERDICT_UNREACHABLE;
	tell(&m);
	if (mode_is("unasked"))
		tell(&m);
}

static void hsm_ticket(const struct message *q)
{
	struct message m;

	if (mode_is("hang-ticket"))
		hang();
	message_init(&m, MSG_HSM_VERDICT, q->nonce);
	if (mode_is("dek-refused"))
		m.body.hsm_verdict.verdict = VERDICT_DEK_REFUSED;
	tell(&m);
	if (mode_is("hang-at-end"))
		hang();
	_exit(mode_is("crash-at-end") ? 11 : 0);
}

static void hsm(const struct message *m)
{
	char who[16];

	if (m->type == MSG_HSM_OPEN)
		hsm_open(m);
	else if (m->type == MSG_HSM_PROBE)
		hsm_probe(m);
	else if (m->type == MSG_HSM_UNWRAP)
		hsm_ticket(m);
	else {
		snprintf(who, sizeof who, "%d\n", (int)getpid());
		note("left", who);
		_exit(0);
	}
}

/* ---- dataplane ---- */

static void wiped(uint32_t of, bool self, uint8_t cause)
{
	struct message m;
	uint64_t at = now() - (mode_is("wiped-before") ? 1000000000u : 0);

	message_init(&m, MSG_DP_WIPED, 0);
	m.body.dp_wiped = (struct msg_dp_wiped){ .generation = of, .self = self, .cause = cause, .cut_ns = at, .wiped_ns = at };
	tell(&m);
}

static void drained(void)
{
	struct message m;

	message_init(&m, MSG_DP_DRAINED, 0);
	m.body.dp_drained.drained_ns = now();
	tell(&m);
}

static void opened(uint64_t nonce, int error)
{
	struct message m;

	message_init(&m, MSG_DP_OPENED, nonce);
	m.body.dp_opened.generation = generation;
	m.body.dp_opened.error = error;
	strcpy(m.body.dp_opened.kernel, "fake");
	m.body.dp_opened.memory = 1;
	tell(&m);
}

static void ready(uint64_t nonce)
{
	struct message m;
	bool busy = mode_is("busy");

	if (mode_is("not-ready"))
		hang();
	message_init(&m, MSG_DP_READY, nonce);
	m.body.dp_ready.ok = !busy;
	m.body.dp_ready.error = busy ? ERR_BUSY : 0;
	if (mode_is("unasked")) /* after it, it could cross a ticket: then it is only an answer that comes late */
		opened(0, 0);
	tell(&m);
}

static void ticket(const struct message *q)
{
	generation = q->body.dp_ticket.generation;
	opened(q->nonce, mode_is("corrupt") ? ERR_CORRUPT : 0);
	if (mode_is("die")) {
		usleep(100000);
		_exit(12);
	}
	if (mode_is("self-lock")) {
		usleep(100000);
		wiped(generation, true, CAUSE_SUPERVISOR_LOST);
		drained();
		_exit(0);
	}
	if (mode_is("drained-first")) {
		usleep(100000);
		drained();
		hang();
	}
}

static void lock(void)
{
	if (mode_is("deaf"))
		hang();
	wiped(generation + (mode_is("stale") ? 7 : 0), false, CAUSE_COMMANDED);
	if (mode_is("slow-drain")) {
		usleep(700000);
		note("drains", "x");
	}
	drained();
	_exit(0);
}

static void dataplane(const struct message *m)
{
	if (m->type == MSG_DP_ATTACH)
		ready(m->nonce);
	else if (m->type == MSG_DP_TICKET)
		ticket(m);
	else if (m->type == MSG_DP_LOCK || m->type == MSG_DP_DETACH)
		lock();
}

/* ---- a job ---- */

static void job_done(int error, const char *text)
{
	struct message m;

	message_init(&m, MSG_DP_JOB_DONE, 0);
	m.body.dp_job_done =
		(struct msg_dp_job_done){ .error = error, .counts = { .checked = 7, .mended = 1, .repairable = 2, .lost = 3 } };
	strcpy(m.body.dp_job_done.text, text);
	tell(&m);
}

/* fds: the backing store, the client's pipe, its output, map and input. */
static void job_order(const struct message *q, const int *fds, unsigned count)
{
	char line[64];
	struct message m;
	int size = snprintf(line, sizeof line, "n %u descriptors, backing %s\n", count,
			    (fcntl(fds[0], F_GETFL) & O_ACCMODE) == O_RDONLY ? "read-only" : "writable");

	if (mode_is("hang-prepare"))
		hang();
	if (mode_is("die-preparing"))
		_exit(13);
	if (write(fds[1], line, (size_t)size) != size)
		_exit(9);
	message_init(&m, MSG_DP_READY, q->nonce);
	m.body.dp_ready.ok = !mode_is("not-ready");
	m.body.dp_ready.error = m.body.dp_ready.ok ? 0 : ERR_FOREIGN;
	if (!m.body.dp_ready.ok)
		strcpy(m.body.dp_ready.text, "another \033volume");
	tell(&m);
	if (mode_is("ready-twice"))
		tell(&m);
	if (mode_is("wiped-unasked"))
		wiped(1, false, 0);
}

static void job_ticket(const struct message *q)
{
	generation = q->body.dp_ticket.generation;
	if (mode_is("die"))
		_exit(14);
	if (mode_is("done-first"))
		job_done(0, "");
	if (mode_is("self-lock")) {
		usleep(100000);
		wiped(generation, true, CAUSE_UNREACHABLE);
		job_done(ERR_REVOKED, "the last good proof is too old");
		_exit(13);
	}
	if (!mode_is("good") && !mode_is("no-exit") && !mode_is("done-twice"))
		return; /* works without end, or until told */
	usleep(100000);
	wiped(generation, false, 0);
	job_done(0, "");
	if (mode_is("done-twice"))
		job_done(0, "");
	if (mode_is("no-exit") || mode_is("done-twice"))
		hang();
	_exit(0);
}

static void job_lock(void)
{
	if (mode_is("deaf"))
		hang();
	wiped(generation + (mode_is("stale") ? 7 : 0), false, CAUSE_COMMANDED);
	job_done(ERR_REVOKED, "by order");
	_exit(13);
}

static void job(const struct message *m, const int *fds, unsigned count)
{
	if (m->type == MSG_DP_JOB)
		job_order(m, fds, count);
	else if (m->type == MSG_DP_TICKET)
		job_ticket(m);
	else if (m->type == MSG_DP_LOCK)
		job_lock();
}

/* ---- the broker of block devices ---- */

enum { DEVICES = 4 };

/* As fallgate-ublk keeps them, without a kernel: a device goes when its server does, or waits for the next one. */
static struct device {
	char name[NAME_MAX_BYTES]; /* empty: free */
	unsigned number;
	uint64_t hold_ns, until_ns;
	int server; /* pidfd; -1: none */
	bool live;
} devices[DEVICES];

static struct device *device_named(const char *name)
{
	for (unsigned i = 0; i < DEVICES; i++)
		if (strcmp(devices[i].name, name) == 0)
			return &devices[i];
	return NULL;
}

static void order(const char *verb, const char *name, const char *more)
{
	char line[100];

	snprintf(line, sizeof line, "%s %s%s\n", verb, name, more);
	note("broker.orders", line);
}

static void gone(struct device *d, enum ub_reason reason)
{
	struct message m;

	message_init(&m, MSG_UB_GONE, 0);
	strcpy(m.body.ub_gone.name, d->name);
	m.body.ub_gone.reason = (uint8_t)reason;
	if (d->server >= 0)
		close(d->server);
	memset(d, 0, sizeof *d);
	tell(&m);
}

static void broker_add(const struct message *q)
{
	const struct msg_ub_add *a = &q->body.ub_add;
	struct device *d = device_named(a->name);
	bool kept = d != NULL && d->live && d->hold_ns != 0;
	static unsigned numbers;
	char more[40];
	struct message m;

	snprintf(more, sizeof more, " %llu%s", (unsigned long long)a->hold_ns, a->fetched ? " fetched" : "");
	order("ADD", a->name, more);
	if (mode_is("deaf"))
		hang();
	if (mode_is("die-at-add"))
		_exit(11);
	if (d != NULL && !kept)
		gone(d, UB_REMOVED);
	message_init(&m, MSG_UB_READY, q->nonce + (mode_is("stale") ? 1 : 0));
	strcpy(m.body.ub_ready.name, a->name);
	if (mode_is("no-ublk")) {
		m.body.ub_ready.error = ERR_UNSUPPORTED;
		strcpy(m.body.ub_ready.text, "the kernel has no \033ublk");
		tell(&m);
		return;
	}
	if (!kept) {
		d = device_named("");
		*d = (struct device){ .number = numbers++, .hold_ns = a->hold_ns, .server = -1 };
		strcpy(d->name, a->name);
	}
	m.body.ub_ready.device = d->number;
	m.body.ub_ready.queues = mode_is("nonsense") ? 0 : 2;
	m.body.ub_ready.depth = 64;
	m.body.ub_ready.kept = kept;
	tell(&m);
	if (mode_is("gone-when-ready"))
		gone(d, UB_FAILED);
}

static void broker_go(const struct message *q)
{
	struct device *d = device_named(q->body.ub_go.name);
	struct message m;
	bool good = !mode_is("go-fails");

	order("GO", q->body.ub_go.name, "");
	if (mode_is("hang-go"))
		return;
	if (mode_is("slow-go"))
		usleep(400000);
	if (mode_is("die-at-go"))
		_exit(11);
	if (d == NULL)
		_exit(7);
	d->live = good;
	d->server = (int)syscall(SYS_pidfd_open, q->body.ub_go.pid, 0);
	d->until_ns = 0;
	message_init(&m, MSG_UB_STARTED, q->nonce);
	strcpy(m.body.ub_started.name, d->name);
	m.body.ub_started.error = good ? 0 : ERR_IO;
	strcpy(m.body.ub_started.text, good ? "" : "START_DEV was refused");
	tell(&m);
	if (!good)
		gone(d, UB_FAILED);
}

static void broker(const struct message *m)
{
	struct device *d;

	switch (m->type) {
	case MSG_UB_ADD:
		broker_add(m);
		break;
	case MSG_UB_GO:
		broker_go(m);
		break;
	case MSG_UB_HOLD:
		order("HOLD", m->body.ub_hold.name, "");
		d = device_named(m->body.ub_hold.name);
		if (d != NULL)
			d->until_ns = m->body.ub_hold.until_ns;
		break;
	case MSG_UB_REMOVE:
		order("REMOVE", m->body.ub_remove.name, "");
		d = device_named(m->body.ub_remove.name);
		if (d != NULL)
			gone(d, UB_REMOVED);
		break;
	default:
		_exit(6);
	}
}

static void broker_look(void)
{
	for (unsigned i = 0; i < DEVICES; i++) {
		struct device *d = &devices[i];
		struct pollfd p = { .fd = d->server, .events = POLLIN };

		if (d->name[0] == '\0')
			continue;
		if (d->server >= 0 && poll(&p, 1, 0) == 1) {
			close(d->server);
			d->server = -1;
			if (d->until_ns == 0)
				d->until_ns = now() + d->hold_ns;
			if (d->hold_ns == 0) {
				gone(d, UB_SERVER_GONE);
				continue;
			}
		}
		if (d->server < 0 && d->live && d->until_ns != 0 && now() > d->until_ns)
			gone(d, UB_HOLD_OVER);
	}
	read_mode("broker");
	for (unsigned i = 0; i < DEVICES && mode_is("take-away"); i++)
		if (devices[i].name[0] != '\0')
			gone(&devices[i], UB_FAILED);
	if (mode_is("die"))
		_exit(12);
}

_Noreturn static void be_broker(void)
{
	struct message m;
	int fds[CHANNEL_FDS_MAX], r;
	unsigned count;

	for (;;) {
		r = channel_receive_wait(&supervisor, &m, fds, &count, NULL, 20);
		if (r == 1) {
			read_mode("broker");
			broker(&m);
		} else if (r != ERR_TIMEOUT) {
			_exit(0);
		}
		broker_look();
	}
}

static void mgmt(const struct message *m)
{
	(void)m;
}

/* What it was given: descriptors and environment, for the test that asks. */
static void describe(const char *file)
{
	extern char **environ;
	DIR *d = opendir("/proc/self/fd");
	char text[4096] = "";

	for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
			snprintf(text + strlen(text), sizeof text - strlen(text), "fd %s\n", e->d_name);
	closedir(d);
	for (char **e = environ; *e != NULL; e++)
		snprintf(text + strlen(text), sizeof text - strlen(text), "env %.100s\n", *e);
	note(file, text);
}

int main(int argc, char **argv)
{
	const char *base = strrchr(argv[0], '/');
	bool serves = base != NULL && strcmp(base, "/nbdkit") == 0, is_hsm = base != NULL && strcmp(base, "/fallgate-hsm") == 0;
	bool is_device = base != NULL && strcmp(base, "/fallgate-dataplane") == 0 && argc > 1 && strcmp(argv[1], "serve") == 0;
	bool is_job = base != NULL && strcmp(base, "/fallgate-dataplane") == 0 && !is_device;
	bool is_broker = base != NULL && strcmp(base, "/fallgate-ublk") == 0;
	int fds[CHANNEL_FDS_MAX];
	const char *role = is_broker ? "broker" : serves || is_device ? "dataplane" : is_hsm ? "hsm" : is_job ? "job" : "mgmt";
	char given[32];
	unsigned count;
	struct message m;

	if (base == NULL)
		return 2;
	snprintf(dir, sizeof dir, "%.*s", (int)(base - argv[0]), argv[0]);
	snprintf(given, sizeof given, "%s.given", role);
	describe(given);
	for (int i = 1; i < argc; i++) {
		note(given, argv[i]);
		note(given, "\n");
	}
	read_mode(role);
	if (is_job && mode_is("hang-start"))
		hang();
	if (is_broker && mode_is("die-at-start"))
		_exit(3);
	channel_init(&supervisor, serves ? 4 : 3,
		     serves || is_job || is_device ? ROLE_DATAPLANE
		     : is_hsm                      ? ROLE_HSM
		     : is_broker                   ? ROLE_UBLK
						   : ROLE_MGMT,
		     ROLE_SUPERVISOR);
	message_init(&m, MSG_HELLO, 0);
	strcpy(m.body.hello.version, FALLGATE_VERSION);
	m.body.hello.pid = getpid();
	if (is_hsm && mode_is("other-version"))
		strcpy(m.body.hello.version, "9.9.9");
	tell(&m);
	if (is_broker)
		be_broker();
	serves = serves || is_device;
	while (channel_receive_wait(&supervisor, &m, fds, &count, NULL, -1) == 1) {
		read_mode(role);
		if (is_job)
			job(&m, fds, count);
		while (count > 0)
			close(fds[--count]);
		if (serves)
			dataplane(&m);
		else if (is_hsm)
			hsm(&m);
		else if (!is_job)
			mgmt(&m);
	}
	return 0;
}
