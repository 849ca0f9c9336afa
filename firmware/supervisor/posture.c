/* See posture.h. */
#include "posture.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "hal/board.h"
#include "hal/sandbox.h"
#include "kek.h"
#include "pin.h"
#include "randomness.h"
#include "tpm.h"
#include "volume.h"
#include "watchdog.h"

enum { SECRET_IN_MEMFD_SECRET = 1 }; /* of enum secret_memory_kind, as DP_OPENED tells it */

static void __attribute__((format(printf, 3, 4))) line(struct msg_mg_agent *out, bool good, const char *format, ...)
{
	size_t used = strlen(out->posture), room = sizeof out->posture - used;
	char text[160];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (strlen(text) + 8 < room) /* a line that does not fit whole is left out */
		snprintf(out->posture + used, room, "%s%s: %s", used > 0 ? "\n" : "", good ? "good" : "weak", text);
}

static bool read_text(const char *path, char *out, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, out, size - 1) : -1;

	if (fd >= 0)
		close(fd);
	out[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* /proc/swaps has a heading, then a line per area. zram is memory, and as little wiped as a disk is. */
static void look_at_swap(struct msg_mg_agent *out)
{
	char text[1024];
	const char *second;

	if (!read_text("/proc/swaps", text, sizeof text))
		return;
	second = strchr(text, '\n');
	if (second == NULL || second[1] == '\0')
		line(out, true, "no swap, no zram");
	else
		line(out, false, "swap is on%s: what clients hold in memory may be written to it",
		     strstr(text, "/zram") != NULL ? ", zram among it" : "");
}

/* The agent's own processes cannot dump; whoever reads a volume can. */
static void look_at_core_files(struct msg_mg_agent *out)
{
	struct rlimit limit = { .rlim_cur = 1 };
	bool own = prctl(PR_GET_DUMPABLE) == 0 && getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_cur == 0;
	char pattern[128];

	line(out, own, "%s",
	     own ? "the agent's processes leave no core files" : "the agent could leave core files: start it anew");
	if (!read_text("/proc/sys/kernel/core_pattern", pattern, sizeof pattern))
		return;
	pattern[strcspn(pattern, "\n")] = '\0';
	if (pattern[0] == '\0' || strcmp(pattern, "|/bin/false") == 0)
		line(out, true, "no core files of clients (kernel.core_pattern)");
	else
		line(out, false, "core files of clients may hold plaintext: set kernel.core_pattern to |/bin/false");
}

static void look_at_ptrace(struct msg_mg_agent *out)
{
	char text[16];
	bool restricted = read_text("/proc/sys/kernel/yama/ptrace_scope", text, sizeof text) && text[0] >= '1' && text[0] <= '3';

	line(out, restricted, "%s",
	     restricted ? "ptrace is restricted (kernel.yama.ptrace_scope)"
			: "any process may trace others of its user: set kernel.yama.ptrace_scope to 2");
}

/* Where the keys are; before there are any, where they can be. */
static void look_at_secret_memory(const struct agent *a, struct msg_mg_agent *out)
{
	const struct volume *weak = NULL;
	bool any = false;
	int fd;

	for (unsigned i = 0; i < a->volume_count; i++) {
		const struct volume *v = a->volumes[i];

		any = any || gate_state_serves(v->gate.state);
		if (gate_state_serves(v->gate.state) && v->opened.memory != SECRET_IN_MEMFD_SECRET)
			weak = v;
	}
	if (weak != NULL) {
		line(out, false, "keys of %s in locked memory, not memfd_secret: boot with secretmem.enable=1",
		     weak->config.name);
		return;
	}
	fd = any ? -1 : (int)syscall(SYS_memfd_secret, O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	if (any || fd >= 0)
		line(out, true, "%s", any ? "keys in memfd_secret" : "memfd_secret is there for keys");
	else
		line(out, false, "no memfd_secret for keys, locked memory instead: %s",
		     board.memfd_secret ? "this board's kernel should have it" : "boot with secretmem.enable=1");
}

static void look_at_freed_memory(struct msg_mg_agent *out)
{
	char text[4096];
	bool told = read_text("/proc/cmdline", text, sizeof text) && strstr(text, "init_on_free=1") != NULL;

	line(out, told, "%s",
	     told ? "freed memory is wiped by the kernel"
		  : "the kernel is not told to wipe freed memory: boot with init_on_free=1");
}

static bool own_users(const struct config *c)
{
	const struct config_user *u[] = { &c->user_hsm, &c->user_dataplane, &c->user_mgmt, &c->user_tpm };
	int count = c->tpm[0] != '\0' ? 4 : 3;

	for (int i = 0; i < count; i++)
		for (int j = 0; j <= i; j++)
			if (!u[i]->set || (i != j && u[i]->uid == u[j]->uid))
				return false;
	return true;
}

static void look_at_tpm(const struct agent *a, struct msg_mg_agent *out)
{
	char text[200];
	bool good;

	if (tpm_posture(a, &good, text, sizeof text))
		line(out, good, "%s", text);
	for (unsigned i = 0; i < a->kek_count; i++)
		if (pin_is_sealed(kek_pin(a->keks[i])))
			line(out, true, "the PIN of KEK %s is sealed to the boot state", kek_config(a->keks[i])->name);
}

/* NBD has no encryption of its own. */
static void look_at_listeners(const struct agent *a, struct msg_mg_agent *out)
{
	for (unsigned i = 0; i < a->volume_count; i++) {
		const struct volume_config *v = &a->volumes[i]->config;

		if (a->volumes[i]->configured && v->export == EXPORT_NBD && v->listen == LISTEN_TCP &&
		    strncmp(v->listen_path, "127.", 4) != 0 && strcmp(v->listen_path, "::1") != 0)
			line(out, false, "%s is offered to the network in plaintext (tcp:%s): listen on 127.0.0.1 or unix",
			     v->name, v->listen_path);
	}
}

static void look_at_randomness(const struct agent *a, struct msg_mg_agent *out)
{
	char text[160];
	bool good = randomness_posture(a, text, sizeof text);

	line(out, good, "%s", text);
}

static void look_at_watchdog(const struct agent *a, struct msg_mg_agent *out)
{
	char text[160];
	bool good = watchdog_posture(a, text, sizeof text);

	if (text[0] != '\0')
		line(out, good, "%s", text);
}

void posture_fill(struct agent *a, struct msg_mg_agent *out)
{
	bool users = own_users(&a->config), walls = strcmp(sandbox_kind(), "none") != 0;

	snprintf(out->version, sizeof out->version, "%s", FALLGATE_VERSION);
	out->started_ns = a->started_wall_ns;
	out->volumes = a->volume_count;
	snprintf(out->users, sizeof out->users, "%s", users ? "own" : "one");
	snprintf(out->sandbox, sizeof out->sandbox, "%s", sandbox_kind());
	out->audit_good = a->writer == NULL || writer_audit_good(a->writer);
	line(out, walls, "%s", walls ? "every process behind seccomp" : "a build without seccomp: for tests only");
	line(out, users, "%s",
	     users ? "one user per process" : "processes share a user: set user_hsm, user_dataplane, user_mgmt");
	if (!out->audit_good)
		line(out, false, "ledger lines were lost: make room in the state directory");
	look_at_secret_memory(a, out);
	look_at_freed_memory(out);
	look_at_swap(out);
	look_at_core_files(out);
	look_at_ptrace(out);
	look_at_tpm(a, out);
	look_at_randomness(a, out);
	look_at_watchdog(a, out);
	look_at_listeners(a, out);
	for (unsigned i = 0; i < a->kek_count; i++)
		if (kek_software_token(a->keks[i]))
			line(out, false, "KEK %s is in a software token: for tests only", kek_config(a->keks[i])->name);
}
