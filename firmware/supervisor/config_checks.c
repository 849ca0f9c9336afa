/* What concerns more than one key: of a volume, of two volumes, of the whole. */
#include "config_reader.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A key that says nothing about a block device is a misunderstanding: whoever wrote it expects something of it. */
static void check_ublk(const struct reader *r)
{
	static const char *const nbd_only[] = { "listen", "listen_mode", "connections" };

	for (size_t i = 0; i < sizeof nbd_only / sizeof nbd_only[0]; i++)
		if (config_was_given(r, nbd_only[i]))
			config_error(r->errors, "%.300s: %s belongs to export = nbd, and the export is ublk; leave it out",
				     r->path, nbd_only[i]);
	if (geteuid() != 0)
		config_error(r->errors, "%.300s: export = ublk needs an agent started as root; start it so, or use export = nbd",
			     r->path);
}

/* What the build left out (CONFIG_DATAPLANE_NBD, CONFIG_DATAPLANE_UBLK) cannot be configured into it. */
static void check_face(const struct volume_config *v, const char *path, struct config_errors *errors)
{
	const bool ublk = v->export == EXPORT_UBLK;

	if (strstr(FALLGATE_FACES, ublk ? " EXPORT_UBLK " : " EXPORT_NBD ") == NULL)
		config_error(errors, "%.300s: export = %s, and this agent was built without it; set export = %s", path,
			     ublk ? "ublk" : "nbd (the default)", ublk ? "nbd" : "ublk");
}

void config_check_volume(const struct reader *r)
{
	check_face(r->volume, r->path, r->errors);
	if (r->volume->export == EXPORT_UBLK)
		check_ublk(r);
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	if (strcmp(a, b) == 0)
		return true;
	if (stat(a, &x) != 0 || stat(b, &y) != 0)
		return false;
	if (S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode))
		return x.st_rdev == y.st_rdev;
	return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A volume below a volume of this agent: each would wait for the other at a lock. */
void config_check_own_device(const struct volume_config *below, const struct volume_config *above, struct config_errors *errors)
{
	char link_path[NAME_MAX_BYTES + 16];

	snprintf(link_path, sizeof link_path, "/dev/fallgate/%s", below->name);
	if (below->export == EXPORT_UBLK && strcmp(above->backing, link_path) == 0)
		config_error(
			errors,
			"%.150s: the backing %s is where volume %s itself appears; name the disk below it, or rename the volume",
			above->where, link_path, below->name);
}

void config_check_pair(const struct volume_config *a, const struct volume_config *b, struct config_errors *errors)
{
	if (a->backing[0] != '\0' && same_file(a->backing, b->backing))
		config_error(errors, "%.150s: volumes %s and %s have one backing, %.150s; give each its own", b->where, a->name,
			     b->name, b->backing);
	config_check_own_device(a, b, errors);
	config_check_own_device(b, a, errors);
	if (a->export == EXPORT_NBD && b->export == EXPORT_NBD && a->listen == b->listen && a->listen_port == b->listen_port &&
	    strcmp(a->listen_path, b->listen_path) == 0)
		config_error(errors, "%.150s: volumes %s and %s listen at one place, %s; give each its own", b->where, a->name,
			     b->name, b->listen_path);
}

static void check_tpm(const struct config *c, struct config_errors *errors)
{
	char program[PATH_MAX_BYTES + 32];

	snprintf(program, sizeof program, "%s/fallgate-tpm", c->libexec_dir);
	if (c->tpm[0] != '\0' && access(program, X_OK) != 0)
		config_error(errors, "%.200s: tpm: there is no %.200s: this build is without HAL_TPM; leave the line out",
			     c->path, program);
	for (unsigned i = 0; i < c->kek_count; i++)
		if (c->keks[i].pin_sealed && c->tpm[0] == '\0')
			config_error(errors, "%.200s: pin-source=tpm: and [agent] names no TPM; add tpm = /dev/tpmrm0 there",
				     c->keks[i].where);
}

void config_check_whole(const struct config *c, struct config_errors *errors)
{
	if (c->libexec_dir[0] != '/')
		config_error(errors, "--libexec %.200s is not an absolute path; begin it with /", c->libexec_dir);
	if (c->alert_program[0] != '\0' && !c->alert_user.set && geteuid() == 0)
		config_error(errors, "%.200s: [alerts] has a program and no user; name one that it is run as", c->path);
	check_tpm(c, errors);
}
