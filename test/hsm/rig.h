/* A folder with a token of its own, the real fallgate-hsm at the other end of real channels, and the custodian's tool. */
#ifndef FALLGATE_TEST_HSM_RIG_H
#define FALLGATE_TEST_HSM_RIG_H

#include <stdbool.h>
#include <sys/types.h>

#include "hal/secret_memory.h"
#include "ipc/channel.h"
#include "ipc/message.h"

struct rig {
	char folder[128];
	char module[256];
	char init_args[512];
	bool nss;
	pid_t pid;                            /* 0: no process */
	struct channel supervisor, dataplane; /* the ends that the test holds */
	enum oaep_hash hash;
	bool pin_renewed; /* what rig_open says of the PIN */
};

enum { PROCESS_TIMEOUT_MS = 30000 };

/* SoftHSM2 or NSS, behind the module that fails on order; a token "cust omer" with the PIN in folder/pin. rig_new leaves 77 if
 * there is none. */
void rig_new(struct rig *r, bool nss);
void rig_remove(struct rig *r);

/* fallgate-custodian VERB..., on this token and with its PIN; the exit code. */
int rig_custodian(struct rig *r, const char *arguments);

/* A command line in the rig's environment. */
int rig_shell(struct rig *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* AES keys that the custodian's tool would not make. */
void rig_odd_key(struct rig *r, const char *label, bool sensitive, bool extractable, bool wrap, bool unwrap, unsigned long bytes);

/* Starts the process and takes its HELLO. */
void rig_start(struct rig *r, bool one_shot);

/* Waits for its end: the exit code, or 128 + signal. */
int rig_reap(struct rig *r);

/* Kills what runs. */
void rig_stop(struct rig *r);

void rig_send(struct channel *c, const struct message *m, const int *fds, unsigned count);
void rig_receive(struct channel *c, struct message *m, enum message_type type);

/* OPEN with the rig's module, on its token (or on what a whole URI names); login_allowed; PIN file by name within the folder,
 * NULL: none. */
void rig_open(struct rig *r, const char *object, const char *pin, bool login_allowed, struct message *answer);

/* PROBE: a fresh challenge for an RSA key, the canary for AES. The verdict; GOOD only if the answer is right. */
enum hsm_verdict rig_probe(struct rig *r, const struct message *opened, struct message *canary, struct message *answer);

/* A challenge under the public key that was opened; its size. */
uint16_t rig_encrypt(const struct msg_hsm_opened *o, enum oaep_hash hash, const uint8_t plain[static CHALLENGE_BYTES],
		     uint8_t *out);

/* How many calls of that name the module has seen, by all processes; and what it is to do from now on
 * (test/fakes/fault_module.c). */
unsigned rig_calls(struct rig *r, const char *word);
void rig_fault(struct rig *r, const char *lines);

#endif
