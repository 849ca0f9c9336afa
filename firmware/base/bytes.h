/* Little- and big-endian integers at any alignment, and checked arithmetic for sizes that input can reach. */
#ifndef FALLGATE_BASE_BYTES_H
#define FALLGATE_BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t get_le16(const uint8_t in[static 2])
{
	uint16_t v;

	memcpy(&v, in, sizeof v);
	return le16toh(v);
}

static inline uint32_t get_le32(const uint8_t in[static 4])
{
	uint32_t v;

	memcpy(&v, in, sizeof v);
	return le32toh(v);
}

static inline uint64_t get_le64(const uint8_t in[static 8])
{
	uint64_t v;

	memcpy(&v, in, sizeof v);
	return le64toh(v);
}

static inline void put_le16(uint8_t out[static 2], uint16_t v)
{
	v = htole16(v);
	memcpy(out, &v, sizeof v);
}

static inline void put_le32(uint8_t out[static 4], uint32_t v)
{
	v = htole32(v);
	memcpy(out, &v, sizeof v);
}

static inline void put_le64(uint8_t out[static 8], uint64_t v)
{
	v = htole64(v);
	memcpy(out, &v, sizeof v);
}

static inline uint32_t get_be32(const uint8_t in[static 4])
{
	uint32_t v;

	memcpy(&v, in, sizeof v);
	return be32toh(v);
}

static inline uint64_t get_be64(const uint8_t in[static 8])
{
	uint64_t v;

	memcpy(&v, in, sizeof v);
	return be64toh(v);
}

static inline void put_be32(uint8_t out[static 4], uint32_t v)
{
	v = htobe32(v);
	memcpy(out, &v, sizeof v);
}

static inline void put_be64(uint8_t out[static 8], uint64_t v)
{
	v = htobe64(v);
	memcpy(out, &v, sizeof v);
}

/* a + b and a * b into *out; false, and *out untouched by callers, when the result does not fit. */
static inline bool add_u64(uint64_t *out, uint64_t a, uint64_t b)
{
	return !__builtin_add_overflow(a, b, out);
}

static inline bool mul_u64(uint64_t *out, uint64_t a, uint64_t b)
{
	return !__builtin_mul_overflow(a, b, out);
}

/* 0 if equal; takes the same time wherever the difference is. For tags, MACs and challenges. */
static inline int compare_secret(const void *a, const void *b, size_t size)
{
	const volatile uint8_t *x = a;
	const volatile uint8_t *y = b;
	uint8_t difference = 0;

	for (size_t i = 0; i < size; i++)
		difference = (uint8_t)(difference | (x[i] ^ y[i]));
	return difference;
}

#endif
