/* The one entry of the offline verbs, and what they share. What must stay true is in offline.h; the verbs are in offline_*.c. */
#include "offline.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/block.h"
#include "offline_work.h"

/* clang-format off */
const struct offline_needs offline_needs[OFFLINE_VERBS] = {
	[OFFLINE_CHECK]          = { .name = "check", .key_helps = true, .input_helps = true },
	[OFFLINE_SCRUB]          = { .name = "scrub", .key = true, .key_helps = true, .writes = true },
	[OFFLINE_DUMP]           = { .name = "dump", .key_helps = true, .input_helps = true },
	[OFFLINE_REPAIR_HEADER]  = { .name = "repair-header", .key_helps = true, .writes = true },
	[OFFLINE_REPAIR_LOG]     = { .name = "repair-log", .key = true, .key_helps = true, .writes = true, .consent = true },
	[OFFLINE_SALVAGE]        = { .name = "salvage", .key = true, .key_helps = true, .output = true, .input_helps = true },
	[OFFLINE_HEADER_BACKUP]  = { .name = "header-backup", .key_helps = true, .output = true },
	[OFFLINE_HEADER_RESTORE] = { .name = "header-restore", .key_helps = true, .writes = true, .input = true, .consent = true },
};
/* clang-format on */

static offline_fn *const verbs[OFFLINE_VERBS] = {
	[OFFLINE_CHECK] = offline_check,
	[OFFLINE_SCRUB] = offline_scrub,
	[OFFLINE_DUMP] = offline_dump,
	[OFFLINE_REPAIR_HEADER] = offline_repair_header,
	[OFFLINE_REPAIR_LOG] = offline_repair_log,
	[OFFLINE_SALVAGE] = offline_salvage,
	[OFFLINE_HEADER_BACKUP] = offline_header_backup,
	[OFFLINE_HEADER_RESTORE] = offline_header_restore,
};

enum { STEP_BYTES = 4 << 20 };

/* --- findings ---------------------------------------------------------------------------------------------------------- */

static void count_finding(struct offline *w, enum offline_severity severity)
{
	if (severity == OFFLINE_MENDED)
		w->result->mended++;
	else if (severity == OFFLINE_REPAIRABLE)
		w->result->repairable++;
}

/* A volume that is damaged all over must not fill a disk with lines about it. */
static void put_line(struct offline *w, enum offline_severity severity, const char *text)
{
	char line[LINE_BYTES + 1];

	if (w->lines >= LINES_MAX) {
		w->unsaid++;
		return;
	}
	w->lines++;
	w->sink->say(w->sink->context, severity, log_printable(line, sizeof line, text));
}

static void end_stretch(struct offline *w)
{
	struct stretch_told *s = &w->stretch;
	char text[LINE_BYTES + 1];

	if (s->count == 0)
		return;
	if (s->count == 1)
		snprintf(text, sizeof text, "sector %llu: %s", (unsigned long long)s->first, s->what);
	else
		snprintf(text, sizeof text, "sectors %llu to %llu: %s", (unsigned long long)s->first,
			 (unsigned long long)(s->first + s->count - 1), s->what);
	s->count = 0;
	put_line(w, OFFLINE_LOSS, text);
}

void offline_say(struct offline *w, enum offline_severity severity, const char *format, ...)
{
	char text[LINE_BYTES + 1];
	va_list arguments;

	end_stretch(w);
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	count_finding(w, severity);
	put_line(w, severity, text);
}

void offline_lost(struct offline *w, uint64_t first, uint64_t count, const char *what)
{
	struct stretch_told *s = &w->stretch;

	w->result->lost += count;
	if (s->count > 0 && s->first + s->count == first && s->what == what) {
		s->count += count;
		return;
	}
	end_stretch(w);
	*s = (struct stretch_told){ .first = first, .count = count, .what = what };
}

static void end_findings(struct offline *w)
{
	char text[LINE_BYTES + 1];

	end_stretch(w);
	if (w->unsaid == 0)
		return;
	snprintf(text, sizeof text, "%llu more findings are counted and not shown", (unsigned long long)w->unsaid);
	w->sink->say(w->sink->context, OFFLINE_NOTE, text);
}

int offline_because(struct offline *w, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(w->why, w->why_size, format, arguments);
	va_end(arguments);
	return error;
}

/* --- progress ---------------------------------------------------------------------------------------------------------- */

static bool ring_is_shut(struct offline *w)
{
	uint8_t mac[32];

	return w->keys != NULL && w->header != NULL &&
	       keyring_header_mac(w->keys, mac, w->header->generations[w->header->active].gen_no, "", 0) == ERR_REVOKED;
}

static int tell(struct offline *w)
{
	w->told = w->done;
	if (w->sink->progress == NULL || w->sink->progress(w->sink->context, w->done, w->total))
		return 0;
	if (ring_is_shut(w))
		return offline_because(w, ERR_REVOKED, "the gate was shut: stopped");
	return offline_because(w, ERR_STATE, "stopped before its end");
}

void offline_expect(struct offline *w, uint64_t bytes)
{
	if (!add_u64(&w->total, w->total, bytes))
		w->total = UINT64_MAX;
}

int offline_step(struct offline *w, uint64_t bytes)
{
	if (!add_u64(&w->done, w->done, bytes) || w->done > w->total)
		w->done = w->total;
	return w->done - w->told >= STEP_BYTES ? tell(w) : 0;
}

/* --- reading ----------------------------------------------------------------------------------------------------------- */

char copy_name(unsigned copy)
{
	return copy == 0 ? 'A' : 'B';
}

int offline_read(struct offline *w, uint8_t *out, size_t count, uint64_t at, bool *good)
{
	bool whole = w->dev->ops->read(w->dev, out, count * SECTOR_BYTES, at) == 0;

	for (size_t i = 0; i < count; i++) {
		uint8_t *block = out + i * SECTOR_BYTES;

		good[i] = whole || w->dev->ops->read(w->dev, block, SECTOR_BYTES, at + i * SECTOR_BYTES) == 0;
		if (!good[i])
			memset(block, 0, SECTOR_BYTES);
	}
	return offline_step(w, count * SECTOR_BYTES);
}

bool block_blank(const uint8_t block[static SECTOR_BYTES])
{
	return block[0] == 0 && memcmp(block, block + 1, SECTOR_BYTES - 1) == 0;
}

bool node_decode_clear(struct node_clear *n, const uint8_t block[static SECTOR_BYTES], const uint8_t uuid[static UUID_BYTES])
{
	if (memcmp(block + 0x1C, "FGN1", 4) != 0 || memcmp(block + 0x38, uuid, UUID_BYTES) != 0 || !block_checksum_good(block))
		return false;
	memcpy(n->salt, block + 0x10, AEAD_SALT_BYTES);
	n->ctr = get_le64(block + 0x20);
	n->index = get_le64(block + 0x28);
	n->level = block[0x30];
	n->gen_ix = get_le16(block + 0x32);
	n->gen_no = get_le32(block + 0x34);
	return true;
}

/* --- headers ----------------------------------------------------------------------------------------------------------- */

/* The size of the device is not held against a header here: what is left of a shortened volume can still be had. */
static void read_copy(struct offline *w, unsigned copy, uint64_t at)
{
	struct header_pair *p = w->pair;

	if (at % SECTOR_BYTES != 0 || at > w->dev->size || w->dev->size - at < HEADER_BYTES) {
		snprintf(p->why[copy], sizeof p->why[copy], "it lies past the device's end");
		p->result[copy] = ERR_RANGE;
	} else if (w->dev->ops->read(w->dev, p->bytes[copy], HEADER_BYTES, at) < 0) {
		snprintf(p->why[copy], sizeof p->why[copy], "it cannot be read");
		p->result[copy] = ERR_IO;
	} else {
		p->result[copy] = header_decode_any(&p->header[copy], p->bytes[copy], INT64_MAX, w->o->test_geometry,
						    p->why[copy], sizeof p->why[copy]);
	}
	w->result->checked++;
}

static int read_backup(struct offline *w)
{
	size_t size = 0;
	char why[96];
	int r;

	w->backup = malloc(BACKUP_BYTES + 1);
	if (w->backup == NULL)
		return offline_because(w, ERR_NOMEM, "out of memory");
	for (ssize_t n = 1; n > 0 && size <= BACKUP_BYTES;) {
		n = read(w->o->input_fd, w->backup + size, BACKUP_BYTES + 1 - size);
		if (n < 0)
			return offline_because(w, ERR_IO, "the header backup cannot be read");
		size += (size_t)n;
	}
	r = backup_decode(&w->from_backup, w->backup, size, w->o->test_geometry, why, sizeof why);
	return r < 0 ? offline_because(w, r, "the header backup: %s", why) : 0;
}

static void go_by(struct offline *w, const struct header *h, const uint8_t *bytes)
{
	w->header = h;
	w->header_bytes = bytes;
}

static int none_usable(struct offline *w)
{
	const struct header_pair *p = w->pair;
	int r = ERR_CORRUPT;

	if (p->result[0] == ERR_FOREIGN && p->result[1] == ERR_FOREIGN)
		r = ERR_FOREIGN;
	else if (p->result[0] == ERR_IO && p->result[1] == ERR_IO)
		r = ERR_IO;
	return offline_because(w, r, "no header can be used (A: %s; B: %s)", p->why[0], p->why[1]);
}

int offline_headers(struct offline *w)
{
	struct header_pair *p = w->pair;
	unsigned better;
	int r = w->o->input_fd >= 0 ? read_backup(w) : 0;

	if (r < 0)
		return r;
	if (w->dev->size < 2 * (uint64_t)HEADER_BYTES)
		return offline_because(w, ERR_FOREIGN, "a device of %llu bytes is too small for any volume",
				       (unsigned long long)w->dev->size);
	read_copy(w, 0, 0);
	read_copy(w, 1, p->result[0] == 0 ? p->header[0].geometry.header_off[1] : w->dev->size - HEADER_BYTES);
	better = p->result[0] != 0 || (p->result[1] == 0 && p->header[1].seq > p->header[0].seq);
	if (w->backup != NULL && w->verb != OFFLINE_HEADER_RESTORE)
		go_by(w, &w->from_backup, w->backup + SECTOR_BYTES);
	else if (p->result[better] == 0)
		go_by(w, &p->header[better], p->bytes[better]);
	else
		return none_usable(w);
	return 0;
}

int offline_header_mac(struct offline *w, const struct header *h, const uint8_t *bytes)
{
	const struct generation *g = &h->generations[h->active];
	uint8_t kcv[KCV_BYTES], mac[32];
	int r = keyring_kcv(w->keys, kcv, g->gen_no);

	if (r < 0 || memcmp(kcv, g->kcv, KCV_BYTES) != 0 || (w->o->kcv != NULL && memcmp(w->o->kcv, g->kcv, KCV_BYTES) != 0))
		return ERR_FOREIGN;
	r = header_mac(w->keys, mac, g->gen_no, bytes);
	if (r < 0)
		return r;
	return compare_secret(mac, h->mac, sizeof mac) == 0 ? 0 : ERR_CORRUPT;
}

bool offline_named(const struct offline *w, const struct header *h)
{
	return w->root_result == 0 &&
	       (memcmp(w->root.header_hash[0], h->hash, 32) == 0 || memcmp(w->root.header_hash[1], h->hash, 32) == 0);
}

/* The engine's own choice: the better copy first, and one that is altered or that the root does not name gives way. */
static int choose(struct offline *w, unsigned better)
{
	int r = ERR_CORRUPT, fallback = ERR_CORRUPT;

	for (unsigned attempt = 0; attempt < COPIES; attempt++) {
		unsigned copy = attempt == 0 ? better : 1 - better;
		unsigned bad;

		if (w->pair->result[copy] != 0)
			continue;
		r = offline_header_mac(w, &w->pair->header[copy], w->pair->bytes[copy]);
		if (r == ERR_REVOKED)
			return r;
		if (r == 0) {
			const struct header *h = &w->pair->header[copy];

			w->root_result = roots_read(w->dev, w->keys, &h->geometry, h->uuid, &w->root, &bad);
			/* Where a volume lies does not change with its header: for salvage an old one will do. */
			if (w->root_result == 0 && !offline_named(w, h) && w->verb != OFFLINE_SALVAGE) {
				fallback = ERR_CORRUPT;
				continue;
			}
			go_by(w, h, w->pair->bytes[copy]);
			w->authentic = true;
			return 0;
		}
		if (r == ERR_FOREIGN)
			fallback = r;
	}
	return fallback;
}

int offline_authenticate(struct offline *w)
{
	unsigned better, bad;
	int r;

	if (w->header == &w->from_backup) {
		r = offline_header_mac(w, w->header, w->header_bytes);
		if (r == 0)
			w->root_result = roots_read(w->dev, w->keys, &w->header->geometry, w->header->uuid, &w->root, &bad);
		w->authentic = r == 0;
	} else {
		better = w->header == &w->pair->header[1];
		r = choose(w, better);
	}
	if (r == ERR_FOREIGN)
		return offline_because(w, r, "the header was not made with this key: another volume's header, or another key");
	if (r == ERR_CORRUPT)
		return offline_because(w, r, "no header is authentic and named by the newest root record");
	return r < 0 ? offline_because(w, r, "the header cannot be checked (%s)", error_text(r)) : 0;
}

int offline_put_header(struct offline *w, unsigned copy, const uint8_t *bytes)
{
	uint64_t at = w->header->geometry.header_off[copy];
	uint8_t *back = malloc(HEADER_BYTES);
	int r = back == NULL ? ERR_NOMEM : w->dev->ops->write(w->dev, bytes, HEADER_BYTES, at);

	if (r == 0)
		r = w->dev->ops->flush(w->dev);
	if (r == 0)
		r = w->dev->ops->read(w->dev, back, HEADER_BYTES, at);
	if (r == 0 && memcmp(back, bytes, HEADER_BYTES) != 0)
		r = ERR_IO;
	free(back);
	if (r < 0)
		return offline_because(w, r, "header %c cannot be written (%s)", copy_name(copy), error_text(r));
	return 0;
}

/* --- the entry --------------------------------------------------------------------------------------------------------- */

bool offline_writes(enum offline_verb verb, const struct offline_options *o)
{
	return offline_needs[verb].writes && (verb != OFFLINE_SCRUB || o->repair);
}

static int check_call(struct offline *w)
{
	const struct offline_needs *n = &offline_needs[w->verb];

	if (n->key && w->keys == NULL)
		return offline_because(w, ERR_STATE, "%s needs the volume's key", n->name);
	if (n->output && w->o->output_fd < 0)
		return offline_because(w, ERR_USAGE, "%s needs a file to write to", n->name);
	if (n->input && w->o->input_fd < 0)
		return offline_because(w, ERR_USAGE, "%s needs a header backup", n->name);
	return 0;
}

int volume_offline(enum offline_verb verb, struct block *dev, struct keyring *keys, const struct offline_options *o,
		   const struct offline_sink *sink, struct offline_result *result, char *why, size_t why_size)
{
	struct offline *w = calloc(1, sizeof *w);
	int r = ERR_NOMEM;

	memset(result, 0, sizeof *result);
	snprintf(why, why_size, "out of memory");
	if (w != NULL)
		w->pair = calloc(1, sizeof *w->pair);
	if (w != NULL && w->pair != NULL) {
		w->verb = verb;
		w->dev = dev;
		w->keys = keys;
		w->o = o;
		w->sink = sink;
		w->result = result;
		w->why = why;
		w->why_size = why_size;
		w->root_result = ERR_NOT_FOUND;
		snprintf(why, why_size, "done");
		r = check_call(w);
		if (r == 0)
			r = verbs[verb](w);
		end_findings(w);
		/* The bar's end; whoever says stop now is too late. */
		if (r == 0 && w->total > 0 && sink->progress != NULL)
			(void)sink->progress(sink->context, w->total, w->total);
	}
	if (w != NULL) {
		free(w->pair);
		free(w->backup);
		secret_wipe(w, sizeof *w);
		free(w);
	}
	return r;
}
