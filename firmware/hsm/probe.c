/* RSA: decrypt the supervisor's challenge. AES: unwrap its canary, and wrap and unwrap a secret that did not exist before, so
 * that a module cannot answer from memory. */
#include "probe.h"

#include <string.h>

#include "base/bytes.h"
#include "hal/secret_memory.h"

enum { RSA_ROOM = MODULUS_MAX_BYTES };

struct probe {
	const struct msg_hsm_probe *question;
	struct msg_hsm_verdict *answer;
};

static unsigned long prove_rsa(struct kek *k, void *context)
{
	struct probe *p = context;
	uint8_t plain[RSA_ROOM];
	size_t size = sizeof plain;
	unsigned long ckr;

	if (p->question->wrapped_size != k->key.modulus_size)
		return CODE_PAYLOAD;
	ckr = token_rsa_decrypt(k->token, p->question->hash, p->question->wrapped, p->question->wrapped_size, plain, &size);
	if (ckr == TOKEN_OK && size == CHALLENGE_BYTES)
		memcpy(p->answer->answer, plain, CHALLENGE_BYTES);
	else if (ckr == TOKEN_OK)
		ckr = CODE_PAYLOAD;
	secret_wipe(plain, sizeof plain);
	return ckr;
}

static unsigned long unwrap_exactly(struct kek *k, const uint8_t *wrapped, size_t wrapped_size,
				    uint8_t plain[static CHALLENGE_BYTES])
{
	size_t size = CHALLENGE_BYTES;
	unsigned long ckr = token_aes_unwrap(k->token, wrapped, wrapped_size, plain, &size);

	return ckr == TOKEN_OK && size != CHALLENGE_BYTES ? CODE_PAYLOAD : ckr;
}

/* Random bytes, wrapped, unwrapped and compared. */
static unsigned long round_trip(struct kek *k, uint8_t secret[static CHALLENGE_BYTES], uint8_t *wrapped, size_t *wrapped_size)
{
	uint8_t back[CHALLENGE_BYTES];
	unsigned long ckr;

	k->no_ciphertext = true;
	ckr = token_random(k->token, secret, CHALLENGE_BYTES);
	if (ckr == TOKEN_OK)
		ckr = token_aes_wrap(k->token, secret, CHALLENGE_BYTES, wrapped, wrapped_size);
	if (ckr != TOKEN_OK)
		return ckr;
	k->no_ciphertext = false;
	ckr = *wrapped_size == CANARY_BYTES ? unwrap_exactly(k, wrapped, *wrapped_size, back) : CODE_PAYLOAD;
	if (ckr == TOKEN_OK && compare_secret(back, secret, CHALLENGE_BYTES) != 0)
		ckr = CODE_PAYLOAD;
	secret_wipe(back, sizeof back);
	return ckr;
}

static unsigned long prove_aes(struct kek *k, void *context)
{
	struct probe *p = context;
	uint8_t fresh[CHALLENGE_BYTES], wrapped[WRAP_MAX_BYTES];
	size_t size = sizeof wrapped;
	unsigned long ckr;

	if (p->question->wrapped_size != CANARY_BYTES)
		return CODE_PAYLOAD;
	ckr = unwrap_exactly(k, p->question->wrapped, p->question->wrapped_size, p->answer->answer);
	if (ckr == TOKEN_OK)
		ckr = round_trip(k, fresh, wrapped, &size);
	secret_wipe(fresh, sizeof fresh);
	return ckr;
}

static unsigned long make_canary(struct kek *k, void *context)
{
	struct probe *p = context;
	size_t size = sizeof p->answer->wrapped;
	unsigned long ckr = round_trip(k, p->answer->answer, p->answer->wrapped, &size);

	p->answer->wrapped_size = (uint16_t)size;
	return ckr;
}

/* What this key unwrapped, for whoever wants to know later whether it is this key. */
static void remember(struct kek *k, const struct msg_hsm_probe *question, const struct msg_hsm_verdict *answer)
{
	bool made = question->wrapped_size == 0;

	k->canary_size = made ? answer->wrapped_size : question->wrapped_size;
	memcpy(k->canary, made ? answer->wrapped : question->wrapped, sizeof k->canary);
	memcpy(k->canary_plain, answer->answer, sizeof k->canary_plain);
}

void verdict_fill(struct msg_hsm_verdict *out, const struct report *r)
{
	out->verdict = (uint8_t)r->verdict;
	out->login_refused = r->login_refused;
	memcpy(out->start_date, r->start_date, sizeof out->start_date);
	memcpy(out->end_date, r->end_date, sizeof out->end_date);
	memcpy(out->text, r->text, sizeof out->text);
}

bool probe_run(struct kek *k, const struct msg_hsm_probe *question, struct msg_hsm_verdict *answer)
{
	struct probe p = { question, answer };
	bool rsa = k->key.type == KEK_RSA_OAEP;
	kek_operation operation = rsa ? prove_rsa : question->wrapped_size == 0 ? make_canary : prove_aes;
	struct report r;

	if (question->wrapped_size > WRAP_MAX_BYTES || rsa != (question->hash != OAEP_NONE) ||
	    (rsa && question->wrapped_size == 0))
		return false;
	kek_perform(k, STAGE_PROBE, "the proof", operation, &p, &r);
	verdict_fill(answer, &r);
	if (r.verdict == VERDICT_GOOD && !rsa)
		remember(k, question, answer);
	if (r.verdict != VERDICT_GOOD) {
		secret_wipe(answer->answer, sizeof answer->answer);
		memset(answer->wrapped, 0, sizeof answer->wrapped);
		answer->wrapped_size = 0;
	}
	return true;
}
