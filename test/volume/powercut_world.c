/* See powercut_world.h. */
#include "powercut_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/entropy.h"

static void *must(void *p)
{
	if (p == NULL)
		abort();
	return p;
}

/* --- random numbers ---------------------------------------------------------------------------------------------------- */

/* splitmix64: any seed will do, also neighbours. */
static uint64_t dice_next(struct dice *d)
{
	uint64_t x = d->state += UINT64_C(0x9E3779B97F4A7C15);

	x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
	return x ^ x >> 31;
}

struct dice dice_new(uint64_t seed)
{
	struct dice d = { seed };

	d.state = dice_next(&d);
	return d;
}

uint64_t dice_below(struct dice *d, uint64_t limit)
{
	return dice_next(d) % limit;
}

bool dice_one_in(struct dice *d, unsigned n)
{
	return dice_below(d, n) == 0;
}

void dice_bytes(struct dice *d, uint8_t *out, size_t size)
{
	for (; size >= 8; size -= 8, out += 8)
		put_le64(out, dice_next(d));
	for (; size > 0; size--)
		*out++ = (uint8_t)dice_next(d);
}

/* File-level state: the source it stands in for is one for the process, too. */
static struct dice entropy;

void entropy_seed(uint64_t seed)
{
	entropy = dice_new(seed);
}

int entropy_fill(void *out, size_t size)
{
	dice_bytes(&entropy, out, size);
	return 0;
}

/* --- a volume ---------------------------------------------------------------------------------------------------------- */

static void draw_tiny(struct world *w, struct dice *d)
{
	static const uint32_t sectors[] = { 1, 4, 5, 13, 16, 17, 24, 40, 64, 65, 100 };
	static const unsigned fanouts[] = { 4, 4, 4, 5, 7 };
	static const size_t pending[] = { 4, 8, 16, 40, 0 };
	static const size_t held[] = { 4, 8, 32, 64, 0 };
	static const size_t dirty[] = { 1, 8, 16, 64 };

	w->sectors = sectors[dice_below(d, sizeof sectors / sizeof *sectors)];
	w->fanout = fanouts[dice_below(d, sizeof fanouts / sizeof *fanouts)];
	w->log_blocks = dice_one_in(d, 2) ? 8 + dice_below(d, 9) : 16 + dice_below(d, 33);
	w->options.pending_max = pending[dice_below(d, sizeof pending / sizeof *pending)];
	w->options.held_max = held[dice_below(d, sizeof held / sizeof *held)] * SECTOR_BYTES;
	w->options.cache_nodes = 1 + dice_below(d, 20);
	w->options.dirty_nodes_max = dirty[dice_below(d, sizeof dirty / sizeof *dirty)];
	w->options.test_geometry = true;
}

void world_draw(struct world *w, uint64_t seed, bool standard)
{
	struct dice d = dice_new(seed ^ UINT64_C(0x6765));

	memset(w, 0, sizeof *w);
	w->sectors = 300;
	w->options.stepped = true;
	w->options.cache_nodes = 64;
	w->options.dirty_nodes_max = 64;
	if (!standard)
		draw_tiny(w, &d);
	w->offer_fua = !dice_one_in(&d, 3);
	w->hurry = 1 + (unsigned)dice_below(&d, 4);
	w->options.kcv = NULL;
	dice_bytes(&d, w->uuid, UUID_BYTES);
	dice_bytes(&d, w->payload, DEK_BYTES);
	keyring_bind(w->payload + DEK_BYTES, w->uuid, 1);
}

static void ring_make(struct session *s, const struct world *w)
{
	uint8_t kcv[KCV_BYTES];

	if (keyring_create(&s->keys, 32, NULL) != 0 || keyring_load(s->keys, kcv, w->payload, w->uuid, 1) != 0)
		abort();
	keyring_set_deadlines(s->keys, UINT64_MAX, UINT64_MAX);
}

struct block *world_format(const struct world *w)
{
	struct volume_format f = {
		.size = w->sectors * (uint64_t)SECTOR_BYTES,
		.label = "powercut",
		.now = 1700000000,
		.fanout = w->options.test_geometry ? w->fanout : 0,
		.log_blocks = w->options.test_geometry ? w->log_blocks : 0,
		.slot = { .type = KEK_SLOT_AES_KW, .gen_no = 1, .wrapped_size = 56, .label = "kek", .token = "token" },
	};
	struct session s = { 0 };
	struct block *dev;

	memcpy(f.uuid, w->uuid, UUID_BYTES);
	memset(f.slot.wrapped, 0x5A, f.slot.wrapped_size);
	memset(f.slot.fingerprint, 0xF1, sizeof f.slot.fingerprint);
	dev = power_new(volume_backing_size_for(&f));
	power_mirror(dev, w->lower);
	power_offer_fua(dev, w->offer_fua);
	ring_make(&s, w);
	if (volume_format(dev, s.keys, &f) != 0)
		abort();
	session_free(&s);
	power_record(dev);
	return dev;
}

int session_open(struct session *s, const struct world *w, struct block *dev)
{
	if (s->keys == NULL)
		ring_make(s, w);
	return volume_open(&s->volume, dev, s->keys, &w->options, s->why, sizeof s->why);
}

int session_close(struct session *s)
{
	int r = volume_close(s->volume);

	s->volume = NULL;
	return r;
}

int session_lock(struct session *s)
{
	uint64_t cut, wiped;
	int r, closed;

	volume_lock_keys(s->volume, &cut, &wiped);
	r = volume_lock_drain(s->volume);
	closed = session_close(s);
	keyring_destroy(s->keys);
	s->keys = NULL;
	return r < 0 ? r : closed;
}

void session_kill(struct session *s, struct block *dev)
{
	if (s->volume == NULL)
		return;
	power_switch(dev, false);
	(void)volume_close(s->volume);
	power_switch(dev, true);
	s->volume = NULL;
}

void session_free(struct session *s)
{
	if (s->volume != NULL)
		(void)volume_close(s->volume);
	if (s->keys != NULL)
		keyring_destroy(s->keys);
	memset(s, 0, sizeof *s);
}

int world_read(const struct world *w, struct volume *v, uint8_t *out, uint32_t *lba)
{
	int r = volume_read(v, out, w->sectors * (size_t)SECTOR_BYTES, 0);

	*lba = 0;
	if (r == 0)
		return 0;
	for (; *lba < w->sectors; (*lba)++) {
		int one = volume_read(v, out, SECTOR_BYTES, *lba * (uint64_t)SECTOR_BYTES);

		if (one != 0)
			return one;
	}
	*lba = 0;
	return r;
}

/* --- the oracle -------------------------------------------------------------------------------------------------------- */

struct versions {
	const uint8_t **items;
	size_t count, room;
};

struct oracle {
	uint32_t sectors;
	struct versions *of;
	struct act *acts;
	size_t act_count, act_room;
	uint8_t **pages; /* contents, kept from reset to reset */
	size_t page_count, page_used;
};

static const uint8_t zeroes[SECTOR_BYTES];

struct oracle *oracle_new(uint32_t sectors)
{
	struct oracle *o = must(calloc(1, sizeof *o));

	o->sectors = sectors;
	o->of = must(calloc(sectors, sizeof *o->of));
	oracle_reset(o, NULL);
	return o;
}

void oracle_free(struct oracle *o)
{
	for (uint32_t s = 0; s < o->sectors; s++)
		free(o->of[s].items);
	for (size_t i = 0; i < o->page_count; i++)
		free(o->pages[i]);
	free(o->pages);
	free(o->of);
	free(o->acts);
	free(o);
}

static const uint8_t *copy_page(struct oracle *o, const uint8_t *bytes)
{
	if (bytes == NULL || memcmp(bytes, zeroes, SECTOR_BYTES) == 0)
		return zeroes;
	if (o->page_used == o->page_count) {
		o->pages = must(realloc(o->pages, (o->page_count + 1) * sizeof *o->pages));
		o->pages[o->page_count++] = must(malloc(SECTOR_BYTES));
	}
	return memcpy(o->pages[o->page_used++], bytes, SECTOR_BYTES);
}

static void add_version(struct oracle *o, uint32_t lba, const uint8_t *bytes)
{
	struct versions *v = &o->of[lba];

	if (v->count == v->room) {
		v->room = v->room == 0 ? 8 : v->room * 2;
		v->items = must(realloc(v->items, v->room * sizeof *v->items));
	}
	v->items[v->count++] = copy_page(o, bytes);
}

void oracle_reset(struct oracle *o, const uint8_t *base)
{
	o->act_count = o->page_used = 0;
	for (uint32_t s = 0; s < o->sectors; s++) {
		o->of[s].count = 0;
		add_version(o, s, base == NULL ? NULL : base + s * (size_t)SECTOR_BYTES);
	}
}

const uint8_t *oracle_now(const struct oracle *o, uint32_t lba)
{
	return o->of[lba].items[o->of[lba].count - 1];
}

size_t oracle_ask(struct oracle *o, struct block *dev, struct act act, const uint8_t *bytes)
{
	if (o->act_count == o->act_room) {
		o->act_room = o->act_room == 0 ? 64 : o->act_room * 2;
		o->acts = must(realloc(o->acts, o->act_room * sizeof *o->acts));
	}
	for (uint32_t i = 0; act.kind != ACT_FLUSH && i < act.count; i++)
		add_version(o, act.lba + i, bytes == NULL ? NULL : bytes + i * (size_t)SECTOR_BYTES);
	o->acts[o->act_count] = act;
	if (dev != NULL)
		power_mark(dev, 2 * o->act_count);
	return o->act_count++;
}

void oracle_answer(struct oracle *o, struct block *dev, size_t act, bool good)
{
	o->acts[act].good = good;
	if (dev != NULL)
		power_mark(dev, 2 * act + 1);
}

struct allowed {
	const struct oracle *oracle;
	size_t *floor, *upto; /* of each sector: the oldest and the newest version that may be found */
	size_t *accepted;     /* the newest that was answered well: what a flush promises */
};

struct allowed *allowed_new(const struct oracle *o)
{
	struct allowed *a = must(calloc(1, sizeof *a));

	a->oracle = o;
	a->floor = must(calloc(o->sectors, sizeof *a->floor));
	a->upto = must(calloc(o->sectors, sizeof *a->upto));
	a->accepted = must(calloc(o->sectors, sizeof *a->accepted));
	return a;
}

void allowed_free(struct allowed *a)
{
	free(a->floor);
	free(a->upto);
	free(a->accepted);
	free(a);
}

void allowed_begin(struct allowed *a)
{
	memset(a->floor, 0, a->oracle->sectors * sizeof *a->floor);
	memset(a->upto, 0, a->oracle->sectors * sizeof *a->upto);
	memset(a->accepted, 0, a->oracle->sectors * sizeof *a->accepted);
}

void allowed_any(struct allowed *a)
{
	memset(a->floor, 0, a->oracle->sectors * sizeof *a->floor);
}

bool allowed_pass(struct allowed *a, uint64_t mark)
{
	const struct act *act = &a->oracle->acts[mark / 2];
	bool answered = mark % 2 == 1, less = false;

	for (uint32_t s = act->lba; s < act->lba + act->count; s++) {
		if (!answered && act->kind != ACT_FLUSH)
			a->upto[s]++;
		if (answered && act->good && act->kind != ACT_FLUSH)
			a->accepted[s] = a->upto[s];
		if (!answered || !act->good || !act->durable)
			continue;
		less = less || a->floor[s] != a->accepted[s];
		a->floor[s] = a->accepted[s];
	}
	return less;
}

static bool sector_allowed(const struct allowed *a, uint32_t lba, const uint8_t *got)
{
	for (size_t i = a->floor[lba]; i <= a->upto[lba]; i++)
		if (memcmp(a->oracle->of[lba].items[i], got, SECTOR_BYTES) == 0)
			return true;
	return false;
}

static void explain(const struct allowed *a, uint32_t lba, const uint8_t *got, char *what, size_t what_size)
{
	const struct versions *v = &a->oracle->of[lba];

	snprintf(what, what_size, "sector %u is no content it ever had", lba);
	for (size_t i = 0; i < v->count; i++)
		if (memcmp(v->items[i], got, SECTOR_BYTES) == 0)
			snprintf(what, what_size, "sector %u is version %zu%s, allowed %zu .. %zu", lba, i,
				 v->items[i] == zeroes ? " (zeroes)" : "", a->floor[lba], a->upto[lba]);
}

uint32_t allowed_check(const struct allowed *a, const uint8_t *got, char *what, size_t what_size)
{
	for (uint32_t s = 0; s < a->oracle->sectors; s++)
		if (!sector_allowed(a, s, got + s * (size_t)SECTOR_BYTES)) {
			explain(a, s, got + s * (size_t)SECTOR_BYTES, what, what_size);
			return s;
		}
	return a->oracle->sectors;
}
