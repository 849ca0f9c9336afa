/* What protects keys on this machine and what does not, as lines "good: ..." or "weak: ...". What must hold: nothing is called
 * good that was not looked at. */
#ifndef FALLGATE_SUPERVISOR_POSTURE_H
#define FALLGATE_SUPERVISOR_POSTURE_H

#include "ipc/message.h"

struct agent;

void posture_fill(struct agent *a, struct msg_mg_agent *out);

#endif
