/* A TPM 2.0 by tpm2-tss's ESYS. The storage key is made anew each time from the owner's seed (ECC P-256, the profile's template):
 * it takes no place in the TPM and needs no preparation. What must hold: whatever was loaded is flushed on every way out; secrets
 * that ESYS handed out are wiped before they are freed; what a blob says of its lengths is checked before it is believed. */
#include <hal/tpm.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/secret_memory.h"
#include "tpm_kind.h"

enum {
	STEPS_MAX = 2,
	COUNTER_BYTES = 8,
	NAME_BYTES = 34,
	MAGIC_BYTES = 8,
	HEAD_BYTES = MAGIC_BYTES + 4 + 2 + NAME_BYTES,
	PCR_TRIES = 3
};

static const uint8_t magic[MAGIC_BYTES] = "FGTPM01";

struct tpm {
	TSS2_TCTI_CONTEXT *tcti;
	ESYS_CONTEXT *esys;
	TPM2_ALG_ID bank;
	ESYS_TR storage, session; /* the storage key, and a session that is salted with it */
	uint8_t storage_name[NAME_BYTES];
	char *why;
};

/* What a blob says, its parts still packed. */
struct sealed {
	uint32_t pcrs;
	TPM2_ALG_ID bank;
	const uint8_t *storage_name;
	TPM2B_PUBLIC public;
	TPM2B_PRIVATE private;
};

/* ---- what an answer means ---- */

__attribute__((format(printf, 3, 4))) static int say(struct tpm *t, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(t->why, TPM_WHY_BYTES, format, args);
	va_end(args);
	return error;
}

/* Without the bits that say which handle, session or parameter was meant. */
static TSS2_RC bare(TSS2_RC rc)
{
	return (rc & TPM2_RC_FMT1) != 0 ? rc & (TPM2_RC_FMT1 | 0x3f) : rc;
}

/* clang-format off */
static const struct {
	TSS2_RC rc;
	int error;
	const char *what;
} meanings[] = {
	{ TPM2_RC_POLICY_FAIL, ERR_REFUSED,     "the boot state is not the one that it was sealed to" },
	{ TPM2_RC_INTEGRITY,   ERR_CORRUPT,     "what was sealed has been altered" },
	{ TPM2_RC_SIZE,        ERR_CORRUPT,     "what was sealed has been altered" },
	{ TPM2_RC_BAD_AUTH,    ERR_UNSUPPORTED, "its owner hierarchy has a password: take it away, or clear the TPM" },
	{ TPM2_RC_AUTH_FAIL,   ERR_UNSUPPORTED, "its owner hierarchy has a password: take it away, or clear the TPM" },
	{ TPM2_RC_HIERARCHY,   ERR_UNSUPPORTED, "its owner hierarchy is switched off: switch it on in the firmware's set-up" },
	{ TPM2_RC_LOCKOUT,     ERR_UNREACHABLE, "it is in lockout; it leaves that by itself, or by its owner's order" },
	{ TPM2_RC_INITIALIZE,  ERR_UNREACHABLE, "nobody has started it (TPM2_Startup); see the firmware's set-up" },
	{ TPM2_RC_NV_DEFINED,  ERR_EXISTS,      "there is something at this index" },
	{ TPM2_RC_NV_SPACE,    ERR_NOSPACE,     "it has no room for another counter" },
	{ TPM2_RC_NV_RATE,     ERR_UNREACHABLE, "it wants to be asked less often" },
	{ TPM2_RC_HANDLE,      ERR_NOT_FOUND,   "there is no such counter" },
	{ TPM2_RC_FAILURE,     ERR_UNREACHABLE, "it has failed its self-test" },
};
/* clang-format on */

static int judge(struct tpm *t, TSS2_RC rc, const char *command)
{
	if (rc == TSS2_RC_SUCCESS)
		return 0;
	if ((rc & TSS2_RC_LAYER_MASK) != TSS2_TPM_RC_LAYER)
		return say(t, ERR_UNREACHABLE, "the TPM does not answer as it must (%s: 0x%x)", command, rc);
	for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++)
		if (bare(rc) == meanings[i].rc)
			return say(t, meanings[i].error, "the TPM refused (%s): %s", command, meanings[i].what);
	return say(t, ERR_UNREACHABLE, "the TPM refused %s (0x%x)", command, rc);
}

/* ---- opening ---- */

static const struct tpm_way *way_to(const char *where, const char **conf)
{
	for (size_t i = 0; tpm_ways[i] != NULL; i++) {
		size_t length = strlen(tpm_ways[i]->prefix);

		if (strncmp(where, tpm_ways[i]->prefix, length) != 0)
			continue;
		*conf = where[0] == '/' ? where : where + length;
		return tpm_ways[i];
	}
	return NULL;
}

bool tpm_where_good(const char *where)
{
	const char *conf;

	return way_to(where, &conf) != NULL;
}

static int open_tcti(struct tpm *t, const struct tpm_way *way, const char *conf)
{
	size_t size = 0;

	if (way->init(NULL, &size, NULL) != TSS2_RC_SUCCESS)
		return ERR_UNSUPPORTED;
	t->tcti = calloc(1, size);
	if (t->tcti == NULL)
		return ERR_NOMEM;
	if (way->init(t->tcti, &size, conf) == TSS2_RC_SUCCESS)
		return 0;
	free(t->tcti);
	t->tcti = NULL;
	return say(t, ERR_UNREACHABLE, "the TPM at %.100s cannot be opened: is it there, and may this user open it?", conf);
}

int tpm_open(struct tpm **out, const char *where, char why[static TPM_WHY_BYTES])
{
	const char *conf = NULL;
	const struct tpm_way *way = way_to(where, &conf);
	struct tpm *t = calloc(1, sizeof *t);
	int r = 0;

	why[0] = '\0';
	if (t == NULL)
		return ERR_NOMEM;
	t->why = why;
	t->storage = t->session = ESYS_TR_NONE;
	r = way != NULL ? open_tcti(t, way, conf) : say(t, ERR_CONFIG, "no way to a TPM is called %.60s", where);
	if (r == 0 && Esys_Initialize(&t->esys, t->tcti, NULL) != TSS2_RC_SUCCESS)
		r = ERR_NOMEM;
	if (r != 0)
		tpm_close(t);
	else
		*out = t;
	return r;
}

static void flush(struct tpm *t, ESYS_TR *handle)
{
	if (*handle != ESYS_TR_NONE)
		Esys_FlushContext(t->esys, *handle);
	*handle = ESYS_TR_NONE;
}

void tpm_close(struct tpm *t)
{
	if (t == NULL)
		return;
	if (t->esys != NULL) {
		flush(t, &t->session);
		flush(t, &t->storage);
		Esys_Finalize(&t->esys);
	}
	if (t->tcti != NULL) {
		Tss2_Tcti_Finalize(t->tcti);
		free(t->tcti);
	}
	free(t);
}

/* ---- PCRs ---- */

static TPML_PCR_SELECTION selection(TPM2_ALG_ID bank, uint32_t pcrs)
{
	return (TPML_PCR_SELECTION){ .count = 1,
				     .pcrSelections = {
					     { .hash = bank,
					       .sizeofSelect = 3,
					       .pcrSelect = { (uint8_t)pcrs, (uint8_t)(pcrs >> 8), (uint8_t)(pcrs >> 16) } } } };
}

static bool bank_has(const TPMS_PCR_SELECTION *s, uint32_t pcrs)
{
	uint32_t there = 0;

	for (unsigned i = 0; i < s->sizeofSelect && i < 3; i++)
		there |= (uint32_t)s->pcrSelect[i] << 8 * i;
	return (there & pcrs) == pcrs;
}

static int find_bank(struct tpm *t, uint32_t pcrs)
{
	static const TPM2_ALG_ID wanted[] = { TPM2_ALG_SHA256, TPM2_ALG_SHA384 };
	TPMS_CAPABILITY_DATA *data = NULL;
	TPMI_YES_NO more;
	int r = judge(t, Esys_GetCapability(t->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_PCRS, 0, 1, &more, &data),
		      "GetCapability");

	if (r != 0)
		return r;
	t->bank = TPM2_ALG_NULL;
	for (size_t w = 0; w < 2 && t->bank == TPM2_ALG_NULL; w++)
		for (unsigned i = 0; i < data->data.assignedPCR.count && i < TPM2_NUM_PCR_BANKS; i++)
			if (data->data.assignedPCR.pcrSelections[i].hash == wanted[w] &&
			    bank_has(&data->data.assignedPCR.pcrSelections[i], pcrs))
				t->bank = wanted[w];
	Esys_Free(data);
	return t->bank != TPM2_ALG_NULL
		       ? 0
		       : say(t, ERR_UNSUPPORTED,
			     "it has these PCRs in neither a SHA-256 nor a SHA-384 bank: switch one on in the firmware's set-up");
}

static bool all_zero(const TPM2B_DIGEST *d)
{
	uint8_t sum = 0;

	for (unsigned i = 0; i < d->size && i < sizeof d->buffer; i++)
		sum |= d->buffer[i];
	return sum == 0;
}

static int find_zeroes(struct tpm *t, uint32_t pcrs, uint32_t *zero)
{
	TPML_PCR_SELECTION *got = NULL;
	TPML_DIGEST *values = NULL;
	UINT32 updates;
	int r = 0;

	*zero = 0;
	for (unsigned pcr = 0; pcr < TPM_PCR_COUNT && r == 0; pcr++) {
		TPML_PCR_SELECTION one = selection(t->bank, 1u << pcr);

		if ((pcrs & 1u << pcr) == 0)
			continue;
		r = judge(t, Esys_PCR_Read(t->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &one, &updates, &got, &values),
			  "PCR_Read");
		if (r == 0 && values->count == 1 && all_zero(&values->digests[0]))
			*zero |= 1u << pcr;
		if (r == 0) {
			Esys_Free(got);
			Esys_Free(values);
		}
	}
	return r;
}

static uint32_t property(const TPMS_CAPABILITY_DATA *d, TPM2_PT which)
{
	for (unsigned i = 0; i < d->data.tpmProperties.count && i < TPM2_MAX_TPM_PROPERTIES; i++)
		if (d->data.tpmProperties.tpmProperty[i].property == which)
			return d->data.tpmProperties.tpmProperty[i].value;
	return 0;
}

static char letter(uint32_t letters, unsigned i)
{
	char c = (char)(letters >> (24 - 8 * i));

	return c > ' ' && c < 0x7f ? c : '.';
}

int tpm_look(struct tpm *t, uint32_t pcrs, struct tpm_facts *out, char why[static TPM_WHY_BYTES])
{
	TPMS_CAPABILITY_DATA *data = NULL;
	TPMI_YES_NO more;
	uint32_t letters, version;
	int r;

	t->why = why;
	memset(out, 0, sizeof *out);
	r = judge(t,
		  Esys_GetCapability(t->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_TPM_PROPERTIES,
				     TPM2_PT_MANUFACTURER, 8, &more, &data),
		  "GetCapability");
	if (r != 0)
		return r;
	letters = property(data, TPM2_PT_MANUFACTURER);
	version = property(data, TPM2_PT_FIRMWARE_VERSION_1);
	Esys_Free(data);
	snprintf(out->kind, sizeof out->kind, "%c%c%c%c %u.%u", letter(letters, 0), letter(letters, 1), letter(letters, 2),
		 letter(letters, 3), version >> 16, version & 0xffff);
	r = find_bank(t, pcrs);
	if (r == 0)
		snprintf(out->bank, sizeof out->bank, "%s", t->bank == TPM2_ALG_SHA256 ? "sha256" : "sha384");
	return r == 0 ? find_zeroes(t, pcrs, &out->zero) : r;
}

/* ---- the storage key, and a session that only it can have opened ---- */

static const TPM2B_PUBLIC storage_template = {
	.publicArea = {
		.type = TPM2_ALG_ECC,
		.nameAlg = TPM2_ALG_SHA256,
		.objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
				    TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT,
		.parameters.eccDetail = {
			.symmetric = { .algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB },
			.scheme = { .scheme = TPM2_ALG_NULL },
			.curveID = TPM2_ECC_NIST_P256,
			.kdf = { .scheme = TPM2_ALG_NULL },
		},
		.unique.ecc = { .x = { .size = 32 }, .y = { .size = 32 } },
	},
};

static int name_of(struct tpm *t, ESYS_TR handle, uint8_t out[static NAME_BYTES])
{
	TPM2B_NAME *name = NULL;
	int r = judge(t, Esys_TR_GetName(t->esys, handle, &name), "its name");

	if (r == 0 && name->size != NAME_BYTES)
		r = say(t, ERR_UNREACHABLE, "the TPM's storage key has a name of %u bytes", name->size);
	if (r == 0)
		memcpy(out, name->name, NAME_BYTES);
	Esys_Free(name);
	return r;
}

static int make_storage(struct tpm *t)
{
	const TPM2B_SENSITIVE_CREATE no_secret = { 0 };
	const TPM2B_DATA no_data = { 0 };
	const TPML_PCR_SELECTION none = { 0 };
	TPM2B_PUBLIC *public = NULL;
	TPM2B_CREATION_DATA *data = NULL;
	TPM2B_DIGEST *hash = NULL;
	TPMT_TK_CREATION *ticket = NULL;
	int r;

	if (t->storage != ESYS_TR_NONE)
		return 0;
	r = judge(t,
		  Esys_CreatePrimary(t->esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &no_secret,
				     &storage_template, &no_data, &none, &t->storage, &public, &data, &hash, &ticket),
		  "CreatePrimary");
	Esys_Free(public);
	Esys_Free(data);
	Esys_Free(hash);
	Esys_Free(ticket);
	if (r != 0)
		t->storage = ESYS_TR_NONE;
	return r == 0 ? name_of(t, t->storage, t->storage_name) : r;
}

static int start_session(struct tpm *t, TPM2_SE type, ESYS_TR salt, ESYS_TR *out)
{
	static const TPMT_SYM_DEF aes = { .algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB };

	*out = ESYS_TR_NONE;
	return judge(t,
		     Esys_StartAuthSession(t->esys, salt, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, NULL, type,
					   &aes, TPM2_ALG_SHA256, out),
		     "StartAuthSession");
}

static int use_session(struct tpm *t, ESYS_TR session, TPMA_SESSION attributes)
{
	return judge(t, Esys_TRSess_SetAttributes(t->esys, session, TPMA_SESSION_CONTINUESESSION | attributes, 0xff),
		     "its session");
}

static int begin(struct tpm *t)
{
	int r = make_storage(t);

	if (r == 0 && t->session == ESYS_TR_NONE)
		r = start_session(t, TPM2_SE_HMAC, t->storage, &t->session);
	return r;
}

/* ---- sealing ---- */

static int policy_of(struct tpm *t, uint32_t pcrs, TPM2B_DIGEST *out)
{
	const TPML_PCR_SELECTION select = selection(t->bank, pcrs);
	const TPM2B_DIGEST now = { 0 }; /* as they are */
	TPM2B_DIGEST *digest = NULL;
	ESYS_TR trial = ESYS_TR_NONE;
	int r = start_session(t, TPM2_SE_TRIAL, ESYS_TR_NONE, &trial);

	/* the answer is vouched for by the salted session: a policy that somebody on the bus made up would be his */
	if (r == 0)
		r = use_session(t, t->session, TPMA_SESSION_ENCRYPT);
	if (r == 0)
		r = judge(t, Esys_PolicyPCR(t->esys, trial, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &now, &select),
			  "PolicyPCR");
	if (r == 0)
		r = judge(t, Esys_PolicyGetDigest(t->esys, trial, t->session, ESYS_TR_NONE, ESYS_TR_NONE, &digest),
			  "PolicyGetDigest");
	if (r == 0)
		*out = *digest;
	Esys_Free(digest);
	flush(t, &trial);
	return r;
}

static int pack(struct tpm *t, uint32_t pcrs, const TPM2B_PUBLIC *public, const TPM2B_PRIVATE *private, uint8_t *blob,
		size_t *size)
{
	size_t at = HEAD_BYTES;

	memcpy(blob, magic, MAGIC_BYTES);
	put_le32(blob + MAGIC_BYTES, pcrs);
	put_le16(blob + MAGIC_BYTES + 4, t->bank);
	memcpy(blob + MAGIC_BYTES + 6, t->storage_name, NAME_BYTES);
	if (Tss2_MU_TPM2B_PUBLIC_Marshal(public, blob, TPM_SEALED_MAX, &at) != TSS2_RC_SUCCESS ||
	    Tss2_MU_TPM2B_PRIVATE_Marshal(private, blob, TPM_SEALED_MAX, &at) != TSS2_RC_SUCCESS)
		return say(t, ERR_RANGE, "what the TPM sealed is too long to be kept");
	*size = at;
	return 0;
}

static int create(struct tpm *t, uint32_t pcrs, TPM2B_SENSITIVE_CREATE *secret, uint8_t *blob, size_t *blob_size)
{
	TPM2B_PUBLIC template = { .publicArea = { .type = TPM2_ALG_KEYEDHASH,
						  .nameAlg = TPM2_ALG_SHA256,
						  .objectAttributes =
							  TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_NODA,
						  .parameters.keyedHashDetail.scheme.scheme = TPM2_ALG_NULL } };
	const TPML_PCR_SELECTION none = { 0 };
	const TPM2B_DATA no_data = { 0 };
	TPM2B_PUBLIC *public = NULL;
	TPM2B_PRIVATE *private = NULL;
	TPM2B_CREATION_DATA *data = NULL;
	TPM2B_DIGEST *hash = NULL;
	TPMT_TK_CREATION *ticket = NULL;
	int r = policy_of(t, pcrs, &template.publicArea.authPolicy);

	if (r == 0)
		r = use_session(t, t->session, TPMA_SESSION_DECRYPT | TPMA_SESSION_ENCRYPT);
	if (r == 0)
		r = judge(t,
			  Esys_Create(t->esys, t->storage, t->session, ESYS_TR_NONE, ESYS_TR_NONE, secret, &template, &no_data,
				      &none, &private, &public, &data, &hash, &ticket),
			  "Create");
	if (r == 0)
		r = pack(t, pcrs, public, private, blob, blob_size);
	Esys_Free(public);
	Esys_Free(private);
	Esys_Free(data);
	Esys_Free(hash);
	Esys_Free(ticket);
	return r;
}

int tpm_seal(struct tpm *t, uint32_t pcrs, const void *secret, size_t size, uint8_t blob[static TPM_SEALED_MAX],
	     size_t *blob_size, char why[static TPM_WHY_BYTES])
{
	TPM2B_SENSITIVE_CREATE sensitive = { 0 };
	int r;

	t->why = why;
	if (size == 0 || size > TPM_SECRET_MAX || pcrs == 0 || pcrs >> TPM_PCR_COUNT != 0)
		return say(t, ERR_RANGE, "a secret of 1 to %d bytes can be sealed, to PCRs 0 to %d", TPM_SECRET_MAX,
			   TPM_PCR_COUNT - 1);
	r = find_bank(t, pcrs);
	if (r == 0)
		r = begin(t);
	if (r != 0)
		return r;
	sensitive.sensitive.data.size = (UINT16)size;
	memcpy(sensitive.sensitive.data.buffer, secret, size);
	r = create(t, pcrs, &sensitive, blob, blob_size);
	secret_wipe(&sensitive, sizeof sensitive);
	return r;
}

/* ---- unsealing ---- */

/* The library takes a wrong outer length: what is packed again must be the same. */
static bool packed_so(const struct sealed *s, const uint8_t *blob, size_t size)
{
	uint8_t again[TPM_SEALED_MAX];
	size_t at = HEAD_BYTES;

	return Tss2_MU_TPM2B_PUBLIC_Marshal(&s->public, again, sizeof again, &at) == TSS2_RC_SUCCESS &&
	       Tss2_MU_TPM2B_PRIVATE_Marshal(&s->private, again, sizeof again, &at) == TSS2_RC_SUCCESS && at == size &&
	       memcmp(again + HEAD_BYTES, blob + HEAD_BYTES, size - HEAD_BYTES) == 0;
}

static bool unpack(struct sealed *s, const uint8_t *blob, size_t size)
{
	size_t at = HEAD_BYTES;

	memset(s, 0, sizeof *s);
	if (size <= HEAD_BYTES || size > TPM_SEALED_MAX || memcmp(blob, magic, MAGIC_BYTES) != 0)
		return false;
	s->pcrs = get_le32(blob + MAGIC_BYTES);
	s->bank = get_le16(blob + MAGIC_BYTES + 4);
	s->storage_name = blob + MAGIC_BYTES + 6;
	if (s->pcrs == 0 || s->pcrs >> TPM_PCR_COUNT != 0 || (s->bank != TPM2_ALG_SHA256 && s->bank != TPM2_ALG_SHA384))
		return false;
	return Tss2_MU_TPM2B_PUBLIC_Unmarshal(blob, size, &at, &s->public) == TSS2_RC_SUCCESS &&
	       Tss2_MU_TPM2B_PRIVATE_Unmarshal(blob, size, &at, &s->private) == TSS2_RC_SUCCESS && at == size &&
	       packed_so(s, blob, size);
}

/* PCRs that are extended between the policy and its use are looked at once more. */
static int unseal_loaded(struct tpm *t, ESYS_TR object, const struct sealed *s, TPM2B_SENSITIVE_DATA **data)
{
	const TPML_PCR_SELECTION select = selection(s->bank, s->pcrs);
	const TPM2B_DIGEST now = { 0 };
	ESYS_TR policy = ESYS_TR_NONE;
	TSS2_RC rc = TPM2_RC_PCR_CHANGED;
	int r = 0;

	for (int i = 0; i < PCR_TRIES && r == 0 && rc == TPM2_RC_PCR_CHANGED; i++) {
		r = start_session(t, TPM2_SE_POLICY, t->storage, &policy);
		if (r == 0)
			r = use_session(t, policy, TPMA_SESSION_ENCRYPT);
		if (r == 0)
			r = judge(t, Esys_PolicyPCR(t->esys, policy, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &now, &select),
				  "PolicyPCR");
		if (r == 0)
			rc = Esys_Unseal(t->esys, object, policy, ESYS_TR_NONE, ESYS_TR_NONE, data);
		flush(t, &policy);
	}
	return r == 0 ? judge(t, rc, "Unseal") : r;
}

static int load_and_unseal(struct tpm *t, const struct sealed *s, TPM2B_SENSITIVE_DATA **data)
{
	ESYS_TR object = ESYS_TR_NONE;
	int r = use_session(t, t->session, 0);

	if (r == 0)
		r = judge(
			t,
			Esys_Load(t->esys, t->storage, t->session, ESYS_TR_NONE, ESYS_TR_NONE, &s->private, &s->public, &object),
			"Load");
	if (r == 0)
		r = unseal_loaded(t, object, s, data);
	flush(t, &object);
	return r;
}

int tpm_unseal(struct tpm *t, const uint8_t *blob, size_t blob_size, uint8_t secret[static TPM_SECRET_MAX], size_t *size,
	       char why[static TPM_WHY_BYTES])
{
	TPM2B_SENSITIVE_DATA *data = NULL;
	struct sealed s;
	int r;

	t->why = why;
	if (!unpack(&s, blob, blob_size))
		return say(t, ERR_CORRUPT, "what was sealed has been altered");
	r = begin(t);
	if (r == 0 && memcmp(s.storage_name, t->storage_name, NAME_BYTES) != 0)
		r = say(t, ERR_FOREIGN, "it was sealed by another TPM, or this one was cleared since");
	if (r == 0)
		r = load_and_unseal(t, &s, &data);
	if (r == 0 && data->size > TPM_SECRET_MAX)
		r = say(t, ERR_CORRUPT, "what was sealed is too long");
	if (r == 0) {
		*size = data->size;
		memcpy(secret, data->buffer, data->size);
	}
	if (data != NULL)
		secret_wipe(data, sizeof *data);
	Esys_Free(data);
	return r;
}

/* ---- counters ---- */

enum { COUNTER_ATTRIBUTES = TPMA_NV_AUTHWRITE | TPMA_NV_AUTHREAD | TPMA_NV_NO_DA | TPM2_NT_COUNTER << TPMA_NV_TPM2_NT_SHIFT };

/* What it is called is part of every HMAC below, attributes included: an index of another kind in its place is found out. */
static int check_counter(struct tpm *t, ESYS_TR handle, bool *written)
{
	TPM2B_NV_PUBLIC *public = NULL;
	TPM2B_NAME *name = NULL;
	int r = judge(t, Esys_NV_ReadPublic(t->esys, handle, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &public, &name),
		      "NV_ReadPublic");

	if (r == 0 && ((public->nvPublic.attributes & ~TPMA_NV_WRITTEN) != (TPMA_NV)COUNTER_ATTRIBUTES ||
		       public->nvPublic.dataSize != COUNTER_BYTES))
		r = say(t, ERR_CORRUPT, "NV index 0x%08x is not the counter that was made there", public->nvPublic.nvIndex);
	if (r == 0)
		*written = (public->nvPublic.attributes & TPMA_NV_WRITTEN) != 0;
	Esys_Free(public);
	Esys_Free(name);
	return r;
}

static int step(struct tpm *t, ESYS_TR handle)
{
	int r = use_session(t, t->session, 0);

	return r != 0 ? r
		      : judge(t, Esys_NV_Increment(t->esys, handle, handle, t->session, ESYS_TR_NONE, ESYS_TR_NONE),
			      "NV_Increment");
}

static int read_counter(struct tpm *t, ESYS_TR handle, uint64_t *value)
{
	TPM2B_MAX_NV_BUFFER *data = NULL;
	int r = use_session(t, t->session, TPMA_SESSION_ENCRYPT);

	if (r == 0)
		r = judge(t,
			  Esys_NV_Read(t->esys, handle, handle, t->session, ESYS_TR_NONE, ESYS_TR_NONE, COUNTER_BYTES, 0, &data),
			  "NV_Read");
	if (r == 0 && data->size != COUNTER_BYTES)
		r = say(t, ERR_CORRUPT, "the counter has %u bytes", data->size);
	*value = 0;
	for (unsigned i = 0; r == 0 && i < COUNTER_BYTES; i++)
		*value = *value << 8 | data->buffer[i];
	Esys_Free(data);
	return r;
}

static int open_counter(struct tpm *t, uint32_t index, ESYS_TR *handle, bool *written)
{
	int r = begin(t);

	*handle = ESYS_TR_NONE;
	if (r == 0)
		r = judge(t, Esys_TR_FromTPMPublic(t->esys, index, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, handle),
			  "NV_ReadPublic");
	return r == 0 ? check_counter(t, *handle, written) : r;
}

static void close_counter(struct tpm *t, ESYS_TR handle)
{
	if (handle != ESYS_TR_NONE)
		Esys_TR_Close(t->esys, &handle);
}

int tpm_counter_make(struct tpm *t, uint32_t index, uint64_t *value, char why[static TPM_WHY_BYTES])
{
	const TPM2B_NV_PUBLIC public = { .nvPublic = { .nvIndex = index,
						       .nameAlg = TPM2_ALG_SHA256,
						       .attributes = COUNTER_ATTRIBUTES,
						       .dataSize = COUNTER_BYTES } };
	const TPM2B_AUTH none = { 0 };
	ESYS_TR handle = ESYS_TR_NONE;
	int r;

	t->why = why;
	r = begin(t);
	if (r == 0)
		r = use_session(t, t->session, 0);
	if (r == 0)
		r = judge(t,
			  Esys_NV_DefineSpace(t->esys, ESYS_TR_RH_OWNER, t->session, ESYS_TR_NONE, ESYS_TR_NONE, &none, &public,
					      &handle),
			  "NV_DefineSpace");
	if (r == 0)
		r = step(t, handle); /* the first sets it, above all that were */
	if (r == 0)
		r = read_counter(t, handle, value);
	close_counter(t, handle);
	return r;
}

int tpm_counter_read(struct tpm *t, uint32_t index, uint64_t *value, char why[static TPM_WHY_BYTES])
{
	ESYS_TR handle;
	bool written = false;
	int r;

	t->why = why;
	r = open_counter(t, index, &handle, &written);
	if (r == 0 && !written) /* the power went while it was made */
		r = step(t, handle);
	if (r == 0)
		r = read_counter(t, handle, value);
	close_counter(t, handle);
	return r;
}

int tpm_counter_step(struct tpm *t, uint32_t index, uint64_t to, uint64_t *value, char why[static TPM_WHY_BYTES])
{
	ESYS_TR handle;
	bool written = false;
	int r;

	t->why = why;
	r = open_counter(t, index, &handle, &written);
	if (r == 0)
		r = read_counter(t, handle, value);
	for (int i = 0; i < STEPS_MAX && r == 0 && *value < to; i++) {
		r = step(t, handle);
		if (r == 0)
			r = read_counter(t, handle, value);
	}
	close_counter(t, handle);
	return r == 0 && *value < to
		       ? say(t, ERR_CORRUPT, "the counter is %llu, far below the volume's", (unsigned long long)*value)
		       : r;
}
