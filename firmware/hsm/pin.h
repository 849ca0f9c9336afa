/* A PIN from a descriptor, in locked memory for the length of one login. */
#ifndef FALLGATE_HSM_PIN_H
#define FALLGATE_HSM_PIN_H

#include <stddef.h>
#include <stdint.h>

enum { PIN_MAX = 256 };

struct pin {
	uint8_t *bytes; /* one locked page that no core file and no child sees */
	size_t size;
};

/* Reads the first line from the start of the file. 0; ERR_NOMEM (no locked page), ERR_IO (cannot be read again), ERR_CONFIG
 * (empty, too long, or holds a NUL). */
int pin_read(struct pin *out, int fd);

/* The same from a transfer page. */
int pin_read_page(struct pin *out, int fd);

/* Wipes. Safe on a zeroed struct. */
void pin_wipe(struct pin *p);

#endif
