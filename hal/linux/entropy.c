/* Random bytes with a continuous health check. What must hold: once the source has repeated itself nothing is ever handed out
 * again; nothing that was handed out is kept: every call first draws a witness block that is used for comparison only. */
#include <hal/entropy.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "entropy_source.h"

enum { BLOCK_BYTES = 16, CHUNK_BYTES = 256 };

/* File-level state: there is one source, and its failure holds for the whole process. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t last_witness[BLOCK_BYTES];
static bool have_witness;
static bool broken;

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

	if (!entropy_source(witness, sizeof witness) || constant(witness))
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
	bool good = entropy_source(chunk, drawn) && block_good(chunk, before);

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

int entropy_fill(void *out, size_t size)
{
	bool good;

	pthread_mutex_lock(&lock);
	good = !broken && fill(out, size);
	if (!good && !broken)
		log_error(
			"entropy: the kernel's generator failed its health check: no key is made until this process starts anew");
	broken = !good;
	pthread_mutex_unlock(&lock);
	if (!good)
		explicit_bzero(out, size);
	return good ? 0 : ERR_UNSUPPORTED;
}
