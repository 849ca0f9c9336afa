/* The ublk face with the test as the kernel, the engine and the control thread: what becomes of each kind of request, what a
 * hostile or a mad kernel gets, what is left in the buffers. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "dataplane/control.h"
#include "dataplane/ublk_face.h"
#include "volume/volume.h"

enum { SIZE = 4 << 20, DEPTH = UBLK_DEPTH, QUEUES = 2, PATIENCE_MS = 10000, PENDING = INT32_MIN, WORLDS = 32 };

/* ---- the kernel ---- */

struct fake_queue {
	struct ublk_queue base;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint16_t given[2 * DEPTH];
	unsigned first, count;
	bool woken, ended;
	int fetch_error;
	unsigned fetches;
	struct ublk_request requests[DEPTH];
	int32_t results[DEPTH]; /* PENDING: not answered */
	unsigned answers;
	uint8_t *data[DEPTH]; /* of the request, or NULL */
	int copy_error;
	const void *buf; /* what was copied from or to last */
	unsigned pulls, pushes;
};

/* The threads of a face are for the life of a process: each test has a kernel of its own, and leaves those of the last to wait.
 */
static struct fake_queue kernels[WORLDS][QUEUES], *kernel;
static struct ublk_face *face;

static struct fake_queue *of(struct ublk_queue *q)
{
	return (struct fake_queue *)q;
}

static int fake_fetch(struct ublk_queue *q)
{
	of(q)->fetches++;
	return of(q)->fetch_error;
}

static int fake_wait(struct ublk_queue *q, uint16_t *tags, unsigned max)
{
	struct fake_queue *k = of(q);
	int n = 0;

	pthread_mutex_lock(&k->lock);
	while (k->count == 0 && !k->woken && !k->ended)
		pthread_cond_wait(&k->changed, &k->lock);
	k->woken = false;
	for (; k->count > 0 && (unsigned)n < max; k->count--)
		tags[n++] = k->given[k->first++ % (2 * DEPTH)];
	if (k->ended)
		n = ERR_IO;
	pthread_mutex_unlock(&k->lock);
	return n;
}

static void fake_answer(struct ublk_queue *q, uint16_t tag, int32_t result)
{
	struct fake_queue *k = of(q);

	pthread_mutex_lock(&k->lock);
	assert_int_equal(k->results[tag], PENDING); /* once */
	k->results[tag] = result;
	k->answers++;
	pthread_cond_broadcast(&k->changed);
	pthread_mutex_unlock(&k->lock);
}

static void fake_request(struct ublk_queue *q, uint16_t tag, struct ublk_request *out)
{
	*out = of(q)->requests[tag];
}

static int fake_pull(struct ublk_queue *q, uint16_t tag, void *buf, size_t size)
{
	struct fake_queue *k = of(q);

	pthread_mutex_lock(&k->lock); /* workers copy at the same time */
	k->pulls++;
	k->buf = buf;
	pthread_mutex_unlock(&k->lock);
	memcpy(buf, k->data[tag], size);
	return k->copy_error;
}

static int fake_push(struct ublk_queue *q, uint16_t tag, const void *buf, size_t size)
{
	struct fake_queue *k = of(q);

	pthread_mutex_lock(&k->lock);
	k->pushes++;
	k->buf = buf;
	pthread_mutex_unlock(&k->lock);
	memcpy(k->data[tag], buf, size);
	return k->copy_error;
}

static void fake_wake(struct ublk_queue *q)
{
	struct fake_queue *k = of(q);

	pthread_mutex_lock(&k->lock);
	k->woken = true;
	pthread_cond_broadcast(&k->changed);
	pthread_mutex_unlock(&k->lock);
}

static const struct ublk_queue_ops fake_ops = {
	.fetch = fake_fetch,
	.wait = fake_wait,
	.answer = fake_answer,
	.request = fake_request,
	.pull = fake_pull,
	.push = fake_push,
	.wake = fake_wake,
};

static void give_tags(struct fake_queue *k, const uint16_t *tags, unsigned n)
{
	pthread_mutex_lock(&k->lock);
	for (unsigned i = 0; i < n; i++)
		k->given[(k->first + k->count++) % (2 * DEPTH)] = tags[i];
	pthread_cond_broadcast(&k->changed);
	pthread_mutex_unlock(&k->lock);
}

/* ---- control thread and engine ---- */

static struct {
	atomic_bool keyless, read_only;
	atomic_uint inside, faults, orderly, noticed;
	atomic_int noticed_error;
} gate;

static struct {
	pthread_mutex_t lock;
	uint8_t bytes[SIZE];
	int error; /* of the next call */
	unsigned calls, writes, flushes, zeroes;
	bool fua, punch;
} engine = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct volume *control_enter(struct control *c)
{
	(void)c;
	if (atomic_load(&gate.keyless))
		return NULL;
	atomic_fetch_add(&gate.inside, 1);
	return (struct volume *)&engine;
}

bool control_leave(struct control *c, struct volume *v, int error)
{
	(void)c;
	(void)error;
	if (v != NULL)
		atomic_fetch_sub(&gate.inside, 1);
	return false;
}

uint64_t control_size(const struct control *c)
{
	(void)c;
	return SIZE;
}

bool control_read_only(const struct control *c)
{
	(void)c;
	return atomic_load(&gate.read_only);
}

void control_noticed(struct control *c, int error)
{
	(void)c;
	if (error != 0) {
		atomic_fetch_add(&gate.noticed, 1);
		atomic_store(&gate.noticed_error, error);
	}
}

void control_fault(struct control *c, bool orderly)
{
	(void)c;
	atomic_fetch_add(&gate.orderly, orderly);
	atomic_fetch_add(&gate.faults, 1);
}

static int engine_call(size_t size, uint64_t at)
{
	assert_true(at <= SIZE && size <= SIZE - at); /* the face has looked */
	engine.calls++;
	return engine.error;
}

int volume_read(struct volume *v, void *buf, size_t size, uint64_t at)
{
	int r;

	(void)v;
	pthread_mutex_lock(&engine.lock);
	r = engine_call(size, at);
	memcpy(buf, engine.bytes + at, size); /* an error, too: what is in the buffer is not to come out */
	pthread_mutex_unlock(&engine.lock);
	return r;
}

int volume_write(struct volume *v, const void *buf, size_t size, uint64_t at, bool fua)
{
	int r;

	(void)v;
	pthread_mutex_lock(&engine.lock);
	r = engine_call(size, at);
	engine.writes++;
	engine.fua = fua;
	if (r == 0)
		memcpy(engine.bytes + at, buf, size);
	pthread_mutex_unlock(&engine.lock);
	return r;
}

int volume_zero(struct volume *v, uint64_t size, uint64_t at, bool punch, bool fua)
{
	int r;

	(void)v;
	pthread_mutex_lock(&engine.lock);
	r = engine_call(size, at);
	engine.zeroes++;
	engine.fua = fua;
	engine.punch = punch;
	if (r == 0)
		memset(engine.bytes + at, 0, size);
	pthread_mutex_unlock(&engine.lock);
	return r;
}

int volume_flush(struct volume *v)
{
	int r;

	(void)v;
	pthread_mutex_lock(&engine.lock);
	r = engine_call(0, 0);
	engine.flushes++;
	pthread_mutex_unlock(&engine.lock);
	return r;
}

/* ---- helpers ---- */

static void sleep_ms(long ms)
{
	const struct timespec t = { .tv_nsec = ms * 1000000 };

	nanosleep(&t, NULL);
}

static void make_kernel(void)
{
	static unsigned used;

	assert_true(used < WORLDS);
	kernel = kernels[used++];
	for (int q = 0; q < QUEUES; q++) {
		struct fake_queue *k = &kernel[q];

		k->base = (struct ublk_queue){ .ops = &fake_ops, .depth = DEPTH };
		pthread_mutex_init(&k->lock, NULL);
		pthread_cond_init(&k->changed, NULL);
		for (int i = 0; i < DEPTH; i++)
			k->results[i] = PENDING;
	}
}

static void start(bool hold)
{
	struct ublk_queue *queues[QUEUES] = { &kernel[0].base, &kernel[1].base };

	assert_int_equal(ublk_face_create(&face, NULL, queues, QUEUES, hold), 0);
	assert_int_equal(ublk_face_fetch(face), 0);
}

static int set(void)
{
	make_kernel();
	memset(&gate, 0, sizeof gate);
	engine.error = 0;
	engine.calls = engine.writes = engine.flushes = engine.zeroes = 0;
	for (int i = 0; i < SIZE; i++)
		engine.bytes[i] = (uint8_t)(i * 7 + (i >> 12) + 1);
	return 0;
}

static int set_failing(void **state)
{
	(void)state;
	set();
	start(false);
	return 0;
}

static int set_holding(void **state)
{
	(void)state;
	set();
	start(true);
	return 0;
}

static int set_bare(void **state)
{
	(void)state;
	return set();
}

static int clear(void **state)
{
	(void)state;
	for (int q = 0; q < QUEUES; q++)
		for (int i = 0; i < DEPTH; i++) {
			free(kernel[q].data[i]);
			kernel[q].data[i] = NULL;
		}
	sleep_ms(2);
	return 0;
}

static void ask(unsigned q, uint16_t tag, struct ublk_request r)
{
	struct fake_queue *k = &kernel[q];

	k->requests[tag] = r;
	k->results[tag] = PENDING;
	free(k->data[tag]);
	k->data[tag] = calloc(1, UBLK_IO_BYTES);
	assert_non_null(k->data[tag]);
}

static bool answered(unsigned q, uint16_t tag, int ms)
{
	struct fake_queue *k = &kernel[q];

	for (int waited = 0; waited < ms; waited++) {
		bool there;

		pthread_mutex_lock(&k->lock);
		there = k->results[tag] != PENDING;
		pthread_mutex_unlock(&k->lock);
		if (there)
			return true;
		sleep_ms(1);
	}
	return false;
}

static int32_t do_request(struct ublk_request r)
{
	uint16_t tag = 5;

	ask(0, tag, r);
	give_tags(&kernel[0], &tag, 1);
	assert_true(answered(0, tag, PATIENCE_MS));
	return kernel[0].results[tag];
}

static bool wiped(const void *buf, size_t size)
{
	const uint8_t *b = buf;

	for (size_t i = 0; i < size; i++)
		if (b[i] != 0)
			return false;
	return true;
}

/* ---- tests ---- */

static void a_read_brings_data_and_leaves_none_behind(void **state)
{
	(void)state;
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_READ, .at = 512, .size = 12288 }), 12288);
	assert_memory_equal(kernel[0].data[5], engine.bytes + 512, 12288);
	assert_int_equal(kernel[0].pushes, 1);
	assert_true(wiped(kernel[0].buf, UBLK_IO_BYTES));
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_READ, .at = SIZE - 512, .size = 512 }), 512);
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_READ, .size = UBLK_IO_BYTES }), UBLK_IO_BYTES);
	assert_true(wiped(kernel[0].buf, UBLK_IO_BYTES));
}

static void a_write_takes_data_and_leaves_none_behind(void **state)
{
	uint16_t tag = 9;

	(void)state;
	ask(1, tag, (struct ublk_request){ .op = UBLK_WRITE, .at = 4096, .size = 8192 });
	memset(kernel[1].data[tag], 0xab, 8192);
	give_tags(&kernel[1], &tag, 1);
	assert_true(answered(1, tag, PATIENCE_MS));
	assert_int_equal(kernel[1].results[tag], 8192);
	assert_memory_equal(engine.bytes + 4096, kernel[1].data[tag], 8192);
	assert_false(engine.fua);
	assert_true(wiped(kernel[1].buf, UBLK_IO_BYTES));
}

static void flags_reach_the_engine(void **state)
{
	(void)state;
	do_request((struct ublk_request){ .op = UBLK_WRITE, .size = 512, .fua = true });
	assert_true(engine.fua);
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_DISCARD, .size = SIZE }), 0);
	assert_true(engine.punch && !engine.fua);
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_ZEROES, .size = 4096, .keep = true, .fua = true }), 0);
	assert_true(!engine.punch && engine.fua);
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_ZEROES, .size = 4096 }), 0);
	assert_true(engine.punch);
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_FLUSH, .at = UINT64_MAX, .size = UINT64_MAX }), 0);
	assert_int_equal(engine.flushes, 1);
}

static void with_hold_everything_is_durable_when_it_is_answered(void **state)
{
	(void)state;
	do_request((struct ublk_request){ .op = UBLK_WRITE, .size = 512 });
	assert_true(engine.fua);
	engine.fua = false;
	do_request((struct ublk_request){ .op = UBLK_ZEROES, .size = 512 });
	assert_true(engine.fua);
	engine.fua = false;
	do_request((struct ublk_request){ .op = UBLK_DISCARD, .size = 512 });
	assert_true(engine.fua);
}

static void what_cannot_be_is_refused_before_the_engine(void **state)
{
	static const struct ublk_request bad[] = {
		{ .op = UBLK_READ, .size = 0 },
		{ .op = UBLK_WRITE, .at = 4096, .size = 0 },
		{ .op = UBLK_READ, .at = SIZE, .size = 512 },
		{ .op = UBLK_READ, .at = SIZE - 512, .size = 1024 },
		{ .op = UBLK_WRITE, .at = UINT64_MAX, .size = 512 },
		{ .op = UBLK_WRITE, .at = UINT64_MAX - 511, .size = 512 },
		{ .op = UBLK_READ, .at = 0, .size = UBLK_IO_BYTES + 512 },
		{ .op = UBLK_WRITE, .at = 0, .size = UBLK_IO_BYTES + 1 },
		{ .op = UBLK_READ, .at = 512, .size = UINT64_MAX },
		{ .op = UBLK_DISCARD, .at = 0, .size = SIZE + 512 },
		{ .op = UBLK_DISCARD, .at = SIZE + 1, .size = 0 },
		{ .op = UBLK_ZEROES, .at = 512, .size = UINT64_MAX - 100 },
		{ .op = UBLK_OP_COUNT, .size = 512 },
		{ .op = 255, .size = 512 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_true(do_request(bad[i]) < 0);
	assert_int_equal(engine.calls, 0);
	assert_int_equal(kernel[0].pulls + kernel[0].pushes, 0);
	assert_int_equal(atomic_load(&gate.faults), 0);
}

static void a_read_only_device_is_not_changed(void **state)
{
	(void)state;
	atomic_store(&gate.read_only, true);
	for (unsigned op = UBLK_READ; op < UBLK_OP_COUNT; op++) {
		int32_t r = do_request((struct ublk_request){ .op = op, .size = 512 });

		assert_true((op == UBLK_READ || op == UBLK_FLUSH) == (r >= 0));
	}
	assert_int_equal(engine.writes + engine.zeroes, 0);
}

static void without_a_key_requests_fail_at_once(void **state)
{
	(void)state;
	atomic_store(&gate.keyless, true);
	for (unsigned op = UBLK_READ; op < UBLK_OP_COUNT; op++)
		assert_int_equal(do_request((struct ublk_request){ .op = op, .size = 512 }), -ESHUTDOWN);
	assert_int_equal(engine.calls, 0);
	assert_int_equal(kernel[0].pulls, 0); /* nothing of it was looked at */
}

static void with_hold_they_stay_with_the_kernel(void **state)
{
	(void)state;
	atomic_store(&gate.keyless, true);
	for (uint16_t tag = 0; tag < DEPTH; tag++) {
		ask(0, tag, (struct ublk_request){ .op = tag % UBLK_OP_COUNT, .size = 512 });
		give_tags(&kernel[0], &tag, 1);
	}
	assert_false(answered(0, 0, 50));
	assert_int_equal(kernel[0].answers, 0);
	assert_int_equal(kernel[0].pulls, 0);
	/* those that cannot be are answered all the same: the next server would do no other */
	ask(1, 3, (struct ublk_request){ .op = UBLK_READ, .at = SIZE, .size = 512 });
	give_tags(&kernel[1], &(uint16_t){ 3 }, 1);
	assert_true(answered(1, 3, PATIENCE_MS));
}

static void the_gate_falls_in_the_middle(void **state)
{
	uint16_t tag = 7;

	(void)state;
	engine.error = ERR_REVOKED;
	for (unsigned op = UBLK_READ; op < UBLK_OP_COUNT; op++) {
		ask(0, tag, (struct ublk_request){ .op = op, .size = 4096 });
		memset(kernel[0].data[tag], 0xcd, 4096);
		give_tags(&kernel[0], &tag, 1);
		assert_false(answered(0, tag, 20));
		tag++;
	}
	assert_int_equal(kernel[0].pushes, 0);
	assert_int_equal(kernel[0].pulls, 1);
	assert_true(wiped(kernel[0].buf, UBLK_IO_BYTES));
	assert_int_equal(atomic_load(&gate.inside), 0);
}

static void errors_are_the_clients_and_the_control_threads(void **state)
{
	(void)state;
	engine.error = ERR_CORRUPT;
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_READ, .size = 4096 }), -EIO);
	assert_int_equal(kernel[0].pushes, 0);
	assert_int_equal(atomic_load(&gate.noticed_error), ERR_CORRUPT);
	engine.error = ERR_NOSPACE;
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_WRITE, .size = 4096 }), -ENOSPC);
	engine.error = ERR_FAILSTOP;
	assert_true(do_request((struct ublk_request){ .op = UBLK_FLUSH }) < 0);
	assert_int_equal(atomic_load(&gate.noticed), 3);
}

static void data_that_the_kernel_takes_back_is_an_error(void **state)
{
	(void)state;
	kernel[0].copy_error = ERR_IO;
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_WRITE, .size = 4096 }), -EIO);
	assert_int_equal(engine.writes, 0);
	assert_true(wiped(kernel[0].buf, UBLK_IO_BYTES));
	assert_int_equal(do_request((struct ublk_request){ .op = UBLK_READ, .size = 4096 }), -EIO);
	assert_true(wiped(kernel[0].buf, UBLK_IO_BYTES));
}

static void wait_for_fault(void)
{
	for (int ms = 0; atomic_load(&gate.faults) == 0 && ms < PATIENCE_MS; ms++)
		sleep_ms(1);
	assert_int_equal(atomic_load(&gate.faults), 1);
	assert_int_equal(atomic_load(&gate.orderly), 1);
}

static void a_tag_that_does_not_exist_ends_the_process(void **state)
{
	(void)state;
	give_tags(&kernel[0], &(uint16_t){ DEPTH }, 1);
	wait_for_fault();
	assert_int_equal(engine.calls, 0);
}

static void a_tag_that_is_given_twice_ends_the_process(void **state)
{
	uint16_t twice[] = { 4, 4 };

	(void)state;
	ask(1, 4, (struct ublk_request){ .op = UBLK_READ, .size = 512 });
	give_tags(&kernel[1], twice, 2);
	wait_for_fault();
	assert_int_equal(engine.calls, 0);
}

static void a_device_that_is_taken_away_ends_the_process(void **state)
{
	(void)state;
	pthread_mutex_lock(&kernel[0].lock);
	kernel[0].ended = true;
	pthread_cond_broadcast(&kernel[0].changed);
	pthread_mutex_unlock(&kernel[0].lock);
	wait_for_fault();
}

static void a_queue_that_the_kernel_does_not_take_is_told(void **state)
{
	struct ublk_queue *queues[QUEUES] = { &kernel[0].base, &kernel[1].base };

	(void)state;
	kernel[1].fetch_error = ERR_BUSY;
	assert_int_equal(ublk_face_create(&face, NULL, queues, QUEUES, false), 0);
	assert_int_equal(kernel[0].fetches, 0); /* not before it is told to */
	assert_int_equal(ublk_face_fetch(face), ERR_BUSY);
	assert_int_equal(kernel[0].fetches + kernel[1].fetches, 2);
	assert_int_equal(ublk_face_create(&face, NULL, queues, UBLK_QUEUES + 1, false), ERR_RANGE);
	assert_int_equal(ublk_face_create(&face, NULL, queues, 0, false), ERR_RANGE);
}

/* Every tag of both queues in flight, again and again: each is answered once, with its own data. */
static void full_queues_are_answered_one_by_one(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		for (unsigned q = 0; q < QUEUES; q++) {
			uint16_t tags[DEPTH];

			for (uint16_t tag = 0; tag < DEPTH; tag++) {
				ask(q, tag, (struct ublk_request){ .op = UBLK_READ, .at = tag * 4096u, .size = 4096 });
				tags[tag] = (uint16_t)((tag * 37 + round) % DEPTH);
			}
			give_tags(&kernel[q], tags, DEPTH);
		}
		for (unsigned q = 0; q < QUEUES; q++)
			for (uint16_t tag = 0; tag < DEPTH; tag++) {
				assert_true(answered(q, tag, PATIENCE_MS));
				assert_int_equal(kernel[q].results[tag], 4096);
				assert_memory_equal(kernel[q].data[tag], engine.bytes + tag * 4096, 4096);
			}
	}
	assert_int_equal(kernel[0].answers + kernel[1].answers, 20 * QUEUES * DEPTH);
	assert_int_equal(atomic_load(&gate.inside), 0);
	assert_int_equal(atomic_load(&gate.faults), 0);
}

#define FAILING(test) cmocka_unit_test_setup_teardown(test, set_failing, clear)
#define HOLDING(test) cmocka_unit_test_setup_teardown(test, set_holding, clear)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAILING(a_read_brings_data_and_leaves_none_behind),
		FAILING(a_write_takes_data_and_leaves_none_behind),
		FAILING(flags_reach_the_engine),
		HOLDING(with_hold_everything_is_durable_when_it_is_answered),
		FAILING(what_cannot_be_is_refused_before_the_engine),
		FAILING(a_read_only_device_is_not_changed),
		FAILING(without_a_key_requests_fail_at_once),
		HOLDING(with_hold_they_stay_with_the_kernel),
		HOLDING(the_gate_falls_in_the_middle),
		FAILING(errors_are_the_clients_and_the_control_threads),
		FAILING(data_that_the_kernel_takes_back_is_an_error),
		FAILING(a_tag_that_does_not_exist_ends_the_process),
		FAILING(a_tag_that_is_given_twice_ends_the_process),
		FAILING(a_device_that_is_taken_away_ends_the_process),
		cmocka_unit_test_setup_teardown(a_queue_that_the_kernel_does_not_take_is_told, set_bare, clear),
		HOLDING(full_queues_are_answered_one_by_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
