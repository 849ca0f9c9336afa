/* How often noise_hwrng.c looks; its test is less patient. */
#ifndef HAL_LINUX_NOISE_PACE_H
#define HAL_LINUX_NOISE_PACE_H

struct noise_pace {
	unsigned look_ms;   /* from one look to the next */
	unsigned silent_ms; /* a source that gave nothing for so long is silent */
};
extern struct noise_pace noise_pace;

#endif
