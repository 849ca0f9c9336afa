/* The page is read into directly: no stdio buffer keeps a copy. It is ordinary locked memory, since the kernel does not read
 * into secret memory; it lives for one C_Login, and the module makes copies that nobody can wipe. */
#include "pin.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/secret_memory.h"

enum { PAGE = 4096 };

/* Up to size bytes from the start of the file; a pipe is read once, and its second reading fails. */
static ssize_t read_start(int fd, uint8_t *out, size_t size)
{
	size_t got = 0;
	ssize_t n = 0;

	while (got < size) {
		n = pread(fd, out + got, size - got, (off_t)got);
		if (n < 0 && errno == ESPIPE)
			n = read(fd, out + got, size - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	return n < 0 ? -1 : (ssize_t)got;
}

static int cut_line(struct pin *p, size_t got)
{
	const uint8_t *newline = memchr(p->bytes, '\n', got);

	p->size = newline != NULL ? (size_t)(newline - p->bytes) : got;
	if (p->size > 0 && p->bytes[p->size - 1] == '\r')
		p->size--;
	if (p->size == 0 || p->size > PIN_MAX || memchr(p->bytes, '\0', p->size) != NULL)
		return ERR_CONFIG;
	return 0;
}

static int take_page(struct pin *out)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memset(out, 0, sizeof *out);
	if (page == MAP_FAILED)
		return ERR_NOMEM;
	out->bytes = page;
	if (mlock(page, PAGE) == 0 && madvise(page, PAGE, MADV_DONTDUMP) == 0 && madvise(page, PAGE, MADV_DONTFORK) == 0)
		return 0;
	pin_wipe(out);
	return ERR_NOMEM;
}

int pin_read_page(struct pin *out, int fd)
{
	struct secret_memory from;
	int r = take_page(out);

	if (r != 0)
		return r;
	r = secret_page_attach(&from, fd);
	if (r == 0) {
		memcpy(out->bytes, from.base, PIN_MAX + 2);
		secret_page_detach(&from); /* the next login reads it again */
		r = cut_line(out, PIN_MAX + 2);
	}
	if (r != 0)
		pin_wipe(out);
	return r;
}

int pin_read(struct pin *out, int fd)
{
	ssize_t got;
	int r = take_page(out);

	if (r != 0)
		return r;
	got = read_start(fd, out->bytes, PIN_MAX + 2);
	r = got < 0 ? ERR_IO : cut_line(out, (size_t)got);
	if (r != 0)
		pin_wipe(out);
	return r;
}

void pin_wipe(struct pin *p)
{
	if (p->bytes != NULL) {
		secret_wipe(p->bytes, PAGE);
		munmap(p->bytes, PAGE);
	}
	memset(p, 0, sizeof *p);
}
