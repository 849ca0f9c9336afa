/* The way up: module, C_Initialize, token, PIN counters, session, login, key, facts. Each step that fails leaves a report with
 * the code, what it means and what to do. A restart walks the same way again and compares what it finds with what was pinned. */
#include "kek.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/secret_memory.h"
#include "pin.h"

void kek_init(struct kek *k)
{
	memset(k, 0, sizeof *k);
	k->pin_fd = -1;
}

/* ---- reports ---- */

/* "key 'L' on token 'T'": the names that the token gave, or none yet. */
static void name_key(const struct kek *k, char *out, size_t size)
{
	char label[sizeof k->key.label], token[sizeof k->info.label];

	log_printable(label, sizeof label, k->key.label);
	log_printable(token, sizeof token, k->info.label);
	if (label[0] != '\0')
		snprintf(out, size, "key '%s' on token '%s'", label, token);
	else if (token[0] != '\0')
		snprintf(out, size, "the key on token '%s'", token);
	else
		snprintf(out, size, "the key");
}

/* A verdict without the operator's remedy: the clause holds it already. */
__attribute__((format(printf, 4, 5))) static void say_whole(const struct kek *k, struct report *r, enum hsm_verdict verdict,
							    const char *format, ...)
{
	va_list args;

	r->verdict = verdict;
	r->login_refused = k->login_refused;
	va_start(args, format);
	vsnprintf(r->text, sizeof r->text, format, args);
	va_end(args);
}

void kek_say(const struct kek *k, struct report *r, enum hsm_verdict verdict, const char *what)
{
	char name[128];

	name_key(k, name, sizeof name);
	say_whole(k, r, verdict, "%s: %.120s; %s", name, what, classify_remedy(verdict));
}

static void say_ckr(const struct kek *k, struct report *r, unsigned long ckr, const struct look *look, const char *what)
{
	char number[32], clause[96];
	enum hsm_verdict v = classify(ckr, look);

	r->ckr = ckr;
	snprintf(clause, sizeof clause, "%s: %s (%s)", what, verdict_name(v), classify_ckr_name(ckr, number, sizeof number));
	kek_say(k, r, v, clause);
}

/* ---- the way up ---- */

static bool find_token(struct kek *k, struct report *r)
{
	struct look look = { .stage = STAGE_TOKEN };
	unsigned long ckr = token_find(k->token, &look.token, &k->info);

	if (ckr == TOKEN_OK)
		return true;
	say_ckr(k, r, ckr, &look, "its token is not among the module's tokens");
	return false;
}

/* A counter that is low is not ours to lower further, unless the customer has just given a new PIN; the last try never is. */
static const char *counter_fault(const struct kek *k)
{
	if (k->info.pin_locked)
		return "is locked: no login is tried; let the security officer set it anew (fallgate-custodian set-pin "
		       "--so-pin-file)";
	if (k->info.pin_final_try)
		return "has one try left: no login is tried; log in once by other means, e.g. fallgate-custodian list";
	if (k->info.pin_count_low && !k->how.pin_renewed)
		return "was entered wrongly before: no login is tried; renew the PIN file, or log in once by other means, "
		       "e.g. fallgate-custodian list";
	return NULL;
}

static bool counters_allow(const struct kek *k, struct report *r)
{
	const char *fault = counter_fault(k);

	if (fault != NULL)
		say_whole(k, r, VERDICT_ACCESS_REVOKED, "the PIN of token '%s' %s", k->info.label, fault);
	return fault == NULL;
}

static bool login_with(struct kek *k, const struct pin *pin, struct report *r)
{
	struct look look = { .stage = STAGE_LOGIN, .token = TOKEN_GOOD, .key = KEY_SEEN }; /* no key was looked for */
	unsigned long ckr = token_login(k->token, pin->bytes, pin->size);
	char number[32];

	if (ckr == TOKEN_OK)
		return true;
	if (classify_is_login_refusal(ckr))
		k->login_refused = true;
	if (classify_is_no_pin(ckr)) {
		r->ckr = ckr;
		say_whole(k, r, VERDICT_ACCESS_REVOKED,
			  "token '%s' has no user PIN (%s): the officer sets it (fallgate-custodian set-pin --so-pin-file)",
			  k->info.label, classify_ckr_name(ckr, number, sizeof number));
	} else {
		say_ckr(k, r, ckr, &look, "login");
	}
	return false;
}

static void say_no_pin(const struct kek *k, int error, struct report *r)
{
	if (error == ERR_CONFIG)
		say_whole(k, r, VERDICT_ACCESS_REVOKED,
			  "the PIN file is empty, or its first line is longer than %d bytes: no login is tried; correct the file",
			  PIN_MAX);
	else if (error == ERR_NOMEM)
		say_whole(k, r, VERDICT_UNREACHABLE, "no locked memory for the PIN: raise RLIMIT_MEMLOCK (LimitMEMLOCK=)");
	else
		say_whole(k, r, VERDICT_UNREACHABLE, "the PIN file cannot be read: check that it is a readable file");
}

static bool login(struct kek *k, struct report *r)
{
	struct pin pin = { 0 };
	bool done;
	int e;

	if (!k->info.login_required)
		return true;
	if (k->login_refused || !k->how.login_allowed) {
		say_whole(k, r, VERDICT_ACCESS_REVOKED,
			  "no PIN is tried: it was refused before, or cannot be read; the agent's log says which");
		return false;
	}
	if (k->pin_fd < 0) {
		say_whole(k, r, VERDICT_ACCESS_REVOKED,
			  "token '%s' asks for a PIN and there is none: add pin-source=file:/PATH to the URI", k->info.label);
		return false;
	}
	if (!counters_allow(k, r))
		return false;
	e = (k->how.pin_in_page ? pin_read_page(&pin, k->pin_fd) : pin_read(&pin, k->pin_fd));
	if (e != 0) {
		say_no_pin(k, e, r);
		return false;
	}
	done = login_with(k, &pin, r);
	pin_wipe(&pin);
	return done;
}

static bool open_session(struct kek *k, struct report *r)
{
	struct look look = { .stage = STAGE_LOGIN, .token = TOKEN_GOOD, .key = KEY_SEEN };
	unsigned long ckr = token_open_session(k->token);

	if (ckr == TOKEN_OK)
		return login(k, r);
	say_ckr(k, r, ckr, &look, "opening a session");
	return false;
}

/* None found means deleted only on a token that is well: a token whose store is gone finds nothing either. */
static bool find_key(struct kek *k, struct report *r)
{
	struct look look = { .stage = STAGE_KEY };
	unsigned count;
	unsigned long ckr = token_find_key(k->token, &count);

	if (ckr == TOKEN_OK && count == 1)
		return true;
	if (ckr == TOKEN_OK && count > 1) {
		say_whole(k, r, VERDICT_KEY_UNFIT,
			  "%u keys on token '%s' bear the names in the URI; add id= so that it names one", count, k->info.label);
		return false;
	}
	look.token = token_look(k->token);
	look.key = KEY_SEEN; /* for all that a search shows which failed */
	if (ckr == TOKEN_OK && look.token == TOKEN_GOOD)
		kek_say(k, r, VERDICT_DELETED, "no such key on its token");
	else if (ckr == TOKEN_OK)
		kek_say(k, r, look.token == TOKEN_OTHER ? VERDICT_TOKEN_GONE : VERDICT_UNREACHABLE, "its token is gone");
	else
		say_ckr(k, r, ckr, &look, "finding it");
	return false;
}

/* ---- what the key is ---- */

static const char *shape_fault(const struct token_key *key)
{
	if (key->type == KEK_RSA_OAEP && key->bits != 2048 && key->bits != 3072 && key->bits != 4096)
		return "its RSA size is not 2048, 3072 or 4096 bits";
	if (key->type == KEK_RSA_OAEP && (key->modulus[0] < 0x80 || key->exponent_size == 0))
		return "its public key is incomplete on the token";
	if (key->type == KEK_AES_KW && key->bits != 256)
		return "its AES size is not 256 bits";
	if (key->type != KEK_RSA_OAEP && key->type != KEK_AES_KW)
		return "it is neither a private RSA key nor a secret AES key";
	if (key->each_time)
		return "it wants the PIN at each use (CKA_ALWAYS_AUTHENTICATE)";
	return NULL;
}

/* Every fault by name, so that one correction is enough. */
static bool rights_fault(const struct token_key *key, char *out, size_t size)
{
	bool rsa = key->type == KEK_RSA_OAEP;
	bool decrypt = rsa && !key->may_decrypt, wrap = !rsa && !key->may_wrap, unwrap = !rsa && !key->may_unwrap;

	snprintf(out, size, "%s%s%smissing", decrypt ? "CKA_DECRYPT " : "", wrap ? "CKA_WRAP " : "", unwrap ? "CKA_UNWRAP " : "");
	return decrypt || wrap || unwrap;
}

static bool protection_fault(const struct token_key *key, char *out, size_t size)
{
	char rights[64] = "";
	bool more = rights_fault(key, rights, sizeof rights);

	snprintf(out, size, "%s%s%s%s%s", key->sensitive ? "" : "it is not CKA_SENSITIVE",
		 !key->sensitive && key->extractable ? ", " : "", key->extractable ? "it is CKA_EXTRACTABLE" : "",
		 more ? ", " : "", more ? rights : "");
	return !key->sensitive || key->extractable;
}

static bool same_key(const struct token_key *a, const struct token_key *b)
{
	return a->type == b->type && a->modulus_size == b->modulus_size && memcmp(a->modulus, b->modulus, a->modulus_size) == 0 &&
	       a->exponent_size == b->exponent_size && memcmp(a->exponent, b->exponent, a->exponent_size) == 0;
}

static bool days_from(const char *date, int *day)
{
	*day = 0;
	for (int i = 0; i < 8; i++) {
		if (date[i] < '0' || date[i] > '9')
			return false;
		*day = *day * 10 + (date[i] - '0');
	}
	return date[8] == '\0' && *day % 100 >= 1 && *day % 100 <= 31 && *day / 100 % 100 >= 1 && *day / 100 % 100 <= 12;
}

enum hsm_verdict kek_validity(const char *start, const char *end, time_t now)
{
	struct tm utc;
	int today, day;

	if (gmtime_r(&now, &utc) == NULL)
		return VERDICT_NOT_YET_VALID;
	today = (utc.tm_year + 1900) * 10000 + (utc.tm_mon + 1) * 100 + utc.tm_mday;
	if (start[0] != '\0') {
		if (!days_from(start, &day))
			return VERDICT_KEY_UNFIT;
		if (today < day)
			return VERDICT_NOT_YET_VALID;
	}
	if (end[0] != '\0') {
		if (!days_from(end, &day))
			return VERDICT_KEY_UNFIT;
		if (today > day)
			return VERDICT_EXPIRED;
	}
	return VERDICT_GOOD;
}

static bool dates_allow(const struct kek *k, struct report *r)
{
	enum hsm_verdict v;
	char what[96], start[9], end[9];

	token_key_dates(k->token, r->start_date, r->end_date);
	v = kek_validity(r->start_date, r->end_date, time(NULL));
	if (v == VERDICT_GOOD)
		return true;
	log_printable(start, sizeof start, r->start_date);
	log_printable(end, sizeof end, r->end_date);
	if (v == VERDICT_EXPIRED)
		snprintf(what, sizeof what, "it expired on %s", end);
	else if (v == VERDICT_NOT_YET_VALID)
		snprintf(what, sizeof what, "it is not valid before %s", start);
	else
		snprintf(what, sizeof what, "CKA_START_DATE '%s' or CKA_END_DATE '%s' is no date", start, end);
	if (v == VERDICT_KEY_UNFIT) /* no message carries what is no date */
		r->start_date[0] = r->end_date[0] = '\0';
	kek_say(k, r, v, what);
	return false;
}

/* What the key in hand is, against what it must be and, once one was opened, against that one. */
static bool facts_allow(struct kek *k, struct report *r)
{
	struct look look = { .stage = STAGE_KEY };
	struct token_key now;
	char what[128];
	const char *fault;
	unsigned long ckr = token_key_facts(k->token, &now);

	if (ckr != TOKEN_OK) {
		look.token = token_look(k->token);
		look.key = KEY_SEEN;
		say_ckr(k, r, ckr, &look, "reading its attributes");
		return false;
	}
	if (k->pinned && !same_key(&k->key, &now)) {
		kek_say(k, r, VERDICT_REPLACED, "another key bears its name");
		return false;
	}
	k->key = now;
	fault = shape_fault(&now);
	if (fault == NULL && protection_fault(&now, what, sizeof what))
		fault = what;
	if (fault != NULL) {
		kek_say(k, r, VERDICT_KEY_UNFIT, fault);
		return false;
	}
	if (rights_fault(&now, what, sizeof what)) {
		kek_say(k, r, VERDICT_DISABLED, what);
		return false;
	}
	return dates_allow(k, r);
}

/* Finds the key: it is there, the same, and has its rights and dates. */
static void check_key(struct kek *k, struct report *r)
{
	if (find_key(k, r) && facts_allow(k, r)) {
		r->verdict = VERDICT_GOOD;
		r->login_refused = false;
	}
}

/* From C_Initialize to a key that may be used. */
static void walk_up(struct kek *k, struct report *r)
{
	struct look look = { .stage = STAGE_START };
	unsigned long ckr = token_start(k->token, k->how.init_args);

	if (ckr != TOKEN_OK) {
		say_ckr(k, r, ckr, &look, "C_Initialize");
		return;
	}
	if (find_token(k, r) && open_session(k, r))
		check_key(k, r);
}

static void load_and_walk_up(struct kek *k, struct report *r)
{
	if (token_new(&k->token, k->how.uri, r->text) != 0 || token_load(k->token, k->how.module, r->text) != 0)
		r->verdict = VERDICT_MODULE_BROKEN;
	else
		walk_up(k, r);
}

void kek_open(struct kek *k, const struct msg_hsm_open *how, int pin_fd, struct report *r)
{
	kek_close(k);
	memset(r, 0, sizeof *r);
	k->how = *how;
	k->pin_fd = pin_fd;
	load_and_walk_up(k, r);
	k->pinned = r->verdict == VERDICT_GOOD;
}

void kek_close(struct kek *k)
{
	token_free(k->token);
	secret_wipe(k->canary_plain, sizeof k->canary_plain);
	if (k->pin_fd >= 0)
		close(k->pin_fd);
	kek_init(k);
}

/* ---- operations ---- */

static void restart(struct kek *k, struct report *r)
{
	memset(r, 0, sizeof *r);
	token_stop(k->token);
	walk_up(k, r);
}

/* A key that cannot be found, or read, may be a stale handle of ours. */
static bool check_wants_restart(const struct report *r)
{
	return r->verdict == VERDICT_DELETED || r->verdict == VERDICT_TOKEN_GONE ||
	       (r->verdict == VERDICT_UNREACHABLE && (r->ckr == TOKEN_OK || classify_worth_a_restart(r->ckr)));
}

/* Looks in a session of its own: a module may leave the failed operation active, and then finds nothing in the old one. A search
 * that fails has not shown that the key is gone. */
static void judge(struct kek *k, enum stage stage, const char *what, unsigned long ckr, struct report *r)
{
	struct look look = { .stage = stage, .worked = k->worked, .no_ciphertext = k->no_ciphertext };
	unsigned count = 0;

	if (token_renew_session(k->token) == TOKEN_OK && token_find_key(k->token, &count) == TOKEN_OK) {
		look.key = count > 0 ? KEY_SEEN : KEY_UNSEEN;
		look.token = token_look(k->token);
	}
	say_ckr(k, r, ckr, &look, what);
}

static unsigned long run(struct kek *k, kek_operation operation, void *context)
{
	k->no_ciphertext = false;
	return operation(k, context);
}

void kek_perform(struct kek *k, enum stage stage, const char *what, kek_operation operation, void *context, struct report *r)
{
	bool restarted = false;
	unsigned long ckr;

	memset(r, 0, sizeof *r);
	check_key(k, r);
	if (check_wants_restart(r)) {
		restarted = true;
		restart(k, r);
	}
	if (r->verdict != VERDICT_GOOD)
		return;
	ckr = run(k, operation, context);
	if (classify_worth_a_restart(ckr) && !restarted) {
		restart(k, r);
		if (r->verdict != VERDICT_GOOD)
			return;
		ckr = run(k, operation, context);
	}
	r->ckr = ckr;
	if (ckr == TOKEN_OK)
		k->worked = true;
	else
		judge(k, stage, what, ckr, r);
}
