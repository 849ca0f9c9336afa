/* Proves one KEK, again and again, and tells its volumes. What must hold: while a volume hangs on it, it is probed every
 * interval, every n-th time in a fresh process, and each verdict reaches every one of its volumes. */
#ifndef FALLGATE_SUPERVISOR_PROBER_H
#define FALLGATE_SUPERVISOR_PROBER_H

#include <stdbool.h>
#include <stdint.h>

struct agent;
struct kek;
struct prober;

int prober_create(struct prober **out, struct agent *a, struct kek *k); /* 0 or ERR_NOMEM */
void prober_destroy(struct prober *p);                                  /* its processes are killed */
struct prober *prober_find(struct agent *a, const char *kek);

/* A volume hangs on its KEK, or no longer does. The first starts it, an interval after the last good proof. */
void prober_use(struct prober *p);
void prober_release(struct prober *p);
bool prober_busy(const struct prober *p); /* a process of it is alive: nobody uses it any more, and it is logging out */

/* Reap the long-lived process, probe in a fresh one, now. */
void prober_fresh(struct prober *p);

/* How long until it is asked again, after so many failures in a row: an HSM that is down after 1 1/4 to 1 3/4 intervals, by
 * chance. Two intervals after it is back it has been asked; and the appliances of a site do not ask in step. */
uint64_t prober_backoff(uint64_t interval_ns, unsigned failures, uint16_t chance);

#endif
