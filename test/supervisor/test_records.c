/* Records and ledger: every bit of a record flipped, records moved, torn, cut; lines of the ledger changed and taken out. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "supervisor/credentials.h"
#include "supervisor/ledger.h"
#include "supervisor/records.h"
#include "supervisor/writer.h"

static char dir[64];
static struct records records;

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/fallgate-records-XXXXXX");
	assert_non_null(mkdtemp(dir));
	return records_open(&records, dir, true);
}

static int teardown(void **state)
{
	char command[200];

	(void)state;
	records_close(&records);
	snprintf(command, sizeof command, "rm -r %s", dir);
	return system(command);
}

static size_t slurp(const char *name, char *out, size_t size)
{
	int fd = openat(records.dir_fd, name, O_RDONLY);
	ssize_t n = read(fd, out, size);

	assert_true(fd >= 0 && n >= 0);
	close(fd);
	return (size_t)n;
}

static void spew(const char *name, const char *data, size_t size)
{
	int fd = openat(records.dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), (ssize_t)size);
	close(fd);
}

static const struct gate_record latched = { true, CAUSE_COMMANDED, 12345678901234, true, true, 1790000000000000000 };

/* The whole point: an attacker with the disk cannot lift a latch. */
static void no_bit_of_a_gate_record_can_be_flipped(void **state)
{
	char good[4096], bad[4096];
	struct gate_record back;
	size_t size;

	(void)state;
	assert_int_equal(records_write_gate(&records, "demo", &latched), 0);
	size = slurp("gates/demo", good, sizeof good);
	for (size_t bit = 0; bit < 8 * size; bit++) {
		memcpy(bad, good, size);
		bad[bit / 8] = (char)(bad[bit / 8] ^ 1 << bit % 8);
		spew("gates/demo", bad, size);
		assert_int_equal(records_read_gate(&records, "demo", &back), ERR_CORRUPT);
		assert_false(back.latched || back.attach_wanted || back.seq || back.purged ||
			     back.purge_at_ns); /* nothing of it is handed out */
	}
	for (size_t cut = 0; cut < size; cut++) {
		spew("gates/demo", good, cut);
		assert_int_equal(records_read_gate(&records, "demo", &back), ERR_CORRUPT);
	}
	memcpy(bad, good, size);
	bad[size] = '\n';
	spew("gates/demo", bad, size + 1);
	assert_int_equal(records_read_gate(&records, "demo", &back), ERR_CORRUPT);
	spew("gates/demo", good, size);
	assert_int_equal(records_read_gate(&records, "demo", &back), 0);
	assert_memory_equal(&back, &latched, sizeof back);
}

static void a_record_stands_for_its_place_only(void **state)
{
	const struct gate_record open_gate = { .seq = 1, .attach_wanted = true };
	struct gate_record back;
	char raw[4096];
	size_t size;

	(void)state;
	assert_int_equal(records_write_gate(&records, "other", &open_gate), 0);
	size = slurp("gates/other", raw, sizeof raw);
	spew("gates/demo", raw, size); /* another volume's */
	assert_int_equal(records_read_gate(&records, "demo", &back), ERR_CORRUPT);
	spew("volumes/other", raw, size); /* another kind */
	assert_int_equal(records_read(&records, RECORD_VOLUME, "other", raw, sizeof raw), ERR_CORRUPT);
	assert_int_equal(records_read_gate(&records, "none", &back), ERR_NOT_FOUND);
	assert_int_equal(unlinkat(records.dir_fd, "volumes/other", 0), 0);
}

static void another_device_key_believes_nothing(void **state)
{
	struct records other = records;
	struct gate_record back;

	(void)state;
	assert_int_equal(records_write_gate(&records, "demo", &latched), 0);
	other.device_key[0] ^= 1;
	assert_int_equal(records_read_gate(&other, "demo", &back), ERR_CORRUPT);
}

static void a_link_in_a_records_place_is_not_followed(void **state)
{
	struct gate_record back;

	(void)state;
	assert_int_equal(records_write_gate(&records, "real", &latched), 0);
	unlinkat(records.dir_fd, "gates/link", 0);
	assert_int_equal(symlinkat("real", records.dir_fd, "gates/link"), 0);
	assert_int_equal(records_read_gate(&records, "link", &back), ERR_CORRUPT);
}

static void a_fifo_in_a_records_place_is_not_waited_for(void **state)
{
	struct gate_record back;

	(void)state;
	assert_int_equal(mkfifoat(records.dir_fd, "gates/fifo", 0600), 0);
	alarm(10);
	assert_int_equal(records_read_gate(&records, "fifo", &back), ERR_CORRUPT);
	alarm(0);
	assert_int_equal(unlinkat(records.dir_fd, "gates/fifo", 0), 0);
}

static void every_kind_comes_back(void **state)
{
	struct volume_record v = { .gen_no = 1, .size = 1u << 30, .kek = "main" }, w;
	struct kek_record k = { .type = KEK_RSA_OAEP,
				.hash = OAEP_SHA1,
				.bits = 2048,
				.modulus_size = 256,
				.exponent_size = 3,
				.label = "a key",
				.id_size = 2,
				.id = { 1, 2 },
				.token_label = "customer" },
			  l;
	struct pin_record p = { PIN_REFUSED, 1, 2, 3 }, q;

	(void)state;
	memset(v.uuid, 7, sizeof v.uuid);
	memset(k.modulus, 0xab, 256);
	memcpy(k.exponent, "\1\0\1", 3);
	assert_int_equal(records_write_volume(&records, "demo", &v), 0);
	assert_int_equal(records_read_volume(&records, "demo", &w), 0);
	assert_memory_equal(&v, &w, sizeof v);
	assert_int_equal(records_write_kek(&records, "main", &k), 0);
	assert_int_equal(records_read_kek(&records, "main", &l), 0);
	assert_memory_equal(&k, &l, sizeof k);
	assert_int_equal(records_write_pin(&records, "main", &p), 0);
	assert_int_equal(records_read_pin(&records, "main", &q), 0);
	assert_memory_equal(&p, &q, sizeof p);
}

static void a_state_directory_that_others_enter_is_refused(void **state)
{
	struct records r;

	(void)state;
	assert_int_equal(chmod(dir, 0750), 0);
	assert_int_equal(records_open(&r, dir, true), ERR_DENIED);
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(records_open(&r, "/nowhere/at/all", false), ERR_NOT_FOUND);
	assert_int_equal(records_open(&r, dir, true), ERR_BUSY); /* ours: `records` */
	spew("device.key", "short", 5);
	assert_int_equal(records_open(&r, dir, false), ERR_CORRUPT);
	spew("device.key", (const char *)records.device_key, DEVICE_KEY_BYTES);
	assert_int_equal(records_open(&r, dir, false), 0);
	assert_memory_equal(r.device_key, records.device_key, DEVICE_KEY_BYTES);
	records_close(&r);
}

static void a_full_disk_leaves_the_old_record(void **state)
{
	struct gate_record back;

	(void)state;
	assert_int_equal(records_write_gate(&records, "demo", &latched), 0);
	/* the temporary file's place is taken by a directory: as good as a disk that refuses */
	assert_int_equal(mkdirat(records.dir_fd, "gates/demo.new", 0700), 0);
	assert_int_not_equal(records_write_gate(&records, "demo", &(struct gate_record){ .seq = 1 }), 0);
	assert_int_equal(records_read_gate(&records, "demo", &back), 0);
	assert_true(back.latched);
	assert_int_equal(unlinkat(records.dir_fd, "gates/demo.new", AT_REMOVEDIR), 0);
}

/* ---- ledger ---- */

static void append(struct ledger *l, const char *event)
{
	struct ledger_entry e = { .wall_ns = 1700000000000000000, .boot_ns = 5, .gate_seq = 3 };

	snprintf(e.event, sizeof e.event, "%s", event);
	snprintf(e.volume, sizeof e.volume, "demo");
	snprintf(e.text, sizeof e.text, "a \"quoted\" \\ text\nwith a newline");
	assert_int_equal(ledger_append(l, &e), 0);
}

static void the_ledger_goes_on_after_a_restart(void **state)
{
	struct ledger l;
	uint64_t bad;
	char text[8192];
	size_t size;

	(void)state;
	for (int round = 0; round < 3; round++) {
		assert_int_equal(ledger_open(&l, &records), 0);
		assert_int_equal(l.last_wall_ns, round == 0 ? 0 : 1700000000000000000);
		append(&l, "first");
		append(&l, "second");
		ledger_close(&l);
	}
	assert_int_equal(ledger_verify(&records, &bad), 6);
	size = slurp("ledger", text, sizeof text - 1);
	text[size] = '\0';
	assert_non_null(strstr(text, "{\"seq\":6,\"time\":\"2023-11-14T22:13:20.000Z\""));
	assert_non_null(strstr(text, "a \\\"quoted\\\" \\\\ text?with a newline"));
}

static void a_changed_ledger_is_noticed(void **state)
{
	char good[8192], bad_text[8192];
	size_t size = slurp("ledger", good, sizeof good), line;
	uint64_t bad = 0;

	(void)state;
	for (size_t i = 0; i < size; i += 3) {
		memcpy(bad_text, good, size);
		bad_text[i] ^= 1;
		spew("ledger", bad_text, size);
		assert_int_equal(ledger_verify(&records, &bad), ERR_CORRUPT);
	}
	line = (size_t)((const char *)memchr(good, '\n', size) - good) + 1; /* the first line is taken out */
	spew("ledger", good + line, size - line);
	assert_int_equal(ledger_verify(&records, &bad), ERR_CORRUPT);
	assert_int_equal(bad, 1);
	spew("ledger", good, size);
	assert_int_equal(ledger_verify(&records, &bad), 6);
}

static void a_torn_line_does_not_stop_the_ledger(void **state)
{
	char text[8192];
	size_t size = slurp("ledger", text, sizeof text);
	struct ledger l;

	(void)state;
	spew("ledger", text, size - 20);
	assert_int_equal(ledger_open(&l, &records), 0);
	assert_int_equal(l.seq, 5);
	append(&l, "after");
	ledger_close(&l);
	size = slurp("ledger", text, sizeof text - 1);
	text[size] = '\0';
	assert_non_null(strstr(text, "\n{\"seq\":6,"));
}

/* The disk takes half a line, then nothing, then all again. No half stays, and how many are missing stands where they would be.
 */
static void a_full_disk_leaves_no_half_line(void **state)
{
	struct ledger_entry e = { .wall_ns = 1700000000000000000, .event = "refused" };
	struct rlimit all, some;
	struct ledger l;
	uint64_t bad;
	char text[8192];
	size_t size;

	(void)state;
	spew("ledger", "", 0);
	assert_int_equal(ledger_open(&l, &records), 0);
	append(&l, "before");
	size = slurp("ledger", text, sizeof text);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
	some = (struct rlimit){ .rlim_cur = size + 30, .rlim_max = all.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &some), 0);
	for (int i = 0; i < 3; i++)
		assert_true(ledger_append(&l, &e) < 0);
	assert_int_equal(slurp("ledger", text, sizeof text), size);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
	append(&l, "after");
	append(&l, "later");
	ledger_close(&l);
	assert_int_equal(ledger_verify(&records, &bad), 4);
	size = slurp("ledger", text, sizeof text - 1);
	text[size] = '\0';
	assert_non_null(strstr(
		text,
		"\n{\"seq\":2,\"time\":\"2023-11-14T22:13:20.000Z\",\"boot_ns\":5,\"event\":\"lines-lost\",\"text\":\"3 lines"));
	assert_non_null(strstr(text, "\n{\"seq\":3,"));
	assert_null(strstr(text, "refused"));
}

/* ---- writer, credentials ---- */

static void the_writer_keeps_the_latest_gate(void **state)
{
	struct ledger l;
	struct writer *w;
	struct gate_record g = { .seq = 0 }, back;
	struct written_gate done;
	uint64_t last = 0;

	(void)state;
	assert_true(ledger_open(&l, &records) <= 0);
	assert_int_equal(writer_start(&w, &records, &l), 0);
	for (g.seq = 1; g.seq <= 500; g.seq++)
		writer_gate(w, "busy", &g);
	for (int tries = 0; tries < 500 && last < 500; tries++) {
		while (writer_take(w, &done)) {
			assert_int_equal(done.error, 0);
			assert_string_equal(done.name, "busy");
			assert_true(done.seq > last);
			last = done.seq;
		}
		usleep(10000);
	}
	assert_int_equal(last, 500);
	g.seq = 501;
	writer_gate(w, "busy", &g);
	writer_stop(w); /* what is left is written before it ends */
	assert_int_equal(records_read_gate(&records, "busy", &back), 0);
	assert_int_equal(back.seq, 501);
	ledger_close(&l);
}

static unsigned seen;

enum { WRITES = 25 };

/* NULL: each of them, in the end, was whole and in its place. */
static void *write_gates(void *unused)
{
	for (uint64_t n = 1; n <= WRITES; n++) {
		struct gate_record g = { .latched = true, .seq = n, .attach_wanted = n % 2 != 0 }, back;

		if (records_write_gate(&records, "both", &g) != 0 || records_read_gate(&records, "both", &back) != 0)
			return &records;
	}
	return unused;
}

static void two_who_write_the_same_record_leave_it_whole(void **state)
{
	struct gate_record back;
	pthread_t other;
	void *bad = &other;

	(void)state;
	assert_int_equal(pthread_create(&other, NULL, write_gates, NULL), 0);
	assert_null(write_gates(NULL));
	assert_int_equal(pthread_join(other, &bad), 0);
	assert_null(bad);
	assert_int_equal(records_read_gate(&records, "both", &back), 0);
	assert_int_equal(back.seq, WRITES);
}

static void count_one(void *context, const struct msg_mg_credential *one)
{
	(void)context;
	seen += one->role;
}

static void credentials_come_back_and_go(void **state)
{
	uint8_t psk[PSK_BYTES], again[PSK_BYTES];
	struct credentials *c;
	struct stat st;

	(void)state;
	assert_int_equal(credentials_create(&c, &records), 0);
	assert_int_equal(credentials_enroll(c, "alice", USER_OFFICER, psk), 0);
	assert_int_equal(credentials_enroll(c, "bob@site-1", USER_OPERATOR, psk), 0);
	assert_int_equal(credentials_enroll(c, "alice", USER_AUDITOR, again), 0); /* replaced */
	assert_memory_not_equal(psk, again, sizeof psk);
	assert_int_equal(credentials_enroll(c, "a b", USER_OFFICER, psk), ERR_USAGE);
	assert_int_equal(credentials_enroll(c, "", USER_OFFICER, psk), ERR_USAGE);
	assert_int_equal(credentials_enroll(c, "eve", USER_NONE, psk), ERR_USAGE);
	credentials_destroy(c);
	assert_int_equal(fstatat(records.dir_fd, "credentials", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(credentials_create(&c, &records), 0);
	seen = 0;
	credentials_each(c, count_one, NULL);
	assert_int_equal(seen, USER_AUDITOR + USER_OPERATOR);
	assert_int_equal(credentials_remove(c, "alice"), 0);
	assert_int_equal(credentials_remove(c, "alice"), ERR_NOT_FOUND);
	credentials_destroy(c);
	spew("credentials", "eve officer 00\n", 15); /* nobody can write himself in */
	assert_int_equal(credentials_create(&c, &records), ERR_CORRUPT);
	seen = 0;
	credentials_each(c, count_one, NULL);
	assert_int_equal(seen, 0);
	credentials_destroy(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_bit_of_a_gate_record_can_be_flipped),
		cmocka_unit_test(a_record_stands_for_its_place_only),
		cmocka_unit_test(another_device_key_believes_nothing),
		cmocka_unit_test(a_link_in_a_records_place_is_not_followed),
		cmocka_unit_test(a_fifo_in_a_records_place_is_not_waited_for),
		cmocka_unit_test(every_kind_comes_back),
		cmocka_unit_test(a_state_directory_that_others_enter_is_refused),
		cmocka_unit_test(a_full_disk_leaves_the_old_record),
		cmocka_unit_test(the_ledger_goes_on_after_a_restart),
		cmocka_unit_test(a_changed_ledger_is_noticed),
		cmocka_unit_test(a_torn_line_does_not_stop_the_ledger),
		cmocka_unit_test(a_full_disk_leaves_no_half_line),
		cmocka_unit_test(the_writer_keeps_the_latest_gate),
		cmocka_unit_test(two_who_write_the_same_record_leave_it_whole),
		cmocka_unit_test(credentials_come_back_and_go),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
