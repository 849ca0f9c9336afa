/* No nonce twice. Linked so that every call of keyring_seal passes through here: each (domain, generation, salt, IV) under one
 * key goes into a set, over a campaign of work, cuts, recoveries, clones opened beside the original and images opened twice. The
 * random bytes are an endless stream, as from a kernel; nothing else would tell two openings of one image apart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "powercut_play.h"

enum { NONCE_BYTES = 4 + 4 + AEAD_SALT_BYTES + AEAD_IV_BYTES, NONCE_WORDS = NONCE_BYTES / 8 };

int __real_keyring_seal(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt, struct aead_item *items,
			size_t count);
int __wrap_keyring_seal(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt, struct aead_item *items,
			size_t count);

struct nonce {
	uint64_t words[NONCE_WORDS]; /* all zero: an empty place; a generation is never 0 */
};

/* File-level: __wrap_keyring_seal has no other way to it. */
static struct nonce *set;
static size_t set_room, set_count, repeats;
static unsigned long sealed;

static size_t place_of(const struct nonce *n, size_t room)
{
	uint64_t h = 0;

	for (size_t i = 0; i < NONCE_WORDS; i++) {
		h = (h ^ n->words[i]) * UINT64_C(0x9E3779B97F4A7C15);
		h ^= h >> 29;
	}
	return (size_t)h & (room - 1);
}

/* False: it is there already. */
static bool insert(struct nonce *into, size_t room, const struct nonce *n)
{
	static const struct nonce empty;
	size_t i = place_of(n, room);

	for (; memcmp(&into[i], &empty, sizeof empty) != 0; i = (i + 1) & (room - 1))
		if (memcmp(&into[i], n, sizeof *n) == 0)
			return false;
	into[i] = *n;
	return true;
}

static void make_room(void)
{
	size_t room = set_room == 0 ? 1 << 16 : set_room * 2;
	struct nonce *larger;

	if (set_count * 2 < set_room)
		return;
	larger = calloc(room, sizeof *larger);
	if (larger == NULL)
		abort();
	for (size_t i = 0; i < set_room; i++)
		if (set[i].words[0] != 0)
			(void)insert(larger, room, &set[i]);
	free(set);
	set = larger;
	set_room = room;
}

static void note(enum key_domain domain, uint32_t gen_no, const uint8_t *salt, const uint8_t *iv)
{
	uint8_t bytes[NONCE_BYTES];
	struct nonce n;

	put_le32(bytes, gen_no);
	put_le32(bytes + 4, (uint32_t)domain);
	memcpy(bytes + 8, salt, AEAD_SALT_BYTES);
	memcpy(bytes + 8 + AEAD_SALT_BYTES, iv, AEAD_IV_BYTES);
	memcpy(n.words, bytes, sizeof n.words);
	make_room();
	sealed++;
	if (insert(set, set_room, &n)) {
		set_count++;
		return;
	}
	repeats++;
	if (repeats <= 5)
		printf("FAILED: a nonce of domain %u was used twice: counter %llu\n", (unsigned)domain,
		       (unsigned long long)get_le64(iv));
}

int __wrap_keyring_seal(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt, struct aead_item *items,
			size_t count)
{
	int r = __real_keyring_seal(k, domain, gen_no, salt, items, count);

	for (size_t i = 0; i < count && r == 0; i++)
		note(domain, gen_no, salt, items[i].iv);
	return r;
}

static void start_over(void)
{
	free(set);
	set = NULL;
	set_room = set_count = 0;
}

/* --- the campaign ------------------------------------------------------------------------------------------------------- */

struct campaign {
	struct world world;
	struct oracle *oracle, *scratch;
	struct block *dev, *image, *clone;
	uint64_t seed;
	char complaint[300];
	unsigned long openings;
};

static bool keep_complaint(struct campaign *c, const struct player *p, bool good)
{
	if (!good)
		snprintf(c->complaint, sizeof c->complaint, "%s", p->complaint);
	return good;
}

/* Two programs on two copies, turn by turn. */
static bool use_both(struct campaign *c, uint64_t seed)
{
	struct player a, b;
	bool good;

	player_init(&a, &c->world, c->image, c->scratch, seed);
	player_init(&b, &c->world, c->clone, c->oracle, seed + 1);
	good = keep_complaint(c, &a, play_open(&a)) && keep_complaint(c, &b, play_open(&b));
	for (unsigned i = 0; i < 6 && good; i++) {
		/* each has its own history, and this program does not compare contents: whole sectors are enough */
		good = volume_write(a.session.volume, a.buffer, SECTOR_BYTES, 0, i % 2) == 0 &&
		       volume_write(b.session.volume, b.buffer, SECTOR_BYTES, 0, i % 3) == 0 &&
		       volume_zero(a.session.volume, SECTOR_BYTES, 0, false, false) == 0 && volume_flush(b.session.volume) == 0 &&
		       volume_step(a.session.volume) == 0;
		if (!good)
			snprintf(c->complaint, sizeof c->complaint, "a request on a clone failed");
	}
	c->openings += 2;
	player_free(&a);
	player_free(&b);
	return good;
}

/* The same cut twice over: the one image is opened, used and thrown away, then taken again. */
static bool cut_and_clone(struct campaign *c, const struct power_cursor *at, struct dice *d)
{
	bool keep[4096];
	size_t n = power_pending(at);
	bool good = true;

	for (size_t i = 0; i < n && i < sizeof keep; i++)
		keep[i] = dice_one_in(d, 2);
	for (unsigned again = 0; again < 2 && good; again++) {
		power_cut(c->image, at, keep);
		power_cut(c->clone, at, keep);
		good = use_both(c, dice_below(d, 1u << 30));
	}
	return good;
}

static bool record(struct campaign *c)
{
	struct player p;
	bool good;

	c->dev = world_format(&c->world);
	player_init(&p, &c->world, c->dev, c->oracle, c->seed);
	good = play_open(&p);
	for (unsigned i = 0; i < 120 && good; i++)
		good = play_one(&p);
	(void)keep_complaint(c, &p, good);
	player_free(&p);
	return good;
}

static bool walk(struct campaign *c)
{
	struct power_cursor *at = power_cursor_new(c->dev);
	struct dice d = dice_new(c->seed);
	bool good = true;

	c->image = power_image_new(c->dev);
	c->clone = power_image_new(c->dev);
	do {
		if (dice_one_in(&d, 6))
			good = cut_and_clone(c, at, &d);
	} while (good && power_cursor_next(at));
	power_cursor_free(at);
	c->image->ops->close(c->image);
	c->clone->ops->close(c->clone);
	return good;
}

/* One key: the set starts over with the next. */
static bool one_campaign(uint64_t seed, unsigned long *openings)
{
	struct campaign c = { .seed = seed };
	bool good;

	world_draw(&c.world, seed, false);
	c.oracle = oracle_new(c.world.sectors);
	c.scratch = oracle_new(c.world.sectors);
	good = record(&c) && walk(&c);
	if (!good)
		printf("FAILED: seed %llu: %s\n", (unsigned long long)seed, c.complaint);
	*openings += c.openings;
	start_over();
	c.dev->ops->close(c.dev);
	oracle_free(c.oracle);
	oracle_free(c.scratch);
	return good;
}

/* The set must tell: the same seal twice is a repeat, another counter is none. */
static bool detector_works(void)
{
	uint8_t salt[AEAD_SALT_BYTES] = { 1 }, iv[AEAD_IV_BYTES] = { 2 };
	bool good;

	make_room();
	good = insert(set, set_room, &(struct nonce){ { 1 } }) && !insert(set, set_room, &(struct nonce){ { 1 } }) &&
	       insert(set, set_room, &(struct nonce){ { 1, 1 } });
	start_over();
	note(KEY_DATA, 1, salt, iv);
	iv[0]++;
	note(KEY_DATA, 1, salt, iv);
	salt[11]++;
	note(KEY_DATA, 1, salt, iv);
	note(KEY_NODE, 1, salt, iv);
	good = good && repeats == 0 && set_count == 4;
	start_over();
	sealed = 0;
	return good;
}

int main(int argc, char **argv)
{
	unsigned long wanted = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000, openings = 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	bool good = detector_works();

	log_open("powercut_nonces", (enum log_level)0);
	entropy_seed(seed);
	for (; good && repeats == 0 && sealed < wanted; seed++)
		good = one_campaign(seed, &openings);
	printf("%lu seals, %lu openings of cut images and clones, %zu repeats\n", sealed, openings, repeats);
	return good && repeats == 0 ? 0 : 1;
}
