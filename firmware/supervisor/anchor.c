/* See anchor.h. */
#include "anchor.h"

#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "tpm.h"
#include "volume.h"

enum { INDEX_BASE = 0x01900000, INDEX_MASK = 0xffff8 }; /* of the owner's range; make tries this one and seven more */

#define FAULT_NS (SEC_NS)

static bool wanted(const struct anchor *n)
{
	return n->volume->config.anti_rollback;
}

static void set_fault(struct anchor *n, int error, const char *what)
{
	bool definite = tpm_definite(error);

	n->fault = (struct judgement){ .proof = definite ? PROOF_REFUSED : PROOF_AMBIGUOUS,
				       .cause = definite ? CAUSE_INTEGRITY : CAUSE_UNREACHABLE };
	n->fault_ns = boot_now();
	snprintf(n->fault.text, sizeof n->fault.text, "the TPM's counter of volume %s: %.180s", n->volume->config.name, what);
	log_error("%s", n->fault.text);
}

/* ---- the record ---- */

static void read_record(struct anchor *n)
{
	struct volume *v = n->volume;
	int r = v->agent->records.dir_fd >= 0 ? records_read_anchor(&v->agent->records, v->config.name, &n->record)
					      : ERR_NOT_FOUND;

	if (r == 0 && memcmp(n->record.uuid, v->record.uuid, sizeof v->record.uuid) != 0)
		r = ERR_NOT_FOUND; /* another volume of that name */
	if (r != 0 && r != ERR_NOT_FOUND) {
		set_fault(n, ERR_CORRUPT, "its record is damaged; bring gates/NAME.anchor back from a backup");
		return;
	}
	if (r != 0)
		n->record = (struct anchor_record){ .state = ANCHOR_UNBOUND };
	memcpy(n->record.uuid, v->record.uuid, sizeof n->record.uuid);
}

static int write_record(struct anchor *n, enum anchor_state state)
{
	n->record.state = state;
	return records_write_anchor(&n->volume->agent->records, n->volume->config.name, &n->record);
}

/* ---- asking ---- */

static void begin(struct anchor *n);

static void counted(void *context, const struct msg_tp_reply *r, int *page_fd)
{
	struct anchor *n = context;

	(void)page_fd;
	n->ask = NULL;
	if ((r->error == ERR_NOT_FOUND || r->error == ERR_CORRUPT) && n->accept && n->record.state != ANCHOR_UNBOUND) {
		n->remake = true; /* what it was bound to is gone, and the officer knows */
		begin(n);
	} else if (r->error != 0) {
		set_fault(n, r->error, r->text);
	} else {
		n->count = r->counter;
		n->known = true;
		n->record.index = r->index;
		/* durable before the volume names it: else a cut would leave one that is bound to nobody knows what */
		if (n->record.state == ANCHOR_UNBOUND && write_record(n, ANCHOR_BINDING) != 0) {
			n->known = false;
			n->record.state = ANCHOR_UNBOUND;
			set_fault(n, ERR_IO, "its record cannot be written; make room in the state directory");
		}
	}
	if (n->ask == NULL)
		unlock_try(n->volume);
}

static void begin(struct anchor *n)
{
	struct msg_tp_request q = { .verb = TP_COUNTER_READ };

	n->fault.cause = CAUSE_NONE;
	read_record(n);
	if (n->fault.cause != CAUSE_NONE)
		return;
	if (n->remake)
		n->record.state = ANCHOR_UNBOUND;
	n->remake = false;
	q.index = n->record.index;
	if (n->record.state == ANCHOR_UNBOUND) {
		q.verb = TP_COUNTER_MAKE;
		q.index = INDEX_BASE | (get_le32(n->record.uuid) & INDEX_MASK);
	}
	if (tpm_ask(&n->ask, n->volume->agent, &q, -1, counted, n) != 0) {
		n->ask = NULL;
		set_fault(n, ERR_UNREACHABLE, "fallgate-tpm cannot be started; see the log");
	}
}

bool anchor_ready(struct anchor *n, struct judgement *fault)
{
	fault->cause = CAUSE_NONE;
	if (!wanted(n) || n->known)
		return true;
	if (n->ask == NULL && (n->fault.cause == CAUSE_NONE || boot_now() - n->fault_ns > FAULT_NS))
		begin(n);
	if (n->ask != NULL)
		return false;
	*fault = n->fault;
	return true;
}

void anchor_ticket(struct anchor *n, struct msg_dp_ticket *t)
{
	t->anchor_count = n->count;
	t->anchor = !wanted(n)                        ? (n->accept ? TICKET_ANCHOR_IGNORE : TICKET_ANCHOR_NONE)
		    : n->accept                       ? TICKET_ANCHOR_ACCEPT
		    : n->record.state == ANCHOR_BOUND ? TICKET_ANCHOR_CHECK
						      : TICKET_ANCHOR_BIND;
	n->accept = false;
}

/* ---- stepping ---- */

static void due(void *context)
{
	struct anchor *n = context;
	struct message m;

	if (!gate_state_serves(n->volume->gate.state) || n->ask != NULL)
		return; /* the next opening, or the end of this step, begins anew */
	message_init(&m, MSG_DP_ANCHOR, 0);
	m.body.dp_anchor.count = n->asked = n->count + 1;
	child_send(&n->volume->dataplane, &m, NULL, 0);
}

static void settle(struct anchor *n)
{
	struct volume *v = n->volume;

	if (n->record.state != ANCHOR_BOUND && write_record(n, ANCHOR_BOUND) != 0)
		log_error("volume %s: that it is bound to the TPM's counter could not be recorded; it is tried again at the next "
			  "opening",
			  v->config.name);
	n->settled = true;
	if (!v->config.read_only)
		timer_arm(&v->agent->loop, &n->due, boot_now() + v->config.anti_rollback_ns);
	unlock_settled(v);
}

static void stepped(void *context, const struct msg_tp_reply *r, int *page_fd)
{
	struct anchor *n = context;

	(void)page_fd;
	n->ask = NULL;
	if (r->error == 0) {
		n->count = r->counter;
		settle(n);
		return;
	}
	set_fault(n, r->error, r->text);
	if (n->volume->gate.state == GATE_UNLOCKING)
		unlock_unsettled(n->volume, &n->fault);
	else /* it serves; what it wrote since the last step could be undone unnoticed */
		timer_arm(&n->volume->agent->loop, &n->due, boot_now() + 10 * SEC_NS);
}

static void step(struct anchor *n)
{
	const struct msg_tp_request q = { .verb = TP_COUNTER_STEP, .index = n->record.index, .to = n->named };
	const struct msg_tp_reply lost = { .error = ERR_UNREACHABLE, .text = "fallgate-tpm cannot be started; see the log" };

	if (n->ask != NULL)
		return;
	if (tpm_ask(&n->ask, n->volume->agent, &q, -1, stepped, n) != 0)
		stepped(n, &lost, NULL);
}

void anchor_opened(struct anchor *n, uint64_t named)
{
	if (!wanted(n))
		return;
	n->named = named;
	if (n->volume->config.read_only || named <= n->count)
		settle(n); /* nothing was written */
	else
		step(n);
}

bool anchor_settled(const struct anchor *n)
{
	return !wanted(n) || n->settled;
}

void anchor_named(struct anchor *n, uint64_t named)
{
	if (!wanted(n) || n->asked == 0 || named < n->asked)
		return;
	n->named = n->asked;
	n->asked = 0;
	step(n);
}

void anchor_forget(struct anchor *n)
{
	timer_disarm(&n->volume->agent->loop, &n->due);
	if (n->ask != NULL)
		tpm_abandon(n->ask);
	n->ask = NULL;
	n->known = false;
	n->named = n->asked = 0;
	n->settled = false;
}

/* A wish that nothing asks for now would wait for whoever swaps the medium next. */
int anchor_accept(struct anchor *n, char text[static TEXT_MAX_BYTES])
{
	if (gate_state_serves(n->volume->gate.state)) {
		snprintf(text, TEXT_MAX_BYTES,
			 "volume %s is open, and nothing has been refused; detach it before an older state is put back",
			 n->volume->config.name);
		return ERR_STATE;
	}
	n->accept = true;
	snprintf(text, TEXT_MAX_BYTES,
		 "the next opening of volume %s takes it as it is; if it is latched, an officer's restore opens it",
		 n->volume->config.name);
	return 0;
}

void anchor_init(struct anchor *n, struct volume *v)
{
	memset(n, 0, sizeof *n);
	n->volume = v;
	timer_init(&n->due, due, n);
}
