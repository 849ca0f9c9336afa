/* The tamper line, watched: every volume is locked and latched when it is active, and again as long as it is so. */
#ifndef FALLGATE_SUPERVISOR_TAMPER_H
#define FALLGATE_SUPERVISOR_TAMPER_H

struct agent;

/* Nothing without a [tamper] source. Before any volume is attached. 0, or ERR_* (logged): without the line that was asked for
 * nothing is served. */
int tamper_start(struct agent *a);
void tamper_stop(struct agent *a);

#endif
