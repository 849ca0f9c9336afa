/* See writer.h. Two bounded queues under one lock: gate records (one place a volume: a newer one replaces an older one that is
 * not begun) and ledger lines; gate records go first, then the clock's. */
#include "writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "config.h"
#include "loop.h"

enum { LEDGER_QUEUE = 512 };

struct gate_place {
	char name[NAME_MAX_BYTES];
	bool waiting, done;
	struct gate_record record;
	struct written_gate result;
};

struct writer {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct records *records;
	struct ledger *ledger;
	int done_fd;
	bool stopping, audit_good;
	uint64_t lost; /* lines that there was no room for in the queue, and that the ledger has not heard of */
	uint64_t asked, answered, asked_ns;
	struct gate_place gates[CONFIG_VOLUMES_MAX];
	uint64_t clock_ns; /* 0: none waits */
	struct ledger_entry lines[LEDGER_QUEUE];
	unsigned first, count;
};

static struct gate_place *waiting_gate(struct writer *w)
{
	for (unsigned i = 0; i < CONFIG_VOLUMES_MAX; i++)
		if (w->gates[i].waiting)
			return &w->gates[i];
	return NULL;
}

static void write_gate(struct writer *w, struct gate_place *g)
{
	struct gate_record record = g->record;
	char name[NAME_MAX_BYTES];
	int r;

	memcpy(name, g->name, sizeof name);
	g->waiting = false;
	pthread_mutex_unlock(&w->lock);
	r = records_write_gate(w->records, name, &record);
	pthread_mutex_lock(&w->lock);
	memcpy(g->result.name, name, sizeof name);
	g->result.seq = record.seq;
	g->result.error = r;
	g->done = true;
	eventfd_write(w->done_fd, 1);
}

static void write_clock(struct writer *w)
{
	uint64_t ns = w->clock_ns;

	w->clock_ns = 0;
	pthread_mutex_unlock(&w->lock);
	records_write_clock(w->records, ns); /* logged if not; the ledger's last line says nearly the same */
	pthread_mutex_lock(&w->lock);
}

static void write_line(struct writer *w)
{
	struct ledger_entry e = w->lines[w->first];
	int r;

	w->first = (w->first + 1) % LEDGER_QUEUE;
	w->count--;
	w->ledger->lost += w->lost;
	w->lost = 0;
	pthread_mutex_unlock(&w->lock);
	r = ledger_append(w->ledger, &e);
	pthread_mutex_lock(&w->lock);
	w->audit_good = w->audit_good && r == 0;
}

static void *run(void *context)
{
	struct writer *w = context;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct gate_place *g = waiting_gate(w);

		w->answered = w->asked;
		if (g != NULL)
			write_gate(w, g);
		else if (w->clock_ns != 0)
			write_clock(w);
		else if (w->count > 0)
			write_line(w);
		else if (w->stopping)
			break;
		else
			pthread_cond_wait(&w->more, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int writer_start(struct writer **out, struct records *records, struct ledger *ledger)
{
	struct writer *w = calloc(1, sizeof *w);
	int r;

	if (w == NULL)
		return ERR_NOMEM;
	w->records = records;
	w->ledger = ledger;
	w->audit_good = true;
	w->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->more, NULL);
	r = w->done_fd < 0 ? errno : thread_start(&w->thread, run, w);
	if (r != 0) {
		log_error("the writer's thread cannot be started: %s", strerror(r));
		if (w->done_fd >= 0)
			close(w->done_fd);
		free(w);
		return ERR_NOMEM;
	}
	*out = w;
	return 0;
}

void writer_stop(struct writer *w)
{
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	close(w->done_fd);
	pthread_cond_destroy(&w->more);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static struct gate_place *place_of(struct writer *w, const char *name)
{
	for (unsigned i = 0; i < CONFIG_VOLUMES_MAX; i++) {
		if (w->gates[i].name[0] == '\0')
			memccpy(w->gates[i].name, name, '\0', sizeof w->gates[i].name - 1);
		if (strcmp(w->gates[i].name, name) == 0)
			return &w->gates[i];
	}
	fatal("more volumes than there is room for: a defect");
}

void writer_gate(struct writer *w, const char *name, const struct gate_record *record)
{
	struct gate_place *g;

	pthread_mutex_lock(&w->lock);
	g = place_of(w, name);
	g->record = *record;
	g->waiting = true;
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
}

void writer_clock(struct writer *w, uint64_t last_seen_ns)
{
	pthread_mutex_lock(&w->lock);
	w->clock_ns = last_seen_ns;
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
}

void writer_ledger(struct writer *w, const struct ledger_entry *entry)
{
	bool full;

	pthread_mutex_lock(&w->lock);
	full = w->count == LEDGER_QUEUE;
	if (full) {
		w->audit_good = false;
		w->lost++;
	} else {
		w->lines[(w->first + w->count++) % LEDGER_QUEUE] = *entry;
	}
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
	if (full)
		log_error("ledger: the disk does not keep up; a line was lost (%s of %s)", entry->event, entry->volume);
}

int writer_fd(const struct writer *w)
{
	return w->done_fd;
}

bool writer_take(struct writer *w, struct written_gate *out)
{
	bool found = false;
	eventfd_t n;

	pthread_mutex_lock(&w->lock);
	for (unsigned i = 0; i < CONFIG_VOLUMES_MAX && !found; i++) {
		found = w->gates[i].done;
		if (found) {
			*out = w->gates[i].result;
			w->gates[i].done = false;
		}
	}
	if (!found)
		eventfd_read(w->done_fd, &n);
	pthread_mutex_unlock(&w->lock);
	return found;
}

uint64_t writer_silent_ns(struct writer *w)
{
	uint64_t silent = 0;

	pthread_mutex_lock(&w->lock);
	if (w->answered == w->asked) {
		w->asked++;
		w->asked_ns = boot_now();
		pthread_cond_signal(&w->more);
	} else {
		silent = boot_now() - w->asked_ns;
	}
	pthread_mutex_unlock(&w->lock);
	return silent;
}

bool writer_audit_good(struct writer *w)
{
	bool good;

	pthread_mutex_lock(&w->lock);
	good = w->audit_good;
	pthread_mutex_unlock(&w->lock);
	return good;
}
