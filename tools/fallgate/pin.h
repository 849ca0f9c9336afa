/* Where a PIN comes from that is to be sealed. */
#ifndef FALLGATE_PIN_H
#define FALLGATE_PIN_H

#include <stddef.h>

/* A descriptor that gives it: of `file`, of standard input ("-", or none and no terminal), or of what is typed unseen. Else ERR_*
 * with one clear line in text. */
int pin_descriptor(const char *kek, const char *file, char *text, size_t size);

#endif
