/* A FIFO: whatever is written to it is the alarm. For watchmen that are programs. It is kept open for writing here too, so that
 * the end of a writer is not the end of the line. */
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
	char bytes[256];
	ssize_t n;
	bool any = false;

	for (int i = 0; i < 16 && (n = read(t->fd, bytes, sizeof bytes)) > 0; i++)
		any = true;
	return any || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static int open_fifo(struct tamper *t, const char *place, char *why, size_t why_size)
{
	struct stat st;

	t->fd = open(place, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (t->fd < 0 || fstat(t->fd, &st) != 0) {
		snprintf(why, why_size, "%s: %s; make it with mkfifo -m 0600", place, strerror(errno));
		return error_from_errno(errno);
	}
	if (!S_ISFIFO(st.st_mode) || (st.st_mode & S_IWOTH) != 0 || (st.st_uid != 0 && st.st_uid != geteuid())) {
		snprintf(why, why_size, "%s: no FIFO, or others may write to it; make it with mkfifo -m 0600, owner root", place);
		return ERR_DENIED;
	}
	return 0;
}

const struct tamper_kind tamper_fifo = { "fifo", true, tamper_path_good, open_fifo, active };
