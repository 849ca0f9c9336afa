/* Templates for keys, and attributes of keys that exist. RSA keys are made by C_GenerateKeyPair and not by libp11, whose keys may
 * also sign and leave CKA_EXTRACTABLE to the module. */
#include "keys.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "failure.h"
#include "uri.h"

enum { KEYS_MAX = 256, MODULUS_MAX = 1024 };

struct kek_type {
	const char *name;
	CK_KEY_TYPE type;
	CK_ULONG bits;
};

static const struct kek_type types[] = {
	{ "rsa2048", CKK_RSA, 2048 },
	{ "rsa3072", CKK_RSA, 3072 },
	{ "rsa4096", CKK_RSA, 4096 },
	{ "aes256", CKK_AES, 256 },
};

struct key {
	CK_OBJECT_HANDLE handle;
	CK_OBJECT_CLASS class;
	CK_KEY_TYPE type;
	CK_ULONG bits; /* 0: the token does not say */
	char label[LABEL_MAX + 1];
	unsigned char id[ID_MAX];
	size_t id_size;
	bool sensitive, extractable, modifiable, decrypt, wrap, unwrap;
	char start[9], end[9]; /* empty: none */
};

static CK_BBOOL yes = CK_TRUE, no = CK_FALSE; /* templates want their addresses */

const struct kek_type *kek_type_find(const char *name)
{
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
		if (strcmp(types[i].name, name) == 0)
			return &types[i];
	return NULL;
}

/* ---- reading ---- */

/* Size, or 0 where the token does not have it, does not tell it, or it does not fit. */
static size_t attribute(struct token *t, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, void *out, size_t room)
{
	CK_ATTRIBUTE a = { type, out, room };

	if (t->f->C_GetAttributeValue(t->session, object, &a, 1) != CKR_OK || a.ulValueLen > room)
		return 0;
	return a.ulValueLen;
}

static bool attribute_bool(struct token *t, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, bool otherwise)
{
	CK_BBOOL value;

	return attribute(t, object, type, &value, sizeof value) == sizeof value ? value != CK_FALSE : otherwise;
}

static void attribute_date(struct token *t, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, char out[static 9])
{
	out[0] = '\0';
	if (attribute(t, object, type, out, 8) != 8 || strspn(out, "0123456789") < 8 || memcmp(out, "00000000", 8) == 0)
		out[0] = '\0';
	out[8] = '\0';
}

static CK_ULONG size_in_bits(struct token *t, const struct key *k)
{
	unsigned char modulus[MODULUS_MAX];
	CK_ULONG length;
	size_t n, zeroes = 0;

	if (k->type != CKK_RSA)
		return attribute(t, k->handle, CKA_VALUE_LEN, &length, sizeof length) == sizeof length ? length * 8 : 0;
	n = attribute(t, k->handle, CKA_MODULUS, modulus, sizeof modulus);
	while (zeroes < n && modulus[zeroes] == 0)
		zeroes++;
	return (n - zeroes) * 8;
}

static void read_key(struct token *t, CK_OBJECT_HANDLE handle, CK_OBJECT_CLASS class, struct key *k)
{
	memset(k, 0, sizeof *k);
	k->handle = handle;
	k->class = class;
	if (attribute(t, handle, CKA_KEY_TYPE, &k->type, sizeof k->type) == 0)
		k->type = CK_UNAVAILABLE_INFORMATION;
	k->bits = size_in_bits(t, k);
	attribute(t, handle, CKA_LABEL, k->label, LABEL_MAX);
	k->label[LABEL_MAX] = '\0';
	k->id_size = attribute(t, handle, CKA_ID, k->id, sizeof k->id);
	k->sensitive = attribute_bool(t, handle, CKA_SENSITIVE, false);
	k->extractable = attribute_bool(t, handle, CKA_EXTRACTABLE, true);
	k->modifiable = attribute_bool(t, handle, CKA_MODIFIABLE, true);
	k->decrypt = attribute_bool(t, handle, CKA_DECRYPT, false);
	k->wrap = attribute_bool(t, handle, CKA_WRAP, false);
	k->unwrap = attribute_bool(t, handle, CKA_UNWRAP, false);
	attribute_date(t, handle, CKA_START_DATE, k->start);
	attribute_date(t, handle, CKA_END_DATE, k->end);
}

/* ---- finding ---- */

static int find_class(struct token *t, CK_OBJECT_CLASS class, const struct key_name *name,
		      CK_OBJECT_HANDLE found[static KEYS_MAX], CK_ULONG *count)
{
	CK_ATTRIBUTE template[4] = { { CKA_CLASS, &class, sizeof class }, { CKA_TOKEN, &yes, sizeof yes } };
	CK_ULONG n = 2;
	CK_RV rv;

	*count = 0;
	if (name->label != NULL)
		template[n++] = (CK_ATTRIBUTE){ CKA_LABEL, (void *)(uintptr_t)name->label, strlen(name->label) };
	if (name->id_size > 0)
		template[n++] = (CK_ATTRIBUTE){ CKA_ID, (void *)(uintptr_t)name->id, name->id_size };
	rv = t->f->C_FindObjectsInit(t->session, template, n);
	if (rv == CKR_OK) {
		rv = t->f->C_FindObjects(t->session, found, KEYS_MAX, count);
		t->f->C_FindObjectsFinal(t->session);
	}
	return rv == CKR_OK ? 0 : fail_ckr(rv, "searching keys");
}

static const CK_OBJECT_CLASS kek_classes[] = { CKO_PRIVATE_KEY, CKO_SECRET_KEY };

/* Exactly one private or secret key. */
static int find_one(struct token *t, const struct key_name *name, struct key *out)
{
	CK_OBJECT_HANDLE found[KEYS_MAX];
	CK_ULONG count, total = 0;
	int r;

	for (size_t i = 0; i < sizeof kek_classes / sizeof kek_classes[0]; i++) {
		r = find_class(t, kek_classes[i], name, found, &count);
		if (r != 0)
			return r;
		if (count > 0)
			read_key(t, found[0], kek_classes[i], out);
		total += count;
	}
	if (total == 0)
		return fail(ERR_NOT_FOUND, "token '%s' has no such key; see them all with: fallgate-custodian list",
			    t->slot->token->label);
	if (total > 1)
		return fail(ERR_USAGE, "%lu keys fit; name one with --label and --id", total);
	return 0;
}

/* The public half; 0 if there is none on the token. */
static CK_OBJECT_HANDLE find_public(struct token *t, const struct key *private)
{
	struct key_name name = { .label = private->label };
	CK_OBJECT_HANDLE found[KEYS_MAX];
	CK_ULONG count;

	memcpy(name.id, private->id, private->id_size);
	name.id_size = private->id_size;
	if (private->class != CKO_PRIVATE_KEY || find_class(t, CKO_PUBLIC_KEY, &name, found, &count) != 0)
		return CK_INVALID_HANDLE;
	return count == 1 ? found[0] : CK_INVALID_HANDLE;
}

/* ---- making ---- */

static CK_RV generate_rsa(struct token *t, CK_ULONG bits, const struct key_name *name, CK_OBJECT_HANDLE *public_key,
			  CK_OBJECT_HANDLE *private)
{
	CK_MECHANISM mechanism = { CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0 };
	CK_BYTE exponent[] = { 0x01, 0x00, 0x01 };
	CK_ATTRIBUTE label = { CKA_LABEL, (void *)(uintptr_t)name->label, strlen(name->label) };
	CK_ATTRIBUTE id = { CKA_ID, (void *)(uintptr_t)name->id, name->id_size };
	CK_ATTRIBUTE public_template[] = {
		label,
		id,
		{ CKA_TOKEN, &yes, sizeof yes },
		{ CKA_PRIVATE, &no, sizeof no },
		{ CKA_MODIFIABLE, &yes, sizeof yes },
		{ CKA_ENCRYPT, &yes, sizeof yes },
		{ CKA_VERIFY, &no, sizeof no },
		{ CKA_WRAP, &no, sizeof no },
		{ CKA_MODULUS_BITS, &bits, sizeof bits },
		{ CKA_PUBLIC_EXPONENT, exponent, sizeof exponent },
	};
	CK_ATTRIBUTE private_template[] = {
		label,
		id,
		{ CKA_TOKEN, &yes, sizeof yes },
		{ CKA_PRIVATE, &yes, sizeof yes },
		{ CKA_MODIFIABLE, &yes, sizeof yes },
		{ CKA_SENSITIVE, &yes, sizeof yes },
		{ CKA_EXTRACTABLE, &no, sizeof no },
		{ CKA_DECRYPT, &yes, sizeof yes },
		{ CKA_SIGN, &no, sizeof no },
		{ CKA_UNWRAP, &no, sizeof no },
	};

	return t->f->C_GenerateKeyPair(t->session, &mechanism, public_template,
				       sizeof public_template / sizeof public_template[0], private_template,
				       sizeof private_template / sizeof private_template[0], public_key, private);
}

static CK_RV generate_aes(struct token *t, CK_ULONG bits, const struct key_name *name, CK_OBJECT_HANDLE *key)
{
	CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
	CK_ULONG bytes = bits / 8;
	CK_ATTRIBUTE template[] = {
		{ CKA_LABEL, (void *)(uintptr_t)name->label, strlen(name->label) },
		{ CKA_ID, (void *)(uintptr_t)name->id, name->id_size },
		{ CKA_TOKEN, &yes, sizeof yes },
		{ CKA_PRIVATE, &yes, sizeof yes },
		{ CKA_MODIFIABLE, &yes, sizeof yes },
		{ CKA_SENSITIVE, &yes, sizeof yes },
		{ CKA_EXTRACTABLE, &no, sizeof no },
		{ CKA_WRAP, &yes, sizeof yes },
		{ CKA_UNWRAP, &yes, sizeof yes },
		{ CKA_ENCRYPT, &no, sizeof no },
		{ CKA_DECRYPT, &no, sizeof no },
		{ CKA_SIGN, &no, sizeof no },
		{ CKA_VERIFY, &no, sizeof no },
		{ CKA_VALUE_LEN, &bytes, sizeof bytes },
	};

	return t->f->C_GenerateKey(t->session, &mechanism, template, sizeof template / sizeof template[0], key);
}

/* A module may accept a template and not follow it. */
static bool as_asked(const struct key *k)
{
	return k->sensitive && !k->extractable && (k->type == CKK_RSA ? k->decrypt : k->wrap && k->unwrap);
}

static int refuse_duplicate(struct token *t, const struct key_name *name)
{
	struct key_name by_label = { .label = name->label }, by_id = *name;
	CK_OBJECT_HANDLE found[KEYS_MAX];
	CK_ULONG labels, ids;
	int r;

	by_id.label = NULL;
	for (size_t i = 0; i < sizeof kek_classes / sizeof kek_classes[0]; i++) {
		r = find_class(t, kek_classes[i], &by_label, found, &labels);
		if (r == 0)
			r = find_class(t, kek_classes[i], &by_id, found, &ids);
		if (r != 0)
			return r;
		if (labels + ids > 0)
			return fail(ERR_EXISTS, "a key with this label or id is on the token already; choose another");
	}
	return 0;
}

int keys_make(struct token *t, const struct kek_type *type, const struct key_name *name)
{
	CK_OBJECT_HANDLE public_key = CK_INVALID_HANDLE, handle = CK_INVALID_HANDLE;
	struct key made;
	CK_RV rv;
	int r = refuse_duplicate(t, name);

	if (r != 0)
		return r;
	rv = type->type == CKK_RSA ? generate_rsa(t, type->bits, name, &public_key, &handle)
				   : generate_aes(t, type->bits, name, &handle);
	if (rv != CKR_OK)
		return fail_ckr(rv, "making the key");
	read_key(t, handle, type->type == CKK_RSA ? CKO_PRIVATE_KEY : CKO_SECRET_KEY, &made);
	if (!as_asked(&made)) {
		t->f->C_DestroyObject(t->session, handle);
		if (public_key != CK_INVALID_HANDLE)
			t->f->C_DestroyObject(t->session, public_key);
		return fail(ERR_UNSUPPORTED,
			    "the token did not make the key as asked (sensitive, not extractable, with its rights): it was "
			    "deleted again; use the vendor's tool");
	}
	printf("%s\n", uri_of_key(t, made.class == CKO_PRIVATE_KEY, made.label, made.id, made.id_size));
	return 0;
}

/* ---- listing ---- */

static const char *type_name(const struct key *k, char *buffer, size_t size)
{
	const char *family = k->type == CKK_RSA ? "rsa" : k->type == CKK_AES ? "aes" : "other";

	snprintf(buffer, size, k->bits > 0 ? "%s%lu" : "%s", family, k->bits);
	return buffer;
}

static bool enabled(const struct key *k)
{
	return k->class == CKO_PRIVATE_KEY ? k->decrypt : k->wrap && k->unwrap;
}

static void print_key(struct token *t, const struct key *k)
{
	char type[32];

	printf("%s\n", uri_of_key(t, k->class == CKO_PRIVATE_KEY, k->label, k->id, k->id_size));
	printf("  %s, %s, %s, %s%s\n", type_name(k, type, sizeof type), enabled(k) ? "enabled" : "disabled",
	       k->sensitive ? "sensitive" : "NOT SENSITIVE", k->extractable ? "EXTRACTABLE" : "not extractable",
	       k->modifiable ? "" : ", not modifiable");
	printf("  rights:%s%s%s\n", k->decrypt ? " decrypt" : "", k->wrap ? " wrap" : "", k->unwrap ? " unwrap" : "");
	printf("  valid from %s to %s\n", k->start[0] != '\0' ? k->start : "any day", k->end[0] != '\0' ? k->end : "any day");
}

static void print_key_json(struct token *t, const struct key *k, bool first)
{
	char type[32];

	printf("%s\n  {\"uri\": ", first ? "" : ",");
	json_string(uri_of_key(t, k->class == CKO_PRIVATE_KEY, k->label, k->id, k->id_size));
	printf(", \"label\": ");
	json_string(k->label);
	printf(", \"id\": \"");
	for (size_t i = 0; i < k->id_size; i++)
		printf("%02x", k->id[i]);
	printf("\", \"type\": \"%s\", \"enabled\": %s, \"sensitive\": %s, \"extractable\": %s, \"modifiable\": %s",
	       type_name(k, type, sizeof type), enabled(k) ? "true" : "false", k->sensitive ? "true" : "false",
	       k->extractable ? "true" : "false", k->modifiable ? "true" : "false");
	printf(", \"decrypt\": %s, \"wrap\": %s, \"unwrap\": %s, \"start\": \"%s\", \"end\": \"%s\"}",
	       k->decrypt ? "true" : "false", k->wrap ? "true" : "false", k->unwrap ? "true" : "false", k->start, k->end);
}

/* RSA dates may stand on the public half only: SoftHSM does not give them for a private key. */
static void read_public_dates(struct token *t, struct key *k)
{
	CK_OBJECT_HANDLE public_key = find_public(t, k);

	if (public_key == CK_INVALID_HANDLE)
		return;
	if (k->start[0] == '\0')
		attribute_date(t, public_key, CKA_START_DATE, k->start);
	if (k->end[0] == '\0')
		attribute_date(t, public_key, CKA_END_DATE, k->end);
}

int keys_list(struct token *t, bool json)
{
	const struct key_name any = { 0 };
	CK_OBJECT_HANDLE found[KEYS_MAX];
	CK_ULONG count, printed = 0;
	struct key k;
	int r;

	if (json)
		printf("[");
	for (size_t i = 0; i < sizeof kek_classes / sizeof kek_classes[0]; i++) {
		r = find_class(t, kek_classes[i], &any, found, &count);
		if (r != 0)
			return r;
		for (CK_ULONG j = 0; j < count; j++, printed++) {
			read_key(t, found[j], kek_classes[i], &k);
			read_public_dates(t, &k);
			if (json)
				print_key_json(t, &k, printed == 0);
			else
				print_key(t, &k);
		}
	}
	if (json)
		printf("\n]\n");
	else if (printed == 0)
		printf("token '%s' holds no key; make one with: fallgate-custodian make-kek\n", t->slot->token->label);
	return 0;
}

static void print_token(const PKCS11_TOKEN *token, bool json, bool first)
{
	const char *label = token->label != NULL ? token->label : "", *serial = token->serialnr != NULL ? token->serialnr : "";

	if (!json) {
		printf("%s\n  '%s', serial %s, %s %s%s\n", uri_of_token(label, serial), label, serial,
		       token->manufacturer != NULL ? token->manufacturer : "", token->model != NULL ? token->model : "",
		       token->userPinCountLow || token->userPinFinalTry ? ", the user PIN was entered wrongly before" : "");
		return;
	}
	printf("%s\n  {\"uri\": ", first ? "" : ",");
	json_string(uri_of_token(label, serial));
	printf(", \"label\": ");
	json_string(label);
	printf(", \"serial\": ");
	json_string(serial);
	printf("}");
}

int tokens_list(const struct token *t, bool json)
{
	unsigned printed = 0;

	if (json)
		printf("[");
	for (unsigned i = 0; i < t->slot_count; i++)
		if (t->slots[i].token != NULL && t->slots[i].token->initialized)
			print_token(t->slots[i].token, json, printed++ == 0);
	if (json)
		printf("\n]\n");
	else if (printed == 0)
		printf("the module lists no initialised token; make one with: fallgate-custodian init-token\n");
	return 0;
}

/* ---- changing ---- */

static int set_bools(struct token *t, const struct key *k, const CK_ATTRIBUTE_TYPE *rights, size_t count, bool value)
{
	CK_BBOOL *v = value ? &yes : &no;
	CK_ATTRIBUTE a = { 0, v, sizeof *v };
	CK_RV rv;

	for (size_t i = 0; i < count; i++) {
		a.type = rights[i];
		rv = t->f->C_SetAttributeValue(t->session, k->handle, &a, 1);
		if (rv != CKR_OK)
			return fail_ckr(rv, value ? "enabling the key" : "disabling the key");
		if (attribute_bool(t, k->handle, rights[i], !value) != value)
			return fail(ERR_UNSUPPORTED, "the token says it changed the key and did not; use the vendor's tool");
	}
	return 0;
}

int keys_allow(struct token *t, const struct key_name *name, bool allowed)
{
	static const CK_ATTRIBUTE_TYPE rsa_rights[] = { CKA_DECRYPT }, aes_rights[] = { CKA_UNWRAP, CKA_WRAP };
	static const CK_ATTRIBUTE_TYPE rsa_all[] = { CKA_DECRYPT, CKA_UNWRAP };
	struct key k;
	int r = find_one(t, name, &k);

	if (r != 0)
		return r;
	if (k.class == CKO_SECRET_KEY)
		r = set_bools(t, &k, aes_rights, 2, allowed);
	else
		r = set_bools(t, &k, allowed ? rsa_rights : rsa_all, allowed ? 1 : 2, allowed);
	if (r == 0)
		printf("key '%s' is %s\n", k.label, allowed ? "enabled" : "disabled");
	return r;
}

int keys_delete(struct token *t, const struct key_name *name)
{
	CK_OBJECT_HANDLE public_key;
	struct key k;
	CK_RV rv;
	int r = find_one(t, name, &k);

	if (r != 0)
		return r;
	public_key = find_public(t, &k);
	rv = t->f->C_DestroyObject(t->session, k.handle);
	if (rv != CKR_OK)
		return fail_ckr(rv, "deleting the key");
	if (public_key != CK_INVALID_HANDLE) {
		rv = t->f->C_DestroyObject(t->session, public_key);
		if (rv != CKR_OK)
			return fail_ckr(rv, "the key is deleted, its public half is not");
	}
	printf("key '%s' is deleted\n", k.label);
	return 0;
}

/* ---- dates ---- */

static bool date_good(const char *date)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	int year, month, day;

	if (strlen(date) != 8 || strspn(date, "0123456789") != 8)
		return false;
	year = (date[0] - '0') * 1000 + (date[1] - '0') * 100 + (date[2] - '0') * 10 + (date[3] - '0');
	month = (date[4] - '0') * 10 + (date[5] - '0');
	day = (date[6] - '0') * 10 + (date[7] - '0');
	if (month == 2 && day == 29)
		return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
	return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1];
}

static CK_RV write_date(struct token *t, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, const char *date)
{
	CK_ATTRIBUTE a = { type, (void *)(uintptr_t)date, strcmp(date, "none") == 0 ? 0 : 8 };

	return t->f->C_SetAttributeValue(t->session, object, &a, 1);
}

/* On the private or secret key, and on the public half: where a token gives only one of them back, the agent reads that one. */
static int set_date(struct token *t, const struct key *k, CK_ATTRIBUTE_TYPE type, const char *date, const char *what)
{
	CK_OBJECT_HANDLE public_key = find_public(t, k);
	CK_OBJECT_HANDLE readers[] = { k->handle, public_key };
	char wanted[9] = "", found[9];
	CK_RV rv, rv_public = CKR_ATTRIBUTE_READ_ONLY;

	if (strcmp(date, "none") != 0)
		memcpy(wanted, date, 9);
	rv = write_date(t, k->handle, type, date);
	if (public_key != CK_INVALID_HANDLE)
		rv_public = write_date(t, public_key, type, date);
	if (rv != CKR_OK && rv_public != CKR_OK)
		return fail_ckr(rv, what);
	for (size_t i = 0; i < 2; i++) {
		if (readers[i] == CK_INVALID_HANDLE)
			continue;
		attribute_date(t, readers[i], type, found);
		if (strcmp(found, wanted) == 0 && (wanted[0] != '\0' || rv == CKR_OK))
			return 0;
	}
	write_date(t, k->handle, type, "none");
	if (public_key != CK_INVALID_HANDLE)
		write_date(t, public_key, type, "none");
	return fail(ERR_UNSUPPORTED,
		    "%s: the token does not give the date of this key back, so nobody could heed it, and it was not kept; "
		    "disable the key on that day instead",
		    what);
}

int keys_set_dates(struct token *t, const struct key_name *name, const char *start, const char *end)
{
	const char *dates[] = { start, end };
	struct key k;
	int r;

	for (size_t i = 0; i < 2; i++)
		if (dates[i] != NULL && strcmp(dates[i], "none") != 0 && !date_good(dates[i]))
			return fail(ERR_USAGE, "'%s' is no date; write YYYYMMDD or none", dates[i]);
	r = find_one(t, name, &k);
	if (r == 0 && start != NULL)
		r = set_date(t, &k, CKA_START_DATE, start, "setting the first day");
	if (r == 0 && end != NULL)
		r = set_date(t, &k, CKA_END_DATE, end, "setting the last day");
	if (r == 0)
		printf("key '%s': dates are set; days are UTC\n", k.label);
	return r;
}

/* ---- the public half ---- */

int keys_public(struct token *t, const struct key_name *name)
{
	struct key k;
	int r = find_one(t, name, &k);

	if (r != 0)
		return r;
	if (k.class != CKO_PRIVATE_KEY)
		return fail(ERR_USAGE, "key '%s' is a secret key: it has no public half", k.label);
	return token_print_public(t, k.id, k.id_size);
}
