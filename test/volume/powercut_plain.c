/* The control for the replay: volume.h over a plain disk, without any sealing. Sectors lie at their place, a flush is the
 * device's flush. This is as right as a disk can be, so the replay must find nothing; with one of three rules broken it must find
 * that. */
#include "volume/volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "hal/block.h"
#include "volume/engine_mutants.h"

struct volume {
	struct block *dev;
	uint64_t size;
	int mutant;
	bool failed, read_only;
};

enum { EDGE = SECTOR_BYTES }; /* the first block holds the size */

uint64_t volume_backing_size_for(const struct volume_format *f)
{
	return f->size + EDGE;
}

int volume_format(struct block *dev, struct keyring *k, const struct volume_format *f)
{
	uint8_t first[SECTOR_BYTES] = { 0 };

	(void)k;
	memcpy(first, &f->size, sizeof f->size);
	return dev->ops->write(dev, first, sizeof first, 0);
}

static int flush_device(struct volume *v)
{
	int r = v->dev->ops->flush(v->dev);

	if (r < 0 && v->mutant == MUTANT_R11_FLUSH_RETRIED)
		r = v->dev->ops->flush(v->dev);
	v->failed = v->failed || r < 0;
	return r;
}

int volume_open(struct volume **out, struct block *dev, struct keyring *k, const struct volume_options *o, char *why,
		size_t why_size)
{
	uint8_t first[SECTOR_BYTES];
	struct volume *v = calloc(1, sizeof *v);
	int r;

	(void)k;
	*out = NULL;
	if (v == NULL)
		return ERR_NOMEM;
	snprintf(why, why_size, "a plain disk");
	*v = (struct volume){ .dev = dev, .mutant = o->mutant, .read_only = o->read_only };
	r = dev->ops->read(dev, first, sizeof first, 0);
	memcpy(&v->size, first, sizeof v->size);
	/* what a dead program left in the cache is about to be shown: it must not vanish afterwards */
	if (r == 0 && !o->read_only && v->mutant != MUTANT_R10_NO_FLUSH_IN_OPEN)
		r = flush_device(v);
	if (r < 0) {
		free(v);
		return r;
	}
	*out = v;
	return 0;
}

static int sector_io(struct volume *v, uint8_t *sector, uint64_t lba)
{
	return v->dev->ops->read(v->dev, sector, SECTOR_BYTES, EDGE + lba * SECTOR_BYTES);
}

/* fn for each sector that [at, at+size) touches: where in it, how much, and where in the request. */
static int each_sector(struct volume *v, uint8_t *buf, size_t size, uint64_t at, bool writing)
{
	uint8_t sector[SECTOR_BYTES];
	int r = 0;

	for (size_t done = 0, n; done < size && r == 0; done += n) {
		uint64_t lba = (at + done) / SECTOR_BYTES;
		size_t in = (at + done) % SECTOR_BYTES;

		n = SECTOR_BYTES - in < size - done ? SECTOR_BYTES - in : size - done;
		r = sector_io(v, sector, lba);
		if (r == 0 && !writing)
			memcpy(buf + done, sector + in, n);
		if (r < 0 || !writing)
			continue;
		memcpy(sector + in, buf + done, n);
		r = v->dev->ops->write(v->dev, sector, SECTOR_BYTES, EDGE + lba * SECTOR_BYTES);
	}
	return r;
}

int volume_read(struct volume *v, void *buf, size_t size, uint64_t at)
{
	return each_sector(v, buf, size, at, false);
}

int volume_flush(struct volume *v)
{
	if (v->failed)
		return ERR_FAILSTOP;
	return v->mutant == MUTANT_R1_DATA_BEFORE_LOG ? 0 : flush_device(v);
}

int volume_write(struct volume *v, const void *buf, size_t size, uint64_t at, bool fua)
{
	int r = v->failed ? ERR_FAILSTOP : each_sector(v, (uint8_t *)(uintptr_t)buf, size, at, true);

	return r == 0 && fua ? volume_flush(v) : r;
}

int volume_zero(struct volume *v, uint64_t size, uint64_t at, bool punch, bool fua)
{
	uint8_t *zeroes = calloc(1, size);
	int r = zeroes == NULL ? ERR_NOMEM : volume_write(v, zeroes, size, at, fua);

	(void)punch;
	free(zeroes);
	return r;
}

int volume_extents(struct volume *v, uint64_t size, uint64_t at, volume_extent_fn *fn, void *context)
{
	(void)v;
	return fn(context, at, size, false);
}

void volume_stats(struct volume *v, struct volume_stats *out)
{
	memset(out, 0, sizeof *out);
	out->failstop = v->failed;
}

int volume_step(struct volume *v)
{
	return v->failed ? ERR_FAILSTOP : 0;
}

void volume_lock_keys(struct volume *v, uint64_t *cut_ns, uint64_t *wiped_ns)
{
	(void)v;
	*cut_ns = *wiped_ns = 0;
}

int volume_lock_drain(struct volume *v)
{
	return volume_flush(v);
}

int volume_close(struct volume *v)
{
	int r = v->read_only ? 0 : volume_flush(v);

	free(v);
	return r;
}
