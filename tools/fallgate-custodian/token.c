/* A token is chosen by label or serial, never by slot number. libp11 reports Cryptoki's codes through OpenSSL's error queue. */
#include "token.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/pem.h>

#include "base/error.h"
#include "failure.h"

static int fail_libp11(const char *what)
{
	unsigned long e = ERR_peek_last_error();
	unsigned long reason = (unsigned long)ERR_GET_REASON(e);
	bool cryptoki = e != 0 && ERR_GET_LIB(e) == ERR_get_CKR_code();

	ERR_clear_error();
	if (cryptoki)
		return fail_ckr(reason, what);
	return fail(ERR_UNREACHABLE, "%s: the module failed without a code; check its settings and its log", what);
}

/* ---- the module ---- */

/* The same library that libp11 has just loaded, once more for its function list. As a rule it has been initialised with that. */
static int get_functions(struct token *t, const char *module, const char *init_args)
{
	CK_C_INITIALIZE_ARGS args = { .pReserved = (void *)(uintptr_t)init_args };
	CK_C_GetFunctionList get;
	CK_RV rv;

	t->library = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	if (t->library == NULL)
		return fail(ERR_NOT_FOUND, "%s cannot be loaded: %s", module, dlerror());
	*(void **)&get = dlsym(t->library, "C_GetFunctionList");
	if (get == NULL || get(&t->f) != CKR_OK || t->f == NULL)
		return fail(ERR_UNSUPPORTED, "%s is no PKCS#11 module; give the vendor's library with --module", module);
	rv = t->f->C_Initialize(init_args != NULL ? &args : NULL);
	t->apart = rv == CKR_OK;
	return t->apart || rv == CKR_CRYPTOKI_ALREADY_INITIALIZED ? 0 : fail_ckr(rv, "initialising the module");
}

int token_load(struct token *t, const char *module, const char *init_args)
{
	memset(t, 0, sizeof *t);
	t->context = PKCS11_CTX_new();
	if (t->context == NULL)
		return fail(ERR_NOMEM, "no memory to load a module");
	if (init_args != NULL)
		PKCS11_CTX_init_args(t->context, init_args);
	if (PKCS11_CTX_load(t->context, module) != 0) {
		PKCS11_CTX_free(t->context);
		t->context = NULL;
		ERR_clear_error();
		return fail(ERR_NOT_FOUND,
			    "%s cannot be loaded as a PKCS#11 module; check --module, --init-args and the module's settings",
			    module);
	}
	if (PKCS11_enumerate_slots(t->context, &t->slots, &t->slot_count) != 0)
		return fail_libp11("listing the tokens");
	return get_functions(t, module, init_args);
}

void token_close(struct token *t)
{
	if (t->session != CK_INVALID_HANDLE)
		t->f->C_CloseSession(t->session);
	if (t->apart)
		t->f->C_Finalize(NULL);
	if (t->slots != NULL)
		PKCS11_release_all_slots(t->context, t->slots, t->slot_count);
	if (t->context != NULL) {
		PKCS11_CTX_unload(t->context);
		PKCS11_CTX_free(t->context);
	}
	if (t->library != NULL)
		dlclose(t->library);
	memset(t, 0, sizeof *t);
}

/* ---- the token ---- */

static bool fits(const PKCS11_SLOT *slot, const struct token_name *name)
{
	if (slot->token == NULL || !slot->token->initialized)
		return false;
	if (name->label != NULL && (slot->token->label == NULL || strcmp(slot->token->label, name->label) != 0))
		return false;
	return name->serial == NULL || (slot->token->serialnr != NULL && strcmp(slot->token->serialnr, name->serial) == 0);
}

int token_choose(struct token *t, const struct token_name *name)
{
	unsigned found = 0;

	for (unsigned i = 0; i < t->slot_count; i++) {
		if (!fits(&t->slots[i], name))
			continue;
		t->slot = &t->slots[i];
		found++;
	}
	if (found == 1)
		return 0;
	t->slot = NULL;
	if (found == 0)
		return fail(ERR_NOT_FOUND, "there is no such token; see them all with: fallgate-custodian list --module PATH");
	return fail(ERR_USAGE, "%u tokens fit; name one with --token LABEL or --serial NUMBER", found);
}

int token_login(struct token *t, const struct pin *pin, int security_officer)
{
	const char *what = security_officer ? "login as security officer" : "login";

	if (PKCS11_open_session(t->slot, 1) != 0)
		return fail_libp11("opening a session");
	if (PKCS11_login(t->slot, security_officer, pin->text) != 0)
		return fail_libp11(what);
	return 0;
}

int token_session(struct token *t, const struct pin *pin)
{
	CK_RV rv = t->f->C_OpenSession(PKCS11_get_slotid_from_slot(t->slot), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL,
				       &t->session);

	if (rv != CKR_OK)
		return fail_ckr(rv, "opening a session");
	if (t->apart)
		rv = t->f->C_Login(t->session, CKU_USER, (CK_UTF8CHAR *)pin->text, strlen(pin->text));
	return rv == CKR_OK ? 0 : fail_ckr(rv, "login");
}

/* ---- initialising and PINs ---- */

/* C_InitToken wants 32 bytes padded with blanks, and libp11 hands on what it is given. */
static int initialise_one(PKCS11_TOKEN *token, const char *label, const struct pin *so_pin)
{
	char padded[33];

	snprintf(padded, sizeof padded, "%-32s", label);
	if (PKCS11_init_token(token, so_pin->text, padded) != 0)
		return fail_libp11("initialising the token");
	return 0;
}

static int initialise_free_slot(struct token *t, const struct token_name *name, const struct pin *so_pin)
{
	for (unsigned i = 0; i < t->slot_count; i++)
		if (fits(&t->slots[i], name))
			return fail(ERR_EXISTS, "there is a token '%s' already; nothing was changed", name->label);
	for (unsigned i = 0; i < t->slot_count; i++) {
		if (t->slots[i].token == NULL || t->slots[i].token->initialized)
			continue;
		return initialise_one(t->slots[i].token, name->label, so_pin);
	}
	return fail(ERR_NOT_FOUND,
		    "no token is without content; this tool does not overwrite one: clear one with the vendor's tool");
}

int token_initialise(const char *module, const char *init_args, const struct token_name *name, const struct pin *so_pin,
		     const struct pin *user_pin)
{
	struct token t;
	int r = token_load(&t, module, init_args);

	if (r == 0)
		r = initialise_free_slot(&t, name, so_pin);
	token_close(&t);
	if (r != 0)
		return r;
	/* Loaded anew: some modules give a token another slot once it is initialised. */
	r = token_load(&t, module, init_args);
	if (r == 0)
		r = token_choose(&t, name);
	if (r == 0)
		r = token_reset_pin(&t, so_pin, user_pin);
	token_close(&t);
	return r;
}

int token_reset_pin(struct token *t, const struct pin *so_pin, const struct pin *new_pin)
{
	int r = token_login(t, so_pin, 1);

	if (r != 0)
		return r;
	if (PKCS11_init_pin(t->slot->token, new_pin->text) != 0)
		return fail_libp11("setting the user PIN");
	return 0;
}

int token_change_pin(struct token *t, const struct pin *old, const struct pin *new_pin)
{
	int r = token_login(t, old, 0); /* NSS wants it; and a wrong PIN is told as one */

	if (r == 0 && PKCS11_change_pin(t->slot, old->text, new_pin->text) != 0)
		return fail_libp11("changing the user PIN");
	return r;
}

/* ---- the public half ---- */

static PKCS11_KEY *find_public(struct token *t, const unsigned char *id, size_t id_size)
{
	PKCS11_KEY *keys = NULL;
	unsigned count = 0;

	if (PKCS11_enumerate_public_keys(t->slot->token, &keys, &count) != 0)
		return NULL;
	for (unsigned i = 0; i < count; i++)
		if (keys[i].id_len == id_size && memcmp(keys[i].id, id, id_size) == 0)
			return &keys[i];
	return NULL;
}

int token_print_public(struct token *t, const unsigned char *id, size_t id_size)
{
	PKCS11_KEY *found = find_public(t, id, id_size);
	EVP_PKEY *public_key = found != NULL ? PKCS11_get_public_key(found) : NULL;
	int written;

	ERR_clear_error();
	if (public_key == NULL)
		return fail(ERR_NOT_FOUND,
			    "the token does not keep the public half of this key; export it with the vendor's tool");
	written = PEM_write_PUBKEY(stdout, public_key);
	EVP_PKEY_free(public_key);
	return written == 1 ? 0 : fail(ERR_IO, "the public key could not be written");
}
