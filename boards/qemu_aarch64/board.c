/* QEMU's virt: virtio-rng; an i6300esb watchdog if QEMU is given one (tools/qemu does). The power button is line 3 of
 * /dev/gpiochip0 and free: a tamper line for whoever wants one. */
#include <hal/board.h>

const struct board board = {
	.name = "qemu_aarch64",
	.watchdog = "auto",
	.watchdog_timeout_s = 10,
	.tamper = "none",
	.indicator = "console:/dev/ttyAMA0",
	.entropy = "/dev/hwrng",
	.memfd_secret = true,
};
