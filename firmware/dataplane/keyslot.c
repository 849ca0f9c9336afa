/* Transfer pages and the hsm's answers. What must hold: nothing in here copies the payload; the ring is the only place it goes.
 */
#include "keyslot.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"

uint64_t boot_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void keyslot_init(struct keyslot *s)
{
	*s = (struct keyslot){ .hsm.fd = -1, .page_fd = -1 };
}

int keyslot_begin(struct keyslot *s, const struct msg_dp_ticket *ticket, int hsm_fd)
{
	int r;

	keyslot_init(s);
	channel_init(&s->hsm, hsm_fd, ROLE_DATAPLANE, ROLE_HSM);
	s->ticket = *ticket;
	r = entropy_fill(&s->nonce, sizeof s->nonce);
	if (r == 0)
		r = secret_page_create(&s->page, &s->page_fd);
	if (r != 0)
		keyslot_close(s);
	return r;
}

const char *keyslot_ring_trouble(int error)
{
	return error == ERR_UNSUPPORTED
		       ? "`kernel` names one that this machine does not have, or none passed its self-test; write auto"
		       : "no locked memory for keys; raise the limit (LimitMEMLOCK)";
}

uint8_t *keyslot_payload(struct keyslot *s)
{
	return s->page.base;
}

static void close_page_fd(struct keyslot *s)
{
	if (s->page_fd >= 0)
		close(s->page_fd);
	s->page_fd = -1;
}

int keyslot_ask(struct keyslot *s, enum message_type type, const struct msg_page *question)
{
	struct message m;
	int r;

	message_init(&m, type, s->nonce);
	m.body.page = *question;
	m.body.page.ticket = s->ticket.ticket;
	r = channel_send(&s->hsm, &m, &s->page_fd, 1);
	close_page_fd(s);
	return r;
}

static bool from_the_tickets_hsm(const struct keyslot *s, const struct message *m, const struct channel_peer *peer)
{
	return m->type == MSG_PAGE_DONE && peer->pid == (pid_t)s->ticket.hsm_pid && peer->uid == (uid_t)s->ticket.hsm_uid &&
	       m->nonce == s->nonce && m->body.page_done.ticket == s->ticket.ticket;
}

static int verdict_error(uint8_t verdict)
{
	if (verdict == VERDICT_GOOD)
		return 0;
	return verdict == VERDICT_UNREACHABLE ? ERR_UNREACHABLE : ERR_REFUSED;
}

int keyslot_answer(struct keyslot *s, struct msg_page_done *done)
{
	struct channel_peer peer;
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count;
	int r = channel_receive(&s->hsm, &m, fds, &count, &peer);

	*done = (struct msg_page_done){ .verdict = VERDICT_UNREACHABLE };
	if (r == ERR_BUSY || r == ERR_PROTOCOL)
		return r;
	if (r <= 0)
		return ERR_UNREACHABLE; /* it died, or was killed at its deadline */
	if (!from_the_tickets_hsm(s, &m, &peer)) {
		log_error("keyslot: an answer that is not this ticket's: from pid %d, uid %u; the ticket names pid %d, uid %u: "
			  "refused",
			  (int)peer.pid, (unsigned)peer.uid, (int)s->ticket.hsm_pid, (unsigned)s->ticket.hsm_uid);
		return ERR_PROTOCOL;
	}
	*done = m.body.page_done;
	return verdict_error(done->verdict);
}

int keyslot_load(struct keyslot *s, struct keyring *ring, uint8_t kcv[static KCV_BYTES], const uint8_t *pinned,
		 const uint8_t uuid[static UUID_BYTES], uint32_t gen_no)
{
	int r = keyring_load(ring, kcv, s->page.base, uuid, gen_no);

	keyslot_close(s);
	if (r == 0 && pinned != NULL && compare_secret(kcv, pinned, KCV_BYTES) != 0)
		r = ERR_FOREIGN;
	return r;
}

void keyslot_close(struct keyslot *s)
{
	close_page_fd(s);
	if (s->page.base != NULL)
		secret_wipe(s->page.base, s->page.size);
	secret_memory_free(&s->page);
	channel_close(&s->hsm);
}
