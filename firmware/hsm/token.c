/* Cryptoki calls. They are written for the standard: any function may leave its output length unset, leave an operation
 * active after a failure, or answer with a code that it has no business to use; so lengths start at what we have room for, and
 * classify.c reads the codes. */
#include "token.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <p11-kit/p11-kit.h>
#include <p11-kit/pkcs11.h>
#include <p11-kit/uri.h>

#include "base/error.h"
#include "base/log.h"

enum { SLOTS_MAX = 256, KEYS_MAX = 8, VALUE_MAX = 256 };

struct token {
	P11KitUri *uri;
	CK_FUNCTION_LIST *f;
	bool started;
	CK_SLOT_ID slot;
	bool slot_known;
	CK_SESSION_HANDLE session;
	CK_OBJECT_HANDLE key; /* 0: none in hand */
	CK_OBJECT_CLASS key_class;
};

/* ---- the URI ---- */

static bool attribute_present(P11KitUri *uri, CK_ATTRIBUTE_TYPE type)
{
	const CK_ATTRIBUTE *a = p11_kit_uri_get_attribute(uri, type);

	return a != NULL && a->pValue != NULL && a->ulValueLen > 0 && a->ulValueLen <= VALUE_MAX;
}

/* Fields of Cryptoki are padded with blanks and not terminated; p11-kit leaves those that a URI does not name zero. */
static bool field_present(const CK_UTF8CHAR *field, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (field[i] != '\0' && field[i] != ' ')
			return true;
	return false;
}

static bool class_fits(P11KitUri *uri)
{
	const CK_ATTRIBUTE *a = p11_kit_uri_get_attribute(uri, CKA_CLASS);
	CK_OBJECT_CLASS class;

	if (a == NULL)
		return true;
	if (a->pValue == NULL || a->ulValueLen != sizeof class)
		return false;
	memcpy(&class, a->pValue, sizeof class);
	return class == CKO_PRIVATE_KEY || class == CKO_SECRET_KEY;
}

/* p11-kit takes any query as a vendor's. Ours is one: a misspelt pin-value must not pass for one. */
static bool query_fits(const char *uri)
{
	const char *at = strchr(uri, '?');

	while (at != NULL) {
		if (strncmp(at + 1, "pin-source=", 11) != 0)
			return false;
		at = strchr(at + 1, '&');
	}
	return true;
}

/* NULL if the URI names one token and one key, and nothing that we would have to pass over; else what is wrong with it. */
static const char *uri_fault(P11KitUri *uri, const char *written)
{
	const CK_TOKEN_INFO *info = p11_kit_uri_get_token_info(uri);
	const CK_SLOT_INFO *slot = p11_kit_uri_get_slot_info(uri);

	if (p11_kit_uri_get_pin_value(uri) != NULL)
		return "holds a PIN (pin-value); put the PIN into a file and name it with pin-source=file:/PATH";
	if (!query_fits(written))
		return "has a query other than pin-source; the module is named by module=";
	if (p11_kit_uri_any_unrecognized(uri))
		return "has an attribute that RFC 7512 does not know; correct its spelling";
	if (p11_kit_uri_get_slot_id(uri) != (CK_SLOT_ID)-1 ||
	    field_present(slot->slotDescription, sizeof slot->slotDescription) ||
	    field_present(slot->manufacturerID, sizeof slot->manufacturerID))
		return "names a slot; slots change their numbers: name the token";
	if (!field_present(info->label, sizeof info->label) && !field_present(info->serialNumber, sizeof info->serialNumber))
		return "names no token; add token=LABEL or serial=NUMBER";
	if (!attribute_present(uri, CKA_LABEL) && !attribute_present(uri, CKA_ID))
		return "names no key; add object=LABEL or id=%XX";
	if (!class_fits(uri))
		return "asks for an object that is no key-encryption key; use type=private or type=secret-key, or leave type out";
	return NULL;
}

int token_new(struct token **out, const char *uri, char text[static TEXT_MAX_BYTES])
{
	struct token *t = calloc(1, sizeof *t);
	const char *fault;
	int r;

	*out = NULL;
	if (t != NULL)
		t->uri = p11_kit_uri_new();
	if (t == NULL || t->uri == NULL) {
		free(t);
		snprintf(text, TEXT_MAX_BYTES, "no memory for a URI; free some on this machine");
		return ERR_NOMEM;
	}
	/* One that fails to parse would match any token. It is not repeated in the text: it may hold a PIN. */
	r = p11_kit_uri_parse(uri, P11_KIT_URI_FOR_ANY, t->uri);
	fault = r == P11_KIT_URI_OK ? uri_fault(t->uri, uri) : "is not a PKCS#11 URI; write pkcs11:token=LABEL;object=LABEL";
	if (fault != NULL) {
		snprintf(text, TEXT_MAX_BYTES, "the key's URI %s", fault);
		token_free(t);
		return ERR_CONFIG;
	}
	*out = t;
	return 0;
}

/* ---- the module ---- */

int token_load(struct token *t, const char *path, char text[static TEXT_MAX_BYTES])
{
	const char *why;
	char clean[160];

	if (path[0] != '/') {
		snprintf(text, TEXT_MAX_BYTES, "the module's path must begin with /; correct it");
		return ERR_NOT_FOUND;
	}
	t->f = p11_kit_module_load(path, P11_KIT_MODULE_UNMANAGED);
	if (t->f != NULL)
		return 0;
	why = p11_kit_message();
	snprintf(text, TEXT_MAX_BYTES, "the PKCS#11 module cannot be loaded (%s); check its path and its libraries",
		 log_printable(clean, sizeof clean, why != NULL ? why : path));
	return ERR_NOT_FOUND;
}

unsigned long token_start(struct token *t, const char *init_args)
{
	CK_C_INITIALIZE_ARGS args = { .flags = CKF_OS_LOCKING_OK };
	CK_RV rv;

	if (init_args[0] != '\0')
		args.pReserved = (void *)(uintptr_t)init_args;
	rv = t->f->C_Initialize(&args);
	if (rv == CKR_CRYPTOKI_ALREADY_INITIALIZED) { /* nobody else is in this process: a C_Finalize of ours failed */
		t->f->C_Finalize(NULL);
		rv = t->f->C_Initialize(&args);
	}
	t->started = rv == CKR_OK;
	return rv;
}

void token_stop(struct token *t)
{
	if (t->started)
		t->f->C_Finalize(NULL);
	t->started = false;
	t->slot_known = false;
	t->session = CK_INVALID_HANDLE;
	t->key = CK_INVALID_HANDLE;
}

void token_free(struct token *t)
{
	if (t == NULL)
		return;
	token_stop(t);
	if (t->f != NULL)
		p11_kit_module_release(t->f);
	p11_kit_uri_free(t->uri);
	free(t);
}

/* ---- the token ---- */

static void copy_field(char *out, const CK_UTF8CHAR *field, size_t size)
{
	while (size > 0 && (field[size - 1] == ' ' || field[size - 1] == '\0'))
		size--;
	for (size_t i = 0; i < size; i++)
		out[i] = (char)(field[i] >= ' ' && field[i] != 0x7f ? field[i] : '?');
	out[size] = '\0';
}

/* Blanks from the first NUL on: tools that pass a C string for a label leave NULs, and worse behind them, in the token. */
static void pad_field(CK_UTF8CHAR *field, size_t size)
{
	const CK_UTF8CHAR *end = memchr(field, '\0', size);
	size_t used = end != NULL ? (size_t)(end - field) : size;

	memset(field + used, ' ', size - used);
}

/* What the module says of the token in a slot, with its fields in the form that p11-kit compares. */
static CK_RV token_info_of(struct token *t, CK_SLOT_ID slot, CK_TOKEN_INFO *out)
{
	CK_RV rv;

	memset(out, 0, sizeof *out);
	rv = t->f->C_GetTokenInfo(slot, out);
	pad_field(out->label, sizeof out->label);
	pad_field(out->manufacturerID, sizeof out->manufacturerID);
	pad_field(out->model, sizeof out->model);
	pad_field(out->serialNumber, sizeof out->serialNumber);
	return rv;
}

static bool software_token(const struct token_info *info)
{
	return strncmp(info->maker, "SoftHSM", 7) == 0 || strncmp(info->model, "SoftHSM", 7) == 0 ||
	       strncmp(info->maker, "Mozilla", 7) == 0 || strncmp(info->model, "NSS", 3) == 0;
}

static void fill_info(struct token_info *out, const CK_TOKEN_INFO *in)
{
	memset(out, 0, sizeof *out);
	copy_field(out->label, in->label, sizeof in->label);
	copy_field(out->serial, in->serialNumber, sizeof in->serialNumber);
	copy_field(out->maker, in->manufacturerID, sizeof in->manufacturerID);
	copy_field(out->model, in->model, sizeof in->model);
	out->login_required = (in->flags & CKF_LOGIN_REQUIRED) != 0;
	out->pin_count_low = (in->flags & CKF_USER_PIN_COUNT_LOW) != 0;
	out->pin_final_try = (in->flags & CKF_USER_PIN_FINAL_TRY) != 0;
	out->pin_locked = (in->flags & CKF_USER_PIN_LOCKED) != 0;
	out->software = software_token(out);
}

/* NSS numbers every token 0000000000000000. */
static bool no_number(const CK_UTF8CHAR *serial, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (serial[i] != '0' && serial[i] != ' ')
			return false;
	return true;
}

/* A token that shares the label but not the serial, or the serial but not the label: made anew where ours was. Another label
 * *and* serial proves nothing: a module may list many tokens, and ours may be away for a while. */
static bool made_anew(P11KitUri *uri, const CK_TOKEN_INFO *listed)
{
	const CK_TOKEN_INFO *want = p11_kit_uri_get_token_info(uri);
	bool label = field_present(want->label, sizeof want->label);
	bool serial = field_present(want->serialNumber, sizeof want->serialNumber);

	if (!label || !serial || no_number(want->serialNumber, sizeof want->serialNumber) ||
	    (listed->flags & CKF_TOKEN_INITIALIZED) == 0)
		return false;
	return memcmp(want->label, listed->label, sizeof want->label) == 0 ||
	       memcmp(want->serialNumber, listed->serialNumber, sizeof want->serialNumber) == 0;
}

static CK_RV list_slots(struct token *t, CK_SLOT_ID slots[static SLOTS_MAX], CK_ULONG *count)
{
	CK_RV rv;

	memset(slots, 0, SLOTS_MAX * sizeof slots[0]);
	*count = SLOTS_MAX;
	rv = t->f->C_GetSlotList(CK_TRUE, slots, count);
	return rv == CKR_OK && *count > SLOTS_MAX ? CKR_FUNCTION_FAILED : rv;
}

unsigned long token_find(struct token *t, enum token_sight *sight, struct token_info *info)
{
	CK_SLOT_ID slots[SLOTS_MAX];
	CK_TOKEN_INFO listed;
	CK_ULONG count;
	CK_RV rv = list_slots(t, slots, &count);

	*sight = TOKEN_UNSEEN;
	t->slot_known = false;
	if (rv != CKR_OK)
		return rv;
	for (CK_ULONG i = 0; i < count; i++) {
		if (token_info_of(t, slots[i], &listed) != CKR_OK)
			continue; /* an empty or broken slot is not our token; ours would be missed below */
		if (p11_kit_uri_match_token_info(t->uri, &listed) && (listed.flags & CKF_TOKEN_INITIALIZED) != 0) {
			t->slot = slots[i];
			t->slot_known = true;
			*sight = TOKEN_GOOD;
			fill_info(info, &listed);
			return CKR_OK;
		}
		if (made_anew(t->uri, &listed))
			*sight = TOKEN_OTHER;
	}
	return CKR_TOKEN_NOT_PRESENT;
}

enum token_sight token_look(struct token *t)
{
	CK_TOKEN_INFO listed;

	if (!t->slot_known || token_info_of(t, t->slot, &listed) != CKR_OK || (listed.flags & CKF_TOKEN_INITIALIZED) == 0)
		return TOKEN_UNSEEN;
	return p11_kit_uri_match_token_info(t->uri, &listed) ? TOKEN_GOOD : TOKEN_OTHER;
}

unsigned long token_open_session(struct token *t)
{
	CK_SESSION_HANDLE session = CK_INVALID_HANDLE;
	CK_RV rv = t->f->C_OpenSession(t->slot, CKF_SERIAL_SESSION, NULL, NULL, &session);

	t->session = rv == CKR_OK ? session : CK_INVALID_HANDLE;
	return rv;
}

unsigned long token_renew_session(struct token *t)
{
	CK_SESSION_HANDLE old = t->session;
	CK_RV rv = token_open_session(t);

	if (old != CK_INVALID_HANDLE) /* after the new one is open: the login ends with the last session */
		t->f->C_CloseSession(old);
	return rv;
}

unsigned long token_login(struct token *t, const uint8_t *pin, size_t pin_size)
{
	CK_RV rv = t->f->C_Login(t->session, CKU_USER, (CK_UTF8CHAR *)(uintptr_t)pin, (CK_ULONG)pin_size);

	return rv == CKR_USER_ALREADY_LOGGED_IN ? CKR_OK : rv;
}

/* ---- the key ---- */

/* The handles of one class that bear the URI's label and id, up to KEYS_MAX. */
static CK_RV find_class(struct token *t, CK_OBJECT_CLASS class, CK_OBJECT_HANDLE found[static KEYS_MAX], CK_ULONG *count)
{
	CK_BBOOL token = CK_TRUE;
	CK_ATTRIBUTE template[4] = { { CKA_CLASS, &class, sizeof class }, { CKA_TOKEN, &token, sizeof token } };
	CK_ULONG n = 2;
	CK_RV rv, end;

	*count = 0;
	if (attribute_present(t->uri, CKA_LABEL))
		template[n++] = *p11_kit_uri_get_attribute(t->uri, CKA_LABEL);
	if (attribute_present(t->uri, CKA_ID))
		template[n++] = *p11_kit_uri_get_attribute(t->uri, CKA_ID);
	rv = t->f->C_FindObjectsInit(t->session, template, n);
	if (rv != CKR_OK)
		return rv;
	rv = t->f->C_FindObjects(t->session, found, KEYS_MAX, count);
	end = t->f->C_FindObjectsFinal(t->session);
	if (rv == CKR_OK && *count > KEYS_MAX)
		return CKR_GENERAL_ERROR;
	return rv != CKR_OK ? rv : end;
}

static bool class_wanted(P11KitUri *uri, CK_OBJECT_CLASS class)
{
	const CK_ATTRIBUTE *a = p11_kit_uri_get_attribute(uri, CKA_CLASS);

	return a == NULL || memcmp(a->pValue, &class, sizeof class) == 0;
}

unsigned long token_find_key(struct token *t, unsigned *count)
{
	static const CK_OBJECT_CLASS classes[] = { CKO_PRIVATE_KEY, CKO_SECRET_KEY };
	CK_OBJECT_HANDLE found[KEYS_MAX] = { 0 };
	CK_ULONG n;
	CK_RV rv;

	*count = 0;
	t->key = CK_INVALID_HANDLE;
	for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
		if (!class_wanted(t->uri, classes[i]))
			continue;
		rv = find_class(t, classes[i], found, &n);
		if (rv != CKR_OK)
			return rv;
		if (n > 0) {
			t->key = found[0];
			t->key_class = classes[i];
		}
		*count += (unsigned)n;
	}
	if (*count != 1)
		t->key = CK_INVALID_HANDLE;
	return CKR_OK;
}

/* One attribute in a call of its own: a module may fail a whole template for one. *size: room, then what came; 0 if the module
 * does not have it. Only codes that say something about the object or the session are handed on. */
static CK_RV read_attribute(struct token *t, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, void *out, size_t *size)
{
	CK_ATTRIBUTE a = { type, out, *size };
	CK_RV rv = t->f->C_GetAttributeValue(t->session, object, &a, 1);
	size_t room = *size;

	*size = 0;
	if (rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_SENSITIVE)
		return CKR_OK;
	if (rv != CKR_OK)
		return rv;
	if (a.ulValueLen == CK_UNAVAILABLE_INFORMATION || a.ulValueLen > room)
		return CKR_OK;
	*size = a.ulValueLen;
	return CKR_OK;
}

static CK_RV read_ulong(struct token *t, CK_ATTRIBUTE_TYPE type, CK_ULONG *out)
{
	size_t size = sizeof *out;
	CK_RV rv = read_attribute(t, t->key, type, out, &size);

	if (size != sizeof *out)
		*out = CK_UNAVAILABLE_INFORMATION;
	return rv;
}

/* What the module does not tell is taken as `otherwise`: the choice that refuses. */
static CK_RV read_bool(struct token *t, CK_ATTRIBUTE_TYPE type, bool otherwise, bool *out)
{
	CK_BBOOL value = CK_FALSE;
	size_t size = sizeof value;
	CK_RV rv = read_attribute(t, t->key, type, &value, &size);

	*out = size == sizeof value ? value != CK_FALSE : otherwise;
	return rv;
}

/* A big-endian number of Cryptoki without its leading zeroes. False if it does not fit. */
static CK_RV read_number(struct token *t, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, uint8_t *out, size_t room,
			 uint16_t *size)
{
	uint8_t raw[MODULUS_MAX_BYTES + 8];
	size_t n = sizeof raw, zeroes = 0;
	CK_RV rv = read_attribute(t, object, type, raw, &n);

	*size = 0;
	while (zeroes < n && raw[zeroes] == 0)
		zeroes++;
	n -= zeroes;
	if (rv != CKR_OK || n > room)
		return rv;
	memcpy(out, raw + zeroes, n);
	*size = (uint16_t)n;
	return CKR_OK;
}

/* The public key object with the modulus of `key`; 0 if there is none. */
static CK_OBJECT_HANDLE find_public(struct token *t, const struct token_key *key)
{
	CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &class, sizeof class },
		{ CKA_MODULUS, (void *)(uintptr_t)key->modulus, key->modulus_size },
	};
	CK_OBJECT_HANDLE found = CK_INVALID_HANDLE;
	CK_ULONG count = 0;

	if (key->modulus_size == 0 || t->f->C_FindObjectsInit(t->session, template, 2) != CKR_OK)
		return CK_INVALID_HANDLE;
	if (t->f->C_FindObjects(t->session, &found, 1, &count) != CKR_OK || count != 1)
		found = CK_INVALID_HANDLE;
	t->f->C_FindObjectsFinal(t->session);
	return found;
}

static CK_RV rsa_facts(struct token *t, struct token_key *key)
{
	CK_OBJECT_HANDLE public_key;
	CK_RV rv = read_number(t, t->key, CKA_MODULUS, key->modulus, sizeof key->modulus, &key->modulus_size);

	if (rv != CKR_OK)
		return rv;
	rv = read_number(t, t->key, CKA_PUBLIC_EXPONENT, key->exponent, sizeof key->exponent, &key->exponent_size);
	if (rv != CKR_OK)
		return rv;
	if (key->exponent_size == 0) { /* many modules keep it with the public key only */
		public_key = find_public(t, key);
		if (public_key != CK_INVALID_HANDLE)
			rv = read_number(t, public_key, CKA_PUBLIC_EXPONENT, key->exponent, sizeof key->exponent,
					 &key->exponent_size);
	}
	key->bits = key->modulus_size * 8u;
	return rv;
}

static CK_RV aes_facts(struct token *t, struct token_key *key)
{
	CK_ULONG size;
	CK_RV rv = read_ulong(t, CKA_VALUE_LEN, &size);

	if (size <= 64)
		key->bits = (unsigned)size * 8;
	return rv;
}

static CK_RV read_names(struct token *t, struct token_key *key)
{
	CK_UTF8CHAR label[sizeof key->label - 1];
	size_t n = sizeof label;
	CK_RV rv = read_attribute(t, t->key, CKA_LABEL, label, &n);

	if (rv != CKR_OK)
		return rv;
	copy_field(key->label, label, n);
	n = sizeof key->id;
	rv = read_attribute(t, t->key, CKA_ID, key->id, &n);
	key->id_size = (uint16_t)n;
	return rv;
}

static CK_RV read_rights(struct token *t, struct token_key *key)
{
	const struct {
		CK_ATTRIBUTE_TYPE type;
		bool otherwise;
		bool *out;
	} rights[] = {
		{ CKA_SENSITIVE, false, &key->sensitive }, { CKA_EXTRACTABLE, true, &key->extractable },
		{ CKA_DECRYPT, false, &key->may_decrypt }, { CKA_WRAP, false, &key->may_wrap },
		{ CKA_UNWRAP, false, &key->may_unwrap },
	};
	CK_RV rv;

	for (size_t i = 0; i < sizeof rights / sizeof rights[0]; i++) {
		rv = read_bool(t, rights[i].type, rights[i].otherwise, rights[i].out);
		if (rv != CKR_OK)
			return rv;
	}
	if (t->key_class == CKO_PRIVATE_KEY)
		return read_bool(t, CKA_ALWAYS_AUTHENTICATE, false, &key->each_time);
	return CKR_OK;
}

unsigned long token_key_facts(struct token *t, struct token_key *key)
{
	CK_ULONG type;
	CK_RV rv;

	memset(key, 0, sizeof *key);
	rv = read_ulong(t, CKA_KEY_TYPE, &type);
	if (rv != CKR_OK)
		return rv;
	rv = read_names(t, key);
	if (rv != CKR_OK)
		return rv;
	rv = read_rights(t, key);
	if (rv != CKR_OK)
		return rv;
	if (type == CKK_RSA && t->key_class == CKO_PRIVATE_KEY) {
		key->type = KEK_RSA_OAEP;
		return rsa_facts(t, key);
	}
	if (type == CKK_AES && t->key_class == CKO_SECRET_KEY) {
		key->type = KEK_AES_KW;
		return aes_facts(t, key);
	}
	return CKR_OK;
}

/* Empty, error and a date of blanks or zeroes are all "none". */
static bool read_date(struct token *t, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, char out[static 9])
{
	CK_DATE date;
	size_t size = sizeof date;

	out[0] = '\0';
	if (object == CK_INVALID_HANDLE || read_attribute(t, object, type, &date, &size) != CKR_OK || size != sizeof date)
		return false;
	memcpy(out, &date, 8);
	out[8] = '\0';
	if (strspn(out, "0") == 8 || strspn(out, " ") == 8 || out[0] == '\0')
		out[0] = '\0';
	return out[0] != '\0';
}

void token_key_dates(struct token *t, char start[static 9], char end[static 9])
{
	struct token_key key = { 0 };
	CK_OBJECT_HANDLE public_key = CK_INVALID_HANDLE;
	bool has_start = read_date(t, t->key, CKA_START_DATE, start);
	bool has_end = read_date(t, t->key, CKA_END_DATE, end);

	if (t->key_class != CKO_PRIVATE_KEY || (has_start && has_end))
		return;
	if (read_number(t, t->key, CKA_MODULUS, key.modulus, sizeof key.modulus, &key.modulus_size) == CKR_OK)
		public_key = find_public(t, &key);
	if (!has_start)
		read_date(t, public_key, CKA_START_DATE, start);
	if (!has_end)
		read_date(t, public_key, CKA_END_DATE, end);
}

/* ---- operations ---- */

static CK_RSA_PKCS_OAEP_PARAMS oaep(enum oaep_hash hash)
{
	CK_RSA_PKCS_OAEP_PARAMS p = { .source = CKZ_DATA_SPECIFIED };

	p.hashAlg = hash == OAEP_SHA256 ? CKM_SHA256 : CKM_SHA_1;
	p.mgf = hash == OAEP_SHA256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1;
	return p;
}

/* A module may leave a failed operation active: the next call then says CKR_OPERATION_ACTIVE, which is worth a restart. */
unsigned long token_rsa_decrypt(struct token *t, enum oaep_hash hash, const uint8_t *in, size_t in_size, uint8_t *out,
				size_t *out_size)
{
	CK_RSA_PKCS_OAEP_PARAMS params = oaep(hash);
	CK_MECHANISM mechanism = { CKM_RSA_PKCS_OAEP, &params, sizeof params };
	CK_ULONG n = *out_size, room = *out_size;
	CK_RV rv = t->f->C_DecryptInit(t->session, &mechanism, t->key);

	if (rv != CKR_OK)
		return rv;
	rv = t->f->C_Decrypt(t->session, (CK_BYTE *)(uintptr_t)in, in_size, out, &n);
	if (rv != CKR_OK)
		return rv;
	if (n > room)
		return CKR_GENERAL_ERROR;
	*out_size = n;
	return CKR_OK;
}

/* The public key as an object of this session, for a token that keeps only the private half. */
static CK_RV import_public(struct token *t, const struct token_key *key, CK_OBJECT_HANDLE *out)
{
	CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
	CK_KEY_TYPE type = CKK_RSA;
	CK_BBOOL no = CK_FALSE, yes = CK_TRUE;
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &class, sizeof class },
		{ CKA_KEY_TYPE, &type, sizeof type },
		{ CKA_TOKEN, &no, sizeof no },
		{ CKA_PRIVATE, &no, sizeof no },
		{ CKA_ENCRYPT, &yes, sizeof yes },
		{ CKA_MODULUS, (void *)(uintptr_t)key->modulus, key->modulus_size },
		{ CKA_PUBLIC_EXPONENT, (void *)(uintptr_t)key->exponent, key->exponent_size },
	};

	*out = CK_INVALID_HANDLE;
	return t->f->C_CreateObject(t->session, template, sizeof template / sizeof template[0], out);
}

static CK_RV encrypt_with(struct token *t, CK_OBJECT_HANDLE public_key, enum oaep_hash hash, const uint8_t *in, size_t in_size,
			  uint8_t *out, size_t *out_size)
{
	CK_RSA_PKCS_OAEP_PARAMS params = oaep(hash);
	CK_MECHANISM mechanism = { CKM_RSA_PKCS_OAEP, &params, sizeof params };
	CK_ULONG n = *out_size, room = *out_size;
	CK_RV rv = t->f->C_EncryptInit(t->session, &mechanism, public_key);

	if (rv != CKR_OK)
		return rv;
	rv = t->f->C_Encrypt(t->session, (CK_BYTE *)(uintptr_t)in, in_size, out, &n);
	if (rv == CKR_OK && n > room)
		return CKR_GENERAL_ERROR;
	if (rv == CKR_OK)
		*out_size = n;
	return rv;
}

unsigned long token_rsa_encrypt(struct token *t, enum oaep_hash hash, const struct token_key *key, const uint8_t *in,
				size_t in_size, uint8_t *out, size_t *out_size)
{
	CK_OBJECT_HANDLE public_key = find_public(t, key), imported = CK_INVALID_HANDLE;
	CK_RV rv = CKR_KEY_FUNCTION_NOT_PERMITTED;
	size_t room = *out_size;

	if (public_key != CK_INVALID_HANDLE)
		rv = encrypt_with(t, public_key, hash, in, in_size, out, out_size);
	if (rv != CKR_KEY_FUNCTION_NOT_PERMITTED && rv != CKR_KEY_TYPE_INCONSISTENT)
		return rv;
	rv = import_public(t, key, &imported);
	if (rv != CKR_OK)
		return rv;
	*out_size = room;
	rv = encrypt_with(t, imported, hash, in, in_size, out, out_size);
	t->f->C_DestroyObject(t->session, imported);
	return rv;
}

/* Modules differ in what they want in the template of a key that is to be read back: the first row is the standard's way, the
 * second leaves the choice to the module. */
static CK_RV unwrap_object(struct token *t, const uint8_t *in, size_t in_size, CK_OBJECT_HANDLE *object)
{
	CK_MECHANISM mechanism = { CKM_AES_KEY_WRAP, NULL, 0 };
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_GENERIC_SECRET;
	CK_BBOOL no = CK_FALSE, yes = CK_TRUE;
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type },  { CKA_TOKEN, &no, sizeof no },
		{ CKA_SENSITIVE, &no, sizeof no },   { CKA_EXTRACTABLE, &yes, sizeof yes },
	};
	CK_RV rv;

	*object = CK_INVALID_HANDLE;
	rv = t->f->C_UnwrapKey(t->session, &mechanism, t->key, (CK_BYTE *)(uintptr_t)in, in_size, template, 5, object);
	if (classify_is_template_refusal(rv))
		rv = t->f->C_UnwrapKey(t->session, &mechanism, t->key, (CK_BYTE *)(uintptr_t)in, in_size, template, 3, object);
	return rv;
}

unsigned long token_aes_unwrap(struct token *t, const uint8_t *in, size_t in_size, uint8_t *out, size_t *out_size)
{
	CK_OBJECT_HANDLE object;
	CK_ATTRIBUTE value = { CKA_VALUE, out, *out_size };
	CK_ULONG room = *out_size;
	CK_RV rv = unwrap_object(t, in, in_size, &object);

	if (rv != CKR_OK)
		return rv;
	rv = t->f->C_GetAttributeValue(t->session, object, &value, 1);
	t->f->C_DestroyObject(t->session, object);
	if (rv != CKR_OK)
		return rv;
	if (value.ulValueLen > room) /* the module's "unavailable" is the largest number there is */
		return CKR_ATTRIBUTE_SENSITIVE;
	*out_size = value.ulValueLen;
	return CKR_OK;
}

static CK_RV import_secret(struct token *t, const uint8_t *in, size_t in_size, CK_OBJECT_HANDLE *object)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_GENERIC_SECRET;
	CK_BBOOL no = CK_FALSE, yes = CK_TRUE;
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &class, sizeof class },   { CKA_KEY_TYPE, &type, sizeof type },
		{ CKA_TOKEN, &no, sizeof no },         { CKA_VALUE, (void *)(uintptr_t)in, in_size },
		{ CKA_EXTRACTABLE, &yes, sizeof yes }, { CKA_SENSITIVE, &no, sizeof no },
	};
	CK_RV rv;

	*object = CK_INVALID_HANDLE;
	rv = t->f->C_CreateObject(t->session, template, 6, object);
	if (classify_is_template_refusal(rv)) /* SENSITIVE is the module's to choose; it must stay extractable to be wrapped */
		rv = t->f->C_CreateObject(t->session, template, 5, object);
	return rv;
}

unsigned long token_aes_wrap(struct token *t, const uint8_t *in, size_t in_size, uint8_t *out, size_t *out_size)
{
	CK_MECHANISM mechanism = { CKM_AES_KEY_WRAP, NULL, 0 };
	CK_OBJECT_HANDLE object;
	CK_ULONG n = *out_size, room = *out_size;
	CK_RV rv = import_secret(t, in, in_size, &object);

	if (rv != CKR_OK)
		return rv;
	rv = t->f->C_WrapKey(t->session, &mechanism, t->key, object, out, &n);
	t->f->C_DestroyObject(t->session, object);
	if (rv == CKR_OK && n > room)
		return CKR_GENERAL_ERROR;
	if (rv == CKR_OK)
		*out_size = n;
	return rv;
}

unsigned long token_random(struct token *t, uint8_t *out, size_t size)
{
	return t->f->C_GenerateRandom(t->session, out, size);
}
