/* See ledger.h. The MAC of line n is over the MAC of line n-1 and the text of line n up to its own "mac" member. */
#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "fields.h"
#include "hal/hash.h"

static const char mac_member[] = ",\"mac\":\"";

static void chain_mac(const uint8_t key[HASH_BYTES], const uint8_t before[LEDGER_MAC_BYTES], const char *text, size_t size,
		      uint8_t out[LEDGER_MAC_BYTES])
{
	hash_hmac(out, key, HASH_BYTES, (const struct hash_part[]){ { before, LEDGER_MAC_BYTES }, { text, size } }, 2);
}

static void ledger_key(uint8_t out[HASH_BYTES], const struct records *r)
{
	hash_kdf(out, r->device_key, "FGV1 ledger", "", 0);
}

/* Splits a line (without newline) into what the MAC is over and the MAC. false: not of this form. */
static bool split_line(const char *line, size_t length, size_t *text, uint8_t mac[LEDGER_MAC_BYTES])
{
	const size_t tail = sizeof mac_member - 1 + 2 * LEDGER_MAC_BYTES + 2;
	char hex[2 * LEDGER_MAC_BYTES + 1];

	if (length <= tail || memcmp(line + length - tail, mac_member, sizeof mac_member - 1) != 0 ||
	    memcmp(line + length - 2, "\"}", 2) != 0)
		return false;
	memcpy(hex, line + length - 2 - 2 * LEDGER_MAC_BYTES, 2 * LEDGER_MAC_BYTES);
	hex[2 * LEDGER_MAC_BYTES] = '\0';
	*text = length - tail;
	return hex_read(mac, LEDGER_MAC_BYTES, hex);
}

static uint64_t time_of(const char *line)
{
	const char *at = strstr(line, "\"time\":\"");
	struct tm t = { 0 };

	if (at == NULL || strptime(at + 8, "%Y-%m-%dT%H:%M:%S", &t) == NULL)
		return 0;
	return (uint64_t)timegm(&t) * 1000000000u;
}

/* The last 4 KiB hold the last line. */
static int find_end(struct ledger *l)
{
	char tail[2 * LEDGER_LINE_BYTES + 1];
	off_t end = lseek(l->fd, 0, SEEK_END), from;
	size_t text, length;
	ssize_t got;
	char *line;

	if (end <= 0)
		return end < 0 ? ERR_IO : 0;
	from = end > 2 * LEDGER_LINE_BYTES ? end - 2 * LEDGER_LINE_BYTES : 0;
	got = pread(l->fd, tail, 2 * LEDGER_LINE_BYTES, from);
	if (got <= 0)
		return ERR_IO;
	tail[got] = '\0';
	if (tail[got - 1] != '\n') { /* torn by a power cut: closed, so that the next line is whole */
		log_warning("ledger: the last line is torn; it stays, and the next begins after it");
		if (write(l->fd, "\n", 1) != 1)
			return ERR_IO;
		while (got > 0 && tail[got - 1] != '\n')
			got--;
		if (got == 0)
			return from == 0 ? 0 : ERR_CORRUPT;
	}
	tail[got - 1] = '\0';
	line = strrchr(tail, '\n');
	line = line != NULL ? line + 1 : tail;
	length = strlen(line);
	if (sscanf(line, "{\"seq\":%" SCNu64 ",", &l->seq) != 1 || !split_line(line, length, &text, l->chain))
		return ERR_CORRUPT;
	l->last_wall_ns = time_of(line);
	return 0;
}

int ledger_open(struct ledger *l, const struct records *r)
{
	int e;

	*l = (struct ledger){ .fd = openat(r->dir_fd, "ledger", O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) };
	if (l->fd < 0) {
		log_error("ledger: cannot be opened: %s; see the state directory", strerror(errno));
		return ERR_IO;
	}
	ledger_key(l->key, r);
	e = find_end(l);
	if (e != 0)
		log_error("ledger: its end is not as this device wrote it (%s); a new chain begins here", error_text(e));
	return e;
}

void ledger_close(struct ledger *l)
{
	if (l->fd >= 0)
		close(l->fd);
	explicit_bzero(l, sizeof *l);
	l->fd = -1;
}

/* JSON text without surprises: printable ASCII, quotes and backslashes escaped. */
static void put_text(char *out, size_t size, const char *key, const char *in)
{
	size_t n = strlen(out);

	n += (size_t)snprintf(out + n, size - n, ",\"%s\":\"", key);
	for (; *in != '\0' && n + 4 < size; in++) {
		if (*in == '"' || *in == '\\')
			out[n++] = '\\';
		out[n++] = *in >= ' ' && *in <= '~' ? *in : '?';
	}
	snprintf(out + n, size - n, "\"");
}

static void put_number(char *out, size_t size, const char *key, uint64_t value)
{
	size_t n = strlen(out);

	snprintf(out + n, size - n, ",\"%s\":%llu", key, (unsigned long long)value);
}

static void put_time(char *out, size_t size, uint64_t wall_ns)
{
	time_t seconds = (time_t)(wall_ns / 1000000000u);
	char text[40];
	struct tm t;

	gmtime_r(&seconds, &t);
	strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &t);
	snprintf(text + strlen(text), sizeof text - strlen(text), ".%03uZ", (unsigned)(wall_ns / 1000000u % 1000u));
	put_text(out, size, "time", text);
}

static void write_line(const struct ledger_entry *e, uint64_t seq, char *out, size_t size)
{
	snprintf(out, size, "{\"seq\":%llu", (unsigned long long)seq);
	put_time(out, size, e->wall_ns);
	put_number(out, size, "boot_ns", e->boot_ns);
	if (e->volume[0] != '\0')
		put_text(out, size, "volume", e->volume);
	put_text(out, size, "event", e->event);
	if (e->to[0] != '\0') {
		put_text(out, size, "from", e->from);
		put_text(out, size, "to", e->to);
		put_text(out, size, "cause", e->cause);
		snprintf(out + strlen(out), size - strlen(out), ",\"latched\":%s", e->latched ? "true" : "false");
		put_number(out, size, "gate_seq", e->gate_seq);
	}
	if (e->identity[0] != '\0')
		put_text(out, size, "identity", e->identity);
	if (e->detected_ns != 0)
		put_number(out, size, "detected_ns", e->detected_ns);
	if (e->cut_ns != 0)
		put_number(out, size, "cut_ns", e->cut_ns);
	if (e->wiped_ns != 0)
		put_number(out, size, "wiped_ns", e->wiped_ns);
	if (e->drained_ns != 0) {
		put_number(out, size, "drained_ns", e->drained_ns);
		put_text(out, size, "drain", error_name(e->drain_error));
	}
	if (e->alert_sequence != 0)
		put_number(out, size, "alert_sequence", e->alert_sequence);
	if (e->order_sequence != 0)
		put_number(out, size, "order_sequence", e->order_sequence);
	if (e->text[0] != '\0')
		put_text(out, size, "text", e->text);
}

/* Half a line would spoil the one that comes behind it. One that may not be durable goes too: the chain is that of before. */
static int put_line(struct ledger *l, const char *line, size_t size)
{
	const off_t end = lseek(l->fd, 0, SEEK_END);
	ssize_t written;
	int r;

	do
		written = write(l->fd, line, size);
	while (written < 0 && errno == EINTR);
	if (written == (ssize_t)size && fdatasync(l->fd) == 0)
		return 0;
	r = written >= 0 && written != (ssize_t)size ? ERR_NOSPACE : error_from_errno(errno);
	log_error("ledger: a line could not be made durable: %s; make room in the state directory",
		  strerror(r == ERR_NOSPACE ? ENOSPC : errno));
	if (written > 0 && end >= 0 && ftruncate(l->fd, end) != 0 && write(l->fd, "\n", 1) != 1)
		log_error("ledger: half a line stays in it: %s", strerror(errno));
	return r;
}

static int append(struct ledger *l, const struct ledger_entry *e)
{
	char line[LEDGER_LINE_BYTES], hex[2 * LEDGER_MAC_BYTES + 1];
	uint8_t mac[LEDGER_MAC_BYTES];
	size_t size;
	int r;

	/* room is kept for the MAC: texts are bounded far below a line */
	write_line(e, l->seq + 1, line, sizeof line - sizeof mac_member - sizeof hex - 4);
	chain_mac(l->key, l->chain, line, strlen(line), mac);
	hex_write(hex, mac, sizeof mac);
	size = strlen(line);
	size += (size_t)snprintf(line + size, sizeof line - size, "%s%s\"}\n", mac_member, hex);
	r = put_line(l, line, size);
	if (r != 0)
		return r;
	memcpy(l->chain, mac, sizeof mac);
	l->seq++;
	return 0;
}

/* Whoever reads the ledger sees that it is not whole, and where. */
static int tell_lost(struct ledger *l, const struct ledger_entry *next)
{
	struct ledger_entry e = { .event = "lines-lost", .wall_ns = next->wall_ns, .boot_ns = next->boot_ns };
	int r;

	snprintf(e.text, sizeof e.text, "%llu lines before this one are missing: the disk did not take them",
		 (unsigned long long)l->lost);
	r = append(l, &e);
	if (r == 0)
		l->lost = 0;
	return r;
}

int ledger_append(struct ledger *l, const struct ledger_entry *e)
{
	int r = l->lost != 0 ? tell_lost(l, e) : 0;

	if (r == 0)
		r = append(l, e);
	if (r != 0)
		l->lost++;
	return r;
}

int64_t ledger_verify(const struct records *r, uint64_t *bad)
{
	uint8_t key[HASH_BYTES], chain[LEDGER_MAC_BYTES] = { 0 }, said[LEDGER_MAC_BYTES], mac[LEDGER_MAC_BYTES];
	int fd = openat(r->dir_fd, "ledger", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
	char line[LEDGER_LINE_BYTES + 2];
	int64_t good = 0;
	size_t text;

	if (f == NULL)
		return ERR_IO;
	ledger_key(key, r);
	while (good >= 0 && fgets(line, sizeof line, f) != NULL) {
		size_t length = strcspn(line, "\n");

		if (!split_line(line, length, &text, said)) {
			*bad = (uint64_t)good + 1;
			good = ERR_CORRUPT;
			break;
		}
		chain_mac(key, chain, line, text, mac);
		if (line[length] != '\n' || compare_secret(mac, said, sizeof mac) != 0) {
			*bad = (uint64_t)good + 1;
			good = ERR_CORRUPT;
			break;
		}
		memcpy(chain, said, sizeof chain);
		good++;
	}
	explicit_bzero(key, sizeof key);
	fclose(f);
	return good;
}
