/* The ring alone: who gets a lease, what is left after a wipe, and a subkey cache smaller than the number of salts in use. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

#include "base/error.h"

enum { THREADS = 4, SALTS = 40 };

struct message {
	uint8_t in[64], out[64], back[64], tag[AEAD_TAG_BYTES];
};

static struct aead_item item_of(struct message *m, bool sealing)
{
	struct aead_item item = {
		.size = sizeof m->in, .tag = m->tag, .in = sealing ? m->in : m->out, .out = sealing ? m->out : m->back
	};

	item.iv[0] = 9;
	return item;
}

static int seal(struct keyring *k, struct message *m, uint32_t gen_no, const uint8_t *salt)
{
	struct aead_item item = item_of(m, true);

	return keyring_seal(k, KEY_DATA, gen_no, salt, &item, 1);
}

static int open_message(struct keyring *k, struct message *m, enum key_domain domain, uint32_t gen_no, const uint8_t *salt,
			size_t *bad)
{
	struct aead_item item = item_of(m, false);

	return keyring_open(k, domain, gen_no, salt, &item, 1, bad);
}

static struct keyring *ring(void)
{
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES];

	rig_payload(payload, 0x11, rig_uuid, 1);
	return rig_ring(payload, rig_uuid, 1, kcv);
}

static void without_deadlines_there_is_no_lease(void **state)
{
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES], mac[32], salt[12] = { 1 };
	struct message m = { .in = { 5 } };
	struct keyring *k;

	(void)state;
	rig_payload(payload, 0x11, rig_uuid, 1);
	assert_int_equal(keyring_create(&k, 0, NULL), 0);
	assert_int_equal(keyring_load(k, kcv, payload, rig_uuid, 1), 0);
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	assert_int_equal(keyring_header_mac(k, mac, 1, "x", 1), ERR_REVOKED);
	assert_false(keyring_expired(k));
	keyring_set_deadlines(k, UINT64_MAX, 0);
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	keyring_set_deadlines(k, 0, UINT64_MAX);
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	keyring_set_deadlines(k, UINT64_MAX, UINT64_MAX);
	assert_int_equal(seal(k, &m, 1, salt), 0);
	keyring_set_deadlines(k, UINT64_MAX, rig_now_ns());
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	assert_true(keyring_expired(k));
	keyring_set_deadlines(k, rig_now_ns(), UINT64_MAX);
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	assert_true(keyring_expired(k));
	keyring_destroy(k);
}

static void a_payload_of_another_volume_is_foreign(void **state)
{
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES], other[UUID_BYTES] = { 1 };
	struct keyring *k;

	(void)state;
	rig_payload(payload, 0x11, rig_uuid, 1);
	assert_int_equal(keyring_create(&k, 8, NULL), 0);
	assert_int_equal(keyring_load(k, kcv, payload, other, 1), ERR_FOREIGN);
	assert_int_equal(keyring_load(k, kcv, payload, rig_uuid, 2), ERR_FOREIGN);
	assert_int_equal(keyring_kcv(k, kcv, 1), ERR_NOT_FOUND);
	assert_int_equal(keyring_load(k, kcv, payload, rig_uuid, 1), 0);
	assert_int_equal(keyring_kcv(k, kcv, 1), 0);
	keyring_destroy(k);
}

/* From the formulas in SPEC.md with another HMAC implementation. */
static void known_answers(void **state)
{
	static const uint8_t bind[DEK_BIND_BYTES] = { 0x07, 0x88, 0x3B, 0x65, 0x13, 0x66, 0xAC, 0xF8,
						      0x98, 0x66, 0x1A, 0xBF, 0x5B, 0xDE, 0xE2, 0x28 };
	static const uint8_t kcv_answer[KCV_BYTES] = { 0x10, 0xA2, 0xA9, 0x69, 0x3B, 0x8F, 0x91, 0x2D,
						       0xB2, 0x91, 0x9B, 0x55, 0x90, 0x61, 0x53, 0x9C };
	static const uint8_t mac_answer[32] = { 0xEB, 0x40, 0x84, 0xC2, 0xE2, 0x16, 0x4C, 0x81, 0xB1, 0x28, 0x86,
						0x2C, 0x3E, 0x24, 0xBA, 0x83, 0x8D, 0x90, 0x1F, 0x6A, 0xB1, 0xA3,
						0x3F, 0x5D, 0x54, 0xC0, 0x38, 0x7F, 0x38, 0xDB, 0x8A, 0xCF };
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES], mac[32];
	struct keyring *k;

	(void)state;
	rig_payload(payload, 0x11, rig_uuid, 1);
	assert_memory_equal(payload + DEK_BYTES, bind, sizeof bind);
	k = rig_ring(payload, rig_uuid, 1, kcv);
	assert_memory_equal(kcv, kcv_answer, sizeof kcv);
	assert_int_equal(keyring_header_mac(k, mac, 1, "header", 6), 0);
	assert_memory_equal(mac, mac_answer, sizeof mac);
	keyring_destroy(k);
}

static void domains_generations_and_salts_are_apart(void **state)
{
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES], salt[12] = { 1 }, other[12] = { 2 };
	struct message m = { .in = { 5 } };
	struct keyring *k = ring();
	size_t bad;

	(void)state;
	rig_payload(payload, 0x22, rig_uuid, 2);
	assert_int_equal(keyring_load(k, kcv, payload, rig_uuid, 2), 0);
	assert_int_equal(seal(k, &m, 1, salt), 0);
	assert_int_equal(open_message(k, &m, KEY_DATA, 1, salt, &bad), 0);
	assert_int_equal(bad, 0);
	assert_memory_equal(m.in, m.back, sizeof m.in);
	assert_int_equal(open_message(k, &m, KEY_NODE, 1, salt, &bad), 0);
	assert_int_equal(bad, 1);
	assert_int_equal(m.back[0], 0);
	assert_int_equal(open_message(k, &m, KEY_DATA, 2, salt, &bad), 0);
	assert_int_equal(bad, 1);
	assert_int_equal(open_message(k, &m, KEY_DATA, 1, other, &bad), 0);
	assert_int_equal(bad, 1);
	assert_int_equal(open_message(k, &m, KEY_DATA, 3, salt, &bad), ERR_NOT_FOUND);
	assert_int_equal(open_message(k, &m, KEY_DATA, 0, salt, &bad), ERR_NOT_FOUND);
	keyring_destroy(k);
}

static void four_generations_and_no_fifth(void **state)
{
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES], salt[12] = { 1 };
	struct message m = { .in = { 5 } };
	struct keyring *k = ring();

	(void)state;
	for (uint32_t gen_no = 2; gen_no <= 5; gen_no++) {
		rig_payload(payload, (uint8_t)gen_no, rig_uuid, gen_no);
		assert_int_equal(keyring_load(k, kcv, payload, rig_uuid, gen_no), gen_no == 5 ? ERR_RANGE : 0);
	}
	assert_int_equal(seal(k, &m, 1, salt), 0);
	assert_int_equal(seal(k, &m, 4, salt), 0);
	assert_int_equal(seal(k, &m, 5, salt), ERR_NOT_FOUND);
	keyring_destroy(k);
}

static void shut_admits_the_privileged_thread_only_and_wiped_nobody(void **state)
{
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES], salt[12] = { 1 };
	struct message m = { .in = { 5 } };
	struct keyring *k = ring();
	const uint8_t *memory = keyring_memory(k)->base;

	(void)state;
	keyring_shut(k);
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	rig_payload(payload, 0x22, rig_uuid, 2);
	assert_int_equal(keyring_load(k, kcv, payload, rig_uuid, 2), ERR_STATE);
	keyring_set_deadlines(k, 1, 1);
	keyring_privileged_begin(k);
	assert_int_equal(seal(k, &m, 1, salt), 0);
	keyring_privileged_end(k);
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	keyring_wipe(k);
	for (size_t i = 0; i < keyring_memory(k)->size; i++)
		assert_int_equal(memory[i], 0);
	keyring_privileged_begin(k);
	assert_int_equal(seal(k, &m, 1, salt), ERR_REVOKED);
	keyring_privileged_end(k);
	keyring_wipe(k);
	keyring_destroy(k);
}

/* --- many threads, more salts than the cache holds --------------------------------------------------------------------- */

struct user {
	pthread_t thread;
	struct keyring *keys;
	uint64_t random;
	unsigned long wrong;
	atomic_ulong done;
	int last;
};

static void *use(void *argument)
{
	struct user *u = argument;

	u->last = 0;
	while (u->last == 0) {
		uint8_t salt[12] = { (uint8_t)(rig_random(&u->random) % SALTS) };
		struct message m;
		size_t bad = 0;

		rig_noise(m.in, sizeof m.in, rig_random(&u->random));
		u->last = seal(u->keys, &m, 1, salt);
		if (u->last == 0)
			u->last = open_message(u->keys, &m, KEY_DATA, 1, salt, &bad);
		if (u->last == 0)
			u->wrong += bad != 0 || memcmp(m.in, m.back, sizeof m.in) != 0;
		u->done++;
	}
	return NULL;
}

static void a_busy_ring_is_right_until_it_is_wiped_and_then_empty(void **state)
{
	struct user users[THREADS] = { 0 };
	struct keyring *k = ring();
	const uint8_t *memory = keyring_memory(k)->base;

	(void)state;
	for (unsigned i = 0; i < THREADS; i++) {
		users[i].keys = k;
		users[i].random = 7 + i;
		pthread_create(&users[i].thread, NULL, use, &users[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		while (atomic_load(&users[i].done) < 2) /* a loaded machine starts threads late */
			usleep(1000);
	usleep(60000);
	keyring_wipe(k);
	for (size_t i = 0; i < keyring_memory(k)->size; i++)
		assert_int_equal(memory[i], 0);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(users[i].thread, NULL);
		assert_int_equal(users[i].wrong, 0);
		assert_int_equal(users[i].last, ERR_REVOKED);
		assert_true(users[i].done > 1);
	}
	keyring_destroy(k);
}

/* --- a wipe in the middle of a long run -------------------------------------------------------------------------------- */

struct long_run {
	pthread_t thread;
	struct keyring *keys;
	struct aead_item items[AEAD_RUN_MAX];
	uint8_t in[4096], out[AEAD_RUN_MAX][4096], tags[AEAD_RUN_MAX][AEAD_TAG_BYTES];
	uint8_t expected[AEAD_TAG_BYTES];
	atomic_bool going;
	unsigned long wrong;
};

static int seal_long(struct long_run *l)
{
	uint8_t salt[12] = { 3 };

	for (size_t i = 0; i < AEAD_RUN_MAX; i++)
		l->items[i] = (struct aead_item){ .in = l->in, .out = l->out[i], .tag = l->tags[i], .size = sizeof l->in };
	return keyring_seal(l->keys, KEY_DATA, 1, salt, l->items, AEAD_RUN_MAX);
}

static void *seal_until_refused(void *argument)
{
	struct long_run *l = argument;

	while (seal_long(l) == 0) {
		atomic_store(&l->going, true);
		for (size_t i = 0; i < AEAD_RUN_MAX; i++)
			l->wrong += memcmp(l->tags[i], l->expected, AEAD_TAG_BYTES) != 0;
	}
	return NULL;
}

static void a_wipe_waits_for_the_run_under_way(void **state)
{
	static struct long_run l;

	(void)state;
	for (unsigned round = 0; round < 30; round++) {
		l.keys = ring();
		l.going = false;
		assert_int_equal(seal_long(&l), 0);
		memcpy(l.expected, l.tags[0], AEAD_TAG_BYTES);
		pthread_create(&l.thread, NULL, seal_until_refused, &l);
		while (!atomic_load(&l.going))
			usleep(50);
		usleep(200 + round * 13);
		keyring_wipe(l.keys);
		pthread_join(l.thread, NULL);
		assert_int_equal(l.wrong, 0);
		keyring_destroy(l.keys);
	}
}

static void a_run_is_at_most_64(void **state)
{
	static struct aead_item items[AEAD_RUN_MAX + 1];
	struct keyring *k = ring();
	uint8_t salt[12] = { 1 };

	(void)state;
	assert_int_equal(keyring_seal(k, KEY_DATA, 1, salt, items, AEAD_RUN_MAX + 1), ERR_RANGE);
	assert_int_equal(keyring_seal(k, KEY_HDR, 1, salt, items, 0), ERR_RANGE);
	keyring_destroy(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_deadlines_there_is_no_lease),
		cmocka_unit_test(shut_admits_the_privileged_thread_only_and_wiped_nobody),
		cmocka_unit_test(a_busy_ring_is_right_until_it_is_wiped_and_then_empty),
		cmocka_unit_test(a_wipe_waits_for_the_run_under_way),
		cmocka_unit_test(a_payload_of_another_volume_is_foreign),
		cmocka_unit_test(known_answers),
		cmocka_unit_test(domains_generations_and_salts_are_apart),
		cmocka_unit_test(four_generations_and_no_fifth),
		cmocka_unit_test(a_run_is_at_most_64),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
