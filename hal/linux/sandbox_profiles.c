/* Who may make which system call. What must hold: a process that handles keys or the network gets no new files, sockets, programs
 * or executable memory; a filter stays over everything that the process starts, so the supervisor's must allow whatever its
 * children need, a vendor's PKCS#11 module among them, and never answers by killing. */
#include "sandbox_profiles.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/blkzoned.h>
#include <linux/cdrom.h>
#include <linux/fd.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <termios.h>

#define ALLOW         SCMP_ACT_ALLOW
#define REFUSE(e)     SCMP_ACT_ERRNO(e)
#define WHEN(i, v)    .with_arg = true, .arg = { .arg = (i), .op = SCMP_CMP_EQ, .datum_a = (v) }
#define BITS(i, m, v) .with_arg = true, .arg = { .arg = (i), .op = SCMP_CMP_MASKED_EQ, .datum_a = (m), .datum_b = (v) }
#define GROUP(rules)                                                                                                             \
	{                                                                                                                        \
		(rules), sizeof(rules) / sizeof((rules)[0])                                                                      \
	}

enum {
	NEW_NAMESPACES =
		CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET,
};

/* clang-format off */

/* What libc and any event loop needs on what is already open. */
static const struct sandbox_rule plain[] = {
	{ "read readv write writev close close_range lseek dup dup2 dup3 fcntl pipe2", ALLOW },
	{ "poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait ?epoll_pwait2", ALLOW },
	{ "eventfd2 signalfd4 timerfd_create timerfd_settime timerfd_gettime", ALLOW },
	{ "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times restart_syscall", ALLOW },
	{ "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack", ALLOW },
	{ "getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid", ALLOW },
	{ "getrusage getrlimit prlimit64 sysinfo uname getcpu getrandom", ALLOW },
	{ "futex ?futex_waitv set_robust_list get_robust_list rseq membarrier sched_yield sched_getaffinity", ALLOW },
	{ "sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getpriority", ALLOW },
	{ "brk munmap mremap madvise mincore msync", ALLOW },
	{ "mmap mprotect", ALLOW, BITS(2, PROT_EXEC, 0) },
	{ "fstat newfstatat statx fstatfs", ALLOW },
	{ "exit exit_group tgkill arch_prctl set_tid_address", ALLOW },
	{ "recvmsg recvfrom recvmmsg sendmsg sendto sendmmsg shutdown getsockname getpeername getsockopt setsockopt", ALLOW },
	{ "prctl", ALLOW, WHEN(0, PR_SET_NAME) },
	{ "prctl", ALLOW, WHEN(0, PR_GET_NAME) },
	{ "prctl", ALLOW, WHEN(0, PR_GET_DUMPABLE) },
	{ "prctl", ALLOW, WHEN(0, PR_GET_NO_NEW_PRIVS) },
	{ "prctl", ALLOW, WHEN(0, PR_SET_PDEATHSIG) },
	{ "prctl", REFUSE(EINVAL), WHEN(0, 0x53564d41) }, /* PR_SET_VMA: a name for a mapping, from malloc */
	{ "ioctl", ALLOW, WHEN(1, FIONREAD) },
	{ "ioctl", ALLOW, WHEN(1, FIONBIO) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, TCGETS) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, TIOCGWINSZ) },
};

/* What libraries try at odd moments, and live without: time zones, resolver files, netlink, libgcc at thread exit. */
static const struct sandbox_rule lazy[] = {
	{ "open openat ?openat2 creat", REFUSE(EPERM) },
	{ "access faccessat ?faccessat2 readlink readlinkat stat lstat statfs getcwd unlink unlinkat", REFUSE(EPERM) },
	{ "socket socketpair connect bind listen", REFUSE(EPERM) },
	{ "sched_setaffinity sched_setscheduler setpriority umask get_mempolicy", REFUSE(EPERM) },
};

static const struct sandbox_rule dataplane[] = {
	{ "pread64 pwrite64 preadv pwritev preadv2 pwritev2 fsync fdatasync sync_file_range", ALLOW },
	{ "fallocate ftruncate flock fadvise64", ALLOW },
	{ "accept accept4", ALLOW },
	{ "memfd_create memfd_secret mlock mlock2 munlock", ALLOW },
	/* Threads, never processes: clone3 cannot be looked into, and libc then takes clone. */
	{ "clone", ALLOW, BITS(0, CLONE_THREAD | NEW_NAMESPACES, CLONE_THREAD) },
	{ "clone3", REFUSE(ENOSYS) },
	{ "ioctl", ALLOW, WHEN(1, BLKDISCARD) },
	{ "ioctl", ALLOW, WHEN(1, BLKGETSIZE64) },
	{ "ioctl", ALLOW, WHEN(1, BLKPBSZGET) },
	{ "ioctl", ALLOW, WHEN(1, BLKSSZGET) },
	{ "ioctl", ALLOW, WHEN(1, BLKROGET) },
	/* libblkid wants to know what kind of device it is: a disk, as far as the creator is concerned. */
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, FDGETFDCSTAT) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, CDROM_GET_CAPABILITY) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, CDROM_LAST_WRITTEN) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, CDROM_DRIVE_STATUS) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, BLKGETZONESZ) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, BLKREPORTZONE) },
	{ "ioctl", REFUSE(ENOTTY), WHEN(1, BLKIOOPT) },
};

/* A page for the PIN. */
static const struct sandbox_rule tpm[] = {
	{ "pread64 ftruncate memfd_create memfd_secret mlock mlock2 munlock", ALLOW },
};

/* The wider world of the supervisor and of what it starts: everything an ordinary program uses. */
static const struct sandbox_rule supervisor[] = {
	{ "read readv write writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range lseek", ALLOW },
	{ "dup dup2 dup3 fcntl flock ioctl pipe pipe2 splice tee vmsplice sendfile copy_file_range", ALLOW },
	{ "open openat ?openat2 creat access faccessat ?faccessat2 stat lstat fstat newfstatat statx statfs fstatfs", ALLOW },
	{ "getdents getdents64 getcwd chdir fchdir readlink readlinkat mkdir mkdirat rmdir unlink unlinkat", ALLOW },
	{ "rename renameat renameat2 link linkat symlink symlinkat chmod fchmod fchmodat ?fchmodat2", ALLOW },
	{ "chown fchown lchown fchownat umask truncate ftruncate fallocate fadvise64 readahead", ALLOW },
	{ "fsync fdatasync sync syncfs sync_file_range utime utimes futimesat utimensat", ALLOW },
	{ "getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr", ALLOW },
	{ "removexattr lremovexattr fremovexattr inotify_init inotify_init1 inotify_add_watch inotify_rm_watch", ALLOW },
	{ "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait ?epoll_pwait2", ALLOW },
	{ "eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime", ALLOW },
	{ "timer_create timer_delete timer_getoverrun timer_gettime timer_settime alarm getitimer setitimer pause", ALLOW },
	{ "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times restart_syscall", ALLOW },
	{ "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack", ALLOW },
	{ "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal ?process_mrelease", ALLOW },
	{ "fork vfork execve execveat wait4 waitid exit exit_group set_tid_address arch_prctl", ALLOW },
	{ "clone", ALLOW, BITS(0, NEW_NAMESPACES, 0) },
	{ "clone3", REFUSE(ENOSYS) },
	{ "getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid", ALLOW },
	{ "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups setsid setpgid", ALLOW },
	{ "capget capset prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self", ALLOW },
	{ "getrusage getrlimit setrlimit prlimit64 getpriority setpriority ioprio_get ioprio_set sysinfo uname", ALLOW },
	{ "getcpu getrandom futex ?futex_waitv ?futex_wait ?futex_wake ?futex_requeue set_robust_list", ALLOW },
	{ "get_robust_list rseq membarrier sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr", ALLOW },
	{ "sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_rr_get_interval", ALLOW },
	{ "sched_get_priority_max sched_get_priority_min get_mempolicy set_mempolicy mbind", ALLOW },
	{ "brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall munlockall", ALLOW },
	{ "memfd_create memfd_secret pkey_alloc pkey_free pkey_mprotect ?map_shadow_stack ?cachestat", ALLOW },
	{ "socket socketpair bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt", ALLOW },
	{ "recvmsg recvfrom recvmmsg sendmsg sendto sendmmsg shutdown", ALLOW },
	{ "shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl", ALLOW },
	{ "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr", ALLOW },
	{ "io_setup io_submit io_getevents io_pgetevents io_cancel io_destroy set_thread_area get_thread_area", ALLOW },
	/* for the ublk server and its broker, whose own filters leave io_uring_enter of it */
	{ "io_uring_setup io_uring_enter io_uring_register", ALLOW },
};

/* Nobody's business in this appliance. Refused, not killed: a vendor's module may ask and go on. */
static const struct sandbox_rule denied[] = {
	{ "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd", REFUSE(EPERM) },
	{ "userfaultfd perf_event_open bpf", REFUSE(EPERM) },
	{ "mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr", REFUSE(EPERM) },
	{ "setns unshare swapon swapoff acct quotactl ?quotactl_fd sethostname setdomainname vhangup", REFUSE(EPERM) },
	{ "kexec_load kexec_file_load reboot init_module finit_module delete_module", REFUSE(EPERM) },
	{ "keyctl add_key request_key open_by_handle_at name_to_handle_at fanotify_init fanotify_mark", REFUSE(EPERM) },
	{ "settimeofday clock_settime clock_adjtime adjtimex syslog lookup_dcookie personality", REFUSE(EPERM) },
	{ "iopl ioperm modify_ldt mknod mknodat migrate_pages move_pages", REFUSE(EPERM) },
};

/* Rings do what no filter sees: what they may do was said to the kernel before the walls came up, and cannot be said again. */
static const struct sandbox_rule rings[] = {
	{ "io_uring_enter", ALLOW },
};

/* The broker: the nodes of its devices change hands, its servers are watched, settings of its devices are written. Nothing is
 * made. */
static const struct sandbox_rule broker[] = {
	{ "fchownat pidfd_open", ALLOW },
	{ "openat", ALLOW, BITS(2, O_CREAT | O_TRUNC | O_APPEND, 0) },
};

static const struct sandbox_rule not_hsm[] = {
	{ "io_uring_setup io_uring_enter io_uring_register", REFUSE(ENOSYS) },
	{ "clone", REFUSE(EPERM), BITS(0, CLONE_NEWNS, CLONE_NEWNS) },
	{ "clone", REFUSE(EPERM), BITS(0, CLONE_NEWCGROUP, CLONE_NEWCGROUP) },
	{ "clone", REFUSE(EPERM), BITS(0, CLONE_NEWUTS, CLONE_NEWUTS) },
	{ "clone", REFUSE(EPERM), BITS(0, CLONE_NEWIPC, CLONE_NEWIPC) },
	{ "clone", REFUSE(EPERM), BITS(0, CLONE_NEWUSER, CLONE_NEWUSER) },
	{ "clone", REFUSE(EPERM), BITS(0, CLONE_NEWPID, CLONE_NEWPID) },
	{ "clone", REFUSE(EPERM), BITS(0, CLONE_NEWNET, CLONE_NEWNET) },
	{ "clone3", REFUSE(ENOSYS) },
};

const struct sandbox_table sandbox_tables[] = {
	{ "supervisor", REFUSE(ENOSYS),        { GROUP(supervisor), GROUP(denied) } },
	{ "dataplane",  SCMP_ACT_KILL_PROCESS, { GROUP(plain), GROUP(lazy), GROUP(dataplane) } },
	{ "serve",      SCMP_ACT_KILL_PROCESS, { GROUP(plain), GROUP(lazy), GROUP(dataplane), GROUP(rings) } },
	{ "broker",     SCMP_ACT_KILL_PROCESS, { GROUP(plain), GROUP(rings), GROUP(broker) } },
	{ "mgmt",       SCMP_ACT_KILL_PROCESS, { GROUP(plain), GROUP(lazy) } },
	{ "tpm",        SCMP_ACT_KILL_PROCESS, { GROUP(plain), GROUP(lazy), GROUP(tpm) } },
	{ "hsm",        SCMP_ACT_ALLOW,        { GROUP(denied), GROUP(not_hsm) } },
};
/* clang-format on */

const size_t sandbox_table_count = sizeof sandbox_tables / sizeof sandbox_tables[0];
