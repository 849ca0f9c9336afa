/* See credentials.h. One line each: identity, role, key in hex. */
#include "credentials.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "fields.h"
#include "hal/entropy.h"

enum { CREDENTIALS_MAX = 256 };

struct credentials {
	const struct records *records;
	unsigned count;
	struct msg_mg_credential list[CREDENTIALS_MAX];
};

static const char record_name[] = "credentials";

bool identity_good(const char *identity)
{
	static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-";
	size_t length = strnlen(identity, IDENTITY_MAX_BYTES);

	return length > 0 && length < IDENTITY_MAX_BYTES && strspn(identity, good) == length;
}

static bool read_line(struct credentials *c, char *line)
{
	struct msg_mg_credential *one = &c->list[c->count];
	char *role = strchr(line, ' '), *key = role != NULL ? strchr(role + 1, ' ') : NULL;

	if (c->count == CREDENTIALS_MAX || key == NULL)
		return false;
	*role++ = '\0';
	*key++ = '\0';
	if (!identity_good(line) || !hex_read(one->psk, sizeof one->psk, key))
		return false;
	strcpy(one->identity, line);
	for (enum role r = USER_AUDITOR; r <= USER_OFFICER; r++)
		if (strcmp(role, role_name(r)) == 0)
			one->role = (uint8_t)r;
	c->count += one->role != USER_NONE;
	return one->role != USER_NONE;
}

static int read_all_lines(struct credentials *c, char *body)
{
	char *save = NULL;

	for (char *line = strtok_r(body, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
		if (!read_line(c, line))
			return ERR_CORRUPT;
	return 0;
}

int credentials_create(struct credentials **out, const struct records *r)
{
	struct credentials *c = calloc(1, sizeof *c);
	char *body = malloc(RECORD_MAX_BYTES);
	int e = ERR_NOMEM;

	if (c != NULL && body != NULL) {
		c->records = r;
		e = records_read(r, RECORD_CREDENTIALS, record_name, body, RECORD_MAX_BYTES);
		if (e == 0)
			e = read_all_lines(c, body);
		if (e == ERR_NOT_FOUND)
			e = 0;
		explicit_bzero(body, RECORD_MAX_BYTES);
	}
	free(body);
	if (e != 0 && c != NULL) {
		log_error("credentials: %s; nobody is let in until identities are enrolled anew at the console", error_text(e));
		explicit_bzero(c->list, sizeof c->list);
		c->count = 0;
	}
	*out = c;
	return e;
}

void credentials_destroy(struct credentials *c)
{
	explicit_bzero(c, sizeof *c);
	free(c);
}

static int save(const struct credentials *c)
{
	char *body = calloc(1, RECORD_MAX_BYTES), hex[2 * PSK_BYTES + 1];
	size_t used = 0;
	int e;

	if (body == NULL)
		return ERR_NOMEM;
	for (unsigned i = 0; i < c->count; i++) {
		hex_write(hex, c->list[i].psk, PSK_BYTES);
		used += (size_t)snprintf(body + used, RECORD_MAX_BYTES - used, "%s %s %s\n", c->list[i].identity,
					 role_name(c->list[i].role), hex);
	}
	e = records_write(c->records, RECORD_CREDENTIALS, record_name, body);
	explicit_bzero(body, RECORD_MAX_BYTES);
	explicit_bzero(hex, sizeof hex);
	free(body);
	return e;
}

static unsigned find(const struct credentials *c, const char *identity)
{
	unsigned i = 0;

	while (i < c->count && strcmp(c->list[i].identity, identity) != 0)
		i++;
	return i;
}

int credentials_enroll(struct credentials *c, const char *identity, enum role role, uint8_t psk[static PSK_BYTES])
{
	unsigned at = find(c, identity), count_before = c->count;
	struct msg_mg_credential before;
	int e;

	if (!identity_good(identity) || role < USER_AUDITOR || role > USER_OFFICER)
		return ERR_USAGE;
	if (at == CREDENTIALS_MAX)
		return ERR_NOSPACE;
	before = c->list[at];
	e = entropy_fill(psk, PSK_BYTES);
	if (e == 0) {
		snprintf(c->list[at].identity, sizeof c->list[at].identity, "%s", identity);
		c->list[at].role = (uint8_t)role;
		memcpy(c->list[at].psk, psk, PSK_BYTES);
		c->count += at == c->count;
		e = save(c);
	}
	if (e != 0) {
		c->list[at] = before;
		c->count = count_before;
		explicit_bzero(psk, PSK_BYTES);
	}
	explicit_bzero(&before, sizeof before);
	return e;
}

enum role credentials_role(const struct credentials *c, const char *identity)
{
	unsigned at = find(c, identity);

	return at < c->count ? (enum role)c->list[at].role : USER_NONE;
}

int credentials_remove(struct credentials *c, const char *identity)
{
	unsigned at = find(c, identity);
	struct msg_mg_credential gone;
	int e;

	if (at == c->count)
		return ERR_NOT_FOUND;
	gone = c->list[at];
	memmove(&c->list[at], &c->list[at + 1], (c->count - at - 1) * sizeof c->list[0]);
	explicit_bzero(&c->list[--c->count], sizeof c->list[0]);
	e = save(c);
	if (e != 0)
		c->list[c->count++] = gone; /* still on disk: still let in, and said so */
	explicit_bzero(&gone, sizeof gone);
	return e;
}

void credentials_each(const struct credentials *c, void (*fn)(void *context, const struct msg_mg_credential *one), void *context)
{
	for (unsigned i = 0; i < c->count; i++)
		fn(context, &c->list[i]);
}
