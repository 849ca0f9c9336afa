/* Hostile bytes for every decoder of the medium: header, root record, log block, node, header backup (libFuzzer; which one is
 * said by --kind=NAME). Inputs are padded with zeroes, and checksums are put right, as an attacker would. What must hold besides
 * what the sanitizers see: what is accepted lies inside its limits, and encoded and decoded again it is the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hal/hash.h"
#include "volume/log.h"
#include "volume/offline.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BACKUP_BYTES = SECTOR_BYTES + HEADER_BYTES, HASH_AT = 0xFE0, MAC_AT = 0xFC0 };

#define MUST(condition) ((condition) ? (void)0 : broken(#condition))

static void broken(const char *what)
{
	fprintf(stderr, "broken: %s\n", what);
	abort();
}

/* --- header ------------------------------------------------------------------------------------------------------------- */

static void put_hash_right(uint8_t *block)
{
	const struct hash_part part = { block, HASH_AT };

	hash_sha256(block + HASH_AT, &part, 1);
}

static void put_header_right(uint8_t *bytes)
{
	static const uint8_t none[64];
	uint8_t mac[32];

	for (unsigned i = 1; i <= KEK_SLOTS; i++)
		if (memcmp(bytes + i * SECTOR_BYTES, none, sizeof none) != 0)
			put_hash_right(bytes + i * SECTOR_BYTES);
	memcpy(mac, bytes + MAC_AT, sizeof mac);
	memset(bytes + MAC_AT, 0, 64);
	header_finish(bytes, mac);
}

static void check_geometry(const struct geometry *g, uint64_t device)
{
	MUST(g->n_sectors > 0 && g->levels >= 1 && g->levels <= LEVELS_MAX);
	MUST(g->fanout >= FANOUT_LEAST && g->fanout <= FANOUT);
	MUST(g->backing_size <= device && g->header_off[1] + HEADER_BYTES == g->backing_size);
	MUST(g->data_off <= g->root_off[1] && g->n_sectors <= (g->root_off[1] - g->data_off) / SECTOR_BYTES);
	for (unsigned level = 1; level <= g->levels; level++)
		MUST(geometry_offset(g, level, g->count[level] - 1, 0) + SECTOR_BYTES <= g->data_off);
}

static void fuzz_header(uint8_t *bytes)
{
	static uint8_t again[HEADER_BYTES];
	static struct header h, same;
	const uint64_t device = UINT64_C(1) << 40;
	char why[80];

	(void)header_decode(&h, bytes, device, why, sizeof why);
	put_header_right(bytes);
	if (header_decode_any(&h, bytes, device, true, why, sizeof why) != 0)
		return;
	MUST(h.slot_count <= KEK_SLOTS && h.active < GENERATIONS);
	MUST(memchr(h.label, '\0', sizeof h.label) != NULL);
	check_geometry(&h.geometry, device);
	memset(again, 0, sizeof again);
	header_encode(again, &h);
	header_finish(again, h.mac);
	MUST(header_decode_any(&same, again, device, true, why, sizeof why) == 0);
	MUST(same.seq == h.seq && same.slot_count == h.slot_count && same.geometry.data_off == h.geometry.data_off);
}

/* --- root, node --------------------------------------------------------------------------------------------------------- */

static void fuzz_root(uint8_t *block)
{
	static uint8_t again[SECTOR_BYTES];
	struct root r = { 0 }, same = { 0 };
	uint8_t uuid[UUID_BYTES];

	memcpy(uuid, block + 0x28, sizeof uuid);
	block_checksum(block);
	if (!root_decode_clear(&r, block, uuid))
		return;
	root_decode_sealed(&r, block + CLEAR_BYTES);
	memset(again, 0, sizeof again);
	root_encode_clear(again, &r, uuid);
	root_encode_sealed(again + CLEAR_BYTES, &r);
	block_checksum(again);
	MUST(root_decode_clear(&same, again, uuid));
	root_decode_sealed(&same, again + CLEAR_BYTES);
	MUST(same.seq == r.seq && same.tail_seq == r.tail_seq && same.settled == r.settled && same.clean == r.clean);
	MUST(slot_same(&same.top, &r.top));
}

static void fuzz_node(uint8_t *block)
{
	struct node_clear clear = { .ctr = get_le64(block + 0x20), .index = get_le64(block + 0x28), .level = block[0x30] };
	uint8_t uuid[UUID_BYTES], slot_bytes[SLOT_BYTES];

	memcpy(clear.salt, block + 0x10, sizeof clear.salt);
	memcpy(uuid, block + 0x38, sizeof uuid);
	clear.gen_ix = get_le16(block + 0x32);
	clear.gen_no = get_le32(block + 0x34);
	block_checksum(block);
	MUST(block_checksum_good(block));
	if (node_clear_is(block, &clear, uuid, block)) {
		clear.ctr++;
		MUST(!node_clear_is(block, &clear, uuid, block));
	}
	for (unsigned i = 0; i < FANOUT; i++) {
		struct slot slot, same;

		slot_decode(&slot, block + CLEAR_BYTES + i * (size_t)SLOT_BYTES);
		slot_encode(slot_bytes, &slot);
		slot_decode(&same, slot_bytes);
		MUST(slot_same(&slot, &same));
	}
}

/* --- log block ---------------------------------------------------------------------------------------------------------- */

static void fuzz_log(uint8_t *block)
{
	static struct log_entry entries[LOG_ENTRIES], same[LOG_ENTRIES];
	static uint8_t again[SECTOR_BYTES];
	struct log_head head, head_again;
	uint8_t uuid[UUID_BYTES];
	struct slot slot;

	memcpy(uuid, block + 0x38, sizeof uuid);
	logblock_checksum(block);
	if (!logblock_decode_clear(&head, block, uuid) || !logblock_decode_entries(entries, &head, block + LOG_CLEAR_BYTES))
		return;
	MUST(head.count <= LOG_ENTRIES && head.gen_ix < GENERATIONS);
	for (unsigned i = 0; i < head.count; i++) {
		MUST(entries[i].kind <= LOG_BAD);
		logblock_slot(&slot, &head, &entries[i], i);
		MUST(slot.ctr >= head.ctr_base);
	}
	logblock_encode(again, &head, uuid, entries);
	logblock_checksum(again);
	MUST(logblock_decode_clear(&head_again, again, uuid));
	MUST(logblock_decode_entries(same, &head_again, again + LOG_CLEAR_BYTES));
	MUST(head_again.seq == head.seq && head_again.count == head.count && head_again.prefix_seq == head.prefix_seq);
	MUST(memcmp(same, entries, head.count * sizeof entries[0]) == 0);
}

/* --- header backup ------------------------------------------------------------------------------------------------------ */

static void fuzz_backup(uint8_t *bytes)
{
	static const uint8_t zeroes[32];
	const struct hash_part parts[] = { { bytes, HASH_AT }, { zeroes, 32 }, { bytes + SECTOR_BYTES, HEADER_BYTES } };
	static struct volume_header_info info;
	char why[80];

	(void)volume_read_header_backup(bytes, BACKUP_BYTES, &info, why, sizeof why);
	put_header_right(bytes + SECTOR_BYTES);
	hash_sha256(bytes + HASH_AT, parts, 3);
	if (volume_read_header_backup(bytes, BACKUP_BYTES, &info, why, sizeof why) != 0)
		return;
	MUST(info.slot_count <= KEK_SLOTS && info.size > 0 && info.size % SECTOR_BYTES == 0);
	MUST(memchr(info.label, '\0', sizeof info.label) != NULL);
}

/* --- libFuzzer's side --------------------------------------------------------------------------------------------------- */

static const struct kind {
	const char *name;
	size_t size;
	void (*fuzz)(uint8_t *bytes);
} kinds[] = {
	{ "header", HEADER_BYTES, fuzz_header }, { "root", SECTOR_BYTES, fuzz_root },     { "log", SECTOR_BYTES, fuzz_log },
	{ "node", SECTOR_BYTES, fuzz_node },     { "backup", BACKUP_BYTES, fuzz_backup },
};

static const struct kind *kind;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	for (int i = 1; i < *argc; i++)
		for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
			if (strncmp((*argv)[i], "--kind=", 7) == 0 && strcmp((*argv)[i] + 7, kinds[k].name) == 0)
				kind = &kinds[k];
	if (kind != NULL)
		return 0;
	fprintf(stderr, "fuzz_volume: --kind=header|root|log|node|backup is missing\n");
	exit(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[BACKUP_BYTES];
	size_t n = size < kind->size ? size : kind->size;
	uint8_t short_backup[64];
	char why[80];
	static struct volume_header_info info;

	memset(bytes, 0, kind->size);
	if (n > 0)
		memcpy(bytes, data, n);
	kind->fuzz(bytes);
	if (kind->fuzz != fuzz_backup || size > sizeof short_backup)
		return 0;
	/* a file is as long as it is */
	if (size > 0)
		memcpy(short_backup, data, size);
	(void)volume_read_header_backup(short_backup, size, &info, why, sizeof why);
	return 0;
}
