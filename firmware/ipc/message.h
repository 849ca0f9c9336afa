/* Every message between the processes: fixed-size structs of one build, one per SOCK_SEQPACKET datagram, host byte order.
 * What must hold: a message whose type, size, descriptor count or sender is not as its row in message_rows says is fatal to
 * the peer that sent it; text fields are NUL-terminated inside their array; no message carries a data key: the DEK travels only
 * in a transfer page. PROTOCOL.md tells the conversations. */
#ifndef FALLGATE_IPC_MESSAGE_H
#define FALLGATE_IPC_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	NAME_MAX_BYTES = 32,     /* volume and KEK names with the NUL: [a-z0-9][a-z0-9_-]{0,30} */
	IDENTITY_MAX_BYTES = 64, /* a PSK identity, a user */
	TEXT_MAX_BYTES = 256,    /* one clear line: what, where, what to do */
	URI_MAX_BYTES = 512,
	PATH_MAX_BYTES = 512,
	MODULUS_MAX_BYTES = 512, /* RSA-4096 */
	WRAP_MAX_BYTES = 632,
	CHALLENGE_BYTES = 32,
	PSK_BYTES = 32,
	FINGERPRINT_BYTES = 32,
	SEALED_MAX_BYTES = 640, /* what a TPM sealed; a test compares it with TPM_SEALED_MAX */
};

/* How many values the enums of other rooms have that travel here as bytes: ipc knows no other room, so the test compares them
 * with GATE_STATE_COUNT, CAUSE_COUNT and enum secret_memory_kind. */
enum { MESSAGE_GATE_STATES = 11, MESSAGE_GATE_CAUSES = 19, MESSAGE_MEMORY_KINDS = 3 };

/* What an opening makes of the count that the volume names: enum volume_anchor, for the room that may not know the volume. The
 * same test compares them one by one. */
enum ticket_anchor {
	TICKET_ANCHOR_IGNORE,
	TICKET_ANCHOR_NONE,
	TICKET_ANCHOR_BIND,
	TICKET_ANCHOR_CHECK,
	TICKET_ANCHOR_ACCEPT,
	TICKET_ANCHOR_COUNT
};

enum process_role {
	ROLE_SUPERVISOR,
	ROLE_HSM,
	ROLE_DATAPLANE,
	ROLE_MGMT,
	ROLE_CONSOLE,
	ROLE_HOOKS,
	ROLE_UBLK,
	ROLE_TPM,
	ROLE_COUNT
};

enum message_type {
	MSG_NONE,

	/* any process -> supervisor, first message: version string and pid; anything else first is fatal */
	MSG_HELLO,

	/* supervisor -> hsm */
	MSG_HSM_OPEN, /* + fd of the PIN file (0 or 1) */
	MSG_HSM_PROBE,
	MSG_HSM_UNWRAP, /* the supervisor's half of a ticket */
	MSG_HSM_WRAP,   /* likewise, for a new volume */
	MSG_HSM_CLOSE,
	/* hsm -> supervisor */
	MSG_HSM_OPENED,
	MSG_HSM_VERDICT, /* answer to probe, unwrap, wrap */

	/* dataplane -> hsm, over the channel that the supervisor wired: the dataplane's half, + fd of the transfer page (1) */
	MSG_PAGE_UNWRAP,
	MSG_PAGE_WRAP,
	/* hsm -> dataplane */
	MSG_PAGE_DONE,

	/* supervisor -> dataplane */
	MSG_DP_ATTACH,    /* + fd of the backing store (1) */
	MSG_DP_CREATE,    /* + fd of the backing store (1); one-shot creator */
	MSG_DP_JOB,       /* + fds: backing store, then those of MSG_CON_JOB (2..5); one-shot job */
	MSG_DP_TICKET,    /* + fd of the channel to the one-shot hsm (1) */
	MSG_DP_DEADLINES, /* heartbeat and proof; every message counts as a heartbeat */
	MSG_DP_LOCK,
	MSG_DP_DETACH,
	MSG_DP_ANCHOR, /* the volume is to name this count */
	/* dataplane -> supervisor */
	MSG_DP_READY, /* the export exists and refuses: no key yet */
	MSG_DP_OPENED,
	MSG_DP_CREATED,
	MSG_DP_JOB_DONE,
	MSG_DP_WIPED,
	MSG_DP_DRAINED,
	MSG_DP_EVENT, /* fail-stop, bad tags, the end of a hold */
	MSG_DP_STATS,

	/* mgmt -> supervisor */
	MSG_MG_REQUEST,
	/* supervisor -> mgmt */
	MSG_MG_REPLY,
	MSG_MG_VOLUME,     /* a volume's status, pushed at every change and once a second while it serves */
	MSG_MG_GONE,       /* that volume is not configured any more */
	MSG_MG_AGENT,      /* the agent's status and posture */
	MSG_MG_LISTEN,     /* where mgmt is to listen; it binds itself: libcoap cannot take over a bound socket */
	MSG_MG_CREDENTIAL, /* add, replace or remove a PSK identity */

	/* local console (fallgate enroll, fallgate revoke --local) -> supervisor and back */
	MSG_CON_REQUEST,
	MSG_CON_REPLY,
	MSG_CON_JOB, /* fallgate volume; + fds: the pipe for lines; output, map, input, as job_options says (1..4) */
	MSG_CON_JOB_DONE,

	/* supervisor -> hooks */
	MSG_HK_RUN,

	/* supervisor -> ublk, the broker of the kernel's block devices; it knows a device by its volume's name */
	MSG_UB_ADD,    /* before each start of a server: a device that a new one may open */
	MSG_UB_GO,     /* the server has the key: from now on the block device takes requests */
	MSG_UB_HOLD,   /* until when requests may wait for a server */
	MSG_UB_REMOVE, /* fail what waits, and take the device away */
	/* ublk -> supervisor */
	MSG_UB_READY,   /* answers MSG_UB_ADD */
	MSG_UB_STARTED, /* answers MSG_UB_GO */
	MSG_UB_GONE,    /* the device is gone, by order or by itself */

	/* supervisor -> tpm: one question a process; + the PIN to seal (0 or 1) */
	MSG_TP_REQUEST,
	/* tpm -> supervisor: + the page with the PIN that was unsealed (0 or 1) */
	MSG_TP_REPLY,
	/* local console -> supervisor: + the PIN to seal (1); answered by MSG_CON_REPLY */
	MSG_CON_SEAL_PIN,

	MSG_TYPE_COUNT
};

struct msg_hello {
	char version[32];
	int32_t pid;
};

/* ---- hsm ---- */

enum kek_type { KEK_AES_KW = 1, KEK_RSA_OAEP = 2 }; /* the values of the on-disk slot type */
enum oaep_hash { OAEP_NONE = 0, OAEP_SHA256 = 1, OAEP_SHA1 = 2 };

/* What an operation on the KEK proved. GOOD; or definite (the gate locks); or ambiguous (a fresh process settles it). */
enum hsm_verdict {
	VERDICT_GOOD,
	VERDICT_DISABLED,
	VERDICT_DELETED,
	VERDICT_REPLACED,
	VERDICT_EXPIRED,
	VERDICT_NOT_YET_VALID,
	VERDICT_ACCESS_REVOKED, /* PIN refused, locked, expired; login rights gone */
	VERDICT_TOKEN_GONE,     /* a healthy module lists another token in its place */
	VERDICT_DEK_REFUSED,    /* the KEK works, this wrapped payload does not unwrap */
	VERDICT_MODULE_BROKEN,
	VERDICT_KEY_UNFIT,   /* not SENSITIVE, or EXTRACTABLE, or a right is missing: named in text */
	VERDICT_UNREACHABLE, /* ambiguous */
	VERDICT_COUNT
};

struct msg_hsm_open {
	char module[PATH_MAX_BYTES];
	char init_args[URI_MAX_BYTES]; /* pReserved string, empty = NULL */
	char uri[URI_MAX_BYTES];       /* RFC 7512, token and object; no pin-value, pin-source already opened (the fd) */
	bool login_allowed;            /* false: a PIN that was refused before is not tried: answer ACCESS_REVOKED */
	bool pin_in_page;              /* the fd is a transfer page that a TPM's process filled, not a file */
	bool pin_renewed;              /* a new PIN was given since one was refused: one login though the token reports
					* COUNT_LOW, which nothing else would clear; never on FINAL_TRY */
};

struct msg_hsm_opened {
	uint8_t verdict; /* enum hsm_verdict */
	uint8_t type;    /* enum kek_type */
	uint16_t bits;
	uint16_t modulus_size; /* RSA; 0 for AES */
	uint16_t exponent_size;
	uint8_t modulus[MODULUS_MAX_BYTES];
	uint8_t exponent[8];
	char label[64];
	uint8_t id[62];
	uint16_t id_size;
	char token_label[33];
	char token_serial[17];
	char start_date[9]; /* "YYYYMMDD" or empty */
	char end_date[9];
	bool login_refused;  /* the token refused this PIN: never again until renewed */
	bool software_token; /* posture: a test HSM */
	char text[TEXT_MAX_BYTES];
};

/* A proof by the same function, mechanism and template as the DEK's unwrap.
 * RSA: `wrapped` is a fresh challenge that the supervisor encrypted to the pinned public key; the answer is its plaintext.
 * AES: `wrapped` is the stored canary, the answer its plaintext (the supervisor compares a hash); the hsm adds a fresh wrap and
 * unwrap of its own. wrapped_size 0 (AES only): make a new canary; the answer has both. Rights, presence and dates are checked.
 */
struct msg_hsm_probe {
	uint8_t hash; /* enum oaep_hash */
	uint16_t wrapped_size;
	uint8_t wrapped[WRAP_MAX_BYTES];
};

struct msg_hsm_ticket {  /* MSG_HSM_UNWRAP, MSG_HSM_WRAP */
	uint64_t ticket; /* random */
	char volume[NAME_MAX_BYTES];
	uint32_t gen_no;
	uint8_t hash;          /* enum oaep_hash */
	int32_t dataplane_pid; /* SCM_CREDENTIALS of the page's sender must say so */
	uint32_t dataplane_uid;
};

struct msg_hsm_verdict {
	uint8_t verdict; /* enum hsm_verdict */
	bool login_refused;
	uint16_t wrapped_size; /* probe with a new canary: its wrap */
	uint8_t wrapped[WRAP_MAX_BYTES];
	uint8_t answer[CHALLENGE_BYTES]; /* probe: the challenge's or canary's plaintext */
	char start_date[9];
	char end_date[9];
	char text[TEXT_MAX_BYTES];
};

/* ---- dataplane <-> one-shot hsm ---- */

struct msg_page { /* MSG_PAGE_UNWRAP, MSG_PAGE_WRAP; + the page's fd */
	uint64_t ticket;
	char volume[NAME_MAX_BYTES];
	uint32_t gen_no;
	uint16_t wrapped_size; /* unwrap: the blob from the volume's header */
	uint8_t wrapped[WRAP_MAX_BYTES];
};
/* The page holds the 48-byte payload DEK[32] || bind[16] at offset 0. For WRAP the dataplane put its own random DEK and the bind
 * there; the hsm XORs C_GenerateRandom into the first 32 bytes, wraps all 48, unwraps and compares before it answers. */

struct msg_page_done {
	uint64_t ticket;
	uint8_t verdict;       /* enum hsm_verdict */
	uint16_t wrapped_size; /* wrap: the blob for the header */
	uint8_t wrapped[WRAP_MAX_BYTES];
};

/* ---- supervisor <-> dataplane ---- */

struct msg_dp_attach {
	char name[NAME_MAX_BYTES];
	uint8_t uuid[16];
	uint8_t kcv[16];                        /* pinned key-check value of gen_no */
	uint8_t fingerprint[FINGERPRINT_BYTES]; /* which KEK slot to unwrap */
	uint32_t gen_no;
	uint64_t size; /* pinned client size */
	bool read_only;
	bool assume_4k;         /* the operator knows that the device writes 4 KiB at once, though it does not say so */
	bool server;            /* memory = server: hundreds of MiB, not tens */
	uint32_t cache_mib;     /* node cache; 0 = as `server` says */
	char kernel[16];        /* forced AEAD kernel, empty = the best */
	uint32_t connections;   /* at most; 0: as many as come */
	uint64_t hold_ns;       /* on_lock = hold: how long requests wait after a lock; 0: they fail at once */
	uint64_t hold_until_ns; /* CLOCK_BOOTTIME: how long those wait that come before the first key */
};

struct msg_dp_create {
	char name[NAME_MAX_BYTES];
	uint8_t uuid[16];
	uint64_t size; /* client bytes; 0 = as much as the device holds */
	bool force;    /* overwrite what libblkid sees there */
	bool assume_4k;
	uint8_t kek_type; /* enum kek_type */
	uint8_t hash;     /* enum oaep_hash */
	uint8_t fingerprint[FINGERPRINT_BYTES];
	char kek_label[64];
	uint8_t kek_id[62];
	uint16_t kek_id_size;
	char token[64];
	uint64_t now;
	char kernel[16];
};

/* What is done with a key to a volume that nobody serves. volume/offline.h says what each means; a test compares the names. */
enum job_verb { JOB_CHECK = 1, JOB_SCRUB, JOB_DUMP, JOB_REPAIR_LOG, JOB_SALVAGE, JOB_HEADER_RESTORE, JOB_VERB_COUNT };

/* As in offline_options; and which descriptors come with the message, in this order. */
struct job_options {
	uint64_t dump_at;
	bool accept_loss;
	bool repair;
	bool output;
	bool map;
	bool input;
};

struct msg_dp_job {
	struct msg_dp_attach volume;
	struct job_options options;
	uint8_t verb; /* enum job_verb */
};

struct msg_dp_ticket {
	uint64_t ticket;
	uint32_t generation; /* of the gate: answers carry it back */
	int32_t hsm_pid;
	uint32_t hsm_uid;
	uint8_t anchor; /* enum ticket_anchor */
	uint64_t anchor_count;
};

struct msg_dp_deadlines {
	uint64_t heartbeat_ns; /* CLOCK_BOOTTIME; absolute */
	uint64_t proof_ns;
};

struct msg_dp_anchor {
	uint64_t count;
};

struct msg_dp_lock {
	uint8_t cause; /* enum gate_cause */
	bool hold;     /* where the volume is one that is held: this lock does not end that */
	uint32_t generation;
};

struct msg_dp_ready {
	bool ok; /* false: the backing is busy, damaged, foreign: error and text say why */
	int32_t error;
	uint64_t size;
	char text[TEXT_MAX_BYTES];
};

struct msg_dp_opened {
	uint32_t generation;
	int32_t error;   /* 0: keys are in RAM and the volume serves */
	uint8_t verdict; /* enum hsm_verdict of the unwrap */
	uint64_t size;
	uint64_t anchor_count; /* what its newest root names */
	char kernel[16];
	uint8_t memory; /* enum secret_memory_kind */
	char text[TEXT_MAX_BYTES];
};

struct msg_dp_created {
	int32_t error;
	uint8_t kcv[16];
	uint32_t gen_no;
	uint64_t size;
	char text[TEXT_MAX_BYTES];
};

/* What a job counted. */
struct job_counts {
	uint64_t checked, mended, repairable, lost;
};

struct msg_dp_job_done { /* after MSG_DP_WIPED */
	int32_t error;
	struct job_counts counts;
	char text[TEXT_MAX_BYTES];
};

struct msg_dp_wiped {
	uint32_t generation;
	uint8_t cause;     /* of the lock; SUPERVISOR_LOST, UNREACHABLE ... when it locked itself */
	bool self;         /* its own deadline, not an order */
	uint64_t cut_ns;   /* CLOCK_BOOTTIME: admission stopped */
	uint64_t wiped_ns; /* every key gone */
};

struct msg_dp_drained {
	int32_t error; /* 0: no acknowledged write was lost */
	uint64_t drained_ns;
};

enum dp_event { DP_EVENT_FAILSTOP = 1, DP_EVENT_BAD_TAG = 2, DP_EVENT_HOLD_OVER = 3 };

struct msg_dp_event {
	uint8_t event; /* enum dp_event */
	uint64_t count;
	char text[TEXT_MAX_BYTES];
};

struct msg_dp_stats {
	uint64_t read_ops, write_ops, flush_ops, zero_ops;
	uint64_t read_bytes, written_bytes;
	uint64_t bad_tags;
	uint64_t dirty_nodes;
	uint64_t anchor_count; /* that a durable root names */
	uint32_t connections;
	bool failstop;
};

/* ---- mgmt <-> supervisor ---- */

enum role { USER_NONE = 0, USER_AUDITOR = 1, USER_OPERATOR = 2, USER_OFFICER = 3 };

enum mg_verb {
	MG_CREATE = 1, /* operator: format the volume that volumes.d/NAME.conf describes */
	MG_ATTACH,     /* operator */
	MG_DETACH,     /* operator */
	MG_REVOKE,     /* officer; volume empty = all; unconditional */
	MG_RESTORE,    /* officer; if_match = gate seq */
	MG_VERB_COUNT
};

struct msg_mg_request {
	uint64_t id; /* echoed in the reply */
	uint8_t verb;
	uint8_t role; /* of the DTLS identity; checked again here */
	char identity[IDENTITY_MAX_BYTES];
	char volume[NAME_MAX_BYTES];
	bool has_if_match;
	uint64_t if_match; /* gate seq */
	bool force;        /* create */
};

struct msg_mg_reply {
	uint64_t id;
	int32_t error; /* enum error */
	uint64_t gate_seq;
	bool durable; /* revoke: the latch is on disk */
	char text[TEXT_MAX_BYTES];
};

struct msg_mg_volume {
	char name[NAME_MAX_BYTES];
	char kek[NAME_MAX_BYTES];
	uint8_t state; /* enum gate_state */
	uint8_t cause; /* enum gate_cause */
	bool latched;
	uint8_t latch_cause;
	bool formatted; /* a volume record exists */
	bool attach_auto;
	uint64_t gate_seq;
	uint64_t size;
	uint8_t uuid[16];
	char export_uri[URI_MAX_BYTES]; /* nbd+unix:///?socket=... or nbd://... */
	char kernel[16];
	uint8_t memory;             /* enum secret_memory_kind */
	uint64_t since_ns;          /* wall clock of the last transition */
	uint64_t purge_at_ns;       /* wall clock: when it is purged if nothing happens; 0 = never */
	uint64_t proof_deadline_ns; /* CLOCK_BOOTTIME; 0 = none */
	uint64_t last_proof_ns;     /* CLOCK_BOOTTIME of the last good one; 0 = none */
	/* the last lock: CLOCK_BOOTTIME, 0 = none */
	uint64_t lock_detected_ns, lock_cut_ns, lock_wiped_ns, lock_drained_ns;
	int32_t lock_drain_error;
	struct msg_dp_stats stats;
	char text[TEXT_MAX_BYTES]; /* the last clear line about this volume */
};

struct msg_mg_gone {
	char name[NAME_MAX_BYTES];
};

struct msg_mg_agent {
	char version[32];
	uint64_t started_ns; /* wall clock */
	uint32_t volumes;
	char users[16]; /* "own" or "one": one uid per process, or one for all */
	char sandbox[16];
	bool audit_good;
	char posture[1536]; /* lines "good|weak: what", newline separated */
};

struct msg_mg_listen {
	char address[64]; /* numeric: "127.0.0.1:5684", "[::1]:5684" */
};

struct msg_mg_credential {
	char identity[IDENTITY_MAX_BYTES];
	uint8_t role; /* USER_NONE: remove */
	uint8_t psk[PSK_BYTES];
};

/* ---- console ---- */

enum con_verb { CON_ENROLL = 1, CON_REVOKE = 2, CON_STATUS = 3, CON_STOP = 4, CON_REMOVE = 5, CON_ACCEPT_ROLLBACK = 6 };

struct msg_con_request {
	uint8_t verb;
	uint8_t role; /* enroll */
	char identity[IDENTITY_MAX_BYTES];
	char volume[NAME_MAX_BYTES]; /* revoke: empty = all; accept-rollback; status: of those behind it */
};

struct msg_con_reply {
	int32_t error;
	char text[TEXT_MAX_BYTES];
	char coap_address[64];  /* enroll: where the CLI reaches mgmt, "127.0.0.1:5684" */
	uint8_t psk[PSK_BYTES]; /* enroll: shown once */
	bool durable;           /* revoke: the latch is on disk */
};

struct msg_con_job {
	struct job_options options;
	uint8_t verb; /* enum job_verb */
	char volume[NAME_MAX_BYTES];
};

/* Once per MSG_CON_JOB: when the job's processes are gone and its volume may be attached, or at once if it did not begin. */
struct msg_con_job_done {
	int32_t error;
	struct job_counts counts;
	char text[TEXT_MAX_BYTES];
};

/* ---- hooks ---- */

enum hook { HOOK_ALERT_PROGRAM = 1, HOOK_DROP_CACHES, HOOK_UNMOUNT, HOOK_MOUNT_PROGRAM, HOOK_COUNT };

struct msg_hk_run {
	uint8_t hook;                 /* enum hook */
	char program[PATH_MAX_BYTES]; /* or the mount point */
	uint32_t uid, gid;            /* 0: as it is */
	uint32_t time_limit_ms;
	char volume[NAME_MAX_BYTES];
	char event[40];
	char from[24];
	char state[24];
	char cause[24];
	bool latched;
	uint64_t gate_seq, sequence, purge_at_ns;
	char remedy[TEXT_MAX_BYTES];
	char text[TEXT_MAX_BYTES];
};

/* ---- the broker of ublk devices ---- */

/* The device that is there already is kept if its block device waits for a server (hold_ns) and size and read_only are the same:
 * requests that waited go to the new server. Any other is taken away first, and a new one made. */
struct msg_ub_add {
	char name[NAME_MAX_BYTES];
	uint64_t size;     /* client bytes, a multiple of 512 */
	uint64_t hold_ns;  /* on_lock = hold: requests wait for the next server, so long at most; 0: they fail with the server */
	uint32_t uid, gid; /* the server's: the device's node becomes theirs */
	bool read_only;
	bool fetched; /* the last server sent MSG_DP_READY: the kernel has heard of every one of its queues */
};

struct msg_ub_ready {
	char name[NAME_MAX_BYTES];
	int32_t error;   /* not 0: there is no device; text says why */
	uint32_t device; /* N of /dev/ublkcN and /dev/ublkbN */
	uint16_t queues, depth;
	bool kept; /* the block device is there, its requests wait */
	char text[TEXT_MAX_BYTES];
};

/* After MSG_DP_OPENED of that process. The broker watches it: when it ends, what hold_ns says begins without an order. */
struct msg_ub_go {
	char name[NAME_MAX_BYTES];
	int32_t pid;
};

struct msg_ub_started {
	char name[NAME_MAX_BYTES];
	int32_t error; /* not 0: MSG_UB_GONE follows */
	char text[TEXT_MAX_BYTES];
};

struct msg_ub_hold {
	char name[NAME_MAX_BYTES];
	uint64_t until_ns; /* CLOCK_BOOTTIME; holds until the next MSG_UB_STARTED */
};

struct msg_ub_remove {
	char name[NAME_MAX_BYTES];
};

enum ub_reason { UB_REMOVED = 1, UB_SERVER_GONE, UB_HOLD_OVER, UB_FAILED, UB_REASON_COUNT };

struct msg_ub_gone {
	char name[NAME_MAX_BYTES];
	uint8_t reason; /* enum ub_reason */
	char text[TEXT_MAX_BYTES];
};

/* ---- tpm ---- */

enum tp_verb { TP_LOOK = 1, TP_SEAL, TP_UNSEAL, TP_COUNTER_MAKE, TP_COUNTER_READ, TP_COUNTER_STEP, TP_VERB_COUNT };

struct msg_tp_request {
	uint8_t verb;             /* enum tp_verb */
	char kek[NAME_MAX_BYTES]; /* whose PIN it is */
	uint32_t pcrs;            /* look, seal: a bit each */
	uint32_t index;           /* counters; make: this one or one of the seven behind it */
	uint64_t to;              /* step: what it is to be at least */
	uint16_t sealed_size;     /* unseal */
	uint8_t sealed[SEALED_MAX_BYTES];
};

struct msg_tp_reply {
	int32_t error;
	char kind[24];  /* look: manufacturer and version */
	char bank[8];   /* look: "sha256" */
	uint32_t zero;  /* look: PCRs that nobody has extended */
	uint32_t index; /* counters: which it was */
	uint64_t counter;
	uint16_t sealed_size; /* seal */
	uint8_t sealed[SEALED_MAX_BYTES];
	char text[TEXT_MAX_BYTES];
};

struct msg_con_seal_pin {
	char kek[NAME_MAX_BYTES];
};

/* ---- the envelope ---- */

struct message {
	uint32_t type;  /* enum message_type */
	uint32_t size;  /* bytes of the body that follow: exactly the row's */
	uint64_t nonce; /* an answer carries its question's; 0 in what is not an answer */
	union {
		struct msg_hello hello;
		struct msg_hsm_open hsm_open;
		struct msg_hsm_opened hsm_opened;
		struct msg_hsm_probe hsm_probe;
		struct msg_hsm_ticket hsm_ticket;
		struct msg_hsm_verdict hsm_verdict;
		struct msg_page page;
		struct msg_page_done page_done;
		struct msg_dp_attach dp_attach;
		struct msg_dp_create dp_create;
		struct msg_dp_job dp_job;
		struct msg_dp_ticket dp_ticket;
		struct msg_dp_deadlines dp_deadlines;
		struct msg_dp_anchor dp_anchor;
		struct msg_dp_lock dp_lock;
		struct msg_dp_ready dp_ready;
		struct msg_dp_opened dp_opened;
		struct msg_dp_created dp_created;
		struct msg_dp_job_done dp_job_done;
		struct msg_dp_wiped dp_wiped;
		struct msg_dp_drained dp_drained;
		struct msg_dp_event dp_event;
		struct msg_dp_stats dp_stats;
		struct msg_mg_request mg_request;
		struct msg_mg_reply mg_reply;
		struct msg_mg_volume mg_volume;
		struct msg_mg_gone mg_gone;
		struct msg_mg_agent mg_agent;
		struct msg_mg_listen mg_listen;
		struct msg_mg_credential mg_credential;
		struct msg_con_request con_request;
		struct msg_con_reply con_reply;
		struct msg_hk_run hk_run;
		struct msg_ub_add ub_add;
		struct msg_ub_ready ub_ready;
		struct msg_ub_go ub_go;
		struct msg_ub_started ub_started;
		struct msg_ub_hold ub_hold;
		struct msg_ub_remove ub_remove;
		struct msg_ub_gone ub_gone;
		struct msg_tp_request tp_request;
		struct msg_tp_reply tp_reply;
		struct msg_con_seal_pin con_seal_pin;
		struct msg_con_job con_job;
		struct msg_con_job_done con_job_done;
	} body;
};

/* What a message may be: its name, its exact body size, who sends it to whom, how many descriptors come with it. */
struct message_row {
	const char *name;
	uint32_t size;
	uint8_t min_fds, max_fds;
	uint8_t sender; /* enum process_role; ROLE_COUNT: any */
	uint8_t receiver;
};

/* NULL for a type that does not exist. */
const struct message_row *message_row(uint32_t type);

/* 0, or ERR_PROTOCOL if type, size, fds, direction or a described field is not as it must be: bool bytes 0 or 1, enum-like bytes
 * and ERR_* values in range, *_size within its array, texts NUL-terminated, dates empty or 8 digits, volume and KEK names good
 * (empty only where that means something). `received` counts the whole datagram, header and body. */
int message_check(const struct message *m, size_t received, unsigned fds, enum process_role sender, enum process_role receiver);

/* [a-z0-9][a-z0-9_-]{0,30} and nothing else: names reach file names, logs and URIs. */
bool message_name_good(const char *name);

const char *verdict_name(enum hsm_verdict v); /* "good", "disabled", ... */
const char *role_name(enum role r);           /* "officer", ... */
const char *job_verb_name(enum job_verb v);   /* as on the command line: "repair-log", ... */

#endif
