/* Whether the wall clock can be believed: dates of KEKs are judged by it. What must hold: a clock that is behind the last time
 * this agent is known to have run (its record, the ledger's last line, or what it has seen since) is untrusted, and locks; a jump
 * asks for a fresh proof; boot time, by which every deadline runs, is not touched by either. */
#ifndef FALLGATE_SUPERVISOR_WALLCLOCK_H
#define FALLGATE_SUPERVISOR_WALLCLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"

struct agent;

enum wall_verdict { WALL_STEADY, WALL_JUMPED, WALL_UNTRUSTED };

struct wallclock {
	struct agent *agent;
	struct timer look;
	uint64_t last_seen_ns; /* the latest wall time that was ever believed */
	int64_t offset_ns;     /* wall minus boot, at the last look */
	uint64_t kept_at_ns;   /* when last_seen was given to the disk; boot time */
	bool untrusted;
};

/* Pure: judges one look and remembers it. */
enum wall_verdict wallclock_judge(struct wallclock *w, uint64_t wall_ns, uint64_t boot_ns);

/* Before the first line is written to the ledger. */
void wallclock_start(struct wallclock *w, struct agent *a);

/* An officer's word: the clock is right as it is, whatever was seen before. */
void wallclock_trust(struct wallclock *w, const char *identity);

#endif
