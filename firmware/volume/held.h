/* Ciphertext between its acceptance and its place: parcels of neighbouring sectors, and a table that finds the newest version of
 * a sector among them. What must hold, always under tree.lock: the table names at most one parcel for a sector, the one accepted
 * last; a parcel lives until the device has answered for it; nothing in here is plaintext or needs a key. */
#ifndef FALLGATE_VOLUME_HELD_H
#define FALLGATE_VOLUME_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct parcel {
	struct parcel *next;
	uint64_t lba, ctr; /* of the first sector; the others follow */
	size_t count;
	uint8_t *bytes;
};

struct held_sector {
	struct held_sector *next;
	uint64_t lba;
	struct parcel *parcel;
};

struct held {
	size_t sectors, max; /* held, or promised to a write that is being sealed */
	struct parcel *open, **open_end;
	struct held_sector *cells, *free, **buckets;
	size_t bucket_mask;
};

/* A stretch of a parcel that goes to the device. */
struct extent {
	uint64_t lba, ctr;
	size_t count;
	const uint8_t *bytes;
};

/* 0 or ERR_NOMEM. */
int held_init(struct held *h, size_t max_sectors);
void held_destroy(struct held *h);

/* NULL: no memory. Needs no lock. */
struct parcel *parcel_new(size_t count);
void parcel_free(struct parcel *p);

/* The parcel is the newest version of its sectors. Its sectors were counted when they were promised. */
void held_add(struct held *h, struct parcel *p);

/* All parcels added since the last take, oldest first. They stay in the table. */
struct parcel *held_take(struct held *h);

/* The stretches of these parcels that no newer version has overtaken, with `all` every one; room for h->max of them. */
size_t held_collect(const struct held *h, const struct parcel *list, bool all, struct extent *out);

/* The device has them: out of the table, where they are still the newest, and freed. */
void held_release(struct held *h, struct parcel *list);

/* The ciphertext of that very version, or NULL. */
const uint8_t *held_find(const struct held *h, uint64_t lba, uint64_t ctr);

#endif
