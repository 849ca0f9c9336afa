/* Who may say what, when: the table in front of everything that a child or a console sends. What must hold: what is not in it
 * kills the sender; message_check has already judged type, size, descriptors and direction. */
#ifndef FALLGATE_SUPERVISOR_PERMIT_H
#define FALLGATE_SUPERVISOR_PERMIT_H

#include <stdbool.h>

#include "ipc/message.h"

/* Where the conversation with a peer stands. */
enum stage {
	STAGE_NEW,       /* started; only HELLO */
	STAGE_IDLE,      /* hsm: nothing asked. dataplane: nothing attached */
	STAGE_OPENING,   /* hsm: HSM_OPEN sent */
	STAGE_PROBING,   /* hsm: HSM_PROBE sent */
	STAGE_TICKET,    /* hsm: HSM_UNWRAP or HSM_WRAP sent */
	STAGE_SPENT,     /* hsm: it answered its ticket */
	STAGE_ATTACHING, /* dataplane: DP_ATTACH sent */
	STAGE_REFUSED,   /* dataplane: the backing was not good */
	STAGE_KEYLESS,   /* dataplane: ready, no key */
	STAGE_UNLOCKING, /* dataplane: DP_TICKET sent */
	STAGE_SERVING,   /* dataplane: DP_OPENED good */
	STAGE_LOCKING,   /* dataplane: told to lock or detach */
	STAGE_WIPED,     /* dataplane: said so */
	STAGE_DRAINED,   /* dataplane: said so; if its volume is held, READY comes again */
	STAGE_CREATING,  /* creator: DP_CREATE and DP_TICKET sent */
	STAGE_TALKING,   /* mgmt, broker, console */
	STAGE_ASKED,     /* tpm: TP_REQUEST sent */
	STAGE_JOB,       /* console: its job is under way; it listens */
	STAGE_COUNT
};

enum peer {
	PEER_HSM,
	PEER_DATAPLANE,
	PEER_CREATOR,
	PEER_JOB,
	PEER_MGMT,
	PEER_CONSOLE,
	PEER_HOOKS,
	PEER_BROKER,
	PEER_TPM,
	PEER_COUNT
};

bool permit_allows(enum peer peer, enum stage stage, enum message_type type);

const char *stage_name(enum stage s);

#endif
