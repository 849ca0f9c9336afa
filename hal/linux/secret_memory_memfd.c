/* Secret memory and transfer pages over memfd_secret or, where the kernel has none, a locked memfd. What must hold: guard pages
 * on both sides; no child inherits the mapping; the descriptor does not outlive secret_memory_alloc; a page that is attached
 * cannot be resized by the other side. */
#include <hal/secret_memory.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

/* linux/memfd.h since 6.3: without it those kernels complain once per boot */
static const unsigned memfd_noexec_seal = 0x0008;

static const int page_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

static const char *const kind_names[] = {
	[SECRET_MEMORY_NONE] = "none",
	[SECRET_MEMORY_MEMFD_SECRET] = "memfd_secret",
	[SECRET_MEMORY_LOCKED_MEMFD] = "locked-memfd",
};

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

void secret_wipe(void *p, size_t size)
{
	explicit_bzero(p, size);
}

const char *secret_memory_kind_name(enum secret_memory_kind kind)
{
	return (unsigned)kind < sizeof kind_names / sizeof kind_names[0] ? kind_names[kind] : "none";
}

static bool fallback_forced(void)
{
	const char *wish = secure_getenv("FALLGATE_SECRET_MEMORY");

	return wish != NULL && strcmp(wish, "memfd") == 0;
}

/* Said once per process: a file-level flag, because it is about the process. */
static void say_fallback(void)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&said))
		log_warning(
			"secret memory: memfd_secret is not to be had, keys are in a locked memfd: boot with secretmem.enable=1");
}

static int memfd_with_seals(size_t size)
{
	int fd = memfd_create("fallgate", MFD_CLOEXEC | memfd_noexec_seal);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("fallgate", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) != 0 || fcntl(fd, F_ADD_SEALS, page_seals) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The descriptor of a new object of this size, or -1 with errno. */
static int open_object(size_t size, enum secret_memory_kind *kind)
{
	int fd = -1;

	errno = ENOSYS;
	if (!fallback_forced())
		fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
	if (fd < 0 && (errno == ENOSYS || errno == EPERM)) {
		say_fallback();
		*kind = SECRET_MEMORY_LOCKED_MEMFD;
		return memfd_with_seals(size);
	}
	*kind = SECRET_MEMORY_MEMFD_SECRET;
	if (fd >= 0 && ftruncate(fd, (off_t)size) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int say_no_memory(size_t size)
{
	int why = errno;
	struct rlimit limit = { 0 };

	getrlimit(RLIMIT_MEMLOCK, &limit);
	log_error("secret memory: %zu KiB could not be locked (%s); RLIMIT_MEMLOCK is %llu KiB: raise it by that much",
		  size / 1024, strerror(why), (unsigned long long)limit.rlim_cur / 1024);
	return ERR_NOMEM;
}

static void unmap(void *base, size_t size)
{
	munmap((char *)base - page_size(), size + 2 * page_size());
}

/* Maps fd between two pages that nobody may touch. */
static void *map_guarded(int fd, size_t size)
{
	size_t page = page_size();
	char *room = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *base;

	if (room == MAP_FAILED)
		return NULL;
	base = mmap(room + page, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (base == MAP_FAILED) {
		int why = errno;

		munmap(room, size + 2 * page);
		errno = why;
		return NULL;
	}
	return base;
}

/* memfd_secret is locked and undumpable by itself; asking again is harmless for DONTDUMP and refused for mlock, which
 * is called directly because sanitizers replace libc's by nothing. */
static int protect(void *base, size_t size, enum secret_memory_kind kind)
{
	if (madvise(base, size, MADV_DONTFORK) != 0 || madvise(base, size, MADV_DONTDUMP) != 0)
		return -1;
	return kind == SECRET_MEMORY_LOCKED_MEMFD ? (int)syscall(SYS_mlock, base, size) : 0;
}

static int map_object(struct secret_memory *out, int fd, size_t size, enum secret_memory_kind kind)
{
	void *base = map_guarded(fd, size);
	int why;

	if (base == NULL)
		return -1;
	if (protect(base, size, kind) != 0) {
		why = errno;
		unmap(base, size);
		errno = why;
		return -1;
	}
	*out = (struct secret_memory){ .base = base, .size = size, .kind = kind };
	return 0;
}

/* Pages come at the first touch: better now, before anybody counts on them. */
static void touch(const struct secret_memory *m)
{
	for (size_t at = 0; at < m->size; at += page_size())
		((volatile char *)m->base)[at] = 0;
}

/* Makes an object and maps it; the descriptor is handed out through *fd, or closed if fd is NULL. */
static int make(struct secret_memory *out, size_t size, int *fd)
{
	enum secret_memory_kind kind;
	int object = open_object(size, &kind);
	int r;

	*out = (struct secret_memory){ 0 };
	if (object < 0)
		return say_no_memory(size);
	r = map_object(out, object, size, kind);
	if (r != 0)
		r = say_no_memory(size);
	else
		touch(out);
	if (r == 0 && fd != NULL)
		*fd = object;
	else
		close(object);
	return r;
}

int secret_memory_alloc(struct secret_memory *out, size_t size)
{
	size_t page = page_size();

	*out = (struct secret_memory){ 0 };
	if (size == 0 || size > SIZE_MAX / 4)
		return ERR_NOMEM;
	return make(out, (size + page - 1) / page * page, NULL);
}

void secret_memory_free(struct secret_memory *m)
{
	if (m->base == NULL)
		return;
	secret_wipe(m->base, m->size);
	secret_page_detach(m);
}

int secret_page_create(struct secret_memory *out, int *fd)
{
	*fd = -1;
	return make(out, page_size(), fd);
}

static bool is_one_page(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == (off_t)page_size();
}

/* What kind of object fd is, if it is one that its sender can no longer shrink; else SECRET_MEMORY_NONE. A memfd_secret cannot
 * be resized once it has a size. */
static enum secret_memory_kind kind_of(int fd)
{
	struct statfs fs;
	int seals;

	if (!is_one_page(fd) || fstatfs(fd, &fs) != 0)
		return SECRET_MEMORY_NONE;
	if (fs.f_type == SECRETMEM_MAGIC)
		return SECRET_MEMORY_MEMFD_SECRET;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & page_seals) != page_seals)
		return SECRET_MEMORY_NONE;
	return SECRET_MEMORY_LOCKED_MEMFD;
}

int secret_page_attach(struct secret_memory *out, int fd)
{
	enum secret_memory_kind kind = kind_of(fd);

	*out = (struct secret_memory){ 0 };
	if (kind == SECRET_MEMORY_NONE)
		return ERR_PROTOCOL;
	if (map_object(out, fd, page_size(), kind) != 0)
		return errno == EPERM || errno == EACCES ? ERR_PROTOCOL : say_no_memory(page_size());
	return 0;
}

void secret_page_detach(struct secret_memory *m)
{
	if (m->base != NULL)
		unmap(m->base, m->size);
	*m = (struct secret_memory){ 0 };
}
