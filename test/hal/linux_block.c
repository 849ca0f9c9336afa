/* The block store: exactly the bytes asked for, one owner at a time, and nothing outside the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/block.h"

enum { SIZE = 1 << 20 };

static char path[64];

static int make_file(void **state)
{
	int fd;

	(void)state;
	strcpy(path, "/tmp/fallgate-block-XXXXXX");
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, SIZE) != 0)
		return -1;
	close(fd);
	return 0;
}

static int drop_file(void **state)
{
	(void)state;
	return unlink(path);
}

static int open_file(int more)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | more);

	assert_true(fd >= 0);
	return fd;
}

static void the_second_owner_is_refused_until_the_first_closes(void **state)
{
	struct block *a, *b;
	int second = open_file(0);

	(void)state;
	assert_int_equal(block_open_fd(&a, open_file(0)), 0);
	assert_int_equal(block_open_fd(&b, second), ERR_BUSY);
	assert_null(b);
	assert_true(fcntl(second, F_GETFD) >= 0); /* still the caller's */
	a->ops->close(a);
	assert_int_equal(block_open_fd(&b, second), 0);
	b->ops->close(b);
}

/* A descriptor that was passed shares the lock with its copy: the copy closing changes nothing, ours closing gives it back. */
static void the_lock_follows_the_open_file_description(void **state)
{
	struct block *a, *b;
	int fd = open_file(0), copy = dup(fd), other = open_file(0);

	(void)state;
	assert_int_equal(block_open_fd(&a, fd), 0);
	close(copy);
	assert_int_equal(block_open_fd(&b, other), ERR_BUSY);
	copy = dup(fd);
	a->ops->close(a);
	assert_int_equal(block_open_fd(&b, other), 0);
	b->ops->close(b);
	close(copy);
}

static void a_dead_owner_owns_nothing(void **state)
{
	struct block *b;
	int status, ready[2];
	char c;
	pid_t child;

	(void)state;
	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		if (block_open_fd(&b, open_file(0)) == 0 && write(ready[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(block_open_fd(&b, open_file(0)), ERR_BUSY);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	assert_int_equal(block_open_fd(&b, open_file(0)), 0);
	b->ops->close(b);
	close(ready[0]);
	close(ready[1]);
}

static void what_was_written_is_read(void **state)
{
	uint8_t out[9000], in[9000];
	struct block *b;

	(void)state;
	for (size_t i = 0; i < sizeof out; i++)
		out[i] = (uint8_t)(i * 31 + 1);
	assert_int_equal(block_open_fd(&b, open_file(0)), 0);
	assert_int_equal(b->size, SIZE);
	assert_false(b->is_device);
	assert_int_equal(b->ops->write(b, out, sizeof out, 12345), 0);
	assert_int_equal(b->ops->flush(b), 0);
	assert_int_equal(b->ops->read(b, in, sizeof in, 12345), 0);
	assert_memory_equal(in, out, sizeof in);
	assert_int_equal(b->ops->read(b, in, 1, 12344), 0);
	assert_int_equal(in[0], 0);
	assert_int_equal(b->ops->read(b, in, 1, 12345 + sizeof out), 0);
	assert_int_equal(in[0], 0);
	b->ops->close(b);
}

/* Parts of odd sizes, empty ones between them, as many as there may be: one stretch on the device. */
static void parts_are_written_one_behind_the_other(void **state)
{
	struct block_part parts[BLOCK_PARTS_MAX + 1];
	static uint8_t out[100000], in[100000];
	size_t size = 0;
	struct block *b;

	(void)state;
	for (size_t i = 0; i < sizeof out; i++)
		out[i] = (uint8_t)(i * 7 + i / 256);
	for (size_t i = 0; i < BLOCK_PARTS_MAX; i++) {
		parts[i] = (struct block_part){ out + size, i % 5 == 0 ? 0 : 3 * i };
		size += parts[i].size;
	}
	assert_int_equal(block_open_fd(&b, open_file(0)), 0);
	assert_int_equal(b->ops->write_parts(b, parts, BLOCK_PARTS_MAX, 777), 0);
	assert_int_equal(b->ops->read(b, in, size + 2, 776), 0);
	assert_memory_equal(in + 1, out, size);
	assert_int_equal(in[0] | in[size + 1], 0);
	assert_int_equal(b->ops->write_parts(b, parts, BLOCK_PARTS_MAX, SIZE - size + 1), ERR_RANGE);
	assert_int_equal(b->ops->write_parts(b, parts, BLOCK_PARTS_MAX + 1, 0), ERR_RANGE);
	assert_int_equal(b->ops->write_parts(b, parts, 1, SIZE), 0); /* nothing, at the end */
	b->ops->close(b);
}

static void nothing_reaches_outside(void **state)
{
	static const struct {
		uint64_t at, size;
	} bad[] = { { SIZE, 1 },       { SIZE - 1, 2 }, { 0, SIZE + 1 },          { UINT64_MAX, 1 },
		    { UINT64_MAX, 2 }, { SIZE + 1, 0 }, { UINT64_MAX - 1, 4096 }, { UINT64_C(1) << 63, 4096 } };
	static uint8_t data[SIZE + 1];
	struct block *b;
	struct stat st;

	(void)state;
	assert_int_equal(block_open_fd(&b, open_file(0)), 0);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(b->ops->read(b, data, bad[i].size, bad[i].at), ERR_RANGE);
		assert_int_equal(b->ops->write(b, data, bad[i].size, bad[i].at), ERR_RANGE);
		assert_int_equal(b->ops->discard(b, bad[i].size, bad[i].at), ERR_RANGE);
	}
	assert_int_equal(b->ops->write(b, data, SIZE, 0), 0);
	assert_int_equal(b->ops->write(b, data, 0, SIZE), 0);
	b->ops->close(b);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, SIZE);
}

static void a_file_cut_under_us_is_an_io_error(void **state)
{
	uint8_t data[8192];
	struct block *b;

	(void)state;
	assert_int_equal(block_open_fd(&b, open_file(0)), 0);
	assert_int_equal(truncate(path, 4096), 0);
	assert_int_equal(b->ops->read(b, data, sizeof data, 0), ERR_IO);
	assert_int_equal(b->ops->read(b, data, 4096, 0), 0);
	b->ops->close(b);
}

static void a_device_that_fails_is_an_io_error(void **state)
{
	uint8_t data[4096] = { 0 };
	struct block *b;
	int fd = open_file(0), ends[2];

	(void)state;
	assert_int_equal(block_open_fd(&b, fd), 0);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(dup3(ends[0], fd, O_CLOEXEC), fd); /* ESPIPE, EINVAL from here on */
	assert_int_equal(b->ops->read(b, data, 4096, 0), ERR_IO);
	assert_int_equal(b->ops->write(b, data, 4096, 0), ERR_IO);
	assert_int_equal(b->ops->flush(b), ERR_IO);
	assert_int_equal(b->ops->discard(b, 4096, 0), ERR_UNSUPPORTED);
	b->ops->close(b);
	close(ends[0]);
	close(ends[1]);
}

/* In a child under RLIMIT_FSIZE: a write that stops half-way goes on, and then says what is wrong. */
static void a_short_write_is_an_error(void **state)
{
	struct rlimit limit = { SIZE / 2, SIZE / 2 };
	static uint8_t data[SIZE];
	struct block *b;
	int status;
	pid_t child = fork();

	(void)state;
	if (child == 0) {
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		_exit(block_open_fd(&b, open_file(0)) == 0 && b->ops->write(b, data, SIZE, 0) == ERR_IO ? 0 : 1);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
}

/* The same with parts, which the limit cuts in their middle: what comes before it is there, in its place. */
static void parts_cut_short_are_an_error(void **state)
{
	enum { LIMIT = SIZE / 2, BEFORE = 10000 };
	struct rlimit limit = { LIMIT, LIMIT };
	static uint8_t out[4 * 4096], in[BEFORE];
	const struct block_part parts[] = { { out, 4096 }, { out + 4096, 8192 }, { out + 12288, 4096 } };
	struct block *b;
	int status;
	pid_t child;

	(void)state;
	for (size_t i = 0; i < sizeof out; i++)
		out[i] = (uint8_t)(1 + i % 251);
	child = fork();
	if (child == 0) {
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		_exit(block_open_fd(&b, open_file(0)) == 0 && b->ops->write_parts(b, parts, 3, LIMIT - BEFORE) == ERR_IO ? 0 : 1);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(block_open_fd(&b, open_file(0)), 0);
	assert_int_equal(b->ops->read(b, in, sizeof in, LIMIT - BEFORE), 0);
	assert_memory_equal(in, out, sizeof in);
	b->ops->close(b);
}

static void discarded_space_is_given_back_and_reads_as_zero(void **state)
{
	static uint8_t data[SIZE];
	struct stat before, after;
	struct block *b;
	int fd = open_file(0), r;

	(void)state;
	memset(data, 0x77, sizeof data);
	assert_int_equal(block_open_fd(&b, fd), 0);
	assert_int_equal(b->ops->write(b, data, SIZE, 0), 0);
	assert_int_equal(b->ops->flush(b), 0);
	assert_int_equal(b->ops->discard(b, 0, 0), 0);
	fstat(fd, &before);
	r = b->ops->discard(b, SIZE / 2, 4096);
	fstat(fd, &after);
	assert_int_equal(after.st_size, SIZE);
	if (r == 0) {
		assert_true(after.st_blocks < before.st_blocks);
		assert_int_equal(b->ops->read(b, data, SIZE, 0), 0);
		assert_int_equal(data[4095], 0x77);
		assert_int_equal(data[4096], 0);
		assert_int_equal(data[4096 + SIZE / 2 - 1], 0);
		assert_int_equal(data[4096 + SIZE / 2], 0x77);
	} else {
		assert_int_equal(r, ERR_UNSUPPORTED);
	}
	b->ops->close(b);
}

static void odd_sizes_and_odd_things_are_refused(void **state)
{
	static const off_t sizes[] = { 0, 1, 4095, 4097, SIZE + 512 };
	struct block *b;
	int fd = open_file(0), ends[2];

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		assert_int_equal(ftruncate(fd, sizes[i]), 0);
		assert_int_equal(block_open_fd(&b, fd), ERR_RANGE);
		assert_null(b);
	}
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0); /* no lock was left behind, or it is this one */
	close(fd);
	assert_int_equal(truncate(path, SIZE), 0);
	fd = open_file(O_APPEND);
	assert_int_equal(block_open_fd(&b, fd), ERR_UNSUPPORTED);
	close(fd);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(block_open_fd(&b, ends[0]), ERR_UNSUPPORTED);
	close(ends[0]);
	close(ends[1]);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(block_open_fd(&b, fd), ERR_UNSUPPORTED);
	close(fd);
	assert_int_equal(block_open_fd(&b, -1), ERR_IO);
}

static void put(off_t at, const void *bytes, size_t size)
{
	int fd = open_file(0);

	assert_int_equal(pwrite(fd, bytes, size, at), (ssize_t)size);
	close(fd);
}

static void assert_signature(const char *want)
{
	char name[32];
	int fd = open_file(0);

	assert_int_equal(block_signature(fd, name, sizeof name), 0);
	assert_string_equal(name, want);
	close(fd);
}

static void signatures_are_seen_at_both_ends(void **state)
{
	static const uint8_t magic[8] = { 0x46, 0x47, 0x56, 0x4f, 0x4c, 0x0d, 0x0a, 0x1a };
	static const uint8_t mbr[2] = { 0x55, 0xaa };
	/* of one partition: active, from sector 2, 1000 sectors, Linux */
	static const uint8_t entry[16] = { 0x80, 0, 0, 0, 0x83, 0, 0, 0, 2, 0, 0, 0, 0xe8, 3, 0, 0 };
	static const uint8_t zero[8];
	char name[32];

	(void)state;
	assert_signature("");
	put(0, magic, sizeof magic);
	assert_signature("fallgate");
	put(0, zero, sizeof zero);
	put(SIZE - 65536, magic, sizeof magic);
	assert_signature("fallgate");
	put(SIZE - 65536, zero, sizeof zero);
	put(4096 - 10, "SWAPSPACE2", 10);
	put(1024, "\1", 1);
	put(1028, "\1\0\0\0", 4);
	assert_signature("swap");
	put(4096 - 10, zero, 8);
	put(4096 - 2, zero, 2);
	put(510, mbr, sizeof mbr);
	put(446, entry, sizeof entry);
	assert_signature("dos");
	assert_int_equal(truncate(path, 100), 0);
	assert_signature("");
	assert_int_equal(block_signature(-1, name, sizeof name), ERR_IO);
}

/* A loop device over the file, or -1 with the reason in errno. */
static int attach_loop(int file)
{
	struct loop_config config = { .fd = (uint32_t)file, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), device = -1, n;
	char name[32];

	for (int i = 0; control >= 0 && device < 0 && i < 5; i++) {
		n = ioctl(control, LOOP_CTL_GET_FREE);
		snprintf(name, sizeof name, "/dev/loop%d", n);
		device = n < 0 ? -1 : open(name, O_RDWR | O_CLOEXEC);
		if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) != 0) {
			close(device);
			device = -1;
		}
	}
	if (control >= 0)
		close(control);
	return device;
}

static void a_block_device_is_measured_written_and_discarded(void **state)
{
	uint8_t out[8192], in[8192];
	struct block *b;
	int file, device, r;

	(void)state;
	assert_int_equal(truncate(path, SIZE + 512), 0); /* the last 512 bytes are not used */
	file = open_file(0);
	device = attach_loop(file);
	close(file);
	if (device < 0) {
		print_message("no loop device here (%s): skipped\n", strerror(errno));
		skip();
	}
	memset(out, 0x3c, sizeof out);
	assert_int_equal(block_open_fd(&b, device), 0);
	assert_true(b->is_device);
	assert_int_equal(b->size, SIZE);
	assert_true(b->atomic_bytes >= 512);
	assert_int_equal(b->ops->write(b, out, sizeof out, SIZE - sizeof out), 0);
	assert_int_equal(b->ops->flush(b), 0);
	assert_int_equal(b->ops->read(b, in, sizeof in, SIZE - sizeof in), 0);
	assert_memory_equal(in, out, sizeof in);
	assert_int_equal(b->ops->write(b, out, 1, SIZE), ERR_RANGE);
	r = b->ops->discard(b, 4096, SIZE - 4096);
	assert_true(r == 0 || r == ERR_UNSUPPORTED);
	b->ops->close(b);
}

#define ON_FILE(test) cmocka_unit_test_setup_teardown(test, make_file, drop_file)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_FILE(the_second_owner_is_refused_until_the_first_closes),
		ON_FILE(the_lock_follows_the_open_file_description),
		ON_FILE(a_dead_owner_owns_nothing),
		ON_FILE(what_was_written_is_read),
		ON_FILE(parts_are_written_one_behind_the_other),
		ON_FILE(nothing_reaches_outside),
		ON_FILE(a_file_cut_under_us_is_an_io_error),
		ON_FILE(a_device_that_fails_is_an_io_error),
		ON_FILE(a_short_write_is_an_error),
		ON_FILE(parts_cut_short_are_an_error),
		ON_FILE(discarded_space_is_given_back_and_reads_as_zero),
		ON_FILE(odd_sizes_and_odd_things_are_refused),
		ON_FILE(signatures_are_seen_at_both_ends),
		ON_FILE(a_block_device_is_measured_written_and_discarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
