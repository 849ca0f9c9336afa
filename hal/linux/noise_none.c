/* A build that looks at no source of noise. */
#include <hal/noise.h>

#include <stdio.h>

enum noise_state noise_start(const char *path, unsigned wait_ms, char *why, size_t why_size)
{
	(void)wait_ms;
	snprintf(why, why_size, "%s: this agent is built without a look at it (CONFIG_NOISE_HWRNG)", path);
	return NOISE_NONE;
}

enum noise_state noise_now(void)
{
	return NOISE_NONE;
}

const char *noise_name(void)
{
	return "";
}
