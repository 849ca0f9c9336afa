/* The stage: a test that plays supervisor and hsm, over real sockets, for the real programs. What must hold: no test sees another
 * one's files or processes; a process that does not end when it should is a failure, and is killed at the end all the same.
 * The "HSM" wraps by a fixed XOR: what is tested is the dataplane's side of the conversation. */
#ifndef FALLGATE_TEST_STAGE_H
#define FALLGATE_TEST_STAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "ipc/channel.h"

struct nbd_handle;

enum { STAGE_SIZE = 16 << 20, PAYLOAD_BYTES = 48, PATIENCE_MS = 10000 };

struct stage {
	char dir[64];
	char backing[96];
	char socket[96];
	char log[96]; /* the child's standard error */
	uint8_t uuid[16];
	uint8_t fingerprint[FINGERPRINT_BYTES];
	uint8_t payload[PAYLOAD_BYTES]; /* what the fake hsm saw: the data key */
	uint8_t kcv[16];
	uint64_t size;
	bool read_only;
	struct channel supervisor; /* our end */
	pid_t child;               /* 0: none */
	struct channel hsm;        /* our end of the pair in the last ticket */
	uint64_t ticket;
	uint32_t generation;
};

/* Where things are, from the command line: BIN [NAMES-OF-TESTS]. False: it is not that, exit code 2. */
extern const char *stage_bin; /* the folder with fallgate-dataplane, fallgate-nbd.so, keyscan */
bool stage_begin(int argc, char **argv);
bool stage_has_server(size_t tests); /* false: nbdkit cannot have this build's plugin, and it was said that so many are skipped */

void stage_make(struct stage *s);
void stage_end(struct stage *s);

/* ---- programs ---- */

void stage_start_creator(struct stage *s);                            /* and takes its HELLO */
void stage_start_server(struct stage *s);                             /* likewise */
void stage_start_job(struct stage *s);                                /* likewise */
void stage_start_with(struct stage *s, const char *const *arguments); /* fallgate-dataplane with these; likewise */
int stage_wait_end(struct stage *s, int ms); /* the exit code, -SIGNAL, or fails the test when it does not end */
void stage_kill(struct stage *s);
char *stage_log(struct stage *s); /* to be freed */

/* ---- the supervisor's part ---- */

uint64_t boottime_ns(void);
void sleep_ms(long ms);
void stage_send(struct stage *s, struct message *m, const int *fds, unsigned count);
void stage_next(struct stage *s, enum message_type wanted, struct message *m, int ms); /* skips statistics */
bool stage_next_is(struct stage *s, enum message_type wanted, struct message *m, int ms);
void stage_deadlines(struct stage *s, uint64_t heartbeat_in_ms, uint64_t proof_in_ms);
int stage_open_backing(struct stage *s);
void stage_order_create(struct stage *s, bool force);
void stage_attach(struct stage *s, struct message *ready);
void stage_attach_as(struct stage *s, const struct msg_dp_attach *attach, struct message *ready);
struct msg_dp_attach stage_pins(const struct stage *s);
void stage_give_ticket(struct stage *s);
void stage_lock(struct stage *s, uint8_t cause);

/* ---- the hsm's part ---- */

void stage_hsm_takes(struct stage *s, struct message *question, int *page_fd);
void stage_hsm_wraps(struct stage *s);   /* PAGE_WRAP to its end, good */
void stage_hsm_unwraps(struct stage *s); /* PAGE_UNWRAP likewise */
void stage_hsm_answers(struct stage *s, const struct message *question, int page_fd, struct msg_page_done done);

/* ---- the usual way up to here ---- */

void stage_create(struct stage *s); /* a volume of STAGE_SIZE, pins kept in s */
void stage_serve(struct stage *s);  /* server started and attached: keyless */
void stage_unlock(struct stage *s); /* and opened, deadlines far away */
struct nbd_handle *stage_client(struct stage *s);

#endif
