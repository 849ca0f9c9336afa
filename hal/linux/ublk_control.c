/* /dev/ublk-control. What must hold: a command is handed to the kernel and never waited for here (the driver runs each on a
 * thread of its own, where START waits for a server); the memory that a command names lives in the command; an answer of the
 * kernel that is not what was asked for is an error. */
#include <hal/ublk.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "ublk_abi.h"
#include "ublk_ring.h"

enum {
	COMMANDS = 256,
	LOGICAL_SHIFT = 9,                       /* as every other face of a volume: a partition table is where it was */
	PHYSICAL_SHIFT = 12,                     /* what a sector of the volume is: file systems take it */
	RANGE_SECTORS = (1 << 30) / UBLK_SECTOR, /* of a discard or of zeroes: they are entries of a tree, not data */
	WANTED = ABI_F_USER_COPY | ABI_F_IOCTL_ENCODE,
	RECOVERY = ABI_F_RECOVER | ABI_F_REISSUE,
};

struct kernel_control {
	struct ublk_control base;
	struct io_uring ring;
	int fd;
};

_Static_assert(sizeof(struct ublksrv_ctrl_dev_info) <= sizeof(((struct ublk_command *)0)->block), "room for the kernel's");
_Static_assert(sizeof(struct ublk_params) <= sizeof(((struct ublk_command *)0)->block), "room for the kernel's");

/* ---- to the kernel ---- */

static void fill_info(struct ublk_command *c)
{
	const struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = c->info.queues,
		.queue_depth = c->info.depth,
		.max_io_buf_bytes = UBLK_IO_BYTES,
		.dev_id = c->info.device,
		.flags = WANTED | (c->info.recover ? RECOVERY : 0),
		.ublksrv_flags = c->info.mark,
	};

	memcpy(c->block, &info, sizeof info);
}

/* The driver passes FUA on only where it knows of a volatile cache. */
static void fill_parameters(struct ublk_command *c)
{
	const struct ublk_params p = {
		.len = sizeof p,
		.types = UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD,
		.basic = {
			.attrs = (c->shape.read_only ? UBLK_ATTR_READ_ONLY : 0u) |
				 (c->shape.volatile_cache ? UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA : 0u),
			.logical_bs_shift = LOGICAL_SHIFT,
			.physical_bs_shift = PHYSICAL_SHIFT,
			.io_opt_shift = PHYSICAL_SHIFT,
			.io_min_shift = PHYSICAL_SHIFT,
			.max_sectors = UBLK_IO_BYTES / UBLK_SECTOR,
			.dev_sectors = c->shape.size / UBLK_SECTOR,
		},
		.discard = {
			.discard_granularity = 1 << PHYSICAL_SHIFT,
			.max_discard_sectors = RANGE_SECTORS,
			.max_write_zeroes_sectors = RANGE_SECTORS,
			.max_discard_segments = 1,
		},
	};

	memcpy(c->block, &p, sizeof p);
}

struct verb {
	const char *name;
	uint32_t code;
	uint16_t size; /* of the block that goes with it */
	void (*fill)(struct ublk_command *c);
	bool pid;
};

/* clang-format off */
static const struct verb verbs[UBLK_VERB_COUNT] = {
	[UBLK_INFO]       = { "info",       ABI_INFO,       sizeof(struct ublksrv_ctrl_dev_info), fill_info, false },
	[UBLK_ADD]        = { "add",        ABI_ADD,        sizeof(struct ublksrv_ctrl_dev_info), fill_info, false },
	[UBLK_PARAMETERS] = { "parameters", ABI_PARAMETERS, sizeof(struct ublk_params),           fill_parameters, false },
	[UBLK_START]      = { "start",      ABI_START,      0, NULL, true },
	[UBLK_RENEW]      = { "renew",      ABI_RENEW,      0, NULL, false },
	[UBLK_GO_ON]      = { "go on",      ABI_GO_ON,      0, NULL, true },
	[UBLK_STOP]       = { "stop",       ABI_STOP,       0, NULL, false },
	[UBLK_DELETE]     = { "delete",     ABI_DELETE,     0, NULL, false },
	[UBLK_SETTING]    = { "setting",    0,              0, NULL, false },
};
/* clang-format on */

const char *ublk_verb_name(enum ublk_verb verb)
{
	return (unsigned)verb < UBLK_VERB_COUNT ? verbs[verb].name : "unknown";
}

static struct kernel_control *of(struct ublk_control *c)
{
	return (struct kernel_control *)c;
}

static void control_entry(const struct kernel_control *k, struct io_uring_sqe *e, struct ublk_command *c)
{
	const struct verb *v = &verbs[c->verb];
	struct ublksrv_ctrl_cmd command = { .dev_id = c->info.device, .queue_id = (uint16_t)-1 };

	if (v->fill != NULL) {
		v->fill(c);
		command.addr = (uint64_t)(uintptr_t)c->block;
		command.len = v->size;
	}
	if (v->pid)
		command.data[0] = (uint64_t)(uint32_t)c->pid;
	e->opcode = IORING_OP_URING_CMD;
	e->fd = k->fd;
	e->off = v->code; /* cmd_op */
	memcpy(e->cmd, &command, sizeof command);
}

static void setting_entry(struct io_uring_sqe *e, struct ublk_command *c)
{
	e->opcode = IORING_OP_WRITE;
	e->flags = IOSQE_ASYNC;
	e->fd = c->setting_fd;
	e->addr = (uint64_t)(uintptr_t)c->setting;
	e->len = (uint32_t)strlen(c->setting);
}

static struct io_uring_sqe *entry(struct kernel_control *k)
{
	struct io_uring_sqe *e = io_uring_get_sqe(&k->ring);

	if (e != NULL)
		memset(e, 0, 2 * sizeof *e); /* SQE128 */
	return e;
}

static int begin(struct ublk_control *control, struct ublk_command *c)
{
	struct kernel_control *k = of(control);
	struct io_uring_sqe *e = entry(k);

	if (e == NULL)
		return ERR_BUSY;
	if (c->verb == UBLK_SETTING)
		setting_entry(e, c);
	else
		control_entry(k, e, c);
	e->user_data = (uint64_t)(uintptr_t)c;
	io_uring_submit(&k->ring); /* what is not taken now is by the next look */
	return 0;
}

static void cancel(struct ublk_control *control, struct ublk_command *c)
{
	struct kernel_control *k = of(control);
	struct io_uring_sqe *e = entry(k);

	if (e == NULL)
		return;
	e->opcode = IORING_OP_ASYNC_CANCEL;
	e->fd = -1;
	e->addr = (uint64_t)(uintptr_t)c;
	io_uring_submit(&k->ring);
}

/* ---- from the kernel ---- */

static int take_info(struct ublk_command *c)
{
	struct ublksrv_ctrl_dev_info info;
	uint64_t wanted = WANTED | (c->info.recover ? RECOVERY : 0);

	memcpy(&info, c->block, sizeof info);
	c->info.device = info.dev_id;
	c->info.mark = info.ublksrv_flags;
	if (c->verb == UBLK_ADD && (info.flags & wanted) != wanted)
		return ERR_UNSUPPORTED;
	if (c->verb == UBLK_ADD &&
	    (info.nr_hw_queues == 0 || info.nr_hw_queues > c->info.queues || info.queue_depth != c->info.depth))
		return ERR_UNSUPPORTED;
	c->info.queues = info.nr_hw_queues;
	c->info.depth = info.queue_depth;
	c->info.recover = (info.flags & ABI_F_RECOVER) != 0;
	return 0;
}

static int error_of(int result)
{
	switch (-result) {
	case EINTR:
	case ECANCELED:
		return ERR_TIMEOUT;
	case ENODEV:
		return ERR_NOT_FOUND;
	default:
		return error_from_errno(-result);
	}
}

static void finish(struct ublk_command *c, int result)
{
	c->errnum = result < 0 ? -result : 0;
	c->error = result < 0 ? error_of(result) : 0;
	if (result >= 0 && (c->verb == UBLK_ADD || c->verb == UBLK_INFO))
		c->error = take_info(c);
}

/* What the kernel had no memory for stands in the ring still. */
static void hand_over_the_rest(struct kernel_control *k)
{
	if (io_uring_sq_ready(&k->ring) > 0)
		io_uring_submit(&k->ring);
}

static struct ublk_command *next(struct ublk_control *control)
{
	struct kernel_control *k = of(control);
	struct io_uring_cqe *done;
	struct ublk_command *c = NULL;

	hand_over_the_rest(k);
	while (c == NULL && io_uring_peek_cqe(&k->ring, &done) == 0) {
		c = (struct ublk_command *)(uintptr_t)done->user_data; /* NULL: a cancellation's own answer */
		if (c != NULL)
			finish(c, done->res);
		io_uring_cqe_seen(&k->ring, done);
	}
	return c;
}

/* A ring's own descriptor is readable when something is done. */
static int control_fd(const struct ublk_control *control)
{
	return ((const struct kernel_control *)control)->ring.ring_fd;
}

static const struct ublk_control_ops kernel_ops = { .begin = begin, .cancel = cancel, .next = next, .fd = control_fd };

int ublk_control_open(struct ublk_control **out)
{
	static const uint8_t operations[] = { IORING_OP_URING_CMD, IORING_OP_ASYNC_CANCEL, IORING_OP_WRITE };
	static const struct ublk_ring_rules rules = { .operations = operations,
						      .count = sizeof operations,
						      .flags = IOSQE_ASYNC };
	struct kernel_control *k = calloc(1, sizeof *k);
	int r;

	if (k == NULL)
		return ERR_NOMEM;
	k->base.ops = &kernel_ops;
	k->fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (k->fd < 0) {
		r = error_from_errno(errno);
		log_error("/dev/ublk-control: %s%s", strerror(errno),
			  errno == ENOENT ? ": the kernel has no ublk driver, or it is not loaded (modprobe ublk_drv)" : "");
		free(k);
		return r;
	}
	r = ublk_ring_make(&k->ring, COMMANDS, IORING_SETUP_SQE128, &rules);
	if (r != 0) {
		close(k->fd);
		free(k);
		return r;
	}
	*out = &k->base;
	return 0;
}
