/* Opening a backing store. What must hold: a symbolic link is followed only if root or this user owns it; a file is made only
 * where none was, and who made it is known; a store that hangs (a file server that is gone) holds up nobody but its volume: each
 * is opened by a thread of its own; one that is given up, and comes back when others have opened the same store, takes nothing
 * from them. */
#ifndef FALLGATE_SUPERVISOR_BACKING_H
#define FALLGATE_SUPERVISOR_BACKING_H

#include <stdbool.h>

struct agent;
struct opening;
struct volume_config;

enum opening_kind { OPENING_READ, OPENING_WRITE, OPENING_CREATE }; /* CREATE: as WRITE; a file that is not there is made */

/* fd: the store, the receiver's from now on; or ERR_*, and text says why. created: it was made. */
typedef void opening_done(void *context, int fd, bool created, const char *text);

/* Never waits: a store that hangs in its open is the volume's trouble, not the agent's. done is called from the loop, once. 0 or
 * ERR_*. */
int opening_start(struct opening **out, struct agent *a, const struct volume_config *c, enum opening_kind kind,
		  opening_done *done, void *context);

/* done is not called any more; what was opened is closed. A file that was made is removed, unless it is made only now. */
void opening_abandon(struct opening *o);

/* Closes them and does not wait for that: a close can hang as an open can. */
void close_elsewhere(const int *fds, unsigned count);

#endif
