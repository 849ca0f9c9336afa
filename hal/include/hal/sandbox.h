/* Walls around a process: no new privileges, not dumpable, no cores, a seccomp filter that was exported as data at build time.
 * Call sandbox_harden first thing in main, before a byte from outside is read, and sandbox_enter once everything that needs
 * more is open. A build with sanitizers has the same calls and no filter, and says so in the posture (sandbox_none.c). */
#ifndef HAL_SANDBOX_H
#define HAL_SANDBOX_H

#include <stdbool.h>
#include <sys/types.h>

enum sandbox_profile {
	SANDBOX_SUPERVISOR, /* allow-list; may fork and exec */
	SANDBOX_DATAPLANE,  /* allow-list; threads, I/O on open descriptors, accept; no open, no exec, no new sockets */
	SANDBOX_MGMT,       /* allow-list; datagrams; no file system, no exec */
	SANDBOX_SERVE,      /* as the dataplane's, and io_uring_enter on rings that were made, and restricted, before */
	SANDBOX_BROKER,     /* allow-list; likewise, and what gives a device's node away and sets its queue */
	SANDBOX_HSM, /* deny-list: a vendor's module needs what it needs; no ptrace, mount, kexec, bpf, module loading ... */
	SANDBOX_TPM, /* allow-list; I/O on open descriptors, secret memory */
};

/* PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE 0, RLIMIT_CORE 0. 0 or ERR_UNSUPPORTED. */
int sandbox_harden(void);

/* Installs the filter for all threads (TSYNC). 0, or ERR_UNSUPPORTED, which callers treat as fatal. */
int sandbox_enter(enum sandbox_profile profile);

/* Keeps what the broker of block devices needs (CAP_SYS_ADMIN, CAP_CHOWN) and gives up every other capability for good. 0, or
 * ERR_DENIED: they are not there. */
int sandbox_keep_broker_rights(void);

/* Gives up every capability, whoever's user this is. 0 or ERR_DENIED. */
int sandbox_keep_no_rights(void);

/* From now on this thread, and what it starts, opens no file but those beneath `folder`, and these for writing only (Landlock).
 * 0, or ERR_UNSUPPORTED where the kernel has none. Before sandbox_enter. */
int sandbox_write_only_beneath(const char *folder);

/* Drops to uid and gid, no supplementary groups, irrevocably, checked. 0 or ERR_DENIED. */
int sandbox_drop_to(uid_t uid, gid_t gid);

/* "seccomp" or "none" (a build with sanitizers). For the posture. */
const char *sandbox_kind(void);

#endif
