/* See verdict.h: one row per verdict, then what the supervisor checks itself. */
#include "verdict.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "challenge.h"

/* clang-format off */
static const struct {
	enum proof proof;
	enum gate_cause cause;
} meanings[VERDICT_COUNT] = {
	[VERDICT_GOOD]           = { PROOF_GOOD,      CAUSE_NONE },
	[VERDICT_DISABLED]       = { PROOF_REFUSED,   CAUSE_DISABLED },
	[VERDICT_DELETED]        = { PROOF_REFUSED,   CAUSE_DELETED },
	[VERDICT_REPLACED]       = { PROOF_REFUSED,   CAUSE_REPLACED },
	[VERDICT_EXPIRED]        = { PROOF_REFUSED,   CAUSE_EXPIRED },
	[VERDICT_NOT_YET_VALID]  = { PROOF_REFUSED,   CAUSE_NOT_YET_VALID },
	[VERDICT_ACCESS_REVOKED] = { PROOF_REFUSED,   CAUSE_ACCESS_REVOKED },
	[VERDICT_TOKEN_GONE]     = { PROOF_REFUSED,   CAUSE_TOKEN_GONE },
	[VERDICT_DEK_REFUSED]    = { PROOF_REFUSED,   CAUSE_DEK_REFUSED },
	[VERDICT_MODULE_BROKEN]  = { PROOF_REFUSED,   CAUSE_MODULE_BROKEN },
	[VERDICT_KEY_UNFIT]      = { PROOF_REFUSED,   CAUSE_ACCESS_REVOKED },
	[VERDICT_UNREACHABLE]    = { PROOF_AMBIGUOUS, CAUSE_UNREACHABLE },
};
/* clang-format on */

enum proof verdict_proof(enum hsm_verdict v)
{
	return v < VERDICT_COUNT ? meanings[v].proof : PROOF_REFUSED;
}

static enum gate_cause cause_of(enum hsm_verdict v)
{
	return v < VERDICT_COUNT ? meanings[v].cause : CAUSE_MODULE_BROKEN;
}

int judgement_error(const struct judgement *j)
{
	return j->proof == PROOF_GOOD ? 0 : j->proof == PROOF_REFUSED ? ERR_REFUSED : ERR_UNREACHABLE;
}

static void say(struct judgement *j, enum hsm_verdict v, const char *text)
{
	j->proof = verdict_proof(v);
	j->cause = cause_of(v);
	log_printable(j->text, sizeof j->text, text);
	if (j->text[0] == '\0' && v != VERDICT_GOOD)
		snprintf(j->text, sizeof j->text, "the HSM says: %s", verdict_name(v));
}

/* Days are UTC days: PKCS#11 dates have no zone. Both ends are inside. */
static enum hsm_verdict date_verdict(const char *start, const char *end, time_t now)
{
	char today[9];
	struct tm t;

	gmtime_r(&now, &t);
	strftime(today, sizeof today, "%Y%m%d", &t);
	if (end[0] != '\0' && strcmp(today, end) > 0)
		return VERDICT_EXPIRED;
	if (start[0] != '\0' && strcmp(today, start) < 0)
		return VERDICT_NOT_YET_VALID;
	return VERDICT_GOOD;
}

static void judge_dates(struct judgement *j, const char *start, const char *end, time_t now)
{
	enum hsm_verdict v = date_verdict(start, end, now);
	char text[TEXT_MAX_BYTES];

	if (v == VERDICT_GOOD)
		return;
	snprintf(text, sizeof text,
		 v == VERDICT_EXPIRED ? "the KEK's end date %.8s has passed" : "the KEK's start date %.8s is ahead",
		 v == VERDICT_EXPIRED ? end : start);
	say(j, v, text);
}

static bool same_public_key(const struct kek_record *pins, const struct msg_hsm_opened *o)
{
	uint8_t fingerprint[FINGERPRINT_BYTES];

	fingerprint_rsa(fingerprint, o->modulus, o->modulus_size, o->exponent, o->exponent_size);
	return compare_secret(fingerprint, pins->fingerprint, sizeof fingerprint) == 0;
}

void judge_opened(struct judgement *j, const struct kek_record *pins, const struct msg_hsm_opened *o, time_t now)
{
	say(j, o->verdict, o->text);
	if (j->proof != PROOF_GOOD)
		return;
	if (o->type != KEK_AES_KW && (o->type != KEK_RSA_OAEP || o->modulus_size < 256 || o->exponent_size == 0))
		say(j, VERDICT_KEY_UNFIT, "the KEK is neither AES-256 nor RSA of 2048 to 4096 bits");
	else if (pins != NULL && o->type != pins->type)
		say(j, VERDICT_REPLACED, "a key of another type stands in the KEK's place");
	else if (pins != NULL && o->type == KEK_RSA_OAEP && !same_public_key(pins, o))
		say(j, VERDICT_REPLACED, "another key stands in the KEK's place: its public key is not the enrolled one");
	else
		judge_dates(j, o->start_date, o->end_date, now);
}

void judge_probe(struct judgement *j, const struct kek_record *pins, const uint8_t challenge[static CHALLENGE_BYTES],
		 const struct msg_hsm_verdict *v, time_t now)
{
	uint8_t fingerprint[FINGERPRINT_BYTES];
	bool right;

	say(j, v->verdict, v->text);
	if (j->proof != PROOF_GOOD)
		return;
	if (pins->type == KEK_RSA_OAEP) {
		right = compare_secret(v->answer, challenge, CHALLENGE_BYTES) == 0;
	} else {
		fingerprint_aes(fingerprint, v->answer);
		right = compare_secret(fingerprint, pins->fingerprint, sizeof fingerprint) == 0;
	}
	if (!right)
		say(j, VERDICT_REPLACED, "the key does not answer its challenge: it is not the enrolled one");
	else
		judge_dates(j, v->start_date, v->end_date, now);
}

void judge_ticket(struct judgement *j, const struct msg_hsm_verdict *v)
{
	say(j, v->verdict, v->text);
}

void judge_lost(struct judgement *j, const char *what)
{
	say(j, VERDICT_UNREACHABLE, what);
}
