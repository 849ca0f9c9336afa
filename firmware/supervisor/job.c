/* See job.h. The order is an attach's: the dataplane first finds the wrapped key, then a one-shot hsm is asked for it. Every end
 * goes through end_job, and the struct is freed from the loop, when both processes are gone. */
#include "job.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "backing.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"
#include "kek.h"
#include "mgmt.h"
#include "prober.h"
#include "volume.h"

enum {
	GENERATION = 1, /* a job's process gets one ticket */
	SETUP_S = 30,   /* to have the key in: a slow disk's header, a slow token */
	AGAIN_MS = 100,
	WIPE_MS = 60,
	EXIT_MS = 1500, /* after its last words; the worker may be in the middle of a request */
	REAP_S = 1,
};

struct job {
	struct agent *agent;
	struct volume *volume;
	enum job_verb verb;
	struct job_options options;
	char identity[IDENTITY_MAX_BYTES];
	job_done *done; /* NULL: nobody waits */
	void *context;
	uint64_t nonce;
	int fds[CHANNEL_FDS_MAX]; /* of DP_JOB: the backing store, then the client's; -1 once they are given away */
	unsigned fd_count;
	struct opening *opening;
	struct child dataplane;
	struct session session;
	int hsm_fd;
	bool doubted, hsm_good, hsm_gone;
	struct timer setup, tick, outage, wipe, again, reap;
	bool over;
	int error;
	char text[TEXT_MAX_BYTES];
	struct job_counts counts;
	uint64_t begun_ns, ended_ns;
	uint64_t detected_ns, cut_ns, wiped_ns; /* detected: why it was ended, if it did not end by itself */
	bool had_keys, kek_used, alarmed;
};

/* What a verb may do to the backing store, and what it refuses to begin without. */
static bool writes(enum job_verb verb, const struct job_options *o)
{
	switch (verb) {
	case JOB_SCRUB:
		return o->repair;
	case JOB_REPAIR_LOG:
	case JOB_HEADER_RESTORE:
		return o->accept_loss;
	case JOB_CHECK:
	case JOB_DUMP:
	case JOB_SALVAGE:
	case JOB_VERB_COUNT:
		break;
	}
	return false;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* What the client lent may stand on a file server that is gone. */
static void close_fds(struct job *j)
{
	if (j->fd_count > 0)
		close_elsewhere(j->fds, j->fd_count);
	j->fd_count = 0;
	close_fd(&j->hsm_fd);
}

static void arm(struct job *j, struct timer *t, uint64_t in_ns)
{
	timer_arm(&j->agent->loop, t, boot_now() + in_ns);
}

/* ---- the ledger ---- */

static void audit(struct agent *a, const char *event, const char *volume, const char *identity, const char *text,
		  const struct job *j)
{
	struct ledger_entry e = { .wall_ns = wall_now(), .boot_ns = boot_now() };

	snprintf(e.volume, sizeof e.volume, "%s", volume);
	snprintf(e.event, sizeof e.event, "%s", event);
	snprintf(e.identity, sizeof e.identity, "%s", identity);
	snprintf(e.text, sizeof e.text, "%s", text);
	if (j != NULL) {
		e.detected_ns = j->detected_ns;
		e.cut_ns = j->cut_ns;
		e.wiped_ns = j->wiped_ns;
	}
	if (a->writer != NULL)
		writer_ledger(a->writer, &e);
}

static void audit_end(const struct job *j)
{
	const char *keys = !j->had_keys       ? "no key was loaded"
			   : j->wiped_ns != 0 ? "keys wiped"
					      : "keys gone with their process, which was killed";
	char text[TEXT_MAX_BYTES];

	snprintf(text, sizeof text, "%s: %s after %llu ms; %llu checked, %llu mended, %llu repairable, %llu lost; %s%s%.90s",
		 job_verb_name(j->verb), j->error == 0 ? "done" : error_name(j->error),
		 (unsigned long long)((boot_now() - j->begun_ns) / MS_NS), (unsigned long long)j->counts.checked,
		 (unsigned long long)j->counts.mended, (unsigned long long)j->counts.repairable,
		 (unsigned long long)j->counts.lost, keys, j->text[0] != '\0' ? "; " : "", j->text);
	audit(j->agent, "job-ended", j->volume->config.name, j->identity, text, j);
	log_line(j->error == 0 ? LOG_LEVEL_NOTICE : LOG_LEVEL_WARNING, "volume %s: job of %s: %s", j->volume->config.name,
		 j->identity, text);
}

/* ---- the end ---- */

static void free_job(struct job *j)
{
	struct timer *timers[] = { &j->setup, &j->tick, &j->outage, &j->wipe, &j->again, &j->reap };

	for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++)
		timer_disarm(&j->agent->loop, timers[i]);
	opening_abandon(j->opening);
	close_fds(j);
	if (j->kek_used)
		prober_release(j->volume->prober);
	j->volume->job = NULL;
	explicit_bzero(j, sizeof *j);
	free(j);
}

/* Nothing is left of it: now the volume may be attached, and the client may know. */
static void wind_up(struct job *j)
{
	struct msg_con_job_done d = { .error = j->error, .counts = j->counts };
	struct agent *a = j->agent;
	struct volume *v = j->volume;
	job_done *done = j->done;
	void *context = j->context;
	uint64_t nonce = j->nonce;

	memcpy(d.text, j->text, sizeof d.text);
	audit_end(j);
	free_job(j);
	v->text[0] = '\0';
	mgmt_push_volume(a, v);
	if (done != NULL)
		done(context, nonce, &d);
}

/* The keys may be in RAM for as long as it is not gone. */
static void alarm_once(struct job *j)
{
	if (j->alarmed || !j->dataplane.alive || boot_now() - j->ended_ns < REAP_S * SEC_NS)
		return;
	j->alarmed = true;
	log_error("volume %s: ALARM: the job's process (pid %d) is killed and not gone%s", j->volume->config.name,
		  (int)j->dataplane.pid, j->had_keys && j->wiped_ns == 0 ? ": keys may be in RAM; restart the machine" : "");
}

static void reap_due(void *context)
{
	struct job *j = context;
	bool gone = session_ticketed(&j->session) ? session_kill(&j->session) : !j->session.child.alive;

	if (j->dataplane.alive) /* its end has its own time; so has that of an hsm without a ticket */
		alarm_once(j);
	if (gone && !j->dataplane.alive)
		wind_up(j);
	else
		arm(j, &j->reap, AGAIN_MS * MS_NS);
}

static void kill_dataplane(struct job *j, const char *why)
{
	child_kill(&j->dataplane, why);
	timer_arm(&j->agent->loop, &j->reap, 0);
}

/* A false alarm would kill a process that has done what it was told to. */
static void wipe_due(void *context)
{
	struct job *j = context;

	child_hear(&j->dataplane);
	if (!j->dataplane.alive)
		return;
	if (j->dataplane.stage == STAGE_LOCKING) {
		kill_dataplane(j, "the wipe was not confirmed in time");
	} else if (boot_now() >= j->ended_ns + EXIT_MS * MS_NS) {
		kill_dataplane(j, "it was to end and did not"); /* without keys */
	} else {
		timer_arm(&j->agent->loop, &j->wipe, j->ended_ns + EXIT_MS * MS_NS);
	}
}

static void lock_dataplane(struct job *j, enum gate_cause cause)
{
	struct message m;

	if (!j->dataplane.alive || j->dataplane.stage >= STAGE_WIPED) {
		arm(j, &j->wipe, EXIT_MS * MS_NS);
		return;
	}
	if (j->dataplane.stage < STAGE_UNLOCKING) { /* it has no ticket: no key was on its way */
		kill_dataplane(j, NULL);
		return;
	}
	message_init(&m, MSG_DP_LOCK, 0);
	m.body.dp_lock = (struct msg_dp_lock){ .cause = (uint8_t)cause, .generation = GENERATION };
	arm(j, &j->wipe, WIPE_MS * MS_NS);
	if (child_send(&j->dataplane, &m, NULL, 0) == 0)
		j->dataplane.stage = STAGE_LOCKING;
	else
		kill_dataplane(j, "it cannot be told to lock");
}

/* The first reason stands. The unwrapping hsm goes first: a late unwrap must find nobody. */
static void __attribute__((format(printf, 4, 5)))
end_job(struct job *j, int error, enum gate_cause cause, const char *format, ...)
{
	char text[TEXT_MAX_BYTES];
	va_list args;

	if (j->over)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	j->over = true;
	j->error = error;
	log_printable(j->text, sizeof j->text, text);
	j->ended_ns = boot_now();
	if (j->dataplane.stage < STAGE_WIPED)
		j->detected_ns = j->ended_ns;
	timer_disarm(&j->agent->loop, &j->setup);
	timer_disarm(&j->agent->loop, &j->again);
	timer_disarm(&j->agent->loop, &j->outage);
	opening_abandon(j->opening);
	j->opening = NULL;
	session_close(&j->session); /* at once, if it has a ticket */
	if (session_ticketed(&j->session))
		log_error("volume %s: the unwrapping hsm (pid %d) is killed and not gone: the job is not over before it is",
			  j->volume->config.name, (int)j->session.child.pid);
	lock_dataplane(j, cause);
	close_fds(j);
	if (!j->dataplane.alive)
		timer_arm(&j->agent->loop, &j->reap, 0);
}

/* ---- the job's process ---- */

static void send_deadlines(struct job *j)
{
	struct message m;

	if (!j->dataplane.alive || j->dataplane.stage < STAGE_ATTACHING || j->dataplane.stage >= STAGE_LOCKING)
		return;
	message_init(&m, MSG_DP_DEADLINES, 0);
	m.body.dp_deadlines.heartbeat_ns = boot_now() + 2 * SEC_NS;
	m.body.dp_deadlines.proof_ns = kek_proof_deadline(j->volume->kek);
	child_send(&j->dataplane, &m, NULL, 0);
}

static void tick(void *context)
{
	struct job *j = context;

	arm(j, &j->tick, TICK_MS * MS_NS);
	send_deadlines(j);
}

static void on_hello(void *owner, struct child *c)
{
	struct job *j = owner;
	struct message m;
	struct msg_dp_job *d = &m.body.dp_job;
	int r;

	if (j->over)
		return;
	message_init(&m, MSG_DP_JOB, j->nonce);
	volume_pins(j->volume, &d->volume);
	d->volume.read_only = !writes(j->verb, &j->options);
	d->options = j->options;
	d->verb = (uint8_t)j->verb;
	r = child_send(c, &m, j->fds, j->fd_count);
	close_fds(j);
	if (r == 0)
		c->stage = STAGE_ATTACHING;
	else
		end_job(j, r, CAUSE_ENGINE, "the job's process does not take its order");
}

static void begin_unlock(struct job *j);

static void take_ready(struct job *j, const struct msg_dp_ready *r)
{
	char text[TEXT_MAX_BYTES];

	if (r->ok) {
		j->dataplane.stage = STAGE_KEYLESS;
		begin_unlock(j);
		return;
	}
	j->dataplane.stage = STAGE_REFUSED;
	end_job(j, r->error != 0 ? r->error : ERR_PROTOCOL, CAUSE_ENGINE, "%s", log_printable(text, sizeof text, r->text));
}

static void take_wiped(struct job *j, const struct msg_dp_wiped *w)
{
	if (w->generation != GENERATION) {
		kill_dataplane(j, "it speaks of another generation than its own");
		return;
	}
	j->dataplane.stage = STAGE_WIPED;
	j->cut_ns = w->cut_ns;
	j->wiped_ns = w->wiped_ns;
	if (w->self) {
		j->detected_ns = w->cut_ns;
		end_job(j, ERR_REVOKED, w->cause, "the job's process locked itself: a deadline passed");
	}
}

/* Why no key came is better known to who was asked for it. */
static void hear_the_hsm(struct job *j)
{
	if (!j->hsm_good && j->session.child.alive)
		child_hear(&j->session.child);
}

static void take_done(struct job *j, const struct msg_dp_job_done *d)
{
	char text[TEXT_MAX_BYTES];

	j->dataplane.stage = STAGE_DRAINED;
	j->counts = d->counts;
	if (d->error != 0)
		hear_the_hsm(j);
	end_job(j, d->error, CAUSE_NONE, "%s", log_printable(text, sizeof text, d->text));
}

static void on_message(void *owner, struct child *c, const struct message *m, int *fds, unsigned count)
{
	struct job *j = owner;

	(void)c;
	(void)fds;
	(void)count;
	switch (m->type) {
	case MSG_DP_READY:
		if (!j->over)
			take_ready(j, &m->body.dp_ready);
		break;
	case MSG_DP_WIPED:
		take_wiped(j, &m->body.dp_wiped);
		break;
	case MSG_DP_JOB_DONE:
		take_done(j, &m->body.dp_job_done);
		break;
	default:
		break;
	}
}

static void on_death(void *owner, struct child *c, int status)
{
	struct job *j = owner;

	end_job(j, ERR_IO, CAUSE_ENGINE, "the job's process ended without an answer (%s %d, %s); see the agent's log",
		WIFSIGNALED(status) ? "signal" : "exit code", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
		stage_name(c->stage));
	timer_disarm(&j->agent->loop, &j->wipe);
	timer_arm(&j->agent->loop, &j->reap, 0);
}

static const struct child_events dataplane_events = { on_hello, on_message, on_death };

static int start_dataplane(struct job *j)
{
	snprintf(j->dataplane.label, sizeof j->dataplane.label, "job on %s", j->volume->config.name);
	return child_start_one_shot(&j->dataplane, PEER_JOB, &j->agent->config, "offline");
}

static void backing_opened(void *context, int fd, bool created, const char *text)
{
	struct job *j = context;
	int r;

	(void)created;
	j->opening = NULL;
	j->fds[0] = fd >= 0 ? fd : -1;
	if (fd < 0) {
		end_job(j, fd, CAUSE_ENGINE, "%s", text);
		return;
	}
	r = start_dataplane(j);
	if (r != 0)
		end_job(j, r, CAUSE_ENGINE, "the job's process cannot be started; see the agent's log");
}

/* ---- the key ---- */

static int send_tickets(struct job *j)
{
	struct message m;
	struct volume *v = j->volume;
	struct msg_hsm_ticket t = { .gen_no = v->record.gen_no,
				    .hash = kek_pins(v->kek)->hash,
				    .dataplane_pid = j->dataplane.pid,
				    .dataplane_uid = (uint32_t)j->dataplane.uid };
	int r = entropy_fill(&t.ticket, sizeof t.ticket);

	if (r != 0)
		return r;
	strcpy(t.volume, v->config.name);
	send_deadlines(j); /* no lease is given without */
	r = session_ticket(&j->session, false, &t);
	if (r != 0)
		return r;
	message_init(&m, MSG_DP_TICKET, j->nonce);
	m.body.dp_ticket = (struct msg_dp_ticket){ .ticket = t.ticket,
						   .generation = GENERATION,
						   .hsm_pid = j->session.child.pid,
						   .hsm_uid = (uint32_t)j->session.child.uid };
	j->had_keys = true; /* from here on it may, and its KEK is proven every interval */
	j->kek_used = true;
	prober_use(v->prober);
	r = child_send(&j->dataplane, &m, &j->hsm_fd, 1);
	close_fd(&j->hsm_fd);
	if (r == 0)
		j->dataplane.stage = STAGE_UNLOCKING;
	return r;
}

/* A hiccup of the HSM costs a fresh process, not the job. Not once a ticket is out. */
static bool ask_again(struct job *j, const struct judgement *judged, enum session_step step)
{
	if (judged->proof != PROOF_AMBIGUOUS || step == SESSION_TICKET || j->doubted)
		return false;
	j->doubted = true;
	log_warning("volume %s: KEK %s: %s: asked once more", j->volume->config.name, j->volume->config.kek, judged->text);
	close_fd(&j->hsm_fd);
	session_close(&j->session);
	arm(j, &j->again, AGAIN_MS * MS_NS);
	return true;
}

static void key_is_in(struct job *j)
{
	if (!j->hsm_good || !j->hsm_gone)
		return;
	timer_disarm(&j->agent->loop, &j->setup);
	if (j->dataplane.stage == STAGE_UNLOCKING)
		j->dataplane.stage = STAGE_SERVING;
}

static void on_result(void *owner, struct session *s, enum session_step step, const struct judgement *judged)
{
	struct job *j = owner;
	int r = 0;

	if (j->over)
		return;
	if (judged->proof != PROOF_GOOD) {
		if (!ask_again(j, judged, step))
			end_job(j, judgement_error(judged), judged->cause, "KEK %s: %.180s", j->volume->config.kek, judged->text);
		return;
	}
	switch (step) {
	case SESSION_OPENED:
		r = session_probe(s, s->pins);
		break;
	case SESSION_PROBED:
		kek_note_good(j->volume->kek, s->asked_ns);
		r = send_tickets(j);
		break;
	case SESSION_TICKET:
		j->hsm_good = true;
		key_is_in(j);
		break;
	}
	if (r != 0)
		end_job(j, r, CAUSE_UNREACHABLE, "the key could not be asked for");
}

static void on_ended(void *owner, struct session *s, bool good)
{
	struct job *j = owner;

	if (j->over) {
		timer_arm(&j->agent->loop, &j->reap, 0);
		return;
	}
	if (s->silent)
		return;
	j->hsm_gone = good;
	if (good)
		key_is_in(j);
	else
		end_job(j, ERR_UNREACHABLE, CAUSE_UNREACHABLE, "the one-shot hsm process failed; see the agent's log");
}

static const struct session_events session_callbacks = { on_result, on_ended };

static void begin_unlock(struct job *j)
{
	int pair[2], r = channel_pair(pair);

	if (r == 0) {
		r = session_start(&j->session, kek_pins(j->volume->kek), pair[1]);
		close(pair[1]);
		if (r == 0)
			j->hsm_fd = pair[0];
		else
			close(pair[0]);
	}
	if (r == ERR_BUSY) /* a PIN is being tried, or the last process is not gone: setup bounds it */
		arm(j, &j->again, AGAIN_MS * MS_NS);
	else if (r != 0)
		end_job(j, r, CAUSE_UNREACHABLE, "the hsm process cannot be started; see the agent's log");
}

static void try_again(void *context)
{
	begin_unlock(context);
}

static void setup_over(void *context)
{
	end_job(context, ERR_TIMEOUT, CAUSE_UNREACHABLE, "the key was not there within %d s", SETUP_S);
}

/* ---- what ends it ---- */

void job_proof(struct volume *v, bool fresh, const struct judgement *judged)
{
	struct job *j = v->job;
	uint64_t budget;

	if (j == NULL || j->over || !j->had_keys)
		return;
	if (judged->proof == PROOF_GOOD) {
		timer_disarm(&j->agent->loop, &j->outage);
		return;
	}
	if (judged->proof == PROOF_REFUSED) {
		end_job(j, ERR_REFUSED, judged->cause, "KEK %s: %.180s", v->config.kek, judged->text);
		return;
	}
	if (j->dataplane.stage != STAGE_SERVING)
		return; /* until the key is in, its own fresh process settles a doubt */
	budget = kek_config(v->kek)->outage_budget_ns;
	if (!j->outage.armed)
		timer_arm(&j->agent->loop, &j->outage, kek_last_good(v->kek) + budget);
	if (!fresh && budget > 0)
		prober_fresh(v->prober);
}

static void outage_over(void *context)
{
	end_job(context, ERR_UNREACHABLE, CAUSE_UNREACHABLE, "the HSM was out of reach for longer than the outage budget");
}

void job_gate_event(struct volume *v, enum gate_event event)
{
	/* clang-format off */
	static const struct {
		enum gate_event event;
		int error;
		enum gate_cause cause;
		const char *text;
	} rows[] = {
		{ EV_REVOKE,          ERR_REVOKED, CAUSE_COMMANDED, "the volume was revoked" },
		{ EV_TAMPER,          ERR_REVOKED, CAUSE_TAMPER,    "the device was tampered with" },
		{ EV_INTEGRITY_ALARM, ERR_REVOKED, CAUSE_INTEGRITY, "an integrity alarm" },
		{ EV_CLOCK_UNTRUSTED, ERR_REVOKED, CAUSE_CLOCK,     "the wall clock is not to be trusted" },
		{ EV_ATTACH,          ERR_BUSY,    CAUSE_DETACHED,  "the volume is being attached" },
		{ EV_DETACH,          ERR_STATE,   CAUSE_DETACHED,  "it was called off by a detach, or the agent is being stopped" },
	};
	/* clang-format on */

	for (size_t i = 0; v->job != NULL && i < sizeof rows / sizeof rows[0]; i++)
		if (rows[i].event == event)
			end_job(v->job, rows[i].error, rows[i].cause, "%s", rows[i].text);
}

void job_client_gone(struct agent *a, const void *context, bool keep)
{
	for (unsigned i = 0; i < a->volume_count; i++) {
		struct job *j = a->volumes[i]->job;

		if (j == NULL || j->context != context || j->done == NULL)
			continue;
		if (!keep)
			j->done = NULL;
		end_job(j, ERR_STATE, CAUSE_DETACHED, "the client called it off, or went away");
	}
}

void job_destroy(struct volume *v)
{
	struct job *j = v->job;

	if (j == NULL)
		return;
	j->done = NULL;
	end_job(j, ERR_STATE, CAUSE_DETACHED, "the agent is being stopped");
	session_end(&j->session);
	child_kill_and_reap(&j->dataplane);
	child_let_go(&j->dataplane);
	free_job(j);
}

enum stage job_stage(const struct job *j, bool session)
{
	const struct child *c = session ? &j->session.child : &j->dataplane;

	return c->alive ? c->stage : STAGE_COUNT;
}

void job_pids(const struct job *j, pid_t *hsm, pid_t *process)
{
	*hsm = j->session.child.alive ? j->session.child.pid : 0;
	*process = j->dataplane.alive ? j->dataplane.pid : 0;
}

bool job_on(const struct volume *v, char text[static TEXT_MAX_BYTES])
{
	const struct job *j = v->job;

	if (j == NULL)
		return false;
	snprintf(text, TEXT_MAX_BYTES, "volume %s has a job under way (%s, by %s): wait for its end, or call it off with detach",
		 v->config.name, job_verb_name(j->verb), j->identity);
	return true;
}

/* ---- the request ---- */

static unsigned jobs(const struct agent *a)
{
	unsigned n = 0;

	for (unsigned i = 0; i < a->volume_count; i++)
		n += a->volumes[i]->job != NULL;
	return n;
}

/* As an attach would be refused, and where it is attached. */
static int refuse_volume(const struct volume *v, char text[static TEXT_MAX_BYTES])
{
	int r = volume_attachable(v, text);

	if (r != 0)
		return r;
	if (v->gate.latched) {
		snprintf(text, TEXT_MAX_BYTES,
			 "the gate of volume %s is latched (%s): no key for a job either; what lifts it: %s", v->config.name,
			 gate_cause_name(v->gate.latch_cause), gate_remedy(v->gate.latch_cause, true));
		return ERR_REVOKED;
	}
	if (v->gate.state == GATE_LOCKED && volume_busy(v)) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is still being detached: try again in a moment", v->config.name);
		return ERR_BUSY;
	}
	if (v->gate.state != GATE_LOCKED) {
		snprintf(text, TEXT_MAX_BYTES, "volume %s is attached (%s): detach it first", v->config.name,
			 gate_state_name(v->gate.state));
		return ERR_BUSY;
	}
	if (kek_pins(v->kek) == NULL) {
		snprintf(text, TEXT_MAX_BYTES, "the record of KEK %s is missing or damaged; bring it back from a backup",
			 v->config.kek);
		return ERR_CORRUPT;
	}
	if (memcmp(kek_pins(v->kek)->fingerprint, v->record.fingerprint, FINGERPRINT_BYTES) != 0) {
		snprintf(text, TEXT_MAX_BYTES, "the volume was made under another KEK than %s is now; name that one",
			 v->config.kek);
		return ERR_REFUSED;
	}
	return 0;
}

static int refuse_early(struct agent *a, const struct job_request *q, const struct volume *v, char text[static TEXT_MAX_BYTES])
{
	const struct job_options *o = &q->order->options;

	if (v == NULL) {
		snprintf(text, TEXT_MAX_BYTES, "the agent knows no volume %s", q->order->volume);
		return ERR_NOT_FOUND;
	}
	if (q->count != 1u + o->output + o->map + o->input) {
		snprintf(text, TEXT_MAX_BYTES, "%u descriptors came, not those that the request names", q->count);
		return ERR_PROTOCOL;
	}
	if (a->stopping) {
		snprintf(text, TEXT_MAX_BYTES, "the agent is being stopped");
		return ERR_STATE;
	}
	if (jobs(a) >= JOBS_MAX) {
		snprintf(text, TEXT_MAX_BYTES, "%d jobs are under way already: wait for one to end", JOBS_MAX);
		return ERR_BUSY;
	}
	return refuse_volume(v, text);
}

static void init(struct job *j, struct agent *a, struct volume *v, const struct job_request *q, job_done *done)
{
	j->agent = a;
	j->volume = v;
	j->verb = q->order->verb;
	j->options = q->order->options;
	snprintf(j->identity, sizeof j->identity, "%s", q->identity);
	j->done = done;
	j->context = q->context;
	j->nonce = q->nonce;
	j->hsm_fd = j->fds[0] = -1;
	for (unsigned i = 0; i < q->count; i++) {
		j->fds[i + 1] = q->fds[i];
		q->fds[i] = -1;
	}
	j->fd_count = q->count + 1;
	j->begun_ns = boot_now();
	j->dataplane.loop = &a->loop;
	j->dataplane.events = &dataplane_events;
	j->dataplane.owner = j;
	session_init(&j->session, a, v->kek, &session_callbacks, j);
	timer_init(&j->setup, setup_over, j);
	timer_init(&j->tick, tick, j);
	timer_init(&j->outage, outage_over, j);
	timer_init(&j->wipe, wipe_due, j);
	timer_init(&j->again, try_again, j);
	timer_init(&j->reap, reap_due, j);
}

int job_begin(struct agent *a, const struct job_request *q, job_done *done, char text[static TEXT_MAX_BYTES])
{
	struct volume *v = volume_find(a, q->order->volume);
	const char *verb = job_verb_name(q->order->verb);
	struct job *j;
	int r = refuse_early(a, q, v, text);

	if (r != 0) {
		log_warning("job: %s of volume %s for %s: refused: %s", verb, q->order->volume, q->identity, text);
		audit(a, "job-refused", q->order->volume, q->identity, text, NULL);
		return r;
	}
	j = calloc(1, sizeof *j);
	if (j == NULL) {
		snprintf(text, TEXT_MAX_BYTES, "%s", error_text(ERR_NOMEM));
		return ERR_NOMEM;
	}
	init(j, a, v, q, done);
	v->job = j;
	log_notice("volume %s: job for %s: %s", v->config.name, q->identity, verb);
	audit(a, "job-begun", v->config.name, q->identity, verb, NULL);
	snprintf(v->text, sizeof v->text, "a job is under way: %s, by %s", verb, q->identity);
	mgmt_push_volume(a, v);
	arm(j, &j->setup, SETUP_S * SEC_NS);
	arm(j, &j->tick, TICK_MS * MS_NS);
	if (opening_start(&j->opening, a, &v->config, writes(j->verb, &j->options) ? OPENING_WRITE : OPENING_READ, backing_opened,
			  j) != 0)
		end_job(j, ERR_NOMEM, CAUSE_ENGINE, "its backing store cannot be opened; see the agent's log");
	return 0;
}
