/* Exhaustive power cuts. A client with dice works on a stepped engine while the device records; then, at every event of the
 * record, the device comes back with every choice (or many) of the unflushed 4 KiB writes, is opened, and every sector is asked
 * for. One point = one image recovered with every sector checked, twice with another opening between. Some images, and some
 * devices whose program alone died, are used a little after the opening, recorded again and cut again at each of those events,
 * the recovery's own among them. Everything follows from the seed; a failure ends with the line that brings it back.
 *
 *   powercut [--points N] [--seed S] [--mutant NAME] [--second-cuts] [--geometry tiny|standard] [--only POINT]
 *            [--expect-failure] [--failures N] [--progress] [--images DIR --image-count N] [--recorder own|qemu]
 *
 * --recorder qemu: the workload runs on qemu-storage-daemon, and what is cut is what that has written down (powercut_recorder.h).
 * --images: a sample of the images, whole and damaged, before and after the recovery, with what was found there, for another
 * reader (check_cuts.py). */
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "powercut_images.h"
#include "powercut_mutants.h"
#include "powercut_play.h"
#include "powercut_recorder.h"

enum {
	EXHAUSTIVE_BITS = 12,
	SAMPLE = 8,         /* images at one event when not all are tried */
	SAMPLE_AGAIN = 5,   /* the same at the events of a second record */
	SECOND_ONE_IN = 32, /* first cuts that are used, recorded and cut again */
	DEATH_ONE_IN = 24,  /* events at which the program alone dies, too */
	PENDING_MAX = 4096,
	PATH_MAX_BYTES = 2 * PENDING_MAX / 4 + 64,
	HANG_SECONDS = 120,
};

static const uint64_t OPENED = UINT64_MAX; /* the mark between a recovery and what comes after */

struct options {
	unsigned long points, failures;
	uint64_t seed;
	bool standard, second, expect_failure, progress, threaded, qemu;
	int mutant;
	const char *only, *images;
	unsigned long image_count;
};

/* One record, the oracle that belongs to it, and an image to cut it into. */
struct stage {
	struct oracle *oracle;
	struct allowed *allowed;
	struct block *image;
	bool keep[PENDING_MAX];
};

struct run {
	const struct options *options;
	uint64_t seed;
	struct world world;
	struct block *dev;
	struct session session;
	struct stage first, second;
	const struct allowed *allowed_again; /* at the second cut: before the opening was done what the first cut allowed */
	uint8_t *got, *again, *first_look;
	char path[PATH_MAX_BYTES]; /* of the point in hand */
	char what[400];
	const char *wanted;    /* what is left of --only */
	struct images *images; /* NULL: nobody wants any */
	unsigned long points, second_points, deaths, events, failures, most_pending;
	bool stop;
};

/* File-level, for signal handlers: how to bring back the point in hand. */
static char again_line[PATH_MAX_BYTES + 200];

static void name_point(struct run *r)
{
	const struct options *o = r->options;

	snprintf(again_line, sizeof again_line, "powercut --geometry %s --seed %llu%s%s%s --only %s\n",
		 o->standard ? "standard" : "tiny", (unsigned long long)r->seed, o->qemu ? " --recorder qemu" : "",
		 o->mutant != 0 ? " --mutant " : "", o->mutant != 0 ? mutant_name(o->mutant) : "", r->path);
}

static bool fail(struct run *r)
{
	r->failures++;
	name_point(r);
	if (!r->options->expect_failure || r->options->progress)
		printf("FAILED: %s\n  again: %s", r->what, again_line);
	if (r->failures >= r->options->failures)
		r->stop = true;
	return false;
}

static bool complain(struct run *r, const char *when, int error, const char *why)
{
	snprintf(r->what, sizeof r->what, "%s: %s (%s)", when, error_text(error), why);
	return fail(r);
}

/* --- one image --------------------------------------------------------------------------------------------------------- */

static uint64_t hash_text(const char *text, uint64_t hash)
{
	for (; *text != '\0'; text++)
		hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001B3);
	return hash;
}

static uint64_t path_hash(const struct run *r)
{
	return hash_text(r->path, UINT64_C(0xCBF29CE484222325) ^ r->seed * UINT64_C(0x9E3779B97F4A7C15));
}

static bool open_image(struct run *r, struct block *image, const char *when)
{
	int e = session_open(&r->session, &r->world, image);

	return e == 0 || complain(r, when, e, r->session.why);
}

static bool read_image(struct run *r, uint8_t *out, const char *when)
{
	char sector[40];
	uint32_t lba;
	int e = world_read(&r->world, r->session.volume, out, &lba);

	snprintf(sector, sizeof sector, "sector %u", lba);
	return e == 0 || complain(r, when, e, sector);
}

static bool check_found(struct run *r, const struct allowed *a)
{
	char what[200];

	if (allowed_check(a, r->got, what, sizeof what) == r->world.sectors)
		return true;
	snprintf(r->what, sizeof r->what, "after the recovery %s", what);
	return fail(r);
}

/* Another opening finds the same, whether this one ended in good order or not. */
static bool check_stable(struct run *r, struct block *image)
{
	size_t size = r->world.sectors * (size_t)SECTOR_BYTES;

	if (path_hash(r) & 1) {
		session_kill(&r->session, image);
	} else {
		int e = session_close(&r->session);

		if (e != 0)
			return complain(r, "close after the recovery", e, "");
	}
	if (!open_image(r, image, "second opening") || !read_image(r, r->again, "read after the second opening"))
		return false;
	if (memcmp(r->got, r->again, size) == 0)
		return true;
	snprintf(r->what, sizeof r->what, "a second opening found other contents than the first");
	return fail(r);
}

/* A recovery that may not write finds what the next one will find. */
static bool check_read_only(struct run *r, struct block *image)
{
	size_t size = r->world.sectors * (size_t)SECTOR_BYTES;
	bool good;

	r->world.options.read_only = true;
	good = open_image(r, image, "opening read-only") && read_image(r, r->first_look, "read after opening read-only");
	r->world.options.read_only = false;
	session_kill(&r->session, image);
	if (good && power_events(image) != 0) {
		snprintf(r->what, sizeof r->what, "opened read-only, it wrote");
		return fail(r);
	}
	if (!good || !open_image(r, image, "opening") || !read_image(r, r->got, "read after the recovery"))
		return false;
	if (memcmp(r->first_look, r->got, size) == 0)
		return true;
	snprintf(r->what, sizeof r->what, "opened read-only, it found other contents");
	return fail(r);
}

static bool check_lost(struct run *r)
{
	struct volume_stats stats;

	volume_stats(r->session.volume, &stats);
	if (stats.lost == 0)
		return true;
	snprintf(r->what, sizeof r->what, "the recovery gave up %llu objects", (unsigned long long)stats.lost);
	return fail(r);
}

static bool look(struct run *r, struct block *image)
{
	if (path_hash(r) >> 32 & 1)
		return check_read_only(r, image);
	return open_image(r, image, "opening") && read_image(r, r->got, "read after the recovery");
}

static bool check_image(struct run *r, struct block *image, const struct allowed *a, bool twice)
{
	bool good, wanted = images_due(r->images, path_hash(r), r->points);

	r->points++;
	alarm(HANG_SECONDS);
	name_point(r);
	entropy_seed(path_hash(r));
	if (wanted)
		images_begin(r->images, image, &r->world, r->path);
	good = look(r, image) && check_found(r, a) && check_lost(r) && (!twice || check_stable(r, image));
	session_kill(&r->session, image);
	if (wanted && good)
		images_end(r->images, image, r->got);
	return good;
}

/* --- which pending writes survive -------------------------------------------------------------------------------------- */

/* Appends "/POSITION:HEX" or, at the first stage, "POSITION:HEX". Returns the length before. */
static size_t push_path(struct run *r, char kind, size_t position, const bool *keep, size_t n)
{
	size_t before = strlen(r->path), at = before;

	at += (size_t)snprintf(r->path + at, sizeof r->path - at, "%s%c%zu:", before == 0 ? "" : "/", kind, position);
	for (size_t i = 0; i < n; i += 4) {
		unsigned digit = 0;

		for (size_t k = 0; k < 4 && i + k < n; k++)
			digit |= (unsigned)keep[i + k] << k;
		r->path[at++] = "0123456789abcdef"[digit];
	}
	r->path[at] = '\0';
	return before;
}

/* For --only: this position's part of the point, if it is the one wanted; reads keep. */
static bool wanted_here(const char *wanted, char kind, size_t position, bool *keep, size_t n)
{
	char head[32];
	size_t size = (size_t)snprintf(head, sizeof head, "%c%zu:", kind, position);

	if (wanted == NULL || strncmp(wanted, head, size) != 0)
		return false;
	for (size_t i = 0; i < n && wanted[size + i / 4] != '\0' && wanted[size + i / 4] != '/'; i++) {
		char c = wanted[size + i / 4];
		unsigned digit = (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);

		keep[i] = (digit >> (i % 4) & 1) != 0;
	}
	return true;
}

typedef void point_fn(struct run *r, const struct power_cursor *c, const bool *keep);

/* With none of the fresh writes kept it is an image of the position before. */
static bool seen_before(const bool *keep, size_t n, size_t fresh)
{
	for (size_t i = n - fresh; i < n; i++)
		if (keep[i])
			return false;
	return true;
}

static void all_choices(struct run *r, const struct power_cursor *c, bool *keep, bool anew, point_fn *fn)
{
	size_t n = power_pending(c), fresh = power_fresh(c);

	for (unsigned long bits = 0; bits < 1ul << n && !r->stop; bits++) {
		for (size_t i = 0; i < n; i++)
			keep[i] = (bits >> i & 1) != 0;
		if (anew || !seen_before(keep, n, fresh))
			fn(r, c, keep);
	}
}

/* None, all, then singles and random ones of several densities. */
static void draw_choice(struct dice *d, bool *keep, size_t n, unsigned which)
{
	bool single = which >= 2 && which % 3 != 2, value = which % 3 == 0;
	uint64_t density = 1 + dice_below(d, 7);

	for (size_t i = 0; i < n; i++)
		keep[i] = which == 0 ? true : which == 1 ? false : single ? !value : dice_below(d, 8) < density;
	if (single && n > 0)
		keep[dice_below(d, n)] = value;
}

static void every_single(struct run *r, const struct power_cursor *c, bool *keep, point_fn *fn)
{
	size_t n = power_pending(c);

	for (int value = 0; value < 2; value++)
		for (size_t i = 0; i < n && !r->stop; i++) {
			memset(keep, !value, n);
			keep[i] = value != 0;
			fn(r, c, keep);
		}
}

static void some_choices(struct run *r, const struct power_cursor *c, bool *keep, bool anew, unsigned count, point_fn *fn)
{
	struct dice d = dice_new(path_hash(r) ^ power_cursor_at(c) * UINT64_C(0x9E3779B97F4A7C15));
	size_t n = power_pending(c), fresh = power_fresh(c);

	for (unsigned which = 0; which < count && !r->stop; which++) {
		draw_choice(&d, keep, n, which);
		if (!anew && seen_before(keep, n, fresh))
			keep[n - 1 - dice_below(&d, fresh)] = true;
		fn(r, c, keep);
	}
}

/* At one event. anew: less is allowed than at the events before. */
static void choose(struct run *r, const struct power_cursor *c, struct stage *s, bool anew, bool again, point_fn *fn)
{
	size_t n = power_pending(c);
	bool thorough = !again && r->seed % 8 == 0;
	unsigned count = again ? SAMPLE_AGAIN : SAMPLE;

	if (power_fresh(c) == 0 && !anew)
		return;
	if (n > PENDING_MAX)
		abort();
	r->most_pending = n > r->most_pending ? n : r->most_pending;
	if (n <= EXHAUSTIVE_BITS && (1ul << n <= count || thorough)) {
		all_choices(r, c, s->keep, anew, fn);
		return;
	}
	if (thorough)
		every_single(r, c, s->keep, fn);
	some_choices(r, c, s->keep, anew, count, fn);
}

/* --- the second record -------------------------------------------------------------------------------------------------- */

static void second_point(struct run *r, const struct power_cursor *c, const bool *keep)
{
	size_t before = push_path(r, 'c', power_cursor_at(c), keep, power_pending(c));

	power_cut(r->second.image, c, keep);
	r->second_points++;
	(void)check_image(r, r->second.image, r->allowed_again, false);
	r->path[before] = '\0';
}

static bool read_opened(struct run *r, struct player *p)
{
	uint32_t lba;
	int e = world_read(&r->world, p->session.volume, r->got, &lba);

	if (e != 0)
		snprintf(p->complaint, sizeof p->complaint, "read of sector %u: %s", lba, error_text(e));
	return e == 0;
}

/* What the recovery left behind is used for a moment, by an oracle to which what was found is durable. */
static bool use_image(struct run *r, const struct allowed *a)
{
	struct player p;
	struct dice d = dice_new(path_hash(r) + 1);
	bool good;

	player_init(&p, &r->world, r->first.image, r->second.oracle, path_hash(r));
	good = play_open(&p);
	power_mark(r->first.image, OPENED);
	good = good && read_opened(r, &p) && check_found(r, a);
	oracle_reset(r->second.oracle, r->got);
	for (uint64_t n = dice_below(&d, 6); n > 0 && good; n--)
		good = play_gently(&p);
	if (p.complaint[0] != '\0') {
		snprintf(r->what, sizeof r->what, "in use after the recovery: %.300s", p.complaint);
		fail(r);
		good = false;
	}
	player_free(&p);
	return good;
}

static void cut_again(struct run *r, const struct allowed *outer)
{
	struct power_cursor *c = power_cursor_new(r->first.image);
	struct allowed *inner = r->second.allowed;
	bool anew = true;

	allowed_begin(inner);
	r->allowed_again = outer;
	do {
		size_t at = power_cursor_at(c);

		if (at < power_events(r->first.image) && power_event(r->first.image, at)->kind == POWER_MARK) {
			uint64_t mark = power_event(r->first.image, at)->mark;

			anew = mark == OPENED || allowed_pass(inner, mark) || anew;
			if (mark == OPENED)
				r->allowed_again = inner;
		}
		if (r->wanted != NULL) {
			if (wanted_here(r->wanted, 'c', at, r->second.keep, power_pending(c)))
				second_point(r, c, r->second.keep);
			continue;
		}
		choose(r, c, &r->second, anew, true, second_point);
		anew = false;
	} while (power_cursor_next(c) && !r->stop);
	power_cursor_free(c);
}

/* The image is made. */
static void use_and_cut_again(struct run *r, const struct allowed *a)
{
	name_point(r);
	entropy_seed(path_hash(r));
	if (use_image(r, a))
		cut_again(r, a);
}

/* --- the first record --------------------------------------------------------------------------------------------------- */

static const char *after_slash(const char *wanted)
{
	const char *slash = wanted == NULL ? NULL : strchr(wanted, '/');

	return slash == NULL ? NULL : slash + 1;
}

static bool second_due(const struct run *r)
{
	if (r->options->only != NULL)
		return after_slash(r->options->only) != NULL;
	return r->options->second && path_hash(r) / 2 % SECOND_ONE_IN == 0;
}

static void first_point(struct run *r, const struct power_cursor *c, const bool *keep)
{
	size_t before = push_path(r, 'c', power_cursor_at(c), keep, power_pending(c));

	power_cut(r->first.image, c, keep);
	if (check_image(r, r->first.image, r->first.allowed, true) && second_due(r)) {
		power_cut(r->first.image, c, keep);
		r->wanted = after_slash(r->options->only);
		use_and_cut_again(r, r->first.allowed);
	}
	r->path[before] = '\0';
}

/* The program dies; what the device holds in its cache is seen by the recovery and may still be lost after it. */
static void death_point(struct run *r, const struct power_cursor *c, const bool *keep)
{
	size_t before = push_path(r, 'k', power_cursor_at(c), keep, power_pending(c));

	r->deaths++;
	power_kill(r->first.image, c, keep);
	r->wanted = after_slash(r->options->only);
	use_and_cut_again(r, r->first.allowed);
	r->path[before] = '\0';
}

static void die_here(struct run *r, const struct power_cursor *c)
{
	struct dice d = dice_new(r->seed * 31 + power_cursor_at(c));
	size_t n = power_pending(c), fresh = power_fresh(c);

	/* after a failed flush only the power helps: no program can tell what the cache holds from what the medium does */
	if (!r->options->second || power_doomed(c) || !dice_one_in(&d, DEATH_ONE_IN))
		return;
	memset(r->first.keep, true, n);
	for (size_t i = n - fresh; i < n; i++)
		r->first.keep[i] = dice_one_in(&d, 2);
	death_point(r, c, r->first.keep);
}

static void only_here(struct run *r, const struct power_cursor *c)
{
	size_t at = power_cursor_at(c), n = power_pending(c);

	if (wanted_here(r->options->only, 'c', at, r->first.keep, n))
		first_point(r, c, r->first.keep);
	else if (wanted_here(r->options->only, 'k', at, r->first.keep, n))
		death_point(r, c, r->first.keep);
}

static void walk(struct run *r)
{
	struct power_cursor *c = power_cursor_new(r->dev);
	bool anew = true;

	allowed_begin(r->first.allowed);
	do {
		size_t at = power_cursor_at(c);

		if (at < power_events(r->dev) && power_event(r->dev, at)->kind == POWER_MARK)
			anew = allowed_pass(r->first.allowed, power_event(r->dev, at)->mark) || anew;
		if (r->options->only != NULL) {
			only_here(r, c);
			continue;
		}
		choose(r, c, &r->first, anew, false, first_point);
		anew = false;
		die_here(r, c);
	} while (power_cursor_next(c) && !r->stop && r->points < r->options->points);
	power_cursor_free(c);
}

/* --- a run --------------------------------------------------------------------------------------------------------------- */

static bool work(struct run *r)
{
	struct player p;
	struct dice d = dice_new(r->seed ^ UINT64_C(0x6163747300));
	uint64_t acts = r->options->standard ? 60 : 20 + dice_below(&d, 100);
	bool good;

	power_discards(r->dev, dice_below(&d, 3));
	player_init(&p, &r->world, r->dev, r->first.oracle, r->seed);
	r->world.options.stepped = !r->options->threaded;
	good = play_open(&p);
	for (uint64_t i = 0; i < acts && good; i++) {
		good = play_one(&p);
		/* the engine's thread looks at what is held when it is 20 ms old */
		if (r->options->threaded && dice_one_in(&d, 12))
			usleep(30000);
	}
	/* qemu's recorder has no word for a flush that fails */
	if (good && dice_one_in(&d, 2) && !r->options->qemu)
		good = play_lost_flush(&p);
	if (!good) {
		snprintf(r->what, sizeof r->what, "while it worked, act %zu: %.300s", power_events(r->dev), p.complaint);
		snprintf(r->path, sizeof r->path, "work");
		fail(r);
	}
	r->path[0] = '\0';
	player_free(&p);
	r->world.options.stepped = true;
	return good;
}

/* The event at *i; of flushes without anything between them the last: the daemon leaves the others out. NULL: the end. */
static const struct power_event *next_event(const struct block *dev, size_t *i)
{
	while (*i + 1 < power_events(dev) && power_event(dev, *i)->kind == POWER_FLUSH &&
	       power_event(dev, *i + 1)->kind == POWER_FLUSH)
		(*i)++;
	return *i < power_events(dev) ? power_event(dev, (*i)++) : NULL;
}

/* Have both recorders written down the same things in the same order? */
static bool same_record(struct run *r, const struct block *ours, const struct block *theirs)
{
	size_t i = 0, k = 0;

	for (;;) {
		const struct power_event *a = next_event(ours, &i), *b = next_event(theirs, &k);

		/* the daemon ends with a flush of its own */
		if (a == NULL && (b == NULL || (b->kind == POWER_FLUSH && k == power_events(theirs))))
			return true;
		if (a != NULL && b != NULL && a->kind == b->kind && a->page == b->page && a->pages == b->pages &&
		    a->mark == b->mark)
			continue;
		snprintf(r->what, sizeof r->what, "the recorders disagree at event %zu of ours, %zu of theirs", i, k);
		return fail(r);
	}
}

/* The workload on the daemon's export; r->dev becomes what its log says. */
static bool record_by_qemu(struct run *r)
{
	struct recorder *recorder = recorder_start();
	struct block *ours;
	bool good;

	if (recorder == NULL)
		exit(2);
	r->world.lower = recorder_device(recorder);
	/* The daemon makes a FUA write of a write and a flush, and its recorder does not always see that flush (the block layer
	 * counts the write only after it): the engine's own flushes it does see. */
	r->world.offer_fua = false;
	ours = r->dev = world_format(&r->world);
	good = work(r);
	power_mirror(ours, NULL);
	r->world.lower = NULL;
	if (!recorder_stop(recorder) || (r->dev = recorder_replay(recorder, ours->size)) == NULL) {
		fprintf(stderr, "powercut: the recorder's log cannot be read\n");
		exit(2);
	}
	power_offer_fua(r->dev, false);
	good = good && same_record(r, ours, r->dev);
	ours->ops->close(ours);
	recorder_free(recorder);
	return good;
}

static bool record(struct run *r)
{
	entropy_seed(r->seed);
	if (r->options->qemu)
		return record_by_qemu(r);
	r->dev = world_format(&r->world);
	return work(r);
}

static void stage_make(struct run *r, struct stage *s, bool oracle)
{
	if (oracle) {
		s->oracle = oracle_new(r->world.sectors);
		s->allowed = allowed_new(s->oracle);
	} else {
		s->image = power_image_new(r->dev);
	}
}

static void stage_free(struct stage *s)
{
	allowed_free(s->allowed);
	oracle_free(s->oracle);
	if (s->image != NULL)
		s->image->ops->close(s->image);
}

static void one_seed(struct run *r)
{
	size_t size;

	world_draw(&r->world, r->seed, r->options->standard);
	r->world.options.mutant = r->options->mutant;
	size = r->world.sectors * (size_t)SECTOR_BYTES;
	r->got = malloc(size);
	r->again = malloc(size);
	r->first_look = malloc(size);
	if (r->got == NULL || r->again == NULL || r->first_look == NULL)
		abort();
	r->first.image = r->second.image = NULL;
	stage_make(r, &r->first, true);
	stage_make(r, &r->second, true);
	snprintf(r->path, sizeof r->path, "work");
	name_point(r);
	r->path[0] = '\0';
	if (record(r)) {
		stage_make(r, &r->first, false);
		stage_make(r, &r->second, false);
		r->events += power_events(r->dev);
		walk(r);
	}
	session_free(&r->session);
	r->dev->ops->close(r->dev);
	stage_free(&r->first);
	stage_free(&r->second);
	free(r->got);
	free(r->again);
	free(r->first_look);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void report(const struct run *r, unsigned long seeds, double took, bool last)
{
	fprintf(last ? stdout : stderr,
		"%s%lu points (%lu of them second cuts, after %lu deaths of the program alone), %lu workloads, %lu events, at "
		"most %lu unflushed, %lu failures, %.0f points/s\n",
		last ? "" : "  ", r->points, r->second_points, r->deaths, seeds, r->events, r->most_pending, r->failures,
		(double)r->points / (took > 0 ? took : 1));
}

static int all(const struct options *o)
{
	struct run *r = calloc(1, sizeof *r);
	double began = seconds(), said = began;
	unsigned long seeds = 0;
	int code;

	if (r == NULL)
		abort();
	r->options = o;
	if (o->images != NULL)
		r->images = images_new(o->images, o->points, o->image_count);
	for (; r->points < o->points && !r->stop && (o->only == NULL || seeds == 0); seeds++) {
		r->seed = o->seed + seeds;
		one_seed(r);
		if (o->progress && seconds() - said > 5) {
			said = seconds();
			report(r, seeds + 1, said - began, false);
		}
	}
	report(r, seeds, seconds() - began, true);
	if (o->expect_failure)
		printf(r->failures > 0 ? "mutant %s: caught after %lu points: %s\n" : "mutant %s: SURVIVED %lu points%s\n",
		       mutant_name(o->mutant), r->points, r->failures > 0 ? r->what : "");
	code = (r->failures > 0) == o->expect_failure ? 0 : 1;
	images_free(r->images);
	free(r);
	return code;
}

/* --- the program --------------------------------------------------------------------------------------------------------- */

static void on_signal(int number)
{
	static const char head[] = "FAILED: the program crashed or hung\n  again: ";

	(void)!write(STDERR_FILENO, head, sizeof head - 1);
	(void)!write(STDERR_FILENO, again_line, strlen(again_line));
	signal(number, SIG_DFL);
	raise(number);
}

/* Where a sanitizer has its own handlers they are replaced: the line counts for more, and the default follows. */
static void watch_signals(void)
{
	static const int numbers[] = { SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE };

	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		signal(numbers[i], on_signal);
}

static void usage(void)
{
	fprintf(stderr, "usage: powercut [--points N] [--seed S] [--mutant NAME] [--second-cuts] [--geometry tiny|standard]\n"
			"                [--only POINT] [--expect-failure] [--failures N] [--progress] [--threaded]\n"
			"                [--images DIR --image-count N] [--recorder own|qemu]\nmutants:");
	for (int m = 1; m < MUTANTS; m++)
		fprintf(stderr, " %s", mutant_name(m));
	fprintf(stderr, "\n");
	exit(2);
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{ "points", 1, NULL, 'p' },         { "seed", 1, NULL, 's' },
		{ "mutant", 1, NULL, 'm' },         { "second-cuts", 0, NULL, '2' },
		{ "geometry", 1, NULL, 'g' },       { "only", 1, NULL, 'o' },
		{ "expect-failure", 0, NULL, 'x' }, { "failures", 1, NULL, 'f' },
		{ "progress", 0, NULL, 'v' },       { "threaded", 0, NULL, 't' },
		{ "recorder", 1, NULL, 'r' },       { "images", 1, NULL, 'i' },
		{ "image-count", 1, NULL, 'n' },    { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1)
		switch (c) {
		case 'p':
			o->points = strtoul(optarg, NULL, 10);
			break;
		case 's':
			o->seed = strtoull(optarg, NULL, 10);
			break;
		case 'm':
			o->mutant = mutant_by_name(optarg);
			break;
		case '2':
			o->second = true;
			break;
		case 'g':
			o->standard = strcmp(optarg, "standard") == 0;
			break;
		case 'o':
			o->only = optarg;
			break;
		case 'x':
			o->expect_failure = true;
			break;
		case 'f':
			o->failures = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			o->qemu = strcmp(optarg, "qemu") == 0;
			if (!o->qemu && strcmp(optarg, "own") != 0)
				usage();
			break;
		case 'i':
			o->images = optarg;
			break;
		case 'n':
			o->image_count = strtoul(optarg, NULL, 10);
			break;
		case 't':
			o->threaded = true;
			break;
		case 'v':
			o->progress = true;
			break;
		default:
			usage();
		}
	if (optind != argc || o->mutant < 0)
		usage();
}

int main(int argc, char **argv)
{
	struct options o = { .points = 20000, .failures = 1, .seed = 1, .image_count = 100 };

	parse(&o, argc, argv);
	if (getenv("FALLGATE_TEST_LOG") == NULL)
		log_open("powercut", (enum log_level)0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* every opening asks for the same large pieces: let them stay */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	watch_signals();
	alarm(HANG_SECONDS);
	return all(&o);
}
