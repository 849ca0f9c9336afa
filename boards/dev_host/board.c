/* A developer's machine: nothing on it is the agent's to restart or to light. */
#include <hal/board.h>

const struct board board = {
	.name = "dev_host",
	.watchdog = "none",
	.watchdog_timeout_s = 10,
	.tamper = "none",
	.indicator = "none",
	.entropy = "auto",
	.memfd_secret = false,
};
