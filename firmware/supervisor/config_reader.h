/* What the four files that read the configuration share, and nobody else: the place where the reading stands, how a mistake is
 * said, and the kinds of values. config.c reads, config_values.c knows the kinds, config_keys.c the keys, config_checks.c what
 * concerns more than one of them. */
#ifndef FALLGATE_SUPERVISOR_CONFIG_READER_H
#define FALLGATE_SUPERVISOR_CONFIG_READER_H

#include <stdio.h>

#include "config.h"

#define SECOND UINT64_C(1000000000)
#define HOUR   (3600 * SECOND)

enum { PHYSICAL_LINE_BYTES = 2048, CONNECTIONS_DEFAULT = 16 };

/* One file being read. */
struct reader {
	FILE *file;
	const char *path;
	unsigned line;
	char section[64];
	char pending[64]; /* a section that began, and no key of it came yet */
	unsigned pending_line;
	char long_value[PHYSICAL_LINE_BYTES]; /* inih takes lines of 200 bytes: a longer value goes round it */
	bool volume_file;
	struct config *config;
	struct kek_config *kek;
	struct volume_config *volume;
	unsigned seen;  /* bit i: row i of the section's table was given */
	unsigned given; /* likewise, in the section that ended last */
	struct config_errors *errors;
};

struct key_row {
	const char *name;
	bool (*take)(struct reader *r, const char *key, const char *value);
	bool needed, repeats;
};

void __attribute__((format(printf, 2, 3))) config_error(struct config_errors *e, const char *format, ...);
bool __attribute__((format(printf, 2, 3)))
config_wrong(struct reader *r, const char *format, ...); /* false, with file and line */

/* Kinds of values: true and the value, or config_wrong. */
bool value_text(struct reader *r, const char *key, const char *value, char *out, size_t size);
bool value_path(struct reader *r, const char *key, const char *value, char *out, size_t size);
bool value_program(struct reader *r, const char *key, const char *value, char *out, size_t size);
bool value_duration(struct reader *r, const char *key, const char *value, uint64_t *ns, uint64_t low, uint64_t high);
bool value_choice(struct reader *r, const char *key, const char *value, const char *const *words, unsigned *which);
bool value_count(struct reader *r, const char *key, const char *value, uint32_t *out, uint32_t high, uint32_t usual);
bool value_yes_or_no(struct reader *r, const char *key, const char *value, bool *out);
bool value_user(struct reader *r, const char *key, const char *value, struct config_user *out);
/* Likewise, and the caller says what is wrong. */
bool value_number(const char *text, uint64_t *number, const char **rest);
bool value_address(const char *text, char *address, size_t size, uint16_t *port);

const struct key_row *config_keys(const struct reader *r);      /* of the section; NULL: there is none of that name */
bool config_was_given(const struct reader *r, const char *key); /* in a volume's file that has been read */
void config_take_board(struct config *c, struct config_errors *errors);

void config_check_volume(const struct reader *r);
void config_check_own_device(const struct volume_config *below, const struct volume_config *above, struct config_errors *errors);
void config_check_pair(const struct volume_config *a, const struct volume_config *b, struct config_errors *errors);
void config_check_whole(const struct config *c, struct config_errors *errors);

#endif
