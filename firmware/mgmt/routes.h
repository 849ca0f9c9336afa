/* The resources: from a request to a question for the supervisor and from its answer to a reply. What must hold: every request is
 * measured against roles.c first; nothing waits inside a handler; what a guarded request changes, it changes only with the gate's
 * present sequence number and an Echo value of the last ten seconds. */
#ifndef FALLGATE_MGMT_ROUTES_H
#define FALLGATE_MGMT_ROUTES_H

#include <stdint.h>

#include "credentials.h"
#include "render.h"
#include "state.h"

struct channel;
struct coap_context_t;
struct message;
struct peer;

struct mgmt {
	struct channel *channel;
	struct coap_context_t *coap;
	struct credentials credentials;
	struct state state;
	struct peer *peers;              /* sessions that have asked for something */
	uint8_t body[RENDER_BODY_MAX];   /* the reply being made */
	uint8_t before[RENDER_BODY_MAX]; /* what observers saw last */
};

/* Registers the resources that are always there. 0 or ERR_NOMEM. */
int routes_start(struct mgmt *m);

/* What the supervisor says: pushes and replies. MSG_MG_LISTEN is main.c's. */
void routes_tell(struct mgmt *m, const struct message *message);

/* Ends the sessions that lost their right; to be called after each round of I/O. True if there were any. */
bool routes_sweep(struct mgmt *m);

void routes_stop(struct mgmt *m);

#endif
