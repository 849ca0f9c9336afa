/* QEMU's q35: virtio-rng; an i6300esb watchdog if QEMU is given one (tools/qemu does). */
#include <hal/board.h>

const struct board board = {
	.name = "qemu_x86_64",
	.watchdog = "auto",
	.watchdog_timeout_s = 10,
	.tamper = "none",
	.indicator = "console:/dev/ttyS0",
	.entropy = "/dev/hwrng",
	.memfd_secret = true,
};
