/* The creator: a volume that opens, or nothing at all. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "hal/block.h"
#include "stage.h"
#include "volume/volume.h"

static struct stage stage;

static int set_stage(void **state)
{
	(void)state;
	stage_make(&stage);
	return 0;
}

static int clear_stage(void **state)
{
	(void)state;
	stage_end(&stage);
	return 0;
}

static off_t backing_size(void)
{
	struct stat st;

	return stat(stage.backing, &st) == 0 ? st.st_size : -1;
}

static int open_volume(const uint8_t *payload, const uint8_t *kcv, uint64_t *size)
{
	struct volume_options options = { .kcv = kcv, .expect_size = stage.size };
	int fd = stage_open_backing(&stage), r;
	char why[160];
	struct keyring *ring;
	struct block *dev;
	struct volume *v;
	uint8_t loaded[KCV_BYTES];

	assert_int_equal(block_open_fd(&dev, fd), 0);
	assert_int_equal(keyring_create(&ring, 8, NULL), 0);
	keyring_set_deadlines(ring, UINT64_MAX, UINT64_MAX);
	r = keyring_load(ring, loaded, payload, stage.uuid, 1);
	if (r == 0)
		r = volume_open(&v, dev, ring, &options, why, sizeof why);
	if (r == 0) {
		*size = volume_size(v);
		assert_int_equal(volume_close(v), 0);
	}
	keyring_destroy(ring);
	dev->ops->close(dev);
	return r;
}

static void a_new_volume_opens_with_its_key_and_only_with_that(void **state)
{
	uint8_t other[PAYLOAD_BYTES];
	uint64_t size = 0;

	(void)state;
	stage_create(&stage);
	assert_int_equal(open_volume(stage.payload, stage.kcv, &size), 0);
	assert_int_equal(size, STAGE_SIZE);
	memcpy(other, stage.payload, sizeof other);
	other[0] ^= 1;
	assert_int_equal(open_volume(other, stage.kcv, &size), ERR_FOREIGN);
}

static void the_header_names_the_key_slot(void **state)
{
	struct volume_header_info *info = calloc(1, sizeof *info);
	struct block *dev;
	char why[160];

	(void)state;
	stage_create(&stage);
	assert_int_equal(block_open_fd(&dev, stage_open_backing(&stage)), 0);
	assert_int_equal(volume_read_header(dev, info, why, sizeof why), 0);
	assert_memory_equal(info->uuid, stage.uuid, 16);
	assert_int_equal(info->slot_count, 1);
	assert_int_equal(info->slots[0].type, KEK_SLOT_AES_KW);
	assert_memory_equal(info->slots[0].fingerprint, stage.fingerprint, FINGERPRINT_BYTES);
	assert_string_equal(info->slots[0].label, "kek");
	assert_string_equal(info->slots[0].token, "token");
	assert_int_equal(info->slots[0].wrapped_size, PAYLOAD_BYTES);
	assert_int_equal(info->created, 1700000000);
	dev->ops->close(dev);
	free(info);
}

static void expect_failure(int error, const char *says)
{
	struct message m;

	stage_next(&stage, MSG_DP_CREATED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_created.error, error);
	if (strstr(m.body.dp_created.text, says) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", m.body.dp_created.text, says);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), error_exit_code(error));
}

static void make_file(off_t size)
{
	int fd = stage_open_backing(&stage);

	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

/* What mkswap leaves: version 1, the last page, the words at the first page's end. */
static void make_swap(void)
{
	const uint32_t head[2] = { 1, 255 };
	int fd = stage_open_backing(&stage);

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(pwrite(fd, head, sizeof head, 1024), sizeof head);
	assert_int_equal(pwrite(fd, "SWAPSPACE2", 10, 4086), 10);
	close(fd);
}

static void what_is_there_is_named_and_kept(void **state)
{
	char found[10];
	int fd;

	(void)state;
	make_swap();
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	expect_failure(ERR_EXISTS, "swap");
	assert_int_equal(backing_size(), 1 << 20);
	fd = stage_open_backing(&stage);
	assert_int_equal(pread(fd, found, sizeof found, 4086), sizeof found);
	assert_memory_equal(found, "SWAPSPACE2", sizeof found);
	close(fd);
}

static void a_volume_is_not_overwritten_either(void **state)
{
	uint64_t size;

	(void)state;
	stage_create(&stage);
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	expect_failure(ERR_EXISTS, "fallgate");
	assert_int_equal(open_volume(stage.payload, stage.kcv, &size), 0);
}

static void force_overwrites(void **state)
{
	struct message m;
	uint64_t size;

	(void)state;
	make_swap();
	stage_start_creator(&stage);
	stage_order_create(&stage, true);
	stage_give_ticket(&stage);
	stage_hsm_wraps(&stage);
	stage_next(&stage, MSG_DP_CREATED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_created.error, 0);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	assert_int_equal(open_volume(stage.payload, m.body.dp_created.kcv, &size), 0);
}

/* 0 asks for as much as the device holds. */
static void a_file_is_used_as_large_as_it_is(void **state)
{
	struct message m;

	(void)state;
	make_file(24 << 20);
	stage.size = 0;
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	stage_give_ticket(&stage);
	stage_hsm_wraps(&stage);
	stage_next(&stage, MSG_DP_CREATED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_created.error, 0);
	assert_true(m.body.dp_created.size > 16 << 20 && m.body.dp_created.size < 24 << 20);
	assert_int_equal(backing_size(), 24 << 20);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
}

static void a_size_that_cannot_be(void **state)
{
	(void)state;
	stage.size = 12345;
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	expect_failure(ERR_RANGE, "12345");
	assert_int_equal(backing_size(), 0);
}

static void an_hsm_that_refuses_leaves_nothing(void **state)
{
	struct message question;
	int page;

	(void)state;
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	stage_hsm_answers(&stage, &question, page, (struct msg_page_done){ .ticket = stage.ticket, .verdict = VERDICT_DISABLED });
	expect_failure(ERR_REFUSED, "disabled");
	assert_int_equal(backing_size(), 0);
}

static void an_hsm_that_dies_leaves_nothing(void **state)
{
	struct message question;
	int page;

	(void)state;
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	close(page);
	channel_close(&stage.hsm);
	expect_failure(ERR_UNREACHABLE, "unreachable");
	assert_int_equal(backing_size(), 0);
}

static void an_answer_without_a_wrap_leaves_nothing(void **state)
{
	struct message question;
	int page;

	(void)state;
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page);
	stage_hsm_answers(&stage, &question, page, (struct msg_page_done){ .ticket = stage.ticket, .verdict = VERDICT_GOOD });
	stage_wait_end(&stage, PATIENCE_MS);
	assert_int_equal(backing_size(), 0);
}

/* Ends the creator early, by order or by the end of the channel, at each point where it waits. */
static void called_off_at(int point, bool order)
{
	struct message m;
	int page;

	stage_start_creator(&stage);
	if (point > 0)
		stage_order_create(&stage, false);
	if (point > 1) {
		stage_give_ticket(&stage);
		stage_hsm_takes(&stage, &m, &page);
		close(page);
	}
	if (order)
		stage_lock(&stage, 1);
	else
		channel_close(&stage.supervisor);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), error_exit_code(ERR_REVOKED));
	assert_true(backing_size() <= 0);
}

static void called_off(void **state)
{
	(void)state;
	for (int point = 0; point < 3; point++)
		for (int order = 0; order < 2; order++)
			called_off_at(point, order);
}

static void a_message_out_of_turn_ends_it(void **state)
{
	struct msg_dp_attach pins = stage_pins(&stage);
	struct message m;
	int fd;

	(void)state;
	stage_start_creator(&stage);
	fd = stage_open_backing(&stage);
	message_init(&m, MSG_DP_ATTACH, 1);
	m.body.dp_attach = pins;
	stage_send(&stage, &m, &fd, 1);
	close(fd);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 70);
}

/* A file system of 128 KiB: the line says what is missing, and the file is as empty as before. */
static void a_full_file_system(void **state)
{
	char dir[80];

	(void)state;
	snprintf(dir, sizeof dir, "%s/small", stage.dir);
	assert_int_equal(mkdir(dir, 0700), 0);
	if (mount("none", dir, "tmpfs", 0, "size=128k") != 0) {
		rmdir(dir);
		print_message("skipped: no right to mount a small file system\n");
		skip();
	}
	snprintf(stage.backing, sizeof stage.backing, "%s/b", dir);
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	expect_failure(ERR_NOSPACE, "free");
	assert_int_equal(backing_size(), 0);
	umount2(dir, MNT_DETACH);
	rmdir(dir);
}

/* What fills the file system after the creator has taken its room finds none left, and the volume is made all the same. */
static void a_file_system_that_fills_while_formatting(void **state)
{
	char dir[80], filler[96];
	struct message question, m;
	struct msg_page_done done = { .verdict = VERDICT_GOOD, .wrapped_size = PAYLOAD_BYTES };
	int fd, page;

	(void)state;
	snprintf(dir, sizeof dir, "%s/small", stage.dir);
	assert_int_equal(mkdir(dir, 0700), 0);
	if (mount("none", dir, "tmpfs", 0, "size=64m") != 0) {
		rmdir(dir);
		print_message("skipped: no right to mount a small file system\n");
		skip();
	}
	snprintf(stage.backing, sizeof stage.backing, "%s/b", dir);
	snprintf(filler, sizeof filler, "%s/filler", dir);
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	stage_give_ticket(&stage);
	stage_hsm_takes(&stage, &question, &page); /* between taking the room and the format */
	fd = open(filler, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(posix_fallocate(fd, 0, (64 << 20) - (32 << 10)), ENOSPC);
	close(fd);
	done.ticket = stage.ticket;
	stage_hsm_answers(&stage, &question, page, done);
	stage_next(&stage, MSG_DP_CREATED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_created.error, 0);
	umount2(dir, MNT_DETACH);
	rmdir(dir);
}

/* stage.backing becomes a link to a loop device over a file of 40 MiB. False: not here. */
static bool make_device(char *image, size_t size)
{
	char command[256], device[64] = "";
	FILE *out;

	snprintf(image, size, "%s/image", stage.dir);
	snprintf(command, sizeof command, "truncate -s 40M %s && losetup -b 4096 -f --show %s 2>/dev/null", image, image);
	out = popen(command, "re");
	if (out == NULL || fgets(device, sizeof device, out) == NULL)
		device[0] = '\0';
	if (out != NULL)
		pclose(out);
	device[strcspn(device, "\n")] = '\0';
	return device[0] != '\0' && symlink(device, stage.backing) == 0;
}

static void drop_device(const char *image)
{
	char device[64] = "", command[128];

	if (readlink(stage.backing, device, sizeof device - 1) > 0) {
		snprintf(command, sizeof command, "losetup -d %s", device);
		assert_int_equal(system(command), 0);
	}
	unlink(image);
}

/* Libraries ask devices other questions than files: with the filter up, none of them may kill the creator. */
static void a_whole_device(void **state)
{
	struct message m;
	uint64_t size = 0;
	char image[96];

	(void)state;
	if (!make_device(image, sizeof image)) {
		unlink(image);
		print_message("skipped: no loop device\n");
		skip();
	}
	stage.size = 0;
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	stage_give_ticket(&stage);
	stage_hsm_wraps(&stage);
	stage_next(&stage, MSG_DP_CREATED, &m, PATIENCE_MS);
	assert_int_equal(m.body.dp_created.error, 0);
	assert_int_equal(stage_wait_end(&stage, PATIENCE_MS), 0);
	assert_int_equal(open_volume(stage.payload, m.body.dp_created.kcv, &size), 0);
	assert_true(size > 32 << 20 && size < 40 << 20);
	stage_start_creator(&stage);
	stage_order_create(&stage, false);
	expect_failure(ERR_EXISTS, "fallgate");
	drop_device(image);
}

static void by_hand_it_says_what_to_do(void **state)
{
	char command[512], line[512] = "";
	FILE *out;
	int status;

	(void)state;
	snprintf(command, sizeof command, "%s/fallgate-dataplane create 2>&1 3<&-", stage_bin);
	out = popen(command, "re");
	assert_non_null(out);
	assert_non_null(fgets(line, sizeof line, out));
	assert_non_null(strstr(line, "started outside the agent; use `fallgate create`"));
	assert_null(fgets(line, sizeof line, out));
	status = pclose(out);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == error_exit_code(ERR_USAGE));
}

static void version_and_help(void **state)
{
	char command[512], line[512] = "";
	FILE *out;

	(void)state;
	snprintf(command, sizeof command, "%s/fallgate-dataplane --version", stage_bin);
	out = popen(command, "re");
	assert_non_null(fgets(line, sizeof line, out));
	assert_int_equal(pclose(out), 0);
	assert_string_equal(line, "fallgate-dataplane " FALLGATE_VERSION "\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_stage, clear_stage)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(a_new_volume_opens_with_its_key_and_only_with_that),
		TEST(the_header_names_the_key_slot),
		TEST(what_is_there_is_named_and_kept),
		TEST(a_volume_is_not_overwritten_either),
		TEST(force_overwrites),
		TEST(a_file_is_used_as_large_as_it_is),
		TEST(a_size_that_cannot_be),
		TEST(an_hsm_that_refuses_leaves_nothing),
		TEST(an_hsm_that_dies_leaves_nothing),
		TEST(an_answer_without_a_wrap_leaves_nothing),
		TEST(called_off),
		TEST(a_message_out_of_turn_ends_it),
		TEST(a_full_file_system),
		TEST(a_file_system_that_fills_while_formatting),
		TEST(a_whole_device),
		TEST(by_hand_it_says_what_to_do),
		TEST(version_and_help),
	};

	if (!stage_begin(argc, argv))
		return 2;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
