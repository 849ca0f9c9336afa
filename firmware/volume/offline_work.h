/* What the offline verbs share: the device's headers as found, findings and progress, reads that may fail. Not thread-safe: one
 * verb, one thread. What must hold: a read error is a finding, never the end of a verb that could go on without the block. */
#ifndef FALLGATE_VOLUME_OFFLINE_WORK_H
#define FALLGATE_VOLUME_OFFLINE_WORK_H

#include "engine.h"
#include "format.h"
#include "offline.h"

enum { COPIES = 2, LINES_MAX = 1000, LINE_BYTES = 200, BACKUP_BYTES = SECTOR_BYTES + HEADER_BYTES };

/* Neighbouring sectors with the same fate become one line. */
struct stretch_told {
	uint64_t first, count;
	const char *what;
	enum offline_severity severity;
};

struct offline {
	enum offline_verb verb;
	struct block *dev;
	struct keyring *keys; /* NULL: none */
	const struct offline_options *o;
	const struct offline_sink *sink;
	struct offline_result *result;
	char *why;
	size_t why_size;
	uint64_t done, total, told; /* bytes of work; told: done when progress was last called */
	uint64_t lines, unsaid;
	struct stretch_told stretch;

	struct header_pair *pair; /* the device's two copies; result[c] is 0 or why copy c is unusable */
	uint8_t *backup;          /* BACKUP_BYTES, if input_fd gave one */
	struct header from_backup;
	const struct header *header; /* what the verb goes by; NULL: none was found */
	const uint8_t *header_bytes;
	bool authentic; /* its MAC is right */
	struct root root;
	int root_result; /* 0: root is the newest that opens */
};

typedef int offline_fn(struct offline *w);
offline_fn offline_check, offline_scrub, offline_dump, offline_repair_header, offline_repair_log, offline_salvage,
	offline_header_backup, offline_header_restore;

/* One finding. The counts of result follow the severity; lost is the caller's to add. */
__attribute__((format(printf, 3, 4))) void offline_say(struct offline *w, enum offline_severity severity, const char *format,
						       ...);

/* One more sector (or count of them) of which the same can be said; `what` is kept, not copied. Adds to lost. */
void offline_lost(struct offline *w, uint64_t first, uint64_t count, const char *what);

/* So many bytes of work are done. 0, or the error to leave with: somebody wants the verb to stop. */
int offline_step(struct offline *w, uint64_t bytes);
void offline_expect(struct offline *w, uint64_t bytes);

/* Leaves with a reason. Returns error. */
__attribute__((format(printf, 3, 4))) int offline_because(struct offline *w, int error, const char *format, ...);

/* Reads count blocks; where that fails, one by one. good[i] says which could be read; the others are zeroed. 0, or how to leave.
 */
int offline_read(struct offline *w, uint8_t *out, size_t count, uint64_t at, bool *good);

/* A..B of a copy, for people. */
char copy_name(unsigned copy);

/* Reads both headers whatever their state, and the backup if there is one; picks what to go by. 0; ERR_FOREIGN, ERR_CORRUPT when
 * nothing can be gone by (why says so): header is NULL then. ERR_NOMEM, ERR_IO (neither can be read). */
int offline_headers(struct offline *w);

/* With a key: MACs the header that is gone by, reads the roots with it. 0, ERR_FOREIGN (another key), ERR_CORRUPT, ERR_REVOKED.
 */
int offline_authenticate(struct offline *w);

/* Is this copy (0, 1) of the header authentic: 0, ERR_CORRUPT, ERR_FOREIGN, ERR_REVOKED. */
int offline_header_mac(struct offline *w, const struct header *h, const uint8_t *bytes);

/* Does the newest root name it? False without a root. */
bool offline_named(const struct offline *w, const struct header *h);

/* Opens the volume read-only for walking: recovered in memory, nothing written. `repair`: past damage in the log. */
int offline_open(struct offline *w, struct volume **v, bool repair);

/* Every node below the top, both copies; with sectors every sector too. */
int offline_walk(struct offline *w, struct volume *v, bool sectors);

/* What the bytes at the start of a block are, for the keyless eye. */
bool block_blank(const uint8_t block[static SECTOR_BYTES]);

/* The clear part of a node whose checksum is right. False: it is none of this volume. */
bool node_decode_clear(struct node_clear *n, const uint8_t block[static SECTOR_BYTES], const uint8_t uuid[static UUID_BYTES]);

/* Writes a header to copy, flushes, reads it back. */
int offline_put_header(struct offline *w, unsigned copy, const uint8_t *bytes);

/* From offline_header.c: a backup's bytes to a header. 0, ERR_FOREIGN, ERR_CORRUPT. */
int backup_decode(struct header *h, const uint8_t *bytes, size_t size, bool any_geometry, char *why, size_t why_size);

#endif
