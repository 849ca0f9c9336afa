/* check, scrub, dump, the header's verbs and repair-log: what is damaged is said, what can be mended is mended, and nothing else
 * is touched. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "offline_rig.h"

#include "base/error.h"

static void digest_is(struct rig *g, const uint8_t before[static 32])
{
	uint8_t now[32];

	block_memory_digest(g->dev, now);
	assert_memory_equal(now, before, sizeof now);
}

static void finds(struct rig *g, enum offline_verb verb, struct verb_run *v, uint64_t repairable, uint64_t lost, const char *what)
{
	verb_must(g, verb, v, 0);
	if (v->result.repairable != repairable || v->result.lost != lost || strstr(v->seen.text, what) == NULL)
		print_error("%s: %llu repairable, %llu lost\n%s", offline_needs[verb].name,
			    (unsigned long long)v->result.repairable, (unsigned long long)v->result.lost, v->seen.text);
	assert_int_equal(v->result.repairable, repairable);
	assert_int_equal(v->result.lost, lost);
	assert_non_null(strstr(v->seen.text, what));
}

static void a_good_volume_has_no_findings(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	uint8_t before[32];
	struct rig g;

	(void)state;
	offline_make(&g);
	block_memory_digest(g.dev, before);
	for (unsigned key = 0; key < 2; key++) {
		v->with_key = key == 1;
		finds(&g, OFFLINE_CHECK, v, 0, 0, "");
		verb_must(&g, OFFLINE_DUMP, v, 0);
		v->dump_at = 1 + OFFLINE_FAR;
		verb_must(&g, OFFLINE_DUMP, v, 0);
		assert_non_null(strstr(v->seen.text, "node 1 of level 2"));
		v->dump_at = 0;
	}
	finds(&g, OFFLINE_SCRUB, v, 0, 0, "301 written, each looked at, 9900 zero");
	verb_must(&g, OFFLINE_REPAIR_LOG, v, 0);
	verb_must(&g, OFFLINE_REPAIR_HEADER, v, 0);
	digest_is(&g, before);
	free(v);
	rig_free(&g);
}

/* What was flushed after the last root is in the log only. */
static void make_unclosed(struct rig *g)
{
	offline_make(g);
	rig_must_open(g);
	for (uint64_t lba = 50; lba < 60; lba++) {
		sector_write(g, lba, 2);
		assert_int_equal(volume_flush(g->volume), 0);
	}
	assert_int_equal(volume_zero(g->volume, 100 * SECTOR_BYTES, 200 * SECTOR_BYTES, false, true), 0);
	sector_write(g, 250, 2);
	assert_int_equal(volume_flush(g->volume), 0);
	rig_kill(g);
}

static void a_volume_that_was_not_closed_is_proven_as_it_will_open(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	uint8_t before[32];
	struct rig g;

	(void)state;
	make_unclosed(&g);
	block_memory_digest(g.dev, before);
	v->with_key = true;
	finds(&g, OFFLINE_CHECK, v, 0, 0, "it was not closed");
	finds(&g, OFFLINE_SCRUB, v, 0, 0, "replayed in memory");
	assert_non_null(strstr(v->seen.text, "202 written, each looked at"));
	digest_is(&g, before);
	flip_bit(&g, offline_geometry(&g).data_off + 55 * SECTOR_BYTES + 9, 3);
	flip_bit(&g, offline_geometry(&g).data_off + 10 * SECTOR_BYTES + 9, 3);
	flip_bit(&g, offline_geometry(&g).data_off + 210 * SECTOR_BYTES + 9, 3); /* zeroed: its bytes mean nothing */
	finds(&g, OFFLINE_SCRUB, v, 0, 2, "sector 10: the tag is wrong");
	free(v);
	rig_free(&g);
}

static void damaged_headers_are_mended_from_each_other(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct geometry at;
	uint8_t before[32];
	struct rig g;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	block_memory_digest(g.dev, before);
	for (unsigned i = 0; i < 4; i++) {
		v->with_key = i >= 2;
		flip_bit(&g, at.header_off[i % 2] + 7000, 1);
		finds(&g, OFFLINE_CHECK, v, 1, 0, i % 2 == 0 ? "header A" : "header B");
		verb_must(&g, OFFLINE_REPAIR_HEADER, v, 0);
		assert_int_equal(v->result.mended, 1);
		digest_is(&g, before);
	}
	free(v);
	rig_free(&g);
}

/* Whole and not equal: which of them holds, only the key can tell. */
static void two_whole_headers_that_differ_need_the_key(void **state)
{
	uint8_t *header = malloc(HEADER_BYTES), mac[32] = { 0 };
	struct verb_run *v = calloc(1, sizeof *v);
	struct header *h = calloc(1, sizeof *h);
	uint8_t before[32];
	struct rig g;

	(void)state;
	offline_make(&g);
	block_memory_digest(g.dev, before);
	block_memory_peek(g.dev, header, HEADER_BYTES, 0);
	assert_int_equal(header_decode(h, header, g.dev->size, v->why, sizeof v->why), 0);
	h->seq = 7;
	header_encode(header, h);
	header_finish(header, mac);
	block_memory_poke(g.dev, header, HEADER_BYTES, 0);
	finds(&g, OFFLINE_CHECK, v, 1, 0, "the headers differ");
	verb_must(&g, OFFLINE_REPAIR_HEADER, v, ERR_STATE);
	v->with_key = true;
	finds(&g, OFFLINE_CHECK, v, 2, 0, "header A: its MAC is wrong");
	verb_must(&g, OFFLINE_REPAIR_HEADER, v, 0);
	digest_is(&g, before);
	free(h);
	free(v);
	free(header);
	rig_free(&g);
}

static int make_backup(struct rig *g, struct verb_run *v)
{
	int fd = file_in_memory();

	*v = (struct verb_run){ .with_key = true, .output_fd = fd };
	verb_must(g, OFFLINE_HEADER_BACKUP, v, 0);
	*v = (struct verb_run){ .input_fd = fd };
	return fd;
}

static void both_headers_come_back_from_a_backup(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct volume_header_info info;
	uint8_t before[32], gone[32], *bytes = malloc(SECTOR_BYTES + HEADER_BYTES);
	struct geometry at;
	struct rig g;
	int fd;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	block_memory_digest(g.dev, before);
	fd = make_backup(&g, v);
	assert_int_equal(file_bytes(fd, bytes, SECTOR_BYTES + HEADER_BYTES), SECTOR_BYTES + HEADER_BYTES);
	assert_int_equal(volume_read_header_backup(bytes, SECTOR_BYTES + HEADER_BYTES, &info, v->why, sizeof v->why), 0);
	assert_memory_equal(info.uuid, g.uuid, UUID_BYTES);
	assert_int_equal(info.slot_count, 1);
	for (unsigned key = 0; key < 2; key++) {
		v->with_key = key == 1;
		destroy(&g, at.header_off[0], HEADER_BYTES);
		destroy(&g, at.header_off[1], HEADER_BYTES);
		block_memory_digest(g.dev, gone);
		finds(&g, OFFLINE_CHECK, v, 2, 0, "header-restore");
		v->consent = false;
		verb_must(&g, OFFLINE_HEADER_RESTORE, v, ERR_STATE);
		assert_string_equal(v->why, OFFLINE_NO_CONSENT);
		digest_is(&g, gone);
		v->consent = true;
		verb_must(&g, OFFLINE_HEADER_RESTORE, v, 0);
		digest_is(&g, before);
	}
	v->input_fd = 0;
	destroy(&g, at.header_off[0], HEADER_BYTES);
	destroy(&g, at.header_off[1], HEADER_BYTES);
	verb_must(&g, OFFLINE_CHECK, v, ERR_FOREIGN);
	verb_must(&g, OFFLINE_REPAIR_HEADER, v, ERR_CORRUPT);
	close(fd);
	free(bytes);
	free(v);
	rig_free(&g);
}

static void a_damaged_or_foreign_backup_is_refused(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	uint8_t before[32], byte;
	struct rig g, other;
	int fd;

	(void)state;
	offline_make(&g);
	offline_make(&other);
	fd = make_backup(&g, v);
	v->consent = true;
	flip_bit(&g, 0, 0);
	block_memory_digest(g.dev, before);
	for (unsigned bit = 0; bit < (SECTOR_BYTES + HEADER_BYTES) * 8; bit += 1009) {
		int r;

		assert_int_equal(pread(fd, &byte, 1, bit / 8), 1);
		byte = (uint8_t)(byte ^ 1u << bit % 8);
		assert_int_equal(pwrite(fd, &byte, 1, bit / 8), 1);
		r = verb_do(&g, OFFLINE_HEADER_RESTORE, v);
		assert_true(r == ERR_CORRUPT || r == ERR_FOREIGN);
		byte = (uint8_t)(byte ^ 1u << bit % 8);
		assert_int_equal(pwrite(fd, &byte, 1, bit / 8), 1);
	}
	assert_int_equal(ftruncate(fd, SECTOR_BYTES + HEADER_BYTES - 1), 0);
	verb_must(&g, OFFLINE_HEADER_RESTORE, v, ERR_CORRUPT);
	assert_int_equal(ftruncate(fd, 0), 0);
	verb_must(&g, OFFLINE_HEADER_RESTORE, v, ERR_FOREIGN);
	digest_is(&g, before);
	close(fd);
	/* Another volume's: by its header, and, with both headers gone, by what the rings say. */
	flip_bit(&other, 0x12, 0);
	fd = make_backup(&g, v);
	for (uint8_t *header = malloc(HEADER_BYTES), mac[32] = { 0 }; header != NULL; free(header), header = NULL) {
		struct header *h = calloc(1, sizeof *h);

		block_memory_peek(other.dev, header, HEADER_BYTES, offline_geometry(&other).header_off[1]);
		assert_int_equal(header_decode(h, header, other.dev->size, v->why, sizeof v->why), 0);
		h->uuid[3] ^= 1;
		header_encode(header, h);
		header_finish(header, mac);
		block_memory_poke(other.dev, header, HEADER_BYTES, offline_geometry(&other).header_off[1]);
		free(h);
	}
	v->consent = true;
	verb_must(&other, OFFLINE_HEADER_RESTORE, v, ERR_FOREIGN);
	destroy(&other, offline_geometry(&other).header_off[1], HEADER_BYTES);
	for (unsigned c = 0; c < 2; c++)
		for (unsigned i = 0; i < 4; i++)
			flip_bit(&other, offline_geometry(&other).root_off[c] + i * SECTOR_BYTES + 0x28, 5);
	verb_must(&other, OFFLINE_HEADER_RESTORE, v, ERR_FOREIGN);
	close(fd);
	free(v);
	rig_free(&g);
	rig_free(&other);
}

/* The slots were replaced since: the root says so, and a good header does. */
static void a_backup_that_is_too_old_is_refused(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct volume_header_info *info = calloc(1, sizeof *info);
	uint8_t before[32];
	struct rig g;
	int old, new;

	(void)state;
	offline_make(&g);
	old = make_backup(&g, v);
	rig_must_open(&g);
	volume_header(g.volume, info);
	info->slots[1] = info->slots[0];
	assert_int_equal(volume_set_slots(g.volume, info->slots, 2), 0);
	rig_close(&g);
	new = make_backup(&g, v);
	destroy(&g, 0, HEADER_BYTES);
	block_memory_digest(g.dev, before);
	*v = (struct verb_run){ .input_fd = old, .consent = true };
	verb_must(&g, OFFLINE_HEADER_RESTORE, v, ERR_STATE);
	assert_non_null(strstr(v->why, "older"));
	v->with_key = true;
	verb_must(&g, OFFLINE_HEADER_RESTORE, v, ERR_STATE);
	destroy(&g, offline_geometry(&g).header_off[1], HEADER_BYTES);
	block_memory_digest(g.dev, before);
	verb_must(&g, OFFLINE_HEADER_RESTORE, v, ERR_STATE);
	assert_non_null(strstr(v->why, "too old"));
	digest_is(&g, before);
	v->input_fd = new;
	verb_must(&g, OFFLINE_HEADER_RESTORE, v, 0);
	rig_must_open(&g);
	assert_int_equal(sector_read(&g, 7, 1), 0);
	rig_close(&g);
	close(old);
	close(new);
	free(info);
	free(v);
	rig_free(&g);
}

/* The device has grown, so that header B is not at its end, and header A is gone. */
static void header_b_is_found_wherever_it_is(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct rig g;
	struct block *larger;
	uint8_t page[SECTOR_BYTES], before[HEADER_BYTES], after[HEADER_BYTES];

	(void)state;
	offline_make(&g);
	block_memory_peek(g.dev, before, sizeof before, 0);
	larger = block_memory_new(g.dev->size + (uint64_t)3 * 1048576 + 5 * SECTOR_BYTES);
	for (uint64_t at = 0; at < g.dev->size; at += sizeof page) {
		block_memory_peek(g.dev, page, sizeof page, at);
		block_memory_poke(larger, page, sizeof page, at);
	}
	g.dev->ops->close(g.dev);
	g.dev = larger;
	finds(&g, OFFLINE_CHECK, v, 0, 0, "larger than the volume");
	destroy(&g, 0, HEADER_BYTES);
	verb_must(&g, OFFLINE_REPAIR_HEADER, v, 0);
	block_memory_peek(g.dev, after, sizeof after, 0);
	assert_memory_equal(after, before, sizeof before);
	free(v);
	rig_free(&g);
}

static void copies_of_nodes_are_mended_by_scrub(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct geometry at;
	uint8_t before[32];
	struct rig g;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	block_memory_digest(g.dev, before);
	assert_int_equal(at.levels, 3);
	for (unsigned level = 2; level <= 3; level++)
		for (unsigned c = 0; c < 2; c++) {
			v->with_key = false;
			v->repair = false;
			flip_bit(&g, at.node_off[c][level] + 0x65, 2);
			finds(&g, OFFLINE_CHECK, v, 1, 0, c == 0 ? "copy A" : "copy B");
			v->with_key = true;
			finds(&g, OFFLINE_CHECK, v, 1, 0, c == 0 ? "copy A" : "copy B");
			finds(&g, OFFLINE_SCRUB, v, 1, 0, "scrub --repair");
			v->repair = true;
			verb_must(&g, OFFLINE_SCRUB, v, 0);
			assert_int_equal(v->result.mended, 1);
			assert_int_equal(v->result.repairable, 0);
			digest_is(&g, before);
		}
	free(v);
	rig_free(&g);
}

static void lost_nodes_and_sectors_are_told_in_stretches(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct geometry at;
	struct rig g;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	v->with_key = v->repair = true;
	destroy(&g, at.data_off + 10 * SECTOR_BYTES, 5 * SECTOR_BYTES);
	finds(&g, OFFLINE_SCRUB, v, 0, 5, "loss: sectors 10 to 14: the tag is wrong");
	destroy(&g, at.node_off[0][1] + SECTOR_BYTES, SECTOR_BYTES);
	finds(&g, OFFLINE_SCRUB, v, 0, 105, "loss: sectors 100 to 199: no copy of a node above them opens");
	finds(&g, OFFLINE_CHECK, v, 0, 100, "loss: sectors 100 to 199");
	v->with_key = false;
	flip_bit(&g, at.node_off[0][1] + 2 * SECTOR_BYTES + 100, 0);
	finds(&g, OFFLINE_CHECK, v, 0, 100, "loss: sectors 200 to 299");
	v->with_key = true;
	for (unsigned c = 0; c < 2; c++)
		destroy(&g, at.node_off[c][3], SECTOR_BYTES);
	finds(&g, OFFLINE_CHECK, v, 0, OFFLINE_SECTORS, "loss: sectors 0 to 10200");
	for (unsigned c = 0; c < 2; c++)
		destroy(&g, at.root_off[c], ROOT_RING * SECTOR_BYTES);
	verb_must(&g, OFFLINE_SCRUB, v, ERR_CORRUPT);
	verb_must(&g, OFFLINE_CHECK, v, 0);
	assert_non_null(strstr(v->seen.text, "no root record is left"));
	free(v);
	rig_free(&g);
}

/* Each read of sector 7 turns a bit of it: the first goes wrong, the second finds it as it was. */
static void turn(void *context, enum memory_call call, uint64_t at, uint64_t size)
{
	struct rig *g = context;
	uint64_t place = offline_geometry(g).data_off + 7 * SECTOR_BYTES;

	if (call == MEMORY_READ && at <= place && place < at + size)
		flip_bit(g, place + 77, 3);
}

static void what_went_wrong_on_its_way_is_read_again(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct rig g;

	(void)state;
	offline_make(&g);
	v->with_key = true;
	block_memory_watch(g.dev, turn, &g);
	finds(&g, OFFLINE_SCRUB, v, 0, 0, "");
	block_memory_watch(g.dev, NULL, NULL);
	finds(&g, OFFLINE_SCRUB, v, 0, 0, "");
	free(v);
	rig_free(&g);
}

static void damaged_roots_are_told(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct geometry at;
	struct rig g;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	for (unsigned key = 0; key < 2; key++) {
		v->with_key = key == 1;
		for (unsigned c = 0; c < 2; c++) {
			flip_bit(&g, at.root_off[c] + 2 * SECTOR_BYTES + 200, 1);
			finds(&g, OFFLINE_CHECK, v, 1, 0,
			      c == 0 ? "root ring A, place 2 is damaged" : "root ring B, place 2 is damaged");
			flip_bit(&g, at.root_off[c] + 2 * SECTOR_BYTES + 200, 1);
		}
	}
	free(v);
	rig_free(&g);
}

/* --- the log ----------------------------------------------------------------------------------------------------------- */

static uint64_t block_place(struct rig *g, uint64_t seq)
{
	struct geometry at = offline_geometry(g);

	return at.log_off + seq % at.log_blocks * SECTOR_BYTES;
}

/* The number of the log block that the n-th of make_unclosed's flushes wrote. */
static uint64_t first_block_of_session(struct rig *g)
{
	struct geometry at = offline_geometry(g);
	uint64_t most = 0;

	for (uint64_t i = 0; i < at.log_blocks; i++) {
		uint8_t block[SECTOR_BYTES];

		block_memory_peek(g->dev, block, sizeof block, at.log_off + i * SECTOR_BYTES);
		if (memcmp(block + 0x1C, "FGL1", 4) == 0 && block[0x20] > most)
			most = block[0x20];
	}
	return most - 11; /* ten flushes of a sector, one zeroing, one sector */
}

static void a_hole_in_the_log_is_passed_over_with_consent(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	uint8_t before[32];
	uint64_t hole;
	struct rig g;

	(void)state;
	make_unclosed(&g);
	hole = first_block_of_session(&g) + 3; /* sector 53 */
	flip_bit(&g, block_place(&g, hole) + 2000, 4);
	block_memory_digest(g.dev, before);
	assert_int_equal(rig_open(&g), ERR_CORRUPT);
	assert_non_null(strstr(g.why, "repair-log"));
	rig_kill(&g);
	finds(&g, OFFLINE_CHECK, v, 1, 0, "log: 1 blocks from");
	v->with_key = true;
	finds(&g, OFFLINE_CHECK, v, 1, 0, "log: 1 blocks from");
	verb_must(&g, OFFLINE_SCRUB, v, ERR_CORRUPT);
	verb_must(&g, OFFLINE_REPAIR_LOG, v, ERR_STATE);
	assert_non_null(strstr(v->seen.text, "at most 1 objects"));
	assert_non_null(strstr(v->seen.text, "loss: sector 53: "));
	assert_int_equal(v->result.lost, 1);
	digest_is(&g, before);
	v->consent = true;
	verb_must(&g, OFFLINE_REPAIR_LOG, v, 0);
	assert_int_equal(v->result.mended, 1);
	rig_must_open(&g);
	for (uint64_t lba = 50; lba < 60; lba++)
		assert_int_equal(sector_read(&g, lba, 2), lba == 53 ? ERR_CORRUPT : 0);
	assert_int_equal(sector_read(&g, 250, 2), 0);
	sector_write(&g, 53, 3);
	rig_close(&g);
	v->consent = false;
	finds(&g, OFFLINE_SCRUB, v, 0, 0, "");
	free(v);
	rig_free(&g);
}

/* Two holes, one of them at the very tail; the repair is cut at each of its writes and done again. */
static void a_repair_that_is_cut_can_be_done_again(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	struct block *damaged;
	unsigned long cut;
	uint64_t first;
	struct rig g;

	(void)state;
	make_unclosed(&g);
	first = first_block_of_session(&g);
	destroy(&g, block_place(&g, first), SECTOR_BYTES);
	destroy(&g, block_place(&g, first + 5), 2 * SECTOR_BYTES);
	damaged = g.dev;
	for (cut = 1;; cut++) {
		int r;

		g.dev = block_memory_copy(damaged);
		*v = (struct verb_run){ .with_key = true, .consent = true };
		block_memory_fail(g.dev,
				  (struct memory_fault){ .call = MEMORY_WRITE, .nth = cut, .times = 1000000, .error = ERR_IO });
		r = verb_do(&g, OFFLINE_REPAIR_LOG, v);
		if (r == 0) {
			g.dev->ops->close(g.dev);
			break;
		}
		block_memory_fail(g.dev, (struct memory_fault){ 0 });
		block_memory_cut(g.dev, cut * 77);
		/* The roots may be done already: then there is nothing left to repair. */
		verb_must(&g, OFFLINE_REPAIR_LOG, v, 0);
		rig_must_open(&g);
		for (uint64_t lba = 50; lba < 60; lba++)
			assert_int_equal(sector_read(&g, lba, 2), lba == 50 || lba == 55 || lba == 56 ? ERR_CORRUPT : 0);
		assert_int_equal(sector_read(&g, 250, 2), 0);
		rig_close(&g);
		g.dev->ops->close(g.dev);
	}
	assert_true(cut > 5);
	damaged->ops->close(damaged);
	g.dev = NULL;
	free(v);
}

static void log_blocks_that_cannot_be_read_are_overwritten(void **state)
{
	uint8_t block[SECTOR_BYTES], blank[SECTOR_BYTES] = { 0 };
	struct verb_run *v = calloc(1, sizeof *v);
	uint64_t place;
	struct rig g;

	(void)state;
	make_unclosed(&g);
	place = block_place(&g, first_block_of_session(&g) + 2);
	block_memory_fail(g.dev, (struct memory_fault){ .call = MEMORY_READ,
							.nth = 1,
							.times = 1000000,
							.error = ERR_IO,
							.from = place,
							.to = place + SECTOR_BYTES });
	assert_int_not_equal(rig_open(&g), 0);
	rig_kill(&g);
	finds(&g, OFFLINE_CHECK, v, 2, 0, "cannot be read");
	v->with_key = true;
	finds(&g, OFFLINE_CHECK, v, 1, 0, "damaged or cannot be read");
	v->consent = true;
	verb_must(&g, OFFLINE_REPAIR_LOG, v, 0);
	block_memory_fail(g.dev, (struct memory_fault){ 0 });
	block_memory_peek(g.dev, block, sizeof block, place);
	assert_memory_equal(block, blank, sizeof block);
	rig_must_open(&g);
	assert_int_equal(sector_read(&g, 52, 2), ERR_CORRUPT);
	assert_int_equal(sector_read(&g, 53, 2), 0);
	rig_close(&g);
	free(v);
	rig_free(&g);
}

/* --- stopping ---------------------------------------------------------------------------------------------------------- */

static void every_verb_stops_when_told(void **state)
{
	static const enum offline_verb verbs[] = { OFFLINE_CHECK, OFFLINE_SCRUB, OFFLINE_SALVAGE };
	struct verb_run *v = calloc(1, sizeof *v);
	struct rig g;

	(void)state;
	rig_format(&g, UINT64_C(400) << 20);
	rig_must_open(&g);
	for (uint64_t lba = 0; lba < 4096; lba++)
		sector_write(&g, lba, 1);
	rig_close(&g);
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		for (unsigned shut = 0; shut < 2; shut++) {
			/* Without a key there is no gate that could be shut. */
			if (verbs[i] == OFFLINE_CHECK && shut == 1)
				continue;
			*v = (struct verb_run){ .with_key = verbs[i] != OFFLINE_CHECK,
						.stop_at = 1,
						.shut = shut == 1,
						.output_fd = file_in_memory() };
			verb_must(&g, verbs[i], v, shut == 1 ? ERR_REVOKED : ERR_STATE);
			close(v->output_fd);
		}
	free(v);
	rig_free(&g);
}

/* --- hostile bytes ----------------------------------------------------------------------------------------------------- */

/* Flips and noise anywhere in the metadata: no verb that only looks may do anything but answer. */
static void no_bytes_make_a_verb_fall(void **state)
{
	static const enum offline_verb verbs[] = { OFFLINE_CHECK, OFFLINE_DUMP, OFFLINE_SCRUB, OFFLINE_SALVAGE };
	unsigned long rounds = rig_count("FALLGATE_OFFLINE_ROUNDS", 150);
	struct verb_run *v = calloc(1, sizeof *v);
	uint64_t dice = 12345;
	struct geometry at;
	struct block *whole;
	struct rig g;

	(void)state;
	make_unclosed(&g);
	at = offline_geometry(&g);
	whole = g.dev;
	for (unsigned long round = 0; round < rounds; round++) {
		const uint64_t from[] = { 0,          at.header_off[1],  at.root_off[0],    at.root_off[1],
					  at.log_off, at.node_off[0][1], at.node_off[0][2], at.node_off[1][2] };
		const uint64_t size[] = {
			0x400, HEADER_BYTES, 16384, 16384, 40 * SECTOR_BYTES, 4 * SECTOR_BYTES, 3 * SECTOR_BYTES, 3 * SECTOR_BYTES
		};

		g.dev = block_memory_copy(whole);
		for (unsigned hits = 1 + (unsigned)(rig_random(&dice) % 8); hits > 0; hits--) {
			unsigned region = (unsigned)(rig_random(&dice) % (sizeof from / sizeof from[0]));
			uint64_t place = from[region] + rig_random(&dice) % size[region];

			if (rig_random(&dice) % 4 == 0)
				destroy(&g, place - place % SECTOR_BYTES, SECTOR_BYTES);
			else
				flip_bit(&g, place, (unsigned)(rig_random(&dice) % 8));
		}
		for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
			*v = (struct verb_run){ .with_key = i >= 2 || round % 2 == 0,
						.output_fd = file_in_memory(),
						.dump_at = round % 3 == 0 ? 1 + 55 : 0 };
			(void)verb_do(&g, verbs[i], v);
			close(v->output_fd);
		}
		g.dev->ops->close(g.dev);
	}
	g.dev = whole;
	free(v);
	rig_free(&g);
}

/* Lies with good checksums: what a decoder alone must stand. */
static void no_header_with_a_good_checksum_makes_a_verb_fall(void **state)
{
	static const enum offline_verb verbs[] = { OFFLINE_CHECK, OFFLINE_DUMP, OFFLINE_REPAIR_HEADER, OFFLINE_SALVAGE };
	uint8_t *header = malloc(HEADER_BYTES), mac[32] = { 0 };
	struct verb_run *v = calloc(1, sizeof *v);
	uint64_t dice = 99;
	struct block *whole;
	struct rig g;

	(void)state;
	make_unclosed(&g);
	whole = g.dev;
	for (unsigned round = 0; round < 200; round++) {
		g.dev = block_memory_copy(whole);
		block_memory_peek(g.dev, header, HEADER_BYTES, 0);
		header[8 + rig_random(&dice) % 0x330] ^= (uint8_t)(1u << rig_random(&dice) % 8);
		if (round % 2 == 0)
			header[0x50 + 8 * (rig_random(&dice) % 25)] ^= 0x80;
		header_finish(header, mac);
		block_memory_poke(g.dev, header, HEADER_BYTES, 0);
		for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
			*v = (struct verb_run){ .with_key = i == 3 || round % 2 == 0, .output_fd = file_in_memory() };
			(void)verb_do(&g, verbs[i], v);
			close(v->output_fd);
		}
		g.dev->ops->close(g.dev);
	}
	g.dev = whole;
	free(header);
	free(v);
	rig_free(&g);
}

/* A header that claims the largest of volumes, on a small device: an answer, and soon. */
static void a_header_that_claims_too_much_costs_no_time(void **state)
{
	uint8_t *header = malloc(HEADER_BYTES), mac[32] = { 0 };
	struct verb_run *v = calloc(1, sizeof *v);
	struct header *h = calloc(1, sizeof *h);
	uint64_t sectors = UINT64_C(1) << 49;
	struct rig g;

	(void)state;
	offline_make(&g);
	block_memory_peek(g.dev, header, HEADER_BYTES, 0);
	assert_int_equal(header_decode(h, header, g.dev->size, v->why, sizeof v->why), 0);
	assert_int_equal(geometry_compute(&h->geometry, sectors, LOG_BLOCKS_MAX, geometry_minimum(sectors, LOG_BLOCKS_MAX)), 0);
	header_encode(header, h);
	header_finish(header, mac);
	block_memory_poke(g.dev, header, HEADER_BYTES, 0);
	verb_must(&g, OFFLINE_CHECK, v, 0);
	assert_true(v->result.lost > 0);
	assert_non_null(strstr(v->seen.text, "past the device's end"));
	verb_must(&g, OFFLINE_DUMP, v, 0);
	free(h);
	free(v);
	free(header);
	rig_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_volume_has_no_findings),
		cmocka_unit_test(a_volume_that_was_not_closed_is_proven_as_it_will_open),
		cmocka_unit_test(damaged_headers_are_mended_from_each_other),
		cmocka_unit_test(two_whole_headers_that_differ_need_the_key),
		cmocka_unit_test(both_headers_come_back_from_a_backup),
		cmocka_unit_test(a_damaged_or_foreign_backup_is_refused),
		cmocka_unit_test(a_backup_that_is_too_old_is_refused),
		cmocka_unit_test(header_b_is_found_wherever_it_is),
		cmocka_unit_test(copies_of_nodes_are_mended_by_scrub),
		cmocka_unit_test(lost_nodes_and_sectors_are_told_in_stretches),
		cmocka_unit_test(what_went_wrong_on_its_way_is_read_again),
		cmocka_unit_test(damaged_roots_are_told),
		cmocka_unit_test(a_hole_in_the_log_is_passed_over_with_consent),
		cmocka_unit_test(a_repair_that_is_cut_can_be_done_again),
		cmocka_unit_test(log_blocks_that_cannot_be_read_are_overwritten),
		cmocka_unit_test(every_verb_stops_when_told),
		cmocka_unit_test(a_header_that_claims_too_much_costs_no_time),
		cmocka_unit_test(no_bytes_make_a_verb_fall),
		cmocka_unit_test(no_header_with_a_good_checksum_makes_a_verb_fall),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
