/* One row per error: its name, its text, its exit code and the errno that a block client sees. */
#include "error.h"

#include <errno.h>
#include <stddef.h>

struct error_row {
	const char *name;
	const char *text;
	int exit_code;
	int errnum;
};

/* clang-format off */
static const struct error_row rows[] = {
	[-ERR_NONE]        = { "ok",          "done",                                                0, 0 },
	[-ERR_USAGE]       = { "usage",       "the request makes no sense",                          2, EINVAL },
	[-ERR_CONFIG]      = { "config",      "the configuration is wrong",                          3, EINVAL },
	[-ERR_NOMEM]       = { "no-memory",   "memory could not be had",                             4, ENOMEM },
	[-ERR_IO]          = { "io",          "the device failed to read or write",                  5, EIO },
	[-ERR_NOSPACE]     = { "no-space",    "the backing store is full",                           6, ENOSPC },
	[-ERR_BUSY]        = { "busy",        "another process holds it",                            7, EBUSY },
	[-ERR_EXISTS]      = { "exists",      "something is there already",                          8, EEXIST },
	[-ERR_NOT_FOUND]   = { "not-found",   "there is no such thing",                              9, ENOENT },
	[-ERR_RANGE]       = { "range",       "a size, offset or alignment is out of bounds",       10, EINVAL },
	[-ERR_CORRUPT]     = { "corrupt",     "authenticated data failed its check",                11, EIO },
	[-ERR_FOREIGN]     = { "foreign",     "this is not a Fallgate volume of the expected kind", 12, EINVAL },
	[-ERR_REVOKED]     = { "revoked",     "the gate is shut",                                   13, ESHUTDOWN },
	[-ERR_REFUSED]     = { "refused",     "the HSM or the policy refused",                      14, EPERM },
	[-ERR_UNREACHABLE] = { "unreachable", "the HSM did not answer",                             15, EIO },
	[-ERR_TIMEOUT]     = { "timeout",     "the deadline passed",                                16, ETIMEDOUT },
	[-ERR_DENIED]      = { "denied",      "this identity has no right to do that",              17, EPERM },
	[-ERR_STATE]       = { "state",       "not possible in the present state",                  18, EINVAL },
	[-ERR_PROTOCOL]    = { "protocol",    "a peer process broke the protocol",                  19, EIO },
	[-ERR_UNSUPPORTED] = { "unsupported", "this build, board or device cannot do that",         20, ENOTSUP },
	[-ERR_FAILSTOP]    = { "fail-stop",   "an earlier write or flush failed: open it anew",     21, EIO },
};
/* clang-format on */

static const struct error_row *row_of(int error)
{
	static const struct error_row unknown = { "unknown", "an unknown error", 63, EIO };

	if (error > 0 || error <= ERR_LAST)
		return &unknown;
	return &rows[-error];
}

const char *error_text(int error)
{
	return row_of(error)->text;
}

const char *error_name(int error)
{
	return row_of(error)->name;
}

int error_exit_code(int error)
{
	return row_of(error)->exit_code;
}

int error_to_errno(int error)
{
	return row_of(error)->errnum;
}

int error_from_errno(int errnum)
{
	switch (errnum) {
	case 0:
		return ERR_NONE;
	case ENOMEM:
		return ERR_NOMEM;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return ERR_NOSPACE;
	case EBUSY:
	case EAGAIN:
	case ETXTBSY:
		return ERR_BUSY;
	case EEXIST:
		return ERR_EXISTS;
	case ENOENT:
	case ENOTDIR:
		return ERR_NOT_FOUND;
	case EINVAL:
	case EOVERFLOW:
		return ERR_RANGE;
	case EACCES:
	case EPERM:
	case EROFS:
		return ERR_DENIED;
	case ETIMEDOUT:
		return ERR_TIMEOUT;
	case ENOSYS:
	case EOPNOTSUPP:
		return ERR_UNSUPPORTED;
	default:
		return ERR_IO;
	}
}
