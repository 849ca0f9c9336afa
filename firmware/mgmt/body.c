/* The codec over libcbor's streaming decoder and its encoders. libcbor checks neither the shortest form nor UTF-8 and believes a
 * length of 2^64-1, so every head is looked at here before libcbor sees it. */
#include "body.h"

#include <string.h>

#include <cbor.h>

#include "base/error.h"

struct decoder {
	struct body *body;
	const uint8_t *at;
	size_t left;
};

struct head {
	uint8_t major;
	uint64_t argument;
	size_t size;
};

static int refuse(struct body *b, const char *fault)
{
	b->fault = fault;
	return ERR_PROTOCOL;
}

/* ---- UTF-8 ---- */

/* Bytes of the good sequence at the front, 0 if there is none. Table 3-7 of the Unicode standard: no overlong forms, no
 * surrogates, nothing above U+10FFFF. */
static size_t utf8_sequence(const uint8_t *s, size_t left)
{
	uint8_t low = 0x80, high = 0xbf;
	size_t size;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		size = 2;
	else if (s[0] >= 0xe0 && s[0] <= 0xef)
		size = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		size = 4;
	else
		return 0;
	if (s[0] == 0xe0)
		low = 0xa0;
	else if (s[0] == 0xed)
		high = 0x9f;
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f;
	if (left < size || s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < size; i++)
		if (s[i] < 0x80 || s[i] > 0xbf)
			return 0;
	return size;
}

static bool utf8_good(const uint8_t *s, size_t size)
{
	while (size > 0) {
		size_t n = utf8_sequence(s, size);

		if (n == 0)
			return false;
		s += n;
		size -= n;
	}
	return true;
}

/* ---- decoding ---- */

static bool shortest(uint8_t info, uint64_t argument)
{
	static const uint64_t least[] = {
		[24] = 24, [25] = UINT8_MAX + 1ull, [26] = UINT16_MAX + 1ull, [27] = UINT32_MAX + 1ull
	};

	return info < 24 || argument >= least[info];
}

/* The initial byte and its argument. */
static int read_head(const struct decoder *d, struct head *h)
{
	uint8_t info;
	size_t extra;

	if (d->left == 0)
		return refuse(d->body, "the body ends too early");
	h->major = d->at[0] >> 5;
	info = d->at[0] & 31;
	if (info > 27)
		return refuse(d->body, info == 31 ? "an indefinite length" : "a reserved initial byte");
	extra = info < 24 ? 0 : (size_t)1 << (info - 24);
	if (d->left - 1 < extra)
		return refuse(d->body, "the body ends too early");
	h->argument = extra == 0 ? info : 0;
	for (size_t i = 0; i < extra; i++)
		h->argument = h->argument << 8 | d->at[1 + i];
	h->size = 1 + extra;
	if (h->major < 6 && !shortest(info, h->argument))
		return refuse(d->body, "a number or length that is not in its shortest form");
	return 0;
}

/* What may not come at all, and lengths against what is left: afterwards libcbor can be trusted with the item. */
static int check_head(const struct decoder *d, const struct head *h)
{
	size_t left = d->left - h->size;

	switch (h->major) {
	case 2:
	case 3:
		return h->argument <= left ? 0 : refuse(d->body, "a string longer than the body");
	case 4:
		return h->argument <= left ? 0 : refuse(d->body, "an array longer than the body");
	case 5:
		return h->argument <= left / 2 ? 0 : refuse(d->body, "a map longer than the body");
	case 6:
		return refuse(d->body, "a tag");
	case 7:
		if (h->size == 1 && h->argument >= 20 && h->argument <= 22)
			return 0;
		return refuse(d->body, "a float, undefined or an unknown simple value");
	default:
		return 0;
	}
}

static void on_uint8(void *item, uint8_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_UINT, .number = v };
}

static void on_uint16(void *item, uint16_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_UINT, .number = v };
}

static void on_uint32(void *item, uint32_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_UINT, .number = v };
}

static void on_uint64(void *item, uint64_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_UINT, .number = v };
}

static void on_negative8(void *item, uint8_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_NEGATIVE, .number = v };
}

static void on_negative16(void *item, uint16_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_NEGATIVE, .number = v };
}

static void on_negative32(void *item, uint32_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_NEGATIVE, .number = v };
}

static void on_negative64(void *item, uint64_t v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_NEGATIVE, .number = v };
}

static void on_bytes(void *item, cbor_data bytes, size_t size)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_BYTES, .bytes = bytes, .size = size };
}

static void on_text(void *item, cbor_data bytes, size_t size)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_TEXT, .bytes = bytes, .size = size };
}

static void on_array(void *item, size_t elements)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_ARRAY, .number = elements };
}

static void on_map(void *item, size_t pairs)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_MAP, .number = pairs };
}

static void on_bool(void *item, bool v)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_BOOL, .number = v };
}

static void on_null(void *item)
{
	*(struct body_item *)item = (struct body_item){ .type = BODY_NULL };
}

/* One item by libcbor, into the next free slot. */
static int take_item(struct decoder *d, struct body_item **out)
{
	struct cbor_callbacks on = cbor_empty_callbacks;
	struct cbor_decoder_result r;
	struct head h;
	int error = read_head(d, &h);

	if (error == 0)
		error = check_head(d, &h);
	if (error != 0)
		return error;
	if (d->body->count >= d->body->room)
		return refuse(d->body, "more items than this body may have");
	on.uint8 = on_uint8;
	on.uint16 = on_uint16;
	on.uint32 = on_uint32;
	on.uint64 = on_uint64;
	on.negint8 = on_negative8;
	on.negint16 = on_negative16;
	on.negint32 = on_negative32;
	on.negint64 = on_negative64;
	on.byte_string = on_bytes;
	on.string = on_text;
	on.array_start = on_array;
	on.map_start = on_map;
	on.boolean = on_bool;
	on.null = on_null;
	*out = &d->body->items[d->body->count];
	r = cbor_stream_decode(d->at, d->left, &on, *out);
	if (r.status != CBOR_DECODER_FINISHED || r.read > d->left)
		return refuse(d->body, "not CBOR");
	d->body->count++;
	d->at += r.read;
	d->left -= r.read;
	return 0;
}

static bool same_text(const struct body_item *a, const struct body_item *b)
{
	return a->size == b->size && (a->size == 0 || memcmp(a->bytes, b->bytes, a->size) == 0);
}

/* The key just read, against the ones before it in the same map. */
static int check_key(const struct decoder *d, uint32_t first, uint32_t key)
{
	struct body_item *items = d->body->items;

	if (items[key].type != BODY_TEXT)
		return refuse(d->body, "a map key that is not a text");
	for (uint32_t i = first; i < key; i = items[i + 1].next)
		if (same_text(&items[i], &items[key]))
			return refuse(d->body, "the same map key twice");
	return 0;
}

static int decode_item(struct decoder *d, unsigned depth);

static int decode_map(struct decoder *d, const struct body_item *map, unsigned depth)
{
	uint32_t first = d->body->count;
	int error = 0;

	for (uint64_t i = 0; i < map->number && error == 0; i++) {
		uint32_t key = d->body->count;

		error = decode_item(d, depth + 1);
		if (error == 0)
			error = check_key(d, first, key);
		if (error == 0)
			error = decode_item(d, depth + 1);
	}
	return error;
}

static int decode_item(struct decoder *d, unsigned depth)
{
	struct body_item *item;
	int error;

	if (depth >= BODY_DEPTH_MAX)
		return refuse(d->body, "too deep");
	error = take_item(d, &item);
	if (error != 0)
		return error;
	if (item->type == BODY_TEXT && !utf8_good(item->bytes, item->size))
		return refuse(d->body, "a text that is not UTF-8");
	if (item->type == BODY_MAP)
		error = decode_map(d, item, depth);
	else if (item->type == BODY_ARRAY)
		for (uint64_t i = 0; i < item->number && error == 0; i++)
			error = decode_item(d, depth + 1);
	item->next = d->body->count;
	return error;
}

int body_decode(struct body *b, const uint8_t *in, size_t size)
{
	struct decoder d = { .body = b, .at = in, .left = size };
	int error;

	b->count = 0;
	b->fault = NULL;
	error = decode_item(&d, 0);
	if (error == 0 && d.left > 0)
		error = refuse(b, "something behind the body");
	if (error != 0)
		b->count = 0;
	return error;
}

const struct body_item *body_first(const struct body_item *container)
{
	return container + 1;
}

const struct body_item *body_behind(const struct body *b, const struct body_item *item)
{
	return &b->items[item->next];
}

const struct body_item *body_find(const struct body *b, const struct body_item *map, const char *key)
{
	const struct body_item *at;
	size_t size = strlen(key);

	if (map == NULL || map->type != BODY_MAP || b->count == 0)
		return NULL;
	at = body_first(map);
	for (uint64_t i = 0; i < map->number; i++) {
		if (at->size == size && memcmp(at->bytes, key, size) == 0)
			return at + 1;
		at = body_behind(b, at + 1);
	}
	return NULL;
}

bool body_text(const struct body_item *item, char *out, size_t size)
{
	if (item == NULL || item->type != BODY_TEXT || item->size >= size)
		return false;
	if (item->size > 0 && memchr(item->bytes, '\0', item->size) != NULL)
		return false;
	if (item->size > 0)
		memcpy(out, item->bytes, item->size);
	out[item->size] = '\0';
	return true;
}

bool body_uint(const struct body_item *item, uint64_t *out)
{
	if (item == NULL || item->type != BODY_UINT)
		return false;
	*out = item->number;
	return true;
}

bool body_bool(const struct body_item *item, bool *out)
{
	if (item == NULL || item->type != BODY_BOOL)
		return false;
	*out = item->number != 0;
	return true;
}

/* ---- encoding ---- */

void body_begin(struct body_out *o, uint8_t *buffer, size_t size)
{
	*o = (struct body_out){ .at = buffer, .size = size };
}

/* libcbor's encoders say 0 when there is no room. */
static void wrote(struct body_out *o, size_t n)
{
	if (n == 0)
		o->bad = true;
	o->used += n;
}

static uint8_t *here(struct body_out *o)
{
	return o->at + o->used;
}

static size_t room(const struct body_out *o)
{
	return o->bad ? 0 : o->size - o->used;
}

static void put_raw(struct body_out *o, const void *bytes, size_t size)
{
	if (size > room(o)) {
		o->bad = true;
		return;
	}
	if (size > 0)
		memcpy(here(o), bytes, size);
	o->used += size;
}

void body_map_open(struct body_out *o)
{
	if (o->depth >= BODY_DEPTH_MAX) {
		o->bad = true;
		return;
	}
	o->maps[o->depth].head = o->used;
	o->maps[o->depth].pairs = 0;
	o->depth++;
	wrote(o, cbor_encode_map_start(0, here(o), room(o)));
}

void body_map_close(struct body_out *o)
{
	unsigned pairs;

	if (o->bad || o->depth == 0) {
		o->bad = true;
		return;
	}
	o->depth--;
	pairs = o->maps[o->depth].pairs;
	if (pairs > 23)
		o->bad = true;
	else
		o->at[o->maps[o->depth].head] = (uint8_t)(0xa0u | pairs);
}

void body_array(struct body_out *o, size_t elements)
{
	wrote(o, cbor_encode_array_start(elements, here(o), room(o)));
}

void body_key(struct body_out *o, const char *key)
{
	if (o->depth == 0) {
		o->bad = true;
		return;
	}
	o->maps[o->depth - 1].pairs++;
	body_put_text(o, key);
}

void body_put_uint(struct body_out *o, uint64_t value)
{
	wrote(o, cbor_encode_uint(value, here(o), room(o)));
}

void body_put_int(struct body_out *o, int64_t value)
{
	if (value >= 0)
		body_put_uint(o, (uint64_t)value);
	else
		wrote(o, cbor_encode_negint((uint64_t)(-1 - value), here(o), room(o)));
}

void body_put_bool(struct body_out *o, bool value)
{
	wrote(o, cbor_encode_bool(value, here(o), room(o)));
}

void body_put_bytes(struct body_out *o, const void *bytes, size_t size)
{
	wrote(o, cbor_encode_bytestring_start(size, here(o), room(o)));
	put_raw(o, bytes, size);
}

void body_put_text(struct body_out *o, const char *text)
{
	const uint8_t *s = (const uint8_t *)text;
	size_t left = strlen(text);

	wrote(o, cbor_encode_string_start(left, here(o), room(o)));
	while (left > 0 && !o->bad) {
		size_t n = utf8_sequence(s, left);

		put_raw(o, n == 0 ? (const void *)"?" : (const void *)s, n == 0 ? 1 : n);
		n = n == 0 ? 1 : n;
		s += n;
		left -= n;
	}
}

void body_pair_text(struct body_out *o, const char *key, const char *text)
{
	body_key(o, key);
	body_put_text(o, text);
}

void body_pair_uint(struct body_out *o, const char *key, uint64_t value)
{
	body_key(o, key);
	body_put_uint(o, value);
}

void body_pair_bool(struct body_out *o, const char *key, bool value)
{
	body_key(o, key);
	body_put_bool(o, value);
}

static void put_head_and_children(struct body_out *o, const struct body *b, const struct body_item *item)
{
	uint64_t children = item->type == BODY_MAP ? item->number * 2 : item->number;
	const struct body_item *child = body_first(item);

	if (item->type == BODY_MAP)
		wrote(o, cbor_encode_map_start((size_t)item->number, here(o), room(o)));
	else
		body_array(o, (size_t)item->number);
	for (uint64_t i = 0; i < children; i++) {
		body_put_item(o, b, child);
		child = body_behind(b, child);
	}
}

void body_put_item(struct body_out *o, const struct body *b, const struct body_item *item)
{
	switch (item->type) {
	case BODY_UINT:
		body_put_uint(o, item->number);
		break;
	case BODY_NEGATIVE:
		wrote(o, cbor_encode_negint(item->number, here(o), room(o)));
		break;
	case BODY_BYTES:
		body_put_bytes(o, item->bytes, item->size);
		break;
	case BODY_TEXT:
		wrote(o, cbor_encode_string_start(item->size, here(o), room(o)));
		put_raw(o, item->bytes, item->size);
		break;
	case BODY_BOOL:
		body_put_bool(o, item->number != 0);
		break;
	case BODY_NULL:
		wrote(o, cbor_encode_null(here(o), room(o)));
		break;
	case BODY_ARRAY:
	case BODY_MAP:
		put_head_and_children(o, b, item);
		break;
	}
}

int body_finish(const struct body_out *o)
{
	if (o->bad || o->depth != 0 || o->used > INT32_MAX)
		return ERR_NOSPACE;
	return (int)o->used;
}
