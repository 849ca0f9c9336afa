/* See watchdog.h. */
#include "watchdog.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/watchdog.h"
#include "volume.h"

enum {
	FEEDS_IN_TIMEOUT = 5,
	WRITER_SILENT_S = 60, /* longer than a disk's own patience with itself */
	RESETS_MAX = 5,
	IN_A_ROW_S = 600 /* a start that lasted longer begins the count anew */
};

static const char usual_device[] = "/dev/watchdog0";

struct watchdog_feeder {
	struct agent *agent;
	struct watchdog *device; /* NULL: none is armed */
	struct timer feed;
	uint64_t rounds;     /* of the loop, at the last feed */
	bool withheld, lost; /* said once */
	char why_none[200];
};

/* ---- what it did to the last start ---- */

static void read_boot_id(char out[static BOOT_ID_BYTES])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, out, BOOT_ID_BYTES - 1) : -1;

	if (fd >= 0)
		close(fd);
	out[n > 0 ? n : 0] = '\0';
	out[strcspn(out, "\n")] = '\0';
}

static void audit_restart(struct agent *a, uint32_t resets)
{
	struct ledger_entry e = { .wall_ns = wall_now(), .boot_ns = boot_now() };

	log_warning("the watchdog restarted the machine: the agent had stopped going round (%u in a row)", resets);
	snprintf(e.event, sizeof e.event, "watchdog-restart");
	snprintf(e.text, sizeof e.text, "the agent had stopped going round; %u in a row", resets);
	writer_ledger(a->writer, &e);
}

/* How many starts in a row it has brought about, this one included; counted once a boot. */
static uint32_t count_restarts(struct agent *a, const struct watchdog_facts *facts)
{
	struct watchdog_record before, now = { .armed_wall_ns = wall_now() };
	bool known = records_read_watchdog(&a->records, &before) == 0;

	read_boot_id(now.boot_id);
	if (known && strcmp(before.boot_id, now.boot_id) == 0)
		return before.resets;
	if (facts->caused_start) {
		bool soon = known && now.armed_wall_ns < before.armed_wall_ns + IN_A_ROW_S * SEC_NS;

		now.resets = soon ? before.resets + 1 : 1;
		audit_restart(a, now.resets);
	}
	records_write_watchdog(&a->records, &now);
	return now.resets;
}

/* ---- feeding ---- */

static const struct volume *unwiped(const struct agent *a)
{
	for (unsigned i = 0; i < a->volume_count; i++) {
		const struct volume *v = a->volumes[i];
		bool wiped = v->dataplane.stage == STAGE_WIPED || v->dataplane.stage == STAGE_DRAINED;

		if (v->gate.state == GATE_WIPE_UNCONFIRMED && v->dataplane.alive && !wiped)
			return v;
	}
	return NULL;
}

static bool may_feed(struct watchdog_feeder *f, char *why, size_t size)
{
	const struct volume *v = unwiped(f->agent);

	if (f->agent->loop.rounds == f->rounds)
		snprintf(why, size, "the loop does not go round");
	else if (writer_silent_ns(f->agent->writer) > WRITER_SILENT_S * SEC_NS)
		snprintf(why, size, "the state directory's disk has not answered for %d s", WRITER_SILENT_S);
	else if (v != NULL)
		snprintf(why, size, "volume %s: its data plane is killed and not gone, keys may be in RAM", v->config.name);
	else
		return true;
	return false;
}

static void give(struct watchdog_feeder *f)
{
	bool fed = watchdog_feed(f->device) == 0;

	if (!fed && !f->lost)
		log_error("watchdog: it does not take its food; if it is still there the machine restarts in %u s",
			  watchdog_facts(f->device)->timeout_s);
	f->lost = !fed;
	f->rounds = f->agent->loop.rounds;
}

static void feed(void *context)
{
	struct watchdog_feeder *f = context;
	unsigned timeout_s = watchdog_facts(f->device)->timeout_s;
	char why[160];
	bool may = may_feed(f, why, sizeof why);

	timer_arm(&f->agent->loop, &f->feed, boot_now() + timeout_s * SEC_NS / FEEDS_IN_TIMEOUT);
	if (may)
		give(f);
	else if (!f->withheld)
		log_error("watchdog: not fed: %s; the machine restarts in %u s", why, timeout_s);
	f->withheld = !may;
}

/* ---- start and end ---- */

static void begin(struct watchdog_feeder *f)
{
	const struct watchdog_facts *facts = watchdog_facts(f->device);

	log_notice("watchdog: %s, restarts the machine if the agent hangs for %u s%s%s", facts->identity, facts->timeout_s,
		   facts->outlives ? "" : "; the agent's death stops it", facts->nowayout ? "; nothing stops it any more" : "");
	f->rounds = f->agent->loop.rounds;
	timer_arm(&f->agent->loop, &f->feed, boot_now() + facts->timeout_s * SEC_NS / FEEDS_IN_TIMEOUT);
}

static void leave_alone(struct watchdog_feeder *f, uint32_t resets)
{
	snprintf(f->why_none, sizeof f->why_none,
		 "it restarted the machine %u times in a row and is left alone until the next start", resets);
	log_error("watchdog: %s; see the ledger and the log", f->why_none);
	if (!watchdog_stop(f->device))
		log_error("watchdog: it cannot be stopped: the machine restarts once more");
	f->device = NULL;
}

static int open_device(struct watchdog_feeder *f)
{
	const struct config *c = &f->agent->config;
	bool any = strcmp(c->watchdog, "auto") == 0;
	uint32_t resets;
	int r = watchdog_open(&f->device, any ? usual_device : c->watchdog, (unsigned)(c->watchdog_timeout_ns / SEC_NS),
			      f->why_none, sizeof f->why_none);

	if (r != 0) {
		log_line(any ? LOG_LEVEL_WARNING : LOG_LEVEL_ERROR, "watchdog: %s", f->why_none);
		return any ? 0 : r;
	}
	resets = count_restarts(f->agent, watchdog_facts(f->device));
	if (resets >= RESETS_MAX && watchdog_facts(f->device)->caused_start && !watchdog_facts(f->device)->nowayout)
		leave_alone(f, resets);
	else
		begin(f);
	return 0;
}

int watchdog_start(struct agent *a)
{
	struct watchdog_feeder *f;
	int r;

	if (strcmp(a->config.watchdog, "none") == 0)
		return 0;
	f = calloc(1, sizeof *f);
	if (f == NULL)
		return ERR_NOMEM;
	f->agent = a;
	timer_init(&f->feed, feed, f);
	r = open_device(f);
	if (r != 0) {
		free(f);
		return r;
	}
	a->watchdog = f;
	return 0;
}

void watchdog_end(struct agent *a)
{
	struct watchdog_feeder *f = a->watchdog;

	if (f == NULL)
		return;
	a->watchdog = NULL;
	timer_disarm(&a->loop, &f->feed);
	if (f->device != NULL && !watchdog_stop(f->device))
		log_warning("watchdog: it cannot be stopped: the machine restarts unless the agent is back in time");
	free(f);
}

bool watchdog_posture(const struct agent *a, char *text, size_t size)
{
	const struct watchdog_feeder *f = a->watchdog;
	const struct watchdog_facts *facts;

	text[0] = '\0';
	if (f == NULL)
		return true;
	if (f->device == NULL) {
		snprintf(text, size, "no watchdog: %s", f->why_none);
		return false;
	}
	facts = watchdog_facts(f->device);
	snprintf(text, size, "watchdog: %s, %u s%s", facts->identity, facts->timeout_s,
		 f->lost            ? ", does not take its food"
		 : f->withheld      ? ", not fed"
		 : !facts->outlives ? ", stops if the agent dies"
				    : "");
	return facts->outlives && !f->lost && !f->withheld;
}
