/* What the kinds of indicators have in common, for hal/linux/indicator*.c and their test alone. */
#ifndef HAL_LINUX_INDICATOR_KIND_H
#define HAL_LINUX_INDICATOR_KIND_H

#include <hal/indicator.h>

/* `place` is what stands behind "kind:". */
struct indicator_kind {
	const char *name;
	bool (*good)(const char *place);
	int (*open)(int *fd, const char *place, char *why, size_t why_size);
	void (*show)(int fd, enum indicator_state state, const char *text); /* on a thread of its own: may wait */
};

extern const struct indicator_kind indicator_led, indicator_console;

/* Where LEDs are, and on what file system: a link that leads elsewhere is no LED. */
struct indicator_led_place {
	const char *root;
	long magic;
};
extern struct indicator_led_place indicator_leds;

const char *indicator_state_name(enum indicator_state state);

#endif
