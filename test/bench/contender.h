/* Who takes part in the AEAD bench: this project's kernels, other libraries, and bounds such as memcpy. One file each; CMake
 * lists those whose library is there. What must hold: all do the same job, AES-256-GCM over sectors of 4 KiB with 48 bytes of
 * associated data and a fresh nonce each, with a key schedule made once; whatever does less says so in its name. */
#ifndef TEST_BENCH_CONTENDER_H
#define TEST_BENCH_CONTENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { BENCH_SECTOR = 4096, BENCH_AAD = 48, BENCH_KEY = 32, BENCH_IV = 12, BENCH_TAG = 16 };

/* Sectors one after the other; in and out are the same or do not overlap. */
struct job {
	const uint8_t *in;
	uint8_t *out;
	uint8_t *tags; /* BENCH_TAG bytes for each sector: written by seal, read by open */
	const uint8_t *aad;
	uint64_t first_nonce; /* that of the first sector; the next one's is one more */
	size_t sectors;
};

struct contender {
	const char *name;
	/* Takes the key. NULL if ready, else why it cannot take part. */
	const char *(*prepare)(const struct contender *c, const uint8_t key[BENCH_KEY]);
	void (*seal)(const struct contender *c, const struct job *job);
	/* How many sectors had a wrong tag. */
	size_t (*open)(const struct contender *c, const struct job *job);
	void *self;
	bool slow;         /* streams a part only: it does not see the memory anyway */
	bool not_in_place; /* does nothing there */
};

/* Those of this build, NULL-terminated. */
extern const struct contender *const contenders[];

static inline void nonce_of(uint8_t iv[BENCH_IV], uint64_t nonce)
{
	memset(iv, 0x5a, BENCH_IV);
	memcpy(iv, &nonce, sizeof nonce);
}

#endif
