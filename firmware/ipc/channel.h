/* One end of a SOCK_SEQPACKET socketpair between two processes of the agent. What must hold: what channel_receive hands out has
 * passed message_check for this pair of roles; descriptors that come with a refused message are closed; sends never block longer
 * than the caller says; received descriptors are close-on-exec. */
#ifndef FALLGATE_IPC_CHANNEL_H
#define FALLGATE_IPC_CHANNEL_H

#include <stdbool.h>
#include <sys/types.h>

#include "message.h"

enum { CHANNEL_FDS_MAX = 5 };

struct channel {
	int fd;
	enum process_role self;
	enum process_role peer;
};

struct channel_peer { /* SCM_CREDENTIALS of the sender of a message: filled in by the kernel */
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

/* A connected pair, both close-on-exec, SO_PASSCRED on. 0 or ERR_*. */
int channel_pair(int fds[2]);

/* Wraps a descriptor; takes it over; switches SO_PASSCRED on. */
void channel_init(struct channel *c, int fd, enum process_role self, enum process_role peer);

/* Fills type, size and nonce and clears the body. Every byte of a message that is sent was written on purpose. */
void message_init(struct message *m, enum message_type type, uint64_t nonce);

/* Sends one message with fds (count 0..5); never waits: a full socket is ERR_BUSY. 0, ERR_BUSY, ERR_IO (peer gone). */
int channel_send(struct channel *c, const struct message *m, const int *fds, unsigned count);

/* Receives one message without waiting. Returns 1 (one message), 0 (the peer closed), ERR_BUSY (nothing there now),
 * ERR_PROTOCOL (the peer must be killed), ERR_IO. fds: *count is set to how many came; the caller owns them. peer may be NULL. */
int channel_receive(struct channel *c, struct message *m, int fds[CHANNEL_FDS_MAX], unsigned *count, struct channel_peer *peer);

/* As receive, but waits up to timeout_ms (-1: for ever); ERR_TIMEOUT. */
int channel_receive_wait(struct channel *c, struct message *m, int fds[CHANNEL_FDS_MAX], unsigned *count,
			 struct channel_peer *peer, int timeout_ms);

void channel_close(struct channel *c);

#endif
