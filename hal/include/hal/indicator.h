/* What people see of the agent on the machine itself: a LED, or lines on a console. What must hold: showing never waits, neither
 * for a bus nor for a terminal (only the newest state counts); nothing is shown that is not fit for a stranger's eyes. Variants,
 * one file each in hal/linux: led, console. */
#ifndef HAL_INDICATOR_H
#define HAL_INDICATOR_H

#include <stdbool.h>
#include <stddef.h>

enum indicator_state {
	INDICATOR_STARTING,
	INDICATOR_AVAILABLE, /* every volume that is attached serves */
	INDICATOR_OUTAGE,    /* they do, one of them without a proof of its key */
	INDICATOR_LOCKED,    /* one does not, or none is attached */
	INDICATOR_ALARM,     /* somebody has to come: tamper, integrity, a wipe that is not confirmed, a fault */
	INDICATOR_STOPPED,
	INDICATOR_STATE_COUNT
};

struct indicator;

/* where: "led:NAME", one of /sys/class/leds, or "console:/dev/NAME". 0, or ERR_*; why: one clause, what and what to do. */
int indicator_open(struct indicator **out, const char *where, char *why, size_t why_size);

/* True if `where` is of the form of a known kind: for the configuration. */
bool indicator_where_good(const char *where);

/* text: a few words behind the state, for consoles. */
void indicator_show(struct indicator *i, enum indicator_state state, const char *text);

/* Waits for what was shown last, half a second at most. */
void indicator_close(struct indicator *i);

#endif
