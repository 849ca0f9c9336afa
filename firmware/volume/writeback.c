/* The volume's own thread: it brings what is held to its place before anybody must wait for it, and checkpoints when one is due
 * or nothing has happened for a while. It decides nothing that the calls could not do themselves: with `stepped` there is no such
 * thread, and volume_step does one round of it. */
#include <errno.h>
#include <time.h>

#include "base/error.h"
#include "base/thread.h"
#include "engine.h"

enum {
	HELD_SHARE = 4,     /* commit when a quarter of what may be held is */
	COMMIT_AGE_MS = 20, /* or when the oldest of it is this old */
	IDLE_MS = 1000,     /* how often to look when nothing is held */
	RETRY_MS = 100,
	CHECKPOINT_IDLE_MS = 30000,
};

enum chore { NOTHING, COMMIT, CHECKPOINT };

static enum chore chore(const struct volume *v, bool aged)
{
	bool idle = engine_now_ns() - v->last_change_ns > CHECKPOINT_IDLE_MS * UINT64_C(1000000);

	if (engine_admits(v) < 0)
		return NOTHING;
	if (engine_due(v) || v->anchor_due || (idle && (v->tree.dirty_count > 0 || v->root_dirty)))
		return CHECKPOINT;
	if (v->log.count > 0 && (aged || v->held.sectors > v->held.max / HELD_SHARE))
		return COMMIT;
	return NOTHING;
}

/* With tree.lock. True: nobody kicked for that long. */
static bool wait_kick(struct volume *v, unsigned ms)
{
	struct timespec until = thread_deadline(ms);

	return pthread_cond_timedwait(&v->kick, &v->tree.lock, &until) == ETIMEDOUT;
}

/* With tree.lock, which goes away meanwhile. */
static int do_chore(struct volume *v, enum chore c)
{
	int r;

	pthread_mutex_unlock(&v->tree.lock);
	r = c == COMMIT ? engine_commit(v) : engine_checkpoint(v, false, false);
	pthread_mutex_lock(&v->tree.lock);
	return r;
}

static void *run(void *argument)
{
	struct volume *v = argument;

	pthread_mutex_lock(&v->tree.lock);
	while (!v->stop) {
		bool waiting = v->log.count > 0;
		bool aged = wait_kick(v, waiting ? COMMIT_AGE_MS : IDLE_MS) && waiting;
		enum chore c = v->stop ? NOTHING : chore(v, aged);

		/* A deadline that has passed, most likely: the lock is near, and until then there is no hurry. */
		if (c != NOTHING && do_chore(v, c) < 0 && !v->stop)
			wait_kick(v, RETRY_MS);
	}
	pthread_mutex_unlock(&v->tree.lock);
	return NULL;
}

int writeback_start(struct volume *v)
{
	if (v->stepped || v->read_only)
		return 0;
	if (pthread_create(&v->writer, NULL, run, v) != 0)
		return ERR_NOMEM;
	v->has_writer = true;
	return 0;
}

void writeback_stop(struct volume *v)
{
	if (!v->has_writer)
		return;
	pthread_mutex_lock(&v->tree.lock);
	v->stop = true;
	pthread_cond_signal(&v->kick);
	pthread_mutex_unlock(&v->tree.lock);
	pthread_join(v->writer, NULL);
	v->has_writer = false;
}

int volume_step(struct volume *v)
{
	bool due;
	int r;

	if (v->read_only)
		return 0;
	r = engine_commit(v);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree.lock);
	due = engine_due(v) || v->anchor_due;
	pthread_mutex_unlock(&v->tree.lock);
	return due ? engine_checkpoint(v, false, false) : 0;
}
