/* unwrap_dek MODULE URI PINFILE HASH BLOB OUT: unwraps a test volume's data key in a test token, with the key made extractable,
 * and writes the 48-byte payload to OUT ("-": standard output), so that a forensic test knows what to look for. A tool for tests
 * with tokens of their own only: it does on purpose what the agent never does. HASH: aes-kw, sha256, sha1. Prints nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "system/token_session.h"

enum { BLOB_MAX = 632, PAYLOAD = 48 };

static CK_FUNCTION_LIST *f;

static CK_OBJECT_HANDLE find_key(CK_SESSION_HANDLE session, P11KitUri *uri, CK_OBJECT_CLASS class)
{
	CK_ATTRIBUTE want[3] = { { CKA_CLASS, &class, sizeof class } };
	CK_ATTRIBUTE_TYPE types[] = { CKA_LABEL, CKA_ID };
	CK_OBJECT_HANDLE key;
	CK_ULONG count = 1, found;

	for (size_t i = 0; i < 2; i++) {
		CK_ATTRIBUTE *a = p11_kit_uri_get_attribute(uri, types[i]);

		if (a != NULL)
			want[count++] = *a;
	}
	token_must("C_FindObjectsInit", f->C_FindObjectsInit(session, want, count));
	token_must("C_FindObjects", f->C_FindObjects(session, &key, 1, &found));
	token_must("C_FindObjectsFinal", f->C_FindObjectsFinal(session));
	if (found != 1)
		token_fail("no key matches the URI", CKR_KEY_HANDLE_INVALID);
	return key;
}

static void decrypt_rsa(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE kek, bool sha1, uint8_t *blob, size_t size, uint8_t *payload)
{
	CK_RSA_PKCS_OAEP_PARAMS oaep = { .hashAlg = sha1 ? CKM_SHA_1 : CKM_SHA256,
					 .mgf = sha1 ? CKG_MGF1_SHA1 : CKG_MGF1_SHA256,
					 .source = CKZ_DATA_SPECIFIED };
	CK_MECHANISM rsa = { CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep };
	uint8_t plain[BLOB_MAX];
	CK_ULONG length = sizeof plain;

	token_must("C_DecryptInit", f->C_DecryptInit(session, &rsa, kek));
	token_must("C_Decrypt", f->C_Decrypt(session, blob, size, plain, &length));
	if (length != PAYLOAD)
		token_fail("the payload is not 48 bytes long", length);
	memcpy(payload, plain, PAYLOAD);
	explicit_bzero(plain, sizeof plain);
}

static void unwrap_aes(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE kek, uint8_t *blob, size_t size, uint8_t *payload)
{
	CK_MECHANISM aes = { CKM_AES_KEY_WRAP, NULL, 0 };
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_GENERIC_SECRET;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type },  { CKA_TOKEN, &no, sizeof no },
		{ CKA_SENSITIVE, &no, sizeof no },   { CKA_EXTRACTABLE, &yes, sizeof yes },
	};
	CK_ATTRIBUTE value = { CKA_VALUE, payload, PAYLOAD };
	CK_OBJECT_HANDLE key;

	token_must("C_UnwrapKey",
		   f->C_UnwrapKey(session, &aes, kek, blob, size, template, sizeof template / sizeof template[0], &key));
	token_must("C_GetAttributeValue", f->C_GetAttributeValue(session, key, &value, 1));
	if (value.ulValueLen != PAYLOAD)
		token_fail("the payload is not 48 bytes long", value.ulValueLen);
	f->C_DestroyObject(session, key);
}

static void write_payload(const char *path, uint8_t *payload)
{
	int fd = strcmp(path, "-") == 0 ? STDOUT_FILENO : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, payload, PAYLOAD) != PAYLOAD) {
		fprintf(stderr, "unwrap_dek: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	explicit_bzero(payload, PAYLOAD);
}

int main(int argc, char **argv)
{
	uint8_t blob[BLOB_MAX], payload[PAYLOAD];
	struct token_session token;
	size_t blob_size;

	if (argc != 7 || (strcmp(argv[4], "aes-kw") != 0 && strcmp(argv[4], "sha256") != 0 && strcmp(argv[4], "sha1") != 0)) {
		fputs("usage: unwrap_dek MODULE URI PINFILE aes-kw|sha256|sha1 BLOB OUT\n", stderr);
		return 64;
	}
	blob_size = token_read_file(argv[5], blob, sizeof blob);
	token_open(&token, argv[1], argv[2], argv[3]);
	f = token.module;
	if (strcmp(argv[4], "aes-kw") == 0)
		unwrap_aes(token.session, find_key(token.session, token.uri, CKO_SECRET_KEY), blob, blob_size, payload);
	else
		decrypt_rsa(token.session, find_key(token.session, token.uri, CKO_PRIVATE_KEY), strcmp(argv[4], "sha1") == 0,
			    blob, blob_size, payload);
	write_payload(argv[6], payload);
	token_close(&token);
	return 0;
}
