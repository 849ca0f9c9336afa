/* The supervisor among children that hang, lie, crash, speak out of turn and never confirm a wipe: real processes, real time. */
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/kek.h"
#include "supervisor/prober.h"
#include "supervisor/tpm.h"

static int setup(void **state)
{
	struct kek_config *k;

	(void)state;
	rig_up("faults");
	k = &agent->config.keks[0];
	k->fresh_every = 4;
	strcpy(k->environment[k->environment_count++], "FAKE=1");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return rig_down();
}

static void nothing(void *context)
{
	(void)context;
}

static void a_dataplane_that_never_confirms_is_killed(void **state)
{
	struct gate_record g;
	uint64_t began;

	(void)state;
	attach();
	put("dataplane.mode", "deaf");
	began = boot_now();
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "why it was revoked");
	assert_int_equal(volume->gate.state, GATE_LOCKING);
	assert_true(reach(GATE_WIPE_UNCONFIRMED, 1000));
	assert_true(boot_now() - began >= 60 * MS_NS);
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	assert_string_equal(volume->text, "why it was revoked"); /* not how its process ended */
	assert_true(boot_now() - began < 500 * MS_NS);
	put("dataplane.mode", "good");
	run_for(1500); /* a healthy HSM opens nothing that is latched */
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 0);
	assert_int_equal(records_read_gate(&agent->records, "demo", &g), 0);
	assert_true(g.latched && g.latch_cause == CAUSE_COMMANDED && g.seq == volume->gate.seq);
	assert_true(volume->gate_durable);
	volume_feed(volume, EV_RESTORE, CAUSE_NONE, "test", NULL);
	expect(GATE_AVAILABLE, CAUSE_NONE, 5000);
}

/* The process that wiped hears no second order, and is still writing what was acknowledged: it is not called deaf and killed. */
static void a_second_order_waits_for_nobody_and_kills_nobody(void **state)
{
	static const enum gate_event rounds[][4] = {
		/* first, back, second, and back */
		{ EV_REVOKE, EV_RESTORE, EV_REVOKE, EV_RESTORE },
		{ EV_DETACH, EV_ATTACH, EV_DETACH, EV_ATTACH },
	};
	char drains[16];

	(void)state;
	put("dataplane.mode", "slow-drain");
	attach();
	for (size_t i = 0; i < sizeof rounds / sizeof rounds[0]; i++) {
		enum gate_state shut = rounds[i][0] == EV_REVOKE ? GATE_INACCESSIBLE : GATE_LOCKED;

		put("drains", "");
		volume_feed(volume, rounds[i][0], CAUSE_NONE, "test", "");
		assert_true(reach(shut, 500));
		volume_feed(volume, rounds[i][1], CAUSE_NONE, "test", NULL);
		assert_int_equal(volume->gate.state, GATE_UNLOCKING);
		volume_feed(volume, rounds[i][2], CAUSE_NONE, "test", "");
		assert_int_equal(volume->gate.state, shut);
		run_for(1200);
		assert_int_equal(volume->gate.state, shut);
		get("drains", drains, sizeof drains);
		assert_string_equal(drains, "x");
		volume_feed(volume, rounds[i][3], CAUSE_NONE, "test", NULL);
		expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	}
}

/* The agent's own end does not wait for a slow disk, and takes no acknowledged write with it. */
static void a_drain_outlives_the_agent(void **state)
{
	char drains[16] = "";

	(void)state;
	put("dataplane.mode", "slow-drain");
	attach();
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "stop", "");
	assert_true(reach(GATE_LOCKED, 500));
	assert_int_equal(volume->dataplane.stage, STAGE_WIPED);
	volume_destroy(volume);
	for (int i = 0; i < 100 && drains[0] == '\0'; i++) {
		usleep(50000);
		get("drains", drains, sizeof drains);
	}
	assert_string_equal(drains, "x");
	assert_int_equal(volume_create(&volume, agent, "demo", &agent->config.volumes[0]), 0);
	agent->volumes[0] = volume;
}

/* A descriptor of a channel that somebody else has too, and says something on without end. */
static unsigned overheard;
static bool overhears;

enum { ENOUGH = 100000 };

int __real_channel_receive(struct channel *c, struct message *m, int fds[CHANNEL_FDS_MAX], unsigned *count,
			   struct channel_peer *peer);
int __wrap_channel_receive(struct channel *c, struct message *m, int fds[CHANNEL_FDS_MAX], unsigned *count,
			   struct channel_peer *peer);

int __wrap_channel_receive(struct channel *c, struct message *m, int fds[CHANNEL_FDS_MAX], unsigned *count,
			   struct channel_peer *peer)
{
	int r = __real_channel_receive(c, m, fds, count, peer);

	if (!overhears || c != &volume->dataplane.channel || r == 1 || overheard++ >= ENOUGH)
		return r;
	message_init(m, MSG_DP_STATS, 0);
	*count = 0;
	*peer = (struct channel_peer){ .pid = 1 };
	return 1;
}

static void who_talks_on_for_a_dead_process_is_not_heard_out(void **state)
{
	(void)state;
	attach();
	overheard = 0;
	overhears = true;
	child_kill(&volume->dataplane, NULL);
	assert_true(reach(GATE_INACCESSIBLE, 8000));
	overhears = false;
	assert_in_range(overheard, 1, ENOUGH - 1);
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
}

static bool immortal;

void __real_child_kill(struct child *c, const char *why);
void __wrap_child_kill(struct child *c, const char *why);

/* A process that waits for a device in the kernel hears of its killing when the device is done. */
void __wrap_child_kill(struct child *c, const char *why)
{
	if (!immortal)
		__real_child_kill(c, why);
}

static void never_answered(void *context, const struct msg_tp_reply *r, int *page_fd)
{
	(void)context;
	(void)r;
	(void)page_fd;
	fail_msg("an abandoned question was answered");
}

/* Each costs two descriptors, of which the supervisor needs some for the HSM. */
static void a_tpm_that_hangs_is_not_asked_without_end(void **state)
{
	const struct msg_tp_request q = { .verb = TP_LOOK };
	struct tpm_ask *ask;
	unsigned asked = 0;
	char path[200];

	(void)state;
	path_of(path, "fallgate-tpm");
	unlink(path);
	assert_int_equal(symlink("/bin/sleep", path), 0);
	strcpy(agent->config.tpm, "1000");
	immortal = true;
	while (asked < 100 && tpm_ask(&ask, agent, &q, -1, never_answered, NULL) == 0) {
		tpm_abandon(ask);
		asked++;
	}
	immortal = false;
	tpm_stop(agent);
	assert_in_range(asked, 1, 16);
	for (unsigned i = 0; i < 40; i++) { /* any number that goes when it is told to */
		assert_int_equal(tpm_ask(&ask, agent, &q, -1, never_answered, NULL), 0);
		tpm_abandon(ask);
		run_for(20);
	}
	tpm_stop(agent);
}

static void a_hung_hsm_spends_the_budget_and_comes_back(void **state)
{
	const uint64_t budget = 3000 * MS_NS;
	uint64_t last_good;

	(void)state;
	agent->config.keks[0].fresh_every = 1000; /* a long-lived process is to be the one that hangs */
	agent->config.keks[0].outage_budget_ns = budget;
	attach();
	run_for(500);
	put("hsm.mode", "hang");
	assert_true(reach(GATE_SUSPECT, 3000));
	last_good = kek_last_good(agent->keks[0]);
	assert_true(reach(GATE_OUTAGE, 3000));
	assert_true(boot_now() - last_good < budget);
	expect(GATE_INACCESSIBLE, CAUSE_UNREACHABLE, 5000);
	assert_true(boot_now() - last_good >= budget && boot_now() - last_good < budget + 1000 * MS_NS);
	put("hsm.mode", "good");
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
}

static void a_hiccup_is_only_a_doubt(void **state)
{
	(void)state;
	agent->config.keks[0].fresh_every = 1000;
	attach();
	run_for(500);
	put("hsm.mode", "crash");
	assert_true(reach(GATE_SUSPECT, 2000));
	put("hsm.mode", "good");
	expect(GATE_AVAILABLE, CAUSE_NONE, 3000);
}

/* Its first proof is a fresh process's; its second is not, though it is the first to fail. */
static void a_process_that_dies_at_its_second_proof_is_only_a_doubt(void **state)
{
	(void)state;
	put("hsm.mode", "crash-second");
	attach();
	for (int doubts = 0; doubts < 3; doubts++) {
		assert_false(reach(GATE_OUTAGE, 0));
		while (volume->gate.state == GATE_AVAILABLE)
			run_for(1);
		expect(GATE_SUSPECT, CAUSE_UNREACHABLE, 0);
		while (volume->gate.state == GATE_SUSPECT)
			run_for(1);
		expect(GATE_AVAILABLE, CAUSE_NONE, 0);
	}
}

static void a_budget_of_zero_locks_at_the_first_doubt(void **state)
{
	(void)state;
	agent->config.keks[0].outage_budget_ns = 0;
	attach();
	put("hsm.mode", "crash");
	expect(GATE_INACCESSIBLE, CAUSE_UNREACHABLE, 2000);
}

/* mode -> cause: no doubt, no budget */
static void a_definite_refusal_locks_at_once(void **state)
{
	static const struct {
		const char *mode;
		enum gate_cause cause;
	} rows[] = {
		{ "disabled", CAUSE_DISABLED },
		{ "lie", CAUSE_REPLACED },
		{ "deleted", CAUSE_DELETED }, /* seen when opened: by the fresh process, every 4th probe */
		{ "expired", CAUSE_EXPIRED },
	};

	(void)state;
	attach();
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		put("hsm.mode", rows[i].mode);
		expect(GATE_INACCESSIBLE, rows[i].cause, 3000);
		put("hsm.mode", "good");
		expect(GATE_AVAILABLE, CAUSE_NONE, 12000);
	}
}

static void an_unlock_that_hangs_ends_in_unreachable(void **state)
{
	(void)state;
	put("hsm.mode", "hang-ticket");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_UNREACHABLE, 5000);
	assert_false(volume->unlock.child.alive);
	put("hsm.mode", "good");
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
}

/* Proofs are good, and each unlock hangs: when that is over the volume is not kept waiting for what was. */
static void an_hsm_that_flaps_leaves_no_long_wait_behind(void **state)
{
	uint64_t last = 0;

	(void)state;
	put("hsm.mode", "hang-ticket");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	for (int i = 0; i < 2000 && volume->unlock_failures < 5; i++)
		run_for(10);
	assert_true(volume->unlock_failures >= 5);
	put("hsm.mode", "good");
	last = boot_now();
	expect(GATE_AVAILABLE, CAUSE_NONE, 20000);
	assert_true(boot_now() - last < 4000 * MS_NS);
}

static void a_revoke_during_an_unlock_finds_nobody_later(void **state)
{
	pid_t pid;

	(void)state;
	put("hsm.mode", "hang-ticket");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	for (int i = 0; i < 300 && volume->unlock.child.stage != STAGE_TICKET; i++)
		run_for(10);
	assert_int_equal(volume->unlock.child.stage, STAGE_TICKET);
	pid = volume->unlock.child.pid;
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	assert_int_equal(kill(pid, 0), -1); /* reaped before anything else was done */
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
}

static void a_refused_dek_is_told_apart(void **state)
{
	(void)state;
	put("hsm.mode", "dek-refused");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_DEK_REFUSED, 5000);
}

static void damage_at_opening_latches(void **state)
{
	(void)state;
	put("dataplane.mode", "corrupt");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_INTEGRITY, 5000);
	assert_true(volume->gate.latched);
}

static void a_dead_dataplane_is_replaced(void **state)
{
	(void)state;
	attach();
	assert_int_equal(kill(volume->dataplane.pid, SIGKILL), 0);
	expect(GATE_INACCESSIBLE, CAUSE_ENGINE, 2000);
	expect(GATE_AVAILABLE, CAUSE_NONE, 5000);
}

static void a_dataplane_that_locks_itself_is_believed_and_comes_back(void **state)
{
	uint64_t seq;

	(void)state;
	put("dataplane.mode", "self-lock");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	assert_true(reach(GATE_AVAILABLE, 5000));
	put("dataplane.mode", "good");
	/* It may be back within one turn of the loop: what happened in between is seen by its transitions. */
	seq = volume->gate.seq;
	for (int i = 0; i < 700 && volume->gate.seq < seq + 3; i++)
		run_for(10);
	expect(GATE_AVAILABLE, CAUSE_NONE, 5000);
	assert_true(volume->gate.seq >= seq + 3);
	assert_true(ledger_says("supervisor-lost"));
}

/* Speaking out of turn is death, whatever was said. */
static void who_breaks_the_protocol_is_killed(void **state)
{
	static const char *const modes[] = { "unasked", "drained-first" };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		put("dataplane.mode", modes[i]);
		volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
		if (i == 1)
			assert_true(reach(GATE_AVAILABLE, 5000));
		assert_true(reach(i == 0 ? GATE_UNLOCKING : GATE_INACCESSIBLE, 3000));
		if (i == 0) {
			run_for(1000);
			assert_int_not_equal(volume->gate.state, GATE_AVAILABLE);
		}
		put("dataplane.mode", "good");
		expect(GATE_AVAILABLE, CAUSE_NONE, 12000);
		volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
		expect(GATE_LOCKED, CAUSE_NONE, 2000);
		run_for(200);
	}
}

/* Held up by a loaded machine, with the confirmation waiting in its socket behind something else: nobody is killed for that. */
static void a_late_supervisor_does_not_kill_who_confirmed_in_time(void **state)
{
	struct watch other;
	int always = eventfd(1, EFD_CLOEXEC);

	(void)state;
	attach();
	assert_int_equal(loop_watch(&agent->loop, &other, always, nothing, NULL), 0);
	loop_once(&agent->loop);
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	usleep(150 * 1000);
	while (volume->gate.state == GATE_LOCKING)
		loop_once(&agent->loop);
	loop_unwatch(&agent->loop, &other);
	close(always);
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 0);
	assert_int_not_equal(volume->wiped_ns, 0);
}

static void a_late_supervisor_takes_the_answer_of_the_hsm(void **state)
{
	struct watch other;
	int always = eventfd(1, EFD_CLOEXEC);

	(void)state;
	agent->config.keks[0].fresh_every = 1000;
	attach();
	run_for(300);
	assert_int_equal(loop_watch(&agent->loop, &other, always, nothing, NULL), 0);
	for (int i = 0; i < 12; i++) {
		loop_once(&agent->loop);
		assert_int_equal(volume->gate.state, GATE_AVAILABLE);
		usleep(450 * 1000); /* longer than the deadline of an hsm */
	}
	loop_unwatch(&agent->loop, &other);
	close(always);
}

static void a_stale_wiped_is_not_believed(void **state)
{
	(void)state;
	attach();
	put("dataplane.mode", "stale");
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000); /* by its death, not by its word */
	assert_int_equal(volume->wiped_ns, 0);
}

/* The dataplane's own deadline passes while the supervisor is about to find a reason, too. */
static void what_was_wiped_before_it_was_asked_for_was_detected_then(void **state)
{
	(void)state;
	attach();
	put("dataplane.mode", "wiped-before");
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 1000);
	assert_true(volume->detected_ns != 0 && volume->detected_ns <= volume->cut_ns && volume->cut_ns <= volume->wiped_ns);
}

static void an_hsm_that_talks_unasked_or_is_of_another_build_proves_nothing(void **state)
{
	(void)state;
	attach();
	put("hsm.mode", "unasked");
	assert_true(reach(GATE_SUSPECT, 3000));
	put("hsm.mode", "other-version");
	expect(GATE_INACCESSIBLE, CAUSE_UNREACHABLE, 5000);
}

static void a_detach_ends_everything(void **state)
{
	char path[200];
	struct stat st;

	(void)state;
	attach();
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
	expect(GATE_LOCKED, CAUSE_NONE, 2000);
	run_for(500);
	assert_false(volume->dataplane.alive);
	snprintf(path, sizeof path, "%s/demo.sock", dir);
	assert_int_equal(stat(path, &st), -1);
	attach();
}

static void attach_at_once_after_a_detach_waits_for_the_old_process(void **state)
{
	(void)state;
	attach();
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
	expect(GATE_LOCKED, CAUSE_NONE, 2000);
	attach();
}

/* A module that hangs or dies in C_Finalize, when all is said: the volume opens all the same. */
static void how_a_one_shot_ends_after_its_answer_is_all_one(void **state)
{
	static const char *const modes[] = { "hang-at-end", "crash-at-end" };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		put("hsm.mode", modes[i]);
		attach();
		assert_false(volume->unlock.child.alive);
		put("hsm.mode", "good");
		volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
		expect(GATE_LOCKED, CAUSE_NONE, 2000);
		run_for(200);
	}
}

static void an_hsm_that_is_down_is_asked_less_often_and_not_in_step(void **state)
{
	const uint64_t interval = 1000;

	(void)state;
	for (unsigned failures = 0; failures < 2; failures++)
		assert_int_equal(prober_backoff(interval, failures, UINT16_MAX), interval);
	for (unsigned failures = 2; failures < 1000000; failures = failures * 3 + 1) {
		assert_int_equal(prober_backoff(interval, failures, 0), 1250);
		assert_int_equal(prober_backoff(interval, failures, UINT16_MAX),
				 1750); /* two intervals later it has been asked */
		assert_in_range(prober_backoff(interval, failures, UINT16_MAX / 2), 1490, 1510);
	}
	assert_true(prober_backoff(UINT64_C(86400) * SEC_NS, 9, UINT16_MAX) > UINT64_C(86400) * SEC_NS);
}

/* ---- the PIN ---- */

static size_t logins(void)
{
	char text[4096];

	get("logins", text, sizeof text);
	return strlen(text);
}

static void a_refused_pin_is_tried_once(void **state)
{
	struct pin_record p;

	(void)state;
	put("hsm.mode", "refuse-pin");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_ACCESS_REVOKED, 5000);
	put("hsm.mode", "good"); /* the token would take it now: it is not tried all the same */
	run_for(3000);
	expect(GATE_INACCESSIBLE, CAUSE_ACCESS_REVOKED, 0);
	assert_int_equal(logins(), 1);
	assert_int_equal(records_read_pin(&agent->records, "main", &p), 0);
	assert_int_equal(p.state, PIN_REFUSED);
	put("pin", "5678\n");
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
	assert_int_equal(records_read_pin(&agent->records, "main", &p), 0);
	assert_int_equal(p.state, PIN_GOOD);
}

static void a_pin_whose_result_nobody_saw_counts_as_refused(void **state)
{
	struct pin_record p;

	(void)state;
	put("hsm.mode", "hang-open");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	assert_true(reach(GATE_INACCESSIBLE, 5000));
	put("hsm.mode", "good");
	run_for(2000);
	expect(GATE_INACCESSIBLE, CAUSE_ACCESS_REVOKED, 0);
	assert_int_equal(logins(), 1);
	assert_int_equal(records_read_pin(&agent->records, "main", &p), 0);
	assert_int_equal(p.state, PIN_PENDING);
	put("pin", "1234\n");
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
}

static void revoke_in_the_login(bool stopped, char who[static 16])
{
	put("hsm.mode", "slow-open");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	for (int i = 0; i < 5000 && volume->unlock.child.stage != STAGE_OPENING; i++)
		run_for(1);
	assert_int_equal(volume->unlock.child.stage, STAGE_OPENING);
	snprintf(who, 16, "%d\n", (int)volume->unlock.child.pid);
	if (stopped)
		assert_int_equal(kill(volume->unlock.child.pid, SIGSTOP), 0);
	volume_feed(volume, EV_REVOKE, CAUSE_NONE, "test", "");
	expect(GATE_INACCESSIBLE, CAUSE_COMMANDED, 2000);
}

/* The process is let finish it, has no ticket, and what became of the PIN is heard. */
static void a_login_is_not_cut_short_by_a_revoke(void **state)
{
	struct pin_record p;
	char text[256], who[16];

	(void)state;
	revoke_in_the_login(false, who);
	run_for(1000);
	get("left", text, sizeof text);
	assert_non_null(strstr(text, who));
	assert_false(volume->unlock.child.alive);
	assert_int_equal(records_read_pin(&agent->records, "main", &p), 0);
	assert_int_equal(p.state, PIN_GOOD);
}

/* One that hangs in it: the lock does not wait, and half a second later it is gone. */
static void a_lock_does_not_wait_for_a_login(void **state)
{
	char text[256], who[16];

	(void)state;
	revoke_in_the_login(true, who);
	assert_true(volume->unlock.child.alive);
	run_for(1500);
	assert_false(volume->unlock.child.alive);
	get("left", text, sizeof text);
	assert_null(strstr(text, who));
}

/* A PIN that was good and is no more: of the prober and the unlocks one finds that out, not each for itself. */
static void a_pin_that_was_changed_costs_one_try(void **state)
{
	(void)state;
	attach();
	volume_feed(volume, EV_DETACH, CAUSE_NONE, "test", NULL);
	expect(GATE_LOCKED, CAUSE_NONE, 2000);
	run_for(2500); /* the last good login is a while ago */
	put("logins", "");
	put("hsm.mode", "slow-refuse-pin");
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_INACCESSIBLE, CAUSE_ACCESS_REVOKED, 5000);
	run_for(1500);
	assert_int_equal(logins(), 1);
}

static void a_good_pin_survives_a_hang(void **state)
{
	(void)state;
	attach();
	put("hsm.mode", "hang-open");
	assert_true(reach(GATE_INACCESSIBLE, 8000));
	put("hsm.mode", "good");
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
}

/* ---- what a child is given ---- */

static void children_get_what_is_theirs(void **state)
{
	char text[4096];

	(void)state;
	assert_int_equal(setenv("SECRET_OF_THE_PARENT", "1", 1), 0);
	attach();
	get("dataplane.given", text, sizeof text);
	assert_non_null(strstr(text, "fd 0\nfd 1\nfd 2\nfd 3\nfd 4\n"));
	assert_null(strstr(text, "fd 5"));
	assert_non_null(strstr(text, "env LD_BIND_NOW=1\n"));
	assert_non_null(strstr(text, "env LISTEN_FDS=1\n"));
	assert_non_null(strstr(text, "env GLIBC_TUNABLES=glibc.malloc.perturb=90\n"));
	assert_null(strstr(text, "SECRET_OF_THE_PARENT"));
	get("hsm.given", text, sizeof text);
	assert_non_null(strstr(text, "env FAKE=1\n"));
	assert_null(strstr(text, "SECRET_OF_THE_PARENT"));
	assert_null(strstr(text, "fd 5"));
}

#define FAULT(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FAULT(a_dataplane_that_never_confirms_is_killed),
		FAULT(a_revoke_during_an_unlock_finds_nobody_later),
		FAULT(a_second_order_waits_for_nobody_and_kills_nobody),
		FAULT(a_drain_outlives_the_agent),
		FAULT(who_talks_on_for_a_dead_process_is_not_heard_out),
		FAULT(a_tpm_that_hangs_is_not_asked_without_end),
		FAULT(a_hung_hsm_spends_the_budget_and_comes_back),
		FAULT(a_hiccup_is_only_a_doubt),
		FAULT(a_process_that_dies_at_its_second_proof_is_only_a_doubt),
		FAULT(a_budget_of_zero_locks_at_the_first_doubt),
		FAULT(a_definite_refusal_locks_at_once),
		FAULT(an_unlock_that_hangs_ends_in_unreachable),
		FAULT(an_hsm_that_flaps_leaves_no_long_wait_behind),
		FAULT(a_refused_dek_is_told_apart),
		FAULT(damage_at_opening_latches),
		FAULT(a_dead_dataplane_is_replaced),
		FAULT(a_dataplane_that_locks_itself_is_believed_and_comes_back),
		FAULT(who_breaks_the_protocol_is_killed),
		FAULT(a_late_supervisor_does_not_kill_who_confirmed_in_time),
		FAULT(a_late_supervisor_takes_the_answer_of_the_hsm),
		FAULT(a_stale_wiped_is_not_believed),
		FAULT(what_was_wiped_before_it_was_asked_for_was_detected_then),
		FAULT(an_hsm_that_talks_unasked_or_is_of_another_build_proves_nothing),
		FAULT(a_detach_ends_everything),
		FAULT(attach_at_once_after_a_detach_waits_for_the_old_process),
		FAULT(a_refused_pin_is_tried_once),
		FAULT(a_pin_whose_result_nobody_saw_counts_as_refused),
		FAULT(a_login_is_not_cut_short_by_a_revoke),
		FAULT(a_lock_does_not_wait_for_a_login),
		FAULT(a_pin_that_was_changed_costs_one_try),
		FAULT(a_good_pin_survives_a_hang),
		FAULT(how_a_one_shot_ends_after_its_answer_is_all_one),
		FAULT(an_hsm_that_is_down_is_asked_less_often_and_not_in_step),
		FAULT(children_get_what_is_theirs),
	};

	if (!rig_begin("test_faults", argc, argv))
		return 2;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
