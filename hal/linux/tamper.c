/* Chooses the kind of a tamper line by the word before the colon. */
#include "tamper_kind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

static const struct tamper_kind *const kinds[] = { &tamper_file, &tamper_fifo, &tamper_gpio };

static const struct tamper_kind *kind_of(const char *source, const char **place)
{
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		size_t length = strlen(kinds[i]->name);

		if (strncmp(source, kinds[i]->name, length) == 0 && source[length] == ':') {
			*place = source + length + 1;
			return kinds[i]->good(*place) ? kinds[i] : NULL;
		}
	}
	return NULL;
}

bool tamper_path_good(const char *place)
{
	return place[0] == '/' && strlen(place) < TAMPER_PATH_BYTES;
}

bool tamper_source_good(const char *source)
{
	const char *place;

	return kind_of(source, &place) != NULL;
}

int tamper_open(struct tamper **out, const char *source, char *why, size_t why_size)
{
	const char *place;
	const struct tamper_kind *kind = kind_of(source, &place);
	struct tamper *t;
	int r;

	*out = NULL;
	if (kind == NULL) {
		snprintf(why, why_size, "it is not file:/path, fifo:/path or gpio:/dev/gpiochipN:LINE[:low]; write one of these");
		return ERR_CONFIG;
	}
	t = calloc(1, sizeof *t);
	if (t == NULL)
		return ERR_NOMEM;
	t->kind = kind;
	t->fd = -1;
	r = kind->open(t, place, why, why_size);
	if (r == 0)
		*out = t;
	else
		tamper_close(t);
	return r;
}

int tamper_fd(const struct tamper *t)
{
	return t->kind->watched ? t->fd : -1;
}

bool tamper_active(struct tamper *t)
{
	return t->kind->active(t);
}

void tamper_close(struct tamper *t)
{
	if (t->fd >= 0)
		close(t->fd);
	free(t);
}
