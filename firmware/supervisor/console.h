/* The local console: run_dir/console.sock, for uid 0 and the agent's own user. Enrols and removes identities, revokes without the
 * network, stops the agent. What must hold: who connects is asked of the kernel; a key goes to whom it was made for, once. */
#ifndef FALLGATE_SUPERVISOR_CONSOLE_H
#define FALLGATE_SUPERVISOR_CONSOLE_H

struct agent;

/* 0 or ERR_* (logged). */
int console_start(struct agent *a);
void console_stop(struct agent *a);

#endif
