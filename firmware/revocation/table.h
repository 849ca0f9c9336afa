/* The rows behind revocation_step, for revocation.c and for the test that applies damaged copies of them. What must hold: a row
 * says everything about its pair; what a rule does to cause and latch is in revocation_apply and nowhere else. */
#ifndef FALLGATE_REVOCATION_TABLE_H
#define FALLGATE_REVOCATION_TABLE_H

#include "revocation.h"

/* How cause and latch follow. A "latching" cause also latches, under every rule that sets one. */
enum gate_rule {
	RULE_UNWRITTEN,   /* zero: nobody wrote this row */
	RULE_KEEP,        /* as they are */
	RULE_SET,         /* the event's cause */
	RULE_LATER,       /* the event's cause, unless a latch or a lost clock says more; silent if nothing changes */
	RULE_CLEAR,       /* no cause, except that of a latch */
	RULE_OPEN,        /* opens unless latched or without a clock; else nothing happens */
	RULE_OPEN_ATTACH, /* opens; under a latch the keyless export is started, and refuses */
	RULE_OPEN_PIN,    /* opens if the cause is access-revoked and nothing is latched */
	RULE_OPEN_CLOCK,  /* opens if the cause is clock and nothing is latched */
	RULE_RESTORE,     /* lifts the latch; no cause */
	RULE_END,         /* a wipe is confirmed: a detach ends in LOCKED instead, without export */
	RULE_PURGE,       /* latches the standing cause */
	RULE_ERASE,       /* latches as commanded */
	RULE_DEFECT,      /* the pair cannot happen: cause engine, except that of a latch */
	RULE_COUNT
};

typedef const struct gate_row gate_table[GATE_STATE_COUNT][EV_COUNT];

typedef const struct gate_row (*gate_rows)[EV_COUNT]; /* what a table is when it is passed */

extern gate_table revocation_table;

/* revocation_step over any table. */
struct gate_step revocation_apply(gate_rows rows, const struct gate *now, enum gate_event event, enum gate_cause cause);

const char *gate_rule_name(enum gate_rule r); /* "set"; for STATES.md */

#endif
