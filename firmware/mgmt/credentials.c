/* A small table, always walked to its end. */
#include "credentials.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/entropy.h"

static bool same(const struct credential *row, const uint8_t *identity, size_t size)
{
	if (row->role == USER_NONE || size == 0 || size >= IDENTITY_MAX_BYTES)
		return false;
	return row->identity[size] == '\0' && memcmp(row->identity, identity, size) == 0 && memchr(identity, '\0', size) == NULL;
}

static const struct credential *find(const struct credentials *c, const uint8_t *identity, size_t size)
{
	const struct credential *found = NULL;

	for (unsigned i = 0; i < CREDENTIALS_MAX; i++)
		if (same(&c->rows[i], identity, size))
			found = &c->rows[i];
	return found;
}

static struct credential *free_row(struct credentials *c)
{
	for (unsigned i = 0; i < CREDENTIALS_MAX; i++)
		if (c->rows[i].role == USER_NONE)
			return &c->rows[i];
	return NULL;
}

int credentials_put(struct credentials *c, const struct msg_mg_credential *new)
{
	size_t size = strnlen(new->identity, sizeof new->identity);
	struct credential *row;

	if (size == 0 || size >= sizeof new->identity)
		return ERR_USAGE;
	row = (struct credential *)find(c, (const uint8_t *)new->identity, size);
	if (new->role == USER_NONE) {
		if (row != NULL)
			explicit_bzero(row, sizeof *row);
		return 0;
	}
	if (row == NULL)
		row = free_row(c);
	if (row == NULL)
		return ERR_NOSPACE;
	explicit_bzero(row, sizeof *row);
	memcpy(row->identity, new->identity, size);
	memcpy(row->psk, new->psk, sizeof row->psk);
	row->role = new->role;
	return 0;
}

enum role credentials_role(const struct credentials *c, const uint8_t *identity, size_t size)
{
	const struct credential *row = identity == NULL ? NULL : find(c, identity, size);

	return row == NULL ? USER_NONE : (enum role)row->role;
}

bool credentials_key_is(const struct credentials *c, const uint8_t *identity, size_t size, const uint8_t *key, size_t key_size)
{
	const struct credential *row = identity == NULL ? NULL : find(c, identity, size);

	return row != NULL && key_size == PSK_BYTES && compare_secret(row->psk, key, PSK_BYTES) == 0;
}

int credentials_psk(const struct credentials *c, uint8_t psk[static PSK_BYTES], const uint8_t *identity, size_t size)
{
	int error = entropy_fill(psk, PSK_BYTES);

	if (error != 0)
		return error;
	for (unsigned i = 0; identity != NULL && i < CREDENTIALS_MAX; i++)
		if (same(&c->rows[i], identity, size))
			memcpy(psk, c->rows[i].psk, PSK_BYTES);
	return 0;
}

void credentials_wipe(struct credentials *c)
{
	explicit_bzero(c, sizeof *c);
}
