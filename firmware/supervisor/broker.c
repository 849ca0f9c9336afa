/* See broker.h. It needs the rights that the other children give up (the control device is root's), and sees neither keys nor
 * data. */
#include "broker.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "children.h"
#include "volume.h"

enum { RESTARTS_MAX = 6, RESTART_MAX_S = 5, END_MS = 1000 };

struct broker {
	struct agent *agent;
	struct child child;
	unsigned restarts;
	uint64_t heard_ns;
	struct timer restart;
};

static void start(struct broker *b)
{
	char program[PATH_MAX_BYTES + 32], run_dir[PATH_MAX_BYTES + 16];
	const char *arguments[] = { program, run_dir, NULL };
	struct child_plan plan = { .peer = PEER_BROKER,
				   .program = program,
				   .arguments = arguments,
				   .fds = { -1 },
				   .fd_count = 1,
				   .block_signals = true };

	snprintf(program, sizeof program, "%s/fallgate-ublk", b->agent->config.libexec_dir);
	snprintf(run_dir, sizeof run_dir, "run_dir=%s", b->agent->config.run_dir);
	snprintf(b->child.label, sizeof b->child.label, "ublk broker");
	b->heard_ns = 0;
	if (child_start(&b->child, &plan) != 0)
		timer_arm(&b->agent->loop, &b->restart, boot_now() + RESTART_MAX_S * SEC_NS);
}

static void restart_due(void *context)
{
	start(context);
}

static void on_hello(void *owner, struct child *c)
{
	struct broker *b = owner;

	(void)c;
	b->heard_ns = boot_now();
}

static void on_message(void *owner, struct child *c, const struct message *m, int *fds, unsigned count)
{
	struct broker *b = owner;
	const char *name = m->type == MSG_UB_READY     ? m->body.ub_ready.name
			   : m->type == MSG_UB_STARTED ? m->body.ub_started.name
						       : m->body.ub_gone.name;
	struct volume *v = volume_find(b->agent, name);

	(void)c;
	(void)fds;
	(void)count;
	b->heard_ns = boot_now();
	b->restarts = 0;
	if (v != NULL)
		device_message(v, m);
}

static void on_death(void *owner, struct child *c, int status)
{
	struct broker *b = owner;
	uint64_t wait = (100 * MS_NS) << b->restarts;
	char text[TEXT_MAX_BYTES];

	if (c->stage == STAGE_NEW && WIFEXITED(status) && WEXITSTATUS(status) == error_exit_code(ERR_NOT_FOUND))
		snprintf(text, sizeof text,
			 "the kernel has no ublk, or it is not loaded: modprobe ublk_drv (linux 6.8 and later)");
	else if (c->stage == STAGE_NEW)
		snprintf(text, sizeof text, "fallgate-ublk cannot be run (%s %d): this build has no ublk, or see the log",
			 WIFSIGNALED(status) ? "signal" : "exit code",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	else
		snprintf(text, sizeof text, "the broker of the block devices ended (%s %d); see the log",
			 WIFSIGNALED(status) ? "signal" : "exit code",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	log_error("%s", text);
	if (b->restarts < RESTARTS_MAX)
		b->restarts++;
	/* at once, though nobody may ask: what it left in the kernel is for its successor to take away */
	timer_arm(&b->agent->loop, &b->restart, boot_now() + (wait < RESTART_MAX_S * SEC_NS ? wait : RESTART_MAX_S * SEC_NS));
	for (unsigned i = 0; i < b->agent->volume_count; i++)
		device_lost(b->agent->volumes[i], text);
}

static const struct child_events broker_events = { on_hello, on_message, on_death };

static struct broker *broker_of(struct agent *a)
{
	struct broker *b = a->broker;

	if (b != NULL)
		return b;
	b = calloc(1, sizeof *b);
	if (b == NULL)
		return NULL;
	b->agent = a;
	b->child.loop = &a->loop;
	b->child.events = &broker_events;
	b->child.owner = b;
	timer_init(&b->restart, restart_due, b);
	a->broker = b;
	return b;
}

int broker_send(struct agent *a, const struct message *m)
{
	struct broker *b = broker_of(a);

	if (b == NULL)
		return ERR_NOMEM;
	if (!b->child.alive && b->restart.armed)
		return ERR_BUSY;
	if (!b->child.alive)
		start(b);
	if (!b->child.alive)
		return ERR_IO;
	child_send(&b->child, m, NULL,
		   0); /* before its hello, it lies in its channel; if it does not take it, its end is the answer */
	return 0;
}

uint64_t broker_heard(const struct agent *a)
{
	return a->broker != NULL ? a->broker->heard_ns : 0;
}

void broker_replace(struct agent *a, const char *why)
{
	if (a->broker != NULL)
		child_kill(&a->broker->child, why);
}

void broker_stop(struct agent *a)
{
	struct broker *b = a->broker;

	if (b == NULL)
		return;
	a->broker = NULL;
	timer_disarm(&a->loop, &b->restart);
	if (b->child.alive) {
		struct pollfd p = { .fd = b->child.pidfd, .events = POLLIN };

		shutdown(b->child.channel.fd, SHUT_RDWR);
		if (poll(&p, 1, END_MS) != 1)
			log_warning("the ublk broker (pid %d) is still taking devices away; it goes on alone", (int)b->child.pid);
		child_let_go(&b->child);
	}
	free(b);
}
