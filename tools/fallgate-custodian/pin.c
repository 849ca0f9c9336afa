/* One locked page for each PIN, read into directly. */
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"
#include "failure.h"

enum { PAGE = 4096 };

static int pin_make(struct pin *p)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p->text = page == MAP_FAILED ? NULL : page;
	if (p->text == NULL || mlock(page, PAGE) != 0 || madvise(page, PAGE, MADV_DONTDUMP) != 0) {
		pin_wipe(p);
		return fail(ERR_NOMEM, "no locked memory for a PIN; raise the limit: ulimit -l 64");
	}
	return 0;
}

void pin_wipe(struct pin *p)
{
	if (p->text != NULL) {
		explicit_bzero(p->text, PAGE);
		munmap(p->text, PAGE);
	}
	p->text = NULL;
}

/* The first line, terminated. ERR_IO if it cannot be read; ERR_RANGE if it is empty, too long, or holds a NUL. */
static int read_line(int fd, char *out)
{
	size_t got = 0;
	char *end;
	ssize_t n;

	do {
		n = read(fd, out + got, PIN_MAX + 2 - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ERR_IO;
		got += (size_t)n;
	} while (n != 0 && got < PIN_MAX + 2 && memchr(out, '\n', got) == NULL);
	end = memchr(out, '\n', got);
	got = end != NULL ? (size_t)(end - out) : got;
	if (got > 0 && out[got - 1] == '\r')
		got--;
	if (got == 0 || got > PIN_MAX || memchr(out, '\0', got) != NULL)
		return ERR_RANGE;
	explicit_bzero(out + got, PAGE - got);
	return 0;
}

static int from_file(struct pin *p, const char *path, const char *name)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int r;

	if (fd < 0)
		return fail(error_from_errno(errno), "%s: %s cannot be opened: %s; check the path and its permissions", name,
			    path, strerror(errno));
	r = read_line(fd, p->text);
	close(fd);
	if (r != 0)
		return fail(r, "%s: the first line of %s must be the PIN: 1 to %d bytes", name, path, PIN_MAX);
	return 0;
}

static void say(int tty, const char *text)
{
	if (write(tty, text, strlen(text)) < 0)
		return; /* the terminal is gone: reading from it fails next */
}

/* Signals wait until echo is back: a key combination that ends the tool must not leave the terminal mute. */
static int read_mute(int tty, char *out, const struct termios *quiet, const struct termios *before, const char *name,
		     const char *again)
{
	sigset_t ends, old;
	int r;

	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGQUIT);
	sigaddset(&ends, SIGTSTP);
	sigprocmask(SIG_BLOCK, &ends, &old);
	r = tcsetattr(tty, TCSAFLUSH, quiet) == 0 ? 0 : ERR_IO;
	if (r == 0) {
		say(tty, name);
		say(tty, again);
		r = read_line(tty, out);
		tcsetattr(tty, TCSAFLUSH, before);
		say(tty, "\n");
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	return r;
}

static int ask_once(struct pin *p, int tty, const char *name, const char *again)
{
	struct termios before, quiet;
	int r;

	if (tcgetattr(tty, &before) != 0)
		return fail(ERR_IO, "%s: echo cannot be switched off at this terminal; use a file", name);
	quiet = before;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL);
	r = read_mute(tty, p->text, &quiet, &before, name, again);
	if (r == ERR_IO)
		return fail(r, "%s: it could not be read at this terminal; use a file", name);
	return r == 0 ? 0 : fail(r, "%s: nothing that could be a PIN was typed (1 to %d bytes)", name, PIN_MAX);
}

static int ask_again(const struct pin *first, int tty, const char *name)
{
	struct pin second = { 0 };
	int r = pin_make(&second);

	if (r == 0)
		r = ask_once(&second, tty, name, " again: ");
	if (r == 0 && strcmp(first->text, second.text) != 0)
		r = fail(ERR_USAGE, "%s: the two differ; repeat the command", name);
	pin_wipe(&second);
	return r;
}

static int ask(struct pin *p, const char *name, int is_new)
{
	int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	int r;

	if (tty < 0)
		return fail(ERR_USAGE, "%s: there is no terminal to ask at; give it in a file (see --help)", name);
	r = ask_once(p, tty, name, ": ");
	if (r == 0 && is_new)
		r = ask_again(p, tty, name);
	close(tty);
	return r;
}

int pin_get(struct pin *out, const char *path, const char *name, int is_new)
{
	int r = pin_make(out);

	if (r != 0)
		return r;
	r = path != NULL ? from_file(out, path, name) : ask(out, name, is_new);
	if (r != 0)
		pin_wipe(out);
	return r;
}
