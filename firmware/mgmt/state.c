/* A sorted array of volumes and a short table of requests. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* Where name stands, or would stand. */
static unsigned position(const struct state *s, const char *name)
{
	unsigned i = 0;

	while (i < s->count && strcmp(s->volumes[i]->name, name) < 0)
		i++;
	return i;
}

static bool stands_at(const struct state *s, unsigned i, const char *name)
{
	return i < s->count && strcmp(s->volumes[i]->name, name) == 0;
}

const struct msg_mg_volume *state_volume(const struct state *s, const char *name)
{
	unsigned i = position(s, name);

	return stands_at(s, i, name) ? s->volumes[i] : NULL;
}

int state_put_volume(struct state *s, const struct msg_mg_volume *v)
{
	unsigned i = position(s, v->name);
	struct msg_mg_volume *copy;

	if (stands_at(s, i, v->name)) {
		*s->volumes[i] = *v;
		return 0;
	}
	if (s->count == STATE_VOLUMES_MAX)
		return ERR_NOSPACE;
	copy = malloc(sizeof *copy);
	if (copy == NULL)
		return ERR_NOMEM;
	*copy = *v;
	memmove(&s->volumes[i + 1], &s->volumes[i], (s->count - i) * sizeof s->volumes[0]);
	s->volumes[i] = copy;
	s->count++;
	return 0;
}

void state_drop_volume(struct state *s, const char *name)
{
	unsigned i = position(s, name);

	if (!stands_at(s, i, name))
		return;
	free(s->volumes[i]);
	s->count--;
	memmove(&s->volumes[i], &s->volumes[i + 1], (s->count - i) * sizeof s->volumes[0]);
}

struct pending *state_pending_add(struct state *s)
{
	for (unsigned i = 0; i < STATE_PENDING_MAX; i++) {
		if (s->pending[i].id != 0)
			continue;
		memset(&s->pending[i], 0, sizeof s->pending[i]);
		s->pending[i].id = ++s->last_id;
		return &s->pending[i];
	}
	return NULL;
}

struct pending *state_pending_find(struct state *s, uint64_t id)
{
	for (unsigned i = 0; id != 0 && i < STATE_PENDING_MAX; i++)
		if (s->pending[i].id == id)
			return &s->pending[i];
	return NULL;
}

void state_pending_free(struct pending *p)
{
	memset(p, 0, sizeof *p);
}

void state_free(struct state *s)
{
	for (unsigned i = 0; i < s->count; i++)
		free(s->volumes[i]);
	memset(s, 0, sizeof *s);
}
