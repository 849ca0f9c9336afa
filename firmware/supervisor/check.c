/* See check.h. A KEK that is not enrolled yet is opened and asked for a proof all the same, as creation would ask. */
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "challenge.h"
#include "kek.h"
#include "session.h"
#include "tpm.h"
#include "volume.h"

enum { AGAIN_MS = 100, AGAIN_MAX = 70 };

struct probe {
	struct agent *agent;
	struct session session;
	struct timer again;
	struct kek *kek;
	struct kek_record key; /* as pinned, or as found */
	bool enrolled, done;
	bool doubted; /* an answer that proves nothing bought its one more try */
	unsigned waits;
	int error;
};

static void conclude(struct probe *p, const struct judgement *j)
{
	const char *name = kek_config(p->kek)->name;

	if (p->done)
		return;
	p->done = true;
	p->error = judgement_error(j);
	if (j->proof == PROOF_GOOD) {
		printf("kek %s: good: %s, %u bits%s%s\n", name, p->key.type == KEK_RSA_OAEP ? "RSA-OAEP" : "AES key wrap",
		       p->enrolled ? p->key.bits : p->session.opened.bits, p->enrolled ? "" : ", not enrolled yet",
		       kek_software_token(p->kek) ? ", a software token: for tests only" : "");
	} else {
		printf("%s: kek %s (%s): %s: %s; remedy: %s", kek_config(p->kek)->where, name, kek_config(p->kek)->uri,
		       gate_cause_name(j->cause), j->text, gate_cause_remedy(j->cause));
		/* The usual reason on a new machine: a module that finds nothing, because it runs as somebody else. */
		if (p->agent->config.user_hsm.set && (j->cause == CAUSE_UNREACHABLE || j->cause == CAUSE_MODULE_BROKEN))
			printf("; the module runs as user_hsm (uid %u): may that user read its files?",
			       (unsigned)p->agent->config.user_hsm.uid);
		printf("\n");
	}
	session_kill(&p->session);
}

static void fail(struct probe *p, const char *what)
{
	struct judgement j;

	judge_lost(&j, what);
	conclude(p, &j);
}

static void found(struct probe *p, const struct msg_hsm_opened *o)
{
	uint8_t hash = p->key.hash;

	memset(&p->key, 0, sizeof p->key);
	p->key.type = o->type;
	p->key.hash = hash;
	p->key.modulus_size = o->modulus_size;
	p->key.exponent_size = o->exponent_size;
	memcpy(p->key.modulus, o->modulus, sizeof p->key.modulus);
	memcpy(p->key.exponent, o->exponent, sizeof p->key.exponent);
	if (o->type == KEK_AES_KW)
		p->key.hash = OAEP_NONE;
}

static void begin(void *context)
{
	struct probe *p = context;
	int r = session_start(&p->session, p->enrolled ? kek_pins(p->kek) : NULL, -1);

	if (r == ERR_BUSY && p->waits++ < AGAIN_MAX) /* its predecessor is not gone yet */
		timer_arm(&p->agent->loop, &p->again, boot_now() + AGAIN_MS * MS_NS);
	else if (r != 0)
		fail(p, "the hsm process cannot be started; see the log");
}

static void on_result(void *owner, struct session *s, enum session_step step, const struct judgement *said)
{
	struct probe *p = owner;
	struct judgement j = *said;

	if (step == SESSION_OPENED && j.proof == PROOF_GOOD) {
		if (!p->enrolled)
			found(p, &s->opened);
		if (session_probe(s, &p->key) != 0)
			fail(p, "the proof could not be asked for");
		return;
	}
	if (j.proof == PROOF_GOOD && !p->enrolled && p->key.type == KEK_RSA_OAEP)
		judge_probe(&j, &p->key, s->challenge, &s->verdict, time(NULL));
	if (j.proof == PROOF_AMBIGUOUS && !p->doubted) {
		p->doubted = true;
		log_warning("%s: asked once more", j.text);
		session_kill(s);
		timer_arm(&p->agent->loop, &p->again, boot_now() + AGAIN_MS * MS_NS);
		return;
	}
	if (j.proof != PROOF_GOOD && step == SESSION_PROBED && !p->enrolled && p->key.hash == OAEP_SHA256) {
		session_kill(s);
		p->key.hash = OAEP_SHA1;
		begin(p);
		return;
	}
	conclude(p, &j);
}

static void on_ended(void *owner, struct session *s, bool good)
{
	(void)good;
	if (!s->silent)
		fail(owner, "the hsm process ended");
}

static const struct session_events events = { on_result, on_ended };

static int check_kek(struct agent *a, const struct kek_config *config)
{
	struct probe *p = calloc(1, sizeof *p);
	int r;

	if (p == NULL || kek_create(&p->kek, a, config) != 0)
		return ERR_NOMEM;
	p->agent = a;
	timer_init(&p->again, begin, p);
	session_init(&p->session, a, p->kek, &events, p);
	p->enrolled = kek_pins(p->kek) != NULL;
	if (kek_damaged(p->kek)) {
		printf("kek %s: its record is damaged; bring keks/%s back from a backup of the state directory\n", config->name,
		       config->name);
		p->done = true;
		p->error = ERR_CORRUPT;
	} else if (p->enrolled) {
		p->key = *kek_pins(p->kek);
		begin(p);
	} else {
		p->key.hash = OAEP_SHA256;
		begin(p);
	}
	while (!p->done)
		loop_once(&a->loop);
	r = p->error;
	session_end(&p->session);
	kek_destroy(p->kek);
	free(p);
	return r;
}

static int check_exports(const struct config *c)
{
	char text[TEXT_MAX_BYTES];
	int worst = 0;

	for (unsigned i = 0; i < c->volume_count; i++) {
		if (c->volumes[i].export != EXPORT_UBLK || device_possible(c, "/dev/ublk-control", text))
			continue;
		printf("%s: volume %s: export = ublk: %s\n", c->volumes[i].where, c->volumes[i].name, text);
		worst = ERR_UNSUPPORTED;
	}
	return worst;
}

/* What the agent would not find at its start: nothing is opened, a running agent may have it. */
static int check_place(const struct config *c, const char *key, const char *value)
{
	char path[PATH_MAX_BYTES];
	const char *from = strchr(value, '/');

	if (from == NULL) /* none, auto, kernel, swtpm: */
		return 0;
	snprintf(path, sizeof path, "%.*s", strncmp(value, "gpio:", 5) == 0 ? (int)strcspn(from, ":") : (int)strlen(from), from);
	if (access(path, F_OK) == 0)
		return 0;
	printf("%s: %s = %s: %s; bring it about, or name another\n", c->path, key, value, strerror(errno));
	return ERR_NOT_FOUND;
}

static int check_places(const struct config *c)
{
	const struct {
		const char *key, *value;
	} places[] = {
		{ "entropy", c->entropy }, { "watchdog", c->watchdog }, { "[tamper] source", c->tamper }, { "tpm", c->tpm }
	};
	int worst = 0;

	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
		if (check_place(c, places[i].key, places[i].value) != 0)
			worst = ERR_NOT_FOUND;
	return worst;
}

static int wrong_backing(const struct volume_config *v, int error, const char *what)
{
	printf("%s: backing = %s: %s\n", v->where, v->backing, what);
	return error;
}

/* As a creation would find it. */
static int check_backing(const struct volume_config *v)
{
	char folder[PATH_MAX_BYTES];
	struct stat st;

	if (stat(v->backing, &st) == 0)
		return S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)
			       ? 0
			       : wrong_backing(v, ERR_CONFIG, "neither a regular file nor a block device; name one");
	if (errno != ENOENT)
		return wrong_backing(v, ERR_CONFIG, strerror(errno));
	if (v->size == 0)
		return wrong_backing(v, ERR_NOT_FOUND, "there is no such file or device; for a new file give a size");
	snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(v->backing, '/') - v->backing), v->backing);
	return folder[0] == '\0' || access(folder, F_OK) == 0
		       ? 0
		       : wrong_backing(v, ERR_NOT_FOUND, "the folder for the file is not there; make it");
}

static int check_backings(const struct config *c)
{
	int worst = 0;

	for (unsigned i = 0; i < c->volume_count; i++) {
		int r = check_backing(&c->volumes[i]);

		worst = worst != 0 ? worst : r;
	}
	return worst;
}

/* 0: there, or to be made at the first start */
static int check_state_dir(struct agent *a)
{
	struct stat st;
	int r;

	a->records.dir_fd = -1;
	if (stat(a->config.state_dir, &st) == 0 && !S_ISDIR(st.st_mode)) {
		printf("%s: state_dir = %s is no directory; name another\n", a->config.path, a->config.state_dir);
		return ERR_CONFIG;
	}
	r = records_open(&a->records, a->config.state_dir, false);
	if (r == ERR_NOT_FOUND)
		printf("state directory %s: nothing in it yet; it is made at the first start\n", a->config.state_dir);
	return r == ERR_NOT_FOUND ? 0 : r;
}

int check_run(struct agent *a, int config_error)
{
	int worst, r;

	if (config_error != 0 || loop_init(&a->loop) != 0) {
		printf("configuration: wrong\n");
		return config_error != 0 ? config_error : ERR_IO;
	}
	printf("configuration: good: %u KEKs, %u volumes\n", a->config.kek_count, a->config.volume_count);
	worst = check_exports(&a->config);
	r = check_places(&a->config);
	worst = worst != 0 ? worst : r;
	r = check_backings(&a->config);
	worst = worst != 0 ? worst : r;
	a->read_only = true;
	r = check_state_dir(a);
	worst = worst != 0 ? worst : r;
	for (unsigned i = 0; i < a->config.kek_count; i++) {
		r = check_kek(a, &a->config.keks[i]);
		if (worst == 0 || r == ERR_REFUSED)
			worst = r;
	}
	tpm_stop(a);
	records_close(&a->records);
	return worst;
}
