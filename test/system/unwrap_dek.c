/* unwrap_dek MODULE URI PINFILE HASH BLOB OUT: unwraps a test volume's data key in a test token, with the key made extractable, and
 * writes the 48-byte payload to OUT ("-": standard output), so that a forensic test knows what to look for. A tool for tests with
 * tokens of their own only: it does on purpose what the agent never does. HASH: aes-kw, sha256, sha1. Prints nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>

enum { BLOB_MAX = 632, PAYLOAD = 48, PIN_MAX = 256, SLOTS_MAX = 64 };

static CK_FUNCTION_LIST *f;

static _Noreturn void fail(const char *what, CK_RV rv)
{
	fprintf(stderr, "unwrap_dek: %s: 0x%lx\n", what, rv);
	exit(1);
}

static void must(const char *what, CK_RV rv)
{
	if (rv != CKR_OK)
		fail(what, rv);
}

static size_t read_file(const char *path, void *out, size_t size)
{
	FILE *file = fopen(path, "rb");
	size_t n;

	if (file == NULL) {
		fprintf(stderr, "unwrap_dek: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	n = fread(out, 1, size, file);
	fclose(file);
	return n;
}

static CK_SLOT_ID find_slot(P11KitUri *uri)
{
	CK_SLOT_ID slots[SLOTS_MAX];
	CK_ULONG count = SLOTS_MAX;

	must("C_GetSlotList", f->C_GetSlotList(CK_TRUE, slots, &count));
	for (CK_ULONG i = 0; i < count; i++) {
		CK_TOKEN_INFO info;

		if (f->C_GetTokenInfo(slots[i], &info) == CKR_OK && p11_kit_uri_match_token_info(uri, &info))
			return slots[i];
	}
	fail("no token matches the URI", CKR_TOKEN_NOT_PRESENT);
}

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
	must("C_FindObjectsInit", f->C_FindObjectsInit(session, want, count));
	must("C_FindObjects", f->C_FindObjects(session, &key, 1, &found));
	must("C_FindObjectsFinal", f->C_FindObjectsFinal(session));
	if (found != 1)
		fail("no key matches the URI", CKR_KEY_HANDLE_INVALID);
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

	must("C_DecryptInit", f->C_DecryptInit(session, &rsa, kek));
	must("C_Decrypt", f->C_Decrypt(session, blob, size, plain, &length));
	if (length != PAYLOAD)
		fail("the payload is not 48 bytes long", length);
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
		{ CKA_CLASS, &class, sizeof class },    { CKA_KEY_TYPE, &type, sizeof type }, { CKA_TOKEN, &no, sizeof no },
		{ CKA_SENSITIVE, &no, sizeof no },      { CKA_EXTRACTABLE, &yes, sizeof yes },
	};
	CK_ATTRIBUTE value = { CKA_VALUE, payload, PAYLOAD };
	CK_OBJECT_HANDLE key;

	must("C_UnwrapKey", f->C_UnwrapKey(session, &aes, kek, blob, size, template, sizeof template / sizeof template[0], &key));
	must("C_GetAttributeValue", f->C_GetAttributeValue(session, key, &value, 1));
	if (value.ulValueLen != PAYLOAD)
		fail("the payload is not 48 bytes long", value.ulValueLen);
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
	uint8_t pin[PIN_MAX], blob[BLOB_MAX], payload[PAYLOAD];
	size_t pin_size, blob_size;
	CK_SESSION_HANDLE session;
	P11KitUri *uri = p11_kit_uri_new();
	bool aes;

	if (argc != 7 || (strcmp(argv[4], "aes-kw") != 0 && strcmp(argv[4], "sha256") != 0 && strcmp(argv[4], "sha1") != 0)) {
		fputs("usage: unwrap_dek MODULE URI PINFILE aes-kw|sha256|sha1 BLOB OUT\n", stderr);
		return 64;
	}
	aes = strcmp(argv[4], "aes-kw") == 0;
	if (p11_kit_uri_parse(argv[2], P11_KIT_URI_FOR_ANY, uri) != P11_KIT_URI_OK)
		fail("the URI cannot be parsed", CKR_ARGUMENTS_BAD);
	pin_size = read_file(argv[3], pin, sizeof pin);
	while (pin_size > 0 && (pin[pin_size - 1] == '\n' || pin[pin_size - 1] == '\r'))
		pin_size--;
	blob_size = read_file(argv[5], blob, sizeof blob);
	f = p11_kit_module_load(argv[1], 0);
	if (f == NULL)
		fail("the module cannot be loaded", CKR_GENERAL_ERROR);
	must("C_Initialize", p11_kit_module_initialize(f));
	must("C_OpenSession", f->C_OpenSession(find_slot(uri), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
	must("C_Login", f->C_Login(session, CKU_USER, pin, pin_size));
	if (aes)
		unwrap_aes(session, find_key(session, uri, CKO_SECRET_KEY), blob, blob_size, payload);
	else
		decrypt_rsa(session, find_key(session, uri, CKO_PRIVATE_KEY), strcmp(argv[4], "sha1") == 0, blob, blob_size, payload);
	write_payload(argv[6], payload);
	p11_kit_module_finalize(f);
	p11_kit_module_release(f);
	p11_kit_uri_free(uri);
	return 0;
}
