/* Errors, named after what the caller can do next. Functions return 0 (or a count) or one of these, negative.
 * Every value has one line of text and one exit code in error.c; the tests walk the whole table. */
#ifndef FALLGATE_BASE_ERROR_H
#define FALLGATE_BASE_ERROR_H

enum error {
	ERR_NONE = 0,
	ERR_USAGE = -1,        /* the caller's arguments make no sense: fix the command */
	ERR_CONFIG = -2,       /* a configuration value is wrong: fix the file and line named */
	ERR_NOMEM = -3,        /* memory, or locked memory, could not be had */
	ERR_IO = -4,           /* the device said EIO, or a short read or write */
	ERR_NOSPACE = -5,      /* the backing store is full */
	ERR_BUSY = -6,         /* another process holds it: stop that one, or retry */
	ERR_EXISTS = -7,       /* something is there already (a signature, a volume, an attachment) */
	ERR_NOT_FOUND = -8,    /* no such volume, KEK, token, file */
	ERR_RANGE = -9,        /* an offset, a length, a size or an alignment is out of bounds */
	ERR_CORRUPT = -10,     /* authenticated data failed its check: damage or an attack */
	ERR_FOREIGN = -11,     /* not ours: no FGV1 volume, another volume, an unknown version */
	ERR_REVOKED = -12,     /* the gate is shut: no key, and none until the gate opens */
	ERR_REFUSED = -13,     /* the HSM, or the policy, said no for good */
	ERR_UNREACHABLE = -14, /* the HSM did not answer, or in a way that proves nothing: try later */
	ERR_TIMEOUT = -15,     /* a deadline passed */
	ERR_DENIED = -16,      /* this identity has no right to it */
	ERR_STATE = -17,       /* right request, wrong moment (already attached, latched, ...) */
	ERR_PROTOCOL = -18,    /* a peer broke the protocol: it is not to be trusted further */
	ERR_UNSUPPORTED = -19, /* this build, board or device cannot do it */
	ERR_FAILSTOP = -20,    /* an earlier write or flush failed: close and open again */
	ERR_LAST = -21
};

/* A short English sentence without a full stop, e.g. "the backing store is full". Never NULL. */
const char *error_text(int error);

/* The stable lower-case name used in JSON, CBOR and tests, e.g. "no-space". Never NULL. */
const char *error_name(int error);

/* The documented exit code of a command that ends with this error: 0 for ERR_NONE, else 2..63. */
int error_exit_code(int error);

/* ERR_* for an errno value (positive). Unknown values are ERR_IO. */
int error_from_errno(int errnum);

/* The errno an NBD client is given for an error: EIO, ENOSPC, ESHUTDOWN, EINVAL, ... (positive; 0 for 0). */
int error_to_errno(int error);

#endif
