/* The devices of the broker: one state machine each, moved by the supervisor's messages, by the kernel's answers, by the end of a
 * server and by time. What must hold: nothing here waits; a device has at most one command under way (and one setting); a
 * device whose requests wait for a server has an end of that wait, with or without a supervisor; whatever fails takes the device
 * away, so that its requests fail rather than wait for ever. */
#ifndef FALLGATE_UBLK_DEVICES_H
#define FALLGATE_UBLK_DEVICES_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "hal/ublk.h"
#include "ipc/message.h"

enum { DEVICES_MAX = 64, DEVICES_WATCHED_MAX = DEVICES_MAX };

struct devices;

/* What they have of the world beside the driver. */
struct devices_world {
	void *context;
	void (*tell)(void *context, const struct message *m);
	int (*give)(void *context, uint32_t device, uint32_t uid, uint32_t gid); /* the char device's node. 0 or ERR_* */
	int (*open_depth)(void *context, uint32_t device); /* a descriptor of queue/nr_requests, or -1 with errno */
};

/* 0 or ERR_NOMEM. */
int devices_create(struct devices **out, struct ublk_control *control, const struct devices_world *world, uint64_t mark);

/* A device that an earlier broker left: it goes. */
void devices_leftover(struct devices *all, uint32_t device);

/* One of the supervisor's messages, checked. */
void devices_take(struct devices *all, const struct message *m);

/* The supervisor is gone: so are all devices, soon. */
void devices_end(struct devices *all);

bool devices_none(const struct devices *all);

/* What the kernel has answered; whose server has ended; what is due. Any time. */
void devices_look(struct devices *all);

/* Descriptors of servers to watch, at most DEVICES_WATCHED_MAX: how many. */
unsigned devices_watched(const struct devices *all, struct pollfd *out);

/* CLOCK_BOOTTIME when devices_look is to be called at the latest; 0: no time. */
uint64_t devices_due_ns(const struct devices *all);

#endif
