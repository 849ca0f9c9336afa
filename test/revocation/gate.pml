/* The gate among those it decides about: the data plane with its key and its I/O threads, the one-shot hsm that unwraps, the timers,
 * and a world that does what it likes. The rows of the table are printed before this text by gate_traces; the rules are written here
 * a second time, and gate_traces compares every step. What is proven (spin, all interleavings):
 *   invariant   a gate that says "no keys" has none: no key, no lease holder, no hsm that could still bring one; a latched gate is
 *               not usable; FAULT is not reached by what can happen; no I/O without a key
 *   ends        whatever takes the key away ends with the key wiped or its process dead (weak fairness: who can act, acts)
 * With -DWALK=SEED instead: any event in any gate, for comparing the rules. */

byte gs = G_LOCKED, gc = C_NONE, glc = C_NONE;
bool gl;

hidden byte row_next, row_rule, cs, os, oc, ol, olc;
int row_acts; /* not hidden: the effects choose, and spin goes back to before the choice */

/* ---- the function, written again ---- */

#define SANE(k) ((k) > C_NONE && (k) < CAUSES && (k) != C_DETACHED)

inline cause_of(e, k)
{
	if
	:: e == E_REVOKE -> cs = C_COMMANDED
	:: e == E_TAMPER -> cs = C_TAMPER
	:: e == E_INTEGRITY_ALARM -> cs = C_INTEGRITY
	:: e == E_DETACH -> cs = C_DETACHED
	:: e == E_DATAPLANE_DEAD || e == E_ENGINE_FAILSTOP -> cs = C_ENGINE
	:: e == E_CLOCK_UNTRUSTED -> cs = C_CLOCK
	:: e == E_KEK_REPOINTED -> cs = C_REPLACED
	:: e == E_DEK_REFUSED -> cs = (SANE(k) -> k : C_DEK_REFUSED)
	:: e == E_PROOF_REFUSED || e == E_FRESH_REFUSED || e == E_DATAPLANE_SELF_LOCK || e == E_RECOVERY_REFUSED ->
		cs = (SANE(k) -> k : C_MODULE_BROKEN)
	:: else -> cs = C_UNREACHABLE
	fi
}

inline set_cause()
{
	gc = cs;
	if
	:: LATCHES(cs) -> gl = true; glc = cs
	:: else
	fi
}

inline shut()
{
	gs = os; gc = oc; gl = ol; glc = olc; row_acts = 0
}

#define STANDING(otherwise) (gl -> glc : (otherwise))

inline apply_rule()
{
	if
	:: row_rule == R_KEEP
	:: row_rule == R_SET -> set_cause()
	:: row_rule == R_LATER ->
		if
		:: ol || oc == C_CLOCK || oc == cs -> shut()
		:: else -> set_cause()
		fi
	:: row_rule == R_CLEAR -> gc = STANDING(C_NONE)
	:: row_rule == R_OPEN ->
		if
		:: !ol && oc != C_CLOCK -> gc = C_NONE
		:: else -> shut()
		fi
	:: row_rule == R_OPEN_PIN ->
		if
		:: !ol && oc == C_ACCESS_REVOKED -> gc = C_NONE
		:: else -> shut()
		fi
	:: row_rule == R_OPEN_CLOCK ->
		if
		:: !ol && oc == C_CLOCK -> gc = C_NONE
		:: else -> shut()
		fi
	:: row_rule == R_OPEN_ATTACH ->
		gc = STANDING(C_NONE);
		if
		:: ol -> gs = G_INACCESSIBLE; row_acts = row_acts & ~A_START_UNLOCK
		:: else
		fi
	:: row_rule == R_RESTORE ->
		if
		:: !ol -> row_acts = row_acts & ~A_CLEAR_LATCH
		:: else
		fi;
		gl = false; glc = C_NONE; gc = C_NONE
	:: row_rule == R_END ->
		if
		:: oc == C_DETACHED ->
			gs = G_LOCKED;
			gc = STANDING(C_NONE);
			row_acts = (row_acts & ~A_START_DATAPLANE) | A_STOP_DATAPLANE
		:: else
		fi
	:: row_rule == R_PURGE -> glc = STANDING(oc); gl = true
	:: row_rule == R_ERASE -> glc = STANDING(C_COMMANDED); gl = true; gc = glc
	:: row_rule == R_DEFECT -> gc = STANDING(C_ENGINE)
	fi
}

inline step(e, k)
{
	d_step {
		cause_of(e, k);
		look_up(gs, e);
		os = gs; oc = gc; ol = gl; olc = glc;
		gs = row_next;
		apply_rule();
		if
		:: gl && (!ol || glc != olc) -> row_acts = row_acts | A_WRITE_LATCH
		:: else
		fi;
		printf("STEP %d %d %d %d + %d %d -> %d %d %d %d %d\n", os, oc, ol, (ol -> olc : 0), e, k, gs, gc, gl, (gl -> glc : 0),
		       row_acts)
	}
}

#ifdef WALK
/* ---- any event in any gate ---- */

/* By a generator of its own: spin's select prefers small numbers. */
int dice = WALK;

inline throw(to, sides)
{
	dice = (dice * 69069 + 12345) & 2147483647;
	to = (dice >> 12) % sides
}

active proctype walk()
{
	byte e, k;

	do
	:: d_step { throw(gs, 11); throw(gc, CAUSES); throw(glc, CAUSES); gl = (glc != C_NONE); throw(e, EVENTS); throw(k, CAUSES) };
		step(e, k)
	od
}
#else
/* ---- the data plane, its I/O, the one-shot hsm ---- */

#define D_GONE 0
#define D_KEYLESS 1
#define D_OPEN 2    /* has the key, gives leases */
#define D_CLOSING 3 /* gives none, waits for those that are out */
#define D_WIPED 4   /* writes what was acknowledged */
#define D_ENDED 5   /* to be reaped */
byte d = D_GONE;
bool d_key, d_lease, d_stuck, d_killed, d_told, d_ticket, d_wanted, d_retired;
bool d_said; /* the supervisor has read that it wiped */

#define U_NONE 0
#define U_RUNS 1
#define U_KILLED 2 /* and not reaped: it may be in a system call */
#define U_DONE 3   /* has answered and is to be reaped */
byte u = U_NONE;
bool u_page; /* the key is in the transfer page */

#define M_OPENED 1
#define M_WIPED 2
#define M_DRAINED 3
chan mail = [3] of { byte };
chan ev = [0] of { byte, byte }; /* what is fed to the gate */

bool unlock_wanted, opened_good, hsm_gone, wipe_armed, reap_armed, unlock_armed, outage_armed, dead_queued, wiped_queued;
byte held; /* an event that waits for the hsm to be reaped; 0: none (attach is never held) */

#define WAITED_FOR (gs == G_LOCKING || gs == G_WIPE_UNCONFIRMED)
#define D_RUNS (d != D_GONE && d != D_ENDED && !d_killed && !d_stuck)

/* volume_held() in UNLOCKING */
inline cancel_or_hold(e)
{
	if
	:: u != U_NONE -> u = U_NONE; held = 0; unlock_wanted = false; unlock_armed = false
	:: u != U_NONE -> u = U_KILLED; unlock_wanted = false; unlock_armed = false; held = e
	:: u == U_NONE
	fi
}

inline no_key_there()
{
	if
	:: u != U_NONE -> held = (d == D_GONE -> E_DATAPLANE_DEAD : E_WIPED)
	:: u == U_NONE && d == D_GONE -> wipe_armed = false; dead_queued = true
	:: u == U_NONE && d != D_GONE -> wipe_armed = false; wiped_queued = true
	fi
}

/* effects.c, in the order of the bits */
inline effects()
{
	if
	:: row_acts & A_CANCEL_UNWRAP ->
		unlock_armed = false; unlock_wanted = false; opened_good = false; hsm_gone = false;
		if
		:: u != U_NONE -> u = U_NONE; held = 0
		:: u != U_NONE -> u = U_KILLED
		:: u == U_NONE
		fi
	:: else
	fi;
	if
	:: row_acts & A_SEND_LOCK ->
		unlock_armed = false; wipe_armed = true; held = 0;
		if
		:: d != D_GONE && !d_said -> d_told = true
		:: else -> no_key_there()
		fi
	:: else
	fi;
	if
	:: row_acts & A_KILL_DATAPLANE ->
		if
		:: d != D_GONE && !d_said -> d_killed = true; reap_armed = true
		:: else -> no_key_there(); reap_armed = (held != 0)
		fi
	:: else
	fi;
	if
	:: row_acts & A_START_DATAPLANE -> d_wanted = true
	:: else
	fi;
	if
	:: row_acts & A_STOP_DATAPLANE ->
		d_wanted = false; d_retired = true;
		if
		:: d == D_KEYLESS -> d_told = true
		:: else
		fi
	:: else
	fi;
	if
	:: row_acts & A_START_UNLOCK -> unlock_wanted = true; unlock_armed = true
	:: else
	fi;
	if
	:: row_acts & A_START_OUTAGE -> outage_armed = true
	:: else
	fi;
	if
	:: row_acts & A_STOP_OUTAGE -> outage_armed = false
	:: else
	fi;
	if
	:: row_acts & A_EXTEND_LEASE -> unlock_armed = false
	:: else
	fi
}

active proctype supervisor()
{
	byte e, k;

	do
	:: atomic {
		ev ? e, k ->
		step(e, k);
		effects();
		do
		:: dead_queued -> dead_queued = false; step(E_DATAPLANE_DEAD, C_NONE); effects()
		:: wiped_queued -> wiped_queued = false; step(E_WIPED, C_NONE); effects()
		:: !dead_queued && !wiped_queued -> break
		od;
		assert(gs != G_FAULT);
		assert(!gl || !(SERVES(gs) || gs == G_UNLOCKING));
		assert(HAS_KEYS(gs) || gs == G_FAULT || (!d_key && !d_lease && u == U_NONE && !u_page));
		e = 0; k = 0; row_acts = 0
	}
	od
}

/* Whoever waits for an event of the kernel or of a process is one process here: each of them gets its turn. */
active proctype letters()
{
	byte m;

	do
	:: atomic {
		mail ? m ->
		if
		:: m == M_OPENED ->
			if
			:: gs == G_UNLOCKING ->
				opened_good = true;
				if
				:: hsm_gone -> unlock_wanted = false; ev ! E_DEK_LOADED, C_NONE
				:: else
				fi
			:: else -> ev ! E_LATE_ANSWER, C_NONE
			fi
		:: m == M_WIPED ->
			d_said = true;
			if
			:: d_retired && !WAITED_FOR
			:: WAITED_FOR && u != U_NONE -> held = E_WIPED
			:: WAITED_FOR && u == U_NONE -> wipe_armed = false; ev ! E_WIPED, C_NONE
			:: !WAITED_FOR && !d_retired -> cancel_or_hold(E_DATAPLANE_SELF_LOCK); if :: held == 0 -> ev ! E_DATAPLANE_SELF_LOCK, C_SUPERVISOR_LOST :: else fi
			fi
		:: m == M_DRAINED && held == E_WIPED
		:: m == M_DRAINED && held != E_WIPED -> ev ! E_DRAINED, C_NONE
		fi;
		m = 0
	}
	od
}

/* Its last letters are read before it is buried. */
active proctype reaper()
{
	bool wiped;

	do
	:: atomic {
		(d == D_ENDED || d_killed) && empty(mail) ->
		wiped = (d == D_WIPED || d == D_ENDED);
		d = D_GONE; d_key = false; d_lease = false; d_killed = false; d_stuck = false; d_told = false; d_ticket = false; d_retired = false; d_said = false;
		reap_armed = false; opened_good = false; u_page = false;
		if
		:: WAITED_FOR && u != U_NONE -> held = E_DATAPLANE_DEAD
		:: gs == G_UNLOCKING && wiped /* the predecessor */
		:: gs == G_UNLOCKING && !wiped -> cancel_or_hold(E_DATAPLANE_DEAD); if :: held == 0 -> ev ! E_DATAPLANE_DEAD, C_NONE :: else fi
		:: else -> wipe_armed = false; ev ! E_DATAPLANE_DEAD, C_NONE
		fi;
		wiped = false
	}
	od
}

active proctype starter()
{
	do
	:: atomic {
		d == D_GONE && d_wanted ->
		d = D_KEYLESS; d_key = false; d_lease = false; d_stuck = false; d_killed = false; d_told = false; d_ticket = false;
		d_retired = false; d_said = false
	}
	od
}

active proctype hsm_reaper()
{
	byte e;

	do
	:: atomic {
		u == U_KILLED -> u = U_NONE;
		if
		:: held != 0 -> wipe_armed = false; reap_armed = false; e = held; held = 0; ev ! e, C_NONE; e = 0
		:: else
		fi
	}
	:: atomic {
		u == U_DONE -> u = U_NONE; hsm_gone = true;
		if
		:: opened_good && gs == G_UNLOCKING -> unlock_wanted = false; ev ! E_DEK_LOADED, C_NONE
		:: else
		fi
	}
	od
}

active proctype wipe_timer()
{
	do
	:: atomic { wipe_armed && gs == G_LOCKING && empty(mail) -> wipe_armed = false; ev ! E_WIPE_DEADLINE, C_NONE }
	od
}

active proctype other_timers()
{
	do
	:: atomic { reap_armed -> reap_armed = false; ev ! E_REAP_DEADLINE, C_NONE }
	:: atomic { unlock_armed -> unlock_armed = false; ev ! E_UNLOCK_DEADLINE, C_NONE }
	:: atomic { outage_armed -> outage_armed = false; ev ! E_OUTAGE_OVER, C_NONE }
	od
}

/* control.c: one thread, orders first; it may also stand still for ever, or be killed by anybody. */
active proctype dataplane()
{
	do
	:: atomic { D_RUNS && d == D_KEYLESS && !d_told && u_page -> u_page = false; d_key = true; d = D_OPEN; mail ! M_OPENED }
	:: atomic { D_RUNS && d == D_KEYLESS && d_told -> u_page = false; d = D_WIPED; mail ! M_WIPED }
	:: atomic { D_RUNS && d == D_OPEN && d_told -> d = D_CLOSING }
	:: atomic { D_RUNS && d == D_OPEN && !d_told -> d = D_CLOSING } /* its own deadline */
	:: atomic { D_RUNS && d == D_CLOSING && !d_lease -> d_key = false; d = D_WIPED; mail ! M_WIPED }
	:: atomic { D_RUNS && d == D_WIPED && nfull(mail) -> mail ! M_DRAINED; d = D_ENDED }
	od
}

active proctype io()
{
	do
	:: atomic { d == D_OPEN && !d_killed && !d_lease -> d_lease = true }
	:: atomic { d_lease && !d_killed -> assert(d_key); d_lease = false }
	od
}

active proctype one_shot_hsm()
{
	do
	:: atomic { unlock_wanted && gs == G_UNLOCKING && u == U_NONE && d == D_KEYLESS && !d_ticket && !d_told && !d_killed ->
		u = U_RUNS; d_ticket = true; opened_good = false; hsm_gone = false }
	:: atomic { u == U_RUNS && !u_page && d == D_KEYLESS -> u_page = true; u = U_DONE }
	:: atomic { u == U_RUNS -> u = U_NONE; ev ! E_HSM_DEAD, C_NONE }
	:: atomic { u == U_RUNS -> u = U_DONE; ev ! E_DEK_REFUSED, C_DEK_REFUSED }
	:: atomic { u == U_RUNS -> u = U_DONE; ev ! E_FRESH_REFUSED, C_DISABLED }
	od
}

/* Everything else there is, whenever it likes. */
active proctype world()
{
	do
	:: ev ! E_ATTACH, C_NONE
	:: ev ! E_DETACH, C_NONE
	:: ev ! E_RESTORE, C_NONE
	:: ev ! E_REVOKE, C_NONE
	:: ev ! E_PROOF_GOOD, C_NONE
	:: ev ! E_PROOF_REFUSED, C_DISABLED
	:: ev ! E_PROOF_AMBIGUOUS, C_NONE
	:: ev ! E_FRESH_GOOD, C_NONE
	:: ev ! E_FRESH_REFUSED, C_ACCESS_REVOKED
	:: ev ! E_FRESH_AMBIGUOUS, C_NONE
	:: ev ! E_ENGINE_FAILSTOP, C_NONE
	:: ev ! E_PIN_RENEWED, C_NONE
	:: ev ! E_CLOCK_UNTRUSTED, C_NONE
	:: ev ! E_CLOCK_TRUSTED, C_NONE
	:: ev ! E_LATE_ANSWER, C_NONE
#ifndef NARROW /* for the questions of time: what these add is more of the same */
	:: ev ! E_TAMPER, C_NONE
	:: ev ! E_INTEGRITY_ALARM, C_NONE
	:: ev ! E_KEK_REPOINTED, C_NONE
	:: ev ! E_PURGE_DUE, C_NONE
	:: ev ! E_ERASE, C_NONE
	:: ev ! E_HOLD_TIMEOUT, C_NONE
	:: atomic { !SERVES(gs) -> ev ! E_RECOVERY_REFUSED, C_INTEGRITY } /* of a volume that is being opened, or of one without a process */
	:: ev ! E_MGMT_DEAD, C_NONE
#endif
	:: atomic { d != D_GONE && d != D_ENDED && !d_stuck -> d_stuck = true }   /* the process hangs */
	:: atomic { d != D_GONE && d != D_ENDED && !d_killed -> d_killed = true } /* somebody kills it */
	od
}

ltl ends { [] ((gs == G_LOCKING || gl) -> <> !d_key) }
#endif
