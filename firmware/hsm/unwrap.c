/* The page is 4 KiB: the payload at 0, room for a module that wants a whole RSA block to write into behind it, and scratch for
 * the check of a new wrap further up. Everything but the payload is wiped before the page is let go, and all of it on failure. */
#include "unwrap.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/secret_memory.h"
#include "probe.h"

enum { BLOCK_ROOM = 512, RANDOM_AT = 1024, CHECK_AT = 2048, AES_WRAPPED_BYTES = PAYLOAD_BYTES + 8 };

_Static_assert((int)MODULUS_MAX_BYTES <= (int)BLOCK_ROOM, "a module may write a whole RSA block");

struct job {
	enum oaep_hash hash;
	uint8_t *page;
	uint16_t wrapped_size;
	uint8_t wrapped[WRAP_MAX_BYTES];
};

const char *halves_differ(const struct ticket_halves *h)
{
	if (h->ticket_wraps != h->page_wraps)
		return "one asks to wrap, the other to unwrap";
	if (h->ticket.ticket != h->page.ticket)
		return "ticket";
	if (strncmp(h->ticket.volume, h->page.volume, sizeof h->ticket.volume) != 0)
		return "volume";
	if (h->ticket.gen_no != h->page.gen_no)
		return "generation";
	if (h->sender.pid != h->ticket.dataplane_pid)
		return "process of the page's sender";
	if (h->sender.uid != h->ticket.dataplane_uid)
		return "user of the page's sender";
	return NULL;
}

static unsigned long unwrap_at(struct kek *k, struct job *j, size_t at)
{
	bool rsa = k->key.type == KEK_RSA_OAEP;
	size_t size = BLOCK_ROOM;
	unsigned long ckr;

	if (j->wrapped_size != (rsa ? k->key.modulus_size : AES_WRAPPED_BYTES))
		return CODE_PAYLOAD;
	if (rsa)
		ckr = token_rsa_decrypt(k->token, j->hash, j->wrapped, j->wrapped_size, j->page + at, &size);
	else
		ckr = token_aes_unwrap(k->token, j->wrapped, j->wrapped_size, j->page + at, &size);
	return ckr == TOKEN_OK && size != PAYLOAD_BYTES ? CODE_PAYLOAD : ckr;
}

static unsigned long unwrap(struct kek *k, void *context)
{
	return unwrap_at(k, context, 0);
}

/* The dataplane's random and the token's: a key is as good as the better of the two. */
static unsigned long stir(struct kek *k, struct job *j)
{
	unsigned long ckr = token_random(k->token, j->page + RANDOM_AT, PAYLOAD_KEY_BYTES);

	for (size_t i = 0; ckr == TOKEN_OK && i < PAYLOAD_KEY_BYTES; i++)
		j->page[i] ^= j->page[RANDOM_AT + i];
	return ckr;
}

/* A data key wrapped by another key than the one that was proven would be lost. An AES key is known by its canary alone, and it
 * was found anew since. */
static unsigned long still_proven(struct kek *k, uint8_t *scratch)
{
	size_t size = CHALLENGE_BYTES;
	unsigned long ckr;

	if (k->key.type != KEK_AES_KW || k->canary_size == 0)
		return TOKEN_OK;
	ckr = token_aes_unwrap(k->token, k->canary, k->canary_size, scratch, &size);
	if (ckr == TOKEN_OK && (size != CHALLENGE_BYTES || compare_secret(scratch, k->canary_plain, CHALLENGE_BYTES) != 0))
		return CODE_PAYLOAD;
	return ckr;
}

static unsigned long wrap(struct kek *k, void *context)
{
	struct job *j = context;
	size_t size = sizeof j->wrapped;
	unsigned long ckr;

	k->no_ciphertext = true;
	ckr = stir(k, j);
	if (ckr != TOKEN_OK)
		return ckr;
	if (k->key.type == KEK_RSA_OAEP)
		ckr = token_rsa_encrypt(k->token, j->hash, &k->key, j->page, PAYLOAD_BYTES, j->wrapped, &size);
	else
		ckr = token_aes_wrap(k->token, j->page, PAYLOAD_BYTES, j->wrapped, &size);
	if (ckr != TOKEN_OK)
		return ckr;
	k->no_ciphertext = false;
	j->wrapped_size = (uint16_t)size;
	ckr = still_proven(k, j->page + CHECK_AT);
	if (ckr == TOKEN_OK)
		ckr = unwrap_at(k, j, CHECK_AT);
	return ckr == TOKEN_OK && compare_secret(j->page, j->page + CHECK_AT, PAYLOAD_BYTES) != 0 ? CODE_PAYLOAD : ckr;
}

/* Good: the payload stays, for the dataplane. So this is not secret_memory_free, which would wipe it. */
static void let_go(struct secret_memory *page, bool good)
{
	uint8_t *bytes = page->base;

	if (!good) {
		secret_memory_free(page);
		return;
	}
	secret_wipe(bytes + PAYLOAD_BYTES, page->size - PAYLOAD_BYTES);
	munmap(page->base, page->size);
}

static void perform(struct kek *k, const struct ticket_halves *h, struct job *j, struct report *r)
{
	bool rsa = k->key.type == KEK_RSA_OAEP;

	if (rsa != (j->hash != OAEP_NONE)) {
		memset(r, 0, sizeof *r);
		kek_say(k, r, VERDICT_DEK_REFUSED, "it is of another type than the one the volume was wrapped by");
		return;
	}
	if (h->ticket_wraps)
		kek_perform(k, STAGE_DEK, rsa ? "wrapping with its public key" : "wrapping", wrap, j, r);
	else
		kek_perform(k, STAGE_DEK, "unwrapping the volume's key", unwrap, j, r);
}

int unwrap_run(struct kek *k, const struct ticket_halves *h, int page_fd, struct msg_page_done *done,
	       struct msg_hsm_verdict *verdict)
{
	struct job j = { .hash = h->ticket.hash };
	struct secret_memory page;
	struct report r;
	int e;

	if (!h->page_wraps && h->page.wrapped_size > sizeof j.wrapped)
		return ERR_PROTOCOL;
	e = secret_page_attach(&page, page_fd);
	close(page_fd);
	if (e != 0)
		return ERR_PROTOCOL;
	j.page = page.base;
	if (!h->page_wraps) {
		j.wrapped_size = h->page.wrapped_size;
		memcpy(j.wrapped, h->page.wrapped, j.wrapped_size);
	}
	perform(k, h, &j, &r);
	let_go(&page, r.verdict == VERDICT_GOOD);
	verdict_fill(verdict, &r);
	done->ticket = h->page.ticket;
	done->verdict = verdict->verdict;
	if (h->page_wraps && r.verdict == VERDICT_GOOD) {
		done->wrapped_size = j.wrapped_size;
		memcpy(done->wrapped, j.wrapped, j.wrapped_size);
	}
	return 0;
}
