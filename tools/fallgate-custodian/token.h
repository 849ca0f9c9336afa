/* The module and a token on it: libp11 loads, lists, logs in, initialises and changes PINs; what it cannot do (AES keys,
 * attributes, dates) goes straight to Cryptoki, by the same module, in the same login; or in a second one, where a module gives
 * each that asks for its functions an instance of its own (p11-kit's client does). */
#ifndef CUSTODIAN_TOKEN_H
#define CUSTODIAN_TOKEN_H

/* OpenSSL has a type of the name that one of our errors has. */
#define ERR_STATE openssl_err_state
#include <libp11.h>
#undef ERR_STATE
#include <p11-kit/pkcs11.h>
#include <stdbool.h>

#include "pin.h"

struct token_name { /* which token: both NULL = the only one */
	const char *label;
	const char *serial;
};

struct token {
	PKCS11_CTX *context;
	PKCS11_SLOT *slots;
	unsigned slot_count;
	PKCS11_SLOT *slot; /* the chosen one; NULL: none */
	void *library;
	CK_FUNCTION_LIST *f;
	bool apart;                /* f is an instance of its own, not the one that libp11 uses */
	CK_SESSION_HANDLE session; /* ours, beside libp11's; 0: none */
};

/* All: 0 or ERR_*, with its line printed. token_close is safe after any of them, and on a zeroed struct. */
int token_load(struct token *t, const char *module, const char *init_args);
int token_choose(struct token *t, const struct token_name *name);
int token_login(struct token *t, const struct pin *pin, int security_officer);
int token_session(struct token *t, const struct pin *pin); /* a read-write session of our own, once the PIN has logged in */
void token_close(struct token *t);

/* The public key with this id, as PEM on standard output. */
int token_print_public(struct token *t, const unsigned char *id, size_t id_size);

/* The verbs that are about the token itself. */
int token_initialise(const char *module, const char *init_args, const struct token_name *name, const struct pin *so_pin,
		     const struct pin *user_pin);
int token_change_pin(struct token *t, const struct pin *old, const struct pin *new_pin);
int token_reset_pin(struct token *t, const struct pin *so_pin, const struct pin *new_pin);

#endif
