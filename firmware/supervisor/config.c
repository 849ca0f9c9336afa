/* Reading and judging the configuration. Keys are rows of tables, each with its parser; what concerns more than one key is judged
 * when all files are read. What must hold: an unknown section or key, a value out of bounds, a second mention, a file that others
 * may read are errors with a line number and a remedy, never a guess. */
#include "config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ini.h>

#include "base/error.h"
#include "hal/board.h"
#include "hal/indicator.h"
#include "hal/tamper.h"

#define SECOND UINT64_C(1000000000)
#define HOUR   (3600 * SECOND)

enum { PHYSICAL_LINE_BYTES = 2048, CONNECTIONS_DEFAULT = 16 };

/* One file being read. */
struct reader {
	FILE *file;
	const char *path;
	unsigned line;
	char section[64];
	char long_value[PHYSICAL_LINE_BYTES]; /* inih takes lines of 200 bytes: a longer value goes round it */
	bool volume_file;
	struct config *config;
	struct kek_config *kek;
	struct volume_config *volume;
	unsigned seen;  /* bit i: row i of the section's table was given */
	unsigned given; /* likewise, in the section that ended last */
	struct config_errors *errors;
};

static void __attribute__((format(printf, 2, 3))) add_error(struct config_errors *e, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (e->count < CONFIG_ERRORS_MAX)
		vsnprintf(e->line[e->count], sizeof e->line[0], format, args);
	e->count++;
	va_end(args);
}

static bool __attribute__((format(printf, 2, 3))) wrong(struct reader *r, const char *format, ...)
{
	char what[PATH_MAX_BYTES - 100];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof what, format, args);
	va_end(args);
	add_error(r->errors, "%.200s:%u: %.300s", r->path, r->line, what);
	return false;
}

/* ---- values ---- */

static bool parse_number(const char *text, uint64_t *number, const char **rest)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	*number = strtoull(text, &end, 10);
	*rest = end;
	return errno == 0;
}

bool config_parse_duration(const char *text, uint64_t *ns)
{
	static const struct {
		const char *unit;
		uint64_t ns;
	} units[] = { { "ms", 1000000 }, { "s", SECOND }, { "m", 60 * SECOND }, { "h", HOUR } };
	const char *unit;
	uint64_t n;

	if (!parse_number(text, &n, &unit))
		return false;
	if (n == 0 && unit[0] == '\0') {
		*ns = 0;
		return true;
	}
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
		if (strcmp(unit, units[i].unit) == 0)
			return !__builtin_mul_overflow(n, units[i].ns, ns);
	return false;
}

bool config_parse_size(const char *text, uint64_t *bytes)
{
	static const char letters[] = "KMGTP";
	const char *unit;
	uint64_t n, shift = 0;

	if (!parse_number(text, &n, &unit))
		return false;
	if (unit[0] != '\0') {
		const char *at = strchr(letters, unit[0]);

		if (at == NULL || (unit[1] != '\0' && strcmp(unit + 1, "iB") != 0))
			return false;
		shift = 10 * (uint64_t)(at - letters + 1);
	}
	return !__builtin_mul_overflow(n, UINT64_C(1) << shift, bytes) && *bytes <= INT64_MAX;
}

static bool take_text(struct reader *r, const char *key, const char *value, char *out, size_t size)
{
	if (value[0] == '\0')
		return wrong(r, "%s is empty; give a value or leave the line out", key);
	if (strlen(value) >= size)
		return wrong(r, "%s is longer than %zu bytes; shorten it", key, size - 1);
	strcpy(out, value);
	return true;
}

static bool take_path(struct reader *r, const char *key, const char *value, char *out, size_t size)
{
	if (value[0] != '/')
		return wrong(r, "%s = %.200s is not an absolute path; begin it with /", key, value);
	return take_text(r, key, value, out, size);
}

static bool take_duration(struct reader *r, const char *key, const char *value, uint64_t *ns, uint64_t low, uint64_t high)
{
	if (!config_parse_duration(value, ns))
		return wrong(r, "%s = %.100s is not a duration; write e.g. 500ms, 3s, 5m or 24h", key, value);
	if (*ns < low || *ns > high)
		return wrong(r, "%s = %.100s is out of bounds; choose from %llums to %llus", key, value,
			     (unsigned long long)(low / 1000000), (unsigned long long)(high / SECOND));
	return true;
}

static bool take_choice(struct reader *r, const char *key, const char *value, const char *const *words, unsigned *which)
{
	char all[100] = "";

	for (unsigned i = 0; words[i] != NULL; i++) {
		if (strcmp(value, words[i]) == 0) {
			*which = i;
			return true;
		}
		snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", words[i]);
	}
	return wrong(r, "%s = %.100s is not known; choose from: %s", key, value, all);
}

static bool take_count(struct reader *r, const char *key, const char *v, uint32_t *out, uint32_t high, uint32_t usual)
{
	const char *rest;
	uint64_t n;

	if (!parse_number(v, &n, &rest) || rest[0] != '\0' || n < 1 || n > high)
		return wrong(r, "%s = %.100s is not a number from 1 to %u; %u is the default", key, v, high, usual);
	*out = (uint32_t)n;
	return true;
}

/* ---- [agent] ---- */

static bool take_user(struct reader *r, const char *key, const char *value, struct config_user *out)
{
	char *end;
	unsigned long n;
	struct passwd *p;

	if (value[0] == '\0')
		return true; /* keep the supervisor's own */
	if (geteuid() != 0)
		return wrong(r, "%s: only root can give its children users of their own; start as root or leave it empty", key);
	n = strtoul(value, &end, 10);
	if (*end == '\0' && n > 0 && n < UINT32_MAX) {
		*out = (struct config_user){ true, (uid_t)n, (gid_t)n };
		return true;
	}
	p = getpwnam(value);
	if (p == NULL)
		return wrong(r, "%s: there is no user %.100s; create it, or name another", key, value);
	if (p->pw_uid == 0)
		return wrong(r, "%s: root is no user to drop to; name another", key);
	*out = (struct config_user){ true, p->pw_uid, p->pw_gid };
	return true;
}

static bool split_address(const char *text, char *address, size_t size, uint16_t *port)
{
	const char *colon = strrchr(text, ':');
	unsigned char binary[16];
	const char *rest;
	uint64_t n;
	size_t length;

	if (colon == NULL || !parse_number(colon + 1, &n, &rest) || rest[0] != '\0' || n == 0 || n > 65535)
		return false;
	length = (size_t)(colon - text);
	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	if (length == 0 || length >= size)
		return false;
	memcpy(address, text, length);
	address[length] = '\0';
	*port = (uint16_t)n;
	return inet_pton(AF_INET, address, binary) == 1 || inet_pton(AF_INET6, address, binary) == 1;
}

static bool a_state_dir(struct reader *r, const char *key, const char *v)
{
	return take_path(r, key, v, r->config->state_dir, sizeof r->config->state_dir);
}

static bool a_run_dir(struct reader *r, const char *key, const char *v)
{
	return take_path(r, key, v, r->config->run_dir, sizeof r->config->run_dir);
}

static bool a_libexec_dir(struct reader *r, const char *key, const char *v)
{
	char ignored[PATH_MAX_BYTES];
	bool given = r->config->libexec_dir[0] != '\0'; /* on the command line: that one counts */

	return take_path(r, key, v, given ? ignored : r->config->libexec_dir, PATH_MAX_BYTES);
}

static bool a_nbdkit(struct reader *r, const char *key, const char *v)
{
	if (!take_path(r, key, v, r->config->nbdkit, sizeof r->config->nbdkit))
		return false;
	return access(v, X_OK) == 0 ||
	       wrong(r, "%s = %.200s is no program: %s; install nbdkit or correct the path", key, v, strerror(errno));
}

static bool a_coap(struct reader *r, const char *key, const char *v)
{
	return split_address(v, r->config->coap_address, sizeof r->config->coap_address, &r->config->coap_port) ||
	       wrong(r, "%s = %.100s is not ADDRESS:PORT with a numeric address; write e.g. 127.0.0.1:5684 or [::1]:5684", key,
		     v);
}

static bool a_user_hsm(struct reader *r, const char *key, const char *v)
{
	return take_user(r, key, v, &r->config->user_hsm);
}

static bool a_user_dataplane(struct reader *r, const char *key, const char *v)
{
	return take_user(r, key, v, &r->config->user_dataplane);
}

static bool a_user_mgmt(struct reader *r, const char *key, const char *v)
{
	return take_user(r, key, v, &r->config->user_mgmt);
}

static bool a_user_tpm(struct reader *r, const char *key, const char *v)
{
	return take_user(r, key, v, &r->config->user_tpm);
}

static bool a_tpm(struct reader *r, const char *key, const char *v)
{
	if (v[0] != '/' && strncmp(v, "swtpm:", 6) != 0)
		return wrong(r, "%s = %.200s is not a device's path; write e.g. /dev/tpmrm0", key, v);
	return take_text(r, key, v, r->config->tpm, sizeof r->config->tpm);
}

/* PCR 16 and 23 are anybody's to reset: what is sealed to them is sealed to nothing. */
static bool a_tpm_pcrs(struct reader *r, const char *key, const char *v)
{
	uint32_t pcrs = 0;
	uint64_t n = 0;

	for (const char *at = v, *rest = ","; rest[0] == ','; at = rest + 1) {
		if (!parse_number(at, &n, &rest) || n > 22 || n == 16 || (rest[0] != ',' && rest[0] != '\0'))
			return wrong(r, "%s = %.100s is not a list of PCRs from 0 to 15 and 17 to 22; write e.g. 4,7,11,12", key, v);
		pcrs |= 1u << n;
	}
	r->config->tpm_pcrs = pcrs;
	return true;
}

static bool a_watchdog(struct reader *r, const char *key, const char *v)
{
	char *out = r->config->watchdog;

	if (strcmp(v, "none") == 0 || strcmp(v, "auto") == 0)
		return take_text(r, key, v, out, PATH_MAX_BYTES);
	return v[0] == '/' ? take_path(r, key, v, out, PATH_MAX_BYTES)
			   : wrong(r, "%s = %.200s is not none, auto or a device; write e.g. /dev/watchdog0", key, v);
}

static bool a_watchdog_timeout(struct reader *r, const char *key, const char *v)
{
	uint64_t *ns = &r->config->watchdog_timeout_ns;

	if (!take_duration(r, key, v, ns, 4 * SECOND, 600 * SECOND))
		return false;
	return *ns % SECOND == 0 || wrong(r, "%s = %.100s is not in whole seconds; write it so", key, v);
}

static bool a_entropy(struct reader *r, const char *key, const char *v)
{
	char *out = r->config->entropy;

	if (strcmp(v, "kernel") == 0 || strcmp(v, "auto") == 0)
		return take_text(r, key, v, out, PATH_MAX_BYTES);
	return strncmp(v, "/dev/", 5) == 0 ? take_path(r, key, v, out, 64)
					   : wrong(r, "%s = %.200s is not auto, kernel or a device; write e.g. /dev/hwrng", key, v);
}

static bool a_indicator(struct reader *r, const char *key, const char *v)
{
	if (strcmp(v, "none") != 0 && !indicator_where_good(v))
		return wrong(r, "%s = %.200s is not none, led:NAME or console:/dev/NAME; write one of these", key, v);
	return take_text(r, key, v, r->config->indicator, sizeof r->config->indicator);
}

/* ---- [kek NAME] ---- */

static bool k_module(struct reader *r, const char *key, const char *v)
{
	if (!take_path(r, key, v, r->kek->module, sizeof r->kek->module))
		return false;
	return access(v, R_OK) == 0 ||
	       wrong(r, "%s = %.200s cannot be read: %s; install the module or correct the path", key, v, strerror(errno));
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
		return wrong(r, "the PIN file %.200s cannot be read: %s; write the PIN there, mode 0600", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return wrong(r, "the PIN file %.200s is not a regular file; write the PIN to one, mode 0600", path);
	if ((st.st_mode & 077) != 0)
		return wrong(r, "others may read the PIN file %.200s (mode %04o); chmod 0600 it", path,
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
			return wrong(r, "%s: unknown attribute %.60s; RFC 7512 has token, object, id, serial, ...", key, a);
		token = token || strncmp(a, "token=", 6) == 0 || strncmp(a, "serial=", 7) == 0;
		object = object || strncmp(a, "object=", 7) == 0 || strncmp(a, "id=", 3) == 0;
	}
	return (token && object) || wrong(r, "%s names no single key; give token (or serial) and object (or id)", key);
}

/* Takes pin-source out of the query: the supervisor opens the file, the hsm gets a descriptor. */
static bool k_uri(struct reader *r, const char *key, const char *v)
{
	static const char source[] = "pin-source=";
	char copy[URI_MAX_BYTES], path[PATH_MAX_BYTES] = "", *query, *save = NULL;

	if (!take_text(r, key, v, copy, sizeof copy))
		return false;
	if (strncmp(copy, "pkcs11:", 7) != 0)
		return wrong(r, "%s does not begin with pkcs11:; write e.g. pkcs11:token=LABEL;object=KEK?pin-source=file:/path",
			     key);
	query = strchr(copy, '?');
	if (query != NULL)
		*query++ = '\0';
	if (!check_attributes(r, key, copy + 7))
		return false;
	for (char *q = query != NULL ? strtok_r(query, "&", &save) : NULL; q != NULL; q = strtok_r(NULL, "&", &save)) {
		if (strncmp(q, "pin-value", 9) == 0)
			return wrong(r,
				     "%s: pin-value: a PIN does not stand in a URI; write it to a file and name that: "
				     "pin-source=file:/path",
				     key);
		if (strncmp(q, source, sizeof source - 1) != 0)
			return wrong(r,
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
			return wrong(r, "%s: pin-source is not one file:/absolute/path nor tpm:; write one of these", key);
	}
	strcpy(r->kek->uri, copy);
	strcpy(r->kek->pin_path, path);
	return path[0] == '\0' || check_pin_file(r, path);
}

static bool k_init_args(struct reader *r, const char *key, const char *v)
{
	return take_text(r, key, v, r->kek->init_args, sizeof r->kek->init_args);
}

static bool k_environment(struct reader *r, const char *key, const char *v)
{
	size_t name = strspn(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
	struct kek_config *k = r->kek;

	if (name == 0 || v[name] != '=')
		return wrong(r, "%s = %.100s is not NAME=VALUE; write it so", key, v);
	if (strncmp(v, "LD_", 3) == 0)
		return wrong(r, "%s: the loader's variables (LD_*) are not passed on; leave it out", key);
	if (k->environment_count == CONFIG_ENV_MAX)
		return wrong(r, "%s: at most %d variables; leave some out", key, CONFIG_ENV_MAX);
	if (!take_text(r, key, v, k->environment[k->environment_count], CONFIG_ENV_BYTES))
		return false;
	k->environment_count++;
	return true;
}

static bool k_probe_interval(struct reader *r, const char *key, const char *v)
{
	return take_duration(r, key, v, &r->kek->probe_interval_ns, SECOND / 10, HOUR);
}

static bool k_hsm_deadline(struct reader *r, const char *key, const char *v)
{
	return take_duration(r, key, v, &r->kek->hsm_deadline_ns, SECOND / 10, 60 * SECOND);
}

static bool k_outage_budget(struct reader *r, const char *key, const char *v)
{
	return take_duration(r, key, v, &r->kek->outage_budget_ns, 0, 24 * HOUR);
}

static bool k_fresh_every(struct reader *r, const char *key, const char *v)
{
	return take_count(r, key, v, &r->kek->fresh_every, 100000, 10);
}

/* ---- [volume] ---- */

static bool v_backing(struct reader *r, const char *key, const char *v)
{
	return take_path(r, key, v, r->volume->backing, sizeof r->volume->backing);
}

static bool v_size(struct reader *r, const char *key, const char *v)
{
	if (!config_parse_size(v, &r->volume->size) || r->volume->size == 0 || r->volume->size % 4096 != 0)
		return wrong(r, "%s = %.100s is not a size in multiples of 4096 bytes; write e.g. 64M, 1G or 2T", key, v);
	return true;
}

static bool v_kek(struct reader *r, const char *key, const char *v)
{
	if (config_kek(r->config, v) == NULL)
		return wrong(r, "%s: there is no [kek %.40s]; add that section, or name another", key, v);
	return take_text(r, key, v, r->volume->kek, sizeof r->volume->kek);
}

static bool v_attach(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "auto", "manual", NULL };
	unsigned which = 0;

	if (!take_choice(r, key, v, words, &which))
		return false;
	r->volume->attach_auto = which == 0;
	return true;
}

static bool v_on_lock(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "fail", "hold", NULL };
	unsigned which = 0;

	if (!take_choice(r, key, v, words, &which))
		return false;
	r->volume->hold = which == 1;
	return true;
}

static bool v_anti_rollback(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "none", "tpm", NULL };
	unsigned which = 0;

	if (!take_choice(r, key, v, words, &which))
		return false;
	r->volume->anti_rollback = which == 1;
	return which == 0 || r->config->tpm[0] != '\0' || wrong(r, "%s = tpm, and [agent] names no TPM; add tpm = /dev/tpmrm0 there", key);
}

static bool v_anti_rollback_interval(struct reader *r, const char *key, const char *v)
{
	return take_duration(r, key, v, &r->volume->anti_rollback_ns, SECOND, 24 * HOUR);
}

static bool v_hold_timeout(struct reader *r, const char *key, const char *v)
{
	return take_duration(r, key, v, &r->volume->hold_timeout_ns, SECOND, 24 * HOUR);
}

static bool v_connections(struct reader *r, const char *key, const char *v)
{
	return take_count(r, key, v, &r->volume->connections, 1024, CONNECTIONS_DEFAULT);
}

static bool v_export(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "nbd", "ublk", NULL };
	unsigned which = 0;

	if (!take_choice(r, key, v, words, &which))
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
		return take_path(r, key, v + 5, o->listen_path, sizeof o->listen_path);
	o->listen = LISTEN_TCP;
	if (strncmp(v, "tcp:", 4) == 0 && split_address(v + 4, o->listen_path, sizeof o->listen_path, &o->listen_port))
		return true;
	return wrong(r, "%s = %.100s is not unix, unix:/path or tcp:ADDRESS:PORT; write one of these", key, v);
}

static bool v_listen_mode(struct reader *r, const char *key, const char *v)
{
	char *end;
	unsigned long mode = strtoul(v, &end, 8);

	if (v[0] == '\0' || *end != '\0' || mode > 0777)
		return wrong(r, "%s = %.100s is not an octal mode; write e.g. 0600 or 0660", key, v);
	r->volume->listen_mode = (mode_t)mode;
	return true;
}

static bool take_yes_or_no(struct reader *r, const char *key, const char *v, bool *out)
{
	static const char *const words[] = { "no", "yes", NULL };
	unsigned which = 0;

	if (!take_choice(r, key, v, words, &which))
		return false;
	*out = which == 1;
	return true;
}

static bool v_read_only(struct reader *r, const char *key, const char *v)
{
	return take_yes_or_no(r, key, v, &r->volume->read_only);
}

static bool v_assume_4k(struct reader *r, const char *key, const char *v)
{
	return take_yes_or_no(r, key, v, &r->volume->assume_4k);
}

static bool v_memory(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "board", "server", NULL };
	unsigned which = 0;

	if (!take_choice(r, key, v, words, &which))
		return false;
	r->volume->server = which == 1;
	return true;
}

static bool v_cache(struct reader *r, const char *key, const char *v)
{
	uint64_t bytes;

	if (!config_parse_size(v, &bytes) || bytes % (1 << 20) != 0 || bytes == 0 || bytes >> 20 > 65536)
		return wrong(r, "%s = %.100s is not a size from 1M to 64G in whole megabytes; leave it out for what memory says", key, v);
	r->volume->cache_mib = (uint32_t)(bytes >> 20);
	return true;
}

static bool v_kernel(struct reader *r, const char *key, const char *v)
{
	static const char *const words[] = { "auto", "portable", "aesni_sse", "aesni", "vaes256", "vaes512", "armv8", NULL };
	unsigned which = 0;

	if (!take_choice(r, key, v, words, &which))
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
	if (!parse_number(v, &n, &slash) || n < 1 || n > 1000000 || slash[0] != '/' ||
	    !config_parse_duration(slash + 1, &o->integrity_window_ns) || o->integrity_window_ns < SECOND ||
	    o->integrity_window_ns > 24 * HOUR)
		return wrong(r, "%s = %.100s is not COUNT/DURATION (1 to 1000000, in 1s to 24h) nor off; 1000/1m is the default", key,
			     v);
	o->integrity_limit = (uint32_t)n;
	return true;
}

static bool v_purge_after(struct reader *r, const char *key, const char *v)
{
	r->volume->purge_after_ns = 0;
	return strcmp(v, "off") == 0 || take_duration(r, key, v, &r->volume->purge_after_ns, SECOND, 8760 * HOUR);
}

/* What is run with the agent's rights, or told what it knows, is nobody else's to write. */
static bool take_program(struct reader *r, const char *key, const char *value, char *out, size_t size)
{
	struct stat st;

	if (!take_path(r, key, value, out, size))
		return false;
	if (stat(value, &st) != 0 || !S_ISREG(st.st_mode) || access(value, X_OK) != 0)
		return wrong(r, "%s: %.200s is no program that can be run; correct the path", key, value);
	return ((st.st_uid == 0 || st.st_uid == geteuid()) && (st.st_mode & 022) == 0) ||
	       wrong(r, "%s: others may write to %.200s; chown it to root, chmod go-w", key, value);
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
		return take_path(r, key, v + 8, o->mount_path, sizeof o->mount_path);
	if (strncmp(v, "program:", 8) == 0)
		return take_program(r, key, v + 8, o->mount_path, sizeof o->mount_path);
	return wrong(r, "%s = %.200s is not none, drop_caches, unmount:/path or program:/path; write one of these", key, v);
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
			return take_path(r, key, v + length + 1, c->alert_log_path, sizeof c->alert_log_path - 8);
	}
	return wrong(r, "%s = %.200s is not auto, off, journal, syslog, journal:/path or syslog:/path; write one of these", key, v);
}

static bool l_program(struct reader *r, const char *key, const char *v)
{
	return take_program(r, key, v, r->config->alert_program, sizeof r->config->alert_program);
}

static bool l_user(struct reader *r, const char *key, const char *v)
{
	return take_user(r, key, v, &r->config->alert_user);
}

static bool l_time_limit(struct reader *r, const char *key, const char *v)
{
	return take_duration(r, key, v, &r->config->alert_limit_ns, SECOND / 10, 600 * SECOND);
}

/* ---- [tamper] ---- */

static bool t_source(struct reader *r, const char *key, const char *v)
{
	r->config->tamper[0] = '\0';
	if (strcmp(v, "none") == 0)
		return true;
	if (!tamper_source_good(v))
		return wrong(r, "%s = %.200s is not none, file:/path, fifo:/path or gpio:/dev/gpiochipN:LINE[:low]; write one of these",
			     key, v);
	return take_text(r, key, v, r->config->tamper, sizeof r->config->tamper);
}

/* ---- tables ---- */

struct key_row {
	const char *name;
	bool (*take)(struct reader *r, const char *key, const char *value);
	bool needed, repeats;
};

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
	{ "log",        l_log,        false, false },
	{ "program",    l_program,    false, false },
	{ "user",       l_user,       false, false },
	{ "time_limit", l_time_limit, false, false },
	{ NULL, NULL, false, false },
};

static const struct key_row tamper_keys[] = {
	{ "source", t_source, true, false },
	{ NULL, NULL, false, false },
};

static const struct key_row *keys_of(const struct reader *r)
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

/* A section ends: what it needed and did not get. */
static void end_section(struct reader *r)
{
	const struct key_row *keys = r->section[0] != '\0' ? keys_of(r) : NULL;

	for (unsigned i = 0; keys != NULL && keys[i].name != NULL; i++)
		if (keys[i].needed && (r->seen & 1u << i) == 0)
			add_error(r->errors, "%.200s: [%.60s] has no %s; add the line", r->path, r->section, keys[i].name);
	r->given = r->seen;
	r->seen = 0;
	r->kek = NULL;
}

static void begin_kek(struct reader *r, const char *name)
{
	struct config *c = r->config;

	if (!message_name_good(name)) {
		wrong(r, "[kek %.40s]: a name is 1 to 31 of a-z, 0-9, _ and -, and begins with a letter or digit; rename it",
		      name);
		return;
	}
	if (config_kek(c, name) != NULL) {
		wrong(r, "[kek %s] stands here a second time; rename one of them", name);
		return;
	}
	if (c->kek_count == CONFIG_KEKS_MAX) {
		wrong(r, "more than %d KEKs; leave some out", CONFIG_KEKS_MAX);
		return;
	}
	r->kek = &c->keks[c->kek_count++];
	*r->kek = (struct kek_config){
		.probe_interval_ns = SECOND, .hsm_deadline_ns = 3 * SECOND, .fresh_every = 10, .outage_budget_ns = 60 * SECOND
	};
	strcpy(r->kek->name, name);
	snprintf(r->kek->where, sizeof r->kek->where, "%.480s:%u", r->path, r->line);
}

static void begin_section(struct reader *r, const char *section)
{
	end_section(r);
	snprintf(r->section, sizeof r->section, "%s", section);
	if (r->volume_file) {
		if (strcmp(section, "volume") != 0)
			wrong(r, "unknown section [%.40s]; a volume's file has one: [volume]", section);
	} else if (strncmp(section, "kek ", 4) == 0) {
		begin_kek(r, section + 4 + strspn(section + 4, " "));
	} else if (strcmp(section, "agent") != 0 && strcmp(section, "tamper") != 0 && strcmp(section, "alerts") != 0) {
		wrong(r, "unknown section [%.40s]; known are [agent], [alerts], [tamper] and [kek NAME]", section);
	}
}

static int on_line(void *context, const char *section, const char *name, const char *value)
{
	struct reader *r = context;
	const struct key_row *keys;

	if (strcmp(section, r->section) != 0 || r->section[0] == '\0')
		begin_section(r, section);
	if (strcmp(value, "\001") == 0)
		value = r->long_value;
	keys = keys_of(r);
	if (keys == NULL)
		return 1; /* its section was refused already */
	for (unsigned i = 0; keys[i].name != NULL; i++) {
		if (strcmp(name, keys[i].name) != 0)
			continue;
		if ((r->seen & 1u << i) != 0 && !keys[i].repeats)
			wrong(r, "%s stands here a second time; keep one", name);
		else
			keys[i].take(r, name, value);
		r->seen |= 1u << i;
		return 1;
	}
	wrong(r, "unknown key %.60s in [%.40s]; see fallgate.conf(5)", name, r->section);
	return 1;
}

/* A line that inih would cut is handed over as "key = \001", its value kept beside it. */
static char *shorten(struct reader *r, char *line, char *out, int size)
{
	char *equals = strchr(line, '=');
	size_t end;

	if (equals == NULL || equals - line > 100 || strchr("#;", line[strspn(line, " \t")]) != NULL) {
		snprintf(out, (size_t)size, "%s", strchr("#;", line[strspn(line, " \t")]) != NULL ? "#\n" : "?\n");
		return out;
	}
	*equals = '\0';
	snprintf(r->long_value, sizeof r->long_value, "%s", equals + 1 + strspn(equals + 1, " \t"));
	end = strlen(r->long_value);
	while (end > 0 && isspace((unsigned char)r->long_value[end - 1]))
		r->long_value[--end] = '\0';
	snprintf(out, (size_t)size, "%.110s= \001\n", line);
	return out;
}

static char *next_line(char *out, int size, void *context)
{
	struct reader *r = context;
	char line[PHYSICAL_LINE_BYTES];
	size_t length;

	if (fgets(line, sizeof line, r->file) == NULL)
		return NULL;
	r->line++;
	length = strlen(line);
	if (length == sizeof line - 1 && line[length - 1] != '\n') {
		wrong(r, "the line is longer than %zu bytes; shorten it", sizeof line - 2);
		for (int c = getc(r->file); c != EOF && c != '\n';)
			c = getc(r->file);
		snprintf(out, (size_t)size, "#\n");
		return out;
	}
	if (length < (size_t)size) {
		memcpy(out, line, length + 1);
		return out;
	}
	return shorten(r, line, out, size);
}

static void read_file(struct reader *r)
{
	int bad;

	r->file = fopen(r->path, "re");
	if (r->file == NULL) {
		add_error(r->errors, "%.300s: cannot be read: %s; create it, see fallgate.conf(5)", r->path, strerror(errno));
		return;
	}
	bad = ini_parse_stream(next_line, r, on_line, r);
	if (bad != 0)
		add_error(r->errors, "%.300s:%d: neither a [section], a key = value nor a comment; correct the line", r->path,
			  bad > 0 ? bad : 0);
	if (r->volume_file && r->section[0] == '\0' && bad == 0)
		add_error(r->errors, "%.300s: there is no [volume] section with keys; see fallgate.conf(5)", r->path);
	end_section(r);
	fclose(r->file);
}

/* ---- what concerns more than one line ---- */

/* A key that says nothing about a block device is a misunderstanding: whoever wrote it expects something of it. */
static void check_ublk(const struct reader *r)
{
	static const char *const nbd_only[] = { "listen", "listen_mode", "connections" };

	for (size_t i = 0; i < sizeof nbd_only / sizeof nbd_only[0]; i++)
		for (unsigned row = 0; volume_keys[row].name != NULL; row++)
			if (strcmp(volume_keys[row].name, nbd_only[i]) == 0 && (r->given & 1u << row) != 0)
				add_error(r->errors, "%.300s: %s belongs to export = nbd, and the export is ublk; leave it out", r->path,
					  nbd_only[i]);
	if (geteuid() != 0)
		add_error(r->errors, "%.300s: export = ublk needs an agent started as root; start it so, or use export = nbd", r->path);
}

/* What the build left out (CONFIG_DATAPLANE_NBD, CONFIG_DATAPLANE_UBLK) cannot be configured into it. */
static void check_face(const struct volume_config *v, const char *path, struct config_errors *errors)
{
	const bool ublk = v->export == EXPORT_UBLK;

	if (strstr(FALLGATE_FACES, ublk ? " EXPORT_UBLK " : " EXPORT_NBD ") == NULL)
		add_error(errors, "%.300s: export = %s, and this agent was built without it; set export = %s", path,
			  ublk ? "ublk" : "nbd (the default)", ublk ? "nbd" : "ublk");
}

static void read_volume_file(struct config *c, const char *path, const char *name, struct volume_config *out,
			     struct config_errors *errors)
{
	struct reader r = { .path = path, .volume_file = true, .config = c, .volume = out, .errors = errors };

	*out = (struct volume_config){ .attach_auto = true,
				       .listen_mode = 0600,
				       .hold_timeout_ns = 120 * SECOND,
				       .anti_rollback_ns = HOUR,
				       .connections = CONNECTIONS_DEFAULT,
				       .integrity_limit = 1000,
				       .integrity_window_ns = 60 * SECOND };
	strcpy(out->name, name);
	snprintf(out->where, sizeof out->where, "%s", path);
	read_file(&r);
	check_face(out, path, errors);
	if (out->export == EXPORT_UBLK) {
		check_ublk(&r);
		return;
	}
	if (out->listen == LISTEN_UNIX && out->listen_path[0] == '\0' &&
	    snprintf(out->listen_path, sizeof out->listen_path, "%s/%s.sock", c->run_dir, name) >= (int)sizeof out->listen_path)
		add_error(errors, "%.300s: the socket's path is longer than %zu bytes; give a shorter run_dir or listen", path,
			  sizeof out->listen_path - 1);
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	if (strcmp(a, b) == 0)
		return true;
	if (stat(a, &x) != 0 || stat(b, &y) != 0)
		return false;
	if (S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode))
		return x.st_rdev == y.st_rdev;
	return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A volume below a volume of this agent: each would wait for the other at a lock. */
static void check_own_device(const struct volume_config *below, const struct volume_config *above, struct config_errors *errors)
{
	char link_path[NAME_MAX_BYTES + 16];

	snprintf(link_path, sizeof link_path, "/dev/fallgate/%s", below->name);
	if (below->export == EXPORT_UBLK && strcmp(above->backing, link_path) == 0)
		add_error(errors, "%.150s: the backing %s is where volume %s itself appears; name the disk below it, or rename the volume",
			  above->where, link_path, below->name);
}

static void check_pair(const struct volume_config *a, const struct volume_config *b, struct config_errors *errors)
{
	if (a->backing[0] != '\0' && same_file(a->backing, b->backing))
		add_error(errors, "%.150s: volumes %s and %s have one backing, %.150s; give each its own", b->where, a->name,
			  b->name, b->backing);
	check_own_device(a, b, errors);
	check_own_device(b, a, errors);
	if (a->export == EXPORT_NBD && b->export == EXPORT_NBD && a->listen == b->listen && a->listen_port == b->listen_port && strcmp(a->listen_path, b->listen_path) == 0)
		add_error(errors, "%.150s: volumes %s and %s listen at one place, %s; give each its own", b->where, a->name,
			  b->name, b->listen_path);
}

static int only_conf(const struct dirent *d)
{
	size_t length = strlen(d->d_name);

	return d->d_name[0] != '.' && length > 5 && strcmp(d->d_name + length - 5, ".conf") == 0;
}

static void read_volumes(struct config *c, struct config_errors *errors)
{
	struct dirent **list = NULL;
	int n = scandir(c->volumes_dir, &list, only_conf, alphasort);

	for (int i = 0; i < n; i++) {
		char path[PATH_MAX_BYTES * 2], name[256];

		snprintf(path, sizeof path, "%s/%s", c->volumes_dir, list[i]->d_name);
		snprintf(name, sizeof name, "%.*s", (int)strlen(list[i]->d_name) - 5, list[i]->d_name);
		free(list[i]);
		if (!message_name_good(name))
			add_error(errors,
				  "%.300s: a volume's name is 1 to 31 of a-z, 0-9, _ and -, and begins with a letter or digit; "
				  "rename "
				  "the file",
				  path);
		else if (c->volume_count == CONFIG_VOLUMES_MAX)
			add_error(errors, "%.300s: more than %d volumes; leave some out", path, CONFIG_VOLUMES_MAX);
		else
			read_volume_file(c, path, name, &c->volumes[c->volume_count++], errors);
	}
	free(list);
	for (unsigned i = 0; i < c->volume_count; i++)
		for (unsigned j = 0; j < i; j++)
			check_pair(&c->volumes[j], &c->volumes[i], errors);
	for (unsigned i = 0; i < c->volume_count; i++)
		check_own_device(&c->volumes[i], &c->volumes[i], errors);
}

static void set_defaults(struct config *c, const char *path, const char *libexec_dir)
{
	const char *slash = strrchr(path, '/');

	memset(c, 0, sizeof *c);
	snprintf(c->path, sizeof c->path, "%s", path);
	snprintf(c->volumes_dir, sizeof c->volumes_dir, "%.*s/volumes.d", slash != NULL ? (int)(slash - path) : 1,
		 slash != NULL ? path : ".");
	strcpy(c->state_dir, "/var/lib/fallgate");
	strcpy(c->run_dir, "/run/fallgate");
	strcpy(c->devices, "/dev/fallgate");
	strcpy(c->nbdkit, FALLGATE_NBDKIT);
	strcpy(c->coap_address, "127.0.0.1");
	c->coap_port = 5684;
	c->tpm_pcrs = 1u << 4 | 1u << 7 | 1u << 11 | 1u << 12;
	c->alert_limit_ns = 10 * SECOND;
	if (libexec_dir != NULL)
		snprintf(c->libexec_dir, sizeof c->libexec_dir, "%s", libexec_dir);
}

static void check_tpm(const struct config *c, struct config_errors *errors)
{
	char program[PATH_MAX_BYTES + 32];

	snprintf(program, sizeof program, "%s/fallgate-tpm", c->libexec_dir);
	if (c->tpm[0] != '\0' && access(program, X_OK) != 0)
		add_error(errors, "%.200s: tpm: there is no %.200s: this build is without HAL_TPM; leave the line out", c->path, program);
	for (unsigned i = 0; i < c->kek_count; i++)
		if (c->keks[i].pin_sealed && c->tpm[0] == '\0')
			add_error(errors, "%.200s: pin-source=tpm: and [agent] names no TPM; add tpm = /dev/tpmrm0 there", c->keks[i].where);
}

/* What the board says, by the same rules. */
static void take_board(struct config *c, const struct board *b, struct config_errors *errors)
{
	struct reader r = { .path = "board.c", .config = c, .errors = errors };
	char timeout[16];

	snprintf(timeout, sizeof timeout, "%us", b->watchdog_timeout_s);
	a_watchdog(&r, "watchdog", b->watchdog);
	a_watchdog_timeout(&r, "watchdog_timeout", timeout);
	a_entropy(&r, "entropy", b->entropy);
	a_indicator(&r, "indicator", b->indicator);
	t_source(&r, "tamper", b->tamper);
}

int config_load(struct config *c, const char *path, const char *libexec_dir, struct config_errors *errors)
{
	struct reader r = { .path = path, .config = c, .errors = errors };

	errors->count = 0;
	set_defaults(c, path, libexec_dir);
	take_board(c, &board, errors);
	read_file(&r);
	if (c->libexec_dir[0] == '\0')
		strcpy(c->libexec_dir, FALLGATE_LIBEXEC);
	if (c->libexec_dir[0] != '/')
		add_error(errors, "--libexec %.200s is not an absolute path; begin it with /", c->libexec_dir);
	if (c->alert_program[0] != '\0' && !c->alert_user.set && geteuid() == 0)
		add_error(errors, "%.200s: [alerts] has a program and no user; name one that it is run as", path);
	check_tpm(c, errors);
	read_volumes(c, errors);
	return errors->count == 0 ? 0 : ERR_CONFIG;
}

int config_load_volume(const struct config *c, const char *name, struct volume_config *out, struct config_errors *errors)
{
	struct config *copy; /* half a megabyte: not on the stack, and not for good */
	char path[PATH_MAX_BYTES * 2];

	errors->count = 0;
	snprintf(path, sizeof path, "%s/%s.conf", c->volumes_dir, name);
	if (access(path, F_OK) != 0)
		return ERR_NOT_FOUND;
	copy = malloc(sizeof *copy);
	if (copy == NULL) {
		add_error(errors, "%.300s: no memory to read it", path);
		return ERR_NOMEM;
	}
	*copy = *c;
	read_volume_file(copy, path, name, out, errors);
	free(copy);
	for (unsigned i = 0; i < c->volume_count; i++)
		if (strcmp(c->volumes[i].name, name) != 0)
			check_pair(&c->volumes[i], out, errors);
	check_own_device(out, out, errors);
	return errors->count == 0 ? 0 : ERR_CONFIG;
}

const struct kek_config *config_kek(const struct config *c, const char *name)
{
	for (unsigned i = 0; i < c->kek_count; i++)
		if (strcmp(c->keks[i].name, name) == 0)
			return &c->keks[i];
	return NULL;
}
