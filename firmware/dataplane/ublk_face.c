/* See ublk_face.h. A queue's own thread talks with the kernel, and only it (the driver wants every answer from the thread that
 * fetched); its workers do what a request asks, because the engine waits for the disk. Between them lie two short lists. */
#include "ublk_face.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/log.h"
#include "control.h"
#include "hal/secret_memory.h"
#include "volume/volume.h"

enum { WORKERS = 8 }; /* of all queues together */

struct answer {
	uint16_t tag;
	int32_t result;
};

struct lane {
	struct ublk_queue *kernel;
	struct ublk_face *face;
	pthread_mutex_t lock;
	pthread_cond_t work;
	uint16_t todo[UBLK_DEPTH];
	unsigned first, waiting;
	struct answer done[UBLK_DEPTH];
	unsigned finished;
	bool taken[UBLK_DEPTH]; /* the queue's thread: not answered yet */
	int error;              /* of the fetch */
};

struct worker {
	struct lane *lane;
	uint8_t *buf; /* UBLK_IO_BYTES */
};

struct ublk_face {
	struct control *control;
	bool hold;
	unsigned lane_count, worker_count;
	struct lane lanes[UBLK_QUEUES];
	struct worker workers[WORKERS];
	sem_t begin, fetched;
};

/* ---- what a request asks ---- */

static int do_read(const struct worker *w, uint16_t tag, const struct ublk_request *q, struct volume *v)
{
	struct ublk_queue *kernel = w->lane->kernel;
	int r = volume_read(v, w->buf, (size_t)q->size, q->at);

	return r == 0 ? kernel->ops->push(kernel, tag, w->buf, (size_t)q->size) : r;
}

static int do_write(const struct worker *w, uint16_t tag, const struct ublk_request *q, struct volume *v)
{
	struct ublk_queue *kernel = w->lane->kernel;
	int r = kernel->ops->pull(kernel, tag, w->buf, (size_t)q->size);

	return r == 0 ? volume_write(v, w->buf, (size_t)q->size, q->at, q->fua) : r;
}

static int do_flush(const struct worker *w, uint16_t tag, const struct ublk_request *q, struct volume *v)
{
	(void)w;
	(void)tag;
	(void)q;
	return volume_flush(v);
}

static int do_zero(const struct worker *w, uint16_t tag, const struct ublk_request *q, struct volume *v)
{
	(void)w;
	(void)tag;
	return volume_zero(v, q->size, q->at, !q->keep, q->fua);
}

static const struct deed {
	int (*run)(const struct worker *w, uint16_t tag, const struct ublk_request *q, struct volume *v);
	bool range, data, changes;
} deeds[UBLK_OP_COUNT] = {
	[UBLK_READ] = { do_read, .range = true, .data = true },
	[UBLK_WRITE] = { do_write, .range = true, .data = true, .changes = true },
	[UBLK_FLUSH] = { do_flush },
	[UBLK_DISCARD] = { do_zero, .range = true, .changes = true },
	[UBLK_ZEROES] = { do_zero, .range = true, .changes = true },
};

static bool in_range(const struct control *c, const struct ublk_request *q)
{
	uint64_t end = control_size(c);

	return q->size > 0 && q->at <= end && q->size <= end - q->at;
}

static int check(const struct control *c, const struct ublk_request *q)
{
	const struct deed *d;

	if (q->op >= UBLK_OP_COUNT)
		return ERR_UNSUPPORTED;
	d = &deeds[q->op];
	if (d->range && !in_range(c, q))
		return ERR_RANGE;
	if (d->data && q->size > UBLK_IO_BYTES)
		return ERR_RANGE;
	return d->changes && control_read_only(c) ? ERR_DENIED : 0;
}

/* Inside the volume, or told that there is no key. The buffer is wiped before the volume is left: who has seen the last one leave
 * knows that all are. */
static int perform(const struct worker *w, uint16_t tag, const struct ublk_request *q)
{
	struct control *c = w->lane->face->control;
	struct volume *v;
	int r;

	do {
		v = control_enter(c);
		r = v != NULL ? deeds[q->op].run(w, tag, q, v) : ERR_REVOKED;
		if (v != NULL && deeds[q->op].data)
			secret_wipe(w->buf, (size_t)q->size);
	} while (control_leave(c, v, r));
	control_noticed(c, r);
	return r;
}

/* False: it stays with the kernel. */
static bool serve(const struct worker *w, uint16_t tag, int32_t *result)
{
	struct ublk_queue *kernel = w->lane->kernel;
	const struct ublk_face *f = w->lane->face;
	struct ublk_request q;
	int r;

	kernel->ops->request(kernel, tag, &q);
	q.fua = q.fua || f->hold;
	r = check(f->control, &q);
	if (r == 0)
		r = perform(w, tag, &q);
	*result = r == 0 ? (deeds[q.op].data ? (int32_t)q.size : 0) : -error_to_errno(r);
	return r != ERR_REVOKED || !f->hold;
}

/* ---- workers ---- */

static uint16_t take(struct lane *l)
{
	uint16_t tag;

	pthread_mutex_lock(&l->lock);
	while (l->waiting == 0)
		pthread_cond_wait(&l->work, &l->lock);
	tag = l->todo[l->first];
	l->first = (l->first + 1) % UBLK_DEPTH;
	l->waiting--;
	pthread_mutex_unlock(&l->lock);
	return tag;
}

static void finish(struct lane *l, uint16_t tag, int32_t result)
{
	bool first;

	pthread_mutex_lock(&l->lock);
	first = l->finished == 0;
	l->done[l->finished++] = (struct answer){ tag, result };
	pthread_mutex_unlock(&l->lock);
	if (first)
		l->kernel->ops->wake(l->kernel);
}

static void *work(void *context)
{
	const struct worker *w = context;
	int32_t result;

	for (;;) {
		uint16_t tag = take(w->lane);

		if (serve(w, tag, &result))
			finish(w->lane, tag, result);
	}
	return NULL;
}

/* ---- a queue's thread ---- */

/* False: the kernel gave a tag that it does not have, or that it had given already. */
static bool hand_out(struct lane *l, const uint16_t *tags, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (tags[i] >= l->kernel->depth || l->taken[tags[i]])
			return false;
		l->taken[tags[i]] = true;
	}
	pthread_mutex_lock(&l->lock);
	for (unsigned i = 0; i < n; i++)
		l->todo[(l->first + l->waiting++) % UBLK_DEPTH] = tags[i];
	if (n == 1)
		pthread_cond_signal(&l->work);
	else if (n > 1)
		pthread_cond_broadcast(&l->work);
	pthread_mutex_unlock(&l->lock);
	return true;
}

static void hand_back(struct lane *l)
{
	struct answer done[UBLK_DEPTH];
	unsigned n;

	pthread_mutex_lock(&l->lock);
	n = l->finished;
	for (unsigned i = 0; i < n; i++)
		done[i] = l->done[i];
	l->finished = 0;
	pthread_mutex_unlock(&l->lock);
	for (unsigned i = 0; i < n; i++) {
		l->taken[done[i].tag] = false; /* before the kernel can give it again */
		l->kernel->ops->answer(l->kernel, done[i].tag, done[i].result);
	}
}

/* The end of a queue is the end of the process: the kernel takes the device away, or makes no sense. */
static void *attend(void *context)
{
	struct lane *l = context;
	uint16_t tags[UBLK_DEPTH];
	int n;

	while (sem_wait(&l->face->begin) != 0)
		continue;
	l->error = l->kernel->ops->fetch(l->kernel);
	sem_post(&l->face->fetched);
	if (l->error != 0)
		return NULL;
	do {
		hand_back(l);
		n = l->kernel->ops->wait(l->kernel, tags, UBLK_DEPTH);
	} while (n >= 0 && hand_out(l, tags, (unsigned)n));
	log_error(n < 0 ? "ublk: the device is being taken away" : "ublk: the kernel gave a request that cannot be");
	control_fault(l->face->control, true);
	return NULL;
}

/* ---- life ---- */

static int start_thread(void *(*run)(void *), void *context)
{
	pthread_t thread;

	return pthread_create(&thread, NULL, run, context) == 0 ? 0 : ERR_NOMEM;
}

int ublk_face_fetch(void *face)
{
	struct ublk_face *f = face;
	int r = 0;

	for (unsigned i = 0; i < f->lane_count; i++)
		sem_post(&f->begin);
	for (unsigned i = 0; i < f->lane_count; i++)
		while (sem_wait(&f->fetched) != 0)
			continue;
	for (unsigned i = 0; r == 0 && i < f->lane_count; i++)
		r = f->lanes[i].error;
	return r;
}

static void make_lane(struct ublk_face *f, unsigned i, struct ublk_queue *kernel)
{
	struct lane *l = &f->lanes[i];

	l->kernel = kernel;
	l->face = f;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->work, NULL);
}

static int start_threads(struct ublk_face *f)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < f->worker_count; i++)
		r = start_thread(work, &f->workers[i]);
	for (unsigned i = 0; r == 0 && i < f->lane_count; i++)
		r = start_thread(attend, &f->lanes[i]);
	return r;
}

int ublk_face_create(struct ublk_face **out, struct control *c, struct ublk_queue *const *queues, unsigned count, bool hold)
{
	struct ublk_face *f;
	uint8_t *buffers;

	if (count == 0 || count > UBLK_QUEUES)
		return ERR_RANGE;
	f = calloc(1, sizeof *f);
	buffers = mmap(NULL, WORKERS * (size_t)UBLK_IO_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f == NULL || buffers == MAP_FAILED)
		return ERR_NOMEM;
	madvise(buffers, WORKERS * (size_t)UBLK_IO_BYTES, MADV_DONTDUMP);
	f->control = c;
	f->hold = hold;
	f->lane_count = count;
	f->worker_count = WORKERS;
	sem_init(&f->begin, 0, 0);
	sem_init(&f->fetched, 0, 0);
	for (unsigned i = 0; i < count; i++)
		make_lane(f, i, queues[i]);
	for (unsigned i = 0; i < WORKERS; i++)
		f->workers[i] = (struct worker){ &f->lanes[i % count], buffers + i * (size_t)UBLK_IO_BYTES };
	*out = f;
	return start_threads(f);
}
