/* The kinds of indicators, and the thread that waits for them. What must hold: it sees the newest state and may miss older ones;
 * one that hangs in a driver is left behind, and of the two, thread and owner, the last one to go frees what both used. */
#include <hal/indicator.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "indicator_kind.h"

enum { CLOSE_MS = 500, TEXT_BYTES = 96 };

struct indicator {
	const struct indicator_kind *kind;
	int fd;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool waiting, closing, ended, left;
	enum indicator_state state;
	char text[TEXT_BYTES];
};

static const struct indicator_kind *const kinds[] = { &indicator_led, &indicator_console };

static const struct indicator_kind *kind_of(const char *where, const char **place)
{
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		size_t length = strlen(kinds[i]->name);

		if (strncmp(where, kinds[i]->name, length) == 0 && where[length] == ':') {
			*place = where + length + 1;
			return kinds[i]->good(*place) ? kinds[i] : NULL;
		}
	}
	return NULL;
}

bool indicator_where_good(const char *where)
{
	const char *place;

	return kind_of(where, &place) != NULL;
}

const char *indicator_state_name(enum indicator_state state)
{
	static const char *const names[INDICATOR_STATE_COUNT] = {
		[INDICATOR_STARTING] = "STARTING", [INDICATOR_AVAILABLE] = "AVAILABLE", [INDICATOR_OUTAGE] = "OUTAGE",
		[INDICATOR_LOCKED] = "LOCKED",     [INDICATOR_ALARM] = "ALARM",         [INDICATOR_STOPPED] = "STOPPED",
	};

	return names[state];
}

static void destroy(struct indicator *i)
{
	pthread_cond_destroy(&i->more);
	pthread_mutex_destroy(&i->lock);
	close(i->fd);
	free(i);
}

static void *run(void *context)
{
	struct indicator *i = context;
	char text[TEXT_BYTES];
	bool left;

	pthread_mutex_lock(&i->lock);
	while (i->waiting || !i->closing) {
		enum indicator_state state = i->state;

		if (!i->waiting) {
			pthread_cond_wait(&i->more, &i->lock);
			continue;
		}
		i->waiting = false;
		memcpy(text, i->text, sizeof text);
		pthread_mutex_unlock(&i->lock);
		i->kind->show(i->fd, state, text);
		pthread_mutex_lock(&i->lock);
	}
	i->ended = true;
	left = i->left;
	pthread_mutex_unlock(&i->lock);
	if (left)
		destroy(i);
	return NULL;
}

static int start_thread(struct indicator *i)
{
	pthread_mutex_init(&i->lock, NULL);
	pthread_cond_init(&i->more, NULL);
	return thread_start(&i->thread, run, i) == 0 ? 0 : ERR_NOMEM;
}

int indicator_open(struct indicator **out, const char *where, char *why, size_t why_size)
{
	const char *place;
	const struct indicator_kind *kind = kind_of(where, &place);
	struct indicator *i;
	int r;

	*out = NULL;
	if (kind == NULL) {
		snprintf(why, why_size, "it is not led:NAME or console:/dev/NAME; write one of these");
		return ERR_CONFIG;
	}
	i = calloc(1, sizeof *i);
	if (i == NULL) {
		snprintf(why, why_size, "%s", error_text(ERR_NOMEM));
		return ERR_NOMEM;
	}
	i->kind = kind;
	i->fd = -1;
	r = kind->open(&i->fd, place, why, why_size);
	if (r == 0) {
		r = start_thread(i);
		if (r != 0)
			snprintf(why, why_size, "its thread cannot be started");
	}
	if (r == 0) {
		*out = i;
		return 0;
	}
	if (i->fd >= 0)
		close(i->fd);
	free(i);
	return r;
}

void indicator_show(struct indicator *i, enum indicator_state state, const char *text)
{
	pthread_mutex_lock(&i->lock);
	i->state = state;
	log_printable(i->text, sizeof i->text, text);
	i->waiting = true;
	pthread_cond_signal(&i->more);
	pthread_mutex_unlock(&i->lock);
}

/* Leaves the thread behind. True: it had ended meanwhile, and what it used is the caller's. */
static bool leave(struct indicator *i)
{
	bool ended;

	pthread_detach(i->thread);
	pthread_mutex_lock(&i->lock);
	i->left = true;
	ended = i->ended;
	pthread_mutex_unlock(&i->lock);
	return ended;
}

void indicator_close(struct indicator *i)
{
	pthread_mutex_lock(&i->lock);
	i->closing = true;
	pthread_cond_signal(&i->more);
	pthread_mutex_unlock(&i->lock);
	if (thread_joined_within(i->thread, CLOSE_MS) || leave(i))
		destroy(i);
}
