/* `fallgate volume identify`, and what udev calls for every disk. */
#ifndef FALLGATE_TOOLS_IDENTIFY_H
#define FALLGATE_TOOLS_IDENTIFY_H

#include <stddef.h>

/* Prints what udev wants to know of the volume at path, as KEY=VALUE. 0; ERR_FOREIGN: it is none; ERR_CORRUPT: it was one;
 * ERR_NOT_FOUND, ERR_DENIED, ERR_UNSUPPORTED, ERR_IO. why: one clause. */
int identify(const char *path, char *why, size_t size);

#endif
