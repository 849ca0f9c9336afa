/* The kinds of values: what a number, a duration, a path or a user looks like, and the error for one that does not. */
#include "config_reader.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void __attribute__((format(printf, 2, 3))) config_error(struct config_errors *e, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (e->count < CONFIG_ERRORS_MAX)
		vsnprintf(e->line[e->count], sizeof e->line[0], format, args);
	e->count++;
	va_end(args);
}

bool __attribute__((format(printf, 2, 3))) config_wrong(struct reader *r, const char *format, ...)
{
	char what[PATH_MAX_BYTES - 100];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof what, format, args);
	va_end(args);
	config_error(r->errors, "%.200s:%u: %.300s", r->path, r->line, what);
	return false;
}

bool value_number(const char *text, uint64_t *number, const char **rest)
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

	if (!value_number(text, &n, &unit))
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

	if (!value_number(text, &n, &unit))
		return false;
	if (unit[0] != '\0') {
		const char *at = strchr(letters, unit[0]);

		if (at == NULL || (unit[1] != '\0' && strcmp(unit + 1, "iB") != 0))
			return false;
		shift = 10 * (uint64_t)(at - letters + 1);
	}
	return !__builtin_mul_overflow(n, UINT64_C(1) << shift, bytes) && *bytes <= INT64_MAX;
}

bool value_text(struct reader *r, const char *key, const char *value, char *out, size_t size)
{
	if (value[0] == '\0')
		return config_wrong(r, "%s is empty; give a value or leave the line out", key);
	if (strlen(value) >= size)
		return config_wrong(r, "%s is longer than %zu bytes; shorten it", key, size - 1);
	strcpy(out, value);
	return true;
}

bool value_path(struct reader *r, const char *key, const char *value, char *out, size_t size)
{
	if (value[0] != '/')
		return config_wrong(r, "%s = %.200s is not an absolute path; begin it with /", key, value);
	return value_text(r, key, value, out, size);
}

bool value_duration(struct reader *r, const char *key, const char *value, uint64_t *ns, uint64_t low, uint64_t high)
{
	if (!config_parse_duration(value, ns))
		return config_wrong(r, "%s = %.100s is not a duration; write e.g. 500ms, 3s, 5m or 24h", key, value);
	if (*ns < low || *ns > high)
		return config_wrong(r, "%s = %.100s is out of bounds; choose from %llums to %llus", key, value,
				    (unsigned long long)(low / 1000000), (unsigned long long)(high / SECOND));
	return true;
}

bool value_choice(struct reader *r, const char *key, const char *value, const char *const *words, unsigned *which)
{
	char all[100] = "";

	for (unsigned i = 0; words[i] != NULL; i++) {
		if (strcmp(value, words[i]) == 0) {
			*which = i;
			return true;
		}
		snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", words[i]);
	}
	return config_wrong(r, "%s = %.100s is not known; choose from: %s", key, value, all);
}

bool value_count(struct reader *r, const char *key, const char *v, uint32_t *out, uint32_t high, uint32_t usual)
{
	const char *rest;
	uint64_t n;

	if (!value_number(v, &n, &rest) || rest[0] != '\0' || n < 1 || n > high)
		return config_wrong(r, "%s = %.100s is not a number from 1 to %u; %u is the default", key, v, high, usual);
	*out = (uint32_t)n;
	return true;
}

bool value_yes_or_no(struct reader *r, const char *key, const char *v, bool *out)
{
	static const char *const words[] = { "no", "yes", NULL };
	unsigned which = 0;

	if (!value_choice(r, key, v, words, &which))
		return false;
	*out = which == 1;
	return true;
}

bool value_user(struct reader *r, const char *key, const char *value, struct config_user *out)
{
	char *end;
	unsigned long n;
	struct passwd *p;

	if (value[0] == '\0')
		return true; /* keep the supervisor's own */
	if (geteuid() != 0)
		return config_wrong(r, "%s: only root can give its children users of their own; start as root or leave it empty",
				    key);
	n = strtoul(value, &end, 10);
	if (*end == '\0' && n > 0 && n < UINT32_MAX) {
		*out = (struct config_user){ true, (uid_t)n, (gid_t)n };
		return true;
	}
	p = getpwnam(value);
	if (p == NULL)
		return config_wrong(r, "%s: there is no user %.100s; create it, or name another", key, value);
	if (p->pw_uid == 0)
		return config_wrong(r, "%s: root is no user to drop to; name another", key);
	*out = (struct config_user){ true, p->pw_uid, p->pw_gid };
	return true;
}

bool value_address(const char *text, char *address, size_t size, uint16_t *port)
{
	const char *colon = strrchr(text, ':');
	unsigned char binary[16];
	const char *rest;
	uint64_t n;
	size_t length;

	if (colon == NULL || !value_number(colon + 1, &n, &rest) || rest[0] != '\0' || n == 0 || n > 65535)
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

/* What is run with the agent's rights, or told what it knows, is nobody else's to write. */
bool value_program(struct reader *r, const char *key, const char *value, char *out, size_t size)
{
	struct stat st;

	if (!value_path(r, key, value, out, size))
		return false;
	if (stat(value, &st) != 0 || !S_ISREG(st.st_mode) || access(value, X_OK) != 0)
		return config_wrong(r, "%s: %.200s is no program that can be run; correct the path", key, value);
	return ((st.st_uid == 0 || st.st_uid == geteuid()) && (st.st_mode & 022) == 0) ||
	       config_wrong(r, "%s: others may write to %.200s; chown it to root, chmod go-w", key, value);
}
