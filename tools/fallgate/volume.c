/* Files, questions, progress and findings of the offline verbs. What must hold: a verb that does not write opens the volume for
 * reading only; the volume is locked as the data plane locks it, so that one that is served is refused; an output file is a new
 * one; ^C ends a verb between two steps, never in one. */
#include "volume.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/block.h"
#include "ipc/message.h"
#include "volume/offline.h"

#include "arguments.h"
#include "output.h"
#include "volume_job.h"

enum { TEXT_ROOM = 512, BAR = 30, PLAIN_SECONDS = 10, BAR_MS = 200, BUSY_TRIES = 10, BUSY_WAIT_MS = 100 };

struct run {
	const struct arguments *a;
	enum offline_verb verb;
	struct offline_options options;
	struct offline_result result;
	char why[TEXT_ROOM];
	char map_path[4096];
	bool terminal, bar_there;
	int64_t begun_ms, shown_ms;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

/* The second ^C ends the program the hard way. */
static void watch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

/* ---- what is seen ---- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void clear_bar(struct run *r)
{
	if (r->bar_there)
		fputs("\r\033[K", stderr);
	r->bar_there = false;
}

static void on_finding(void *context, enum offline_severity severity, const char *text)
{
	static const char *const names[] = { "note", "mended", "repairable", "loss" };
	struct run *r = context;

	clear_bar(r);
	output_finding(r->a->json, names[severity], text);
}

static const char *amount(char out[static 24], uint64_t bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB" };
	double value = (double)bytes / 1024;
	unsigned unit = 0;

	while (value >= 1024 && unit < 4) {
		value /= 1024;
		unit++;
	}
	snprintf(out, 24, "%.1f %s", value, units[unit]);
	return out;
}

static void draw(struct run *r, uint64_t done, uint64_t total, int64_t now)
{
	double part = total == 0 ? 1 : (double)done / (double)total, seconds = (double)(now - r->begun_ms) / 1000;
	double rest = done == 0 ? 0 : seconds * ((double)total / (double)done - 1);
	int full = (int)(part * BAR), left = rest < 360000 ? (int)rest : 360000;
	char a[24], b[24];

	fprintf(stderr, "\r\033[K[%.*s%*s] %3d %%  %s of %s  %d:%02d left", full, "##############################", BAR - full,
		"", (int)(part * 100), amount(a, done), amount(b, total), left / 60, left % 60);
	fflush(stderr);
	r->bar_there = true;
}

static bool on_progress(void *context, uint64_t done, uint64_t total)
{
	struct run *r = context;
	int64_t now = now_ms();
	char a[24], b[24];

	if (now - r->shown_ms < (r->terminal && !r->a->json ? BAR_MS : PLAIN_SECONDS * 1000))
		return interrupted == 0;
	r->shown_ms = now;
	if (r->a->json)
		output_progress(done, total);
	else if (r->terminal)
		draw(r, done, total, now);
	else
		fprintf(stderr, "fallgate: %s of %s\n", amount(a, done), amount(b, total));
	return interrupted == 0;
}

static int fail(const struct run *r, int error, const char *text, const char *remedy)
{
	output_error(r->a->json, error_name(error), text, remedy, error_exit_code(error));
	return error_exit_code(error);
}

/* ---- files ---- */

static int open_failed(struct run *r, const char *path)
{
	int error = errno;

	snprintf(r->why, sizeof r->why, "%.300s: %s", path, strerror(error));
	return error_from_errno(error);
}

/* A file that was not there before. */
static int create_file(struct run *r, const char *path, int *fd)
{
	*fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (*fd >= 0)
		return 0;
	if (errno != EEXIST)
		return open_failed(r, path);
	snprintf(r->why, sizeof r->why, "%.300s is there already: name a file that is not", path);
	return ERR_EXISTS;
}

static int open_files(struct run *r)
{
	const struct arguments *a = r->a;
	int error = 0;

	if (a->header != NULL) {
		r->options.input_fd = open(a->header, O_RDONLY | O_CLOEXEC);
		if (r->options.input_fd < 0)
			return open_failed(r, a->header);
	}
	if (!offline_needs[r->verb].output)
		return 0;
	if (r->verb == OFFLINE_SALVAGE) {
		if ((size_t)snprintf(r->map_path, sizeof r->map_path, "%s.map", a->out) >= sizeof r->map_path)
			return ERR_USAGE;
		error = create_file(r, r->map_path, &r->options.map_fd);
		if (error != 0)
			r->map_path[0] = '\0';
	}
	if (error == 0)
		error = create_file(r, a->out, &r->options.output_fd);
	if (error != 0 && r->map_path[0] != '\0')
		unlink(r->map_path);
	return error;
}

/* A backup that was not finished is none; what salvage got out before it was stopped is worth keeping, as it is. */
static void close_files(struct run *r, int error)
{
	bool useless = r->options.output_fd >= 0 && error != 0 && (r->verb != OFFLINE_SALVAGE || r->result.checked == 0);

	if (useless) {
		unlink(r->a->out);
		if (r->map_path[0] != '\0')
			unlink(r->map_path);
	}
	if (r->options.output_fd >= 0)
		close(r->options.output_fd);
	if (r->options.map_fd >= 0)
		close(r->options.map_fd);
	if (r->options.input_fd >= 0)
		close(r->options.input_fd);
}

/* A header goes where a volume was, not over a file system. */
static int check_content(struct run *r, int fd)
{
	char name[64] = "";

	if (r->verb != OFFLINE_HEADER_RESTORE || block_signature(fd, name, sizeof name) != 0 || name[0] == '\0' ||
	    strcmp(name, "fallgate") == 0)
		return 0;
	snprintf(r->why, sizeof r->why, "%.300s holds %.60s and no volume: nothing is written there", r->a->name, name);
	return ERR_EXISTS;
}

/* A data plane that was told to go is a moment on its way out. */
static int take_device(struct block **dev, int fd)
{
	const struct timespec wait = { .tv_nsec = BUSY_WAIT_MS * 1000000L };
	int error = block_open_fd(dev, fd);

	for (int i = 0; error == ERR_BUSY && i < BUSY_TRIES && interrupted == 0; i++) {
		nanosleep(&wait, NULL);
		error = block_open_fd(dev, fd);
	}
	return error;
}

static int open_place(struct run *r, struct block **dev)
{
	const char *path = r->a->name;
	int flags = (offline_writes(r->verb, &r->options) ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	struct stat st;
	int fd, error;

	/* A block device that is mounted, or in use by the kernel otherwise, is not for us. */
	if (stat(path, &st) == 0 && S_ISBLK(st.st_mode) && offline_writes(r->verb, &r->options))
		flags |= O_EXCL;
	fd = open(path, flags);
	if (fd < 0)
		return open_failed(r, path);
	error = check_content(r, fd);
	if (error == 0)
		error = take_device(dev, fd);
	if (error == 0)
		return 0;
	close(fd);
	if (error == ERR_EXISTS)
		return error;
	if (error == ERR_BUSY)
		snprintf(r->why, sizeof r->why, "%.300s is in use: detach the volume first", path);
	else if (error == ERR_RANGE)
		snprintf(r->why, sizeof r->why, "%.300s is empty, or its size is not a multiple of 4096", path);
	else if (error == ERR_UNSUPPORTED)
		snprintf(r->why, sizeof r->why, "%.300s is neither a regular file nor a block device", path);
	else
		snprintf(r->why, sizeof r->why, "%.300s: %s", path, error_text(error));
	return error;
}

/* ---- one verb ---- */

static bool by_name(const struct run *r)
{
	return message_name_good(r->a->name);
}

static int run_job(struct run *r, const struct offline_sink *sink)
{
	static const enum job_verb verbs[OFFLINE_VERBS] = {
		[OFFLINE_CHECK] = JOB_CHECK,     [OFFLINE_SCRUB] = JOB_SCRUB,
		[OFFLINE_DUMP] = JOB_DUMP,       [OFFLINE_REPAIR_LOG] = JOB_REPAIR_LOG,
		[OFFLINE_SALVAGE] = JOB_SALVAGE, [OFFLINE_HEADER_RESTORE] = JOB_HEADER_RESTORE,
	};
	const struct volume_job job = {
		.run_dir = r->a->run_dir == NULL ? "/run/fallgate" : r->a->run_dir,
		.volume = r->a->name,
		.verb = verbs[r->verb],
		.accept_loss = r->options.accept_loss,
		.repair = r->options.repair,
		.dump_at = r->options.dump_at,
		.output_fd = r->options.output_fd,
		.map_fd = r->options.map_fd,
		.input_fd = r->options.input_fd,
	};

	if (job.verb == 0) {
		snprintf(r->why, sizeof r->why,
			 "'%s' works on a path: give that of the volume's file or device (one in this folder as ./FILE)",
			 offline_needs[r->verb].name);
		return ERR_USAGE;
	}
	return volume_job_run(&job, sink, &r->result, r->why, sizeof r->why);
}

static int run_once(struct run *r)
{
	const struct offline_sink sink = { .context = r, .say = on_finding, .progress = on_progress };
	struct block *dev;
	int error;

	if (by_name(r))
		return run_job(r, &sink);
	if (offline_needs[r->verb].key) {
		snprintf(r->why, sizeof r->why,
			 "'%s' needs the volume's key, which only its agent can get: give the volume's name instead of a path",
			 offline_needs[r->verb].name);
		return ERR_USAGE;
	}
	error = open_place(r, &dev);
	if (error != 0)
		return error;
	error = volume_offline(r->verb, dev, NULL, &r->options, &sink, &r->result, r->why, sizeof r->why);
	dev->ops->close(dev);
	return error;
}

/* The verb has said what it would do. */
static bool agreed(void)
{
	char line[8] = "";

	fputs("fallgate: type yes to go on: ", stderr);
	fflush(stderr);
	return fgets(line, sizeof line, stdin) != NULL && strcmp(line, "yes\n") == 0;
}

/* Verbs that cost something run twice: once to say what, once to do it. */
static int run_verb(struct run *r)
{
	bool asks = offline_needs[r->verb].consent && !r->a->yes;
	int error;

	if (asks && (!isatty(STDIN_FILENO) || r->a->json)) {
		snprintf(r->why, sizeof r->why,
			 "'%s' changes what cannot be had back: look at what 'volume check' says, then give --yes",
			 offline_needs[r->verb].name);
		return ERR_USAGE;
	}
	error = run_once(r);
	if (!asks || error != ERR_STATE || interrupted != 0 || strcmp(r->why, OFFLINE_NO_CONSENT) != 0)
		return error;
	if (!agreed()) {
		snprintf(r->why, sizeof r->why, "not agreed to: nothing was changed");
		return ERR_STATE;
	}
	if (r->options.input_fd >= 0 && lseek(r->options.input_fd, 0, SEEK_SET) != 0)
		return open_failed(r, r->a->header);
	r->options.accept_loss = true;
	return run_once(r);
}

static int exit_code(const struct offline_result *result)
{
	if (result->lost > 0)
		return VOLUME_EXIT_LOSS;
	return result->repairable > 0 ? VOLUME_EXIT_REPAIRABLE : 0;
}

static int finish(struct run *r, int error)
{
	static const char *const remedies[] = {
		[-ERR_CORRUPT] = "if a header is damaged: 'volume repair-header', or 'volume header-restore' with a backup",
		[-ERR_FOREIGN] = "is this the right file or device?",
	};
	int code = exit_code(&r->result);

	clear_bar(r);
	if (error != 0)
		return fail(r, error, interrupted != 0 ? "interrupted: what was not said yet was not looked at" : r->why,
			    (size_t)-error < sizeof remedies / sizeof remedies[0] && remedies[-error] != NULL ? remedies[-error]
													      : "");
	output_outcome(r->a->json, offline_needs[r->verb].name, r->result.checked, r->result.mended, r->result.repairable,
		       r->result.lost, code);
	return code;
}

int volume_run(const struct arguments *a)
{
	struct run *r = calloc(1, sizeof *r);
	int error, code;

	if (r == NULL)
		return error_exit_code(ERR_NOMEM);
	r->a = a;
	r->verb = (enum offline_verb)(a->verb - VERB_VOLUME_CHECK);
	r->options = (struct offline_options){ .accept_loss = a->yes,
					       .repair = a->repair,
					       .dump_at = a->sector_number,
					       .output_fd = -1,
					       .map_fd = -1,
					       .input_fd = -1 };
	r->terminal = isatty(STDERR_FILENO);
	r->begun_ms = r->shown_ms = now_ms();
	watch_signals();
	error = open_files(r);
	if (error == 0)
		error = run_verb(r);
	code = finish(r, error);
	close_files(r, error);
	free(r);
	return code;
}
