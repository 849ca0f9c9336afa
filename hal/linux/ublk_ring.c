/* See ublk_ring.h. The order is the kernel's: disabled, files, restrictions, enabled; after that a restriction is for ever. */
#include "ublk_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

enum { OPERATIONS_MAX = 4, RULES_MAX = OPERATIONS_MAX + 2 }; /* and flags: allowed, required */

/* liburing 2.3 declares functions for these two registrations and does not export them. */
static int registration(const struct io_uring *ring, unsigned what, const void *argument, unsigned count)
{
	return syscall(SYS_io_uring_register, ring->ring_fd, what, argument, count) < 0 ? -errno : 0;
}

static unsigned rule(struct io_uring_restriction *r, unsigned n, uint16_t kind, uint8_t value)
{
	memset(&r[n], 0, sizeof r[n]);
	r[n].opcode = kind;
	r[n].sqe_op = value; /* one byte of a union: operation or flags */
	return n + 1;
}

static int restrict_to(const struct io_uring *ring, const struct ublk_ring_rules *rules)
{
	struct io_uring_restriction list[RULES_MAX];
	unsigned n = 0;

	if (rules->count > OPERATIONS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < rules->count; i++)
		n = rule(list, n, IORING_RESTRICTION_SQE_OP, rules->operations[i]);
	if (rules->flags != 0)
		n = rule(list, n, IORING_RESTRICTION_SQE_FLAGS_ALLOWED, rules->flags);
	if (rules->file_count > 0)
		n = rule(list, n, IORING_RESTRICTION_SQE_FLAGS_REQUIRED, IOSQE_FIXED_FILE);
	return registration(ring, IORING_REGISTER_RESTRICTIONS, list, n);
}

static int refused(int r, const char *what)
{
	log_error("io_uring: %s: %s; the kernel needs io_uring with restrictions (5.10 or later), and kernel.io_uring_disabled=0",
		  what, strerror(-r));
	return r == -ENOMEM ? ERR_NOMEM : ERR_UNSUPPORTED;
}

int ublk_ring_make(struct io_uring *ring, unsigned entries, unsigned flags, const struct ublk_ring_rules *rules)
{
	const char *what = "a ring cannot be made";
	int r = io_uring_queue_init(entries, ring, flags | IORING_SETUP_R_DISABLED);

	if (r < 0)
		return refused(r, what);
	if (rules->file_count > 0) {
		what = "files cannot be registered";
		r = io_uring_register_files(ring, rules->files, rules->file_count);
	}
	if (r >= 0) {
		what = "a ring cannot be restricted";
		r = restrict_to(ring, rules);
	}
	if (r >= 0) {
		what = "a ring cannot be enabled";
		r = registration(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	}
	if (r >= 0)
		return 0;
	io_uring_queue_exit(ring);
	return refused(r, what);
}
