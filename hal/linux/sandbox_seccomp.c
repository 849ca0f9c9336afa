/* Installs a filter that was exported at build time (generated/sandbox_filters.h), for all threads at once. */
#include <hal/sandbox.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "sandbox_filters.h"

/* The kernel reads the instructions; its struct only forgot to say const. */
#define FILTER(name)                                                                                                             \
	{                                                                                                                        \
		.len = sizeof filter_##name / sizeof filter_##name[0], .filter = (struct sock_filter *)filter_##name             \
	}

struct profile {
	struct sock_fprog program;
	unsigned flags;
};

/* The kernel logs what a filter refuses, except in mgmt, where libcoap's netlink socket would say it every 30 seconds. A kill is
 * always logged. */
static const struct profile profiles[] = {
	[SANDBOX_SUPERVISOR] = { FILTER(supervisor), SECCOMP_FILTER_FLAG_LOG },
	[SANDBOX_DATAPLANE] = { FILTER(dataplane), SECCOMP_FILTER_FLAG_LOG },
	[SANDBOX_SERVE] = { FILTER(serve), SECCOMP_FILTER_FLAG_LOG },
	[SANDBOX_BROKER] = { FILTER(broker), SECCOMP_FILTER_FLAG_LOG },
	[SANDBOX_MGMT] = { FILTER(mgmt), 0 },
	[SANDBOX_TPM] = { FILTER(tpm), SECCOMP_FILTER_FLAG_LOG },
	[SANDBOX_HSM] = { FILTER(hsm), SECCOMP_FILTER_FLAG_LOG },
};

int sandbox_enter(enum sandbox_profile profile)
{
	const struct profile *p = &profiles[profile];
	long r;

	r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->flags | SECCOMP_FILTER_FLAG_TSYNC, &p->program);
	if (r == 0)
		return 0;
	/* Above 0: a thread that has another filter already. */
	log_error(
		"sandbox: the filter was not taken (%s): the kernel needs CONFIG_SECCOMP_FILTER, and sandbox_harden comes first",
		r > 0 ? "a thread has its own" : strerror(errno));
	return ERR_UNSUPPORTED;
}

const char *sandbox_kind(void)
{
	return "seccomp";
}
