/* The conversation for a key: only the process in the ticket is believed, and the page is wiped whatever happens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "dataplane/keyslot.h"
#include "hal/entropy.h"

static const uint8_t uuid[UUID_BYTES] = "0123456789abcdef";

struct talk {
	struct keyslot slot;
	struct channel hsm;
	struct secret_memory page; /* the hsm's mapping of the same page */
	uint64_t nonce;
	struct keyring *ring;
};

static void begin(struct talk *t)
{
	struct msg_dp_ticket ticket = { .ticket = 77, .hsm_pid = (int32_t)getpid(), .hsm_uid = (uint32_t)getuid() };
	struct msg_page question = { .gen_no = 1, .wrapped_size = 3, .wrapped = "abc", .volume = "v" };
	int pair[2], fds[CHANNEL_FDS_MAX];
	struct message m;
	unsigned count;

	assert_int_equal(channel_pair(pair), 0);
	channel_init(&t->hsm, pair[0], ROLE_HSM, ROLE_DATAPLANE);
	assert_int_equal(keyslot_begin(&t->slot, &ticket, pair[1]), 0);
	assert_int_equal(keyslot_ask(&t->slot, MSG_PAGE_UNWRAP, &question), 0);
	assert_int_equal(t->slot.page_fd, -1);
	assert_int_equal(channel_receive(&t->hsm, &m, fds, &count, NULL), 1);
	assert_int_equal(count, 1);
	assert_int_equal(m.body.page.ticket, 77);
	t->nonce = m.nonce;
	assert_int_equal(secret_page_attach(&t->page, fds[0]), 0);
	close(fds[0]);
	assert_int_equal(keyring_create(&t->ring, 8, NULL), 0);
	keyring_set_deadlines(t->ring, UINT64_MAX, UINT64_MAX);
}

/* Closing is what every way out ends in: the other side must see zeroes. */
static void end(struct talk *t)
{
	static const uint8_t zeroes[DEK_PAYLOAD_BYTES];

	keyslot_close(&t->slot);
	keyslot_close(&t->slot);
	assert_memory_equal(t->page.base, zeroes, sizeof zeroes);
	assert_null(t->slot.page.base);
	assert_int_equal(t->slot.hsm.fd, -1);
	secret_page_detach(&t->page);
	channel_close(&t->hsm);
	keyring_destroy(t->ring);
}

static void fill_page(struct talk *t)
{
	uint8_t *p = t->page.base;

	assert_int_equal(entropy_fill(p, DEK_BYTES), 0);
	keyring_bind(p + DEK_BYTES, uuid, 1);
}

static void send_done(struct talk *t, uint64_t nonce, uint64_t ticket, enum hsm_verdict verdict)
{
	struct message m;

	message_init(&m, MSG_PAGE_DONE, nonce);
	m.body.page_done.ticket = ticket;
	m.body.page_done.verdict = (uint8_t)verdict;
	assert_int_equal(channel_send(&t->hsm, &m, NULL, 0), 0);
}

static int answer(struct talk *t, struct msg_page_done *done)
{
	return keyslot_answer(&t->slot, done);
}

static void another_process_is_not_believed(void **state)
{
	struct msg_page_done done;
	struct talk t;
	pid_t other;

	(void)state;
	begin(&t);
	fill_page(&t);
	other = fork();
	if (other == 0) {
		send_done(&t, t.nonce, 77, VERDICT_GOOD);
		_exit(0);
	}
	waitpid(other, NULL, 0);
	assert_int_equal(answer(&t, &done), ERR_PROTOCOL);
	assert_int_not_equal(done.verdict, VERDICT_GOOD);
	end(&t);
}

static void another_ticket_or_nonce_is_not_believed(void **state)
{
	struct msg_page_done done;
	struct talk t;

	(void)state;
	begin(&t);
	fill_page(&t);
	send_done(&t, t.nonce, 78, VERDICT_GOOD);
	assert_int_equal(answer(&t, &done), ERR_PROTOCOL);
	send_done(&t, t.nonce + 1, 77, VERDICT_GOOD);
	assert_int_equal(answer(&t, &done), ERR_PROTOCOL);
	assert_int_not_equal(done.verdict, VERDICT_GOOD);
	end(&t);
}

static void another_user_is_not_believed(void **state)
{
	struct msg_page_done done;
	struct talk t;

	(void)state;
	begin(&t);
	t.slot.ticket.hsm_uid++;
	send_done(&t, t.nonce, 77, VERDICT_GOOD);
	assert_int_equal(answer(&t, &done), ERR_PROTOCOL);
	end(&t);
}

static void verdicts(void **state)
{
	struct msg_page_done done;
	struct talk t;

	(void)state;
	begin(&t);
	assert_int_equal(answer(&t, &done), ERR_BUSY);
	send_done(&t, t.nonce, 77, VERDICT_UNREACHABLE);
	assert_int_equal(answer(&t, &done), ERR_UNREACHABLE);
	for (int v = VERDICT_DISABLED; v < VERDICT_UNREACHABLE; v++) {
		send_done(&t, t.nonce, 77, (enum hsm_verdict)v);
		assert_int_equal(answer(&t, &done), ERR_REFUSED);
		assert_int_equal(done.verdict, v);
	}
	channel_close(&t.hsm);
	assert_int_equal(answer(&t, &done), ERR_UNREACHABLE);
	end(&t);
}

static void garbage(void **state)
{
	struct msg_page_done done;
	struct talk t;

	(void)state;
	begin(&t);
	assert_int_equal(write(t.hsm.fd, "garbage", 7), 7);
	assert_int_equal(answer(&t, &done), ERR_PROTOCOL);
	end(&t);
}

static void a_good_answer_loads_and_the_page_is_wiped(void **state)
{
	static const uint8_t zeroes[DEK_PAYLOAD_BYTES];
	uint8_t kcv[KCV_BYTES];
	struct msg_page_done done;
	struct talk t;

	(void)state;
	begin(&t);
	fill_page(&t);
	send_done(&t, t.nonce, 77, VERDICT_GOOD);
	assert_int_equal(answer(&t, &done), 0);
	assert_int_equal(keyslot_load(&t.slot, t.ring, kcv, NULL, uuid, 1), 0);
	assert_memory_equal(t.page.base, zeroes, sizeof zeroes);
	end(&t);
}

static void a_key_of_another_volume_or_record_is_refused(void **state)
{
	uint8_t kcv[KCV_BYTES], pinned[KCV_BYTES] = { 1 };
	struct talk t;

	(void)state;
	begin(&t);
	fill_page(&t);
	assert_int_equal(keyslot_load(&t.slot, t.ring, kcv, NULL, uuid, 2), ERR_FOREIGN);
	end(&t);
	begin(&t);
	fill_page(&t);
	assert_int_equal(keyslot_load(&t.slot, t.ring, kcv, pinned, uuid, 1), ERR_FOREIGN);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_process_is_not_believed),
		cmocka_unit_test(another_ticket_or_nonce_is_not_believed),
		cmocka_unit_test(another_user_is_not_believed),
		cmocka_unit_test(verdicts),
		cmocka_unit_test(garbage),
		cmocka_unit_test(a_good_answer_loads_and_the_page_is_wiped),
		cmocka_unit_test(a_key_of_another_volume_or_record_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
