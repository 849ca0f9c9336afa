/* What the machine's LED or console shows: the worst of the volumes that are attached. */
#ifndef FALLGATE_SUPERVISOR_INDICATION_H
#define FALLGATE_SUPERVISOR_INDICATION_H

struct agent;

/* Nothing without an indicator in the configuration; one that cannot be had is logged, and the agent goes on. */
void indication_start(struct agent *a);

/* After each step of a gate. Never waits. */
void indication_update(struct agent *a);
void indication_stop(struct agent *a);

#endif
