/* Reading the configuration: files, sections and lines, each handed to its key's row. What must hold: an unknown section or key,
 * a value out of bounds, a second mention, a file that everybody may write to are errors with a line number and a remedy, never a
 * guess. */
#include "config_reader.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ini.h>

#include "base/error.h"

/* A section ends: what it needed and did not get. */
static void end_section(struct reader *r)
{
	const struct key_row *keys = r->section[0] != '\0' ? config_keys(r) : NULL;

	for (unsigned i = 0; keys != NULL && keys[i].name != NULL; i++)
		if (keys[i].needed && (r->seen & 1u << i) == 0)
			config_error(r->errors, "%.200s: [%.60s] has no %s; add the line", r->path, r->section, keys[i].name);
	r->given = r->seen;
	r->seen = 0;
	r->kek = NULL;
}

static void begin_kek(struct reader *r, const char *name)
{
	struct config *c = r->config;

	if (!message_name_good(name)) {
		config_wrong(r,
			     "[kek %.40s]: a name is 1 to 31 of a-z, 0-9, _ and -, and begins with a letter or digit; rename it",
			     name);
		return;
	}
	if (config_kek(c, name) != NULL) {
		config_wrong(r, "[kek %s] stands here a second time; rename one of them", name);
		return;
	}
	if (c->kek_count == CONFIG_KEKS_MAX) {
		config_wrong(r, "more than %d KEKs; leave some out", CONFIG_KEKS_MAX);
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
			config_wrong(r, "unknown section [%.40s]; a volume's file has one: [volume]", section);
	} else if (strncmp(section, "kek ", 4) == 0) {
		begin_kek(r, section + 4 + strspn(section + 4, " "));
	} else if (strcmp(section, "agent") != 0 && strcmp(section, "tamper") != 0 && strcmp(section, "alerts") != 0) {
		config_wrong(r, "unknown section [%.40s]; known are [agent], [alerts], [tamper] and [kek NAME]", section);
	}
}

/* inih says nothing of a section without keys. */
static void begin_pending(struct reader *r)
{
	const unsigned line = r->line;
	char section[sizeof r->pending];

	if (r->pending[0] == '\0')
		return;
	strcpy(section, r->pending);
	r->pending[0] = '\0';
	r->line = r->pending_line;
	begin_section(r, section);
	r->line = line;
}

static void note_section(struct reader *r, const char *line)
{
	const char *name = line + strspn(line, " \t");
	size_t length = name[0] == '[' ? strcspn(++name, "]") : 0;

	if (length == 0 || name[length] != ']')
		return;
	begin_pending(r);
	snprintf(r->pending, sizeof r->pending, "%.*s", (int)length, name);
	r->pending_line = r->line;
}

static int on_line(void *context, const char *section, const char *name, const char *value)
{
	struct reader *r = context;
	const struct key_row *keys;

	r->pending[0] = '\0';
	if (strcmp(section, r->section) != 0 || r->section[0] == '\0')
		begin_section(r, section);
	if (strcmp(value, "\001") == 0)
		value = r->long_value;
	keys = config_keys(r);
	if (keys == NULL)
		return 1; /* its section was refused already */
	for (unsigned i = 0; keys[i].name != NULL; i++) {
		if (strcmp(name, keys[i].name) != 0)
			continue;
		if ((r->seen & 1u << i) != 0 && !keys[i].repeats)
			config_wrong(r, "%s stands here a second time; keep one", name);
		else
			keys[i].take(r, name, value);
		r->seen |= 1u << i;
		return 1;
	}
	config_wrong(r, "unknown key %.60s in [%.40s]; see fallgate.conf(5)", name, r->section);
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
		config_wrong(r, "the line is longer than %zu bytes; shorten it", sizeof line - 2);
		for (int c = getc(r->file); c != EOF && c != '\n';)
			c = getc(r->file);
		snprintf(out, (size_t)size, "#\n");
		return out;
	}
	note_section(r, line);
	if (length < (size_t)size) {
		memcpy(out, line, length + 1);
		return out;
	}
	return shorten(r, line, out, size);
}

static bool others_write(const struct stat *st, const char *path, struct config_errors *errors)
{
	if ((st->st_mode & 02) == 0)
		return false;
	config_error(errors, "%.300s: everybody may write to it (mode %04o); look at what it says, then chmod o-w it", path,
		     (unsigned)(st->st_mode & 07777));
	return true;
}

/* A root agent loads the module that stands here, and runs the programs: the file is nobody else's to write. What is no file
 * is not waited for. */
static bool open_file(struct reader *r)
{
	struct stat st;
	int fd = open(r->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	if (fd < 0 || fstat(fd, &st) != 0)
		config_error(r->errors, "%.300s: cannot be read: %s; create it, see fallgate.conf(5)", r->path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		config_error(r->errors, "%.300s: this is %s; name the file, see fallgate.conf(5)", r->path,
			     S_ISDIR(st.st_mode) ? "a folder" : "no file");
	else if (!others_write(&st, r->path, r->errors) && (r->file = fdopen(fd, "r")) != NULL)
		return true;
	if (fd >= 0)
		close(fd);
	return false;
}

static void read_file(struct reader *r)
{
	int bad;

	if (!open_file(r))
		return;
	bad = ini_parse_stream(next_line, r, on_line, r);
	begin_pending(r);
	if (bad != 0)
		config_error(r->errors, "%.300s:%d: neither a [section], a key = value nor a comment; correct the line", r->path,
			     bad > 0 ? bad : 0);
	if (r->volume_file && r->section[0] == '\0' && bad == 0)
		config_error(r->errors, "%.300s: there is no [volume] section with keys; see fallgate.conf(5)", r->path);
	end_section(r);
	fclose(r->file);
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
	config_check_volume(&r);
	if (out->export == EXPORT_NBD && out->listen == LISTEN_UNIX && out->listen_path[0] == '\0' &&
	    snprintf(out->listen_path, sizeof out->listen_path, "%s/%s.sock", c->run_dir, name) >= (int)sizeof out->listen_path)
		config_error(errors, "%.300s: the socket's path is longer than %zu bytes; give a shorter run_dir or listen", path,
			     sizeof out->listen_path - 1);
}

static int only_conf(const struct dirent *d)
{
	size_t length = strlen(d->d_name);

	return d->d_name[0] != '.' && length > 5 && strcmp(d->d_name + length - 5, ".conf") == 0;
}

/* A file in it can name a program too. */
static void check_volumes_dir(const struct config *c, struct config_errors *errors)
{
	struct stat st;

	if (stat(c->volumes_dir, &st) == 0)
		others_write(&st, c->volumes_dir, errors);
}

static void read_volumes(struct config *c, struct config_errors *errors)
{
	struct dirent **list = NULL;
	int n = scandir(c->volumes_dir, &list, only_conf, alphasort);

	check_volumes_dir(c, errors);
	if (n < 0 && errno != ENOENT)
		config_error(errors, "%.300s: cannot be read: %s; make it a folder that this user may read", c->volumes_dir,
			     strerror(errno));
	for (int i = 0; i < n; i++) {
		char path[PATH_MAX_BYTES * 2], name[256];

		snprintf(path, sizeof path, "%s/%s", c->volumes_dir, list[i]->d_name);
		snprintf(name, sizeof name, "%.*s", (int)strlen(list[i]->d_name) - 5, list[i]->d_name);
		free(list[i]);
		if (!message_name_good(name))
			config_error(
				errors,
				"%.300s: a volume's name is 1 to 31 of a-z, 0-9, _ and -, and begins with a letter or digit; "
				"rename the file",
				path);
		else if (c->volume_count == CONFIG_VOLUMES_MAX)
			config_error(errors, "%.300s: more than %d volumes; leave some out", path, CONFIG_VOLUMES_MAX);
		else
			read_volume_file(c, path, name, &c->volumes[c->volume_count++], errors);
	}
	free(list);
	for (unsigned i = 0; i < c->volume_count; i++)
		for (unsigned j = 0; j < i; j++)
			config_check_pair(&c->volumes[j], &c->volumes[i], errors);
	for (unsigned i = 0; i < c->volume_count; i++)
		config_check_own_device(&c->volumes[i], &c->volumes[i], errors);
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

int config_load(struct config *c, const char *path, const char *libexec_dir, struct config_errors *errors)
{
	struct reader r = { .path = path, .config = c, .errors = errors };

	errors->count = 0;
	set_defaults(c, path, libexec_dir);
	config_take_board(c, errors);
	read_file(&r);
	if (c->libexec_dir[0] == '\0')
		strcpy(c->libexec_dir, FALLGATE_LIBEXEC);
	config_check_whole(c, errors);
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
		config_error(errors, "%.300s: no memory to read it", path);
		return ERR_NOMEM;
	}
	*copy = *c;
	check_volumes_dir(c, errors);
	read_volume_file(copy, path, name, out, errors);
	free(copy);
	for (unsigned i = 0; i < c->volume_count; i++)
		if (strcmp(c->volumes[i].name, name) != 0)
			config_check_pair(&c->volumes[i], out, errors);
	config_check_own_device(out, out, errors);
	return errors->count == 0 ? 0 : ERR_CONFIG;
}
