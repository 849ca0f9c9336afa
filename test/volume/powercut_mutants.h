/* The names of the engine's mutants, as command lines and tables have them. */
#ifndef TEST_VOLUME_POWERCUT_MUTANTS_H
#define TEST_VOLUME_POWERCUT_MUTANTS_H

#include <stddef.h>
#include <string.h>

#include "volume/engine_mutants.h"

static inline const char *mutant_name(int mutant)
{
	static const char *const names[MUTANTS] = {
		[MUTANT_NONE] = "none",
		[MUTANT_R1_DATA_BEFORE_LOG] = "r1-data-before-log",
		[MUTANT_R2_NO_PREFIX] = "r2-no-prefix",
		[MUTANT_R3_OLD_AFTER_NEW] = "r3-old-after-new",
		[MUTANT_R4_ENTRY_DROPPED] = "r4-entry-dropped",
		[MUTANT_R5_UNSETTLED_IN_NODE] = "r5-unsettled-in-node",
		[MUTANT_R6_NO_LEVEL_FLUSH] = "r6-no-level-flush",
		[MUTANT_R7_TAIL_BEFORE_ROOT] = "r7-tail-before-root",
		[MUTANT_R8_NO_RESERVE] = "r8-no-reserve",
		[MUTANT_R9_LOSERS_LEFT] = "r9-losers-left",
		[MUTANT_R10_NO_FLUSH_IN_OPEN] = "r10-no-flush-in-open",
		[MUTANT_R11_FLUSH_RETRIED] = "r11-flush-retried",
		[MUTANT_R13_READ_PAST_HELD] = "r13-read-past-held",
		[MUTANT_R14_ZERO_NOT_IN_NODE] = "r14-zero-not-in-node",
		[MUTANT_D_AHEAD] = "d-ahead",
	};

	return mutant >= 0 && mutant < MUTANTS && names[mutant] != NULL ? names[mutant] : "unnamed";
}

/* -1: none of that name. */
static inline int mutant_by_name(const char *name)
{
	for (int m = 0; m < MUTANTS; m++)
		if (strcmp(mutant_name(m), name) == 0)
			return m;
	return -1;
}

#endif
