/* repair-log: goes on where the log is damaged. The blocks behind the damage prove themselves and are used; what the damaged ones
 * named is unknown, and what that costs is found by looking at every sector before anything is asked or written. What must stay
 * true: nothing is written without consent; a repair that is cut can be done again. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "hal/block.h"
#include "offline_work.h"

enum { CHUNK = 64 };

/* Blocks of the region that the device does not give: an opening would stumble over them wherever they are. With write they are
 * overwritten, whereupon most disks put another place behind the address. */
static int unreadable_blocks(struct offline *w, bool write, uint64_t *count)
{
	const struct geometry *g = &w->header->geometry;
	uint8_t *blocks = aligned_alloc(SECTOR_BYTES, CHUNK * SECTOR_BYTES);
	int r = blocks == NULL ? offline_because(w, ERR_NOMEM, "out of memory") : 0;

	*count = 0;
	for (uint64_t at = 0; at < g->log_blocks && r == 0; at += CHUNK) {
		size_t n = g->log_blocks - at < CHUNK ? (size_t)(g->log_blocks - at) : CHUNK;
		bool good[CHUNK];

		r = offline_read(w, blocks, n, g->log_off + at * SECTOR_BYTES, good);
		for (size_t i = 0; i < n && r == 0; i++) {
			if (good[i])
				continue;
			(*count)++;
			if (write && w->dev->ops->write(w->dev, blocks + i * SECTOR_BYTES, SECTOR_BYTES,
							g->log_off + (at + i) * SECTOR_BYTES) < 0)
				r = offline_because(
					w, ERR_IO,
					"a block of the log can neither be read nor written: copy the device to a new one");
		}
	}
	free(blocks);
	return r;
}

/* Opens past the damage, in memory, and looks at everything. *damaged: there is something to repair. */
static int analyse(struct offline *w, uint64_t unreadable, bool *damaged)
{
	struct volume *v;
	int r = offline_open(w, &v, true);

	if (r < 0)
		return r;
	*damaged = v->gaps.blocks > 0 || unreadable > 0;
	if (v->gaps.blocks > 0)
		offline_say(w, OFFLINE_NOTE,
			    "log: %llu blocks are damaged, the first is %llu: versions of at most %llu objects stood in them",
			    (unsigned long long)v->gaps.blocks, (unsigned long long)v->gaps.first,
			    (unsigned long long)v->gaps.entries);
	if (unreadable > 0)
		offline_say(w, OFFLINE_NOTE, "log: %llu blocks cannot be read", (unsigned long long)unreadable);
	if (*damaged) {
		offline_say(w, OFFLINE_NOTE,
			    "without them these sectors do not open (salvage, run before the repair, may still get some):");
		r = offline_walk(w, v, true);
	}
	volume_close(v);
	return r;
}

/* The opening replays what there is and writes a root whose tail is behind the damage. */
static int open_and_close(struct offline *w)
{
	const struct volume_options options = {
		.stepped = true,
		.kcv = w->o->kcv,
		.assume_4k = w->o->assume_4k,
		.test_geometry = w->o->test_geometry,
		.skip_log_damage = true,
		.bad_tags_max = UINT64_MAX,
	};
	struct volume *v;
	char why[160];
	int r = volume_open(&v, w->dev, w->keys, &options, why, sizeof why);

	if (r < 0)
		return offline_because(w, r, "the volume does not open: %s", why);
	r = volume_close(v);
	return r < 0 ? offline_because(w, r, "the volume could not be closed (%s)", error_text(r)) : 0;
}

int offline_repair_log(struct offline *w)
{
	uint64_t unreadable = 0;
	bool damaged = false;
	int r = offline_headers(w);

	if (r == 0)
		r = offline_authenticate(w);
	if (r < 0)
		return r;
	offline_expect(w, w->header->geometry.n_sectors * SECTOR_BYTES);
	r = unreadable_blocks(w, false, &unreadable);
	if (r == 0)
		r = analyse(w, unreadable, &damaged);
	if (r == 0 && !damaged)
		offline_say(w, OFFLINE_NOTE, "the log is whole as far as it is needed: nothing to do");
	if (r < 0 || !damaged)
		return r;
	if (!w->o->accept_loss)
		return offline_because(w, ERR_STATE, OFFLINE_NO_CONSENT);
	if (unreadable > 0)
		r = unreadable_blocks(w, true, &unreadable);
	if (r == 0)
		r = open_and_close(w);
	if (r == 0)
		offline_say(w, OFFLINE_MENDED, "the log goes on behind the damage; the volume opens");
	return r;
}
