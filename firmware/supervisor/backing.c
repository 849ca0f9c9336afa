/* See backing.h. */
#include "backing.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"

struct opening {
	struct loop *loop;
	struct volume_config config;
	opening_done *done;
	void *context;
	int event_fd;
	struct watch watch;
	enum opening_kind kind;
	bool finished, abandoned; /* under the lock; who sets the second of the two cleans up */
	int fd;
	bool created;
	char text[TEXT_MAX_BYTES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

enum { HOW = O_CLOEXEC | O_NOCTTY | O_NONBLOCK };

/* What the line `backing` is to blame for, and no device of the machine and no right of whoever asked. */
static bool misplaced(int why)
{
	static const int reasons[] = { ENOENT, ENOTDIR, EISDIR, EROFS, EACCES, EPERM, ENAMETOOLONG };

	for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
		if (why == reasons[i])
			return true;
	return false;
}

static int say(char text[static TEXT_MAX_BYTES], int error, const struct volume_config *c, const char *why)
{
	snprintf(text, TEXT_MAX_BYTES, "backing %.120s: %s", c->backing, why);
	return error;
}

/* /dev/disk/by-id and the like are links that root made. */
static bool trusted_link(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && (st.st_uid == 0 || st.st_uid == geteuid());
}

static int open_existing(const char *path, int mode)
{
	int fd = open(path, HOW | mode | O_NOFOLLOW);

	if (fd < 0 && errno == ELOOP && trusted_link(path))
		fd = open(path, HOW | mode);
	return fd;
}

static bool given_up(const struct opening *o)
{
	bool abandoned;

	pthread_mutex_lock(&lock);
	abandoned = o->abandoned;
	pthread_mutex_unlock(&lock);
	return abandoned;
}

static int open_store(struct opening *o)
{
	const struct volume_config *c = &o->config;
	enum opening_kind kind = o->kind;
	char *text = o->text;
	struct stat st;
	int fd = open_existing(c->backing, kind == OPENING_READ ? O_RDONLY : O_RDWR);

	if (fd < 0 && errno == ENOENT && kind == OPENING_CREATE) {
		if (c->size == 0)
			return say(text, ERR_CONFIG, c, "there is no such file or device; for a new file give a size");
		if (given_up(o))
			return ERR_STATE; /* there is nobody to tell */
		fd = open(c->backing, HOW | O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
		o->created = fd >= 0;
	}
	if (fd < 0 && errno == EEXIST && kind == OPENING_CREATE)
		return say(text, ERR_CONFIG, c, "a symbolic link that leads nowhere; make the file it names, or name another");
	if (fd < 0 && errno == ELOOP)
		return say(text, ERR_CONFIG, c,
			   "a symbolic link that neither root nor the agent owns is not followed; name the file itself");
	if (fd < 0 && kind == OPENING_CREATE && misplaced(errno))
		return say(text, ERR_CONFIG, c, strerror(errno));
	if (fd < 0)
		return say(text, error_from_errno(errno), c, strerror(errno));
	if (fstat(fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
		close(fd);
		return say(text, ERR_CONFIG, c, "neither a regular file nor a block device");
	}
	return fd;
}

static void discard(struct opening *o)
{
	if (o->fd >= 0)
		close(o->fd);
	if (o->created)
		unlink(o->config.backing);
	close(o->event_fd);
	free(o);
}

static void *open_slowly(void *context)
{
	struct opening *o = context;
	bool abandoned;

	o->fd = open_store(o);
	pthread_mutex_lock(&lock);
	o->finished = true;
	abandoned = o->abandoned;
	if (!abandoned)
		eventfd_write(o->event_fd, 1); /* before the lock is given back: after it, o may be gone */
	pthread_mutex_unlock(&lock);
	if (abandoned) {
		o->created = false; /* the file stays, empty: another opening may have found it, and made a volume in it */
		discard(o);
	}
	return NULL;
}

static void opened(void *context)
{
	struct opening *o = context;
	bool created;
	int fd;

	pthread_mutex_lock(&lock); /* then the thread is done with it */
	fd = o->fd;
	created = o->created;
	pthread_mutex_unlock(&lock);
	loop_unwatch(o->loop, &o->watch);
	o->fd = -1;
	o->created = false;
	o->done(o->context, fd, created, o->text);
	discard(o);
}

static int start_thread(void *(*body)(void *), void *context)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int r;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attributes, body, context);
	pthread_attr_destroy(&attributes);
	return r == 0 ? 0 : ERR_NOMEM;
}

int opening_start(struct opening **out, struct agent *a, const struct volume_config *c, enum opening_kind kind,
		  opening_done *done, void *context)
{
	struct opening *o = calloc(1, sizeof *o);
	int r = ERR_NOMEM;

	if (o == NULL)
		return ERR_NOMEM;
	o->loop = &a->loop;
	o->config = *c;
	o->kind = kind;
	o->done = done;
	o->context = context;
	o->fd = -1;
	o->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (o->event_fd >= 0)
		r = loop_watch(o->loop, &o->watch, o->event_fd, opened, o);
	if (r == 0 && start_thread(open_slowly, o) == 0) {
		*out = o;
		return 0;
	}
	log_error("volume %s: its backing store cannot be opened: no thread, or no descriptor, is to be had", c->name);
	if (r == 0)
		loop_unwatch(o->loop, &o->watch);
	if (o->event_fd >= 0)
		close(o->event_fd);
	free(o);
	return ERR_NOMEM;
}

void opening_abandon(struct opening *o)
{
	bool finished;

	if (o == NULL)
		return;
	loop_unwatch(o->loop, &o->watch);
	pthread_mutex_lock(&lock);
	o->abandoned = true;
	finished = o->finished;
	pthread_mutex_unlock(&lock);
	if (finished)
		discard(o);
}

struct closing {
	unsigned count;
	int fds[];
};

static void *close_slowly(void *context)
{
	struct closing *c = context;

	for (unsigned i = 0; i < c->count; i++)
		if (c->fds[i] >= 0)
			close(c->fds[i]);
	free(c);
	return NULL;
}

void close_elsewhere(const int *fds, unsigned count)
{
	struct closing *c = malloc(sizeof *c + count * sizeof fds[0]);

	if (c == NULL) {
		for (unsigned i = 0; i < count; i++)
			if (fds[i] >= 0)
				close(fds[i]);
		return;
	}
	c->count = count;
	memcpy(c->fds, fds, count * sizeof fds[0]);
	if (start_thread(close_slowly, c) != 0)
		close_slowly(c);
}
