/* What is fixed about a board: facts, no logic. One object, defined in boards/NAME/board.c and compiled into the agent, so that
 * an update brings its facts with it; what fallgate.conf says goes before them. */
#ifndef HAL_BOARD_H
#define HAL_BOARD_H

#include <stdbool.h>

/* Texts are in the form that fallgate.conf(5) gives for the key of that name; none is NULL. */
struct board {
	const char *name;
	const char *watchdog; /* "none", "auto" (if there is one), or the device that must be there */
	unsigned watchdog_timeout_s;
	const char *tamper;
	const char *indicator;
	const char *entropy;
	bool memfd_secret; /* its kernel has it: without it keys are not where this board should have them */
};

extern const struct board board;

#endif
