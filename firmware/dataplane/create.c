/* Creation of a volume. What must hold: nothing is written before the signature check; the data key is made in the transfer page,
 * goes from there into the ring and nowhere else; a volume is reported only after it was opened with that key; whatever fails,
 * and whoever calls it off, the keys are wiped and a file that was grown has its old size again. */
#include "create.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/block.h"
#include "hal/entropy.h"
#include "hal/sandbox.h"
#include "ipc/channel.h"
#include "keyslot.h"
#include "volume/volume.h"

enum {
	FIRST_GENERATION = 1,
	HEADER_BACKUP_FROM_END = 65536, /* SPEC.md: where the second header stands */
	SUBKEYS = 16,
	EXIT_BROKEN_PROTOCOL = 70,
	UNFINISHED = 1, /* not yet known: an answer is being waited for */
};
/* Nobody extends a creator's deadlines: this long may formatting and its proof take. */
#define CREATE_BUDGET_NS 30000000000u

struct creator {
	struct channel supervisor;
	struct msg_dp_create order;
	uint64_t order_nonce;
	int backing_fd; /* -1: not here, or given to dev */
	int file_fd;    /* a regular file that was grown: to give its old size back; else -1 */
	off_t old_size;
	struct block *dev;
	bool written; /* formatting has begun */
	struct keyring *ring;
	struct keyslot key;
	struct msg_page_done wrapped;
	uint8_t kcv[KCV_BYTES];
	uint64_t size;
	atomic_bool called_off;
	int stop_fd; /* ends the watcher */
	char text[TEXT_MAX_BYTES];
};

static int __attribute__((format(printf, 3, 4))) fail(struct creator *c, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(c->text, sizeof c->text, format, args);
	va_end(args);
	return error;
}

static int call_off(struct creator *c, const char *why)
{
	atomic_store(&c->called_off, true);
	return fail(c, ERR_REVOKED, "creation was called off: %s", why);
}

/* ---- what the supervisor says ---- */

static int say_hello(struct creator *c)
{
	struct message m;

	message_init(&m, MSG_HELLO, 0);
	snprintf(m.body.hello.version, sizeof m.body.hello.version, "%s", FALLGATE_VERSION);
	m.body.hello.pid = (int32_t)getpid();
	return channel_send(&c->supervisor, &m, NULL, 0);
}

static int wait_for(struct creator *c, enum message_type wanted, struct message *m, int *fd)
{
	int fds[CHANNEL_FDS_MAX];
	unsigned count;
	int r;

	do
		r = channel_receive_wait(&c->supervisor, m, fds, &count, NULL, -1);
	while (r == 1 && m->type == MSG_DP_DEADLINES);
	if (r == ERR_PROTOCOL)
		return fail(c, ERR_PROTOCOL, "the supervisor's message was malformed");
	if (r <= 0)
		return call_off(c, "the supervisor is gone");
	if (m->type == MSG_DP_LOCK || m->type == MSG_DP_DETACH)
		return call_off(c, "by order");
	if (m->type != wanted)
		return fail(c, ERR_PROTOCOL, "the supervisor's message is not allowed now");
	*fd = fds[0];
	return 0;
}

/* ---- the backing store ---- */

static int check_signature(struct creator *c)
{
	char name[64] = "", shown[64];
	int r = block_signature(c->backing_fd, name, sizeof name);

	if (r != 0)
		return fail(c, r, "the backing store cannot be read: %s", error_text(r));
	if (name[0] != '\0' && !c->order.force)
		return fail(c, ERR_EXISTS, "the backing store holds %s already: empty it, or create with --force to overwrite it",
			    log_printable(shown, sizeof shown, name));
	return 0;
}

/* All of a file's room is taken now: a sparse file promises more than its file system may hold one day, and a write that was
 * acknowledged must find its place. Where the file system cannot do that (ext2, NFS 3), it has to be there at least. */
static int take_space(struct creator *c, uint64_t size)
{
	struct statvfs fs;
	struct stat st;
	uint64_t need, room = 0;
	bool known = fstatvfs(c->backing_fd, &fs) == 0 && fstat(c->backing_fd, &st) == 0; /* before it is taken */
	int error = fallocate(c->backing_fd, 0, 0, (off_t)size) == 0 ? 0 : errno;

	if (error == 0 || !known)
		return 0; /* else the writes will tell */
	if (!mul_u64(&room, fs.f_bavail, fs.f_frsize))
		room = UINT64_MAX;
	need = (uint64_t)st.st_blocks * 512 < size ? size - (uint64_t)st.st_blocks * 512 : 0;
	if (error != ENOSPC && error != EDQUOT && error != EFBIG && room >= need)
		return 0;
	return fail(c, ERR_NOSPACE, "the file system has %llu KiB free, the volume needs %llu KiB: free some space",
		    (unsigned long long)(room / 1024), (unsigned long long)(need / 1024));
}

static int grow_file(struct creator *c)
{
	struct stat st;
	uint64_t want = c->order.size > 0 ? volume_backing_size(c->order.size) : 0;

	if (fstat(c->backing_fd, &st) != 0)
		return fail(c, ERR_IO, "the backing store: %s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return 0;
	if (c->order.size > 0 && (want == 0 || want > INT64_MAX))
		return fail(
			c, ERR_RANGE,
			"a size of %llu bytes is not possible: a multiple of 4096, which with what the volume keeps beside it "
			"is less than 8 EiB",
			(unsigned long long)c->order.size);
	if (want > (uint64_t)st.st_size) {
		c->old_size = st.st_size;
		c->file_fd = fcntl(c->backing_fd, F_DUPFD_CLOEXEC, 3);
		if (c->file_fd < 0 || ftruncate(c->backing_fd, (off_t)want) != 0)
			return fail(c, error_from_errno(errno), "the backing file cannot grow to %llu bytes: %s",
				    (unsigned long long)want, strerror(errno));
	}
	return take_space(c, want > (uint64_t)st.st_size ? want : (uint64_t)st.st_size);
}

static int prepare_backing(struct creator *c)
{
	int r = check_signature(c);

	if (r == 0)
		r = grow_file(c);
	if (r != 0)
		return r;
	r = block_open_fd(&c->dev, c->backing_fd);
	if (r == ERR_RANGE)
		return fail(c, r,
			    "the backing store has %lld bytes: it must be some, in a multiple of 4096; for a file give a size",
			    (long long)lseek(c->backing_fd, 0, SEEK_END));
	if (r != 0)
		return fail(c, r, "the backing store: %s", error_text(r));
	c->backing_fd = -1;
	if (c->dev->is_device && c->dev->atomic_bytes != 0 && c->dev->atomic_bytes < SECTOR_BYTES && !c->order.assume_4k)
		return fail(c, ERR_UNSUPPORTED,
			    "the device promises to write %u bytes at once, not 4096: a power cut could tear a sector; set "
			    "assume_4k = yes for the volume if it is known to do better",
			    c->dev->atomic_bytes);
	return 0;
}

/* ---- the key ---- */

static int ask_for_wrap(struct creator *c, const struct msg_dp_ticket *ticket, int hsm_fd)
{
	struct msg_page question = { .gen_no = FIRST_GENERATION };
	int r = keyslot_begin(&c->key, ticket, hsm_fd);

	if (r != 0)
		return fail(c, r, "no transfer page could be made: %s", error_text(r));
	r = entropy_fill(keyslot_payload(&c->key), DEK_BYTES);
	if (r != 0)
		return fail(c, r, "no random bytes for a key: %s", error_text(r));
	keyring_bind(keyslot_payload(&c->key) + DEK_BYTES, c->order.uuid, FIRST_GENERATION);
	memcpy(question.volume, c->order.name, sizeof question.volume);
	r = keyslot_ask(&c->key, MSG_PAGE_WRAP, &question);
	return r == 0 ? 0 : fail(c, r, "the hsm process is gone before it was asked");
}

/* One look at both channels. UNFINISHED, 0 (the wrap is there), or an error. */
static int look_for_wrap(struct creator *c)
{
	struct pollfd p[] = { { .fd = c->supervisor.fd, .events = POLLIN }, { .fd = c->key.hsm.fd, .events = POLLIN } };
	struct message m;
	int fds[CHANNEL_FDS_MAX], r;
	unsigned count;

	if (poll(p, 2, -1) < 0)
		return UNFINISHED;
	if (p[0].revents != 0) {
		r = channel_receive(&c->supervisor, &m, fds, &count, NULL);
		if (r != ERR_BUSY && !(r == 1 && m.type == MSG_DP_DEADLINES))
			return call_off(c, r == 1 ? "by order" : "the supervisor is gone");
	}
	r = keyslot_answer(&c->key, &c->wrapped);
	if (r == ERR_BUSY)
		return UNFINISHED;
	if (r != 0)
		return fail(c, r, "the hsm did not wrap the key: %s (%s)", error_text(r),
			    verdict_name((enum hsm_verdict)c->wrapped.verdict));
	return c->wrapped.wrapped_size > 0 ? 0 : fail(c, ERR_PROTOCOL, "the hsm's answer holds no wrapped key");
}

static int load_key(struct creator *c)
{
	uint64_t deadline = boot_now_ns() + CREATE_BUDGET_NS;
	int r;

	keyring_set_deadlines(c->ring, deadline, deadline);
	r = keyslot_load(&c->key, c->ring, c->kcv, NULL, c->order.uuid, FIRST_GENERATION);
	return r == 0 ? 0 : fail(c, r, "the new key cannot be loaded: %s", error_text(r));
}

/* ---- the volume ---- */

static void fill_slot(const struct creator *c, struct kek_slot *s)
{
	const struct msg_dp_create *o = &c->order;

	s->type = o->kek_type == KEK_RSA_OAEP ? KEK_SLOT_RSA_OAEP : KEK_SLOT_AES_KW;
	s->hash = (enum kek_slot_hash)o->hash;
	memcpy(s->fingerprint, o->fingerprint, sizeof s->fingerprint);
	memcpy(s->label, o->kek_label, sizeof s->label);
	memcpy(s->id, o->kek_id, sizeof s->id);
	s->id_size = o->kek_id_size;
	memcpy(s->token, o->token, sizeof s->token);
	s->gen_no = FIRST_GENERATION;
	s->wrapped_size = c->wrapped.wrapped_size;
	memcpy(s->wrapped, c->wrapped.wrapped, c->wrapped.wrapped_size);
}

static int format_volume(struct creator *c)
{
	struct volume_format *f = calloc(1, sizeof *f);
	int r;

	if (f == NULL)
		return fail(c, ERR_NOMEM, "%s", error_text(ERR_NOMEM));
	memcpy(f->uuid, c->order.uuid, sizeof f->uuid);
	f->size = c->order.size;
	f->label = c->order.name;
	f->now = c->order.now;
	fill_slot(c, &f->slot);
	c->written = true;
	r = volume_format(c->dev, c->ring, f);
	free(f);
	if (r == ERR_NOSPACE)
		return fail(c, r, "the file system is full: free some space and create the volume again");
	return r == 0 ? 0 : fail(c, r, "the volume cannot be written: %s", error_text(r));
}

/* A key that does not open what it was just used for must not be the only one there is. */
static int prove_volume(struct creator *c)
{
	struct volume_options options = { .kcv = c->kcv, .expect_size = c->order.size, .assume_4k = c->order.assume_4k };
	char why[160] = "";
	struct volume *v;
	int r = volume_open(&v, c->dev, c->ring, &options, why, sizeof why);

	if (r != 0)
		return fail(c, r, "the new volume does not open: %s%s%s", error_text(r), why[0] != '\0' ? ": " : "", why);
	c->size = volume_size(v);
	r = volume_close(v);
	return r == 0 ? 0 : fail(c, r, "the new volume does not close: %s", error_text(r));
}

/* ---- while keys are here, somebody listens ---- */

static void *watch_supervisor(void *context)
{
	struct creator *c = context;
	struct pollfd p[] = { { .fd = c->supervisor.fd, .events = POLLIN }, { .fd = c->stop_fd, .events = POLLIN } };
	int fds[CHANNEL_FDS_MAX], r;
	struct message m;
	unsigned count;

	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents != 0)
			return NULL;
		r = channel_receive(&c->supervisor, &m, fds, &count, NULL);
		if (r == ERR_BUSY || (r == 1 && m.type == MSG_DP_DEADLINES))
			continue;
		atomic_store(&c->called_off, true);
		keyring_wipe(c->ring); /* what is under way now fails with ERR_REVOKED */
		return NULL;
	}
}

static int make_volume_watched(struct creator *c)
{
	pthread_t watcher;
	uint64_t one = 1;
	int r;

	if (pthread_create(&watcher, NULL, watch_supervisor, c) != 0)
		return fail(c, ERR_NOMEM, "%s", error_text(ERR_NOMEM));
	r = load_key(c);
	if (r == 0)
		r = format_volume(c);
	if (r == 0)
		r = prove_volume(c);
	if (write(c->stop_fd, &one, sizeof one) < 0)
		log_error("the watcher cannot be stopped: %s", strerror(errno));
	pthread_join(watcher, NULL);
	if (atomic_load(&c->called_off))
		r = call_off(c, "the supervisor is gone, or gave the order");
	return r;
}

/* ---- the whole ---- */

static int take_order(struct creator *c)
{
	struct message m;
	int r = wait_for(c, MSG_DP_CREATE, &m, &c->backing_fd);

	if (r != 0)
		return r;
	c->order = m.body.dp_create;
	c->order_nonce = m.nonce;
	r = prepare_backing(c);
	if (r != 0)
		return r;
	r = keyring_create(&c->ring, SUBKEYS, c->order.kernel[0] != '\0' ? c->order.kernel : NULL);
	return r == 0 ? 0 : fail(c, r, "%s", keyslot_ring_trouble(r));
}

static int create_volume(struct creator *c)
{
	struct message m;
	int hsm_fd, r = take_order(c);

	if (r != 0)
		return r;
	r = wait_for(c, MSG_DP_TICKET, &m, &hsm_fd);
	if (r != 0)
		return r;
	r = ask_for_wrap(c, &m.body.dp_ticket, hsm_fd);
	while (r == 0 && (r = look_for_wrap(c)) == UNFINISHED)
		r = 0;
	return r == 0 ? make_volume_watched(c) : r;
}

/* Nobody has a record of what was written: the first block of both headers goes, and a grown file gets its old size. */
static int erase_headers(struct block *dev)
{
	uint8_t *nothing = calloc(1, SECTOR_BYTES);
	int r = nothing != NULL ? dev->ops->write(dev, nothing, SECTOR_BYTES, 0) : ERR_NOMEM;

	if (r == 0 && dev->size >= HEADER_BACKUP_FROM_END)
		r = dev->ops->write(dev, nothing, SECTOR_BYTES, dev->size - HEADER_BACKUP_FROM_END);
	if (r == 0)
		r = dev->ops->flush(dev);
	free(nothing);
	return r;
}

static void undo(struct creator *c)
{
	if (c->written && erase_headers(c->dev) != 0)
		log_error("what was written of the volume could not be taken away: use --force the next time");
	if (c->file_fd >= 0 && ftruncate(c->file_fd, c->old_size) != 0)
		log_error("the backing file keeps its new size: %s", strerror(errno));
}

static void release(struct creator *c)
{
	keyslot_close(&c->key);
	if (c->ring != NULL)
		keyring_destroy(c->ring);
	if (c->dev != NULL)
		c->dev->ops->close(c->dev);
	if (c->backing_fd >= 0)
		close(c->backing_fd);
	if (c->file_fd >= 0)
		close(c->file_fd);
}

static void tell_created(struct creator *c, int error)
{
	struct message m;
	struct msg_dp_created *d = &m.body.dp_created;

	message_init(&m, MSG_DP_CREATED, c->order_nonce);
	d->error = error;
	if (error == 0) {
		memcpy(d->kcv, c->kcv, sizeof d->kcv);
		d->gen_no = FIRST_GENERATION;
		d->size = c->size;
	} else {
		snprintf(d->text, sizeof d->text, "%s", c->text);
	}
	if (channel_send(&c->supervisor, &m, NULL, 0) != 0)
		log_error("nobody took the answer");
}

int create_run(int fd)
{
	struct creator c = { .backing_fd = -1, .file_fd = -1 };
	int r;

	keyslot_init(&c.key);
	channel_init(&c.supervisor, fd, ROLE_DATAPLANE, ROLE_SUPERVISOR);
	c.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c.stop_fd < 0 || say_hello(&c) != 0)
		return error_exit_code(ERR_IO);
	if (sandbox_enter(SANDBOX_DATAPLANE) != 0)
		fatal("the sandbox could not be entered");
	r = create_volume(&c);
	if (r != 0)
		undo(&c);
	release(&c); /* keys, and the lock on the backing store, are gone before anybody hears of it */
	if (r != 0)
		log_error("volume %s: not created: %s", c.order.name[0] != '\0' ? c.order.name : "?", c.text);
	else
		log_notice("volume %s: created, %llu bytes", c.order.name, (unsigned long long)c.size);
	tell_created(&c, r);
	return r == ERR_PROTOCOL ? EXIT_BROKEN_PROTOCOL : error_exit_code(r);
}
