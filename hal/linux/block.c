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

static size_t size_of(const struct iovec *parts, unsigned count)
{
	size_t size = 0;

	for (unsigned i = 0; i < count; i++)
		size += parts[i].iov_len;
	return size;
}

/* Past n bytes of the parts. Returns how many are left; the first of them may have begun before. */
static unsigned skip(struct iovec **parts, unsigned count, size_t n)
{
	while (count > 0 && n >= (*parts)->iov_len) {
		n -= (*parts)->iov_len;
		(*parts)++;
		count--;
	}
	if (count > 0) {
		(*parts)->iov_base = (char *)(*parts)->iov_base + n;
		(*parts)->iov_len -= n;
	}
	return count;
}

static int write_all(struct block *b, struct iovec *parts, unsigned count, uint64_t at, int flags)
{
	if (!in_range(b, size_of(parts, count), at))
		return ERR_RANGE;
	count = skip(&parts, count, 0);
	while (count > 0) {
		ssize_t n = pwritev2(fd_of(b), parts, (int)count, (off_t)at, flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
			return ERR_NOSPACE;
		if (n <= 0)
			return ERR_IO;
		at += (uint64_t)n;
		count = skip(&parts, count, (size_t)n);
	}
	return 0;
}

static int block_write(struct block *b, const void *in, size_t size, uint64_t at)
{
	struct iovec part = { (void *)(uintptr_t)in, size };

	return write_all(b, &part, 1, at, 0);
}

static int block_write_fua(struct block *b, const void *in, size_t size, uint64_t at)
{
	struct iovec part = { (void *)(uintptr_t)in, size };

	return write_all(b, &part, 1, at, RWF_DSYNC);
}

static int block_write_parts(struct block *b, const struct block_part *from, unsigned count, uint64_t at)
{
	struct iovec parts[BLOCK_PARTS_MAX];

	if (count > BLOCK_PARTS_MAX)
		return ERR_RANGE;
	for (unsigned i = 0; i < count; i++)
		parts[i] = (struct iovec){ (void *)(uintptr_t)from[i].bytes, from[i].size };
	return write_all(b, parts, count, at, 0);
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
	.write_parts = block_write_parts,
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
