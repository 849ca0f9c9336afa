/* A client with dice: writes of several sizes, hot sectors again and again, zeroing, flushes, FUA, closes, locks, deaths. Every
 * call is told to the oracle before and after. What must hold while no power is lost: a read returns the last accepted write. */
#ifndef TEST_VOLUME_POWERCUT_PLAY_H
#define TEST_VOLUME_POWERCUT_PLAY_H

#include "powercut_world.h"

struct player {
	const struct world *world;
	struct block *dev;
	struct session session;
	struct oracle *oracle;
	struct allowed *live; /* follows the marks as they are made; may be NULL */
	struct dice dice;
	uint8_t *buffer; /* all sectors */
	char complaint[300];
	unsigned calm; /* closes, locks and deaths are so many times rarer, most requests are small; 0: as drawn */
	bool unsure;   /* a write has failed since the last opening: nobody knows what ragged edges would be merged with */
	bool gone;     /* refuses to go on: a flush failed, as it was made to */
};

void player_init(struct player *p, const struct world *w, struct block *dev, struct oracle *o, uint64_t seed);
void player_free(struct player *p);

/* False: p->complaint says what. All of these. */
bool play_open(struct player *p);

/* One act of the client's. */
bool play_one(struct player *p);

/* Only writes, zeroing, flushes and steps: what a client does in the first moments after an open. */
bool play_gently(struct player *p);

/* Close and open, lock and open, die and open (what the device holds stays, what was not written is gone). */
bool play_reopen(struct player *p);
bool play_lock(struct player *p);
bool play_death(struct player *p);

/* Some I/O fails from now on in the middle of things, then the program dies and opens again. */
bool play_death_in_work(struct player *p);

/* A flush fails: nothing may be acknowledged afterwards. The player is gone then. */
bool play_lost_flush(struct player *p);

/* What is read is what the oracle allows by p->live; from here on it is what must be found. */
bool play_found(struct player *p);

#endif
