/* What a disk is, for udev and for people: a Fallgate volume, and which. What must hold: nothing is locked or written (it runs
 * whenever a device appears, an attach of the agent's under way or not), and what is printed can be no other line than it seems.
 */
#include "identify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/block.h"
#include "volume/volume.h"

struct place {
	struct block block;
	int fd;
};

static int read_place(struct block *b, void *out, size_t size, uint64_t at)
{
	const struct place *p = (const struct place *)b; /* its first member */
	uint8_t *bytes = out;

	while (size > 0) {
		ssize_t n = pread(p->fd, bytes, size, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ERR_IO;
		bytes += n;
		size -= (size_t)n;
		at += (uint64_t)n;
	}
	return 0;
}

static const struct block_ops ops = { .read = read_place };

static int open_place(struct place *p, const char *path)
{
	struct stat st;
	off_t size;

	p->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (p->fd < 0)
		return error_from_errno(errno);
	if (fstat(p->fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		return ERR_UNSUPPORTED;
	size = lseek(p->fd, 0, SEEK_END); /* of a device too */
	if (size < 0)
		return ERR_IO;
	p->block = (struct block){ .ops = &ops, .size = (uint64_t)size / 4096 * 4096, .is_device = S_ISBLK(st.st_mode) };
	return 0;
}

static void print(const struct volume_header_info *h)
{
	char uuid[40] = "";
	size_t at = 0;

	for (unsigned i = 0; i < sizeof h->uuid; i++)
		at += (size_t)snprintf(uuid + at, sizeof uuid - at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
				       h->uuid[i]);
	printf("ID_FS_TYPE=fallgate_volume\nID_FS_USAGE=crypto\nID_FS_VERSION=1\nID_FS_UUID=%s\nID_FS_UUID_ENC=%s\n", uuid, uuid);
}

int identify(const char *path, char *why, size_t size)
{
	struct volume_header_info header;
	struct place p = { .fd = -1 };
	int error = open_place(&p, path);

	if (error != 0)
		snprintf(why, size, "%.300s cannot be looked at: %s", path, error_text(error));
	else
		error = volume_read_header(&p.block, &header, why, size);
	if (p.fd >= 0)
		close(p.fd);
	if (error == 0)
		print(&header);
	return error;
}
