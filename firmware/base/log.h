/* Log lines to standard error, one write each, with the syslog level prefix that journald understands when asked for.
 * Never given a secret; text from outside passes through log_printable first, so that it cannot forge a line. */
#ifndef FALLGATE_BASE_LOG_H
#define FALLGATE_BASE_LOG_H

#include <stddef.h>

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_NOTICE = 5, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

/* Call once, at start. `program` is kept, not copied. Journal prefixes ("<4>") are written if JOURNAL_STREAM is set. */
void log_open(const char *program, enum log_level most_verbose);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...)  log_line(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)    log_line(LOG_LEVEL_INFO, __VA_ARGS__)

/* For broken promises (a peer's malformed message, a failed setuid), never for bad weather. Logs and _exit(70). */
_Noreturn void fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Copies at most size-1 bytes of `in` to `out`, replacing everything but printable ASCII with '?'. Returns out. */
const char *log_printable(char *out, size_t size, const char *in);

#endif
