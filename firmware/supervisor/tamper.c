/* See tamper.h. A line without a descriptor to wait for is looked at every LOOK_MS. */
#include "tamper.h"

#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "creation.h"
#include "hal/tamper.h"
#include "volume.h"

enum { LOOK_MS = 20, AGAIN_MS = 1000 };

struct tamper_line {
	struct agent *agent;
	struct tamper *line;
	struct watch watch;
	struct timer look;
	bool active;
};

static bool knows(const struct volume *v)
{
	return v->gate.latched && v->gate.latch_cause == CAUSE_TAMPER;
}

/* A latch that an officer lifted while the line is still active comes back. */
static void lock_all(struct agent *a)
{
	for (unsigned i = 0; i < a->volume_count; i++)
		if (!knows(a->volumes[i]))
			volume_feed(a->volumes[i], EV_TAMPER, CAUSE_NONE, "tamper", "the tamper line is active");
	creation_latch(a, "", CAUSE_TAMPER);
}

static void look(void *context)
{
	struct tamper_line *t = context;
	bool active = tamper_active(t->line);

	if (active)
		lock_all(t->agent);
	if (active != t->active)
		log_warning("tamper line %s: %s", t->agent->config.tamper,
			    active ? "ACTIVE: every volume is locked" : "quiet again");
	t->active = active;
	timer_arm(&t->agent->loop, &t->look, boot_now() + (tamper_fd(t->line) >= 0 ? AGAIN_MS : LOOK_MS) * MS_NS);
}

int tamper_start(struct agent *a)
{
	struct tamper_line *t;
	char why[160] = "";
	int r;

	if (a->config.tamper[0] == '\0')
		return 0;
	t = calloc(1, sizeof *t);
	if (t == NULL)
		return ERR_NOMEM;
	t->agent = a;
	t->watch.fd = -1;
	timer_init(&t->look, look, t);
	r = tamper_open(&t->line, a->config.tamper, why, sizeof why);
	if (r == 0 && tamper_fd(t->line) >= 0)
		r = loop_watch(&a->loop, &t->watch, tamper_fd(t->line), look, t);
	if (r != 0) {
		log_error("[tamper] source = %s: %s", a->config.tamper, why[0] != '\0' ? why : error_text(r));
		if (t->line != NULL)
			tamper_close(t->line);
		free(t);
		return r;
	}
	a->tamper = t;
	look(t);
	return 0;
}

void tamper_stop(struct agent *a)
{
	struct tamper_line *t = a->tamper;

	if (t == NULL)
		return;
	a->tamper = NULL;
	timer_disarm(&a->loop, &t->look);
	loop_unwatch(&a->loop, &t->watch);
	tamper_close(t->line);
	free(t);
}
