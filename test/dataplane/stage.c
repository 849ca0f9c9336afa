/* The stage's machinery. */
#include "stage.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <libnbd.h>

#include "base/error.h"
#include "hal/secret_memory.h"

enum { LISTEN_FD = 3, SERVER_CHANNEL_FD = 4, CREATOR_CHANNEL_FD = 3, PAD = 0x5a };

const char *stage_bin;

bool stage_begin(int argc, char **argv)
{
	if (argc < 2)
		return false;
	stage_bin = argv[1];
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return true;
}

bool stage_has_server(size_t tests)
{
	const char *preload = getenv("FALLGATE_TEST_PRELOAD");

	if (preload == NULL || strcmp(preload, "none") != 0)
		return true;
	fprintf(stderr, "skipped: %zu tests: this compiler's sanitizer cannot be loaded into nbdkit\n", tests);
	return false;
}

static void show_log(struct stage *s)
{
	char *log = stage_log(s);

	print_error("the child's log:\n%s\n", log);
	free(log);
}

void stage_make(struct stage *s)
{
	memset(s, 0, sizeof *s);
	s->supervisor.fd = s->hsm.fd = -1;
	s->generation = 7;
	s->size = STAGE_SIZE;
	snprintf(s->dir, sizeof s->dir, "/tmp/fallgate-stage-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->backing, sizeof s->backing, "%s/backing", s->dir);
	snprintf(s->socket, sizeof s->socket, "%s/nbd.sock", s->dir);
	snprintf(s->log, sizeof s->log, "%s/log", s->dir);
	assert_int_equal(getrandom(s->uuid, sizeof s->uuid, 0), sizeof s->uuid);
	assert_int_equal(getrandom(s->fingerprint, sizeof s->fingerprint, 0), sizeof s->fingerprint);
}

void stage_end(struct stage *s)
{
	stage_kill(s);
	if (getenv("FALLGATE_TEST_LOG") != NULL)
		show_log(s);
	channel_close(&s->hsm);
	unlink(s->backing);
	unlink(s->socket);
	unlink(s->log);
	rmdir(s->dir);
}

/* ---- programs ---- */

static void block_all_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

static void keep(int fd, int as)
{
	if (dup2(fd, as) != as)
		_exit(120);
}

/* In the child, between fork and exec: descriptors as the supervisor gives them, everything else closed. */
static void take_places(struct stage *s, int channel, int channel_as, int listener)
{
	int log = open(s->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	int null = open("/dev/null", O_RDWR);
	int high_channel = fcntl(channel, F_DUPFD, 100), high_listener = listener >= 0 ? fcntl(listener, F_DUPFD, 100) : -1;

	keep(null, 0);
	keep(null, 1);
	keep(log, 2);
	if (high_listener >= 0)
		keep(high_listener, LISTEN_FD);
	keep(high_channel, channel_as);
	close_range((unsigned)channel_as + 1, ~0u, 0);
	block_all_signals();
}

static void exec_server(void)
{
	char pid[16], plugin[256];
	const char *preload = getenv("FALLGATE_TEST_PRELOAD"), *memory = getenv("FALLGATE_SECRET_MEMORY");
	const char *tsan = getenv("TSAN_OPTIONS");

	clearenv();
	setenv("PATH", "/usr/bin:/bin:/usr/sbin:/sbin", 1);
	setenv("LD_BIND_NOW", "1", 1);
	setenv("GLIBC_TUNABLES", "glibc.malloc.perturb=90", 1);
	if (memory != NULL)
		setenv("FALLGATE_SECRET_MEMORY", memory, 1);
	if (preload != NULL) {
		setenv("LD_PRELOAD", preload, 1);
		setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
		setenv("TSAN_OPTIONS", tsan != NULL ? tsan : "", 1);
	}
	snprintf(pid, sizeof pid, "%d", (int)getpid());
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", pid, 1);
	snprintf(plugin, sizeof plugin, "%s/fallgate-nbd.so", stage_bin);
	execlp("nbdkit", "nbdkit", "-f", "-t", "8", plugin, "fd=4", "name=stage", (char *)NULL);
	_exit(121);
}

static void exec_dataplane(const char *const *arguments)
{
	char path[256];
	const char *all[16] = { path };

	snprintf(path, sizeof path, "%s/fallgate-dataplane", stage_bin);
	for (int i = 0; i < 14 && arguments[i] != NULL; i++)
		all[i + 1] = arguments[i];
	execv(path, (char *const *)(uintptr_t)all);
	_exit(121);
}

static void take_hello(struct stage *s)
{
	struct message m;

	stage_next(s, MSG_HELLO, &m, PATIENCE_MS);
	assert_string_equal(m.body.hello.version, FALLGATE_VERSION);
	assert_int_equal(m.body.hello.pid, s->child);
}

static int listen_on(struct stage *s)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, s->socket);
	unlink(s->socket);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(listen(fd, 16), 0);
	return fd;
}

/* arguments NULL: the server. */
static void start(struct stage *s, const char *const *arguments)
{
	bool server = arguments == NULL;
	int pair[2], listener = server ? listen_on(s) : -1;

	assert_int_equal(s->child, 0);
	assert_int_equal(channel_pair(pair), 0);
	s->child = fork();
	assert_true(s->child >= 0);
	if (s->child == 0) {
		take_places(s, pair[1], server ? SERVER_CHANNEL_FD : CREATOR_CHANNEL_FD, listener);
		if (server)
			exec_server();
		exec_dataplane(arguments);
	}
	close(pair[1]);
	if (listener >= 0)
		close(listener);
	channel_init(&s->supervisor, pair[0], ROLE_SUPERVISOR, ROLE_DATAPLANE);
	take_hello(s);
}

void stage_start_creator(struct stage *s)
{
	start(s, (const char *[]){ "create", NULL });
}

void stage_start_job(struct stage *s)
{
	start(s, (const char *[]){ "offline", NULL });
}

void stage_start_with(struct stage *s, const char *const *arguments)
{
	start(s, arguments);
}

void stage_start_server(struct stage *s)
{
	start(s, NULL);
}

void sleep_ms(long ms)
{
	const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

int stage_wait_end(struct stage *s, int ms)
{
	int status;

	for (int waited = 0; waited < ms; waited += 2) {
		if (waitpid(s->child, &status, WNOHANG) == s->child) {
			s->child = 0;
			channel_close(&s->supervisor);
			return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
		}
		sleep_ms(2);
	}
	fail_msg("process %d did not end within %d ms", (int)s->child, ms);
	return 0;
}

void stage_kill(struct stage *s)
{
	if (s->child > 0) {
		kill(s->child, SIGKILL);
		waitpid(s->child, NULL, 0);
	}
	s->child = 0;
	channel_close(&s->supervisor);
}

char *stage_log(struct stage *s)
{
	char *text = calloc(1, 65536);
	int fd = open(s->log, O_RDONLY | O_CLOEXEC);

	assert_non_null(text);
	if (fd >= 0 && read(fd, text, 65535) < 0)
		text[0] = '\0';
	if (fd >= 0)
		close(fd);
	return text;
}

/* ---- the supervisor's part ---- */

uint64_t boottime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void stage_send(struct stage *s, struct message *m, const int *fds, unsigned count)
{
	assert_int_equal(channel_send(&s->supervisor, m, fds, count), 0);
}

bool stage_next_is(struct stage *s, enum message_type wanted, struct message *m, int ms)
{
	uint64_t end = boottime_ns() + (uint64_t)ms * 1000000u;
	int fds[CHANNEL_FDS_MAX], r;
	unsigned count;

	do {
		int left = (int)((int64_t)(end - boottime_ns()) / 1000000);

		r = channel_receive_wait(&s->supervisor, m, fds, &count, NULL, left > 0 ? left : 0);
	} while (r == 1 && m->type == MSG_DP_STATS && wanted != MSG_DP_STATS);
	return r == 1 && m->type == wanted;
}

void stage_next(struct stage *s, enum message_type wanted, struct message *m, int ms)
{
	if (stage_next_is(s, wanted, m, ms))
		return;
	show_log(s);
	fail_msg("%s did not come; the last message was of type %u", message_row(wanted)->name, m->type);
}

void stage_deadlines(struct stage *s, uint64_t heartbeat_in_ms, uint64_t proof_in_ms)
{
	struct message m;
	uint64_t now = boottime_ns();

	message_init(&m, MSG_DP_DEADLINES, 0);
	m.body.dp_deadlines.heartbeat_ns = now + heartbeat_in_ms * 1000000u;
	m.body.dp_deadlines.proof_ns = now + proof_in_ms * 1000000u;
	stage_send(s, &m, NULL, 0);
}

int stage_open_backing(struct stage *s)
{
	int fd = open(s->backing, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

void stage_order_create(struct stage *s, bool force)
{
	struct message m;
	struct msg_dp_create *c = &m.body.dp_create;
	int fd = stage_open_backing(s);

	message_init(&m, MSG_DP_CREATE, 41);
	strcpy(c->name, "stage");
	memcpy(c->uuid, s->uuid, sizeof c->uuid);
	c->size = s->size;
	c->force = force;
	c->kek_type = KEK_AES_KW;
	memcpy(c->fingerprint, s->fingerprint, sizeof c->fingerprint);
	strcpy(c->kek_label, "kek");
	strcpy(c->token, "token");
	c->now = 1700000000;
	stage_send(s, &m, &fd, 1);
	close(fd);
}

struct msg_dp_attach stage_pins(const struct stage *s)
{
	struct msg_dp_attach a = { .name = "stage", .gen_no = 1, .size = s->size, .read_only = s->read_only };

	memcpy(a.uuid, s->uuid, sizeof a.uuid);
	memcpy(a.kcv, s->kcv, sizeof a.kcv);
	memcpy(a.fingerprint, s->fingerprint, sizeof a.fingerprint);
	return a;
}

void stage_attach_as(struct stage *s, const struct msg_dp_attach *attach, struct message *ready)
{
	struct message m;
	int fd = stage_open_backing(s);

	message_init(&m, MSG_DP_ATTACH, 43);
	m.body.dp_attach = *attach;
	stage_send(s, &m, &fd, 1);
	close(fd);
	stage_next(s, MSG_DP_READY, ready, PATIENCE_MS);
	assert_int_equal(ready->nonce, 43);
}

void stage_attach(struct stage *s, struct message *ready)
{
	struct msg_dp_attach pins = stage_pins(s);

	stage_attach_as(s, &pins, ready);
}

void stage_give_ticket(struct stage *s)
{
	struct message m;
	int pair[2];

	channel_close(&s->hsm);
	assert_int_equal(channel_pair(pair), 0);
	assert_int_equal(getrandom(&s->ticket, sizeof s->ticket, 0), sizeof s->ticket);
	message_init(&m, MSG_DP_TICKET, 47);
	m.body.dp_ticket = (struct msg_dp_ticket){
		.ticket = s->ticket, .generation = s->generation, .hsm_pid = (int32_t)getpid(), .hsm_uid = (uint32_t)getuid()
	};
	stage_send(s, &m, &pair[1], 1);
	close(pair[1]);
	channel_init(&s->hsm, pair[0], ROLE_HSM, ROLE_DATAPLANE);
}

void stage_lock(struct stage *s, uint8_t cause)
{
	struct message m;

	message_init(&m, MSG_DP_LOCK, 53);
	m.body.dp_lock.cause = cause;
	m.body.dp_lock.generation = s->generation + 1;
	stage_send(s, &m, NULL, 0);
}

/* ---- the hsm's part ---- */

void stage_hsm_takes(struct stage *s, struct message *question, int *page_fd)
{
	struct channel_peer peer;
	int fds[CHANNEL_FDS_MAX];
	unsigned count;

	assert_int_equal(channel_receive_wait(&s->hsm, question, fds, &count, &peer, PATIENCE_MS), 1);
	assert_int_equal(count, 1);
	assert_int_equal(peer.pid, s->child);
	assert_int_equal(question->body.page.ticket, s->ticket);
	assert_int_equal(question->body.page.gen_no, 1);
	assert_string_equal(question->body.page.volume, "stage");
	*page_fd = fds[0];
}

void stage_hsm_answers(struct stage *s, const struct message *question, int page_fd, struct msg_page_done done)
{
	struct message m;

	close(page_fd);
	message_init(&m, MSG_PAGE_DONE, question->nonce);
	m.body.page_done = done;
	assert_int_equal(channel_send(&s->hsm, &m, NULL, 0), 0);
}

static void turn(uint8_t *out, const uint8_t *in)
{
	for (int i = 0; i < PAYLOAD_BYTES; i++)
		out[i] = in[i] ^ PAD;
}

void stage_hsm_wraps(struct stage *s)
{
	struct msg_page_done done = { .ticket = s->ticket, .verdict = VERDICT_GOOD, .wrapped_size = PAYLOAD_BYTES };
	uint8_t *page, noise[32];
	struct secret_memory mapped;
	struct message m;
	int fd;

	stage_hsm_takes(s, &m, &fd);
	assert_int_equal(m.type, MSG_PAGE_WRAP);
	assert_int_equal(secret_page_attach(&mapped, fd), 0);
	page = mapped.base;
	assert_int_equal(getrandom(noise, sizeof noise, 0), sizeof noise);
	for (int i = 0; i < 32; i++)
		page[i] ^= noise[i];
	memcpy(s->payload, page, PAYLOAD_BYTES);
	turn(done.wrapped, page);
	secret_page_detach(&mapped);
	stage_hsm_answers(s, &m, fd, done);
}

void stage_hsm_unwraps(struct stage *s)
{
	struct msg_page_done done = { .ticket = s->ticket, .verdict = VERDICT_GOOD };
	struct secret_memory mapped;
	struct message m;
	int fd;

	stage_hsm_takes(s, &m, &fd);
	assert_int_equal(m.type, MSG_PAGE_UNWRAP);
	assert_int_equal(m.body.page.wrapped_size, PAYLOAD_BYTES);
	assert_int_equal(secret_page_attach(&mapped, fd), 0);
	turn(mapped.base, m.body.page.wrapped);
	secret_page_detach(&mapped);
	stage_hsm_answers(s, &m, fd, done);
}

/* ---- the usual way ---- */

void stage_create(struct stage *s)
{
	struct message m;

	stage_start_creator(s);
	stage_order_create(s, false);
	stage_give_ticket(s);
	stage_hsm_wraps(s);
	stage_next(s, MSG_DP_CREATED, &m, PATIENCE_MS);
	assert_string_equal(m.body.dp_created.text, "");
	assert_int_equal(m.body.dp_created.error, 0);
	assert_int_equal(m.body.dp_created.gen_no, 1);
	assert_int_equal(m.nonce, 41);
	assert_int_equal(m.body.dp_created.size, s->size);
	memcpy(s->kcv, m.body.dp_created.kcv, sizeof s->kcv);
	assert_int_equal(stage_wait_end(s, PATIENCE_MS), 0);
}

void stage_serve(struct stage *s)
{
	struct message m;

	stage_start_server(s);
	stage_attach(s, &m);
	assert_string_equal(m.body.dp_ready.text, "");
	assert_true(m.body.dp_ready.ok);
	assert_int_equal(m.body.dp_ready.size, s->size);
}

void stage_unlock(struct stage *s)
{
	struct message m;

	stage_deadlines(s, 60000, 60000);
	stage_give_ticket(s);
	stage_hsm_unwraps(s);
	stage_next(s, MSG_DP_OPENED, &m, PATIENCE_MS);
	assert_string_equal(m.body.dp_opened.text, "");
	assert_int_equal(m.body.dp_opened.error, 0);
	assert_int_equal(m.body.dp_opened.verdict, VERDICT_GOOD);
	assert_int_equal(m.body.dp_opened.generation, s->generation);
	assert_int_equal(m.nonce, 47);
	assert_int_equal(m.body.dp_opened.size, s->size);
	assert_int_not_equal(m.body.dp_opened.memory, SECRET_MEMORY_NONE);
	assert_true(m.body.dp_opened.kernel[0] != '\0');
}

struct nbd_handle *stage_client(struct stage *s)
{
	struct nbd_handle *nbd = nbd_create();

	assert_non_null(nbd);
	nbd_set_strict_mode(nbd, 0); /* requests that do not make sense are tried, too */
	assert_int_equal(nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION), 0);
	if (nbd_connect_unix(nbd, s->socket) != 0)
		fail_msg("a client cannot connect: %s", nbd_get_error());
	return nbd;
}
