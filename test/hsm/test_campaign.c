/* The fault campaign: the real fallgate-hsm in front of a token whose every function answers every code that PKCS#11 names, at
 * its first to fifth call, once or for ever; and crashes, lies about lengths, handles and keys. What is held against each answer:
 * - it is one that the table below allows; the table is written from the standard's words, not from classify.c;
 * - GOOD is only ever said of the right key, with the right bytes; without it the page is empty;
 * - the process ends by order, or because the module ended it, and never hangs;
 * - when the fault is over, the same process proves the key again.
 * By itself a sample in which each function meets each class; with FALLGATE_CAMPAIGN=brief a third of it (for sanitizers), with
 * rsa or aes everything about that key, with anything else everything. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <p11-kit/pkcs11.h>

#include "exchange.h"
#include "rig.h"

enum { ROUNDS = 5, NTH_MAX = 5, FOR_EVER = 9999 };

/* ---- what is expected ---- */

enum group {
	WEATHER, /* the device, its link, its memory */
	GONE,    /* no token to be seen */
	DOUBT,   /* CKR_GENERAL_ERROR */
	SESSION,
	PIN_CODE,
	NO_PIN,
	RIGHT,
	TYPE,
	HANDLE,
	PAYLOAD_CODE,
	TEMPLATE,
	BROKEN, /* and whatever has no business to be said here: fail closed */
	GROUPS
};

#define C(name, group)                                                                                                           \
	{                                                                                                                        \
		CKR_##name, #name, group                                                                                         \
	}

/* Every code of PKCS#11 2.40 and 3.0 but CKR_OK. */
static const struct code {
	CK_RV rv;
	const char *name;
	enum group group;
} codes[] = {
	C(CANCEL, BROKEN),
	C(HOST_MEMORY, WEATHER),
	C(SLOT_ID_INVALID, GONE),
	C(GENERAL_ERROR, DOUBT),
	C(FUNCTION_FAILED, WEATHER),
	C(ARGUMENTS_BAD, BROKEN),
	C(NO_EVENT, BROKEN),
	C(NEED_TO_CREATE_THREADS, BROKEN),
	C(CANT_LOCK, BROKEN),
	C(ATTRIBUTE_READ_ONLY, TEMPLATE),
	C(ATTRIBUTE_SENSITIVE, TEMPLATE),
	C(ATTRIBUTE_TYPE_INVALID, TEMPLATE),
	C(ATTRIBUTE_VALUE_INVALID, TEMPLATE),
	C(ACTION_PROHIBITED, RIGHT),
	C(DATA_INVALID, PAYLOAD_CODE),
	C(DATA_LEN_RANGE, PAYLOAD_CODE),
	C(DEVICE_ERROR, WEATHER),
	C(DEVICE_MEMORY, WEATHER),
	C(DEVICE_REMOVED, GONE),
	C(ENCRYPTED_DATA_INVALID, PAYLOAD_CODE),
	C(ENCRYPTED_DATA_LEN_RANGE, PAYLOAD_CODE),
	{ 0x42, "AEAD_DECRYPT_FAILED", BROKEN },
	C(FUNCTION_CANCELED, BROKEN),
	C(FUNCTION_NOT_PARALLEL, BROKEN),
	C(FUNCTION_NOT_SUPPORTED, BROKEN),
	C(KEY_HANDLE_INVALID, HANDLE),
	C(KEY_SIZE_RANGE, BROKEN),
	C(KEY_TYPE_INCONSISTENT, TYPE),
	C(KEY_NOT_NEEDED, BROKEN),
	C(KEY_CHANGED, BROKEN),
	C(KEY_NEEDED, BROKEN),
	C(KEY_INDIGESTIBLE, BROKEN),
	C(KEY_FUNCTION_NOT_PERMITTED, RIGHT),
	C(KEY_NOT_WRAPPABLE, BROKEN),
	C(KEY_UNEXTRACTABLE, BROKEN),
	C(MECHANISM_INVALID, BROKEN),
	C(MECHANISM_PARAM_INVALID, BROKEN),
	C(OBJECT_HANDLE_INVALID, HANDLE),
	C(OPERATION_ACTIVE, SESSION),
	C(OPERATION_NOT_INITIALIZED, SESSION),
	C(PIN_INCORRECT, PIN_CODE),
	C(PIN_INVALID, PIN_CODE),
	C(PIN_LEN_RANGE, PIN_CODE),
	C(PIN_EXPIRED, PIN_CODE),
	C(PIN_LOCKED, PIN_CODE),
	C(SESSION_CLOSED, SESSION),
	C(SESSION_COUNT, WEATHER),
	C(SESSION_HANDLE_INVALID, SESSION),
	C(SESSION_PARALLEL_NOT_SUPPORTED, BROKEN),
	C(SESSION_READ_ONLY, BROKEN),
	C(SESSION_EXISTS, BROKEN),
	C(SESSION_READ_ONLY_EXISTS, BROKEN),
	C(SESSION_READ_WRITE_SO_EXISTS, BROKEN),
	C(SIGNATURE_INVALID, BROKEN),
	C(SIGNATURE_LEN_RANGE, BROKEN),
	C(TEMPLATE_INCOMPLETE, TEMPLATE),
	C(TEMPLATE_INCONSISTENT, TEMPLATE),
	C(TOKEN_NOT_PRESENT, GONE),
	C(TOKEN_NOT_RECOGNIZED, GONE),
	C(TOKEN_WRITE_PROTECTED, BROKEN),
	{ 0xf0, "UNWRAPPING_KEY_HANDLE_INVALID", HANDLE },
	C(UNWRAPPING_KEY_SIZE_RANGE, BROKEN),
	C(UNWRAPPING_KEY_TYPE_INCONSISTENT, TYPE),
	C(USER_ALREADY_LOGGED_IN, BROKEN),
	C(USER_NOT_LOGGED_IN, SESSION),
	C(USER_PIN_NOT_INITIALIZED, NO_PIN),
	C(USER_TYPE_INVALID, BROKEN),
	C(USER_ANOTHER_ALREADY_LOGGED_IN, BROKEN),
	C(USER_TOO_MANY_TYPES, BROKEN),
	C(WRAPPED_KEY_INVALID, PAYLOAD_CODE),
	C(WRAPPED_KEY_LEN_RANGE, PAYLOAD_CODE),
	C(WRAPPING_KEY_HANDLE_INVALID, HANDLE),
	C(WRAPPING_KEY_SIZE_RANGE, BROKEN),
	C(WRAPPING_KEY_TYPE_INCONSISTENT, TYPE),
	C(RANDOM_SEED_NOT_SUPPORTED, BROKEN),
	C(RANDOM_NO_RNG, BROKEN),
	C(DOMAIN_PARAMS_INVALID, BROKEN),
	C(CURVE_NOT_SUPPORTED, BROKEN),
	C(BUFFER_TOO_SMALL, BROKEN),
	C(SAVED_STATE_INVALID, BROKEN),
	C(INFORMATION_SENSITIVE, BROKEN),
	C(STATE_UNSAVEABLE, BROKEN),
	C(CRYPTOKI_NOT_INITIALIZED, SESSION),
	C(CRYPTOKI_ALREADY_INITIALIZED, WEATHER),
	C(MUTEX_BAD, BROKEN),
	C(MUTEX_NOT_LOCKED, BROKEN),
	C(NEW_PIN_MODE, BROKEN),
	C(NEXT_OTP, BROKEN),
	C(EXCEEDED_MAX_ITERATIONS, BROKEN),
	C(FIPS_SELF_TEST_FAILED, BROKEN),
	C(LIBRARY_LOAD_FAILED, BROKEN),
	C(PIN_TOO_WEAK, BROKEN),
	C(PUBLIC_KEY_INVALID, BROKEN),
	C(FUNCTION_REJECTED, BROKEN),
	{ 0x201, "TOKEN_RESOURCE_EXCEEDED", WEATHER },
	{ 0x202, "OPERATION_CANCEL_FAILED", BROKEN },
	{ 0x203, "KEY_EXHAUSTED", BROKEN },
	{ 0x80000005, "a vendor's", WEATHER },
	{ 0x54321, "nobody's", BROKEN },
};

enum kind { START, LIST, INFO, OPEN_SESSION, LOGIN, FIND, READ, DECIDE, WORK, IGNORED };

static const struct function {
	const char *name;
	enum kind kind;
	bool length, bytes, handle, key; /* what it can lie about */
} functions[] = {
	{ .name = "C_Initialize", .kind = START },
	{ .name = "C_Finalize", .kind = IGNORED },
	{ .name = "C_GetSlotList", .kind = LIST, .length = true, .handle = true },
	{ .name = "C_GetTokenInfo", .kind = INFO, .bytes = true },
	{ .name = "C_OpenSession", .kind = OPEN_SESSION, .handle = true },
	{ .name = "C_CloseSession", .kind = IGNORED },
	{ .name = "C_Login", .kind = LOGIN },
	{ .name = "C_FindObjectsInit", .kind = FIND },
	{ .name = "C_FindObjects", .kind = FIND, .length = true, .handle = true },
	{ .name = "C_FindObjectsFinal", .kind = FIND },
	{ .name = "C_GetAttributeValue", .kind = READ, .length = true, .bytes = true },
	{ .name = "C_DecryptInit", .kind = DECIDE, .key = true },
	{ .name = "C_Decrypt", .kind = DECIDE, .length = true, .bytes = true },
	{ .name = "C_UnwrapKey", .kind = DECIDE, .handle = true, .key = true },
	{ .name = "C_WrapKey", .kind = WORK, .length = true, .bytes = true, .key = true },
	{ .name = "C_EncryptInit", .kind = WORK, .key = true },
	{ .name = "C_Encrypt", .kind = WORK, .length = true, .bytes = true },
	{ .name = "C_CreateObject", .kind = WORK, .handle = true },
	{ .name = "C_DestroyObject", .kind = IGNORED },
	{ .name = "C_GenerateRandom", .kind = WORK, .bytes = true },
};

enum { CODES = sizeof codes / sizeof codes[0], FUNCTIONS = sizeof functions / sizeof functions[0] };

#define V(v) (1u << VERDICT_##v)

/* What a code means where nothing is known of the key yet. */
static unsigned plain(enum group g)
{
	static const unsigned meanings[GROUPS] = {
		[WEATHER] = V(UNREACHABLE),     [GONE] = V(UNREACHABLE),
		[DOUBT] = V(UNREACHABLE),       [SESSION] = V(UNREACHABLE),
		[PIN_CODE] = V(ACCESS_REVOKED), [NO_PIN] = V(ACCESS_REVOKED), /* and the PIN is not spent */
		[RIGHT] = V(DISABLED),          [TYPE] = V(MODULE_BROKEN) | V(DISABLED),
		[HANDLE] = V(UNREACHABLE),      [PAYLOAD_CODE] = V(UNREACHABLE),
		[TEMPLATE] = V(MODULE_BROKEN),  [BROKEN] = V(MODULE_BROKEN),
	};

	return meanings[g];
}

/* An attribute that the key does not have, or that is secret: the key does not fit, or lacks a right. */
static unsigned unread(const struct code *c)
{
	if (c->rv == CKR_ATTRIBUTE_TYPE_INVALID || c->rv == CKR_ATTRIBUTE_SENSITIVE)
		return V(KEY_UNFIT) | V(DISABLED) | V(MODULE_BROKEN) | V(GOOD);
	return plain(c->group);
}

/* The verdicts that a code may lead to when it stays. GOOD among them: it may be passed over. */
static unsigned allowed(const struct function *f, const struct code *c)
{
	switch (f->kind) {
	case IGNORED:
		return strcmp(f->name, "C_Finalize") == 0 ? V(GOOD) | V(UNREACHABLE) : V(GOOD);
	case INFO:
		return V(UNREACHABLE);
	case LOGIN: /* one that says so and is not: the key is not to be seen */
		return c->rv == CKR_USER_ALREADY_LOGGED_IN ? V(DELETED) : plain(c->group);
	case READ:
		return unread(c);
	case DECIDE:
		if (c->group == DOUBT || c->group == PAYLOAD_CODE)
			return V(REPLACED) | V(DEK_REFUSED);
		return plain(c->group);
	case WORK: /* the public key may be brought along; where the fault has left an operation open, that finds it in its way */
		if (f->name[2] == 'E' && (c->group == RIGHT || c->rv == CKR_KEY_TYPE_INCONSISTENT))
			return V(GOOD) | V(UNREACHABLE) | plain(c->group);
		return c->group == PAYLOAD_CODE ? V(REPLACED) | V(DEK_REFUSED) | V(UNREACHABLE) : plain(c->group);
	case START:
	case LIST:
	case OPEN_SESSION:
	case FIND:
		break;
	}
	return plain(c->group);
}

/* A fault that happened once and that a new session cures is no news to anybody. */
static bool must_be_cured(const struct function *f, const struct code *c)
{
	return (f->kind == DECIDE || f->kind == WORK) && (c->group == SESSION || c->group == HANDLE || c->group == DOUBT);
}

/* ---- one conversation ---- */

enum talk { PROBER, UNWRAP, WRAP, TALKS };

static const char *const talk_names[TALKS] = { "prober", "unwrap", "wrap" };

/* A KEK with what the supervisor knows of it, and a data key under it. */
static struct kek {
	const char *object, *other;
	struct msg_hsm_opened pinned;
	struct msg_hsm_probe question;
	uint8_t answer[CHALLENGE_BYTES], payload[PAYLOAD];
	struct msg_page_done wrapped;
	unsigned calls[TALKS][FUNCTIONS];
} keks[2] = { { .object = "object=rsa", .other = "rsa-other" }, { .object = "object=aes", .other = "aes-other" } };

struct outcome {
	unsigned bad;      /* answers that were not GOOD */
	unsigned verdicts; /* theirs, one bit each */
	enum hsm_verdict last;
	bool refused; /* the token refused the PIN */
	bool died;    /* the process ended before it was told to */
	int code;     /* its exit code, or 128 + signal */
	const char *wrong;
	char text[160];            /* of the last answer that was not good */
	struct msg_page_done made; /* by WRAP */
	uint8_t made_of[PAYLOAD];
};

static struct rig rig;
static unsigned failures, cases, unsteady;

static void hold(struct outcome *o, bool good, const char *what)
{
	if (!good && o->wrong == NULL)
		o->wrong = what;
}

/* false: the process is gone. */
static bool hear(struct channel *c, struct message *m, enum message_type type, struct outcome *o)
{
	int fds[CHANNEL_FDS_MAX], r;
	unsigned count;

	r = channel_receive_wait(c, m, fds, &count, NULL, PROCESS_TIMEOUT_MS);
	hold(o, r == 0 || r == 1, "it hangs, or breaks the protocol");
	hold(o, r != 1 || m->type == type, "it answers something else");
	o->died = r != 1;
	return r == 1;
}

static enum hsm_verdict take(struct outcome *o, enum hsm_verdict v, const char *text, bool refused)
{
	o->last = v;
	o->refused = o->refused || refused;
	if (v == VERDICT_GOOD)
		return v;
	o->bad++;
	o->verdicts |= 1u << v;
	snprintf(o->text, sizeof o->text, "%s", text);
	hold(o, strlen(text) > 20, "a refusal without a text");
	hold(o, strstr(text, "24681357") == NULL, "the PIN stands in the text");
	return v;
}

/* As the supervisor judges it: another public key is another key, whatever the process says. */
static bool open_kek(const struct kek *k, struct outcome *o)
{
	struct message m;
	struct msg_hsm_opened *a = &m.body.hsm_opened;
	enum hsm_verdict v;
	char path[256];
	int fd;

	message_init(&m, MSG_HSM_OPEN, 41);
	snprintf(m.body.hsm_open.module, PATH_MAX_BYTES, "%s", rig.module);
	snprintf(m.body.hsm_open.uri, URI_MAX_BYTES, "pkcs11:token=cust%%20omer;%s", k->object);
	m.body.hsm_open.login_allowed = true;
	snprintf(path, sizeof path, "%s/pin", rig.folder);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (channel_send(&rig.supervisor, &m, &fd, 1) != 0)
		o->died = true;
	close(fd);
	if (o->died || !hear(&rig.supervisor, &m, MSG_HSM_OPENED, o))
		return false;
	v = a->verdict;
	if (v == VERDICT_GOOD && (a->type != k->pinned.type || a->modulus_size != k->pinned.modulus_size ||
				  memcmp(a->modulus, k->pinned.modulus, sizeof a->modulus) != 0 ||
				  memcmp(a->exponent, k->pinned.exponent, sizeof a->exponent) != 0)) {
		v = VERDICT_REPLACED;
		snprintf(a->text, sizeof a->text, "the supervisor sees another public key");
	}
	return take(o, v, a->text, a->login_refused) == VERDICT_GOOD;
}

static bool probe_kek(const struct kek *k, struct outcome *o)
{
	struct message m;
	struct msg_hsm_verdict *a = &m.body.hsm_verdict;
	enum hsm_verdict v;

	message_init(&m, MSG_HSM_PROBE, 42);
	m.body.hsm_probe = k->question;
	if (channel_send(&rig.supervisor, &m, NULL, 0) != 0)
		o->died = true;
	if (o->died || !hear(&rig.supervisor, &m, MSG_HSM_VERDICT, o))
		return false;
	v = a->verdict;
	if (v == VERDICT_GOOD && memcmp(a->answer, k->answer, sizeof a->answer) != 0) {
		v = VERDICT_REPLACED;
		snprintf(a->text, sizeof a->text, "the supervisor sees a wrong answer");
	}
	return take(o, v, a->text, a->login_refused) == VERDICT_GOOD;
}

/* As the dataplane judges it: the key-check value tells a wrong data key. */
static void judge_payload(const struct kek *k, const struct exchange *x, struct outcome *o)
{
	if (memcmp(x->page.base, k->payload, PAYLOAD) != 0)
		take(o, VERDICT_DEK_REFUSED, "the dataplane sees a wrong key-check value", false);
}

static void unwrap_or_wrap(const struct kek *k, bool wrap, struct outcome *o)
{
	struct message opened = { .body.hsm_opened = k->pinned };
	struct exchange x;
	uint8_t before[PAYLOAD];

	exchange_new(&rig, &x, &opened, wrap);
	if (wrap) {
		exchange_fill(&x, before);
	} else {
		x.page_half.body.page.wrapped_size = k->wrapped.wrapped_size;
		memcpy(x.page_half.body.page.wrapped, k->wrapped.wrapped, k->wrapped.wrapped_size);
	}
	if (channel_send(&rig.dataplane, &x.page_half, &x.fd, 1) != 0 || channel_send(&rig.supervisor, &x.ticket, NULL, 0) != 0)
		o->died = true;
	if (!o->died && hear(&rig.dataplane, &x.done, MSG_PAGE_DONE, o) &&
	    hear(&rig.supervisor, &x.verdict, MSG_HSM_VERDICT, o)) {
		const struct msg_hsm_verdict *v = &x.verdict.body.hsm_verdict;

		hold(o, v->verdict == x.done.body.page_done.verdict, "supervisor and dataplane are told different things");
		take(o, v->verdict, v->text, v->login_refused);
		hold(o, exchange_zero_from(&x, o->last == VERDICT_GOOD ? PAYLOAD : 0), "something is left in the page");
		if (o->last == VERDICT_GOOD && !wrap)
			judge_payload(k, &x, o);
		o->made = x.done.body.page_done;
		memcpy(o->made_of, x.page.base, PAYLOAD);
	}
	exchange_free(&x);
}

static void finish(struct outcome *o, bool one_shot)
{
	struct message m;

	message_init(&m, MSG_HSM_CLOSE, 0);
	if (!o->died && (!one_shot || o->bad > 0))
		channel_send(&rig.supervisor, &m, NULL, 0);
	o->code = rig_reap(&rig);
}

static void converse(const struct kek *k, enum talk talk, struct outcome *o)
{
	memset(o, 0, sizeof *o);
	rig_start(&rig, talk != PROBER);
	if (talk == PROBER) {
		for (int i = 0; i < ROUNDS && !o->died; i++)
			if (open_kek(k, o))
				probe_kek(k, o);
	} else if (open_kek(k, o) && probe_kek(k, o)) {
		unwrap_or_wrap(k, talk == WRAP, o);
		if (o->bad > 0) { /* it has answered its ticket and left */
			o->code = rig_reap(&rig);
			return;
		}
	}
}

/* The fault is over: the same process, if it lives, proves the key. */
static void recover(const struct kek *k, enum talk talk, struct outcome *o)
{
	struct outcome after = { 0 };

	if (rig.pid == 0)
		return;
	if (talk == PROBER && !o->died) {
		rig_fault(&rig, "");
		hold(o, open_kek(k, &after) && probe_kek(k, &after), "it does not recover when the fault is over");
		hold(o, after.wrong == NULL, after.wrong);
	}
	finish(o, talk != PROBER);
}

/* ---- cases ---- */

static void report(const struct kek *k, enum talk talk, const char *order, const struct outcome *o, const char *why)
{
	failures++;
	print_error("%s, %s, %.*s: %s (answers that were not good: %u, verdicts %#x, last %s, %s %d; %s)\n", k->object,
		    talk_names[talk], (int)strcspn(order, "\n"), order, why, o->bad, o->verdicts, verdict_name(o->last),
		    o->died ? "died with" : "ended with", o->code, o->text);
}

static void run_order(const struct kek *k, enum talk talk, const char *order, struct outcome *o)
{
	char log[200];

	cases++;
	snprintf(log, sizeof log, "%s/log", rig.folder);
	unlink(log);
	rig_fault(&rig, order);
	converse(k, talk, o);
	recover(k, talk, o);
	rig_fault(&rig, "");
}

static void judge_code(const struct kek *k, enum talk talk, const char *order, const struct function *f, const struct code *c,
		       bool for_ever, const struct outcome *o)
{
	unsigned may = allowed(f, c);
	bool pin = f->kind == LOGIN && c->group == PIN_CODE;

	if (o->wrong != NULL)
		report(k, talk, order, o, o->wrong);
	else if (o->died || o->code != 0)
		report(k, talk, order, o, "the process did not live to its end");
	else if ((o->verdicts & ~may) != 0)
		report(k, talk, order, o, "a verdict that the table does not allow");
	else if (for_ever && o->last == VERDICT_GOOD && (may & V(GOOD)) == 0)
		report(k, talk, order, o, "a fault that stays was passed over");
	else if (!for_ever && o->bad > 1)
		report(k, talk, order, o, "one fault spoiled more than one answer");
	else if (!for_ever && o->bad > 0 && must_be_cured(f, c))
		report(k, talk, order, o, "a new session would have cured it");
	else if (o->refused != (pin && o->bad > 0))
		report(k, talk, order, o, "it is wrong about whether the PIN was refused");
}

/* SoftHSM2 and a busy machine have moods of their own: a case fails if it fails twice in a row. How many needed that is counted.
 */
static bool settled(unsigned failed_before, bool again)
{
	if (failures == failed_before)
		return true;
	if (again)
		return true;
	failures = failed_before;
	unsteady++;
	return false;
}

static void try_code(const struct kek *k, enum talk talk, const struct function *f, unsigned nth, const struct code *c,
		     bool for_ever)
{
	const unsigned before = failures;
	struct outcome o;
	char order[128];

	snprintf(order, sizeof order, "%s %u %d rv %#lx\n", f->name, nth, for_ever ? FOR_EVER : 1, c->rv);
	for (bool again = false, over = false; !over; again = true) {
		run_order(k, talk, order, &o);
		judge_code(k, talk, order, f, c, for_ever, &o);
		over = settled(before, again);
	}
}

/* A wrap that was called good opens again, by the right key, to what was in the page. */
static bool opens(const struct kek *k, const struct outcome *made)
{
	struct kek copy = *k;
	struct outcome o;

	copy.wrapped = made->made;
	memcpy(copy.payload, made->made_of, PAYLOAD);
	converse(&copy, UNWRAP, &o);
	recover(&copy, UNWRAP, &o);
	return o.wrong == NULL && o.last == VERDICT_GOOD && !o.died;
}

enum lie { LIE_LENGTH = 1, LIE_BYTES, LIE_HANDLE, LIE_KEY, LIE_NAME, DEATH, SLOW, LOST };

static const struct effect {
	const char *order;
	enum lie lie;
} effects[] = {
	{ "length short", LIE_LENGTH },
	{ "length long", LIE_LENGTH },
	{ "length huge", LIE_LENGTH },
	{ "length zero", LIE_LENGTH },
	{ "length 1", LIE_LENGTH },
	{ "garbage", LIE_BYTES },
	{ "handle 0", LIE_HANDLE },
	{ "handle 0x7777", LIE_HANDLE },
	{ "use OTHER", LIE_KEY },
	{ "substitute OTHER", LIE_NAME },
	{ "crash", DEATH },
	{ "abort", DEATH },
	{ "exit 3", DEATH },
	{ "delay 5", SLOW },
	{ "lost 0x30", LOST },
	{ "lost 0xb3", LOST },
};

static bool fits(const struct function *f, enum lie lie)
{
	switch (lie) {
	case LIE_LENGTH:
		return f->length;
	case LIE_BYTES:
		return f->bytes;
	case LIE_HANDLE:
		return f->handle;
	case LIE_KEY:
		return f->key;
	case LIE_NAME:
		return strcmp(f->name, "C_FindObjectsInit") == 0;
	case DEATH:
	case SLOW:
	case LOST:
		break;
	}
	return true;
}

/* Whatever it says then: the wrong key is never used, and nobody but the module ends the process. */
static void judge_effect(const struct kek *k, enum talk talk, const char *order, const struct function *f, const struct effect *e,
			 bool for_ever, const struct outcome *o)
{
	unsigned key = V(REPLACED) | V(DEK_REFUSED) | V(UNREACHABLE) | V(MODULE_BROKEN) | V(DELETED) | V(KEY_UNFIT);

	if (o->wrong != NULL)
		report(k, talk, order, o, o->wrong);
	else if (e->lie == DEATH ? o->code == 0 : o->died || o->code != 0)
		report(k, talk, order, o, "the process ended otherwise than the module made it");
	else if (e->lie == SLOW && o->bad > 0)
		report(k, talk, order, o, "a slow token is refused");
	else if ((e->lie == LIE_KEY || e->lie == LIE_NAME) && (o->verdicts & ~key) != 0)
		report(k, talk, order, o, "another key in the key's place is called something else");
	else if ((e->lie == LIE_KEY || e->lie == LIE_NAME) && f->kind != WORK && for_ever && o->last == VERDICT_GOOD)
		report(k, talk, order, o, "another key in the key's place is not told");
	else if (talk == WRAP && !o->died && o->last == VERDICT_GOOD && !opens(k, o))
		report(k, talk, order, o, "what it called a good wrap does not open");
}

static void try_effect(const struct kek *k, enum talk talk, const struct function *f, unsigned nth, const struct effect *e,
		       bool for_ever)
{
	const unsigned before = failures;
	struct outcome o;
	char order[128], *other;

	snprintf(order, sizeof order, "%s %u %d %s", f->name, nth, for_ever ? FOR_EVER : 1, e->order);
	other = strstr(order, "OTHER");
	if (other != NULL)
		strcpy(other, k->other);
	strcat(order, "\n");
	for (bool again = false, over = false; !over; again = true) {
		run_order(k, talk, order, &o);
		judge_effect(k, talk, order, f, e, for_ever, &o);
		over = settled(before, again);
	}
}

/* ---- which cases ---- */

static bool extent_is(const char *word)
{
	const char *extent = getenv("FALLGATE_CAMPAIGN");

	return extent != NULL && strcmp(extent, word) == 0;
}

static bool everything(void)
{
	return getenv("FALLGATE_CAMPAIGN") != NULL && !extent_is("brief");
}

/* Which of a sample's cases are passed over. */
static bool passed_over(void)
{
	static unsigned turn;

	return extent_is("brief") && turn++ % 3 != 0;
}

static unsigned times_called(const struct kek *k, enum talk talk, unsigned f)
{
	return k->calls[talk][f] < NTH_MAX ? k->calls[talk][f] : NTH_MAX;
}

static void all_codes(const struct kek *k, enum talk talk, unsigned f)
{
	for (unsigned c = 0; c < CODES; c++)
		for (unsigned nth = 0; nth < times_called(k, talk, f); nth++)
			for (int for_ever = 0; for_ever < 2; for_ever++)
				try_code(k, talk, &functions[f], nth, &codes[c], for_ever);
}

/* One code of each group, at one of the calls. What is left out of one function's turn is in another's. */
static void some_codes(const struct kek *k, enum talk talk, unsigned f)
{
	static unsigned turn;

	for (enum group g = 0; g < GROUPS; g++) {
		unsigned of_group = 0, chosen;

		for (unsigned c = 0; c < CODES; c++)
			of_group += codes[c].group == g;
		chosen = turn++ % of_group;
		for (unsigned c = 0; c < CODES; c++)
			if (codes[c].group == g && chosen-- == 0 && !passed_over())
				try_code(k, talk, &functions[f], turn % times_called(k, talk, f), &codes[c], (turn + f) % 2 == 0);
	}
}

static void all_effects(const struct kek *k, enum talk talk, unsigned f)
{
	static unsigned turn;
	unsigned called = times_called(k, talk, f);

	for (unsigned e = 0; e < sizeof effects / sizeof effects[0]; e++) {
		if (!fits(&functions[f], effects[e].lie))
			continue;
		for (unsigned nth = 0; everything() && nth < called; nth++)
			for (int for_ever = 0; for_ever < 2; for_ever++)
				try_effect(k, talk, &functions[f], nth, &effects[e], for_ever);
		if (!everything() && !passed_over())
			try_effect(k, talk, &functions[f], turn % called, &effects[e], effects[e].lie != SLOW && turn % 2 == 0);
		turn++;
	}
}

static void campaign(const struct kek *k)
{
	unsigned reached[FUNCTIONS] = { 0 };

	for (enum talk talk = PROBER; talk < TALKS; talk++) {
		for (unsigned f = 0; f < FUNCTIONS; f++) {
			reached[f] += k->calls[talk][f];
			if (k->calls[talk][f] == 0)
				continue;
			if (everything())
				all_codes(k, talk, f);
			else
				some_codes(k, talk, f);
			all_effects(k, talk, f);
		}
		print_message("%s, %s: %u cases so far, %u failures\n", k->object, talk_names[talk], cases, failures);
	}
}

static void every_fault_ends_in_a_right_verdict(void **state)
{
	(void)state;
	cases = failures = unsteady = 0;
	for (unsigned i = 0; i < 2; i++)
		if (!extent_is(i == 0 ? "aes" : "rsa"))
			campaign(&keks[i]);
	print_message("%u cases, %u of them had to be tried again\n", cases, unsteady);
	assert_int_equal(failures, 0);
	assert_true(unsteady <= 2 + cases / 500);
}

/* C_CloseSession is only called when an operation has failed: whatever it says, the verdict on that operation stands. */
static void closing_a_session_changes_no_verdict(void **state)
{
	struct outcome o;
	char order[128];

	(void)state;
	failures = 0;
	for (unsigned i = 0; i < 2; i++)
		for (unsigned c = 0; c < CODES; c += everything() ? 1 : 9) {
			snprintf(order, sizeof order, "%s 0 99 rv 0x40\nC_CloseSession 0 99 rv %#lx\n",
				 i == 0 ? "C_Decrypt" : "C_UnwrapKey", codes[c].rv);
			run_order(&keks[i], PROBER, order, &o);
			if (o.wrong != NULL || o.verdicts != V(REPLACED) || o.died)
				report(&keks[i], PROBER, order, &o,
				       o.wrong != NULL ? o.wrong : "not the verdict on the operation");
		}
	assert_true(rig_calls(&rig, "C_CloseSession") > 0);
	assert_int_equal(failures, 0);
}

/* A function or a code that nobody put into the tables is one that no case is about. */
static void the_tables_are_whole(void **state)
{
	static char source[65536], name[64];
	FILE *f = fopen(TOKEN_SOURCE, "re");
	unsigned seen = 0, reached;
	const char *at;

	(void)state;
	assert_non_null(f);
	assert_true(fread(source, 1, sizeof source - 1, f) > 1000);
	assert_true(feof(f));
	fclose(f);
	for (at = strstr(source, "f->C_"); at != NULL; at = strstr(at + 1, "f->C_")) {
		bool known = false;

		assert_int_equal(sscanf(at + 3, "%63[A-Za-z_]", name), 1);
		for (unsigned i = 0; i < FUNCTIONS; i++)
			known = known || strcmp(functions[i].name, name) == 0;
		if (!known)
			fail_msg("%s is called and stands in no table", name);
		seen++;
	}
	assert_true(seen >= FUNCTIONS);
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		reached = 0;
		for (enum talk t = PROBER; t < TALKS; t++)
			reached += keks[0].calls[t][i] + keks[1].calls[t][i];
		if (reached == 0 && strcmp(functions[i].name, "C_CloseSession") != 0)
			fail_msg("%s is never called in these conversations", functions[i].name);
	}
	for (unsigned i = 1; i < CODES; i++)
		for (unsigned j = 0; j < i; j++)
			assert_true(codes[i].rv != codes[j].rv);
	assert_true(CODES >= 95);
}

/* ---- the keys ---- */

static void learn(struct kek *k)
{
	struct message opened, canary, answer, none = { 0 };
	struct outcome o;

	rig_start(&rig, false);
	rig_open(&rig, k->object, "pin", true, &opened);
	assert_int_equal(opened.body.hsm_opened.verdict, VERDICT_GOOD);
	k->pinned = opened.body.hsm_opened;
	assert_int_equal(rig_probe(&rig, &opened, &none, &canary), VERDICT_GOOD);
	if (k->pinned.type == KEK_RSA_OAEP) {
		memset(k->answer, 0x37, sizeof k->answer);
		k->question.hash = (uint8_t)rig.hash;
		k->question.wrapped_size = rig_encrypt(&k->pinned, rig.hash, k->answer, k->question.wrapped);
	} else {
		memcpy(k->answer, canary.body.hsm_verdict.answer, sizeof k->answer);
		k->question.wrapped_size = canary.body.hsm_verdict.wrapped_size;
		memcpy(k->question.wrapped, canary.body.hsm_verdict.wrapped, k->question.wrapped_size);
		assert_int_equal(rig_probe(&rig, &opened, &canary, &answer), VERDICT_GOOD);
	}
	converse(k, WRAP, &o);
	assert_int_equal(o.last, VERDICT_GOOD);
	recover(k, WRAP, &o);
	k->wrapped = o.made;
	memcpy(k->payload, o.made_of, PAYLOAD);
}

static void count_calls(struct kek *k)
{
	struct outcome o;
	char word[64], log[200];

	snprintf(log, sizeof log, "%s/log", rig.folder);
	for (enum talk t = PROBER; t < TALKS; t++) {
		unlink(log);
		converse(k, t, &o);
		if (o.wrong != NULL || o.bad > 0 || o.died)
			report(k, t, "", &o, o.wrong != NULL ? o.wrong : "it does not even work without faults");
		for (unsigned f = 0; f < FUNCTIONS; f++) {
			snprintf(word, sizeof word, "%s ", functions[f].name);
			k->calls[t][f] = rig_calls(&rig, word);
		}
		recover(k, t, &o); /* what it calls on its way out is called when the fault is over */
	}
}

static int new_keys(void **state)
{
	(void)state;
	rig_new(&rig, false);
	if (rig_custodian(&rig, "make-kek --type rsa2048 --label rsa --id 01") != 0 ||
	    rig_custodian(&rig, "make-kek --type rsa2048 --label rsa-other --id 02") != 0 ||
	    rig_custodian(&rig, "make-kek --type aes256 --label aes --id 03") != 0 ||
	    rig_custodian(&rig, "make-kek --type aes256 --label aes-other --id 04") != 0)
		return -1;
	for (unsigned i = 0; i < 2; i++) {
		learn(&keks[i]);
		count_calls(&keks[i]);
	}
	return failures == 0 ? 0 : -1;
}

static int remove_keys(void **state)
{
	(void)state;
	rig_remove(&rig);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_tables_are_whole),
		cmocka_unit_test(closing_a_session_changes_no_verdict),
		cmocka_unit_test(every_fault_ends_in_a_right_verdict),
	};

	return cmocka_run_group_tests(tests, new_keys, remove_keys);
}
