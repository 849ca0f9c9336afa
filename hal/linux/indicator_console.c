/* A line on a console for each new state. Another writer's moment is waited for (a terminal refuses two at once); one that takes
 * nothing for a second gets nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "indicator_kind.h"

enum { TRIES = 100, PAUSE_MS = 10 };

static bool good(const char *place)
{
	return strncmp(place, "/dev/", 5) == 0 && place[5] != '\0' && strlen(place) < 64 && strstr(place, "..") == NULL;
}

static int open_console(int *fd, const char *place, char *why, size_t why_size)
{
	struct stat st;

	*fd = open(place, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (*fd < 0) {
		snprintf(why, why_size, "%s: %s; name a console that is there", place, strerror(errno));
		return error_from_errno(errno);
	}
	if (fstat(*fd, &st) != 0 || !S_ISCHR(st.st_mode)) {
		snprintf(why, why_size, "%s: no console; name a character device", place);
		return ERR_UNSUPPORTED;
	}
	return 0;
}

static void show(int fd, enum indicator_state state, const char *text)
{
	static const struct timespec pause = { .tv_nsec = PAUSE_MS * 1000000L };
	char line[160];
	int n = snprintf(line, sizeof line, "\r\nfallgate: %s%s%s\r\n", indicator_state_name(state), text[0] != '\0' ? ": " : "",
			 text);

	for (int tries = 0, at = 0; at < n && tries < TRIES; tries++) {
		ssize_t put = write(fd, line + at, (size_t)(n - at));

		if (put > 0)
			at += (int)put;
		else if (errno == EAGAIN || errno == EINTR)
			nanosleep(&pause, NULL);
		else
			return;
	}
}

const struct indicator_kind indicator_console = { "console", good, open_console, show };
