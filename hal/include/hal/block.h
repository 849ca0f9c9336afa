/* The backing store behind a small struct, so that tests can lose power and fail the n-th call.
 * What must hold (volume/DESIGN.md, D1-D3): a 4 KiB aligned write is all or nothing; flush makes every write completed before
 * it durable. Short transfers are an error, never a surprise. All calls are thread-safe. */
#ifndef HAL_BLOCK_H
#define HAL_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

struct block;

enum { BLOCK_PARTS_MAX = 256 };

struct block_part {
	const uint8_t *bytes;
	size_t size;
};

struct block_ops {
	int (*read)(struct block *b, void *out, size_t size, uint64_t at);       /* 0 or ERR_IO, ERR_RANGE */
	int (*write)(struct block *b, const void *in, size_t size, uint64_t at); /* 0 or ERR_IO, ERR_NOSPACE, ERR_RANGE */
	int (*flush)(struct block *b);                                           /* 0 or ERR_IO */
	int (*discard)(struct block *b, uint64_t size, uint64_t at);             /* 0, ERR_UNSUPPORTED: advisory */
	void (*close)(struct block *b);                                          /* frees */
	/* A write that is durable when it returns, whatever else is not; all or nothing for each 4 KiB of it. May be NULL: then a
	 * write and a flush do it. Errors as of write; after one nothing is known of the bytes. */
	int (*write_fua)(struct block *b, const void *in, size_t size, uint64_t at);
	/* One write from several pieces of memory, at most BLOCK_PARTS_MAX, one behind the other on the device. May be NULL: then
	 * each is a write. Errors as of write; after one nothing is known of the bytes. */
	int (*write_parts)(struct block *b, const struct block_part *parts, unsigned count, uint64_t at);
};

struct block {
	const struct block_ops *ops;
	uint64_t size;         /* bytes, a multiple of 4096 */
	uint32_t atomic_bytes; /* what the device says it writes at once: 512, 4096, ... (0: unknown) */
	bool is_device;        /* a block device, not a file */
};

/* Takes over fd (open read-write, file or block device), checks size and alignment, takes the exclusive lock on this very open
 * file description (and it stays until close). 0, ERR_BUSY (locked by another), ERR_RANGE, ERR_UNSUPPORTED (not a file or a
 * device), ERR_IO. On an error fd is still the caller's. */
int block_open_fd(struct block **out, int fd);

/* What libblkid sees in the first and last parts of fd: the name of a file system, partition table or RAID signature ("ext4",
 * "LVM2_member", "gpt", "fallgate"), or "" if there is nothing. 0 or ERR_IO. Offline tools and creation only. */
int block_signature(int fd, char *name, size_t size);

#endif
