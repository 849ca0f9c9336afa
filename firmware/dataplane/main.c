/* fallgate-dataplane: the front door of the one-shots. The serving dataplane is nbdkit with fallgate-nbd.so (nbd_plugin.c). */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "control.h"
#include "create.h"
#include "hal/sandbox.h"
#include "offline.h"

enum { CHANNEL_FD = 3 };

static const char help[] = "usage: fallgate-dataplane create | offline\n"
			   "       fallgate-dataplane --help | --version\n"
			   "\n"
			   "Makes one volume, or does one job on a volume that nobody serves, by order of the Fallgate agent, which starts it\n"
			   "with its channel as descriptor 3. To create a volume, use `fallgate create`; for jobs, `fallgate volume`.\n";

static void block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
}

int main(int argc, char **argv)
{
	bool create, offline;

	log_open("fallgate-dataplane", LOG_LEVEL_INFO);
	if (sandbox_harden() != 0)
		fatal("the process could not be hardened");
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return printf("fallgate-dataplane %s\n", FALLGATE_VERSION) > 0 ? 0 : 1;
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return fputs(help, stdout) >= 0 ? 0 : 1;
	create = argc == 2 && strcmp(argv[1], "create") == 0;
	offline = argc == 2 && strcmp(argv[1], "offline") == 0;
	if (!create && !offline) {
		fputs(help, stderr);
		return error_exit_code(ERR_USAGE);
	}
	if (!control_fd_good(CHANNEL_FD)) {
		log_error("started outside the agent; use `fallgate %s`", create ? "create" : "volume");
		return error_exit_code(ERR_USAGE);
	}
	block_signals();
	return create ? create_run(CHANNEL_FD) : offline_run(CHANNEL_FD);
}
