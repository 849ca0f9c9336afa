/* See token_session.h. */
#include "system/token_session.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIN_MAX = 256, SLOTS_MAX = 64 };

void token_fail(const char *what, CK_RV rv)
{
	fprintf(stderr, "%s: 0x%lx\n", what, rv);
	exit(1);
}

void token_must(const char *what, CK_RV rv)
{
	if (rv != CKR_OK)
		token_fail(what, rv);
}

size_t token_read_file(const char *path, void *out, size_t size)
{
	FILE *file = fopen(path, "rbe");
	size_t n;

	if (file == NULL) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	n = fread(out, 1, size, file);
	fclose(file);
	return n;
}

static CK_SLOT_ID find_slot(const struct token_session *t)
{
	CK_SLOT_ID slots[SLOTS_MAX];
	CK_ULONG count = SLOTS_MAX;

	token_must("C_GetSlotList", t->module->C_GetSlotList(CK_TRUE, slots, &count));
	for (CK_ULONG i = 0; i < count; i++) {
		CK_TOKEN_INFO info;

		if (t->module->C_GetTokenInfo(slots[i], &info) == CKR_OK && p11_kit_uri_match_token_info(t->uri, &info))
			return slots[i];
	}
	token_fail("no token matches the URI", CKR_TOKEN_NOT_PRESENT);
}

void token_open(struct token_session *t, const char *module, const char *uri, const char *pin_file)
{
	uint8_t pin[PIN_MAX];
	size_t pin_size = token_read_file(pin_file, pin, sizeof pin);

	while (pin_size > 0 && (pin[pin_size - 1] == '\n' || pin[pin_size - 1] == '\r'))
		pin_size--;
	t->uri = p11_kit_uri_new();
	if (p11_kit_uri_parse(uri, P11_KIT_URI_FOR_ANY, t->uri) != P11_KIT_URI_OK)
		token_fail("the URI cannot be parsed", CKR_ARGUMENTS_BAD);
	t->module = p11_kit_module_load(module, 0);
	if (t->module == NULL)
		token_fail("the module cannot be loaded", CKR_GENERAL_ERROR);
	token_must("C_Initialize", p11_kit_module_initialize(t->module));
	token_must("C_OpenSession",
		   t->module->C_OpenSession(find_slot(t), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &t->session));
	token_must("C_Login", t->module->C_Login(t->session, CKU_USER, pin, pin_size));
	explicit_bzero(pin, sizeof pin);
}

void token_close(struct token_session *t)
{
	p11_kit_module_finalize(t->module);
	p11_kit_module_release(t->module);
	p11_kit_uri_free(t->uri);
}
