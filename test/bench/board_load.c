/* board_load: presses on a block device inside a machine and says what it did, in one line: "ops bytes nanoseconds". Static and
 * alone: it is carried into guests that have little else. What must stay true: every transfer goes past the page cache, and the
 * time ends after the last flush.
 *
 *   board_load DEVICE read|write random|sequential BLOCK_BYTES THREADS FLUSH_EVERY MILLISECONDS
 *
 * FLUSH_EVERY 0: at the end alone. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>

enum { THREADS_MAX = 64, BLOCK_MAX = 1 << 20 };

static struct {
	int fd;
	bool write, random;
	uint64_t bytes, block, flush_every, end_ns;
	atomic_uint_fast64_t next, operations;
	atomic_bool failed;
} load;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t scatter(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static bool one(uint64_t number, uint8_t *buffer)
{
	uint64_t blocks = load.bytes / load.block, at = (load.random ? scatter(number) : number) % blocks * load.block;
	ssize_t n;

	memcpy(buffer, &number, sizeof number);
	n = load.write ? pwrite(load.fd, buffer, load.block, (off_t)at) : pread(load.fd, buffer, load.block, (off_t)at);
	if (n != (ssize_t)load.block)
		return false;
	return load.flush_every == 0 || number % load.flush_every != 0 || fdatasync(load.fd) == 0;
}

static void *worker(void *arg)
{
	void *buffer = NULL;

	(void)arg;
	if (posix_memalign(&buffer, 4096, load.block) != 0) {
		load.failed = true;
		return NULL;
	}
	for (uint64_t i = 0; i < load.block; i++)
		((uint8_t *)buffer)[i] = (uint8_t)scatter(i);
	while (!load.failed && now_ns() < load.end_ns) {
		if (!one(atomic_fetch_add(&load.next, 1) + 1, buffer))
			load.failed = true;
		else
			load.operations++;
	}
	free(buffer);
	return NULL;
}

static bool open_device(const char *path)
{
	load.fd = open(path, (load.write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	return load.fd >= 0 && ioctl(load.fd, BLKGETSIZE64, &load.bytes) == 0 && load.bytes >= load.block;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS_MAX];
	unsigned long count;
	uint64_t began;

	if (argc != 8)
		return 64;
	load.write = strcmp(argv[2], "write") == 0;
	load.random = strcmp(argv[3], "random") == 0;
	load.block = strtoull(argv[4], NULL, 10);
	count = strtoul(argv[5], NULL, 10);
	load.flush_every = strtoull(argv[6], NULL, 10);
	if (load.block < 4096 || load.block > BLOCK_MAX || load.block % 4096 != 0 || count == 0 || count > THREADS_MAX)
		return 64;
	if (!open_device(argv[1])) {
		perror(argv[1]);
		return 1;
	}
	atomic_store(&load.next, scatter((uint64_t)getpid()) >> 20);
	began = now_ns();
	load.end_ns = began + strtoull(argv[7], NULL, 10) * 1000000u;
	for (unsigned long i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, worker, NULL) != 0)
			return 1;
	for (unsigned long i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	if ((load.write && fdatasync(load.fd) != 0) || load.failed) {
		perror(argv[1]);
		return 1;
	}
	printf("did %" PRIuFAST64 " %" PRIu64 " %" PRIu64 "\n", load.operations, load.operations * load.block, now_ns() - began);
	return 0;
}
