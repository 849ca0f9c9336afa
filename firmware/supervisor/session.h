/* One conversation with one hsm process: open, prove, and, in a one-shot, one ticket. What must hold: every question has a
 * deadline, at which the process is killed and reaped; each question is answered to the owner exactly once, lost ones as
 * ambiguous; a PIN is handed over only as kek_pin_turn and kek_pin_begin allow. */
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
	bool pin_turn;                 /* it may be the one that tries a new PIN */
	bool asked;
	unsigned probes; /* good ones since the start: the first is a fresh proof */
	uint64_t nonce, asked_ns;
	uint8_t challenge[CHALLENGE_BYTES];
	struct msg_hsm_opened opened;
	struct msg_hsm_verdict verdict;
};

void session_init(struct session *s, struct agent *a, struct kek *k, const struct session_events *events, void *owner);

/* Starts a process and opens the KEK; dataplane_fd >= 0: a one-shot wired to a dataplane (stays the caller's). 0, ERR_BUSY (the
 * last process is not gone, or another one is trying the PIN: again soon), ERR_IO, ERR_NOMEM. */
int session_start(struct session *s, const struct kek_record *pins, int dataplane_fd);

/* A proof. At enrolment (no pins) of RSA: of the key just opened, by this hash; of AES: makes a canary. */
int session_probe(struct session *s, const struct kek_record *key);

/* HSM_WRAP or HSM_UNWRAP. */
int session_ticket(struct session *s, bool wrap, const struct msg_hsm_ticket *t);

/* Ends it: politely (log out, then killed) or at once. false: killed but not yet gone. */
void session_close(struct session *s);
bool session_kill(struct session *s);

bool session_idle(const struct session *s); /* open and nothing asked */

#endif
