/* A board's build: the device and nothing else. */
#include "tpm_kind.h"

const struct tpm_way *const tpm_ways[] = { &tpm_way_device, NULL };
