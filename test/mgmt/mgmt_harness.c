/* A supervisor made of lines: starts fallgate-mgmt with a channel on descriptor 3, turns lines of standard input into messages to
 * it and its messages into lines of standard output. It checks If-Match as the real one does and otherwise says what it is told
 * to.
 *
 *   listen ADDRESS | agent AUDIT_GOOD POSTURE(\n as |) | volume NAME STATE CAUSE LATCHED LATCH_CAUSE SEQ FORMATTED [TEXT]
 *   locked NAME CUT WIPED DRAINED | gone NAME | credential IDENTITY ROLE HEX | answers good|none|ERROR [TEXT] | junk | quit
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "ipc/channel.h"
#include "ipc/message.h"

enum { LINE_MAX_BYTES = 2048, VOLUMES_MAX = 300 };

static struct channel channel;
static pid_t child;
static struct msg_mg_volume volumes[VOLUMES_MAX];
static unsigned volume_count;
static int answers = 0; /* an ERR_*, or 1: none */
static char answer_text[TEXT_MAX_BYTES];

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "mgmt_harness: %s: %s\n", what, strerror(errno));
	if (child > 0)
		kill(child, SIGKILL);
	exit(1);
}

static void send_now(const struct message *m)
{
	for (int i = 0; i < 500; i++) {
		int error = channel_send(&channel, m, NULL, 0);

		if (error == 0)
			return;
		if (error != ERR_BUSY)
			break;
		usleep(10000);
	}
	die("channel_send");
}

static struct msg_mg_volume *volume_of(const char *name)
{
	for (unsigned i = 0; i < volume_count; i++)
		if (strcmp(volumes[i].name, name) == 0)
			return &volumes[i];
	if (volume_count == VOLUMES_MAX)
		die("too many volumes");
	snprintf(volumes[volume_count].name, NAME_MAX_BYTES, "%s", name);
	return &volumes[volume_count++];
}

static void push_volume(const struct msg_mg_volume *v)
{
	struct message m;

	message_init(&m, MSG_MG_VOLUME, 0);
	m.body.mg_volume = *v;
	send_now(&m);
}

static const char *word(char **at)
{
	char *start = *at + strspn(*at, " ");
	size_t n = strcspn(start, " ");

	*at = start + n + (start[n] == ' ');
	start[n] = '\0';
	return start;
}

static uint64_t number(char **at)
{
	return strtoull(word(at), NULL, 10);
}

static void do_volume(char *at)
{
	struct msg_mg_volume *v = volume_of(word(&at));

	v->state = (uint8_t)number(&at);
	v->cause = (uint8_t)number(&at);
	v->latched = number(&at) != 0;
	v->latch_cause = (uint8_t)number(&at);
	v->gate_seq = number(&at);
	v->formatted = number(&at) != 0;
	snprintf(v->text, sizeof v->text, "%s", at);
	snprintf(v->kek, sizeof v->kek, "customer");
	snprintf(v->export_uri, sizeof v->export_uri, "nbd+unix:///?socket=/run/fallgate/%s.sock", v->name);
	v->size = 1ull << 30;
	push_volume(v);
}

static void do_locked(char *at)
{
	struct msg_mg_volume *v = volume_of(word(&at));

	v->lock_detected_ns = 1000;
	v->lock_cut_ns = 1000 + number(&at);
	v->lock_wiped_ns = 1000 + number(&at);
	v->lock_drained_ns = 1000 + number(&at);
	push_volume(v);
}

static void do_agent(char *at)
{
	struct message m;

	message_init(&m, MSG_MG_AGENT, 0);
	snprintf(m.body.mg_agent.version, sizeof m.body.mg_agent.version, "%s", FALLGATE_VERSION);
	m.body.mg_agent.started_ns = 1700000000ull * 1000000000;
	m.body.mg_agent.volumes = volume_count;
	m.body.mg_agent.audit_good = number(&at) != 0;
	snprintf(m.body.mg_agent.users, sizeof m.body.mg_agent.users, "own");
	snprintf(m.body.mg_agent.sandbox, sizeof m.body.mg_agent.sandbox, "seccomp");
	snprintf(m.body.mg_agent.posture, sizeof m.body.mg_agent.posture, "%s", at);
	for (char *c = m.body.mg_agent.posture; *c != '\0'; c++)
		if (*c == '|')
			*c = '\n';
	send_now(&m);
}

static void do_credential(char *at)
{
	struct message m;
	const char *hex;

	message_init(&m, MSG_MG_CREDENTIAL, 0);
	snprintf(m.body.mg_credential.identity, IDENTITY_MAX_BYTES, "%s", word(&at));
	m.body.mg_credential.role = (uint8_t)number(&at);
	hex = word(&at);
	for (unsigned i = 0; i < PSK_BYTES && strlen(hex) == 2 * PSK_BYTES; i++)
		sscanf(hex + 2 * i, "%2hhx", &m.body.mg_credential.psk[i]);
	send_now(&m);
}

static void do_named(enum message_type type, const char *text)
{
	struct message m;

	message_init(&m, type, 0);
	if (type == MSG_MG_LISTEN)
		snprintf(m.body.mg_listen.address, sizeof m.body.mg_listen.address, "%s", text);
	else
		snprintf(m.body.mg_gone.name, sizeof m.body.mg_gone.name, "%s", text);
	send_now(&m);
}

static void do_answers(char *at)
{
	const char *what = word(&at);

	if (strcmp(what, "good") == 0)
		answers = 0;
	else if (strcmp(what, "none") == 0)
		answers = 1;
	else
		answers = atoi(what);
	snprintf(answer_text, sizeof answer_text, "%s", at);
}

/* False: end. */
static bool do_line(char *at)
{
	const char *verb = word(&at);

	if (strcmp(verb, "listen") == 0)
		do_named(MSG_MG_LISTEN, word(&at));
	else if (strcmp(verb, "agent") == 0)
		do_agent(at);
	else if (strcmp(verb, "volume") == 0)
		do_volume(at);
	else if (strcmp(verb, "locked") == 0)
		do_locked(at);
	else if (strcmp(verb, "gone") == 0)
		do_named(MSG_MG_GONE, word(&at));
	else if (strcmp(verb, "credential") == 0)
		do_credential(at);
	else if (strcmp(verb, "answers") == 0)
		do_answers(at);
	else if (strcmp(verb, "junk") == 0 && write(channel.fd, "junk", 4) != 4)
		die("write");
	else if (strcmp(verb, "quit") == 0)
		return false;
	return true;
}

static void reply_to(const struct msg_mg_request *r)
{
	struct msg_mg_volume *v = r->volume[0] == '\0' ? NULL : volume_of(r->volume);
	struct message m;

	if (answers > 0)
		return;
	message_init(&m, MSG_MG_REPLY, 0);
	m.body.mg_reply.id = r->id;
	m.body.mg_reply.error = answers;
	snprintf(m.body.mg_reply.text, TEXT_MAX_BYTES, "%s", answer_text);
	if (answers == 0 && v != NULL && r->has_if_match && r->if_match != v->gate_seq)
		m.body.mg_reply.error = ERR_STATE;
	if (m.body.mg_reply.error == 0 && v != NULL) {
		v->gate_seq++;
		push_volume(v);
	}
	m.body.mg_reply.gate_seq = v == NULL ? 0 : v->gate_seq;
	m.body.mg_reply.durable = true;
	send_now(&m);
}

static bool take_message(void)
{
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count;
	int r = channel_receive(&channel, &m, fds, &count, NULL);

	if (r == ERR_BUSY)
		return true;
	if (r != 1) {
		printf("lost %d\n", r);
		return false;
	}
	if (m.type == MSG_HELLO)
		printf("hello %s %s\n", m.body.hello.version, m.body.hello.pid == child ? "own-pid" : "other-pid");
	if (m.type == MSG_MG_REQUEST) {
		const struct msg_mg_request *q = &m.body.mg_request;

		printf("request verb=%u role=%u identity=%s volume=%s if_match=%s%llu force=%d\n", q->verb, q->role, q->identity,
		       q->volume, q->has_if_match ? "" : "-", (unsigned long long)q->if_match, q->force);
		reply_to(q);
	}
	return true;
}

static void start(char **argv)
{
	int fds[2];

	if (channel_pair(fds) != 0)
		die("channel_pair");
	child = fork();
	if (child == 0) {
		int null = open("/dev/null", 2);

		dup2(null, 0);
		dup2(null, 1);
		dup2(fds[1], 3);
		closefrom(4);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	close(fds[1]);
	channel_init(&channel, fds[0], ROLE_SUPERVISOR, ROLE_MGMT);
}

static void serve_lines(void)
{
	static char buffer[LINE_MAX_BYTES];
	static size_t used;
	struct pollfd p[2] = { { .fd = 0, .events = POLLIN }, { .fd = channel.fd, .events = POLLIN } };

	for (;;) {
		char *end;

		if (poll(p, 2, -1) < 0)
			die("poll");
		if (p[1].revents != 0 && !take_message())
			return;
		if (p[0].revents == 0)
			continue;
		ssize_t n = read(0, buffer + used, sizeof buffer - used - 1);

		if (n <= 0)
			return;
		used += (size_t)n;
		buffer[used] = '\0';
		while ((end = strchr(buffer, '\n')) != NULL) {
			*end = '\0';
			if (!do_line(buffer))
				return;
			puts("told"); /* on the channel: what a client sends from now on is read after it */
			used -= (size_t)(end + 1 - buffer);
			memmove(buffer, end + 1, used + 1);
		}
	}
}

int main(int argc, char **argv)
{
	int status;

	if (argc < 2) {
		fputs("mgmt_harness: PROGRAM\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	start(argv);
	printf("child %d\n", (int)child);
	serve_lines();
	channel_close(&channel);
	if (waitpid(child, &status, 0) != child)
		die("waitpid");
	if (WIFSIGNALED(status))
		printf("ended by signal %d\n", WTERMSIG(status));
	else
		printf("ended with %d\n", WEXITSTATUS(status));
	return 0;
}
