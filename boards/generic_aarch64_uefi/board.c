/* Machines differ: a watchdog and a random number generator are used if the kernel has drivers for them; no tamper line is known.
 */
#include <hal/board.h>

const struct board board = {
	.name = "generic_aarch64_uefi",
	.watchdog = "auto",
	.watchdog_timeout_s = 10,
	.tamper = "none",
	.indicator = "console:/dev/console",
	.entropy = "auto",
	.memfd_secret = true,
};
