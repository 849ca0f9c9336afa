/* Two tables: the options, and for each verb what it takes. An option that a verb does not take is refused: "revoke --force" that
 * looked as if it had forced something would be worse than an error. */
#include "arguments.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/option.h"
#include "ipc/message.h"

enum {
	OPT_CREDENTIALS = 1 << 0,
	OPT_JSON = 1 << 1,
	OPT_RUN_DIR = 1 << 2,
	OPT_CONFIG = 1 << 3,
	OPT_ROLE = 1 << 4,
	OPT_OUT = 1 << 5,
	OPT_WATCH = 1 << 6,
	OPT_FORCE = 1 << 7,
	OPT_ALL = 1 << 8,
	OPT_LOCAL = 1 << 9,
	OPT_HELP = 1 << 10,
	OPT_VERSION = 1 << 11,
	OPT_YES = 1 << 12,
	OPT_REPAIR = 1 << 13,
	OPT_SECTOR = 1 << 14,
	OPT_HEADER = 1 << 15,
	OPT_PIN_FILE = 1 << 16,
	OPT_EVERYWHERE = OPT_CREDENTIALS | OPT_JSON | OPT_RUN_DIR,
};

enum operand { OPERAND_NONE, OPERAND_OPTIONAL, OPERAND_NEEDED };

struct verb_row {
	const char *name;
	int options; /* beside OPT_EVERYWHERE */
	enum operand operand;
	const char *what; /* the operand's name in messages */
	bool volume;      /* it names a volume */
	bool place;       /* or, with a dot or a slash in it, the file or device that holds one */
};

/* clang-format off */
static const struct verb_row verbs[VERB_COUNT] = {
	[VERB_HELP]         = { "help",         0,                              OPERAND_NONE,     "",         false, false },
	[VERB_VERSION]      = { "version",      0,                              OPERAND_NONE,     "",         false, false },
	[VERB_STATUS]       = { "status",       OPT_WATCH | OPT_LOCAL,          OPERAND_OPTIONAL, "NAME",     true, false },
	[VERB_VOLUMES]      = { "volumes",      0,                              OPERAND_NONE,     "",         false, false },
	[VERB_POSTURE]      = { "posture",      0,                              OPERAND_NONE,     "",         false, false },
	[VERB_CREATE]       = { "create",       OPT_FORCE,                      OPERAND_NEEDED,   "NAME",     true, false },
	[VERB_ATTACH]       = { "attach",       0,                              OPERAND_NEEDED,   "NAME",     true, false },
	[VERB_DETACH]       = { "detach",       0,                              OPERAND_NEEDED,   "NAME",     true, false },
	[VERB_REVOKE]       = { "revoke",       OPT_ALL | OPT_LOCAL,            OPERAND_OPTIONAL, "NAME",     true, false },
	[VERB_RESTORE]      = { "restore",      0,                              OPERAND_NEEDED,   "NAME",     true, false },
	[VERB_ENROLL]       = { "enroll",       OPT_ROLE | OPT_OUT | OPT_FORCE, OPERAND_NEEDED,   "IDENTITY", false, false },
	[VERB_REMOVE]       = { "remove",       0,                              OPERAND_NEEDED,   "IDENTITY", false, false },
	[VERB_STOP]         = { "stop",         0,                              OPERAND_NONE,     "",         false, false },
	[VERB_SEAL_PIN]     = { "seal-pin",     OPT_PIN_FILE,                   OPERAND_NEEDED,   "KEK",      false, false },
	[VERB_ACCEPT_ROLLBACK] = { "accept-rollback", 0,                        OPERAND_NEEDED,   "NAME",     true, false },
	[VERB_CONFIG_CHECK] = { "config check", OPT_CONFIG,                     OPERAND_NONE,     "",         false, false },
	[VERB_VOLUME_IDENTIFY]       = { "volume identify",       0,                     OPERAND_NEEDED, "a path",         false, true },
	[VERB_VOLUME_CHECK]          = { "volume check",          OPT_HEADER,            OPERAND_NEEDED, "NAME or a path", true, true },
	[VERB_VOLUME_SCRUB]          = { "volume scrub",          OPT_REPAIR,            OPERAND_NEEDED, "NAME",           true, true },
	[VERB_VOLUME_DUMP]           = { "volume dump",           OPT_SECTOR | OPT_HEADER, OPERAND_NEEDED, "NAME or a path", true, true },
	[VERB_VOLUME_REPAIR_HEADER]  = { "volume repair-header",  0,                     OPERAND_NEEDED, "a path", true, true },
	[VERB_VOLUME_REPAIR_LOG]     = { "volume repair-log",     OPT_YES,               OPERAND_NEEDED, "NAME",           true, true },
	[VERB_VOLUME_SALVAGE]        = { "volume salvage",        OPT_OUT | OPT_HEADER,  OPERAND_NEEDED, "NAME",           true, true },
	[VERB_VOLUME_HEADER_BACKUP]  = { "volume header-backup",  OPT_OUT,               OPERAND_NEEDED, "a path", true, true },
	[VERB_VOLUME_HEADER_RESTORE] = { "volume header-restore", OPT_HEADER | OPT_YES,  OPERAND_NEEDED, "NAME or a path", true, true },
};

static const struct option options[] = {
	{ "credentials", required_argument, NULL, OPT_CREDENTIALS },
	{ "json",        no_argument,       NULL, OPT_JSON },
	{ "run-dir",     required_argument, NULL, OPT_RUN_DIR },
	{ "config",      required_argument, NULL, OPT_CONFIG },
	{ "role",        required_argument, NULL, OPT_ROLE },
	{ "out",         required_argument, NULL, OPT_OUT },
	{ "watch",       no_argument,       NULL, OPT_WATCH },
	{ "force",       no_argument,       NULL, OPT_FORCE },
	{ "all",         no_argument,       NULL, OPT_ALL },
	{ "local",       no_argument,       NULL, OPT_LOCAL },
	{ "yes",         no_argument,       NULL, OPT_YES },
	{ "repair",      no_argument,       NULL, OPT_REPAIR },
	{ "sector",      required_argument, NULL, OPT_SECTOR },
	{ "header",      required_argument, NULL, OPT_HEADER },
	{ "pin-file",    required_argument, NULL, OPT_PIN_FILE },
	{ "help",        no_argument,       NULL, OPT_HELP },
	{ "version",     no_argument,       NULL, OPT_VERSION },
	{ NULL,          0,                 NULL, 0 },
};
/* clang-format on */

const char arguments_help[] =
	"fallgate: the client of a Fallgate agent\n"
	"\n"
	"  fallgate [--credentials FILE] [--json] VERB ...\n"
	"\n"
	"  status [NAME] [--watch]        the agent, or one volume; --watch: a line per change\n"
	"  volumes                        every configured volume\n"
	"  posture                        what protects keys on this board, and what does not\n"
	"  create NAME [--force]          operator: format the volume that volumes.d/NAME.conf describes\n"
	"  attach NAME, detach NAME       operator: open it, close it\n"
	"  revoke NAME | --all [--local]  officer: shut the gate now; --local: at the console, without the network\n"
	"  restore NAME                   officer: lift what holds the gate shut\n"
	"\n"
	"at the agent's own console (root, or the agent's user; --run-dir DIR, default /run/fallgate):\n"
	"  enroll --role officer|operator|auditor IDENTITY [--out FILE] [--force]\n"
	"  remove IDENTITY                forget an identity and end its sessions\n"
	"  status --local                 every volume's state, without the network\n"
	"  seal-pin KEK [--pin-file FILE]  the TPM seals the PIN (typed, or on standard input) to the boot state\n"
	"  accept-rollback NAME           the next opening takes an older state of the volume: a restored backup\n"
	"  stop                           end the agent; every key is wiped\n"
	"\n"
	"a volume that nobody serves: NAME through the agent (with the key), or the path of its file or device (without):\n"
	"  volume identify PATH           whether a disk holds one, and which: for udev\n"
	"  volume check NAME|PATH         look at headers, roots, log, nodes\n"
	"  volume scrub NAME [--repair]   prove every sector and node; --repair: mend copies of nodes\n"
	"  volume dump NAME|PATH [--sector N]\n"
	"  volume repair-header PATH, volume repair-log NAME [--yes]\n"
	"  volume salvage NAME --out FILE [--header FILE]\n"
	"  volume header-backup PATH --out FILE\n"
	"  volume header-restore NAME|PATH --header FILE [--yes]\n"
	"\n"
	"  config check [--config FILE]   look at the configuration without starting anything\n"
	"  version, --version, --help\n"
	"\n"
	"See fallgate(1).\n";

const char *verb_name(enum verb v)
{
	return verbs[v].name;
}

static void take_option(struct arguments *a, int option)
{
	switch (option) {
	case OPT_CREDENTIALS:
		a->credentials = optarg;
		break;
	case OPT_RUN_DIR:
		a->run_dir = optarg;
		break;
	case OPT_CONFIG:
		a->config = optarg;
		break;
	case OPT_ROLE:
		a->role = optarg;
		break;
	case OPT_OUT:
		a->out = optarg;
		break;
	case OPT_JSON:
		a->json = true;
		break;
	case OPT_WATCH:
		a->watch = true;
		break;
	case OPT_FORCE:
		a->force = true;
		break;
	case OPT_ALL:
		a->all = true;
		break;
	case OPT_LOCAL:
		a->local = true;
		break;
	case OPT_YES:
		a->yes = true;
		break;
	case OPT_REPAIR:
		a->repair = true;
		break;
	case OPT_SECTOR:
		a->sector = optarg;
		break;
	case OPT_PIN_FILE:
		a->pin_file = optarg;
		break;
	case OPT_HEADER:
		a->header = optarg;
		break;
	default:
		break;
	}
}

static const char *option_name(int option)
{
	for (const struct option *o = options; o->name != NULL; o++)
		if (o->val == option)
			return o->name;
	return "?";
}

/* Is row's name these words, the first of which may be the first of two? */
static bool is_named(const struct verb_row *row, char **words, int count, int *used)
{
	const char *second = strchr(row->name, ' ');
	size_t first = second == NULL ? strlen(row->name) : (size_t)(second - row->name);

	*used = second == NULL ? 1 : 2;
	if (strlen(words[0]) != first || strncmp(words[0], row->name, first) != 0)
		return false;
	return second == NULL || (count > 1 && strcmp(words[1], second + 1) == 0);
}

/* The verb's words are consumed: one, or two for "config check" and "volume ...". */
static int find_verb(struct arguments *a, char **words, int count, int *used, char *text, size_t size)
{
	if (count == 0) {
		snprintf(text, size, "a verb is missing; 'fallgate --help' lists them");
		return ERR_USAGE;
	}
	for (int v = 0; v < VERB_COUNT; v++)
		if (is_named(&verbs[v], words, count, used)) {
			a->verb = (enum verb)v;
			return 0;
		}
	snprintf(text, size, "'%.32s%s%.32s' is no verb; 'fallgate --help' lists them", words[0], count > 1 ? " " : "",
		 count > 1 ? words[1] : "");
	return ERR_USAGE;
}

static int check_name(const struct arguments *a, char *text, size_t size)
{
	const struct verb_row *row = &verbs[a->verb];
	char shown[48];

	if (a->name == NULL || !row->volume || message_name_good(a->name) || (row->place && strpbrk(a->name, "./") != NULL))
		return 0;
	for (size_t i = 0; i < sizeof shown; i++) {
		shown[i] = a->name[i] >= ' ' && a->name[i] <= '~' ? a->name[i] : '?';
		if (a->name[i] == '\0') {
			shown[i] = '\0';
			break;
		}
	}
	shown[sizeof shown - 1] = '\0';
	snprintf(text, size, "'%s' is not a volume's name: a lower-case letter or digit, then up to 30 of a-z 0-9 _ -", shown);
	return ERR_USAGE;
}

/* It becomes a line of a file: nothing that could end one or start a comment. */
static bool identity_good(const char *identity)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-";
	size_t size = strlen(identity);

	return size > 0 && size < IDENTITY_MAX_BYTES && strspn(identity, good) == size;
}

static enum role role_number(const char *name)
{
	for (int r = USER_AUDITOR; name != NULL && r <= USER_OFFICER; r++)
		if (strcmp(role_name((enum role)r), name) == 0)
			return (enum role)r;
	return USER_NONE;
}

/* What the verbs of a volume cannot do without, and the one number. */
static int check_volume_options(struct arguments *a, char *text, size_t size)
{
	char *end;

	if ((a->verb == VERB_VOLUME_SALVAGE || a->verb == VERB_VOLUME_HEADER_BACKUP) && a->out == NULL) {
		snprintf(text, size, "'%s' needs --out FILE", verbs[a->verb].name);
		return ERR_USAGE;
	}
	if (a->verb == VERB_VOLUME_HEADER_RESTORE && a->header == NULL) {
		snprintf(text, size, "'%s' needs --header FILE, a backup", verbs[a->verb].name);
		return ERR_USAGE;
	}
	a->sector_number = UINT64_MAX;
	if (a->sector == NULL)
		return 0;
	errno = 0;
	a->sector_number = strtoull(a->sector, &end, 10);
	if (errno == 0 && a->sector[0] >= '0' && a->sector[0] <= '9' && *end == '\0' && a->sector_number < UINT64_MAX)
		return 0;
	snprintf(text, size, "--sector needs a number");
	return ERR_USAGE;
}

static int check_operands(struct arguments *a, char **words, int count, char *text, size_t size)
{
	const struct verb_row *row = &verbs[a->verb];
	int allowed = row->operand == OPERAND_NONE ? 0 : 1, error;

	if (count > allowed) {
		snprintf(text, size, "'%s' does not take '%.32s'", row->name, words[allowed]);
		return ERR_USAGE;
	}
	if (count == 1)
		a->name = words[0];
	if (row->operand == OPERAND_NEEDED && a->name == NULL) {
		snprintf(text, size, "'%s' needs %s", row->name, row->what);
		return ERR_USAGE;
	}
	if (a->verb == VERB_REVOKE && a->all == (a->name != NULL)) {
		snprintf(text, size, "'revoke' needs NAME or --all, and not both");
		return ERR_USAGE;
	}
	if (a->verb == VERB_STATUS && a->local && (a->watch || a->name != NULL)) {
		snprintf(text, size, "'status --local' tells of all volumes, once: neither NAME nor --watch goes with it");
		return ERR_USAGE;
	}
	if (a->verb == VERB_SEAL_PIN && !message_name_good(a->name)) {
		snprintf(text, size, "'seal-pin' needs the name of a KEK: that of its section [kek NAME]");
		return ERR_USAGE;
	}
	if (a->verb == VERB_ENROLL && !identity_good(a->name)) {
		snprintf(text, size, "an identity is 1 to %d letters, digits and . _ @ -", IDENTITY_MAX_BYTES - 1);
		return ERR_USAGE;
	}
	if (a->verb == VERB_ENROLL && role_number(a->role) == USER_NONE) {
		snprintf(text, size, "'enroll' needs --role officer, operator or auditor");
		return ERR_USAGE;
	}
	a->role_number = (int)role_number(a->role);
	error = check_volume_options(a, text, size);
	if (error != 0)
		return error;
	return check_name(a, text, size);
}

/* --help and --version are wishes of their own, wherever they stand. */
static int read_options(struct arguments *a, int argc, char **argv, int *given, int *wish, char *text, size_t size)
{
	int option, row;

	optind = 0; /* so that tests may call it again */
	opterr = 0;
	while ((option = getopt_long(argc, argv, "", options, &row)) != -1) {
		if (option == '?' || option == ':' || !option_spelled_out(argv, &options[row])) {
			snprintf(text, size,
				 "'%.32s' is not an option, or lacks its value, or has one too many; see 'fallgate --help'",
				 argv[optind - 1]);
			return ERR_USAGE;
		}
		if (option == OPT_HELP || option == OPT_VERSION) {
			*wish = option;
			continue;
		}
		*given |= option;
		take_option(a, option);
	}
	return 0;
}

int arguments_read(struct arguments *a, int argc, char **argv, char *text, size_t size)
{
	int given = 0, wish = 0, used = 0;
	int error, stray;

	memset(a, 0, sizeof *a);
	error = read_options(a, argc, argv, &given, &wish, text, size);
	if (error != 0)
		return error;
	if (wish != 0) {
		a->verb = wish == OPT_HELP ? VERB_HELP : VERB_VERSION;
		return 0;
	}
	error = find_verb(a, argv + optind, argc - optind, &used, text, size);
	if (error != 0)
		return error;
	stray = given & ~(verbs[a->verb].options | OPT_EVERYWHERE);
	if (stray != 0) {
		snprintf(text, size, "'%s' does not take --%s", verbs[a->verb].name, option_name(stray & -stray));
		return ERR_USAGE;
	}
	return check_operands(a, argv + optind + used, argc - optind - used, text, size);
}
