/* What a header says, held against what the appliance has pinned. Nothing of a header is authenticated here: it only has to
 * agree, and to hold the wrapped key that the pinned KEK made; the engine proves it with that key. */
#ifndef FALLGATE_DATAPLANE_PINS_H
#define FALLGATE_DATAPLANE_PINS_H

#include <stddef.h>

#include "ipc/message.h"
#include "volume/volume.h"

/* Fills slot. 0, or ERR_FOREIGN and one clause in text. */
int pins_agree(const struct msg_dp_attach *pins, const struct volume_header_info *info, struct kek_slot *slot, char *text,
	       size_t text_size);

#endif
