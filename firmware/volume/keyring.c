/* The ring: one piece of secret memory, cut up at creation into expanded master keys per generation, an LRU of expanded salt
 * subkeys and a scratch page for keys on their way in. What must stay true: no key byte outside that memory; a subkey that is in
 * use is never evicted or wiped; whoever may use a key holds a lease, and a wipe waits for leases and nothing else. A subkey that
 * is there is found and pinned without a lock: `use` counts its users and says in the same word whether it is ready. */
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

#define SUBKEY_READY (1u << 31)

/* domain, gen_no and salt change under the ring's lock while use is 0, and are read by whoever is counted in use. */
struct subkey {
	uint8_t *state;
	atomic_uint use;       /* SUBKEY_READY, and how many use it */
	_Atomic uint64_t name; /* of domain, generation and salt: tells most others apart without a pin */
	enum key_domain domain;
	uint32_t gen_no;
	uint8_t salt[AEAD_SALT_BYTES];
	_Atomic uint64_t used;
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
	pthread_mutex_t lock;         /* generations, filling of subkeys, scratch; never held across I/O */
	pthread_cond_t idle;          /* leases reached 0 on a shut ring */
	pthread_cond_t unpinned;      /* some subkey may be evicted again */
	atomic_uint waiting;          /* for that */
	struct generation_keys generations[GENERATIONS_HELD];
	uint8_t *scratch;
	_Atomic uint64_t clock;
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
		atomic_store(&k->subkeys[i].use, 0);
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

/* Not ready any more, if nobody uses it. */
static bool retire(struct subkey *s)
{
	unsigned idle = SUBKEY_READY;

	return atomic_compare_exchange_strong(&s->use, &idle, 0);
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
			if (k->subkeys[i].gen_no == gen_no)
				retire(&k->subkeys[i]);
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

static uint64_t name_of(enum key_domain domain, uint32_t gen_no, const uint8_t *salt)
{
	return get_le64(salt) ^ ((uint64_t)get_le32(salt + 8) << 32 | gen_no << 2 | (uint32_t)domain);
}

/* Those who wait for a victim look for one after they said that they wait: either they see this one idle, or it sees them. */
static void unpin_subkey(struct keyring *k, struct subkey *s, bool locked)
{
	if (atomic_fetch_sub(&s->use, 1) != (SUBKEY_READY | 1) || atomic_load(&k->waiting) == 0)
		return;
	if (!locked)
		pthread_mutex_lock(&k->lock);
	pthread_cond_broadcast(&k->unpinned);
	if (!locked)
		pthread_mutex_unlock(&k->lock);
}

static bool pin_if_ready(struct subkey *s)
{
	unsigned use = atomic_load(&s->use);

	while ((use & SUBKEY_READY) != 0)
		if (atomic_compare_exchange_weak(&s->use, &use, use + 1))
			return true;
	return false;
}

/* What it is can be read once it is pinned: nobody fills it then. `locked`: the caller has the lock, and needs it for nothing
 * here. */
static struct subkey *pin_cached(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt, bool locked)
{
	uint64_t name = name_of(domain, gen_no, salt);

	for (size_t i = 0; i < k->subkey_count; i++) {
		struct subkey *s = &k->subkeys[i];

		if (atomic_load_explicit(&s->name, memory_order_relaxed) != name || !pin_if_ready(s))
			continue;
		if (s->domain == domain && s->gen_no == gen_no && memcmp(s->salt, salt, AEAD_SALT_BYTES) == 0) {
			atomic_store_explicit(&s->used, atomic_fetch_add_explicit(&k->clock, 1, memory_order_relaxed) + 1,
					      memory_order_relaxed);
			return s;
		}
		unpin_subkey(k, s, locked);
	}
	return NULL;
}

/* With the lock: a subkey that is not ready, if need be the least recently used one that nobody is using; NULL if all are. */
static struct subkey *victim(struct keyring *k)
{
	for (;;) {
		struct subkey *best = NULL;

		for (size_t i = 0; i < k->subkey_count; i++) {
			struct subkey *s = &k->subkeys[i];
			unsigned use = atomic_load(&s->use);

			if (use == 0)
				return s;
			if (use == SUBKEY_READY && (best == NULL || atomic_load(&s->used) < atomic_load(&best->used)))
				best = s;
		}
		if (best == NULL || retire(best))
			return best;
	}
}

/* With the lock, on one that is not ready: nobody pins it before the last line, which pins it too. */
static void fill_subkey(struct keyring *k, struct subkey *s, const struct generation_keys *g, enum key_domain domain,
			const uint8_t *salt)
{
	aead_xaes_subkey(k->kernel, s->state, g->master[domain], salt);
	s->domain = domain;
	s->gen_no = g->gen_no;
	memcpy(s->salt, salt, AEAD_SALT_BYTES);
	atomic_store(&s->name, name_of(domain, g->gen_no, salt));
	atomic_store(&s->used, atomic_fetch_add(&k->clock, 1) + 1);
	atomic_store(&s->use, SUBKEY_READY | 1);
}

/* With the lock. NULL: no such generation. Waits only for other runs. */
static struct subkey *derive_subkey(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt)
{
	for (;;) {
		const struct generation_keys *g = gen_no == 0 ? NULL : find_generation(k, gen_no);
		struct subkey *s = g == NULL ? NULL : pin_cached(k, domain, gen_no, salt, true);

		if (g == NULL || s != NULL)
			return s;
		s = victim(k);
		if (s != NULL) {
			fill_subkey(k, s, g, domain, salt);
			return s;
		}
		pthread_cond_wait(&k->unpinned, &k->lock);
	}
}

/* Pins the subkey of (domain, gen_no, salt), deriving it if need be. */
static struct subkey *pin_subkey(struct keyring *k, enum key_domain domain, uint32_t gen_no, const uint8_t *salt)
{
	struct subkey *s = pin_cached(k, domain, gen_no, salt, false);

	if (s != NULL)
		return s;
	pthread_mutex_lock(&k->lock);
	atomic_fetch_add(&k->waiting, 1);
	s = derive_subkey(k, domain, gen_no, salt);
	atomic_fetch_sub(&k->waiting, 1);
	pthread_mutex_unlock(&k->lock);
	return s;
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
	unpin_subkey(k, s, false);
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
