/* The messages as data: one row per type (who may send it to whom, how long, how many descriptors) and one list of described
 * fields per body. What must hold: every text, bool, enum-like byte, ERR_* value and *_size of message.h is described here, so
 * that what passes message_check can be used without looking twice; test/ipc counts them against the header. */
#include "message.h"

#include <string.h>

#include "base/error.h"

enum field_kind {
	FIELD_TEXT, /* NUL-terminated inside its array */
	FIELD_NAME, /* a text, and message_name_good */
	FIELD_NAME_OR_EMPTY,
	FIELD_DATE,  /* a text: empty or 8 digits */
	FIELD_BYTE,  /* low <= value <= high: bools and enums */
	FIELD_SIZE,  /* uint16_t, at most high */
	FIELD_ERROR, /* int32_t: 0 or an ERR_* */
};

struct field {
	uint16_t offset;
	uint16_t size; /* of a text's array */
	uint16_t low, high;
	enum field_kind kind;
};

/* clang-format off */
#define AT(s, f)             (uint16_t)offsetof(struct s, f)
#define SIZE_OF(s, f)        (uint16_t)sizeof(((struct s *)0)->f)
#define TEXT(s, f)           { .kind = FIELD_TEXT, .offset = AT(s, f), .size = SIZE_OF(s, f) }
#define NAME(s, f)           { .kind = FIELD_NAME, .offset = AT(s, f), .size = SIZE_OF(s, f) }
#define NAME_OR_EMPTY(s, f)  { .kind = FIELD_NAME_OR_EMPTY, .offset = AT(s, f), .size = SIZE_OF(s, f) }
#define DATE(s, f)           { .kind = FIELD_DATE, .offset = AT(s, f), .size = SIZE_OF(s, f) }
#define BYTE(s, f, lo, hi)   { .kind = FIELD_BYTE, .offset = AT(s, f), .low = (lo), .high = (hi) }
#define BOOL(s, f)           BYTE(s, f, 0, 1)
#define VERDICT(s, f)        BYTE(s, f, 0, VERDICT_COUNT - 1)
#define CAUSE(s, f)          BYTE(s, f, 0, MESSAGE_GATE_CAUSES - 1)
#define BYTES_OF(s, f, a)    { .kind = FIELD_SIZE, .offset = AT(s, f), .high = SIZE_OF(s, a) }
#define ERROR(s, f)          { .kind = FIELD_ERROR, .offset = AT(s, f) }
#define JOB_OPTIONS(s)                                                                                                           \
	BOOL(s, options.accept_loss), BOOL(s, options.repair), BOOL(s, options.output), BOOL(s, options.map), BOOL(s, options.input)

static const struct field hello_fields[] = { TEXT(msg_hello, version) };

static const struct field hsm_open_fields[] = {
	TEXT(msg_hsm_open, module), TEXT(msg_hsm_open, init_args), TEXT(msg_hsm_open, uri), BOOL(msg_hsm_open, login_allowed),
	BOOL(msg_hsm_open, pin_in_page), BOOL(msg_hsm_open, pin_renewed),
};
static const struct field hsm_opened_fields[] = {
	VERDICT(msg_hsm_opened, verdict), BYTE(msg_hsm_opened, type, 0, KEK_RSA_OAEP),
	BYTES_OF(msg_hsm_opened, modulus_size, modulus), BYTES_OF(msg_hsm_opened, exponent_size, exponent),
	BYTES_OF(msg_hsm_opened, id_size, id), TEXT(msg_hsm_opened, label),
	TEXT(msg_hsm_opened, token_label), TEXT(msg_hsm_opened, token_serial),
	DATE(msg_hsm_opened, start_date), DATE(msg_hsm_opened, end_date),
	BOOL(msg_hsm_opened, login_refused), BOOL(msg_hsm_opened, software_token), TEXT(msg_hsm_opened, text),
};
static const struct field hsm_probe_fields[] = {
	BYTE(msg_hsm_probe, hash, 0, OAEP_SHA1), BYTES_OF(msg_hsm_probe, wrapped_size, wrapped),
};
static const struct field hsm_ticket_fields[] = {
	NAME(msg_hsm_ticket, volume), BYTE(msg_hsm_ticket, hash, 0, OAEP_SHA1),
};
static const struct field hsm_verdict_fields[] = {
	VERDICT(msg_hsm_verdict, verdict), BOOL(msg_hsm_verdict, login_refused), BYTES_OF(msg_hsm_verdict, wrapped_size, wrapped),
	DATE(msg_hsm_verdict, start_date), DATE(msg_hsm_verdict, end_date), TEXT(msg_hsm_verdict, text),
};

static const struct field page_fields[] = {
	NAME(msg_page, volume), BYTES_OF(msg_page, wrapped_size, wrapped),
};
static const struct field page_done_fields[] = {
	VERDICT(msg_page_done, verdict), BYTES_OF(msg_page_done, wrapped_size, wrapped),
};

static const struct field dp_attach_fields[] = {
	NAME(msg_dp_attach, name), BOOL(msg_dp_attach, read_only), BOOL(msg_dp_attach, assume_4k), BOOL(msg_dp_attach, server),
	TEXT(msg_dp_attach, kernel),
};
static const struct field dp_create_fields[] = {
	NAME(msg_dp_create, name), BOOL(msg_dp_create, force), BOOL(msg_dp_create, assume_4k), BYTE(msg_dp_create, kek_type, KEK_AES_KW, KEK_RSA_OAEP),
	BYTE(msg_dp_create, hash, 0, OAEP_SHA1), TEXT(msg_dp_create, kek_label), BYTES_OF(msg_dp_create, kek_id_size, kek_id),
	TEXT(msg_dp_create, token), TEXT(msg_dp_create, kernel),
};
static const struct field dp_job_fields[] = {
	NAME(msg_dp_job, volume.name), BOOL(msg_dp_job, volume.read_only), BOOL(msg_dp_job, volume.assume_4k),
	BOOL(msg_dp_job, volume.server), TEXT(msg_dp_job, volume.kernel), BYTE(msg_dp_job, verb, JOB_CHECK, JOB_VERB_COUNT - 1), JOB_OPTIONS(msg_dp_job),
};
static const struct field dp_ticket_fields[] = { BYTE(msg_dp_ticket, anchor, 0, TICKET_ANCHOR_COUNT - 1) };
static const struct field dp_lock_fields[] = { CAUSE(msg_dp_lock, cause), BOOL(msg_dp_lock, hold) };
static const struct field dp_ready_fields[] = {
	BOOL(msg_dp_ready, ok), ERROR(msg_dp_ready, error), TEXT(msg_dp_ready, text),
};
static const struct field dp_opened_fields[] = {
	ERROR(msg_dp_opened, error), VERDICT(msg_dp_opened, verdict), TEXT(msg_dp_opened, kernel),
	BYTE(msg_dp_opened, memory, 0, MESSAGE_MEMORY_KINDS - 1), TEXT(msg_dp_opened, text),
};
static const struct field dp_created_fields[] = { ERROR(msg_dp_created, error), TEXT(msg_dp_created, text) };
static const struct field dp_job_done_fields[] = { ERROR(msg_dp_job_done, error), TEXT(msg_dp_job_done, text) };
static const struct field dp_wiped_fields[] = { CAUSE(msg_dp_wiped, cause), BOOL(msg_dp_wiped, self) };
static const struct field dp_drained_fields[] = { ERROR(msg_dp_drained, error) };
static const struct field dp_event_fields[] = {
	BYTE(msg_dp_event, event, DP_EVENT_FAILSTOP, DP_EVENT_HOLD_OVER), TEXT(msg_dp_event, text),
};
static const struct field dp_stats_fields[] = { BOOL(msg_dp_stats, failstop) };

static const struct field mg_request_fields[] = {
	BYTE(msg_mg_request, verb, MG_CREATE, MG_VERB_COUNT - 1), BYTE(msg_mg_request, role, 0, USER_OFFICER),
	TEXT(msg_mg_request, identity), NAME_OR_EMPTY(msg_mg_request, volume),
	BOOL(msg_mg_request, has_if_match), BOOL(msg_mg_request, force),
};
static const struct field mg_reply_fields[] = {
	ERROR(msg_mg_reply, error), BOOL(msg_mg_reply, durable), TEXT(msg_mg_reply, text),
};
static const struct field mg_volume_fields[] = {
	NAME(msg_mg_volume, name), NAME_OR_EMPTY(msg_mg_volume, kek),
	BYTE(msg_mg_volume, state, 0, MESSAGE_GATE_STATES - 1), CAUSE(msg_mg_volume, cause),
	BOOL(msg_mg_volume, latched), CAUSE(msg_mg_volume, latch_cause), BOOL(msg_mg_volume, formatted),
	BOOL(msg_mg_volume, attach_auto), TEXT(msg_mg_volume, export_uri), TEXT(msg_mg_volume, kernel),
	BYTE(msg_mg_volume, memory, 0, MESSAGE_MEMORY_KINDS - 1), ERROR(msg_mg_volume, lock_drain_error),
	BOOL(msg_mg_volume, stats.failstop), TEXT(msg_mg_volume, text),
};
static const struct field mg_gone_fields[] = { NAME(msg_mg_gone, name) };
static const struct field mg_agent_fields[] = {
	TEXT(msg_mg_agent, version), TEXT(msg_mg_agent, users), TEXT(msg_mg_agent, sandbox),
	BOOL(msg_mg_agent, audit_good), TEXT(msg_mg_agent, posture),
};
static const struct field mg_listen_fields[] = { TEXT(msg_mg_listen, address) };
static const struct field mg_credential_fields[] = {
	TEXT(msg_mg_credential, identity), BYTE(msg_mg_credential, role, 0, USER_OFFICER),
};

static const struct field hk_run_fields[] = {
	BYTE(msg_hk_run, hook, HOOK_ALERT_PROGRAM, HOOK_COUNT - 1), TEXT(msg_hk_run, program), NAME(msg_hk_run, volume),
	TEXT(msg_hk_run, event), TEXT(msg_hk_run, from), TEXT(msg_hk_run, state), TEXT(msg_hk_run, cause), BOOL(msg_hk_run, latched),
	TEXT(msg_hk_run, remedy), TEXT(msg_hk_run, text),
};
static const struct field ub_add_fields[] = { NAME(msg_ub_add, name), BOOL(msg_ub_add, read_only), BOOL(msg_ub_add, fetched) };
static const struct field ub_ready_fields[] = {
	NAME(msg_ub_ready, name), ERROR(msg_ub_ready, error), BOOL(msg_ub_ready, kept), TEXT(msg_ub_ready, text),
};
static const struct field ub_go_fields[] = { NAME(msg_ub_go, name) };
static const struct field ub_started_fields[] = {
	NAME(msg_ub_started, name), ERROR(msg_ub_started, error), TEXT(msg_ub_started, text),
};
static const struct field ub_hold_fields[] = { NAME(msg_ub_hold, name) };
static const struct field ub_remove_fields[] = { NAME(msg_ub_remove, name) };
static const struct field ub_gone_fields[] = {
	NAME(msg_ub_gone, name), BYTE(msg_ub_gone, reason, UB_REMOVED, UB_REASON_COUNT - 1), TEXT(msg_ub_gone, text),
};
static const struct field tp_request_fields[] = {
	BYTE(msg_tp_request, verb, TP_LOOK, TP_VERB_COUNT - 1), NAME_OR_EMPTY(msg_tp_request, kek), BYTES_OF(msg_tp_request, sealed_size, sealed),
};
static const struct field tp_reply_fields[] = {
	ERROR(msg_tp_reply, error), TEXT(msg_tp_reply, kind), TEXT(msg_tp_reply, bank), BYTES_OF(msg_tp_reply, sealed_size, sealed),
	TEXT(msg_tp_reply, text),
};
static const struct field con_seal_pin_fields[] = { NAME(msg_con_seal_pin, kek) };
static const struct field con_request_fields[] = {
	BYTE(msg_con_request, verb, CON_ENROLL, CON_ACCEPT_ROLLBACK), BYTE(msg_con_request, role, 0, USER_OFFICER),
	TEXT(msg_con_request, identity), NAME_OR_EMPTY(msg_con_request, volume),
};
static const struct field con_reply_fields[] = {
	ERROR(msg_con_reply, error), BOOL(msg_con_reply, durable), TEXT(msg_con_reply, text), TEXT(msg_con_reply, coap_address),
};

static const struct field con_job_fields[] = {
	BYTE(msg_con_job, verb, JOB_CHECK, JOB_VERB_COUNT - 1), JOB_OPTIONS(msg_con_job), NAME(msg_con_job, volume),
};
static const struct field con_job_done_fields[] = { ERROR(msg_con_job_done, error), TEXT(msg_con_job_done, text) };

struct full_row {
	struct message_row row;
	const struct field *fields;
	size_t count;
};

#define FIELDS(list)    .fields = (list), .count = sizeof(list) / sizeof((list)[0])
#define ANY             ROLE_COUNT
#define ROW(name, body, min, max, from, to) .row = { name, sizeof(struct body), min, max, from, to }
#define BARE(name, from, to)                .row = { name, 0, 0, 0, from, to }

static const struct full_row message_rows[MSG_TYPE_COUNT] = {
	[MSG_HELLO]         = { ROW("HELLO", msg_hello, 0, 0, ANY, ROLE_SUPERVISOR), FIELDS(hello_fields) },

	[MSG_HSM_OPEN]      = { ROW("HSM_OPEN", msg_hsm_open, 0, 1, ROLE_SUPERVISOR, ROLE_HSM), FIELDS(hsm_open_fields) },
	[MSG_HSM_PROBE]     = { ROW("HSM_PROBE", msg_hsm_probe, 0, 0, ROLE_SUPERVISOR, ROLE_HSM), FIELDS(hsm_probe_fields) },
	[MSG_HSM_UNWRAP]    = { ROW("HSM_UNWRAP", msg_hsm_ticket, 0, 0, ROLE_SUPERVISOR, ROLE_HSM), FIELDS(hsm_ticket_fields) },
	[MSG_HSM_WRAP]      = { ROW("HSM_WRAP", msg_hsm_ticket, 0, 0, ROLE_SUPERVISOR, ROLE_HSM), FIELDS(hsm_ticket_fields) },
	[MSG_HSM_CLOSE]     = { BARE("HSM_CLOSE", ROLE_SUPERVISOR, ROLE_HSM) },
	[MSG_HSM_OPENED]    = { ROW("HSM_OPENED", msg_hsm_opened, 0, 0, ROLE_HSM, ROLE_SUPERVISOR), FIELDS(hsm_opened_fields) },
	[MSG_HSM_VERDICT]   = { ROW("HSM_VERDICT", msg_hsm_verdict, 0, 0, ROLE_HSM, ROLE_SUPERVISOR), FIELDS(hsm_verdict_fields) },

	[MSG_PAGE_UNWRAP]   = { ROW("PAGE_UNWRAP", msg_page, 1, 1, ROLE_DATAPLANE, ROLE_HSM), FIELDS(page_fields) },
	[MSG_PAGE_WRAP]     = { ROW("PAGE_WRAP", msg_page, 1, 1, ROLE_DATAPLANE, ROLE_HSM), FIELDS(page_fields) },
	[MSG_PAGE_DONE]     = { ROW("PAGE_DONE", msg_page_done, 0, 0, ROLE_HSM, ROLE_DATAPLANE), FIELDS(page_done_fields) },

	[MSG_DP_ATTACH]     = { ROW("DP_ATTACH", msg_dp_attach, 1, 1, ROLE_SUPERVISOR, ROLE_DATAPLANE), FIELDS(dp_attach_fields) },
	[MSG_DP_CREATE]     = { ROW("DP_CREATE", msg_dp_create, 1, 1, ROLE_SUPERVISOR, ROLE_DATAPLANE), FIELDS(dp_create_fields) },
	[MSG_DP_JOB]        = { ROW("DP_JOB", msg_dp_job, 2, 5, ROLE_SUPERVISOR, ROLE_DATAPLANE), FIELDS(dp_job_fields) },
	[MSG_DP_TICKET]     = { ROW("DP_TICKET", msg_dp_ticket, 1, 1, ROLE_SUPERVISOR, ROLE_DATAPLANE), FIELDS(dp_ticket_fields) },
	[MSG_DP_DEADLINES]  = { ROW("DP_DEADLINES", msg_dp_deadlines, 0, 0, ROLE_SUPERVISOR, ROLE_DATAPLANE) },
	[MSG_DP_LOCK]       = { ROW("DP_LOCK", msg_dp_lock, 0, 0, ROLE_SUPERVISOR, ROLE_DATAPLANE), FIELDS(dp_lock_fields) },
	[MSG_DP_DETACH]     = { BARE("DP_DETACH", ROLE_SUPERVISOR, ROLE_DATAPLANE) },
	[MSG_DP_ANCHOR]     = { ROW("DP_ANCHOR", msg_dp_anchor, 0, 0, ROLE_SUPERVISOR, ROLE_DATAPLANE) },
	[MSG_DP_READY]      = { ROW("DP_READY", msg_dp_ready, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_ready_fields) },
	[MSG_DP_OPENED]     = { ROW("DP_OPENED", msg_dp_opened, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_opened_fields) },
	[MSG_DP_CREATED]    = { ROW("DP_CREATED", msg_dp_created, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_created_fields) },
	[MSG_DP_JOB_DONE]   = { ROW("DP_JOB_DONE", msg_dp_job_done, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_job_done_fields) },
	[MSG_DP_WIPED]      = { ROW("DP_WIPED", msg_dp_wiped, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_wiped_fields) },
	[MSG_DP_DRAINED]    = { ROW("DP_DRAINED", msg_dp_drained, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_drained_fields) },
	[MSG_DP_EVENT]      = { ROW("DP_EVENT", msg_dp_event, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_event_fields) },
	[MSG_DP_STATS]      = { ROW("DP_STATS", msg_dp_stats, 0, 0, ROLE_DATAPLANE, ROLE_SUPERVISOR), FIELDS(dp_stats_fields) },

	[MSG_MG_REQUEST]    = { ROW("MG_REQUEST", msg_mg_request, 0, 0, ROLE_MGMT, ROLE_SUPERVISOR), FIELDS(mg_request_fields) },
	[MSG_MG_REPLY]      = { ROW("MG_REPLY", msg_mg_reply, 0, 0, ROLE_SUPERVISOR, ROLE_MGMT), FIELDS(mg_reply_fields) },
	[MSG_MG_VOLUME]     = { ROW("MG_VOLUME", msg_mg_volume, 0, 0, ROLE_SUPERVISOR, ROLE_MGMT), FIELDS(mg_volume_fields) },
	[MSG_MG_GONE]       = { ROW("MG_GONE", msg_mg_gone, 0, 0, ROLE_SUPERVISOR, ROLE_MGMT), FIELDS(mg_gone_fields) },
	[MSG_MG_AGENT]      = { ROW("MG_AGENT", msg_mg_agent, 0, 0, ROLE_SUPERVISOR, ROLE_MGMT), FIELDS(mg_agent_fields) },
	[MSG_MG_LISTEN]     = { ROW("MG_LISTEN", msg_mg_listen, 0, 0, ROLE_SUPERVISOR, ROLE_MGMT), FIELDS(mg_listen_fields) },
	[MSG_MG_CREDENTIAL] = { ROW("MG_CREDENTIAL", msg_mg_credential, 0, 0, ROLE_SUPERVISOR, ROLE_MGMT),
				FIELDS(mg_credential_fields) },

	[MSG_CON_REQUEST]   = { ROW("CON_REQUEST", msg_con_request, 0, 0, ROLE_CONSOLE, ROLE_SUPERVISOR), FIELDS(con_request_fields) },
	[MSG_HK_RUN]        = { ROW("HK_RUN", msg_hk_run, 0, 0, ROLE_SUPERVISOR, ROLE_HOOKS), FIELDS(hk_run_fields) },

	[MSG_UB_ADD]        = { ROW("UB_ADD", msg_ub_add, 0, 0, ROLE_SUPERVISOR, ROLE_UBLK), FIELDS(ub_add_fields) },
	[MSG_UB_GO]         = { ROW("UB_GO", msg_ub_go, 0, 0, ROLE_SUPERVISOR, ROLE_UBLK), FIELDS(ub_go_fields) },
	[MSG_UB_HOLD]       = { ROW("UB_HOLD", msg_ub_hold, 0, 0, ROLE_SUPERVISOR, ROLE_UBLK), FIELDS(ub_hold_fields) },
	[MSG_UB_REMOVE]     = { ROW("UB_REMOVE", msg_ub_remove, 0, 0, ROLE_SUPERVISOR, ROLE_UBLK), FIELDS(ub_remove_fields) },
	[MSG_UB_READY]      = { ROW("UB_READY", msg_ub_ready, 0, 0, ROLE_UBLK, ROLE_SUPERVISOR), FIELDS(ub_ready_fields) },
	[MSG_UB_STARTED]    = { ROW("UB_STARTED", msg_ub_started, 0, 0, ROLE_UBLK, ROLE_SUPERVISOR), FIELDS(ub_started_fields) },
	[MSG_UB_GONE]       = { ROW("UB_GONE", msg_ub_gone, 0, 0, ROLE_UBLK, ROLE_SUPERVISOR), FIELDS(ub_gone_fields) },
	[MSG_TP_REQUEST]    = { ROW("TP_REQUEST", msg_tp_request, 0, 1, ROLE_SUPERVISOR, ROLE_TPM), FIELDS(tp_request_fields) },
	[MSG_TP_REPLY]      = { ROW("TP_REPLY", msg_tp_reply, 0, 1, ROLE_TPM, ROLE_SUPERVISOR), FIELDS(tp_reply_fields) },
	[MSG_CON_SEAL_PIN]  = { ROW("CON_SEAL_PIN", msg_con_seal_pin, 1, 1, ROLE_CONSOLE, ROLE_SUPERVISOR), FIELDS(con_seal_pin_fields) },
	[MSG_CON_REPLY]     = { ROW("CON_REPLY", msg_con_reply, 0, 0, ROLE_SUPERVISOR, ROLE_CONSOLE), FIELDS(con_reply_fields) },
	[MSG_CON_JOB]       = { ROW("CON_JOB", msg_con_job, 1, 4, ROLE_CONSOLE, ROLE_SUPERVISOR), FIELDS(con_job_fields) },
	[MSG_CON_JOB_DONE]  = { ROW("CON_JOB_DONE", msg_con_job_done, 0, 0, ROLE_SUPERVISOR, ROLE_CONSOLE), FIELDS(con_job_done_fields) },
};

static const char *const verdict_names[VERDICT_COUNT] = {
	[VERDICT_GOOD]           = "good",
	[VERDICT_DISABLED]       = "disabled",
	[VERDICT_DELETED]        = "deleted",
	[VERDICT_REPLACED]       = "replaced",
	[VERDICT_EXPIRED]        = "expired",
	[VERDICT_NOT_YET_VALID]  = "not-yet-valid",
	[VERDICT_ACCESS_REVOKED] = "access-revoked",
	[VERDICT_TOKEN_GONE]     = "token-gone",
	[VERDICT_DEK_REFUSED]    = "dek-refused",
	[VERDICT_MODULE_BROKEN]  = "module-broken",
	[VERDICT_KEY_UNFIT]      = "key-unfit",
	[VERDICT_UNREACHABLE]    = "unreachable",
};

static const char *const role_names[] = {
	[USER_NONE]     = "none",
	[USER_AUDITOR]  = "auditor",
	[USER_OPERATOR] = "operator",
	[USER_OFFICER]  = "officer",
};

static const char *const job_verb_names[JOB_VERB_COUNT] = {
	[JOB_CHECK]          = "check",
	[JOB_SCRUB]          = "scrub",
	[JOB_DUMP]           = "dump",
	[JOB_REPAIR_LOG]     = "repair-log",
	[JOB_SALVAGE]        = "salvage",
	[JOB_HEADER_RESTORE] = "header-restore",
};
/* clang-format on */

const struct message_row *message_row(uint32_t type)
{
	if (type >= MSG_TYPE_COUNT || message_rows[type].row.name == NULL)
		return NULL;
	return &message_rows[type].row;
}

bool message_name_good(const char *name)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	static const char rest[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";

	if (strnlen(name, NAME_MAX_BYTES) >= NAME_MAX_BYTES)
		return false;
	return strspn(name, first) > 0 && name[strspn(name, rest)] == '\0';
}

static bool date_good(const char *date)
{
	size_t length = strlen(date);

	return length == 0 || (length == 8 && strspn(date, "0123456789") == 8);
}

static bool text_good(const struct field *f, const char *text)
{
	if (memchr(text, '\0', f->size) == NULL)
		return false;
	if (f->kind == FIELD_NAME)
		return message_name_good(text);
	if (f->kind == FIELD_NAME_OR_EMPTY)
		return text[0] == '\0' || message_name_good(text);
	return f->kind != FIELD_DATE || date_good(text);
}

static bool field_good(const struct field *f, const uint8_t *body)
{
	const uint8_t *at = body + f->offset;
	uint16_t size;
	int32_t error;

	switch (f->kind) {
	case FIELD_TEXT:
	case FIELD_NAME:
	case FIELD_NAME_OR_EMPTY:
	case FIELD_DATE:
		return text_good(f, (const char *)at);
	case FIELD_BYTE:
		return *at >= f->low && *at <= f->high;
	case FIELD_SIZE:
		memcpy(&size, at, sizeof size);
		return size <= f->high;
	case FIELD_ERROR:
		memcpy(&error, at, sizeof error);
		return error <= 0 && error > ERR_LAST;
	}
	return false;
}

static bool row_allows(const struct message_row *row, unsigned fds, enum process_role sender, enum process_role receiver)
{
	if (fds < row->min_fds || fds > row->max_fds)
		return false;
	return (row->sender == ROLE_COUNT || row->sender == sender) && row->receiver == receiver;
}

int message_check(const struct message *m, size_t received, unsigned fds, enum process_role sender, enum process_role receiver)
{
	const uint8_t *body = (const uint8_t *)&m->body;
	const struct full_row *full;

	if (received < offsetof(struct message, body) || message_row(m->type) == NULL)
		return ERR_PROTOCOL;
	full = &message_rows[m->type];
	if (m->size != full->row.size || received != offsetof(struct message, body) + m->size)
		return ERR_PROTOCOL;
	if (!row_allows(&full->row, fds, sender, receiver))
		return ERR_PROTOCOL;
	for (size_t i = 0; i < full->count; i++)
		if (!field_good(&full->fields[i], body))
			return ERR_PROTOCOL;
	return 0;
}

const char *verdict_name(enum hsm_verdict v)
{
	return (unsigned)v < VERDICT_COUNT ? verdict_names[v] : "unknown";
}

const char *role_name(enum role r)
{
	return (unsigned)r < sizeof role_names / sizeof role_names[0] ? role_names[r] : "unknown";
}

const char *job_verb_name(enum job_verb v)
{
	return v >= JOB_CHECK && v < JOB_VERB_COUNT ? job_verb_names[v] : "unknown";
}
