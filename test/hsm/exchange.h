/* The unlock conversation from the other side: the supervisor's half of a ticket, the dataplane's half with its page, both sent
 * to a one-shot process, and what comes back. */
#ifndef FALLGATE_TEST_HSM_EXCHANGE_H
#define FALLGATE_TEST_HSM_EXCHANGE_H

#include "rig.h"

enum { PAYLOAD = 48 };

struct exchange {
	struct message ticket, page_half, done, verdict;
	struct secret_memory page;
	int fd;
};

void exchange_new(struct rig *r, struct exchange *x, const struct message *opened, bool wrap);
void exchange_free(struct exchange *x);

/* What a dataplane puts into a page that is to be wrapped. */
void exchange_fill(struct exchange *x, uint8_t payload[static PAYLOAD]);
bool exchange_zero_from(const struct exchange *x, size_t at);

/* Both halves sent, both answers taken and compared, the process reaped: it must have left well. */
enum hsm_verdict exchange_run(struct rig *r, struct exchange *x);

#endif
