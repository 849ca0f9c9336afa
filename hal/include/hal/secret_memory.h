/* Memory for keys: memfd_secret where the kernel has it, else a locked, undumpable memfd, and it says which.
 * What must hold: guard pages on both sides; never inherited by a child (DONTFORK); the descriptor is closed right after the
 * mapping; never swapped, never in a core. Wiping is the caller's, explicit; secret_memory_free wipes once more all the same.
 * Never pass such memory to read or write: the kernel would copy it. */
#ifndef HAL_SECRET_MEMORY_H
#define HAL_SECRET_MEMORY_H

#include <stddef.h>

enum secret_memory_kind {
	SECRET_MEMORY_NONE = 0,
	SECRET_MEMORY_MEMFD_SECRET = 1,
	SECRET_MEMORY_LOCKED_MEMFD = 2,
};

struct secret_memory {
	void *base;  /* page aligned, zeroed at first */
	size_t size; /* bytes, a multiple of the page size */
	enum secret_memory_kind kind;
};

/* 0, ERR_NOMEM (RLIMIT_MEMLOCK too small: logged with the size needed) or ERR_UNSUPPORTED.
 * The environment variable FALLGATE_SECRET_MEMORY=memfd forces the fallback (for tests of forensic tools). */
int secret_memory_alloc(struct secret_memory *out, size_t size);

/* Wipes, unmaps, and zeroes the struct. Safe on a zeroed struct. */
void secret_memory_free(struct secret_memory *m);

/* A wipe that no compiler drops. */
void secret_wipe(void *p, size_t size);

const char *secret_memory_kind_name(enum secret_memory_kind kind); /* "memfd_secret", "locked-memfd", "none" */

/* Transfer pages: one page, made by the dataplane, its descriptor passed once to a one-shot hsm.
 * create: makes and maps; *fd is the descriptor to pass, close it after sending. A fallback memfd carries
 * F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL. attach: maps a received descriptor after checking that it is exactly one page and,
 * if it is a memfd, sealed so; it does not close fd. */
int secret_page_create(struct secret_memory *out, int *fd);
int secret_page_attach(struct secret_memory *out, int fd);

/* Unmaps without wiping, and zeroes the struct: for the side that filled a page which the other side is about to read. */
void secret_page_detach(struct secret_memory *m);

#endif
