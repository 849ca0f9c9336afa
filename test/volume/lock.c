/* Locks at random moments under load by real threads: no key byte is left, nothing acknowledged is lost, a hung device delays
 * nothing. FALLGATE_TEST_LOCKS = how many random ones. */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

#include "base/bytes.h"
#include "base/error.h"
#include "hal/hash.h"

enum { THREADS = 4, REGION = 700, MOST = 40, LEAF_STEP = 99 };

/* One thread's sectors. A sector's bytes follow from its number and version; version 0 is zeroes. */
struct worker {
	pthread_t thread;
	struct rig *rig;
	uint64_t first, random;
	uint32_t acknowledged[REGION]; /* the version that must at least be there */
	uint32_t tried[REGION];        /* a version that may be there instead: the call was not acknowledged */
	uint32_t version;
	unsigned long writes;
	uint8_t buffer[MOST * SECTOR_BYTES];
};

static void fill(uint8_t *out, uint64_t lba, uint32_t version)
{
	if (version == 0)
		memset(out, 0, SECTOR_BYTES);
	else
		rig_noise(out, SECTOR_BYTES, lba << 32 ^ version);
}

static int work_write(struct worker *w, unsigned from, unsigned count)
{
	bool fua = rig_random(&w->random) % 16 == 0;
	int r;

	w->version++;
	for (unsigned i = 0; i < count; i++) {
		fill(w->buffer + i * (size_t)SECTOR_BYTES, w->first + from + i, w->version);
		w->tried[from + i] = w->version;
	}
	r = volume_write(w->rig->volume, w->buffer, count * (size_t)SECTOR_BYTES, (w->first + from) * SECTOR_BYTES, fua);
	for (unsigned i = 0; i < count && r == 0; i++)
		w->acknowledged[from + i] = w->version;
	w->writes += r == 0;
	return r;
}

/* Half a sector, so that a read and a merge lie inside the write; the content stays what it was. */
static int work_merge(struct worker *w, unsigned from)
{
	uint64_t lba = w->first + from;

	fill(w->buffer, lba, w->acknowledged[from]);
	w->tried[from] = w->acknowledged[from];
	return volume_write(w->rig->volume, w->buffer + 1000, 2000, lba * SECTOR_BYTES + 1000, false);
}

static int work_zero(struct worker *w, unsigned from, unsigned count)
{
	int r;

	for (unsigned i = 0; i < count; i++)
		w->tried[from + i] = 0;
	r = volume_zero(w->rig->volume, count * (uint64_t)SECTOR_BYTES, (w->first + from) * SECTOR_BYTES, true, false);
	for (unsigned i = 0; i < count && r == 0; i++)
		w->acknowledged[from + i] = 0;
	return r;
}

static int work_read(struct worker *w, unsigned from, unsigned count)
{
	uint8_t expect[SECTOR_BYTES];
	int r = volume_read(w->rig->volume, w->buffer, count * (size_t)SECTOR_BYTES, (w->first + from) * SECTOR_BYTES);

	for (unsigned i = 0; i < count && r == 0; i++) {
		fill(expect, w->first + from + i, w->acknowledged[from + i]);
		if (memcmp(expect, w->buffer + i * (size_t)SECTOR_BYTES, SECTOR_BYTES) != 0)
			return ERR_CORRUPT;
	}
	return r;
}

static void *work(void *argument)
{
	struct worker *w = argument;
	intptr_t r = 0;

	while (r == 0) {
		uint64_t what = rig_random(&w->random) % 100;
		unsigned count = 1 + (unsigned)(rig_random(&w->random) % MOST);
		unsigned from = (unsigned)(rig_random(&w->random) % (REGION - count + 1));

		if (what < 55)
			r = work_write(w, from, count);
		else if (what < 62)
			r = work_merge(w, from);
		else if (what < 66)
			r = work_zero(w, from, count);
		else if (what < 97)
			r = work_read(w, from, count);
		else
			r = volume_flush(w->rig->volume);
	}
	return (void *)r;
}

static void check_after(struct worker *w)
{
	uint8_t got[SECTOR_BYTES], expect[SECTOR_BYTES];

	for (unsigned i = 0; i < REGION; i++) {
		assert_int_equal(volume_read(w->rig->volume, got, sizeof got, (w->first + i) * SECTOR_BYTES), 0);
		fill(expect, w->first + i, w->acknowledged[i]);
		if (memcmp(got, expect, sizeof got) == 0)
			continue;
		fill(expect, w->first + i, w->tried[i]);
		assert_memory_equal(got, expect, sizeof got);
	}
}

/* Every key that is derived from the rig's DEK, found by another way than the ring's. */
static bool holds_key(const struct keyring *k, const uint8_t *payload)
{
	static const char *const labels[] = { "FGV1 data", "FGV1 node", "FGV1 log", "FGV1 root", "FGV1 hdr", "FGV1 kcv" };
	const struct secret_memory *m = keyring_memory(k);
	uint8_t context[UUID_BYTES + 4], key[HASH_BYTES];

	memcpy(context, rig_uuid, UUID_BYTES);
	put_le32(context + UUID_BYTES, 1);
	if (memmem(m->base, m->size, payload, DEK_BYTES) != NULL)
		return true;
	for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
		hash_kdf(key, payload, labels[i], context, sizeof context);
		if (memmem(m->base, m->size, key, sizeof key) != NULL)
			return true;
	}
	return false;
}

static bool all_zero(const struct secret_memory *m)
{
	const uint8_t *p = m->base;

	return p[0] == 0 && memcmp(p, p + 1, m->size - 1) == 0;
}

static void everything_is_refused(struct volume *v)
{
	uint8_t byte[16] = { 1, 2, 3 };

	assert_int_equal(volume_read(v, byte, sizeof byte, 5), ERR_REVOKED);
	assert_int_equal(byte[0], 0);
	assert_int_equal(volume_write(v, byte, sizeof byte, 5, false), ERR_REVOKED);
	assert_int_equal(volume_zero(v, 4096, 0, false, false), ERR_REVOKED);
	assert_int_equal(volume_flush(v), ERR_REVOKED);
}

static void one_random_lock(unsigned long round)
{
	struct worker *workers = calloc(THREADS, sizeof *workers);
	uint64_t random = 77 + round, cut, wiped;
	struct rig rig;

	rig_format(&rig, THREADS * REGION * (uint64_t)SECTOR_BYTES);
	rig.options.dirty_nodes_max = 64;
	rig_must_open(&rig);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].rig = &rig;
		workers[i].first = i * REGION;
		workers[i].random = 0x9999 + round * THREADS + i;
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	usleep((useconds_t)(rig_random(&random) % 40000));
	volume_lock_keys(rig.volume, &cut, &wiped);

	assert_true(all_zero(keyring_memory(rig.keys)));
	assert_true(wiped >= cut);
	everything_is_refused(rig.volume);
	for (unsigned i = 0; i < THREADS; i++) {
		void *end;

		pthread_join(workers[i].thread, &end);
		assert_int_equal((intptr_t)end, ERR_REVOKED);
	}
	assert_int_equal(volume_lock_drain(rig.volume), 0);
	assert_int_equal(block_memory_unflushed(rig.dev), 0);
	assert_int_equal(volume_close(rig.volume), 0);
	keyring_destroy(rig.keys);

	rig_must_open(&rig);
	for (unsigned i = 0; i < THREADS; i++)
		check_after(&workers[i]);
	rig_close(&rig);
	rig_free(&rig);
	free(workers);
}

static void nothing_acknowledged_is_lost_by_a_lock_at_any_moment(void **state)
{
	unsigned long rounds = rig_count("FALLGATE_TEST_LOCKS", 30);

	(void)state;
	for (unsigned long i = 0; i < rounds; i++)
		one_random_lock(i);
}

static void no_key_byte_is_left(void **state)
{
	struct rig rig;
	uint64_t cut, wiped, cut2, wiped2;
	uint8_t data[SECTOR_BYTES] = { 1 };

	(void)state;
	rig_make(&rig, 100 * SECTOR_BYTES);
	assert_int_equal(volume_write(rig.volume, data, sizeof data, 0, false), 0);
	assert_false(all_zero(keyring_memory(rig.keys)));
	/* The header key lies there as it is, whatever the kernel: so the search can find something. */
	assert_true(holds_key(rig.keys, rig.payload));
	volume_lock_keys(rig.volume, &cut, &wiped);
	assert_false(holds_key(rig.keys, rig.payload));
	assert_true(all_zero(keyring_memory(rig.keys)));
	volume_lock_keys(rig.volume, &cut2, &wiped2);
	assert_int_equal(cut, cut2);
	assert_int_equal(wiped, wiped2);
	assert_int_equal(volume_lock_drain(rig.volume), 0);
	assert_int_equal(volume_lock_drain(rig.volume), 0);
	rig_free(&rig);
}

static uint64_t place_of_sector(struct block *dev, uint64_t lba)
{
	uint8_t data_off[8];

	block_memory_peek(dev, data_off, sizeof data_off, 0x58); /* SPEC.md, "Header" */
	return get_le64(data_off) + lba * SECTOR_BYTES;
}

/* Somebody who kept the medium's older bytes of one sector puts them back while nobody has the key; the newer version was flushed
 * before the lock, or only drained by it. From then on that is an error, never the older version. */
static void what_a_lock_left_behind_never_goes_back(void **state)
{
	(void)state;
	for (int flushed = 0; flushed < 2; flushed++) {
		struct volume_stats stats;
		struct rig rig;
		uint64_t cut, wiped, place;
		uint8_t data[SECTOR_BYTES], older[SECTOR_BYTES];

		rig_make(&rig, 100 * SECTOR_BYTES);
		place = place_of_sector(rig.dev, 7);
		for (uint32_t version = 1; version <= 2; version++) {
			fill(data, 7, version);
			assert_int_equal(volume_write(rig.volume, data, sizeof data, 7 * SECTOR_BYTES, false), 0);
			if (version == 1 || flushed)
				assert_int_equal(volume_flush(rig.volume), 0);
			if (version == 1)
				block_memory_peek(rig.dev, older, sizeof older, place);
		}
		volume_lock_keys(rig.volume, &cut, &wiped);
		assert_int_equal(volume_lock_drain(rig.volume), 0);
		rig_kill(&rig);

		block_memory_poke(rig.dev, older, sizeof older, place);
		rig_must_open(&rig);
		assert_int_equal(volume_read(rig.volume, data, sizeof data, 7 * SECTOR_BYTES), ERR_CORRUPT);
		volume_stats(rig.volume, &stats);
		assert_int_equal(stats.fallen_back, 0);
		rig_close(&rig);
		rig_free(&rig);
	}
}

static void a_drain_before_a_lock_is_refused(void **state)
{
	struct rig rig;

	(void)state;
	rig_make(&rig, 100 * SECTOR_BYTES);
	assert_int_equal(volume_lock_drain(rig.volume), ERR_STATE);
	rig_close(&rig);
	rig_free(&rig);
}

/* --- a device that hangs ----------------------------------------------------------------------------------------------- */

struct hang {
	sem_t reached, go_on;
	enum memory_call call;
	uint64_t from, to;
	atomic_bool armed;
};

static void hang_here(void *context, enum memory_call call, uint64_t at, uint64_t size)
{
	struct hang *h = context;

	if (call != h->call || at >= h->to || h->from >= at + size || !atomic_exchange(&h->armed, false))
		return;
	sem_post(&h->reached);
	sem_wait(&h->go_on);
}

static void hang_arm(struct hang *h, struct rig *g, enum memory_call call, uint64_t from, uint64_t to)
{
	h->call = call;
	sem_init(&h->reached, 0, 0);
	sem_init(&h->go_on, 0, 0);
	h->from = from;
	h->to = to;
	atomic_store(&h->armed, true);
	block_memory_watch(g->dev, hang_here, h);
}

/* Where the data begins, and the nodes: from the header, as any reader would find it. */
static uint64_t header_offset(struct rig *g, unsigned at)
{
	uint8_t bytes[8];

	block_memory_peek(g->dev, bytes, sizeof bytes, at);
	return get_le64(bytes);
}

enum call_kind { CALL_WRITE, CALL_READ, CALL_FLUSH, CALL_STEP, CALL_DRAIN };

struct call {
	pthread_t thread;
	struct rig *rig;
	enum call_kind what;
	uint64_t lba;
	atomic_int result;
	atomic_bool done;
};

static void *make_call(void *argument)
{
	struct call *c = argument;
	uint8_t data[SECTOR_BYTES];
	int r;

	fill(data, c->lba, 7);
	if (c->what == CALL_WRITE)
		r = volume_write(c->rig->volume, data, sizeof data, c->lba * SECTOR_BYTES, false);
	else if (c->what == CALL_READ)
		r = volume_read(c->rig->volume, data, sizeof data, c->lba * SECTOR_BYTES);
	else if (c->what == CALL_FLUSH)
		r = volume_flush(c->rig->volume);
	else if (c->what == CALL_STEP)
		r = volume_step(c->rig->volume);
	else
		r = volume_lock_drain(c->rig->volume);
	atomic_store(&c->result, r);
	atomic_store(&c->done, true);
	return NULL;
}

static void start(struct call *c, struct rig *g, enum call_kind what, uint64_t lba)
{
	memset(c, 0, sizeof *c);
	c->rig = g;
	c->what = what;
	c->lba = lba;
	pthread_create(&c->thread, NULL, make_call, c);
}

static void expect_sector(struct rig *g, uint64_t lba, uint32_t version)
{
	uint8_t got[SECTOR_BYTES], expect[SECTOR_BYTES];

	assert_int_equal(volume_read(g->volume, got, sizeof got, lba * SECTOR_BYTES), 0);
	fill(expect, lba, version);
	assert_memory_equal(got, expect, sizeof got);
}

/* No thread but the callers' own; with `pending` every step is a checkpoint. */
static void make_stepped(struct rig *g, size_t pending)
{
	rig_format(g, 1000 * SECTOR_BYTES);
	g->options.stepped = true;
	g->options.pending_max = pending;
	rig_must_open(g);
}

static void a_hung_write_does_not_delay_the_wipe(void **state)
{
	struct rig rig;
	struct hang hang;
	struct call writer, other, reader, committer, flusher, drainer;
	uint64_t cut, wiped, before, data;

	(void)state;
	make_stepped(&rig, 0);
	data = header_offset(&rig, 0x58);
	hang_arm(&hang, &rig, MEMORY_WRITE, data + 300 * SECTOR_BYTES, data + 301 * SECTOR_BYTES);
	start(&other, &rig, CALL_WRITE, 5);
	pthread_join(other.thread, NULL);
	assert_int_equal(other.result, 0);
	start(&writer, &rig, CALL_WRITE, 300);
	pthread_join(writer.thread, NULL);
	assert_int_equal(writer.result, 0);
	start(&committer, &rig, CALL_FLUSH, 0);
	sem_wait(&hang.reached);
	start(&reader, &rig, CALL_READ, 300); /* from what is held */
	pthread_join(reader.thread, NULL);
	assert_int_equal(reader.result, 0);
	start(&writer, &rig, CALL_WRITE, 301);
	pthread_join(writer.thread, NULL);
	assert_int_equal(writer.result, 0);
	start(&flusher, &rig, CALL_FLUSH, 0); /* waits for the committer */
	usleep(20000);
	assert_false(atomic_load(&flusher.done));

	before = rig_now_ns();
	volume_lock_keys(rig.volume, &cut, &wiped);
	assert_true(rig_now_ns() - before < 500000000u);
	assert_true(all_zero(keyring_memory(rig.keys)));
	pthread_join(flusher.thread, NULL);
	assert_int_equal(flusher.result, ERR_REVOKED);
	assert_false(atomic_load(&committer.done));
	everything_is_refused(rig.volume);
	start(&drainer, &rig, CALL_DRAIN, 0);
	usleep(20000);
	assert_false(atomic_load(&drainer.done));

	sem_post(&hang.go_on);
	pthread_join(committer.thread, NULL);
	pthread_join(drainer.thread, NULL);
	assert_int_equal(drainer.result, 0);
	rig_kill(&rig);
	block_memory_cut(rig.dev, 0);
	rig_must_open(&rig);
	expect_sector(&rig, 5, 7);
	expect_sector(&rig, 300, 7);
	expect_sector(&rig, 301, 7);
	rig_close(&rig);
	rig_free(&rig);
}

/* The checkpoint has sealed and hangs in a node write; a write is accepted, then the lock: both get there, in order. */
static void a_lock_during_a_checkpoint_keeps_both(void **state)
{
	struct rig rig;
	struct hang hang;
	struct call flusher, writer, drainer;
	uint64_t cut, wiped, nodes, data;

	(void)state;
	make_stepped(&rig, 1);
	data = header_offset(&rig, 0x58);
	nodes = header_offset(&rig, 0x90);
	start(&writer, &rig, CALL_WRITE, 5);
	pthread_join(writer.thread, NULL);
	hang_arm(&hang, &rig, MEMORY_WRITE, nodes, data);
	start(&flusher, &rig, CALL_STEP, 0);
	sem_wait(&hang.reached);
	start(&writer, &rig, CALL_WRITE, 6);
	pthread_join(writer.thread, NULL);
	assert_int_equal(writer.result, 0);
	volume_lock_keys(rig.volume, &cut, &wiped);
	assert_true(all_zero(keyring_memory(rig.keys)));
	start(&drainer, &rig, CALL_DRAIN, 0);
	usleep(20000);
	assert_false(atomic_load(&drainer.done));
	sem_post(&hang.go_on);
	pthread_join(flusher.thread, NULL);
	assert_int_equal(flusher.result, 0);
	pthread_join(drainer.thread, NULL);
	assert_int_equal(drainer.result, 0);
	rig_kill(&rig);
	rig_must_open(&rig);
	expect_sector(&rig, 5, 7);
	expect_sector(&rig, 6, 7);
	rig_close(&rig);
	rig_free(&rig);
}

/* The device refuses the write after the lock: the drain must not call that good, and the sector is what it was before. */
static void a_write_lost_after_the_lock_is_reported(void **state)
{
	struct rig rig;
	struct hang hang;
	struct call writer, flusher;
	uint64_t cut, wiped, data;

	(void)state;
	make_stepped(&rig, 0);
	data = header_offset(&rig, 0x58);
	start(&writer, &rig, CALL_WRITE, 5);
	pthread_join(writer.thread, NULL);
	hang_arm(&hang, &rig, MEMORY_WRITE, data, data + 1000 * SECTOR_BYTES);
	block_memory_fail(rig.dev, (struct memory_fault){ .call = MEMORY_WRITE,
							  .nth = 1,
							  .times = 1000,
							  .error = ERR_IO,
							  .from = data + 6 * SECTOR_BYTES,
							  .to = data + 7 * SECTOR_BYTES });
	start(&writer, &rig, CALL_WRITE, 6);
	pthread_join(writer.thread, NULL);
	assert_int_equal(writer.result, 0);
	start(&flusher, &rig, CALL_FLUSH, 0);
	sem_wait(&hang.reached);
	volume_lock_keys(rig.volume, &cut, &wiped);
	sem_post(&hang.go_on);
	pthread_join(flusher.thread, NULL);
	assert_int_equal(flusher.result, ERR_IO);
	assert_int_equal(volume_lock_drain(rig.volume), ERR_FAILSTOP);
	rig_kill(&rig);
	block_memory_fail(rig.dev, (struct memory_fault){ 0 });
	rig_must_open(&rig);
	expect_sector(&rig, 6, 0);
	rig_close(&rig);
	rig_free(&rig);
}

static void a_passed_deadline_stops_writes_and_the_lock_still_saves(void **state)
{
	struct rig rig;
	struct call call;
	uint64_t cut, wiped;

	(void)state;
	rig_make(&rig, 1000 * SECTOR_BYTES);
	start(&call, &rig, CALL_WRITE, 5);
	pthread_join(call.thread, NULL);
	assert_false(keyring_expired(rig.keys));
	keyring_set_deadlines(rig.keys, rig_now_ns(), UINT64_MAX);
	assert_true(keyring_expired(rig.keys));
	start(&call, &rig, CALL_WRITE, 6);
	pthread_join(call.thread, NULL);
	assert_int_equal(call.result, ERR_REVOKED);
	start(&call, &rig, CALL_READ, 5);
	pthread_join(call.thread, NULL);
	assert_int_equal(call.result, ERR_REVOKED);
	start(&call, &rig, CALL_FLUSH, 5);
	pthread_join(call.thread, NULL);
	assert_int_equal(call.result, ERR_REVOKED);
	volume_lock_keys(rig.volume, &cut, &wiped);
	assert_int_equal(volume_lock_drain(rig.volume), 0);
	rig_kill(&rig);
	rig_must_open(&rig);
	expect_sector(&rig, 5, 7);
	expect_sector(&rig, 6, 0);
	rig_close(&rig);
	rig_free(&rig);
}

/* Reads enough leaves to drive any other out of the smallest cache. */
static void push_out(struct rig *g, uint64_t from)
{
	uint8_t data[SECTOR_BYTES];

	for (uint64_t leaf = 0; leaf < 300; leaf++)
		assert_int_equal(volume_read(g->volume, data, sizeof data, (from + leaf * 100) * SECTOR_BYTES), 0);
}

static void make_many_leaves(struct rig *g)
{
	uint8_t data[SECTOR_BYTES];

	rig_format(g, 60000 * (uint64_t)SECTOR_BYTES);
	g->options.cache_nodes = 64;
	g->options.dirty_nodes_max = 64;
	rig_must_open(g);
	for (uint64_t lba = 0; lba < 60000; lba += 100) {
		fill(data, lba, 7);
		assert_int_equal(volume_write(g->volume, data, sizeof data, lba * SECTOR_BYTES, false), 0);
	}
	rig_close(g);
	g->options.stepped = true;
	g->options.pending_max = 1;
	rig_must_open(g);
}

/* A leaf is being loaded; meanwhile others load, change, write and evict it. What the load brings is neither used nor a bad
 * tag. */
static void a_load_that_was_overtaken_is_thrown_away(void **state)
{
	struct rig rig;
	struct hang hang;
	struct call reader, writer;
	struct volume_stats stats;
	uint64_t leaf;

	(void)state;
	make_many_leaves(&rig);
	leaf = header_offset(&rig, 0x90);
	hang_arm(&hang, &rig, MEMORY_READ, leaf, leaf + SECTOR_BYTES);
	start(&reader, &rig, CALL_READ, 0);
	sem_wait(&hang.reached);
	start(&writer, &rig, CALL_WRITE, 5);
	pthread_join(writer.thread, NULL);
	assert_int_equal(writer.result, 0);
	assert_int_equal(volume_step(rig.volume), 0);
	push_out(&rig, 1000);
	sem_post(&hang.go_on);
	pthread_join(reader.thread, NULL);
	assert_int_equal(reader.result, 0);
	volume_stats(rig.volume, &stats);
	assert_int_equal(stats.bad_tags, 0);
	expect_sector(&rig, 0, 7);
	expect_sector(&rig, 5, 7);
	rig_close(&rig);
	rig_free(&rig);
}

/* A sealed node that is not on the device yet is not to be had from there. */
static void a_node_on_its_way_to_the_device_stays_in_memory(void **state)
{
	struct rig rig;
	struct hang hang;
	struct call flusher, writer;
	uint64_t leaf;

	(void)state;
	make_many_leaves(&rig);
	leaf = header_offset(&rig, 0x90);
	start(&writer, &rig, CALL_WRITE, 5);
	pthread_join(writer.thread, NULL);
	hang_arm(&hang, &rig, MEMORY_WRITE, leaf, leaf + SECTOR_BYTES);
	start(&flusher, &rig, CALL_STEP, 0);
	sem_wait(&hang.reached);
	push_out(&rig, 1000);
	expect_sector(&rig, 5, 7);
	expect_sector(&rig, 0, 7);
	sem_post(&hang.go_on);
	pthread_join(flusher.thread, NULL);
	assert_int_equal(flusher.result, 0);
	rig_close(&rig);
	rig_free(&rig);
}

/* As many dirty nodes as there may be: the lock's work is bounded, and this is the bound. */
static void the_largest_lock(void **state)
{
	struct rig rig;
	struct volume_stats stats;
	uint8_t data[SECTOR_BYTES] = { 9 };
	uint64_t cut, wiped, before;

	(void)state;
	rig_make(&rig, 200000 * (uint64_t)SECTOR_BYTES);
	for (uint64_t lba = 0; lba < 100000; lba += LEAF_STEP)
		assert_int_equal(volume_write(rig.volume, data, sizeof data, lba * SECTOR_BYTES, false), 0);
	volume_stats(rig.volume, &stats);
	assert_true(stats.dirty_nodes > 1000);
	before = rig_now_ns();
	volume_lock_keys(rig.volume, &cut, &wiped);
	print_message("lock with %llu dirty nodes: %llu us to keys wiped\n", (unsigned long long)stats.dirty_nodes,
		      (unsigned long long)(wiped - before) / 1000);
	assert_int_equal(volume_lock_drain(rig.volume), 0);
	rig_kill(&rig);
	rig_must_open(&rig);
	for (uint64_t lba = 0; lba < 100000; lba += LEAF_STEP) {
		uint8_t got[SECTOR_BYTES];

		assert_int_equal(volume_read(rig.volume, got, sizeof got, lba * SECTOR_BYTES), 0);
		assert_memory_equal(got, data, sizeof got);
	}
	rig_close(&rig);
	rig_free(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_acknowledged_is_lost_by_a_lock_at_any_moment),
		cmocka_unit_test(no_key_byte_is_left),
		cmocka_unit_test(what_a_lock_left_behind_never_goes_back),
		cmocka_unit_test(a_hung_write_does_not_delay_the_wipe),
		cmocka_unit_test(a_lock_during_a_checkpoint_keeps_both),
		cmocka_unit_test(a_write_lost_after_the_lock_is_reported),
		cmocka_unit_test(a_passed_deadline_stops_writes_and_the_lock_still_saves),
		cmocka_unit_test(a_drain_before_a_lock_is_refused),
		cmocka_unit_test(a_load_that_was_overtaken_is_thrown_away),
		cmocka_unit_test(a_node_on_its_way_to_the_device_stays_in_memory),
		cmocka_unit_test(the_largest_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
