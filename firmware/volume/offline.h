/* What is done to a volume that nobody serves: look at it, prove it, mend it, take out what can be read. One entry for all verbs,
 * so that the command (without a key) and the one-shot dataplane (with one) run the same code. What must hold: a verb that does
 * not write opens nothing for writing; nothing is mended on a guess: a repair uses only bytes that authenticate (or, without a
 * key, whose SHA-256 is good) and says what it changed; loss is accepted only where offline_options.accept_loss says so; no
 * plaintext leaves but through salvage's output; everything read from the device is hostile. */
#ifndef FALLGATE_VOLUME_OFFLINE_H
#define FALLGATE_VOLUME_OFFLINE_H

#include "volume.h"

enum offline_verb {
	OFFLINE_CHECK, /* headers, rings, geometry; with a key also MAC, roots, log chain, every node */
	OFFLINE_SCRUB, /* with a key: every tag of every sector and node, both copies */
	OFFLINE_DUMP,  /* header, roots, log, one node or sector's slot: clear fields; with a key the sealed ones; never data */
	OFFLINE_REPAIR_HEADER,  /* the damaged copy from the good one */
	OFFLINE_REPAIR_LOG,     /* with a key: accept the end of the log at damage; needs accept_loss */
	OFFLINE_SALVAGE,        /* with a key: every sector that opens, to the output; authentic each, not fresh together */
	OFFLINE_HEADER_BACKUP,  /* the header (wrapped keys only) to the output */
	OFFLINE_HEADER_RESTORE, /* both copies from the input */
	OFFLINE_VERBS
};

/* The `why` of ERR_STATE when nothing but consent was lacking. */
#define OFFLINE_NO_CONSENT "consent is lacking"

/* What a verb needs. The caller opens the device and, if a key is needed, gets the ring loaded, before it calls. */
struct offline_needs {
	const char *name; /* as on the command line: "check", "repair-header", ... */
	bool key;         /* cannot run without */
	bool key_helps;   /* says more with one */
	bool writes;      /* the device is opened for writing */
	bool output;      /* wants output_fd */
	bool input;       /* wants input_fd: a header backup */
	bool input_helps; /* takes one where the device's own headers are gone */
	bool consent;     /* without accept_loss it says what it would do, writes nothing and returns ERR_STATE */
};
extern const struct offline_needs offline_needs[OFFLINE_VERBS];

enum offline_severity {
	OFFLINE_NOTE,       /* worth saying */
	OFFLINE_MENDED,     /* was damaged, is good again */
	OFFLINE_REPAIRABLE, /* damaged, and another verb can mend it: the text says which */
	OFFLINE_LOSS,       /* cannot be had back from this device */
};

/* Where findings and progress go. Called from the verb's own thread. */
struct offline_sink {
	void *context;
	/* One line without its end, at most 200 bytes, no control characters. */
	void (*say)(void *context, enum offline_severity severity, const char *text);
	/* Bytes of work done and in all; called at least every 16 MiB of work. False: stop, the verb returns ERR_REVOKED if the
	 * ring was shut, else ERR_STATE. */
	bool (*progress)(void *context, uint64_t done, uint64_t total);
};

struct offline_options {
	bool accept_loss;
	bool repair;        /* scrub: re-write a damaged copy of a node from its good one */
	const uint8_t *kcv; /* as in volume_options */
	int output_fd;      /* -1: none. Salvage: an empty regular file; backup: anything that can be written */
	int map_fd;         /* salvage: the list of what is missing. -1: none */
	int input_fd;     /* -1: none. A header backup; where it is given and not the verb's subject, it stands for the headers */
	uint64_t dump_at; /* dump: UINT64_MAX = the whole layout, else the sector whose path is shown */
	bool test_geometry, assume_4k;
};

struct offline_result {
	uint64_t checked; /* objects looked at: headers, roots, log blocks, copies of nodes, sectors */
	uint64_t mended;  /* findings of each kind ... */
	uint64_t repairable;
	uint64_t lost; /* ... but of loss the sectors: a lost node counts all below it, a lost header or ring 1 */
};

/* Whether the device must be open for writing: scrub writes only to repair. */
bool offline_writes(enum offline_verb verb, const struct offline_options *o);

/* Runs one verb. keys may be NULL where needs.key is false. 0 (result says what was found: damage that was found is no error of
 * the call), ERR_FOREIGN (no volume, or another's key), ERR_CORRUPT (so damaged that the verb could not run; the text said why),
 * ERR_IO, ERR_NOSPACE (the output), ERR_STATE (consent lacking, or stopped), ERR_REVOKED. why: one clause, always terminated. */
int volume_offline(enum offline_verb verb, struct block *dev, struct keyring *keys, const struct offline_options *o,
		   const struct offline_sink *sink, struct offline_result *result, char *why, size_t why_size);

/* A header backup's bytes, as HEADER_BACKUP writes them: hostile. Fills what volume_read_header would, so that a key can be had
 * when both headers of the device are gone. 0, ERR_FOREIGN, ERR_CORRUPT. */
int volume_read_header_backup(const uint8_t *bytes, size_t size, struct volume_header_info *out, char *why, size_t why_size);

#endif
