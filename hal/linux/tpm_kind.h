/* The ways to a TPM: a row each, chosen by the build. */
#ifndef HAL_LINUX_TPM_KIND_H
#define HAL_LINUX_TPM_KIND_H

#include <tss2/tss2_tcti.h>

struct tpm_way {
	const char *prefix; /* of `where`; it stays on for those that begin with / */
	TSS2_RC (*init)(TSS2_TCTI_CONTEXT *context, size_t *size, const char *conf);
};

extern const struct tpm_way tpm_way_device, tpm_way_swtpm;
extern const struct tpm_way *const tpm_ways[]; /* NULL last; tpm_ways.c, tpm_ways_swtpm.c */

#endif
