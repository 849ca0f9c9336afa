/* Broker and server with the kernel's own driver: a real block device, its file descriptors the clients. Where there is no
 * driver, or no right to it, everything is skipped. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "revocation/revocation.h"
#include "stage.h"

enum { SKIPPED = 77, GROUP = 4321, HOLD_MS = 30000, SHORT_HOLD_MS = 1500, SECTOR = 4096, THREADS = 96, CHANNEL_FD = 3 };
#define MS UINT64_C(1000000)

static struct stage stage;
static struct {
	struct channel channel;
	pid_t pid;
	uint32_t device;
	unsigned queues, depth;
	char block[32];
} broker;

/* ---- the broker ---- */

static void broker_next(enum message_type wanted, struct message *m)
{
	int fds[CHANNEL_FDS_MAX], r;
	unsigned count;

	r = channel_receive_wait(&broker.channel, m, fds, &count, NULL, 15000);
	if (r != 1 || m->type != wanted)
		fail_msg("%s did not come (%d): %s", message_row(wanted)->name, r,
			 r == 1 ? message_row(m->type)->name : "nothing");
}

static bool broker_silent(int ms)
{
	int fds[CHANNEL_FDS_MAX];
	struct message m;
	unsigned count;

	return channel_receive_wait(&broker.channel, &m, fds, &count, NULL, ms) == ERR_TIMEOUT;
}

static void broker_exec(int channel)
{
	char path[256], run_dir[128];
	sigset_t all;

	snprintf(path, sizeof path, "%s/fallgate-ublk", stage_bin);
	snprintf(run_dir, sizeof run_dir, "run_dir=%s", stage.dir);
	dup2(channel, CHANNEL_FD);
	close_range(CHANNEL_FD + 1, ~0u, 0);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	execl(path, path, run_dir, (char *)NULL);
	_exit(121);
}

static void broker_start(void)
{
	struct message m;
	int pair[2];

	assert_int_equal(channel_pair(pair), 0);
	broker.pid = fork();
	if (broker.pid == 0)
		broker_exec(pair[1]);
	close(pair[1]);
	channel_init(&broker.channel, pair[0], ROLE_SUPERVISOR, ROLE_UBLK);
	broker_next(MSG_HELLO, &m);
	assert_int_equal(m.body.hello.pid, broker.pid);
}

/* By the end of its channel. */
static void broker_end(void)
{
	int status;

	channel_close(&broker.channel);
	assert_int_equal(waitpid(broker.pid, &status, 0), broker.pid);
	broker.pid = 0;
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void ask_add(uint64_t hold_ms, bool fetched)
{
	struct message m;

	message_init(&m, MSG_UB_ADD, 61);
	strcpy(m.body.ub_add.name, "stage");
	m.body.ub_add.size = STAGE_SIZE;
	m.body.ub_add.hold_ns = hold_ms * MS;
	m.body.ub_add.gid = GROUP;
	m.body.ub_add.fetched = fetched;
	assert_int_equal(channel_send(&broker.channel, &m, NULL, 0), 0);
}

static void take_ready(bool kept)
{
	struct message m;

	broker_next(MSG_UB_READY, &m);
	assert_string_equal(m.body.ub_ready.text, "");
	assert_int_equal(m.body.ub_ready.error, 0);
	assert_int_equal(m.body.ub_ready.kept, kept);
	assert_int_equal(m.nonce, 61);
	broker.device = m.body.ub_ready.device;
	broker.queues = m.body.ub_ready.queues;
	broker.depth = m.body.ub_ready.depth;
	snprintf(broker.block, sizeof broker.block, "/dev/ublkb%u", broker.device);
}

static void order(enum message_type type, uint64_t until_ns)
{
	struct message m;

	message_init(&m, type, 67);
	strcpy(m.body.ub_hold.name, "stage");
	if (type == MSG_UB_GO)
		m.body.ub_go.pid = stage.child;
	else if (type == MSG_UB_HOLD)
		m.body.ub_hold.until_ns = until_ns;
	assert_int_equal(channel_send(&broker.channel, &m, NULL, 0), 0);
}

static void take_gone(enum ub_reason reason)
{
	struct message m;

	broker_next(MSG_UB_GONE, &m);
	assert_int_equal(m.body.ub_gone.reason, reason);
	assert_int_equal(access(broker.block, F_OK), -1);
}

static void go(void)
{
	struct message m;

	order(MSG_UB_GO, 0);
	broker_next(MSG_UB_STARTED, &m);
	assert_string_equal(m.body.ub_started.text, "");
	assert_int_equal(m.body.ub_started.error, 0);
}

/* ---- the server ---- */

static void start_server(bool hold)
{
	char device[24], queues[24], depth[24];

	snprintf(device, sizeof device, "device=%u", broker.device);
	snprintf(queues, sizeof queues, "queues=%u", broker.queues);
	snprintf(depth, sizeof depth, "depth=%u", broker.depth);
	stage_start_with(&stage,
			 (const char *[]){ "serve", "name=stage", device, queues, depth, hold ? "hold=yes" : "hold=no", NULL });
}

static void serve_keyless(bool hold)
{
	struct message m;

	start_server(hold);
	stage_attach(&stage, &m);
	assert_string_equal(m.body.dp_ready.text, "");
	assert_true(m.body.dp_ready.ok);
}

static void serve(uint64_t hold_ms)
{
	ask_add(hold_ms, false);
	take_ready(false);
	serve_keyless(hold_ms != 0);
	stage_unlock(&stage);
	go();
}

/* A new server for the requests that wait. */
static void succeed(uint64_t hold_ms)
{
	ask_add(hold_ms, true);
	take_ready(true);
	serve_keyless(true);
	stage_unlock(&stage);
	go();
}

static void lock(void)
{
	struct message m;

	stage_lock(&stage, CAUSE_COMMANDED);
	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	stage_next(&stage, MSG_DP_DRAINED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_drained.error, 0);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

/* ---- clients ---- */

static int open_block(void)
{
	int fd = open(broker.block, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0)
		fail_msg("%s: %s", broker.block, strerror(errno));
	return fd;
}

static uint8_t *aligned(size_t size)
{
	void *p = NULL;

	if (posix_memalign(&p, SECTOR, size) != 0)
		abort();
	return p;
}

static void writes_and_reads_back(int fd, uint64_t at, size_t size)
{
	uint8_t *out = aligned(size), *in = aligned(size);

	for (size_t i = 0; i < size; i += 256)
		assert_int_equal(getrandom(out + i, 256, 0), 256);
	assert_int_equal(pwrite(fd, out, size, (off_t)at), size);
	assert_int_equal(pread(fd, in, size, (off_t)at), size);
	assert_memory_equal(in, out, size);
	free(in);
	free(out);
}

static bool is_zero(int fd, uint64_t at, size_t size)
{
	uint8_t *in = aligned(size);
	bool zero = pread(fd, in, size, (off_t)at) == (ssize_t)size;

	for (size_t i = 0; i < size; i++)
		zero = zero && in[i] == 0;
	free(in);
	return zero;
}

/* One thread: writes its own sectors over and over, remembering what it was promised. */
struct client {
	pthread_t thread;
	int fd, error;
	uint64_t at;
	uint32_t acked;
};

static atomic_bool stop;

static void *write_on(void *context)
{
	struct client *c = context;
	uint32_t *sector = (uint32_t *)(void *)aligned(SECTOR);

	for (uint32_t n = 1; c->error == 0 && !atomic_load(&stop); n++) {
		for (int i = 0; i < SECTOR / 4; i++)
			sector[i] = n;
		if (pwrite(c->fd, sector, SECTOR, (off_t)c->at) != SECTOR)
			c->error = errno;
		else
			c->acked = n;
	}
	free(sector);
	return NULL;
}

static void start_clients(struct client *c, int fd, unsigned count)
{
	atomic_store(&stop, false);
	for (unsigned i = 0; i < count; i++) {
		c[i] = (struct client){ .fd = fd, .at = (uint64_t)i * SECTOR * 8 };
		assert_int_equal(pthread_create(&c[i].thread, NULL, write_on, &c[i]), 0);
	}
}

static void stop_clients(struct client *c, unsigned count, int want)
{
	atomic_store(&stop, true);
	for (unsigned i = 0; i < count; i++) {
		pthread_join(c[i].thread, NULL);
		assert_int_equal(c[i].error, want);
	}
}

static void promises_were_kept(const struct client *c, unsigned count)
{
	uint32_t *sector = (uint32_t *)(void *)aligned(SECTOR);

	for (unsigned i = 0; i < count; i++) {
		assert_int_equal(pread(c[i].fd, sector, SECTOR, (off_t)c[i].at), SECTOR);
		for (int w = 1; w < SECTOR / 4; w++)
			assert_int_equal(sector[w], sector[0]);
		assert_int_equal(sector[0], c[i].acked);
	}
	free(sector);
}

/* ---- tests ---- */

static int set_stage(void **state)
{
	(void)state;
	stage_make(&stage);
	stage_create(&stage);
	broker_start();
	return 0;
}

static int clear_stage(void **state)
{
	char lock_file[128];

	(void)state;
	stage_kill(&stage);
	if (broker.pid > 0)
		broker_end();
	snprintf(lock_file, sizeof lock_file, "%s/ublk.lock", stage.dir);
	unlink(lock_file);
	stage_end(&stage);
	return 0;
}

/* Without it a queue that is full when its server ends would be noticed after 30 s. */
static void one_tag_is_kept_free(void)
{
	char path[64];
	unsigned n = 0;

	snprintf(path, sizeof path, "/sys/block/ublkb%u/queue/nr_requests", broker.device);
	for (int ms = 0; n != broker.depth - 1 && ms < PATIENCE_MS; ms += 10) {
		FILE *f = fopen(path, "r");

		assert_non_null(f);
		assert_int_equal(fscanf(f, "%u", &n), 1);
		fclose(f);
		sleep_ms(10);
	}
	assert_int_equal(n, broker.depth - 1);
}

static void the_block_device_comes_with_the_key(void **state)
{
	char path[32];
	struct stat st;

	(void)state;
	ask_add(0, false);
	take_ready(false);
	snprintf(path, sizeof path, "/dev/ublkc%u", broker.device);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_gid, GROUP); /* until the server has opened it */
	serve_keyless(false);
	assert_int_equal(access(broker.block, F_OK), -1);
	stage_unlock(&stage);
	sleep_ms(50);
	assert_int_equal(access(broker.block, F_OK), -1);
	go();
	assert_int_equal(access(broker.block, F_OK), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_gid, 0); /* nobody's again */
	one_tag_is_kept_free();
}

static void what_is_written_is_read(void **state)
{
	uint64_t size, range[2] = { 8 * SECTOR, 4 * SECTOR };
	unsigned physical;
	int fd, logical;

	(void)state;
	serve(0);
	fd = open_block();
	assert_int_equal(ioctl(fd, BLKGETSIZE64, &size), 0);
	assert_int_equal(size, STAGE_SIZE);
	assert_int_equal(ioctl(fd, BLKSSZGET, &logical), 0);
	assert_int_equal(ioctl(fd, BLKPBSZGET, &physical), 0);
	assert_int_equal(logical, 512);
	assert_int_equal(physical, SECTOR);
	writes_and_reads_back(fd, 0, SECTOR);
	writes_and_reads_back(fd, 512, 512);
	writes_and_reads_back(fd, STAGE_SIZE - 512, 512);
	writes_and_reads_back(fd, 1536, 1 << 20);
	writes_and_reads_back(fd, 4 << 20, 4 << 20);
	assert_int_equal(fdatasync(fd), 0);
	assert_false(is_zero(fd, range[0], range[1]));
	assert_int_equal(ioctl(fd, BLKDISCARD, range), 0);
	assert_true(is_zero(fd, range[0], range[1]));
	range[0] = 5 << 20;
	range[1] = 3 << 20;
	assert_int_equal(ioctl(fd, BLKZEROOUT, range), 0);
	assert_true(is_zero(fd, range[0], range[1]));
	close(fd);
}

static void a_lock_fails_requests_and_takes_the_device(void **state)
{
	static struct client c[4];
	int fd;

	(void)state;
	serve(0);
	fd = open_block();
	start_clients(c, fd, 4);
	sleep_ms(200);
	lock();
	take_gone(UB_SERVER_GONE);
	stop_clients(c, 4, EIO);
	close(fd);
	serve(0);
	fd = open_block();
	for (int i = 0; i < 4; i++)
		c[i].fd = fd;
	for (int i = 0; i < 4; i++) { /* acknowledged and drained; the last one may have been done and not answered */
		uint32_t *sector = (uint32_t *)(void *)aligned(SECTOR);

		assert_int_equal(pread(fd, sector, SECTOR, (off_t)c[i].at), SECTOR);
		assert_in_range(sector[0], c[i].acked, c[i].acked + 1);
		free(sector);
	}
	close(fd);
}

static void a_held_device_goes_on_with_the_next_server(void **state)
{
	static struct client c[THREADS];
	int fd;

	(void)state;
	serve(HOLD_MS);
	fd = open_block();
	start_clients(c, fd, THREADS);
	for (int i = 0; i < 4; i++) {
		uint64_t from = boottime_ns();

		sleep_ms(200);
		lock();
		sleep_ms(100);
		succeed(HOLD_MS);
		assert_in_range(boottime_ns() - from, 0, 20000 * MS); /* not the 30 s of a full queue */
	}
	sleep_ms(200);
	stop_clients(c, THREADS, 0);
	promises_were_kept(c, THREADS);
	close(fd);
}

static void a_server_that_is_killed_loses_nothing_that_was_promised(void **state)
{
	static struct client c[8];
	int fd;

	(void)state;
	serve(HOLD_MS);
	fd = open_block();
	start_clients(c, fd, 8);
	for (int i = 0; i < 3; i++) {
		sleep_ms(150);
		stage_kill(&stage);
		succeed(HOLD_MS);
	}
	stop_clients(c, 8, 0);
	promises_were_kept(c, 8);
	close(fd);
}

static void a_hold_ends_by_itself(void **state)
{
	static struct client c[4];
	int fd;

	(void)state;
	serve(SHORT_HOLD_MS);
	fd = open_block();
	start_clients(c, fd, 4);
	lock();
	assert_true(broker_silent(SHORT_HOLD_MS / 2));
	take_gone(UB_HOLD_OVER);
	stop_clients(c, 4, EIO);
	close(fd);
}

static void a_hold_ends_when_it_is_told_to(void **state)
{
	static struct client c[4];
	int fd;

	(void)state;
	serve(HOLD_MS);
	fd = open_block();
	start_clients(c, fd, 4);
	order(MSG_UB_HOLD, boottime_ns() + SHORT_HOLD_MS * MS);
	lock();
	take_gone(UB_HOLD_OVER);
	stop_clients(c, 4, EIO);
	close(fd);
}

static void a_hold_goes_on_over_servers_that_never_get_the_key(void **state)
{
	static struct client c[4];
	struct message m;
	int fd;

	(void)state;
	serve(HOLD_MS);
	fd = open_block();
	start_clients(c, fd, 4);
	sleep_ms(50);
	lock();
	for (int i = 0; i < 3; i++) {
		ask_add(HOLD_MS, true);
		take_ready(true);
		serve_keyless(true);
		stage_kill(&stage);
	}
	ask_add(HOLD_MS, true);
	take_ready(true);
	start_server(true); /* one that ends before it fetched anything */
	stage_kill(&stage);
	ask_add(HOLD_MS, false);
	take_ready(true);
	serve_keyless(true);
	stage_unlock(&stage);
	order(MSG_UB_GO, 0);
	broker_next(MSG_UB_STARTED, &m);
	assert_int_equal(m.body.ub_started.error, 0);
	sleep_ms(50);
	stop_clients(c, 4, 0);
	promises_were_kept(c, 4);
	close(fd);
}

static void a_server_that_ends_before_the_start_is_followed_by_another(void **state)
{
	(void)state;
	ask_add(HOLD_MS, false);
	take_ready(false);
	serve_keyless(true);
	stage_kill(&stage);
	ask_add(HOLD_MS, true);
	take_gone(UB_REMOVED);
	take_ready(false);
	serve_keyless(true);
	stage_unlock(&stage);
	stage_kill(&stage);
	order(MSG_UB_REMOVE, 0);
	take_gone(UB_REMOVED);
	serve(0);
}

static void go_for_a_server_that_is_gone_takes_the_device(void **state)
{
	struct message m;
	pid_t was;

	(void)state;
	ask_add(HOLD_MS, false);
	take_ready(false);
	serve_keyless(true);
	stage_unlock(&stage);
	was = stage.child;
	stage_kill(&stage);
	stage.child = was;
	order(MSG_UB_GO, 0);
	stage.child = 0;
	broker_next(MSG_UB_STARTED, &m);
	assert_int_not_equal(m.body.ub_started.error, 0);
	take_gone(UB_SERVER_GONE);
}

static void remove_fails_what_is_under_way(void **state)
{
	static struct client c[8];
	int fd;

	(void)state;
	serve(HOLD_MS);
	fd = open_block();
	start_clients(c, fd, 8);
	sleep_ms(50);
	order(MSG_UB_REMOVE, 0);
	take_gone(UB_REMOVED);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0); /* nothing left to serve */
	stop_clients(c, 8, EIO);
	close(fd);
}

static void without_the_supervisor_every_device_goes(void **state)
{
	static struct client c[8];
	int fd;

	(void)state;
	serve(HOLD_MS);
	fd = open_block();
	start_clients(c, fd, 8);
	sleep_ms(50);
	channel_close(&stage.supervisor);
	broker_end();
	stop_clients(c, 8, EIO);
	close(fd);
	assert_int_equal(access(broker.block, F_OK), -1);
	stage_kill(&stage);
}

static void what_a_killed_broker_left_goes_with_the_next(void **state)
{
	static struct client c[4];
	int fd;

	(void)state;
	serve(HOLD_MS);
	fd = open_block();
	start_clients(c, fd, 4);
	kill(broker.pid, SIGKILL);
	waitpid(broker.pid, NULL, 0);
	channel_close(&broker.channel);
	sleep_ms(50);
	broker_start();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	stop_clients(c, 4, EIO);
	close(fd);
	for (int ms = 0; access(broker.block, F_OK) == 0 && ms < PATIENCE_MS; ms += 10)
		sleep_ms(10);
	assert_int_equal(access(broker.block, F_OK), -1);
	serve(HOLD_MS);
}

/* The first second of a device's life, cut at every few milliseconds. */
static void a_server_that_is_killed_at_any_moment_leaves_nothing_that_hangs(void **state)
{
	(void)state;
	for (long ms = 0; ms < 60; ms += 4) {
		struct message m;
		struct client c[4];
		int fd;

		serve(HOLD_MS);
		fd = open_block();
		start_clients(c, fd, 4);
		sleep_ms(20);
		lock();
		ask_add(HOLD_MS, true);
		take_ready(true);
		serve_keyless(true);
		stage_unlock(&stage);
		order(MSG_UB_GO, 0);
		sleep_ms(ms / 4);
		stage_kill(&stage);
		broker_next(MSG_UB_STARTED, &m);
		order(MSG_UB_REMOVE, 0);
		broker_next(MSG_UB_GONE, &m);
		stop_clients(c, 4, EIO);
		close(fd);
	}
}

/* ---- any request ---- */

enum { MODEL_AT = 3 << 20, MODEL_SIZE = 2 << 20, MODEL_IO_MAX = 768 << 10 };

static struct {
	struct client client;
	uint8_t *model, *buf;
	unsigned seed, reads, changes;
	const char *wrong;
} any;

static uint64_t up_to(uint64_t n)
{
	return (uint64_t)rand_r(&any.seed) % n;
}

/* A place and a size in whole sectors of 512, mostly small. */
static void choose(uint64_t *at, size_t *size)
{
	uint64_t sectors = up_to(8) == 0 ? 1 + up_to(MODEL_IO_MAX / 512) : 1 + up_to(40);

	*size = (size_t)sectors * 512;
	*at = up_to((MODEL_SIZE - *size) / 512 + 1) * 512;
}

static bool zero_range(unsigned long how, uint64_t at, size_t size)
{
	uint64_t range[2] = { MODEL_AT + at, size };

	memset(any.model + at, 0, size);
	return ioctl(any.client.fd, how, range) == 0;
}

static bool one_request(void)
{
	uint64_t at;
	size_t size;

	choose(&at, &size);
	switch (up_to(8)) {
	case 0:
		return zero_range(BLKDISCARD, at & ~UINT64_C(4095), 4096 * (1 + size / 8192));
	case 1:
		return zero_range(BLKZEROOUT, at, size);
	case 2:
		return fdatasync(any.client.fd) == 0;
	case 3:
	case 4:
	case 5:
		any.changes++;
		memset(any.model + at, (int)up_to(256), size);
		for (size_t i = 0; i < size; i += 512)
			any.model[at + i] = (uint8_t)(i / 512);
		memcpy(any.buf, any.model + at, size);
		return pwrite(any.client.fd, any.buf, size, (off_t)(MODEL_AT + at)) == (ssize_t)size;
	default:
		any.reads++;
		if (pread(any.client.fd, any.buf, size, (off_t)(MODEL_AT + at)) != (ssize_t)size)
			return false;
		if (memcmp(any.buf, any.model + at, size) != 0)
			any.wrong = "a read does not agree with the model";
		return true;
	}
}

static void *request_on(void *context)
{
	(void)context;
	while (any.wrong == NULL && !atomic_load(&stop))
		if (!one_request())
			any.wrong = strerror(errno);
	return NULL;
}

static void any_request_does_what_a_model_does(uint64_t hold_ms, int locks)
{
	int fd;

	serve(hold_ms);
	fd = open_block();
	any.model = calloc(1, MODEL_SIZE + MODEL_IO_MAX);
	any.buf = aligned(MODEL_SIZE);
	any.client.fd = fd;
	any.seed = 7;
	any.wrong = NULL;
	any.reads = any.changes = 0;
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&any.client.thread, NULL, request_on, NULL), 0);
	for (int i = 0; i < locks; i++) {
		sleep_ms(150);
		if (i % 2 == 0)
			stage_kill(&stage);
		else
			lock();
		succeed(hold_ms);
	}
	sleep_ms(2000);
	atomic_store(&stop, true);
	pthread_join(any.client.thread, NULL);
	print_message("%u reads, %u writes\n", any.reads, any.changes);
	if (any.wrong != NULL)
		fail_msg("%s", any.wrong);
	assert_true(any.reads > 0 && any.changes > 0);
	assert_int_equal(pread(fd, any.buf, MODEL_SIZE, MODEL_AT), MODEL_SIZE);
	assert_memory_equal(any.buf, any.model, MODEL_SIZE);
	free(any.model);
	free(any.buf);
	close(fd);
}

static void any_request_with_a_volatile_cache(void **state)
{
	(void)state;
	any_request_does_what_a_model_does(0, 0);
}

static void any_request_over_locks_and_kills(void **state)
{
	(void)state;
	any_request_does_what_a_model_does(HOLD_MS, 6);
}

/* ---- a file system above ---- */

static bool run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static bool run(const char *format, ...)
{
	char line[256];
	va_list args;
	int status;

	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	status = system(line);
	return status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* By its path: a busybox has smaller ones of the same name. */
static const char *program(const char *const places[2])
{
	for (int i = 0; i < 2; i++)
		if (access(places[i], X_OK) == 0)
			return places[i];
	return NULL;
}

/* Files of one page, each flushed: `acked` of them are promised. */
static void *write_files(void *context)
{
	struct client *c = context;
	char path[160], page[SECTOR];

	for (uint32_t n = 1; c->error == 0 && !atomic_load(&stop); n++) {
		int fd;

		snprintf(path, sizeof path, "%s/mnt/%u", stage.dir, n % 400);
		memset(page, (int)(n % 251), sizeof page);
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || pwrite(fd, page, sizeof page, 0) != sizeof page || fsync(fd) != 0)
			c->error = errno;
		else
			c->acked = n;
		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

static void files_hold_what_was_flushed(const char *mount_point, uint32_t acked)
{
	for (uint32_t n = acked > 300 ? acked - 300 : 1; n <= acked; n++) {
		char path[160], page[SECTOR];
		int fd;

		snprintf(path, sizeof path, "%s/%u", mount_point, n % 400);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(pread(fd, page, sizeof page, 0), sizeof page);
		for (int i = 0; i < SECTOR; i++)
			assert_int_equal((uint8_t)page[i], n % 251);
		close(fd);
	}
}

static void a_mounted_file_system_survives_locks_and_kills(void **state)
{
	static struct client c;
	const char *make = program((const char *const[]){ "/usr/sbin/mke2fs", "/sbin/mke2fs" });
	const char *check = program((const char *const[]){ "/usr/sbin/e2fsck", "/sbin/e2fsck" });
	char mount_point[80];

	(void)state;
	if (make == NULL || check == NULL) {
		print_message("no e2fsprogs here: skipped\n");
		skip();
	}
	snprintf(mount_point, sizeof mount_point, "%s/mnt", stage.dir);
	assert_int_equal(mkdir(mount_point, 0700), 0);
	serve(HOLD_MS);
	assert_true(run("%s -q -F -t ext4 %s", make, broker.block));
	assert_int_equal(mount(broker.block, mount_point, "ext4", MS_NOATIME, "errors=remount-ro"), 0);
	c.error = 0;
	c.acked = 0;
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&c.thread, NULL, write_files, &c), 0);
	for (int i = 0; i < 6; i++) {
		sleep_ms(150);
		if (i % 2 == 0)
			lock();
		else
			stage_kill(&stage);
		sleep_ms(i * 20);
		succeed(HOLD_MS);
	}
	sleep_ms(100);
	atomic_store(&stop, true);
	pthread_join(c.thread, NULL);
	assert_int_equal(c.error, 0);
	print_message("%u files were written and flushed over 6 servers\n", c.acked);
	assert_int_equal(umount(mount_point), 0);
	assert_true(run("%s -f -n %s >/dev/null 2>&1", check, broker.block));
	assert_int_equal(mount(broker.block, mount_point, "ext4", MS_RDONLY, NULL), 0);
	files_hold_what_was_flushed(mount_point, c.acked);
	assert_int_equal(umount(mount_point), 0);
	rmdir(mount_point);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_block_device_comes_with_the_key, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(what_is_written_is_read, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(any_request_with_a_volatile_cache, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(any_request_over_locks_and_kills, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_lock_fails_requests_and_takes_the_device, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_held_device_goes_on_with_the_next_server, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_server_that_is_killed_loses_nothing_that_was_promised, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_mounted_file_system_survives_locks_and_kills, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_hold_ends_by_itself, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_hold_ends_when_it_is_told_to, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_hold_goes_on_over_servers_that_never_get_the_key, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_server_that_ends_before_the_start_is_followed_by_another, set_stage,
						clear_stage),
		cmocka_unit_test_setup_teardown(go_for_a_server_that_is_gone_takes_the_device, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(remove_fails_what_is_under_way, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(without_the_supervisor_every_device_goes, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(what_a_killed_broker_left_goes_with_the_next, set_stage, clear_stage),
		cmocka_unit_test_setup_teardown(a_server_that_is_killed_at_any_moment_leaves_nothing_that_hangs, set_stage,
						clear_stage),
	};

	if (!stage_begin(argc, argv))
		return 2;
	if (access("/dev/ublk-control", R_OK | W_OK) != 0) {
		printf("no ublk driver here, or no right to it (%s): skipped\n", strerror(errno));
		return SKIPPED;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
