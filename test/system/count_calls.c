/* Loaded into the data plane before everything else: counts what is allocated and what is copied in user space, in a file that
 * the test reads. What must stay true: nothing here allocates; the file is mapped before the sandbox closes; copies below a
 * sector's half are not counted, for they are no payload. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAYLOAD_LEAST = 2048, COUNTS = 4096 };

struct counts {
	atomic_ulong allocations, copies, copied_bytes;
};

static struct counts before_the_file, *counts = &before_the_file;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t align, size_t size);
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *__memcpy_chk(void *restrict to, const void *restrict from, size_t size, size_t room);
void *__memmove_chk(void *to, const void *from, size_t size, size_t room);

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FALLGATE_COUNTS");
	int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, COUNTS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		abort();
	counts = map;
	close(fd);
}

void *malloc(size_t size)
{
	atomic_fetch_add(&counts->allocations, 1);
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	atomic_fetch_add(&counts->allocations, 1);
	return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
	atomic_fetch_add(&counts->allocations, 1);
	return __libc_realloc(old, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	atomic_fetch_add(&counts->allocations, 1);
	return __libc_memalign(align, size);
}

static void count_copy(size_t size)
{
	if (size < PAYLOAD_LEAST)
		return;
	atomic_fetch_add(&counts->copies, 1);
	atomic_fetch_add(&counts->copied_bytes, size);
}

/* By the processor's string instruction: a loop would be made a call of memcpy by the compiler. */
static void *forwards(void *to, const void *from, size_t size)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
	return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	count_copy(size);
	return forwards(to, from, size);
}

void *memmove(void *to, const void *from, size_t size)
{
	uint8_t *end = (uint8_t *)to + size;
	const uint8_t *last = (const uint8_t *)from + size;

	count_copy(size);
	if ((uintptr_t)to - (uintptr_t)from >= size)
		return forwards(to, from, size);
	while (end != (uint8_t *)to)
		*--end = *(const volatile uint8_t *)--last;
	return to;
}

void *__memcpy_chk(void *restrict to, const void *restrict from, size_t size, size_t room)
{
	if (size > room)
		abort();
	return memcpy(to, from, size);
}

void *__memmove_chk(void *to, const void *from, size_t size, size_t room)
{
	if (size > room)
		abort();
	return memmove(to, from, size);
}
