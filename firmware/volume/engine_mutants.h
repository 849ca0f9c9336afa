/* Faults to order, for proving that the power-cut replay finds them: each breaks one rule of DESIGN.md. Only a build with
 * FALLGATE_MUTANTS defined looks at volume_options.mutant; in any other, MUTANT() is false and nothing is left of it. */
#ifndef FALLGATE_VOLUME_ENGINE_MUTANTS_H
#define FALLGATE_VOLUME_ENGINE_MUTANTS_H

enum volume_mutant {
	MUTANT_NONE,
	MUTANT_R1_DATA_BEFORE_LOG,   /* in-place writes are issued before the log block that names them */
	MUTANT_R2_NO_PREFIX,         /* log blocks of one commit are written last first, each followed by its data */
	MUTANT_R3_OLD_AFTER_NEW,     /* an overtaken version is written over the newer one */
	MUTANT_R4_ENTRY_DROPPED,     /* every other checkpoint moves the tail and leaves the nodes out */
	MUTANT_R5_UNSETTLED_IN_NODE, /* no device flush between data and the nodes that name it */
	MUTANT_R6_NO_LEVEL_FLUSH,    /* all levels and the root are written without a flush between */
	MUTANT_R7_TAIL_BEFORE_ROOT,  /* log space is reused while the root that frees it is on its way */
	MUTANT_R8_NO_RESERVE,        /* writers fill the log and go on over what is still needed */
	MUTANT_R9_LOSERS_LEFT,       /* recovery does not seal again what fell back */
	MUTANT_R10_NO_FLUSH_IN_OPEN, /* recovery moves D and tail over what it read, without flushing it */
	MUTANT_R11_FLUSH_RETRIED,    /* a failed flush is tried again instead of ending acknowledgement */
	MUTANT_R13_READ_PAST_HELD,   /* reads go to the device although a newer version is held */
	MUTANT_R14_ZERO_NOT_IN_NODE, /* ZERO ranges are logged and not put into the tree before it is sealed */
	MUTANT_D_AHEAD,              /* the settled mark counts what is written and not yet flushed */
	MUTANTS
};

#ifdef FALLGATE_MUTANTS
#define MUTANT(v, which) ((v)->mutant == (which))
#else
#define MUTANT(v, which) (false)
#endif

#endif
