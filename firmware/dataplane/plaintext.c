/* Request buffers, each wiped by the thread that holds it. What must hold is said in plaintext.h. */
#include "plaintext.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "hal/secret_memory.h"

enum { FIRST_OWN_FD = 3, FDS_SEARCHED_MAX = 16384 };

/* One buffer a thread, as the server has it: state of the thread, there is no other place that dies with it. */
static _Thread_local struct {
	uint8_t *data;
	size_t used;
} last_read;

void plaintext_enter(void)
{
	if (last_read.used > 0)
		secret_wipe(last_read.data, last_read.used);
	last_read.used = 0;
}

/* The buffer is at another place only after it grew; what was noted is then gone, and was zeroed. */
static void wipe_behind(uint8_t *buf, size_t size)
{
	if (last_read.data == buf && last_read.used > size)
		secret_wipe(buf + size, last_read.used - size);
	last_read.data = buf;
	last_read.used = 0;
}

void plaintext_reading(void *buf, size_t size)
{
	wipe_behind(buf, size);
	last_read.used = size;
}

void plaintext_writing(void *buf, size_t size)
{
	wipe_behind(buf, size);
}

void plaintext_done(void *buf, size_t size)
{
	secret_wipe(buf, size);
	last_read.used = 0;
}

static int socket_option(int fd, int option)
{
	int value;
	socklen_t size = sizeof value;

	return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

static bool is_client(int fd)
{
	return socket_option(fd, SO_TYPE) == SOCK_STREAM && socket_option(fd, SO_ACCEPTCONN) == 0;
}

void plaintext_cut_clients(void)
{
	struct rlimit limit = { .rlim_cur = FDS_SEARCHED_MAX };
	int end = FDS_SEARCHED_MAX;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < FDS_SEARCHED_MAX)
		end = (int)limit.rlim_cur;
	/* Standard error may be a stream to the journal: it is not a client. */
	for (int fd = FIRST_OWN_FD; fd < end; fd++)
		if (is_client(fd))
			shutdown(fd, SHUT_RD);
}
