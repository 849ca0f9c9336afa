/* The block device of a volume whose export is ublk: asked for at the broker before each server, let go with the first key, named
 * in /dev/fallgate. What must hold: no request reaches a server without a key; what is not held is not left waiting; an answer to
 * an order that stands no more changes nothing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "broker.h"
#include "volume.h"

enum { ASKED_S = 10, AGAIN_MS = 200, DEVICE_MAX = 1 << 20, QUEUES_MAX = 4096 };

/* ---- names ---- */

static void link_path(const struct volume *v, char *out, size_t size)
{
	snprintf(out, size, "%s/%s", v->agent->config.devices, v->config.name);
}

/* What udev reads: which volume the device is. */
static void mark_path(const struct volume *v, char *out, size_t size)
{
	snprintf(out, size, "%s/devices/ublkb%u", v->agent->config.run_dir, v->device.number);
}

static void write_mark(const struct volume *v)
{
	char folder[PATH_MAX_BYTES + 16], path[PATH_MAX_BYTES + 48], line[NAME_MAX_BYTES + 24];
	int fd, n = snprintf(line, sizeof line, "FALLGATE_VOLUME=%s\n", v->config.name);
	bool good;

	snprintf(folder, sizeof folder, "%s/devices", v->agent->config.run_dir);
	mkdir(folder, 0755);
	mark_path(v, path, sizeof path);
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	good = fd >= 0 && write(fd, line, (size_t)n) == n;
	if (!good)
		log_warning("volume %s: %s cannot be written: %s; udev does not know the device's name", v->config.name, path,
			    strerror(errno));
	if (fd >= 0)
		close(fd);
}

static bool is_link(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

/* Never over anything but a link: whatever else stands there is somebody's. */
static void make_link(struct volume *v)
{
	char path[PATH_MAX_BYTES + 40], fresh[PATH_MAX_BYTES + 48], target[32];
	struct stat st;

	snprintf(target, sizeof target, "../ublkb%u", v->device.number);
	snprintf(v->device.path, sizeof v->device.path, "/dev/ublkb%u", v->device.number);
	mkdir(v->agent->config.devices, 0755);
	link_path(v, path, sizeof path);
	snprintf(fresh, sizeof fresh, "%s.new", path);
	unlink(fresh);
	if ((lstat(path, &st) == 0 && !S_ISLNK(st.st_mode)) || symlink(target, fresh) != 0 || rename(fresh, path) != 0) {
		log_error("volume %s: the link %s cannot be made; the device is %s", v->config.name, path, v->device.path);
		unlink(fresh);
		return;
	}
	snprintf(v->device.path, sizeof v->device.path, "%s", path);
}

/* Only where it still leads to that device. */
static void drop_link(const char *path, const char *device)
{
	char target[NAME_MAX + 4], found[NAME_MAX + 4];
	int size = snprintf(target, sizeof target, "../%s", device);
	ssize_t n = readlink(path, found, sizeof found);

	if (n == size && memcmp(found, target, (size_t)n) == 0)
		unlink(path);
}

static void unname(struct volume *v)
{
	char path[PATH_MAX_BYTES + 48], device[24];

	if (v->device.path[0] == '\0')
		return;
	v->device.path[0] = '\0';
	mark_path(v, path, sizeof path);
	unlink(path);
	link_path(v, path, sizeof path);
	snprintf(device, sizeof device, "ublkb%u", v->device.number);
	drop_link(path, device);
}

/* The number may be another's device by now: whoever opened the volume's name would write to that. */
static void sweep_mark(const struct agent *a, const char *mark, const char *device)
{
	static const char key[] = "FALLGATE_VOLUME=";
	char line[sizeof key + NAME_MAX_BYTES] = "", path[PATH_MAX_BYTES + 40];
	int fd = open(mark, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && read(fd, line, sizeof line - 1) < 0)
		line[0] = '\0';
	if (fd >= 0)
		close(fd);
	unlink(mark);
	line[strcspn(line, "\n")] = '\0';
	if (strncmp(line, key, sizeof key - 1) != 0 || !message_name_good(line + sizeof key - 1))
		return;
	snprintf(path, sizeof path, "%s/%s", a->config.devices, line + sizeof key - 1);
	drop_link(path, device);
}

/* What an agent that was killed left: its marks, the links that they speak of, links that lead nowhere. */
void device_sweep(struct agent *a)
{
	const char *folders[] = { a->config.devices, a->config.run_dir };
	char folder[PATH_MAX_BYTES + 16], path[PATH_MAX_BYTES + 300];

	for (int i = 0; i < 2; i++) {
		DIR *d;

		snprintf(folder, sizeof folder, i == 0 ? "%s" : "%s/devices", folders[i]);
		d = opendir(folder);
		for (struct dirent *e = d != NULL ? readdir(d) : NULL; e != NULL; e = readdir(d)) {
			snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
			if (i == 0 && is_link(path) && access(path, F_OK) != 0)
				unlink(path);
			else if (i == 1 && strncmp(e->d_name, "ublkb", 5) == 0)
				sweep_mark(a, path, e->d_name);
		}
		if (d != NULL)
			closedir(d);
	}
}

/* ---- its end ---- */

static void drop(struct volume *v)
{
	unname(v);
	timer_disarm(&v->agent->loop, &v->device.deadline);
	v->device.state = DEVICE_NONE;
	v->device.doomed = v->device.fetched = false;
}

static void hold_over(struct volume *v)
{
	if (v->hold_until_ns == 0)
		return;
	v->hold_until_ns = 0;
	volume_feed(v, EV_HOLD_TIMEOUT, CAUSE_NONE, NULL, NULL);
}

/* A key is taken back in order; a server without one is of no more use. */
static void end_server(struct volume *v, const char *text)
{
	if (!v->dataplane.alive || v->dataplane.stage >= STAGE_LOCKING)
		return;
	if (v->gate.state == GATE_UNLOCKING || gate_state_serves(v->gate.state))
		volume_feed(v, EV_ENGINE_FAILSTOP, CAUSE_NONE, NULL, text);
	else
		child_kill(&v->dataplane, NULL);
}

static void send_remove(struct volume *v)
{
	struct message m;

	message_init(&m, MSG_UB_REMOVE, 0);
	strcpy(m.body.ub_remove.name, v->config.name);
	timer_disarm(&v->agent->loop, &v->device.deadline);
	if (broker_send(v->agent, &m) == 0)
		v->device.state = DEVICE_REMOVING;
}

void device_doom(struct volume *v)
{
	v->hold_until_ns = 0;
	v->device.doomed = v->device.state != DEVICE_NONE;
	device_settle(v);
}

/* A server that is wiping its keys is not disturbed by the end of its device. */
void device_settle(struct volume *v)
{
	struct device *d = &v->device;

	if (d->state == DEVICE_NONE || d->state == DEVICE_REMOVING || (!d->doomed && v->dataplane_wanted))
		return;
	if (v->dataplane.alive && v->dataplane.stage == STAGE_LOCKING)
		return;
	send_remove(v);
}

void device_server_ended(struct volume *v)
{
	enum device_state s = v->device.state;

	if (s == DEVICE_READY || s == DEVICE_GOING || s == DEVICE_LIVE)
		v->device.state = DEVICE_WAITING;
	device_settle(v);
}

void device_hold(struct volume *v)
{
	struct message m;

	if (v->device.state == DEVICE_NONE || v->device.state == DEVICE_REMOVING) {
		v->hold_until_ns = 0;
		return;
	}
	message_init(&m, MSG_UB_HOLD, 0);
	strcpy(m.body.ub_hold.name, v->config.name);
	m.body.ub_hold.until_ns = v->hold_until_ns;
	broker_send(v->agent, &m);
}

/* Where a server is wanted and none is left whose end would bring the next. */
static void begin_again(struct volume *v)
{
	if (v->dataplane_wanted && !v->dataplane.alive)
		dataplane_start(v);
}

void device_lost(struct volume *v, const char *text)
{
	enum device_state s = v->device.state;

	if (s == DEVICE_NONE)
		return;
	drop(v);
	hold_over(v);
	if (s == DEVICE_ASKED)
		dataplane_not_ready(v, text);
	else
		end_server(v, text);
	begin_again(v);
}

/* ---- its beginning ---- */

static void ask_again(struct volume *v)
{
	timer_arm(&v->agent->loop, &v->restart, boot_now() + AGAIN_MS * MS_NS);
}

void device_ask(struct volume *v)
{
	const struct config_user *user = &v->agent->config.user_dataplane;
	struct device *d = &v->device;
	struct message m;
	struct msg_ub_add *add = &m.body.ub_add;

	if (d->state == DEVICE_ASKED)
		return;
	message_init(&m, MSG_UB_ADD, ++v->agent->sequence);
	strcpy(add->name, v->config.name);
	add->size = v->record.size;
	add->hold_ns = v->config.hold ? v->config.hold_timeout_ns : 0;
	add->uid = user->set ? user->uid : geteuid();
	add->gid = user->set ? user->gid : getegid();
	add->read_only = v->config.read_only;
	add->fetched = d->fetched;
	if (broker_send(v->agent, &m) != 0) {
		ask_again(v);
		return;
	}
	d->nonce = m.nonce;
	d->asked_ns = boot_now();
	d->state = DEVICE_ASKED;
	d->doomed = false;
	timer_arm(&v->agent->loop, &d->deadline, d->asked_ns + ASKED_S * SEC_NS);
}

/* One volume's device may take its time; a broker that says nothing to anybody hangs. */
static void asked_deadline(void *context)
{
	struct volume *v = context;

	if (v->device.state != DEVICE_ASKED)
		return;
	if (broker_heard(v->agent) < v->device.asked_ns) {
		broker_replace(v->agent, "it does not answer");
		return; /* its end is the answer */
	}
	v->device.state = DEVICE_WAITING;
	dataplane_not_ready(v, "its block device is not there in time: the one before it may still be in use");
}

void device_go(struct volume *v)
{
	struct message m;

	if (v->device.state != DEVICE_READY)
		return;
	write_mark(v);
	message_init(&m, MSG_UB_GO, ++v->agent->sequence);
	strcpy(m.body.ub_go.name, v->config.name);
	m.body.ub_go.pid = v->dataplane.pid;
	v->device.nonce = m.nonce;
	v->device.state = DEVICE_GOING;
	if (broker_send(v->agent, &m) != 0)
		volume_feed(v, EV_RECOVERY_REFUSED, CAUSE_ENGINE, NULL,
			    "the broker of the block devices is not there; see the log");
}

static void take_ready(struct volume *v, uint64_t nonce, const struct msg_ub_ready *r)
{
	struct device *d = &v->device;
	char text[TEXT_MAX_BYTES];

	if (d->state != DEVICE_ASKED || nonce != d->nonce)
		return;
	timer_disarm(&v->agent->loop, &d->deadline);
	if (r->error == ERR_BUSY) { /* the kernel is not done with the last one */
		d->state = DEVICE_WAITING;
		ask_again(v);
		return;
	}
	if (r->error != 0) {
		drop(v);
		log_printable(text, sizeof text, r->text);
		dataplane_not_ready(v, text);
		return;
	}
	if (r->device >= DEVICE_MAX || r->queues == 0 || r->queues > QUEUES_MAX || r->depth == 0) {
		broker_replace(v->agent, "it speaks of a device that cannot be");
		return;
	}
	if (!r->kept || r->device != d->number)
		unname(v);
	d->number = r->device;
	d->queues = r->queues;
	d->depth = r->depth;
	d->fetched = false;
	d->state = DEVICE_READY;
	if (!r->kept)
		hold_over(v); /* whoever waited has been failed */
	if (v->dataplane_wanted)
		dataplane_serve_device(v);
	else
		device_settle(v);
}

static void take_started(struct volume *v, uint64_t nonce, const struct msg_ub_started *s)
{
	char text[TEXT_MAX_BYTES];

	if (v->device.state != DEVICE_GOING || nonce != v->device.nonce) {
		if (s->error == 0 && v->device.state == DEVICE_WAITING && v->hold_until_ns != 0)
			device_hold(v); /* its server ended first: what waits goes on waiting until the same moment */
		return;
	}
	if (s->error == 0) {
		v->device.state = DEVICE_LIVE;
		make_link(v);
		unlock_device_started(v);
		return;
	}
	v->device.state = DEVICE_WAITING;
	log_printable(text, sizeof text, s->text);
	if (v->gate.state == GATE_UNLOCKING)
		volume_feed(v, EV_RECOVERY_REFUSED, CAUSE_ENGINE, NULL, text);
}

static void take_gone(struct volume *v, const struct msg_ub_gone *g)
{
	enum device_state s = v->device.state;
	char text[TEXT_MAX_BYTES];

	if (g->reason == UB_HOLD_OVER)
		hold_over(v);
	if (s == DEVICE_ASKED || s == DEVICE_NONE)
		return; /* of the one before it */
	drop(v);
	log_printable(text, sizeof text, g->text[0] != '\0' ? g->text : "its block device was taken away");
	if (g->reason != UB_SERVER_GONE && s != DEVICE_REMOVING && s != DEVICE_WAITING)
		end_server(v, text); /* else by order, or the end of its server is on its way to be heard */
	begin_again(v);
}

void device_message(struct volume *v, const struct message *m)
{
	if (v->config.export != EXPORT_UBLK)
		return;
	if (m->type == MSG_UB_READY)
		take_ready(v, m->nonce, &m->body.ub_ready);
	else if (m->type == MSG_UB_STARTED)
		take_started(v, m->nonce, &m->body.ub_started);
	else if (m->type == MSG_UB_GONE)
		take_gone(v, &m->body.ub_gone);
}

/* ---- life ---- */

void device_init(struct volume *v)
{
	timer_init(&v->device.deadline, asked_deadline, v);
}

void device_forget(struct volume *v)
{
	drop(v);
}

bool device_possible(const struct config *c, const char *control, char text[static TEXT_MAX_BYTES])
{
	char broker[PATH_MAX_BYTES + 32];

	snprintf(broker, sizeof broker, "%s/fallgate-ublk", c->libexec_dir);
	if (access(broker, X_OK) != 0)
		snprintf(text, TEXT_MAX_BYTES, "this build has no ublk (%.120s is missing); use export = nbd", broker);
	else if (access(control, F_OK) != 0)
		snprintf(text, TEXT_MAX_BYTES,
			 "the kernel has no ublk (%.100s is missing): modprobe ublk_drv (linux 6.8 and later), or use export = "
			 "nbd",
			 control);
	else
		return true;
	return false;
}
