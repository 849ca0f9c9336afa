/* A volume of three levels for the offline verbs, a sink that remembers, and files in memory. */
#ifndef TEST_VOLUME_OFFLINE_RIG_H
#define TEST_VOLUME_OFFLINE_RIG_H

#include "rig.h"
#include "volume/layout.h"
#include "volume/offline.h"

enum {
	OFFLINE_SECTORS = 10201, /* one leaf and one sector more than level 2 holds */
	OFFLINE_WRITTEN = 300,
	OFFLINE_FAR = 10100,
	SEEN_BYTES = 65536,
};

struct seen {
	char text[SEEN_BYTES]; /* "severity: text\n" ... */
	size_t used;
	uint64_t steps, stop_at; /* stop_at: progress says no at this call; 0: never */
	struct keyring *shut;    /* is shut at that call instead */
	uint64_t done, total;
};

struct verb_run {
	bool with_key, consent, repair;
	uint64_t dump_at;                /* 0 stands for none: the sector is dump_at - 1 */
	int output_fd, map_fd, input_fd; /* 0 stands for none */
	uint64_t stop_at;
	bool shut;
	struct seen seen;
	struct offline_result result;
	char why[256];
};

/* Runs it on the rig's device, which no volume has open. */
int verb_do(struct rig *g, enum offline_verb verb, struct verb_run *v);

/* The same, and it must come to that. */
void verb_must(struct rig *g, enum offline_verb verb, struct verb_run *v, int expected);

/* Formats and fills: sectors 0 .. OFFLINE_WRITTEN - 1 and OFFLINE_FAR, version 1; closed. */
void offline_make(struct rig *g);

void sector_fill(uint8_t *out, uint64_t lba, uint32_t version);
void sector_write(struct rig *g, uint64_t lba, uint32_t version);

/* 0 and the bytes are version's, else the error. */
int sector_read(struct rig *g, uint64_t lba, uint32_t version);

struct geometry offline_geometry(struct rig *g);
void destroy(struct rig *g, uint64_t at, uint64_t size);
void flip_bit(struct rig *g, uint64_t at, unsigned bit);

int file_in_memory(void);
size_t file_bytes(int fd, void *out, size_t room);

#endif
