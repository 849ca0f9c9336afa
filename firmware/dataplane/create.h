/* The one-shot creator: makes a data key, has it wrapped, formats a volume, opens it once as a proof, and ends. */
#ifndef FALLGATE_DATAPLANE_CREATE_H
#define FALLGATE_DATAPLANE_CREATE_H

/* Runs the conversation on fd (a channel to the supervisor) to its end. Returns the process's exit code. */
int create_run(int fd);

#endif
