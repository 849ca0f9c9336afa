/* A block device that remembers the order of things, for cutting the power anywhere afterwards. It records each write, FUA write,
 * flush and discard since power_record; a cursor walks the record and knows at every event what is durable and which 4 KiB writes
 * the device may still lose; an image is the device as it comes back after a cut there, with any choice of them kept. An image
 * records too, so that it can be cut again. What must hold: an event is "in flight" at its own position, done at the next;
 * a FUA write is durable when done and says nothing of others; a flush makes durable what was done before it; of several
 * unflushed writes of one page the last one kept counts; what a failed flush should have made durable may be lost for ever, also
 * if the next flush is good. Pages are shared, never copied: an image costs a few microseconds.
 * All device calls and power_mark are thread-safe; the rest is for one thread, while the device is at rest. */
#ifndef FAKES_BLOCK_POWER_H
#define FAKES_BLOCK_POWER_H

#include "hal/block.h"

enum { POWER_PAGE = 4096 };

enum power_kind { POWER_READ, POWER_WRITE, POWER_FUA, POWER_FLUSH, POWER_DISCARD, POWER_FLUSH_LOST, POWER_MARK };

struct power_event {
	enum power_kind kind; /* never POWER_READ: reads are not recorded */
	uint32_t page, pages; /* of a write or discard */
	size_t first;         /* where its pages are (internal) */
	uint64_t mark;        /* of a mark */
};

/* All zero, durable, not recording. size is a multiple of 4096. Closed by ops->close; never NULL. */
struct block *power_new(uint64_t size);
struct block *power_copy(struct block *from); /* all of it durable */

/* Forgets the record; what is there now is durable and where the record begins. */
void power_record(struct block *b);

/* Puts a mark of the caller's into the record. */
void power_mark(struct block *b, uint64_t value);

size_t power_events(const struct block *b);
const struct power_event *power_event(const struct block *b, size_t i);

/* Off: every call fails with ERR_IO and is not recorded: what a dead engine still tries. */
void power_switch(struct block *b, bool on);

/* Without FUA the device has no write_fua; with it, it does. New devices have it. */
void power_offer_fua(struct block *b, bool offer);

/* How a discarded page reads: 0 as before, 1 zeroes, else one or the other, by page and seed. */
void power_discards(struct block *b, uint64_t seed);

/* The power goes and comes back, here and now: each unflushed page write survives or not, by seed. A new record begins; memory
 * of what was overwritten is given back. */
void power_cut_here(struct block *b, uint64_t seed);

/* From now on everything that happens here happens on lower, too, before it is done here, and reads are lower's: another recorder
 * stands behind it. Marks, and POWER_RECORD_BEGINS for power_record, are written to lower's last page. */
#define POWER_RECORD_BEGINS (UINT64_MAX - 1)
void power_mirror(struct block *b, struct block *lower);

/* --- faults ------------------------------------------------------------------------------------------------------------ */

struct power_fault {
	unsigned kinds;      /* 1 << enum power_kind, together; 0: none */
	unsigned long nth;   /* 1: the next call that matches */
	unsigned long times; /* how many fail from there on; 0: one */
	int error;
	uint64_t from, to;   /* only calls that touch [from, to); to = 0: any */
	unsigned pages_done; /* a failing write has changed this many pages */
	bool unreachable;    /* it is the program that is cut off: a flush that fails takes nothing with it */
};

void power_fail(struct block *b, struct power_fault fault);
unsigned long power_failed(const struct block *b); /* calls the present fault has failed */

/* Behind the engine's back, any alignment. */
void power_peek(struct block *b, void *out, size_t size, uint64_t at);

/* One page, durable at once, not recorded. */
void power_poke(struct block *b, uint32_t page, const uint8_t *bytes);

/* Is there anything on it? */
bool power_blank(const struct block *b, uint32_t page);

/* --- walking the record ------------------------------------------------------------------------------------------------ */

struct power_cursor;

/* At position 0: the first event is in flight. The device must outlive it, and not be recorded anew. */
struct power_cursor *power_cursor_new(const struct block *b);
void power_cursor_free(struct power_cursor *c);

/* One event on. False: it was the last. Position power_events() is "all done, nothing in flight". */
bool power_cursor_next(struct power_cursor *c);
size_t power_cursor_at(const struct power_cursor *c);

/* How many 4 KiB writes a cut here may lose; the last power_fresh of them belong to the event in flight. */
size_t power_pending(const struct power_cursor *c);
size_t power_fresh(const struct power_cursor *c);

/* Some of them were given up by a failed flush: a program that opens this device next would read what is lost already. */
bool power_doomed(const struct power_cursor *c);

/* What page `index` of a write event was written as. */
void power_event_page(const struct block *b, size_t event, uint32_t index, uint8_t *out);

/* --- images ------------------------------------------------------------------------------------------------------------ */

/* A device of the same size, to be filled by power_cut or power_kill, again and again. */
struct block *power_image_new(const struct block *like);

/* The power goes: keep[i] says whether pending write i survives. The image starts to record. */
void power_cut(struct block *image, const struct power_cursor *c, const bool *keep);

/* The program dies, the device stays up: reads see every pending write that keep names (a dead program's last write may have
 * got anywhere), and a later cut of the image may still lose each of them. */
void power_kill(struct block *image, const struct power_cursor *c, const bool *keep);

#endif
