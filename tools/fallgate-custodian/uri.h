/* What the tool prints so that it can be pasted: RFC 7512 URIs, and JSON strings. */
#ifndef CUSTODIAN_URI_H
#define CUSTODIAN_URI_H

#include <stdbool.h>
#include <stddef.h>

#include "token.h"

/* pkcs11:token=...;object=...;id=%..;type=...: the caller uses it before the next call. */
const char *uri_of_key(const struct token *t, bool private_key, const char *label, const unsigned char *id, size_t id_size);
const char *uri_of_token(const char *label, const char *serial);

/* To standard output, quoted and escaped; what is not UTF-8 comes as '?'. */
void json_string(const char *s);

#endif
