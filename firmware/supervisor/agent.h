/* What the supervisor's parts share: the loop, the configuration, the records, and who else is there. No logic. */
#ifndef FALLGATE_SUPERVISOR_AGENT_H
#define FALLGATE_SUPERVISOR_AGENT_H

#include "config.h"
#include "ledger.h"
#include "loop.h"
#include "records.h"
#include "writer.h"

struct alerts;
struct broker;
struct console;
struct creation;
struct indication;
struct credentials;
struct kek;
struct management;
struct mgmt;
struct prober;
struct tamper_line;
struct tpm_state;
struct volume;
struct wallclock;
struct watchdog_feeder;

struct agent {
	struct loop loop;
	struct config config;
	struct records records;
	struct ledger ledger;
	struct writer *writer;
	struct kek *keks[CONFIG_KEKS_MAX];       /* one per [kek], in its order */
	struct prober *probers[CONFIG_KEKS_MAX]; /* of each of them */
	unsigned kek_count;
	struct volume *volumes[CONFIG_VOLUMES_MAX];
	unsigned volume_count;
	struct credentials *credentials;
	struct management *management;
	struct mgmt *mgmt; /* NULL: there is none */
	struct console *console;
	struct tamper_line *tamper;
	struct tpm_state *tpm; /* NULL: nothing was asked of it yet */
	struct alerts *alerts;
	struct watchdog_feeder *watchdog;
	struct indication *indication;
	struct broker *broker; /* of block devices; NULL: nobody asked for one yet */
	uint64_t sequence;     /* of alerts and of orders to lock, one count for both: which came first */
	struct wallclock *wallclock;
	struct creation *creation; /* the one that is under way, or NULL */
	uint64_t started_wall_ns;
	bool read_only; /* --check: nothing is written but what became of a PIN */
	bool stopping;
};

/* Orders to the whole agent. */
void agent_stop(struct agent *a);                             /* clean: every volume locked and drained, then the end */
void agent_revoke_all(struct agent *a, const char *identity); /* no HSM, no disk, no network needed */

#endif
