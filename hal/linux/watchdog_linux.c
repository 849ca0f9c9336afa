/* A watchdog of Linux's character device. Opening arms it, and from then on every way out of watchdog_open but success has to
 * disarm it: the magic byte, then the close. */
#include <hal/watchdog.h>

#include <errno.h>
#include <linux/watchdog.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "watchdog_device.h"

enum { SHORTEST_S = 2 }; /* less cannot be kept up beside other work */

struct watchdog {
	int fd;
	struct watchdog_facts facts;
};

static bool disarm(struct watchdog *w)
{
	bool written = watchdog_device_write(w->fd, 'V') == 0;

	watchdog_device_close(w->fd);
	return written && !w->facts.nowayout;
}

static int cannot_open(int error, const char *path, char *why, size_t why_size)
{
	if (error == EBUSY)
		snprintf(why, why_size,
			 "%s: another program feeds it; stop that one (systemd: RuntimeWatchdogSec=off), or name another", path);
	else if (error == ENOTTY)
		snprintf(why, why_size, "%s: no watchdog; name its device", path);
	else
		snprintf(why, why_size, "%s: %s; load its driver, or name another", path, strerror(error));
	return error == ENOTTY ? ERR_UNSUPPORTED : error_from_errno(error);
}

/* The device's own time counts if it takes no other. */
static bool set_timeout(struct watchdog *w, unsigned wanted)
{
	int seconds = (int)wanted;

	if (watchdog_device_ioctl(w->fd, WDIOC_SETTIMEOUT, &seconds) != 0 &&
	    (errno != EOPNOTSUPP || watchdog_device_ioctl(w->fd, WDIOC_GETTIMEOUT, &seconds) != 0))
		return false;
	w->facts.timeout_s = seconds > 0 ? (unsigned)seconds : 0;
	return seconds >= SHORTEST_S;
}

/* Not only where the options promise it: drivers forget to. */
static void ask_cause(struct watchdog *w)
{
	int status = 0;

	w->facts.caused_start =
		watchdog_device_ioctl(w->fd, WDIOC_GETBOOTSTATUS, &status) == 0 && (status & WDIOF_CARDRESET) != 0;
}

static int take(struct watchdog *w, const char *path, unsigned timeout_s, char *why, size_t why_size)
{
	struct watchdog_info info = { 0 };

	if (watchdog_device_ioctl(w->fd, WDIOC_GETSUPPORT, &info) != 0) {
		snprintf(why, why_size, "%s: no watchdog; name its device", path);
		return ERR_UNSUPPORTED;
	}
	info.identity[sizeof info.identity - 1] = '\0';
	log_printable(w->facts.identity, sizeof w->facts.identity, (const char *)info.identity);
	w->facts.outlives = (info.options & WDIOF_MAGICCLOSE) != 0;
	w->facts.nowayout = watchdog_device_nowayout(w->fd);
	ask_cause(w);
	if (!set_timeout(w, timeout_s)) {
		snprintf(why, why_size, "%s: it cannot wait %u s; choose another watchdog_timeout", path, timeout_s);
		return ERR_UNSUPPORTED;
	}
	if (watchdog_feed(w) != 0) {
		snprintf(why, why_size, "%s: it cannot be fed: %s", path, strerror(errno));
		return ERR_IO;
	}
	return 0;
}

int watchdog_open(struct watchdog **out, const char *path, unsigned timeout_s, char *why, size_t why_size)
{
	struct watchdog *w = calloc(1, sizeof *w);
	int r;

	*out = NULL;
	if (w == NULL) {
		snprintf(why, why_size, "%s", error_text(ERR_NOMEM));
		return ERR_NOMEM;
	}
	w->fd = watchdog_device_open(path);
	if (w->fd < 0) {
		r = cannot_open(errno, path, why, why_size);
		free(w);
		return r;
	}
	r = take(w, path, timeout_s, why, why_size);
	if (r == 0) {
		*out = w;
	} else {
		disarm(w);
		free(w);
	}
	return r;
}

const struct watchdog_facts *watchdog_facts(const struct watchdog *w)
{
	return &w->facts;
}

int watchdog_feed(struct watchdog *w)
{
	int nothing = 0;

	return watchdog_device_ioctl(w->fd, WDIOC_KEEPALIVE, &nothing) == 0 ? 0 : ERR_IO;
}

bool watchdog_stop(struct watchdog *w)
{
	bool stopped = disarm(w);

	free(w);
	return stopped;
}
