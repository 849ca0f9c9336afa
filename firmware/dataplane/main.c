/* fallgate-dataplane: the front door of the one-shots, and of the server of a block device in the kernel (serve.c). The server of
 * a volume over NBD is nbdkit with fallgate-nbd.so (nbd_plugin.c). */
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
#include "serve.h"

enum { CHANNEL_FD = 3 };

static const char help[] =
	"usage: fallgate-dataplane create | offline | serve name=NAME device=N queues=Q depth=D hold=yes|no\n"
	"       fallgate-dataplane --help | --version\n"
	"\n"
	"Makes one volume, does one job on a volume that nobody serves, or serves one as the block device /dev/ublkbN, by\n"
	"order of the Fallgate agent, which starts it with its channel as descriptor 3. To create a volume, use\n"
	"`fallgate create`; for jobs, `fallgate volume`; to serve it, `fallgate attach`.\n";

static void block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
}

int main(int argc, char **argv)
{
	bool create, offline, serve;

	log_open("fallgate-dataplane", LOG_LEVEL_INFO);
	if (sandbox_harden() != 0)
		fatal("the process could not be hardened");
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return printf("fallgate-dataplane %s\n", FALLGATE_VERSION) > 0 ? 0 : 1;
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return fputs(help, stdout) >= 0 ? 0 : 1;
	create = argc == 2 && strcmp(argv[1], "create") == 0;
	offline = argc == 2 && strcmp(argv[1], "offline") == 0;
	serve = argc > 2 && strcmp(argv[1], "serve") == 0;
	if (!create && !offline && !serve) {
		fputs(help, stderr);
		return error_exit_code(ERR_USAGE);
	}
	if (!control_fd_good(CHANNEL_FD)) {
		log_error("started outside the agent; use `fallgate %s`", create ? "create" : serve ? "attach" : "volume");
		return error_exit_code(ERR_USAGE);
	}
	block_signals();
	if (serve)
		return serve_run(CHANNEL_FD, argc - 2, argv + 2);
	return create ? create_run(CHANNEL_FD) : offline_run(CHANNEL_FD);
}
