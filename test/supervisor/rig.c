/* How the rig is put together and taken down, and its clock. What one test alone needs is in that test. */
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "supervisor/broker.h"
#include "supervisor/challenge.h"
#include "supervisor/kek.h"
#include "supervisor/manage.h"
#include "supervisor/prober.h"

char dir[64];
struct agent *agent;
struct volume *volume;

static const char *fake_child;
static struct watch writer_watch;
static enum gate_state wanted;

void agent_stop(struct agent *a)
{
	a->stopping = true;
}

bool rig_begin(const char *name, int argc, char **argv)
{
	sigset_t pipe_only;

	if (argc < 2)
		return false;
	fake_child = argv[1];
	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	sigprocmask(SIG_BLOCK, &pipe_only, NULL);
	log_open(name, getenv("FALLGATE_TEST_LOG") != NULL ? LOG_LEVEL_INFO : 0);
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return true;
}

/* ---- files ---- */

void path_of(char path[static 200], const char *name)
{
	snprintf(path, 200, "%s/%s", dir, name);
}

void put(const char *name, const char *text)
{
	char path[200], temporary[210];
	FILE *f;

	path_of(path, name);
	snprintf(temporary, sizeof temporary, "%s.new", path);
	f = fopen(temporary, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(temporary, 0600), 0);
	assert_int_equal(rename(temporary, path), 0);
}

void get(const char *name, char *out, size_t size)
{
	char path[200];
	FILE *f;
	size_t n = 0;

	path_of(path, name);
	f = fopen(path, "r");
	if (f != NULL) {
		n = fread(out, 1, size - 1, f);
		fclose(f);
	}
	out[n] = '\0';
}

bool ledger_says(const char *what)
{
	char text[65536];

	for (int i = 0; i < 2000; i++) {
		get("state/ledger", text, sizeof text);
		if (strstr(text, what) != NULL)
			return true;
		run_for(10);
	}
	return false;
}

/* ---- the agent ---- */

static void writer_ready(void *context)
{
	struct written_gate w;

	(void)context;
	while (writer_take(agent->writer, &w)) {
		struct volume *v = volume_find(agent, w.name);

		if (v != NULL)
			volume_gate_written(v, w.seq, w.error);
	}
	manage_written(agent);
}

static void make_children(void)
{
	static const char *const programs[] = { "fallgate-hsm", "fallgate-mgmt", "fallgate-dataplane", "fallgate-ublk",
						"nbdkit" };
	static const char *const modes[] = { "hsm.mode", "dataplane.mode", "job.mode", "broker.mode" };
	char path[200];

	for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
		path_of(path, programs[i]);
		assert_int_equal(symlink(fake_child, path), 0);
	}
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
		put(modes[i], "good");
}

static void configure(struct config *c)
{
	struct kek_config *k = &c->keks[0];

	snprintf(c->libexec_dir, sizeof c->libexec_dir, "%s", dir);
	snprintf(c->run_dir, sizeof c->run_dir, "%s", dir);
	snprintf(c->devices, sizeof c->devices, "%s/dev", dir);
	snprintf(c->nbdkit, sizeof c->nbdkit, "%s/nbdkit", dir);
	*k = (struct kek_config){ .name = "main",
				  .probe_interval_ns = 200 * MS_NS,
				  .fresh_every = 1000,
				  .hsm_deadline_ns = 400 * MS_NS,
				  .outage_budget_ns = 1500 * MS_NS };
	snprintf(k->pin_path, sizeof k->pin_path, "%s/pin", dir);
	put("pin", "1234\n");
	c->kek_count = 1;
}

static void enrol(void)
{
	struct kek_record k = { .type = KEK_AES_KW, .bits = 256, .canary_size = 40 };
	uint8_t canary[CHALLENGE_BYTES];

	memset(canary, 0x42, sizeof canary); /* fake_child's */
	fingerprint_aes(k.fingerprint, canary);
	assert_int_equal(records_write_kek(&agent->records, "main", &k), 0);
	assert_int_equal(kek_create(&agent->keks[0], agent, &agent->config.keks[0]), 0);
	assert_int_equal(prober_create(&agent->probers[0], agent, agent->keks[0]), 0);
	agent->kek_count = 1;
}

struct volume *rig_add_volume(const char *name)
{
	struct volume_config c = { .kek = "main", .listen_mode = 0600 };
	struct volume_record r = { .gen_no = 1, .size = 1 << 20, .kek = "main" };
	struct gate_record g = { .seq = 1 };
	struct kek_record k;
	char image[40];

	if (agent->volume_count > 0)
		c = agent->volumes[0]->config;
	snprintf(c.name, sizeof c.name, "%s", name);
	snprintf(c.backing, sizeof c.backing, "%s/%s.img", dir, name);
	snprintf(c.listen_path, sizeof c.listen_path, "%s/%s.sock", dir, name);
	snprintf(image, sizeof image, "%s.img", name);
	put(image, "x");
	assert_int_equal(records_read_kek(&agent->records, "main", &k), 0);
	memcpy(r.fingerprint, k.fingerprint, sizeof r.fingerprint);
	assert_int_equal(records_write_volume(&agent->records, name, &r), 0);
	assert_int_equal(records_write_gate(&agent->records, name, &g), 0);
	assert_int_equal(volume_create(&agent->volumes[agent->volume_count], agent, name, &c), 0);
	return agent->volumes[agent->volume_count++];
}

void rig_up(const char *name)
{
	char path[200];

	snprintf(dir, sizeof dir, "/tmp/fallgate-%s-XXXXXX", name);
	assert_non_null(mkdtemp(dir));
	make_children();
	agent = calloc(1, sizeof *agent);
	assert_non_null(agent);
	configure(&agent->config);
	path_of(path, "state");
	assert_int_equal(loop_init(&agent->loop), 0);
	assert_int_equal(records_open(&agent->records, path, true), 0);
	assert_int_equal(ledger_open(&agent->ledger, &agent->records), 0);
	assert_int_equal(writer_start(&agent->writer, &agent->records, &agent->ledger), 0);
	assert_int_equal(loop_watch(&agent->loop, &writer_watch, writer_fd(agent->writer), writer_ready, NULL), 0);
	enrol();
	volume = rig_add_volume("demo");
}

int rig_down(void)
{
	char command[200];

	agent->stopping = true;
	for (unsigned i = 0; i < agent->volume_count; i++)
		volume_destroy(agent->volumes[i]);
	broker_stop(agent);
	prober_destroy(agent->probers[0]);
	kek_destroy(agent->keks[0]);
	writer_stop(agent->writer);
	ledger_close(&agent->ledger);
	records_close(&agent->records);
	loop_close(&agent->loop);
	free(agent);
	snprintf(command, sizeof command, "rm -r %s", dir);
	return system(command);
}

/* ---- time ---- */

static void nothing(void *context)
{
	(void)context;
}

bool until(bool (*there)(void), unsigned ms)
{
	uint64_t end = boot_now() + ms * MS_NS;
	struct timer t;
	bool is;

	timer_init(&t, nothing, NULL);
	while (!(is = there()) && boot_now() < end) {
		timer_arm(&agent->loop, &t, boot_now() + 5 * MS_NS);
		loop_once(&agent->loop);
	}
	timer_disarm(&agent->loop, &t);
	return is;
}

static bool never(void)
{
	return false;
}

void run_for(unsigned ms)
{
	until(never, ms);
}

static bool in_wanted_state(void)
{
	return volume->gate.state == wanted;
}

bool reach(enum gate_state state, unsigned ms)
{
	wanted = state;
	return until(in_wanted_state, ms);
}

void expect(enum gate_state state, enum gate_cause cause, unsigned ms)
{
	if (!reach(state, ms))
		fail_msg("in %s(%s), not in %s: %s", gate_state_name(volume->gate.state), gate_cause_name(volume->gate.cause),
			 gate_state_name(state), volume->text);
	assert_string_equal(gate_cause_name(volume->gate.cause), gate_cause_name(cause));
}

void attach(void)
{
	volume_feed(volume, EV_ATTACH, CAUSE_NONE, "test", NULL);
	expect(GATE_AVAILABLE, CAUSE_NONE, 8000);
}
