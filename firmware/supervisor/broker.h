/* fallgate-ublk, the broker of the kernel's block devices: one for all volumes, started when the first of them asks for a device,
 * and again when it ends. What must hold: whoever has a device hears of the broker's end; nobody waits for the broker. */
#ifndef FALLGATE_SUPERVISOR_BROKER_H
#define FALLGATE_SUPERVISOR_BROKER_H

#include <stdint.h>

#include "ipc/message.h"

struct agent;

/* Starts it if need be, and sends; what it is told before it said hello waits for that. ERR_BUSY: it ended a moment ago and is
 * started again soon; ERR_IO. */
int broker_send(struct agent *a, const struct message *m);

/* CLOCK_BOOTTIME of its last word; 0: none yet. */
uint64_t broker_heard(const struct agent *a);

/* It does not answer: another one takes its place, and takes away what it leaves behind. */
void broker_replace(struct agent *a, const char *why);

/* The end of its channel, at which it takes every device away and ends by itself. */
void broker_stop(struct agent *a);

#endif
