/* From what is known to CBOR bodies; MANAGEMENT.md lists every key. Pure. Each returns the body's size or ERR_NOSPACE. */
#ifndef FALLGATE_MGMT_RENDER_H
#define FALLGATE_MGMT_RENDER_H

#include <stddef.h>
#include <stdint.h>

#include "state.h"

enum { RENDER_BODY_MAX = 128 * 1024 };

int render_status(uint8_t *out, size_t size, const struct state *s);
int render_volumes(uint8_t *out, size_t size, const struct state *s);
int render_volume(uint8_t *out, size_t size, const struct msg_mg_volume *v, uint64_t silent_ns); /* 0: it is not silent */
int render_gate(uint8_t *out, size_t size, const struct msg_mg_volume *v);
int render_posture(uint8_t *out, size_t size, const struct state *s);

/* text empty: the error's own. */
int render_problem(uint8_t *out, size_t size, int error, const char *text);
int render_done(uint8_t *out, size_t size, const struct pending *p);

#endif
