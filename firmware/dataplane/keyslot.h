/* One key's way from a one-shot hsm into a ring: the ticket's conversation over the channel that the supervisor wired, and the
 * transfer page. What must hold: the page is wiped and unmapped on every way out, its descriptor is open only while the question
 * is being sent; an answer counts only from the very process named in the ticket, with the ticket's number and our nonce. */
#ifndef FALLGATE_DATAPLANE_KEYSLOT_H
#define FALLGATE_DATAPLANE_KEYSLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "hal/secret_memory.h"
#include "ipc/channel.h"
#include "volume/keyring.h"

struct keyslot {
	struct channel hsm;        /* fd -1: no conversation */
	struct secret_memory page; /* the 48-byte payload at offset 0 */
	int page_fd;               /* -1 once it is sent */
	struct msg_dp_ticket ticket;
	uint64_t nonce;
};

/* Nothing under way: safe to close. */
void keyslot_init(struct keyslot *s);

/* Makes the page and takes hsm_fd over (always: it is closed on an error too). 0, ERR_NOMEM, ERR_UNSUPPORTED. */
int keyslot_begin(struct keyslot *s, const struct msg_dp_ticket *ticket, int hsm_fd);

/* Why there is no ring for the key, with what to do: of keyring_create's errors. */
const char *keyslot_ring_trouble(int error);

/* The payload's 48 bytes in the page, for a new key's maker. */
uint8_t *keyslot_payload(struct keyslot *s);

/* Sends MSG_PAGE_UNWRAP or MSG_PAGE_WRAP with the page's descriptor; fills in the ticket's number. 0, ERR_BUSY, ERR_IO. */
int keyslot_ask(struct keyslot *s, enum message_type type, const struct msg_page *question);

/* Takes the answer, if it is there. 0: the payload (and the wrap, in *done) is there. ERR_BUSY: not yet. Else the conversation is
 * over and the caller closes: ERR_REFUSED or ERR_UNREACHABLE as done->verdict says, ERR_PROTOCOL (a wrong sender, ticket or
 * nonce, a malformed message). */
int keyslot_answer(struct keyslot *s, struct msg_page_done *done);

/* Loads the payload into the ring straight from the page, then closes, whatever came of it. As keyring_load; and ERR_FOREIGN if
 * `pinned` (may be NULL) is another key's check value. */
int keyslot_load(struct keyslot *s, struct keyring *ring, uint8_t kcv[static KCV_BYTES], const uint8_t *pinned,
		 const uint8_t uuid[static UUID_BYTES], uint32_t gen_no);

/* Wipes and unmaps the page, closes the channel. Idempotent. */
void keyslot_close(struct keyslot *s);

/* CLOCK_BOOTTIME in ns: the clock of deadlines. */
uint64_t boot_now_ns(void);

#endif
