/* The header's copies: mending one from the other, taking a backup out, putting one back. What must stay true: a copy is written
 * only from bytes whose SHA-256 is right, with a key whose MAC is right and which the newest root names; a good copy is never
 * overwritten by one that is not known to be at least as good; the two copies are written one after the other, each flushed and
 * read back. The backup's bytes are in SPEC.md. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/block.h"
#include "hal/hash.h"
#include "offline_work.h"

enum {
	B_MAJOR = 0x08,
	B_MINOR = 0x0A,
	B_BYTES = 0x0C,
	B_UUID = 0x10,
	B_SEQ = 0x20,
	B_HASH = 0xFE0,
	BACKUP_MAJOR = 1,
	SEARCH_BLOCKS = 256,
};

static const uint8_t backup_magic[8] = { 'F', 'G', 'V', 'H', 'B', 0x0D, 0x0A, 0x1A };

/* --- a backup's bytes -------------------------------------------------------------------------------------------------- */

static void backup_hash(uint8_t hash[static 32], const uint8_t *bytes)
{
	static const uint8_t zeroes[32];
	const struct hash_part parts[] = {
		{ bytes, B_HASH },
		{ zeroes, sizeof zeroes },
		{ bytes + SECTOR_BYTES, HEADER_BYTES },
	};

	hash_sha256(hash, parts, sizeof parts / sizeof parts[0]);
}

static void backup_encode(uint8_t *out, const struct header *h, const uint8_t *header_bytes)
{
	memset(out, 0, SECTOR_BYTES);
	memcpy(out, backup_magic, sizeof backup_magic);
	put_le16(out + B_MAJOR, BACKUP_MAJOR);
	put_le32(out + B_BYTES, BACKUP_BYTES);
	memcpy(out + B_UUID, h->uuid, UUID_BYTES);
	put_le64(out + B_SEQ, h->seq);
	memcpy(out + SECTOR_BYTES, header_bytes, HEADER_BYTES);
	backup_hash(out + B_HASH, out);
}

int backup_decode(struct header *h, const uint8_t *bytes, size_t size, bool any_geometry, char *why, size_t why_size)
{
	uint8_t hash[32];
	int r;

	if (size < sizeof backup_magic || memcmp(bytes, backup_magic, sizeof backup_magic) != 0) {
		snprintf(why, why_size, "it is no header backup");
		return ERR_FOREIGN;
	}
	if (size >= B_BYTES && get_le16(bytes + B_MAJOR) != BACKUP_MAJOR) {
		snprintf(why, why_size, "format version %u, this program knows %d", get_le16(bytes + B_MAJOR), BACKUP_MAJOR);
		return ERR_FOREIGN;
	}
	if (size != BACKUP_BYTES || get_le32(bytes + B_BYTES) != BACKUP_BYTES) {
		snprintf(why, why_size, "it must have %d bytes and has %s", BACKUP_BYTES, size < BACKUP_BYTES ? "fewer" : "more");
		return ERR_CORRUPT;
	}
	backup_hash(hash, bytes);
	if (memcmp(hash, bytes + B_HASH, sizeof hash) != 0) {
		snprintf(why, why_size, "its SHA-256 is wrong: it is damaged");
		return ERR_CORRUPT;
	}
	r = header_decode_any(h, bytes + SECTOR_BYTES, INT64_MAX, any_geometry, why, why_size);
	if (r == 0 && (memcmp(h->uuid, bytes + B_UUID, UUID_BYTES) != 0 || h->seq != get_le64(bytes + B_SEQ))) {
		snprintf(why, why_size, "its first block speaks of another header than it holds");
		r = ERR_CORRUPT;
	}
	return r;
}

int volume_read_header_backup(const uint8_t *bytes, size_t size, struct volume_header_info *out, char *why, size_t why_size)
{
	struct header *h = calloc(1, sizeof *h);
	int r = ERR_NOMEM;

	snprintf(why, why_size, "out of memory");
	if (h != NULL)
		r = backup_decode(h, bytes, size, false, why, why_size);
	if (r == 0) {
		header_info(out, h);
		snprintf(why, why_size, "good");
	}
	free(h);
	return r;
}

/* --- header-backup ----------------------------------------------------------------------------------------------------- */

static int write_out(struct offline *w, const uint8_t *bytes, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = write(w->o->output_fd, bytes + done, size - done);

		if (n <= 0)
			return offline_because(w, n < 0 ? error_from_errno(errno) : ERR_NOSPACE,
					       "the backup cannot be written: %s; make room for it, or write it elsewhere",
					       n < 0 ? strerror(errno) : "nothing was taken");
		done += (size_t)n;
	}
	/* A pipe cannot be flushed, and need not be. */
	if (fsync(w->o->output_fd) != 0 && errno != EINVAL && errno != EROFS)
		return offline_because(w, error_from_errno(errno), "the backup is not on its disk: %s; write it elsewhere",
				       strerror(errno));
	return 0;
}

int offline_header_backup(struct offline *w)
{
	uint8_t *bytes;
	int r = offline_headers(w);

	if (r == 0 && w->keys != NULL)
		r = offline_authenticate(w);
	if (r < 0)
		return r;
	bytes = malloc(BACKUP_BYTES);
	if (bytes == NULL)
		return offline_because(w, ERR_NOMEM, "out of memory");
	backup_encode(bytes, w->header, w->header_bytes);
	r = write_out(w, bytes, BACKUP_BYTES);
	free(bytes);
	if (r == 0)
		offline_say(w, OFFLINE_NOTE,
			    "header %llu of the volume is in the backup%s: wrapped keys, no key that opens anything",
			    (unsigned long long)w->header->seq, w->authentic ? ", authenticated" : ", as its checksum has it");
	return r;
}

/* --- repair-header ----------------------------------------------------------------------------------------------------- */

/* A device that has grown, or whose header A is gone: header B says itself where it belongs. Backwards, for it is the last. */
static int search(struct offline *w)
{
	struct header_pair *p = w->pair;
	uint8_t *blocks = aligned_alloc(SECTOR_BYTES, SEARCH_BLOCKS * SECTOR_BYTES);
	uint64_t end = w->dev->size / SECTOR_BYTES;
	bool good[SEARCH_BLOCKS];
	int r = blocks == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : 0;

	offline_expect(w, w->dev->size);
	while (r == 0 && end > 0 && p->result[1] != 0) {
		size_t n = end < SEARCH_BLOCKS ? (size_t)end : SEARCH_BLOCKS;

		end -= n;
		r = offline_read(w, blocks, n, end * SECTOR_BYTES, good);
		for (size_t i = n; r == 0 && i-- > 0 && p->result[1] != 0;) {
			uint64_t at = (end + i) * SECTOR_BYTES;

			if (at == 0 || memcmp(blocks + i * SECTOR_BYTES, "FGVOL\r\n\x1a", 8) != 0 ||
			    w->dev->size - at < HEADER_BYTES || w->dev->ops->read(w->dev, p->bytes[1], HEADER_BYTES, at) < 0)
				continue;
			p->result[1] = header_decode_any(&p->header[1], p->bytes[1], INT64_MAX, w->o->test_geometry, p->why[1],
							 sizeof p->why[1]);
			if (p->result[1] == 0 && p->header[1].geometry.header_off[1] != at)
				p->result[1] = ERR_FOREIGN; /* a copy of some volume's header, kept inside this one */
		}
	}
	free(blocks);
	return r;
}

static int find_good_copy(struct offline *w)
{
	int r = offline_headers(w);

	if (r != ERR_CORRUPT && r != ERR_FOREIGN)
		return r;
	if (w->dev->size < 2 * (uint64_t)HEADER_BYTES)
		return r;
	offline_say(w, OFFLINE_NOTE, "no header at either end (A: %s): the whole device is searched for header B",
		    w->pair->why[0]);
	r = search(w);
	if (r < 0)
		return r;
	if (w->pair->result[1] != 0)
		return offline_because(w, ERR_CORRUPT,
				       "no good copy of the header is on this device: header-restore puts a backup back");
	w->header = &w->pair->header[1];
	w->header_bytes = w->pair->bytes[1];
	return 0;
}

static int mend_header(struct offline *w, unsigned copy)
{
	int r = offline_put_header(w, copy, w->header_bytes);

	if (r == 0)
		offline_say(w, OFFLINE_MENDED, "header %c is written again from header %c", copy_name(copy), copy_name(1 - copy));
	return r;
}

int offline_repair_header(struct offline *w)
{
	const struct header_pair *p = w->pair;
	int r = find_good_copy(w);
	unsigned bad;

	if (r == 0 && w->keys != NULL)
		r = offline_authenticate(w);
	if (r < 0)
		return r;
	if (p->result[0] == 0 && p->result[1] == 0 && memcmp(p->bytes[0], p->bytes[1], HEADER_BYTES) == 0) {
		offline_say(w, OFFLINE_NOTE, "both headers are good and equal: nothing to do");
		return 0;
	}
	bad = w->header == &p->header[0];
	if (p->result[bad] == 0 && w->keys == NULL)
		return offline_because(
			w, ERR_STATE,
			"both headers are whole and differ (an update was cut): only with the key can one tell which holds; "
			"attaching the volume does it");
	if (w->header->geometry.backing_size > w->dev->size)
		return offline_because(w, ERR_RANGE, "the device is %llu bytes smaller than the volume: make it larger first",
				       (unsigned long long)(w->header->geometry.backing_size - w->dev->size));
	return mend_header(w, bad);
}

/* --- header-restore ---------------------------------------------------------------------------------------------------- */

static const uint8_t *uuid_in(const uint8_t *block)
{
	if (memcmp(block + 0x1C, "FGR1", 4) == 0)
		return block + 0x28;
	return memcmp(block + 0x1C, "FGL1", 4) == 0 || memcmp(block + 0x1C, "FGN1", 4) == 0 ? block + 0x38 : NULL;
}

/* With no header left, roots, log and nodes still say whose they are. 1: this volume's; 0: nothing there says; or another's. */
static int look_for_uuid(struct offline *w, const struct geometry *g)
{
	const uint64_t places[] = { g->root_off[0], g->root_off[1], g->log_off, g->node_off[0][1] };
	uint8_t *blocks = aligned_alloc(SECTOR_BYTES, ROOT_RING * SECTOR_BYTES);
	int found = 0;

	if (blocks == NULL)
		return offline_because(w, ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		bool good[ROOT_RING];

		if (places[i] > w->dev->size || w->dev->size - places[i] < ROOT_RING * SECTOR_BYTES)
			continue;
		(void)offline_read(w, blocks, ROOT_RING, places[i], good);
		for (unsigned k = 0; k < ROOT_RING && found >= 0; k++) {
			const uint8_t *uuid = uuid_in(blocks + k * (size_t)SECTOR_BYTES);

			if (uuid != NULL)
				found = memcmp(uuid, w->from_backup.uuid, UUID_BYTES) == 0 ? 1 : ERR_FOREIGN;
		}
	}
	free(blocks);
	if (found == ERR_FOREIGN)
		return offline_because(w, ERR_FOREIGN,
				       "the backup is of another volume than the one on the device (its uuid differs)");
	return found;
}

static int compare_with_present(struct offline *w)
{
	const struct header_pair *p = w->pair;

	for (unsigned c = 0; c < COPIES; c++) {
		if (p->result[c] != 0)
			continue;
		if (memcmp(p->header[c].uuid, w->from_backup.uuid, UUID_BYTES) != 0)
			return offline_because(w, ERR_FOREIGN,
					       "the backup is of another volume than the one on the device (its uuid differs)");
		if (p->header[c].seq > w->from_backup.seq)
			return offline_because(
				w, ERR_STATE,
				"the device has header %llu in good order, the backup is the older %llu: use repair-header",
				(unsigned long long)p->header[c].seq, (unsigned long long)w->from_backup.seq);
	}
	return 0;
}

/* With a key: the backup is authentic, and the newest root allows it. */
static int judge_backup(struct offline *w)
{
	const struct header *h = &w->from_backup;
	unsigned bad;
	int r = offline_header_mac(w, h, w->backup + SECTOR_BYTES);

	if (r < 0)
		return offline_because(w, r,
				       r == ERR_FOREIGN   ? "the backup was not made with this volume's key"
				       : r == ERR_REVOKED ? "the gate was shut: stopped"
							  : "the backup's MAC is wrong: it was altered");
	w->root_result = roots_read(w->dev, w->keys, &h->geometry, h->uuid, &w->root, &bad);
	if (w->root_result == ERR_REVOKED)
		return offline_because(w, ERR_REVOKED, "the gate was shut: stopped");
	if (w->root_result == 0 && !offline_named(w, h))
		return offline_because(w, ERR_STATE,
				       "the newest root record names another header: the backup (header %llu) is too old",
				       (unsigned long long)h->seq);
	if (w->root_result != 0)
		offline_say(w, OFFLINE_NOTE, "no root record opens: nothing tells whether the backup is the newest header");
	return 0;
}

static int judge_restore(struct offline *w)
{
	const struct geometry *g = &w->from_backup.geometry;
	int r = offline_headers(w), known = 0;

	if (r < 0 && (w->backup == NULL || w->from_backup.seq == 0 || w->dev->size < 2 * (uint64_t)HEADER_BYTES))
		return r;
	r = w->keys == NULL ? 0 : judge_backup(w);
	/* A root that opens with the backup's key and names it is proof enough, whatever stands in the headers' places. */
	if (r == 0 && w->root_result != 0)
		r = compare_with_present(w);
	if (r == 0 && w->root_result != 0)
		r = known = look_for_uuid(w, g);
	if (r < 0)
		return r;
	if (g->backing_size > w->dev->size)
		return offline_because(w, ERR_RANGE, "the device is %llu bytes smaller than the backup's volume",
				       (unsigned long long)(g->backing_size - w->dev->size));
	if (known == 0 && w->root_result != 0 && w->pair->result[0] != 0 && w->pair->result[1] != 0)
		offline_say(w, OFFLINE_NOTE, "nothing on the device says which volume it is: make sure that it is this one");
	if (w->keys == NULL)
		offline_say(w, OFFLINE_NOTE, "without the key nothing tells whether the backup is the newest header");
	w->header = &w->from_backup;
	w->header_bytes = w->backup + SECTOR_BYTES;
	return 0;
}

int offline_header_restore(struct offline *w)
{
	bool same = true;
	int r = judge_restore(w);

	if (r < 0)
		return r;
	for (unsigned c = 0; c < COPIES; c++)
		same = same && w->pair->result[c] == 0 && memcmp(w->pair->bytes[c], w->header_bytes, HEADER_BYTES) == 0;
	if (same) {
		offline_say(w, OFFLINE_NOTE, "both headers are what the backup holds: nothing to do");
		return 0;
	}
	if (!w->o->accept_loss) {
		offline_say(w, OFFLINE_NOTE, "both headers would be overwritten with header %llu of the backup",
			    (unsigned long long)w->header->seq);
		return offline_because(w, ERR_STATE, OFFLINE_NO_CONSENT);
	}
	for (unsigned c = 0; c < COPIES && r == 0; c++)
		r = offline_put_header(w, c, w->header_bytes);
	if (r == 0)
		offline_say(w, OFFLINE_MENDED, "both headers are header %llu of the backup", (unsigned long long)w->header->seq);
	return r;
}
