/* Where keys come from: the kernel's generator, seeded, and beside it the machine's source of noise. What must hold: before both
 * were looked at nothing is sealed and no key is made; a source that failed its test makes no key again. */
#ifndef FALLGATE_SUPERVISOR_RANDOMNESS_H
#define FALLGATE_SUPERVISOR_RANDOMNESS_H

#include <stdbool.h>
#include <stddef.h>

struct agent;

/* First at a start; waits a minute at most. 0, or ERR_* (logged). */
int randomness_start(const struct agent *a);

/* Before a key is made. False: the source of noise has failed since the start; text says so. */
bool randomness_good(char *text, size_t size);

/* For the posture; true: good. */
bool randomness_posture(const struct agent *a, char *text, size_t size);

#endif
