/* What the outside is told of a volume. What must hold: it is only looked at. */
#include <string.h>

#include "kek.h"
#include "volume.h"

void volume_status(const struct volume *v, struct msg_mg_volume *out)
{
	bool serves = gate_state_serves(v->gate.state);

	strcpy(out->name, v->config.name);
	strcpy(out->kek, v->config.kek);
	out->state = (uint8_t)v->gate.state;
	out->cause = (uint8_t)v->gate.cause;
	out->latched = v->gate.latched;
	out->latch_cause = (uint8_t)(v->gate.latched ? v->gate.latch_cause : CAUSE_NONE);
	out->formatted = v->formatted;
	out->attach_auto = v->config.attach_auto;
	out->gate_seq = v->gate.seq;
	out->size = v->record.size;
	memcpy(out->uuid, v->record.uuid, sizeof out->uuid);
	export_uri(v, out->export_uri, sizeof out->export_uri);
	if (serves) {
		memcpy(out->kernel, v->opened.kernel, sizeof out->kernel);
		out->memory = v->opened.memory;
		out->proof_deadline_ns = kek_proof_deadline(v->kek);
	}
	out->since_ns = v->since_wall_ns;
	out->purge_at_ns = v->purge_at_ns;
	out->last_proof_ns = v->kek != NULL ? kek_last_good(v->kek) : 0;
	out->lock_detected_ns = v->detected_ns;
	out->lock_cut_ns = v->cut_ns;
	out->lock_wiped_ns = v->wiped_ns;
	out->lock_drained_ns = v->drained_ns;
	out->lock_drain_error = v->drain_error;
	out->stats = v->stats;
	memcpy(out->text, v->text, sizeof out->text);
}
