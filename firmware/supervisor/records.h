/* The supervisor's own memory on disk: device key, KEK pins, volumes, gates, PIN states, credentials. What must hold: every
 * record is a few lines of text under an HMAC whose key is derived from the device key and the record's kind, over kind and name
 * too, so that no bit of it and no other record in its place is believed; a write is all or nothing and durable when it returns.
 */
#ifndef FALLGATE_SUPERVISOR_RECORDS_H
#define FALLGATE_SUPERVISOR_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/message.h"
#include "revocation/revocation.h"

enum { RECORD_MAX_BYTES = 65536, DEVICE_KEY_BYTES = 32, BOOT_ID_BYTES = 40 };

enum record_kind {
	RECORD_KEK,
	RECORD_PIN,
	RECORD_SEALED,
	RECORD_ANCHOR,
	RECORD_VOLUME,
	RECORD_GATE,
	RECORD_CREDENTIALS,
	RECORD_CLOCK,
	RECORD_WATCHDOG,
	RECORD_KIND_COUNT
};

struct records {
	int dir_fd; /* -1: closed */
	uint8_t device_key[DEVICE_KEY_BYTES];
};

/* Opens the state directory (made, 0700, if `create`), reads or makes the device key. 0, ERR_NOT_FOUND (not created), ERR_DENIED
 * (others may enter it), ERR_BUSY (`create`, and another agent has it), ERR_CORRUPT (a device key of the wrong size), ERR_IO;
 * logged. */
int records_open(struct records *r, const char *state_dir, bool create);
void records_close(struct records *r);

/* Whole bodies. read: the body is NUL-terminated; 0, ERR_NOT_FOUND, ERR_CORRUPT (not written by this device for this place),
 * ERR_IO. write: 0, ERR_NOSPACE, ERR_IO. Threads may do all of it at once: of two who write the same record one comes last,
 * whole. */
int records_read(const struct records *r, enum record_kind kind, const char *name, char *body, size_t size);
int records_write(const struct records *r, enum record_kind kind, const char *name, const char *body);

/* What can stand in them. */
struct gate_record {
	bool latched;
	enum gate_cause latch_cause;
	uint64_t seq;
	bool attach_wanted;
	bool purged;
	uint64_t purge_at_ns; /* wall clock; 0: no countdown runs */
};

struct volume_record {
	uint8_t uuid[16];
	uint8_t kcv[16];
	uint32_t gen_no;
	uint64_t size;
	char kek[NAME_MAX_BYTES];
	uint8_t fingerprint[FINGERPRINT_BYTES];
};

struct kek_record {
	uint8_t type; /* enum kek_type */
	uint8_t hash; /* enum oaep_hash; RSA */
	uint16_t bits;
	uint16_t modulus_size, exponent_size; /* RSA */
	uint8_t modulus[MODULUS_MAX_BYTES];
	uint8_t exponent[8];
	uint16_t canary_size; /* AES: the wrapped canary */
	uint8_t canary[WRAP_MAX_BYTES];
	uint8_t fingerprint[FINGERPRINT_BYTES];
	char label[64];
	uint16_t id_size;
	uint8_t id[62];
	char token_label[33];
};

enum pin_state { PIN_UNKNOWN, PIN_GOOD, PIN_PENDING, PIN_REFUSED, PIN_STATE_COUNT };

struct pin_record {
	enum pin_state state;
	/* of which file that was said: another content has another of these */
	uint64_t inode, size, mtime_ns;
};

enum anchor_state { ANCHOR_UNBOUND, ANCHOR_BINDING, ANCHOR_BOUND, ANCHOR_STATE_COUNT };

/* Which counter of the TPM a volume is bound to. */
struct anchor_record {
	enum anchor_state state;
	uint8_t uuid[16]; /* of the volume: one that was made anew is another */
	uint32_t index;
};

/* A PIN that a TPM sealed: a blob that only it, in that boot state, opens. */
struct sealed_record {
	uint16_t size;
	uint8_t blob[SEALED_MAX_BYTES];
};

/* The start at which the watchdog was armed last. */
struct watchdog_record {
	char boot_id[BOOT_ID_BYTES];
	uint32_t resets; /* starts in a row that it brought about, that one included */
	uint64_t armed_wall_ns;
};

/* The latest wall time that was ever believed, in nanoseconds; reading it without a record, or one that is damaged, gives 0. */
uint64_t records_read_clock(const struct records *r);
int records_write_clock(const struct records *r, uint64_t last_seen_ns);

int records_read_watchdog(const struct records *r, struct watchdog_record *out);
int records_write_watchdog(const struct records *r, const struct watchdog_record *in);

int records_read_gate(const struct records *r, const char *name, struct gate_record *out);
int records_write_gate(const struct records *r, const char *name, const struct gate_record *in);
int records_read_volume(const struct records *r, const char *name, struct volume_record *out);
int records_write_volume(const struct records *r, const char *name, const struct volume_record *in);
int records_read_kek(const struct records *r, const char *name, struct kek_record *out);
int records_write_kek(const struct records *r, const char *name, const struct kek_record *in);
int records_read_pin(const struct records *r, const char *name, struct pin_record *out);
int records_write_pin(const struct records *r, const char *name, const struct pin_record *in);

int records_read_anchor(const struct records *r, const char *name, struct anchor_record *out);
int records_write_anchor(const struct records *r, const char *name, const struct anchor_record *in);
int records_read_sealed(const struct records *r, const char *name, struct sealed_record *out);
int records_write_sealed(const struct records *r, const char *name, const struct sealed_record *in);

/* Names of volumes that have a record: calls fn for each good name in volumes/. */
void records_each_volume(const struct records *r, void (*fn)(void *context, const char *name), void *context);

#endif
