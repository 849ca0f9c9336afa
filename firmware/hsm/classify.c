/* The table of return codes. Their numbers are the standard's (PKCS#11 2.40, 3.0); test_classify.c holds each to p11-kit's
 * header, which only token.c includes. */
#include "classify.h"

#include <stdio.h>

enum ckr_class {
	CLASS_OK,
	CLASS_UNREACHABLE, /* the device or its link */
	CLASS_ABSENT,      /* no token to be seen */
	CLASS_GENERAL,     /* says nothing by itself: the look settles it */
	CLASS_SESSION,     /* the session or the login is lost */
	CLASS_ACCESS,      /* the PIN */
	CLASS_NO_PIN,      /* the token has none: it compared nothing, and no try is spent */
	CLASS_DISABLED,    /* the key's rights */
	CLASS_TYPE,        /* NSS says this where others say that a right is missing */
	CLASS_HANDLE,      /* the key's handle means nothing any more */
	CLASS_PAYLOAD,     /* this ciphertext under this key */
	CLASS_TEMPLATE,
	CLASS_BROKEN,
};

struct ckr_row {
	unsigned long ckr;
	const char *name;
	enum ckr_class class;
};

enum { CKR_VENDOR = 31 }; /* the bit that marks a vendor's own code */

#define ROW(number, name, class)                                                                                                 \
	{                                                                                                                        \
		number, "CKR_" #name, CLASS_##class                                                                              \
	}

/* clang-format off */
static const struct ckr_row rows[] = {
	ROW(0x000, OK,                               OK),
	ROW(0x002, HOST_MEMORY,                      UNREACHABLE),
	ROW(0x003, SLOT_ID_INVALID,                  ABSENT),
	ROW(0x005, GENERAL_ERROR,                    GENERAL),
	ROW(0x006, FUNCTION_FAILED,                  UNREACHABLE),
	ROW(0x007, ARGUMENTS_BAD,                    BROKEN),
	ROW(0x009, NEED_TO_CREATE_THREADS,           BROKEN),
	ROW(0x00a, CANT_LOCK,                        BROKEN),
	ROW(0x010, ATTRIBUTE_READ_ONLY,              TEMPLATE),
	ROW(0x011, ATTRIBUTE_SENSITIVE,              TEMPLATE),
	ROW(0x012, ATTRIBUTE_TYPE_INVALID,           TEMPLATE),
	ROW(0x013, ATTRIBUTE_VALUE_INVALID,          TEMPLATE),
	ROW(0x01b, ACTION_PROHIBITED,                DISABLED),
	ROW(0x020, DATA_INVALID,                     PAYLOAD),
	ROW(0x021, DATA_LEN_RANGE,                   PAYLOAD),
	ROW(0x030, DEVICE_ERROR,                     UNREACHABLE),
	ROW(0x031, DEVICE_MEMORY,                    UNREACHABLE),
	ROW(0x032, DEVICE_REMOVED,                   ABSENT),
	ROW(0x040, ENCRYPTED_DATA_INVALID,           PAYLOAD),
	ROW(0x041, ENCRYPTED_DATA_LEN_RANGE,         PAYLOAD),
	ROW(0x054, FUNCTION_NOT_SUPPORTED,           BROKEN),
	ROW(0x060, KEY_HANDLE_INVALID,               HANDLE),
	ROW(0x062, KEY_SIZE_RANGE,                   BROKEN),
	ROW(0x063, KEY_TYPE_INCONSISTENT,            TYPE),
	ROW(0x068, KEY_FUNCTION_NOT_PERMITTED,       DISABLED),
	ROW(0x069, KEY_NOT_WRAPPABLE,                BROKEN),
	ROW(0x06a, KEY_UNEXTRACTABLE,                BROKEN),
	ROW(0x070, MECHANISM_INVALID,                BROKEN),
	ROW(0x071, MECHANISM_PARAM_INVALID,          BROKEN),
	ROW(0x082, OBJECT_HANDLE_INVALID,            HANDLE),
	ROW(0x090, OPERATION_ACTIVE,                 SESSION),
	ROW(0x091, OPERATION_NOT_INITIALIZED,        SESSION),
	ROW(0x0a0, PIN_INCORRECT,                    ACCESS),
	ROW(0x0a1, PIN_INVALID,                      ACCESS),
	ROW(0x0a2, PIN_LEN_RANGE,                    ACCESS),
	ROW(0x0a3, PIN_EXPIRED,                      ACCESS),
	ROW(0x0a4, PIN_LOCKED,                       ACCESS),
	ROW(0x0b0, SESSION_CLOSED,                   SESSION),
	ROW(0x0b1, SESSION_COUNT,                    UNREACHABLE),
	ROW(0x0b3, SESSION_HANDLE_INVALID,           SESSION),
	ROW(0x0d0, TEMPLATE_INCOMPLETE,              TEMPLATE),
	ROW(0x0d1, TEMPLATE_INCONSISTENT,            TEMPLATE),
	ROW(0x0e0, TOKEN_NOT_PRESENT,                ABSENT),
	ROW(0x0e1, TOKEN_NOT_RECOGNIZED,             ABSENT),
	ROW(0x0f0, UNWRAPPING_KEY_HANDLE_INVALID,    HANDLE),
	ROW(0x0f2, UNWRAPPING_KEY_TYPE_INCONSISTENT, TYPE),
	ROW(0x101, USER_NOT_LOGGED_IN,               SESSION),
	ROW(0x102, USER_PIN_NOT_INITIALIZED,         NO_PIN),
	ROW(0x104, USER_ANOTHER_ALREADY_LOGGED_IN,   BROKEN),
	ROW(0x110, WRAPPED_KEY_INVALID,              PAYLOAD),
	ROW(0x112, WRAPPED_KEY_LEN_RANGE,            PAYLOAD),
	ROW(0x113, WRAPPING_KEY_HANDLE_INVALID,      HANDLE),
	ROW(0x115, WRAPPING_KEY_TYPE_INCONSISTENT,   TYPE),
	ROW(0x121, RANDOM_NO_RNG,                    BROKEN),
	ROW(0x150, BUFFER_TOO_SMALL,                 BROKEN),
	ROW(0x190, CRYPTOKI_NOT_INITIALIZED,         SESSION),
	ROW(0x191, CRYPTOKI_ALREADY_INITIALIZED,     UNREACHABLE), /* a C_Finalize that failed: a fresh process settles it */
	ROW(0x201, TOKEN_RESOURCE_EXCEEDED,          UNREACHABLE),
};
/* clang-format on */

static const struct ckr_row *find_row(unsigned long ckr)
{
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		if (rows[i].ckr == ckr)
			return &rows[i];
	return NULL;
}

static enum ckr_class class_of(unsigned long ckr)
{
	const struct ckr_row *row = find_row(ckr);

	if (row != NULL)
		return row->class;
	return ckr >> CKR_VENDOR & 1 ? CLASS_UNREACHABLE : CLASS_BROKEN;
}

/* A token that is not seen well proves nothing, unless another one sits in its place. */
static enum hsm_verdict absent(const struct look *look)
{
	return look->token == TOKEN_OTHER ? VERDICT_TOKEN_GONE : VERDICT_UNREACHABLE;
}

/* The key did not do it. With the token well, the cause is the key; `present` is what it means if the key is there, the same. */
static enum hsm_verdict by_sight(const struct look *look, enum hsm_verdict present)
{
	if (look->token != TOKEN_GOOD)
		return absent(look);
	switch (look->key) {
	case KEY_UNSEEN:
		return VERDICT_DELETED;
	case KEY_OTHER:
		return VERDICT_REPLACED;
	case KEY_SEEN:
		break;
	}
	return present;
}

/* A ciphertext that the key refuses: ours, made for it a moment ago (probe), or the volume's (DEK). Elsewhere, and where none was
 * given, weather. */
static enum hsm_verdict refused_payload(const struct look *look)
{
	if (look->no_ciphertext)
		return VERDICT_UNREACHABLE;
	if (look->stage == STAGE_DEK)
		return by_sight(look, VERDICT_DEK_REFUSED);
	if (look->stage == STAGE_PROBE)
		return by_sight(look, VERDICT_REPLACED);
	return VERDICT_UNREACHABLE;
}

enum hsm_verdict classify(unsigned long ckr, const struct look *look)
{
	switch (class_of(ckr)) {
	case CLASS_OK:
		return VERDICT_GOOD;
	case CLASS_UNREACHABLE:
	case CLASS_SESSION: /* lost again after a restart: the link, not the key */
		return VERDICT_UNREACHABLE;
	case CLASS_ABSENT:
		return absent(look);
	case CLASS_GENERAL:
	case CLASS_PAYLOAD:
		return refused_payload(look);
	case CLASS_ACCESS:
	case CLASS_NO_PIN:
		return VERDICT_ACCESS_REVOKED;
	case CLASS_DISABLED:
		return VERDICT_DISABLED;
	case CLASS_TYPE:
		return look->worked ? VERDICT_DISABLED : VERDICT_MODULE_BROKEN;
	case CLASS_HANDLE:
		return by_sight(look, VERDICT_UNREACHABLE);
	case CLASS_TEMPLATE:
	case CLASS_BROKEN:
		break;
	}
	return VERDICT_MODULE_BROKEN;
}

bool classify_worth_a_restart(unsigned long ckr)
{
	enum ckr_class c = class_of(ckr);

	return c == CLASS_SESSION || c == CLASS_HANDLE || c == CLASS_GENERAL;
}

bool classify_is_login_refusal(unsigned long ckr)
{
	return class_of(ckr) == CLASS_ACCESS;
}

bool classify_is_no_pin(unsigned long ckr)
{
	return class_of(ckr) == CLASS_NO_PIN;
}

bool classify_is_template_refusal(unsigned long ckr)
{
	return class_of(ckr) == CLASS_TEMPLATE;
}

const char *classify_ckr_name(unsigned long ckr, char *buffer, size_t size)
{
	const struct ckr_row *row = find_row(ckr);

	if (row != NULL)
		return row->name;
	snprintf(buffer, size, "CKR 0x%08lx", ckr);
	return buffer;
}

/* clang-format off */
static const char *const remedies[VERDICT_COUNT] = {
	[VERDICT_GOOD]           = "nothing to do",
	[VERDICT_DISABLED]       = "enable the key again in the HSM",
	[VERDICT_DELETED]        = "restore the key in the HSM from its backup",
	[VERDICT_REPLACED]       = "put the former key back; another key does not open these volumes",
	[VERDICT_EXPIRED]        = "set a later CKA_END_DATE, or move the volumes to another key",
	[VERDICT_NOT_YET_VALID]  = "wait for CKA_START_DATE, or set an earlier one",
	[VERDICT_ACCESS_REVOKED] = "put the right PIN into the PIN file; it is not tried again until then",
	[VERDICT_TOKEN_GONE]     = "put the former token back",
	[VERDICT_DEK_REFUSED]    = "the volume was wrapped by another key, or its header is damaged",
	[VERDICT_MODULE_BROKEN]  = "check the module, its version and its settings",
	[VERDICT_KEY_UNFIT]      = "make a key that fits, for example with fallgate-custodian make-kek",
	[VERDICT_UNREACHABLE]    = "check the HSM, its connection and its settings",
};
/* clang-format on */

const char *classify_remedy(enum hsm_verdict v)
{
	return v < VERDICT_COUNT ? remedies[v] : remedies[VERDICT_MODULE_BROKEN];
}
