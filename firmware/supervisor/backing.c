/* Opening a backing store. What must hold: a symbolic link that somebody else planted is not followed; a file is made only where
 * none was, and who made it is known. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "volume.h"

enum { HOW = O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK };

static int say(char text[static TEXT_MAX_BYTES], int error, const struct volume_config *c, const char *why)
{
	snprintf(text, TEXT_MAX_BYTES, "backing %.120s: %s", c->backing, why);
	return error;
}

/* /dev/disk/by-id and the like are links that root made. */
static bool trusted_link(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && (st.st_uid == 0 || st.st_uid == geteuid());
}

static int open_existing(const char *path)
{
	int fd = open(path, HOW | O_NOFOLLOW);

	if (fd < 0 && errno == ELOOP && trusted_link(path))
		fd = open(path, HOW);
	return fd;
}

int backing_open(const struct volume_config *c, bool create, bool *created, char text[static TEXT_MAX_BYTES])
{
	struct stat st;
	int fd = open_existing(c->backing);

	*created = false;
	if (fd < 0 && errno == ENOENT && create) {
		if (c->size == 0)
			return say(text, ERR_CONFIG, c, "there is no such file or device; for a new file give a size");
		fd = open(c->backing, HOW | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
		*created = fd >= 0;
	}
	if (fd < 0 && errno == ELOOP)
		return say(text, ERR_DENIED, c,
			   "a symbolic link that neither root nor the agent owns is not followed; name the file itself");
	if (fd < 0)
		return say(text, error_from_errno(errno), c, strerror(errno));
	if (fstat(fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
		close(fd);
		return say(text, ERR_UNSUPPORTED, c, "neither a regular file nor a block device");
	}
	return fd;
}
