/* The KEK of this process: how it is reached, what was found, and one way to recover. What must hold: a key other than the one
 * first opened is never used; a PIN that was refused is never tried again; the PIN is in memory only during C_Login. */
#ifndef FALLGATE_HSM_KEK_H
#define FALLGATE_HSM_KEK_H

#include <stdbool.h>
#include <time.h>

#include "ipc/message.h"
#include "token.h"

/* What came of a request: the common part of MSG_HSM_OPENED and MSG_HSM_VERDICT. */
struct report {
	enum hsm_verdict verdict;
	unsigned long ckr;
	bool login_refused;
	char start_date[9];
	char end_date[9];
	char text[TEXT_MAX_BYTES];
};

enum { CANARY_BYTES = CHALLENGE_BYTES + 8 };

struct kek {
	struct msg_hsm_open how;
	int pin_fd; /* -1: none; read anew at each login */
	bool login_refused;
	bool pinned; /* key holds what was first opened */
	bool worked;
	bool no_ciphertext;  /* an operation says so of its part that runs, for the verdict if that fails */
	struct token *token; /* NULL: closed */
	struct token_info info;
	struct token_key key;
	/* AES: what the last good proof unwrapped, and to what. Such a key has no other face. */
	uint16_t canary_size;
	uint8_t canary[CANARY_BYTES];
	uint8_t canary_plain[CHALLENGE_BYTES];
};

void kek_init(struct kek *k);

/* Takes over pin_fd (-1: none). The report says whether the key can be used; if not, all is closed again. */
void kek_open(struct kek *k, const struct msg_hsm_open *how, int pin_fd, struct report *r);

void kek_close(struct kek *k);

/* An operation with the KEK; the CKR is its result. */
typedef unsigned long (*kek_operation)(struct kek *k, void *context);

/* Check, operation, verdict; one restart of the module in between if that may cure it. `what` names the operation in texts. */
void kek_perform(struct kek *k, enum stage stage, const char *what, kek_operation operation, void *context, struct report *r);

/* A report from a verdict of our own; `what` is a clause about the key. */
void kek_say(const struct kek *k, struct report *r, enum hsm_verdict verdict, const char *what);

/* The verdict on a validity period, by UTC day. A date that is none is KEY_UNFIT. */
enum hsm_verdict kek_validity(const char *start, const char *end, time_t now);

#endif
