/* The keys of every section: a function each, which judges the value and keeps it, and a row in the section's table. What
 * concerns more than one key is in config_checks.c. */
#include "config_reader.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/board.h"
#include "hal/indicator.h"
#include "hal/tamper.h"

/* ---- [agent] ---- */

static bool a_state_dir(struct reader *r, const char *key, const char *v)
{
	return value_path(r, key, v, r->config->state_dir, sizeof r->config->state_dir);
}

static bool a_run_dir(struct reader *r, const char *key, const char *v)
{
	return value_path(r, key, v, r->config->run_dir, sizeof r->config->run_dir);
}

static bool a_libexec_dir(struct reader *r, const char *key, const char *v)
{
	char ignored[PATH_MAX_BYTES];
	bool given = r->config->libexec_dir[0] != '\0'; /* on the command line: that one counts */

	return value_path(r, key, v, given ? ignored : r->config->libexec_dir, PATH_MAX_BYTES);
}

static bool a_nbdkit(struct reader *r, const char *key, const char *v)
{
	if (!value_path(r, key, v, r->config->nbdkit, sizeof r->config->nbdkit))
		return false;
	return access(v, X_OK) == 0 ||
	       config_wrong(r, "%s = %.200s is no program: %s; install nbdkit or correct the path", key, v, strerror(errno));
}

static bool a_coap(struct reader *r, const char *key, const char *v)
{
	return value_address(v, r->config->coap_address, sizeof r->config->coap_address, &r->config->coap_port) ||
	       config_wrong(r, "%s = %.100s is not ADDRESS:PORT with a numeric address; write e.g. 127.0.0.1:5684 or [::1]:5684",
			    key, v);
}

static bool a_user_hsm(struct reader *r, const char *key, const char *v)
{
	return value_user(r, key, v, &r->config->user_hsm);
}

static bool a_user_dataplane(struct reader *r, const char *key, const char *v)
{
	return value_user(r, key, v, &r->config->user_dataplane);
}

static bool a_user_mgmt(struct reader *r, const char *key, const char *v)
{
	return value_user(r, key, v, &r->config->user_mgmt);
}

static bool a_user_tpm(struct reader *r, const char *key, const char *v)
{
	return value_user(r, key, v, &r->config->user_tpm);
}

static bool a_tpm(struct reader *r, const char *key, const char *v)
{
	if (v[0] != '/' && strncmp(v, "swtpm:", 6) != 0)
		return config_wrong(r, "%s = %.200s is not a device's path; write e.g. /dev/tpmrm0", key, v);
	return value_text(r, key, v, r->config->tpm, sizeof r->config->tpm);
}

/* PCR 16 and 23 are anybody's to reset: what is sealed to them is sealed to nothing. */
static bool a_tpm_pcrs(struct reader *r, const char *key, const char *v)
{
	uint32_t pcrs = 0;
	uint64_t n = 0;

	for (const char *at = v, *rest = ","; rest[0] == ','; at = rest + 1) {
		if (!value_number(at, &n, &rest) || n > 22 || n == 16 || (rest[0] != ',' && rest[0] != '\0'))
			return config_wrong(
				r, "%s = %.100s is not a list of PCRs from 0 to 15 and 17 to 22; write e.g. 4,7,11,12", key, v);
		pcrs |= 1u << n;
	}
	r->config->tpm_pcrs = pcrs;
	return true;
}

static bool a_watchdog(struct reader *r, const char *key, const char *v)
{
	char *out = r->config->watchdog;

	if (strcmp(v, "none") == 0 || strcmp(v, "auto") == 0)
		return value_text(r, key, v, out, PATH_MAX_BYTES);
	return v[0] == '/' ? value_path(r, key, v, out, PATH_MAX_BYTES)
			   : config_wrong(r, "%s = %.200s is not none, auto or a device; write e.g. /dev/watchdog0", key, v);
}

static bool a_watchdog_timeout(struct reader *r, const char *key, const char *v)
{
	uint64_t *ns = &r->config->watchdog_timeout_ns;

	if (!value_duration(r, key, v, ns, 4 * SECOND, 600 * SECOND))
		return false;
	return *ns % SECOND == 0 || config_wrong(r, "%s = %.100s is not in whole seconds; write it so", key, v);
}

static bool a_entropy(struct reader *r, const char *key, const char *v)
{
	char *out = r->config->entropy;

	if (strcmp(v, "kernel") == 0 || strcmp(v, "auto") == 0)
		return value_text(r, key, v, out, PATH_MAX_BYTES);
	return strncmp(v, "/dev/", 5) == 0
		       ? value_path(r, key, v, out, 64)
		       : config_wrong(r, "%s = %.200s is not auto, kernel or a device; write e.g. /dev/hwrng", key, v);
}

static bool a_indicator(struct reader *r, const char *key, const char *v)
{
	if (strcmp(v, "none") != 0 && !indicator_where_good(v))
		return config_wrong(r, "%s = %.200s is not none, led:NAME or console:/dev/NAME; write one of these", key, v);
	return value_text(r, key, v, r->config->indicator, sizeof r->config->indicator);
}

/* ---- [kek NAME] ---- */

const struct kek_config *config_kek(const struct config *c, const char *name)
{
	for (unsigned i = 0; i < c->kek_count; i++)
		if (strcmp(c->keks[i].name, name) == 0)
			return &c->keks[i];
	return NULL;
}

static bool k_module(struct reader *r, const char *key, const char *v)
{
	if (!value_path(r, key, v, r->kek->module, sizeof r->kek->module))
		return false;
	return access(v, R_OK) == 0 ||
	       config_wrong(r, "%s = %.200s cannot be read: %s; install the module or correct the path", key, v, strerror(errno));
}

/* Decodes %XX. false: a bad escape, or a NUL. */
static bool percent_decode(const char *in, size_t length, char *out, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < length; i++) {
		unsigned value = (unsigned char)in[i];

		if (in[i] == '%') {
			if (i + 2 >= length || !isxdigit((unsigned char)in[i + 1]) || !isxdigit((unsigned char)in[i + 2]))
				return false;
			if (sscanf(in + i + 1, "%2x", &value) != 1 || value == 0)
				return false;
			i += 2;
		}
		if (n + 1 >= size)
			return false;
		out[n++] = (char)value;
	}
	out[n] = '\0';
	return true;
}

static bool check_pin_file(struct reader *r, const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return config_wrong(r, "the PIN file %.200s cannot be read: %s; write the PIN there, mode 0600", path,
				    strerror(errno));
	if (!S_ISREG(st.st_mode))
		return config_wrong(r, "the PIN file %.200s is not a regular file; write the PIN to one, mode 0600", path);
	if ((st.st_mode & 077) != 0)
		return config_wrong(r, "others may read the PIN file %.200s (mode %04o); chmod 0600 it", path,
				    (unsigned)(st.st_mode & 07777));
	return true;
}

/* RFC 7512's path attributes. One that is unknown would be ignored by some modules' tools and match any token. */
static bool known_attribute(const char *text)
{
	static const char *const names[] = {
		"token",  "manufacturer", "serial", "model", "library-manufacturer", "library-version", "library-description",
		"object", "type",         "id",     NULL
	}; /* slots change: not by them */
	size_t length = strcspn(text, "=");

	for (unsigned i = 0; names[i] != NULL; i++)
		if (text[length] == '=' && strlen(names[i]) == length && strncmp(text, names[i], length) == 0)
			return true;
	return false;
}

static bool check_attributes(struct reader *r, const char *key, const char *path)
{
	char copy[URI_MAX_BYTES], *save = NULL;
	bool token = false, object = false;

	snprintf(copy, sizeof copy, "%s", path);
	for (char *a = strtok_r(copy, ";", &save); a != NULL; a = strtok_r(NULL, ";", &save)) {
		if (!known_attribute(a))
			return config_wrong(r, "%s: unknown attribute %.60s; RFC 7512 has token, object, id, serial, ...", key,
					    a);
		token = token || strncmp(a, "token=", 6) == 0 || strncmp(a, "serial=", 7) == 0;
		object = object || strncmp(a, "object=", 7) == 0 || strncmp(a, "id=", 3) == 0;
	}
	return (token && object) || config_wrong(r, "%s names no single key; give token (or serial) and object (or id)", key);
}

/* Takes pin-source out of the query: the supervisor opens the file, the hsm gets a descriptor. */
static bool k_uri(struct reader *r, const char *key, const char *v)
{
	static const char source[] = "pin-source=";
	char copy[URI_MAX_BYTES], path[PATH_MAX_BYTES] = "", *query, *save = NULL;

	if (!value_text(r, key, v, copy, sizeof copy))
		return false;
	if (strncmp(copy, "pkcs11:", 7) != 0)
		return config_wrong(
			r, "%s does not begin with pkcs11:; write e.g. pkcs11:token=LABEL;object=KEK?pin-source=file:/path", key);
	query = strchr(copy, '?');
	if (query != NULL)
		*query++ = '\0';
	if (!check_attributes(r, key, copy + 7))
		return false;
	for (char *q = query != NULL ? strtok_r(query, "&", &save) : NULL; q != NULL; q = strtok_r(NULL, "&", &save)) {
		if (strncmp(q, "pin-value", 9) == 0)
			return config_wrong(r,
					    "%s: pin-value: a PIN does not stand in a URI; write it to a file and name that: "
					    "pin-source=file:/path",
					    key);
		if (strncmp(q, source, sizeof source - 1) != 0)
			return config_wrong(
				r,
				"%s: unknown attribute %.60s after the ?; only pin-source stands there, the module has its "
				"own line",
				key, q);
		q += sizeof source - 1;
		if (strcmp(q, "tpm:") == 0 && path[0] == '\0' && !r->kek->pin_sealed) {
			r->kek->pin_sealed = true;
			continue;
		}
		if (strncmp(q, "file:", 5) == 0)
			q += 5;
		if (strncmp(q, "//", 2) == 0)
			q += 2;
		if (path[0] != '\0' || r->kek->pin_sealed || !percent_decode(q, strlen(q), path, sizeof path) || path[0] != '/')
			return config_wrong(r, "%s: pin-source is not one file:/absolute/path nor tpm:; write one of these", key);
	}
	strcpy(r->kek->uri, copy);
	strcpy(r->kek->pin_path, path);
	return path[0] == '\0' || check_pin_file(r, path);
}

static bool k_init_args(struct reader *r, const char *key, const char *v)
{
	return value_text(r, key, v, r->kek->init_args, sizeof r->kek->init_args);
}

static bool k_environment(struct reader *r, const char *key, const char *v)
{
	size_t name = strspn(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
	struct kek_config *k = r->kek;

	if (name == 0 || v[name] != '=')
		return config_wrong(r, "%s = %.100s is not NAME=VALUE; write it so", key, v);
	if (strncmp(v, "LD_", 3) == 0)
		return config_wrong(r, "%s: the loader's variables (LD_*) are not passed on; leave it out", key);
	if (k->environment_count == CONFIG_ENV_MAX)
		return config_wrong(r, "%s: at most %d variables; leave some out", key, CONFIG_ENV_MAX);
	if (!value_text(r, key, v, k->environment[k->environment_count], CONFIG_ENV_BYTES))
		return false;
	k->environment_count++;
	return true;
}

static bool k_probe_interval(struct reader *r, const char *key, const char *v)
{
	return value_duration(r, key, v, &r->kek->probe_interval_ns, SECOND / 10, HOUR);
}

static bool k_hsm_deadline(struct reader *r, const char *key, const char *v)
{
	return value_duration(r, key, v, &r->kek->hsm_deadline_ns, SECOND / 10, 60 * SECOND);
}

static bool k_outage_budget(struct reader *r, const char *key, const char *v)
{
	return value_duration(r, key, v, &r->kek->outage_budget_ns, 0, 24 * HOUR);
}

static bool k_fresh_every(struct reader *r, const char *key, const char *v)
{
	return value_count(r, key, v, &r->kek->fresh_every, 100000, 10);
}

/* ---- [volume] ---- */

static bool v_backing(struct reader *r, const char *key, const char *v)
{
	return value_path(r, key, v, r->volume->backing, sizeof r->volume->backing);
}

static bool v_size(struct reader *r, const char *key, const char *v)
{
	if (!config_parse_size(v, &r->volume->size) || r->volume->size == 0 || r->volume->size % 4096 != 0)
		return config_wrong(r, "%s = %.100s is not a size in multiples of 4096 bytes; write e.g. 64M, 1G or 2T", key, v);
	return true;
}

static bool v_kek(struct reader *r, const char *key, const char *v)
{
	if (config_kek(r->config, v) == NULL)
		return config_wrong(r, "%s: there is no [kek %.40s]; add that section, or name another", key, v);
	return value_text(r, key, v, r->volume->kek, sizeof r->volume->kek);
}

static bool v_attach(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "auto", "manual", NULL };
	unsigned which = 0;

	if (!value_choice(r, key, v, words, &which))
		return false;
	r->volume->attach_auto = which == 0;
	return true;
}

static bool v_on_lock(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "fail", "hold", NULL };
	unsigned which = 0;

	if (!value_choice(r, key, v, words, &which))
		return false;
	r->volume->hold = which == 1;
	return true;
}

static bool v_anti_rollback(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "none", "tpm", NULL };
	unsigned which = 0;

	if (!value_choice(r, key, v, words, &which))
		return false;
	r->volume->anti_rollback = which == 1;
	return which == 0 || r->config->tpm[0] != '\0' ||
	       config_wrong(r, "%s = tpm, and [agent] names no TPM; add tpm = /dev/tpmrm0 there", key);
}

static bool v_anti_rollback_interval(struct reader *r, const char *key, const char *v)
{
	return value_duration(r, key, v, &r->volume->anti_rollback_ns, SECOND, 24 * HOUR);
}

static bool v_hold_timeout(struct reader *r, const char *key, const char *v)
{
	return value_duration(r, key, v, &r->volume->hold_timeout_ns, SECOND, 24 * HOUR);
}

static bool v_connections(struct reader *r, const char *key, const char *v)
{
	return value_count(r, key, v, &r->volume->connections, 1024, CONNECTIONS_DEFAULT);
}

static bool v_export(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "nbd", "ublk", NULL };
	unsigned which = 0;

	if (!value_choice(r, key, v, words, &which))
		return false;
	r->volume->export = which == 1 ? EXPORT_UBLK : EXPORT_NBD;
	return true;
}

static bool v_listen(struct reader *r, const char *key, const char *v)
{
	struct volume_config *o = r->volume;

	if (strcmp(v, "unix") == 0)
		return true;
	if (strncmp(v, "unix:", 5) == 0)
		return value_path(r, key, v + 5, o->listen_path, sizeof o->listen_path);
	o->listen = LISTEN_TCP;
	if (strncmp(v, "tcp:", 4) == 0 && value_address(v + 4, o->listen_path, sizeof o->listen_path, &o->listen_port))
		return true;
	return config_wrong(r, "%s = %.100s is not unix, unix:/path or tcp:ADDRESS:PORT; write one of these", key, v);
}

static bool v_listen_mode(struct reader *r, const char *key, const char *v)
{
	char *end;
	unsigned long mode = strtoul(v, &end, 8);

	if (v[0] == '\0' || *end != '\0' || mode > 0777)
		return config_wrong(r, "%s = %.100s is not an octal mode; write e.g. 0600 or 0660", key, v);
	r->volume->listen_mode = (mode_t)mode;
	return true;
}

static bool v_read_only(struct reader *r, const char *key, const char *v)
{
	return value_yes_or_no(r, key, v, &r->volume->read_only);
}

static bool v_assume_4k(struct reader *r, const char *key, const char *v)
{
	return value_yes_or_no(r, key, v, &r->volume->assume_4k);
}

static bool v_memory(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "board", "server", NULL };
	unsigned which = 0;

	if (!value_choice(r, key, v, words, &which))
		return false;
	r->volume->server = which == 1;
	return true;
}

static bool v_cache(struct reader *r, const char *key, const char *v)
{
	uint64_t bytes;

	if (!config_parse_size(v, &bytes) || bytes % (1 << 20) != 0 || bytes == 0 || bytes >> 20 > 65536)
		return config_wrong(
			r, "%s = %.100s is not a size from 1M to 64G in whole megabytes; leave it out for what memory says", key,
			v);
	r->volume->cache_mib = (uint32_t)(bytes >> 20);
	return true;
}

static bool v_kernel(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "auto", "portable", "aesni_sse", "aesni", "vaes256", "vaes512", "armv8", NULL };
	unsigned which = 0;

	if (!value_choice(r, key, v, words, &which))
		return false;
	if (which > 0)
		strcpy(r->volume->kernel, words[which]);
	return true;
}

/* COUNT/DURATION */
static bool v_integrity_limit(struct reader *r, const char *key, const char *v)
{
	struct volume_config *o = r->volume;
	const char *slash;
	uint64_t n;

	o->integrity_limit = 0;
	if (strcmp(v, "off") == 0)
		return true;
	if (!value_number(v, &n, &slash) || n < 1 || n > 1000000 || slash[0] != '/' ||
	    !config_parse_duration(slash + 1, &o->integrity_window_ns) || o->integrity_window_ns < SECOND ||
	    o->integrity_window_ns > 24 * HOUR)
		return config_wrong(
			r, "%s = %.100s is not COUNT/DURATION (1 to 1000000, in 1s to 24h) nor off; 1000/1m is the default", key,
			v);
	o->integrity_limit = (uint32_t)n;
	return true;
}

static bool v_purge_after(struct reader *r, const char *key, const char *v)
{
	r->volume->purge_after_ns = 0;
	return strcmp(v, "off") == 0 || value_duration(r, key, v, &r->volume->purge_after_ns, SECOND, 8760 * HOUR);
}

static bool v_mount(struct reader *r, const char *key, const char *v)
{
	struct volume_config *o = r->volume;

	o->mount = MOUNT_NONE;
	if (strcmp(v, "none") == 0)
		return true;
	if (strcmp(v, "drop_caches") == 0) {
		o->mount = MOUNT_DROP_CACHES;
		return true;
	}
	o->mount = strncmp(v, "unmount:", 8) == 0 ? MOUNT_UNMOUNT : MOUNT_PROGRAM;
	if (o->mount == MOUNT_UNMOUNT)
		return value_path(r, key, v + 8, o->mount_path, sizeof o->mount_path);
	if (strncmp(v, "program:", 8) == 0)
		return value_program(r, key, v + 8, o->mount_path, sizeof o->mount_path);
	return config_wrong(r, "%s = %.200s is not none, drop_caches, unmount:/path or program:/path; write one of these", key,
			    v);
}

/* ---- [alerts] ---- */

static bool l_log(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "auto", "off", "journal", "syslog" };
	struct config *c = r->config;

	for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
		size_t length = strlen(words[i]);

		if (strncmp(v, words[i], length) != 0 || (v[length] != '\0' && v[length] != ':'))
			continue;
		c->alert_log = (enum alert_log)i;
		if (v[length] == '\0')
			return true;
		if (i >= ALERT_LOG_JOURNAL)
			return value_path(r, key, v + length + 1, c->alert_log_path, sizeof c->alert_log_path - 8);
	}
	return config_wrong(r, "%s = %.200s is not auto, off, journal, syslog, journal:/path or syslog:/path; write one of these",
			    key, v);
}

static bool l_program(struct reader *r, const char *key, const char *v)
{
	return value_program(r, key, v, r->config->alert_program, sizeof r->config->alert_program);
}

static bool l_user(struct reader *r, const char *key, const char *v)
{
	return value_user(r, key, v, &r->config->alert_user);
}

static bool l_time_limit(struct reader *r, const char *key, const char *v)
{
	return value_duration(r, key, v, &r->config->alert_limit_ns, SECOND / 10, 600 * SECOND);
}

/* ---- [tamper] ---- */

static bool t_source(struct reader *r, const char *key, const char *v)
{
	r->config->tamper[0] = '\0';
	if (strcmp(v, "none") == 0)
		return true;
	if (!tamper_source_good(v))
		return config_wrong(
			r,
			"%s = %.200s is not none, file:/path, fifo:/path or gpio:/dev/gpiochipN:LINE[:low]; write one of these",
			key, v);
	return value_text(r, key, v, r->config->tamper, sizeof r->config->tamper);
}

/* ---- tables ---- */

/* clang-format off */
static const struct key_row agent_keys[] = {
	{ "state_dir",      a_state_dir,      false, false },
	{ "run_dir",        a_run_dir,        false, false },
	{ "libexec_dir",    a_libexec_dir,    false, false },
	{ "nbdkit",         a_nbdkit,         false, false },
	{ "coap",           a_coap,           false, false },
	{ "user_hsm",       a_user_hsm,       false, false },
	{ "user_dataplane", a_user_dataplane, false, false },
	{ "user_mgmt",      a_user_mgmt,      false, false },
	{ "user_tpm",       a_user_tpm,       false, false },
	{ "tpm",            a_tpm,            false, false },
	{ "tpm_pcrs",       a_tpm_pcrs,       false, false },
	{ "watchdog",       a_watchdog,       false, false },
	{ "watchdog_timeout", a_watchdog_timeout, false, false },
	{ "entropy",        a_entropy,        false, false },
	{ "indicator",      a_indicator,      false, false },
	{ NULL, NULL, false, false },
};

static const struct key_row kek_keys[] = {
	{ "module",         k_module,         true,  false },
	{ "uri",            k_uri,            true,  false },
	{ "init_args",      k_init_args,      false, false },
	{ "environment",    k_environment,    false, true },
	{ "probe_interval", k_probe_interval, false, false },
	{ "fresh_every",    k_fresh_every,    false, false },
	{ "hsm_deadline",   k_hsm_deadline,   false, false },
	{ "outage_budget",  k_outage_budget,  false, false },
	{ NULL, NULL, false, false },
};

static const struct key_row volume_keys[] = {
	{ "backing",        v_backing,        true,  false },
	{ "size",           v_size,           false, false },
	{ "kek",            v_kek,            true,  false },
	{ "attach",         v_attach,         false, false },
	{ "on_lock",        v_on_lock,        false, false },
	{ "hold_timeout",   v_hold_timeout,   false, false },
	{ "anti_rollback",  v_anti_rollback,  false, false },
	{ "anti_rollback_interval", v_anti_rollback_interval, false, false },
	{ "connections",    v_connections,    false, false },
	{ "integrity_limit", v_integrity_limit, false, false },
	{ "mount",          v_mount,          false, false },
	{ "purge_after",    v_purge_after,    false, false },
	{ "export",         v_export,         false, false },
	{ "listen",         v_listen,         false, false },
	{ "listen_mode",    v_listen_mode,    false, false },
	{ "read_only",      v_read_only,      false, false },
	{ "assume_4k",      v_assume_4k,      false, false },
	{ "memory",         v_memory,         false, false },
	{ "cache",          v_cache,          false, false },
	{ "kernel",         v_kernel,         false, false },
	{ NULL, NULL, false, false },
};
/* clang-format on */

static const struct key_row alerts_keys[] = {
	{ "log", l_log, false, false },   { "program", l_program, false, false },
	{ "user", l_user, false, false }, { "time_limit", l_time_limit, false, false },
	{ NULL, NULL, false, false },
};

static const struct key_row tamper_keys[] = {
	{ "source", t_source, true, false },
	{ NULL, NULL, false, false },
};

const struct key_row *config_keys(const struct reader *r)
{
	if (r->volume_file)
		return strcmp(r->section, "volume") == 0 ? volume_keys : NULL;
	if (strcmp(r->section, "agent") == 0)
		return agent_keys;
	if (strcmp(r->section, "alerts") == 0)
		return alerts_keys;
	if (strcmp(r->section, "tamper") == 0)
		return tamper_keys;
	return r->kek != NULL ? kek_keys : NULL;
}

bool config_was_given(const struct reader *r, const char *key)
{
	for (unsigned i = 0; volume_keys[i].name != NULL; i++)
		if (strcmp(volume_keys[i].name, key) == 0)
			return (r->given & 1u << i) != 0;
	return false;
}

/* What the board says, by the same rules. */
void config_take_board(struct config *c, struct config_errors *errors)
{
	struct reader r = { .path = "board.c", .config = c, .errors = errors };
	char timeout[16];

	snprintf(timeout, sizeof timeout, "%us", board.watchdog_timeout_s);
	a_watchdog(&r, "watchdog", board.watchdog);
	a_watchdog_timeout(&r, "watchdog_timeout", timeout);
	a_entropy(&r, "entropy", board.entropy);
	a_indicator(&r, "indicator", board.indicator);
	t_source(&r, "tamper", board.tamper);
}
