/* Secret memory: nobody else gets at it, nothing runs over its ends, and a page from a peer is what it claims to be. Run twice:
 * as the kernel allows, and with FALLGATE_SECRET_MEMORY=memfd. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/secret_memory.h"

enum { PAGE = 4096 };

static int open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

/* True if a child that writes there dies of it. */
static bool write_kills(volatile char *at)
{
	struct rlimit none = { 0, 0 };
	int status;
	pid_t child = fork();

	if (child == 0) {
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		setrlimit(RLIMIT_CORE, &none);
		*at = 1;
		_exit(0);
	}
	waitpid(child, &status, 0);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

/* The same in this very process, for what DONTFORK takes away from children: the kernel refuses to fill it. */
static bool kernel_can_write(char *at)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	bool can = read(zero, at, 1) == 1;

	close(zero);
	return can;
}

static void a_child_does_not_inherit_it(void **state)
{
	struct secret_memory m;

	(void)state;
	assert_int_equal(secret_memory_alloc(&m, PAGE), 0);
	assert_true(write_kills(m.base));
	secret_memory_free(&m);
}

static void a_page_that_its_sender_could_shrink_is_refused(void **state)
{
	static const int seals[] = { 0,
				     F_SEAL_SHRINK,
				     F_SEAL_GROW | F_SEAL_SEAL,
				     F_SEAL_SHRINK | F_SEAL_SEAL,
				     F_SEAL_SHRINK | F_SEAL_GROW,
				     F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_WRITE };
	struct secret_memory m;

	(void)state;
	for (size_t i = 0; i < sizeof seals / sizeof seals[0]; i++) {
		int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

		assert_int_equal(ftruncate(fd, PAGE), 0);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		assert_int_equal(secret_page_attach(&m, fd), ERR_PROTOCOL);
		assert_null(m.base);
		close(fd);
	}
}

static void other_descriptors_are_no_pages(void **state)
{
	char path[] = "/tmp/fallgate-test-XXXXXX";
	struct secret_memory m;
	int fds[2], fd = mkstemp(path);

	(void)state;
	unlink(path);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	assert_int_equal(secret_page_attach(&m, fd), ERR_PROTOCOL); /* a file: its owner can read it elsewhere */
	close(fd);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(secret_page_attach(&m, fds[0]), ERR_PROTOCOL);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(secret_page_attach(&m, -1), ERR_PROTOCOL);
	for (int pages = 0; pages <= 2; pages += 2) {
		fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		assert_int_equal(ftruncate(fd, pages * PAGE), 0);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
		assert_int_equal(secret_page_attach(&m, fd), ERR_PROTOCOL);
		close(fd);
	}
}

static void the_kind_is_what_the_kernel_and_the_environment_allow(void **state)
{
	const char *forced = getenv("FALLGATE_SECRET_MEMORY");
	int probe = forced ? -1 : (int)syscall(SYS_memfd_secret, O_CLOEXEC);
	struct secret_memory m;

	(void)state;
	assert_int_equal(secret_memory_alloc(&m, 1), 0);
	assert_int_equal(m.kind, probe >= 0 ? SECRET_MEMORY_MEMFD_SECRET : SECRET_MEMORY_LOCKED_MEMFD);
	assert_string_equal(secret_memory_kind_name(m.kind), probe >= 0 ? "memfd_secret" : "locked-memfd");
	assert_string_equal(secret_memory_kind_name(SECRET_MEMORY_NONE), "none");
	assert_string_equal(secret_memory_kind_name((enum secret_memory_kind)3), "none");
	if (probe >= 0)
		close(probe);
	secret_memory_free(&m);
}

static void it_is_zeroed_page_aligned_and_fenced(void **state)
{
	static const size_t sizes[] = { 1, PAGE - 1, PAGE, PAGE + 1, 70000 };

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct secret_memory m;
		char *base;

		assert_int_equal(secret_memory_alloc(&m, sizes[i]), 0);
		base = m.base;
		assert_int_equal((uintptr_t)base % PAGE, 0);
		assert_int_equal(m.size, (sizes[i] + PAGE - 1) / PAGE * PAGE);
		for (size_t at = 0; at < m.size; at++)
			assert_int_equal(base[at], 0);
		memset(base, 0xa5, m.size);
		assert_false(kernel_can_write(base - 1));
		assert_false(kernel_can_write(base + m.size));
		assert_true(write_kills(base - 1));
		assert_true(write_kills(base + m.size));
		secret_memory_free(&m);
		assert_null(m.base);
		assert_int_equal(m.size, 0);
		assert_false(kernel_can_write(base));
		secret_memory_free(&m); /* zeroed: nothing happens */
	}
}

/* The line of /proc/self/smaps that begins with `key`, of the mapping at base. */
static bool smaps_line(const void *base, const char *key, char *out, size_t size)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512], start[32];
	bool here = false, found = false;

	snprintf(start, sizeof start, "%lx-", (unsigned long)(uintptr_t)base);
	while (!found && fgets(line, sizeof line, f) != NULL) {
		if (strstr(line, "-") != NULL && strchr(line, ':') > strchr(line, '-'))
			here = strncmp(line, start, strlen(start)) == 0;
		found = here && strncmp(line, key, strlen(key)) == 0;
	}
	fclose(f);
	snprintf(out, size, "%s", found ? line : "");
	return found;
}

static void it_is_locked_undumpable_and_has_no_descriptor(void **state)
{
	int before = open_descriptors();
	struct secret_memory m;
	char line[512];

	(void)state;
	assert_int_equal(secret_memory_alloc(&m, 3 * PAGE), 0);
	assert_int_equal(open_descriptors(), before);
	assert_true(smaps_line(m.base, "VmFlags:", line, sizeof line));
	assert_non_null(strstr(line, " lo")); /* locked */
	assert_non_null(strstr(line, " dd")); /* not in dumps */
	assert_non_null(strstr(line, " dc")); /* not copied at fork */
	secret_memory_free(&m);
	assert_int_equal(open_descriptors(), before);
}

static void a_page_goes_from_one_mapping_to_the_other(void **state)
{
	struct secret_memory mine, theirs;
	int before = open_descriptors();
	int fd;

	(void)state;
	assert_int_equal(secret_page_create(&mine, &fd), 0);
	assert_int_equal(mine.size, PAGE);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(secret_page_attach(&theirs, fd), 0);
	assert_int_equal(theirs.kind, mine.kind);
	assert_ptr_not_equal(theirs.base, mine.base);
	assert_int_not_equal(ftruncate(fd, 0), 0);
	assert_int_not_equal(ftruncate(fd, 2 * PAGE), 0);
	close(fd);
	memcpy(theirs.base, "the key", 8);
	secret_page_detach(&theirs); /* leaves the content */
	assert_null(theirs.base);
	assert_string_equal(mine.base, "the key");
	secret_memory_free(&mine);
	assert_int_equal(open_descriptors(), before);
}

static void a_wiped_page_is_wiped_for_both(void **state)
{
	struct secret_memory mine, theirs;
	int fd;

	(void)state;
	assert_int_equal(secret_page_create(&mine, &fd), 0);
	assert_int_equal(secret_page_attach(&theirs, fd), 0);
	memcpy(mine.base, "the key", 8);
	secret_memory_free(&mine);
	for (int i = 0; i < PAGE; i++)
		assert_int_equal(((char *)theirs.base)[i], 0);
	secret_memory_free(&theirs);
	close(fd);
}

static void too_much_is_refused_without_a_leak(void **state)
{
	int before = open_descriptors();
	struct secret_memory m;

	(void)state;
	assert_int_equal(secret_memory_alloc(&m, 0), ERR_NOMEM);
	assert_int_equal(secret_memory_alloc(&m, SIZE_MAX), ERR_NOMEM);
	assert_int_equal(secret_memory_alloc(&m, SIZE_MAX / 4), ERR_NOMEM);
	assert_null(m.base);
	assert_int_equal(open_descriptors(), before);
}

/* As an ordinary user, in a child: the limit is for those without CAP_IPC_LOCK. */
static int alloc_under_limit(void)
{
	struct rlimit limit = { 16 * PAGE, 16 * PAGE };
	struct secret_memory m;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0))
		return 77;
	if (secret_memory_alloc(&m, 8 * PAGE) != 0)
		return 1;
	secret_memory_free(&m);
	return secret_memory_alloc(&m, 32 * PAGE) == ERR_NOMEM && m.base == NULL ? 0 : 2;
}

static void a_memory_limit_is_an_error_not_a_crash(void **state)
{
	int status;
	pid_t child = fork();

	(void)state;
	if (child == 0)
		_exit(alloc_under_limit());
	waitpid(child, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_does_not_inherit_it),
		cmocka_unit_test(a_page_that_its_sender_could_shrink_is_refused),
		cmocka_unit_test(other_descriptors_are_no_pages),
		cmocka_unit_test(the_kind_is_what_the_kernel_and_the_environment_allow),
		cmocka_unit_test(it_is_zeroed_page_aligned_and_fenced),
		cmocka_unit_test(it_is_locked_undumpable_and_has_no_descriptor),
		cmocka_unit_test(a_page_goes_from_one_mapping_to_the_other),
		cmocka_unit_test(a_wiped_page_is_wiped_for_both),
		cmocka_unit_test(too_much_is_refused_without_a_leak),
		cmocka_unit_test(a_memory_limit_is_an_error_not_a_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
