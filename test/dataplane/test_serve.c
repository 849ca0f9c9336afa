/* The serving process with a real client: what is written comes back, what is damaged does not, what is not allowed is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <libnbd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/block.h"
#include "stage.h"
#include "volume/volume.h"

enum { DATA_OFFSET_AT = 0x58 }; /* of the header: SPEC.md */

static struct stage stage;
static uint8_t *model, *seen;

static int set_stage(void **state)
{
	(void)state;
	stage_make(&stage);
	stage_create(&stage);
	stage_serve(&stage);
	memset(model, 0, STAGE_SIZE);
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

/* ---- input and output ---- */

static void write_random(struct nbd_handle *nbd, size_t size, uint64_t at, uint32_t flags)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = getrandom(model + at + done, size - done, 0);

		assert_true(n > 0);
		done += (size_t)n;
	}
	if (nbd_pwrite(nbd, model + at, size, at, flags) != 0)
		fail_msg("write of %zu at %llu: %s", size, (unsigned long long)at, nbd_get_error());
}

static void compare_all(struct nbd_handle *nbd)
{
	for (size_t at = 0; at < STAGE_SIZE; at += 1 << 20)
		if (nbd_pread(nbd, seen + at, 1 << 20, at, 0) != 0)
			fail_msg("read at %zu: %s", at, nbd_get_error());
	assert_memory_equal(seen, model, STAGE_SIZE);
}

static void any_offset_and_length_round_trip(void **state)
{
	static const struct {
		size_t size;
		uint64_t at;
	} pieces[] = {
		{ 1, 0 },          { 4096, 4096 },   { 4095, 8193 }, { 2, 12287 },          { 131072, 40000 },
		{ 4097, 1000001 }, { 512, 1049088 }, { 65536, 0 },   { 1, STAGE_SIZE - 1 }, { 3000000, 5000003 },
	};
	struct nbd_handle *nbd;

	(void)state;
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
		write_random(nbd, pieces[i].size, pieces[i].at, 0);
	compare_all(nbd);
	client_ends(nbd);
}

static void what_the_export_announces(void **state)
{
	struct nbd_handle *nbd;

	(void)state;
	nbd = stage_client(&stage);
	assert_int_equal(nbd_get_size(nbd), STAGE_SIZE);
	assert_int_equal(nbd_is_read_only(nbd), 0);
	assert_int_equal(nbd_can_flush(nbd), 1);
	assert_int_equal(nbd_can_fua(nbd), 1);
	assert_int_equal(nbd_can_trim(nbd), 1);
	assert_int_equal(nbd_can_zero(nbd), 1);
	assert_int_equal(nbd_can_fast_zero(nbd), 1);
	assert_int_equal(nbd_can_multi_conn(nbd), 1);
	assert_int_equal(nbd_can_cache(nbd), 0);
	assert_int_equal(nbd_is_rotational(nbd), 0);
	assert_int_equal(nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM), 1);
	assert_int_equal(nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED), 4096);
	assert_int_equal(nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM), 32 << 20);
	client_ends(nbd);
}

static void a_read_only_volume_cannot_be_written(void **state)
{
	struct nbd_handle *nbd;

	(void)state;
	stage_kill(&stage);
	stage.read_only = true;
	stage_serve(&stage);
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	assert_int_equal(nbd_is_read_only(nbd), 1);
	assert_int_equal(nbd_pwrite(nbd, model, 4096, 0, 0), -1);
	assert_int_equal(nbd_get_errno(), EPERM);
	assert_int_equal(nbd_pread(nbd, seen, 4096, 0, 0), 0);
	client_ends(nbd);
}

static int note_extent(void *context, const char *name, uint64_t at, uint32_t *entries, size_t count, int *error)
{
	uint8_t *zero_sector = context;

	(void)name;
	(void)error;
	for (size_t i = 0; i + 1 < count; i += 2) {
		for (uint64_t done = 0; done < entries[i] && at + done < STAGE_SIZE; done += 4096)
			zero_sector[(at + done) / 4096] = entries[i + 1] == (LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO);
		at += entries[i];
	}
	return 0;
}

static void zeroes_are_zeroes_and_extents_say_so(void **state)
{
	uint8_t *zero_sector = calloc(1, STAGE_SIZE / 4096);
	nbd_extent_callback note = { .callback = note_extent, .user_data = zero_sector };
	struct nbd_handle *nbd;

	(void)state;
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	write_random(nbd, 1 << 20, 0, 0);
	assert_int_equal(nbd_zero(nbd, 65536, 65536, 0), 0);
	assert_int_equal(nbd_zero(nbd, 65536, 131072, LIBNBD_CMD_FLAG_NO_HOLE), 0);
	assert_int_equal(nbd_zero(nbd, 10000, 262145, LIBNBD_CMD_FLAG_FAST_ZERO), 0);
	assert_int_equal(nbd_trim(nbd, 65536, 524288, LIBNBD_CMD_FLAG_FUA), 0);
	memset(model + 65536, 0, 131072);
	memset(model + 262145, 0, 10000);
	assert_int_equal(nbd_pread(nbd, seen, 65536, 524288, 0), 0);
	memcpy(model + 524288, seen, 65536); /* a trim may zero or leave: only reads agree with each other */
	compare_all(nbd);
	assert_int_equal(nbd_block_status(nbd, 2 << 20, 0, note, 0), 0);
	assert_int_equal(zero_sector[0], 0);
	assert_int_equal(zero_sector[65536 / 4096], 1);
	assert_int_equal(zero_sector[131072 / 4096], 1);
	assert_int_equal(zero_sector[262144 / 4096], 0); /* its first byte is data */
	assert_int_equal(zero_sector[400000 / 4096], 0);
	assert_int_equal(zero_sector[(1 << 20) / 4096], 1);
	assert_int_equal(nbd_block_status(nbd, 2 << 20, 0, note, LIBNBD_CMD_FLAG_REQ_ONE), 0);
	client_ends(nbd);
	free(zero_sector);
}

/* ---- durability: the process is killed, what counts was promised before ---- */

static void start_again(void)
{
	stage_kill(&stage);
	stage_serve(&stage);
	stage_unlock(&stage);
}

static void a_flush_on_one_connection_covers_the_others(void **state)
{
	struct nbd_handle *writers[3], *flusher;

	(void)state;
	stage_unlock(&stage);
	for (int i = 0; i < 3; i++) {
		writers[i] = stage_client(&stage);
		write_random(writers[i], 300001, (uint64_t)i * 1000003, 0);
	}
	flusher = stage_client(&stage);
	assert_int_equal(nbd_flush(flusher, 0), 0);
	start_again();
	for (int i = 0; i < 3; i++)
		nbd_close(writers[i]);
	nbd_close(flusher);
	flusher = stage_client(&stage);
	compare_all(flusher);
	client_ends(flusher);
}

static void fua_is_durable_at_once(void **state)
{
	struct nbd_handle *nbd;

	(void)state;
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	write_random(nbd, 10001, 77, LIBNBD_CMD_FLAG_FUA);
	assert_int_equal(nbd_zero(nbd, 4096, 4096, LIBNBD_CMD_FLAG_FUA), 0);
	memset(model + 4096, 0, 4096);
	start_again();
	nbd_close(nbd);
	nbd = stage_client(&stage);
	compare_all(nbd);
	client_ends(nbd);
}

/* ---- damage ---- */

static void flip_a_bit(uint64_t sector)
{
	int fd = stage_open_backing(&stage);
	uint8_t field[8], byte;
	off_t at;

	assert_int_equal(pread(fd, field, sizeof field, DATA_OFFSET_AT), sizeof field);
	at = (off_t)(get_le64(field) + sector * 4096 + 1234);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static void a_damaged_sector_is_an_error_and_the_rest_is_not(void **state)
{
	static const uint8_t zeroes[4096];
	struct nbd_handle *nbd;
	struct message m;

	(void)state;
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	write_random(nbd, 10 * 4096, 0, LIBNBD_CMD_FLAG_FUA);
	flip_a_bit(5);
	memset(seen, 0, 4096);
	assert_int_equal(nbd_pread(nbd, seen, 4096, 5 * 4096, 0), -1);
	assert_int_equal(nbd_get_errno(), EIO);
	assert_memory_equal(seen, zeroes, sizeof zeroes);
	assert_int_equal(nbd_pread(nbd, seen, 1, 6 * 4096 - 1, 0), -1);
	assert_int_equal(nbd_pread(nbd, seen, 5 * 4096, 0, 0), 0);
	assert_memory_equal(seen, model, 5 * 4096);
	assert_int_equal(nbd_pread(nbd, seen, 4 * 4096, 6 * 4096, 0), 0);
	assert_memory_equal(seen, model + 6 * 4096, 4 * 4096);
	stage_next(&stage, MSG_DP_EVENT, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_event.event, DP_EVENT_BAD_TAG);
	assert_true(m.body.dp_event.count >= 1);
	/* writing it whole heals it */
	write_random(nbd, 4096, 5 * 4096, 0);
	compare_all(nbd);
	client_ends(nbd);
}

/* ---- without a key, and out of range ---- */

static void expect_shutdown(struct nbd_handle *nbd)
{
	nbd_extent_callback note = { .callback = note_extent, .user_data = seen };

	assert_int_equal(nbd_pread(nbd, seen, 4096, 0, 0), -1);
	assert_int_equal(nbd_get_errno(), ESHUTDOWN);
	assert_int_equal(nbd_pwrite(nbd, model, 4096, 0, 0), -1);
	assert_int_equal(nbd_get_errno(), ESHUTDOWN);
	assert_int_equal(nbd_flush(nbd, 0), -1);
	assert_int_equal(nbd_get_errno(), ESHUTDOWN);
	assert_int_equal(nbd_zero(nbd, 4096, 0, 0), -1);
	assert_int_equal(nbd_get_errno(), ESHUTDOWN);
	assert_int_equal(nbd_trim(nbd, 4096, 0, 0), -1);
	assert_int_equal(nbd_get_errno(), ESHUTDOWN);
	assert_int_equal(nbd_block_status(nbd, 4096, 0, note, 0), -1);
	assert_int_equal(nbd_get_errno(), ESHUTDOWN);
}

static void without_a_key_everything_is_refused_and_works_later(void **state)
{
	struct nbd_handle *nbd;

	(void)state;
	nbd = stage_client(&stage);
	expect_shutdown(nbd);
	stage_unlock(&stage);
	write_random(nbd, 4096, 0, 0);
	compare_all(nbd);
	client_ends(nbd);
}

static void out_of_range_is_refused(void **state)
{
	struct nbd_handle *nbd;

	(void)state;
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	assert_int_equal(nbd_pread(nbd, seen, 2, STAGE_SIZE - 1, 0), -1);
	assert_int_equal(nbd_pwrite(nbd, seen, 4096, STAGE_SIZE, 0), -1);
	assert_int_equal(nbd_zero(nbd, 4096, UINT64_MAX - 100, 0), -1);
	assert_int_equal(nbd_pread(nbd, seen, 4096, 0, 0), 0);
	client_ends(nbd);
}

static void statistics_come_every_second(void **state)
{
	struct nbd_handle *nbd, *second;
	struct message m;

	(void)state;
	stage_unlock(&stage);
	nbd = stage_client(&stage);
	second = stage_client(&stage);
	write_random(nbd, 8192, 0, 0);
	for (int i = 0; i < 3; i++)
		stage_next(&stage, MSG_DP_STATS, &m, 1500);
	assert_int_equal(m.body.dp_stats.connections, 2);
	assert_int_equal(m.body.dp_stats.write_ops, 1);
	assert_int_equal(m.body.dp_stats.written_bytes, 8192);
	client_ends(second);
	client_ends(nbd);
}

/* ---- attaching ---- */

static void refuses(const struct msg_dp_attach *pins, int error, const char *says)
{
	struct message m;

	stage_kill(&stage);
	stage_start_server(&stage);
	stage_attach_as(&stage, pins, &m);
	assert_false(m.body.dp_ready.ok);
	assert_int_equal(m.body.dp_ready.error, error);
	if (strstr(m.body.dp_ready.text, says) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", m.body.dp_ready.text, says);
}

static void pins_that_do_not_fit(void **state)
{
	struct msg_dp_attach pins = stage_pins(&stage);

	(void)state;
	pins.uuid[0] ^= 1;
	refuses(&pins, ERR_FOREIGN, "uuid");
	pins = stage_pins(&stage);
	pins.size += 4096;
	refuses(&pins, ERR_FOREIGN, "bytes");
	pins = stage_pins(&stage);
	pins.fingerprint[31] ^= 1;
	refuses(&pins, ERR_FOREIGN, "slot");
	pins = stage_pins(&stage);
	pins.gen_no = 2;
	refuses(&pins, ERR_FOREIGN, "slot");
	pins = stage_pins(&stage);
	strcpy(pins.kernel, "no-such");
	refuses(&pins, ERR_UNSUPPORTED, "kernel");
}

static void a_busy_backing_store(void **state)
{
	struct msg_dp_attach pins = stage_pins(&stage);
	struct block *mine;

	(void)state;
	stage_kill(&stage);
	assert_int_equal(block_open_fd(&mine, stage_open_backing(&stage)), 0);
	refuses(&pins, ERR_BUSY, "another process");
	mine->ops->close(mine);
}

static void overwrite_headers(void)
{
	uint8_t *junk = calloc(1, 65536);
	int fd = stage_open_backing(&stage);
	off_t end = lseek(fd, 0, SEEK_END);

	memset(junk, 0x11, 65536);
	assert_int_equal(pwrite(fd, junk, 65536, 0), 65536);
	assert_int_equal(pwrite(fd, junk, 65536, end - 65536), 65536);
	close(fd);
	free(junk);
}

static void no_volume_there(void **state)
{
	struct msg_dp_attach pins = stage_pins(&stage);

	(void)state;
	stage_kill(&stage);
	overwrite_headers();
	refuses(&pins, ERR_FOREIGN, "header");
}

/* ---- the key's way ---- */

static void expect_opened(int error, enum hsm_verdict verdict)
{
	struct message m;

	stage_next(&stage, MSG_DP_OPENED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_opened.error, error);
	assert_int_equal(m.body.dp_opened.verdict, verdict);
	assert_int_equal(m.body.dp_opened.generation, stage.generation);
	assert_true(error == 0 || m.body.dp_opened.text[0] != '\0');
}

static void answer_with(struct msg_page_done done)
{
	struct message question;
	int page;

	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	if (done.ticket == 0)
		done.ticket = stage.ticket;
	stage_hsm_answers(&stage, &question, page, done);
}

static void failed_unlocks_leave_it_keyless_and_able(void **state)
{
	struct nbd_handle *nbd;
	struct message question;
	int page;

	(void)state;
	nbd = stage_client(&stage);
	stage_deadlines(&stage, 60000, 60000);
	answer_with((struct msg_page_done){ .ticket = 1, .verdict = VERDICT_GOOD });
	expect_opened(ERR_PROTOCOL, VERDICT_UNREACHABLE);
	answer_with((struct msg_page_done){ .verdict = VERDICT_DISABLED });
	expect_opened(ERR_REFUSED, VERDICT_DISABLED);
	answer_with((struct msg_page_done){ .verdict = VERDICT_GOOD }); /* the page holds zeroes */
	expect_opened(ERR_FOREIGN, VERDICT_GOOD);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	close(page);
	channel_close(&stage.hsm);
	expect_opened(ERR_UNREACHABLE, VERDICT_UNREACHABLE);
	expect_shutdown(nbd);
	stage_unlock(&stage);
	assert_int_equal(nbd_pread(nbd, seen, 4096, 0, 0), 0);
	client_ends(nbd);
}

/* The answer is right in every field, and comes from a process that the ticket does not name. */
static void another_process_cannot_answer(void **state)
{
	struct message question;
	pid_t other;
	int page, status;

	(void)state;
	stage_deadlines(&stage, 60000, 60000);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	other = fork();
	if (other == 0) {
		struct message m;

		message_init(&m, MSG_PAGE_DONE, question.nonce);
		m.body.page_done = (struct msg_page_done){ .ticket = stage.ticket, .verdict = VERDICT_GOOD };
		_exit(channel_send(&stage.hsm, &m, NULL, 0) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(status, 0);
	close(page);
	expect_opened(ERR_PROTOCOL, VERDICT_UNREACHABLE);
}

static void a_key_that_is_not_the_pinned_one(void **state)
{
	struct msg_dp_attach pins = stage_pins(&stage);
	struct message m;

	(void)state;
	stage_kill(&stage);
	stage_start_server(&stage);
	pins.kcv[0] ^= 1;
	stage_attach_as(&stage, &pins, &m);
	assert_true(m.body.dp_ready.ok);
	stage_deadlines(&stage, 60000, 60000);
	stage_give_ticket(&stage);
	stage_hsm_unwraps(&stage);
	expect_opened(ERR_FOREIGN, VERDICT_GOOD);
}

static void no_key_is_taken_without_a_deadline_in_the_future(void **state)
{
	(void)state;
	stage_give_ticket(&stage);
	expect_opened(ERR_TIMEOUT, VERDICT_UNREACHABLE);
	stage_deadlines(&stage, 60000, 0);
	stage_give_ticket(&stage);
	expect_opened(ERR_TIMEOUT, VERDICT_UNREACHABLE);
	stage_unlock(&stage);
	stage_give_ticket(&stage);
	expect_opened(ERR_STATE, VERDICT_UNREACHABLE);
}

/* ---- started by hand ---- */

static void run_by_hand(const char *arguments, const char *says)
{
	char command[512], line[512] = "", more[512] = "";
	FILE *out;
	int status;

	snprintf(command, sizeof command, "LD_PRELOAD=%s ASAN_OPTIONS=detect_leaks=0 nbdkit -f %s/fallgate-nbd.so %s 2>&1",
		 getenv("FALLGATE_TEST_PRELOAD") != NULL ? getenv("FALLGATE_TEST_PRELOAD") : "", stage_bin, arguments);
	out = popen(command, "re");
	assert_non_null(out);
	assert_non_null(fgets(line, sizeof line, out));
	if (strstr(line, says) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", line, says);
	assert_null(fgets(more, sizeof more, out));
	status = pclose(out);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

static void by_hand_it_says_what_to_do(void **state)
{
	(void)state;
	run_by_hand("", "started outside the agent; use `fallgate attach`");
	run_by_hand("fd=4 name=volume 4</dev/null", "started outside the agent; use `fallgate attach`");
	run_by_hand("file=/etc/passwd", "not one of fd=NUMBER, name=VOLUME");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_stage, clear_stage)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(any_offset_and_length_round_trip),
		TEST(a_damaged_sector_is_an_error_and_the_rest_is_not),
		TEST(a_flush_on_one_connection_covers_the_others),
		TEST(fua_is_durable_at_once),
		TEST(zeroes_are_zeroes_and_extents_say_so),
		TEST(what_the_export_announces),
		TEST(a_read_only_volume_cannot_be_written),
		TEST(without_a_key_everything_is_refused_and_works_later),
		TEST(out_of_range_is_refused),
		TEST(statistics_come_every_second),
		TEST(pins_that_do_not_fit),
		TEST(a_busy_backing_store),
		TEST(no_volume_there),
		TEST(failed_unlocks_leave_it_keyless_and_able),
		TEST(another_process_cannot_answer),
		TEST(a_key_that_is_not_the_pinned_one),
		TEST(no_key_is_taken_without_a_deadline_in_the_future),
		TEST(by_hand_it_says_what_to_do),
	};

	if (!stage_begin(argc, argv))
		return 2;
	if (!stage_has_server(sizeof tests / sizeof tests[0]))
		return 77;
	signal(SIGPIPE, SIG_IGN);
	model = calloc(1, STAGE_SIZE);
	seen = calloc(1, STAGE_SIZE);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
