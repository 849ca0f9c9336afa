/* What a person or a script sees. What must hold: with --json there is one object a line on standard output and its names are the
 * CBOR bodies' names; text from outside is made printable before a terminal gets it. */
#ifndef FALLGATE_OUTPUT_H
#define FALLGATE_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

struct body;
struct body_item;

/* Any body as one line of JSON; byte strings in hexadecimal. */
void output_json(const struct body *b);

void output_status(const struct body *b);
void output_volumes(const struct body *b);
void output_volume(const struct body *b);
void output_posture(const struct body *b);
void output_done(const struct body *b, const char *verb, const char *name);

/* One line for one state of one volume: a map with name, state, cause, ... */
void output_change(const struct body *b, const struct body_item *volume);

/* "fallgate: what; remedy" on standard error, and with json {error, text, remedy, exit} on standard output. remedy may be empty.
 */
void output_error(bool json, const char *error, const char *text, const char *remedy, int exit_code);

/* One finding of a verb that looks at a volume: {"severity", "text"}, or a line with the severity before it. */
void output_finding(bool json, const char *severity, const char *text);

/* {"done", "total"}, in bytes of work. */
void output_progress(uint64_t done, uint64_t total);

/* How such a verb ended. */
void output_outcome(bool json, const char *verb, uint64_t checked, uint64_t mended, uint64_t repairable, uint64_t lost,
		    int exit_code);

/* A small result of the console: {"done": verb, "text": text}. */
void output_told(bool json, const char *verb, const char *text);

#endif
