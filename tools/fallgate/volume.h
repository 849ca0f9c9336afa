/* `fallgate volume VERB`: work on a volume that nobody serves. A path is worked on here and without a key, a name by the agent.
 */
#ifndef FALLGATE_VOLUME_H
#define FALLGATE_VOLUME_H

struct arguments;

/* The exit codes of a verb that ran to its end and found something. */
enum { VOLUME_EXIT_REPAIRABLE = 32, VOLUME_EXIT_LOSS = 33 };

/* The exit code. */
int volume_run(const struct arguments *a);

#endif
