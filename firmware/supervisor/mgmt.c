/* See mgmt.h. */
#include "mgmt.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "agent.h"
#include "base/log.h"
#include "posture.h"
#include "volume.h"

void mgmt_look(struct mgmt *g)
{
	int unread = 0;

	/* SIOCOUTQ, which no header of libc has, is the same number */
	if (!g->child.alive || ioctl(g->child.channel.fd, TIOCOUTQ, &unread) != 0 || unread == 0)
		g->caught_up_ns = boot_now();
}

/* A full channel drops a status, never an answer: the status is told again within a second; an answer that cannot be given kills.
 * false: dropped. Who is not there yet is told everything at its hello. */
static bool tell(struct agent *a, const struct message *m, bool answer)
{
	struct mgmt *g = a->mgmt;

	if (g == NULL || !g->child.alive || g->child.stage != STAGE_TALKING)
		return true;
	mgmt_look(g);
	if (channel_send(&g->child.channel, m, NULL, 0) == 0)
		return true;
	if (answer)
		child_kill(&g->child, "it does not take its answers");
	return false;
}

void mgmt_reply(struct agent *a, uint64_t id, int error, uint64_t seq, bool durable, const char *text)
{
	struct message m;

	message_init(&m, MSG_MG_REPLY, id);
	m.body.mg_reply.id = id;
	m.body.mg_reply.error = error;
	m.body.mg_reply.gate_seq = seq;
	m.body.mg_reply.durable = durable;
	log_printable(m.body.mg_reply.text, sizeof m.body.mg_reply.text, text);
	tell(a, &m, true);
}

void mgmt_push_volume(struct agent *a, struct volume *v)
{
	struct message m;

	message_init(&m, MSG_MG_VOLUME, 0);
	volume_status(v, &m.body.mg_volume);
	v->untold = !tell(a, &m, false);
}

void mgmt_push_agent(struct agent *a)
{
	struct message m;

	message_init(&m, MSG_MG_AGENT, 0);
	posture_fill(a, &m.body.mg_agent);
	tell(a, &m, false);
}

void mgmt_push_credential(struct agent *a, const char *identity, enum role role, const uint8_t psk[PSK_BYTES])
{
	struct message m;

	message_init(&m, MSG_MG_CREDENTIAL, 0);
	snprintf(m.body.mg_credential.identity, sizeof m.body.mg_credential.identity, "%s", identity);
	m.body.mg_credential.role = (uint8_t)role;
	if (psk != NULL)
		memcpy(m.body.mg_credential.psk, psk, PSK_BYTES);
	tell(a, &m, true); /* a credential that was removed must not stay: mgmt is started anew then */
	explicit_bzero(&m, sizeof m);
}
