/* Datagrams with descriptors and credentials between two processes of the agent. What must hold: whatever recvmsg installed is
 * either handed to the caller or closed here; a datagram or its control data cut short is a protocol breach, not a short read;
 * nothing of a refused message is left for the caller to use. */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

enum { HEADER_BYTES = offsetof(struct message, body) };

/* Room for what a well-behaved peer sends; the kernel cuts the rest, closes it and says MSG_CTRUNC. */
union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(CHANNEL_FDS_MAX * sizeof(int))];
};

/* What came beside the bytes. The array holds whatever fits in the control buffer, more than a message may carry. */
struct arrived {
	int fds[sizeof(union control) / sizeof(int)];
	unsigned count;
	bool credentials;
	struct channel_peer peer;
};

static void set_passcred(int fd)
{
	int on = 1;

	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
		fatal("ipc: descriptor %d is not a Unix socket of the agent: %s", fd, strerror(errno));
}

int channel_pair(int fds[2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
		log_error("ipc: a socket pair could not be made: %s", strerror(errno));
		return error_from_errno(errno);
	}
	set_passcred(fds[0]);
	set_passcred(fds[1]);
	return 0;
}

void channel_init(struct channel *c, int fd, enum process_role self, enum process_role peer)
{
	*c = (struct channel){ .fd = fd, .self = self, .peer = peer };
	set_passcred(fd);
}

void message_init(struct message *m, enum message_type type, uint64_t nonce)
{
	const struct message_row *row = message_row(type);

	memset(m, 0, sizeof *m);
	m->type = type;
	m->size = row != NULL ? row->size : 0;
	m->nonce = nonce;
}

static void attach_fds(struct msghdr *header, union control *control, const int *fds, unsigned count)
{
	struct cmsghdr *c;

	if (count == 0)
		return;
	memset(control, 0, sizeof *control);
	header->msg_control = control->bytes;
	header->msg_controllen = CMSG_SPACE(count * sizeof(int));
	c = CMSG_FIRSTHDR(header);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(c), fds, count * sizeof(int));
}

int channel_send(struct channel *c, const struct message *m, const int *fds, unsigned count)
{
	struct iovec part = { .iov_base = (void *)(uintptr_t)m, .iov_len = HEADER_BYTES + (size_t)m->size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	union control control;
	ssize_t sent;

	if (message_check(m, part.iov_len, count, c->self, c->peer) != 0) {
		log_error("ipc: message type %u, %u descriptors, is not one this process may send: a defect here", m->type,
			  count);
		return ERR_PROTOCOL;
	}
	attach_fds(&header, &control, fds, count);
	do
		sent = sendmsg(c->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	if (sent == (ssize_t)part.iov_len)
		return 0;
	return sent < 0 && (errno == EAGAIN || errno == ENOBUFS) ? ERR_BUSY : ERR_IO;
}

static void close_all(struct arrived *a)
{
	for (unsigned i = 0; i < a->count; i++)
		close(a->fds[i]);
	a->count = 0;
}

static void take_fds(struct arrived *a, struct cmsghdr *c)
{
	size_t bytes = c->cmsg_len - CMSG_LEN(0);

	memcpy(a->fds + a->count, CMSG_DATA(c), bytes);
	a->count += (unsigned)(bytes / sizeof(int));
}

static void take_credentials(struct arrived *a, struct cmsghdr *c)
{
	struct ucred u;

	memcpy(&u, CMSG_DATA(c), sizeof u);
	a->peer = (struct channel_peer){ .pid = u.pid, .uid = u.uid, .gid = u.gid };
	a->credentials = true;
}

static void take_control(struct arrived *a, struct msghdr *header)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS)
			take_fds(a, c);
		else if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof(struct ucred)))
			take_credentials(a, c);
	}
}

/* A peer that ended with unread mail leaves ECONNRESET before what it sent last: once read, that mail follows. */
static ssize_t receive_datagram(int fd, struct msghdr *header)
{
	bool reset = false;
	ssize_t got;

	for (;;) {
		got = recvmsg(fd, header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got >= 0 || (errno != EINTR && errno != ECONNRESET))
			return got;
		if (errno == ECONNRESET && reset)
			return 0;
		reset = reset || errno == ECONNRESET;
	}
}

static int refuse(struct channel *c, struct message *m, struct arrived *a, const char *why)
{
	log_error("ipc: peer process (pid %d) broke the protocol on descriptor %d: %s", (int)a->peer.pid, c->fd, why);
	close_all(a);
	explicit_bzero(m, sizeof *m);
	return ERR_PROTOCOL;
}

int channel_receive(struct channel *c, struct message *m, int fds[CHANNEL_FDS_MAX], unsigned *count, struct channel_peer *peer)
{
	union control control;
	struct iovec part = { .iov_base = m, .iov_len = sizeof *m };
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
	};
	struct arrived a = { .count = 0 };
	ssize_t got;

	*count = 0;
	memset(m, 0, sizeof *m);
	memset(&control, 0, sizeof control);
	got = receive_datagram(c->fd, &header);
	if (got < 0)
		return errno == EAGAIN ? ERR_BUSY : ERR_IO;
	take_control(&a, &header);
	/* An empty datagram also reads as 0, but it has a sender; the end of the connection has none. */
	if (got == 0 && !a.credentials && a.count == 0)
		return 0;
	if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return refuse(c, m, &a, "the datagram or its descriptors were cut short");
	if (!a.credentials || a.count > CHANNEL_FDS_MAX)
		return refuse(c, m, &a, "no credentials, or too many descriptors");
	if (message_check(m, (size_t)got, a.count, c->peer, c->self) != 0)
		return refuse(c, m, &a, "a malformed message, or one that it may not send");
	memcpy(fds, a.fds, a.count * sizeof(int));
	*count = a.count;
	if (peer != NULL)
		*peer = a.peer;
	return 1;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int channel_receive_wait(struct channel *c, struct message *m, int fds[CHANNEL_FDS_MAX], unsigned *count,
			 struct channel_peer *peer, int timeout_ms)
{
	int64_t end = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	int r = channel_receive(c, m, fds, count, peer);

	while (r == ERR_BUSY) {
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		int64_t left = end < 0 ? -1 : end - now_ms();

		if (end >= 0 && left <= 0)
			return ERR_TIMEOUT;
		if (poll(&p, 1, (int)left) < 0 && errno != EINTR)
			return ERR_IO;
		r = channel_receive(c, m, fds, count, peer);
	}
	return r;
}

void channel_close(struct channel *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}
