/* The start of a ublk server. What must hold: the device is opened and its rings are made before the walls come up, which is
 * before the supervisor's first message, and with it the first byte of the backing store, is read; memory is locked, and
 * allocations do not wait for I/O (PR_SET_IO_FLUSHER, which whoever started this process has set), because the kernel may be
 * waiting for this process to give it memory back. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "control.h"
#include "fault.h"
#include "hal/sandbox.h"
#include "hal/ublk.h"
#include "ipc/message.h"
#include "ublk_face.h"

enum { NUMBER_MAX = 1 << 20, PF_MEMALLOC_NOIO = 0x00080000 };

struct place {
	const char *name;
	long device, queues, depth;
	bool hold;
};

static const char *value_of(int count, char **arguments, const char *key)
{
	size_t n = strlen(key);

	for (int i = 0; i < count; i++)
		if (strncmp(arguments[i], key, n) == 0 && arguments[i][n] == '=')
			return arguments[i] + n + 1;
	return "";
}

static long number(const char *text, long low, long high)
{
	char *end;
	long n = strtol(text, &end, 10);

	return *text != '\0' && *end == '\0' && n >= low && n <= high ? n : -1;
}

static bool parse(struct place *p, int count, char **arguments)
{
	const char *hold = value_of(count, arguments, "hold");

	p->name = value_of(count, arguments, "name");
	p->device = number(value_of(count, arguments, "device"), 0, NUMBER_MAX);
	p->queues = number(value_of(count, arguments, "queues"), 1, UBLK_QUEUES);
	p->depth = number(value_of(count, arguments, "depth"), 1, UBLK_DEPTH);
	p->hold = strcmp(hold, "yes") == 0;
	return count == 5 && message_name_good(p->name) && p->device >= 0 && p->queues > 0 && p->depth > 0 &&
	       (p->hold || strcmp(hold, "no") == 0);
}

/* The kernel tells this only to who may set it; but what it does, a process's flags show. */
static bool may_wait_for_io(void)
{
	char text[512] = "", *at;
	unsigned long flags = 0;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;

	if (fd >= 0)
		close(fd);
	at = n > 0 ? strrchr(text, ')') : NULL; /* then: state ppid pgrp session tty tpgid flags */
	return at == NULL || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) != 1 || (flags & PF_MEMALLOC_NOIO) == 0;
}

/* Without a limit only: with one, an allocation could fail in the middle of a request. */
static bool lock_memory(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY &&
	       mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
}

static void guard_against_reclaim(void)
{
	if (may_wait_for_io())
		log_warning(
			"started without PR_SET_IO_FLUSHER: a machine short of memory may stand still; start the agent as root");
	if (!lock_memory())
		log_warning("memory could not be locked (LimitMEMLOCK=infinity): a machine short of memory may stand still");
}

static int begin(struct control **c, const struct place *p, int channel_fd)
{
	struct ublk_queue *queues[UBLK_QUEUES];
	struct ublk_face *face;
	int r = ublk_server_open(queues, (uint32_t)p->device, (unsigned)p->queues, (unsigned)p->depth);

	if (r == 0)
		r = control_create(c, channel_fd);
	if (r != 0)
		return r;
	fault_watch(*c);
	r = ublk_face_create(&face, *c, queues, (unsigned)p->queues, p->hold);
	if (r != 0)
		return r;
	/* of a server without rights the kernel reads no partition table while it makes the device, when nobody could give up */
	if (sandbox_keep_no_rights() != 0 || sandbox_enter(SANDBOX_SERVE) != 0)
		fatal("the sandbox could not be entered");
	control_on_attach(*c, ublk_face_fetch, face);
	return control_start(*c);
}

int serve_run(int channel_fd, int count, char **arguments)
{
	static char program[64];
	struct control *c;
	struct place p;
	int r;

	if (!parse(&p, count, arguments)) {
		log_error("serve: name=NAME device=N queues=1..%d depth=1..%d hold=yes|no", UBLK_QUEUES, UBLK_DEPTH);
		return error_exit_code(ERR_USAGE);
	}
	snprintf(program, sizeof program, "fallgate-dataplane %s", p.name);
	log_open(program, LOG_LEVEL_INFO);
	guard_against_reclaim();
	r = begin(&c, &p, channel_fd);
	if (r != 0)
		return error_exit_code(r);
	for (;;)
		control_wait_ready(c); /* once; after that, for the end of the process */
}
