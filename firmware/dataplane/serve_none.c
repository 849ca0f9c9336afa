/* A build without ublk. */
#include "serve.h"

#include "base/error.h"
#include "base/log.h"

int serve_run(int channel_fd, int count, char **arguments)
{
	(void)channel_fd;
	(void)count;
	(void)arguments;
	log_error("this build serves no block devices of the kernel (CONFIG_DATAPLANE_UBLK); set export = nbd");
	return error_exit_code(ERR_UNSUPPORTED);
}
