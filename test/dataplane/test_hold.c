/* A volume that is held: after a lock the process stays for its clients, keyless, gets another key by the same conversation, and
 * requests that waited go on as if nothing had been; and each way in which that ends. */
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
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <libnbd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "revocation/revocation.h"
#include "stage.h"

enum { WRITERS = 4, SECTORS_EACH = 256, SECTOR = 4096, ROUNDS = 12 };

static struct stage stage;
static atomic_bool stop_writing;

static void held_for(uint64_t ms)
{
	struct msg_dp_attach pins = stage_pins(&stage);
	struct message m;

	pins.hold_ns = ms * 1000000u;
	pins.hold_until_ns = boottime_ns() + pins.hold_ns;
	stage_start_server(&stage);
	stage_attach_as(&stage, &pins, &m);
	assert_true(m.body.dp_ready.ok);
}

static int set_stage(void **state)
{
	(void)state;
	stage_make(&stage);
	stage_create(&stage);
	return 0;
}

static int clear_stage(void **state)
{
	(void)state;
	stage_end(&stage);
	return 0;
}

static void order(bool hold)
{
	struct message m;

	message_init(&m, MSG_DP_LOCK, 53);
	m.body.dp_lock = (struct msg_dp_lock){ .cause = CAUSE_DISABLED, .hold = hold, .generation = stage.generation };
	stage_send(&stage, &m, NULL, 0);
}

static void lock_and_hold(void)
{
	struct message m;

	order(true);
	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	stage_next(&stage, MSG_DP_DRAINED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_drained.error, 0);
	stage_next(&stage, MSG_DP_READY, &m, PATIENCE_MS);
	assert_true(m.body.dp_ready.ok);
}

/* ---- requests that know nothing of it ---- */

struct writer {
	pthread_t thread;
	struct nbd_handle *nbd;
	unsigned index;
	uint32_t last[SECTORS_EACH];
	atomic_uint_fast64_t count;
	char error[200];
};

static void fill(uint8_t *sector, unsigned writer, uint32_t number)
{
	for (size_t at = 0; at < SECTOR; at += 8) {
		put_le32(sector + at, number);
		put_le32(sector + at + 4, writer);
	}
}

static void *write_and_read(void *context)
{
	struct writer *w = context;
	uint8_t sector[SECTOR], seen[SECTOR];

	for (uint32_t number = 1; !atomic_load(&stop_writing) && w->error[0] == '\0'; number++) {
		unsigned i = number * 7 % SECTORS_EACH, back = number * 13 % SECTORS_EACH;
		uint64_t base = (uint64_t)w->index * SECTORS_EACH;

		fill(sector, w->index, number);
		if (nbd_pwrite(w->nbd, sector, SECTOR, (base + i) * SECTOR, number % 32 == 0 ? LIBNBD_CMD_FLAG_FUA : 0) != 0 ||
		    (number % 16 == 0 && nbd_flush(w->nbd, 0) != 0) ||
		    nbd_pread(w->nbd, seen, SECTOR, (base + i) * SECTOR, 0) != 0 || memcmp(seen, sector, SECTOR) != 0) {
			snprintf(w->error, sizeof w->error, "write %u: %s", number, nbd_get_error());
			break;
		}
		w->last[i] = number;
		atomic_fetch_add(&w->count, 1);
		fill(sector, w->index, w->last[back]);
		if (w->last[back] != 0 &&
		    (nbd_pread(w->nbd, seen, SECTOR, (base + back) * SECTOR, 0) != 0 || memcmp(seen, sector, SECTOR) != 0))
			snprintf(w->error, sizeof w->error, "read back of %u: %s", back, nbd_get_error());
	}
	return NULL;
}

static void no_request_notices(void **state)
{
	struct writer *w = calloc(WRITERS, sizeof *w);
	uint64_t before[WRITERS];

	(void)state;
	held_for(60000);
	stage_unlock(&stage);
	atomic_store(&stop_writing, false);
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i].index = i;
		w[i].nbd = stage_client(&stage);
		assert_int_equal(pthread_create(&w[i].thread, NULL, write_and_read, &w[i]), 0);
	}
	for (int round = 0; round < ROUNDS; round++) {
		sleep_ms(30 + round * 7);
		lock_and_hold();
		for (unsigned i = 0; i < WRITERS; i++)
			before[i] = atomic_load(&w[i].count);
		sleep_ms(20);
		for (unsigned i = 0; i < WRITERS; i++)
			assert_true(atomic_load(&w[i].count) <= before[i] + 1);
		stage_unlock(&stage);
	}
	sleep_ms(50);
	atomic_store(&stop_writing, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(w[i].thread, NULL);
		if (w[i].error[0] != '\0')
			fail_msg("writer %u, after %llu: %s", i, (unsigned long long)w[i].count, w[i].error);
		assert_true(w[i].count > ROUNDS);
		nbd_shutdown(w[i].nbd, 0);
		nbd_close(w[i].nbd);
	}
	free(w);
}

/* ---- locks where there is no key yet, or only just ---- */

static void a_lock_at_every_distance_from_the_ticket(void **state)
{
	struct nbd_handle *nbd;
	struct message m;
	uint8_t byte;

	(void)state;
	held_for(60000);
	lock_and_hold(); /* never had a key */
	for (long ms = 0; ms < 12; ms++) {
		struct message question;
		int page;

		stage_deadlines(&stage, 60000, 60000);
		stage_give_ticket(&stage);
		stage_hsm_takes(&stage, &question, &page);
		stage_hsm_answers(&stage, &question, page, (struct msg_page_done){ .verdict = VERDICT_GOOD });
		sleep_ms(ms);
		order(true);
		while (!stage_next_is(&stage, MSG_DP_WIPED, &m, PATIENCE_MS)) /* OPENED may have been faster */
			assert_int_equal(m.type, MSG_DP_OPENED);
		stage_next(&stage, MSG_DP_DRAINED, &m, PATIENCE_MS);
		stage_next(&stage, MSG_DP_READY, &m, PATIENCE_MS);
	}
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	assert_int_equal(nbd_pread(nbd, &byte, 1, 0, 0), 0);
	nbd_shutdown(nbd, 0);
	nbd_close(nbd);
}

/* ---- where it ends ---- */

static void its_time_is_over(void **state)
{
	struct nbd_handle *nbd;
	struct message m;
	uint64_t since;
	uint8_t byte;

	(void)state;
	held_for(1500);
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	since = boottime_ns();
	lock_and_hold();
	assert_int_equal(nbd_pread(nbd, &byte, 1, 0, 0), -1);
	assert_int_equal(nbd_get_errno(), ESHUTDOWN);
	assert_true(boottime_ns() - since >= 1450 * UINT64_C(1000000));
	stage_next(&stage, MSG_DP_EVENT, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_event.event, DP_EVENT_HOLD_OVER);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	nbd_close(nbd);
}

static void a_lock_that_does_not_hold(void **state)
{
	struct message m;

	(void)state;
	held_for(60000);
	stage_unlock(&stage);
	order(false);
	stage_next(&stage, MSG_DP_WIPED, &m, PATIENCE_MS);
	stage_next(&stage, MSG_DP_DRAINED, &m, PATIENCE_MS);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

static void the_supervisors_end_is_the_end(void **state)
{
	(void)state;
	held_for(60000);
	stage_unlock(&stage);
	lock_and_hold();
	channel_close(&stage.supervisor);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

static void another_volume_in_its_place(void **state)
{
	int fd;

	(void)state;
	held_for(60000);
	stage_unlock(&stage);
	fd = stage_open_backing(&stage);
	assert_int_equal(pwrite(fd, "\xff\xff\xff\xff", 4, 0x10), 4); /* the uuid of header A */
	assert_int_equal(pwrite(fd, "\xff\xff\xff\xff", 4, lseek(fd, 0, SEEK_END) - 65536 + 0x10), 4);
	close(fd);
	order(true);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

static void clients_are_counted(void **state)
{
	struct msg_dp_attach pins = stage_pins(&stage);
	struct nbd_handle *nbd[2], *third = nbd_create();
	struct message m;

	(void)state;
	pins.connections = 2;
	stage_start_server(&stage);
	stage_attach_as(&stage, &pins, &m);
	for (int i = 0; i < 2; i++)
		nbd[i] = stage_client(&stage);
	assert_int_equal(nbd_connect_unix(third, stage.socket), -1);
	nbd_close(third);
	nbd_shutdown(nbd[0], 0);
	nbd_close(nbd[0]);
	for (int ms = 0;; ms += 20) { /* its place is free when the server has noticed */
		nbd[0] = nbd_create();
		if (nbd_connect_unix(nbd[0], stage.socket) == 0)
			break;
		nbd_close(nbd[0]);
		assert_true(ms < PATIENCE_MS);
		sleep_ms(20);
	}
	for (int i = 0; i < 2; i++) {
		nbd_shutdown(nbd[i], 0);
		nbd_close(nbd[i]);
	}
}

#define STAGED(name) cmocka_unit_test_setup_teardown(name, set_stage, clear_stage)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		STAGED(no_request_notices),
		STAGED(a_lock_at_every_distance_from_the_ticket),
		STAGED(its_time_is_over),
		STAGED(a_lock_that_does_not_hold),
		STAGED(the_supervisors_end_is_the_end),
		STAGED(another_volume_in_its_place),
		STAGED(clients_are_counted),
	};

	if (!stage_begin(argc, argv))
		return 2;
	if (!stage_has_server(sizeof tests / sizeof tests[0]))
		return 77;
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
