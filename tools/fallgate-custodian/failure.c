/* The codes that an administrator meets at a token, each with its remedy. */
#include "failure.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <p11-kit/pkcs11.h>

#include "base/error.h"

struct remedy {
	unsigned long ckr;
	const char *name;
	int error;
	const char *text;
};

#define ROW(name, error, text)                                                                                                   \
	{                                                                                                                        \
		CKR_##name, "CKR_" #name, error, text                                                                            \
	}

/* clang-format off */
static const struct remedy remedies[] = {
	ROW(PIN_INCORRECT,              ERR_REFUSED,     "the PIN is wrong; do not repeat it: tokens lock after a few tries"),
	ROW(PIN_LOCKED,                 ERR_REFUSED,     "the PIN is locked; the security officer resets it (--so-pin-file)"),
	ROW(PIN_EXPIRED,                ERR_REFUSED,     "the PIN has expired; change it with set-pin"),
	ROW(PIN_INVALID,                ERR_REFUSED,     "the token does not take these characters in a PIN; choose another"),
	ROW(PIN_LEN_RANGE,              ERR_RANGE,       "the PIN is too short or too long for this token; choose another"),
	ROW(USER_PIN_NOT_INITIALIZED,   ERR_STATE,       "the token has no user PIN yet; give it one: set-pin --so-pin-file"),
	ROW(USER_ANOTHER_ALREADY_LOGGED_IN, ERR_BUSY,    "another user is logged in to the token; end that program"),
	ROW(SESSION_EXISTS,             ERR_BUSY,        "another program uses the token; end it and repeat"),
	ROW(USER_NOT_LOGGED_IN,         ERR_DENIED,      "the token wants a login; give --pin-file"),
	ROW(TOKEN_WRITE_PROTECTED,      ERR_DENIED,      "the token is write-protected"),
	ROW(SESSION_READ_ONLY,          ERR_DENIED,      "the token gives read-only sessions here; check its settings"),
	ROW(ACTION_PROHIBITED,          ERR_DENIED,      "the token forbids this for this key"),
	ROW(ATTRIBUTE_READ_ONLY,        ERR_UNSUPPORTED, "the token does not let this attribute of a key be changed"),
	ROW(ATTRIBUTE_TYPE_INVALID,     ERR_UNSUPPORTED, "the token does not know this attribute"),
	ROW(ATTRIBUTE_VALUE_INVALID,    ERR_UNSUPPORTED, "the token does not take this attribute's value"),
	ROW(TEMPLATE_INCONSISTENT,      ERR_UNSUPPORTED, "the token does not take these attributes together"),
	ROW(TEMPLATE_INCOMPLETE,        ERR_UNSUPPORTED, "the token wants attributes that this tool does not set"),
	ROW(MECHANISM_INVALID,          ERR_UNSUPPORTED, "the token cannot make or use this type of key; choose another --type"),
	ROW(KEY_SIZE_RANGE,             ERR_UNSUPPORTED, "the token cannot make a key of this size; choose another --type"),
	ROW(FUNCTION_NOT_SUPPORTED,     ERR_UNSUPPORTED, "the module does not offer this function; use the vendor's own tool"),
	ROW(DEVICE_MEMORY,              ERR_NOSPACE,     "the token is full; delete what is not needed"),
	ROW(TOKEN_NOT_PRESENT,          ERR_UNREACHABLE, "the token is not there; insert or connect it"),
	ROW(DEVICE_REMOVED,             ERR_UNREACHABLE, "the token was removed; insert it again"),
	ROW(DEVICE_ERROR,               ERR_UNREACHABLE, "the token or its connection failed; check it and repeat"),
	ROW(FUNCTION_FAILED,            ERR_UNREACHABLE, "the token did not do it; check its connection and its log"),
	ROW(GENERAL_ERROR,              ERR_UNREACHABLE, "the module does not say why; see its settings and its log"),
};
/* clang-format on */

int fail(int error, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "fallgate-custodian: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	return error;
}

int fail_ckr(unsigned long ckr, const char *what)
{
	for (size_t i = 0; i < sizeof remedies / sizeof remedies[0]; i++)
		if (remedies[i].ckr == ckr)
			return fail(remedies[i].error, "%s: %s (%s)", what, remedies[i].text, remedies[i].name);
	return fail(ERR_REFUSED, "%s: the module answered 0x%lx; see its manual or its log", what, ckr);
}
