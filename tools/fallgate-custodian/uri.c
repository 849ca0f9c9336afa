/* Everything but unreserved characters is percent-encoded: shorter would be allowed, and harder to be sure of. */
#include "uri.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { URI_MAX = 1024 };

static char uri[URI_MAX]; /* excuse: a command prints one URI at a time */

static void append(const char *text)
{
	size_t used = strlen(uri);

	snprintf(uri + used, sizeof uri - used, "%s", text);
}

static void append_encoded(const unsigned char *bytes, size_t size, bool all)
{
	char piece[4];

	for (size_t i = 0; i < size; i++) {
		bool plain = !all && bytes[i] < 0x80 && (isalnum(bytes[i]) || strchr("-._~", bytes[i]) != NULL);

		snprintf(piece, sizeof piece, plain ? "%c" : "%%%02X", bytes[i]);
		append(piece);
	}
}

const char *uri_of_token(const char *label, const char *serial)
{
	uri[0] = '\0';
	append("pkcs11:token=");
	append_encoded((const unsigned char *)label, strlen(label), false);
	if (serial != NULL && serial[0] != '\0') {
		append(";serial=");
		append_encoded((const unsigned char *)serial, strlen(serial), false);
	}
	return uri;
}

const char *uri_of_key(const struct token *t, bool private_key, const char *label, const unsigned char *id, size_t id_size)
{
	uri_of_token(t->slot->token->label != NULL ? t->slot->token->label : "", NULL);
	if (label[0] != '\0') {
		append(";object=");
		append_encoded((const unsigned char *)label, strlen(label), false);
	}
	if (id_size > 0) {
		append(";id=");
		append_encoded(id, id_size, true);
	}
	append(private_key ? ";type=private" : ";type=secret-key");
	return uri;
}

/* Length of the UTF-8 sequence at s, 0 if it is none. */
static size_t sequence(const unsigned char *s)
{
	size_t n = s[0] < 0x80                   ? 1
		   : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
		   : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
		   : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
						 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

void json_string(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t n;

	putchar('"');
	for (; *p != '\0'; p += n > 0 ? n : 1) {
		n = sequence(p);
		if (n == 0)
			putchar('?');
		else if (n == 1 && (*p < 0x20 || *p == '"' || *p == '\\'))
			printf("\\u%04x", *p);
		else
			fwrite(p, 1, n, stdout);
	}
	putchar('"');
}
