/* A tamper line: something outside that says that the machine is being opened, moved or probed. What must hold: a line that
 * cannot be read any more is an active one; what was active between two looks is not missed where the hardware can tell; looking
 * never waits. Variants, one file each in hal/linux: a file (what chassis-intrusion sensors offer), a FIFO, a GPIO line. */
#ifndef HAL_TAMPER_H
#define HAL_TAMPER_H

#include <stdbool.h>
#include <stddef.h>

struct tamper;

/* source: "file:/path": active while the file's first byte is not 0 (the digit, or the file is gone or empty).
 *         "fifo:/path": active once anything is written to it.
 *         "gpio:/dev/gpiochipN:LINE" or ...:LINE:low: a line by the character device; `low`: active when it is low.
 * 0; ERR_CONFIG (no such kind, or not of its form), ERR_NOT_FOUND, ERR_DENIED (others may write there), ERR_UNSUPPORTED, ERR_IO;
 * why: one clause, what and what to do. */
int tamper_open(struct tamper **out, const char *source, char *why, size_t why_size);

/* True if `source` is of the form of a known kind: for the configuration. */
bool tamper_source_good(const char *source);

/* Readable when there is something to see; -1: it has to be looked at now and then. */
int tamper_fd(const struct tamper *t);

/* Active now, or since the last look. */
bool tamper_active(struct tamper *t);

void tamper_close(struct tamper *t);

#endif
