/* Read through inih from a descriptor whose mode and owner were looked at; written beside its place and renamed into it. */
#include "credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ini.h>

#include "base/error.h"

struct reading {
	struct credentials *c;
	unsigned seen;     /* one bit for each key */
	const char *wrong; /* the key that is not as it must be */
};

int credentials_path(char out[static CREDENTIALS_PATH_MAX], const char *given, char *text, size_t size)
{
	const char *named = given != NULL ? given : getenv("FALLGATE_CREDENTIALS");
	const char *home = getenv("HOME");
	int n;

	if (named != NULL && named[0] != '\0')
		n = snprintf(out, CREDENTIALS_PATH_MAX, "%s", named);
	else if (home != NULL && home[0] == '/')
		n = snprintf(out, CREDENTIALS_PATH_MAX, "%s/.config/fallgate/credentials", home);
	else
		n = -1;
	if (n > 0 && n < CREDENTIALS_PATH_MAX)
		return 0;
	snprintf(text, size, "there is no place to look for credentials (no HOME); name the file with --credentials");
	return ERR_CONFIG;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool read_key(unsigned char key[static PSK_BYTES], const char *hex)
{
	if (strlen(hex) != 2 * PSK_BYTES)
		return false;
	for (size_t i = 0; i < PSK_BYTES; i++) {
		int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		key[i] = (unsigned char)(high << 4 | low);
	}
	return true;
}

static bool read_text(char *out, size_t size, const char *value)
{
	return value[0] != '\0' && snprintf(out, size, "%s", value) < (int)size;
}

static int on_pair(void *context, const char *section, const char *name, const char *value)
{
	struct reading *r = context;
	bool good = false;
	unsigned bit = 0;

	if (strcmp(section, "agent") != 0)
		return 1;
	if (strcmp(name, "address") == 0) {
		bit = 1;
		good = read_text(r->c->address, sizeof r->c->address, value);
	} else if (strcmp(name, "identity") == 0) {
		bit = 2;
		good = read_text(r->c->identity, sizeof r->c->identity, value);
	} else if (strcmp(name, "key") == 0) {
		bit = 4;
		good = read_key(r->c->key, value);
	}
	if (bit == 0)
		return 1;
	if (!good || (r->seen & bit) != 0)
		r->wrong = bit == 1 ? "address" : bit == 2 ? "identity" : "key (64 hexadecimal digits)";
	r->seen |= bit;
	return 1;
}

static int check_file(int fd, const char *path, char *text, size_t size)
{
	struct stat s;

	if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
		snprintf(text, size, "%s is not a file", path);
		return ERR_DENIED;
	}
	if (s.st_uid != geteuid()) {
		snprintf(text, size, "%s belongs to user %u; own it (chown) or use your own credentials", path,
			 (unsigned)s.st_uid);
		return ERR_DENIED;
	}
	if ((s.st_mode & 077) != 0) {
		snprintf(text, size, "%s may be read by others; chmod 600 it, and enroll anew if somebody did", path);
		return ERR_DENIED;
	}
	return 0;
}

static int parse(struct credentials *c, FILE *file, const char *path, char *text, size_t size)
{
	struct reading r = { .c = c };
	int line = ini_parse_file(file, on_pair, &r);

	if (line > 0)
		snprintf(text, size, "%s:%d is not 'name = value'", path, line);
	else if (r.wrong != NULL)
		snprintf(text, size, "%s: %s is not as it must be; enroll at the console to make a new file", path, r.wrong);
	else if (line < 0 || r.seen != 7)
		snprintf(text, size, "%s: [agent] needs address, identity and key; enroll at the console to make a new file",
			 path);
	else
		return 0;
	return ERR_CONFIG;
}

int credentials_load(struct credentials *c, const char *path, char *text, size_t size)
{
	char buffer[512];
	FILE *file;
	int fd, error;

	memset(c, 0, sizeof *c);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		snprintf(text, size,
			 "no credentials in %s: %s; enroll at the agent's console, or name the file with --credentials", path,
			 strerror(errno));
		return error_from_errno(errno);
	}
	error = check_file(fd, path, text, size);
	file = error == 0 ? fdopen(fd, "r") : NULL;
	if (file == NULL) {
		close(fd);
		return error == 0 ? ERR_NOMEM : error;
	}
	setvbuf(file, buffer, _IOFBF, sizeof buffer);
	error = parse(c, file, path, text, size);
	fclose(file);
	explicit_bzero(buffer, sizeof buffer);
	if (error != 0)
		explicit_bzero(c, sizeof *c);
	return error;
}

/* The folders above the default place may not be there yet. */
static void make_folders(const char *path)
{
	char folder[CREDENTIALS_PATH_MAX];

	for (const char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
		mkdir(folder, 0700);
	}
}

int credentials_check_place(const char *path, bool force, char *text, size_t size)
{
	struct stat s;

	if (lstat(path, &s) != 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			return 0;
		snprintf(text, size, "%s: %s", path, strerror(errno));
		return error_from_errno(errno);
	}
	if (force && S_ISREG(s.st_mode))
		return 0;
	snprintf(text, size, "%s is there already; name another file with --out%s", path,
		 S_ISREG(s.st_mode) ? ", or overwrite it with --force" : "");
	return ERR_EXISTS;
}

/* The whole file in one write, so that no buffer is left with the key but this one. */
static int write_file(int fd, const struct credentials *c)
{
	char body[384];
	int n = snprintf(body, sizeof body,
			 "# Whoever reads this file acts as %s.\n[agent]\naddress = %s\nidentity = %s\nkey = ", c->identity,
			 c->address, c->identity);
	size_t used = (size_t)n;
	int error = 0;

	if (n < 0 || used + 2 * PSK_BYTES + 2 > sizeof body)
		return ERR_RANGE;
	for (size_t i = 0; i < PSK_BYTES; i++, used += 2)
		snprintf(body + used, 3, "%02x", c->key[i]);
	body[used++] = '\n';
	if (write(fd, body, used) != (ssize_t)used || fsync(fd) != 0)
		error = error_from_errno(errno);
	explicit_bzero(body, sizeof body);
	return error;
}

int credentials_save(const struct credentials *c, const char *path, bool force, char *text, size_t size)
{
	char beside[CREDENTIALS_PATH_MAX + 16];
	int error, fd;

	make_folders(path);
	snprintf(beside, sizeof beside, "%s.new-%d", path, (int)getpid());
	fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	error = fd < 0 ? error_from_errno(errno) : write_file(fd, c);
	if (fd >= 0)
		close(fd);
	/* link refuses to replace what is there; rename replaces it */
	if (error == 0 && (force ? rename(beside, path) : link(beside, path)) != 0)
		error = error_from_errno(errno);
	if (fd >= 0)
		unlink(beside);
	if (error != 0)
		snprintf(text, size, "%s cannot be written: %s", path, error_text(error));
	return error;
}
