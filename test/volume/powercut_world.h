/* What the power-cut programs share: a seeded stand-in for the kernel's random bytes, one key, a tiny volume drawn from a seed,
 * and an oracle that knows for every sector which contents may be found. What must hold: a sector reads as what it was when last
 * made durable (flush, FUA, close, drain) or as anything accepted for it since; the seed alone decides everything. */
#ifndef TEST_VOLUME_POWERCUT_WORLD_H
#define TEST_VOLUME_POWERCUT_WORLD_H

#include "fakes/block_power.h"
#include "volume/volume.h"

/* --- random numbers ---------------------------------------------------------------------------------------------------- */

struct dice {
	uint64_t state;
};

struct dice dice_new(uint64_t seed);
uint64_t dice_below(struct dice *d, uint64_t limit);
bool dice_one_in(struct dice *d, unsigned n);
void dice_bytes(struct dice *d, uint8_t *out, size_t size);

/* What hal/entropy hands out from here on in this program. */
void entropy_seed(uint64_t seed);

/* --- a volume ---------------------------------------------------------------------------------------------------------- */

struct world {
	uint32_t sectors;
	unsigned fanout;
	uint64_t log_blocks;
	bool offer_fua;
	struct block *lower; /* stands behind the device: see power_mirror; or NULL */
	unsigned hurry;      /* 1 .. 4: the client flushes often .. seldom */
	struct volume_options options;
	uint8_t uuid[UUID_BYTES];
	uint8_t payload[DEK_PAYLOAD_BYTES];
	uint8_t kcv[KCV_BYTES];
};

/* Tiny: 1 .. 100 sectors, fanout from 4, log of 8 .. 48 blocks, small maps. Standard: 300 sectors as in the field. */
void world_draw(struct world *w, uint64_t seed, bool standard);

/* A formatted device at rest, recording from now on. */
struct block *world_format(const struct world *w);

struct session {
	struct keyring *keys; /* kept from open to open until a lock wipes it */
	struct volume *volume;
	char why[256];
};

int session_open(struct session *s, const struct world *w, struct block *dev);

/* Closes in good order; 0 or the close's error. */
int session_close(struct session *s);

/* Keys wiped, what was sealed is written, the volume gone. The drain's error. */
int session_lock(struct session *s);

/* The program dies: nothing more reaches dev. */
void session_kill(struct session *s, struct block *dev);
void session_free(struct session *s);

/* --- the oracle -------------------------------------------------------------------------------------------------------- */

enum act_kind { ACT_WRITE, ACT_FLUSH, ACT_FOUND };

/* What the client asked: marks 2*i (asked) and 2*i+1 (answered) in the device's record. */
struct act {
	enum act_kind kind;
	uint32_t lba, count;
	bool durable; /* a good answer promises durability of these sectors */
	bool good;    /* how it was answered */
};

struct oracle;

struct oracle *oracle_new(uint32_t sectors);
void oracle_free(struct oracle *o);

/* Forgets all; base (sectors * 4096 bytes, copied; NULL: zeroes) is durable. */
void oracle_reset(struct oracle *o, const uint8_t *base);
const uint8_t *oracle_now(const struct oracle *o, uint32_t lba);

/* Asked and answered, marked in dev (may be NULL). bytes: count sectors, NULL: zeroes. */
size_t oracle_ask(struct oracle *o, struct block *dev, struct act act, const uint8_t *bytes);
void oracle_answer(struct oracle *o, struct block *dev, size_t act, bool good);

/* Which contents may be found at a point of the record. */
struct allowed;

struct allowed *allowed_new(const struct oracle *o);
void allowed_free(struct allowed *a);
void allowed_begin(struct allowed *a);

/* A mark is passed. True: less is allowed than before. */
bool allowed_pass(struct allowed *a, uint64_t mark);

/* From here on any content that a sector ever had is allowed. */
void allowed_any(struct allowed *a);

/* The first sector of got (all of them) that is not allowed, or the number of sectors. what: a clause, if there is one. */
uint32_t allowed_check(const struct allowed *a, const uint8_t *got, char *what, size_t what_size);

/* Reads everything. 0, or the error of *lba. */
int world_read(const struct world *w, struct volume *v, uint8_t *out, uint32_t *lba);

#endif
