/* The verbs of `fallgate volume` that need a key. No key comes here: the running agent does the work as a job, this asks for it
 * over the console and hands on what the job's process says. What must hold: that process is not trusted: what it says reaches
 * the caller as checked numbers and printable text only; when this returns, the job is over, or the agent is gone and its
 * processes with it. */
#ifndef FALLGATE_VOLUME_JOB_H
#define FALLGATE_VOLUME_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/message.h"
#include "volume/offline.h"

struct volume_job {
	const char *run_dir; /* the agent's */
	const char *volume;
	enum job_verb verb;
	bool accept_loss, repair;
	uint64_t dump_at;                /* as in offline_options */
	int output_fd, map_fd, input_fd; /* likewise; -1: none; stay the caller's */
};

/* As volume_offline, and to the same sink, from the calling thread. SIGINT, SIGTERM and SIGHUP end the job, then this returns
 * ERR_STATE; a second one does not wait for the agent. Besides volume_offline's errors: ERR_USAGE, ERR_DENIED, ERR_TIMEOUT (no
 * agent), ERR_BUSY (another job), ERR_STATE (attached, or stopped), ERR_REVOKED (latched), ERR_REFUSED, ERR_UNREACHABLE (the
 * HSM), ERR_PROTOCOL. why: one clear line, always terminated. */
int volume_job_run(const struct volume_job *job, const struct offline_sink *sink, struct offline_result *result, char *why,
		   size_t why_size);

#endif
