/* One DTLS session with an agent. What must hold: the peer has proven that it knows the key, or nothing is sent; every wait ends.
 * (No peer names: the PSK itself is the pin.) */
#ifndef FALLGATE_REMOTE_H
#define FALLGATE_REMOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct credentials;
struct remote;

struct question {
	uint8_t method;   /* CoAP: 1 GET, 2 POST */
	const char *path; /* "volumes/demo/state" */
	bool has_if_match;
	uint64_t if_match;
	const uint8_t *body;
	size_t body_size;
	unsigned seconds; /* how long the answer may take */
};

struct answer {
	uint8_t code;  /* class << 5 | detail */
	uint8_t *body; /* free it */
	size_t size;
};

/* 0, or ERR_* with one clear line in text. */
int remote_open(struct remote **out, const struct credentials *c, char *text, size_t size);

/* An Echo demand is met on the way; the answer's code may be any other. */
int remote_ask(struct remote *r, const struct question *q, struct answer *a, char *text, size_t size);

/* Observes path: calls on_change for each representation, until it says no, or the agent is gone. */
typedef bool remote_change(void *context, const struct answer *a);
int remote_watch(struct remote *r, const char *path, remote_change *on_change, void *context, char *text, size_t size);

void remote_close(struct remote *r);

#endif
