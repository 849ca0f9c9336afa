/* A LED of /sys/class/leds: on for AVAILABLE, and a rhythm for each other state. One that cannot blink (no timer trigger) is on
 * for AVAILABLE and OUTAGE, and off for the rest. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/error.h"
#include "indicator_kind.h"

struct indicator_led_place indicator_leds = { "/sys/class/leds", SYSFS_MAGIC };

/* Milliseconds. on and off 0: dark; off 0: steady. */
static const struct {
	unsigned on, off;
	bool lit; /* if it cannot blink */
} rhythms[INDICATOR_STATE_COUNT] = {
	[INDICATOR_STARTING] = { 500, 500, false }, [INDICATOR_AVAILABLE] = { 1, 0, true },
	[INDICATOR_OUTAGE] = { 1800, 200, true },   [INDICATOR_LOCKED] = { 100, 1900, false },
	[INDICATOR_ALARM] = { 100, 100, false },    [INDICATOR_STOPPED] = { 0, 0, false },
};

/* The name is one of a folder and no way out of it. */
static bool good(const char *place)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_:.-";

	return place[0] != '\0' && place[0] != '.' && strlen(place) < 64 && place[strspn(place, letters)] == '\0';
}

static int open_file(int dir, const char *name, int flags)
{
	struct stat st;
	int fd = openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

	if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool put(int dir, const char *name, const char *text)
{
	int fd = open_file(dir, name, O_WRONLY);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

static bool put_number(int dir, const char *name, unsigned number)
{
	char text[16];

	snprintf(text, sizeof text, "%u", number);
	return put(dir, name, text);
}

static void light(int dir, bool on)
{
	char most[16] = "1";
	int fd = on ? open_file(dir, "max_brightness", O_RDONLY) : -1;
	ssize_t n = fd >= 0 ? read(fd, most, sizeof most - 1) : -1;

	if (fd >= 0)
		close(fd);
	if (n > 0)
		most[n] = '\0';
	put(dir, "trigger", "none");
	put(dir, "brightness", on ? most : "0");
}

static void show(int dir, enum indicator_state state, const char *text)
{
	unsigned on = rhythms[state].on, off = rhythms[state].off;

	(void)text;
	if (off == 0)
		light(dir, on != 0);
	else if (!put(dir, "trigger", "timer") || !put_number(dir, "delay_on", on) || !put_number(dir, "delay_off", off))
		light(dir, rhythms[state].lit);
}

static int open_led(int *fd, const char *place, char *why, size_t why_size)
{
	int root = open(indicator_leds.root, O_RDONLY | O_DIRECTORY | O_CLOEXEC), file;
	struct statfs fs;

	*fd = root >= 0 ? openat(root, place, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (*fd < 0)
		snprintf(why, why_size, "%s/%s: %s; name a LED of that folder", indicator_leds.root, place, strerror(errno));
	if (root >= 0)
		close(root);
	if (*fd < 0)
		return ERR_NOT_FOUND;
	file = open_file(*fd, "brightness", O_WRONLY);
	if (file < 0 || fstatfs(*fd, &fs) != 0 || fs.f_type != indicator_leds.magic) {
		snprintf(why, why_size, "%s/%s: no LED, or it cannot be set; name a LED of that folder", indicator_leds.root,
			 place);
		if (file >= 0)
			close(file);
		return ERR_UNSUPPORTED;
	}
	close(file);
	return 0;
}

const struct indicator_kind indicator_led = { "led", good, open_led, show };
