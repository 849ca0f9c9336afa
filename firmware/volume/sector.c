/* Nonces, associated data and runs. What must stay true: counters come from one place under one mutex and never go back; an
 * output that failed to open is zeroes before anyone looks at it. */
#include "sector.h"

#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/entropy.h"

/* SPEC.md, "Bounds": a salt serves 2^30 seals or ten minutes, a generation 2^48 seals in its life. */
static const uint64_t salt_seals_max = UINT64_C(1) << 30;
static const uint64_t salt_life_ns = UINT64_C(600) * 1000000000u;
static const uint64_t generation_seals_max = UINT64_C(1) << 48;

static uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int renew_salt(struct sealer *s)
{
	int r = entropy_fill(s->salt, sizeof s->salt);

	if (r < 0)
		return r;
	s->salt_seals = 0;
	s->salt_since_ns = monotonic_ns();
	return 0;
}

int sealer_init(struct sealer *s, struct keyring *keys, const struct header *h, uint64_t ctr_next)
{
	const struct generation *active = &h->generations[h->active];

	s->keys = keys;
	memcpy(s->uuid, h->uuid, UUID_BYTES);
	for (size_t i = 0; i < GENERATIONS; i++) {
		enum generation_state state = h->generations[i].state;
		bool live = state == GENERATION_ACTIVE || state == GENERATION_RETIRING;

		s->gen_no[i] = live ? h->generations[i].gen_no : 0;
	}
	s->active = (uint16_t)h->active;
	s->ctr_next = ctr_next;
	if (!add_u64(&s->ctr_limit, active->ctr_start, generation_seals_max))
		s->ctr_limit = UINT64_MAX;
	pthread_mutex_init(&s->lock, NULL);
	return renew_salt(s);
}

void sealer_destroy(struct sealer *s)
{
	pthread_mutex_destroy(&s->lock);
}

static void take_locked(struct sealer *s, uint64_t count, uint8_t *salt, uint64_t *ctr)
{
	memcpy(salt, s->salt, AEAD_SALT_BYTES);
	*ctr = s->ctr_next;
	s->ctr_next += count;
	s->salt_seals += count;
}

int sealer_take(struct sealer *s, uint64_t count, bool renew, uint8_t salt[static AEAD_SALT_BYTES], uint64_t *ctr)
{
	uint64_t now = monotonic_ns();
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->ctr_next >= s->ctr_limit || count > s->ctr_limit - s->ctr_next)
		r = ERR_STATE;
	else if (renew && (s->salt_seals + count > salt_seals_max || now - s->salt_since_ns > salt_life_ns))
		r = renew_salt(s);
	if (r == 0)
		take_locked(s, count, salt, ctr);
	pthread_mutex_unlock(&s->lock);
	return r;
}

void sealer_take_reserved(struct sealer *s, uint64_t count, uint8_t salt[static AEAD_SALT_BYTES], uint64_t *ctr)
{
	pthread_mutex_lock(&s->lock);
	take_locked(s, count, salt, ctr);
	pthread_mutex_unlock(&s->lock);
}

uint64_t sealer_next(struct sealer *s)
{
	uint64_t next;

	pthread_mutex_lock(&s->lock);
	next = s->ctr_next;
	pthread_mutex_unlock(&s->lock);
	return next;
}

void sealer_skip(struct sealer *s, uint64_t least)
{
	pthread_mutex_lock(&s->lock);
	if (s->ctr_next < least)
		s->ctr_next = least;
	pthread_mutex_unlock(&s->lock);
}

/* --- associated data --------------------------------------------------------------------------------------------------- */

struct object {
	enum object_type type;
	unsigned level;
	uint32_t gen_no;
	uint64_t index, ctr;
};

static void object_aad(uint8_t aad[static AAD_BYTES], const struct object *o, const uint8_t *uuid)
{
	memset(aad, 0, AAD_BYTES);
	memcpy(aad, "FGV1", 4);
	aad[4] = (uint8_t)o->type;
	aad[5] = (uint8_t)o->level;
	put_le32(aad + 8, o->gen_no);
	memcpy(aad + 16, uuid, UUID_BYTES);
	put_le64(aad + 32, o->index);
	put_le64(aad + 40, o->ctr);
}

static void object_iv(uint8_t iv[static AEAD_IV_BYTES], uint64_t ctr)
{
	put_le64(iv, ctr);
	put_le32(iv + 8, 0);
}

/* clear: the block whose clear part is authenticated too; NULL for data. */
static struct aead_item *prepare(struct aead_item *item, uint8_t *aad, const struct object *o, const uint8_t *uuid,
				 const uint8_t *clear)
{
	size_t clear_size = (o->type == OBJECT_LOG ? LOG_AAD_END : CLEAR_AAD_END) - CLEAR_AAD_AT;

	object_aad(aad, o, uuid);
	object_iv(item->iv, o->ctr);
	item->aad = aad;
	item->aad_size = AAD_BYTES;
	item->good = false;
	if (clear != NULL) {
		memcpy(aad + AAD_BYTES, clear + CLEAR_AAD_AT, clear_size);
		item->aad_size = AAD_BYTES + clear_size;
	}
	return item;
}

/* --- data -------------------------------------------------------------------------------------------------------------- */

static struct aead_item *add_sector(const struct sealer *s, struct run *run, uint64_t lba, const struct slot *slot)
{
	struct object o = { OBJECT_DATA, 0, s->gen_no[slot->gen_ix], lba, slot->ctr };
	size_t at = run->count++;
	struct aead_item *item = prepare(&run->items[at], run->aad[at], &o, s->uuid, NULL);

	item->size = SECTOR_BYTES;
	return item;
}

int sectors_seal(struct sealer *s, struct run *run, uint64_t lba, size_t count, const uint8_t *const *in, uint8_t *const *out,
		 struct slot *slots)
{
	run->count = 0;
	for (size_t i = 0; i < count; i++) {
		struct aead_item *item = add_sector(s, run, lba + i, &slots[i]);

		item->in = in[i];
		item->out = out[i];
		item->tag = slots[i].tag;
	}
	return keyring_seal(s->keys, KEY_DATA, s->gen_no[slots[0].gen_ix], slots[0].salt, run->items, run->count);
}

/* How many of the slots from the first on can share a lease: same generation, same salt, at most a run. */
static size_t like_the_first(const struct slot *slots, size_t count)
{
	size_t n = 1;

	while (n < count && n < AEAD_RUN_MAX && slots[n].gen_ix == slots[0].gen_ix &&
	       memcmp(slots[n].salt, slots[0].salt, AEAD_SALT_BYTES) == 0)
		n++;
	return n;
}

static int open_run(struct sealer *s, struct run *run, uint64_t lba, size_t count, const uint8_t *const *in, uint8_t *const *out,
		    const struct slot *slots, bool *good)
{
	uint8_t tags[AEAD_RUN_MAX][AEAD_TAG_BYTES];
	size_t bad;
	int r;

	run->count = 0;
	for (size_t i = 0; i < count; i++) {
		struct aead_item *item = add_sector(s, run, lba + i, &slots[i]);

		memcpy(tags[i], slots[i].tag, AEAD_TAG_BYTES);
		item->in = in[i];
		item->out = out[i];
		item->tag = tags[i];
	}
	r = keyring_open(s->keys, KEY_DATA, s->gen_no[slots[0].gen_ix], slots[0].salt, run->items, count, &bad);
	for (size_t i = 0; i < count; i++)
		good[i] = r == 0 && run->items[i].good;
	return r;
}

int sectors_open(struct sealer *s, struct run *run, uint64_t lba, size_t count, const uint8_t *const *in, uint8_t *const *out,
		 const struct slot *slots, bool *good)
{
	for (size_t done = 0, n; done < count; done += n) {
		int r;

		n = like_the_first(slots + done, count - done);
		if (slots[done].gen_ix >= GENERATIONS || s->gen_no[slots[done].gen_ix] == 0)
			return ERR_CORRUPT;
		r = open_run(s, run, lba + done, n, in + done, out + done, slots + done, good + done);
		if (r < 0)
			return r == ERR_NOT_FOUND ? ERR_CORRUPT : r;
	}
	return 0;
}

/* --- nodes ------------------------------------------------------------------------------------------------------------- */

static void clear_of(const struct sealer *s, struct node_clear *n, unsigned level, uint64_t index, const struct slot *slot)
{
	memcpy(n->salt, slot->salt, AEAD_SALT_BYTES);
	n->ctr = slot->ctr;
	n->index = index;
	n->level = (uint8_t)level;
	n->gen_ix = slot->gen_ix;
	n->gen_no = s->gen_no[slot->gen_ix];
}

void node_add(const struct sealer *s, struct run *run, uint8_t *block, const uint8_t *plain, unsigned level, uint64_t index,
	      struct slot *slot)
{
	struct object o = { OBJECT_NODE, level, s->gen_no[slot->gen_ix], index, slot->ctr };
	size_t at = run->count++;
	struct node_clear clear;
	struct aead_item *item;

	clear_of(s, &clear, level, index, slot);
	node_encode_clear(block, &clear, s->uuid);
	item = prepare(&run->items[at], run->aad[at], &o, s->uuid, block);
	item->in = plain;
	item->out = block + CLEAR_BYTES;
	item->size = SEALED_BYTES;
	item->tag = slot->tag;
}

int nodes_seal(struct sealer *s, struct run *run, const uint8_t salt[static AEAD_SALT_BYTES])
{
	int r = keyring_seal(s->keys, KEY_NODE, s->gen_no[s->active], salt, run->items, run->count);

	for (size_t i = 0; i < run->count; i++)
		memcpy(run->items[i].out - CLEAR_BYTES, run->items[i].tag, AEAD_TAG_BYTES);
	run->count = 0;
	return r;
}

static int open_one(struct keyring *keys, enum key_domain domain, const struct object *o, const uint8_t *uuid, uint8_t *plain,
		    const uint8_t *block)
{
	uint8_t aad[AAD_MAX], tag[AEAD_TAG_BYTES], salt[AEAD_SALT_BYTES];
	struct aead_item item = { 0 };
	size_t bad = 0;
	int r;

	memcpy(tag, block, sizeof tag);
	memcpy(salt, block + CLEAR_AAD_AT, sizeof salt);
	prepare(&item, aad, o, uuid, block);
	item.in = block + (domain == KEY_LOG ? LOG_CLEAR_BYTES : CLEAR_BYTES);
	item.out = plain;
	item.size = domain == KEY_LOG ? LOG_SEALED_BYTES : SEALED_BYTES;
	item.tag = tag;
	r = keyring_open(keys, domain, o->gen_no, salt, &item, 1, &bad);
	if (r == ERR_NOT_FOUND)
		return ERR_CORRUPT;
	if (r < 0)
		return r;
	return bad == 0 ? 0 : ERR_CORRUPT;
}

int node_open(struct sealer *s, uint8_t plain[static SEALED_BYTES], const uint8_t block[static SECTOR_BYTES], unsigned level,
	      uint64_t index, const struct slot *slot)
{
	struct object o = { OBJECT_NODE, level, 0, index, slot->ctr };
	struct node_clear clear;

	if (slot->gen_ix >= GENERATIONS || s->gen_no[slot->gen_ix] == 0)
		return ERR_CORRUPT;
	o.gen_no = s->gen_no[slot->gen_ix];
	clear_of(s, &clear, level, index, slot);
	if (!node_clear_is(block, &clear, s->uuid, slot->tag) || !block_checksum_good(block))
		return ERR_CORRUPT;
	return open_one(s->keys, KEY_NODE, &o, s->uuid, plain, block);
}

/* --- roots ------------------------------------------------------------------------------------------------------------- */

int root_seal(struct keyring *keys, uint8_t block[static SECTOR_BYTES], const struct root *root,
	      const uint8_t uuid[static UUID_BYTES])
{
	struct object o = { OBJECT_ROOT, 0, root->gen_no, 0, root->seq };
	struct aead_item item = { 0 };
	uint8_t aad[AAD_MAX];
	int r;

	root_encode_clear(block, root, uuid);
	root_encode_sealed(block + CLEAR_BYTES, root);
	prepare(&item, aad, &o, uuid, block);
	item.in = block + CLEAR_BYTES;
	item.out = block + CLEAR_BYTES;
	item.size = SEALED_BYTES;
	item.tag = block;
	r = keyring_seal(keys, KEY_ROOT, root->gen_no, root->salt, &item, 1);
	if (r < 0)
		secret_wipe(block, SECTOR_BYTES);
	return r;
}

int root_open(struct keyring *keys, struct root *root, const uint8_t block[static SECTOR_BYTES],
	      const uint8_t uuid[static UUID_BYTES])
{
	uint8_t plain[SEALED_BYTES];
	struct object o = { OBJECT_ROOT, 0, 0, 0, 0 };
	int r;

	if (!root_decode_clear(root, block, uuid))
		return ERR_NOT_FOUND;
	o.gen_no = root->gen_no;
	o.ctr = root->seq;
	r = open_one(keys, KEY_ROOT, &o, uuid, plain, block);
	if (r == 0)
		root_decode_sealed(root, plain);
	secret_wipe(plain, sizeof plain);
	return r;
}

/* --- log blocks -------------------------------------------------------------------------------------------------------- */

int logblock_seal(struct sealer *s, uint8_t block[static SECTOR_BYTES], const struct log_head *h, const struct log_entry *entries)
{
	struct object o = { OBJECT_LOG, 0, h->gen_no, 0, h->seq };
	struct aead_item item = { 0 };
	uint8_t aad[AAD_MAX];
	int r;

	logblock_encode(block, h, s->uuid, entries);
	prepare(&item, aad, &o, s->uuid, block);
	item.in = block + LOG_CLEAR_BYTES;
	item.out = block + LOG_CLEAR_BYTES;
	item.size = LOG_SEALED_BYTES;
	item.tag = block;
	r = keyring_seal(s->keys, KEY_LOG, h->gen_no, h->salt, &item, 1);
	if (r < 0)
		secret_wipe(block, SECTOR_BYTES);
	return r;
}

int logblock_open(struct sealer *s, struct log_head *h, struct log_entry entries[static LOG_ENTRIES],
		  const uint8_t block[static SECTOR_BYTES])
{
	struct object o = { OBJECT_LOG, 0, 0, 0, 0 };
	uint8_t plain[LOG_SEALED_BYTES];
	int r;

	if (!logblock_decode_clear(h, block, s->uuid))
		return ERR_NOT_FOUND;
	if (h->gen_no == 0 || s->gen_no[h->gen_ix] != h->gen_no)
		return ERR_CORRUPT;
	o.gen_no = h->gen_no;
	o.ctr = h->seq;
	r = open_one(s->keys, KEY_LOG, &o, s->uuid, plain, block);
	if (r == 0 && !logblock_decode_entries(entries, h, plain))
		r = ERR_CORRUPT;
	secret_wipe(plain, sizeof plain);
	return r;
}
