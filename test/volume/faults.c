/* The n-th call of each kind fails, for each n: nothing is acknowledged that is not so, what was acknowledged before is still
 * there, and after a failure that may have cost an acknowledged write nothing is acknowledged any more. The volume always opens
 * again, and no sector is ever unreadable. */
#include <stdlib.h>
#include <string.h>

#include "rig.h"

#include "base/bytes.h"
#include "base/error.h"

enum { SECTORS = 12000, PIECES = 24, PIECE = 3 };

struct scene {
	struct rig rig;
	uint32_t durable[PIECES];  /* version at the last acknowledged flush */
	uint32_t accepted[PIECES]; /* newest acknowledged write */
	uint32_t tried[PIECES];    /* newest attempted */
	uint64_t data, nodes, upper_b;
	bool failed;
	int error;
};

static uint64_t place(unsigned i)
{
	return i * (uint64_t)511 % (SECTORS - PIECE);
}

static void fill(uint8_t *out, unsigned i, uint32_t version)
{
	if (version == 0)
		memset(out, 0, PIECE * SECTOR_BYTES);
	else
		rig_noise(out, PIECE * SECTOR_BYTES, i * 1000u + version);
}

static uint64_t header_offset(struct rig *g, unsigned at)
{
	uint8_t bytes[8];

	block_memory_peek(g->dev, bytes, sizeof bytes, at);
	return get_le64(bytes);
}

static void set_scene_with(struct scene *s, size_t pending)
{
	memset(s, 0, sizeof *s);
	rig_format(&s->rig, SECTORS * (uint64_t)SECTOR_BYTES);
	s->rig.options.cache_nodes = 64;
	s->rig.options.dirty_nodes_max = 64;
	s->rig.options.stepped = true;
	s->rig.options.pending_max = pending;
	rig_must_open(&s->rig);
	s->data = header_offset(&s->rig, 0x58);
	s->nodes = header_offset(&s->rig, 0x90 + 8);
	s->upper_b = header_offset(&s->rig, 0xD0 + 8);
}

static void set_scene(struct scene *s)
{
	set_scene_with(s, 40);
}

static bool note(struct scene *s, int r)
{
	if (r < 0 && !s->failed) {
		s->failed = true;
		s->error = r;
	}
	return r == 0;
}

static void write_one(struct scene *s, unsigned i, uint32_t version)
{
	uint8_t data[PIECE * SECTOR_BYTES];

	fill(data, i, version);
	s->tried[i] = version;
	if (note(s, volume_write(s->rig.volume, data, sizeof data, place(i) * SECTOR_BYTES, false)))
		s->accepted[i] = version;
}

static void zero_one(struct scene *s, unsigned i)
{
	s->tried[i] = 0;
	if (note(s, volume_zero(s->rig.volume, PIECE * SECTOR_BYTES, place(i) * SECTOR_BYTES, false, false)))
		s->accepted[i] = 0;
}

/* Whether the fault was met. */
static bool disarm(struct scene *s)
{
	bool hit = block_memory_failed(s->rig.dev) > 0;

	block_memory_fail(s->rig.dev, (struct memory_fault){ 0 });
	return hit;
}

static void flush(struct scene *s)
{
	if (note(s, volume_flush(s->rig.volume)))
		memcpy(s->durable, s->accepted, sizeof s->durable);
}

/* Writes, overwrites and zeroes with flushes between; goes on after a failure, as a client would. */
static void play(struct scene *s, uint32_t version)
{
	for (unsigned i = 0; i < PIECES; i++)
		write_one(s, i, version);
	flush(s);
	for (unsigned i = 0; i < PIECES; i += 2)
		write_one(s, i, version + 1);
	for (unsigned i = 1; i < PIECES; i += 6)
		zero_one(s, i);
	flush(s);
}

/* Every sector of piece i is one of the versions allowed. */
static void check_piece(struct scene *s, unsigned i)
{
	uint8_t got[SECTOR_BYTES], expect[PIECE * SECTOR_BYTES];
	const uint32_t allowed[] = { s->accepted[i], s->tried[i], s->durable[i] };

	for (unsigned k = 0; k < PIECE; k++) {
		int r = volume_read(s->rig.volume, got, sizeof got, (place(i) + k) * SECTOR_BYTES);
		bool found = false;

		for (size_t a = 0; a < 3 && r == 0 && !found; a++) {
			fill(expect, i, allowed[a]);
			found = memcmp(got, expect + k * SECTOR_BYTES, sizeof got) == 0;
		}
		if (!found)
			print_error("piece %u sector %u: %d\n", i, k, r);
		assert_true(found);
	}
}

static void check_all(struct scene *s)
{
	for (unsigned i = 0; i < PIECES; i++)
		check_piece(s, i);
}

/* --- data writes ------------------------------------------------------------------------------------------------------- */

/* One refusal is not the last word: the ciphertext is held, and the write is tried again. */
static void fail_data_write_once(unsigned long n, bool *hit)
{
	struct scene s;

	set_scene(&s);
	block_memory_fail(s.rig.dev, (struct memory_fault){ .call = MEMORY_WRITE,
							    .nth = n,
							    .error = ERR_IO,
							    .from = s.data,
							    .to = s.data + SECTORS * (uint64_t)SECTOR_BYTES });
	play(&s, 1);
	*hit = disarm(&s);
	assert_false(s.failed);
	check_all(&s);
	rig_close(&s.rig);
	rig_free(&s.rig);
}

/* The client hears of it at the next flush; nothing is acknowledged from then on; what is read stays right, and after the next
 * open each sector is old or new. */
static void fail_data_write(unsigned long n, unsigned pages_done, int error, bool *hit)
{
	struct scene s;

	set_scene(&s);
	play(&s, 1);
	assert_false(s.failed);
	block_memory_fail(s.rig.dev, (struct memory_fault){ .call = MEMORY_WRITE,
							    .nth = n,
							    .times = 1000,
							    .error = error,
							    .from = s.data,
							    .to = s.data + SECTORS * (uint64_t)SECTOR_BYTES,
							    .pages_done = pages_done });
	play(&s, 10);
	*hit = disarm(&s);
	assert_int_equal(s.failed, *hit);
	if (*hit)
		assert_int_equal(s.error, error);
	check_all(&s);
	rig_kill(&s.rig);
	rig_must_open(&s.rig);
	check_all(&s);
	rig_close(&s.rig);
	rig_free(&s.rig);
}

static void a_refused_data_write_loses_nothing(void **state)
{
	bool hit = true;

	(void)state;
	for (unsigned long n = 1; hit; n++)
		fail_data_write_once(n, &hit);
	hit = true;
	for (unsigned long n = 1; hit; n++)
		for (unsigned done = 0; done < PIECE && hit; done++)
			fail_data_write(n, done, done == 1 ? ERR_NOSPACE : ERR_IO, &hit);
}

/* Whole sectors of one large request, of which the device takes some: each is old or new, none unreadable. */
static void a_large_write_that_is_refused_half_way(void **state)
{
	enum { BYTES = 700 * SECTOR_BYTES };
	uint8_t *old = malloc(BYTES), *new = malloc(BYTES), *got = malloc(BYTES);
	unsigned changed = 0;
	struct scene s;

	(void)state;
	rig_noise(old, BYTES, 1);
	rig_noise(new, BYTES, 2);
	set_scene_with(&s, 0);
	assert_int_equal(volume_write(s.rig.volume, old, BYTES, 0, true), 0);
	block_memory_fail(s.rig.dev, (struct memory_fault){ .call = MEMORY_WRITE,
							    .nth = 2,
							    .times = 1000,
							    .error = ERR_NOSPACE,
							    .from = s.data,
							    .to = s.data + BYTES,
							    .pages_done = 100 });
	assert_int_equal(volume_write(s.rig.volume, new, BYTES, 0, false), 0);
	assert_int_equal(volume_flush(s.rig.volume), ERR_NOSPACE);
	rig_kill(&s.rig);
	block_memory_fail(s.rig.dev, (struct memory_fault){ 0 });
	rig_must_open(&s.rig);
	assert_int_equal(volume_read(s.rig.volume, got, BYTES, 0), 0);
	for (size_t at = 0; at < BYTES; at += SECTOR_BYTES) {
		bool is_new = memcmp(got + at, new + at, SECTOR_BYTES) == 0;

		changed += is_new;
		assert_true(is_new || memcmp(got + at, old + at, SECTOR_BYTES) == 0);
	}
	assert_int_equal(changed, 356);
	rig_close(&s.rig);
	rig_free(&s.rig);
	free(old);
	free(new);
	free(got);
}

/* --- reads ------------------------------------------------------------------------------------------------------------- */

static void fail_read(unsigned long n, bool *hit)
{
	struct scene s;

	set_scene(&s);
	play(&s, 1);
	rig_close(&s.rig);
	rig_must_open(&s.rig);
	block_memory_fail(s.rig.dev, (struct memory_fault){ .call = MEMORY_READ, .nth = n, .error = ERR_IO });
	play(&s, 10);
	*hit = disarm(&s);
	if (s.failed)
		assert_int_equal(s.error, ERR_IO);
	check_all(&s);
	assert_int_equal(volume_flush(s.rig.volume), 0);
	memcpy(s.durable, s.accepted, sizeof s.durable);
	rig_kill(&s.rig);
	rig_must_open(&s.rig);
	check_all(&s);
	rig_close(&s.rig);
	rig_free(&s.rig);
}

static void a_failed_read_is_an_error_and_nothing_else(void **state)
{
	bool hit = true;

	(void)state;
	for (unsigned long n = 1; hit; n++)
		fail_read(n, &hit);
}

/* --- the tree, the root and flushes ------------------------------------------------------------------------------------ */

static void nothing_is_acknowledged_any_more(struct scene *s)
{
	struct volume_stats stats;
	uint8_t data[SECTOR_BYTES] = { 1 };

	volume_stats(s->rig.volume, &stats);
	assert_true(stats.failstop);
	assert_int_equal(volume_write(s->rig.volume, data, sizeof data, 0, false), ERR_FAILSTOP);
	assert_int_equal(volume_zero(s->rig.volume, sizeof data, 0, false, false), ERR_FAILSTOP);
	assert_int_equal(volume_flush(s->rig.volume), ERR_FAILSTOP);
}

static void fail_tree(struct memory_fault fault, bool *hit)
{
	struct scene s;

	set_scene(&s);
	play(&s, 1);
	block_memory_fail(s.rig.dev, fault);
	play(&s, 10);
	*hit = disarm(&s);
	assert_int_equal(s.failed, *hit);
	check_all(&s); /* memory knows better than the device */
	if (*hit) {
		assert_int_equal(s.error, ERR_IO);
		nothing_is_acknowledged_any_more(&s);
		assert_int_equal(volume_close(s.rig.volume), ERR_FAILSTOP);
		s.rig.volume = NULL;
	}
	rig_kill(&s.rig);
	rig_must_open(&s.rig);
	check_all(&s);
	rig_free(&s.rig);
}

static void a_failed_flush_ends_acknowledgement(void **state)
{
	bool hit = true;

	(void)state;
	for (unsigned long n = 1; hit; n++)
		fail_tree((struct memory_fault){ .call = MEMORY_FLUSH, .nth = n, .error = ERR_IO }, &hit);
}

static void a_failed_node_or_root_write_ends_acknowledgement(void **state)
{
	struct scene s;
	bool hit = true;
	uint64_t data, upper_b;

	(void)state;
	set_scene(&s);
	data = s.data;
	upper_b = s.upper_b;
	rig_close(&s.rig);
	rig_free(&s.rig);
	for (unsigned long n = 1; hit; n++)
		fail_tree((struct memory_fault){ .call = MEMORY_WRITE, .nth = n, .error = ERR_IO, .from = 4096, .to = data },
			  &hit);
	hit = true;
	for (unsigned long n = 1; hit; n++)
		fail_tree(
			(struct memory_fault){
				.call = MEMORY_WRITE, .nth = n, .error = ERR_IO, .from = upper_b, .to = UINT64_MAX },
			&hit);
}

/* Ring A has the new root durably before ring B is touched: a failure there loses nothing at all. */
static void a_failed_second_root_loses_nothing(void **state)
{
	struct scene s;
	uint64_t ring_b;

	(void)state;
	set_scene_with(&s, 1);
	ring_b = header_offset(&s.rig, 0x78);
	for (unsigned i = 0; i < PIECES; i++)
		write_one(&s, i, 1);
	block_memory_fail(
		s.rig.dev,
		(struct memory_fault){
			.call = MEMORY_WRITE, .nth = 1, .error = ERR_IO, .from = ring_b, .to = ring_b + 4 * SECTOR_BYTES });
	assert_int_equal(volume_step(s.rig.volume), ERR_IO);
	nothing_is_acknowledged_any_more(&s);
	rig_kill(&s.rig);
	block_memory_cut(s.rig.dev, 0);
	rig_must_open(&s.rig);
	check_all(&s);
	rig_close(&s.rig);
	rig_free(&s.rig);
}

/* Two processes on one medium, which the lock of the real device prevents: the one that comes late stops, and says so. */
static void a_second_writer_is_noticed_before_the_root_is_written(void **state)
{
	struct scene s;
	struct rig other;

	(void)state;
	set_scene_with(&s, 1);
	write_one(&s, 0, 1);
	flush(&s);
	other = s.rig;
	rig_must_open(&other);
	assert_int_equal(volume_step(s.rig.volume), ERR_BUSY);
	nothing_is_acknowledged_any_more(&s);
	assert_int_equal(volume_close(s.rig.volume), ERR_FAILSTOP);
	keyring_destroy(s.rig.keys);
	rig_free(&other);
}

/* --- opening and formatting -------------------------------------------------------------------------------------------- */

static void fail_open(enum memory_call call, unsigned long n, bool *hit)
{
	struct scene s;
	int r;

	set_scene(&s);
	play(&s, 1);
	rig_close(&s.rig);
	block_memory_fail(s.rig.dev, (struct memory_fault){ .call = call, .nth = n, .error = ERR_IO });
	r = rig_open(&s.rig);
	*hit = disarm(&s);
	assert_true(r == 0 || r == ERR_IO);
	if (r == 0)
		check_all(&s);
	if (r == 0 && *hit)
		assert_int_not_equal(call, MEMORY_FLUSH);
	rig_kill(&s.rig);
	block_memory_cut(s.rig.dev, 0);
	rig_must_open(&s.rig);
	check_all(&s);
	rig_close(&s.rig);
	rig_free(&s.rig);
}

static void an_open_that_fails_can_be_repeated(void **state)
{
	(void)state;
	for (int call = MEMORY_READ; call <= MEMORY_FLUSH; call++) {
		bool hit = true;

		for (unsigned long n = 1; hit && n < 40; n++)
			fail_open((enum memory_call)call, n, &hit);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_refused_data_write_loses_nothing),
		cmocka_unit_test(a_large_write_that_is_refused_half_way),
		cmocka_unit_test(a_failed_read_is_an_error_and_nothing_else),
		cmocka_unit_test(a_failed_flush_ends_acknowledgement),
		cmocka_unit_test(a_failed_node_or_root_write_ends_acknowledgement),
		cmocka_unit_test(a_failed_second_root_loses_nothing),
		cmocka_unit_test(a_second_writer_is_noticed_before_the_root_is_written),
		cmocka_unit_test(an_open_that_fails_can_be_repeated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
