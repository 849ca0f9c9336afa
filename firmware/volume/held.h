/* Ciphertext between its acceptance and its place: a cell of 4 KiB for each sector version, all of them there from the start, and
 * a table that finds the newest version of a sector. What must hold, always under tree.lock: the table names at most one cell for
 * a sector, the one accepted last; a cell is given back when the device has answered for it; nothing in here is plaintext or
 * needs a key. Only the bytes of a reserved cell are written without the lock, by whoever reserved it. */
#ifndef FALLGATE_VOLUME_HELD_H
#define FALLGATE_VOLUME_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct held_sector {
	struct held_sector *_Atomic chain; /* of the bucket */
	struct held_sector *next;          /* free, or in order of acceptance */
	struct held_sector *after;         /* in order of place, while a round writes it */
	uint64_t lba, ctr;
	uint8_t *bytes;
};

struct held {
	size_t sectors, max; /* held, or reserved for a write that is being sealed */
	struct held_sector *open, **open_end;
	struct held_sector *cells, *free, *_Atomic *buckets;
	size_t bucket_mask;
	uint8_t *bytes;
};

/* 0 or ERR_NOMEM. */
int held_init(struct held *h, size_t max_sectors);
void held_destroy(struct held *h);

/* Takes count cells; the caller has seen to it that sectors + count <= max. */
void held_reserve(struct held *h, size_t count, struct held_sector **cells);

/* Reserved, and nothing came of it. */
void held_give_back(struct held *h, size_t count, struct held_sector *const *cells);

/* A reserved cell is the newest version of its sector. */
void held_add(struct held *h, struct held_sector *s, uint64_t lba, uint64_t ctr);

/* All that were added since the last take, oldest first. They stay in the table. */
struct held_sector *held_take(struct held *h);

/* Those of the list that no newer version has overtaken, with `all` every one, in order of place (linked by `after`), and of one
 * place the newest first. */
struct held_sector *held_by_place(const struct held *h, struct held_sector *list, bool all);

/* The device has them: out of the table, where they are still the newest, and free. */
void held_release(struct held *h, struct held_sector *list);

/* Without the lock: nothing of that sector is held. What was held of it before is in its place. */
bool held_nothing(const struct held *h, uint64_t lba);

/* The ciphertext of that very version, or NULL. */
const uint8_t *held_find(const struct held *h, uint64_t lba, uint64_t ctr);

#endif
