/* Connects, asks, waits at most 20 s: a local revoke answers when its latch is durable. */
#include "console.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "ipc/channel.h"
#include "ipc/message.h"

enum { ANSWER_MS = 20000 };

int console_open(const char *run_dir, char *text, size_t size)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int n = snprintf(address.sun_path, sizeof address.sun_path, "%s/console.sock", run_dir);
	int fd;

	if (n < 0 || (size_t)n >= sizeof address.sun_path) {
		snprintf(text, size, "the run directory's name is too long for a socket; give a shorter --run-dir");
		return ERR_USAGE;
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	if (errno == EACCES || errno == EPERM)
		snprintf(text, size, "%s: the console is for root and the agent's own user", address.sun_path);
	else
		snprintf(text, size, "no agent at %s (%s): is it running, and is this its --run-dir?", address.sun_path,
			 strerror(errno));
	n = errno == EACCES || errno == EPERM ? ERR_DENIED : ERR_TIMEOUT;
	if (fd >= 0)
		close(fd);
	return n;
}

static int exchange(struct channel *c, const struct message *question, const int *sent, unsigned sent_count,
		    struct msg_con_reply *reply)
{
	int fds[CHANNEL_FDS_MAX];
	struct message message;
	unsigned count = 0;
	int r;

	r = channel_send(c, question, sent, sent_count);
	if (r != 0)
		return r;
	r = channel_receive_wait(c, &message, fds, &count, NULL, ANSWER_MS);
	while (count > 0)
		close(fds[--count]);
	if (r == 1)
		*reply = message.body.con_reply;
	explicit_bzero(&message, sizeof message);
	return r == 1 ? 0 : r == 0 ? ERR_IO : r;
}

static int ask(const char *run_dir, const struct message *question, const int *fds, unsigned count, struct msg_con_reply *reply,
	       char *text, size_t size)
{
	struct channel channel;
	int fd = console_open(run_dir, text, size), error;

	if (fd < 0)
		return fd;
	channel_init(&channel, fd, ROLE_CONSOLE, ROLE_SUPERVISOR);
	error = exchange(&channel, question, fds, count, reply);
	channel_close(&channel);
	if (error == ERR_TIMEOUT)
		snprintf(text, size,
			 "the agent took the request at %s/console.sock and did not answer in %d s; see its log; if it hangs, "
			 "kill fallgated: every key is wiped within a second",
			 run_dir, ANSWER_MS / 1000);
	else if (error != 0)
		snprintf(text, size,
			 "the agent closed the console: this user may not use it, or client and agent are of two releases");
	return error == ERR_IO ? ERR_DENIED : error;
}

int console_ask(const char *run_dir, const struct msg_con_request *request, struct msg_con_reply *reply, char *text, size_t size)
{
	struct message m;

	message_init(&m, MSG_CON_REQUEST, 0);
	m.body.con_request = *request;
	return ask(run_dir, &m, NULL, 0, reply, text, size);
}

int console_seal_pin(const char *run_dir, const char *kek, int fd, struct msg_con_reply *reply, char *text, size_t size)
{
	struct message m;

	message_init(&m, MSG_CON_SEAL_PIN, 0);
	snprintf(m.body.con_seal_pin.kek, sizeof m.body.con_seal_pin.kek, "%s", kek);
	return ask(run_dir, &m, &fd, 1, reply, text, size);
}
