/* The command line, read into one struct. Pure: it opens nothing and prints nothing. */
#ifndef FALLGATE_ARGUMENTS_H
#define FALLGATE_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum verb {
	VERB_HELP,
	VERB_VERSION,
	VERB_STATUS,
	VERB_VOLUMES,
	VERB_POSTURE,
	VERB_CREATE,
	VERB_ATTACH,
	VERB_DETACH,
	VERB_REVOKE,
	VERB_RESTORE,
	VERB_ENROLL,
	VERB_REMOVE,
	VERB_STOP,
	VERB_SEAL_PIN,
	VERB_ACCEPT_ROLLBACK,
	VERB_CONFIG_CHECK,
	VERB_VOLUME_IDENTIFY,
	VERB_VOLUME_CHECK, /* from here on as enum offline_verb */
	VERB_VOLUME_SCRUB,
	VERB_VOLUME_DUMP,
	VERB_VOLUME_REPAIR_HEADER,
	VERB_VOLUME_REPAIR_LOG,
	VERB_VOLUME_SALVAGE,
	VERB_VOLUME_HEADER_BACKUP,
	VERB_VOLUME_HEADER_RESTORE,
	VERB_COUNT
};

struct arguments {
	enum verb verb;
	const char *name;        /* volume, path or identity; NULL: none given */
	const char *credentials; /* --credentials */
	const char *run_dir;     /* --run-dir */
	const char *config;      /* --config */
	const char *role;        /* --role */
	int role_number;         /* enum role */
	const char *out;         /* --out */
	const char *pin_file;    /* --pin-file */
	const char *header;      /* --header */
	const char *sector;      /* --sector */
	uint64_t sector_number;  /* UINT64_MAX: none given */
	bool json, watch, force, all, local, yes, repair;
};

/* 0, or ERR_USAGE with one clear line in text. Options may stand anywhere; "--" ends them. */
int arguments_read(struct arguments *a, int argc, char **argv, char *text, size_t size);

const char *verb_name(enum verb v);

/* The text of --help. */
extern const char arguments_help[];

#endif
