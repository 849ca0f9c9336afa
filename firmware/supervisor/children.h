/* Child processes: fork and exec, wired by descriptors at fixed numbers, watched by pidfd, killed and reaped. What must hold: a
 * child gets the descriptors named here and no others, an environment built from nothing, no core, its own user; whatever it says
 * first is HELLO with our version and its pid, and what the permit table does not allow kills it; what it said before it ended is
 * heard before its end. */
#ifndef FALLGATE_SUPERVISOR_CHILDREN_H
#define FALLGATE_SUPERVISOR_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "config.h"
#include "ipc/channel.h"
#include "loop.h"
#include "permit.h"

enum { CHILD_ENV_MAX = CONFIG_ENV_MAX + 6, CHILD_FDS_MAX = 2 };

struct child;

struct child_events {
	void (*hello)(void *owner, struct child *c);
	/* fds (0..2) are the callee's; closed by the caller after return unless set to -1 */
	void (*message)(void *owner, struct child *c, const struct message *m, int *fds, unsigned count);
	/* reaped: status as from waitpid; the struct may be used again */
	void (*death)(void *owner, struct child *c, int status);
};

struct child {
	bool alive; /* started and not yet reaped */
	enum peer peer;
	enum stage stage;
	pid_t pid;
	int pidfd;
	uid_t uid;
	struct channel channel;
	struct watch channel_watch, pid_watch;
	struct loop *loop;
	const struct child_events *events;
	void *owner;
	char label[64]; /* for the log: "hsm of main" */
};

struct child_plan {
	enum peer peer;
	const char *program;                    /* absolute path */
	const char *const *arguments;           /* argv[0] first, NULL last */
	const char *environment[CHILD_ENV_MAX]; /* besides PATH and LD_BIND_NOW; NULL last */
	bool socket_activation;                 /* LISTEN_FDS=1, LISTEN_PID: fd 3 is a listening socket */
	bool block_signals;
	bool io_flusher;        /* PR_SET_IO_FLUSHER: it serves a block device of this machine */
	bool locked_memory;     /* raise RLIMIT_MEMLOCK as far as it goes */
	int fds[CHILD_FDS_MAX]; /* become 3, 4; -1: the channel goes there */
	unsigned fd_count;
	struct config_user user;
};

/* Starts it. c->label, loop, events and owner are set by the caller. 0, ERR_IO, ERR_NOMEM (logged). */
int child_start(struct child *c, const struct child_plan *plan);

/* fallgate-dataplane VERB, which does one thing with a volume's key and ends. Likewise. */
int child_start_one_shot(struct child *c, enum peer peer, const struct config *config, const char *verb);

/* Sends; a peer that does not take it is killed. 0 or ERR_*. */
int child_send(struct child *c, const struct message *m, const int *fds, unsigned count);

/* Hears what it has said already. Before a deadline is held against it: a supervisor that was itself late must not take its own
 * delay for the child's. */
void child_hear(struct child *c);

/* SIGKILL; death is reported later, from the loop. */
void child_kill(struct child *c, const char *why);

/* SIGKILL, and reaped here if it goes within a few milliseconds: true; no event then. false: the death event will come. */
bool child_kill_and_reap(struct child *c);

/* No event comes any more, whether it is gone or not: before its owner's memory goes. Whoever reaps it then is init. */
void child_let_go(struct child *c);

#endif
