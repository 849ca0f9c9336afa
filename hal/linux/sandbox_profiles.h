/* The filters as data, read at build time by sandbox_export.c and linked nowhere else. */
#ifndef HAL_LINUX_SANDBOX_PROFILES_H
#define HAL_LINUX_SANDBOX_PROFILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <seccomp.h>

struct sandbox_rule {
	const char *names; /* separated by spaces; "?name": left out if this libseccomp does not know it */
	uint32_t action;
	bool with_arg;
	struct scmp_arg_cmp arg;
};

struct sandbox_group {
	const struct sandbox_rule *rules;
	size_t count;
};

struct sandbox_table {
	const char *name;   /* of the C array */
	uint32_t otherwise; /* what happens to everything that no rule names */
	struct sandbox_group groups[4];
};

extern const struct sandbox_table sandbox_tables[];
extern const size_t sandbox_table_count;

#endif
