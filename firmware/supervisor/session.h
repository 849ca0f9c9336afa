/* One conversation with one hsm process: open, prove, and, in a one-shot, one ticket. What must hold: every question has a
 * deadline, at which the process is killed and reaped; each question is answered to the owner exactly once, lost ones as
 * ambiguous; a PIN is handed over only as pin_turn and pin_begin allow; a process that is in its login is not killed
 * before its time, if nothing hangs on that (a software token may not survive it). */
#ifndef FALLGATE_SUPERVISOR_SESSION_H
#define FALLGATE_SUPERVISOR_SESSION_H

#include "children.h"
#include "verdict.h"

struct agent;
struct kek;
struct session;

enum session_step { SESSION_OPENED, SESSION_PROBED, SESSION_TICKET };

struct session_events {
	void (*result)(void *owner, struct session *s, enum session_step step, const struct judgement *j);
	/* the process is reaped and no question was open; good: it had answered its ticket */
	void (*ended)(void *owner, struct session *s, bool good);
};

struct session {
	struct agent *agent;
	struct kek *kek;
	const struct session_events *events;
	void *owner;
	struct child child;
	struct timer deadline;
	const struct kek_record *pins; /* NULL at enrolment */
	bool silent;                   /* ended by us: its death is nobody's news */
	bool faulted;                  /* no process: its PIN cannot be had, and the owner is about to hear it */
	bool pin_turn;                 /* it may be the one that tries a new PIN */
	bool pin_withheld;             /* it was told not to log in */
	bool asked, ticketed;
	unsigned probes; /* good ones since the start: the first is a fresh proof */
	uint64_t nonce, asked_ns;
	uint8_t challenge[CHALLENGE_BYTES];
	struct msg_hsm_opened opened;
	struct msg_hsm_verdict verdict;
};

void session_init(struct session *s, struct agent *a, struct kek *k, const struct session_events *events, void *owner);

/* Starts a process and opens the KEK, unless its PIN cannot be had: then that is the result; dataplane_fd >= 0: a one-shot wired
 * to a dataplane (stays the caller's). 0, ERR_BUSY (the last process is not gone, another one is trying the PIN, or a TPM is
 * unsealing it: again soon), ERR_IO, ERR_NOMEM. */
int session_start(struct session *s, const struct kek_record *pins, int dataplane_fd);

/* A proof. At enrolment (no pins) of RSA: of the key just opened, by this hash; of AES: makes a canary. */
int session_probe(struct session *s, const struct kek_record *key);

/* HSM_WRAP or HSM_UNWRAP. */
int session_ticket(struct session *s, bool wrap, const struct msg_hsm_ticket *t);

/* Ends it: told to finish what it does and log out, and killed half a second later; or at once, with false: killed but not yet
 * gone. Of one that was told to end nothing is heard any more but whether its PIN was good. */
void session_close(struct session *s);
bool session_kill(struct session *s);

/* Killed, and no event comes any more: before its owner's memory goes. */
void session_end(struct session *s);

/* It was given a ticket: a data key may be in it, and it must be gone before anything is called wiped. */
bool session_ticketed(const struct session *s);

bool session_idle(const struct session *s); /* open and nothing asked */

#endif
