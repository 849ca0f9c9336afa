/* Orders, deadlines, unlock and lock of one serving dataplane. What must hold is said in control.h; the order of a lock is in
 * lock(), and the messages that a phase allows are in the table `permits`: any other ends the process with its keys wiped. */
#include "control.h"

#include <pthread.h>
#include <poll.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/block.h"
#include "ipc/channel.h"
#include "keyslot.h"
#include "opener.h"
#include "pins.h"
#include "plaintext.h"
#include "turnstile.h"
#include "volume/volume.h"

enum {
	SUBKEYS = 64,        /* cached salt keys: at most 768 KiB of locked memory */
	ORDERS_A_ROUND = 16, /* then the deadlines are looked at again */
	TELL_WAIT_MS = 20,   /* how long a full channel may delay a message that is no mere statistic */
	STATS_MS = 1000,
	BAD_TAGS_MS = 50, /* at the most so often: whoever counts them is told soon, and not drowned */
	REFUSED_LOG_MS = 1000,
	HOLD_LOOK_MS = 50, /* how much later than asked a hold may end */
	CLIENTS_GONE_MS = 50,
	EXIT_BROKEN_PROTOCOL = 70,
	EXIT_FAULT = 71,
};
#define HEARTBEAT_NS 2000000000u /* what any message of the supervisor is worth */

enum phase {
	PHASE_BARE,    /* nothing attached */
	PHASE_REFUSED, /* the backing was not good: no export */
	PHASE_HELD,    /* locked and drained; the last requests are on their way out of the volume */
	PHASE_KEYLESS, /* the export exists and refuses */
	PHASE_ASKING,  /* the one-shot hsm has the page */
	PHASE_OPENING, /* keys in the ring, the volume is being opened */
	PHASE_SERVING,
	PHASE_COUNT
};

struct control {
	struct channel supervisor;
	int timer_fd, wake_fd;
	enum phase phase;
	sem_t ready;
	uint64_t heartbeat_ns, proof_ns; /* CLOCK_BOOTTIME; 0: none yet */
	struct msg_dp_attach attach;
	struct kek_slot slot;
	struct block *dev;
	struct keyring *ring;
	struct keyslot key;
	uint64_t ticket_nonce;
	uint32_t generation;
	uint8_t anchor; /* of the ticket */
	uint64_t anchor_count;
	struct opener opener;
	bool opening;          /* the opener has not been joined */
	struct volume *volume; /* the control thread's; requests have it from the turnstile */
	struct turnstile turnstile;
	uint64_t hold_until_ns; /* CLOCK_BOOTTIME: for how long requests wait without a key */
	bool served, hold_over_told;
	int (*prepare)(void *context); /* NULL: the export needs nothing */
	void *prepare_context;
	atomic_uint clients, stuck_clients;
	_Atomic uint64_t refused_ms; /* when a client was turned away last */
	atomic_bool closing;
	atomic_int fault; /* of enum fault */
	pthread_t thread;
	uint64_t next_stats_ms, next_bad_tags_ms, bad_tags_told;
	bool failstop_told;
};

enum fault { FAULT_NONE, FAULT_ORDERLY, FAULT_UNKNOWN };

/* Why and how the gate falls. */
struct fall {
	uint8_t cause;
	bool self;     /* our own deadline, not an order */
	bool silent;   /* there is nobody to tell */
	bool no_drain; /* what is in memory is not to be trusted */
	bool hold;     /* the process may stay */
	uint32_t generation;
	uint64_t nonce;
	int exit_code;
	const char *why; /* for the log, if nobody ordered it */
};

bool control_fd_good(int fd)
{
	struct sockaddr address;
	socklen_t size = sizeof address, optlen = sizeof(int);
	int type = 0, listens = 1;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &optlen) != 0 || type != SOCK_SEQPACKET)
		return false;
	optlen = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &optlen) != 0 || listens != 0)
		return false;
	return getsockname(fd, &address, &size) == 0 && address.sa_family == AF_UNIX;
}

static uint64_t monotonic_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* ---- telling ---- */

/* Never waits long: a supervisor that does not read is as good as gone, and its heartbeat will say so. */
static bool tell(struct control *c, const struct message *m)
{
	struct pollfd p = { .fd = c->supervisor.fd, .events = POLLOUT };
	int r = channel_send(&c->supervisor, m, NULL, 0);

	if (r == ERR_BUSY && poll(&p, 1, TELL_WAIT_MS) == 1)
		r = channel_send(&c->supervisor, m, NULL, 0);
	if (r == ERR_BUSY)
		log_error("volume %s: %s was not sent: the supervisor does not read its channel", c->attach.name,
			  message_row(m->type)->name);
	return r == 0;
}

static void tell_ready(struct control *c, uint64_t nonce, int error, uint64_t size, const char *text)
{
	struct message m;

	message_init(&m, MSG_DP_READY, nonce);
	m.body.dp_ready.ok = error == 0;
	m.body.dp_ready.error = error;
	m.body.dp_ready.size = size;
	snprintf(m.body.dp_ready.text, sizeof m.body.dp_ready.text, "%s", text);
	tell(c, &m);
}

static void tell_opened(struct control *c, int error, uint8_t verdict, const char *text)
{
	struct message m;
	struct msg_dp_opened *o = &m.body.dp_opened;

	message_init(&m, MSG_DP_OPENED, c->ticket_nonce);
	o->generation = c->generation;
	o->error = error;
	o->verdict = verdict;
	o->size = error == 0 ? volume_size(c->volume) : 0;
	snprintf(o->kernel, sizeof o->kernel, "%s", keyring_kernel_name(c->ring));
	o->memory = (uint8_t)keyring_memory_kind(c->ring);
	o->anchor_count = c->volume != NULL ? volume_anchor(c->volume) : 0;
	snprintf(o->text, sizeof o->text, "%s", text);
	tell(c, &m);
}

static void tell_event(struct control *c, enum dp_event event, uint64_t count, const char *text)
{
	struct message m;

	message_init(&m, MSG_DP_EVENT, 0);
	m.body.dp_event.event = (uint8_t)event;
	m.body.dp_event.count = count;
	snprintf(m.body.dp_event.text, sizeof m.body.dp_event.text, "volume %s: %s", c->attach.name, text);
	if (event != DP_EVENT_BAD_TAG) /* of these the engine has a line, and fewer the more there are */
		log_error("%s", m.body.dp_event.text);
	tell(c, &m);
}

/* ---- the gate falls ---- */

static void shut_keys(struct control *c, uint64_t *cut_ns, uint64_t *wiped_ns)
{
	struct volume *v = c->volume;

	*cut_ns = boot_now_ns();
	keyslot_close(&c->key);
	if (v != NULL)
		volume_lock_keys(v, cut_ns, wiped_ns);
	if (c->ring != NULL)
		keyring_wipe(c->ring);
	if (v == NULL)
		*wiped_ns = boot_now_ns();
}

static bool tell_wiped(struct control *c, const struct fall *f, uint64_t cut_ns, uint64_t wiped_ns)
{
	struct message m;

	message_init(&m, MSG_DP_WIPED, f->nonce);
	m.body.dp_wiped = (struct msg_dp_wiped){
		.generation = f->generation, .cause = f->cause, .self = f->self, .cut_ns = cut_ns, .wiped_ns = wiped_ns
	};
	return tell(c, &m);
}

static void tell_drained(struct control *c, const struct fall *f, int error)
{
	struct message m;

	message_init(&m, MSG_DP_DRAINED, f->nonce);
	m.body.dp_drained = (struct msg_dp_drained){ .error = error, .drained_ns = boot_now_ns() };
	tell(c, &m);
}

static unsigned live_clients(const struct control *c)
{
	return atomic_load(&c->clients) - atomic_load(&c->stuck_clients);
}

/* And for requests that clients have no part in, as the kernel's. Who leaves the volume has wiped what it held, or is about
 * to. */
static void wait_for_clients_gone(struct control *c)
{
	const struct timespec step = { .tv_nsec = 1000000 };

	for (int ms = 0; ms < CLIENTS_GONE_MS && (live_clients(c) > 0 || !turnstile_empty(&c->turnstile)); ms++)
		nanosleep(&step, NULL);
}

/* An opening under way has acknowledged nothing to anybody, so there is nothing to drain; the ring's wipe stopped it. */
static int drain(struct control *c)
{
	int r = c->volume != NULL ? volume_lock_drain(c->volume) : 0;

	if (r != 0)
		log_error("volume %s: acknowledged writes may be lost: %s", c->attach.name, error_text(r));
	return r;
}

/* The one record of a fall that no supervisor hears of: with times, as the ledger has of the others. */
static void log_fall(const struct control *c, const char *why, uint64_t cut_ns, uint64_t wiped_ns, bool hold)
{
	log_error("volume %s: %s: I/O cut at %llu.%09llu s of the boot clock, keys wiped at %llu.%09llu s; %s", c->attach.name,
		  why, (unsigned long long)(cut_ns / 1000000000u), (unsigned long long)(cut_ns % 1000000000u),
		  (unsigned long long)(wiped_ns / 1000000000u), (unsigned long long)(wiped_ns % 1000000000u),
		  hold ? "requests wait" : "the process ends");
}

static void cut_clients(struct control *c)
{
	atomic_store(&c->closing, true);
	plaintext_cut_clients();
}

_Noreturn static void end(struct control *c, int exit_code)
{
	turnstile_give_up(&c->turnstile);
	cut_clients(c);
	wait_for_clients_gone(c);
	_exit(exit_code);
}

/* Keys first, whatever comes after, the log too: one that nobody reads any more can make its writer wait. Returns only if the
 * process stays: for clients who wait for the key, and who lost nothing. */
static void lock(struct control *c, const struct fall *f)
{
	bool hold = f->hold && c->attach.hold_ns != 0 && c->phase > PHASE_REFUSED, told;
	uint64_t cut_ns, wiped_ns;
	int error;

	if (c->phase == PHASE_SERVING)
		c->hold_until_ns = boot_now_ns() + c->attach.hold_ns;
	turnstile_shut(&c->turnstile, hold ? c->hold_until_ns : 0);
	shut_keys(c, &cut_ns, &wiped_ns);
	told = f->silent || tell_wiped(c, f, cut_ns, wiped_ns);
	if (!hold)
		cut_clients(c);
	if (f->why != NULL)
		log_fall(c, f->why, cut_ns, wiped_ns, hold);
	error = f->no_drain ? ERR_FAILSTOP : drain(c);
	if (!told)
		tell_wiped(c, f, cut_ns, wiped_ns);
	if (!f->silent)
		tell_drained(c, f, error);
	if (!hold || error != 0)
		end(c, f->exit_code);
	c->phase = PHASE_HELD;
}

_Noreturn static void lock_lost(struct control *c, const char *why, int exit_code)
{
	lock(c, &(struct fall){ .silent = true, .exit_code = exit_code, .why = why });
	_exit(exit_code);
}

/* ---- deadlines ---- */

static uint64_t earlier_deadline(const struct control *c)
{
	return c->heartbeat_ns < c->proof_ns ? c->heartbeat_ns : c->proof_ns;
}

static void set_deadlines(struct control *c, uint64_t heartbeat_ns, uint64_t proof_ns)
{
	uint64_t first;
	struct itimerspec at = { 0 };

	c->heartbeat_ns = heartbeat_ns;
	c->proof_ns = proof_ns;
	if (c->ring != NULL)
		keyring_set_deadlines(c->ring, heartbeat_ns, proof_ns);
	first = earlier_deadline(c);
	at.it_value.tv_sec = (time_t)(first / 1000000000u);
	at.it_value.tv_nsec = (long)(first % 1000000000u);
	/* a time that has passed fires at once; all zeroes (no deadline) disarms */
	if (timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) != 0)
		lock_lost(c, "the supervisor's deadline makes no sense", EXIT_BROKEN_PROTOCOL);
}

/* Every message is a sign of life. It never shortens what MSG_DP_DEADLINES gave. */
static void heard_from_supervisor(struct control *c)
{
	uint64_t next = boot_now_ns() + HEARTBEAT_NS;

	if (c->heartbeat_ns != 0 && c->heartbeat_ns < next)
		set_deadlines(c, next, c->proof_ns);
}

static bool deadlines_passed(const struct control *c)
{
	return boot_now_ns() >= earlier_deadline(c);
}

/* Without keys a deadline has nothing to guard. */
static void check_deadlines(struct control *c)
{
	bool heartbeat;

	if (c->phase < PHASE_ASKING || !deadlines_passed(c))
		return;
	heartbeat = c->heartbeat_ns <= c->proof_ns;
	lock(c, &(struct fall){ .cause = heartbeat ? LOCK_CAUSE_SUPERVISOR_LOST : LOCK_CAUSE_UNREACHABLE,
				.self = true,
				.hold = true,
				.generation = c->generation,
				.why = heartbeat ? "the supervisor has been silent for too long"
						 : "the last good proof is too old" });
}

/* ---- attach ---- */

static int __attribute__((format(printf, 4, 5))) refuse(char *text, size_t size, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(text, size, format, args);
	va_end(args);
	return error;
}

/* Nothing of the header is authenticated yet: it only has to agree with the pins. volume_open proves it. */
static int check_header(struct control *c, char *text, size_t text_size)
{
	struct volume_header_info *info = calloc(1, sizeof *info);
	char why[160] = "";
	int r;

	if (info == NULL)
		return refuse(text, text_size, ERR_NOMEM, "%s", error_text(ERR_NOMEM));
	r = volume_read_header(c->dev, info, why, sizeof why);
	if (r != 0)
		r = refuse(text, text_size, r, "the header: %s%s%s", error_text(r), why[0] != '\0' ? ": " : "", why);
	else
		r = pins_agree(&c->attach, info, &c->slot, text, text_size);
	free(info);
	return r;
}

static int new_ring(struct control *c)
{
	const char *forced = c->attach.kernel[0] != '\0' ? c->attach.kernel : NULL;
	int r = keyring_create(&c->ring, SUBKEYS, forced);

	if (r == 0)
		keyring_set_deadlines(c->ring, c->heartbeat_ns, c->proof_ns);
	return r;
}

static int attach_backing(struct control *c, int fd, char *text, size_t text_size)
{
	int r = block_open_fd(&c->dev, fd);

	if (r != 0) {
		close(fd);
		return refuse(text, text_size, r, "the backing store: %s", error_text(r));
	}
	r = check_header(c, text, text_size);
	if (r == 0 && (r = new_ring(c)) != 0)
		refuse(text, text_size, r, "%s", keyslot_ring_trouble(r));
	if (r == 0 && c->prepare != NULL && (r = c->prepare(c->prepare_context)) != 0)
		refuse(text, text_size, r, "the block device: %s", error_text(r));
	if (r != 0) {
		c->dev->ops->close(c->dev); /* gives the lock on the backing store back */
		c->dev = NULL;
	}
	return r;
}

static void on_attach(struct control *c, const struct message *m, const int *fds)
{
	char text[TEXT_MAX_BYTES] = "";
	int r;

	c->attach = m->body.dp_attach;
	r = attach_backing(c, fds[0], text, sizeof text);
	c->phase = r == 0 ? PHASE_KEYLESS : PHASE_REFUSED;
	c->hold_until_ns = c->attach.hold_until_ns;
	atomic_store(&c->turnstile.holds, c->attach.hold_ns != 0);
	turnstile_shut(&c->turnstile, c->hold_until_ns);
	if (r != 0)
		log_error("volume %s: %s", c->attach.name, text);
	tell_ready(c, m->nonce, r, r == 0 ? c->attach.size : 0, text);
	if (r == 0)
		sem_post(&c->ready);
}

/* ---- unlock ---- */

/* A ring that a key was in, or was to be, is not used again. */
static void unlock_failed(struct control *c, int error, uint8_t verdict, const char *text)
{
	keyslot_close(&c->key);
	keyring_wipe(c->ring);
	log_error("volume %s: not unlocked: %s", c->attach.name, text);
	tell_opened(c, error, verdict, text);
	keyring_destroy(c->ring);
	c->ring = NULL;
	c->phase = PHASE_KEYLESS;
	if (new_ring(c) != 0)
		lock_lost(c, "no memory for a new key ring", EXIT_BROKEN_PROTOCOL);
}

static int ask_hsm(struct control *c)
{
	struct msg_page question = { .gen_no = c->attach.gen_no, .wrapped_size = c->slot.wrapped_size };

	memcpy(question.volume, c->attach.name, sizeof question.volume);
	memcpy(question.wrapped, c->slot.wrapped, c->slot.wrapped_size);
	return keyslot_ask(&c->key, MSG_PAGE_UNWRAP, &question);
}

static void on_ticket(struct control *c, const struct message *m, const int *fds)
{
	int r;

	c->ticket_nonce = m->nonce;
	c->generation = m->body.dp_ticket.generation;
	c->anchor = m->body.dp_ticket.anchor;
	c->anchor_count = m->body.dp_ticket.anchor_count;
	if (c->phase == PHASE_OPENING || c->phase == PHASE_SERVING) {
		close(fds[0]);
		tell_opened(c, ERR_STATE, VERDICT_UNREACHABLE, "the volume is open, or being opened, already");
		return;
	}
	keyslot_close(&c->key); /* a newer ticket: the older one's hsm is not listened to any more */
	r = keyslot_begin(&c->key, &m->body.dp_ticket, fds[0]);
	c->phase = PHASE_ASKING;
	if (r != 0)
		unlock_failed(c, r, VERDICT_UNREACHABLE, "no transfer page could be made");
	else if (deadlines_passed(c))
		unlock_failed(c, ERR_TIMEOUT, VERDICT_UNREACHABLE, "no deadline in the future was given: no key is taken");
	else if ((r = ask_hsm(c)) != 0)
		unlock_failed(c, r, VERDICT_UNREACHABLE, "the hsm process is gone before it was asked");
}

static void start_opening(struct control *c)
{
	struct opener *o = &c->opener;
	int r;

	*o = (struct opener){ .dev = c->dev, .ring = c->ring, .wake_fd = c->wake_fd };
	o->options = (struct volume_options){ .read_only = c->attach.read_only,
					      .assume_4k = c->attach.assume_4k,
					      .preset = c->attach.server ? VOLUME_SERVER : VOLUME_BOARD,
					      .expect_size = c->attach.size };
	o->options.anchor = (enum volume_anchor)c->anchor;
	o->options.anchor_count = c->anchor_count;
	o->options.cache_nodes = (size_t)c->attach.cache_mib * (1048576 / SECTOR_BYTES);
	memcpy(o->kcv, c->attach.kcv, sizeof o->kcv);
	c->phase = PHASE_OPENING;
	r = opener_start(o);
	c->opening = r == 0;
	if (r != 0)
		unlock_failed(c, r, VERDICT_GOOD, "no thread to open the volume with");
}

static void on_hsm_answer(struct control *c)
{
	struct msg_page_done done;
	uint8_t kcv[KCV_BYTES];
	char text[TEXT_MAX_BYTES];
	int r = keyslot_answer(&c->key, &done);

	if (r == ERR_BUSY)
		return;
	if (r != 0) {
		snprintf(text, sizeof text, "the hsm process: %s (%s)", r == ERR_PROTOCOL ? error_text(r) : "no key",
			 verdict_name((enum hsm_verdict)done.verdict));
		unlock_failed(c, r, done.verdict, text);
		return;
	}
	r = keyslot_load(&c->key, c->ring, kcv, c->attach.kcv, c->attach.uuid, c->attach.gen_no);
	if (r != 0)
		unlock_failed(c, r, VERDICT_GOOD, r == ERR_FOREIGN ? "the unwrapped key is not this volume's" : error_text(r));
	else
		start_opening(c);
}

static void on_opened(struct control *c)
{
	char text[TEXT_MAX_BYTES];
	int r = opener_join(&c->opener);

	c->opening = false;
	if (r != 0) {
		snprintf(text, sizeof text, "%s%s%s", error_text(r), c->opener.why[0] != '\0' ? ": " : "", c->opener.why);
		unlock_failed(c, r, VERDICT_GOOD, text);
		return;
	}
	c->phase = PHASE_SERVING;
	c->next_stats_ms = monotonic_ms() + STATS_MS;
	c->served = true;
	c->failstop_told = c->hold_over_told = false;
	c->bad_tags_told = 0;
	c->volume = c->opener.volume;
	turnstile_open(&c->turnstile, c->volume);
	log_notice("volume %s: open, %s kernel, keys in %s", c->attach.name, keyring_kernel_name(c->ring),
		   secret_memory_kind_name(keyring_memory_kind(c->ring)));
	tell_opened(c, 0, VERDICT_GOOD, "");
}

/* ---- a volume that is held ---- */

/* Locked, drained, and nobody is inside: closing it only frees. */
static void forget_volume(struct control *c)
{
	uint64_t unused;

	if (c->opening) { /* the ring's wipe stopped it, or came too late for it: then nobody has seen that volume yet */
		opener_join(&c->opener);
		c->opening = false;
		if (c->opener.volume != NULL)
			volume_lock_keys(c->opener.volume, &unused, &unused);
		c->volume = c->opener.volume;
	}
	if (c->volume != NULL)
		volume_close(c->volume);
	c->volume = NULL;
	keyring_destroy(c->ring);
	c->ring = NULL;
}

/* The walls are those of the first key: a ring of its own, the header judged anew, READY, and then a ticket and a one-shot
 * hsm. */
static void begin_anew(struct control *c)
{
	char text[TEXT_MAX_BYTES] = "";
	int r;

	if (c->phase != PHASE_HELD || !turnstile_empty(&c->turnstile) || (c->opening && !atomic_load(&c->opener.done)))
		return;
	forget_volume(c);
	r = check_header(c, text, sizeof text);
	if (r == 0 && (r = new_ring(c)) != 0)
		refuse(text, sizeof text, r, "%s", keyslot_ring_trouble(r));
	if (r != 0) {
		log_error("volume %s: cannot be held any longer: %s", c->attach.name, text);
		end(c, 0);
	}
	c->phase = PHASE_KEYLESS;
	tell_ready(c, 0, 0, c->attach.size, "");
}

/* Requests turn away by themselves when their time is over. A process that served has their plaintext in buffers that nobody else
 * can wipe: it ends. While a key is on its way it is waited for. */
static void check_hold(struct control *c)
{
	if (c->attach.hold_ns == 0 || c->hold_until_ns == 0 || c->hold_over_told || c->phase > PHASE_KEYLESS ||
	    c->phase < PHASE_HELD || boot_now_ns() < c->hold_until_ns)
		return;
	c->hold_over_told = true;
	tell_event(c, DP_EVENT_HOLD_OVER, 0, "hold_timeout is over: requests that waited have failed");
	if (c->served)
		end(c, 0);
}

/* ---- statistics and alarms ---- */

static void raise_alarms(struct control *c, const struct volume_stats *s)
{
	if (s->bad_tags > c->bad_tags_told && monotonic_ms() >= c->next_bad_tags_ms) {
		c->bad_tags_told = s->bad_tags;
		c->next_bad_tags_ms = monotonic_ms() + BAD_TAGS_MS;
		tell_event(c, DP_EVENT_BAD_TAG, s->bad_tags, "stored data failed authentication: damage or an attack");
	}
	if (s->failstop && !c->failstop_told) {
		c->failstop_told = true;
		tell_event(c, DP_EVENT_FAILSTOP, 1,
			   s->alarm ? "too many tags failed: detach, find out who writes to the backing store, scrub, attach"
				    : "a write or flush of the backing store failed: detach, repair, attach");
	}
}

/* A supervisor that is behind with its mail does not need another statistic. */
static void send_stats(struct control *c, const struct volume_stats *s)
{
	struct message m;

	message_init(&m, MSG_DP_STATS, 0);
	m.body.dp_stats = (struct msg_dp_stats){
		.read_ops = s->read_ops,
		.write_ops = s->write_ops,
		.flush_ops = s->flush_ops,
		.zero_ops = s->zero_ops,
		.read_bytes = s->read_bytes,
		.written_bytes = s->written_bytes,
		.bad_tags = s->bad_tags,
		.dirty_nodes = s->dirty_nodes,
		.anchor_count = volume_anchor(c->volume),
		.connections = live_clients(c),
		.failstop = s->failstop,
	};
	channel_send(&c->supervisor, &m, NULL, 0);
}

/* What came between two alarms is told by the tick. */
static void tick(struct control *c)
{
	struct volume_stats s;

	if (c->phase != PHASE_SERVING || monotonic_ms() < c->next_stats_ms)
		return;
	c->next_stats_ms = monotonic_ms() + STATS_MS;
	volume_stats(c->volume, &s);
	send_stats(c, &s);
	raise_alarms(c, &s);
}

static void check_fault(struct control *c)
{
	int fault = atomic_load(&c->fault);

	if (fault == FAULT_NONE)
		return;
	lock(c, &(struct fall){ .cause = LOCK_CAUSE_ENGINE,
				.self = true,
				.no_drain = fault != FAULT_ORDERLY,
				.generation = c->generation,
				.why = "a thread of the block server failed" });
}

/* Alarms do not wait for the tick. */
static void on_wake(struct control *c)
{
	struct volume_stats s;
	uint64_t count;

	if (read(c->wake_fd, &count, sizeof count) < 0)
		return;
	check_fault(c);
	begin_anew(c);
	if (c->phase == PHASE_OPENING && atomic_load(&c->opener.done)) {
		on_opened(c);
		return;
	}
	if (c->phase != PHASE_SERVING)
		return;
	volume_stats(c->volume, &s);
	raise_alarms(c, &s);
}

/* ---- orders ---- */

static void on_deadlines(struct control *c, const struct message *m, const int *fds)
{
	(void)fds;
	set_deadlines(c, m->body.dp_deadlines.heartbeat_ns, m->body.dp_deadlines.proof_ns);
}

static void on_anchor(struct control *c, const struct message *m, const int *fds)
{
	(void)fds;
	if (c->phase == PHASE_SERVING)
		volume_raise_anchor(c->volume, m->body.dp_anchor.count);
}

static void on_lock(struct control *c, const struct message *m, const int *fds)
{
	(void)fds;
	lock(c, &(struct fall){ .cause = m->body.dp_lock.cause,
				.hold = m->body.dp_lock.hold,
				.generation = m->body.dp_lock.generation,
				.nonce = m->nonce });
	begin_anew(c);
}

static void on_detach(struct control *c, const struct message *m, const int *fds)
{
	(void)fds;
	lock(c, &(struct fall){ .cause = LOCK_CAUSE_DETACHED, .generation = c->generation, .nonce = m->nonce });
}

enum {
	IN_BARE = 1u << PHASE_BARE,
	IN_ATTACHED = 1u << PHASE_KEYLESS | 1u << PHASE_ASKING | 1u << PHASE_OPENING | 1u << PHASE_SERVING,
	IN_ANY = (1u << PHASE_COUNT) - 1,
};

/* clang-format off */
static const struct permit {
	enum message_type type;
	unsigned phases;
	void (*take)(struct control *c, const struct message *m, const int *fds);
} permits[] = {
	{ MSG_DP_ATTACH,    IN_BARE,     on_attach },
	{ MSG_DP_TICKET,    IN_ATTACHED, on_ticket },
	{ MSG_DP_DEADLINES, IN_ANY,      on_deadlines },
	{ MSG_DP_ANCHOR,    IN_ANY,      on_anchor },
	{ MSG_DP_LOCK,      IN_ANY,      on_lock },
	{ MSG_DP_DETACH,    IN_ANY,      on_detach },
};
/* clang-format on */

static const struct permit *permit_for(const struct control *c, uint32_t type)
{
	for (size_t i = 0; i < sizeof permits / sizeof permits[0]; i++)
		if (permits[i].type == type && (permits[i].phases & 1u << c->phase))
			return &permits[i];
	return NULL;
}

static bool take_order(struct control *c)
{
	const struct permit *permit;
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count;
	int r = channel_receive(&c->supervisor, &m, fds, &count, NULL);

	if (r == ERR_BUSY)
		return false;
	if (r == ERR_PROTOCOL)
		lock_lost(c, "the supervisor's message was malformed", EXIT_BROKEN_PROTOCOL);
	if (r <= 0)
		lock_lost(c, "the supervisor is gone", 0);
	permit = permit_for(c, m.type);
	if (permit == NULL)
		lock_lost(c, "the supervisor's message is not allowed now", EXIT_BROKEN_PROTOCOL);
	heard_from_supervisor(c);
	permit->take(c, &m, fds);
	return true;
}

/* ---- the loop ---- */

static int ms_to_look(const struct control *c)
{
	uint64_t now = monotonic_ms();

	if (c->phase != PHASE_SERVING)
		return c->attach.hold_ns != 0 && !c->hold_over_told ? HOLD_LOOK_MS : -1;
	return now >= c->next_stats_ms ? 0 : (int)(c->next_stats_ms - now);
}

static void round_once(struct control *c)
{
	struct pollfd p[] = {
		{ .fd = c->supervisor.fd, .events = POLLIN },
		{ .fd = c->timer_fd, .events = POLLIN },
		{ .fd = c->wake_fd, .events = POLLIN },
		{ .fd = c->key.hsm.fd, .events = POLLIN }, /* -1 is skipped */
	};
	uint64_t fired;

	if (poll(p, sizeof p / sizeof p[0], ms_to_look(c)) < 0)
		return;
	for (int i = 0; p[0].revents != 0 && i < ORDERS_A_ROUND && take_order(c); i++)
		continue;
	check_deadlines(c);
	if (p[1].revents != 0 && read(c->timer_fd, &fired, sizeof fired) < 0)
		return; /* set anew meanwhile */
	if (p[3].revents != 0 && p[3].fd == c->key.hsm.fd && c->phase == PHASE_ASKING)
		on_hsm_answer(c);
	if (p[2].revents != 0)
		on_wake(c);
	begin_anew(c);
	check_hold(c);
	tick(c);
}

static void *control_main(void *context)
{
	struct control *c = context;

	for (;;)
		round_once(c);
	return NULL;
}

static int say_hello(struct control *c)
{
	struct message m;

	message_init(&m, MSG_HELLO, 0);
	snprintf(m.body.hello.version, sizeof m.body.hello.version, "%s", FALLGATE_VERSION);
	m.body.hello.pid = (int32_t)getpid();
	return channel_send(&c->supervisor, &m, NULL, 0);
}

int control_create(struct control **out, int fd)
{
	struct control *c = calloc(1, sizeof *c);

	if (c == NULL)
		return ERR_NOMEM;
	c->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->timer_fd < 0 || c->wake_fd < 0)
		goto failed;
	sem_init(&c->ready, 0, 0);
	turnstile_init(&c->turnstile, c->wake_fd);
	keyslot_init(&c->key);
	channel_init(&c->supervisor, fd, ROLE_DATAPLANE, ROLE_SUPERVISOR);
	if (say_hello(c) != 0)
		goto failed;
	*out = c;
	return 0;
failed: /* the process ends: its descriptors with it */
	free(c);
	return ERR_IO;
}

void control_on_attach(struct control *c, int (*prepare)(void *context), void *context)
{
	c->prepare = prepare;
	c->prepare_context = context;
}

int control_start(struct control *c)
{
	return pthread_create(&c->thread, NULL, control_main, c) == 0 ? 0 : ERR_NOMEM;
}

void control_wait_ready(struct control *c)
{
	while (sem_wait(&c->ready) != 0)
		continue;
}

uint64_t control_size(const struct control *c)
{
	return c->attach.size;
}

bool control_read_only(const struct control *c)
{
	return c->attach.read_only;
}

struct volume *control_enter(struct control *c)
{
	return turnstile_try(&c->turnstile);
}

bool control_leave(struct control *c, struct volume *v, int error)
{
	if (v != NULL)
		turnstile_leave(&c->turnstile);
	return error == ERR_REVOKED && turnstile_wait(&c->turnstile, v);
}

void control_noticed(struct control *c, int error)
{
	uint64_t one = 1;

	if ((error == ERR_CORRUPT || error == ERR_FAILSTOP || error == ERR_IO) && write(c->wake_fd, &one, sizeof one) < 0)
		return; /* the counter is full: it is raised */
}

void control_fault(struct control *c, bool orderly)
{
	uint64_t one = 1;

	if (pthread_equal(pthread_self(), c->thread))
		_exit(EXIT_FAULT);
	atomic_store(&c->fault, orderly ? FAULT_ORDERLY : FAULT_UNKNOWN);
	if (write(c->wake_fd, &one, sizeof one) < 0)
		return; /* the counter is full: it is raised */
}

unsigned control_client_stuck(struct control *c)
{
	return atomic_fetch_add(&c->stuck_clients, 1) + 1;
}

bool control_client_came(struct control *c)
{
	if (atomic_load(&c->closing))
		return false;
	if (atomic_fetch_add(&c->clients, 1) < c->attach.connections || c->attach.connections == 0)
		return true;
	atomic_fetch_sub(&c->clients, 1);
	if (monotonic_ms() - atomic_exchange(&c->refused_ms, monotonic_ms()) > REFUSED_LOG_MS)
		log_warning("volume %s: a client was turned away: %u connections are open, and `connections` allows no more",
			    c->attach.name, c->attach.connections);
	return false;
}

void control_client_went(struct control *c)
{
	atomic_fetch_sub(&c->clients, 1);
}
