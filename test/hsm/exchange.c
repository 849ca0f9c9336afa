/* See exchange.h. Every field has the value that a well-behaved peer would send; a test alters the one it is about. */
#include "exchange.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { TICKET = 0x1122334455667788 };

void exchange_new(struct rig *r, struct exchange *x, const struct message *opened, bool wrap)
{
	struct msg_hsm_ticket *t = &x->ticket.body.hsm_ticket;
	struct msg_page *p = &x->page_half.body.page;

	memset(x, 0, sizeof *x);
	message_init(&x->ticket, wrap ? MSG_HSM_WRAP : MSG_HSM_UNWRAP, 51);
	message_init(&x->page_half, wrap ? MSG_PAGE_WRAP : MSG_PAGE_UNWRAP, 52);
	t->ticket = p->ticket = (uint64_t)TICKET;
	strcpy(t->volume, "demo");
	strcpy(p->volume, "demo");
	t->gen_no = p->gen_no = 3;
	t->hash = opened->body.hsm_opened.type == KEK_RSA_OAEP ? (uint8_t)r->hash : OAEP_NONE;
	t->dataplane_pid = (int32_t)getpid();
	t->dataplane_uid = getuid();
	assert_int_equal(secret_page_create(&x->page, &x->fd), 0);
}

void exchange_free(struct exchange *x)
{
	close(x->fd);
	secret_memory_free(&x->page);
}

void exchange_fill(struct exchange *x, uint8_t payload[static PAYLOAD])
{
	uint8_t *page = x->page.base;

	for (unsigned i = 0; i < PAYLOAD; i++)
		page[i] = (uint8_t)(i * 5 + 1);
	memcpy(payload, page, PAYLOAD);
}

bool exchange_zero_from(const struct exchange *x, size_t at)
{
	const uint8_t *page = x->page.base;

	for (size_t i = at; i < x->page.size; i++)
		if (page[i] != 0)
			return false;
	return true;
}

enum hsm_verdict exchange_run(struct rig *r, struct exchange *x)
{
	rig_send(&r->dataplane, &x->page_half, &x->fd, 1);
	rig_send(&r->supervisor, &x->ticket, NULL, 0);
	rig_receive(&r->dataplane, &x->done, MSG_PAGE_DONE);
	rig_receive(&r->supervisor, &x->verdict, MSG_HSM_VERDICT);
	assert_int_equal(x->done.body.page_done.verdict, x->verdict.body.hsm_verdict.verdict);
	assert_int_equal(x->done.nonce, 52);
	assert_int_equal(x->verdict.nonce, 51);
	assert_true(x->done.body.page_done.ticket == (uint64_t)TICKET);
	assert_int_equal(rig_reap(r), 0);
	return x->verdict.body.hsm_verdict.verdict;
}
