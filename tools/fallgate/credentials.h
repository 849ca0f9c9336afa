/* The client's credentials file: [agent] address, identity, key. What must hold: a file that others may read, or that belongs to
 * somebody else, is not used; a new one is made whole or not at all, 0600 from its first byte. */
#ifndef FALLGATE_CREDENTIALS_H
#define FALLGATE_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>

#include "ipc/message.h"

struct credentials {
	char address[64];
	char identity[IDENTITY_MAX_BYTES];
	unsigned char key[PSK_BYTES];
};

enum { CREDENTIALS_PATH_MAX = 4096 };

/* --credentials, else $FALLGATE_CREDENTIALS, else ~/.config/fallgate/credentials. 0 or ERR_CONFIG. */
int credentials_path(char out[static CREDENTIALS_PATH_MAX], const char *given, char *text, size_t size);

/* 0; ERR_NOT_FOUND; ERR_DENIED: its mode or owner; ERR_CONFIG: its content. One clear line in text. Wipe it after use. */
int credentials_load(struct credentials *c, const char *path, char *text, size_t size);

/* Can a file be written there? 0; ERR_EXISTS: something is there and force is not given; else why not. */
int credentials_check_place(const char *path, bool force, char *text, size_t size);

int credentials_save(const struct credentials *c, const char *path, bool force, char *text, size_t size);

#endif
