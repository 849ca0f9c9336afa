/* fallgate-mgmt: CoAP over DTLS for the network, and nothing else. It decides nothing and holds no data key.
 * What must hold: no byte from the network is read before the seccomp filter stands; without its supervisor it ends. libcoap
 * binds its own sockets and cannot take over a bound one, so the supervisor sends the address and the socket is made here, before
 * the filter. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <coap3/coap.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/sandbox.h"
#include "ipc/channel.h"
#include "ipc/message.h"

#include "address.h"
#include "routes.h"

enum {
	SUPERVISOR_FD = 3,
	LISTEN_WAIT_MS = 10000,
	HANDSHAKES_MAX =
		512, /* half-open ones of 13 KB; libcoap's own limit of 100 lets a hundred datagrams shut everybody out */
	SESSION_IDLE_SECONDS = 300,
};

/* Where validate_identity leaves the key for libcoap, which copies it at once. */
struct key_answer {
	struct mgmt *m;
	uint8_t psk[PSK_BYTES];
	coap_bin_const_t key;
};

/* File-level: too large for the stack, and there is one of each in the process. */
static struct mgmt mgmt;
static struct key_answer key_answer;

static void log_coap(coap_log_t level, const char *text)
{
	char line[512];
	size_t size;

	log_printable(line, sizeof line, text);
	size = strlen(line);
	if (size > 0 && line[size - 1] == '?') /* its newline */
		line[size - 1] = '\0';
	/* what strangers' datagrams make it say is not worth more than a debug line */
	log_line(level <= COAP_LOG_CRIT ? LOG_LEVEL_ERROR : LOG_LEVEL_DEBUG, "libcoap: %s", line);
}

static const coap_bin_const_t *validate_identity(coap_bin_const_t *identity, coap_session_t *session, void *arg)
{
	struct key_answer *a = arg;

	(void)session;
	if (credentials_psk(&a->m->credentials, a->psk, identity->s, identity->length) != 0)
		return NULL;
	a->key = (coap_bin_const_t){ .length = sizeof a->psk, .s = a->psk };
	return &a->key;
}

static int start_coap(struct mgmt *m)
{
	coap_dtls_spsk_t psk = { .version = COAP_DTLS_SPSK_SETUP_VERSION };
	int error;

	coap_startup();
	coap_set_log_handler(log_coap);
	coap_set_log_level(COAP_LOG_WARN);
	coap_dtls_set_log_level(COAP_LOG_EMERG);
	m->coap = coap_new_context(NULL);
	if (m->coap == NULL)
		return ERR_NOMEM;
	coap_context_set_block_mode(m->coap, COAP_BLOCK_USE_LIBCOAP);
	coap_context_set_max_handshake_sessions(m->coap, HANDSHAKES_MAX);
	coap_context_set_max_idle_sessions(m->coap, 0); /* a stranger's hello must not push out an idle officer */
	coap_context_set_session_timeout(m->coap, SESSION_IDLE_SECONDS);
	key_answer.m = m;
	error = credentials_psk(&m->credentials, key_answer.psk, NULL, 0); /* of nobody: libcoap wants one beside the call back */
	if (error != 0)
		return error;
	psk.validate_id_call_back = validate_identity;
	psk.id_call_back_arg = &key_answer;
	psk.psk_info.key = (coap_bin_const_t){ .length = sizeof key_answer.psk, .s = key_answer.psk };
	if (!coap_context_set_psk2(m->coap, &psk))
		return ERR_UNSUPPORTED;
	return routes_start(m);
}

/* libcoap sets SO_REUSEADDR, with which two agents could share a port and steal each other's datagrams, and keeps no errno: so
 * the address is tried here first. 0 or an errno. */
static int try_address(const struct sockaddr_storage *address, socklen_t size)
{
	int fd = socket(address->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int error = 0;

	if (fd < 0 || bind(fd, (const struct sockaddr *)address, size) != 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	return error;
}

/* And it leaves SO_REUSEADDR on: any user of the machine who bound the same address with it, later, would get every datagram in
 * this process's place. libcoap does not give its socket away; it is the only one of its kind here. */
static bool keep_address(int family)
{
	enum { DESCRIPTORS = 64 };
	int domain, type, off = 0;
	bool kept = false;

	for (int fd = SUPERVISOR_FD + 1; fd < DESCRIPTORS; fd++) {
		socklen_t size = sizeof(int);

		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == family &&
		    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_DGRAM)
			kept = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &off, sizeof off) == 0;
	}
	return kept;
}

static _Noreturn void cannot_listen(const char *address, const char *why, int error)
{
	log_error("cannot listen on udp %s: %s; set coap in fallgate.conf to a free numeric ADDRESS:PORT of this machine",
		  address, why);
	_exit(error_exit_code(error));
}

static void must_listen(struct mgmt *m, const char *text)
{
	struct sockaddr_storage address;
	coap_address_t at;
	socklen_t size;
	int error;

	if (address_parse(&address, &size, text) != 0)
		cannot_listen(text, "this is not ADDRESS:PORT in numbers", ERR_USAGE);
	error = try_address(&address, size);
	if (error != 0)
		cannot_listen(text, strerror(error),
			      error == EADDRINUSE      ? ERR_BUSY
			      : error == EADDRNOTAVAIL ? ERR_NOT_FOUND
						       : ERR_IO);
	coap_address_init(&at);
	memcpy(&at.addr, &address, size);
	at.size = size;
	if (coap_new_endpoint(m->coap, &at, COAP_PROTO_DTLS) == NULL)
		cannot_listen(text, "libcoap refuses it", ERR_IO);
	if (!keep_address(address.ss_family))
		cannot_listen(text, "it cannot be kept from others", ERR_IO);
	coap_is_bcast(&at); /* asks for the interfaces by netlink, which the filter refuses later */
	log_notice("listening on udp %s", text);
}

/* One message of the supervisor; true for MSG_MG_LISTEN. */
static bool take_message(struct mgmt *m, const struct message *message, int *fds, unsigned count, bool may_listen)
{
	while (count > 0)
		close(fds[--count]);
	if (message->type != MSG_MG_LISTEN) {
		routes_tell(m, message);
		return false;
	}
	if (!may_listen)
		fatal("the supervisor said twice where to listen");
	must_listen(m, message->body.mg_listen.address);
	return true;
}

static _Noreturn void supervisor_lost(int received)
{
	if (received == 0)
		log_notice("the supervisor is gone: ending");
	else
		log_error("the channel to the supervisor broke (%s): ending", error_text(received));
	routes_stop(&mgmt);
	_exit(received == 0 ? 0 : 70);
}

/* Until it is said where to listen. Credentials and volumes may come before. */
static void wait_for_listen(struct mgmt *m)
{
	struct message message;
	int fds[CHANNEL_FDS_MAX];
	unsigned count;
	int received;

	do {
		received = channel_receive_wait(m->channel, &message, fds, &count, NULL, LISTEN_WAIT_MS);
		if (received != 1)
			supervisor_lost(received);
	} while (!take_message(m, &message, fds, count, true));
	explicit_bzero(&message, sizeof message);
}

static void take_messages(struct mgmt *m)
{
	struct message message;
	int fds[CHANNEL_FDS_MAX];
	unsigned count;
	int received;

	while ((received = channel_receive(m->channel, &message, fds, &count, NULL)) == 1)
		take_message(m, &message, fds, count, false);
	explicit_bzero(&message, sizeof message); /* it may have held a PSK */
	if (received != ERR_BUSY)
		supervisor_lost(received);
}

static int watch(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void process_coap(struct mgmt *m)
{
	coap_io_process(m->coap, COAP_IO_NO_WAIT);
	if (routes_sweep(m))
		coap_io_process(m->coap, COAP_IO_NO_WAIT); /* frees what was ended */
	explicit_bzero(key_answer.psk, sizeof key_answer.psk);
}

static _Noreturn void run(struct mgmt *m, int epoll)
{
	struct epoll_event events[2];

	for (;;) {
		process_coap(m);
		if (epoll_wait(epoll, events, 2, -1) < 0 && errno != EINTR)
			fatal("epoll_wait: %s", strerror(errno));
		take_messages(m);
	}
}

/* Said here, in words for somebody who tried it by hand. */
static void must_have_supervisor(void)
{
	socklen_t size = sizeof(int);
	int type;

	if (getsockopt(SUPERVISOR_FD, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET)
		fatal("descriptor %d is no channel to a supervisor: this program is started by fallgated, not by hand",
		      SUPERVISOR_FD);
}

static void say_hello(struct channel *c)
{
	struct message message;

	message_init(&message, MSG_HELLO, 0);
	snprintf(message.body.hello.version, sizeof message.body.hello.version, "%s", FALLGATE_VERSION);
	message.body.hello.pid = getpid();
	if (channel_send(c, &message, NULL, 0) != 0)
		fatal("the supervisor does not take this process's first message");
}

static int answer_option(const char *option)
{
	if (strcmp(option, "--version") == 0) {
		puts("fallgate-mgmt " FALLGATE_VERSION);
		return 0;
	}
	if (strcmp(option, "--help") == 0) {
		puts("fallgate-mgmt: the network process of Fallgate. fallgated starts it; it takes no arguments but --version "
		     "and --help.\n"
		     "See fallgate-mgmt(8).");
		return 0;
	}
	fprintf(stderr, "fallgate-mgmt: unknown argument '%s'; fallgated starts this program without any\n", option);
	return error_exit_code(ERR_USAGE);
}

int main(int argc, char **argv)
{
	struct channel channel;
	int epoll, error;

	if (argc > 1)
		return answer_option(argv[1]);
	log_open("fallgate-mgmt", LOG_LEVEL_INFO);
	error = sandbox_harden();
	if (error != 0)
		fatal("this process cannot be hardened: %s", error_text(error));
	must_have_supervisor();
	tzset();
	channel_init(&channel, SUPERVISOR_FD, ROLE_MGMT, ROLE_SUPERVISOR);
	say_hello(&channel);
	mgmt.channel = &channel;
	error = start_coap(&mgmt);
	if (error != 0)
		fatal("libcoap does not start: %s", error_text(error));
	wait_for_listen(&mgmt);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0 || watch(epoll, SUPERVISOR_FD) != 0 || watch(epoll, coap_context_get_coap_fd(mgmt.coap)) != 0)
		fatal("epoll: %s", strerror(errno));
	error = sandbox_enter(SANDBOX_MGMT);
	if (error != 0)
		fatal("the seccomp filter does not stand: %s", error_text(error));
	run(&mgmt, epoll);
}
