/* A file whose first byte is 0 while nothing is wrong: /sys/class/hwmon/hwmonN/intrusion0_alarm, a GPIO's value in sysfs, or a
 * file that the appliance's own watchman writes. It is opened anew at each look: one that was put in its place counts, and one
 * that is gone is an alarm. */
#include "tamper_kind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

static bool active(struct tamper *t)
{
	int fd = open(t->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char first = 1;
	ssize_t n = fd >= 0 ? read(fd, &first, 1) : -1;

	if (fd >= 0)
		close(fd);
	return n != 1 || first != '0';
}

static int open_file(struct tamper *t, const char *place, char *why, size_t why_size)
{
	struct stat st;

	strcpy(t->path, place);
	if (stat(place, &st) != 0) {
		snprintf(why, why_size, "%s: %s; name the sensor's file", place, strerror(errno));
		return error_from_errno(errno);
	}
	if (!S_ISREG(st.st_mode) || (st.st_mode & S_IWOTH) != 0 || (st.st_uid != 0 && st.st_uid != geteuid())) {
		snprintf(why, why_size, "%s: not a file, or others may write to it; chown it to root, chmod o-w", place);
		return ERR_DENIED;
	}
	return 0;
}

const struct tamper_kind tamper_file = { "file", false, tamper_path_good, open_file, active };
