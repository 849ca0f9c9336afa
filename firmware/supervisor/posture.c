/* What protects keys on this machine and what does not, as lines "good: ..." or "weak: ...". What must hold: nothing is called
 * good that was not looked at. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "hal/sandbox.h"
#include "kek.h"
#include "manage.h"
#include "volume.h"

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

/* /proc/swaps has a heading, then a line per area. */
static void look_at_swap(struct msg_mg_agent *out)
{
	char text[1024];
	const char *second;

	if (!read_text("/proc/swaps", text, sizeof text))
		return;
	second = strchr(text, '\n');
	if (second != NULL && second[1] != '\0')
		line(out, false, "swap is on: what clients hold in memory may be written to it");
	else
		line(out, true, "no swap");
}

static void look_at_memory(struct agent *a, struct msg_mg_agent *out)
{
	char text[4096];

	if (read_text("/proc/cmdline", text, sizeof text))
		line(out, strstr(text, "init_on_free=1") != NULL, "%s",
		     strstr(text, "init_on_free=1") != NULL ? "freed memory is wiped by the kernel" : "boot with init_on_free=1");
	for (unsigned i = 0; i < a->volume_count; i++) {
		const struct volume *v = a->volumes[i];

		if (gate_state_serves(v->gate.state) && v->opened.memory != 1) {
			line(out, false, "keys of %s in locked memory, not memfd_secret: boot with secretmem.enable=1",
			     v->config.name);
			return;
		}
	}
}

static bool own_users(const struct config *c)
{
	const struct config_user *u[] = { &c->user_hsm, &c->user_dataplane, &c->user_mgmt };

	for (int i = 0; i < 3; i++)
		for (int j = 0; j <= i; j++)
			if (!u[i]->set || (i != j && u[i]->uid == u[j]->uid))
				return false;
	return true;
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
	for (unsigned i = 0; i < a->kek_count; i++)
		if (kek_software_token(a->keks[i]))
			line(out, false, "KEK %s is in a software token: for tests only", kek_config(a->keks[i])->name);
	if (!out->audit_good)
		line(out, false, "ledger lines were lost: make room in the state directory");
	look_at_swap(out);
	look_at_memory(a, out);
}
