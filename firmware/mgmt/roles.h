/* Who may do what: the resources as one table, pure. What must hold: what is not written in the table is refused; nobody has two
 * roles' rights; a role that is none, or no role at all, has no right to anything. The supervisor checks the role once more. */
#ifndef FALLGATE_MGMT_ROLES_H
#define FALLGATE_MGMT_ROLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/message.h"

enum resource {
	RESOURCE_STATUS,
	RESOURCE_VOLUMES,
	RESOURCE_VOLUME,
	RESOURCE_STATE,
	RESOURCE_ATTACH,
	RESOURCE_DETACH,
	RESOURCE_REVOKE,
	RESOURCE_RESTORE,
	RESOURCE_REVOKE_ALL,
	RESOURCE_POSTURE,
	RESOURCE_COUNT
};

enum method {
	METHOD_GET = 1,
	METHOD_POST = 2,
	METHOD_PUT = 3,
	METHOD_DELETE = 4,
	METHOD_FETCH = 5,
	METHOD_PATCH = 6,
	METHOD_IPATCH = 7
};

struct resource_row {
	const char *path;  /* '*' stands for one volume name */
	const char *title; /* for /.well-known/core */
	uint8_t readers;   /* bit 1 << enum role: GET */
	uint8_t posters;   /* likewise POST */
	uint8_t verb;      /* enum mg_verb of the POST */
	bool observable;
	bool guarded; /* POST asks for If-Match and a fresh Echo: a late datagram must not undo a later revoke */
};

const struct resource_row *resource_row(enum resource r);

struct target {
	enum resource resource;
	char volume[NAME_MAX_BYTES]; /* empty where the path has no name */
};

/* A request's path without the leading '/', percent-encoding left as it is. 0; ERR_NOT_FOUND: no such resource; ERR_USAGE: there
 * is, but the volume name in it is not a name. */
int roles_path(struct target *out, const char *path, size_t size);

enum permit {
	PERMIT_YES,
	PERMIT_NO_IDENTITY, /* 4.01 */
	PERMIT_NO_METHOD,   /* 4.05: nobody may */
	PERMIT_NO_RIGHT,    /* 4.03: another role may */
};

enum permit roles_permit(enum role role, unsigned method, enum resource r);

#endif
