/* Clients of an export that want everything it can give, for as long as their standard input is open: each thread reads and
 * writes at random, connects again whenever it is cut off, and what the clients see is printed: "up NS" at the first answer after
 * a silence, "cut NS" when the last client got its last good answer at NS and none has got one since. CLOCK_BOOTTIME. gate_load
 * URI THREADS BYTES-PER-REQUEST SIZE */
#include <libnbd.h>

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64, RETRY_MS = 5, LOOK_MS = 2 };

static const char *uri;
static size_t request;
static uint64_t size;
static _Atomic uint64_t last_good_ns; /* when the last request that succeeded was answered */
static atomic_uint serving;           /* threads whose connection works */

static uint64_t boot_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pause_ms(int ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000L }, NULL);
}

static void note_good(void)
{
	uint64_t now = boot_now(), last = atomic_load(&last_good_ns);

	while (last < now && !atomic_compare_exchange_weak(&last_good_ns, &last, now))
		continue;
}

static int one_request(struct nbd_handle *nbd, unsigned *seed, void *buffer)
{
	uint64_t at = ((uint64_t)rand_r(seed) << 12) % (size - request) / 4096 * 4096;

	return rand_r(seed) & 1 ? nbd_pwrite(nbd, buffer, request, at, 0) : nbd_pread(nbd, buffer, request, at, 0);
}

static void serve_until_cut(struct nbd_handle *nbd, unsigned *seed, void *buffer)
{
	if (one_request(nbd, seed, buffer) != 0)
		return;
	atomic_fetch_add(&serving, 1);
	do
		note_good();
	while (one_request(nbd, seed, buffer) == 0);
	atomic_fetch_sub(&serving, 1);
}

static void *client(void *number)
{
	unsigned seed = (unsigned)(uintptr_t)number;
	void *buffer = calloc(1, request);

	for (;;) {
		struct nbd_handle *nbd = nbd_create();

		if (nbd != NULL && nbd_connect_uri(nbd, uri) == 0)
			serve_until_cut(nbd, &seed, buffer);
		nbd_close(nbd);
		pause_ms(RETRY_MS);
	}
	return NULL;
}

static void watch(void)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	unsigned was = 0;

	while (poll(&in, 1, LOOK_MS) == 0) {
		unsigned now = atomic_load(&serving);

		if ((now == 0) != (was == 0)) {
			printf("%s %llu\n", now != 0 ? "up" : "cut", (unsigned long long)atomic_load(&last_good_ns));
			fflush(stdout);
		}
		was = now;
	}
}

int main(int argc, char **argv)
{
	unsigned threads = argc == 5 ? (unsigned)atoi(argv[2]) : 0;

	if (threads == 0 || threads > THREADS_MAX) {
		fputs("usage: gate_load URI THREADS BYTES-PER-REQUEST SIZE\n", stderr);
		return 2;
	}
	uri = argv[1];
	request = (size_t)atoi(argv[3]);
	size = strtoull(argv[4], NULL, 10);
	for (unsigned i = 0; i < threads; i++) {
		pthread_t t;

		if (pthread_create(&t, NULL, client, (void *)(uintptr_t)(i + 1)) != 0)
			return 1;
	}
	watch();
	_exit(0);
}
