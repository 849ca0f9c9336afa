/* The PSK identities this process was told of, with their roles. What must hold: a name that is not here gets a random key, found
 * in the same way, so that a stranger cannot tell an unknown identity from a wrong key; keys are wiped when they go. */
#ifndef FALLGATE_MGMT_CREDENTIALS_H
#define FALLGATE_MGMT_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/message.h"

enum { CREDENTIALS_MAX = 256 };

struct credential {
	char identity[IDENTITY_MAX_BYTES];
	uint8_t role; /* USER_NONE: a free row */
	uint8_t psk[PSK_BYTES];
};

struct credentials {
	struct credential rows[CREDENTIALS_MAX];
};

/* Adds, replaces or (USER_NONE) removes. 0, ERR_USAGE for an empty identity, ERR_NOSPACE. */
int credentials_put(struct credentials *c, const struct msg_mg_credential *new);

/* The role of an identity as DTLS gave it; USER_NONE for one that is not here. */
enum role credentials_role(const struct credentials *c, const uint8_t *identity, size_t size);

/* Is this the identity's key now? False for one that is not here. Takes the same time wherever the keys differ. */
bool credentials_key_is(const struct credentials *c, const uint8_t *identity, size_t size, const uint8_t *key, size_t key_size);

/* The key of an identity, or random bytes. 0, or ERR_UNSUPPORTED if there are no random bytes: no handshake then. */
int credentials_psk(const struct credentials *c, uint8_t psk[static PSK_BYTES], const uint8_t *identity, size_t size);

void credentials_wipe(struct credentials *c);

#endif
