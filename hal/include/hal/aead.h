/* AES-256-GCM kernels behind a const table (SP 800-38D, 96-bit IVs, 128-bit tags), and XAES-256-GCM subkeys on top.
 * What must hold: an expanded key lives where the caller says (secret memory) and nowhere else; kernels allocate nothing,
 * keep no state, and clear the vector registers before they return; open never leaves plaintext behind a bad tag.
 * `portable` is the definition of correct: constant-time C, no tables indexed by secrets. */
#ifndef HAL_AEAD_H
#define HAL_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	AEAD_KEY_BYTES = 32, /* a raw AES-256 key */
	AEAD_IV_BYTES = 12,
	AEAD_TAG_BYTES = 16,
	AEAD_SALT_BYTES = 12,       /* the XAES half of the 24-byte nonce: salt[12] || iv[12] */
	AEAD_KEY_STATE_MAX = 12288, /* no kernel's expanded key is larger */
	AEAD_KEY_STATE_ALIGN = 64,
	AEAD_RUN_MAX = 64, /* most items in one run: one key lease */
};

/* One message of a run. `in` and `out` are the same or do not overlap. `aad` may be NULL if aad_size is 0. */
struct aead_item {
	uint8_t *out;       /* size bytes */
	const uint8_t *in;  /* size bytes */
	uint8_t *tag;       /* 16 bytes: written by seal, read by open */
	const uint8_t *aad; /* aad_size bytes */
	size_t size;
	size_t aad_size;
	uint8_t iv[AEAD_IV_BYTES];
	bool good; /* set by open: the tag was right; if not, out is zeroes */
};

struct aead_kernel {
	const char *name;      /* "portable", "aesni", ... */
	size_t key_state_size; /* bytes of expanded key, <= AEAD_KEY_STATE_MAX, a multiple of 64 */
	bool (*usable)(void);  /* this processor can run it */
	/* Expands a raw key into state (64-byte aligned, key_state_size bytes): round keys, hash powers. */
	void (*expand)(void *state, const uint8_t key[AEAD_KEY_BYTES]);
	/* One AES-256 block, for XAES and known answers. */
	void (*encrypt_block)(const void *state, uint8_t out[16], const uint8_t in[16]);
	/* Seals or opens count items. open_run returns how many were bad (0 = all good). */
	void (*seal_run)(const void *state, struct aead_item *items, size_t count);
	size_t (*open_run)(const void *state, struct aead_item *items, size_t count);
};

/* All kernels compiled in, fastest first, NULL-terminated; `portable` is always the last. Usable or not on this CPU. */
const struct aead_kernel *const *aead_kernels(void);

/* By name; NULL if there is none of that name in this build. */
const struct aead_kernel *aead_kernel_by_name(const char *name);

/* The fastest kernel that this CPU can run and that passed its known-answer tests in this process; the tests run at the first
 * call. A kernel that fails one is logged and never chosen. NULL if even portable fails: then nothing may be sealed.
 * `forced` (may be NULL) names the only one to accept. Thread-safe. */
const struct aead_kernel *aead_select(const char *forced);

/* Runs the known answers on one kernel: GCM with and without AAD, whole-sector, bad tag, XAES. 0 or ERR_CORRUPT. */
int aead_self_test(const struct aead_kernel *kernel);

/* XAES-256-GCM (C2SP): from the expanded master key, expands the AES-256-GCM subkey for a salt into `subkey_state`.
 * Sealing under that subkey with iv = the nonce's last 12 bytes is XAES-256-GCM. Intermediates are wiped. */
void aead_xaes_subkey(const struct aead_kernel *kernel, void *subkey_state, const void *master_state,
		      const uint8_t salt[AEAD_SALT_BYTES]);

/* Zeroes every vector register of this processor that could hold key material. Called by kernels on their way out. */
void aead_clear_registers(void);

#endif
