/* PINs: from a file's first line, or typed without echo. Never from arguments or the environment, where others can read them. */
#ifndef CUSTODIAN_PIN_H
#define CUSTODIAN_PIN_H

enum { PIN_MAX = 256 };

/* A terminated string in locked memory. */
struct pin {
	char *text;
};

/* From the file, or, if path is NULL, asked for as `name` ("user PIN"); twice when it is a new one. 0 or ERR_*, with its line. */
int pin_get(struct pin *out, const char *path, const char *name, int is_new);

/* Wipes. Safe on a zeroed struct. */
void pin_wipe(struct pin *p);

#endif
