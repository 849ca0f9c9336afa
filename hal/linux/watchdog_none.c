/* A build without watchdogs: none is there. */
#include <hal/watchdog.h>

#include <stdio.h>

#include "base/error.h"

int watchdog_open(struct watchdog **out, const char *path, unsigned timeout_s, char *why, size_t why_size)
{
	(void)timeout_s;
	*out = NULL;
	snprintf(why, why_size, "%s: this agent is built without watchdogs (CONFIG_WATCHDOG); build it with", path);
	return ERR_UNSUPPORTED;
}

const struct watchdog_facts *watchdog_facts(const struct watchdog *w)
{
	(void)w;
	return NULL;
}

int watchdog_feed(struct watchdog *w)
{
	(void)w;
	return ERR_UNSUPPORTED;
}

bool watchdog_stop(struct watchdog *w)
{
	(void)w;
	return true;
}
