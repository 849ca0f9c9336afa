/* The gate's table and the one function that applies it. What must hold: all 11 x 34 pairs are written, one a line, each with
 * its reason; what cannot happen says FAULT by name; nothing here reads a clock, allocates, or remembers. */
#include "revocation.h"

#include <stddef.h>

#include "table.h"

/* Short names, so that a row is a line. */
enum {
	EXPORT = ACT_START_DATAPLANE,
	UNEXPORT = ACT_STOP_DATAPLANE,
	CANCEL = ACT_CANCEL_UNWRAP,
	KILL = ACT_KILL_DATAPLANE,
	WRITE = ACT_WRITE_LATCH,
	CLEAR = ACT_CLEAR_LATCH,
	LEASE = ACT_EXTEND_LEASE,
	BUDGET = ACT_START_OUTAGE,
	CALM = ACT_STOP_OUTAGE,
	PURGE = ACT_PURGE_CACHES,
	DESTROY = ACT_PURGE_CACHES | ACT_DESTROY_WRAPS,
	TELL = ACT_ALERT | ACT_AUDIT,
	CUT = ACT_SEND_LOCK | TELL,
	CUT_HELD = CUT | ACT_STOP_OUTAGE,
	CUT_UNLOCK = CUT | ACT_CANCEL_UNWRAP,
	LATCH = ACT_WRITE_LATCH | TELL,
	OPEN_UP = ACT_START_UNLOCK | TELL,
	DOUBT = ACT_PROBE_FRESH | TELL,
	BACK = ACT_STOP_OUTAGE | ACT_EXTEND_LEASE | TELL,
	BREAK = ACT_CANCEL_UNWRAP | ACT_KILL_DATAPLANE | ACT_STOP_OUTAGE | ACT_RECORD_DEFECT | TELL,
};

#define ROW(event_, next_, actions_, rule_, why_) [EV_##event_] = { GATE_##next_, actions_, RULE_##rule_, why_ },

/* clang-format off */
gate_table revocation_table = {
	[GATE_LOCKED] = {
		ROW(ATTACH,              UNLOCKING, OPEN_UP | EXPORT, OPEN_ATTACH, "under a latch the export only refuses")
		ROW(DETACH,              LOCKED, ACT_NONE, KEEP, "detached already")
		ROW(RESTORE,             LOCKED, CLEAR | TELL, RESTORE, "the latch is lifted; attaching is the operator's")
		ROW(REVOKE,              LOCKED, LATCH, SET, "no key is here; revoked: latched")
		ROW(TAMPER,              LOCKED, LATCH, SET, "no key is here; tampered with: latched")
		ROW(INTEGRITY_ALARM,     LOCKED, LATCH, SET, "no key is here; the alarm stands: latched")
		ROW(PROOF_GOOD,          LOCKED, ACT_NONE, KEEP, "not attached")
		ROW(PROOF_REFUSED,       LOCKED, ACT_NONE, KEEP, "not attached; attaching asks again")
		ROW(PROOF_AMBIGUOUS,     LOCKED, ACT_NONE, KEEP, "not attached")
		ROW(FRESH_GOOD,          LOCKED, ACT_NONE, KEEP, "not attached")
		ROW(FRESH_REFUSED,       LOCKED, ACT_NONE, KEEP, "not attached; attaching asks again")
		ROW(FRESH_AMBIGUOUS,     LOCKED, ACT_NONE, KEEP, "not attached")
		ROW(DEK_LOADED,          FAULT, BREAK, DEFECT, "a key where no unwrap was asked for")
		ROW(DEK_REFUSED,         LOCKED, ACT_NONE, KEEP, "no unwrap runs here")
		ROW(UNLOCK_DEADLINE,     LOCKED, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         LOCKED, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               FAULT, BREAK, DEFECT, "wiped without an order: the two sides disagree")
		ROW(DRAINED,             LOCKED, ACT_AUDIT, KEEP, "what was acknowledged is on the disk")
		ROW(WIPE_DEADLINE,       LOCKED, ACT_NONE, KEEP, "confirmed or killed already: a late timer")
		ROW(REAP_DEADLINE,       LOCKED, ACT_NONE, KEEP, "the wipe was confirmed before")
		ROW(DATAPLANE_DEAD,      LOCKED, ACT_NONE, KEEP, "it was told to end")
		ROW(DATAPLANE_SELF_LOCK, LOCKED, ACT_NONE, KEEP, "no key is here")
		ROW(ENGINE_FAILSTOP,     LOCKED, ACT_NONE, KEEP, "no volume is open; the drain reports its own error")
		ROW(RECOVERY_REFUSED,    LOCKED, ACT_NONE, KEEP, "not attached")
		ROW(HOLD_TIMEOUT,        LOCKED, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         LOCKED, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       LOCKED, ACT_NONE, KEEP, "the next attach uses it")
		ROW(CLOCK_UNTRUSTED,     LOCKED, ACT_NONE, KEEP, "no key is here; dates are checked at every proof")
		ROW(CLOCK_TRUSTED,       LOCKED, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           LOCKED, ACT_NONE, KEEP, "not attached: nothing is cached")
		ROW(ERASE,               ERASED, UNEXPORT | DESTROY | LATCH, ERASE, "the wrapped keys go: for ever")
		ROW(LATE_ANSWER,         LOCKED, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            LOCKED, ACT_NONE, KEEP, "no unwrap runs here; the prober is started anew")
		ROW(MGMT_DEAD,           LOCKED, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_UNLOCKING] = {
		ROW(ATTACH,              UNLOCKING, ACT_NONE, KEEP, "attached already, and on its way")
		ROW(DETACH,              LOCKING, CUT_UNLOCK, SET, "the unwrap is cancelled, whatever came is wiped")
		ROW(RESTORE,             UNLOCKING, ACT_NONE, KEEP, "nothing is latched")
		ROW(REVOKE,              LOCKING, CUT_UNLOCK | WRITE, SET, "revoked: its hsm is killed first")
		ROW(TAMPER,              LOCKING, CUT_UNLOCK | WRITE, SET, "tampered with: its hsm is killed first")
		ROW(INTEGRITY_ALARM,     LOCKING, CUT_UNLOCK | WRITE, SET, "the alarm stands: its hsm is killed first")
		ROW(PROOF_GOOD,          UNLOCKING, ACT_NONE, KEEP, "the unwrap is still to come")
		ROW(PROOF_REFUSED,       LOCKING, CUT_UNLOCK, SET, "a definite refusal: whatever was unwrapped is wiped")
		ROW(PROOF_AMBIGUOUS,     UNLOCKING, ACT_NONE, KEEP, "the unlock's own fresh process decides")
		ROW(FRESH_GOOD,          UNLOCKING, ACT_NONE, KEEP, "the unwrap is still to come")
		ROW(FRESH_REFUSED,       LOCKING, CUT_UNLOCK, SET, "a definite refusal: whatever was unwrapped is wiped")
		ROW(FRESH_AMBIGUOUS,     LOCKING, CUT_UNLOCK, SET, "no proof, no unlock")
		ROW(DEK_LOADED,          AVAILABLE, LEASE | TELL, CLEAR, "open, proven, and its hsm reaped")
		ROW(DEK_REFUSED,         LOCKING, CUT_UNLOCK, SET, "the KEK works, this volume's DEK does not")
		ROW(UNLOCK_DEADLINE,     LOCKING, CUT_UNLOCK, SET, "too long: cancelled, wiped, tried again when a proof is good")
		ROW(OUTAGE_OVER,         UNLOCKING, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               FAULT, BREAK, DEFECT, "wiped without an order: the two sides disagree")
		ROW(DRAINED,             UNLOCKING, ACT_AUDIT, KEEP, "what was acknowledged is on the disk")
		ROW(WIPE_DEADLINE,       FAULT, BREAK, DEFECT, "a lock was ordered, and the gate is not shut")
		ROW(REAP_DEADLINE,       FAULT, BREAK, DEFECT, "a killed process is serving")
		ROW(DATAPLANE_DEAD,      INACCESSIBLE, CANCEL | EXPORT | TELL, SET, "its memory went with it")
		ROW(DATAPLANE_SELF_LOCK, INACCESSIBLE, CANCEL | TELL, SET, "its own deadline passed: already wiped")
		ROW(ENGINE_FAILSTOP,     LOCKING, CUT_UNLOCK, SET, "acknowledges nothing more: opened anew")
		ROW(RECOVERY_REFUSED,    LOCKING, CUT_UNLOCK, SET, "the volume does not open; damage latches")
		ROW(HOLD_TIMEOUT,        UNLOCKING, ACT_NONE, KEEP, "the key is on its way: too late for those who waited")
		ROW(PIN_RENEWED,         UNLOCKING, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       LOCKING, CUT_UNLOCK, SET, "another KEK governs now: begun anew")
		ROW(CLOCK_UNTRUSTED,     LOCKING, CUT_UNLOCK, SET, "dates mean nothing without a clock")
		ROW(CLOCK_TRUSTED,       UNLOCKING, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           UNLOCKING, ACT_NONE, KEEP, "the key is back: nothing is due")
		ROW(ERASE,               UNLOCKING, ACT_NONE, KEEP, "revoke or detach first: keys are in use")
		ROW(LATE_ANSWER,         UNLOCKING, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            LOCKING, CUT_UNLOCK, SET, "the unwrap's process died without a verdict")
		ROW(MGMT_DEAD,           UNLOCKING, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_AVAILABLE] = {
		ROW(ATTACH,              AVAILABLE, ACT_NONE, KEEP, "attached already")
		ROW(DETACH,              LOCKING, CUT, SET, "keys first, then the writes are finished")
		ROW(RESTORE,             AVAILABLE, ACT_NONE, KEEP, "nothing is latched")
		ROW(REVOKE,              LOCKING, CUT | WRITE, SET, "revoked: at once")
		ROW(TAMPER,              LOCKING, CUT | WRITE, SET, "tampered with: at once")
		ROW(INTEGRITY_ALARM,     LOCKING, CUT | WRITE, SET, "the alarm stands: at once")
		ROW(PROOF_GOOD,          AVAILABLE, LEASE, KEEP, "the lease is renewed")
		ROW(PROOF_REFUSED,       LOCKING, CUT, SET, "a definite refusal locks at once")
		ROW(PROOF_AMBIGUOUS,     SUSPECT, DOUBT, SET, "proves nothing: a fresh process settles it")
		ROW(FRESH_GOOD,          AVAILABLE, LEASE, KEEP, "the lease is renewed")
		ROW(FRESH_REFUSED,       LOCKING, CUT, SET, "a definite refusal locks at once")
		ROW(FRESH_AMBIGUOUS,     OUTAGE, BUDGET | TELL, SET, "a fresh process could not: the budget runs")
		ROW(DEK_LOADED,          FAULT, BREAK, DEFECT, "a second key for an open volume")
		ROW(DEK_REFUSED,         LOCKING, CUT, SET, "a definite refusal locks at once")
		ROW(UNLOCK_DEADLINE,     AVAILABLE, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         AVAILABLE, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               FAULT, BREAK, DEFECT, "wiped without an order: the two sides disagree")
		ROW(DRAINED,             FAULT, BREAK, DEFECT, "drained without an order: the two sides disagree")
		ROW(WIPE_DEADLINE,       FAULT, BREAK, DEFECT, "a lock was ordered, and the gate is not shut")
		ROW(REAP_DEADLINE,       FAULT, BREAK, DEFECT, "a killed process is serving")
		ROW(DATAPLANE_DEAD,      INACCESSIBLE, EXPORT | TELL, SET, "its memory went with it")
		ROW(DATAPLANE_SELF_LOCK, INACCESSIBLE, TELL, SET, "its own deadline passed: already wiped")
		ROW(ENGINE_FAILSTOP,     LOCKING, CUT, SET, "acknowledges nothing more: opened anew")
		ROW(RECOVERY_REFUSED,    FAULT, BREAK, DEFECT, "a volume that serves was open already")
		ROW(HOLD_TIMEOUT,        AVAILABLE, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         AVAILABLE, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       SUSPECT, DOUBT, SET, "the new KEK proves itself in a fresh process")
		ROW(CLOCK_UNTRUSTED,     LOCKING, CUT, SET, "dates mean nothing without a clock")
		ROW(CLOCK_TRUSTED,       AVAILABLE, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           AVAILABLE, ACT_NONE, KEEP, "the key is back: nothing is due")
		ROW(ERASE,               AVAILABLE, ACT_NONE, KEEP, "revoke or detach first: keys are in use")
		ROW(LATE_ANSWER,         AVAILABLE, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            SUSPECT, DOUBT, SET, "the prober died without an answer: a fresh process settles it")
		ROW(MGMT_DEAD,           AVAILABLE, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_SUSPECT] = {
		ROW(ATTACH,              SUSPECT, ACT_NONE, KEEP, "attached already")
		ROW(DETACH,              LOCKING, CUT_HELD, SET, "keys first, then the writes are finished")
		ROW(RESTORE,             SUSPECT, ACT_NONE, KEEP, "nothing is latched")
		ROW(REVOKE,              LOCKING, CUT_HELD | WRITE, SET, "revoked: at once")
		ROW(TAMPER,              LOCKING, CUT_HELD | WRITE, SET, "tampered with: at once")
		ROW(INTEGRITY_ALARM,     LOCKING, CUT_HELD | WRITE, SET, "the alarm stands: at once")
		ROW(PROOF_GOOD,          SUSPECT, ACT_NONE, KEEP, "only a fresh process settles it")
		ROW(PROOF_REFUSED,       LOCKING, CUT_HELD, SET, "a definite refusal locks at once")
		ROW(PROOF_AMBIGUOUS,     SUSPECT, ACT_NONE, KEEP, "being settled already")
		ROW(FRESH_GOOD,          AVAILABLE, BACK, CLEAR, "a hiccup: the lease is renewed")
		ROW(FRESH_REFUSED,       LOCKING, CUT_HELD, SET, "a definite refusal locks at once")
		ROW(FRESH_AMBIGUOUS,     OUTAGE, BUDGET | TELL, SET, "a fresh process too: the budget runs")
		ROW(DEK_LOADED,          FAULT, BREAK, DEFECT, "a second key for an open volume")
		ROW(DEK_REFUSED,         LOCKING, CUT_HELD, SET, "a definite refusal locks at once")
		ROW(UNLOCK_DEADLINE,     SUSPECT, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         LOCKING, CUT_HELD, SET, "the outage budget is spent before it was settled")
		ROW(WIPED,               FAULT, BREAK, DEFECT, "wiped without an order: the two sides disagree")
		ROW(DRAINED,             FAULT, BREAK, DEFECT, "drained without an order: the two sides disagree")
		ROW(WIPE_DEADLINE,       FAULT, BREAK, DEFECT, "a lock was ordered, and the gate is not shut")
		ROW(REAP_DEADLINE,       FAULT, BREAK, DEFECT, "a killed process is serving")
		ROW(DATAPLANE_DEAD,      INACCESSIBLE, CALM | EXPORT | TELL, SET, "its memory went with it")
		ROW(DATAPLANE_SELF_LOCK, INACCESSIBLE, CALM | TELL, SET, "its own deadline passed: already wiped")
		ROW(ENGINE_FAILSTOP,     LOCKING, CUT_HELD, SET, "acknowledges nothing more: opened anew")
		ROW(RECOVERY_REFUSED,    FAULT, BREAK, DEFECT, "a volume that serves was open already")
		ROW(HOLD_TIMEOUT,        SUSPECT, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         SUSPECT, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       SUSPECT, ACT_PROBE_FRESH, KEEP, "being settled already; again, with the new KEK")
		ROW(CLOCK_UNTRUSTED,     LOCKING, CUT_HELD, SET, "dates mean nothing without a clock")
		ROW(CLOCK_TRUSTED,       SUSPECT, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           SUSPECT, ACT_NONE, KEEP, "the key is back: nothing is due")
		ROW(ERASE,               SUSPECT, ACT_NONE, KEEP, "revoke or detach first: keys are in use")
		ROW(LATE_ANSWER,         SUSPECT, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            SUSPECT, ACT_NONE, KEEP, "being settled already")
		ROW(MGMT_DEAD,           SUSPECT, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_OUTAGE] = {
		ROW(ATTACH,              OUTAGE, ACT_NONE, KEEP, "attached already")
		ROW(DETACH,              LOCKING, CUT_HELD, SET, "keys first, then the writes are finished")
		ROW(RESTORE,             OUTAGE, ACT_NONE, KEEP, "nothing is latched")
		ROW(REVOKE,              LOCKING, CUT_HELD | WRITE, SET, "revoked: at once")
		ROW(TAMPER,              LOCKING, CUT_HELD | WRITE, SET, "tampered with: at once")
		ROW(INTEGRITY_ALARM,     LOCKING, CUT_HELD | WRITE, SET, "the alarm stands: at once")
		ROW(PROOF_GOOD,          AVAILABLE, BACK, CLEAR, "the HSM is back: the lease is renewed")
		ROW(PROOF_REFUSED,       LOCKING, CUT_HELD, SET, "a definite refusal locks at once")
		ROW(PROOF_AMBIGUOUS,     OUTAGE, ACT_NONE, KEEP, "the budget runs")
		ROW(FRESH_GOOD,          AVAILABLE, BACK, CLEAR, "the HSM is back: the lease is renewed")
		ROW(FRESH_REFUSED,       LOCKING, CUT_HELD, SET, "a definite refusal locks at once")
		ROW(FRESH_AMBIGUOUS,     OUTAGE, ACT_NONE, KEEP, "the budget runs")
		ROW(DEK_LOADED,          FAULT, BREAK, DEFECT, "a second key for an open volume")
		ROW(DEK_REFUSED,         LOCKING, CUT_HELD, SET, "a definite refusal locks at once")
		ROW(UNLOCK_DEADLINE,     OUTAGE, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         LOCKING, CUT_HELD, SET, "the outage budget is spent")
		ROW(WIPED,               FAULT, BREAK, DEFECT, "wiped without an order: the two sides disagree")
		ROW(DRAINED,             FAULT, BREAK, DEFECT, "drained without an order: the two sides disagree")
		ROW(WIPE_DEADLINE,       FAULT, BREAK, DEFECT, "a lock was ordered, and the gate is not shut")
		ROW(REAP_DEADLINE,       FAULT, BREAK, DEFECT, "a killed process is serving")
		ROW(DATAPLANE_DEAD,      INACCESSIBLE, CALM | EXPORT | TELL, SET, "its memory went with it")
		ROW(DATAPLANE_SELF_LOCK, INACCESSIBLE, CALM | TELL, SET, "its own deadline passed: already wiped")
		ROW(ENGINE_FAILSTOP,     LOCKING, CUT_HELD, SET, "acknowledges nothing more: opened anew")
		ROW(RECOVERY_REFUSED,    FAULT, BREAK, DEFECT, "a volume that serves was open already")
		ROW(HOLD_TIMEOUT,        OUTAGE, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         OUTAGE, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       SUSPECT, ACT_PROBE_FRESH | TELL, SET, "the new KEK proves itself; the budget runs on")
		ROW(CLOCK_UNTRUSTED,     LOCKING, CUT_HELD, SET, "dates mean nothing without a clock")
		ROW(CLOCK_TRUSTED,       OUTAGE, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           OUTAGE, ACT_NONE, KEEP, "the key is back: nothing is due")
		ROW(ERASE,               OUTAGE, ACT_NONE, KEEP, "revoke or detach first: keys are in use")
		ROW(LATE_ANSWER,         OUTAGE, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            OUTAGE, ACT_NONE, KEEP, "the budget runs")
		ROW(MGMT_DEAD,           OUTAGE, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_LOCKING] = {
		ROW(ATTACH,              LOCKING, ACT_NONE, KEEP, "the wipe comes first: ask again after it")
		ROW(DETACH,              LOCKING, ACT_AUDIT, SET, "the wipe goes on and ends in LOCKED")
		ROW(RESTORE,             LOCKING, ACT_NONE, KEEP, "the wipe comes first: ask again after it")
		ROW(REVOKE,              LOCKING, LATCH, SET, "revoked during a wipe: latched, and it wins")
		ROW(TAMPER,              LOCKING, LATCH, SET, "tampered with during a wipe: latched, and it wins")
		ROW(INTEGRITY_ALARM,     LOCKING, LATCH, SET, "the alarm stands during a wipe: latched, and it wins")
		ROW(PROOF_GOOD,          LOCKING, ACT_NONE, KEEP, "the wipe is not undone")
		ROW(PROOF_REFUSED,       LOCKING, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(PROOF_AMBIGUOUS,     LOCKING, ACT_NONE, KEEP, "being wiped already")
		ROW(FRESH_GOOD,          LOCKING, ACT_NONE, KEEP, "the wipe is not undone")
		ROW(FRESH_REFUSED,       LOCKING, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(FRESH_AMBIGUOUS,     LOCKING, ACT_NONE, KEEP, "being wiped already")
		ROW(DEK_LOADED,          LOCKING, ACT_NONE, KEEP, "crossed the order to lock: it is wiped with the rest")
		ROW(DEK_REFUSED,         LOCKING, ACT_NONE, KEEP, "no unwrap runs here")
		ROW(UNLOCK_DEADLINE,     LOCKING, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         LOCKING, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               INACCESSIBLE, TELL, END, "every key is gone; the process finishes the writes and ends")
		ROW(DRAINED,             FAULT, BREAK, DEFECT, "drained before it was wiped: the lock order is broken")
		ROW(WIPE_DEADLINE,       WIPE_UNCONFIRMED, KILL | TELL, KEEP, "not confirmed in time: reaping will confirm it")
		ROW(REAP_DEADLINE,       FAULT, BREAK, DEFECT, "nobody was killed yet")
		ROW(DATAPLANE_DEAD,      INACCESSIBLE, EXPORT | TELL, END, "reaped: that counts as wiped")
		ROW(DATAPLANE_SELF_LOCK, INACCESSIBLE, TELL, END, "it was faster than the order: wiped")
		ROW(ENGINE_FAILSTOP,     LOCKING, ACT_NONE, KEEP, "being wiped already; the drain reports its own error")
		ROW(RECOVERY_REFUSED,    LOCKING, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(HOLD_TIMEOUT,        LOCKING, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         LOCKING, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       LOCKING, ACT_NONE, KEEP, "the wipe comes first")
		ROW(CLOCK_UNTRUSTED,     LOCKING, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(CLOCK_TRUSTED,       LOCKING, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           LOCKING, ACT_NONE, KEEP, "the wipe comes first")
		ROW(ERASE,               LOCKING, ACT_NONE, KEEP, "the wipe comes first: ask again after it")
		ROW(LATE_ANSWER,         LOCKING, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            LOCKING, ACT_NONE, KEEP, "no unwrap runs here; the prober is started anew")
		ROW(MGMT_DEAD,           LOCKING, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_WIPE_UNCONFIRMED] = {
		ROW(ATTACH,              WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the wipe comes first: ask again after it")
		ROW(DETACH,              WIPE_UNCONFIRMED, ACT_AUDIT, SET, "the wipe goes on and ends in LOCKED")
		ROW(RESTORE,             WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the wipe comes first: ask again after it")
		ROW(REVOKE,              WIPE_UNCONFIRMED, LATCH, SET, "revoked during a wipe: latched, and it wins")
		ROW(TAMPER,              WIPE_UNCONFIRMED, LATCH, SET, "tampered with during a wipe: latched, and it wins")
		ROW(INTEGRITY_ALARM,     WIPE_UNCONFIRMED, LATCH, SET, "the alarm stands during a wipe: latched, and it wins")
		ROW(PROOF_GOOD,          WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the wipe is not undone")
		ROW(PROOF_REFUSED,       WIPE_UNCONFIRMED, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(PROOF_AMBIGUOUS,     WIPE_UNCONFIRMED, ACT_NONE, KEEP, "being wiped already")
		ROW(FRESH_GOOD,          WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the wipe is not undone")
		ROW(FRESH_REFUSED,       WIPE_UNCONFIRMED, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(FRESH_AMBIGUOUS,     WIPE_UNCONFIRMED, ACT_NONE, KEEP, "being wiped already")
		ROW(DEK_LOADED,          WIPE_UNCONFIRMED, ACT_NONE, KEEP, "crossed the order to lock: it is wiped with the rest")
		ROW(DEK_REFUSED,         WIPE_UNCONFIRMED, ACT_NONE, KEEP, "no unwrap runs here")
		ROW(UNLOCK_DEADLINE,     WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         WIPE_UNCONFIRMED, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               INACCESSIBLE, TELL, END, "late, but confirmed")
		ROW(DRAINED,             WIPE_UNCONFIRMED, ACT_NONE, KEEP, "only its wipe or its death counts")
		ROW(WIPE_DEADLINE,       WIPE_UNCONFIRMED, ACT_NONE, KEEP, "confirmed or killed already: a late timer")
		ROW(REAP_DEADLINE,       WIPE_UNCONFIRMED, ACT_ALARM | TELL, KEEP, "killed, not gone: keys may be in RAM")
		ROW(DATAPLANE_DEAD,      INACCESSIBLE, EXPORT | TELL, END, "reaped: that counts as wiped")
		ROW(DATAPLANE_SELF_LOCK, INACCESSIBLE, TELL, END, "it was faster than the order: wiped")
		ROW(ENGINE_FAILSTOP,     WIPE_UNCONFIRMED, ACT_NONE, KEEP, "being wiped already; the drain reports its own error")
		ROW(RECOVERY_REFUSED,    WIPE_UNCONFIRMED, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(HOLD_TIMEOUT,        WIPE_UNCONFIRMED, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the wipe comes first")
		ROW(CLOCK_UNTRUSTED,     WIPE_UNCONFIRMED, ACT_NONE, KEEP, "being wiped already, for the first cause")
		ROW(CLOCK_TRUSTED,       WIPE_UNCONFIRMED, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the wipe comes first")
		ROW(ERASE,               WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the wipe comes first: ask again after it")
		ROW(LATE_ANSWER,         WIPE_UNCONFIRMED, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            WIPE_UNCONFIRMED, ACT_NONE, KEEP, "no unwrap runs here; the prober is started anew")
		ROW(MGMT_DEAD,           WIPE_UNCONFIRMED, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_INACCESSIBLE] = {
		ROW(ATTACH,              INACCESSIBLE, ACT_NONE, KEEP, "attached already: opens when the cause is lifted")
		ROW(DETACH,              LOCKED, UNEXPORT | TELL, CLEAR, "no key is here; the export goes, a latch stays")
		ROW(RESTORE,             UNLOCKING, OPEN_UP | CLEAR, RESTORE, "lifted; a fresh proof decides")
		ROW(REVOKE,              INACCESSIBLE, LATCH, SET, "no key is here; revoked: latched")
		ROW(TAMPER,              INACCESSIBLE, LATCH, SET, "no key is here; tampered with: latched")
		ROW(INTEGRITY_ALARM,     INACCESSIBLE, LATCH, SET, "no key is here; the alarm stands: latched")
		ROW(PROOF_GOOD,          UNLOCKING, OPEN_UP, OPEN, "the key is back: opens by itself")
		ROW(PROOF_REFUSED,       INACCESSIBLE, TELL, LATER, "still shut, now with the telling cause")
		ROW(PROOF_AMBIGUOUS,     INACCESSIBLE, ACT_NONE, KEEP, "still shut; the known cause says more")
		ROW(FRESH_GOOD,          UNLOCKING, OPEN_UP, OPEN, "the key is back: opens by itself")
		ROW(FRESH_REFUSED,       INACCESSIBLE, TELL, LATER, "still shut, now with the telling cause")
		ROW(FRESH_AMBIGUOUS,     INACCESSIBLE, ACT_NONE, KEEP, "still shut; the known cause says more")
		ROW(DEK_LOADED,          FAULT, BREAK, DEFECT, "a key where no unwrap was asked for")
		ROW(DEK_REFUSED,         INACCESSIBLE, ACT_NONE, KEEP, "no unwrap runs here")
		ROW(UNLOCK_DEADLINE,     INACCESSIBLE, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         INACCESSIBLE, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               INACCESSIBLE, ACT_NONE, KEEP, "confirmed already")
		ROW(DRAINED,             INACCESSIBLE, ACT_AUDIT, KEEP, "what was acknowledged is on the disk")
		ROW(WIPE_DEADLINE,       INACCESSIBLE, ACT_NONE, KEEP, "confirmed or killed already: a late timer")
		ROW(REAP_DEADLINE,       INACCESSIBLE, ACT_NONE, KEEP, "the wipe was confirmed before")
		ROW(DATAPLANE_DEAD,      INACCESSIBLE, EXPORT, KEEP, "drained and ended, or crashed keyless")
		ROW(DATAPLANE_SELF_LOCK, INACCESSIBLE, ACT_NONE, KEEP, "no key is here")
		ROW(ENGINE_FAILSTOP,     INACCESSIBLE, ACT_NONE, KEEP, "no volume is open; the drain reports its own error")
		ROW(RECOVERY_REFUSED,    INACCESSIBLE, TELL, LATER, "the backing does not attach: now with that cause")
		ROW(HOLD_TIMEOUT,        INACCESSIBLE, TELL, KEEP, "requests that waited have failed; it opens all the same")
		ROW(PIN_RENEWED,         UNLOCKING, OPEN_UP, OPEN_PIN, "a new PIN lifts access-revoked, and nothing else")
		ROW(KEK_REPOINTED,       UNLOCKING, OPEN_UP, OPEN, "another KEK governs now: a fresh proof decides")
		ROW(CLOCK_UNTRUSTED,     INACCESSIBLE, TELL, LATER, "dates mean nothing without a clock: no proof opens it")
		ROW(CLOCK_TRUSTED,       UNLOCKING, OPEN_UP, OPEN_CLOCK, "the clock is back: lifts cause clock, and nothing else")
		ROW(PURGE_DUE,           PURGED, UNEXPORT | PURGE | LATCH, PURGE, "out of reach for hours: latched")
		ROW(ERASE,               ERASED, UNEXPORT | DESTROY | LATCH, ERASE, "the wrapped keys go: for ever")
		ROW(LATE_ANSWER,         INACCESSIBLE, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            INACCESSIBLE, ACT_NONE, KEEP, "no unwrap runs here; the prober is started anew")
		ROW(MGMT_DEAD,           INACCESSIBLE, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_PURGED] = {
		ROW(ATTACH,              PURGED, ACT_NONE, KEEP, "only an officer's restore leads out")
		ROW(DETACH,              PURGED, ACT_NONE, KEEP, "the export is gone already; the latch stays")
		ROW(RESTORE,             UNLOCKING, OPEN_UP | CLEAR | EXPORT, RESTORE, "lifted; a fresh proof decides")
		ROW(REVOKE,              PURGED, LATCH, SET, "no key is here; revoked: latched")
		ROW(TAMPER,              PURGED, LATCH, SET, "no key is here; tampered with: latched")
		ROW(INTEGRITY_ALARM,     PURGED, LATCH, SET, "no key is here; the alarm stands: latched")
		ROW(PROOF_GOOD,          PURGED, ACT_NONE, KEEP, "only an officer's restore leads out")
		ROW(PROOF_REFUSED,       PURGED, ACT_NONE, KEEP, "only an officer's restore leads out")
		ROW(PROOF_AMBIGUOUS,     PURGED, ACT_NONE, KEEP, "only an officer's restore leads out")
		ROW(FRESH_GOOD,          PURGED, ACT_NONE, KEEP, "only an officer's restore leads out")
		ROW(FRESH_REFUSED,       PURGED, ACT_NONE, KEEP, "only an officer's restore leads out")
		ROW(FRESH_AMBIGUOUS,     PURGED, ACT_NONE, KEEP, "only an officer's restore leads out")
		ROW(DEK_LOADED,          FAULT, BREAK, DEFECT, "a key where no unwrap was asked for")
		ROW(DEK_REFUSED,         PURGED, ACT_NONE, KEEP, "no unwrap runs here")
		ROW(UNLOCK_DEADLINE,     PURGED, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         PURGED, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               FAULT, BREAK, DEFECT, "wiped without an order: the two sides disagree")
		ROW(DRAINED,             PURGED, ACT_AUDIT, KEEP, "what was acknowledged is on the disk")
		ROW(WIPE_DEADLINE,       PURGED, ACT_NONE, KEEP, "confirmed or killed already: a late timer")
		ROW(REAP_DEADLINE,       PURGED, ACT_NONE, KEEP, "the wipe was confirmed before")
		ROW(DATAPLANE_DEAD,      PURGED, ACT_NONE, KEEP, "it was told to end")
		ROW(DATAPLANE_SELF_LOCK, PURGED, ACT_NONE, KEEP, "no key is here")
		ROW(ENGINE_FAILSTOP,     PURGED, ACT_NONE, KEEP, "no volume is open; the drain reports its own error")
		ROW(RECOVERY_REFUSED,    PURGED, ACT_NONE, KEEP, "not attached")
		ROW(HOLD_TIMEOUT,        PURGED, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         PURGED, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       PURGED, ACT_NONE, KEEP, "the next attach uses it")
		ROW(CLOCK_UNTRUSTED,     PURGED, ACT_NONE, KEEP, "no key is here; dates are checked at every proof")
		ROW(CLOCK_TRUSTED,       PURGED, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           PURGED, ACT_NONE, KEEP, "purged already")
		ROW(ERASE,               ERASED, UNEXPORT | DESTROY | LATCH, ERASE, "the wrapped keys go: for ever")
		ROW(LATE_ANSWER,         PURGED, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            PURGED, ACT_NONE, KEEP, "no unwrap runs here; the prober is started anew")
		ROW(MGMT_DEAD,           PURGED, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_ERASED] = {
		ROW(ATTACH,              ERASED, ACT_NONE, KEEP, "erased: there is no key left to attach")
		ROW(DETACH,              ERASED, ACT_NONE, KEEP, "the export is gone already")
		ROW(RESTORE,             ERASED, ACT_NONE, KEEP, "erased: nothing can be restored")
		ROW(REVOKE,              ERASED, LATCH, SET, "no key is here; revoked: latched")
		ROW(TAMPER,              ERASED, LATCH, SET, "no key is here; tampered with: latched")
		ROW(INTEGRITY_ALARM,     ERASED, LATCH, SET, "no key is here; the alarm stands: latched")
		ROW(PROOF_GOOD,          ERASED, ACT_NONE, KEEP, "erased: no proof matters")
		ROW(PROOF_REFUSED,       ERASED, ACT_NONE, KEEP, "erased: no proof matters")
		ROW(PROOF_AMBIGUOUS,     ERASED, ACT_NONE, KEEP, "erased: no proof matters")
		ROW(FRESH_GOOD,          ERASED, ACT_NONE, KEEP, "erased: no proof matters")
		ROW(FRESH_REFUSED,       ERASED, ACT_NONE, KEEP, "erased: no proof matters")
		ROW(FRESH_AMBIGUOUS,     ERASED, ACT_NONE, KEEP, "erased: no proof matters")
		ROW(DEK_LOADED,          FAULT, BREAK, DEFECT, "a key where no unwrap was asked for")
		ROW(DEK_REFUSED,         ERASED, ACT_NONE, KEEP, "no unwrap runs here")
		ROW(UNLOCK_DEADLINE,     ERASED, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         ERASED, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               FAULT, BREAK, DEFECT, "wiped without an order: the two sides disagree")
		ROW(DRAINED,             ERASED, ACT_NONE, KEEP, "nothing is kept")
		ROW(WIPE_DEADLINE,       ERASED, ACT_NONE, KEEP, "confirmed or killed already: a late timer")
		ROW(REAP_DEADLINE,       ERASED, ACT_NONE, KEEP, "the wipe was confirmed before")
		ROW(DATAPLANE_DEAD,      ERASED, ACT_NONE, KEEP, "it was told to end")
		ROW(DATAPLANE_SELF_LOCK, ERASED, ACT_NONE, KEEP, "no key is here")
		ROW(ENGINE_FAILSTOP,     ERASED, ACT_NONE, KEEP, "no volume is open; the drain reports its own error")
		ROW(RECOVERY_REFUSED,    ERASED, ACT_NONE, KEEP, "not attached")
		ROW(HOLD_TIMEOUT,        ERASED, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         ERASED, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       ERASED, ACT_NONE, KEEP, "the next attach uses it")
		ROW(CLOCK_UNTRUSTED,     ERASED, ACT_NONE, KEEP, "no key is here; dates are checked at every proof")
		ROW(CLOCK_TRUSTED,       ERASED, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           ERASED, ACT_NONE, KEEP, "nothing is left")
		ROW(ERASE,               ERASED, ACT_NONE, KEEP, "erased already")
		ROW(LATE_ANSWER,         ERASED, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            ERASED, ACT_NONE, KEEP, "no unwrap runs here; the prober is started anew")
		ROW(MGMT_DEAD,           ERASED, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
	[GATE_FAULT] = {
		ROW(ATTACH,              FAULT, ACT_NONE, KEEP, "detach first: that is how the defect is acknowledged")
		ROW(DETACH,              LOCKED, UNEXPORT | TELL, CLEAR, "the operator has seen the defect; a latch stays")
		ROW(RESTORE,             FAULT, ACT_NONE, KEEP, "detach first: that is how the defect is acknowledged")
		ROW(REVOKE,              FAULT, LATCH | KILL, SET, "revoked: latched, and killed again")
		ROW(TAMPER,              FAULT, LATCH | KILL, SET, "tampered with: latched, and killed again")
		ROW(INTEGRITY_ALARM,     FAULT, LATCH | KILL, SET, "the alarm stands: latched, and killed again")
		ROW(PROOF_GOOD,          FAULT, ACT_NONE, KEEP, "a defect is not lifted by a proof")
		ROW(PROOF_REFUSED,       FAULT, ACT_NONE, KEEP, "a defect is not lifted by a proof")
		ROW(PROOF_AMBIGUOUS,     FAULT, ACT_NONE, KEEP, "a defect is not lifted by a proof")
		ROW(FRESH_GOOD,          FAULT, ACT_NONE, KEEP, "a defect is not lifted by a proof")
		ROW(FRESH_REFUSED,       FAULT, ACT_NONE, KEEP, "a defect is not lifted by a proof")
		ROW(FRESH_AMBIGUOUS,     FAULT, ACT_NONE, KEEP, "a defect is not lifted by a proof")
		ROW(DEK_LOADED,          FAULT, ACT_NONE, KEEP, "killed already")
		ROW(DEK_REFUSED,         FAULT, ACT_NONE, KEEP, "no unwrap runs here")
		ROW(UNLOCK_DEADLINE,     FAULT, ACT_NONE, KEEP, "the unlock is over: a late timer")
		ROW(OUTAGE_OVER,         FAULT, ACT_NONE, KEEP, "no outage is running: a late timer")
		ROW(WIPED,               FAULT, ACT_NONE, KEEP, "killed already")
		ROW(DRAINED,             FAULT, ACT_NONE, KEEP, "killed already")
		ROW(WIPE_DEADLINE,       FAULT, ACT_NONE, KEEP, "confirmed or killed already: a late timer")
		ROW(REAP_DEADLINE,       FAULT, ACT_ALARM | TELL, KEEP, "killed, not gone: keys may be in RAM")
		ROW(DATAPLANE_DEAD,      FAULT, ACT_NONE, KEEP, "killed, and gone")
		ROW(DATAPLANE_SELF_LOCK, FAULT, ACT_NONE, KEEP, "killed already")
		ROW(ENGINE_FAILSTOP,     FAULT, ACT_NONE, KEEP, "killed already")
		ROW(RECOVERY_REFUSED,    FAULT, ACT_NONE, KEEP, "killed already")
		ROW(HOLD_TIMEOUT,        FAULT, ACT_NONE, KEEP, "no request waits here")
		ROW(PIN_RENEWED,         FAULT, ACT_NONE, KEEP, "the next login uses it")
		ROW(KEK_REPOINTED,       FAULT, ACT_NONE, KEEP, "the next attach uses it")
		ROW(CLOCK_UNTRUSTED,     FAULT, ACT_NONE, KEEP, "no key is here; dates are checked at every proof")
		ROW(CLOCK_TRUSTED,       FAULT, ACT_NONE, KEEP, "nothing waits for it here")
		ROW(PURGE_DUE,           FAULT, ACT_NONE, KEEP, "a defect is not purged away: detach first")
		ROW(ERASE,               FAULT, ACT_NONE, KEEP, "detach first: that is how the defect is acknowledged")
		ROW(LATE_ANSWER,         FAULT, ACT_NONE, KEEP, "nobody asks that any more: dropped")
		ROW(HSM_DEAD,            FAULT, ACT_NONE, KEEP, "no unwrap runs here; the prober is started anew")
		ROW(MGMT_DEAD,           FAULT, ACT_NONE, KEEP, "the network process holds no key; it is started anew")
	},
};
/* clang-format on */

#undef ROW

/* The cause that an event means. Those that carry one are believed if it is a cause at all; a refusal without one is the
 * executor's defect and still a refusal. CAUSE_DETACHED is an operator's alone. */
static enum gate_cause cause_of(enum gate_event event, enum gate_cause carried)
{
	bool sane = carried > CAUSE_NONE && carried < CAUSE_COUNT && carried != CAUSE_DETACHED;

	switch ((int)event) {
	case EV_REVOKE:
		return CAUSE_COMMANDED;
	case EV_TAMPER:
		return CAUSE_TAMPER;
	case EV_INTEGRITY_ALARM:
		return CAUSE_INTEGRITY;
	case EV_DETACH:
		return CAUSE_DETACHED;
	case EV_DATAPLANE_DEAD:
	case EV_ENGINE_FAILSTOP:
		return CAUSE_ENGINE;
	case EV_CLOCK_UNTRUSTED:
		return CAUSE_CLOCK;
	case EV_KEK_REPOINTED:
		return CAUSE_REPLACED;
	case EV_DEK_REFUSED:
		return sane ? carried : CAUSE_DEK_REFUSED;
	case EV_PROOF_REFUSED:
	case EV_FRESH_REFUSED:
	case EV_DATAPLANE_SELF_LOCK:
	case EV_RECOVERY_REFUSED:
		return sane ? carried : CAUSE_MODULE_BROKEN;
	default: /* ambiguous proofs, time-outs, a dead hsm */
		return CAUSE_UNREACHABLE;
	}
}

static enum gate_cause standing(const struct gate *g, enum gate_cause otherwise)
{
	return g->latched ? g->latch_cause : otherwise;
}

static void set_cause(struct gate *g, enum gate_cause cause)
{
	g->cause = cause;
	if (gate_cause_latches(cause)) {
		g->latched = true;
		g->latch_cause = cause;
	}
}

static void latch_as(struct gate *g, enum gate_cause cause)
{
	g->latch_cause = standing(g, cause);
	g->latched = true;
}

/* Whether an opening rule opens this gate. */
static bool opens(enum gate_rule rule, const struct gate *now)
{
	if (now->latched)
		return false;
	if (rule == RULE_OPEN_PIN)
		return now->cause == CAUSE_ACCESS_REVOKED;
	if (rule == RULE_OPEN_CLOCK)
		return now->cause == CAUSE_CLOCK;
	return rule == RULE_OPEN_ATTACH || now->cause != CAUSE_CLOCK;
}

static void hold_shut(struct gate_step *step, const struct gate *now)
{
	step->next = *now;
	step->actions = ACT_NONE;
}

static void apply_rule(struct gate_step *step, const struct gate *now, enum gate_rule rule, enum gate_cause cause)
{
	struct gate *next = &step->next;

	switch (rule) {
	case RULE_KEEP:
		break;
	case RULE_SET:
		set_cause(next, cause);
		break;
	case RULE_LATER:
		if (now->latched || now->cause == CAUSE_CLOCK || now->cause == cause)
			hold_shut(step, now);
		else
			set_cause(next, cause);
		break;
	case RULE_CLEAR:
		next->cause = standing(next, CAUSE_NONE);
		break;
	case RULE_OPEN:
	case RULE_OPEN_PIN:
	case RULE_OPEN_CLOCK:
		next->cause = CAUSE_NONE;
		if (!opens(rule, now))
			hold_shut(step, now);
		break;
	case RULE_OPEN_ATTACH:
		next->cause = standing(next, CAUSE_NONE);
		if (!opens(rule, now)) {
			next->state = GATE_INACCESSIBLE;
			step->actions &= ~(uint32_t)ACT_START_UNLOCK;
		}
		break;
	case RULE_RESTORE:
		if (!now->latched)
			step->actions &= ~(uint32_t)ACT_CLEAR_LATCH;
		next->latched = false;
		next->latch_cause = CAUSE_NONE;
		next->cause = CAUSE_NONE;
		break;
	case RULE_END:
		if (now->cause != CAUSE_DETACHED)
			break;
		next->state = GATE_LOCKED;
		next->cause = standing(next, CAUSE_NONE);
		step->actions = (step->actions & ~(uint32_t)ACT_START_DATAPLANE) | ACT_STOP_DATAPLANE;
		break;
	case RULE_PURGE:
		latch_as(next, now->cause);
		break;
	case RULE_ERASE:
		latch_as(next, CAUSE_COMMANDED);
		next->cause = next->latch_cause;
		break;
	case RULE_DEFECT:
	case RULE_UNWRITTEN:
	case RULE_COUNT:
		next->cause = standing(next, CAUSE_ENGINE);
		break;
	}
}

static bool same_gate(const struct gate *a, const struct gate *b)
{
	return a->state == b->state && a->cause == b->cause && a->latched == b->latched && a->latch_cause == b->latch_cause;
}

/* What stands for a row that nobody wrote, and for numbers that are no state or event. */
static const struct gate_row unwritten = { GATE_FAULT, BREAK, RULE_DEFECT, "not written" };

struct gate_step revocation_apply(gate_rows rows, const struct gate *now, enum gate_event event, enum gate_cause cause)
{
	bool known = now->state < GATE_STATE_COUNT && event < EV_COUNT;
	const struct gate_row *row = known ? &rows[now->state][event] : &unwritten;
	struct gate_step step;
	bool commanded;

	if (row->rule == RULE_UNWRITTEN || row->rule >= RULE_COUNT)
		row = &unwritten;
	cause = cause_of(event, cause);
	step = (struct gate_step){ .next = *now, .actions = row->actions };
	step.next.state = row->next;
	apply_rule(&step, now, row->rule, cause);
	step.changed = !same_gate(&step.next, now);
	if (step.next.latched && (!now->latched || step.next.latch_cause != now->latch_cause))
		step.actions |= ACT_WRITE_LATCH;
	/* A revoke of what is revoked changes nothing but the sequence: a restore that was sent before it must not undo it. */
	commanded = row->rule == RULE_SET && gate_cause_latches(cause);
	if (step.changed || commanded)
		step.next.seq = now->seq + 1;
	return step;
}

struct gate_step revocation_step(const struct gate *now, enum gate_event event, enum gate_cause cause)
{
	return revocation_apply(revocation_table, now, event, cause);
}

struct gate revocation_initial(bool record_good, bool latched, enum gate_cause latch_cause, uint64_t seq)
{
	struct gate g = { .state = GATE_LOCKED, .cause = CAUSE_NONE, .seq = seq };

	if (!record_good)
		set_cause(&g, CAUSE_RECORD_LOST);
	else if (latched) {
		g.latched = true;
		g.latch_cause = latch_cause > CAUSE_NONE && latch_cause < CAUSE_COUNT ? latch_cause : CAUSE_RECORD_LOST;
		g.cause = g.latch_cause;
	}
	return g;
}

struct gate revocation_initial_purged(enum gate_cause latch_cause, uint64_t seq)
{
	struct gate g = revocation_initial(true, true, latch_cause, seq);

	g.state = GATE_PURGED;
	return g;
}

bool revocation_row(enum gate_state state, enum gate_event event, struct gate_row *out)
{
	if (state >= GATE_STATE_COUNT || event >= EV_COUNT || revocation_table[state][event].rule == RULE_UNWRITTEN)
		return false;
	*out = revocation_table[state][event];
	return true;
}

bool gate_state_has_keys(enum gate_state state)
{
	return gate_state_serves(state) || state == GATE_UNLOCKING || state == GATE_LOCKING || state == GATE_WIPE_UNCONFIRMED;
}

bool gate_state_serves(enum gate_state state)
{
	return state == GATE_AVAILABLE || state == GATE_SUSPECT || state == GATE_OUTAGE;
}
