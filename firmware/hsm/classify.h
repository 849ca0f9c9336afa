/* From a PKCS#11 return code, and what a look at the token showed, to a verdict on the KEK. Pure: no module, no clock, no I/O.
 * What must hold: a code that is not in the table fails closed; what might be weather never becomes a definite refusal without
 * a token that is seen to be well. */
#ifndef FALLGATE_HSM_CLASSIFY_H
#define FALLGATE_HSM_CLASSIFY_H

#include <stdbool.h>
#include <stddef.h>

#include "ipc/message.h"

/* For what a module let pass and we do not: a payload of a wrong length or content (CKR_WRAPPED_KEY_INVALID). */
enum { CODE_PAYLOAD = 0x110 };

/* Where the code came from. */
enum stage { STAGE_START, STAGE_TOKEN, STAGE_LOGIN, STAGE_KEY, STAGE_PROBE, STAGE_DEK };

enum token_sight {
	TOKEN_UNSEEN, /* not listed, or GetTokenInfo failed: proves nothing */
	TOKEN_OTHER,  /* the module lists another token in its place */
	TOKEN_GOOD,   /* listed, and it is the one that the URI names */
};

enum key_sight {
	KEY_UNSEEN,
	KEY_OTHER, /* found by name, with another public key than before */
	KEY_SEEN,
};

struct look {
	enum stage stage;
	enum token_sight token;
	enum key_sight key;
	bool worked;        /* this process has seen the key do the operation */
	bool no_ciphertext; /* random bytes, a wrap: what failed says nothing about the key */
};

enum hsm_verdict classify(unsigned long ckr, const struct look *look);

/* One C_Finalize, C_Initialize, login and find in this process may cure it; then the operation is classified again. */
bool classify_worth_a_restart(unsigned long ckr);

/* The token refused the PIN itself: it is never tried again. */
bool classify_is_login_refusal(unsigned long ckr);

/* The token has no PIN to compare with: access is revoked, and a login may be tried again. SoftHSM2 also says so when another
 * process writes its token's file in the same moment. */
bool classify_is_no_pin(unsigned long ckr);

/* Attributes that a module refuses in a template: the next template may do. */
bool classify_is_template_refusal(unsigned long ckr);

/* "CKR_PIN_INCORRECT"; a vendor's or unknown code by number, in the caller's buffer. */
const char *classify_ckr_name(unsigned long ckr, char *buffer, size_t size);

/* What the operator does about a verdict, one clause. Never NULL. */
const char *classify_remedy(enum hsm_verdict v);

#endif
