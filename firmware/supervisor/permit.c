/* The permit table. One row per (peer, message): the stages in which it may come. */
#include "permit.h"

#include <stddef.h>
#include <stdint.h>

struct permit {
	enum peer peer;
	enum message_type type;
	uint32_t stages; /* one bit each */
};

#define IN(s) (1u << STAGE_##s)

/* What a dataplane may say at any time once it is there: it locked itself, something broke, counters. */
#define ALIVE (IN(ATTACHING) | IN(REFUSED) | IN(KEYLESS) | IN(UNLOCKING) | IN(SERVING) | IN(LOCKING))

/* clang-format off */
static const struct permit permits[] = {
	{ PEER_HSM,       MSG_HELLO,       IN(NEW) },
	{ PEER_HSM,       MSG_HSM_OPENED,  IN(OPENING) },
	{ PEER_HSM,       MSG_HSM_VERDICT, IN(PROBING) | IN(TICKET) },

	{ PEER_DATAPLANE, MSG_HELLO,       IN(NEW) },
	{ PEER_DATAPLANE, MSG_DP_READY,    IN(ATTACHING) | IN(LOCKING) | IN(DRAINED) }, /* may cross an order to lock; held */
	{ PEER_DATAPLANE, MSG_DP_OPENED,   IN(UNLOCKING) | IN(LOCKING) },              /* likewise */
	{ PEER_DATAPLANE, MSG_DP_WIPED,    IN(UNLOCKING) | IN(SERVING) | IN(KEYLESS) | IN(LOCKING) },
	{ PEER_DATAPLANE, MSG_DP_DRAINED,  IN(WIPED) },
	{ PEER_DATAPLANE, MSG_DP_EVENT,    ALIVE | IN(WIPED) | IN(DRAINED) },
	{ PEER_DATAPLANE, MSG_DP_STATS,    ALIVE | IN(WIPED) },

	{ PEER_CREATOR,   MSG_HELLO,       IN(NEW) },
	{ PEER_CREATOR,   MSG_DP_CREATED,  IN(CREATING) },

	{ PEER_JOB,       MSG_HELLO,       IN(NEW) },
	{ PEER_JOB,       MSG_DP_READY,    IN(ATTACHING) },
	{ PEER_JOB,       MSG_DP_WIPED,    IN(UNLOCKING) | IN(SERVING) | IN(LOCKING) },
	{ PEER_JOB,       MSG_DP_JOB_DONE, IN(WIPED) },

	{ PEER_MGMT,      MSG_HELLO,       IN(NEW) },
	{ PEER_HOOKS,     MSG_HELLO,       IN(NEW) },
	{ PEER_MGMT,      MSG_MG_REQUEST,  IN(TALKING) },

	{ PEER_BROKER,    MSG_HELLO,       IN(NEW) },
	{ PEER_BROKER,    MSG_UB_READY,    IN(TALKING) },
	{ PEER_BROKER,    MSG_UB_STARTED,  IN(TALKING) },
	{ PEER_BROKER,    MSG_UB_GONE,     IN(TALKING) },

	{ PEER_CONSOLE,   MSG_CON_REQUEST, IN(TALKING) },
	{ PEER_TPM,       MSG_HELLO,       IN(NEW) },
	{ PEER_TPM,       MSG_TP_REPLY,    IN(ASKED) },

	{ PEER_CONSOLE,   MSG_CON_SEAL_PIN, IN(TALKING) },
	{ PEER_CONSOLE,   MSG_CON_JOB,     IN(TALKING) },
};

static const char *const names[STAGE_COUNT] = {
	[STAGE_NEW]      = "new",      [STAGE_IDLE]      = "idle",      [STAGE_OPENING]   = "opening",
	[STAGE_PROBING]  = "probing",  [STAGE_TICKET]    = "ticket",    [STAGE_SPENT]     = "spent",
	[STAGE_ATTACHING] = "attaching", [STAGE_REFUSED] = "refused",   [STAGE_KEYLESS]   = "keyless",
	[STAGE_UNLOCKING] = "unlocking", [STAGE_SERVING] = "serving",   [STAGE_LOCKING]   = "locking",
	[STAGE_WIPED]    = "wiped",    [STAGE_DRAINED]   = "drained",   [STAGE_CREATING]  = "creating",
	[STAGE_TALKING]  = "talking",  [STAGE_JOB]       = "job",
	[STAGE_ASKED]    = "asked",
};
/* clang-format on */

bool permit_allows(enum peer peer, enum stage stage, enum message_type type)
{
	for (size_t i = 0; i < sizeof permits / sizeof permits[0]; i++)
		if (permits[i].peer == peer && permits[i].type == type)
			return stage < STAGE_COUNT && (permits[i].stages & 1u << stage) != 0;
	return false;
}

const char *stage_name(enum stage s)
{
	return s < STAGE_COUNT ? names[s] : "?";
}
