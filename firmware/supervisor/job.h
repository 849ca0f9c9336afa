/* A job: what `fallgate volume` has done, with a key, to a volume that nobody serves. The client asks at the console and lends
 * its descriptors; a one-shot dataplane does the work. What must hold: no job on a volume that is attached or latched, and no
 * attach while there is one; the KEK is proven for it as for an attach, and goes on being proven; whatever would lock a volume
 * that serves, and the client's going away, ends it: the unwrapping hsm killed and reaped, the keys wiped within 60 ms or their
 * process killed; the client hears of the end when no process is left; each job has two lines in the ledger, its begin and its
 * end. */
#ifndef FALLGATE_SUPERVISOR_JOB_H
#define FALLGATE_SUPERVISOR_JOB_H

#include <sys/types.h>

#include "ipc/channel.h"
#include "permit.h"
#include "revocation/revocation.h"
#include "verdict.h"

struct agent;
struct job;
struct kek;
struct volume;

enum { JOBS_MAX = 8 }; /* each holds a console connection: the console must stay free for a revoke */

struct job_request {
	const struct msg_con_job *order;
	const char *identity;
	uint64_t nonce;
	int *fds; /* taken over, and set to -1, if the job begins */
	unsigned count;
	void *context; /* who is answered */
};

/* Exactly once, from the loop, unless forgotten. */
typedef void job_done(void *context, uint64_t nonce, const struct msg_con_job_done *d);

/* 0: under way, done comes later. Else the error, text says why. */
int job_begin(struct agent *a, const struct job_request *q, job_done *done, char text[static TEXT_MAX_BYTES]);

/* The client is gone: its job ends. keep: it only stopped talking and still wants its answer. */
void job_client_gone(struct agent *a, const void *context, bool keep);

/* For volumes: an event of the gate; a proof of the KEK; the volume's own end. */
void job_gate_event(struct volume *v, enum gate_event event);
void job_proof(struct volume *v, bool fresh, const struct judgement *j);
void job_destroy(struct volume *v);

/* Where its conversation with its process, or (session) with the one-shot hsm, stands; and who they are, 0: nobody. For tests. */
enum stage job_stage(const struct job *j, bool session);
void job_pids(const struct job *j, pid_t *hsm, pid_t *process);

/* A clause about the job on v, for who is refused because of it; false: there is none. */
bool job_on(const struct volume *v, char text[static TEXT_MAX_BYTES]);

#endif
