/* The n-th I/O of a class fails, for each n until a run meets none: once and from there on, EIO and no space, nothing or a part
 * written. The client goes on as clients do. What must hold: nothing is acknowledged that a later opening does not find, no
 * sector is lost to an error, no read returns what was not written; after the error is gone the volume opens. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "powercut_mutants.h"
#include "powercut_play.h"

enum { ACTS = 50, WRITES = 1 << POWER_WRITE | 1 << POWER_FUA };

enum region { REGION_LOG, REGION_NODES, REGION_NODES_AGAIN, REGION_RING_A, REGION_RING_B, REGION_DATA, REGION_ANY };

struct io_class {
	const char *name;
	unsigned kinds;
	enum region region;
	bool may_be_none; /* the smallest volumes have no second copies */
};

static const struct io_class classes[] = {
	{ "log write", WRITES, REGION_LOG, false },
	{ "data write", WRITES, REGION_DATA, false },
	{ "node write", WRITES, REGION_NODES, false },
	{ "node write, second copy", WRITES, REGION_NODES_AGAIN, true },
	{ "root write, ring A", WRITES, REGION_RING_A, false },
	{ "root write, ring B", WRITES, REGION_RING_B, false },
	{ "flush", 1 << POWER_FLUSH, REGION_ANY, false },
	{ "read", 1 << POWER_READ, REGION_ANY, false },
};

static uint64_t header_field(struct block *dev, uint64_t at)
{
	uint8_t bytes[8];

	power_peek(dev, bytes, sizeof bytes, at);
	return get_le64(bytes);
}

static void find_region(struct block *dev, enum region region, uint32_t sectors, uint64_t *from, uint64_t *to)
{
	uint64_t log = header_field(dev, 0x60), log_end = log + header_field(dev, 0x68) * SECTOR_BYTES;
	uint64_t data = header_field(dev, 0x58), data_end = data + sectors * (uint64_t)SECTOR_BYTES;
	uint64_t a = header_field(dev, 0x70), b = header_field(dev, 0x78);
	const uint64_t bounds[][2] = {
		[REGION_LOG] = { log, log_end },
		[REGION_NODES] = { log_end, data },
		[REGION_NODES_AGAIN] = { data_end, b },
		[REGION_RING_A] = { a, a + 4 * SECTOR_BYTES },
		[REGION_RING_B] = { b, b + 4 * SECTOR_BYTES },
		[REGION_DATA] = { data, data_end },
		[REGION_ANY] = { 0, 0 },
	};

	*from = bounds[region][0];
	*to = bounds[region][1];
}

struct scene {
	struct world world;
	struct player p;
	bool met; /* the fault, before it was taken back */
};

static void scene_make(struct scene *s, uint64_t seed, int mutant)
{
	memset(s, 0, sizeof *s);
	world_draw(&s->world, seed, false);
	s->world.options.mutant = mutant;
	entropy_seed(seed);
	player_init(&s->p, &s->world, world_format(&s->world), oracle_new(s->world.sectors), seed);
	s->p.live = allowed_new(s->p.oracle);
}

static void scene_free(struct scene *s)
{
	player_free(&s->p);
	allowed_free(s->p.live);
	oracle_free(s->p.oracle);
	s->p.dev->ops->close(s->p.dev);
}

/* No read fault is set now. Whatever has failed, what is read is allowed. */
static bool read_and_check(struct scene *s)
{
	uint32_t lba;
	int r = world_read(&s->world, s->p.session.volume, s->p.buffer, &lba);

	if (r != 0)
		snprintf(s->p.complaint, sizeof s->p.complaint, "read of sector %u: %s", lba, error_text(r));
	return r == 0 && allowed_check(s->p.live, s->p.buffer, s->p.complaint, sizeof s->p.complaint) == s->world.sectors;
}

/* A fault may come inside an opening or the first look around: it is gone the next time. */
static bool open_somehow(struct scene *s)
{
	if (play_open(&s->p) && play_found(&s->p))
		return true;
	if (power_failed(s->p.dev) == 0)
		return false;
	s->p.complaint[0] = '\0';
	session_kill(&s->p.session, s->p.dev);
	s->met = true;
	power_fail(s->p.dev, (struct power_fault){ 0 });
	return play_open(&s->p) && play_found(&s->p);
}

static bool work(struct scene *s, bool reads_fail)
{
	bool good = true;

	for (unsigned i = 0; i < ACTS && good; i++) {
		(void)play_gently(&s->p); /* errors are no news here; the oracle keeps the books */
		s->p.complaint[0] = '\0';
		if (i % 16 == 15) {
			session_kill(&s->p.session, s->p.dev);
			good = open_somehow(s);
		}
		if (good && !reads_fail)
			good = read_and_check(s);
	}
	return good;
}

static bool judge(struct scene *s, bool flush_failed)
{
	/* what a failed flush left in the cache is the device's lie, not to be believed by a new program: only the power helps */
	session_kill(&s->p.session, s->p.dev);
	power_fail(s->p.dev, (struct power_fault){ 0 });
	if (!flush_failed && (!play_open(&s->p) || !play_found(&s->p)))
		return false;
	session_kill(&s->p.session, s->p.dev);
	power_cut_here(s->p.dev, dice_below(&s->p.dice, UINT64_MAX));
	return play_open(&s->p) && play_found(&s->p);
}

/* Works on a device whose flush lied; the program may not die in between, for the next would believe the cache. */
static bool work_to_lost_flush(struct scene *s)
{
	for (unsigned i = 0; i < ACTS; i++) {
		(void)play_gently(&s->p);
		s->p.complaint[0] = '\0';
		if (!read_and_check(s))
			return false;
	}
	return true;
}

/* Whether the fault was met; *good: what was found. */
static bool one_fault(const struct io_class *c, struct power_fault fault, uint64_t seed, int mutant, bool *good)
{
	bool flush = c->kinds == 1 << POWER_FLUSH, hit;
	struct scene s;

	scene_make(&s, seed, mutant);
	*good = play_open(&s.p);
	find_region(s.p.dev, c->region, s.world.sectors, &fault.from, &fault.to);
	power_fail(s.p.dev, fault);
	*good = *good && (flush ? work_to_lost_flush(&s) : work(&s, c->kinds == 1 << POWER_READ));
	hit = s.met || power_failed(s.p.dev) != 0;
	*good = *good && judge(&s, flush && hit);
	if (!*good && mutant == 0)
		print_error("%s %lu (times %lu, %s, %u pages) seed %llu: %s\n", c->name, fault.nth, fault.times,
			    error_name(fault.error), fault.pages_done, (unsigned long long)seed, s.p.complaint);
	scene_free(&s);
	return hit;
}

/* How many of the faults led to a failure of the volume. */
static unsigned long each_fault(const struct io_class *c, uint64_t seed, int mutant, unsigned long *met)
{
	static const struct power_fault shapes[] = {
		{ .times = 1, .error = ERR_IO },
		{ .times = 1, .error = ERR_NOSPACE, .pages_done = 1 },
		{ .times = 1u << 30, .error = ERR_IO },
		{ .times = 3, .error = ERR_NOSPACE, .pages_done = 2 },
	};
	unsigned long bad = 0;

	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		bool hit = true, good;

		for (unsigned long n = 1; hit; n++) {
			struct power_fault fault = shapes[i];

			fault.kinds = c->kinds;
			fault.nth = n;
			hit = one_fault(c, fault, seed, mutant, &good);
			*met += hit;
			bad += !good;
			if (bad > 0)
				return bad;
		}
	}
	return bad;
}

/* File-level: how many shapes of volume, from the command line. */
static uint64_t seeds = 6;

static void a_failing_device_makes_no_liar_of_the_volume(void **state)
{
	const struct io_class *c = *state;
	unsigned long met = 0;

	for (uint64_t seed = 1; seed <= seeds; seed++)
		assert_int_equal(each_fault(c, seed, 0, &met), 0);
	print_message("%s: %lu faults\n", c->name, met);
	assert_true(c->may_be_none || met > 0);
}

static void a_flush_that_is_retried_is_found_out(void **state)
{
	unsigned long met = 0, bad = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 30 && bad == 0; seed++)
		bad = each_fault(&classes[6], seed, MUTANT_R11_FLUSH_RETRIED, &met);
	assert_true(bad > 0);
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[sizeof classes / sizeof *classes + 1];
	size_t n = 0;

	if (argc > 1)
		seeds = strtoull(argv[1], NULL, 10);
	if (getenv("FALLGATE_TEST_LOG") == NULL)
		log_open("powercut_io_errors", (enum log_level)0);
	for (; n < sizeof classes / sizeof *classes; n++)
		tests[n] = (struct CMUnitTest){ .name = classes[n].name,
						.test_func = a_failing_device_makes_no_liar_of_the_volume,
						.initial_state = (void *)(uintptr_t)&classes[n] };
	tests[n] = (struct CMUnitTest)cmocka_unit_test(a_flush_that_is_retried_is_found_out);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
