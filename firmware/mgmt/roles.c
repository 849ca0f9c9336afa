/* The table. Revoking is the officer's alone and asks for nothing else: it must work from anywhere at once. */
#include "roles.h"

#include <string.h>

#include "base/error.h"

#define AUDITOR  (1u << USER_AUDITOR)
#define OPERATOR (1u << USER_OPERATOR)
#define OFFICER  (1u << USER_OFFICER)
#define ALL      (AUDITOR | OPERATOR | OFFICER)

/* clang-format off */
static const struct resource_row rows[RESOURCE_COUNT] = {
	[RESOURCE_STATUS]     = { "status",            "agent and volumes",  ALL, 0,        0,          .observable = true },
	[RESOURCE_VOLUMES]    = { "volumes",           "volumes; create",    ALL, OPERATOR, MG_CREATE },
	[RESOURCE_VOLUME]     = { "volumes/*",         "one volume",         ALL, 0,        0 },
	[RESOURCE_STATE]      = { "volumes/*/state",   "its gate",           ALL, 0,        0,          .observable = true },
	[RESOURCE_ATTACH]     = { "volumes/*/attach",  "open it",            0,   OPERATOR, MG_ATTACH,  .guarded = true },
	[RESOURCE_DETACH]     = { "volumes/*/detach",  "close it",           0,   OPERATOR, MG_DETACH },
	[RESOURCE_REVOKE]     = { "volumes/*/revoke",  "shut its gate",      0,   OFFICER,  MG_REVOKE },
	[RESOURCE_RESTORE]    = { "volumes/*/restore", "lift the latch",     0,   OFFICER,  MG_RESTORE, .guarded = true },
	[RESOURCE_REVOKE_ALL] = { "revoke",            "shut every gate",    0,   OFFICER,  MG_REVOKE },
	[RESOURCE_POSTURE]    = { "posture",           "what protects keys", ALL, 0,        0 },
};
/* clang-format on */

const struct resource_row *resource_row(enum resource r)
{
	return &rows[r];
}

/* Splits path around the pattern's '*': true if the rest is equal; *name is what stands for the '*'. */
static bool match(const char *pattern, const char *path, size_t size, const char **name, size_t *name_size)
{
	const char *star = strchr(pattern, '*');
	size_t before, after;

	*name = NULL;
	*name_size = 0;
	if (star == NULL)
		return size == strlen(pattern) && memcmp(path, pattern, size) == 0;
	before = (size_t)(star - pattern);
	after = strlen(star + 1);
	if (size < before + after || memcmp(path, pattern, before) != 0)
		return false;
	if (memcmp(path + size - after, star + 1, after) != 0)
		return false;
	*name = path + before;
	*name_size = size - before - after;
	return memchr(*name, '/', *name_size) == NULL;
}

int roles_path(struct target *out, const char *path, size_t size)
{
	const char *name;
	size_t name_size;

	memset(out, 0, sizeof *out);
	for (int r = 0; r < RESOURCE_COUNT; r++) {
		if (!match(rows[r].path, path, size, &name, &name_size))
			continue;
		out->resource = (enum resource)r;
		if (name == NULL)
			return 0;
		if (name_size >= sizeof out->volume || memchr(name, '\0', name_size) != NULL)
			return ERR_USAGE;
		memcpy(out->volume, name, name_size);
		return message_name_good(out->volume) ? 0 : ERR_USAGE;
	}
	return ERR_NOT_FOUND;
}

enum permit roles_permit(enum role role, unsigned method, enum resource r)
{
	unsigned who = 0;

	if (role != USER_AUDITOR && role != USER_OPERATOR && role != USER_OFFICER)
		return PERMIT_NO_IDENTITY;
	if (r >= RESOURCE_COUNT)
		return PERMIT_NO_METHOD;
	if (method == METHOD_GET)
		who = rows[r].readers;
	else if (method == METHOD_POST)
		who = rows[r].posters;
	if (who == 0)
		return PERMIT_NO_METHOD;
	return (who >> role & 1u) != 0 ? PERMIT_YES : PERMIT_NO_RIGHT;
}
