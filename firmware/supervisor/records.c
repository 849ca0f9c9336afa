/* Records as files under the state directory. A file is the body, then one line "mac=" with 64 hex digits. What must hold is in
 * records.h; the device key is wiped from memory only with the process, which holds it to judge every record. */
#include "records.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "fields.h"
#include "hal/entropy.h"
#include "hal/hash.h"

enum { MAC_LINE_BYTES = 4 + 2 * HASH_BYTES + 1 };

static const struct {
	const char *kind; /* in the MAC and in the KDF's label */
	const char *path; /* %s: the name */
} kinds[RECORD_KIND_COUNT] = {
	[RECORD_KEK] = { "kek", "keks/%s" },
	[RECORD_PIN] = { "pin", "keks/%s.pin" },
	[RECORD_SEALED] = { "sealed", "keks/%s.sealed" },
	[RECORD_ANCHOR] = { "anchor", "gates/%s.anchor" },
	[RECORD_VOLUME] = { "volume", "volumes/%s" },
	[RECORD_GATE] = { "gate", "gates/%s" },
	[RECORD_CREDENTIALS] = { "credentials", "%s" },
	[RECORD_CLOCK] = { "clock", "%s" },
	[RECORD_WATCHDOG] = { "watchdog", "%s" },
};

/* ---- directory and device key ---- */

static int make_dirs(const char *state_dir)
{
	static const char *const below[] = { "keks", "volumes", "gates" };
	char path[PATH_MAX_BYTES + 16];

	if (mkdir(state_dir, 0700) != 0 && errno != EEXIST)
		return error_from_errno(errno);
	for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", state_dir, below[i]);
		if (mkdir(path, 0700) != 0 && errno != EEXIST)
			return error_from_errno(errno);
	}
	return 0;
}

static int read_all(int fd, char *out, size_t size, size_t *got)
{
	*got = 0;
	while (*got < size) {
		ssize_t n = read(fd, out + *got, size - *got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ERR_IO;
		if (n == 0)
			return 0;
		*got += (size_t)n;
	}
	return ERR_RANGE;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? error_from_errno(errno) : ERR_IO;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

/* The directory that `path` stands in is made durable too: else the rename is not. */
static int sync_parent(int dir_fd, const char *path)
{
	char parent[PATH_MAX_BYTES];
	const char *slash = strrchr(path, '/');
	int fd, r;

	snprintf(parent, sizeof parent, "%.*s", slash != NULL ? (int)(slash - path) : 1, slash != NULL ? path : ".");
	fd = openat(dir_fd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_from_errno(errno);
	r = fsync(fd) == 0 ? 0 : ERR_IO;
	close(fd);
	return r;
}

static int replace_alone(int dir_fd, const char *path, const char *data, size_t size)
{
	char temporary[PATH_MAX_BYTES];
	int fd, r;

	snprintf(temporary, sizeof temporary, "%s.new", path);
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_from_errno(errno);
	r = write_all(fd, data, size);
	if (r == 0 && fsync(fd) != 0)
		r = error_from_errno(errno);
	close(fd);
	if (r == 0 && renameat(dir_fd, temporary, dir_fd, path) != 0)
		r = error_from_errno(errno);
	if (r != 0) {
		unlinkat(dir_fd, temporary, 0);
		return r;
	}
	return sync_parent(dir_fd, path);
}

/* One at a time: two threads may write the same record (a volume that is adopted and latched at once), and what is not yet in its
 * place has one name. */
static int replace_file(int dir_fd, const char *path, const char *data, size_t size)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	int r;

	pthread_mutex_lock(&lock);
	r = replace_alone(dir_fd, path, data, size);
	pthread_mutex_unlock(&lock);
	return r;
}

static int device_key(struct records *r, bool create)
{
	char bytes[DEVICE_KEY_BYTES + 1];
	size_t got = 0;
	int fd = openat(r->dir_fd, "device.key", O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW), e;

	if (fd < 0 && errno != ENOENT)
		return error_from_errno(errno);
	if (fd < 0) {
		if (!create)
			return ERR_NOT_FOUND;
		if (faccessat(r->dir_fd, "ledger", F_OK, 0) == 0) /* it was there: the records are of an agent that ran */
			log_error("device.key was missing and is made anew: every record of before is refused; stop the agent, "
				  "put the device.key of a backup there, start it again");
		e = entropy_fill(r->device_key, sizeof r->device_key);
		return e == 0 ? replace_file(r->dir_fd, "device.key", (const char *)r->device_key, sizeof r->device_key) : e;
	}
	e = read_all(fd, bytes, sizeof bytes, &got);
	close(fd);
	if (e != 0 || got != DEVICE_KEY_BYTES)
		return e == ERR_IO ? ERR_IO : ERR_CORRUPT;
	memcpy(r->device_key, bytes, DEVICE_KEY_BYTES);
	explicit_bzero(bytes, sizeof bytes);
	return 0;
}

int records_open(struct records *r, const char *state_dir, bool create)
{
	struct stat st;
	int e = create ? make_dirs(state_dir) : 0;

	r->dir_fd = -1;
	if (e == 0) {
		r->dir_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		e = r->dir_fd < 0 ? error_from_errno(errno) : 0;
	}
	if (e == 0 && (fstat(r->dir_fd, &st) != 0 || st.st_uid != geteuid() || (st.st_mode & 077) != 0)) {
		log_error("state directory %s: others may enter it, or it is not this user's; chown and chmod 0700 it",
			  state_dir);
		e = ERR_DENIED;
	} else if (e == 0 && create && flock(r->dir_fd, LOCK_EX | LOCK_NB) != 0) {
		/* two that write the same gates would undo each other's latches */
		log_error("state directory %s: another agent uses it; stop that one, or give this one a state_dir of its own",
			  state_dir);
		e = ERR_BUSY;
	} else if (e == 0) {
		e = device_key(r, create);
		if (e != 0 && e != ERR_NOT_FOUND)
			log_error("%s/device.key: %s; %s", state_dir, error_text(e),
				  e == ERR_CORRUPT ? "put the 32 bytes of a backup there, or start with an empty state directory"
				  : e == ERR_NOSPACE
					  ? "free some room there: the agent writes its records and its ledger to this directory"
					  : "the agent must be able to write to this directory");
	} else if (e != ERR_NOT_FOUND || create) {
		log_error("state directory %s: %s; make it, mode 0700, where this user can write, or name another (state_dir)",
			  state_dir, strerror(errno));
	}
	if (e != 0)
		records_close(r);
	return e;
}

void records_close(struct records *r)
{
	if (r->dir_fd >= 0)
		close(r->dir_fd);
	explicit_bzero(r, sizeof *r);
	r->dir_fd = -1;
}

/* ---- bodies ---- */

static void mac_line(const struct records *r, enum record_kind kind, const char *name, const char *body, size_t size,
		     char line[MAC_LINE_BYTES + 1])
{
	uint8_t key[HASH_BYTES], mac[HASH_BYTES];
	const struct hash_part parts[] = {
		{ kinds[kind].kind, strlen(kinds[kind].kind) + 1 },
		{ name, strlen(name) + 1 },
		{ body, size },
	};

	hash_kdf(key, r->device_key, "FGV1 record", kinds[kind].kind, strlen(kinds[kind].kind));
	hash_hmac(mac, key, sizeof key, parts, sizeof parts / sizeof parts[0]);
	explicit_bzero(key, sizeof key);
	memcpy(line, "mac=", 4);
	hex_write(line + 4, mac, sizeof mac);
	memcpy(line + MAC_LINE_BYTES - 1, "\n", 2);
}

static void record_path(enum record_kind kind, const char *name, char *out, size_t size)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(out, size, kinds[kind].path, name);
#pragma GCC diagnostic pop
}

int records_read(const struct records *r, enum record_kind kind, const char *name, char *body, size_t size)
{
	char path[128], line[MAC_LINE_BYTES + 1];
	size_t got;
	int fd, e;

	record_path(kind, name, path, sizeof path);
	/* a FIFO is no record, and is not waited for */
	fd = openat(r->dir_fd, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? ERR_NOT_FOUND : errno == ELOOP ? ERR_CORRUPT : ERR_IO;
	e = read_all(fd, body, size, &got);
	close(fd);
	if (e != 0 || got < MAC_LINE_BYTES)
		return e == ERR_IO ? ERR_IO : ERR_CORRUPT;
	got -= MAC_LINE_BYTES;
	mac_line(r, kind, name, body, got, line);
	e = compare_secret(line, body + got, MAC_LINE_BYTES) == 0 && memchr(body, '\0', got) == NULL ? 0 : ERR_CORRUPT;
	explicit_bzero(line, sizeof line);
	body[e == 0 ? got : 0] = '\0';
	return e;
}

int records_write(const struct records *r, enum record_kind kind, const char *name, const char *body)
{
	char path[128], file[RECORD_MAX_BYTES];
	size_t size = strlen(body);
	int e;

	if (size + MAC_LINE_BYTES + 1 > sizeof file)
		return ERR_RANGE;
	record_path(kind, name, path, sizeof path);
	memcpy(file, body, size);
	mac_line(r, kind, name, body, size, file + size);
	e = replace_file(r->dir_fd, path, file, size + MAC_LINE_BYTES);
	explicit_bzero(file, size + MAC_LINE_BYTES);
	if (e != 0)
		log_error("record %s: cannot be written: %s; see the state directory's file system", path, error_text(e));
	return e;
}

/* ---- what stands in them ---- */

#define AT(s, f)         .at = (uint16_t)offsetof(struct s, f)
#define ARRAY(s, f)      AT(s, f), .size = (uint16_t)sizeof(((struct s *)0)->f)
#define COUNTED(s, f, n) ARRAY(s, f), .count_at = (uint16_t)offsetof(struct s, n)

/* clang-format off */
static const struct field_row gate_fields[] = {
	{ .key = "latched",       .type = FIELD_BOOL, AT(gate_record, latched) },
	{ .key = "latch_cause",   .type = FIELD_ENUM, AT(gate_record, latch_cause), .max = CAUSE_COUNT - 1 },
	{ .key = "seq",           .type = FIELD_U64,  AT(gate_record, seq) },
	{ .key = "attach_wanted", .type = FIELD_BOOL, AT(gate_record, attach_wanted) },
	{ .key = "purged",        .type = FIELD_BOOL, AT(gate_record, purged) },
	{ .key = "purge_at_ns",   .type = FIELD_U64,  AT(gate_record, purge_at_ns) },
	{ .key = NULL },
};

static const struct field_row volume_fields[] = {
	{ .key = "uuid",          .type = FIELD_HEX,  ARRAY(volume_record, uuid) },
	{ .key = "kcv",           .type = FIELD_HEX,  ARRAY(volume_record, kcv) },
	{ .key = "gen_no",        .type = FIELD_U32,  AT(volume_record, gen_no) },
	{ .key = "size",          .type = FIELD_U64,  AT(volume_record, size) },
	{ .key = "kek",           .type = FIELD_TEXT, ARRAY(volume_record, kek) },
	{ .key = "fingerprint",   .type = FIELD_HEX,  ARRAY(volume_record, fingerprint) },
	{ .key = NULL },
};

static const struct field_row kek_fields[] = {
	{ .key = "type",          .type = FIELD_U8,    AT(kek_record, type), .max = KEK_RSA_OAEP },
	{ .key = "hash",          .type = FIELD_U8,    AT(kek_record, hash), .max = OAEP_SHA1 },
	{ .key = "bits",          .type = FIELD_U16,   AT(kek_record, bits) },
	{ .key = "modulus_size",  .type = FIELD_U16,   AT(kek_record, modulus_size), .max = MODULUS_MAX_BYTES },
	{ .key = "modulus",       .type = FIELD_HEX_N, COUNTED(kek_record, modulus, modulus_size) },
	{ .key = "exponent_size", .type = FIELD_U16,   AT(kek_record, exponent_size), .max = 8 },
	{ .key = "exponent",      .type = FIELD_HEX_N, COUNTED(kek_record, exponent, exponent_size) },
	{ .key = "canary_size",   .type = FIELD_U16,   AT(kek_record, canary_size), .max = WRAP_MAX_BYTES },
	{ .key = "canary",        .type = FIELD_HEX_N, COUNTED(kek_record, canary, canary_size) },
	{ .key = "fingerprint",   .type = FIELD_HEX,   ARRAY(kek_record, fingerprint) },
	{ .key = "label",         .type = FIELD_TEXT,  ARRAY(kek_record, label) },
	{ .key = "id_size",       .type = FIELD_U16,   AT(kek_record, id_size), .max = 62 },
	{ .key = "id",            .type = FIELD_HEX_N, COUNTED(kek_record, id, id_size) },
	{ .key = "token_label",   .type = FIELD_TEXT,  ARRAY(kek_record, token_label) },
	{ .key = NULL },
};

struct clock_record {
	uint64_t last_seen_ns;
};

static const struct field_row clock_fields[] = {
	{ .key = "last_seen_ns",  .type = FIELD_U64,  AT(clock_record, last_seen_ns) },
	{ .key = NULL },
};

static const struct field_row watchdog_fields[] = {
	{ .key = "boot_id",       .type = FIELD_TEXT, ARRAY(watchdog_record, boot_id) },
	{ .key = "resets",        .type = FIELD_U32,  AT(watchdog_record, resets) },
	{ .key = "armed_wall_ns", .type = FIELD_U64,  AT(watchdog_record, armed_wall_ns) },
	{ .key = NULL },
};

static const struct field_row pin_fields[] = {
	{ .key = "state",         .type = FIELD_ENUM, AT(pin_record, state), .max = PIN_STATE_COUNT - 1 },
	{ .key = "inode",         .type = FIELD_U64,  AT(pin_record, inode) },
	{ .key = "size",          .type = FIELD_U64,  AT(pin_record, size) },
	{ .key = "mtime_ns",      .type = FIELD_U64,  AT(pin_record, mtime_ns) },
	{ .key = NULL },
};

static const struct field_row anchor_fields[] = {
	{ .key = "state",         .type = FIELD_ENUM,  AT(anchor_record, state), .max = ANCHOR_STATE_COUNT - 1 },
	{ .key = "uuid",          .type = FIELD_HEX,   ARRAY(anchor_record, uuid) },
	{ .key = "index",         .type = FIELD_U32,   AT(anchor_record, index) },
	{ .key = NULL },
};

static const struct field_row sealed_fields[] = {
	{ .key = "size",          .type = FIELD_U16,   AT(sealed_record, size), .max = SEALED_MAX_BYTES },
	{ .key = "blob",          .type = FIELD_HEX_N, COUNTED(sealed_record, blob, size) },
	{ .key = NULL },
};
/* clang-format on */

enum { BODY_BYTES = 8192 }; /* the longest: a KEK's, about 3 KiB */

static int read_fields(const struct records *r, enum record_kind kind, const char *name, const struct field_row *rows, void *out,
		       size_t out_size)
{
	char body[BODY_BYTES];
	int e = records_read(r, kind, name, body, sizeof body);

	memset(out, 0, out_size);
	if (e == 0 && !fields_read(rows, out, body))
		e = ERR_CORRUPT;
	if (e == ERR_CORRUPT)
		log_error("record of %s %s: not what this device wrote there; it is not believed", kinds[kind].kind, name);
	if (e != 0)
		memset(out, 0, out_size);
	return e;
}

static int write_fields(const struct records *r, enum record_kind kind, const char *name, const struct field_row *rows,
			const void *in)
{
	char body[BODY_BYTES];

	return fields_write(rows, in, body, sizeof body) ? records_write(r, kind, name, body) : ERR_RANGE;
}

uint64_t records_read_clock(const struct records *r)
{
	struct clock_record c;

	return read_fields(r, RECORD_CLOCK, "clock", clock_fields, &c, sizeof c) == 0 ? c.last_seen_ns : 0;
}

int records_write_clock(const struct records *r, uint64_t last_seen_ns)
{
	return write_fields(r, RECORD_CLOCK, "clock", clock_fields, &(struct clock_record){ last_seen_ns });
}

int records_read_watchdog(const struct records *r, struct watchdog_record *out)
{
	return read_fields(r, RECORD_WATCHDOG, "watchdog", watchdog_fields, out, sizeof *out);
}

int records_write_watchdog(const struct records *r, const struct watchdog_record *in)
{
	return write_fields(r, RECORD_WATCHDOG, "watchdog", watchdog_fields, in);
}

int records_read_gate(const struct records *r, const char *name, struct gate_record *out)
{
	return read_fields(r, RECORD_GATE, name, gate_fields, out, sizeof *out);
}

int records_write_gate(const struct records *r, const char *name, const struct gate_record *in)
{
	return write_fields(r, RECORD_GATE, name, gate_fields, in);
}

int records_read_volume(const struct records *r, const char *name, struct volume_record *out)
{
	return read_fields(r, RECORD_VOLUME, name, volume_fields, out, sizeof *out);
}

int records_write_volume(const struct records *r, const char *name, const struct volume_record *in)
{
	return write_fields(r, RECORD_VOLUME, name, volume_fields, in);
}

int records_read_kek(const struct records *r, const char *name, struct kek_record *out)
{
	return read_fields(r, RECORD_KEK, name, kek_fields, out, sizeof *out);
}

int records_write_kek(const struct records *r, const char *name, const struct kek_record *in)
{
	return write_fields(r, RECORD_KEK, name, kek_fields, in);
}

int records_read_pin(const struct records *r, const char *name, struct pin_record *out)
{
	return read_fields(r, RECORD_PIN, name, pin_fields, out, sizeof *out);
}

int records_write_pin(const struct records *r, const char *name, const struct pin_record *in)
{
	return write_fields(r, RECORD_PIN, name, pin_fields, in);
}

int records_read_anchor(const struct records *r, const char *name, struct anchor_record *out)
{
	return read_fields(r, RECORD_ANCHOR, name, anchor_fields, out, sizeof *out);
}

int records_write_anchor(const struct records *r, const char *name, const struct anchor_record *in)
{
	return write_fields(r, RECORD_ANCHOR, name, anchor_fields, in);
}

int records_read_sealed(const struct records *r, const char *name, struct sealed_record *out)
{
	return read_fields(r, RECORD_SEALED, name, sealed_fields, out, sizeof *out);
}

int records_write_sealed(const struct records *r, const char *name, const struct sealed_record *in)
{
	return write_fields(r, RECORD_SEALED, name, sealed_fields, in);
}

void records_each_volume(const struct records *r, void (*fn)(void *context, const char *name), void *context)
{
	int fd = openat(r->dir_fd, "volumes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

	if (dir == NULL) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *d = readdir(dir); d != NULL; d = readdir(dir))
		if (message_name_good(d->d_name))
			fn(context, d->d_name);
	closedir(dir);
}
