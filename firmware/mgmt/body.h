/* CBOR bodies, strict and bounded: what the network process and the command line client read and write.
 * What must hold: a body that body_decode accepts is one definite-length item in the shortest form, well-formed UTF-8, map keys
 * are texts and differ, no tags, no floats, no more depth or items than the caller gave room for, nothing after it. Encoding such
 * a body again gives the same bytes (the tests hold it to that). Items point into the input: keep it as long as they are used. */
#ifndef FALLGATE_MGMT_BODY_H
#define FALLGATE_MGMT_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BODY_DEPTH_MAX = 6 };

enum body_type { BODY_UINT, BODY_NEGATIVE, BODY_BYTES, BODY_TEXT, BODY_ARRAY, BODY_MAP, BODY_BOOL, BODY_NULL };

struct body_item {
	enum body_type type;
	uint32_t next;        /* index of the first item behind this one and all it contains */
	uint64_t number;      /* UINT; NEGATIVE: the value is -1 - number; BOOL: 0 or 1; ARRAY, MAP: how many elements or pairs */
	const uint8_t *bytes; /* BYTES, TEXT */
	size_t size;
};

struct body {
	struct body_item *items; /* the caller's; item 0 is the root, children follow their parent */
	uint32_t room;
	uint32_t count;
	const char *fault; /* after a refusal: which rule was broken */
};

/* 0, or ERR_PROTOCOL with body->fault set. items and room are the caller's to set. */
int body_decode(struct body *b, const uint8_t *in, size_t size);

/* The value under a key; NULL if map is NULL or no map, or there is no such key. */
const struct body_item *body_find(const struct body *b, const struct body_item *map, const char *key);

/* The first element (or key) of an array or map, and the sibling behind an item; the caller counts to number. */
const struct body_item *body_first(const struct body_item *container);
const struct body_item *body_behind(const struct body *b, const struct body_item *item);

/* Copies a text with its NUL: false if item is NULL or no text, holds a NUL, or does not fit. */
bool body_text(const struct body_item *item, char *out, size_t size);
bool body_uint(const struct body_item *item, uint64_t *out);
bool body_bool(const struct body_item *item, bool *out);

struct body_out {
	uint8_t *at;
	size_t size;
	size_t used;
	bool bad; /* it did not fit, or the maps do not close: body_finish says so */
	unsigned depth;
	struct {
		size_t head;
		unsigned pairs;
	} maps[BODY_DEPTH_MAX];
};

void body_begin(struct body_out *o, uint8_t *buffer, size_t size);

/* Maps count their pairs by themselves (at most 23); arrays say beforehand how many. */
void body_map_open(struct body_out *o);
void body_map_close(struct body_out *o);
void body_array(struct body_out *o, size_t elements);
void body_key(struct body_out *o, const char *key);

void body_put_uint(struct body_out *o, uint64_t value);
void body_put_int(struct body_out *o, int64_t value);
void body_put_bool(struct body_out *o, bool value);
void body_put_bytes(struct body_out *o, const void *bytes, size_t size);
/* Bytes that are not UTF-8 go out as '?'. */
void body_put_text(struct body_out *o, const char *text);

/* Shorthands for a pair of a map. */
void body_pair_text(struct body_out *o, const char *key, const char *text);
void body_pair_uint(struct body_out *o, const char *key, uint64_t value);
void body_pair_bool(struct body_out *o, const char *key, bool value);

/* One decoded item again, with all it contains. */
void body_put_item(struct body_out *o, const struct body *b, const struct body_item *item);

/* The size of the whole body, or ERR_NOSPACE. */
int body_finish(const struct body_out *o);

#endif
