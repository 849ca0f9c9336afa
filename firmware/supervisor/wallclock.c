/* See wallclock.h. */
#include "wallclock.h"

#include <stdio.h>
#include <stdlib.h>

#include "agent.h"
#include "base/log.h"
#include "prober.h"
#include "volume.h"

#define LOOK_NS SEC_NS
#define KEEP_NS (600 * SEC_NS)
#define JUMP_NS (5 * (int64_t)SEC_NS)
#define BEHIND_NS                                                                                                                \
	(5 * 60 * SEC_NS) /* what a clock may be set back without being doubted: a drift, a leap, a slow start of NTP            \
			   */

enum wall_verdict wallclock_judge(struct wallclock *w, uint64_t wall_ns, uint64_t boot_ns)
{
	int64_t offset = (int64_t)(wall_ns - boot_ns), moved = offset - w->offset_ns;

	w->offset_ns = offset;
	if (wall_ns + BEHIND_NS < w->last_seen_ns)
		return WALL_UNTRUSTED;
	if (wall_ns > w->last_seen_ns)
		w->last_seen_ns = wall_ns;
	return moved > JUMP_NS || moved < -JUMP_NS ? WALL_JUMPED : WALL_STEADY;
}

static void tell_volumes(struct wallclock *w, enum gate_event event)
{
	for (unsigned i = 0; i < w->agent->volume_count; i++)
		volume_feed(w->agent->volumes[i], event, CAUSE_NONE, NULL,
			    event == EV_CLOCK_UNTRUSTED && w->agent->volumes[i]->kek_used
				    ? "the wall clock is behind the last time this agent ran"
				    : NULL);
}

static void remember(struct wallclock *w)
{
	w->kept_at_ns = boot_now();
	writer_clock(w->agent->writer, w->last_seen_ns);
}

static void lose_trust(struct wallclock *w)
{
	if (!w->untrusted)
		log_error(
			"the wall clock is behind the last time this agent ran: volumes are locked until it is set right, or an "
			"officer restores one");
	w->untrusted = true;
}

static void look(void *context)
{
	struct wallclock *w = context;
	enum wall_verdict v = wallclock_judge(w, wall_now(), boot_now());

	timer_arm(&w->agent->loop, &w->look, boot_now() + LOOK_NS);
	/* what was seen is on the disk before a line of the ledger that says an earlier time */
	if ((v != WALL_STEADY && !w->untrusted) || boot_now() - w->kept_at_ns > KEEP_NS)
		remember(w);
	if (v == WALL_UNTRUSTED) {
		lose_trust(w);
		tell_volumes(w, EV_CLOCK_UNTRUSTED); /* again each second: a volume may have been attached since */
		return;
	}
	if (w->untrusted) {
		log_notice("the wall clock is believed again");
		w->untrusted = false;
		tell_volumes(w, EV_CLOCK_TRUSTED);
	}
	if (v == WALL_JUMPED) {
		log_notice("the wall clock jumped: every KEK is proven afresh");
		for (unsigned i = 0; i < w->agent->kek_count; i++)
			prober_fresh(w->agent->probers[i]);
	}
}

void wallclock_trust(struct wallclock *w, const char *identity)
{
	struct ledger_entry e = { .wall_ns = wall_now(), .boot_ns = boot_now() };

	log_notice("the wall clock is believed as it is, by %s", identity);
	snprintf(e.event, sizeof e.event, "clock-restored");
	snprintf(e.identity, sizeof e.identity, "%s", identity);
	snprintf(e.text, sizeof e.text, "the last time that was seen is forgotten");
	w->last_seen_ns = wall_now();
	w->untrusted = false;
	remember(w);
	writer_ledger(w->agent->writer, &e);
	tell_volumes(w, EV_CLOCK_TRUSTED);
}

void wallclock_start(struct wallclock *w, struct agent *a)
{
	uint64_t kept = records_read_clock(&a->records), line = a->ledger.last_wall_ns;

	*w = (struct wallclock){ .agent = a,
				 .last_seen_ns = kept > line ? kept : line,
				 .offset_ns = (int64_t)(wall_now() - boot_now()) };
	a->wallclock = w;
	timer_init(&w->look, look, w);
	timer_arm(&a->loop, &w->look, 0);
	if (wallclock_judge(w, wall_now(), boot_now()) == WALL_UNTRUSTED)
		lose_trust(w);
	remember(w);
}
