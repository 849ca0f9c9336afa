/* /dev/hwrng, read by a thread that may hang in it: a device can keep its reader waiting for ever, under O_NONBLOCK too. What it
 * gave is wiped: the kernel may have taken its neighbours for its pool. */
#include <hal/noise.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "entropy_health.h"
#include "noise_pace.h"

enum { LOOK_BYTES = 64 };

struct noise_pace noise_pace = { 10000, 60000 };

/* File-level state: a machine has one. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	char path[64], name[64];
	struct entropy_health health;
	size_t seen;
	enum noise_state state; /* SILENT until the start-up test is over */
	int error;              /* why there is none, or why it is silent; 0: it does not answer */
	uint64_t heard_ms;
	bool decided;
} noise = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER, .health.claim = &entropy_one_bit };

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void decide(enum noise_state state, int error)
{
	bool news = state == NOISE_BAD && noise.state == NOISE_GOOD;

	noise.state = state;
	noise.error = error;
	noise.decided = true;
	pthread_cond_signal(&noise.more);
	if (news)
		log_error("entropy: %s (%s) failed its health test: no key is made until it is good and the agent starts anew",
			  noise.path, noise.name);
}

static void heard(const uint8_t *bytes, size_t size)
{
	pthread_mutex_lock(&noise.lock);
	noise.heard_ms = now_ms();
	noise.seen += size;
	if (!entropy_health(&noise.health, bytes, size))
		decide(NOISE_BAD, 0);
	else if (noise.seen >= ENTROPY_START_BYTES)
		decide(NOISE_GOOD, 0);
	pthread_mutex_unlock(&noise.lock);
}

static void heard_nothing(int error)
{
	pthread_mutex_lock(&noise.lock);
	/* a driver that was never there, against one that went away */
	decide(error == ENODEV && noise.seen == 0 ? NOISE_NONE : NOISE_SILENT, error);
	pthread_mutex_unlock(&noise.lock);
}

static void pause_ms(unsigned ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	while (nanosleep(&t, &t) != 0 && errno == EINTR)
		;
}

static bool bad(void)
{
	enum noise_state state;

	pthread_mutex_lock(&noise.lock);
	state = noise.state;
	pthread_mutex_unlock(&noise.lock);
	return state == NOISE_BAD;
}

/* The start-up test as fast as it goes, then now and then. */
static void listen_to(int fd)
{
	uint8_t bytes[LOOK_BYTES];

	while (!bad()) {
		ssize_t n = read(fd, bytes, sizeof bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n > 0)
			heard(bytes, (size_t)n);
		else
			heard_nothing(n < 0 ? errno : 0);
		explicit_bzero(bytes, sizeof bytes);
		if (n <= 0 || noise.seen >= ENTROPY_START_BYTES)
			pause_ms(noise_pace.look_ms);
	}
}

static void *run(void *context)
{
	int fd = open(noise.path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	(void)context;
	if (fd >= 0) {
		listen_to(fd);
		close(fd);
		return NULL;
	}
	pthread_mutex_lock(&noise.lock);
	decide(NOISE_NONE, errno);
	pthread_mutex_unlock(&noise.lock);
	return NULL;
}

static void read_name(void)
{
	int fd = open("/sys/class/misc/hw_random/rng_current", O_RDONLY | O_CLOEXEC);
	char text[sizeof noise.name] = "";
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	log_printable(noise.name, sizeof noise.name, text);
}

static bool start_thread(void)
{
	pthread_t thread;

	if (thread_start(&thread, run, NULL) != 0)
		return false;
	pthread_detach(thread);
	return true;
}

static void wait_for_it(unsigned wait_ms)
{
	struct timespec until = thread_deadline(wait_ms);

	while (!noise.decided)
		if (pthread_cond_clockwait(&noise.more, &noise.lock, CLOCK_MONOTONIC, &until) != 0)
			break;
}

static void explain(unsigned wait_ms, char *why, size_t size)
{
	why[0] = '\0';
	if (noise.state == NOISE_BAD)
		snprintf(why, size, "%s (%s) failed its health test: it repeats itself", noise.path, noise.name);
	else if (noise.state != NOISE_GOOD && noise.error != 0)
		snprintf(why, size, "%s: %s", noise.path, strerror(noise.error));
	else if (noise.state != NOISE_GOOD)
		snprintf(why, size, "%s (%s) gave %zu of %d bytes in %u s", noise.path, noise.name, noise.seen,
			 ENTROPY_START_BYTES, wait_ms / 1000);
}

enum noise_state noise_start(const char *path, unsigned wait_ms, char *why, size_t why_size)
{
	enum noise_state state;

	pthread_mutex_lock(&noise.lock);
	snprintf(noise.path, sizeof noise.path, "%s", path);
	read_name();
	noise.state = NOISE_SILENT;
	noise.heard_ms = now_ms();
	if (start_thread())
		wait_for_it(wait_ms);
	explain(wait_ms, why, why_size);
	state = noise.state;
	pthread_mutex_unlock(&noise.lock);
	return state;
}

enum noise_state noise_now(void)
{
	enum noise_state state;

	pthread_mutex_lock(&noise.lock);
	state = noise.state;
	if (state == NOISE_GOOD && now_ms() - noise.heard_ms > noise_pace.silent_ms)
		state = NOISE_SILENT;
	pthread_mutex_unlock(&noise.lock);
	return state;
}

const char *noise_name(void)
{
	return noise.name;
}
