/* One kernel against published answers: NIST's CAVP vectors for AES-256-GCM in both directions, and C2SP's for XAES-256-GCM. Not
 * applicable are IVs of other than 96 bits and tags of other than 128: the kernels do not have them; both are counted. */
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "hal/aead.h"

#include "aead_kernel_argument.h"

enum { FIELD_MAX = 128, LINE_MAX_BYTES = 1024 };

struct field {
	uint8_t bytes[FIELD_MAX];
	size_t size;
};

/* One case of a .rsp file, as far as it has been read. */
struct answer {
	struct field key, iv, pt, aad, ct, tag;
	bool fail; /* decryption must be refused */
};

struct file {
	unsigned ivlen, taglen; /* bits, of the section */
	size_t tried, refused, not_applicable;
	bool open;
};

static const struct aead_kernel *kernel;
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];

static void parse_hex(struct field *out, const char *hex)
{
	const size_t digits = strcspn(hex, "\r\n");

	assert_true(digits % 2 == 0 && digits / 2 <= FIELD_MAX);
	out->size = digits / 2;
	for (size_t i = 0; i < out->size; i++) {
		unsigned byte;

		assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
		out->bytes[i] = (uint8_t)byte;
	}
}

static struct aead_item item_of(const struct answer *a, uint8_t *out, const struct field *in, uint8_t *tag)
{
	struct aead_item item = {
		.out = out, .in = in->bytes, .size = in->size, .tag = tag, .aad = a->aad.bytes, .aad_size = a->aad.size
	};

	memcpy(item.iv, a->iv.bytes, AEAD_IV_BYTES);
	return item;
}

static void check_seal(const struct answer *a)
{
	uint8_t out[FIELD_MAX];
	uint8_t tag[AEAD_TAG_BYTES];
	struct aead_item item = item_of(a, out, &a->pt, tag);

	kernel->seal_run(state, &item, 1);
	assert_memory_equal(out, a->ct.bytes, a->pt.size);
	assert_memory_equal(tag, a->tag.bytes, sizeof tag);
}

static void check_open(const struct answer *a)
{
	static const uint8_t zeroes[FIELD_MAX];
	uint8_t out[FIELD_MAX];
	uint8_t tag[AEAD_TAG_BYTES];
	struct aead_item item = item_of(a, out, &a->ct, tag);

	memset(out, 0xff, sizeof out);
	memcpy(tag, a->tag.bytes, sizeof tag);
	assert_int_equal(kernel->open_run(state, &item, 1), a->fail);
	assert_int_equal(item.good, !a->fail);
	assert_memory_equal(out, a->fail ? zeroes : a->pt.bytes, a->ct.size);
}

static void check(struct file *f, const struct answer *a)
{
	if (f->ivlen != 8 * AEAD_IV_BYTES || f->taglen != 8 * AEAD_TAG_BYTES) {
		f->not_applicable++;
		return;
	}
	assert_int_equal(a->key.size, AEAD_KEY_BYTES);
	assert_int_equal(a->iv.size, AEAD_IV_BYTES);
	assert_int_equal(a->tag.size, AEAD_TAG_BYTES);
	kernel->expand(state, a->key.bytes);
	if (!f->open)
		check_seal(a);
	check_open(a);
	f->tried++;
	f->refused += a->fail;
}

/* A line of a case goes to its field; a section's line to the file. */
static void take_line(struct file *f, struct answer *a, const char *line)
{
	const struct {
		const char *name;
		struct field *field;
	} fields[] = { { "Key = ", &a->key }, { "IV = ", &a->iv }, { "PT = ", &a->pt },
		       { "AAD = ", &a->aad }, { "CT = ", &a->ct }, { "Tag = ", &a->tag } };

	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		if (strncmp(line, fields[i].name, strlen(fields[i].name)) == 0)
			parse_hex(fields[i].field, line + strlen(fields[i].name));
	}
	if (strncmp(line, "FAIL", 4) == 0)
		a->fail = true;
	sscanf(line, "[IVlen = %u]", &f->ivlen);
	sscanf(line, "[Taglen = %u]", &f->taglen);
}

static void run_file(struct file *f, const char *name)
{
	char path[512];
	char line[LINE_MAX_BYTES];
	struct answer a = { 0 };
	bool started = false;
	FILE *in;

	snprintf(path, sizeof path, "%s/%s", AEAD_CAVP_DIR, name);
	in = fopen(path, "re");
	if (in == NULL) {
		printf("skipped: no %s: apt-get install python3-cryptography-vectors\n", path);
		skip();
	}
	while (fgets(line, sizeof line, in) != NULL) {
		/* "Count" begins a case, and so ends the one before; so does a section's bracket */
		if (started && (line[0] == '[' || strncmp(line, "Count", 5) == 0)) {
			check(f, &a);
			started = false;
		}
		if (strncmp(line, "Count", 5) == 0) {
			a = (struct answer){ 0 };
			started = true;
		}
		take_line(f, &a, line);
	}
	if (started)
		check(f, &a);
	fclose(in);
	printf("%s: %s: %zu tried, %zu of them to be refused; %zu not applicable (IV not 96 or tag not 128 bits)\n", kernel->name,
	       name, f->tried, f->refused, f->not_applicable);
	/* what the files of 2012 hold; a parser that loses cases must not pass */
	assert_int_equal(f->tried + f->not_applicable, 7875);
	assert_int_equal(f->tried, 375);
}

static void cavp_seal(void **unused)
{
	struct file f = { .open = false };

	(void)unused;
	run_file(&f, "gcmEncryptExtIV256.rsp");
	assert_int_equal(f.refused, 0);
}

static void cavp_open(void **unused)
{
	struct file f = { .open = true };

	(void)unused;
	run_file(&f, "gcmDecrypt256.rsp");
	assert_in_range(f.refused, 1, f.tried - 1);
}

static void check_xaes(uint8_t key_byte, const char *aad, const uint8_t expected[static 28])
{
	static alignas(AEAD_KEY_STATE_ALIGN) uint8_t subkey[AEAD_KEY_STATE_MAX];
	const char *nonce = "ABCDEFGHIJKLMNOPQRSTUVWX";
	uint8_t key[AEAD_KEY_BYTES];
	uint8_t out[12];
	uint8_t tag[AEAD_TAG_BYTES];
	struct aead_item item = { .out = out,
				  .in = (const uint8_t *)"XAES-256-GCM",
				  .size = 12,
				  .tag = tag,
				  .aad = (const uint8_t *)aad,
				  .aad_size = strlen(aad) };

	memset(key, key_byte, sizeof key);
	memcpy(item.iv, nonce + AEAD_SALT_BYTES, AEAD_IV_BYTES);
	kernel->expand(state, key);
	aead_xaes_subkey(kernel, subkey, state, (const uint8_t *)nonce);
	kernel->seal_run(subkey, &item, 1);
	assert_memory_equal(out, expected, 12);
	assert_memory_equal(tag, expected + 12, AEAD_TAG_BYTES);
}

static void xaes(void **unused)
{
	static const uint8_t first[28] = { 0xce, 0x54, 0x6e, 0xf6, 0x3c, 0x9c, 0xc6, 0x07, 0x65, 0x92, 0x36, 0x09, 0xb3, 0x3a,
					   0x9a, 0x19, 0x74, 0xe9, 0x6e, 0x52, 0xda, 0xf2, 0xfc, 0xf7, 0x07, 0x5e, 0x22, 0x71 };
	static const uint8_t second[28] = { 0x98, 0x6e, 0xc1, 0x83, 0x25, 0x93, 0xdf, 0x54, 0x43, 0xa1, 0x79, 0x43, 0x7f, 0xd0,
					    0x83, 0xbf, 0x3f, 0xdb, 0x41, 0xab, 0xd7, 0x40, 0xa2, 0x1f, 0x71, 0xeb, 0x76, 0x9d };

	(void)unused;
	check_xaes(0x01, "", first);
	check_xaes(0x03, "c2sp.org/XAES-256-GCM", second);
}

/* FIPS 197, appendix C.3. */
static void one_block(void **unused)
{
	static const uint8_t expected[16] = { 0x8e, 0xa2, 0xb7, 0xca, 0x51, 0x67, 0x45, 0xbf,
					      0xea, 0xfc, 0x49, 0x90, 0x4b, 0x49, 0x60, 0x89 };
	uint8_t key[AEAD_KEY_BYTES];
	uint8_t block[16];

	(void)unused;
	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof block; i++)
		block[i] = (uint8_t)(0x11 * i);
	kernel->expand(state, key);
	kernel->encrypt_block(state, block, block);
	assert_memory_equal(block, expected, sizeof block);
}

static void promises(void **unused)
{
	(void)unused;
	assert_in_range(kernel->key_state_size, 1, AEAD_KEY_STATE_MAX);
	assert_int_equal(kernel->key_state_size % AEAD_KEY_STATE_ALIGN, 0);
	assert_int_equal(aead_self_test(kernel), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cavp_open), cmocka_unit_test(cavp_seal), cmocka_unit_test(xaes),
		cmocka_unit_test(one_block), cmocka_unit_test(promises),
	};

	kernel = kernel_argument(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
