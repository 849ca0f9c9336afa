/* A GPIO line, by the character device (version 2 of its ABI): the kernel tells of every edge, so that a line that was active for
 * a moment only is seen too. */
#include "tamper_kind.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"

/* /dev/gpiochipN:LINE[:low] */
static bool split(const char *place, char path[static TAMPER_PATH_BYTES], unsigned *line, bool *low)
{
	const char *colon = strchr(place, ':');
	char *end;
	unsigned long n;

	if (colon == NULL || place[0] != '/' || colon - place >= TAMPER_PATH_BYTES || colon[1] < '0' || colon[1] > '9')
		return false;
	memcpy(path, place, (size_t)(colon - place));
	path[colon - place] = '\0';
	n = strtoul(colon + 1, &end, 10);
	*line = (unsigned)n;
	*low = strcmp(end, ":low") == 0;
	return n < 65536 && (end[0] == '\0' || *low);
}

static bool good(const char *place)
{
	char path[TAMPER_PATH_BYTES];
	unsigned line;
	bool low;

	return split(place, path, &line, &low);
}

static bool active(struct tamper *t)
{
	struct gpio_v2_line_values values = { .mask = 1 };
	struct gpio_v2_line_event events[16];
	struct pollfd p = { .fd = t->fd, .events = POLLIN };
	bool rose = false;

	for (int i = 0; i < 16 && poll(&p, 1, 0) == 1; i++) {
		ssize_t n = read(t->fd, events, sizeof events);

		if (n < (ssize_t)sizeof events[0])
			return true;
		for (size_t k = 0; k < (size_t)n / sizeof events[0]; k++)
			rose = rose || events[k].id == GPIO_V2_LINE_EVENT_RISING_EDGE;
	}
	return ioctl(t->fd, GPIO_V2_LINE_GET_VALUES_IOCTL, &values) != 0 || (values.bits & 1) != 0 || rose;
}

static int open_line(struct tamper *t, const char *place, char *why, size_t why_size)
{
	struct gpio_v2_line_request request = { .num_lines = 1, .consumer = "fallgate tamper" };
	unsigned line;
	bool low;
	int chip, r;

	split(place, t->path, &line, &low);
	chip = open(t->path, O_RDWR | O_CLOEXEC);
	if (chip < 0) {
		snprintf(why, why_size, "%s: %s; name the chip that the line is on", t->path, strerror(errno));
		return error_from_errno(errno);
	}
	request.offsets[0] = line;
	request.config.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING;
	if (low)
		request.config.flags |= GPIO_V2_LINE_FLAG_ACTIVE_LOW;
	r = ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request) == 0 ? 0 : error_from_errno(errno);
	if (r != 0)
		snprintf(why, why_size, "%s: line %u cannot be had: %s; is it there, and free?", t->path, line, strerror(errno));
	close(chip);
	t->fd = r == 0 ? request.fd : -1;
	return r;
}

const struct tamper_kind tamper_gpio = { "gpio", true, good, open_line, active };
