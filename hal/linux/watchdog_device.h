/* The few calls that watchdog_linux.c makes: the kernel (watchdog_device.c), or in its test a device that misbehaves. */
#ifndef HAL_LINUX_WATCHDOG_DEVICE_H
#define HAL_LINUX_WATCHDOG_DEVICE_H

#include <stddef.h>
#include <stdbool.h>

/* A character device, opened for writing; -1 and errno. */
int watchdog_device_open(const char *path);

/* 0, or -1 and errno. */
int watchdog_device_ioctl(int fd, unsigned long request, void *argument);
int watchdog_device_write(int fd, char byte);
void watchdog_device_close(int fd);

/* From sysfs; false if it is not known. */
bool watchdog_device_nowayout(int fd);

#endif
