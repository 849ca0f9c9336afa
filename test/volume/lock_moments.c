/* A lock at every call of the device, one after the other, during everything that the engine does: a flush, a checkpoint, a
 * merge, a close, a change of the header's slots, and the recovery of an opening. What must hold after each: no key is left, the
 * drain is good, and the next opening - with what was not flushed kept or gone - finds every sector as it was acknowledged, and a
 * header that is the old one or the new one. Stepped: the lock comes from inside the device's call, which is where any other
 * thread's would come. */
#include <string.h>

#include "rig.h"

#include "base/error.h"
#include "hal/secret_memory.h"

enum { SECTORS = 600, KNOWN = 40 };

struct moment {
	struct rig *rig;
	struct volume *volume; /* NULL: being opened, only the ring can be wiped */
	unsigned long nth;     /* counts down; at 0 nothing happens any more */
	bool came;
};

static void lock_here(void *context, enum memory_call call, uint64_t at, uint64_t size)
{
	struct moment *m = context;
	uint64_t cut, wiped;

	(void)call;
	(void)at;
	(void)size;
	if (m->nth == 0 || --m->nth > 0)
		return;
	m->came = true;
	if (m->volume != NULL)
		volume_lock_keys(m->volume, &cut, &wiped);
	else
		keyring_wipe(m->rig->keys);
}

static void content(uint8_t out[static SECTOR_BYTES], uint64_t lba, uint8_t version)
{
	rig_noise(out, SECTOR_BYTES, lba << 8 ^ version);
}

static int put(struct volume *v, uint64_t lba, uint8_t version)
{
	uint8_t data[SECTOR_BYTES];

	content(data, lba, version);
	return volume_write(v, data, sizeof data, lba * SECTOR_BYTES, false);
}

/* Some flushed, some only acknowledged, all over the tree. */
static void fill(struct rig *g)
{
	for (uint64_t i = 0; i < KNOWN; i++)
		assert_int_equal(put(g->volume, i * 13, 1), 0);
	assert_int_equal(volume_flush(g->volume), 0);
	for (uint64_t i = 0; i < KNOWN; i += 2)
		assert_int_equal(put(g->volume, i * 13, 2), 0);
}

static void expect_all(struct rig *g, const char *what, unsigned long nth)
{
	uint8_t got[SECTOR_BYTES], expect[SECTOR_BYTES];

	for (uint64_t i = 0; i < KNOWN; i++) {
		int r = volume_read(g->volume, got, sizeof got, i * 13 * SECTOR_BYTES);

		content(expect, i * 13, i % 2 == 0 ? 2 : 1);
		if (r != 0 || memcmp(got, expect, sizeof got) != 0)
			fail_msg("%s, lock at call %lu: sector %lu is not what was acknowledged (%s)", what, nth,
				 (unsigned long)(i * 13), error_text(r));
	}
}

static bool ring_is_clean(const struct keyring *k)
{
	const struct secret_memory *m = keyring_memory(k);
	const uint8_t *p = m->base;

	for (size_t i = 0; i < m->size; i++)
		if (p[i] != 0)
			return false;
	return true;
}

/* ---- what is going on when the lock comes ---- */

static int do_flush(struct rig *g)
{
	return volume_flush(g->volume);
}

static int do_checkpoint(struct rig *g)
{
	int r = volume_step(g->volume);

	return r == 0 ? volume_step(g->volume) : r;
}

/* An unaligned write that changes nothing: what it reads and merges is what stands there. */
static int do_merge(struct rig *g)
{
	uint8_t data[SECTOR_BYTES];

	content(data, 13, 1);
	return volume_write(g->volume, data + 100, 1000, 13 * SECTOR_BYTES + 100, true);
}

static int do_read(struct rig *g)
{
	uint8_t data[SECTOR_BYTES];
	int r = 0;

	for (uint64_t i = 0; i < KNOWN && r == 0; i++)
		r = volume_read(g->volume, data, sizeof data, i * 13 * SECTOR_BYTES);
	return r;
}

static int do_new_slots(struct rig *g)
{
	struct volume_header_info info;

	volume_header(g->volume, &info);
	memset(info.slots[0].wrapped, 0xA7, info.slots[0].wrapped_size);
	return volume_set_slots(g->volume, info.slots, info.slot_count);
}

static int do_close(struct rig *g)
{
	int r = volume_close(g->volume);

	g->volume = NULL;
	return r;
}

static const struct doing {
	const char *name;
	int (*run)(struct rig *g);
	size_t pending; /* log entries after which a checkpoint is due; 0: the default */
	size_t cache;   /* nodes; a small one makes reads and merges ask the device */
} doings[] = {
	{ "flush", do_flush, 0, 0 },        { "checkpoint", do_checkpoint, 1, 0 }, { "merge", do_merge, 0, 4 },
	{ "read", do_read, 0, 4 },          { "new slots", do_new_slots, 0, 0 },   { "close", do_close, 0, 0 },
	{ "close, large", do_close, 1, 4 },
};

static void prepare(struct rig *g, const struct doing *what)
{
	rig_format(g, SECTORS * SECTOR_BYTES);
	g->options.stepped = true;
	g->options.pending_max = what->pending;
	g->options.cache_nodes = what->cache;
	rig_must_open(g);
	fill(g);
}

static void open_again(struct rig *g, const char *what, unsigned long nth)
{
	struct volume_header_info info;

	g->options.pending_max = 0;
	if (rig_open(g) != 0)
		fail_msg("%s, lock at call %lu: it does not open: %s", what, nth, g->why);
	volume_header(g->volume, &info);
	assert_int_equal(info.slot_count, 1);
	if (info.slots[0].wrapped[0] != 0x5A && info.slots[0].wrapped[0] != 0xA7)
		fail_msg("%s, lock at call %lu: the header has neither the old slot nor the new one", what, nth);
	expect_all(g, what, nth);
}

/* False: it was over before the n-th call. */
static bool lock_at(const struct doing *what, unsigned long nth, bool cut)
{
	struct rig g;
	struct moment m = { .rig = &g, .nth = nth };
	bool closing = what->run == do_close;
	int r;

	prepare(&g, what);
	m.volume = g.volume;
	block_memory_watch(g.dev, lock_here, &m);
	r = what->run(&g);
	block_memory_watch(g.dev, NULL, NULL);
	if (!m.came)
		assert_int_equal(r, 0);
	else if (!ring_is_clean(g.keys))
		fail_msg("%s, lock at call %lu: key bytes are left", what->name, nth);
	if (!closing)
		assert_int_equal(m.came ? volume_lock_drain(g.volume) : volume_flush(g.volume), 0);
	rig_kill(&g);
	/* A close that was locked over has not drained: what was only acknowledged is its caller's to lose, not to corrupt. */
	if (cut && !(m.came && closing))
		block_memory_cut(g.dev, nth);
	if (!closing || !m.came || r == 0)
		open_again(&g, what->name, nth);
	rig_free(&g);
	return m.came;
}

static void a_lock_at_every_call_of_the_device(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof doings / sizeof doings[0]; i++) {
		unsigned long nth = 1;

		while (lock_at(&doings[i], nth, nth % 2 == 0))
			nth++;
		print_message("%s: %lu calls\n", doings[i].name, nth - 1);
		assert_true(nth > 1 || doings[i].run == do_read);
	}
}

/* An opening that recovers is cut by a wipe of its ring at each call, and again at each call of the opening after that. */
static void a_lock_at_every_call_of_a_recovery(void **state)
{
	struct rig g;
	struct block *killed;
	unsigned long nth, again;
	bool came = true;

	(void)state;
	prepare(&g, &doings[0]);
	assert_int_equal(volume_flush(g.volume), 0);
	rig_kill(&g);
	killed = g.dev;
	for (nth = 1; came; nth++) {
		struct moment m = { .rig = &g, .nth = nth };
		uint8_t kcv[KCV_BYTES];
		int r;

		g.dev = block_memory_copy(killed);
		for (again = 0; again < 2 && came; again++) {
			m = (struct moment){ .rig = &g, .nth = nth + again };
			g.keys = rig_ring(g.payload, g.uuid, 1, kcv);
			g.options.kcv = g.kcv;
			block_memory_watch(g.dev, lock_here, &m);
			r = volume_open(&g.volume, g.dev, g.keys, &g.options, g.why, sizeof g.why);
			block_memory_watch(g.dev, NULL, NULL);
			came = m.came;
			/* the last calls of all need no key any more */
			if (m.came && r == 0)
				assert_int_equal(volume_write(g.volume, kcv, sizeof kcv, 0, false), ERR_REVOKED);
			else if (!m.came)
				assert_int_equal(r, 0);
			if (m.came && !ring_is_clean(g.keys))
				fail_msg("recovery, wipe at call %lu: key bytes are left", nth);
			if (r != 0)
				g.volume = NULL;
			rig_kill(&g);
			block_memory_cut(g.dev, nth);
		}
		open_again(&g, "recovery", nth);
		rig_close(&g);
		g.dev->ops->close(g.dev);
	}
	print_message("recovery: %lu calls\n", nth - 2);
	assert_true(nth > 5);
	killed->ops->close(killed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lock_at_every_call_of_the_device),
		cmocka_unit_test(a_lock_at_every_call_of_a_recovery),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
