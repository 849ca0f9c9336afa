/* See powercut_recorder.h. Two halves: the export as a device, and the log that the daemon wrote, read back. */
#include "powercut_recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"

enum { EXPORT_BYTES = 64 << 20, LOG_SECTOR = 4096, WAIT_STEPS = 2000, WAIT_US = 10000 };

static const char daemon_name[] = "qemu-storage-daemon";

struct recorder {
	struct block block;
	struct nbd_handle *nbd;
	char dir[64], data[80], log[80], socket[80];
	pid_t pid;
};

/* --- the export as a device --------------------------------------------------------------------------------------------- */

static struct recorder *of(struct block *b)
{
	return (struct recorder *)b;
}

static int answer(int r)
{
	if (r == 0)
		return 0;
	fprintf(stderr, "powercut: NBD: %s\n", nbd_get_error());
	return ERR_IO;
}

static int export_read(struct block *b, void *out, size_t size, uint64_t at)
{
	return answer(nbd_pread(of(b)->nbd, out, size, at, 0));
}

static int export_write(struct block *b, const void *in, size_t size, uint64_t at)
{
	return answer(nbd_pwrite(of(b)->nbd, in, size, at, 0));
}

static int export_write_fua(struct block *b, const void *in, size_t size, uint64_t at)
{
	return answer(nbd_pwrite(of(b)->nbd, in, size, at, LIBNBD_CMD_FLAG_FUA));
}

static int export_flush(struct block *b)
{
	return answer(nbd_flush(of(b)->nbd, 0));
}

static int export_discard(struct block *b, uint64_t size, uint64_t at)
{
	return answer(nbd_trim(of(b)->nbd, size, at, 0));
}

static void export_close(struct block *b)
{
	(void)b;
}

static const struct block_ops ops = {
	.read = export_read,
	.write = export_write,
	.write_fua = export_write_fua,
	.flush = export_flush,
	.discard = export_discard,
	.close = export_close,
};

/* --- the daemon --------------------------------------------------------------------------------------------------------- */

static bool make_file(const char *path, off_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	bool good = fd >= 0 && ftruncate(fd, size) == 0;

	if (fd >= 0)
		close(fd);
	return good;
}

static void run_daemon(const struct recorder *r)
{
	char data[200], log[200], server[200];
	static char recorder[] =
		"driver=blklogwrites,node-name=recorder,file=data,log=log,log-sector-size=4096,log-super-update-interval=1";
	static char export_as[] = "type=nbd,id=export,node-name=recorder,name=volume,writable=on";

	snprintf(data, sizeof data, "driver=file,node-name=data,filename=%s", r->data);
	snprintf(log, sizeof log, "driver=file,node-name=log,filename=%s", r->log);
	snprintf(server, sizeof server, "addr.type=unix,addr.path=%s", r->socket);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execlp(daemon_name, daemon_name, "--blockdev", data, "--blockdev", log, "--blockdev", recorder, "--nbd-server", server,
	       "--export", export_as, (char *)NULL);
	fprintf(stderr, "powercut: cannot start %s: %s; install qemu-system-common\n", daemon_name, strerror(errno));
	_exit(127);
}

static bool connect_to(struct recorder *r)
{
	for (unsigned i = 0; i < WAIT_STEPS; i++) {
		if (waitpid(r->pid, NULL, WNOHANG) == r->pid) {
			r->pid = 0;
			return false;
		}
		usleep(WAIT_US);
		if (access(r->socket, F_OK) != 0)
			continue;
		r->nbd = nbd_create();
		if (r->nbd != NULL && nbd_set_export_name(r->nbd, "volume") == 0 && nbd_connect_unix(r->nbd, r->socket) == 0)
			return true;
		nbd_close(r->nbd);
		r->nbd = NULL;
	}
	return false;
}

struct recorder *recorder_start(void)
{
	struct recorder *r = calloc(1, sizeof *r);
	const char *tmp = getenv("TMPDIR");

	if (r == NULL)
		abort();
	snprintf(r->dir, sizeof r->dir, "%.40s/powercut.XXXXXX", tmp != NULL && strlen(tmp) < 40 ? tmp : "/tmp");
	if (mkdtemp(r->dir) == NULL) {
		fprintf(stderr, "powercut: cannot make %s: %s\n", r->dir, strerror(errno));
		free(r);
		return NULL;
	}
	snprintf(r->data, sizeof r->data, "%s/data", r->dir);
	snprintf(r->log, sizeof r->log, "%s/log", r->dir);
	snprintf(r->socket, sizeof r->socket, "%s/socket", r->dir);
	r->block.ops = &ops;
	r->block.size = EXPORT_BYTES;
	r->block.atomic_bytes = LOG_SECTOR;
	if (make_file(r->data, EXPORT_BYTES) && make_file(r->log, 0)) {
		r->pid = fork();
		if (r->pid == 0)
			run_daemon(r);
		if (r->pid > 0 && connect_to(r))
			return r;
	}
	fprintf(stderr, "powercut: no recorder: %s does not serve %s\n", daemon_name, r->socket);
	recorder_free(r);
	return NULL;
}

struct block *recorder_device(struct recorder *r)
{
	return &r->block;
}

bool recorder_stop(struct recorder *r)
{
	int status = 1;

	if (r->nbd != NULL) {
		(void)nbd_shutdown(r->nbd, 0);
		nbd_close(r->nbd);
		r->nbd = NULL;
	}
	if (r->pid > 0) {
		kill(r->pid, SIGTERM);
		if (waitpid(r->pid, &status, 0) != r->pid)
			status = 1;
		r->pid = 0;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void recorder_free(struct recorder *r)
{
	if (r == NULL)
		return;
	(void)recorder_stop(r);
	(void)unlink(r->data);
	(void)unlink(r->log);
	(void)unlink(r->socket);
	(void)rmdir(r->dir);
	free(r);
}

/* --- its log ------------------------------------------------------------------------------------------------------------ */

enum { FLAG_FLUSH = 1, FLAG_FUA = 2, FLAG_DISCARD = 4 };

static bool read_at(int fd, void *out, size_t size, uint64_t at)
{
	return pread(fd, out, size, (off_t)at) == (ssize_t)size;
}

/* The mark's page, or writes of the volume's. */
static bool happen(struct block *dev, const uint8_t *bytes, uint64_t size, uint64_t at, bool fua)
{
	if (at == EXPORT_BYTES - POWER_PAGE && size == POWER_PAGE) {
		if (get_le64(bytes) == POWER_RECORD_BEGINS)
			power_record(dev);
		else
			power_mark(dev, get_le64(bytes));
		return true;
	}
	return (fua ? dev->ops->write_fua : dev->ops->write)(dev, bytes, size, at) == 0;
}

/* One entry at *at, which moves on. */
static bool one_entry(struct block *dev, int fd, uint64_t *at)
{
	uint8_t head[32], *bytes = NULL;
	uint64_t place, size, flags, data;
	bool good;

	if (!read_at(fd, head, sizeof head, *at))
		return false;
	place = get_le64(head) * LOG_SECTOR;
	size = get_le64(head + 8) * LOG_SECTOR;
	flags = get_le64(head + 16);
	data = get_le64(head + 24);
	*at += LOG_SECTOR;
	if (size > EXPORT_BYTES || (data != 0 && data != size))
		return false;
	good = (flags & FLAG_FLUSH) == 0 || dev->ops->flush(dev) == 0;
	if ((flags & FLAG_DISCARD) != 0)
		return good && dev->ops->discard(dev, size, place) == 0;
	if (size == 0)
		return good;
	bytes = malloc(size);
	good = good && bytes != NULL && read_at(fd, bytes, size, *at) && happen(dev, bytes, size, place, (flags & FLAG_FUA) != 0);
	*at += size;
	free(bytes);
	return good;
}

struct block *recorder_replay(struct recorder *r, uint64_t size)
{
	static const uint64_t magic = UINT64_C(0x6a736677736872);
	int fd = open(r->log, O_RDONLY | O_CLOEXEC);
	struct block *dev = power_new(size);
	uint8_t super[28];
	uint64_t entries = 0, at = LOG_SECTOR;
	bool good = fd >= 0 && read_at(fd, super, sizeof super, 0) && get_le64(super) == magic && get_le64(super + 8) == 1 &&
		    get_le32(super + 24) == LOG_SECTOR;

	if (good)
		entries = get_le64(super + 16);
	for (uint64_t i = 0; i < entries && good; i++)
		good = one_entry(dev, fd, &at);
	if (fd >= 0)
		close(fd);
	if (good && entries > 0)
		return dev;
	dev->ops->close(dev);
	return NULL;
}
