/* The gate: one pure state machine per volume. No clock, no I/O, no memory: time, process death and HSM answers come in as
 * events, what is to be done comes out as actions. What must hold: every (state, event) pair is written in the table; one that
 * is not is FAULT, and entering FAULT kills the dataplane; keys are only ever in RAM in UNLOCKING, AVAILABLE, SUSPECT, OUTAGE
 * and (being wiped) LOCKING; nothing but an officer's restore clears a latch. STATES.md is generated from this table. */
#ifndef FALLGATE_REVOCATION_H
#define FALLGATE_REVOCATION_H

#include <stdbool.h>
#include <stdint.h>

enum gate_state {
	GATE_LOCKED,
	GATE_UNLOCKING,
	GATE_AVAILABLE,
	GATE_SUSPECT,
	GATE_OUTAGE,
	GATE_LOCKING,
	GATE_WIPE_UNCONFIRMED,
	GATE_INACCESSIBLE,
	GATE_PURGED,
	GATE_ERASED,
	GATE_FAULT,
	GATE_STATE_COUNT
};

enum gate_cause {
	CAUSE_NONE,
	CAUSE_DISABLED,
	CAUSE_DELETED,
	CAUSE_REPLACED,
	CAUSE_EXPIRED,
	CAUSE_NOT_YET_VALID,
	CAUSE_ACCESS_REVOKED, /* PIN or rights */
	CAUSE_TOKEN_GONE,
	CAUSE_UNREACHABLE,
	CAUSE_DEK_REFUSED, /* the proof is good, the DEK is not */
	CAUSE_CLOCK,
	CAUSE_MODULE_BROKEN,
	CAUSE_COMMANDED,
	CAUSE_TAMPER,
	CAUSE_INTEGRITY,
	CAUSE_SUPERVISOR_LOST,
	CAUSE_ENGINE,      /* fail-stop of the volume engine, or its process died */
	CAUSE_DETACHED,    /* an operator's detach on its way: LOCKING ends in LOCKED instead of INACCESSIBLE */
	CAUSE_RECORD_LOST, /* the gate record was missing or damaged: latched */
	CAUSE_COUNT
};

enum gate_event {
	EV_ATTACH,  /* operator, or attach=auto at start */
	EV_DETACH,  /* operator */
	EV_RESTORE, /* officer */
	EV_REVOKE,  /* officer, signal or local socket: unconditional */
	EV_TAMPER,
	EV_INTEGRITY_ALARM,
	EV_PROOF_GOOD,      /* a probe by the long-lived hsm process */
	EV_PROOF_REFUSED,   /* definite; carries the cause */
	EV_PROOF_AMBIGUOUS, /* proves nothing: a fresh process must settle it */
	EV_FRESH_GOOD,      /* the same three, by a freshly executed hsm process */
	EV_FRESH_REFUSED,
	EV_FRESH_AMBIGUOUS,
	EV_DEK_LOADED,          /* the dataplane opened the volume */
	EV_DEK_REFUSED,         /* the proof is good, this volume's DEK is not: carries the cause */
	EV_UNLOCK_DEADLINE,     /* 10 s in UNLOCKING */
	EV_OUTAGE_OVER,         /* the outage budget is spent */
	EV_WIPED,               /* the dataplane says so */
	EV_DRAINED,             /* acknowledged ciphertext is on the disk (or failed: see the ledger) */
	EV_WIPE_DEADLINE,       /* 60 ms in LOCKING without WIPED: kill */
	EV_REAP_DEADLINE,       /* killed and not reaped in time */
	EV_DATAPLANE_DEAD,      /* reaped */
	EV_DATAPLANE_SELF_LOCK, /* it locked itself: a deadline passed, carries the cause */
	EV_ENGINE_FAILSTOP,
	EV_RECOVERY_REFUSED, /* the volume does not open: damage; carries the cause */
	EV_HOLD_TIMEOUT,
	EV_PIN_RENEWED,
	EV_KEK_REPOINTED,
	EV_CLOCK_UNTRUSTED,
	EV_CLOCK_TRUSTED,
	EV_PURGE_DUE,
	EV_ERASE,       /* officers */
	EV_LATE_ANSWER, /* an answer whose nonce is not the one asked: dropped */
	EV_HSM_DEAD,
	EV_MGMT_DEAD,
	EV_COUNT
};

/* What the executor does after a step, in bit order. */
enum gate_action {
	ACT_NONE = 0,
	ACT_ALARM = 1u << 0,          /* wipe unconfirmed: watchdog, loud log */
	ACT_ALERT = 1u << 1,          /* observers, journal, program: queued before the first I/O is refused, never waited for */
	ACT_CANCEL_UNWRAP = 1u << 2,  /* kill and reap the one-shot hsm of this volume */
	ACT_SEND_LOCK = 1u << 3,      /* tell the dataplane to lock; start the 60 ms wipe deadline */
	ACT_KILL_DATAPLANE = 1u << 4, /* SIGKILL; start the reap deadline */
	ACT_WRITE_LATCH = 1u << 5,    /* make the latch durable; wiping does not wait for it */
	ACT_CLEAR_LATCH = 1u << 6,
	ACT_START_DATAPLANE = 1u << 7, /* a keyless one: the export exists and refuses */
	ACT_STOP_DATAPLANE = 1u << 8,  /* detach: end the process and its export */
	ACT_START_UNLOCK = 1u << 9,    /* fresh proof, then ticket and unwrap; start the unlock deadline */
	ACT_PROBE_FRESH = 1u << 10,    /* reap the long-lived hsm, probe in a fresh process */
	ACT_START_OUTAGE = 1u << 11,   /* start the outage budget, counted from the start of the last good probe */
	ACT_STOP_OUTAGE = 1u << 12,
	ACT_EXTEND_LEASE = 1u << 13, /* send the dataplane its new proof deadline */
	ACT_AUDIT = 1u << 14,        /* a ledger record with the measured times */
	ACT_PURGE_CACHES = 1u << 15,
	ACT_DESTROY_WRAPS = 1u << 16,
	ACT_RECORD_DEFECT = 1u << 17, /* an event that the table does not allow */
	ACT_REATTACH = 1u << 18,      /* executor feeds EV_ATTACH when the new dataplane is ready */
};

struct gate {
	enum gate_state state;
	enum gate_cause cause;
	bool latched; /* durable: only EV_RESTORE clears it */
	enum gate_cause latch_cause;
	uint64_t seq; /* raised by every transition: If-Match for officers */
};

struct gate_step {
	struct gate next;
	uint32_t actions; /* of enum gate_action */
	bool changed;     /* state, cause or latch differ from before */
};

/* The whole decision. `cause` is used by the events that carry one, else CAUSE_NONE. Pure. */
struct gate_step revocation_step(const struct gate *now, enum gate_event event, enum gate_cause cause);

/* The gate of a volume whose record was read (or was not: then latched, CAUSE_RECORD_LOST). State LOCKED. */
struct gate revocation_initial(bool record_good, bool latched, enum gate_cause latch_cause, uint64_t seq);

/* The same of a volume that was purged: latched for certain, and only an officer's restore leads out. */
struct gate revocation_initial_purged(enum gate_cause latch_cause, uint64_t seq);

/* Table access for the generator of STATES.md and for tests: false if the pair is not written. */
struct gate_row {
	enum gate_state next;
	uint32_t actions;
	uint8_t rule;    /* of enum gate_rule in revocation.c: how cause and latch follow */
	const char *why; /* one clause, never NULL where written */
};
bool revocation_row(enum gate_state state, enum gate_event event, struct gate_row *out);

bool gate_state_has_keys(enum gate_state state);          /* keys may be in RAM */
bool gate_state_serves(enum gate_state state);            /* I/O is answered */
bool gate_cause_latches(enum gate_cause cause);           /* commanded, tamper, integrity, record-lost */
const char *gate_state_name(enum gate_state s);           /* "AVAILABLE" */
const char *gate_cause_name(enum gate_cause c);           /* "disabled" */
const char *gate_event_name(enum gate_event e);           /* "proof-refused" */
const char *gate_action_name(enum gate_action a);         /* "send-lock" */
const char *gate_cause_remedy(enum gate_cause c);         /* what lifts it, one clause: "enable the KEK in the HSM" */
const char *gate_remedy(enum gate_cause c, bool latched); /* the same of a gate; latched: an officer's restore is part of it */

#endif
