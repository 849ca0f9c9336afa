/* What is done to a process besides its filter. What must hold: after sandbox_drop_to nothing brings the old rights back, and it
 * was tried. */
#include <hal/sandbox.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

static int undumpable(void)
{
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
		return -1;
	return 0;
}

int sandbox_harden(void)
{
	const struct rlimit none = { 0, 0 };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && undumpable() == 0 && setrlimit(RLIMIT_CORE, &none) == 0)
		return 0;
	log_error("sandbox: the kernel does not let this process give up privileges: %s", strerror(errno));
	return ERR_UNSUPPORTED;
}

static bool ids_are(uid_t uid, gid_t gid)
{
	uid_t u[3];
	gid_t g[3];

	if (getresuid(&u[0], &u[1], &u[2]) != 0 || getresgid(&g[0], &g[1], &g[2]) != 0)
		return false;
	for (int i = 0; i < 3; i++)
		if (u[i] != uid || g[i] != gid)
			return false;
	return true;
}

static bool no_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) != 0)
		return false;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		if ((data[i].effective | data[i].permitted) != 0)
			return false;
	return true;
}

static int keep_capabilities(uint64_t mask)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		data[i].effective = data[i].permitted = (uint32_t)(mask >> (32 * i));
	return syscall(SYS_capset, &header, data) == 0 ? 0 : -1;
}

int sandbox_keep_broker_rights(void)
{
	if (keep_capabilities(UINT64_C(1) << CAP_SYS_ADMIN | UINT64_C(1) << CAP_CHOWN) == 0)
		return 0;
	log_error("sandbox: the rights over block devices are not there (%s): start the agent as root", strerror(errno));
	return ERR_DENIED;
}

int sandbox_keep_no_rights(void)
{
	if (keep_capabilities(0) == 0 && no_capabilities())
		return 0;
	log_error("sandbox: capabilities could not be given up: %s", strerror(errno));
	return ERR_DENIED;
}

/* Everything that the first version of Landlock knows of files: later ones add nothing that opens one. */
#define ALL_ACCESS ((UINT64_C(1) << 13) - 1)

static int restrict_to(int ruleset, const char *folder)
{
	struct landlock_path_beneath_attr rule = { .allowed_access = LANDLOCK_ACCESS_FS_WRITE_FILE };
	long r;

	rule.parent_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return -1;
	r = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	close(rule.parent_fd);
	return r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) == 0 ? 0 : -1;
}

int sandbox_write_only_beneath(const char *folder)
{
	const struct landlock_ruleset_attr attributes = { .handled_access_fs = ALL_ACCESS };
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
	int r = ruleset < 0 ? -1 : restrict_to(ruleset, folder);

	if (ruleset >= 0)
		close(ruleset);
	if (r == 0)
		return 0;
	log_warning("sandbox: files are not confined (%s): the kernel needs Landlock (CONFIG_SECURITY_LANDLOCK, and landlock in "
		    "lsm=)",
		    strerror(errno));
	return ERR_UNSUPPORTED;
}

static bool way_back_is_shut(void)
{
	return setresuid((uid_t)-1, 0, (uid_t)-1) != 0 && setresgid((gid_t)-1, 0, (gid_t)-1) != 0 && setgroups(0, NULL) != 0;
}

/* A change of ids makes the process dumpable again where fs.suid_dumpable says so: hence undumpable once more. */
static int drop(uid_t uid, gid_t gid)
{
	if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
		return -1;
	if (!ids_are(uid, gid) || getgroups(0, NULL) != 0 || !no_capabilities() || !way_back_is_shut())
		return -1;
	return undumpable();
}

int sandbox_drop_to(uid_t uid, gid_t gid)
{
	errno = EINVAL;
	if (uid != 0 && gid != 0 && uid != (uid_t)-1 && gid != (gid_t)-1 && drop(uid, gid) == 0)
		return 0;
	log_error("sandbox: user %u, group %u could not be become for good (%s): start as root, name users that are not",
		  (unsigned)uid, (unsigned)gid, strerror(errno));
	return ERR_DENIED;
}
