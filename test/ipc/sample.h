/* A valid message of every type, for the tests of this folder: random where anything goes, good values where something is
 * described. */
#ifndef TEST_IPC_SAMPLE_H
#define TEST_IPC_SAMPLE_H

#include <stdlib.h>
#include <string.h>

#include "ipc/message.h"

static inline void sample_text(char *at, const char *value)
{
	strcpy(at, value);
}

static inline void sample_names(struct message *m)
{
	switch (m->type) {
	case MSG_HSM_UNWRAP:
	case MSG_HSM_WRAP:
		sample_text(m->body.hsm_ticket.volume, "vol-1");
		break;
	case MSG_PAGE_UNWRAP:
	case MSG_PAGE_WRAP:
		sample_text(m->body.page.volume, "vol-1");
		break;
	case MSG_DP_ATTACH:
		sample_text(m->body.dp_attach.name, "vol-1");
		break;
	case MSG_DP_CREATE:
		sample_text(m->body.dp_create.name, "vol-1");
		m->body.dp_create.kek_type = KEK_AES_KW;
		break;
	case MSG_DP_JOB:
		sample_text(m->body.dp_job.volume.name, "vol-1");
		m->body.dp_job.verb = JOB_SCRUB;
		break;
	case MSG_DP_EVENT:
		m->body.dp_event.event = DP_EVENT_BAD_TAG;
		break;
	case MSG_MG_REQUEST:
		m->body.mg_request.verb = MG_REVOKE;
		break;
	case MSG_MG_VOLUME:
		sample_text(m->body.mg_volume.name, "vol-1");
		sample_text(m->body.mg_volume.kek, "kek_1");
		break;
	case MSG_MG_GONE:
		sample_text(m->body.mg_gone.name, "vol-1");
		break;
	case MSG_CON_REQUEST:
		m->body.con_request.verb = CON_ENROLL;
		break;
	case MSG_HK_RUN:
		m->body.hk_run.hook = HOOK_UNMOUNT;
		sample_text(m->body.hk_run.volume, "vol-1");
		break;
	case MSG_UB_ADD:
		sample_text(m->body.ub_add.name, "vol-1");
		break;
	case MSG_UB_READY:
		sample_text(m->body.ub_ready.name, "vol-1");
		break;
	case MSG_UB_GO:
		sample_text(m->body.ub_go.name, "vol-1");
		break;
	case MSG_UB_STARTED:
		sample_text(m->body.ub_started.name, "vol-1");
		break;
	case MSG_UB_HOLD:
		sample_text(m->body.ub_hold.name, "vol-1");
		break;
	case MSG_UB_REMOVE:
		sample_text(m->body.ub_remove.name, "vol-1");
		break;
	case MSG_UB_GONE:
		sample_text(m->body.ub_gone.name, "vol-1");
		m->body.ub_gone.reason = UB_HOLD_OVER;
		break;
	case MSG_TP_REQUEST:
		m->body.tp_request.verb = TP_SEAL;
		sample_text(m->body.tp_request.kek, "kek_1");
		break;
	case MSG_CON_SEAL_PIN:
		sample_text(m->body.con_seal_pin.kek, "kek_1");
		break;
	case MSG_CON_JOB:
		sample_text(m->body.con_job.volume, "vol-1");
		m->body.con_job.verb = JOB_SCRUB;
		break;
	default:
		break;
	}
}

static inline void sample_message(struct message *m, uint32_t type, uint64_t nonce)
{
	memset(m, 0, sizeof *m);
	m->type = type;
	m->size = message_row(type)->size;
	m->nonce = nonce;
	sample_names(m);
}

static inline size_t sample_bytes(const struct message *m)
{
	return offsetof(struct message, body) + m->size;
}

static inline enum process_role sample_sender(uint32_t type)
{
	uint8_t sender = message_row(type)->sender;

	return sender == ROLE_COUNT ? ROLE_DATAPLANE : (enum process_role)sender;
}

#endif
