/* Random bytes with a start-up test and continuous ones. What must hold: once the source has failed nothing is ever handed out
 * again; nothing that was handed out is kept: every call first draws a witness block that is used for comparison only. */
#include <hal/entropy.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "entropy_health.h"
#include "entropy_source.h"

enum { BLOCK_BYTES = 16, CHUNK_BYTES = 256, SEED_SAY_MS = 2000 };

/* File-level state: there is one source, and its failure holds for the whole process. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t last_witness[BLOCK_BYTES];
static bool have_witness;
static struct entropy_health health = { .claim = &entropy_eight_bits };
static bool started, broken;

/* All bytes the same: by chance once in 2^120 blocks. */
static bool constant(const uint8_t *block)
{
	return memcmp(block, block + 1, BLOCK_BYTES - 1) == 0;
}

static bool block_good(const uint8_t *block, const uint8_t *before)
{
	return !constant(block) && memcmp(block, before, BLOCK_BYTES) != 0;
}

/* A source that starts over, or that stands still, gives the same first block again. */
static bool draw_witness(void)
{
	uint8_t witness[BLOCK_BYTES];

	if (!entropy_source(witness, sizeof witness) || constant(witness) || !entropy_health(&health, witness, sizeof witness))
		return false;
	if (have_witness && memcmp(witness, last_witness, sizeof witness) == 0)
		return false;
	memcpy(last_witness, witness, sizeof witness);
	have_witness = true;
	return true;
}

/* Whole blocks are drawn and compared even if only a part is wanted. before: the last block of the chunk before. */
static bool draw_chunk(uint8_t *out, size_t size, uint8_t before[BLOCK_BYTES])
{
	uint8_t chunk[CHUNK_BYTES];
	size_t drawn = (size + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
	bool good = entropy_source(chunk, drawn) && entropy_health(&health, chunk, drawn) && block_good(chunk, before);

	for (size_t at = BLOCK_BYTES; good && at < drawn; at += BLOCK_BYTES)
		good = block_good(chunk + at, chunk + at - BLOCK_BYTES);
	if (good) {
		memcpy(out, chunk, size);
		memcpy(before, chunk + drawn - BLOCK_BYTES, BLOCK_BYTES);
	}
	explicit_bzero(chunk, sizeof chunk);
	return good;
}

static bool fill(uint8_t *out, size_t size)
{
	uint8_t before[BLOCK_BYTES];
	bool good = draw_witness();
	size_t n;

	memcpy(before, last_witness, sizeof before);
	for (; good && size > 0; out += n, size -= n) {
		n = size < CHUNK_BYTES ? size : CHUNK_BYTES;
		good = draw_chunk(out, n, before);
	}
	explicit_bzero(before, sizeof before);
	return good;
}

/* Drawn, judged, and never used. */
static bool start_up(void)
{
	uint8_t unused[ENTROPY_START_BYTES];

	if (started)
		return true;
	started = fill(unused, sizeof unused);
	explicit_bzero(unused, sizeof unused);
	return started;
}

/* A reader that waits is what makes Linux gather noise of its own where it has no source: so one waits, and is left behind if
 * need be. */
static void *wait_for_seed(void *context)
{
	uint8_t unused[BLOCK_BYTES];

	(void)context;
	entropy_source(unused, sizeof unused);
	explicit_bzero(unused, sizeof unused);
	return NULL;
}

static bool seeded_within(unsigned wait_ms)
{
	unsigned first_ms = wait_ms < SEED_SAY_MS ? wait_ms : SEED_SAY_MS;
	pthread_t thread;

	if (thread_start(&thread, wait_for_seed, NULL) != 0)
		return false;
	if (thread_joined_within(thread, first_ms))
		return true;
	log_notice("entropy: the kernel's generator is not seeded yet: waiting");
	if (thread_joined_within(thread, wait_ms - first_ms))
		return true;
	pthread_detach(thread);
	return false;
}

int entropy_start(unsigned wait_ms)
{
	unsigned char byte;

	if (seeded_within(wait_ms))
		return entropy_fill(&byte, sizeof byte);
	log_error("entropy: the kernel's generator is not seeded after %u s: this machine needs a source of noise",
		  wait_ms / 1000);
	return ERR_TIMEOUT;
}

int entropy_fill(void *out, size_t size)
{
	bool good;

	pthread_mutex_lock(&lock);
	good = !broken && start_up() && fill(out, size);
	if (!good && !broken)
		log_error(
			"entropy: the kernel's generator failed its health check: no key is made until this process starts anew");
	broken = !good;
	pthread_mutex_unlock(&lock);
	if (!good)
		explicit_bzero(out, size);
	return good ? 0 : ERR_UNSUPPORTED;
}
