/* One line, one write(2): lines of several processes on one descriptor do not mix. */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* File-level state: the log is the one thing that every function may need before any context exists. */
static const char *log_program = "fallgate";
static enum log_level log_most_verbose = LOG_LEVEL_INFO;
static int log_journal;

void log_open(const char *program, enum log_level most_verbose)
{
	log_program = program;
	log_most_verbose = most_verbose;
	log_journal = getenv("JOURNAL_STREAM") != NULL;
}

static __attribute__((format(printf, 2, 0))) void write_line(enum log_level level, const char *format, va_list args)
{
	char line[1024];
	size_t used = 0;
	int n;

	if (log_journal)
		n = snprintf(line, sizeof line, "<%d>%s[%d]: ", (int)level, log_program, (int)getpid());
	else
		n = snprintf(line, sizeof line, "%s[%d]: ", log_program, (int)getpid());
	if (n > 0)
		used = (size_t)n < sizeof line - 2 ? (size_t)n : sizeof line - 2;
	n = vsnprintf(line + used, sizeof line - used - 1, format, args);
	if (n > 0)
		used += (size_t)n < sizeof line - used - 2 ? (size_t)n : sizeof line - used - 2;
	line[used++] = '\n';
	if (write(STDERR_FILENO, line, used) < 0)
		return; /* nowhere left to say it */
}

void log_line(enum log_level level, const char *format, ...)
{
	va_list args;

	if (level > log_most_verbose)
		return;
	va_start(args, format);
	write_line(level, format, args);
	va_end(args);
}

void fatal(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	write_line(LOG_LEVEL_ERROR, format, args);
	va_end(args);
	_exit(70);
}

const char *log_printable(char *out, size_t size, const char *in)
{
	size_t i = 0;

	if (size == 0)
		return out;
	for (; i + 1 < size && in[i] != '\0'; i++)
		out[i] = in[i] >= ' ' && in[i] <= '~' ? in[i] : '?';
	out[i] = '\0';
	return out;
}
