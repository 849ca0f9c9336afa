/* See randomness.h. */
#include "randomness.h"

#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"
#include "hal/noise.h"

enum { SEED_MS = 60000, NOISE_MS = 3000 };

static const char usual_source[] = "/dev/hwrng";

static const int errors[] = {
	[NOISE_NONE] = ERR_NOT_FOUND, [NOISE_GOOD] = 0, [NOISE_SILENT] = ERR_TIMEOUT, [NOISE_BAD] = ERR_UNSUPPORTED
};

static int start_noise(const char *entropy)
{
	bool any = strcmp(entropy, "auto") == 0;
	char why[200];
	enum noise_state state = noise_start(any ? usual_source : entropy, NOISE_MS, why, sizeof why);

	if (state == NOISE_GOOD || (state == NOISE_NONE && any))
		return 0;
	if (state == NOISE_SILENT && any) {
		log_warning("entropy = auto: %s; keys are made by the kernel's generator without it", why);
		return 0;
	}
	log_error("entropy = %s: %s; nothing is made or opened; mend it, or write entropy = kernel and know why", entropy, why);
	return errors[state];
}

int randomness_start(const struct agent *a)
{
	int r = entropy_start(SEED_MS);

	if (r == 0 && strcmp(a->config.entropy, "kernel") != 0)
		r = start_noise(a->config.entropy);
	return r;
}

bool randomness_good(char *text, size_t size)
{
	if (noise_now() != NOISE_BAD)
		return true;
	snprintf(text, size,
		 "the machine's source of noise failed its health test: no key is made; mend it and start the agent anew");
	return false;
}

bool randomness_posture(const struct agent *a, char *text, size_t size)
{
	static const char *const said[] = { [NOISE_NONE] = "there is no hardware source",
					    [NOISE_GOOD] = "tested at start and since",
					    [NOISE_SILENT] = "gives nothing",
					    [NOISE_BAD] = "FAILED its health test: no key is made" };
	enum noise_state state = noise_now();

	if (strcmp(a->config.entropy, "kernel") == 0)
		snprintf(text, size, "random numbers: the kernel's generator, tested; no hardware source is looked at");
	else
		snprintf(text, size, "random numbers: the kernel's generator, tested; %s%s%s",
			 state == NOISE_NONE ? "" : noise_name(), state == NOISE_NONE ? "" : " ", said[state]);
	return state == NOISE_GOOD || state == NOISE_NONE;
}
