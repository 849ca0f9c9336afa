/* The configuration: fallgate.conf and volumes.d/NAME.conf beside it. What must hold: it is read and judged whole before anything
 * is started; every mistake is named by file and line, all of them, with what to do; nothing in it is a secret. */
#ifndef FALLGATE_SUPERVISOR_CONFIG_H
#define FALLGATE_SUPERVISOR_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "ipc/message.h"

enum {
	CONFIG_KEKS_MAX = 32,
	CONFIG_VOLUMES_MAX = 128,
	CONFIG_ENV_MAX = 8,
	CONFIG_ENV_BYTES = 512,
	CONFIG_ERRORS_MAX = 200,
	LISTEN_MAX_BYTES = 108, /* sun_path */
};

struct config_user {
	bool set;
	uid_t uid;
	gid_t gid;
};

struct kek_config {
	char name[NAME_MAX_BYTES];
	char where[PATH_MAX_BYTES]; /* file:line of its section */
	char module[PATH_MAX_BYTES];
	char uri[URI_MAX_BYTES];       /* without pin-source */
	char pin_path[PATH_MAX_BYTES]; /* empty: no PIN, or a sealed one */
	bool pin_sealed;               /* pin-source=tpm: */
	char init_args[URI_MAX_BYTES];
	char environment[CONFIG_ENV_MAX][CONFIG_ENV_BYTES];
	unsigned environment_count;
	uint64_t probe_interval_ns, hsm_deadline_ns, outage_budget_ns;
	unsigned fresh_every;
};

enum alert_log { ALERT_LOG_AUTO, ALERT_LOG_OFF, ALERT_LOG_JOURNAL, ALERT_LOG_SYSLOG };
enum mount_hook { MOUNT_NONE, MOUNT_DROP_CACHES, MOUNT_UNMOUNT, MOUNT_PROGRAM };
enum listen_kind { LISTEN_UNIX, LISTEN_TCP };
enum export_kind { EXPORT_NBD, EXPORT_UBLK };

struct volume_config {
	char name[NAME_MAX_BYTES];
	char where[PATH_MAX_BYTES];
	char backing[PATH_MAX_BYTES];
	char kek[NAME_MAX_BYTES];
	uint64_t size; /* 0: the whole device */
	bool attach_auto;
	bool read_only;
	bool assume_4k;
	bool server;              /* memory */
	uint32_t integrity_limit; /* failed sectors in integrity_window_ns; 0: never */
	uint64_t integrity_window_ns;
	uint64_t purge_after_ns; /* 0: never */
	enum mount_hook mount;
	char mount_path[PATH_MAX_BYTES];
	bool anti_rollback; /* = tpm */
	uint64_t anti_rollback_ns;
	bool hold; /* on_lock */
	uint64_t hold_timeout_ns;
	uint32_t connections;
	uint32_t cache_mib;
	char kernel[16]; /* empty: the best */
	enum export_kind export;
	enum listen_kind listen;            /* this and the following, connections too: NBD only */
	char listen_path[LISTEN_MAX_BYTES]; /* unix: the path; tcp: the address */
	uint16_t listen_port;
	mode_t listen_mode;
};

struct config {
	char path[PATH_MAX_BYTES];
	char volumes_dir[PATH_MAX_BYTES];
	char state_dir[PATH_MAX_BYTES];
	char run_dir[PATH_MAX_BYTES];
	char devices[PATH_MAX_BYTES]; /* where volumes appear as block devices; no key sets it: udev knows it */
	char libexec_dir[PATH_MAX_BYTES];
	char nbdkit[PATH_MAX_BYTES];
	char coap_address[64]; /* "127.0.0.1" */
	uint16_t coap_port;
	enum alert_log alert_log;
	char alert_log_path[LISTEN_MAX_BYTES]; /* empty: the usual one */
	char alert_program[PATH_MAX_BYTES];
	struct config_user alert_user;
	uint64_t alert_limit_ns;
	char tamper[PATH_MAX_BYTES];   /* the tamper line; empty: none */
	char watchdog[PATH_MAX_BYTES]; /* "none", "auto" or a device */
	uint64_t watchdog_timeout_ns;
	char entropy[PATH_MAX_BYTES];   /* "kernel", "auto" or a device */
	char indicator[PATH_MAX_BYTES]; /* "none", or where */
	char tpm[PATH_MAX_BYTES];       /* where; empty: none */
	uint32_t tpm_pcrs;              /* a bit each */
	struct config_user user_hsm, user_dataplane, user_mgmt, user_tpm;
	struct kek_config keks[CONFIG_KEKS_MAX];
	unsigned kek_count;
	struct volume_config volumes[CONFIG_VOLUMES_MAX];
	unsigned volume_count;
};

/* Everything that was wrong, in the order it was found. */
struct config_errors {
	unsigned count; /* also of those that no longer fit */
	char line[CONFIG_ERRORS_MAX][PATH_MAX_BYTES];
};

/* Reads and judges all of it. libexec_dir: from the command line, or NULL. 0 or ERR_CONFIG (errors says why). */
int config_load(struct config *c, const char *path, const char *libexec_dir, struct config_errors *errors);

/* Reads volumes.d/NAME.conf anew into `out` and judges it against the rest. 0 or ERR_CONFIG, ERR_NOT_FOUND. Not a name that
 * is already there is not an error: the caller replaces or adds it. */
int config_load_volume(const struct config *c, const char *name, struct volume_config *out, struct config_errors *errors);

/* NULL if there is none of that name. */
const struct kek_config *config_kek(const struct config *c, const char *name);

/* "90s", "500ms", "5m", "24h", "0"; "1G", "64M", "4096". false: not one, or too large. */
bool config_parse_duration(const char *text, uint64_t *ns);
bool config_parse_size(const char *text, uint64_t *bytes);

#endif
