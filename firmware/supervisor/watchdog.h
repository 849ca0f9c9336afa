/* The machine's watchdog, fed by the loop. What must hold: it is fed only by a loop that goes round, whose writer answers, and
 * while no data plane may still have a key that it was told to wipe; what an HSM does is never a reason not to; an agent that
 * does not get as far as this arms nothing; a watchdog that restarts the machine again and again is left alone once, so that
 * somebody can look. */
#ifndef FALLGATE_SUPERVISOR_WATCHDOG_H
#define FALLGATE_SUPERVISOR_WATCHDOG_H

#include <stdbool.h>
#include <stddef.h>

struct agent;

/* Last of what can fail at a start. 0, or ERR_* (logged): without the device that the configuration names nothing is served. */
int watchdog_start(struct agent *a);

/* At the end of an orderly stop, last. */
void watchdog_end(struct agent *a);

/* For the posture: what is so; true: it is good. Empty text: nobody expects a watchdog here. */
bool watchdog_posture(const struct agent *a, char *text, size_t size);

#endif
