/* What mgmt, the process that parses the network, is told: answers, and how the agent and its volumes are. What must hold: a full
 * channel drops a status, which is told again, never an answer; telling changes nothing but that, so that every part may tell.
 * What mgmt says is heard in manage.c, which starts it and starts it again. */
#ifndef FALLGATE_SUPERVISOR_MGMT_H
#define FALLGATE_SUPERVISOR_MGMT_H

#include <stdbool.h>
#include <stdint.h>

#include "children.h"
#include "ipc/message.h"

struct agent;
struct volume;

struct mgmt {
	struct child child;
	uint64_t caught_up_ns; /* when it was last seen to have read everything */
};

/* Before each message, and once a second: a full channel alone would take minutes to show that nobody reads it. */
void mgmt_look(struct mgmt *g);

/* To mgmt, if it is there. */
void mgmt_reply(struct agent *a, uint64_t id, int error, uint64_t seq, bool durable, const char *text);
void mgmt_push_volume(struct agent *a, struct volume *v);
void mgmt_push_agent(struct agent *a);
void mgmt_push_credential(struct agent *a, const char *identity, enum role role, const uint8_t psk[PSK_BYTES]);

#endif
