/* One data key, once: the supervisor's half of a ticket, the dataplane's half with the transfer page, and the KEK's operation
 * straight into that page. What must hold: nothing is unwrapped unless both halves agree and the kernel names the sender that
 * the ticket names; the payload is exactly 48 bytes; no copy of it is made outside the page by this program. */
#ifndef FALLGATE_HSM_UNWRAP_H
#define FALLGATE_HSM_UNWRAP_H

#include "ipc/channel.h"
#include "ipc/message.h"
#include "kek.h"

enum { PAYLOAD_BYTES = 48, PAYLOAD_KEY_BYTES = 32 };

struct ticket_halves {
	bool has_ticket, has_page;
	bool ticket_wraps, page_wraps; /* MSG_HSM_WRAP, MSG_PAGE_WRAP rather than ..._UNWRAP */
	struct msg_hsm_ticket ticket;
	struct msg_page page;
	struct channel_peer sender; /* of the page */
};

/* NULL if both halves say the same; else what differs. */
const char *halves_differ(const struct ticket_halves *h);

/* Halves that agree. Closes page_fd. 0; ERR_PROTOCOL if the page is not what a transfer page must be: nothing was done. */
int unwrap_run(struct kek *k, const struct ticket_halves *h, int page_fd, struct msg_page_done *done,
	       struct msg_hsm_verdict *verdict);

#endif
