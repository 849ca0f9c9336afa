/* Who may talk to the agent over the network: PSK identities with a role. What must hold: the list on disk is a record (MACed,
 * 0600) and changes whole or not at all; a key is shown to whom it was made for once, and wiped after. */
#ifndef FALLGATE_SUPERVISOR_CREDENTIALS_H
#define FALLGATE_SUPERVISOR_CREDENTIALS_H

#include <stdbool.h>

#include "records.h"

struct credentials;

/* Reads the record. 0, or ERR_NOMEM, ERR_CORRUPT (nobody is known then). */
int credentials_create(struct credentials **out, const struct records *r);
void credentials_destroy(struct credentials *c);

/* Makes a key for identity (an earlier one of that name is replaced). 0, ERR_USAGE (no such identity or role), ERR_NOSPACE,
 * ERR_IO. */
int credentials_enroll(struct credentials *c, const char *identity, enum role role, uint8_t psk[static PSK_BYTES]);

/* USER_NONE: nobody of that name. */
enum role credentials_role(const struct credentials *c, const char *identity);

/* 0, ERR_NOT_FOUND, ERR_IO. */
int credentials_remove(struct credentials *c, const char *identity);

void credentials_each(const struct credentials *c, void (*fn)(void *context, const struct msg_mg_credential *one), void *context);

/* 1 to 63 of A-Z a-z 0-9 . _ @ - */
bool identity_good(const char *identity);

#endif
