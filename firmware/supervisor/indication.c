/* See indication.h. */
#include "indication.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "base/log.h"
#include "hal/indicator.h"
#include "volume.h"

struct indication {
	struct indicator *indicator;
	enum indicator_state state;
	char text[64];
};

static const enum indicator_state shown[GATE_STATE_COUNT] = {
	[GATE_LOCKED] = INDICATOR_LOCKED,          [GATE_UNLOCKING] = INDICATOR_LOCKED,    [GATE_AVAILABLE] = INDICATOR_AVAILABLE,
	[GATE_SUSPECT] = INDICATOR_OUTAGE,         [GATE_OUTAGE] = INDICATOR_OUTAGE,       [GATE_LOCKING] = INDICATOR_LOCKED,
	[GATE_WIPE_UNCONFIRMED] = INDICATOR_ALARM, [GATE_INACCESSIBLE] = INDICATOR_LOCKED, [GATE_PURGED] = INDICATOR_LOCKED,
	[GATE_ERASED] = INDICATOR_LOCKED,          [GATE_FAULT] = INDICATOR_ALARM,
};

static enum indicator_state state_of(const struct gate *g)
{
	bool alarm = g->latched && (g->latch_cause == CAUSE_TAMPER || g->latch_cause == CAUSE_INTEGRITY);

	return alarm ? INDICATOR_ALARM : shown[g->state];
}

/* A volume that an operator took away is nobody's trouble, unless all are. */
static enum indicator_state worst(const struct agent *a, char *text, size_t size)
{
	enum indicator_state state = INDICATOR_STARTING;
	unsigned serve = 0;

	for (unsigned i = 0; i < a->volume_count; i++) {
		const struct gate *g = &a->volumes[i]->gate;
		enum indicator_state its = state_of(g);

		serve += gate_state_serves(g->state);
		if (its > state && (g->state != GATE_LOCKED || its == INDICATOR_ALARM))
			state = its;
	}
	snprintf(text, size, "%u of %u volumes open", serve, a->volume_count);
	return state == INDICATOR_STARTING ? INDICATOR_LOCKED : state;
}

static void show(struct indication *i, enum indicator_state state, const char *text)
{
	if (state == i->state && strcmp(text, i->text) == 0)
		return;
	i->state = state;
	snprintf(i->text, sizeof i->text, "%s", text);
	indicator_show(i->indicator, state, text);
}

void indication_update(struct agent *a)
{
	enum indicator_state state;
	char text[64];

	if (a->indication == NULL || a->stopping)
		return;
	state = worst(a, text, sizeof text);
	show(a->indication, state, text);
}

void indication_start(struct agent *a)
{
	struct indicator *indicator;
	char why[160];

	if (strcmp(a->config.indicator, "none") == 0)
		return;
	if (indicator_open(&indicator, a->config.indicator, why, sizeof why) != 0) {
		log_warning("indicator = %s: %s; nothing is shown", a->config.indicator, why);
		return;
	}
	a->indication = calloc(1, sizeof *a->indication);
	if (a->indication == NULL) {
		indicator_close(indicator);
		return;
	}
	a->indication->indicator = indicator;
	a->indication->state = INDICATOR_STATE_COUNT;
	show(a->indication, INDICATOR_STARTING, "");
}

void indication_stop(struct agent *a)
{
	struct indication *i = a->indication;

	if (i == NULL)
		return;
	a->indication = NULL;
	show(i, INDICATOR_STOPPED, "");
	indicator_close(i->indicator);
	free(i);
}
