/* A developer's build: a software TPM besides. */
#include "tpm_kind.h"

const struct tpm_way *const tpm_ways[] = { &tpm_way_device, &tpm_way_swtpm, NULL };
