/* The backing store over one descriptor: a regular file or a block device, by pread and pwrite. What must hold: a transfer is
 * complete or an error; the lock is on the open file description, taken before anything is read and given back at close. */
#include <hal/block.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"

enum { BLOCK_ALIGN = 4096, LOCK_TRIES = 25, LOCK_WAIT_MS = 20 };

struct file_block {
	struct block block;
	int fd;
};

static int fd_of(struct block *b)
{
	return ((struct file_block *)b)->fd;
}

static bool in_range(const struct block *b, uint64_t size, uint64_t at)
{
	uint64_t end;

	return add_u64(&end, at, size) && end <= b->size;
}

/* A read that ends early means that somebody cut the file. */
static int block_read(struct block *b, void *out, size_t size, uint64_t at)
{
	char *to = out;
	ssize_t n;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	while (size > 0) {
		n = pread(fd_of(b), to, size, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ERR_IO;
		to += n;
		at += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

static ssize_t write_some(int fd, const char *from, size_t size, uint64_t at, int flags)
{
	const struct iovec part = { (char *)(uintptr_t)from, size };

	return flags == 0 ? pwrite(fd, from, size, (off_t)at) : pwritev2(fd, &part, 1, (off_t)at, flags);
}

static int write_all(struct block *b, const void *in, size_t size, uint64_t at, int flags)
{
	const char *from = in;
	ssize_t n;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	while (size > 0) {
		n = write_some(fd_of(b), from, size, at, flags);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
			return ERR_NOSPACE;
		if (n <= 0)
			return ERR_IO;
		from += n;
		at += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

static int block_write(struct block *b, const void *in, size_t size, uint64_t at)
{
	return write_all(b, in, size, at, 0);
}

static int block_write_fua(struct block *b, const void *in, size_t size, uint64_t at)
{
	return write_all(b, in, size, at, RWF_DSYNC);
}

/* A failed fdatasync is not tried again: the kernel may have dropped the pages and would say yes the second time. */
static int block_flush(struct block *b)
{
	return fdatasync(fd_of(b)) == 0 ? 0 : ERR_IO;
}

static int block_discard(struct block *b, uint64_t size, uint64_t at)
{
	uint64_t range[2] = { at, size };
	int r;

	if (!in_range(b, size, at))
		return ERR_RANGE;
	if (size == 0)
		return 0;
	if (b->is_device)
		r = ioctl(fd_of(b), BLKDISCARD, range);
	else
		r = fallocate(fd_of(b), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size);
	return r == 0 ? 0 : ERR_UNSUPPORTED;
}

/* The unlock is explicit: another process may still hold a copy of the descriptor. */
static void block_close(struct block *b)
{
	flock(fd_of(b), LOCK_UN);
	close(fd_of(b));
	free(b);
}

static const struct block_ops file_ops = {
	.read = block_read,
	.write = block_write,
	.flush = block_flush,
	.discard = block_discard,
	.close = block_close,
	.write_fua = block_write_fua,
};

/* udev takes a shared lock on a device for a moment when it appears: that is worth half a second. */
static int take_lock(int fd, bool is_device)
{
	const struct timespec wait = { .tv_nsec = LOCK_WAIT_MS * 1000000L };

	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return ERR_IO;
		if (!is_device || i >= LOCK_TRIES)
			return ERR_BUSY;
		nanosleep(&wait, NULL);
	}
	return 0;
}

static int measure_device(struct block *b, int fd)
{
	unsigned physical = 0;

	if (ioctl(fd, BLKGETSIZE64, &b->size) != 0)
		return ERR_IO;
	if (ioctl(fd, BLKPBSZGET, &physical) == 0)
		b->atomic_bytes = physical;
	b->size -= b->size % BLOCK_ALIGN;
	b->is_device = true;
	return 0;
}

static int measure(struct block *b, int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return ERR_IO;
	if (S_ISBLK(st.st_mode))
		return measure_device(b, fd);
	if (!S_ISREG(st.st_mode))
		return ERR_UNSUPPORTED;
	b->size = (uint64_t)st.st_size;
	return 0;
}

/* On a descriptor in append mode pwrite ignores its offset. */
static int check_fd(struct block *b, int fd)
{
	int flags = fcntl(fd, F_GETFL);
	int r = measure(b, fd);

	if (r != 0)
		return r;
	if (flags < 0 || (flags & (O_APPEND | O_PATH)) != 0)
		return ERR_UNSUPPORTED;
	return b->size == 0 || b->size % BLOCK_ALIGN != 0 ? ERR_RANGE : 0;
}

int block_open_fd(struct block **out, int fd)
{
	struct file_block *f = calloc(1, sizeof *f);
	int r;

	*out = NULL;
	if (f == NULL)
		return ERR_NOMEM;
	f->fd = fd;
	f->block.ops = &file_ops;
	r = check_fd(&f->block, fd);
	if (r == 0)
		r = take_lock(fd, f->block.is_device);
	/* Once more, now that nobody else who locks can change it. */
	if (r == 0 && (r = check_fd(&f->block, fd)) != 0)
		flock(fd, LOCK_UN);
	if (r != 0) {
		free(f);
		return r;
	}
	*out = &f->block;
	return 0;
}
