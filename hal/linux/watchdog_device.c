/* See watchdog_device.h. */
#include "watchdog_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int watchdog_device_open(const char *path)
{
	struct stat st;
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd >= 0 && fstat(fd, &st) == 0 && !S_ISCHR(st.st_mode)) {
		close(fd);
		errno = ENOTTY;
		return -1;
	}
	return fd;
}

int watchdog_device_ioctl(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument);
}

int watchdog_device_write(int fd, char byte)
{
	return write(fd, &byte, 1) == 1 ? 0 : -1;
}

void watchdog_device_close(int fd)
{
	close(fd);
}

bool watchdog_device_nowayout(int fd)
{
	struct stat st;
	char path[80], value = '0';
	int file;

	if (fstat(fd, &st) != 0)
		return false;
	snprintf(path, sizeof path, "/sys/dev/char/%u:%u/nowayout", major(st.st_rdev), minor(st.st_rdev));
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return false;
	if (read(file, &value, 1) != 1)
		value = '0';
	close(file);
	return value == '1';
}
