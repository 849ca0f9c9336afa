/* The search finds what is there, says when it is blind, and calls nothing clean that is not. The victims are this very program,
 * executed anew, so that no copy of a key comes along by fork. Needs the right to trace: else skipped. */
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "hal/aead.h"
#include "hal/hash.h"
#include "hal/secret_memory.h"

extern char **environ;

enum { KEY = 32, PIECE = 8, CLEAN = 0, FOUND = 1, BLIND = 2, USAGE = 64, OUTPUT_MAX = 8 << 20 };

/* Of a victim in secret memory: any kernel's expanded key at the start, the key itself behind it. */
enum { KEY_AT = AEAD_KEY_STATE_MAX + 907, ROOM = AEAD_KEY_STATE_MAX + 4096 };

static const char *keyscan; /* the program under test: from the command line */

/* ---- victims ---- */

static _Alignas(64) uint8_t planted[4096];

static void read_exactly(void *to, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = read(STDIN_FILENO, (uint8_t *)to + done, size - done);

		if (n <= 0)
			_exit(3);
		done += (size_t)n;
	}
}

static void say(char what)
{
	if (write(STDOUT_FILENO, &what, 1) != 1)
		_exit(3);
}

static void wait_order(void)
{
	char order;

	read_exactly(&order, 1);
}

static void live_and_wipe(void *key, size_t size)
{
	say('R');
	wait_order();
	secret_wipe(key, size);
	say('W');
	wait_order();
	syscall(SYS_exit, 0); /* a strict filter knows no exit_group */
	_exit(3);
}

#if defined(__x86_64__)
/* The key lies in xmm9 and xmm10 while the thread sleeps in read; an order clears them. */
static void keep_in_registers(void)
{
	long number = 0, zero = 0, one = 1;
	char order[16];

	say('R');
	__asm__ volatile("movdqu (%[key]), %%xmm9\n"
			 "movdqu 16(%[key]), %%xmm10\n"
			 "pxor %%xmm11, %%xmm11\n"
			 "movdqu %%xmm11, (%[key])\n"
			 "movdqu %%xmm11, 16(%[key])\n"
			 "syscall\n"
			 "pxor %%xmm9, %%xmm9\n"
			 "pxor %%xmm10, %%xmm10\n"
			 : "+a"(number)
			 : [key] "r"(planted), "D"(zero), "S"(order), "d"(one)
			 : "rcx", "r11", "memory", "xmm9", "xmm10", "xmm11");
	if (number != 1)
		_exit(3);
	say('W');
	wait_order();
	_exit(0);
}
#endif

#if defined(__x86_64__)
/* The same in the upper half of a register that only AVX-512 has. */
__attribute__((target("avx512f"))) static void keep_in_wide_registers(void)
{
	long number = 0, zero = 0, one = 1;
	char order[16];

	say('R');
	__asm__ volatile("vmovdqu64 (%[key]), %%zmm21\n"
			 "vpxorq %%zmm22, %%zmm22, %%zmm22\n"
			 "vmovdqu64 %%zmm22, (%[key])\n"
			 "syscall\n"
			 "vpxorq %%zmm21, %%zmm21, %%zmm21\n"
			 : "+a"(number)
			 : [key] "r"(planted), "D"(zero), "S"(order), "d"(one)
			 : "rcx", "r11", "memory", "xmm21", "xmm22");
	if (number != 1)
		_exit(3);
	say('W');
	wait_order();
	_exit(0);
}
#endif

static struct secret_memory secret_room(void)
{
	struct secret_memory m;

	if (secret_memory_alloc(&m, ROOM) != 0)
		_exit(3);
	return m;
}

static int victim(const char *mode)
{
	struct secret_memory m;

	if (strcmp(mode, "plain") == 0) {
		read_exactly(planted + 100, KEY);
		live_and_wipe(planted, sizeof planted);
	}
#if defined(__x86_64__)
	if (strcmp(mode, "registers") == 0) {
		read_exactly(planted, KEY);
		keep_in_registers();
	}
	if (strcmp(mode, "wide-registers") == 0) {
		read_exactly(planted + 32, KEY);
		keep_in_wide_registers();
	}
#endif
	m = secret_room();
	read_exactly((uint8_t *)m.base + KEY_AT, KEY);
	if (strcmp(mode, "sandboxed") == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
		_exit(3);
	if (strcmp(mode, "expanded") == 0) {
		const struct aead_kernel *k = aead_select(NULL);

		memcpy(planted, (uint8_t *)m.base + KEY_AT, KEY);
		k->expand(m.base, planted);
		secret_wipe(planted, sizeof planted);
		secret_wipe((uint8_t *)m.base + KEY_AT, KEY);
	}
	if (strcmp(mode, "barred") == 0 && mprotect(m.base, m.size, PROT_NONE) != 0)
		_exit(3);
	if (strcmp(mode, "barred") == 0) {
		say('R');
		wait_order();
		mprotect(m.base, m.size, PROT_READ | PROT_WRITE);
		secret_wipe(m.base, m.size);
		say('W');
		wait_order();
		_exit(0);
	}
	live_and_wipe(m.base, m.size);
	return 3;
}

/* ---- running programs ---- */

struct child {
	pid_t pid;
	int in, out;
};

static struct child start(char *const argv[])
{
	posix_spawn_file_actions_t actions;
	int in[2], out[2];
	struct child c;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
	assert_int_equal(posix_spawn(&c.pid, argv[0], &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	c.in = in[1];
	c.out = out[0];
	return c;
}

static int finish(struct child *c)
{
	int status;

	close(c->in);
	close(c->out);
	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static char heard(const struct child *c)
{
	char what = 0;
	struct pollfd p = { .fd = c->out, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(read(c->out, &what, 1), 1);
	return what;
}

static struct child start_victim(const char *mode, const uint8_t key[KEY])
{
	char *argv[] = { (char *)"/proc/self/exe", (char *)"--victim", (char *)(uintptr_t)mode, NULL };
	const struct timespec settle = { .tv_nsec = 100000000 };
	struct child c = start(argv);

	assert_int_equal(write(c.in, key, KEY), KEY);
	assert_int_equal(heard(&c), 'R');
	nanosleep(&settle, NULL); /* "registers": until it sleeps with them */
	return c;
}

static void order_wipe(struct child *c)
{
	assert_int_equal(write(c->in, "w", 1), 1);
	assert_int_equal(heard(c), 'W');
}

static void hex(char *out, const uint8_t *in, size_t size)
{
	for (size_t i = 0; i < size; i++)
		snprintf(out + 2 * i, 3, "%02x", in[i]);
}

/* Feeds text, collects the output (NUL-terminated) and returns the exit code. */
static int run(char *const argv[], const char *text, char *output)
{
	struct child c = start(argv);
	size_t left = strlen(text), used = 0;
	ssize_t n;

	while (left > 0 && (n = write(c.in, text, left)) > 0) {
		text += n;
		left -= (size_t)n;
	}
	close(c.in);
	c.in = -1;
	while ((n = read(c.out, output + used, OUTPUT_MAX - 1 - used)) > 0)
		used += (size_t)n;
	output[used] = '\0';
	return finish(&c);
}

static char *output; /* one buffer for all: derived patterns are megabytes */

static int scan(pid_t pid, const char *patterns, bool inject)
{
	char number[16];
	char *with[] = { (char *)(uintptr_t)keyscan, (char *)"--inject", number, NULL };
	char *without[] = { (char *)(uintptr_t)keyscan, number, NULL };

	snprintf(number, sizeof number, "%d", (int)pid);
	return run(inject ? with : without, patterns, output);
}

static void make_key(uint8_t key[KEY], char line[2 * KEY + 16])
{
	assert_int_equal(getrandom(key, KEY, 0), KEY);
	hex(line, key, KEY);
	strcpy(line + (size_t)2 * KEY, " planted\n");
}

/* Found while it is there, clean after the wipe, and the victim lives through both. */
static void found_then_clean(const char *mode, const char *where)
{
	uint8_t key[KEY];
	char line[2 * KEY + 16];
	struct child c;

	make_key(key, line);
	c = start_victim(mode, key);
	assert_int_equal(scan(c.pid, line, true), FOUND);
	assert_non_null(strstr(output, "planted"));
	assert_non_null(strstr(output, where));
	assert_int_equal(scan(c.pid, line, true), FOUND);
	order_wipe(&c);
	assert_int_equal(scan(c.pid, line, true), CLEAN);
	assert_int_equal(write(c.in, "x", 1), 1);
	assert_int_equal(finish(&c), 0);
}

/* ---- tests ---- */

static void secret_memory_is_read_through_the_process_itself(void **state)
{
	(void)state;
	found_then_clean("secret", "secretmem");
}

static void secret_memory_without_injection_is_not_called_clean(void **state)
{
	uint8_t key[KEY];
	char line[2 * KEY + 16];
	struct child c;

	(void)state;
	make_key(key, line);
	c = start_victim("secret", key);
	assert_int_equal(scan(c.pid, line, false), BLIND);
	kill(c.pid, SIGKILL);
	finish(&c);
}

static void plain_memory(void **state)
{
	(void)state;
	found_then_clean("plain", "anonymous");
}

static void barred_secret_memory(void **state)
{
	(void)state;
	found_then_clean("barred", "secretmem");
}

/* SECCOMP_MODE_STRICT kills for everything but read, write and exit: the victim must survive memfd_create. */
static void a_filter_does_not_hide_it_nor_kill_the_process(void **state)
{
	(void)state;
	found_then_clean("sandboxed", "secretmem");
}

static void vector_registers(void **state)
{
	(void)state;
#if defined(__x86_64__)
	found_then_clean("registers", "vector registers");
#else
	skip();
#endif
}

static void registers_that_only_avx512_has(void **state)
{
	(void)state;
#if defined(__x86_64__)
	if (!__builtin_cpu_supports("avx512f"))
		skip();
	found_then_clean("wide-registers", "vector registers");
#else
	skip();
#endif
}

static void a_file_is_searched_over_its_chunks(void **state)
{
	char path[] = "/tmp/fallgate-keyscan-XXXXXX", line[2 * KEY + 16];
	char *argv[] = { (char *)(uintptr_t)keyscan, (char *)"--file", path, NULL };
	uint8_t key[KEY];
	int fd = mkstemp(path);

	(void)state;
	make_key(key, line);
	assert_true(fd >= 0);
	assert_int_equal(run(argv, line, output), BLIND); /* empty: nothing was looked at */
	assert_int_equal(ftruncate(fd, 3 << 20), 0);
	assert_int_equal(run(argv, line, output), CLEAN);
	assert_int_equal(pwrite(fd, key, PIECE, (1 << 20) - 3), PIECE); /* a piece across the boundary */
	assert_int_equal(run(argv, line, output), FOUND);
	assert_non_null(strstr(output, "planted"));
	close(fd);
	unlink(path);
	assert_int_equal(run(argv, line, output), BLIND);
}

static void another_key_is_not_found(void **state)
{
	uint8_t key[KEY], other[KEY];
	char line[2 * KEY + 16];
	struct child c;

	(void)state;
	make_key(other, line);
	make_key(key, line);
	c = start_victim("plain", other);
	assert_int_equal(scan(c.pid, line, true), CLEAN);
	kill(c.pid, SIGKILL);
	finish(&c);
}

static void no_pattern_is_no_clean_bill(void **state)
{
	(void)state;
	assert_int_equal(scan(getpid(), "", false), USAGE);
	assert_int_equal(scan(getpid(), "00000000000000000000000000000000 zeroes\n", false), USAGE);
	assert_int_equal(scan(getpid(), "not hex\n", false), USAGE);
}

static void a_process_that_is_not_there_is_not_clean(void **state)
{
	(void)state;
	assert_int_equal(scan(0x3ffffff, "0102030405060708090a0b0c0d0e0f10 x\n", false), BLIND);
}

static const char key_lines[] =
	"payload 603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4000102030405060708090a0b0c0d0e0f\n"
	"uuid 101112131415161718191a1b1c1d1e1f\ngen 1\nsalt 202122232425262728292a2b\n";

static void derive(const char *lines)
{
	char *argv[] = { (char *)(uintptr_t)keyscan, (char *)"--derive", NULL };

	assert_int_equal(run(argv, lines, output), 0);
}

static void kdf_key(uint8_t out[32], const char *lines, const char *label)
{
	uint8_t dek[32], context[20] = { 0 };
	unsigned byte;

	for (int i = 0; i < 32; i++) {
		sscanf(lines + 8 + 2 * i, "%2x", &byte);
		dek[i] = (uint8_t)byte;
	}
	for (int i = 0; i < 16; i++)
		context[i] = (uint8_t)(0x10 + i);
	context[16] = 1;
	hash_kdf(out, dek, label, context, sizeof context);
}

static void assert_state_is_listed(const struct aead_kernel *k, const uint8_t *state)
{
	char text[33];

	for (size_t at = 0; at + 16 <= k->key_state_size; at += 16) {
		hex(text, state + at, 16);
		assert_non_null(strstr(output, text));
	}
}

/* FIPS 197 A.3's key; the last line is AES-256's H for it, from an independent implementation. */
static void derivation_agrees_with_published_values(void **state)
{
	(void)state;
	derive(key_lines);
	assert_non_null(strstr(output, "9ba354118e6925afa51a8b5f2067fcde DEK round key[2]"));
	assert_non_null(strstr(output, "fe4890d1e6188d0b046df344706c631e DEK round key[14]"));
	assert_non_null(strstr(output, "e568f68194cf76d6174d4cc04310a854 DEK H^n[1]"));
}

static void derivation_agrees_with_the_kernels(void **state)
{
	static _Alignas(64) uint8_t master[AEAD_KEY_STATE_MAX], sub[AEAD_KEY_STATE_MAX];
	const uint8_t salt[AEAD_SALT_BYTES] = { 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b };
	uint8_t key[32];

	(void)state;
	derive(key_lines);
	for (const struct aead_kernel *const *k = aead_kernels(); *k != NULL; k++) {
		if (!(*k)->usable())
			continue;
		kdf_key(key, key_lines, "FGV1 node");
		memset(master, 0, sizeof master);
		memset(sub, 0, sizeof sub);
		(*k)->expand(master, key);
		aead_xaes_subkey(*k, sub, master, salt);
		assert_state_is_listed(*k, master);
		assert_state_is_listed(*k, sub);
	}
}

/* The whole chain: only the expanded state is in the victim, only the payload is known to the search. The payload is a fresh one:
 * the text above stands in the victim's own program file. */
static void an_expanded_domain_key_is_found_from_the_payload(void **state)
{
	char *patterns, lines[sizeof key_lines];
	uint8_t key[32];
	struct child c;

	(void)state;
	memcpy(lines, key_lines, sizeof lines);
	assert_int_equal(getrandom(key, sizeof key, 0), sizeof key);
	for (int i = 0; i < 64; i++)
		lines[8 + i] = "0123456789abcdef"[key[i / 2] >> (i % 2 ? 0 : 4) & 15];
	derive(lines);
	patterns = strdup(output);
	assert_non_null(patterns);
	kdf_key(key, lines, "FGV1 data");
	c = start_victim("expanded", key);
	assert_int_equal(scan(c.pid, patterns, true), FOUND);
	assert_non_null(strstr(output, "FGV1 data"));
	assert_null(strstr(output, "FGV1 log"));
	order_wipe(&c);
	if (scan(c.pid, patterns, true) != CLEAN)
		fail_msg("after the wipe: %.2000s", output);
	kill(c.pid, SIGKILL);
	finish(&c);
	free(patterns);
}

static bool may_trace(void)
{
	pid_t pid = fork();
	bool may;

	if (pid == 0) {
		pause();
		_exit(0);
	}
	may = geteuid() == 0 && ptrace(PTRACE_SEIZE, pid, 0, (void *)(1ul << 21)) == 0;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return may;
}

static bool has_secret_memory(void)
{
	struct secret_memory m;
	bool has = secret_memory_alloc(&m, 4096) == 0 && m.kind == SECRET_MEMORY_MEMFD_SECRET;

	secret_memory_free(&m);
	return has;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest plain[] = {
		cmocka_unit_test(plain_memory),
		cmocka_unit_test(vector_registers),
		cmocka_unit_test(registers_that_only_avx512_has),
		cmocka_unit_test(a_file_is_searched_over_its_chunks),
		cmocka_unit_test(another_key_is_not_found),
		cmocka_unit_test(no_pattern_is_no_clean_bill),
		cmocka_unit_test(a_process_that_is_not_there_is_not_clean),
		cmocka_unit_test(derivation_agrees_with_published_values),
		cmocka_unit_test(derivation_agrees_with_the_kernels),
	};
	const struct CMUnitTest secret[] = {
		cmocka_unit_test(secret_memory_is_read_through_the_process_itself),
		cmocka_unit_test(secret_memory_without_injection_is_not_called_clean),
		cmocka_unit_test(barred_secret_memory),
		cmocka_unit_test(a_filter_does_not_hide_it_nor_kill_the_process),
		cmocka_unit_test(an_expanded_domain_key_is_found_from_the_payload),
	};
	int failed;

	if (argc == 3 && strcmp(argv[1], "--victim") == 0)
		return victim(argv[2]);
	if (argc != 2)
		return USAGE;
#if defined(__SANITIZE_ADDRESS__)
	fputs("skipped: a sanitizer's shadow memory is not searched\n", stderr);
	return 77;
#endif
	if (!may_trace()) {
		fputs("skipped: no right to trace with seccomp suspended (root and CAP_SYS_ADMIN are needed)\n", stderr);
		return 77;
	}
	keyscan = argv[1];
	output = malloc(OUTPUT_MAX);
	signal(SIGPIPE, SIG_IGN);
	failed = cmocka_run_group_tests(plain, NULL, NULL);
	if (!has_secret_memory())
		fputs("skipped: 5 tests, the kernel has no memfd_secret (secretmem.enable=1)\n", stderr);
	else
		failed += cmocka_run_group_tests(secret, NULL, NULL);
	free(output);
	return failed;
}
