/* The audit ledger: one JSON object a line, appended, fsynced. What must hold: each line carries an HMAC over its own text and
 * the line before it, so that a line changed, moved or taken out of the middle is found; a torn last line is left as it is and
 * closed. */
#ifndef FALLGATE_SUPERVISOR_LEDGER_H
#define FALLGATE_SUPERVISOR_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "records.h"

enum { LEDGER_LINE_BYTES = 2048, LEDGER_MAC_BYTES = 32 };

struct ledger_entry {
	char volume[NAME_MAX_BYTES]; /* empty: about the agent */
	char event[40];
	char from[24], to[24];
	char cause[24];
	bool latched;
	uint64_t gate_seq;
	char identity[IDENTITY_MAX_BYTES]; /* who asked; empty: nobody did */
	uint64_t wall_ns, boot_ns;
	uint64_t detected_ns, cut_ns, wiped_ns, drained_ns; /* of the lock; 0: not (yet) */
	int drain_error;
	uint64_t alert_sequence, order_sequence; /* one count for both: which came first; 0: none */
	char text[TEXT_MAX_BYTES];
};

struct ledger {
	int fd;                /* -1: closed */
	uint64_t seq;          /* of the last line */
	uint64_t last_wall_ns; /* of the last line that was there when it was opened; 0: none */
	uint64_t lost;         /* lines that are not in it, and that no line speaks of yet */
	uint8_t chain[LEDGER_MAC_BYTES];
	uint8_t key[LEDGER_MAC_BYTES];
};

/* Opens or makes state_dir/ledger and finds its last line. 0 or ERR_IO, ERR_CORRUPT (the last whole line is not ours: it goes on
 * from a new chain, and says so in the log). */
int ledger_open(struct ledger *l, const struct records *r);

/* Durable when it returns 0. ERR_NOSPACE, ERR_IO: it is counted as lost. */
int ledger_append(struct ledger *l, const struct ledger_entry *e);
void ledger_close(struct ledger *l);

/* Checks a whole ledger file: the number of good lines, or ERR_CORRUPT (*bad: which line, from 1), ERR_IO. */
int64_t ledger_verify(const struct records *r, uint64_t *bad);

#endif
