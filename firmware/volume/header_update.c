/* Changing the header of an open volume. The root names two headers while one takes the other's place: the next one is named
 * before its first byte is written, the old one is forgotten when both copies are the new one, durable and read back. What must
 * stay true at every instant: one copy on the device is whole and named by every root that an opening may find; a copy is
 * overwritten only while the other is such a one; after a failure nothing is tried again before the volume was opened anew, which
 * makes the copies equal and the root name one. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "engine.h"
#include "format.h"
#include "hal/block.h"

struct update {
	struct header header;
	uint8_t bytes[HEADER_BYTES];
	uint8_t there[HEADER_BYTES];
};

static int put_copy(struct volume *v, struct update *u, const uint8_t *bytes, unsigned copy)
{
	uint64_t at = v->header.geometry.header_off[copy];
	int r = v->dev->ops->write(v->dev, bytes, HEADER_BYTES, at);

	if (r == 0)
		r = engine_sync(v);
	if (r == 0)
		r = v->dev->ops->read(v->dev, u->there, HEADER_BYTES, at);
	if (r == 0 && memcmp(u->there, bytes, HEADER_BYTES) != 0)
		r = ERR_IO;
	return r;
}

/* Is this copy the header that is in force? Its bytes are then in u->there. */
static bool copy_is_ours(struct volume *v, struct update *u, unsigned copy)
{
	struct header *h = &u->header;
	char why[96];

	return v->dev->ops->read(v->dev, u->there, HEADER_BYTES, v->header.geometry.header_off[copy]) == 0 &&
	       header_decode_any(h, u->there, v->header.geometry.backing_size, true, why, sizeof why) == 0 &&
	       memcmp(h->hash, v->header.hash, sizeof h->hash) == 0;
}

/* Copy A is about to be overwritten: B must be good by then. */
static int secure_b(struct volume *v, struct update *u)
{
	if (copy_is_ours(v, u, 1))
		return 0;
	if (!copy_is_ours(v, u, 0))
		return ERR_CORRUPT;
	memcpy(u->bytes, u->there, HEADER_BYTES);
	return put_copy(v, u, u->bytes, 1);
}

static int seal_header(struct volume *v, struct update *u)
{
	uint8_t mac[32];
	int r;

	header_encode(u->bytes, &u->header);
	r = header_mac(v->keys, mac, u->header.generations[u->header.active].gen_no, u->bytes);
	if (r < 0)
		return r;
	header_finish(u->bytes, mac);
	memcpy(u->header.mac, mac, sizeof mac);
	memcpy(u->header.hash, u->bytes + HEADER_HASH_AT, sizeof u->header.hash);
	return 0;
}

/* Names both, or one for good, in a root that is durable when this returns. */
static int name_headers(struct volume *v, const uint8_t *current, const uint8_t *next)
{
	pthread_mutex_lock(&v->tree.lock);
	memcpy(v->root.header_hash[0], current, 32);
	memcpy(v->root.header_hash[1], next, 32);
	pthread_mutex_unlock(&v->tree.lock);
	return engine_checkpoint(v, false, true);
}

static int write_copies(struct volume *v, struct update *u)
{
	int r = 0;

	for (unsigned copy = 0; copy < 2 && r == 0; copy++)
		r = put_copy(v, u, u->bytes, copy);
	if (r < 0) {
		pthread_mutex_lock(&v->tree.lock);
		engine_fail(v, "writing the header", r);
		pthread_mutex_unlock(&v->tree.lock);
	}
	return r;
}

/* u->header is what is wanted, but for number, MAC and hash. With header_lock. */
static int update(struct volume *v, struct update *u)
{
	int r = seal_header(v, u);

	if (r == 0)
		r = name_headers(v, v->header.hash, u->header.hash);
	if (r == 0)
		r = write_copies(v, u);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree.lock);
	v->header.seq = u->header.seq;
	v->header.slot_count = u->header.slot_count;
	memcpy(v->header.slots, u->header.slots, sizeof v->header.slots);
	memcpy(v->header.mac, u->header.mac, sizeof v->header.mac);
	memcpy(v->header.hash, u->header.hash, sizeof v->header.hash);
	pthread_mutex_unlock(&v->tree.lock);
	return name_headers(v, v->header.hash, v->header.hash);
}

static int check_slots(const struct volume *v, const struct kek_slot *slots, unsigned count)
{
	if (count == 0 || count > KEK_SLOTS)
		return ERR_RANGE;
	for (unsigned i = 0; i < count; i++)
		if (slots[i].wrapped_size == 0 || slots[i].wrapped_size > WRAPPED_MAX || slots[i].id_size > sizeof slots[i].id ||
		    slots[i].gen_no != v->header.generations[v->header.active].gen_no)
			return ERR_RANGE;
	return v->read_only ? ERR_DENIED : 0;
}

int volume_set_slots(struct volume *v, const struct kek_slot *slots, unsigned count)
{
	struct update *u;
	int r = check_slots(v, slots, count);

	if (r < 0)
		return r;
	u = calloc(1, sizeof *u);
	if (u == NULL)
		return ERR_NOMEM;
	pthread_mutex_lock(&v->header_lock);
	r = engine_admits(v);
	if (r == 0)
		r = secure_b(v, u);
	if (r == 0) {
		u->header = v->header;
		u->header.seq++;
		u->header.slot_count = count;
		memset(u->header.slots, 0, sizeof u->header.slots);
		memcpy(u->header.slots, slots, count * sizeof slots[0]);
		r = update(v, u);
	}
	pthread_mutex_unlock(&v->header_lock);
	free(u);
	return r;
}

void volume_header(struct volume *v, struct volume_header_info *out)
{
	pthread_mutex_lock(&v->header_lock);
	header_info(out, &v->header);
	pthread_mutex_unlock(&v->header_lock);
}
