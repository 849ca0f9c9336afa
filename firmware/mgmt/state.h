/* What this process knows: the supervisor's last word about the agent and each volume, and the requests that wait for an answer.
 * What must hold: nothing here is decided, only remembered; volumes stand in the order of their names. */
#ifndef FALLGATE_MGMT_STATE_H
#define FALLGATE_MGMT_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "ipc/message.h"

enum { STATE_VOLUMES_MAX = 256, STATE_PENDING_MAX = 64 };

struct pending {
	uint64_t id;  /* 0: a free row */
	uint8_t verb; /* enum mg_verb */
	bool has_if_match;
	uint64_t if_match;
	bool answered;
	struct msg_mg_reply reply;
	void *ticket;      /* routes.c: what wakes the waiting exchange */
	const void *owner; /* routes.c: the session that asked */
	char volume[NAME_MAX_BYTES];
	char identity[IDENTITY_MAX_BYTES];
};

struct state {
	bool agent_known;
	struct msg_mg_agent agent;
	struct msg_mg_volume *volumes[STATE_VOLUMES_MAX];
	unsigned count;
	struct pending pending[STATE_PENDING_MAX];
	uint64_t last_id;
	uint64_t heard_ns;  /* when the supervisor spoke last; CLOCK_MONOTONIC */
	uint64_t silent_ns; /* for how long it has been silent, while that is shown; else 0 */
};

/* NULL if there is no such volume. */
const struct msg_mg_volume *state_volume(const struct state *s, const char *name);

/* 0; ERR_NOSPACE past STATE_VOLUMES_MAX; ERR_NOMEM. */
int state_put_volume(struct state *s, const struct msg_mg_volume *v);
void state_drop_volume(struct state *s, const char *name);

/* A new row with an id of its own, or NULL if too many wait. */
struct pending *state_pending_add(struct state *s);
/* NULL if nobody waits for this id any more. */
struct pending *state_pending_find(struct state *s, uint64_t id);
void state_pending_free(struct pending *p);

void state_free(struct state *s);

#endif
