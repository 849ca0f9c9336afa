/* Every body is one map, or an array of maps. Times named -ns are nanoseconds: "since_ns" and "started_ns" by the wall clock,
 * "detected_ns" and the proof's by CLOCK_BOOTTIME; the lock's later steps are given as distances from its detection. */
#include "render.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "revocation/revocation.h"

#include "body.h"
#include "problem.h"

static const char *memory_name(uint8_t kind)
{
	/* in the order of enum secret_memory_kind: this process does not know the room of secret memory */
	static const char *const names[] = { "none", "memfd_secret", "locked-memfd" };

	return kind < sizeof names / sizeof names[0] ? names[kind] : "unknown";
}

static const char *cause_name(uint8_t cause)
{
	return gate_cause_name((enum gate_cause)cause);
}

/* The cause that holds the gate shut: the latch's before the last lock's. */
static enum gate_cause holding_cause(const struct msg_mg_volume *v)
{
	return (enum gate_cause)(v->latched ? v->latch_cause : v->cause);
}

/* What lists show of a volume. */
static void put_summary(struct body_out *o, const struct msg_mg_volume *v)
{
	body_pair_text(o, "name", v->name);
	body_pair_text(o, "state", gate_state_name((enum gate_state)v->state));
	body_pair_text(o, "cause", cause_name(v->cause));
	body_pair_bool(o, "latched", v->latched);
	body_pair_uint(o, "gate_seq", v->gate_seq);
	body_pair_bool(o, "formatted", v->formatted);
}

static void put_summaries(struct body_out *o, const struct state *s)
{
	body_array(o, s->count);
	for (unsigned i = 0; i < s->count; i++) {
		body_map_open(o);
		put_summary(o, s->volumes[i]);
		body_map_close(o);
	}
}

/* How many findings of the posture are weak. */
static unsigned weak_findings(const char *text)
{
	unsigned weak = 0;

	for (; *text != '\0'; text += strcspn(text, "\n"), text += *text == '\n')
		weak += strncmp(text, "weak: ", 6) == 0;
	return weak;
}

int render_status(uint8_t *out, size_t size, const struct state *s)
{
	struct body_out o;

	body_begin(&o, out, size);
	body_map_open(&o);
	body_pair_text(&o, "version", s->agent.version);
	body_pair_uint(&o, "started_ns", s->agent.started_ns);
	if (s->silent_ns != 0)
		body_pair_uint(&o, "silent_ns", s->silent_ns);
	body_pair_bool(&o, "audit_good", s->agent.audit_good);
	body_pair_uint(&o, "posture_weak", weak_findings(s->agent.posture));
	body_key(&o, "volumes");
	put_summaries(&o, s);
	body_map_close(&o);
	return body_finish(&o);
}

int render_volumes(uint8_t *out, size_t size, const struct state *s)
{
	struct body_out o;

	body_begin(&o, out, size);
	body_array(&o, s->count);
	for (unsigned i = 0; i < s->count; i++) {
		body_map_open(&o);
		put_summary(&o, s->volumes[i]);
		body_pair_text(&o, "kek", s->volumes[i]->kek);
		body_pair_uint(&o, "size", s->volumes[i]->size);
		body_map_close(&o);
	}
	return body_finish(&o);
}

static void put_time(struct body_out *o, const char *key, uint64_t at)
{
	if (at != 0)
		body_pair_uint(o, key, at);
}

static void put_lock(struct body_out *o, const struct msg_mg_volume *v)
{
	body_key(o, "lock");
	body_map_open(o);
	body_pair_uint(o, "detected_ns", v->lock_detected_ns);
	put_time(o, "cut_ns", v->lock_cut_ns);
	put_time(o, "wiped_ns", v->lock_wiped_ns);
	put_time(o, "drained_ns", v->lock_drained_ns);
	if (v->lock_drain_error != 0)
		body_pair_text(o, "drain_error", error_name(v->lock_drain_error));
	body_map_close(o);
}

/* The gate: what it is, what holds it, what lifts that, and how the last lock went. */
static void put_gate(struct body_out *o, const struct msg_mg_volume *v)
{
	enum gate_cause holding = holding_cause(v);

	put_summary(o, v);
	if (v->latched)
		body_pair_text(o, "latch_cause", cause_name(v->latch_cause));
	if (holding != CAUSE_NONE)
		body_pair_text(o, "remedy", gate_remedy(holding, v->latched));
	body_pair_uint(o, "since_ns", v->since_ns);
	if (v->purge_at_ns != 0)
		body_pair_uint(o, "purge_at_ns", v->purge_at_ns);
	if (v->lock_detected_ns != 0)
		put_lock(o, v);
	body_pair_text(o, "text", v->text);
}

int render_gate(uint8_t *out, size_t size, const struct msg_mg_volume *v)
{
	struct body_out o;

	body_begin(&o, out, size);
	body_map_open(&o);
	put_gate(&o, v);
	body_map_close(&o);
	return body_finish(&o);
}

static void put_stats(struct body_out *o, const struct msg_dp_stats *t)
{
	body_map_open(o);
	body_pair_uint(o, "read_ops", t->read_ops);
	body_pair_uint(o, "write_ops", t->write_ops);
	body_pair_uint(o, "flush_ops", t->flush_ops);
	body_pair_uint(o, "zero_ops", t->zero_ops);
	body_pair_uint(o, "read_bytes", t->read_bytes);
	body_pair_uint(o, "written_bytes", t->written_bytes);
	body_pair_uint(o, "bad_tags", t->bad_tags);
	body_pair_uint(o, "dirty_nodes", t->dirty_nodes);
	body_pair_uint(o, "connections", t->connections);
	body_pair_bool(o, "failstop", t->failstop);
	body_map_close(o);
}

static void put_proof(struct body_out *o, const struct msg_mg_volume *v)
{
	body_map_open(o);
	put_time(o, "last_ns", v->last_proof_ns);
	put_time(o, "deadline_ns", v->proof_deadline_ns);
	body_map_close(o);
}

int render_volume(uint8_t *out, size_t size, const struct msg_mg_volume *v, uint64_t silent_ns)
{
	struct body_out o;

	body_begin(&o, out, size);
	body_map_open(&o);
	put_gate(&o, v);
	put_time(&o, "silent_ns", silent_ns);
	body_pair_text(&o, "kek", v->kek);
	body_pair_uint(&o, "size", v->size);
	body_key(&o, "uuid");
	body_put_bytes(&o, v->uuid, sizeof v->uuid);
	body_pair_text(&o, "attach", v->attach_auto ? "auto" : "manual");
	body_pair_text(&o, "export", v->export_uri);
	body_pair_text(&o, "kernel", v->kernel);
	body_pair_text(&o, "memory", memory_name(v->memory));
	body_key(&o, "proof");
	put_proof(&o, v);
	body_key(&o, "stats");
	put_stats(&o, &v->stats);
	body_map_close(&o);
	return body_finish(&o);
}

/* One line "good|weak: what" of the posture. */
static void put_finding(struct body_out *o, const char *line, size_t size)
{
	char copy[sizeof((struct msg_mg_agent *)0)->posture];
	const char *colon;

	snprintf(copy, sizeof copy, "%.*s", (int)size, line);
	colon = strstr(copy, ": ");
	body_map_open(o);
	body_pair_bool(o, "good", strncmp(copy, "good: ", 6) == 0);
	body_pair_text(o, "what", colon == NULL ? copy : colon + 2);
	body_map_close(o);
}

static size_t count_lines(const char *text)
{
	size_t lines = 0;

	while (*text != '\0') {
		size_t n = strcspn(text, "\n");

		lines += n > 0;
		text += n + (text[n] == '\n');
	}
	return lines;
}

int render_posture(uint8_t *out, size_t size, const struct state *s)
{
	const char *at = s->agent.posture;
	struct body_out o;

	body_begin(&o, out, size);
	body_map_open(&o);
	body_pair_text(&o, "users", s->agent.users);
	body_pair_text(&o, "sandbox", s->agent.sandbox);
	body_pair_bool(&o, "audit_good", s->agent.audit_good);
	body_key(&o, "findings");
	body_array(&o, count_lines(at));
	while (*at != '\0') {
		size_t n = strcspn(at, "\n");

		if (n > 0)
			put_finding(&o, at, n);
		at += n + (at[n] == '\n');
	}
	body_map_close(&o);
	return body_finish(&o);
}

int render_problem(uint8_t *out, size_t size, int error, const char *text)
{
	struct body_out o;

	body_begin(&o, out, size);
	body_map_open(&o);
	body_pair_text(&o, "error", error_name(error));
	body_pair_text(&o, "text", text[0] != '\0' ? text : error_text(error));
	if (problem_remedy(error)[0] != '\0')
		body_pair_text(&o, "remedy", problem_remedy(error));
	body_pair_uint(&o, "exit", (uint64_t)error_exit_code(error));
	body_map_close(&o);
	return body_finish(&o);
}

int render_done(uint8_t *out, size_t size, const struct pending *p)
{
	struct body_out o;

	body_begin(&o, out, size);
	body_map_open(&o);
	if (p->volume[0] != '\0') {
		body_pair_text(&o, "name", p->volume);
		body_pair_uint(&o, "gate_seq", p->reply.gate_seq);
	}
	if (p->verb == MG_REVOKE)
		body_pair_bool(&o, "durable", p->reply.durable);
	if (p->reply.text[0] != '\0')
		body_pair_text(&o, "text", p->reply.text);
	body_map_close(&o);
	return body_finish(&o);
}
