/* See offline.h. The main thread takes orders and keeps the deadlines; a worker touches the device and what the client gave,
 * first to find the wrapped key, then, with the key loaded, to do the verb. The main thread never waits for the worker while a
 * key is here. */
#include "offline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "control.h"
#include "hal/block.h"
#include "hal/sandbox.h"
#include "ipc/channel.h"
#include "keyslot.h"
#include "pins.h"
#include "volume/offline.h"

enum {
	SUBKEYS = 64,
	ORDERS_A_ROUND = 16,
	LINE_TEXT_MAX = 200,
	LOOK_MS = 100,              /* how often a finding that waits for the pipe looks whether the job was called off */
	PROGRESS_NS = 100000000,    /* no more lines of progress than the eye can follow */
	WORKER_ENDS_MS = 500,       /* after a lock: the keys are gone, but what was found so far is worth a moment */
	BACKUP_MAX_BYTES = 1 << 20, /* of a header: more than any has */
	EXIT_BROKEN_PROTOCOL = 70,
};
#define HEARTBEAT_NS 2000000000u

enum phase {
	PHASE_BARE,      /* no order yet */
	PHASE_PREPARING, /* the worker looks for the wrapped key */
	PHASE_READY,     /* waits for a ticket */
	PHASE_ASKING,    /* the one-shot hsm has the page */
	PHASE_RUNNING,
	PHASE_COUNT
};

struct job {
	struct channel supervisor;
	int timer_fd, wake_fd;
	enum phase phase;
	uint64_t heartbeat_ns, proof_ns; /* CLOCK_BOOTTIME; 0: none yet */
	struct msg_dp_job order;
	uint64_t order_nonce;
	enum offline_verb verb;
	int backing_fd, text_fd, output_fd, map_fd, input_fd; /* -1: none; backing: given to dev once that is there */
	struct block *dev;
	struct kek_slot slot;
	struct keyring *ring;
	struct keyslot key;
	uint32_t generation;
	pthread_t worker;
	atomic_bool worker_done, called_off, deaf; /* deaf: the client does not take lines any more */
	uint64_t next_progress_ns;                 /* the worker's */
	/* the worker's, read when it is done */
	int error;
	char text[TEXT_MAX_BYTES];
	struct offline_result result;
};

static const enum offline_verb verbs[JOB_VERB_COUNT] = {
	[JOB_CHECK] = OFFLINE_CHECK,           [JOB_SCRUB] = OFFLINE_SCRUB,     [JOB_DUMP] = OFFLINE_DUMP,
	[JOB_REPAIR_LOG] = OFFLINE_REPAIR_LOG, [JOB_SALVAGE] = OFFLINE_SALVAGE, [JOB_HEADER_RESTORE] = OFFLINE_HEADER_RESTORE,
};

static int __attribute__((format(printf, 3, 4))) fail(struct job *j, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(j->text, sizeof j->text, format, args);
	va_end(args);
	return error;
}

static void wake(struct job *j)
{
	uint64_t one = 1;

	if (write(j->wake_fd, &one, sizeof one) < 0)
		return; /* the counter is full: it is raised */
}

/* ---- telling the supervisor ---- */

static void tell_ready(struct job *j)
{
	struct message m;

	message_init(&m, MSG_DP_READY, j->order_nonce);
	m.body.dp_ready.ok = j->error == 0;
	m.body.dp_ready.error = j->error;
	m.body.dp_ready.size = j->error == 0 ? j->order.volume.size : 0;
	if (j->error != 0)
		snprintf(m.body.dp_ready.text, sizeof m.body.dp_ready.text, "%s", j->text);
	channel_send(&j->supervisor, &m, NULL, 0);
}

static void tell_wiped(struct job *j, uint8_t cause, bool self, uint64_t cut_ns)
{
	struct message m;

	message_init(&m, MSG_DP_WIPED, j->order_nonce);
	m.body.dp_wiped = (struct msg_dp_wiped){
		.generation = j->generation, .cause = cause, .self = self, .cut_ns = cut_ns, .wiped_ns = boot_now_ns()
	};
	channel_send(&j->supervisor, &m, NULL, 0);
}

static void tell_done(struct job *j, int error, const char *text, const struct job_counts *counts)
{
	struct message m;
	struct msg_dp_job_done *d = &m.body.dp_job_done;

	message_init(&m, MSG_DP_JOB_DONE, j->order_nonce);
	d->error = error;
	d->counts = *counts;
	snprintf(d->text, sizeof d->text, "%s", text);
	channel_send(&j->supervisor, &m, NULL, 0);
}

/* ---- telling the client ---- */

static void gone_deaf(struct job *j)
{
	atomic_store(&j->deaf, true);
	atomic_store(&j->called_off, true);
}

/* At most PIPE_BUF bytes: whole or not at all. True: taken. */
static bool write_line(struct job *j, const char *line, size_t size)
{
	ssize_t n = write(j->text_fd, line, size);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		gone_deaf(j);
	return n == (ssize_t)size;
}

static void say(void *context, enum offline_severity severity, const char *text)
{
	static const char letters[] = {
		[OFFLINE_NOTE] = 'n', [OFFLINE_MENDED] = 'm', [OFFLINE_REPAIRABLE] = 'r', [OFFLINE_LOSS] = 'l'
	};
	struct job *j = context;
	struct pollfd p = { .fd = j->text_fd, .events = POLLOUT };
	char shown[LINE_TEXT_MAX + 1], line[LINE_TEXT_MAX + 8];
	int size = snprintf(line, sizeof line, "%c %s\n", letters[severity], log_printable(shown, sizeof shown, text));

	while (!atomic_load(&j->called_off) && !write_line(j, line, (size_t)size))
		poll(&p, 1, LOOK_MS);
}

static bool progress(void *context, uint64_t done, uint64_t total)
{
	struct job *j = context;
	uint64_t now = boot_now_ns();
	char line[64];
	int size;

	if (done >= total || now >= j->next_progress_ns) {
		j->next_progress_ns = now + PROGRESS_NS;
		size = snprintf(line, sizeof line, "p %llu %llu\n", (unsigned long long)(done < total ? done : total),
				(unsigned long long)total);
		write_line(j, line, (size_t)size);
	}
	return !atomic_load(&j->called_off);
}

/* ---- the worker: preparing ---- */

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* One descriptor that the client gave. It opened it, and may be wrong about what it is. */
static int check_given(struct job *j, const char *what, int fd, bool writes)
{
	int mode = fcntl(fd, F_GETFL);
	struct stat given, backing;

	if (mode < 0 || fstat(fd, &given) != 0 || fstat(j->backing_fd, &backing) != 0)
		return fail(j, ERR_IO, "the %s: %s", what, strerror(errno));
	if (!S_ISREG(given.st_mode))
		return fail(j, ERR_UNSUPPORTED, "the %s must be a regular file", what);
	if (same_file(&given, &backing))
		return fail(j, ERR_USAGE, "the %s is the volume's own backing store: name another file", what);
	if ((mode & O_ACCMODE) == (writes ? O_RDONLY : O_WRONLY) || (mode & (O_PATH | O_APPEND)) != 0)
		return fail(j, ERR_USAGE, "the %s is not open for %s", what, writes ? "writing" : "reading");
	return 0;
}

/* Salvage alone has a map. */
static int check_data(struct job *j)
{
	const struct offline_needs *needs = &offline_needs[j->verb];
	const struct {
		const char *what;
		int fd;
		bool writes, needed, taken;
	} rows[] = {
		{ "output", j->output_fd, true, needs->output, needs->output },
		{ "map", j->map_fd, true, false, needs->output },
		{ "header backup", j->input_fd, false, needs->input, needs->input || needs->input_helps },
	};
	int r = 0;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0] && r == 0; i++) {
		bool there = rows[i].fd >= 0;

		if (there ? !rows[i].taken : rows[i].needed)
			r = fail(j, ERR_USAGE, "%s %s %s", needs->name, there ? "takes no" : "needs its", rows[i].what);
		else if (there)
			r = check_given(j, rows[i].what, rows[i].fd, rows[i].writes);
	}
	return r;
}

static int check_pipe(struct job *j)
{
	struct stat st;
	int mode = fcntl(j->text_fd, F_GETFL);

	if (mode < 0 || (mode & O_ACCMODE) != O_WRONLY || fstat(j->text_fd, &st) != 0 || !S_ISFIFO(st.st_mode) ||
	    fcntl(j->text_fd, F_SETFL, mode | O_NONBLOCK) != 0)
		return fail(j, ERR_USAGE, "the descriptor for the job's lines is not the writing end of a pipe");
	return 0;
}

/* The whole file, or an error. *bytes is the caller's to free. */
static int read_backup(struct job *j, uint8_t **bytes, size_t *size)
{
	struct stat st;
	ssize_t n;

	if (fstat(j->input_fd, &st) != 0)
		return fail(j, ERR_IO, "the header backup: %s", strerror(errno));
	if (st.st_size <= 0 || st.st_size > BACKUP_MAX_BYTES)
		return fail(j, ERR_FOREIGN, "a file of %lld bytes is no header backup", (long long)st.st_size);
	*bytes = malloc((size_t)st.st_size);
	if (*bytes == NULL)
		return fail(j, ERR_NOMEM, "%s", error_text(ERR_NOMEM));
	*size = 0;
	do {
		n = pread(j->input_fd, *bytes + *size, (size_t)st.st_size - *size, (off_t)*size);
		*size += n > 0 ? (size_t)n : 0;
	} while ((n > 0 && *size < (size_t)st.st_size) || (n < 0 && errno == EINTR));
	return *size == (size_t)st.st_size ? 0 : fail(j, ERR_IO, "the header backup cannot be read");
}

static int slot_from_backup(struct job *j, struct volume_header_info *info)
{
	char why[160] = "", text[160] = "";
	uint8_t *bytes = NULL;
	size_t size = 0;
	int r = read_backup(j, &bytes, &size);

	if (r == 0 && (r = volume_read_header_backup(bytes, size, info, why, sizeof why)) != 0)
		r = fail(j, r, "the header backup: %s%s%s", error_text(r), why[0] != '\0' ? ": " : "", why);
	else if (r == 0 && (r = pins_agree(&j->order.volume, info, &j->slot, text, sizeof text)) != 0)
		r = fail(j, r, "the header backup: %s", text);
	free(bytes);
	return r;
}

static int slot_from_device(struct job *j, struct volume_header_info *info)
{
	char why[160] = "";
	int r = volume_read_header(j->dev, info, why, sizeof why);

	if (r == 0)
		return pins_agree(&j->order.volume, info, &j->slot, j->text, sizeof j->text);
	return fail(j, r, "the header: %s%s%s%s", error_text(r), why[0] != '\0' ? ": " : "", why,
		    r == ERR_CORRUPT || r == ERR_FOREIGN ? "; a backup of it can be brought back with header-restore" : "");
}

/* A backup that is given stands for the headers: there may be nothing else left to take the wrapped key from. */
static int find_slot(struct job *j)
{
	struct volume_header_info *info = calloc(1, sizeof *info);
	int r;

	if (info == NULL)
		return fail(j, ERR_NOMEM, "%s", error_text(ERR_NOMEM));
	r = j->input_fd >= 0 ? slot_from_backup(j, info) : slot_from_device(j, info);
	free(info);
	return r;
}

static int prepare(struct job *j)
{
	int r = check_pipe(j);

	if (r == 0)
		r = check_data(j);
	if (r != 0)
		return r;
	r = block_open_fd(&j->dev, j->backing_fd);
	if (r != 0)
		return fail(j, r, "the backing store: %s", error_text(r));
	j->backing_fd = -1;
	return find_slot(j);
}

static void *prepare_thread(void *context)
{
	struct job *j = context;

	j->error = prepare(j);
	atomic_store(&j->worker_done, true);
	wake(j);
	return NULL;
}

/* ---- the worker: the verb ---- */

static int make_durable(struct job *j, int fd, const char *what)
{
	if (fd < 0 || fsync(fd) == 0)
		return 0;
	return fail(j, error_from_errno(errno), "the %s: %s", what, strerror(errno));
}

static int run(struct job *j)
{
	const struct job_options *asked = &j->order.options;
	const struct offline_options options = { .accept_loss = asked->accept_loss,
						 .repair = asked->repair,
						 .kcv = j->order.volume.kcv,
						 .output_fd = j->output_fd,
						 .map_fd = j->map_fd,
						 .input_fd = j->input_fd,
						 .dump_at = asked->dump_at,
						 .assume_4k = j->order.volume.assume_4k };
	const struct offline_sink sink = { .context = j, .say = say, .progress = progress };
	char why[160] = "";
	int r = volume_offline(j->verb, j->dev, j->ring, &options, &sink, &j->result, why, sizeof why);

	keyring_wipe(j->ring);     /* a slow disk under the output must not keep them */
	if (atomic_load(&j->deaf)) /* what was found, nobody knows */
		r = fail(j, ERR_STATE, "the client does not take the job's lines any more");
	else if (r == 0)
		r = make_durable(j, j->output_fd, "output");
	else
		fail(j, r, "%s", why[0] != '\0' ? why : error_text(r));
	return r == 0 ? make_durable(j, j->map_fd, "map") : r;
}

static void *run_thread(void *context)
{
	struct job *j = context;

	j->error = run(j);
	atomic_store(&j->worker_done, true);
	wake(j);
	return NULL;
}

static int start_worker(struct job *j, void *(*body)(void *))
{
	atomic_store(&j->worker_done, false);
	return pthread_create(&j->worker, NULL, body, j) == 0 ? 0 : fail(j, ERR_NOMEM, "no thread can be had");
}

/* ---- the end ---- */

static void shut_keys(struct job *j)
{
	keyslot_close(&j->key);
	if (j->ring != NULL)
		keyring_wipe(j->ring);
}

static void wait_for_worker(struct job *j)
{
	const struct timespec step = { .tv_nsec = 5000000 };

	for (int ms = 0; ms < WORKER_ENDS_MS && !atomic_load(&j->worker_done); ms += 5)
		nanosleep(&step, NULL);
}

/* The worker may be deep in the device: its buffers, the lock on the backing store and the descriptors end with the process. */
_Noreturn static void fall(struct job *j, uint8_t cause, bool self, const char *why)
{
	struct job_counts found = { 0 };
	uint64_t cut_ns = boot_now_ns();

	atomic_store(&j->called_off, true);
	shut_keys(j);
	tell_wiped(j, cause, self, cut_ns);
	log_notice("volume %s: the job is ended: %s: keys are wiped", j->order.volume.name, why);
	if (j->phase == PHASE_RUNNING)
		wait_for_worker(j);
	if (atomic_load(&j->worker_done)) /* else they are the worker's still; what does not open without a key is no damage */
		found = (struct job_counts){ .checked = j->result.checked, .mended = j->result.mended };
	tell_done(j, ERR_REVOKED, why, &found);
	_exit(error_exit_code(ERR_REVOKED));
}

_Noreturn static void fall_alone(struct job *j, const char *why, int exit_code)
{
	atomic_store(&j->called_off, true);
	shut_keys(j);
	log_error("volume %s: %s: keys are wiped, the process ends", j->order.volume.name, why);
	_exit(exit_code);
}

/* By itself: the verb is done, or no key was to be had. */
_Noreturn static void end(struct job *j, int error)
{
	const struct job_counts found = { j->result.checked, j->result.mended, j->result.repairable, j->result.lost };
	uint64_t cut_ns = boot_now_ns();

	shut_keys(j);
	tell_wiped(j, 0, false, cut_ns);
	if (j->dev != NULL)
		j->dev->ops->close(j->dev); /* gives the lock on the backing store back before anybody hears that it is over */
	log_line(error == 0 ? LOG_LEVEL_NOTICE : LOG_LEVEL_ERROR, "volume %s: %s: %s%s%s", j->order.volume.name,
		 offline_needs[j->verb].name, error == 0 ? "done" : error_text(error), error != 0 ? ": " : "",
		 error != 0 ? j->text : "");
	tell_done(j, error, error != 0 ? j->text : "", &found);
	_exit(error_exit_code(error));
}

/* ---- deadlines: as control.c keeps them ---- */

static uint64_t earlier_deadline(const struct job *j)
{
	return j->heartbeat_ns < j->proof_ns ? j->heartbeat_ns : j->proof_ns;
}

static void set_deadlines(struct job *j, uint64_t heartbeat_ns, uint64_t proof_ns)
{
	struct itimerspec at = { 0 };
	uint64_t first;

	j->heartbeat_ns = heartbeat_ns;
	j->proof_ns = proof_ns;
	if (j->ring != NULL)
		keyring_set_deadlines(j->ring, heartbeat_ns, proof_ns);
	first = earlier_deadline(j);
	at.it_value.tv_sec = (time_t)(first / 1000000000u);
	at.it_value.tv_nsec = (long)(first % 1000000000u);
	if (timerfd_settime(j->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) != 0)
		fall_alone(j, "the supervisor's deadline makes no sense", EXIT_BROKEN_PROTOCOL);
}

static void heard_from_supervisor(struct job *j)
{
	uint64_t next = boot_now_ns() + HEARTBEAT_NS;

	if (j->heartbeat_ns != 0 && j->heartbeat_ns < next)
		set_deadlines(j, next, j->proof_ns);
}

static void check_deadlines(struct job *j)
{
	bool heartbeat = j->heartbeat_ns <= j->proof_ns;

	if (j->phase < PHASE_ASKING || boot_now_ns() < earlier_deadline(j))
		return;
	fall(j, heartbeat ? LOCK_CAUSE_SUPERVISOR_LOST : LOCK_CAUSE_UNREACHABLE, true,
	     heartbeat ? "the supervisor has been silent for too long" : "the last good proof is too old");
}

/* ---- orders ---- */

/* The descriptors stand in the order of job_options. False: more or fewer than that says. */
static bool take_fds(struct job *j, const int *fds, unsigned count)
{
	const struct job_options *o = &j->order.options;
	unsigned at = 0;

	if (count != 2u + o->output + o->map + o->input)
		return false;
	j->backing_fd = fds[at++];
	j->text_fd = fds[at++];
	j->output_fd = o->output ? fds[at++] : -1;
	j->map_fd = o->map ? fds[at++] : -1;
	j->input_fd = o->input ? fds[at++] : -1;
	return true;
}

static void on_job(struct job *j, const struct message *m, const int *fds, unsigned count)
{
	j->order = m->body.dp_job;
	j->order_nonce = m->nonce;
	j->verb = verbs[j->order.verb];
	j->phase = PHASE_PREPARING;
	if (!take_fds(j, fds, count))
		fall_alone(j, "the supervisor's descriptors are not those that it names", EXIT_BROKEN_PROTOCOL);
	if (start_worker(j, prepare_thread) != 0)
		fall_alone(j, j->text, error_exit_code(ERR_NOMEM));
}

static int make_ring(struct job *j)
{
	const char *forced = j->order.volume.kernel[0] != '\0' ? j->order.volume.kernel : NULL;
	int r = keyring_create(&j->ring, SUBKEYS, forced);

	if (r != 0)
		return fail(j, r, "%s", keyslot_ring_trouble(r));
	keyring_set_deadlines(j->ring, j->heartbeat_ns, j->proof_ns);
	return 0;
}

static void on_ticket(struct job *j, const struct message *m, const int *fds, unsigned count)
{
	struct msg_page question = { .gen_no = j->order.volume.gen_no, .wrapped_size = j->slot.wrapped_size };
	int r;

	(void)count;
	j->generation = m->body.dp_ticket.generation;
	r = keyslot_begin(&j->key, &m->body.dp_ticket, fds[0]);
	if (r != 0)
		end(j, fail(j, r, "no transfer page could be made: %s", error_text(r)));
	r = make_ring(j);
	if (r != 0)
		end(j, r);
	if (boot_now_ns() >= earlier_deadline(j))
		end(j, fail(j, ERR_TIMEOUT, "no deadline in the future was given: no key is taken"));
	memcpy(question.volume, j->order.volume.name, sizeof question.volume);
	memcpy(question.wrapped, j->slot.wrapped, j->slot.wrapped_size);
	r = keyslot_ask(&j->key, MSG_PAGE_UNWRAP, &question);
	if (r != 0)
		end(j, fail(j, ERR_UNREACHABLE, "the hsm process is gone before it was asked"));
	j->phase = PHASE_ASKING;
}

static void on_deadlines(struct job *j, const struct message *m, const int *fds, unsigned count)
{
	(void)fds;
	(void)count;
	set_deadlines(j, m->body.dp_deadlines.heartbeat_ns, m->body.dp_deadlines.proof_ns);
}

static void on_lock(struct job *j, const struct message *m, const int *fds, unsigned count)
{
	(void)fds;
	(void)count;
	fall(j, m->body.dp_lock.cause, false, "by order");
}

enum { IN_ANY = (1u << PHASE_COUNT) - 1 };

static const struct permit {
	enum message_type type;
	unsigned phases;
	void (*take)(struct job *j, const struct message *m, const int *fds, unsigned count);
} permits[] = {
	{ MSG_DP_JOB, 1u << PHASE_BARE, on_job },
	{ MSG_DP_TICKET, 1u << PHASE_READY, on_ticket },
	{ MSG_DP_DEADLINES, IN_ANY, on_deadlines },
	{ MSG_DP_LOCK, IN_ANY, on_lock },
};

static const struct permit *permit_for(const struct job *j, uint32_t type)
{
	for (size_t i = 0; i < sizeof permits / sizeof permits[0]; i++)
		if (permits[i].type == type && (permits[i].phases & 1u << j->phase))
			return &permits[i];
	return NULL;
}

static bool take_order(struct job *j)
{
	const struct permit *permit;
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count;
	int r = channel_receive(&j->supervisor, &m, fds, &count, NULL);

	if (r == ERR_BUSY)
		return false;
	if (r == ERR_PROTOCOL)
		fall_alone(j, "the supervisor's message was malformed", EXIT_BROKEN_PROTOCOL);
	if (r <= 0)
		fall_alone(j, "the supervisor is gone", 0);
	permit = permit_for(j, m.type);
	if (permit == NULL)
		fall_alone(j, "the supervisor's message is not allowed now", EXIT_BROKEN_PROTOCOL);
	heard_from_supervisor(j);
	permit->take(j, &m, fds, count);
	return true;
}

/* ---- answers of the others ---- */

static void on_hsm_answer(struct job *j)
{
	struct msg_page_done done;
	uint8_t kcv[KCV_BYTES];
	int r = keyslot_answer(&j->key, &done);

	if (r == ERR_BUSY)
		return;
	if (r != 0)
		end(j, fail(j, r, "the hsm process gave no key (%s)", verdict_name((enum hsm_verdict)done.verdict)));
	r = keyslot_load(&j->key, j->ring, kcv, j->order.volume.kcv, j->order.volume.uuid, j->order.volume.gen_no);
	if (r != 0)
		end(j, fail(j, r, "%s", r == ERR_FOREIGN ? "the unwrapped key is not this volume's" : error_text(r)));
	j->phase = PHASE_RUNNING;
	log_notice("volume %s: %s: %s kernel, keys in %s", j->order.volume.name, offline_needs[j->verb].name,
		   keyring_kernel_name(j->ring), secret_memory_kind_name(keyring_memory_kind(j->ring)));
	r = start_worker(j, run_thread);
	if (r != 0)
		end(j, r);
}

static void on_wake(struct job *j)
{
	uint64_t count;

	if (read(j->wake_fd, &count, sizeof count) < 0 || !atomic_load(&j->worker_done))
		return;
	if (j->phase == PHASE_RUNNING) {
		pthread_join(j->worker, NULL);
		end(j, j->error);
	}
	if (j->phase != PHASE_PREPARING)
		return;
	pthread_join(j->worker, NULL);
	tell_ready(j);
	if (j->error != 0) {
		log_error("volume %s: %s", j->order.volume.name, j->text);
		_exit(error_exit_code(j->error));
	}
	j->phase = PHASE_READY;
}

static void round_once(struct job *j)
{
	struct pollfd p[] = {
		{ .fd = j->supervisor.fd, .events = POLLIN },
		{ .fd = j->timer_fd, .events = POLLIN },
		{ .fd = j->wake_fd, .events = POLLIN },
		{ .fd = j->key.hsm.fd, .events = POLLIN }, /* -1 is skipped */
	};
	uint64_t fired;

	if (poll(p, sizeof p / sizeof p[0], -1) < 0)
		return;
	for (int i = 0; p[0].revents != 0 && i < ORDERS_A_ROUND && take_order(j); i++)
		continue;
	check_deadlines(j);
	if (p[1].revents != 0 && read(j->timer_fd, &fired, sizeof fired) < 0)
		return; /* set anew meanwhile */
	if (p[3].revents != 0 && j->phase == PHASE_ASKING)
		on_hsm_answer(j);
	if (p[2].revents != 0)
		on_wake(j);
}

static int say_hello(struct job *j)
{
	struct message m;

	message_init(&m, MSG_HELLO, 0);
	snprintf(m.body.hello.version, sizeof m.body.hello.version, "%s", FALLGATE_VERSION);
	m.body.hello.pid = (int32_t)getpid();
	return channel_send(&j->supervisor, &m, NULL, 0);
}

int offline_run(int fd)
{
	/* static: threads may outlive the frame of a caller */
	static struct job j = { .backing_fd = -1, .text_fd = -1, .output_fd = -1, .map_fd = -1, .input_fd = -1 };

	keyslot_init(&j.key);
	channel_init(&j.supervisor, fd, ROLE_DATAPLANE, ROLE_SUPERVISOR);
	j.timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	j.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (j.timer_fd < 0 || j.wake_fd < 0 || say_hello(&j) != 0)
		return error_exit_code(ERR_IO);
	if (sandbox_enter(SANDBOX_DATAPLANE) != 0)
		fatal("the sandbox could not be entered");
	for (;;)
		round_once(&j);
}
