/* What stands on a device before Fallgate writes there. What must hold: whatever libblkid recognises as a superblock or a
 * partition table is found, and a volume of our own by its magic at either end; "" only if both looked. */
#include <hal/block.h>

#include <blkid/blkid.h>
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

enum { BACKUP_FROM_END = 65536, SMALLEST = 512 };

/* The first eight bytes of both headers: SPEC.md. */
static const uint8_t magic[8] = { 0x46, 0x47, 0x56, 0x4f, 0x4c, 0x0d, 0x0a, 0x1a };

static int size_of(int fd, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return ERR_IO;
	*size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, size) != 0)
		return ERR_IO;
	return 0;
}

/* 1: the magic is there, 0: it is not, ERR_IO. */
static int magic_at(int fd, uint64_t at)
{
	uint8_t found[sizeof magic];
	ssize_t n;

	do
		n = pread(fd, found, sizeof found, (off_t)at);
	while (n < 0 && errno == EINTR);
	if (n != (ssize_t)sizeof found)
		return ERR_IO;
	return memcmp(found, magic, sizeof magic) == 0;
}

static int find_fallgate(int fd, uint64_t size)
{
	int r = magic_at(fd, 0);

	if (r != 0 || size < BACKUP_FROM_END)
		return r;
	/* The backup stands 64 KiB before the last whole 4 KiB, as block_open_fd counts. */
	return magic_at(fd, size / 4096 * 4096 - BACKUP_FROM_END);
}

static void copy_value(blkid_probe probe, char *name, size_t size)
{
	const char *value = NULL;

	if (blkid_probe_lookup_value(probe, "TYPE", &value, NULL) != 0 &&
	    blkid_probe_lookup_value(probe, "PTTYPE", &value, NULL) != 0)
		value = "unknown";
	snprintf(name, size, "%s", value);
}

static int find_others(int fd, char *name, size_t size)
{
	blkid_probe probe = blkid_new_probe();
	int r;

	if (probe == NULL)
		return ERR_IO;
	if (blkid_probe_set_device(probe, fd, 0, 0) != 0) {
		blkid_free_probe(probe);
		return ERR_IO;
	}
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE);
	blkid_probe_enable_partitions(probe, 1);
	r = blkid_do_probe(probe);
	if (r == 0)
		copy_value(probe, name, size);
	blkid_free_probe(probe);
	return r < 0 ? ERR_IO : 0;
}

int block_signature(int fd, char *name, size_t size)
{
	uint64_t bytes;
	int r = size_of(fd, &bytes);

	if (size == 0)
		return ERR_RANGE;
	name[0] = '\0';
	if (r != 0 || bytes < SMALLEST)
		return r;
	r = find_fallgate(fd, bytes);
	if (r > 0)
		snprintf(name, size, "fallgate");
	return r != 0 ? (r < 0 ? r : 0) : find_others(fd, name, size);
}
