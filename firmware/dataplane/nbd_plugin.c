/* The block device's face: an nbdkit plugin over the volume engine, and the only file that knows nbdkit.
 * What must hold: nothing is served before the control thread says that the export exists; without a key every operation ends in
 * ESHUTDOWN; a failed tag is EIO, never data; an operation that returned 0 with FUA, and all before a flush that returned 0, are
 * durable on every connection (the engine's flush covers them all, hence multi-conn). Threads that touch keys block all signals:
 * a signal frame would spill vector registers to the stack. What of the data stays in nbdkit's own buffers is in plaintext.h.
 * Only the supervisor starts it: nbdkit -f -t N fallgate-nbd.so fd=4 name=NAME, with all signals blocked, LD_BIND_NOW=1 and
 * GLIBC_TUNABLES=glibc.malloc.perturb=90. */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "control.h"
#include "fault.h"
#include "hal/sandbox.h"
#include "ipc/message.h"
#include "plaintext.h"
#include "volume/volume.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum { BLOCK_MIN = 1, BLOCK_PREFERRED = SECTOR_BYTES, BLOCK_MAX = 32 << 20 };

struct nbdkit_plugin *plugin_init(void);

/* nbdkit hands callbacks no context before a connection: the one process has one volume, and this is it. */
static struct {
	int fd;
	char name[NAME_MAX_BYTES];
	char program[64];
	struct control *control;
} serving = { .fd = -1 };

/* ---- start ---- */

static void plugin_load(void)
{
	log_open("fallgate-nbd", LOG_LEVEL_INFO);
	if (sandbox_harden() != 0)
		fatal("the process could not be hardened");
}

static int parse_fd(const char *value)
{
	char *end;
	long fd = strtol(value, &end, 10);

	if (*value == '\0' || *end != '\0' || fd < 3 || fd > 1024)
		return -1;
	return (int)fd;
}

static int plugin_config(const char *key, const char *value)
{
	char shown[32];

	if (strcmp(key, "fd") == 0 && parse_fd(value) >= 0) {
		serving.fd = parse_fd(value);
		return 0;
	}
	if (strcmp(key, "name") == 0 && message_name_good(value)) {
		snprintf(serving.name, sizeof serving.name, "%s", value);
		return 0;
	}
	log_error("the parameter %s is not one of fd=NUMBER, name=VOLUME, or its value is not good",
		  log_printable(shown, sizeof shown, key));
	return -1;
}

static int plugin_config_complete(void)
{
	if (serving.fd < 0 || serving.name[0] == '\0' || !control_fd_good(serving.fd)) {
		log_error("started outside the agent; use `fallgate attach`");
		return -1;
	}
	snprintf(serving.program, sizeof serving.program, "fallgate-nbd %s", serving.name);
	log_open(serving.program, LOG_LEVEL_INFO);
	return 0;
}

static void block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* The last call before nbdkit accepts clients. The walls come up before the supervisor's first message, and with it the first
 * byte of the backing store, is read. */
static int plugin_after_fork(void)
{
	block_signals();
	if (control_create(&serving.control, serving.fd) != 0)
		return -1;
	if (sandbox_enter(SANDBOX_DATAPLANE) != 0)
		fatal("the sandbox could not be entered");
	fault_watch(serving.control);
	if (control_start(serving.control) != 0)
		return -1;
	control_wait_ready(serving.control);
	return 0;
}

/* ---- connections ---- */

static void *plugin_open(int readonly)
{
	(void)readonly;
	if (!control_client_came(serving.control))
		return NULL;
	return serving.control;
}

static void plugin_close(void *handle)
{
	control_client_went(handle);
}

static int64_t plugin_get_size(void *handle)
{
	return (int64_t)control_size(handle);
}

static int yes(void *handle)
{
	(void)handle;
	return 1;
}

static int no(void *handle)
{
	(void)handle;
	return 0;
}

static int can_write(void *handle)
{
	return !control_read_only(handle);
}

static int can_fua(void *handle)
{
	(void)handle;
	return NBDKIT_FUA_NATIVE;
}

static int can_cache(void *handle)
{
	(void)handle;
	return NBDKIT_CACHE_NONE;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
	(void)handle;
	*minimum = BLOCK_MIN;
	*preferred = BLOCK_PREFERRED;
	*maximum = BLOCK_MAX;
	return 0;
}

/* ---- operations ---- */

/* nbdkit's worker threads inherit the mask of whoever made them; this makes sure, once a thread. */
static struct volume *enter(void *handle)
{
	static _Thread_local bool entered;

	if (!entered)
		block_signals();
	entered = true;
	return control_enter(handle);
}

/* true: the gate fell, the key is back, and the request is to be done again from its beginning. What a thread read before does
 * not lie in its buffer while it waits. */
static bool leave(void *handle, struct volume *v, int error)
{
	if (error == ERR_REVOKED)
		plaintext_enter();
	return control_leave(handle, v, error);
}

static int answer(void *handle, int error)
{
	if (error == 0)
		return 0;
	control_noticed(handle, error);
	nbdkit_set_error(error_to_errno(error));
	return -1;
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct volume *v;
	int r;

	(void)flags;
	do {
		v = enter(handle);
		plaintext_reading(buf, count);
		r = v != NULL ? volume_read(v, buf, count, offset) : ERR_REVOKED;
		if (r != 0)
			plaintext_done(buf, count);
	} while (leave(handle, v, r));
	return answer(handle, r);
}

/* The buffer is nbdkit's, and after this call it is only read into again: it may be wiped. While the volume is held it is kept:
 * nobody else has what the client wants written. */
static int plugin_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	void *mine = (void *)(uintptr_t)buf;
	struct volume *v;
	int r;

	plaintext_writing(mine, count);
	do {
		v = enter(handle);
		r = v != NULL ? volume_write(v, buf, count, offset, (flags & NBDKIT_FLAG_FUA) != 0) : ERR_REVOKED;
	} while (leave(handle, v, r));
	plaintext_done(mine, count);
	return answer(handle, r);
}

static int plugin_flush(void *handle, uint32_t flags)
{
	struct volume *v;
	int r;

	(void)flags;
	plaintext_enter();
	do {
		v = enter(handle);
		r = v != NULL ? volume_flush(v) : ERR_REVOKED;
	} while (leave(handle, v, r));
	return answer(handle, r);
}

static int zero(void *handle, uint32_t count, uint64_t offset, bool punch, uint32_t flags)
{
	struct volume *v;
	int r;

	plaintext_enter();
	do {
		v = enter(handle);
		r = v != NULL ? volume_zero(v, count, offset, punch, (flags & NBDKIT_FLAG_FUA) != 0) : ERR_REVOKED;
	} while (leave(handle, v, r));
	return answer(handle, r);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return zero(handle, count, offset, true, flags);
}

/* Zeroes are entries of the tree, not data: always fast. */
static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return zero(handle, count, offset, (flags & NBDKIT_FLAG_MAY_TRIM) != 0, flags);
}

struct extent_list {
	struct nbdkit_extents *list;
	bool only_one, any;
};

enum { EXTENTS_ENOUGH = 1, EXTENTS_FAILED = 2 };

static int add_extent(void *context, uint64_t at, uint64_t size, bool is_zero)
{
	struct extent_list *e = context;

	e->any = true;

	if (nbdkit_add_extent(e->list, at, size, is_zero ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) != 0)
		return EXTENTS_FAILED;
	return e->only_one ? EXTENTS_ENOUGH : 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
	struct extent_list e = { .list = extents, .only_one = (flags & NBDKIT_FLAG_REQ_ONE) != 0 };
	struct volume *v;
	int r;

	plaintext_enter();
	do {
		v = enter(handle);
		r = v != NULL ? volume_extents(v, count, offset, add_extent, &e) : ERR_REVOKED;
		if (r == ERR_REVOKED && e.any)
			r = 0; /* a list may be short, and no entry can be taken back */
	} while (leave(handle, v, r));
	if (r == EXTENTS_FAILED)
		return -1;
	return answer(handle, r == EXTENTS_ENOUGH ? 0 : r);
}

static struct nbdkit_plugin plugin = {
	.name = "fallgate-nbd",
	.longname = "Fallgate sealed volume",
	.version = FALLGATE_VERSION,
	.description = "The block device of a Fallgate volume. Started by the agent only.",
	.load = plugin_load,
	.config = plugin_config,
	.config_complete = plugin_config_complete,
	.config_help = "fd=<NUMBER>    (required) The channel to the supervisor.\n"
		       "name=<VOLUME>  (required) The volume's name, for the log.",
	.after_fork = plugin_after_fork,
	.open = plugin_open,
	.close = plugin_close,
	.get_size = plugin_get_size,
	.can_write = can_write,
	.can_flush = yes,
	.is_rotational = no,
	.can_trim = can_write,
	.can_zero = can_write,
	.can_fast_zero = can_write,
	.can_fua = can_fua,
	.can_multi_conn = yes,
	.can_extents = yes,
	.can_cache = can_cache,
	.block_size = plugin_block_size,
	.pread = plugin_pread,
	.pwrite = plugin_pwrite,
	.flush = plugin_flush,
	.trim = plugin_trim,
	.zero = plugin_zero,
	.extents = plugin_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
