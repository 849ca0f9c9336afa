/* See pins.h. */
#include "pins.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

static bool find_slot(const struct msg_dp_attach *pins, const struct volume_header_info *info, struct kek_slot *slot)
{
	for (unsigned i = 0; i < info->slot_count && i < KEK_SLOTS; i++) {
		const struct kek_slot *s = &info->slots[i];

		if (s->gen_no == pins->gen_no && s->wrapped_size <= sizeof slot->wrapped &&
		    memcmp(s->fingerprint, pins->fingerprint, sizeof s->fingerprint) == 0) {
			*slot = *s;
			return true;
		}
	}
	return false;
}

int pins_agree(const struct msg_dp_attach *pins, const struct volume_header_info *info, struct kek_slot *slot, char *text,
	       size_t text_size)
{
	if (memcmp(info->uuid, pins->uuid, sizeof info->uuid) != 0)
		snprintf(text, text_size, "this is another volume: its uuid is not the pinned one; check `backing`");
	else if (info->size != pins->size)
		snprintf(text, text_size, "the header says %llu bytes, the record %llu: check `backing`",
			 (unsigned long long)info->size, (unsigned long long)pins->size);
	else if (!find_slot(pins, info, slot))
		snprintf(text, text_size, "no key slot for the configured KEK and generation %u", pins->gen_no);
	else
		return 0;
	return ERR_FOREIGN;
}
