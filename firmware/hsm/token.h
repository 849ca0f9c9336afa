/* One PKCS#11 module, one token, one key: thin calls that return the module's own code. token.c is the only file that knows
 * Cryptoki. What must hold: a token is matched by URI, never by slot number; a handle is never used after a restart; every
 * size that the module reports is checked before it is believed; one thread. */
#ifndef FALLGATE_HSM_TOKEN_H
#define FALLGATE_HSM_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "classify.h"
#include "ipc/message.h"

enum { TOKEN_OK = 0 }; /* CKR_OK */

struct token;

struct token_info {
	char label[33];
	char serial[17];
	char maker[33];
	char model[17];
	bool login_required;
	bool pin_count_low, pin_final_try, pin_locked;
	bool software; /* a test HSM: SoftHSM, NSS */
};

struct token_key {
	enum kek_type type;
	unsigned bits;
	uint16_t modulus_size, exponent_size; /* RSA */
	uint8_t modulus[MODULUS_MAX_BYTES];
	uint8_t exponent[8];
	char label[64];
	uint8_t id[62];
	uint16_t id_size;
	bool sensitive, extractable, each_time; /* each_time: wants the PIN at every use */
	bool may_decrypt, may_wrap, may_unwrap;
};

/* Reads the URI and refuses what could match more than was meant; text says what. 0, ERR_CONFIG, ERR_NOMEM. */
int token_new(struct token **out, const char *uri, char text[static TEXT_MAX_BYTES]);

/* C_Finalize, and the module is let go. NULL is fine. */
void token_free(struct token *t);

/* Loads the module's file. 0, ERR_NOT_FOUND with text. */
int token_load(struct token *t, const char *path, char text[static TEXT_MAX_BYTES]);

/* C_Initialize; init_args empty: none. */
unsigned long token_start(struct token *t, const char *init_args);

/* C_Finalize: every session, login and handle is gone. */
void token_stop(struct token *t);

/* Looks through all slots for the token of the URI. *sight says what was seen, also when it was not found; info when it was. */
unsigned long token_find(struct token *t, enum token_sight *sight, struct token_info *info);

/* Asks the module about the slot of the token that was found: is it still that token? */
enum token_sight token_look(struct token *t);

unsigned long token_open_session(struct token *t);

/* Another session in the same login: one in which no failed operation is left active. */
unsigned long token_renew_session(struct token *t);
unsigned long token_login(struct token *t, const uint8_t *pin, size_t pin_size);

/* Private RSA and secret AES keys that the URI names. The key in hand is the one found, if *count is 1; else none. */
unsigned long token_find_key(struct token *t, unsigned *count);

/* What the key in hand is and may. A type or size that is no KEK leaves type 0. */
unsigned long token_key_facts(struct token *t, struct token_key *key);

/* "YYYYMMDD", or empty where there is none or the module will not tell. The private key is asked, then the public one. */
void token_key_dates(struct token *t, char start[static 9], char end[static 9]);

/* Operations with the key in hand. *out_size: room at first, then what came. */
unsigned long token_rsa_decrypt(struct token *t, enum oaep_hash hash, const uint8_t *in, size_t in_size, uint8_t *out,
				size_t *out_size);
unsigned long token_rsa_encrypt(struct token *t, enum oaep_hash hash, const struct token_key *key, const uint8_t *in,
				size_t in_size, uint8_t *out, size_t *out_size);
unsigned long token_aes_unwrap(struct token *t, const uint8_t *in, size_t in_size, uint8_t *out, size_t *out_size);
unsigned long token_aes_wrap(struct token *t, const uint8_t *in, size_t in_size, uint8_t *out, size_t *out_size);
unsigned long token_random(struct token *t, uint8_t *out, size_t size);

#endif
