/* A block device in memory, for tests: sparse (terabytes are fine), counts and records calls, fails the n-th call of a class or
 * of a region, stops calls half-way, forgets what was not flushed. All calls are thread-safe; it wants 4 KiB aligned
 * transfers. */
#ifndef FAKES_BLOCK_MEMORY_H
#define FAKES_BLOCK_MEMORY_H

#include "hal/block.h"

enum memory_call { MEMORY_READ, MEMORY_WRITE, MEMORY_FLUSH, MEMORY_DISCARD, MEMORY_CALLS };

/* Closed by its ops->close. Never NULL: a test without memory ends. */
struct block *block_memory_new(uint64_t size);

/* The same bytes again, flushed and unflushed alike all flushed; faults and watches are not copied. */
struct block *block_memory_copy(struct block *b);

/* What a power cut at this very instant would leave, as another device: this one goes on. Seed as in block_memory_cut. */
struct block *block_memory_copy_cut(struct block *b, uint64_t seed);

struct memory_fault {
	enum memory_call call;
	unsigned long nth;   /* 1: the next call that matches; 0: none */
	unsigned long times; /* how many fail from there on; 0: one */
	int error;           /* what they return */
	uint64_t from, to;   /* only calls that touch [from, to); to = 0: any */
	unsigned pages_done; /* a failing write has changed this many pages before it failed */
};

/* One fault at a time; replaces the last. */
void block_memory_fail(struct block *b, struct memory_fault fault);

/* How many calls the present fault has failed. */
unsigned long block_memory_failed(struct block *b);

unsigned long block_memory_calls(struct block *b, enum memory_call call);

/* Called before each call does anything, outside every lock: may block. NULL: none. */
typedef void block_memory_watch_fn(void *context, enum memory_call call, uint64_t at, uint64_t size);
void block_memory_watch(struct block *b, block_memory_watch_fn *fn, void *context);

/* Behind the engine's back: neither counted, failed nor watched. Poked bytes are durable. Any alignment. */
void block_memory_peek(struct block *b, void *out, size_t size, uint64_t at);
void block_memory_poke(struct block *b, const void *in, size_t size, uint64_t at);

/* A power cut: each page written since the last flush keeps its new bytes or falls back, by seed. Seed 0: all fall back. */
void block_memory_cut(struct block *b, uint64_t seed);
size_t block_memory_unflushed(struct block *b);

/* A chain of SHA-256 over every page that is not all zero, in order of address: H(previous || le64 page number || page). */
void block_memory_digest(struct block *b, uint8_t out[static 32]);

/* Does any page hold these bytes? For looking for plaintext and keys on the medium. */
bool block_memory_contains(struct block *b, const void *needle, size_t size);

#endif
