/* An attacker with the medium, one block after the other: each block that holds anything is replaced by zeroes, noise, each older
 * version of itself, its neighbours, the block at its place in the other copy's region, a clone's block of the same place, and
 * has bits flipped; then the volume is opened, for writing and read-only, and every sector is read. Allowed: repaired, an error,
 * or refused. What must hold: no read ever returns other than the sector's content, and what is settled never goes back; only the
 * last two writes before the end, which no mark covers that cannot be taken away, may be a version older (DESIGN.md, Limits).
 *
 *   powercut_blocks [--volumes N] [--seed S] [--bits N] [--wrong] */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "powercut_play.h"

enum { ACTS = 60, SECTORS_MOST = 512 };

struct sweep {
	struct world world;
	struct oracle *oracle, *clones_oracle;
	struct allowed *allowed, *clones;
	bool error[SECTORS_MOST];
	struct block *dev, *clone, *image;
	struct session session;
	uint8_t *got;
	bool closed, wrong; /* wrong: the check is to fail */
	unsigned long images, right, errors, refused, bad;
	char complaint[300];
	char what[120];
};

struct options {
	unsigned long volumes, bits;
	uint64_t seed;
	bool wrong;
};

/* --- a volume and its clone --------------------------------------------------------------------------------------------- */

static void write_one(struct player *p, uint32_t lba)
{
	size_t act;

	dice_bytes(&p->dice, p->buffer, SECTOR_BYTES);
	act = oracle_ask(p->oracle, NULL, (struct act){ .kind = ACT_WRITE, .lba = lba, .count = 1 }, p->buffer);
	(void)allowed_pass(p->live, 2 * act);
	if (volume_write(p->session.volume, p->buffer, SECTOR_BYTES, lba * (uint64_t)SECTOR_BYTES, false) != 0 ||
	    volume_flush(p->session.volume) != 0)
		abort();
	oracle_answer(p->oracle, NULL, act, true);
	(void)allowed_pass(p->live, 2 * act + 1);
}

/* All that was written before is flushed; then two more sectors, whose log blocks carry the mark of all the others: two, for the
 * last block of a log can be taken away unnoticed. Closed: these are settled, too. */
static bool work(struct sweep *s, struct block *dev, struct oracle *o, struct allowed *a, uint64_t seed)
{
	struct player p;
	bool good;

	player_init(&p, &s->world, dev, o, seed);
	p.live = a;
	good = play_open(&p);
	for (unsigned i = 0; i < ACTS && good; i++)
		good = play_one(&p);
	good = good && play_reopen(&p);
	for (unsigned i = 0; i < 6 && good; i++)
		good = play_gently(&p);
	if (good && volume_flush(p.session.volume) == 0) {
		size_t act =
			oracle_ask(o, NULL, (struct act){ .kind = ACT_FLUSH, .count = s->world.sectors, .durable = true }, NULL);

		oracle_answer(o, NULL, act, true);
		(void)allowed_pass(a, 2 * act + 1);
		write_one(&p, (uint32_t)(seed % s->world.sectors));
		write_one(&p, (uint32_t)(seed * 7 % s->world.sectors));
	}
	if (s->closed && good)
		good = play_reopen(&p) && session_close(&p.session) == 0;
	if (!good)
		snprintf(s->complaint, sizeof s->complaint, "%s", p.complaint);
	player_free(&p);
	return good;
}

static void copy_to(struct block *to, struct block *from)
{
	struct power_cursor *c = power_cursor_new(from);
	bool *keep;

	while (power_cursor_next(c))
		;
	keep = malloc(power_pending(c) + 1);
	if (keep == NULL)
		abort();
	memset(keep, true, power_pending(c) + 1);
	power_cut(to, c, keep);
	free(keep);
	power_cursor_free(c);
}

static bool make(struct sweep *s, uint64_t seed)
{
	bool good;

	world_draw(&s->world, seed, false);
	entropy_seed(seed);
	s->oracle = oracle_new(s->world.sectors);
	s->allowed = allowed_new(s->oracle);
	s->got = malloc(s->world.sectors * (size_t)SECTOR_BYTES);
	s->dev = world_format(&s->world);
	s->image = power_image_new(s->dev);
	s->clone = power_image_new(s->dev);
	if (s->got == NULL)
		abort();
	copy_to(s->clone, s->dev);
	good = work(s, s->dev, s->oracle, s->allowed, seed);
	/* the clone lives on its own, with other data under the same key */
	s->clones_oracle = oracle_new(s->world.sectors);
	s->clones = allowed_new(s->clones_oracle);
	good = good && work(s, s->clone, s->clones_oracle, s->clones, seed + 1);
	allowed_any(s->clones);
	return good;
}

static void end(struct sweep *s)
{
	session_free(&s->session);
	s->image->ops->close(s->image);
	s->clone->ops->close(s->clone);
	s->dev->ops->close(s->dev);
	allowed_free(s->allowed);
	oracle_free(s->oracle);
	allowed_free(s->clones);
	oracle_free(s->clones_oracle);
	free(s->got);
}

/* --- one image ---------------------------------------------------------------------------------------------------------- */

/* An error is allowed anywhere. */
static bool all_allowed(struct sweep *s, const struct oracle *o, const struct allowed *a)
{
	for (uint32_t i = 0; i < s->world.sectors; i++)
		if (s->error[i])
			memcpy(s->got + i * (size_t)SECTOR_BYTES, oracle_now(o, i), SECTOR_BYTES);
	return allowed_check(a, s->got, s->complaint, sizeof s->complaint) == s->world.sectors;
}

/* fork: the clone's root, if it is the newer one, makes of this the clone as of that root, which is as authentic (DESIGN.md,
 * Limits). */
static bool read_all(struct sweep *s, bool fork)
{
	unsigned long errors = 0;

	for (uint32_t i = 0; i < s->world.sectors; i++) {
		uint8_t *at = s->got + i * (size_t)SECTOR_BYTES;

		s->error[i] = volume_read(s->session.volume, at, SECTOR_BYTES, i * (uint64_t)SECTOR_BYTES) != 0;
		errors += s->error[i];
	}
	if (s->wrong && s->images == 100) {
		s->got[0] ^= 1;
		s->error[0] = false;
	}
	s->errors += errors;
	s->right += errors == 0;
	return all_allowed(s, s->oracle, s->allowed) || (fork && all_allowed(s, s->clones_oracle, s->clones));
}

/* The image is made: opened read-only or not, it lies about nothing. */
static void open_and_read(struct sweep *s, uint64_t seed, bool fork)
{
	bool good = true;

	s->images++;
	entropy_seed(seed + s->images);
	s->world.options.read_only = s->images % 2 == 0;
	if (session_open(&s->session, &s->world, s->image) == 0)
		good = read_all(s, fork);
	else
		s->refused++;
	session_kill(&s->session, s->image);
	s->world.options.read_only = false;
	if (good)
		return;
	s->bad++;
	if (s->bad <= 5)
		printf("FAILED: seed %llu, %s volume, %s: %s\n", (unsigned long long)seed, s->closed ? "closed" : "open", s->what,
		       s->complaint);
}

static const char clones[] = "the clone's";

static void replace(struct sweep *s, uint32_t page, const uint8_t *bytes, uint64_t seed, const char *by)
{
	uint8_t now[POWER_PAGE];
	bool fork;

	power_peek(s->dev, now, sizeof now, page * (uint64_t)POWER_PAGE);
	if (memcmp(now, bytes, sizeof now) == 0)
		return;
	copy_to(s->image, s->dev);
	fork = strcmp(by, clones) == 0 && memcmp(bytes + 0x1C, "FGR1", 4) == 0;
	power_poke(s->image, page, bytes);
	snprintf(s->what, sizeof s->what, "block %u replaced by %s", page, by);
	open_and_read(s, seed, fork);
}

/* --- all replacements --------------------------------------------------------------------------------------------------- */

static void by_other_pages(struct sweep *s, uint32_t page, uint32_t pages, uint64_t seed)
{
	uint8_t bytes[POWER_PAGE];
	const uint32_t others[] = { page == 0 ? pages - 1 : page - 1, (page + 1) % pages, pages - 1 - page };

	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		power_peek(s->dev, bytes, sizeof bytes, others[i] * (uint64_t)POWER_PAGE);
		replace(s, page, bytes, seed, i < 2 ? "its neighbour" : "its mirror");
	}
	power_peek(s->clone, bytes, sizeof bytes, page * (uint64_t)POWER_PAGE);
	replace(s, page, bytes, seed, clones);
}

/* Every version that was ever written there, in the whole record. */
static void by_older_versions(struct sweep *s, uint32_t page, uint64_t seed)
{
	uint8_t bytes[POWER_PAGE];

	for (size_t i = 0; i < power_events(s->dev); i++) {
		const struct power_event *e = power_event(s->dev, i);

		if ((e->kind != POWER_WRITE && e->kind != POWER_FUA) || page < e->page || page - e->page >= e->pages)
			continue;
		power_event_page(s->dev, i, page - e->page, bytes);
		replace(s, page, bytes, seed, "an older version");
	}
}

static void by_flipped_bits(struct sweep *s, struct dice *d, uint32_t page, unsigned long bits, uint64_t seed)
{
	uint8_t bytes[POWER_PAGE];

	for (unsigned long i = 0; i < bits; i++) {
		/* most of them where the fields are */
		uint64_t bit = dice_below(d, dice_one_in(d, 3) ? POWER_PAGE * 8 : 0x80 * 8);

		power_peek(s->dev, bytes, sizeof bytes, page * (uint64_t)POWER_PAGE);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		replace(s, page, bytes, seed, "itself with a bit flipped");
	}
}

static void sweep(struct sweep *s, uint64_t seed, unsigned long bits)
{
	uint32_t pages = (uint32_t)(s->dev->size / POWER_PAGE);
	struct dice d = dice_new(seed);
	uint8_t bytes[POWER_PAGE];

	for (uint32_t page = 0; page < pages; page++) {
		if (power_blank(s->dev, page) && power_blank(s->clone, page))
			continue;
		memset(bytes, 0, sizeof bytes);
		replace(s, page, bytes, seed, "zeroes");
		dice_bytes(&d, bytes, sizeof bytes);
		replace(s, page, bytes, seed, "noise");
		by_other_pages(s, page, pages, seed);
		by_older_versions(s, page, seed);
		by_flipped_bits(s, &d, page, bits, seed);
	}
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{ "volumes", 1, NULL, 'n' }, { "seed", 1, NULL, 's' }, { "bits", 1, NULL, 'b' }, { "wrong", 0, NULL, 'w' }, { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1)
		if (c == 'n')
			o->volumes = strtoul(optarg, NULL, 10);
		else if (c == 's')
			o->seed = strtoull(optarg, NULL, 10);
		else if (c == 'b')
			o->bits = strtoul(optarg, NULL, 10);
		else if (c == 'w')
			o->wrong = true;
		else
			exit(2);
}

int main(int argc, char **argv)
{
	struct options o = { .volumes = 4, .bits = 8, .seed = 1 };
	struct sweep s = { 0 };

	parse(&o, argc, argv);
	if (getenv("FALLGATE_TEST_LOG") == NULL)
		log_open("powercut_blocks", (enum log_level)0);
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	s.wrong = o.wrong;
	for (uint64_t seed = o.seed; seed < o.seed + o.volumes; seed++) {
		s.closed = seed % 2 == 0;
		if (make(&s, seed)) {
			sweep(&s, seed, o.bits);
		} else {
			printf("FAILED: seed %llu: while it worked: %s\n", (unsigned long long)seed, s.complaint);
			s.bad++;
		}
		end(&s);
	}
	printf("%lu images of %lu volumes, one block of each replaced: %lu read whole, %lu refused, %lu sectors an error, %lu "
	       "wrong\n",
	       s.images, o.volumes, s.right, s.refused, s.errors, s.bad);
	return s.bad == 0 ? 0 : 1;
}
