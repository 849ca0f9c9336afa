/* The forensic search: what is looked for, and where. Shared by keyscan's files only. */
#ifndef FALLGATE_TEST_KEYSCAN_H
#define FALLGATE_TEST_KEYSCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* ---- patterns: 8-byte pieces of whatever is looked for, in a table that a scan asks at every offset ---- */

struct patterns;

struct patterns *patterns_read(FILE *in, size_t *count); /* "HEX LABEL" a line; NULL after one line on stderr */
void patterns_free(struct patterns *p);

/* Calls hit for every piece found. The same label at the same place may be reported for several pieces. */
typedef void patterns_hit(void *context, const char *label, size_t at);
void patterns_scan(const struct patterns *p, const uint8_t *data, size_t size, patterns_hit *hit, void *context);

/* ---- a stopped process ---- */

struct tracee;

/* Stops every thread. NULL (one line on stderr) if one could not be stopped. */
struct tracee *tracee_stop(pid_t pid);

/* Lets every thread run again, each detached by hand: a tracer that only exits may leave a trap behind. */
void tracee_release(struct tracee *t);

/* Register sets of all threads: general and vector. Calls take for each; returns how many could not be read. */
typedef void tracee_take(void *context, const char *where, const uint8_t *data, size_t size);
size_t tracee_registers(struct tracee *t, tracee_take *take, void *context);

/* Has the process itself write [address, address+size) into a memfd of its own and hands the copy out: the only way from outside
 * into memfd_secret. `readable` false: the mapping is PROT_NONE and is opened for the moment. 0, or -1 after a line on stderr. */
int tracee_read_secret(struct tracee *t, uint64_t address, size_t size, bool readable, uint8_t *out);

/* ---- derivation ---- */

/* Reads "payload HEX96", "uuid HEX32", "gen N", "salt HEX24" lines and prints "HEX LABEL" lines for everything that the dataplane
 * could hold of that key. 0, or -1 after a line on stderr. */
int keyscan_derive(FILE *in, FILE *out);

/* Hex of exactly `size` bytes, nothing behind it but white space. */
bool hex_parse(const char *text, uint8_t *out, size_t size);

#endif
