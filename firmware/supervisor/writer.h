/* The thread that waits for disks, so that the one that decides never does: gate records, the clock's record
 * and ledger lines. What must hold: what
 * is handed over is written in order; the latest gate record of a volume is never dropped; how it went is told through an
 * eventfd. */
#ifndef FALLGATE_SUPERVISOR_WRITER_H
#define FALLGATE_SUPERVISOR_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"
#include "records.h"

struct writer;

struct written_gate {
	char name[NAME_MAX_BYTES];
	uint64_t seq;
	int error;
};

/* 0 or ERR_NOMEM, ERR_IO. Takes over neither. */
int writer_start(struct writer **out, struct records *records, struct ledger *ledger);

/* Writes everything that is left, ends the thread, frees. */
void writer_stop(struct writer *w);

/* Never wait. A ledger line that finds the queue full is counted as lost (audit_good false). */
void writer_gate(struct writer *w, const char *name, const struct gate_record *record);
void writer_clock(struct writer *w, uint64_t last_seen_ns); /* before any ledger line that waits */
void writer_ledger(struct writer *w, const struct ledger_entry *entry);

/* Readable when there is something to take. */
int writer_fd(const struct writer *w);

/* The next gate record that was written (or not); false: none now. Clears the eventfd when the last one is taken. */
bool writer_take(struct writer *w, struct written_gate *out);

/* For how long the thread has not answered: asked anew at each call once it has. */
uint64_t writer_silent_ns(struct writer *w);

/* True while no ledger line was lost. */
bool writer_audit_good(struct writer *w);

#endif
