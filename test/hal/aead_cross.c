/* A kernel of another processor, run under an emulator: known answers, agreement with `portable` on random messages in both
 * directions and in place, forged tags. What must hold: needs nothing but libc, because nothing else is there for that processor;
 * on the processor itself the kernel has all the other tests. The argument is the kernel's name. */
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/aead.h"

#include "aead_registers.h"

enum { MESSAGES = 1200, TEXT_MAX = 9000, AAD_MAX = 700, FENCE = 0xa5, FENCED = 64 };

static alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t reference_state[AEAD_KEY_STATE_MAX];
static uint64_t seed = 0x9e3779b97f4a7c15;

struct message {
	uint8_t plain[TEXT_MAX], sealed[TEXT_MAX + FENCED], expected[TEXT_MAX], opened[TEXT_MAX + FENCED];
	uint8_t aad[AAD_MAX], tag[AEAD_TAG_BYTES], expected_tag[AEAD_TAG_BYTES];
	size_t size, aad_size;
	uint8_t iv[AEAD_IV_BYTES];
};

static uint64_t random_word(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void random_bytes(uint8_t *out, size_t size)
{
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)(random_word() >> 24);
}

static void require(bool right, const char *what, size_t number)
{
	if (right)
		return;
	printf("message %zu: %s\n", number, what);
	exit(1);
}

/* Every size to 600, then any; a third has the associated data of a sector. */
static void prepare(struct message *m, size_t number)
{
	random_bytes(m->plain, sizeof m->plain);
	random_bytes(m->aad, sizeof m->aad);
	random_bytes(m->iv, sizeof m->iv);
	m->size = number < 600 ? number : (size_t)(random_word() % TEXT_MAX);
	m->aad_size = number % 3 == 0 ? 48 : (size_t)(random_word() % AAD_MAX);
	memset(m->sealed, FENCE, sizeof m->sealed);
	memset(m->opened, FENCE, sizeof m->opened);
}

static struct aead_item item_of(struct message *m, const uint8_t *in, uint8_t *out, uint8_t *tag)
{
	struct aead_item item = { .in = in, .out = out, .tag = tag, .aad = m->aad, .size = m->size, .aad_size = m->aad_size };

	memcpy(item.iv, m->iv, sizeof item.iv);
	return item;
}

static bool is_all(const uint8_t *bytes, size_t size, uint8_t value)
{
	for (size_t i = 0; i < size; i++) {
		if (bytes[i] != value)
			return false;
	}
	return true;
}

static void check_open(const struct aead_kernel *kernel, struct message *m, size_t number)
{
	struct aead_item item = item_of(m, m->sealed, m->opened, m->tag);

	struct registers registers = { 0 };
	size_t bad;

	bad = kernel->open_run(state, &item, 1);
	read_registers(&registers);
	require(bad == 0 && item.good, "a right tag is refused", number);
	require(all_zero(&registers), "open leaves something in a vector register", number);
	require(memcmp(m->opened, m->plain, m->size) == 0, "opens to other bytes", number);
	require(is_all(m->opened + m->size, FENCED, FENCE), "open writes behind its output", number);
	m->tag[number % AEAD_TAG_BYTES] ^= (uint8_t)(1 << number % 8);
	require(kernel->open_run(state, &item, 1) == 1 && !item.good, "a wrong tag is taken", number);
	require(is_all(m->opened, m->size, 0), "a wrong tag leaves bytes", number);
	m->tag[number % AEAD_TAG_BYTES] ^= (uint8_t)(1 << number % 8);
	item.out = m->sealed;
	require(kernel->open_run(state, &item, 1) == 0, "a right tag is refused in place", number);
	require(memcmp(m->sealed, m->plain, m->size) == 0, "opens to other bytes in place", number);
}

static void check_seal(const struct aead_kernel *kernel, struct message *m, size_t number)
{
	const struct aead_kernel *portable = aead_kernel_by_name("portable");
	struct aead_item item = item_of(m, m->plain, m->sealed, m->tag);
	struct aead_item expected = item_of(m, m->plain, m->expected, m->expected_tag);
	struct registers registers = { 0 };
	uint8_t key[AEAD_KEY_BYTES];

	random_bytes(key, sizeof key);
	kernel->expand(state, key);
	portable->expand(reference_state, key);
	kernel->seal_run(state, &item, 1);
	read_registers(&registers);
	require(all_zero(&registers), "seal leaves something in a vector register", number);
	portable->seal_run(reference_state, &expected, 1);
	require(memcmp(m->sealed, m->expected, m->size) == 0, "seals to other bytes", number);
	require(memcmp(m->tag, m->expected_tag, sizeof m->tag) == 0, "has another tag", number);
	require(is_all(m->sealed + m->size, FENCED, FENCE), "seal writes behind its output", number);
}

int main(int argc, char **argv)
{
	const struct aead_kernel *kernel = argc == 2 ? aead_kernel_by_name(argv[1]) : NULL;
	static struct message m;

	if (kernel == NULL) {
		fprintf(stderr, "usage: %s KERNEL\n", argv[0]);
		return 2;
	}
	if (aead_select(kernel->name) != kernel) {
		printf("%s does not give the known answers, or cannot run here\n", kernel->name);
		return 1;
	}
	for (size_t i = 0; i < MESSAGES; i++) {
		prepare(&m, i);
		check_seal(kernel, &m, i);
		check_open(kernel, &m, i);
	}
	printf("%s: known answers and %d messages\n", kernel->name, MESSAGES);
	return 0;
}
