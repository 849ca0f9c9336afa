/* Random work on tiny volumes against an array, for as long as one likes: closes, locks, deaths in the middle of I/O, power cuts,
 * failed flushes; a new volume of another shape every so often. After every opening each sector is asked for.
 *
 *   powercut_random [--operations N] [--seed S] [--volume-operations N] [--calm N] [--progress]
 *
 * --calm N: whatever takes an opening is N times rarer and most requests are small, so that ten million take a minute. */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/log.h"
#include "powercut_play.h"

enum {
	CUT_ONE_IN = 120,
	LOST_FLUSH_ONE_IN = 400,
	CRASH_LOOP_ONE_IN = 2000,
	CRASH_LOOP = 40,
	EXTENTS_ONE_IN = 20,
	SEGMENT = 300, /* no record is longer (times calm), for memory's sake */
};

struct options {
	unsigned long operations, per_volume;
	uint64_t seed;
	unsigned calm;
	bool progress;
};

struct tally {
	unsigned long operations, cuts, loops, used_up, volumes;
};

struct cover {
	struct player *p;
	uint64_t next;
	bool good;
};

static bool zero_page(const uint8_t *bytes)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, SECTOR_BYTES - 1) == 0;
}

/* Runs join without gaps; what is called zero reads as zero. */
static int one_extent(void *context, uint64_t at, uint64_t size, bool zero)
{
	struct cover *c = context;

	c->good = c->good && at == c->next && size > 0;
	for (uint64_t s = at / SECTOR_BYTES; zero && s < (at + size) / SECTOR_BYTES && c->good; s++)
		c->good = zero_page(oracle_now(c->p->oracle, (uint32_t)s));
	c->next = at + size;
	return 0;
}

static bool check_extents(struct player *p)
{
	uint64_t size = p->world->sectors * (uint64_t)SECTOR_BYTES;
	struct cover c = { .p = p, .good = true };
	int r = volume_extents(p->session.volume, size, 0, one_extent, &c);

	if (r == 0 && c.good && c.next == size)
		return true;
	snprintf(p->complaint, sizeof p->complaint, "extents are wrong near %llu: %s", (unsigned long long)c.next, error_text(r));
	return false;
}

/* After an opening that found everything in order the past is of no interest. */
static void forget_past(struct player *p)
{
	oracle_reset(p->oracle, p->buffer);
	allowed_begin(p->live);
}

static bool cut(struct player *p, struct tally *t)
{
	session_kill(&p->session, p->dev);
	power_cut_here(p->dev, dice_below(&p->dice, UINT64_MAX));
	p->gone = false;
	t->cuts++;
	if (!play_open(p) || !play_found(p))
		return false;
	forget_past(p);
	return true;
}

/* Each recovery that is cut takes some of the log: a small one may be used up at last. Then the volume says so, and opened
 * read-only it has everything. */
static bool log_used_up(struct player *p, struct tally *t)
{
	struct world w = *p->world;
	uint32_t lba;

	if (session_open(&p->session, p->world, p->dev) != ERR_NOSPACE) {
		session_kill(&p->session, p->dev);
		return false;
	}
	w.options.read_only = true;
	if (session_open(&p->session, &w, p->dev) != 0 || world_read(&w, p->session.volume, p->buffer, &lba) != 0)
		snprintf(p->complaint, sizeof p->complaint, "the log is full, and not even a read-only opening helps");
	else if (allowed_check(p->live, p->buffer, p->complaint, sizeof p->complaint) == w.sectors)
		p->gone = true;
	t->used_up += p->gone;
	return true;
}

/* The power goes again and again while the volume is being opened; that must not use up anything. */
static bool crash_loop(struct player *p, struct tally *t)
{
	session_kill(&p->session, p->dev);
	for (unsigned i = 0; i < CRASH_LOOP; i++) {
		power_cut_here(p->dev, dice_below(&p->dice, UINT64_MAX));
		power_fail(p->dev, (struct power_fault){ .kinds = 1 << POWER_WRITE | 1 << POWER_FUA | 1 << POWER_FLUSH,
							 .nth = 1 + dice_below(&p->dice, 16),
							 .times = 1u << 30,
							 .unreachable = true,
							 .error = ERR_IO,
							 .pages_done = (unsigned)dice_below(&p->dice, 3) });
		(void)session_open(&p->session, p->world, p->dev);
		session_kill(&p->session, p->dev);
		power_fail(p->dev, (struct power_fault){ 0 });
	}
	t->loops++;
	return !log_used_up(p, t) && cut(p, t);
}

static bool act(struct player *p, struct tally *t, unsigned long *since)
{
	bool good;

	t->operations++;
	if (++*since >= SEGMENT * p->calm || dice_one_in(&p->dice, CUT_ONE_IN * p->calm)) {
		*since = 0;
		return cut(p, t);
	}
	if (dice_one_in(&p->dice, CRASH_LOOP_ONE_IN * p->calm))
		return crash_loop(p, t);
	if (dice_one_in(&p->dice, EXTENTS_ONE_IN))
		return check_extents(p);
	if (!dice_one_in(&p->dice, LOST_FLUSH_ONE_IN * p->calm))
		return play_one(p);
	good = play_lost_flush(p);
	return good && (!p->gone || cut(p, t));
}

static bool one_volume(const struct options *o, uint64_t seed, unsigned long operations, struct tally *t)
{
	struct world w;
	struct player p;
	unsigned long since = 0, done = 0;
	bool good;

	world_draw(&w, seed, false);
	entropy_seed(seed);
	player_init(&p, &w, world_format(&w), oracle_new(w.sectors), seed);
	p.live = allowed_new(p.oracle);
	p.calm = o->calm;
	power_discards(p.dev, seed % 3);
	for (good = play_open(&p); good && done < operations; done++)
		good = act(&p, t, &since);
	good = good || (p.gone && p.complaint[0] == '\0');
	if (!good)
		printf("FAILED: %s\n  again: powercut_random --seed %llu --operations %lu --volume-operations %lu --calm %u\n",
		       p.complaint, (unsigned long long)seed, done, o->per_volume, o->calm);
	t->volumes++;
	player_free(&p);
	allowed_free(p.live);
	oracle_free(p.oracle);
	p.dev->ops->close(p.dev);
	return good;
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{ "operations", 1, NULL, 'n' }, { "seed", 1, NULL, 's' },     { "volume-operations", 1, NULL, 'm' },
		{ "calm", 1, NULL, 'c' },       { "progress", 0, NULL, 'v' }, { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1)
		if (c == 'n')
			o->operations = strtoul(optarg, NULL, 10);
		else if (c == 's')
			o->seed = strtoull(optarg, NULL, 10);
		else if (c == 'm')
			o->per_volume = strtoul(optarg, NULL, 10);
		else if (c == 'c')
			o->calm = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'v')
			o->progress = true;
		else
			exit(2);
	if (o->per_volume == 0 || o->calm == 0)
		exit(2);
}

int main(int argc, char **argv)
{
	struct options o = { .operations = 100000, .per_volume = 5000, .seed = 1, .calm = 1 };
	struct tally t = { 0 };
	time_t began = time(NULL);
	bool good = true;

	parse(&o, argc, argv);
	if (getenv("FALLGATE_TEST_LOG") == NULL)
		log_open("powercut_random", (enum log_level)0);
	/* every opening asks for the same large pieces: let them stay */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	for (uint64_t i = 0; good && t.operations < o.operations; i++) {
		unsigned long left = o.operations - t.operations;

		good = one_volume(&o, o.seed + i, left < o.per_volume ? left : o.per_volume, &t);
		if (o.progress && i % 20 == 0)
			fprintf(stderr, "  %lu operations, %lu cuts\n", t.operations, t.cuts);
	}
	printf("%lu operations, %lu power cuts, %lu loops of cuts (%lu used a log up), %lu volumes, %lld s\n", t.operations,
	       t.cuts, t.loops, t.used_up, t.volumes, (long long)(time(NULL) - began));
	return good ? 0 : 1;
}
