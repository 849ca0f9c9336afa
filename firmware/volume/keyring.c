/* The ring: one piece of secret memory, cut up at creation into expanded master keys per generation, an LRU of expanded salt
 * subkeys and a scratch page for keys on their way in. What must stay true: no key byte outside that memory; a subkey that is in
 * use (pins > 0) is never evicted or wiped; whoever may use a key holds a lease, and a wipe waits for leases and nothing else. */
#include "keyring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/hash.h"

enum {
	GENERATIONS_HELD = 4,
	SUBKEYS_MIN = 8,
	RAW_KEY_SPACE = 64, /* one raw key, padded so that states stay aligned */
};

struct subkey {
	uint8_t *state;
	enum key_domain domain;
	uint32_t gen_no;
	uint8_t salt[AEAD_SALT_BYTES];
	bool ready;
	unsigned pins;
	uint64_t used;
};

struct generation_keys {
	uint32_t gen_no; /* 0: free */
	uint8_t kcv[KCV_BYTES];
	uint8_t *master[KEY_DOMAIN_AEAD_COUNT];
	uint8_t *header;
};

struct keyring {
	struct secret_memory memory;
	const struct aead_kernel *kernel;
	atomic_uint leases;
	atomic_bool shut; /* only the privileged thread gets a lease */
	atomic_bool gone; /* nobody does: the wipe has begun */
	_Atomic uint64_t heartbeat_ns, proof_ns;
	_Atomic uintptr_t privileged; /* which thread, 0: none */
	pthread_mutex_t privilege;    /* held from privileged_begin to privileged_end */
	pthread_mutex_t lock;         /* generations, subkey table, scratch; never held across I/O */
	pthread_cond_t idle;          /* leases reached 0 on a shut ring */
	pthread_cond_t unpinned;      /* some subkey may be evicted again */
	struct generation_keys generations[GENERATIONS_HELD];
	uint8_t *scratch;
	uint64_t clock;
	size_t subkey_count;
	struct subkey subkeys[];
};

/* Its address tells threads apart without a system call: the one file-level variable, and it holds nothing. */
static _Thread_local char thread_mark;

static uint64_t boot_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- making and freeing ------------------------------------------------------------------------------------------------ */

static uint8_t *carve(uint8_t **cursor, size_t size)
{
	uint8_t *piece = *cursor;

	*cursor += size;
	return piece;
}

static void carve_all(struct keyring *k)
{
	size_t state = k->kernel->key_state_size;
	uint8_t *cursor = k->memory.base;

	for (size_t g = 0; g < GENERATIONS_HELD; g++) {
		for (size_t d = 0; d < KEY_DOMAIN_AEAD_COUNT; d++)
			k->generations[g].master[d] = carve(&cursor, state);
		k->generations[g].header = carve(&cursor, RAW_KEY_SPACE);
	}
	for (size_t i = 0; i < k->subkey_count; i++)
		k->subkeys[i].state = carve(&cursor, state);
	k->scratch = carve(&cursor, RAW_KEY_SPACE);
}

static size_t memory_needed(const struct aead_kernel *kernel, size_t subkeys)
{
	return (GENERATIONS_HELD * KEY_DOMAIN_AEAD_COUNT + subkeys) * kernel->key_state_size +
	       (GENERATIONS_HELD + 1) * (size_t)RAW_KEY_SPACE;
}

int keyring_create(struct keyring **out, size_t subkeys, const char *forced_kernel)
{
	const struct aead_kernel *kernel = aead_select(forced_kernel);
	struct keyring *k;
	int r;

	if (kernel == NULL)
		return ERR_UNSUPPORTED;
	if (subkeys < SUBKEYS_MIN)
		subkeys = SUBKEYS_MIN;
	if (subkeys > SIZE_MAX / (2 * (size_t)AEAD_KEY_STATE_MAX))
		return ERR_NOMEM;
	k = calloc(1, sizeof *k + subkeys * sizeof k->subkeys[0]);
	if (k == NULL)
		return ERR_NOMEM;
	r = secret_memory_alloc(&k->memory, memory_needed(kernel, subkeys));
	if (r < 0) {
		free(k);
		return r;
	}
	k->kernel = kernel;
	k->subkey_count = subkeys;
	carve_all(k);
	pthread_mutex_init(&k->privilege, NULL);
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->idle, NULL);
	pthread_cond_init(&k->unpinned, NULL);
	*out = k;
	return 0;
}

void keyring_destroy(struct keyring *k)
{
	if (k == NULL)
		return;
	keyring_wipe(k);
	secret_memory_free(&k->memory);
	pthread_cond_destroy(&k->unpinned);
	pthread_cond_destroy(&k->idle);
	pthread_mutex_destroy(&k->lock);
	pthread_mutex_destroy(&k->privilege);
	free(k);
}

/* --- leases ------------------------------------------------------------------------------------------------------------ */

static bool deadlines_hold(const struct keyring *k)
{
	uint64_t heartbeat = atomic_load(&k->heartbeat_ns);
	uint64_t proof = atomic_load(&k->proof_ns);
	uint64_t now;

	if (heartbeat == 0 || proof == 0)
		return false;
	now = boot_ns();
	return now < heartbeat && now < proof;
}

static void lease_return(struct keyring *k)
{
	if (atomic_fetch_sub(&k->leases, 1) != 1 || !atomic_load(&k->shut))
		return;
	pthread_mutex_lock(&k->lock);
	pthread_cond_broadcast(&k->idle);
	pthread_mutex_unlock(&k->lock);
}

/* Counted first, then checked: a shut that did not see the count is seen by the check, and the other way round. */
static int lease_take(struct keyring *k)
{
	bool admitted;

	atomic_fetch_add(&k->leases, 1);
	if (atomic_load(&k->gone))
		admitted = false;
	else if (atomic_load(&k->privileged) == (uintptr_t)&thread_mark)
		admitted = true;
	else
		admitted = !atomic_load(&k->shut) && deadlines_hold(k);
	if (admitted)
		return 0;
	lease_return(k);
	return ERR_REVOKED;
}

static void wait_for_leases(struct keyring *k)
{
	pthread_mutex_lock(&k->lock);
	while (atomic_load(&k->leases) != 0)
		pthread_cond_wait(&k->idle, &k->lock);
	pthread_mutex_unlock(&k->lock);
}

void keyring_set_deadlines(struct keyring *k, uint64_t heartbeat_ns, uint64_t proof_ns)
{
	atomic_store(&k->heartbeat_ns, heartbeat_ns);
	atomic_store(&k->proof_ns, proof_ns);
}

bool keyring_expired(const struct keyring *k)
{
	uint64_t heartbeat = atomic_load(&k->heartbeat_ns);
	uint64_t proof = atomic_load(&k->proof_ns);
	uint64_t now = boot_ns();

	return (heartbeat != 0 && now >= heartbeat) || (proof != 0 && now >= proof);
}

void keyring_shut(struct keyring *k)
{
	atomic_store(&k->shut, true);
	wait_for_leases(k);
}

void keyring_privileged_begin(struct keyring *k)
{
	pthread_mutex_lock(&k->privilege);
	atomic_store(&k->privileged, (uintptr_t)&thread_mark);
}

void keyring_privileged_end(struct keyring *k)
{
	atomic_store(&k->privileged, 0);
	pthread_mutex_unlock(&k->privilege);
}

void keyring_wipe(struct keyring *k)
{
	atomic_store(&k->shut, true);
	atomic_store(&k->gone, true);
	wait_for_leases(k);
	pthread_mutex_lock(&k->lock);
	secret_wipe(k->memory.base, k->memory.size);
	for (size_t i = 0; i < k->subkey_count; i++)
		k->subkeys[i].ready = false;
	for (size_t g = 0; g < GENERATIONS_HELD; g++)
		k->generations[g].gen_no = 0;
	pthread_mutex_unlock(&k->lock);
}

/* --- loading ----------------------------------------------------------------------------------------------------------- */

void keyring_bind(uint8_t bind[static DEK_BIND_BYTES], const uint8_t uuid[static UUID_BYTES], uint32_t gen_no)
{
	static const char label[] = "FGV1 bind";
	uint8_t number[4], digest[HASH_BYTES];
	const struct hash_part parts[] = {
		{ label, sizeof label - 1 },
		{ uuid, UUID_BYTES },
		{ number, sizeof number },
	};

	put_le32(number, gen_no);
	hash_sha256(digest, parts, sizeof parts / sizeof parts[0]);
	memcpy(bind, digest, DEK_BIND_BYTES);
}

static struct generation_keys *find_generation(struct keyring *k, uint32_t gen_no)
{
	for (size_t g = 0; g < GENERATIONS_HELD; g++)
		if (k->generations[g].gen_no == gen_no)
			return &k->generations[g];
	return NULL;
}

static void derive_all(struct keyring *k, struct generation_keys *g, const uint8_t *dek, const uint8_t *context, size_t size)
{
	static const char *const labels[KEY_DOMAIN_AEAD_COUNT] = {
		[KEY_DATA] = "FGV1 data",
		[KEY_NODE] = "FGV1 node",
		[KEY_LOG] = "FGV1 log",
		[KEY_ROOT] = "FGV1 root",
	};
	const struct hash_part check = { "FGV1", 4 };

	for (size_t d = 0; d < KEY_DOMAIN_AEAD_COUNT; d++) {
		hash_kdf(k->scratch, dek, labels[d], context, size);
		k->kernel->expand(g->master[d], k->scratch);
	}
	hash_kdf(g->header, dek, "FGV1 hdr", context, size);
	hash_kdf(k->scratch, dek, "FGV1 kcv", context, size);
	hash_hmac(k->scratch + HASH_BYTES, k->scratch, HASH_BYTES, &check, 1);
	memcpy(g->kcv, k->scratch + HASH_BYTES, KCV_BYTES);
	secret_wipe(k->scratch, RAW_KEY_SPACE);
}

int keyring_load(struct keyring *k, uint8_t kcv[static KCV_BYTES], const uint8_t payload[static DEK_PAYLOAD_BYTES],
		 const uint8_t uuid[static UUID_BYTES], uint32_t gen_no)
{
	uint8_t bind[DEK_BIND_BYTES], context[UUID_BYTES + 4];
	struct generation_keys *g;
	int r = 0;

	if (gen_no == 0)
		return ERR_RANGE;
	keyring_bind(bind, uuid, gen_no);
	if (compare_secret(bind, payload + DEK_BYTES, sizeof bind) != 0)
		return ERR_FOREIGN;
	memcpy(context, uuid, UUID_BYTES);
	put_le32(context + UUID_BYTES, gen_no);

	pthread_mutex_lock(&k->lock);
	g = find_generation(k, gen_no);
	if (g == NULL)
		g = find_generation(k, 0);
	if (atomic_load(&k->shut)) {
		r = ERR_STATE;
	} else if (g == NULL) {
		r = ERR_RANGE;
	} else {
		derive_all(k, g, payload, context, sizeof context);
		for (size_t i = 0; i < k->subkey_count; i++)
			if (k->subkeys[i].gen_no == gen_no && k->subkeys[i].pins == 0)
				k->subkeys[i].ready = false;
		g->gen_no = gen_no;
		memcpy(kcv, g->kcv, KCV_BYTES);
	}
	pthread_mutex_unlock(&k->lock);
	return r;
}

int keyring_kcv(struct keyring *k, uint8_t kcv[static KCV_BYTES], uint32_t gen_no)
{
	struct generation_keys *g;

	pthread_mutex_lock(&k->lock);
	g = gen_no == 0 ? NULL : find_generation(k, gen_no);
	if (g != NULL)
		memcpy(kcv, g->kcv, KCV_BYTES);
	pthread_mutex_unlock(&k->lock);
	return g == NULL ? ERR_NOT_FOUND : 0;
}

/* --- using ------------------------------------------------------------------------------------------------------------- */

int keyring_header_mac(struct keyring *k, uint8_t mac[static 32], uint32_t gen_no, const void *data, size_t size)
{
	const struct hash_part part = { data, size };
	struct generation_keys *g;
	int r = lease_take(k);

	if (r < 0)
		return r;
	pthread_mutex_lock(&k->lock);
	g = gen_no == 0 ? NULL : find_generation(k, gen_no);
	if (g != NULL)
		hash_hmac(mac, g->header, HASH_BYTES, &part, 1);
	pthread_mutex_unlock(&k->lock);
	lease_return(k);
	return g == NULL ? ERR_NOT_FOUND : 0;
}

static struct subkey *cached_subkey(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt)
{
	for (size_t i = 0; i < k->subkey_count; i++) {
		struct subkey *s = &k->subkeys[i];

		if (s->ready && s->domain == domain && s->gen_no == gen_no && memcmp(s->salt, salt, AEAD_SALT_BYTES) == 0)
			return s;
	}
	return NULL;
}

/* The least recently used subkey that nobody is using; NULL if all are in use. */
static struct subkey *victim(struct keyring *k)
{
	struct subkey *best = NULL;

	for (size_t i = 0; i < k->subkey_count; i++) {
		struct subkey *s = &k->subkeys[i];

		if (s->pins != 0)
			continue;
		if (!s->ready)
			return s;
		if (best == NULL || s->used < best->used)
			best = s;
	}
	return best;
}

static void fill_subkey(struct keyring *k, struct subkey *s, const struct generation_keys *g, enum key_domain domain,
			const uint8_t *salt)
{
	aead_xaes_subkey(k->kernel, s->state, g->master[domain], salt);
	s->domain = domain;
	s->gen_no = g->gen_no;
	memcpy(s->salt, salt, AEAD_SALT_BYTES);
	s->ready = true;
}

/* Pins the subkey of (domain, gen_no, salt), deriving it if need be. NULL: no such generation. Waits only for other runs. */
static struct subkey *pin_subkey(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt)
{
	struct subkey *s;

	pthread_mutex_lock(&k->lock);
	for (;;) {
		const struct generation_keys *g = gen_no == 0 ? NULL : find_generation(k, gen_no);

		if (g == NULL) {
			pthread_mutex_unlock(&k->lock);
			return NULL;
		}
		s = cached_subkey(k, domain, gen_no, salt);
		if (s != NULL)
			break;
		s = victim(k);
		if (s != NULL) {
			fill_subkey(k, s, g, domain, salt);
			break;
		}
		pthread_cond_wait(&k->unpinned, &k->lock);
	}
	s->pins++;
	s->used = ++k->clock;
	pthread_mutex_unlock(&k->lock);
	return s;
}

static void unpin_subkey(struct keyring *k, struct subkey *s)
{
	pthread_mutex_lock(&k->lock);
	s->pins--;
	if (s->pins == 0)
		pthread_cond_signal(&k->unpinned);
	pthread_mutex_unlock(&k->lock);
}

static int begin_run(struct keyring *k, struct subkey **s, enum key_domain domain, uint32_t gen_no, const uint8_t *salt,
		     size_t count)
{
	int r;

	if (domain >= KEY_DOMAIN_AEAD_COUNT || count > AEAD_RUN_MAX)
		return ERR_RANGE;
	r = lease_take(k);
	if (r < 0)
		return r;
	*s = pin_subkey(k, domain, gen_no, salt);
	if (*s == NULL) {
		lease_return(k);
		return ERR_NOT_FOUND;
	}
	return 0;
}

static void end_run(struct keyring *k, struct subkey *s)
{
	unpin_subkey(k, s);
	lease_return(k);
}

int keyring_seal(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t salt[static AEAD_SALT_BYTES],
		 struct aead_item *items, size_t count)
{
	struct subkey *s;
	int r = begin_run(k, &s, domain, gen_no, salt, count);

	if (r < 0)
		return r;
	k->kernel->seal_run(s->state, items, count);
	end_run(k, s);
	return 0;
}

int keyring_open(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t salt[static AEAD_SALT_BYTES],
		 struct aead_item *items, size_t count, size_t *bad)
{
	struct subkey *s;
	int r = begin_run(k, &s, domain, gen_no, salt, count);

	if (r < 0)
		return r;
	*bad = k->kernel->open_run(s->state, items, count);
	end_run(k, s);
	return 0;
}

const char *keyring_kernel_name(const struct keyring *k)
{
	return k->kernel->name;
}

enum secret_memory_kind keyring_memory_kind(const struct keyring *k)
{
	return k->memory.kind;
}

const struct secret_memory *keyring_memory(const struct keyring *k)
{
	return &k->memory;
}
