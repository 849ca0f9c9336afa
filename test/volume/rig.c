/* See rig.h. Nothing in here is random: uuid, key and noise follow from constants and seeds. */
#include "rig.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"

const uint8_t rig_uuid[UUID_BYTES] = { 0x46, 0x47, 1, 2, 3, 4, 0x45, 6, 0x87, 8, 9, 10, 11, 12, 13, 14 };

void rig_payload(uint8_t payload[static DEK_PAYLOAD_BYTES], uint8_t first_byte, const uint8_t *uuid, uint32_t gen_no)
{
	for (unsigned i = 0; i < DEK_BYTES; i++)
		payload[i] = (uint8_t)(first_byte + 7 * i);
	keyring_bind(payload + DEK_BYTES, uuid, gen_no);
}

struct keyring *rig_ring(const uint8_t *payload, const uint8_t *uuid, uint32_t gen_no, uint8_t *kcv)
{
	struct keyring *k;

	assert_int_equal(keyring_create(&k, 8, getenv("FALLGATE_TEST_KERNEL")), 0);
	assert_int_equal(keyring_load(k, kcv, payload, uuid, gen_no), 0);
	keyring_set_deadlines(k, UINT64_MAX, UINT64_MAX);
	return k;
}

void rig_format(struct rig *g, uint64_t size)
{
	struct volume_format f = {
		.size = size,
		.label = "rig",
		.now = 1700000000,
		.slot = { .type = KEK_SLOT_AES_KW,
			  .gen_no = 1,
			  .wrapped_size = 56,
			  .label = "kek",
			  .token = "token",
			  .id_size = 2,
			  .id = { 0xAB, 0xCD } },
	};

	memset(g, 0, sizeof *g);
	memcpy(g->uuid, rig_uuid, UUID_BYTES);
	memcpy(f.uuid, g->uuid, UUID_BYTES);
	memset(f.slot.wrapped, 0x5A, f.slot.wrapped_size);
	memset(f.slot.fingerprint, 0xF1, sizeof f.slot.fingerprint);
	rig_payload(g->payload, 0x11, g->uuid, 1);
	g->dev = block_memory_new(volume_backing_size(size));
	g->keys = rig_ring(g->payload, g->uuid, 1, g->kcv);
	assert_int_equal(volume_format(g->dev, g->keys, &f), 0);
	keyring_destroy(g->keys);
	g->keys = NULL;
}

int rig_open(struct rig *g)
{
	uint8_t kcv[KCV_BYTES];

	g->keys = rig_ring(g->payload, g->uuid, 1, kcv);
	g->options.kcv = g->kcv;
	return volume_open(&g->volume, g->dev, g->keys, &g->options, g->why, sizeof g->why);
}

void rig_must_open(struct rig *g)
{
	int r = rig_open(g);

	if (r != 0)
		print_error("open: %d (%s)\n", r, g->why);
	assert_int_equal(r, 0);
}

void rig_make(struct rig *g, uint64_t size)
{
	rig_format(g, size);
	rig_must_open(g);
}

void rig_close(struct rig *g)
{
	assert_int_equal(volume_close(g->volume), 0);
	g->volume = NULL;
	keyring_destroy(g->keys);
	g->keys = NULL;
}

/* A close can write nothing when the keys are gone first. */
void rig_kill(struct rig *g)
{
	if (g->volume != NULL) {
		keyring_wipe(g->keys);
		(void)volume_close(g->volume);
	}
	g->volume = NULL;
	keyring_destroy(g->keys);
	g->keys = NULL;
}

void rig_free(struct rig *g)
{
	rig_kill(g);
	if (g->dev != NULL)
		g->dev->ops->close(g->dev);
	g->dev = NULL;
}

uint64_t rig_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * UINT64_C(0x2545F4914F6CDD1D) >> 11;
}

void rig_noise(void *out, size_t size, uint64_t seed)
{
	uint8_t *p = out;
	uint64_t state = seed * 2 + 1;

	for (; size >= 8; size -= 8, p += 8)
		put_le64(p, rig_random(&state) << 11 ^ state);
	for (; size > 0; size--)
		*p++ = (uint8_t)rig_random(&state);
}

uint64_t rig_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

unsigned long rig_count(const char *name, unsigned long otherwise)
{
	const char *text = getenv(name);

	return text == NULL ? otherwise : strtoul(text, NULL, 10);
}
