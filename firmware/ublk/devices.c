/* See devices.h. Why some steps are as they are (linux 6.12): a device is started once in its life; a server that ended before
 * the start leaves queues that no other may fetch, so such a device is made anew; a succession needs the last server's file
 * closed and its requests put aside, which takes a moment (ERR_BUSY); and the kernel notices a server's end through a tag that is
 * free, so one tag is kept out of use (queue/nr_requests), or a full queue would be noticed by a timeout of 30 s. */
#include "devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "ipc/channel.h"

enum { RETRY_MS = 20, RENEW_S = 2, LOOK_S = 1 };
#define MS_NS UINT64_C(1000000)
#define S_NS  UINT64_C(1000000000)

enum state {
	STATE_FREE,
	STATE_ADDING,
	STATE_SHAPING,
	STATE_READY,    /* for a server; its block device is not there yet, or waits (born) */
	STATE_STARTING, /* the server has the key; the kernel has not said yes yet */
	STATE_LIVE,
	STATE_LOST, /* the server ended; requests wait */
	STATE_RENEWING,
	STATE_STOPPING,
	STATE_DELETING,
};

struct device {
	enum state state;
	char name[NAME_MAX_BYTES]; /* empty: a leftover */
	struct msg_ub_add shape;
	bool known;  /* the kernel has it */
	bool born;   /* its block device appeared */
	bool going;  /* it is being taken away, or is to be */
	bool silent; /* nobody is told when it is gone */
	uint8_t reason;
	char why[TEXT_MAX_BYTES];
	uint64_t nonce; /* of the question that is open */
	bool again;     /* once it is gone: made anew, as `next` says */
	struct msg_ub_add next;
	uint64_t next_nonce;
	int server_fd; /* pidfd; -1: none, or ended */
	uint64_t until_ns, retry_ns, give_up_ns;
	struct ublk_command command, setting;
	bool busy, setting_busy;
};

struct devices {
	struct ublk_control *control;
	struct devices_world world;
	uint64_t mark;
	bool ending;
	struct device list[DEVICES_MAX];
};

static void gone(struct devices *all, struct device *d);
static void go_on_removing(struct devices *all, struct device *d);

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * S_NS + (uint64_t)t.tv_nsec;
}

/* ---- telling ---- */

static void tell_ready(struct devices *all, struct device *d, int error, const char *text)
{
	struct message m;
	struct msg_ub_ready *r = &m.body.ub_ready;

	message_init(&m, MSG_UB_READY, d->nonce);
	memcpy(r->name, d->name, sizeof r->name);
	r->error = error;
	r->device = d->command.info.device;
	r->queues = d->command.info.queues;
	r->depth = d->command.info.depth;
	r->kept = error == 0 && d->born;
	snprintf(r->text, sizeof r->text, "%s", text);
	all->world.tell(all->world.context, &m);
}

static void tell_started(struct devices *all, const struct device *d, int error, const char *text)
{
	struct message m;
	struct msg_ub_started *s = &m.body.ub_started;

	message_init(&m, MSG_UB_STARTED, d->nonce);
	memcpy(s->name, d->name, sizeof s->name);
	s->error = error;
	snprintf(s->text, sizeof s->text, "%s", text);
	all->world.tell(all->world.context, &m);
}

static void tell_gone(struct devices *all, const char *name, uint64_t nonce, uint8_t reason, const char *text)
{
	struct message m;
	struct msg_ub_gone *g = &m.body.ub_gone;

	message_init(&m, MSG_UB_GONE, nonce);
	memcpy(g->name, name, sizeof g->name);
	g->reason = reason;
	snprintf(g->text, sizeof g->text, "%s", text);
	all->world.tell(all->world.context, &m);
}

static const char *failed_text(char *out, size_t size, const struct ublk_command *c)
{
	snprintf(out, size, "the kernel's ublk driver: %s: %s", ublk_verb_name(c->verb),
		 c->errnum != 0 ? strerror(c->errnum) : error_text(c->error));
	return out;
}

/* ---- commands ---- */

static void begin(struct devices *all, struct device *d, enum ublk_verb verb, enum state state)
{
	d->state = state;
	d->command.verb = verb;
	d->busy = true;
	if (all->control->ops->begin(all->control, &d->command) != 0)
		fatal("more commands are under way than a ring has room for: a defect");
}

static void remove_device(struct devices *all, struct device *d, uint8_t reason, const char *why)
{
	if (d->going)
		return;
	d->going = true;
	d->retry_ns = 0;
	d->reason = reason;
	snprintf(d->why, sizeof d->why, "%s", why);
	if (d->busy)
		all->control->ops->cancel(all->control, &d->command); /* START and GO_ON wait for a server */
	go_on_removing(all, d);
}

/* Whom nobody knew goes without another word. */
static void discard(struct devices *all, struct device *d)
{
	d->silent = true;
	remove_device(all, d, UB_FAILED, "");
}

static void fail_ready(struct devices *all, struct device *d, int error, const char *text)
{
	tell_ready(all, d, error, text);
	if (d->born)
		remove_device(all, d, UB_FAILED, text);
	else
		discard(all, d);
}

static void go_on_removing(struct devices *all, struct device *d)
{
	if (d->busy || d->state == STATE_STOPPING || d->state == STATE_DELETING)
		return;
	if (d->known)
		begin(all, d, UBLK_STOP, STATE_STOPPING);
	else
		gone(all, d);
}

static void begin_add(struct devices *all, struct device *d, const struct msg_ub_add *shape, uint64_t nonce)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	memset(d, 0, sizeof *d);
	d->server_fd = -1;
	d->shape = *shape;
	d->nonce = nonce;
	memcpy(d->name, shape->name, sizeof d->name);
	d->command.info = (struct ublk_info){ .device = UINT32_MAX,
					      .queues = (uint16_t)(processors < 1             ? 1
								   : processors > UBLK_QUEUES ? UBLK_QUEUES
											      : processors),
					      .depth = UBLK_DEPTH,
					      .recover = shape->hold_ns != 0,
					      .mark = all->mark };
	d->command.shape =
		(struct ublk_shape){ .size = shape->size, .read_only = shape->read_only, .volatile_cache = shape->hold_ns == 0 };
	begin(all, d, UBLK_ADD, STATE_ADDING);
}

static void forget_server(struct device *d)
{
	if (d->server_fd >= 0)
		close(d->server_fd);
	d->server_fd = -1;
}

static void gone(struct devices *all, struct device *d)
{
	struct device last = *d;

	if (d->setting_busy)
		return; /* its memory is the kernel's still */
	forget_server(d);
	memset(d, 0, sizeof *d);
	d->server_fd = -1;
	if (last.name[0] != '\0')
		log_notice("volume %s: its block device is gone%s%s", last.name, last.why[0] != '\0' ? ": " : "", last.why);
	if (!last.silent && !all->ending)
		tell_gone(all, last.name, 0, last.reason, last.why);
	if (last.again && !all->ending)
		begin_add(all, d, &last.next, last.next_nonce);
}

/* ---- a server ---- */

static bool server_ended(const struct device *d)
{
	struct pollfd p = { .fd = d->server_fd, .events = POLLIN };

	return d->server_fd < 0 || poll(&p, 1, 0) != 0;
}

/* From here on time counts, if requests may wait at all. */
static void lose_server(struct devices *all, struct device *d)
{
	forget_server(d);
	if (!d->born || d->shape.hold_ns == 0) {
		remove_device(all, d, UB_SERVER_GONE, "its server ended");
		return;
	}
	d->state = STATE_LOST;
	if (d->until_ns == 0)
		d->until_ns = now_ns() + d->shape.hold_ns;
}

static void look_at_server(struct devices *all, struct device *d)
{
	if (d->server_fd < 0 || !server_ended(d))
		return;
	if (d->state == STATE_LIVE)
		lose_server(all, d);
	else if (d->state == STATE_STARTING && d->busy) {
		forget_server(d);
		all->control->ops->cancel(all->control, &d->command);
	} else
		forget_server(d);
}

/* ---- the kernel's answers ---- */

static void warn_full_queue(const struct device *d, const char *why)
{
	log_warning(
		"volume %s: queue/nr_requests of its block device could not be set: %s; a lock under full load may end the hold",
		d->name, why);
}

static void keep_a_tag_free(struct devices *all, struct device *d)
{
	struct ublk_command *s = &d->setting;

	if (d->setting_busy)
		return;
	s->setting_fd = all->world.open_depth(all->world.context, d->command.info.device);
	if (s->setting_fd < 0) {
		warn_full_queue(d, strerror(errno));
		return;
	}
	s->verb = UBLK_SETTING;
	snprintf(s->setting, sizeof s->setting, "%u", d->command.info.depth - 1u);
	d->setting_busy = true;
	if (all->control->ops->begin(all->control, s) != 0)
		fatal("more commands are under way than a ring has room for: a defect");
}

static void setting_done(struct devices *all, struct device *d)
{
	close(d->setting.setting_fd);
	d->setting_busy = false;
	if (d->setting.error != 0 && !d->going)
		warn_full_queue(d, d->setting.errnum != 0 ? strerror(d->setting.errnum) : error_text(d->setting.error));
	if (d->going && d->state == STATE_DELETING && !d->busy && d->retry_ns == 0)
		gone(all, d); /* only the setting was waited for */
}

static void added(struct devices *all, struct device *d, int error)
{
	char text[TEXT_MAX_BYTES];

	d->known = d->command.info.device != UINT32_MAX;
	if (error == 0 && !d->going) {
		begin(all, d, UBLK_PARAMETERS, STATE_SHAPING);
		return;
	}
	if (error != 0 && !d->going)
		fail_ready(all, d, error, failed_text(text, sizeof text, &d->command));
}

/* The node is the server's until it has opened it: then it is nobody's again. */
static void offer(struct devices *all, struct device *d)
{
	char text[TEXT_MAX_BYTES];
	int r = all->world.give(all->world.context, d->command.info.device, d->shape.uid, d->shape.gid);

	d->state = STATE_READY;
	if (r == 0) {
		tell_ready(all, d, 0, "");
		return;
	}
	snprintf(text, sizeof text, "/dev/ublkc%u cannot be given to its server: %s", d->command.info.device, error_text(r));
	fail_ready(all, d, r, text);
}

static void shaped(struct devices *all, struct device *d, int error)
{
	char text[TEXT_MAX_BYTES];

	d->state = STATE_READY;
	if (d->going)
		return;
	if (error == 0) {
		offer(all, d);
		return;
	}
	fail_ready(all, d, error, failed_text(text, sizeof text, &d->command));
}

static void started(struct devices *all, struct device *d, int error)
{
	char text[TEXT_MAX_BYTES];

	d->state = STATE_LIVE;
	if (d->going)
		return;
	if (error == 0) {
		d->until_ns = 0;
		if (!d->born)
			log_notice("volume %s: block device /dev/ublkb%u", d->name, d->command.info.device);
		d->born = true;
		tell_started(all, d, 0, "");
		keep_a_tag_free(all, d);
		if (server_ended(d))
			lose_server(all, d);
		return;
	}
	tell_started(all, d, error, failed_text(text, sizeof text, &d->command));
	if (d->born && server_ended(d))
		lose_server(all, d); /* the next one may do better */
	else
		remove_device(all, d, server_ended(d) ? UB_SERVER_GONE : UB_FAILED, text);
}

/* EINVAL: there is nothing to put aside, because no server came since the last time. */
static void renewed(struct devices *all, struct device *d, int error)
{
	char text[TEXT_MAX_BYTES];

	if (d->going)
		return;
	if (error == ERR_BUSY && now_ns() < d->give_up_ns) {
		d->retry_ns = now_ns() + RETRY_MS * MS_NS;
		return;
	}
	if (error == ERR_BUSY) { /* the supervisor may ask again, until the hold is over */
		d->state = STATE_LOST;
		tell_ready(all, d, error, "the kernel is not done with the last server yet");
		return;
	}
	if (error == 0 || d->command.errnum == EINVAL) {
		offer(all, d);
		return;
	}
	d->state = STATE_READY;
	fail_ready(all, d, error, failed_text(text, sizeof text, &d->command));
}

static void stopped(struct devices *all, struct device *d, int error)
{
	(void)error; /* it may be gone already; else the next one says so */
	begin(all, d, UBLK_DELETE, STATE_DELETING);
}

static void deleted(struct devices *all, struct device *d, int error)
{
	if (error == ERR_TIMEOUT || error == ERR_BUSY) {
		d->retry_ns = now_ns() + RETRY_MS * MS_NS;
		return;
	}
	if (error != 0 && error != ERR_NOT_FOUND)
		log_error("ublk device %u cannot be deleted: %s", d->command.info.device,
			  d->command.errnum != 0 ? strerror(d->command.errnum) : error_text(error));
	gone(all, d);
}

static void command_done(struct devices *all, struct device *d)
{
	static void (*const take[])(struct devices *, struct device *, int) = {
		[STATE_ADDING] = added,     [STATE_SHAPING] = shaped,   [STATE_STARTING] = started,
		[STATE_RENEWING] = renewed, [STATE_STOPPING] = stopped, [STATE_DELETING] = deleted,
	};

	d->busy = false;
	take[d->state](all, d, d->command.error);
	if (d->going)
		go_on_removing(all, d);
}

/* ---- the supervisor's messages ---- */

static struct device *find(struct devices *all, const char *name)
{
	for (unsigned i = 0; i < DEVICES_MAX; i++)
		if (all->list[i].state != STATE_FREE && strcmp(all->list[i].name, name) == 0)
			return &all->list[i];
	return NULL;
}

static struct device *find_free(struct devices *all)
{
	for (unsigned i = 0; i < DEVICES_MAX; i++)
		if (all->list[i].state == STATE_FREE)
			return &all->list[i];
	return NULL;
}

static void refuse_add(struct devices *all, const struct msg_ub_add *a, uint64_t nonce, int error, const char *text)
{
	struct device nobody = { .nonce = nonce };

	memcpy(nobody.name, a->name, sizeof nobody.name);
	tell_ready(all, &nobody, error, text);
}

static void make_anew(struct devices *all, struct device *d, const struct msg_ub_add *a, uint64_t nonce)
{
	d->again = true;
	d->next = *a;
	d->next_nonce = nonce;
	remove_device(all, d, UB_REMOVED, "");
}

static bool can_be_kept(const struct device *d, const struct msg_ub_add *a)
{
	return d->born && a->hold_ns != 0 && d->shape.hold_ns != 0 && d->shape.size == a->size &&
	       d->shape.read_only == a->read_only && d->shape.uid == a->uid && d->shape.gid == a->gid;
}

static void add_to_known(struct devices *all, struct device *d, const struct msg_ub_add *a, uint64_t nonce)
{
	look_at_server(all, d);
	if (d->going) {
		make_anew(all, d, a, nonce);
	} else if (d->state != STATE_READY && d->state != STATE_LOST) {
		refuse_add(all, a, nonce, ERR_BUSY, "its server lives still, or the kernel has not answered the last order");
	} else if (!can_be_kept(d, a)) {
		make_anew(all, d, a, nonce);
	} else {
		d->shape.hold_ns = a->hold_ns;
		d->nonce = nonce;
		d->give_up_ns = now_ns() + RENEW_S * S_NS;
		if (d->state == STATE_LOST || a->fetched)
			begin(all, d, UBLK_RENEW, STATE_RENEWING);
		else
			offer(all, d);
	}
}

static void take_add(struct devices *all, const struct message *m)
{
	const struct msg_ub_add *a = &m->body.ub_add;
	struct device *d = find(all, a->name);

	if (a->size == 0 || a->size % UBLK_SECTOR != 0 || a->size > INT64_MAX)
		refuse_add(all, a, m->nonce, ERR_RANGE, "a block device has a size that is a multiple of 512");
	else if (d != NULL)
		add_to_known(all, d, a, m->nonce);
	else if ((d = find_free(all)) != NULL)
		begin_add(all, d, a, m->nonce);
	else
		refuse_add(all, a, m->nonce, ERR_NOSPACE, "there are 64 block devices already");
}

static void take_go(struct devices *all, const struct message *m)
{
	struct device *d = find(all, m->body.ub_go.name), nobody = { .nonce = m->nonce };

	if (d == NULL || d->going || d->state != STATE_READY) {
		memcpy(nobody.name, m->body.ub_go.name, sizeof nobody.name);
		tell_started(all, &nobody, ERR_STATE, "there is no device that waits for a server");
		return;
	}
	d->nonce = m->nonce;
	d->command.pid = m->body.ub_go.pid;
	d->server_fd = d->command.pid > 0 ? (int)syscall(SYS_pidfd_open, d->command.pid, 0) : -1;
	all->world.give(all->world.context, d->command.info.device, 0, 0);
	if (!server_ended(d)) {
		begin(all, d, d->born ? UBLK_GO_ON : UBLK_START, STATE_STARTING);
		return;
	}
	tell_started(all, d, ERR_NOT_FOUND, "the server ended before its block device was there");
	lose_server(all, d);
}

static void take_hold(struct devices *all, const struct message *m)
{
	struct device *d = find(all, m->body.ub_hold.name);

	if (d != NULL && m->body.ub_hold.until_ns != 0)
		d->until_ns = m->body.ub_hold.until_ns;
}

static void take_remove(struct devices *all, const struct message *m)
{
	struct device *d = find(all, m->body.ub_remove.name);

	if (d == NULL) {
		tell_gone(all, m->body.ub_remove.name, m->nonce, UB_REMOVED, "");
		return;
	}
	if (d->silent)
		d->reason = UB_REMOVED;
	d->again = d->silent = false;
	remove_device(all, d, UB_REMOVED, "");
}

void devices_take(struct devices *all, const struct message *m)
{
	static const struct {
		enum message_type type;
		void (*take)(struct devices *all, const struct message *m);
	} verbs[] = {
		{ MSG_UB_ADD, take_add },
		{ MSG_UB_GO, take_go },
		{ MSG_UB_HOLD, take_hold },
		{ MSG_UB_REMOVE, take_remove },
	};

	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		if (verbs[i].type == m->type)
			verbs[i].take(all, m);
	devices_look(all);
}

/* ---- time ---- */

static void look_at_clock(struct devices *all, struct device *d)
{
	uint64_t now = now_ns();

	if (d->until_ns != 0 && now >= d->until_ns && !d->going)
		remove_device(all, d, UB_HOLD_OVER, "nobody served it for as long as requests may wait");
	if (d->retry_ns == 0 || now < d->retry_ns || d->busy)
		return;
	d->retry_ns = 0;
	if (d->state == STATE_RENEWING)
		begin(all, d, UBLK_RENEW, STATE_RENEWING);
	else if (d->state == STATE_DELETING)
		begin(all, d, UBLK_DELETE, STATE_DELETING);
}

static void take_answers(struct devices *all)
{
	struct ublk_command *c;

	while ((c = all->control->ops->next(all->control)) != NULL) {
		for (unsigned i = 0; i < DEVICES_MAX; i++) {
			struct device *d = &all->list[i];

			if (c == &d->command)
				command_done(all, d);
			else if (c == &d->setting)
				setting_done(all, d);
		}
	}
}

void devices_look(struct devices *all)
{
	take_answers(all);
	for (unsigned i = 0; i < DEVICES_MAX; i++) {
		struct device *d = &all->list[i];

		if (d->state == STATE_FREE)
			continue;
		look_at_server(all, d);
		look_at_clock(all, d);
	}
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

/* While an order is under way: the kernel may have had no memory to take it, and takes it at a later look. */
uint64_t devices_due_ns(const struct devices *all)
{
	uint64_t due = 0;

	for (unsigned i = 0; i < DEVICES_MAX; i++) {
		const struct device *d = &all->list[i];

		if (d->state == STATE_FREE)
			continue;
		if (!d->going)
			due = earlier(due, d->until_ns);
		if (!d->busy)
			due = earlier(due, d->retry_ns);
		if (d->busy || d->setting_busy)
			due = earlier(due, now_ns() + LOOK_S * S_NS);
	}
	return due;
}

unsigned devices_watched(const struct devices *all, struct pollfd *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < DEVICES_MAX; i++)
		if (all->list[i].state != STATE_FREE && all->list[i].server_fd >= 0)
			out[n++] = (struct pollfd){ .fd = all->list[i].server_fd, .events = POLLIN };
	return n;
}

/* ---- life ---- */

int devices_create(struct devices **out, struct ublk_control *control, const struct devices_world *world, uint64_t mark)
{
	struct devices *all = calloc(1, sizeof *all);

	if (all == NULL)
		return ERR_NOMEM;
	all->control = control;
	all->world = *world;
	all->mark = mark;
	for (unsigned i = 0; i < DEVICES_MAX; i++)
		all->list[i].server_fd = -1;
	*out = all;
	return 0;
}

void devices_leftover(struct devices *all, uint32_t device)
{
	struct device *d = find_free(all);

	if (d == NULL)
		return;
	memset(d, 0, sizeof *d);
	d->server_fd = -1;
	d->state = STATE_LOST;
	d->known = d->born = true;
	d->command.info.device = device;
	log_notice("/dev/ublkb%u was left by an earlier broker: it is taken away", device);
	discard(all, d);
}

void devices_end(struct devices *all)
{
	all->ending = true;
	for (unsigned i = 0; i < DEVICES_MAX; i++)
		if (all->list[i].state != STATE_FREE)
			remove_device(all, &all->list[i], UB_REMOVED, "the agent is gone");
}

bool devices_none(const struct devices *all)
{
	for (unsigned i = 0; i < DEVICES_MAX; i++)
		if (all->list[i].state != STATE_FREE)
			return false;
	return true;
}
