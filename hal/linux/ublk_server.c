/* The queues of one /dev/ublkcN. What must hold: a ring's operations are the driver's own commands and a read of the queue's wake
 * descriptor, on these two files and no others; a request's data is copied by read and write of the char device, at a place that
 * queue and tag say, into and out of ordinary memory of this process. Requests stand in a page that the kernel writes and this
 * process only reads: each field is read once. */
#include <hal/ublk.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "ublk_abi.h"
#include "ublk_ring.h"

enum { FILE_DEVICE, FILE_WAKE, FILE_COUNT };
enum { OPEN_WAIT_MS = 2000, OPEN_STEP_MS = 10 };
enum { WAKE = UINT16_MAX }; /* user data of the read on the wake descriptor; else it is the tag */

struct kernel_queue {
	struct ublk_queue base;
	struct io_uring ring;
	const volatile struct ublksrv_io_desc *requests;
	int device_fd, wake_fd;
	uint16_t index;
	uint64_t woken; /* what the wake descriptor's counter was: nobody looks at it */
};

static struct kernel_queue *of(struct ublk_queue *q)
{
	return (struct kernel_queue *)q;
}

static long page_up(size_t n)
{
	long page = sysconf(_SC_PAGESIZE);

	return ((long)n + page - 1) / page * page;
}

/* The ring has room for everything that can be under way; were it full, what stands in it goes first. */
static struct io_uring_sqe *entry(struct kernel_queue *k, uint8_t operation, int file, uint64_t user_data)
{
	struct io_uring_sqe *e;

	while ((e = io_uring_get_sqe(&k->ring)) == NULL)
		io_uring_submit(&k->ring);
	memset(e, 0, sizeof *e);
	e->opcode = operation;
	e->flags = IOSQE_FIXED_FILE;
	e->fd = file;
	e->user_data = user_data;
	return e;
}

static void command(struct kernel_queue *k, uint32_t code, uint16_t tag, int32_t result)
{
	const struct ublksrv_io_cmd c = { .q_id = k->index, .tag = tag, .result = result };
	struct io_uring_sqe *e = entry(k, IORING_OP_URING_CMD, FILE_DEVICE, tag);

	e->off = code; /* cmd_op */
	memcpy(e->cmd, &c, sizeof c);
}

static void listen_to_wakes(struct kernel_queue *k)
{
	struct io_uring_sqe *e = entry(k, IORING_OP_READ, FILE_WAKE, WAKE);

	e->addr = (uint64_t)(uintptr_t)&k->woken;
	e->len = sizeof k->woken;
}

/* As late as can be: linux 6.12 lets one process map a device until a succession, and a succession needs a server that fetched.
 * One that ends before either leaves the device as it was. */
static int map_requests(struct kernel_queue *k)
{
	off_t stride = page_up(UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc));
	size_t size = (size_t)page_up(k->base.depth * sizeof(struct ublksrv_io_desc));
	void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, k->device_fd, UBLKSRV_CMD_BUF_OFFSET + k->index * stride);

	if (p == MAP_FAILED) {
		log_error("ublk: the requests of queue %u cannot be mapped: %s", k->index, strerror(errno));
		return ERR_IO;
	}
	k->requests = p;
	return 0;
}

/* A fetch is answered when a request comes; one that is answered at once was refused. */
static int fetch(struct ublk_queue *q)
{
	struct kernel_queue *k = of(q);
	struct io_uring_cqe *done;
	int r = map_requests(k);

	if (r != 0)
		return r;
	for (unsigned tag = 0; tag < q->depth; tag++)
		command(k, ABI_FETCH, (uint16_t)tag, 0);
	listen_to_wakes(k);
	while ((r = io_uring_submit(&k->ring)) == -EINTR)
		;
	if (r >= 0 && io_uring_peek_cqe(&k->ring, &done) == 0)
		r = done->res;
	if (r >= 0)
		return 0;
	log_error("ublk: queue %u: the kernel did not take it: %s", k->index, strerror(-r));
	return r == -EBUSY ? ERR_BUSY : ERR_IO;
}

static void answer(struct ublk_queue *q, uint16_t tag, int32_t result)
{
	command(of(q), ABI_COMMIT, tag, result);
}

static int wait_for_requests(struct ublk_queue *q, uint16_t *tags, unsigned max)
{
	struct kernel_queue *k = of(q);
	struct io_uring_cqe *done;
	unsigned n = 0;
	int r = io_uring_submit_and_wait(&k->ring, 1);

	if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
		return ERR_IO;
	while (n < max && io_uring_peek_cqe(&k->ring, &done) == 0) {
		uint64_t what = done->user_data;

		r = done->res;
		io_uring_cqe_seen(&k->ring, done);
		if (what == WAKE)
			listen_to_wakes(k);
		else if (r != UBLK_IO_RES_OK || what >= q->depth)
			return ERR_IO;
		else
			tags[n++] = (uint16_t)what;
	}
	return (int)n;
}

static unsigned op_of(uint32_t op_flags)
{
	static const uint8_t ops[] = {
		[UBLK_IO_OP_READ] = UBLK_READ,           [UBLK_IO_OP_WRITE] = UBLK_WRITE,
		[UBLK_IO_OP_FLUSH] = UBLK_FLUSH,         [UBLK_IO_OP_DISCARD] = UBLK_DISCARD,
		[UBLK_IO_OP_WRITE_SAME] = UBLK_OP_COUNT, [UBLK_IO_OP_WRITE_ZEROES] = UBLK_ZEROES,
	};
	uint32_t op = op_flags & 0xff;

	return op < sizeof ops ? ops[op] : UBLK_OP_COUNT;
}

/* What does not fit becomes a place that no device has. */
static void request(struct ublk_queue *q, uint16_t tag, struct ublk_request *out)
{
	const volatile struct ublksrv_io_desc *r = &of(q)->requests[tag];
	uint32_t op_flags = r->op_flags;

	out->op = op_of(op_flags);
	out->fua = (op_flags & UBLK_IO_F_FUA) != 0;
	out->keep = (op_flags & UBLK_IO_F_NOUNMAP) != 0;
	out->size = (uint64_t)r->nr_sectors * UBLK_SECTOR;
	if (!mul_u64(&out->at, r->start_sector, UBLK_SECTOR))
		out->at = UINT64_MAX;
}

static off_t place(const struct kernel_queue *k, uint16_t tag)
{
	return (off_t)(ABI_DATA_AT + ((uint64_t)k->index << ABI_QUEUE_SHIFT) + ((uint64_t)tag << ABI_TAG_SHIFT));
}

static int pull(struct ublk_queue *q, uint16_t tag, void *buf, size_t size)
{
	const struct kernel_queue *k = of(q);
	ssize_t n;

	for (size_t done = 0; done < size; done += (size_t)n) {
		n = pread(k->device_fd, (uint8_t *)buf + done, size - done, place(k, tag) + (off_t)done);
		if (n <= 0)
			return ERR_IO;
	}
	return 0;
}

static int push(struct ublk_queue *q, uint16_t tag, const void *buf, size_t size)
{
	const struct kernel_queue *k = of(q);
	ssize_t n;

	for (size_t done = 0; done < size; done += (size_t)n) {
		n = pwrite(k->device_fd, (const uint8_t *)buf + done, size - done, place(k, tag) + (off_t)done);
		if (n <= 0)
			return ERR_IO;
	}
	return 0;
}

static void wake(struct ublk_queue *q)
{
	uint64_t one = 1;

	if (write(of(q)->wake_fd, &one, sizeof one) < 0)
		return; /* the counter is full: it is raised */
}

static const struct ublk_queue_ops kernel_ops = {
	.fetch = fetch,
	.wait = wait_for_requests,
	.answer = answer,
	.request = request,
	.pull = pull,
	.push = push,
	.wake = wake,
};

/* The last server's file is closed a moment after its process was reaped. */
static int open_patiently(const char *path)
{
	const struct timespec step = { .tv_nsec = OPEN_STEP_MS * 1000000 };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	for (int ms = 0; fd < 0 && errno == EBUSY && ms < OPEN_WAIT_MS; ms += OPEN_STEP_MS) {
		nanosleep(&step, NULL);
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	return fd;
}

static int open_device(uint32_t device, int *fd)
{
	char path[32];

	snprintf(path, sizeof path, "/dev/ublkc%u", device);
	*fd = open_patiently(path);
	if (*fd >= 0)
		return 0;
	log_error("%s: %s%s", path, strerror(errno), errno == EBUSY ? ": another server has it" : "");
	return error_from_errno(errno);
}

static int make_queue(struct ublk_queue **out, int device_fd, unsigned index, unsigned depth)
{
	static const uint8_t operations[] = { IORING_OP_URING_CMD, IORING_OP_READ };
	int files[FILE_COUNT], r;
	const struct ublk_ring_rules rules = {
		.operations = operations, .count = sizeof operations, .files = files, .file_count = FILE_COUNT
	};
	struct kernel_queue *k = calloc(1, sizeof *k);

	if (k == NULL)
		return ERR_NOMEM;
	k->base = (struct ublk_queue){ .ops = &kernel_ops, .depth = depth };
	k->index = (uint16_t)index;
	k->device_fd = device_fd;
	k->wake_fd = eventfd(0, EFD_CLOEXEC); /* one that waits: the ring's read is to end when it is raised */
	if (k->wake_fd < 0)
		return ERR_NOMEM;
	files[FILE_DEVICE] = device_fd;
	files[FILE_WAKE] = k->wake_fd;
	r = ublk_ring_make(&k->ring, 2 * (depth + 1), IORING_SETUP_COOP_TASKRUN, &rules);
	*out = &k->base;
	return r;
}

/* What fails here ends the process, and its descriptors with it. */
int ublk_server_open(struct ublk_queue *queues[UBLK_QUEUES], uint32_t device, unsigned count, unsigned depth)
{
	int fd, r;

	if (count == 0 || count > UBLK_QUEUES || depth == 0 || depth > UBLK_DEPTH)
		return ERR_RANGE;
	r = open_device(device, &fd);
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = make_queue(&queues[i], fd, i, depth);
	return r;
}
