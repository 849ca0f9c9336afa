/* Whether the wall clock can be believed: dates of KEKs are judged by it. What must hold: a clock that is behind the last time
 * this agent is known to have run (the ledger's last line, or what it has seen since) is untrusted, and locks; a jump asks for a
 * fresh proof; boot time, by which every deadline runs, is not touched by either. */
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
	bool untrusted;
};

/* Pure: judges one look and remembers it. */
enum wall_verdict wallclock_judge(struct wallclock *w, uint64_t wall_ns, uint64_t boot_ns);

/* last_seen_ns: from the ledger; 0: none. */
void wallclock_start(struct wallclock *w, struct agent *a, uint64_t last_seen_ns);

#endif
