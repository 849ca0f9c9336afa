/* A hardware watchdog: what restarts the machine when nobody feeds it any more. What must hold: it is stopped only by
 * watchdog_stop, never by the end of the process; a device that cannot be fed in time is refused, disarmed again. Variants:
 * Linux's /dev/watchdogN, none. */
#ifndef HAL_WATCHDOG_H
#define HAL_WATCHDOG_H

#include <stdbool.h>
#include <stddef.h>

struct watchdog;

struct watchdog_facts {
	char identity[33];
	unsigned timeout_s; /* what the device took, which may not be what was asked for */
	bool outlives;      /* the end of the process does not stop it; without this a killed agent is not noticed */
	bool nowayout;      /* nothing stops it: after watchdog_stop the machine restarts unless somebody opens it again */
	bool caused_start;  /* it says that it restarted the machine; not every device can */
};

/* Opens and arms. 0; ERR_NOT_FOUND, ERR_BUSY (another feeds it), ERR_DENIED, ERR_UNSUPPORTED (no watchdog, or not with such a
 * time), ERR_IO; why: one clause, what and what to do. */
int watchdog_open(struct watchdog **out, const char *path, unsigned timeout_s, char *why, size_t why_size);

const struct watchdog_facts *watchdog_facts(const struct watchdog *w);

/* 0 or ERR_IO. */
int watchdog_feed(struct watchdog *w);

/* Disarms and frees; false if it runs on all the same. */
bool watchdog_stop(struct watchdog *w);

#endif
