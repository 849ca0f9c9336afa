/* Channels: descriptors are handed out or closed, never lost; what breaks the protocol is refused and leaves nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "ipc/channel.h"
#include "sample.h"

struct ends {
	struct channel a, b; /* a sends as supervisor, b receives as dataplane */
	int before;          /* descriptors open before they were */
};

static int open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static int make_ends(void **state)
{
	struct ends *e = malloc(sizeof *e);
	int fds[2];

	e->before = open_descriptors();
	if (channel_pair(fds) != 0)
		return -1;
	channel_init(&e->a, fds[0], ROLE_SUPERVISOR, ROLE_DATAPLANE);
	channel_init(&e->b, fds[1], ROLE_DATAPLANE, ROLE_SUPERVISOR);
	*state = e;
	return 0;
}

static int drop_ends(void **state)
{
	struct ends *e = *state;
	int after;

	channel_close(&e->a);
	channel_close(&e->b);
	after = open_descriptors();
	if (after != e->before)
		print_error("%d descriptors before, %d after\n", e->before, after);
	after -= e->before;
	free(e);
	return after == 0 ? 0 : -1;
}

static int some_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* Sends bytes and descriptors past channel_send's own check. */
static void send_raw(int fd, const void *bytes, size_t size, const int *fds, unsigned count)
{
	struct iovec part = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = { 0 };
	struct msghdr h = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count > 0) {
		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(count * sizeof(int));
		CMSG_FIRSTHDR(&h)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&h)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&h)->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&h)), fds, count * sizeof(int));
	}
	assert_int_equal(sendmsg(fd, &h, MSG_NOSIGNAL), (ssize_t)size);
}

static int receive(struct channel *c, struct message *m, unsigned *count)
{
	int fds[CHANNEL_FDS_MAX];
	int r = channel_receive(c, m, fds, count, NULL);

	if (r == 1)
		for (unsigned i = 0; i < *count; i++)
			close(fds[i]);
	return r;
}

static void assert_refused_and_cleared(struct channel *c)
{
	static const struct message zero;
	struct message m;
	unsigned count = 99;

	assert_int_equal(receive(c, &m, &count), ERR_PROTOCOL);
	assert_int_equal(count, 0);
	assert_memory_equal(&m, &zero, sizeof m);
}

static void refused_descriptors_are_closed(void **state)
{
	struct ends *e = *state;
	struct message m;
	int fds[8];
	int before;

	for (int i = 0; i < 8; i++)
		fds[i] = some_fd();
	before = open_descriptors();
	for (unsigned n = 0; n <= 8; n++) { /* DP_ATTACH wants one; more than 5 are refused, or cut by the kernel */
		sample_message(&m, MSG_DP_ATTACH, 1);
		m.body.dp_attach.name[0] = '/'; /* so that the right number is refused as well */
		send_raw(e->a.fd, &m, sample_bytes(&m), fds, n);
		assert_refused_and_cleared(&e->b);
		assert_int_equal(open_descriptors(), before);
	}
	for (int i = 0; i < 8; i++)
		close(fds[i]);
}

static void every_type_goes_round_with_its_descriptors(void **state)
{
	(void)state;
	for (uint32_t t = MSG_NONE + 1; t < MSG_TYPE_COUNT; t++) {
		const struct message_row *row = message_row(t);
		struct message out, in;
		struct channel_peer peer;
		struct channel a, b;
		int pair[2], sent[CHANNEL_FDS_MAX], got[CHANNEL_FDS_MAX];
		unsigned count;

		assert_int_equal(channel_pair(pair), 0);
		channel_init(&a, pair[0], sample_sender(t), (enum process_role)row->receiver);
		channel_init(&b, pair[1], (enum process_role)row->receiver, sample_sender(t));
		sample_message(&out, t, 0x1122334455667788);
		for (unsigned i = 0; i < row->max_fds; i++)
			sent[i] = some_fd();
		assert_int_equal(channel_send(&a, &out, sent, row->max_fds), 0);
		assert_int_equal(channel_receive(&b, &in, got, &count, &peer), 1);
		assert_memory_equal(&in, &out, sizeof in);
		assert_int_equal(count, row->max_fds);
		assert_int_equal(peer.pid, getpid());
		assert_int_equal(peer.uid, getuid());
		assert_int_equal(peer.gid, getgid());
		for (unsigned i = 0; i < count; i++) {
			assert_int_not_equal(got[i], sent[i]);
			assert_int_equal(fcntl(got[i], F_GETFD), FD_CLOEXEC);
			close(got[i]);
			close(sent[i]);
		}
		channel_close(&a);
		channel_close(&b);
		assert_int_equal(a.fd, -1);
	}
}

static void nothing_end_and_empty_datagram_are_told_apart(void **state)
{
	struct ends *e = *state;
	struct message m;
	unsigned count;

	assert_int_equal(receive(&e->b, &m, &count), ERR_BUSY);
	send_raw(e->a.fd, "", 0, NULL, 0);
	assert_refused_and_cleared(&e->b);
	channel_close(&e->a);
	assert_int_equal(receive(&e->b, &m, &count), 0);
	assert_int_equal(receive(&e->b, &m, &count), 0);
}

static void an_empty_datagram_with_descriptors_leaks_none(void **state)
{
	struct ends *e = *state;
	int fd = some_fd();
	int before = open_descriptors();

	send_raw(e->a.fd, "", 0, &fd, 1);
	assert_refused_and_cleared(&e->b);
	assert_int_equal(open_descriptors(), before);
	close(fd);
}

static void wrong_lengths_are_refused(void **state)
{
	struct ends *e = *state;
	uint8_t big[sizeof(struct message) + 1] = { 0 };
	struct message m;

	sample_message(&m, MSG_DP_DEADLINES, 0);
	for (size_t n = 0; n <= sizeof big; n++) {
		if (n == sample_bytes(&m))
			continue;
		memcpy(big, &m, sizeof m);
		send_raw(e->a.fd, big, n, NULL, 0);
		assert_refused_and_cleared(&e->b);
	}
}

static void a_message_of_the_wrong_direction_is_refused(void **state)
{
	struct ends *e = *state;
	struct message m;

	sample_message(&m, MSG_DP_WIPED, 0); /* dataplane -> supervisor only */
	send_raw(e->a.fd, &m, sample_bytes(&m), NULL, 0);
	assert_refused_and_cleared(&e->b);
	assert_int_equal(channel_send(&e->a, &m, NULL, 0), ERR_PROTOCOL);
	assert_int_equal(channel_send(&e->b, &m, NULL, 0), 0);
}

/* HSM_OPEN may come without a descriptor: one that was cut off must not look as if none had been sent. */
static void a_process_out_of_descriptors_refuses_and_lives(void **state)
{
	struct ends *e = *state;
	struct channel hsm = { .fd = e->b.fd, .self = ROLE_HSM, .peer = ROLE_SUPERVISOR };
	struct rlimit old, tight;
	struct message m;
	int fd = some_fd(), fds[CHANNEL_FDS_MAX];
	unsigned count;

	sample_message(&m, MSG_HSM_OPEN, 0);
	send_raw(e->a.fd, &m, sample_bytes(&m), &fd, 1);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = old;
	tight.rlim_cur = 0;
	setrlimit(RLIMIT_NOFILE, &tight);
	assert_int_equal(channel_receive(&hsm, &m, fds, &count, NULL), ERR_PROTOCOL);
	setrlimit(RLIMIT_NOFILE, &old);
	close(fd);
}

static void a_full_socket_is_busy_and_a_gone_peer_is_io(void **state)
{
	struct ends *e = *state;
	struct message m;
	unsigned count, sent = 0;
	int r;

	message_init(&m, MSG_DP_DETACH, 0);
	while ((r = channel_send(&e->a, &m, NULL, 0)) == 0)
		assert_true(++sent < 100000);
	assert_int_equal(r, ERR_BUSY);
	assert_true(sent >= 32);
	while (sent-- > 0)
		assert_int_equal(receive(&e->b, &m, &count), 1);
	channel_close(&e->b);
	message_init(&m, MSG_DP_DETACH, 0);
	assert_int_equal(channel_send(&e->a, &m, NULL, 0), ERR_IO);
}

static void the_last_words_of_a_peer_that_died_with_unread_mail_arrive(void **state)
{
	struct ends *e = *state;
	struct message m;
	unsigned count;

	message_init(&m, MSG_DP_DETACH, 0);
	assert_int_equal(channel_send(&e->a, &m, NULL, 0), 0); /* never read */
	sample_message(&m, MSG_DP_WIPED, 0);
	assert_int_equal(channel_send(&e->b, &m, NULL, 0), 0);
	channel_close(&e->b);
	assert_int_equal(receive(&e->a, &m, &count), 1);
	assert_int_equal(m.type, MSG_DP_WIPED);
	assert_int_equal(receive(&e->a, &m, &count), 0);
}

static void waiting_ends_at_the_time_out_or_with_a_message(void **state)
{
	struct ends *e = *state;
	struct timespec t0, t1;
	struct message m;
	int fds[CHANNEL_FDS_MAX], status;
	unsigned count;
	struct channel_peer peer;
	pid_t child;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	assert_int_equal(channel_receive_wait(&e->b, &m, fds, &count, NULL, 50), ERR_TIMEOUT);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	assert_true((t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000 >= 49);
	child = fork();
	if (child == 0) {
		usleep(20000);
		message_init(&m, MSG_DP_DETACH, 9);
		_exit(channel_send(&e->a, &m, NULL, 0) != 0);
	}
	assert_int_equal(channel_receive_wait(&e->b, &m, fds, &count, &peer, -1), 1);
	assert_int_equal(m.nonce, 9);
	assert_int_equal(peer.pid, child); /* the sender's, not the socket's creator */
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* Random damage to valid messages with 0 to 6 descriptors: no crash, no leak, and a good answer or ERR_PROTOCOL. */
static void random_damage_never_leaks(void **state)
{
	struct ends *e = *state;
	int fds[6] = { some_fd(), some_fd(), some_fd(), some_fd(), some_fd(), some_fd() };
	int before = open_descriptors();
	unsigned refused = 0, count;
	struct message m;

	srand(2);
	for (unsigned n = 0; n < 20000; n++) {
		sample_message(&m, MSG_DP_ATTACH + (uint32_t)rand() % (MSG_DP_DETACH - MSG_DP_ATTACH + 1), 0);
		for (int k = rand() % 3; k > 0; k--)
			((uint8_t *)&m)[(size_t)rand() % 200] = (uint8_t)rand();
		send_raw(e->a.fd, &m, (size_t)rand() % 8 ? sample_bytes(&m) % (sizeof m + 1) : (size_t)rand() % sizeof m, fds,
			 (unsigned)rand() % 7);
		switch (receive(&e->b, &m, &count)) {
		case 1:
			break;
		case ERR_PROTOCOL:
			refused++;
			break;
		default:
			fail_msg("neither a message nor a refusal");
		}
	}
	assert_in_range(refused, 1000, 19999);
	assert_int_equal(open_descriptors(), before);
	for (int i = 0; i < 6; i++)
		close(fds[i]);
}

#define ON_ENDS(test) cmocka_unit_test_setup_teardown(test, make_ends, drop_ends)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENDS(refused_descriptors_are_closed),
		cmocka_unit_test(every_type_goes_round_with_its_descriptors),
		ON_ENDS(nothing_end_and_empty_datagram_are_told_apart),
		ON_ENDS(an_empty_datagram_with_descriptors_leaks_none),
		ON_ENDS(wrong_lengths_are_refused),
		ON_ENDS(a_message_of_the_wrong_direction_is_refused),
		ON_ENDS(a_process_out_of_descriptors_refuses_and_lives),
		ON_ENDS(a_full_socket_is_busy_and_a_gone_peer_is_io),
		ON_ENDS(the_last_words_of_a_peer_that_died_with_unread_mail_arrive),
		ON_ENDS(waiting_ends_at_the_time_out_or_with_a_message),
		ON_ENDS(random_damage_never_leaks),
	};

	log_open("test", (enum log_level)0); /* thousands of refusals, one line each */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
