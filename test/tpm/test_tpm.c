/* hal/tpm.h and fallgate-tpm against swtpm: what is sealed comes back in the same boot state and in no other, from the same TPM
 * and no other, for the same KEK and no other; no altered blob gives out anything; a wrong message ends the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/secret_memory.h"
#include "hal/tpm.h"
#include "ipc/channel.h"
#include "ipc/message.h"

enum { PCRS = 1 << 7 | 1 << 11, ANSWER_MS = 20000 };

static char folder[] = "/tmp/fallgate-tpm-XXXXXX";
static char where[128], why[TPM_WHY_BYTES];
static pid_t swtpm;

/* ---- a software TPM ---- */

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static void stop_swtpm(void)
{
	if (swtpm > 0) {
		kill(swtpm, SIGKILL);
		waitpid(swtpm, NULL, 0);
	}
	swtpm = 0;
}

/* A socket has its name before it takes connections; flag 0x10000 says that it does. */
static bool listens(const char *path)
{
	char line[300];
	bool found = false;
	FILE *f = fopen("/proc/net/unix", "r");

	while (f != NULL && !found && fgets(line, sizeof line, f) != NULL)
		found = strstr(line, path) != NULL && strstr(line, " 00010000 ") != NULL;
	if (f != NULL)
		fclose(f);
	return found;
}

/* A power-on of the TPM called `name`. */
static int start_swtpm(const char *name)
{
	char state[128], server[128], *arguments[] = { "swtpm",      "socket",  "--tpm2",
						       "--tpmstate", state,     "--server",
						       server,       "--flags", "not-need-init,startup-clear",
						       NULL };
	char path[96];

	stop_swtpm();
	snprintf(path, sizeof path, "%s/%s", folder, name);
	if (mkdir(path, 0700) != 0 && access(path, F_OK) != 0)
		return -1;
	snprintf(state, sizeof state, "dir=%s", path);
	snprintf(path, sizeof path, "%s/socket", folder);
	snprintf(server, sizeof server, "type=unixio,path=%s", path);
	snprintf(where, sizeof where, "swtpm:%s", path);
	unlink(path);
	swtpm = fork();
	if (swtpm == 0) {
		int null_fd = open("/dev/null", O_RDWR);

		dup2(null_fd, 2);
		execvp("swtpm", arguments);
		_exit(127);
	}
	for (int i = 0; i < 500; i++) {
		if (listens(path))
			return 0;
		pause_ms(10);
	}
	return -1;
}

static struct tpm *open_tpm(void)
{
	struct tpm *t = NULL;
	int r = tpm_open(&t, where, why);

	if (r != 0)
		fail_msg("%s: %s", where, why);
	return t;
}

/* Commands by hand that the contract has no use for. */
static void tell(const uint8_t *command, size_t size)
{
	uint8_t answer[64];
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, where + strlen("swtpm:"));
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(write(fd, command, size), size);
	assert_true(read(fd, answer, sizeof answer) >= 10);
	assert_int_equal(answer[6] | answer[7] | answer[8] | answer[9], 0);
	close(fd);
}

/* TPM2_PCR_Extend. */
static void extend(unsigned pcr, uint8_t with)
{
	uint8_t command[65] = { 0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82, 0, 0, 0, (uint8_t)pcr, 0, 0, 0, 9, 0x40,
				0,    0,    9, 0, 0, 0,  0, 0, 0,    0,    0, 1, 0, 0x0b };

	memset(command + 33, with, 32);
	tell(command, sizeof command);
}

/* TPM2_NV_UndefineSpace by the owner, as whoever has taken the machine over could. */
static void undefine(uint32_t index)
{
	uint8_t command[31] = { 0x80,
				0x02,
				0,
				0,
				0,
				31,
				0,
				0,
				0x01,
				0x22,
				0x40,
				0,
				0,
				0x01,
				(uint8_t)(index >> 24),
				(uint8_t)(index >> 16),
				(uint8_t)(index >> 8),
				(uint8_t)index,
				0,
				0,
				0,
				9,
				0x40,
				0,
				0,
				9 };

	tell(command, sizeof command);
}

/* TPM2_NV_DefineSpace: 8 bytes that anybody may write, no counter. */
static void define_ordinary(uint32_t index)
{
	uint8_t command[45] = { 0x80,
				0x02,
				0,
				0,
				0,
				45,
				0,
				0,
				0x01,
				0x2a,
				0x40,
				0,
				0,
				0x01,
				0,
				0,
				0,
				9,
				0x40,
				0,
				0,
				9,
				0,
				0,
				0,
				0,
				0,
				0,
				0,
				0,
				14,
				(uint8_t)(index >> 24),
				(uint8_t)(index >> 16),
				(uint8_t)(index >> 8),
				(uint8_t)index,
				0,
				0x0b,
				0x02,
				0x04,
				0,
				0x04,
				0,
				0,
				0,
				8 };

	tell(command, sizeof command);
}

/* ---- the contract ---- */

static const char secret[] = "a secret of some length";

static void seal(uint8_t blob[static TPM_SEALED_MAX], size_t *size)
{
	struct tpm *t = open_tpm();

	assert_int_equal(tpm_seal(t, PCRS, secret, sizeof secret, blob, size, why), 0);
	tpm_close(t);
}

static int unseal(const uint8_t *blob, size_t size)
{
	uint8_t out[TPM_SECRET_MAX] = { 0 };
	size_t got = 0;
	struct tpm *t = open_tpm();
	int r = tpm_unseal(t, blob, size, out, &got, why);

	tpm_close(t);
	if (r == 0) {
		assert_int_equal(got, sizeof secret);
		assert_memory_equal(out, secret, sizeof secret);
	} else {
		assert_true(why[0] != '\0');
	}
	return r;
}

static void it_looks(void **state)
{
	struct tpm_facts facts;
	struct tpm *t;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	t = open_tpm();
	assert_int_equal(tpm_look(t, PCRS, &facts, why), 0);
	tpm_close(t);
	assert_int_equal(facts.zero, PCRS);
	assert_string_equal(facts.bank, "sha256");
	assert_true(facts.kind[0] != '\0');
	extend(11, 3);
	t = open_tpm();
	assert_int_equal(tpm_look(t, PCRS, &facts, why), 0);
	tpm_close(t);
	assert_int_equal(facts.zero, 1 << 7);
}

static void what_is_sealed_comes_back_in_this_boot_state_alone(void **state)
{
	uint8_t blob[TPM_SEALED_MAX];
	size_t size;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	extend(7, 1);
	seal(blob, &size);
	assert_int_equal(unseal(blob, size), 0);
	extend(4, 9); /* not among those that it was sealed to */
	assert_int_equal(unseal(blob, size), 0);
	extend(11, 9);
	assert_int_equal(unseal(blob, size), ERR_REFUSED);
	assert_int_equal(start_swtpm("one"), 0);
	assert_int_equal(unseal(blob, size), ERR_REFUSED);
	extend(7, 2);
	assert_int_equal(unseal(blob, size), ERR_REFUSED);
	assert_int_equal(start_swtpm("one"), 0);
	extend(7, 1);
	assert_int_equal(unseal(blob, size), 0);
	for (int i = 0; i < 64; i++) /* more than any lockout would allow */
		extend(11, 9), assert_int_equal(unseal(blob, size), ERR_REFUSED);
	assert_int_equal(start_swtpm("one"), 0);
	extend(7, 1);
	assert_int_equal(unseal(blob, size), 0);
}

static void another_tpm_is_told_from_another_boot_state(void **state)
{
	uint8_t blob[TPM_SEALED_MAX];
	size_t size;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	seal(blob, &size);
	assert_int_equal(start_swtpm("two"), 0);
	assert_int_equal(unseal(blob, size), ERR_FOREIGN);
}

/* Bytes are altered, each of the head and every third of the rest: nothing is given out. (The PCRs that the head names are no
 * secret: the policy in the object counts.) */
static void no_altered_blob_gives_anything_out(void **state)
{
	uint8_t blob[TPM_SEALED_MAX], bad[TPM_SEALED_MAX];
	size_t size;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	seal(blob, &size);
	assert_int_equal(unseal(blob, size), 0);
	for (size_t i = 0; i < size; i += i < 64 ? 1 : 3) {
		memcpy(bad, blob, size);
		bad[i] ^= (uint8_t)(1u << i % 8);
		if (unseal(bad, size) == 0)
			fail_msg("byte %zu of %zu is altered, and it opens", i, size);
	}
	for (size_t cut = 0; cut < size; cut += 7)
		assert_int_equal(unseal(blob, cut), ERR_CORRUPT);
	memcpy(bad, blob, size);
	assert_int_equal(unseal(bad, size + 1 <= TPM_SEALED_MAX ? size + 1 : size - 1), ERR_CORRUPT);
	assert_int_equal(unseal(blob, size), 0);
}

static void what_cannot_be_sealed_is_refused(void **state)
{
	uint8_t blob[TPM_SEALED_MAX], much[TPM_SECRET_MAX + 1] = { 0 };
	size_t size;
	struct tpm *t;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	t = open_tpm();
	assert_int_equal(tpm_seal(t, PCRS, much, sizeof much, blob, &size, why), ERR_RANGE);
	assert_int_equal(tpm_seal(t, PCRS, much, 0, blob, &size, why), ERR_RANGE);
	assert_int_equal(tpm_seal(t, 0, much, 1, blob, &size, why), ERR_RANGE);
	assert_int_equal(tpm_seal(t, 1u << 24, much, 1, blob, &size, why), ERR_RANGE);
	assert_int_equal(tpm_seal(t, PCRS, much, TPM_SECRET_MAX, blob, &size, why), 0);
	tpm_close(t);
	t = NULL;
	assert_int_equal(tpm_open(&t, "/dev/no-such-tpm", why), ERR_UNREACHABLE);
	assert_int_equal(tpm_open(&t, "tcp:host", why), ERR_CONFIG);
	assert_null(t);
}

enum { INDEX = 0x01900010 };

static int with_counter(int (*what)(struct tpm *, uint32_t, uint64_t *, char *), uint64_t *value)
{
	struct tpm *t = open_tpm();
	int r = what(t, INDEX, value, why);

	tpm_close(t);
	return r;
}

static int step_to(uint64_t to, uint64_t *value)
{
	struct tpm *t = open_tpm();
	int r = tpm_counter_step(t, INDEX, to, value, why);

	tpm_close(t);
	return r;
}

static void a_counter_goes_up_and_never_down(void **state)
{
	uint64_t first, value;

	(void)state;
	assert_int_equal(start_swtpm("three"), 0);
	assert_int_equal(with_counter(tpm_counter_read, &value), ERR_NOT_FOUND);
	assert_int_equal(with_counter(tpm_counter_make, &first), 0);
	assert_true(first > 0);
	assert_int_equal(with_counter(tpm_counter_make, &value), ERR_EXISTS);
	assert_int_equal(step_to(first + 1, &value), 0);
	assert_int_equal(value, first + 1);
	assert_int_equal(step_to(first, &value), 0); /* there already */
	assert_int_equal(value, first + 1);
	assert_int_equal(step_to(first + 100, &value), ERR_CORRUPT); /* a volume that is that far ahead is not this one's */
	assert_int_equal(value, first + 3);
	assert_int_equal(start_swtpm("three"), 0);
	assert_int_equal(with_counter(tpm_counter_read, &value), 0);
	assert_int_equal(value, first + 3);
	/* taken away and made anew it begins above what it was */
	undefine(INDEX);
	assert_int_equal(with_counter(tpm_counter_read, &value), ERR_NOT_FOUND);
	assert_int_equal(with_counter(tpm_counter_make, &value), 0);
	assert_true(value > first + 3);
	/* what is no counter is not taken for one */
	undefine(INDEX);
	define_ordinary(INDEX);
	assert_int_equal(with_counter(tpm_counter_read, &value), ERR_CORRUPT);
	assert_int_equal(step_to(1, &value), ERR_CORRUPT);
}

/* ---- the program ---- */

struct program {
	pid_t pid;
	struct channel channel;
};

static void start(struct program *p)
{
	int pair[2];
	char *environment[] = { "TSS2_LOG=all+none", NULL }, *arguments[] = { "fallgate-tpm", where, NULL };
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count = 0;

	assert_int_equal(channel_pair(pair), 0);
	p->pid = fork();
	if (p->pid == 0) {
		dup2(pair[1], 100);
		dup2(100, 3);
		execve(TPM_PROGRAM, arguments, environment);
		_exit(127);
	}
	close(pair[1]);
	channel_init(&p->channel, pair[0], ROLE_SUPERVISOR, ROLE_TPM);
	assert_int_equal(channel_receive_wait(&p->channel, &m, fds, &count, NULL, ANSWER_MS), 1);
	assert_int_equal(m.type, MSG_HELLO);
	assert_int_equal(m.body.hello.pid, p->pid);
}

static int end(struct program *p)
{
	int status = 0;

	assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
	channel_close(&p->channel);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The answer; *fd the page or -1. */
static struct msg_tp_reply ask(enum tp_verb verb, const char *kek, const char *pin, const struct msg_tp_reply *sealed, int *fd)
{
	struct program p;
	struct message m;
	int fds[CHANNEL_FDS_MAX], ends[2];
	unsigned count = 0;

	start(&p);
	assert_int_equal(pipe(ends), 0);
	message_init(&m, MSG_TP_REQUEST, 7);
	m.body.tp_request.verb = (uint8_t)verb;
	m.body.tp_request.pcrs = PCRS;
	strcpy(m.body.tp_request.kek, kek);
	if (sealed != NULL) {
		m.body.tp_request.sealed_size = sealed->sealed_size;
		memcpy(m.body.tp_request.sealed, sealed->sealed, sizeof sealed->sealed);
	}
	if (pin != NULL)
		assert_int_equal(write(ends[1], pin, strlen(pin)), strlen(pin));
	close(ends[1]);
	assert_int_equal(channel_send(&p.channel, &m, &ends[0], pin != NULL ? 1 : 0), 0);
	close(ends[0]);
	assert_int_equal(channel_receive_wait(&p.channel, &m, fds, &count, NULL, ANSWER_MS), 1);
	assert_int_equal(m.type, MSG_TP_REPLY);
	assert_int_equal(m.nonce, 7);
	*fd = count == 1 ? fds[0] : -1;
	assert_int_equal(end(&p), 0);
	return m.body.tp_reply;
}

static void a_pin_goes_in_by_a_pipe_and_comes_out_in_a_page(void **state)
{
	struct secret_memory page;
	struct msg_tp_reply sealed, r;
	int fd;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	sealed = ask(TP_SEAL, "main", "1234-5678\r\nthe next line\n", NULL, &fd);
	assert_int_equal(sealed.error, 0);
	assert_int_equal(fd, -1);
	assert_null(memmem(sealed.sealed, sealed.sealed_size, "1234-5678", 9));
	r = ask(TP_UNSEAL, "main", NULL, &sealed, &fd);
	assert_int_equal(r.error, 0);
	assert_true(fd >= 0);
	assert_int_equal(secret_page_attach(&page, fd), 0);
	assert_memory_equal(page.base, "1234-5678\n\0", 11);
	secret_memory_free(&page);
	close(fd);
	/* for another KEK it is nobody's */
	r = ask(TP_UNSEAL, "other", NULL, &sealed, &fd);
	assert_int_equal(r.error, ERR_CORRUPT);
	assert_non_null(strstr(r.text, "another KEK"));
	assert_int_equal(fd, -1);
	r = ask(TP_UNSEAL, "mai", NULL, &sealed, &fd);
	assert_int_equal(r.error, ERR_CORRUPT);
	assert_int_equal(fd, -1);
	extend(7, 1);
	r = ask(TP_UNSEAL, "main", NULL, &sealed, &fd);
	assert_int_equal(r.error, ERR_REFUSED);
	assert_int_equal(fd, -1);
}

static void what_is_no_pin_is_refused(void **state)
{
	char longest[100];
	struct msg_tp_reply r;
	int fd;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	r = ask(TP_SEAL, "main", "\n", NULL, &fd);
	assert_int_equal(r.error, ERR_USAGE);
	memset(longest, 'x', sizeof longest);
	longest[97] = '\0';
	r = ask(TP_SEAL, "main", longest, NULL, &fd);
	assert_int_equal(r.error, ERR_USAGE);
	longest[96] = '\0';
	r = ask(TP_SEAL, "main", longest, NULL, &fd);
	assert_int_equal(r.error, 0);
	r = ask(TP_SEAL, "main", NULL, NULL, &fd);
	assert_int_equal(r.error, ERR_PROTOCOL);
	stop_swtpm();
	r = ask(TP_LOOK, "", NULL, NULL, &fd);
	assert_int_equal(r.error, ERR_UNREACHABLE);
	assert_non_null(strstr(r.text, "cannot be opened"));
}

static void another_message_ends_it(void **state)
{
	struct program p;
	struct message m;

	(void)state;
	assert_int_equal(start_swtpm("one"), 0);
	start(&p);
	message_init(&m, MSG_TP_REQUEST, 7); /* no verb */
	assert_int_equal(send(p.channel.fd, &m, offsetof(struct message, body) + m.size, 0),
			 offsetof(struct message, body) + m.size);
	assert_int_equal(end(&p), 70);
	start(&p);
	assert_int_equal(send(p.channel.fd, "x", 1, 0), 1);
	assert_int_equal(end(&p), 70);
	start(&p);
	shutdown(p.channel.fd, SHUT_RDWR);
	assert_int_equal(end(&p), 0);
}

static int clean(void **state)
{
	char command[96];

	(void)state;
	stop_swtpm();
	snprintf(command, sizeof command, "rm -rf %s", folder);
	return system(command) == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_looks),
		cmocka_unit_test(what_is_sealed_comes_back_in_this_boot_state_alone),
		cmocka_unit_test(another_tpm_is_told_from_another_boot_state),
		cmocka_unit_test(no_altered_blob_gives_anything_out),
		cmocka_unit_test(what_cannot_be_sealed_is_refused),
		cmocka_unit_test(a_counter_goes_up_and_never_down),
	}, program_tests[] = {
		cmocka_unit_test(a_pin_goes_in_by_a_pipe_and_comes_out_in_a_page),
		cmocka_unit_test(what_is_no_pin_is_refused),
		cmocka_unit_test(another_message_ends_it),
	};

	if (system("command -v swtpm >/dev/null") != 0) {
		printf("skipped: there is no swtpm\n");
		return 77;
	}
	setenv("TSS2_LOG", "all+none", 1);
	if (mkdtemp(folder) == NULL)
		return 1;
	return argc == 2 && strcmp(argv[1], "program") == 0 ? cmocka_run_group_tests(program_tests, NULL, clean)
							    : cmocka_run_group_tests(tests, NULL, clean);
}
