/* Images that cuts left, written out for a reader that shares nothing with the engine (check_cuts.py): raw files, and a line of
 * JSON for each in index.jsonl: its file, the test's key, the point, and for each sector the SHA-256 of what the engine read
 * there, or "error". Of each point: the image as the cut left it, as the engine's recovery left it, and the same twice for a copy
 * that somebody damaged. What must hold: the engine's answers are written down as they are, right or not. */
#ifndef TEST_VOLUME_POWERCUT_IMAGES_H
#define TEST_VOLUME_POWERCUT_IMAGES_H

#include "powercut_world.h"

struct images;

/* About `count` of `points` points. dir must be there and empty. Ends the program if it cannot be written. */
struct images *images_new(const char *dir, unsigned long points, unsigned long count);
void images_free(struct images *m);

/* Is this point one of them? False for m = NULL. */
bool images_due(const struct images *m, uint64_t hash, unsigned long point);

/* The image as it is now, before anything opens it; later, what was found in it and what it has become. */
void images_begin(struct images *m, struct block *image, const struct world *w, const char *point);
void images_end(struct images *m, struct block *image, const uint8_t *found);

#endif
