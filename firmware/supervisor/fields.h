/* "key=value" lines, one a field, in the order of a table: how records are written and read. What must hold: reading takes
 * exactly what writing writes: every field, once, in order, nothing else, every number in bounds. */
#ifndef FALLGATE_SUPERVISOR_FIELDS_H
#define FALLGATE_SUPERVISOR_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_type {
	FIELD_U64,
	FIELD_U32,
	FIELD_U16,
	FIELD_U8,
	FIELD_ENUM, /* an int-sized enum, below max */
	FIELD_BOOL,
	FIELD_TEXT,  /* printable; size is the array's */
	FIELD_HEX,   /* size bytes */
	FIELD_HEX_N, /* as many bytes as the uint16_t at count_at says, at most size */
};

struct field_row {
	const char *key;
	enum field_type type;
	uint16_t at, size, count_at;
	uint64_t max; /* numbers: at most; 0: no bound */
};

/* false: does not fit. */
bool fields_write(const struct field_row *rows, const void *in, char *out, size_t size);
bool fields_read(const struct field_row *rows, void *out, const char *text);

/* Lower case, exactly 2 * size digits and a NUL; and back. */
void hex_write(char *out, const uint8_t *in, size_t size);
bool hex_read(uint8_t *out, size_t size, const char *in);

#endif
