/* Key-encryption keys on a token: make, list, disable and enable, dates, delete, public half. What must hold: a key made here
 * can do what Fallgate asks of it and nothing else, never leaves the token, and is read back before it is called made. */
#ifndef CUSTODIAN_KEYS_H
#define CUSTODIAN_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "token.h"

enum { ID_MAX = 62, LABEL_MAX = 63 };

struct key_name {          /* which key */
	const char *label; /* NULL: any */
	unsigned char id[ID_MAX];
	size_t id_size; /* 0: any */
};

/* "rsa2048", "rsa3072", "rsa4096", "aes256"; NULL if there is no such type. */
struct kek_type;
const struct kek_type *kek_type_find(const char *name);

/* All need token_session. 0 or ERR_*, with its line printed. */
int keys_make(struct token *t, const struct kek_type *type, const struct key_name *name);
int keys_list(struct token *t, bool json);
int keys_allow(struct token *t, const struct key_name *name, bool allowed);
int keys_delete(struct token *t, const struct key_name *name);

/* "YYYYMMDD", "none", or NULL for "as it is". */
int keys_set_dates(struct token *t, const struct key_name *name, const char *start, const char *end);

/* PEM on standard output. */
int keys_public(struct token *t, const struct key_name *name);

/* Without a login: the tokens that the module lists. */
int tokens_list(const struct token *t, bool json);

#endif
