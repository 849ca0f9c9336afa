/* salvage: each region destroyed in turn, and what comes out is exactly what DESIGN.md says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "offline_rig.h"

#include "base/error.h"

/* What a sector must be in the output. */
enum { ANY = -2, MISSING = -1, ZERO = 0 /* a version: 1, 2, ... */ };

struct out {
	struct verb_run run;
	int fd, map;
	int expect[OFFLINE_SECTORS];
};

static struct out *out_new(void)
{
	struct out *o = calloc(1, sizeof *o);

	for (uint64_t lba = 0; lba < OFFLINE_WRITTEN; lba++)
		o->expect[lba] = 1;
	o->expect[OFFLINE_FAR] = 1;
	return o;
}

static void expect(struct out *o, uint64_t first, uint64_t count, int what)
{
	for (uint64_t i = first; i < first + count && i < OFFLINE_SECTORS; i++)
		o->expect[i] = what;
}

/* The map's lines as marks. */
static void read_map(struct out *o, bool *missing)
{
	char *text = calloc(1, 1 << 20), *at;

	assert_true(file_bytes(o->map, text, (1 << 20) - 1) > 0);
	assert_non_null(strstr(text, "NOT FRESH"));
	for (at = strtok(text, "\n"); at != NULL; at = strtok(NULL, "\n")) {
		unsigned long long first, count;
		char word[16];

		if (at[0] == '#')
			continue;
		assert_int_equal(sscanf(at, "%llu %llu %15s", &first, &count, word), 3);
		assert_true(strcmp(word, "lost") == 0 || strcmp(word, "unknown") == 0);
		for (unsigned long long i = 0; i < count; i++) {
			assert_true(first + i < OFFLINE_SECTORS);
			assert_false(missing[first + i]);
			missing[first + i] = true;
		}
	}
	free(text);
}

static void judge(struct out *o)
{
	uint8_t got[SECTOR_BYTES], want[SECTOR_BYTES];
	bool *missing = calloc(OFFLINE_SECTORS, sizeof *missing);
	uint64_t lost = 0;
	struct stat st;

	read_map(o, missing);
	assert_int_equal(fstat(o->fd, &st), 0);
	assert_int_equal(st.st_size, OFFLINE_SECTORS * (off_t)SECTOR_BYTES);
	for (uint64_t lba = 0; lba < OFFLINE_SECTORS; lba++) {
		int what = o->expect[lba];

		lost += missing[lba];
		if (what == ANY)
			continue;
		if (missing[lba] != (what == MISSING))
			print_error("sector %llu: %s\n", (unsigned long long)lba, missing[lba] ? "missing" : "there");
		assert_int_equal(missing[lba], what == MISSING);
		assert_int_equal(pread(o->fd, got, sizeof got, (off_t)(lba * SECTOR_BYTES)), SECTOR_BYTES);
		if (what > 0)
			sector_fill(want, lba, (uint32_t)what);
		else
			memset(want, 0, sizeof want);
		if (memcmp(got, want, sizeof got) != 0)
			print_error("sector %llu is not version %d\n", (unsigned long long)lba, what);
		assert_memory_equal(got, want, sizeof got);
	}
	assert_int_equal(o->run.result.lost, lost);
	free(missing);
}

/* Runs it, compares, and sees that the volume is as it was. */
static void salvage(struct rig *g, struct out *o, int header_fd)
{
	uint8_t before[32], after[32];

	block_memory_digest(g->dev, before);
	o->fd = file_in_memory();
	o->map = file_in_memory();
	o->run = (struct verb_run){ .with_key = true, .output_fd = o->fd, .map_fd = o->map, .input_fd = header_fd };
	verb_must(g, OFFLINE_SALVAGE, &o->run, 0);
	block_memory_digest(g->dev, after);
	assert_memory_equal(before, after, sizeof before);
	judge(o);
	close(o->fd);
	close(o->map);
}

static void destroy_log(struct rig *g)
{
	struct geometry at = offline_geometry(g);

	destroy(g, at.log_off, at.log_blocks * SECTOR_BYTES);
}

static void destroy_upper(struct rig *g)
{
	struct geometry at = offline_geometry(g);

	for (unsigned c = 0; c < 2; c++)
		for (unsigned l = 2; l <= at.levels; l++)
			destroy(g, at.node_off[c][l], at.count[l] * SECTOR_BYTES);
}

static void destroy_rings(struct rig *g)
{
	struct geometry at = offline_geometry(g);

	for (unsigned c = 0; c < 2; c++)
		destroy(g, at.root_off[c], ROOT_RING * SECTOR_BYTES);
}

static void a_whole_volume_comes_out_whole(void **state)
{
	struct out *o = out_new();
	struct rig g;

	(void)state;
	offline_make(&g);
	salvage(&g, o, 0);
	destroy_log(&g);
	salvage(&g, o, 0);
	destroy_rings(&g);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

/* Leaves are blank where nothing was ever written, and without upper levels nobody can tell that from a leaf that is gone. */
static void without_upper_levels_the_leaves_speak_for_themselves(void **state)
{
	struct out *o = out_new();
	struct rig g;

	(void)state;
	offline_make(&g);
	destroy_upper(&g);
	expect(o, OFFLINE_WRITTEN, OFFLINE_SECTORS - OFFLINE_WRITTEN, MISSING);
	expect(o, OFFLINE_FAR, 1, 1);
	expect(o, 10101, 99, ZERO);
	salvage(&g, o, 0);
	destroy_rings(&g);
	destroy_log(&g);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

static void a_lost_leaf_is_made_good_by_the_log(void **state)
{
	struct out *o = out_new();
	struct rig g;

	(void)state;
	offline_make(&g);
	destroy(&g, offline_geometry(&g).node_off[0][1] + SECTOR_BYTES, SECTOR_BYTES);
	salvage(&g, o, 0);
	destroy_log(&g);
	expect(o, 100, 100, MISSING);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

static void lost_data_is_all_that_is_missing(void **state)
{
	struct out *o = out_new();
	struct geometry at;
	struct rig g;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	destroy(&g, at.data_off + 40 * SECTOR_BYTES, 80 * SECTOR_BYTES);
	destroy(&g, at.data_off + 400 * SECTOR_BYTES, SECTOR_BYTES);
	expect(o, 40, 80, MISSING);
	salvage(&g, o, 0);
	block_memory_fail(g.dev, (struct memory_fault){ .call = MEMORY_READ,
							.nth = 1,
							.times = 100000,
							.error = ERR_IO,
							.from = at.data_off + 7 * SECTOR_BYTES,
							.to = at.data_off + 9 * SECTOR_BYTES });
	expect(o, 7, 2, MISSING);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

static void headers_that_are_gone_are_stood_in_for_by_a_backup(void **state)
{
	struct out *o = out_new();
	struct geometry at;
	struct rig g;
	int fd = file_in_memory();

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	o->run = (struct verb_run){ .with_key = true, .output_fd = fd };
	verb_must(&g, OFFLINE_HEADER_BACKUP, &o->run, 0);
	destroy(&g, at.header_off[0], HEADER_BYTES);
	salvage(&g, o, 0);
	destroy(&g, at.header_off[1], HEADER_BYTES);
	o->run = (struct verb_run){ .with_key = true, .output_fd = file_in_memory() };
	verb_must(&g, OFFLINE_SALVAGE, &o->run, ERR_FOREIGN);
	close(o->run.output_fd);
	destroy_rings(&g);
	salvage(&g, o, fd);
	destroy_log(&g);
	salvage(&g, o, fd);
	close(fd);
	free(o);
	rig_free(&g);
}

/* What no checkpoint has taken over yet is in the log alone. */
static void what_is_newer_in_the_log_comes_out(void **state)
{
	struct out *o = out_new();
	struct rig g;

	(void)state;
	offline_make(&g);
	rig_must_open(&g);
	for (uint64_t lba = 20; lba < 30; lba++)
		sector_write(&g, lba, 2);
	assert_int_equal(volume_zero(g.volume, 100 * SECTOR_BYTES, 95 * SECTOR_BYTES, false, true), 0);
	sector_write(&g, 150, 3);
	sector_write(&g, 9999, 1);
	assert_int_equal(volume_flush(g.volume), 0);
	rig_kill(&g);
	expect(o, 20, 10, 2);
	expect(o, 95, 100, ZERO);
	expect(o, 150, 1, 3); /* written after that */
	expect(o, 9999, 1, 1);
	salvage(&g, o, 0);
	destroy_rings(&g);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

/* A leaf whose subtree was zeroed stays on the device, whole and authentic. It must not rise again while anything knows better.
 */
static void what_was_zeroed_stays_zero(void **state)
{
	struct out *o = out_new();
	struct rig g;

	(void)state;
	offline_make(&g);
	rig_must_open(&g);
	assert_int_equal(volume_zero(g.volume, 10000 * (uint64_t)SECTOR_BYTES, 0, false, true), 0);
	sector_write(&g, 5, 2);
	rig_close(&g);
	expect(o, 0, 10000, ZERO);
	expect(o, 5, 1, 2);
	salvage(&g, o, 0);
	destroy_rings(&g);
	salvage(&g, o, 0);
	destroy_log(&g);
	salvage(&g, o, 0);
	/* Nobody knows better now: old leaves speak. */
	destroy_upper(&g);
	expect(o, 0, OFFLINE_SECTORS, ANY);
	expect(o, 5, 1, 2);
	expect(o, 150, 1, 1);
	expect(o, 5000, 1, MISSING);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

/* What a cut session wrote behind the end of the log is authentic, and was never the volume's. */
static void what_a_cut_left_behind_the_log_is_not_believed(void **state)
{
	struct out *o = out_new();
	struct geometry at;
	uint8_t orphan[SECTOR_BYTES], page[SECTOR_BYTES];
	uint64_t place = 0, last = 0;
	struct block *before;
	struct rig g;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	before = block_memory_copy(g.dev);
	/* A session that dies after two blocks, of which only the second, a ZERO, reached the medium. */
	rig_must_open(&g);
	sector_write(&g, 0, 2);
	assert_int_equal(volume_flush(g.volume), 0);
	assert_int_equal(volume_zero(g.volume, 100 * SECTOR_BYTES, 0, false, true), 0);
	rig_kill(&g);
	for (uint64_t i = 0; i < at.log_blocks; i++) {
		block_memory_peek(g.dev, page, sizeof page, at.log_off + i * SECTOR_BYTES);
		if (memcmp(page + 0x1C, "FGL1", 4) == 0 && page[0x20] > last) {
			last = page[0x20];
			place = at.log_off + i * SECTOR_BYTES;
			memcpy(orphan, page, sizeof orphan);
		}
	}
	g.dev->ops->close(g.dev);
	g.dev = before;
	block_memory_poke(g.dev, orphan, sizeof orphan, place);
	salvage(&g, o, 0);
	destroy_rings(&g);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

static void an_output_that_is_no_empty_file_is_refused(void **state)
{
	struct verb_run *v = calloc(1, sizeof *v);
	int pipes[2];
	struct rig g;

	(void)state;
	offline_make(&g);
	v->with_key = true;
	verb_must(&g, OFFLINE_SALVAGE, v, ERR_USAGE);
	assert_int_equal(pipe(pipes), 0);
	v->output_fd = pipes[1];
	verb_must(&g, OFFLINE_SALVAGE, v, ERR_UNSUPPORTED);
	v->output_fd = file_in_memory();
	assert_int_equal(write(v->output_fd, "x", 1), 1);
	verb_must(&g, OFFLINE_SALVAGE, v, ERR_UNSUPPORTED);
	v->with_key = false;
	verb_must(&g, OFFLINE_SALVAGE, v, ERR_STATE);
	close(v->output_fd);
	close(pipes[0]);
	close(pipes[1]);
	free(v);
	rig_free(&g);
}

/* A device that was shortened: what is left of it comes out. */
static void a_shortened_device_gives_what_it_has(void **state)
{
	struct out *o = out_new();
	struct geometry at;
	uint8_t page[SECTOR_BYTES];
	struct block *shorter;
	struct rig g;

	(void)state;
	offline_make(&g);
	at = offline_geometry(&g);
	shorter = block_memory_new(at.data_off + 200 * SECTOR_BYTES);
	for (uint64_t from = 0; from < shorter->size; from += sizeof page) {
		block_memory_peek(g.dev, page, sizeof page, from);
		block_memory_poke(shorter, page, sizeof page, from);
	}
	g.dev->ops->close(g.dev);
	g.dev = shorter;
	expect(o, 200, 100, MISSING);
	expect(o, OFFLINE_FAR, 1, MISSING);
	salvage(&g, o, 0);
	free(o);
	rig_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_volume_comes_out_whole),
		cmocka_unit_test(without_upper_levels_the_leaves_speak_for_themselves),
		cmocka_unit_test(a_lost_leaf_is_made_good_by_the_log),
		cmocka_unit_test(lost_data_is_all_that_is_missing),
		cmocka_unit_test(headers_that_are_gone_are_stood_in_for_by_a_backup),
		cmocka_unit_test(what_is_newer_in_the_log_comes_out),
		cmocka_unit_test(what_was_zeroed_stays_zero),
		cmocka_unit_test(what_a_cut_left_behind_the_log_is_not_believed),
		cmocka_unit_test(an_output_that_is_no_empty_file_is_refused),
		cmocka_unit_test(a_shortened_device_gives_what_it_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
