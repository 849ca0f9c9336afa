/* A TPM 2.0: what seals a secret to the boot state, and counters that only go up. What must hold: every command that carries a
 * secret, or whose answer is believed, goes through a session salted with the TPM's own storage key, so that who listens on the
 * bus reads nothing and who alters it is found out; that key is pinned in what was sealed: another TPM, or one that was cleared,
 * is told from a boot state that differs. Nothing here has a deadline: a TPM may hang, and the process that called is ended by
 * another. */
#ifndef HAL_TPM_H
#define HAL_TPM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	TPM_SECRET_MAX = 128, /* what TPMs seal at once */
	TPM_SEALED_MAX = 640, /* of the blob that comes of it */
	TPM_PCR_COUNT = 24,
	TPM_WHY_BYTES = 200,
};

struct tpm;

struct tpm_facts {
	char kind[24]; /* the manufacturer's four letters, and the firmware's version */
	char bank[8];  /* of the PCRs: "sha256" or "sha384" */
	uint32_t zero; /* those of the PCRs asked for that nobody has extended since the reset: a bit each */
};

/* `where`: "/dev/tpmrm0"; in a build with HAL_TPM_SWTPM also "swtpm:/SOCKET". Opens; says nothing to the TPM yet. Everything
 * below: 0, or ERR_* and `why` says what and what to do, without a full stop.
 *  ERR_UNREACHABLE  it did not answer, or not so that anything follows from it (also: it is in lockout)
 *  ERR_REFUSED      the boot state is not the one that the secret was sealed to
 *  ERR_FOREIGN      another TPM, or one that was cleared
 *  ERR_CORRUPT      the blob is none, or was altered
 *  ERR_UNSUPPORTED  it lacks what is needed
 *  ERR_NOMEM, ERR_RANGE */
int tpm_open(struct tpm **out, const char *where, char why[static TPM_WHY_BYTES]);
void tpm_close(struct tpm *t);

bool tpm_where_good(const char *where);

int tpm_look(struct tpm *t, uint32_t pcrs, struct tpm_facts *out, char why[static TPM_WHY_BYTES]);

/* To what the PCRs of this set (a bit each) are now. */
int tpm_seal(struct tpm *t, uint32_t pcrs, const void *secret, size_t size, uint8_t blob[static TPM_SEALED_MAX],
	     size_t *blob_size, char why[static TPM_WHY_BYTES]);
/* A refusal counts against no lockout: the blob has no password that could be guessed. */
int tpm_unseal(struct tpm *t, const uint8_t *blob, size_t blob_size, uint8_t secret[static TPM_SECRET_MAX], size_t *size,
	       char why[static TPM_WHY_BYTES]);

/* A counter in the TPM that nobody sets back: one that is made anew begins above all that ever were. `index` is an NV index of
 * the owner's range, 0x01800000 to 0x01bfffff. An index that is not such a counter (somebody has put another thing there) is
 * ERR_CORRUPT. make: ERR_EXISTS, ERR_NOSPACE. read: ERR_NOT_FOUND. step: until it is at least `to`, at most two steps. */
int tpm_counter_make(struct tpm *t, uint32_t index, uint64_t *value, char why[static TPM_WHY_BYTES]);
int tpm_counter_read(struct tpm *t, uint32_t index, uint64_t *value, char why[static TPM_WHY_BYTES]);
int tpm_counter_step(struct tpm *t, uint32_t index, uint64_t to, uint64_t *value, char why[static TPM_WHY_BYTES]);

#endif
