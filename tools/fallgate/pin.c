/* fallgate seal-pin: hands the agent a descriptor that gives the PIN. A file, a pipe on standard input: neither is read here.
 * What must hold: what is typed is not shown, is in locked memory for as long as it is here, and is wiped on every way out; the
 * terminal is left as it was. */
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"

enum { TYPED_MAX = 256 };

/* A signal would leave the terminal without its echo: they wait. */
static ssize_t read_unseen(char *typed, const char *kek)
{
	struct termios before, unseen;
	sigset_t all, old;
	ssize_t n;

	if (tcgetattr(0, &before) != 0)
		return -1;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	unseen = before;
	unseen.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	fprintf(stderr, "PIN of KEK %s: ", kek);
	tcsetattr(0, TCSAFLUSH, &unseen);
	n = read(0, typed, TYPED_MAX);
	tcsetattr(0, TCSAFLUSH, &before);
	fputc('\n', stderr);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return n;
}

static int ask_terminal(const char *kek, char *text, size_t size)
{
	static char typed[TYPED_MAX];
	int ends[2] = { -1, -1 };
	ssize_t n = -1;

	if (mlock(typed, sizeof typed) == 0 && pipe2(ends, O_CLOEXEC) == 0)
		n = read_unseen(typed, kek);
	if (n > 0 && write(ends[1], typed, (size_t)n) != n) /* less than a pipe takes at once */
		n = -1;
	explicit_bzero(typed, sizeof typed);
	if (ends[1] >= 0)
		close(ends[1]);
	if (n > 0)
		return ends[0];
	if (ends[0] >= 0)
		close(ends[0]);
	snprintf(text, size, "no PIN was typed");
	return ERR_USAGE;
}

int pin_descriptor(const char *kek, const char *file, char *text, size_t size)
{
	int fd;

	if (file == NULL && isatty(0))
		return ask_terminal(kek, text, size);
	fd = file == NULL || strcmp(file, "-") == 0 ? fcntl(0, F_DUPFD_CLOEXEC, 3) : open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		snprintf(text, size, "the PIN cannot be read from %.150s: %s", file == NULL ? "standard input" : file,
			 strerror(errno));
	return fd < 0 ? ERR_NOT_FOUND : fd;
}
