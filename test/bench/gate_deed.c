/* What a customer does to a key, done at a told moment: logs in, finds everything, says "ready", waits for a line, does it, and
 * prints the CLOCK_BOOTTIME around the one call that counts. What must hold: between the line and the deed stands nothing else.
 *   gate_deed MODULE URI PIN-FILE DEED [ARGUMENT]     DEED: see `deeds` */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "system/token_session.h"

enum { KEYS_MAX = 16 };

struct stage {
	struct token_session token;
	CK_OBJECT_HANDLE key[KEYS_MAX], other; /* everything under the URI's label; the stand-in's private key */
	CK_ULONG count;
	char label[64], pin[64], new_pin[64];
	CK_UTF8CHAR id[64];
	CK_ULONG id_size;
};

static uint64_t boot_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static CK_ULONG find(struct stage *s, CK_OBJECT_CLASS class, const char *label, CK_OBJECT_HANDLE *out)
{
	CK_ATTRIBUTE template[] = { { CKA_LABEL, (void *)(uintptr_t)label, strlen(label) }, { CKA_CLASS, &class, sizeof class } };
	CK_ULONG count = 0;

	token_must("C_FindObjectsInit", s->token.module->C_FindObjectsInit(s->token.session, template, 2));
	token_must("C_FindObjects", s->token.module->C_FindObjects(s->token.session, out, KEYS_MAX, &count));
	token_must("C_FindObjectsFinal", s->token.module->C_FindObjectsFinal(s->token.session));
	return count;
}

static void set(struct stage *s, CK_OBJECT_HANDLE key, CK_ATTRIBUTE_TYPE type, const void *value, CK_ULONG size)
{
	CK_ATTRIBUTE a = { type, (void *)(uintptr_t)value, size };

	token_must("C_SetAttributeValue", s->token.module->C_SetAttributeValue(s->token.session, key, &a, 1));
}

static void set_right(struct stage *s, CK_ATTRIBUTE_TYPE type, bool on)
{
	CK_BBOOL value = on ? CK_TRUE : CK_FALSE;

	set(s, s->key[0], type, &value, sizeof value);
}

static void disable(struct stage *s)
{
	set_right(s, CKA_DECRYPT, false);
}

static void enable(struct stage *s)
{
	set_right(s, CKA_DECRYPT, true);
}

/* Of an AES key: one right of the two. */
static void no_wrap(struct stage *s)
{
	set_right(s, CKA_WRAP, false);
}

static void wrap(struct stage *s)
{
	set_right(s, CKA_WRAP, true);
}

/* SoftHSM gives the dates of an RSA key on its public half only: both are set. */
static void set_end(struct stage *s, const char *year)
{
	CK_DATE date;

	memcpy(date.year, year, sizeof date.year);
	memcpy(date.month, "01", sizeof date.month);
	memcpy(date.day, "01", sizeof date.day);
	for (CK_ULONG i = 0; i < s->count; i++)
		set(s, s->key[i], CKA_END_DATE, &date, sizeof date);
}

static void date_past(struct stage *s)
{
	set_end(s, "2001");
}

static void date_ahead(struct stage *s)
{
	set_end(s, "2999");
}

static void delete (struct stage *s)
{
	for (CK_ULONG i = 0; i < s->count; i++)
		token_must("C_DestroyObject", s->token.module->C_DestroyObject(s->token.session, s->key[i]));
}

/* The stand-in takes label and id over. */
static void replace(struct stage *s)
{
	delete (s);
	set(s, s->other, CKA_LABEL, s->label, strlen(s->label));
	set(s, s->other, CKA_ID, s->id, s->id_size);
}

static void new_pin(struct stage *s)
{
	token_must("C_SetPIN", s->token.module->C_SetPIN(s->token.session, (CK_UTF8CHAR *)s->pin, strlen(s->pin),
							 (CK_UTF8CHAR *)s->new_pin, strlen(s->new_pin)));
}

static const struct {
	const char *name;
	void (*does)(struct stage *s);
} deeds[] = {
	{ "disable", disable }, { "enable", enable },       { "no-wrap", no_wrap },
	{ "wrap", wrap },       { "date-past", date_past }, { "date-ahead", date_ahead },
	{ "delete", delete },   { "replace", replace },     { "new-pin", new_pin },
};

static void read_line(const char *path, char out[64])
{
	size_t n = token_read_file(path, out, 63);

	out[n] = '\0';
	out[strcspn(out, "\r\n")] = '\0';
}

static void prepare(struct stage *s, const char *argument)
{
	static const CK_OBJECT_CLASS classes[] = { CKO_PRIVATE_KEY, CKO_SECRET_KEY, CKO_PUBLIC_KEY };
	CK_ATTRIBUTE *label = p11_kit_uri_get_attribute(s->token.uri, CKA_LABEL);
	CK_ATTRIBUTE id = { CKA_ID, s->id, sizeof s->id };
	CK_OBJECT_HANDLE found[KEYS_MAX];

	if (label == NULL || label->ulValueLen >= sizeof s->label)
		token_fail("the URI names no object", CKR_ARGUMENTS_BAD);
	memcpy(s->label, label->pValue, label->ulValueLen);
	for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
		CK_ULONG count = find(s, classes[i], s->label, found);

		for (CK_ULONG j = 0; j < count && s->count < KEYS_MAX; j++)
			s->key[s->count++] = found[j];
	}
	if (s->count == 0)
		token_fail("no key has that label", CKR_OBJECT_HANDLE_INVALID);
	token_must("C_GetAttributeValue", s->token.module->C_GetAttributeValue(s->token.session, s->key[0], &id, 1));
	s->id_size = id.ulValueLen;
	if (argument != NULL && find(s, CKO_PRIVATE_KEY, argument, found) > 0)
		s->other = found[0];
}

int main(int argc, char **argv)
{
	static struct stage s;
	uint64_t before;

	if (argc != 5 && argc != 6) {
		fputs("usage: gate_deed MODULE URI PIN-FILE DEED [STAND-IN | NEW-PIN-FILE]\n", stderr);
		return 2;
	}
	token_open(&s.token, argv[1], argv[2], argv[3]);
	read_line(argv[3], s.pin);
	if (argc == 6 && strcmp(argv[4], "new-pin") == 0)
		read_line(argv[5], s.new_pin);
	prepare(&s, argc == 6 ? argv[5] : NULL);
	puts("ready");
	fflush(stdout);
	if (getchar() == EOF)
		return 1;
	for (size_t i = 0; i < sizeof deeds / sizeof deeds[0]; i++) {
		if (strcmp(argv[4], deeds[i].name) != 0)
			continue;
		before = boot_now();
		deeds[i].does(&s);
		printf("%llu %llu\n", (unsigned long long)before, (unsigned long long)boot_now());
		token_close(&s.token);
		return 0;
	}
	fprintf(stderr, "gate_deed: no deed %s\n", argv[4]);
	return 2;
}
