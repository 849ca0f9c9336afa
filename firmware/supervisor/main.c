/* fallgated: the supervisor. Reads the configuration whole, opens its records, starts the others and decides. What must hold: it
 * holds no data key and no descriptor to one; it stops only with every volume locked and drained, or dies, and then the
 * dataplanes lock themselves. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "alerts.h"
#include "base/error.h"
#include "base/log.h"
#include "broker.h"
#include "check.h"
#include "console.h"
#include "creation.h"
#include "credentials.h"
#include "hal/sandbox.h"
#include "indication.h"
#include "kek.h"
#include "manage.h"
#include "prober.h"
#include "randomness.h"
#include "tamper.h"
#include "tpm.h"
#include "volume.h"
#include "wallclock.h"
#include "watchdog.h"

enum { STOP_DEADLINE_S = 12, STOP_LOOK_MS = 20 };

struct options {
	const char *config;
	const char *libexec;
	bool check;
};

/* The whole agent, and what only main has to do with. */
struct supervisor {
	struct agent agent;
	int signal_fd;
	struct watch signal_watch, writer_watch;
	struct timer stop_look;
	struct wallclock wallclock;
	uint64_t stop_until_ns;
	bool stopped;
};

/* File-level: agent_stop reaches the supervisor from the console, through a struct agent; and it is a megabyte. */
static struct supervisor supervisor;

/* ---- stopping ---- */

static bool anyone_busy(const struct agent *a)
{
	for (unsigned i = 0; i < a->volume_count; i++)
		if (volume_busy(a->volumes[i]))
			return true;
	for (unsigned i = 0; i < a->kek_count; i++)
		if (prober_busy(a->probers[i]))
			return true;
	return false;
}

static void stop_look(void *context)
{
	struct supervisor *s = context;
	bool busy = anyone_busy(&s->agent);

	if (busy && boot_now() < s->stop_until_ns) {
		timer_arm(&s->agent.loop, &s->stop_look, boot_now() + STOP_LOOK_MS * MS_NS);
		return;
	}
	if (busy)
		log_error(
			"stopping: a dataplane is still writing what was acknowledged after %d s; it goes on alone, without keys",
			STOP_DEADLINE_S);
	s->stopped = true;
}

void agent_stop(struct agent *a)
{
	if (a->stopping)
		return;
	log_notice("stopping: every volume is locked and drained");
	a->stopping = true;
	creation_abort(a);
	for (unsigned i = 0; i < a->volume_count; i++)
		volume_feed(a->volumes[i], EV_DETACH, CAUSE_NONE, "stop", "");
	supervisor.stop_until_ns = boot_now() + STOP_DEADLINE_S * SEC_NS;
	timer_arm(&a->loop, &supervisor.stop_look, 0);
}

/* ---- descriptors of main's own ---- */

static void signal_ready(void *context)
{
	struct supervisor *s = context;
	struct signalfd_siginfo info;

	if (read(s->signal_fd, &info, sizeof info) != sizeof info)
		return;
	switch (info.ssi_signo) {
	case SIGUSR1:
		log_warning("SIGUSR1 from uid %u: every volume is revoked", info.ssi_uid);
		agent_revoke_all(&s->agent, "signal");
		break;
	case SIGHUP:
		log_notice("SIGHUP: the configuration is read at start; a new volume's file is read when it is created");
		break;
	default:
		agent_stop(&s->agent);
		break;
	}
}

static int watch_signals(struct supervisor *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGPIPE);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigdelset(&set, SIGPIPE);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signal_fd < 0 ? ERR_IO : loop_watch(&s->agent.loop, &s->signal_watch, s->signal_fd, signal_ready, s);
}

static void writer_ready(void *context)
{
	struct supervisor *s = context;
	struct written_gate w;

	while (writer_take(s->agent.writer, &w)) {
		struct volume *v = volume_find(&s->agent, w.name);

		if (v != NULL)
			volume_gate_written(v, w.seq, w.error);
		if (v != NULL && w.error != 0)
			manage_not_written(&s->agent, v, w.seq);
	}
	manage_written(&s->agent);
}

/* ---- starting ---- */

static void add_volume(struct agent *a, const char *name, const struct volume_config *config)
{
	if (volume_find(a, name) != NULL)
		return;
	if (a->volume_count == CONFIG_VOLUMES_MAX || volume_create(&a->volumes[a->volume_count], a, name, config) != 0)
		log_error("volume %s: no room for it", name);
	else
		a->volume_count++;
}

static void add_recorded(void *context, const char *name)
{
	struct agent *a = context;

	if (volume_find(a, name) == NULL)
		log_warning("volume %s has a record but no file in %s: it is not attached", name, a->config.volumes_dir);
	add_volume(a, name, NULL);
}

static int make_keks(struct agent *a)
{
	for (unsigned i = 0; i < a->config.kek_count; i++) {
		int r = kek_create(&a->keks[i], a, &a->config.keks[i]);

		if (r == 0)
			r = prober_create(&a->probers[i], a, a->keks[i]);
		if (r != 0)
			return r;
		a->kek_count++;
	}
	return 0;
}

static int open_records(struct agent *a)
{
	int r = records_open(&a->records, a->config.state_dir, true);

	if (r != 0)
		return r;
	r = ledger_open(&a->ledger, &a->records);
	if (r != 0 && r != ERR_CORRUPT)
		return r;
	r = writer_start(&a->writer, &a->records, &a->ledger);
	if (r == 0)
		r = loop_watch(&a->loop, &supervisor.writer_watch, writer_fd(a->writer), writer_ready, &supervisor);
	if (r == 0 && credentials_create(&a->credentials, &a->records) == ERR_NOMEM)
		r = ERR_NOMEM;
	return r;
}

static int make_run_dir(const char *path)
{
	struct stat st;

	if (mkdir(path, 0755) != 0 && errno != EEXIST) {
		log_error("run_dir %s: cannot be made: %s; make it", path, strerror(errno));
		return error_from_errno(errno);
	}
	if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
		log_error("run_dir %s: this is no directory; name another in [agent]", path);
		return ERR_CONFIG;
	}
	if (st.st_uid != geteuid() || (st.st_mode & 022) != 0) {
		log_error("run_dir %s: others may write to it, or it is not this user's; chown and chmod 0755 it", path);
		return ERR_DENIED;
	}
	return 0;
}

static void audit_agent(struct agent *a, const char *event)
{
	struct ledger_entry e = { .wall_ns = wall_now(), .boot_ns = boot_now() };

	snprintf(e.event, sizeof e.event, "%s", event);
	snprintf(e.text, sizeof e.text, "fallgated %s", FALLGATE_VERSION);
	writer_ledger(a->writer, &e);
}

/* auto: at every start. manual: as the operator left it. */
static void attach_all(struct agent *a)
{
	char text[TEXT_MAX_BYTES];

	for (unsigned i = 0; i < a->volume_count; i++) {
		struct volume *v = a->volumes[i];

		if (!v->configured || (!v->config.attach_auto && !v->attach_wanted) || (!v->formatted && !v->damaged))
			continue;
		if (volume_attachable(v, text) == 0)
			volume_feed(v, EV_ATTACH, CAUSE_NONE, "start", NULL);
		else
			log_error("volume %s: not attached: %s", v->config.name, text);
	}
}

static int start(struct supervisor *s)
{
	struct agent *a = &s->agent;
	int r = make_run_dir(a->config.run_dir);

	timer_init(&s->stop_look, stop_look, s);
	if (r == 0)
		r = randomness_start(a);
	if (r == 0)
		r = open_records(a);
	if (r == 0)
		r = make_keks(a);
	if (r != 0)
		return r;
	for (unsigned i = 0; i < a->config.volume_count; i++)
		add_volume(a, a->config.volumes[i].name, &a->config.volumes[i]);
	records_each_volume(&a->records, add_recorded, a);
	indication_start(a);
	r = console_start(a);
	if (r == 0) {
		device_sweep(a); /* the run directory is this agent's now: what stands in it is nobody's who lives */
		r = alerts_start(a);
	}
	if (r == 0)
		r = manage_start(a);
	if (r != 0)
		return r;
	if (sandbox_enter(SANDBOX_SUPERVISOR) != 0) {
		log_error("the seccomp filter cannot be entered; this kernel needs CONFIG_SECCOMP_FILTER");
		return ERR_UNSUPPORTED;
	}
	r = tamper_start(a);
	if (r == 0)
		r = watchdog_start(a);
	if (r != 0)
		return r;
	wallclock_start(&s->wallclock, a);
	tpm_start(a);
	audit_agent(a, "started");
	attach_all(a);
	indication_update(a);
	return 0;
}

static void end(struct supervisor *s)
{
	struct agent *a = &s->agent;

	a->stopping = true;
	console_stop(a);
	manage_stop(a);
	tamper_stop(a);
	alerts_stop(a);
	for (unsigned i = 0; i < a->volume_count; i++)
		volume_destroy(a->volumes[i]);
	broker_stop(a);
	for (unsigned i = 0; i < a->kek_count; i++) {
		prober_destroy(a->probers[i]);
		kek_destroy(a->keks[i]);
	}
	tpm_stop(a);
	if (a->writer != NULL) {
		audit_agent(a, "stopped");
		loop_unwatch(&a->loop, &s->writer_watch);
		writer_stop(a->writer);
	}
	if (a->credentials != NULL)
		credentials_destroy(a->credentials);
	ledger_close(&a->ledger);
	records_close(&a->records);
	indication_stop(a);
	watchdog_end(a);
}

static int run(struct supervisor *s)
{
	int r = loop_init(&s->agent.loop);

	if (r == 0)
		r = watch_signals(s);
	if (r == 0)
		r = start(s);
	if (r == 0) {
		log_notice("fallgated %s: %u volumes, %u KEKs, sandbox %s", FALLGATE_VERSION, s->agent.volume_count,
			   s->agent.kek_count, sandbox_kind());
		while (!s->stopped)
			loop_once(&s->agent.loop);
	}
	end(s);
	return r;
}

/* ---- arguments ---- */

static const char usage[] = "usage: fallgated [--config FILE] [--libexec DIR] [--check]\n"
			    "  --config FILE   default /etc/fallgate/fallgate.conf; volumes.d beside it\n"
			    "  --libexec DIR   where the other programs are\n"
			    "  --check         judge the configuration, prove each KEK once, change nothing\n"
			    "  --version, --help\n"
			    "SIGTERM stops cleanly, SIGUSR1 revokes every volume. See fallgated(8), fallgate.conf(5).\n";

static void read_options(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{ "config", required_argument, NULL, 'c' }, { "libexec", required_argument, NULL, 'l' },
		{ "check", no_argument, NULL, 'k' },        { "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },         { NULL, 0, NULL, 0 },
	};

	for (int c = getopt_long(argc, argv, "", names, NULL); c != -1; c = getopt_long(argc, argv, "", names, NULL)) {
		switch (c) {
		case 'c':
			o->config = optarg;
			break;
		case 'l':
			o->libexec = optarg;
			break;
		case 'k':
			o->check = true;
			break;
		case 'v':
			printf("fallgated %s\n", FALLGATE_VERSION);
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs("fallgated: see fallgated --help\n", stderr);
			exit(error_exit_code(ERR_USAGE));
		}
	}
	if (optind < argc) {
		fprintf(stderr, "fallgated: %s: there are no such arguments; see fallgated --help\n", argv[optind]);
		exit(error_exit_code(ERR_USAGE));
	}
}

/* Without the first three nothing is decided, proven or served, and what then goes wrong does not name the reason. Without nbdkit
 * its volumes stay shut, and the others serve: only a check fails. */
static int find_programs(const struct config *c, bool check)
{
	static const char *const programs[] = { "fallgate-hsm", "fallgate-mgmt", "fallgate-dataplane" };
	char path[PATH_MAX_BYTES + 32];

	for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", c->libexec_dir, programs[i]);
		if (access(path, X_OK) != 0) {
			fprintf(stderr, "%s: %s; the agent's programs are where libexec_dir or --libexec says\n", path,
				strerror(errno));
			return ERR_CONFIG;
		}
	}
	for (unsigned i = 0; i < c->volume_count; i++) {
		if (c->volumes[i].export != EXPORT_NBD || access(c->nbdkit, X_OK) == 0)
			continue;
		fprintf(stderr, "%s: %s; volume %s is exported by it: install nbdkit, or say where it is (nbdkit in [agent])\n",
			c->nbdkit, strerror(errno), c->volumes[i].name);
		return check ? ERR_CONFIG : 0;
	}
	return 0;
}

static int load(struct config *c, const struct options *o)
{
	static struct config_errors errors;
	int r = config_load(c, o->config, o->libexec, &errors);

	for (unsigned i = 0; i < errors.count && i < CONFIG_ERRORS_MAX; i++)
		fprintf(stderr, "%s\n", errors.line[i]);
	if (errors.count > CONFIG_ERRORS_MAX)
		fprintf(stderr, "... and %u more\n", errors.count - CONFIG_ERRORS_MAX);
	return r != 0 ? r : find_programs(c, o->check);
}

int main(int argc, char **argv)
{
	struct options o = { .config = "/etc/fallgate/fallgate.conf" };
	int r;

	supervisor.agent.started_wall_ns = wall_now();
	log_open("fallgated", LOG_LEVEL_INFO);
	if (sandbox_harden() != 0)
		fatal("this kernel cannot take away privileges (no_new_privs, dumpable, core limit)");
	read_options(&o, argc, argv);
	supervisor.agent.records.dir_fd = supervisor.agent.ledger.fd = -1;
	r = load(&supervisor.agent.config, &o);
	if (o.check)
		return error_exit_code(check_run(&supervisor.agent, r));
	if (r != 0)
		return error_exit_code(r);
	return error_exit_code(run(&supervisor));
}
