/* The kernel's device: /dev/tpmrm0, which keeps the sessions of its users apart. */
#include "tpm_kind.h"

#include <tss2/tss2_tcti_device.h>

const struct tpm_way tpm_way_device = { "/", Tss2_Tcti_Device_Init };
