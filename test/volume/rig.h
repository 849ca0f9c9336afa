/* What every test of the volume needs: a ring with a known key, a formatted device in memory, and a way to open it again. */
#ifndef TEST_VOLUME_RIG_H
#define TEST_VOLUME_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fakes/block_memory.h"
#include "volume/volume.h"

struct rig {
	struct block *dev;
	struct keyring *keys;
	struct volume *volume;
	uint8_t uuid[UUID_BYTES];
	uint8_t payload[DEK_PAYLOAD_BYTES];
	uint8_t kcv[KCV_BYTES];
	struct volume_options options;
	char why[256];
};

extern const uint8_t rig_uuid[UUID_BYTES];

void rig_payload(uint8_t payload[static DEK_PAYLOAD_BYTES], uint8_t first_byte, const uint8_t *uuid, uint32_t gen_no);

/* A ring with no deadline in sight and this payload's generation loaded. */
struct keyring *rig_ring(const uint8_t *payload, const uint8_t *uuid, uint32_t gen_no, uint8_t *kcv);

/* Formats a device just large enough for size client bytes, and opens it. */
void rig_make(struct rig *g, uint64_t size);

/* Formats only. */
void rig_format(struct rig *g, uint64_t size);

int rig_open(struct rig *g);
void rig_must_open(struct rig *g);

/* Closes the volume (0 expected) and throws the ring away; the device stays. */
void rig_close(struct rig *g);

/* What a kill at rest does: everything in memory is gone, nothing is written. */
void rig_kill(struct rig *g);

/* All of it. */
void rig_free(struct rig *g);

uint64_t rig_random(uint64_t *state);
void rig_noise(void *out, size_t size, uint64_t seed);
uint64_t rig_now_ns(void);
unsigned long rig_count(const char *name, unsigned long otherwise); /* a number from the environment */

#endif
