/* See powercut_play.h. The oracle is asked before each call, and hears afterwards whether it was good. */
#include "powercut_play.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { HOT = 3 };

void player_init(struct player *p, const struct world *w, struct block *dev, struct oracle *o, uint64_t seed)
{
	memset(p, 0, sizeof *p);
	p->world = w;
	p->dev = dev;
	p->oracle = o;
	p->dice = dice_new(seed ^ UINT64_C(0x706C6179));
	p->buffer = malloc(w->sectors * (size_t)SECTOR_BYTES);
	if (p->buffer == NULL)
		abort();
}

void player_free(struct player *p)
{
	session_kill(&p->session, p->dev);
	session_free(&p->session);
	free(p->buffer);
}

static bool complain(struct player *p, const char *what, int r)
{
	snprintf(p->complaint, sizeof p->complaint, "%s: %s", what, error_text(r));
	return false;
}

static size_t ask(struct player *p, struct act act, const uint8_t *bytes)
{
	size_t i = oracle_ask(p->oracle, p->dev, act, bytes);

	if (p->live != NULL)
		(void)allowed_pass(p->live, 2 * i);
	return i;
}

static void answer(struct player *p, size_t i, bool good)
{
	oracle_answer(p->oracle, p->dev, i, good);
	if (p->live != NULL)
		(void)allowed_pass(p->live, 2 * i + 1);
}

static struct act everywhere(const struct player *p, enum act_kind kind)
{
	return (struct act){ .kind = kind, .count = p->world->sectors, .durable = true };
}

/* --- single acts ------------------------------------------------------------------------------------------------------- */

/* Hot places, anywhere, runs, and now and then nearly all of it. */
static void draw_sectors(struct player *p, uint32_t *lba, uint32_t *count)
{
	uint32_t n = p->world->sectors;
	uint64_t shape = dice_below(&p->dice, 10);

	if (p->calm > 1 && shape >= 6 && !dice_one_in(&p->dice, p->calm))
		shape = 3;
	*count = shape < 6 ? 1 : shape < 9 ? 1 + (uint32_t)dice_below(&p->dice, 8) : 1 + (uint32_t)dice_below(&p->dice, n);
	*lba = (uint32_t)dice_below(&p->dice, n);
	if (shape < 3)
		*lba = (uint32_t)dice_below(&p->dice, n < HOT ? n : HOT) * (n / HOT) % n;
	if (*count > n - *lba)
		*count = n - *lba;
}

/* Fills buffer with what the sectors become if bytes from head on, up to tail before the end, are new. */
static void compose(struct player *p, uint32_t lba, uint32_t count, size_t head, size_t tail)
{
	size_t size = count * (size_t)SECTOR_BYTES;

	memcpy(p->buffer, oracle_now(p->oracle, lba), SECTOR_BYTES);
	memcpy(p->buffer + size - SECTOR_BYTES, oracle_now(p->oracle, lba + count - 1), SECTOR_BYTES);
	dice_bytes(&p->dice, p->buffer + head, size - head - tail);
}

static int write_sectors(struct player *p, bool ragged)
{
	bool fua = dice_one_in(&p->dice, 4u << p->world->hurry);
	size_t head = 0, tail = 0, act;
	uint32_t lba, count;
	int r;

	draw_sectors(p, &lba, &count);
	if (ragged && !p->unsure) {
		head = (size_t)dice_below(&p->dice, SECTOR_BYTES / 2);
		tail = (size_t)dice_below(&p->dice, SECTOR_BYTES / 2);
	}
	compose(p, lba, count, head, tail);
	act = ask(p, (struct act){ .kind = ACT_WRITE, .lba = lba, .count = count, .durable = fua }, p->buffer);
	r = volume_write(p->session.volume, p->buffer + head, count * (size_t)SECTOR_BYTES - head - tail,
			 lba * (uint64_t)SECTOR_BYTES + head, fua);
	answer(p, act, r == 0);
	p->unsure = p->unsure || r != 0;
	return r;
}

static int zero_sectors(struct player *p)
{
	bool fua = dice_one_in(&p->dice, 4u << p->world->hurry);
	uint32_t lba, count;
	size_t act;
	int r;

	draw_sectors(p, &lba, &count);
	if (dice_one_in(&p->dice, 8)) {
		lba = 0;
		count = p->world->sectors;
	}
	act = ask(p, (struct act){ .kind = ACT_WRITE, .lba = lba, .count = count, .durable = fua }, NULL);
	r = volume_zero(p->session.volume, count * (uint64_t)SECTOR_BYTES, lba * (uint64_t)SECTOR_BYTES, dice_one_in(&p->dice, 2),
			fua);
	answer(p, act, r == 0);
	p->unsure = p->unsure || r != 0;
	return r;
}

static int flush(struct player *p)
{
	size_t act = ask(p, everywhere(p, ACT_FLUSH), NULL);
	int r = volume_flush(p->session.volume);

	answer(p, act, r == 0);
	return r;
}

static bool read_back(struct player *p)
{
	uint32_t lba, count;
	int r;

	draw_sectors(p, &lba, &count);
	r = volume_read(p->session.volume, p->buffer, count * (size_t)SECTOR_BYTES, lba * (uint64_t)SECTOR_BYTES);
	if (r != 0)
		return complain(p, "a read while nothing was lost", r);
	for (uint32_t i = 0; i < count; i++)
		if (memcmp(p->buffer + i * (size_t)SECTOR_BYTES, oracle_now(p->oracle, lba + i), SECTOR_BYTES) != 0) {
			snprintf(p->complaint, sizeof p->complaint, "sector %u does not read as what was last written there",
				 lba + i);
			return false;
		}
	return true;
}

/* --- openings and ends ------------------------------------------------------------------------------------------------- */

bool play_open(struct player *p)
{
	int r = session_open(&p->session, p->world, p->dev);

	if (r == 0)
		return true;
	snprintf(p->complaint, sizeof p->complaint, "open: %s (%s)", error_text(r), p->session.why);
	return false;
}

static bool end_and_open(struct player *p, int (*end)(struct session *s), const char *what)
{
	size_t act = ask(p, everywhere(p, ACT_FLUSH), NULL);
	int r = end(&p->session);

	answer(p, act, r == 0);
	return r != 0 ? complain(p, what, r) : play_open(p);
}

bool play_reopen(struct player *p)
{
	return end_and_open(p, session_close, "close") && read_back(p);
}

bool play_lock(struct player *p)
{
	return end_and_open(p, session_lock, "lock and drain") && read_back(p);
}

bool play_found(struct player *p)
{
	uint32_t lba;
	int r = world_read(p->world, p->session.volume, p->buffer, &lba);

	if (r != 0) {
		snprintf(p->complaint, sizeof p->complaint, "read of sector %u after an open: %s", lba, error_text(r));
		return false;
	}
	if (p->live != NULL && allowed_check(p->live, p->buffer, p->complaint, sizeof p->complaint) < p->world->sectors)
		return false;
	answer(p, ask(p, everywhere(p, ACT_FOUND), p->buffer), true);
	p->unsure = false;
	return true;
}

bool play_death(struct player *p)
{
	session_kill(&p->session, p->dev);
	return play_open(p) && play_found(p);
}

/* Answers are the oracle's business; errors are what is to be expected. */
static void work_on(struct player *p)
{
	for (uint64_t n = 1 + dice_below(&p->dice, 4); n > 0; n--)
		switch (dice_below(&p->dice, 5)) {
		case 0:
			(void)flush(p);
			break;
		case 1:
			(void)zero_sectors(p);
			break;
		case 2:
			(void)volume_step(p->session.volume);
			break;
		default:
			(void)write_sectors(p, false);
			break;
		}
}

bool play_death_in_work(struct player *p)
{
	power_fail(p->dev, (struct power_fault){ .kinds = 1 << POWER_WRITE | 1 << POWER_FUA | 1 << POWER_FLUSH | 1 << POWER_READ |
							  1 << POWER_DISCARD,
						 .nth = 1 + dice_below(&p->dice, 8),
						 .times = 1u << 30,
						 .unreachable = true,
						 .error = ERR_IO,
						 .pages_done = (unsigned)dice_below(&p->dice, 3) });
	work_on(p);
	session_kill(&p->session, p->dev);
	power_fail(p->dev, (struct power_fault){ 0 });
	return play_open(p) && play_found(p);
}

bool play_lost_flush(struct player *p)
{
	uint8_t sector[SECTOR_BYTES] = { 1 };
	bool failed;

	if (write_sectors(p, false) != 0)
		return true;
	power_fail(p->dev,
		   (struct power_fault){ .kinds = 1 << POWER_FLUSH, .nth = 1 + dice_below(&p->dice, 2), .error = ERR_IO });
	for (unsigned i = 0; i < 3 && power_failed(p->dev) == 0; i++)
		(void)flush(p);
	failed = power_failed(p->dev) != 0;
	power_fail(p->dev, (struct power_fault){ 0 });
	if (!failed)
		return true;
	p->gone = true;
	(void)flush(p);
	if (volume_flush(p->session.volume) == 0)
		return complain(p, "a flush was good after one had failed", 0);
	if (volume_write(p->session.volume, sector, sizeof sector, 0, false) == 0)
		return complain(p, "a write was accepted after a flush had failed", 0);
	return true;
}

/* --- at random --------------------------------------------------------------------------------------------------------- */

static int write_or_zero(struct player *p)
{
	return dice_one_in(&p->dice, 7) ? zero_sectors(p) : write_sectors(p, dice_one_in(&p->dice, 4));
}

bool play_gently(struct player *p)
{
	uint64_t what = dice_below(&p->dice, 20u << p->world->hurry);
	int r = what < 4 ? flush(p) : what < 8 ? volume_step(p->session.volume) : write_or_zero(p);

	return r == 0 || complain(p, "a request while nothing was lost", r);
}

bool play_one(struct player *p)
{
	uint64_t what = dice_below(&p->dice, 200);

	if (p->calm > 1 && what >= 188 && !dice_one_in(&p->dice, p->calm))
		what = 0;
	if (what < 160)
		return play_gently(p);
	if (what < 188)
		return read_back(p);
	if (what < 191)
		return play_reopen(p);
	if (what < 194)
		return play_lock(p);
	if (what < 197)
		return play_death(p);
	return play_death_in_work(p);
}
