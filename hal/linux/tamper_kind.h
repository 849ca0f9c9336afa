/* What the kinds of tamper lines have in common, for hal/linux/tamper*.c alone. */
#ifndef HAL_LINUX_TAMPER_KIND_H
#define HAL_LINUX_TAMPER_KIND_H

#include <hal/tamper.h>

enum { TAMPER_PATH_BYTES = 256 };

struct tamper {
	const struct tamper_kind *kind;
	int fd; /* -1: none is kept open */
	char path[TAMPER_PATH_BYTES];
};

/* `place` is the source behind "kind:". */
struct tamper_kind {
	const char *name;
	bool watched; /* fd tells when to look */
	bool (*good)(const char *place);
	int (*open)(struct tamper *t, const char *place, char *why, size_t why_size);
	bool (*active)(struct tamper *t);
};

extern const struct tamper_kind tamper_file, tamper_fifo, tamper_gpio;

/* "/..." and it fits. */
bool tamper_path_good(const char *place);

#endif
