/* One volume: its gate, its timers, and its parts, each in a file of its own and listed below: the process that serves it, its
 * unlocks, its export, its block device. What must hold: nothing happens to a key but by a step of the gate; every step's actions
 * are carried out in the order of their bits (effects.c); what a process says is believed only for the generation that was asked.
 */
#ifndef FALLGATE_SUPERVISOR_VOLUME_H
#define FALLGATE_SUPERVISOR_VOLUME_H

#include "anchor.h"
#include "children.h"
#include "config.h"
#include "integrity.h"
#include "records.h"
#include "revocation/revocation.h"
#include "session.h"

struct agent;
struct job;
struct opening;
struct prober;

enum { EVENT_QUEUE = 16, TICK_MS = 500 };

struct queued_event {
	enum gate_event event;
	enum gate_cause cause;
};

/* The block device, as the broker says: see device.c. */
enum device_state {
	DEVICE_NONE,
	DEVICE_ASKED,   /* UB_ADD sent */
	DEVICE_READY,   /* a server may open it, or has */
	DEVICE_GOING,   /* UB_GO sent */
	DEVICE_LIVE,    /* it takes requests */
	DEVICE_WAITING, /* its server ended: requests wait, or it is on its way out */
	DEVICE_REMOVING /* UB_REMOVE sent */
};

struct device {
	enum device_state state;
	bool fetched; /* the last server was ready */
	bool doomed;  /* nothing is held any more */
	uint32_t number;
	uint16_t queues, depth;
	uint64_t nonce, asked_ns; /* of the last question */
	struct timer deadline;
	char path[PATH_MAX_BYTES + 40]; /* empty: it has no name */
};

struct volume {
	struct agent *agent;
	struct volume_config config;
	bool configured;       /* has a file in volumes.d */
	struct kek *kek;       /* NULL only if not configured */
	struct prober *prober; /* of that KEK */
	bool kek_used;

	struct gate gate;
	struct volume_record record;
	bool formatted;
	bool damaged;       /* there is a volume record, and it is not believed */
	bool attach_wanted; /* by the operator, across restarts */
	bool gate_durable;
	uint64_t durable_seq;
	struct queued_event queue[EVENT_QUEUE];
	unsigned queued;
	bool stepping;

	/* the serving process */
	struct child dataplane;
	bool dataplane_wanted, dataplane_ready;
	bool retired;            /* told to end for good: its words no longer concern the gate */
	uint64_t hold_until_ns;  /* on_lock = hold: CLOCK_BOOTTIME; how long requests may wait; 0: nobody is held */
	struct device device;    /* export = ublk */
	struct opening *opening; /* of its backing store, for whichever process is there when it is done */
	int listen_fd;
	uint64_t busy_until_ns; /* a predecessor may hold the backing store until then */
	unsigned restarts;
	uint32_t generation; /* of the last ticket it was given */
	struct timer restart, ready_deadline;

	/* an unlock under way */
	struct session unlock;
	bool unlock_wanted;
	bool opened_good, hsm_good, hsm_gone;
	struct anchor anchor;
	int hsm_fd; /* the dataplane's end of the channel to the one-shot hsm */
	unsigned unlock_failures;
	uint64_t retry_at_ns;
	enum gate_event held; /* what says that the keys are gone, and waits for the one-shot hsm to be reaped; EV_COUNT: none */
	enum gate_cause held_cause;
	struct timer unlock_begin;

	struct job *job; /* done to it while nobody serves it; NULL: none */

	struct timer unlock_deadline, outage_over, wipe_deadline, reap_deadline, tick, purge_due;
	uint64_t purge_at_ns; /* wall clock, across restarts; 0: no countdown runs */
	struct opening *purging;

	/* what the dataplane says of failed sectors, of the volume that it has open */
	struct integrity integrity;
	uint64_t bad_tags_seen, bad_tags_told, bad_tags_told_ns;

	/* for status and ledger */
	uint64_t detected_ns, cut_ns, wiped_ns, drained_ns; /* of the last lock; CLOCK_BOOTTIME */
	int drain_error;
	uint64_t alert_sequence, order_sequence; /* of the last alert, of the last order to lock */
	uint64_t arrived_ns;                     /* when what is being handled was noticed */
	uint64_t since_wall_ns;
	struct msg_dp_opened opened;
	struct msg_dp_stats stats;
	char text[TEXT_MAX_BYTES];
	char identity[IDENTITY_MAX_BYTES]; /* who asked for what is being handled */
	unsigned ticks;
	bool untold; /* mgmt had no room for its latest status */
};

/* Reads the records of `name`. 0 or ERR_NOMEM. config NULL: it has none (a record without a file). */
int volume_create(struct volume **out, struct agent *a, const char *name, const struct volume_config *config);
void volume_destroy(struct volume *v);
void volume_configure(struct volume *v, const struct volume_config *config);

struct volume *volume_find(struct agent *a, const char *name);
struct kek *volume_kek(const struct volume *v);

/* Feeds the gate. identity and text may be NULL. */
void volume_feed(struct volume *v, enum gate_event event, enum gate_cause cause, const char *identity, const char *text);

/* From the KEK's prober. */
void volume_proof(struct volume *v, bool fresh, const struct judgement *j);
void volume_pin_renewed(struct volume *v);

/* Whether an attach is possible at all, and why not: 0, ERR_STATE, ERR_NOT_FOUND, ERR_CORRUPT, ERR_CONFIG. */
int volume_attachable(const struct volume *v, char text[static TEXT_MAX_BYTES]);

/* Makes the gate record durable, by the writer. */
void volume_write_gate(struct volume *v);
void volume_gate_written(struct volume *v, uint64_t seq, int error);

/* A line of the ledger about this volume. */
void volume_audit(struct volume *v, const char *event, enum gate_state from, const char *text);

bool volume_busy(const struct volume *v); /* a process of it is alive, or a job is under way */

/* What a dataplane has to hold a header against, and how it is to open the volume. */
void volume_pins(const struct volume *v, struct msg_dp_attach *out);

/* ---- for its own parts ---- */
void volume_queue(struct volume *v, enum gate_event event, enum gate_cause cause);

/* Whether a lock for the present cause lets requests wait. */
bool volume_holds(const struct volume *v);

/* dataplane.c: the process that serves it */
void dataplane_init(struct volume *v);
void dataplane_forget(struct volume *v);
void dataplane_start(struct volume *v); /* from the loop; and again, whenever it ends, until it is told to stop */
void dataplane_stop(struct volume *v);
void dataplane_send_deadlines(struct volume *v);
/* What was held is let go: its process, keyless, ends as soon as nothing is lost by it. */
void dataplane_end_hold(struct volume *v);
/* For the volume's device: its server can be started; or there is none, and text says why: tried again later. */
void dataplane_serve_device(struct volume *v);
void dataplane_not_ready(struct volume *v, const char *text);

/* status.c */
void volume_status(const struct volume *v, struct msg_mg_volume *out);

/* effects.c */
void effects_run(struct volume *v, uint32_t actions, const struct gate *before, enum gate_event event);

/* unlock.c */
void unlock_init(struct volume *v);
void unlock_start(struct volume *v);
void unlock_try(struct volume *v);    /* if wanted and everything is ready */
bool unlock_cancel(struct volume *v); /* false: the hsm is killed but not reaped yet */
void unlock_opened(struct volume *v, const struct message *m);
/* `how` says that the dataplane has no key (any more). True: the one-shot hsm is killed and not reaped yet, and could still have
 * one: `how` is fed when it is gone, and the caller does not feed it. */
bool unlock_held(struct volume *v, enum gate_event how, enum gate_cause cause);
void unlock_settled(struct volume *v); /* the counter is stepped */
void unlock_unsettled(struct volume *v, const struct judgement *why);
void unlock_device_started(struct volume *v);

/* device.c; for volumes whose export is ublk */
void device_init(struct volume *v);
void device_forget(struct volume *v);
void device_ask(struct volume *v);    /* before each start of a server; then dataplane_serve_device or dataplane_not_ready */
void device_go(struct volume *v);     /* its server has the key; then unlock_device_started, or the gate hears why not */
void device_hold(struct volume *v);   /* requests wait, until hold_until_ns at most */
void device_doom(struct volume *v);   /* nothing is held any more */
void device_settle(struct volume *v); /* takes away what is not wanted */
void device_server_ended(struct volume *v); /* reaped */
void device_message(struct volume *v, const struct message *m);
void device_lost(struct volume *v, const char *text); /* the broker ended */
void device_sweep(struct agent *a);                   /* names that a killed agent left */

/* Whether this build and this kernel have ublk; control: /dev/ublk-control. */
bool device_possible(const struct config *c, const char *control, char text[static TEXT_MAX_BYTES]);

/* export.c */
int export_listen(const struct volume *v); /* the listening descriptor, or ERR_* (logged) */
void export_unlisten(struct volume *v);
void export_uri(const struct volume *v, char *out, size_t size);

#endif
