/* One row per error. */
#include "problem.h"

#include <stddef.h>

#include "base/error.h"

#define CODE(class, detail) ((class) << 5 | (detail))

struct problem_row {
	uint8_t code;
	const char *remedy;
};

/* clang-format off */
static const struct problem_row rows[] = {
	[-ERR_NONE]        = { CODE(2, 4),  "" },
	[-ERR_USAGE]       = { CODE(4, 0),  "check the command against its manual page, fallgate(1)" },
	[-ERR_CONFIG]      = { CODE(5, 0),  "run 'fallgate config check' and correct the file and line it names" },
	[-ERR_NOMEM]       = { CODE(5, 0),  "free memory on the agent's machine or raise its locked-memory limit, then try again" },
	[-ERR_IO]          = { CODE(5, 0),  "look at the kernel log of the agent's machine for the failing device" },
	[-ERR_NOSPACE]     = { CODE(5, 0),  "make room on, or enlarge, the backing store" },
	[-ERR_BUSY]        = { CODE(4, 9),  "wait for the other operation, or stop the process that holds it, then try again" },
	[-ERR_EXISTS]      = { CODE(4, 9),  "use another name, or --force if what is there may be overwritten" },
	[-ERR_NOT_FOUND]   = { CODE(4, 4),  "see 'fallgate volumes' for the names that exist" },
	[-ERR_RANGE]       = { CODE(4, 0),  "correct the size or alignment in the volume's configuration" },
	[-ERR_CORRUPT]     = { CODE(5, 0),  "treat it as damage or tampering: keep the device as it is and restore from a backup" },
	[-ERR_FOREIGN]     = { CODE(4, 9),  "point the volume's configuration at the right device, or create the volume first" },
	[-ERR_REVOKED]     = { CODE(4, 9),  "see 'fallgate status NAME' for the cause and what lifts it" },
	[-ERR_REFUSED]     = { CODE(4, 9),  "have the HSM's custodian allow the key, its rights and its PIN" },
	[-ERR_UNREACHABLE] = { CODE(5, 3),  "check the HSM and the way to it; the agent goes on by itself when it answers" },
	[-ERR_TIMEOUT]     = { CODE(5, 4),  "see 'fallgate status' for what happened, then try again" },
	[-ERR_DENIED]      = { CODE(4, 3),  "use the credentials of an identity with the role for it, or enroll one at the console" },
	[-ERR_STATE]       = { CODE(4, 9),  "see 'fallgate status NAME' for the present state, then decide again" },
	[-ERR_PROTOCOL]    = { CODE(5, 0),  "install the client and the agent from one release, and report it if they are" },
	[-ERR_UNSUPPORTED] = { CODE(5, 1),  "use a build or board that has it; 'fallgate posture' shows what this one has" },
	[-ERR_FAILSTOP]    = { CODE(5, 0),  "detach the volume, repair the device, attach it again" },
};
/* clang-format on */

static const struct problem_row *row_of(int error)
{
	static const struct problem_row unknown = { CODE(5, 0), "look at the agent's log" };

	if (error > 0 || error <= ERR_LAST)
		return &unknown;
	return &rows[-error];
}

uint8_t problem_code(int error)
{
	return row_of(error)->code;
}

const char *problem_remedy(int error)
{
	return row_of(error)->remedy;
}
