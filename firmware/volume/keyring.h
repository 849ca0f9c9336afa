/* The keys of one open volume. What must hold: the raw DEK exists here only between load and the end of load; every derived key,
 * round key and hash power lives in this ring's secret memory and nowhere else; a lease is the only way to a key, lasts one AEAD
 * run of at most 64 items and is never held across I/O or a lock held for I/O; after keyring_wipe no key byte is left.
 * Fail closed: a lease is refused once the ring is shut or a deadline (CLOCK_BOOTTIME) has passed, whoever asks. */
#ifndef FALLGATE_VOLUME_KEYRING_H
#define FALLGATE_VOLUME_KEYRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hal/aead.h"
#include "hal/secret_memory.h"

enum { DEK_BYTES = 32, DEK_BIND_BYTES = 16, DEK_PAYLOAD_BYTES = 48, KCV_BYTES = 16, UUID_BYTES = 16 };

/* The five uses of a DEK (SPEC.md, "Keys"). HDR is an HMAC key, the others are XAES-256-GCM master keys. */
enum key_domain { KEY_DATA, KEY_NODE, KEY_LOG, KEY_ROOT, KEY_DOMAIN_AEAD_COUNT, KEY_HDR = KEY_DOMAIN_AEAD_COUNT };

struct keyring;

/* Makes an empty ring with room for `subkeys` cached salt keys (>= 8). 0, ERR_NOMEM, ERR_UNSUPPORTED (no kernel passes). */
int keyring_create(struct keyring **out, size_t subkeys, const char *forced_kernel);

/* Checks the bind bytes of a 48-byte DEK payload (DEK[32] || SHA-256("FGV1 bind" || uuid || le32 gen_no)[0..15]) and derives
 * every key of that generation. The payload should lie in secret memory; this copies nothing of it elsewhere, and the caller
 * wipes it. Writes the generation's key-check value to kcv. 0, ERR_FOREIGN (bind is another volume's), ERR_STATE (ring shut). */
int keyring_load(struct keyring *k, uint8_t kcv[static KCV_BYTES], const uint8_t payload[static DEK_PAYLOAD_BYTES],
		 const uint8_t uuid[static UUID_BYTES], uint32_t gen_no);

/* The key-check value of a loaded generation; it is no secret. 0 or ERR_NOT_FOUND. */
int keyring_kcv(struct keyring *k, uint8_t kcv[static KCV_BYTES], uint32_t gen_no);

/* Writes the 16 bind bytes for a new payload. No secret involved. */
void keyring_bind(uint8_t bind[static DEK_BIND_BYTES], const uint8_t uuid[static UUID_BYTES], uint32_t gen_no);

/* HMAC-SHA-256 under K_hdr of gen_no. 0 or ERR_REVOKED, ERR_NOT_FOUND. */
int keyring_header_mac(struct keyring *k, uint8_t mac[static 32], uint32_t gen_no, const void *data, size_t size);

/* Seals or opens one run (count <= AEAD_RUN_MAX) under the subkey of (domain, gen_no, salt), taking and returning a lease.
 * open: *bad = how many items failed (their output is zeroed). 0, ERR_REVOKED (shut or past a deadline; outputs untouched or
 * wiped), ERR_NOT_FOUND (no such generation). While keyring_admit is off only `privileged` callers (the lock itself) get in. */
int keyring_seal(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t salt[static AEAD_SALT_BYTES],
		 struct aead_item *items, size_t count);
int keyring_open(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t salt[static AEAD_SALT_BYTES],
		 struct aead_item *items, size_t count, size_t *bad);

/* Deadlines on CLOCK_BOOTTIME in ns; 0 = none set yet = no lease is given. Monotone use is the caller's; any thread. */
void keyring_set_deadlines(struct keyring *k, uint64_t heartbeat_ns, uint64_t proof_ns);

/* True once the earlier deadline has passed: the owner must lock now. */
bool keyring_expired(const struct keyring *k);

/* Stops admission: further leases are refused, except inside keyring_privileged_begin/end of the calling thread (the lock order
 * seals dirty nodes and the root after admission stopped). Returns when no other lease is out. */
void keyring_shut(struct keyring *k);

/* Between begin and end, the calling thread alone may seal on a shut ring (deadlines do not stop it: the lock is short). */
void keyring_privileged_begin(struct keyring *k);
void keyring_privileged_end(struct keyring *k);

/* Shuts, waits for leases, wipes every key. Idempotent, any thread, needs no memory. After it the ring is useless but valid. */
void keyring_wipe(struct keyring *k);

/* Wipes and frees. */
void keyring_destroy(struct keyring *k);

const char *keyring_kernel_name(const struct keyring *k);
enum secret_memory_kind keyring_memory_kind(const struct keyring *k);

/* For the forensic test only: where the ring's secret memory is (reads from inside the process). */
const struct secret_memory *keyring_memory(const struct keyring *k);

#endif
