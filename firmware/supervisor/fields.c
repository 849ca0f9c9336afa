/* See fields.h. Numbers are decimal and have one spelling; texts are printable ASCII. */
#include "fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void hex_write(char *out, const uint8_t *in, size_t size)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < size; i++) {
		out[2 * i] = digits[in[i] >> 4];
		out[2 * i + 1] = digits[in[i] & 15];
	}
	out[2 * size] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool hex_read(uint8_t *out, size_t size, const char *in)
{
	if (strlen(in) != 2 * size)
		return false;
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(in[2 * i]), low = hex_digit(in[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static uint64_t get_number(const struct field_row *row, const uint8_t *at)
{
	uint64_t u64 = 0;
	uint32_t u32;
	uint16_t u16;

	if (row->type == FIELD_U64) {
		memcpy(&u64, at, sizeof u64);
		return u64;
	}
	if (row->type == FIELD_U32 || row->type == FIELD_ENUM) {
		memcpy(&u32, at, sizeof u32);
		return u32;
	}
	if (row->type == FIELD_U16) {
		memcpy(&u16, at, sizeof u16);
		return u16;
	}
	return *at;
}

static bool put_number(const struct field_row *row, uint8_t *at, const char *value)
{
	uint64_t limit = row->max != 0            ? row->max
			 : row->type == FIELD_U64 ? UINT64_MAX
			 : row->type == FIELD_U32 ? UINT32_MAX
			 : row->type == FIELD_U16 ? UINT16_MAX
						  : UINT8_MAX;
	char *end, again[24];
	uint64_t n = strtoull(value, &end, 10);
	uint32_t u32 = (uint32_t)n;
	uint16_t u16 = (uint16_t)n;

	snprintf(again, sizeof again, "%llu", (unsigned long long)n);
	if (*end != '\0' || strcmp(again, value) != 0 || n > limit)
		return false;
	if (row->type == FIELD_U64)
		memcpy(at, &n, sizeof n);
	else if (row->type == FIELD_U32 || row->type == FIELD_ENUM)
		memcpy(at, &u32, sizeof u32);
	else if (row->type == FIELD_U16)
		memcpy(at, &u16, sizeof u16);
	else
		*at = (uint8_t)n;
	return true;
}

static size_t count_of(const struct field_row *row, const uint8_t *base)
{
	uint16_t count = row->size;

	if (row->type == FIELD_HEX_N)
		memcpy(&count, base + row->count_at, sizeof count);
	return count <= row->size ? count : 0;
}

static bool write_value(const struct field_row *row, const uint8_t *base, char *out, size_t size)
{
	const uint8_t *at = base + row->at;
	size_t count = count_of(row, base);

	if (row->type == FIELD_TEXT)
		return snprintf(out, size, "%s", (const char *)at) < (int)size;
	if (row->type == FIELD_HEX || row->type == FIELD_HEX_N) {
		if (2 * count >= size)
			return false;
		hex_write(out, at, count);
		return true;
	}
	return snprintf(out, size, "%llu", (unsigned long long)get_number(row, at)) < (int)size;
}

bool fields_write(const struct field_row *rows, const void *in, char *out, size_t size)
{
	size_t used = 0;

	for (const struct field_row *row = rows; row->key != NULL; row++) {
		int n = snprintf(out + used, size - used, "%s=", row->key);

		if (n < 0 || (size_t)n >= size - used)
			return false;
		used += (size_t)n;
		if (!write_value(row, in, out + used, size - used))
			return false;
		used += strlen(out + used);
		if (used + 2 > size)
			return false;
		out[used++] = '\n';
		out[used] = '\0';
	}
	return true;
}

static bool text_good(const char *value, size_t size)
{
	if (strlen(value) >= size)
		return false;
	for (const char *p = value; *p != '\0'; p++)
		if (*p < ' ' || *p > '~')
			return false;
	return true;
}

static bool read_value(const struct field_row *row, uint8_t *base, const char *value)
{
	switch (row->type) {
	case FIELD_TEXT:
		if (!text_good(value, row->size))
			return false;
		strcpy((char *)base + row->at, value);
		return true;
	case FIELD_HEX:
		return hex_read(base + row->at, row->size, value);
	case FIELD_HEX_N:
		return strlen(value) == 2 * count_of(row, base) && hex_read(base + row->at, count_of(row, base), value);
	case FIELD_BOOL:
		base[row->at] = value[0] == '1';
		return strcmp(value, "0") == 0 || strcmp(value, "1") == 0;
	case FIELD_U64:
	case FIELD_U32:
	case FIELD_U16:
	case FIELD_U8:
	case FIELD_ENUM:
		return put_number(row, base + row->at, value);
	}
	return false;
}

bool fields_read(const struct field_row *rows, void *out, const char *text)
{
	static const size_t longest = 2048;
	char value[2048];

	for (const struct field_row *row = rows; row->key != NULL; row++) {
		size_t key = strlen(row->key), length;
		const char *end = strchr(text, '\n');

		if (strncmp(text, row->key, key) != 0 || text[key] != '=' || end == NULL)
			return false;
		length = (size_t)(end - text) - key - 1;
		if (length >= longest)
			return false;
		memcpy(value, text + key + 1, length);
		value[length] = '\0';
		if (!read_value(row, out, value))
			return false;
		text = end + 1;
	}
	return *text == '\0';
}
