/* The gate falls: by order, by deadline, by the supervisor's death or madness; under load, while unlocking, without a key. Each
 * time the keys go first, then every acknowledged write is on the disk, then the process ends; and what a search of its memory
 * finds. */
#include <errno.h>
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
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <libnbd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "dataplane/control.h"
#include "dataplane/fault.h"
#include "revocation/revocation.h"
#include "stage.h"

enum { WRITERS = 4, SECTORS_EACH = 512, SECTOR = 4096 };

static struct stage stage;

static int set_stage(void **state)
{
	(void)state;
	stage_make(&stage);
	stage_create(&stage);
	stage_serve(&stage);
	return 0;
}

static int clear_stage(void **state)
{
	(void)state;
	stage_end(&stage);
	return 0;
}

static void client_ends(struct nbd_handle *nbd)
{
	nbd_shutdown(nbd, 0);
	nbd_close(nbd);
}

/* ---- a load that remembers what it was promised ---- */

/* Sector i of a writer holds its number in each of its words: `acked` is the newest number acknowledged, `tried` the newest sent.
 */
struct writer {
	pthread_t thread;
	struct nbd_handle *nbd;
	unsigned index;
	bool flushes;
	uint32_t acked[SECTORS_EACH], tried[SECTORS_EACH];
	uint64_t count;
	int error; /* the errno that ended it */
};

static atomic_bool stop_writing;

static void fill(uint8_t *sector, unsigned writer, unsigned i, uint32_t number)
{
	for (size_t at = 0; at < SECTOR; at += 8) {
		put_le32(sector + at, number);
		put_le32(sector + at + 4, writer << 16 | i);
	}
}

static uint64_t place(unsigned writer, unsigned i)
{
	return ((uint64_t)writer * SECTORS_EACH + i) * SECTOR;
}

static void *write_until_refused(void *context)
{
	struct writer *w = context;
	uint8_t sector[SECTOR];

	for (uint32_t number = 1; !atomic_load(&stop_writing); number++) {
		unsigned i = number * 7 % SECTORS_EACH;

		fill(sector, w->index, i, number);
		w->tried[i] = number;
		if (nbd_pwrite(w->nbd, sector, SECTOR, place(w->index, i), 0) != 0)
			break;
		w->acked[i] = number;
		w->count++;
		if (w->flushes && number % 64 == 0 && nbd_flush(w->nbd, 0) != 0)
			break;
	}
	w->error = nbd_get_errno();
	return NULL;
}

static struct writer *start_writers(void)
{
	struct writer *w = calloc(WRITERS, sizeof *w);

	atomic_store(&stop_writing, false);
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i].index = i;
		w[i].flushes = i == 0;
		w[i].nbd = stage_client(&stage);
		assert_int_equal(pthread_create(&w[i].thread, NULL, write_until_refused, &w[i]), 0);
	}
	return w;
}

static void join_writers(struct writer *w)
{
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(w[i].thread, NULL);
		nbd_close(w[i].nbd);
		assert_true(w[i].count > 0);
	}
}

static void check_sector(const struct writer *w, unsigned i, const uint8_t *sector)
{
	uint32_t number = get_le32(sector);
	uint8_t whole[SECTOR] = { 0 };

	if (number != 0)
		fill(whole, w->index, i, number);
	assert_memory_equal(sector, whole, SECTOR);
	if (number < w->acked[i] || number > w->tried[i])
		fail_msg("writer %u, sector %u: %u is there, %u was acknowledged, %u tried", w->index, i, number, w->acked[i],
			 w->tried[i]);
}

/* A new process with the same key: every acknowledged write is there, whole. */
static void all_acknowledged_is_there(struct writer *w)
{
	struct nbd_handle *nbd;
	uint8_t sector[SECTOR];

	stage_serve(&stage);
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	for (unsigned i = 0; i < WRITERS * SECTORS_EACH; i++) {
		struct writer *of = &w[i / SECTORS_EACH];

		if (nbd_pread(nbd, sector, SECTOR, place(of->index, i % SECTORS_EACH), 0) != 0)
			fail_msg("sector %u cannot be read: %s", i, nbd_get_error());
		check_sector(of, i % SECTORS_EACH, sector);
	}
	client_ends(nbd);
	free(w);
}

/* ---- by order ---- */

static void expect_wiped(uint8_t cause, bool self, uint64_t within_ms, uint64_t since_ns)
{
	struct message m;

	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_wiped.cause, cause);
	assert_int_equal(m.body.dp_wiped.self, self);
	assert_true(m.body.dp_wiped.cut_ns >= since_ns);
	assert_true(m.body.dp_wiped.wiped_ns >= m.body.dp_wiped.cut_ns);
	if (m.body.dp_wiped.wiped_ns - since_ns > within_ms * 1000000u)
		fail_msg("wiped after %.1f ms, %llu are allowed", (double)(m.body.dp_wiped.wiped_ns - since_ns) / 1e6,
			 (unsigned long long)within_ms);
}

static void expect_drained(void)
{
	struct message m;

	stage_next(&stage, MSG_DP_DRAINED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_drained.error, 0);
	assert_true(m.body.dp_drained.drained_ns > 0);
}

static void a_lock_under_load_loses_no_acknowledged_write(void **state)
{
	struct writer *w;
	struct message m;
	uint64_t since;

	(void)state;
	stage_unlock(&stage);
	w = start_writers();
	sleep_ms(400);
	since = boottime_ns();
	stage_lock(&stage, CAUSE_COMMANDED);
	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_wiped.cause, CAUSE_COMMANDED);
	assert_int_equal(m.body.dp_wiped.generation, stage.generation + 1);
	assert_int_equal(m.nonce, 53);
	assert_false(m.body.dp_wiped.self);
	print_message("          cut %.2f ms and wiped %.2f ms after the order\n", (double)(m.body.dp_wiped.cut_ns - since) / 1e6,
		      (double)(m.body.dp_wiped.wiped_ns - since) / 1e6);
	assert_true(m.body.dp_wiped.wiped_ns - since <
		    500000000u); /* a shared test machine; the bound proper is measured elsewhere */
	expect_drained();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	join_writers(w);
	for (int i = 0; i < WRITERS; i++) /* refused, or cut off: never anything else */
		assert_true(w[i].error == ESHUTDOWN || w[i].error == ENOTCONN || w[i].error == ECONNRESET ||
			    w[i].error == EPIPE || w[i].error == 0 || w[i].error == EINVAL);
	all_acknowledged_is_there(w);
}

static void a_detach_is_a_lock(void **state)
{
	struct writer *w;
	struct message m;
	uint64_t since;

	(void)state;
	stage_unlock(&stage);
	w = start_writers();
	sleep_ms(100);
	since = boottime_ns();
	message_init(&m, MSG_DP_DETACH, 59);
	stage_send(&stage, &m, NULL, 0);
	expect_wiped(CAUSE_DETACHED, false, 500, since);
	expect_drained();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	join_writers(w);
	all_acknowledged_is_there(w);
}

static void the_supervisors_end_is_a_lock_within_a_second(void **state)
{
	struct writer *w;
	uint64_t since;

	(void)state;
	stage_unlock(&stage);
	w = start_writers();
	sleep_ms(100);
	since = boottime_ns();
	channel_close(&stage.supervisor);
	join_writers(w); /* cut off when the keys are gone; what they wrote is flushed after that, as fast as the disk can */
	assert_true(boottime_ns() - since < 1000000000u);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	all_acknowledged_is_there(w);
}

static void malformed_orders_are_a_lock(void **state)
{
	struct writer *w;

	(void)state;
	stage_unlock(&stage);
	w = start_writers();
	sleep_ms(100);
	assert_int_equal(send(stage.supervisor.fd, "what is this", 12, MSG_NOSIGNAL), 12);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 70);
	join_writers(w);
	all_acknowledged_is_there(w);
}

static void an_order_out_of_turn_is_a_lock(void **state)
{
	struct msg_dp_attach pins = stage_pins(&stage);
	struct message m;
	int fd = stage_open_backing(&stage);

	(void)state;
	stage_unlock(&stage);
	message_init(&m, MSG_DP_ATTACH, 1);
	m.body.dp_attach = pins;
	stage_send(&stage, &m, &fd, 1);
	close(fd);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 70);
}

static void without_a_key_a_lock_is_quick_and_clean(void **state)
{
	uint64_t since = boottime_ns();

	(void)state;
	stage_lock(&stage, CAUSE_TAMPER);
	expect_wiped(CAUSE_TAMPER, false, 500, since);
	expect_drained();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	stage_start_server(&stage); /* and with nothing attached at all */
	since = boottime_ns();
	stage_lock(&stage, CAUSE_TAMPER);
	expect_wiped(CAUSE_TAMPER, false, 500, since);
	expect_drained();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

/* A late unwrap must find nobody: the channel is closed, and the page that the hsm holds is zeroes. */
static void a_lock_while_the_hsm_is_asked(void **state)
{
	struct message m, question;
	uint64_t since;
	unsigned count;
	int page, fds[CHANNEL_FDS_MAX];

	(void)state;
	stage_deadlines(&stage, 60000, 60000);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	since = boottime_ns();
	stage_lock(&stage, CAUSE_COMMANDED);
	expect_wiped(CAUSE_COMMANDED, false, 500, since);
	expect_drained();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	assert_int_equal(channel_receive(&stage.hsm, &m, fds, &count, NULL), 0);
	close(page);
}

/* Unlock and lock in one breath, at every distance between them: whichever wins, the answer is WIPED, DRAINED and the end. */
static void a_lock_races_the_opening(void **state)
{
	(void)state;
	for (int us = 0; us < 4000; us += 200) {
		const struct timespec wait = { .tv_nsec = us * 1000 };
		struct message m;

		stage_deadlines(&stage, 60000, 60000);
		stage_give_ticket(&stage);
		stage_hsm_unwraps(&stage);
		nanosleep(&wait, NULL);
		stage_lock(&stage, CAUSE_COMMANDED);
		if (!stage_next_is(&stage, MSG_DP_WIPED, &m, PATIENCE_MS)) {
			assert_int_equal(m.type, MSG_DP_OPENED);
			assert_int_equal(m.body.dp_opened.error, 0);
			stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
		}
		expect_drained();
		assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
		stage_serve(&stage);
	}
	stage_unlock(&stage);
}

/* ---- by a client's death ---- */

/* A client that takes no replies: they fill the socket, and threads wait behind one another to send. */
static struct nbd_handle *stubborn_client(void)
{
	static uint8_t unread[16][1 << 20];
	struct nbd_handle *nbd = stage_client(&stage);

	for (int i = 0; i < 16; i++)
		assert_true(nbd_aio_pread(nbd, unread[i], sizeof unread[i], 0, NBD_NULL_COMPLETION, 0) > 0);
	return nbd;
}

/* nbdkit 1.32.5 fails an assertion when such a client goes. The others are served on; after some, it is a lock, in order. In any
 * case nothing acknowledged is lost. */
static void a_client_that_dies_takes_nobody_along(void **state)
{
	struct nbd_handle *nbd, *stubborn;
	uint8_t sector[SECTOR], found[SECTOR];
	unsigned survived = 0, locks = 0;
	struct message m;
	bool locked;

	(void)state;
	stage_unlock(&stage);
	for (unsigned round = 1; round <= FAULT_PARKED_MAX + 4; round++) {
		nbd = stage_client(&stage);
		memset(sector, (int)round, sizeof sector);
		assert_int_equal(nbd_pwrite(nbd, sector, SECTOR, (uint64_t)round * 3 * SECTOR, 0), 0);
		stubborn = stubborn_client();
		sleep_ms(20);
		nbd_close(stubborn);
		locked = stage_next_is(&stage, MSG_DP_WIPED, &m, 100);
		if (!locked && nbd_pread(nbd, found, SECTOR, (uint64_t)round * 3 * SECTOR, 0) != 0) {
			stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS); /* it came later than that */
			locked = true;
		}
		if (locked) {
			assert_int_equal(m.body.dp_wiped.cause, CAUSE_ENGINE);
			assert_true(m.body.dp_wiped.self);
			assert_true(survived >= FAULT_PARKED_MAX);
			expect_drained();
			assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
			stage_serve(&stage);
			stage_unlock(&stage);
			nbd_close(nbd);
			nbd = stage_client(&stage);
			survived = 0;
			locks++;
		} else {
			survived++;
		}
		assert_int_equal(nbd_pread(nbd, found, SECTOR, (uint64_t)round * 3 * SECTOR, 0), 0);
		assert_memory_equal(found, sector, SECTOR);
		client_ends(nbd);
	}
	print_message("          %u locks for %d clients that died\n", locks, FAULT_PARKED_MAX + 4);
}

/* ---- by its own deadlines ---- */

static void deadline(uint64_t heartbeat_ms, uint64_t proof_ms, uint8_t cause)
{
	uint64_t first = heartbeat_ms < proof_ms ? heartbeat_ms : proof_ms, since;

	stage_unlock(&stage);
	since = boottime_ns();
	stage_deadlines(&stage, heartbeat_ms, proof_ms);
	expect_wiped(cause, true, first + 500, since + first * 1000000u);
	expect_drained();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

static void a_silent_supervisor_is_a_lock(void **state)
{
	(void)state;
	deadline(300, 60000, CAUSE_SUPERVISOR_LOST);
}

static void an_old_proof_is_a_lock(void **state)
{
	(void)state;
	deadline(60000, 300, CAUSE_UNREACHABLE);
}

static void a_deadline_while_the_hsm_is_asked(void **state)
{
	struct message question;
	uint64_t since = boottime_ns();
	int page;

	(void)state;
	stage_deadlines(&stage, 60000, 300);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	expect_wiped(CAUSE_UNREACHABLE, true, 800, since + 300000000u);
	expect_drained();
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	close(page);
}

static void deadlines_that_are_renewed_hold(void **state)
{
	struct nbd_handle *nbd;
	uint8_t sector[SECTOR];

	(void)state;
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	for (int i = 0; i < 12; i++) {
		stage_deadlines(&stage, 1000, 1000);
		sleep_ms(150);
		assert_int_equal(nbd_pread(nbd, sector, SECTOR, 0, 0), 0);
	}
	client_ends(nbd);
}

static void without_a_key_deadlines_do_nothing(void **state)
{
	struct message m;

	(void)state;
	stage_deadlines(&stage, 50, 50);
	sleep_ms(300);
	assert_false(stage_next_is(&stage, MSG_DP_WIPED, &m, 200));
	stage_unlock(&stage);
}

/* The dataplane does not see revocation.h and has these numbers of its own. */
static void causes_are_the_gates(void **state)
{
	(void)state;
	assert_int_equal(CAUSE_UNREACHABLE, LOCK_CAUSE_UNREACHABLE);
	assert_int_equal(CAUSE_SUPERVISOR_LOST, LOCK_CAUSE_SUPERVISOR_LOST);
	assert_int_equal(CAUSE_ENGINE, LOCK_CAUSE_ENGINE);
	assert_int_equal(CAUSE_DETACHED, LOCK_CAUSE_DETACHED);
}

/* ---- what is left to find ---- */

static int search(pid_t pid, const char *patterns, const char *options)
{
	char command[512];
	FILE *in;
	int status;

	snprintf(command, sizeof command, "%s/keyscan %s %d >/dev/null", stage_bin, options, (int)pid);
	in = popen(command, "we");
	assert_non_null(in);
	fputs(patterns, in);
	status = pclose(in);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static bool can_search(void)
{
	if (getenv("FALLGATE_TEST_PRELOAD") == NULL && geteuid() == 0)
		return true;
	print_message("skipped: a memory search needs root, and no sanitizer\n");
	return false;
}

static char *key_patterns(void)
{
	char path[96], command[512], *text = calloc(1, 4 << 20);
	FILE *f;

	snprintf(path, sizeof path, "%s/key", stage.dir);
	f = fopen(path, "we");
	assert_non_null(f);
	fputs("payload ", f);
	for (int i = 0; i < PAYLOAD_BYTES; i++)
		fprintf(f, "%02x", stage.payload[i]);
	fputs("\nuuid ", f);
	for (int i = 0; i < 16; i++)
		fprintf(f, "%02x", stage.uuid[i]);
	fputs("\n", f);
	fclose(f);
	snprintf(command, sizeof command, "%s/keyscan --derive < %s", stage_bin, path);
	f = popen(command, "re");
	assert_non_null(f);
	assert_true(fread(text, 1, (4 << 20) - 1, f) > 1000);
	assert_int_equal(pclose(f), 0);
	unlink(path);
	return text;
}

/* Keys are there while it serves (so the search can see them), only in secret memory, and no raw DEK even then. */
static void keys_are_in_secret_memory_only(void **state)
{
	struct nbd_handle *nbd;
	uint8_t data[65536];
	char *patterns, *dek;

	(void)state;
	if (!can_search())
		skip();
	patterns = key_patterns();
	dek = strndup(patterns, (size_t)(strchr(patterns, '\n') - patterns) + 1);
	assert_non_null(strstr(dek, " DEK key"));
	assert_int_equal(search(stage.child, patterns, "--inject"), 0);
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	memset(data, 0x33, sizeof data);
	for (int i = 0; i < 32; i++)
		assert_int_equal(nbd_pwrite(nbd, data, sizeof data, (uint64_t)i * sizeof data, 0), 0);
	assert_int_equal(nbd_flush(nbd, 0), 0);
	assert_int_equal(nbd_pread(nbd, data, sizeof data, 0, 0), 0);
	assert_int_equal(search(stage.child, patterns, "--inject"), 1);
	assert_int_equal(search(stage.child, patterns, ""), 2); /* outside of it: nothing but what could not be read */
	assert_int_equal(search(stage.child, dek, "--inject"), 0);
	assert_int_equal(nbd_pread(nbd, data, sizeof data, 0, 0), 0); /* and it lived through all that */
	client_ends(nbd);
	free(dek);
	free(patterns);
}

/* Stops the process between WIPED and its end. False: it was quicker. */
static bool stopped_after_wipe(void)
{
	struct message m;
	int status;

	stage_lock(&stage, CAUSE_COMMANDED);
	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	kill(stage.child, SIGSTOP);
	assert_int_equal(waitpid(stage.child, &status, WUNTRACED), stage.child);
	if (WIFSTOPPED(status))
		return true;
	stage.child = 0;
	channel_close(&stage.supervisor);
	stage_serve(&stage);
	return false;
}

/* A stubborn client keeps threads, and with them the process, for a moment after the wipe: time to stop it and look. */
static void after_the_wipe_no_key_is_left(void **state)
{
	uint8_t sector[SECTOR] = { 1 };
	struct nbd_handle *nbd, *stubborn;
	bool stopped = false;
	char *patterns;
	int found = 2;

	(void)state;
	if (!can_search())
		skip();
	patterns = key_patterns();
	for (int tries = 0; tries < 10 && !stopped; tries++) {
		stage_unlock(&stage);
		nbd = stage_client(&stage);
		for (int i = 0; i < 64; i++)
			assert_int_equal(nbd_pwrite(nbd, sector, SECTOR, (uint64_t)i * SECTOR * 3, 0), 0);
		assert_int_equal(search(stage.child, patterns, "--inject"), 1);
		stubborn = stubborn_client();
		stopped = stopped_after_wipe();
		if (stopped)
			found = search(stage.child, patterns, "--inject");
		nbd_close(stubborn);
		nbd_close(nbd);
	}
	kill(stage.child, SIGCONT);
	assert_true(stopped);
	assert_int_equal(found, 0);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	free(patterns);
}

static void make_marker(uint8_t marker[SECTOR], char line[64])
{
	assert_int_equal(getrandom(marker, 16, 0), 16);
	for (int at = 16; at < SECTOR; at += 16)
		memcpy(marker + at, marker, 16);
	for (int i = 0; i < 16; i++)
		snprintf(line + 2 * i, 3, "%02x", marker[i]);
	strcpy(line + 32, " marker\n");
}

/* Plaintext: written data is gone when the write is answered; read data at the thread's next call or when the client has gone. */
static void plaintext_does_not_stay(void **state)
{
	uint8_t marker[SECTOR], other[SECTOR] = { 0 };
	struct nbd_handle *nbd;
	char line[64];
	int found = 1;

	(void)state;
	if (!can_search())
		skip();
	make_marker(marker, line);
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	for (int i = 0; i < 100; i++)
		assert_int_equal(nbd_pwrite(nbd, marker, SECTOR, (uint64_t)i * SECTOR, 0), 0);
	assert_int_equal(search(stage.child, line, "--no-registers --inject"), 0);
	assert_int_equal(nbd_pread(nbd, other, SECTOR, 0, 0), 0);
	assert_memory_equal(other, marker, SECTOR);
	assert_int_equal(search(stage.child, line, "--no-registers --inject"),
			 1); /* the search does see it, in the reply's buffer */
	client_ends(nbd);
	for (int i = 0; i < 50 && found != 0; i++) { /* when the server has noticed */
		sleep_ms(100);
		found = search(stage.child, line, "--no-registers --inject");
	}
	assert_int_equal(found, 0);
}

/* ---- the walls ---- */

static void the_process_is_walled_in(void **state)
{
	char path[64], line[256];
	int seccomp = -1, privileges = -1;
	FILE *f;

	(void)state;
	if (getenv("FALLGATE_TEST_PRELOAD") != NULL) {
		print_message("skipped: a build with sanitizers has no filter\n");
		skip();
	}
	snprintf(path, sizeof path, "/proc/%d/status", (int)stage.child);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof line, f) != NULL) {
		sscanf(line, "Seccomp: %d", &seccomp);
		sscanf(line, "NoNewPrivs: %d", &privileges);
	}
	fclose(f);
	assert_int_equal(seccomp, 2);
	assert_int_equal(privileges, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_stage, clear_stage)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(a_lock_under_load_loses_no_acknowledged_write),
		TEST(the_supervisors_end_is_a_lock_within_a_second),
		TEST(malformed_orders_are_a_lock),
		TEST(a_detach_is_a_lock),
		TEST(an_order_out_of_turn_is_a_lock),
		TEST(without_a_key_a_lock_is_quick_and_clean),
		TEST(a_lock_while_the_hsm_is_asked),
		TEST(a_lock_races_the_opening),
		TEST(a_client_that_dies_takes_nobody_along),
		TEST(a_silent_supervisor_is_a_lock),
		TEST(an_old_proof_is_a_lock),
		TEST(a_deadline_while_the_hsm_is_asked),
		TEST(deadlines_that_are_renewed_hold),
		TEST(without_a_key_deadlines_do_nothing),
		cmocka_unit_test(causes_are_the_gates),
		TEST(keys_are_in_secret_memory_only),
		TEST(after_the_wipe_no_key_is_left),
		TEST(plaintext_does_not_stay),
		TEST(the_process_is_walled_in),
	};

	if (!stage_begin(argc, argv))
		return 2;
	if (!stage_has_server(sizeof tests / sizeof tests[0]))
		return 77;
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
