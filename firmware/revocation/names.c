/* The words for states, causes, events, actions and rules. What must hold: every value has one, and it never changes: logs, the
 * ledger, CBOR and tests say them; a cause's remedy is one clause that says what lifts it. */
#include "revocation.h"

#include "table.h"

struct cause_row {
	const char *name;
	bool latches;
	const char *remedy;
	const char *latched_remedy;
};

/* clang-format off */
static const char *const state_names[] = {
	[GATE_LOCKED]           = "LOCKED",
	[GATE_UNLOCKING]        = "UNLOCKING",
	[GATE_AVAILABLE]        = "AVAILABLE",
	[GATE_SUSPECT]          = "SUSPECT",
	[GATE_OUTAGE]           = "OUTAGE",
	[GATE_LOCKING]          = "LOCKING",
	[GATE_WIPE_UNCONFIRMED] = "WIPE_UNCONFIRMED",
	[GATE_INACCESSIBLE]     = "INACCESSIBLE",
	[GATE_PURGED]           = "PURGED",
	[GATE_ERASED]           = "ERASED",
	[GATE_FAULT]            = "FAULT",
};

/* What lifts it; and what lifts it in a gate that was latched in the end (purge_after). */
#define BY_ITSELF(text)  text, text ", then an officer's restore"
#define BY_RESTORE(text) text, text

static const struct cause_row causes[] = {
	[CAUSE_NONE]            = { "none",            false, BY_ITSELF("nothing is wrong") },
	[CAUSE_DISABLED]        = { "disabled",        false, BY_ITSELF("enable the KEK in the HSM") },
	[CAUSE_DELETED]         = { "deleted",         false, BY_ITSELF("restore the KEK into the HSM from its backup") },
	[CAUSE_REPLACED]        = { "replaced",        false, BY_ITSELF("bring the enrolled KEK back: another key stands in its place") },
	[CAUSE_EXPIRED]         = { "expired",         false, BY_ITSELF("move the KEK's end date in the HSM") },
	[CAUSE_NOT_YET_VALID]   = { "not-yet-valid",   false, BY_ITSELF("wait for the KEK's start date, or move it in the HSM") },
	[CAUSE_ACCESS_REVOKED]  = { "access-revoked",  false, BY_ITSELF("give the rights on the KEK back, or write a new PIN file") },
	[CAUSE_TOKEN_GONE]      = { "token-gone",      false, BY_ITSELF("bring the token back: the HSM shows another in its place") },
	[CAUSE_UNREACHABLE]     = { "unreachable",     false, BY_ITSELF("bring the HSM back within reach: power, network, service") },
	[CAUSE_DEK_REFUSED]     = { "dek-refused",     false, BY_ITSELF("the KEK works, not for this volume: is this its backing?") },
	[CAUSE_CLOCK]           = { "clock",           false, "set the clock right, or an officer's restore believes it as it is",
				    "set the clock right, then an officer's restore" },
	[CAUSE_MODULE_BROKEN]   = { "module-broken",   false, BY_ITSELF("repair the PKCS#11 module or its configuration") },
	[CAUSE_COMMANDED]       = { "commanded",       true,  BY_RESTORE("an officer's restore") },
	[CAUSE_TAMPER]          = { "tamper",          true,  BY_RESTORE("inspect the machine, then an officer's restore") },
	[CAUSE_INTEGRITY]       = { "integrity",       true,  BY_RESTORE("check or restore the data, then an officer's restore") },
	[CAUSE_SUPERVISOR_LOST] = { "supervisor-lost", false, "it opens by itself at the next good proof", "an officer's restore" },
	[CAUSE_ENGINE]          = { "engine",          false, "the log names the error; opens at the next good proof",
				    "the log names the error; then an officer's restore" },
	[CAUSE_DETACHED]        = { "detached",        false, BY_ITSELF("attach the volume") },
	[CAUSE_RECORD_LOST]     = { "record-lost",     true,  BY_RESTORE("find out who touched the records, then an officer's restore") },
};

static const char *const event_names[] = {
	[EV_ATTACH]             = "attach",
	[EV_DETACH]             = "detach",
	[EV_RESTORE]            = "restore",
	[EV_REVOKE]             = "revoke",
	[EV_TAMPER]             = "tamper",
	[EV_INTEGRITY_ALARM]    = "integrity-alarm",
	[EV_PROOF_GOOD]         = "proof-good",
	[EV_PROOF_REFUSED]      = "proof-refused",
	[EV_PROOF_AMBIGUOUS]    = "proof-ambiguous",
	[EV_FRESH_GOOD]         = "fresh-good",
	[EV_FRESH_REFUSED]      = "fresh-refused",
	[EV_FRESH_AMBIGUOUS]    = "fresh-ambiguous",
	[EV_DEK_LOADED]         = "dek-loaded",
	[EV_DEK_REFUSED]        = "dek-refused",
	[EV_UNLOCK_DEADLINE]    = "unlock-deadline",
	[EV_OUTAGE_OVER]        = "outage-over",
	[EV_WIPED]              = "wiped",
	[EV_DRAINED]            = "drained",
	[EV_WIPE_DEADLINE]      = "wipe-deadline",
	[EV_REAP_DEADLINE]      = "reap-deadline",
	[EV_DATAPLANE_DEAD]     = "dataplane-dead",
	[EV_DATAPLANE_SELF_LOCK] = "dataplane-self-lock",
	[EV_ENGINE_FAILSTOP]    = "engine-failstop",
	[EV_RECOVERY_REFUSED]   = "recovery-refused",
	[EV_HOLD_TIMEOUT]       = "hold-timeout",
	[EV_PIN_RENEWED]        = "pin-renewed",
	[EV_KEK_REPOINTED]      = "kek-repointed",
	[EV_CLOCK_UNTRUSTED]    = "clock-untrusted",
	[EV_CLOCK_TRUSTED]      = "clock-trusted",
	[EV_PURGE_DUE]          = "purge-due",
	[EV_ERASE]              = "erase",
	[EV_LATE_ANSWER]        = "late-answer",
	[EV_HSM_DEAD]           = "hsm-dead",
	[EV_MGMT_DEAD]          = "mgmt-dead",
};

/* By bit number. */
static const char *const action_names[] = {
	"alarm", "alert", "cancel-unwrap", "send-lock", "kill-dataplane", "write-latch", "clear-latch", "start-dataplane", "stop-dataplane",
	"start-unlock", "probe-fresh", "start-outage", "stop-outage", "extend-lease", "audit", "purge-caches",
	"destroy-wraps", "record-defect", "reattach",
};

static const char *const rule_names[] = {
	[RULE_UNWRITTEN] = "unwritten", [RULE_KEEP] = "keep", [RULE_SET] = "set", [RULE_LATER] = "later", [RULE_CLEAR] = "clear",
	[RULE_OPEN] = "open", [RULE_OPEN_ATTACH] = "open-attach", [RULE_OPEN_PIN] = "open-pin", [RULE_OPEN_CLOCK] = "open-clock",
	[RULE_RESTORE] = "restore", [RULE_END] = "end", [RULE_PURGE] = "purge", [RULE_ERASE] = "erase", [RULE_DEFECT] = "defect",
};
/* clang-format on */

_Static_assert(sizeof state_names / sizeof state_names[0] == GATE_STATE_COUNT, "every state has a name");
_Static_assert(sizeof causes / sizeof causes[0] == CAUSE_COUNT, "every cause has a row");
_Static_assert(sizeof event_names / sizeof event_names[0] == EV_COUNT, "every event has a name");
_Static_assert(1u << (sizeof action_names / sizeof action_names[0] - 1) == ACT_REATTACH, "every action has a name");
_Static_assert(sizeof rule_names / sizeof rule_names[0] == RULE_COUNT, "every rule has a name");

const char *gate_state_name(enum gate_state s)
{
	return s < GATE_STATE_COUNT ? state_names[s] : "?";
}

const char *gate_cause_name(enum gate_cause c)
{
	return c < CAUSE_COUNT ? causes[c].name : "?";
}

const char *gate_cause_remedy(enum gate_cause c)
{
	return c < CAUSE_COUNT ? causes[c].remedy : "?";
}

const char *gate_remedy(enum gate_cause c, bool latched)
{
	return c >= CAUSE_COUNT ? "?" : latched ? causes[c].latched_remedy : causes[c].remedy;
}

bool gate_cause_latches(enum gate_cause cause)
{
	return cause < CAUSE_COUNT && causes[cause].latches;
}

const char *gate_event_name(enum gate_event e)
{
	return e < EV_COUNT ? event_names[e] : "?";
}

const char *gate_action_name(enum gate_action a)
{
	for (unsigned bit = 0; bit < sizeof action_names / sizeof action_names[0]; bit++)
		if ((uint32_t)a == 1u << bit)
			return action_names[bit];
	return "?";
}

const char *gate_rule_name(enum gate_rule r)
{
	return r < RULE_COUNT ? rule_names[r] : "?";
}
