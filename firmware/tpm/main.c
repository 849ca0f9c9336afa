/* fallgate-tpm: one question to the TPM, and its end. It may hang with the TPM: the supervisor kills it at its deadline. What
 * must hold: the TPM is open and the filter stands before the first byte from outside; a PIN is in locked memory here or in the
 * page that goes to the hsm, and nowhere else that outlives this process; a PIN that was sealed for one KEK is given out for no
 * other. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/sandbox.h"
#include "hal/secret_memory.h"
#include "hal/tpm.h"
#include "ipc/channel.h"
#include "ipc/message.h"

/* What is sealed: the KEK's name, then the PIN. */
enum { SUPERVISOR_FD = 3, COUNTER_TRIES = 8, PIN_ROOM = TPM_SECRET_MAX - NAME_MAX_BYTES };

_Static_assert((unsigned)SEALED_MAX_BYTES == (unsigned)TPM_SEALED_MAX, "a blob fits its message");

struct payload {
	char kek[NAME_MAX_BYTES];
	char pin[PIN_ROOM];
};

struct asked {
	struct channel supervisor;
	struct tpm *tpm; /* NULL: it could not be opened, and why */
	int open_error;
	char why[TPM_WHY_BYTES];
};

/* File-level: locked as a whole, wiped before the end. */
static struct {
	struct payload payload;
	uint8_t line[PIN_ROOM + 2]; /* as it is read; one byte more than may be */
	uint8_t unsealed[TPM_SECRET_MAX];
} secrets;

_Noreturn static void leave(struct asked *a, int code)
{
	secret_wipe(&secrets, sizeof secrets);
	tpm_close(a->tpm);
	_exit(code);
}

/* ---- sealing ---- */

static int read_line(int fd, size_t *size, const char **wrong)
{
	const uint8_t *newline;
	size_t got = 0;
	ssize_t n = 1;

	while (got < sizeof secrets.line && n != 0 && memchr(secrets.line, '\n', got) == NULL) {
		n = read(fd, secrets.line + got, sizeof secrets.line - got);
		if (n < 0 && errno != EINTR) {
			*wrong = "the PIN cannot be read";
			return ERR_IO;
		}
		got += n > 0 ? (size_t)n : 0;
	}
	newline = memchr(secrets.line, '\n', got);
	*size = newline != NULL ? (size_t)(newline - secrets.line) : got;
	if (*size > 0 && secrets.line[*size - 1] == '\r')
		(*size)--;
	*wrong = *size == 0                                  ? "the PIN is empty"
		 : *size > PIN_ROOM                          ? "the PIN is longer than the 96 bytes that a TPM seals"
		 : memchr(secrets.line, '\0', *size) != NULL ? "the PIN has a NUL in it"
							     : NULL;
	return *wrong == NULL ? 0 : ERR_USAGE;
}

static int seal(struct asked *a, const struct msg_tp_request *q, int fd, struct msg_tp_reply *r)
{
	const char *wrong = "no PIN came with the order";
	size_t pin_size = 0, size = 0;
	int e = fd >= 0 ? read_line(fd, &pin_size, &wrong) : ERR_PROTOCOL;

	if (e != 0) {
		snprintf(a->why, sizeof a->why, "%s", wrong);
		return e;
	}
	strcpy(secrets.payload.kek, q->kek);
	memcpy(secrets.payload.pin, secrets.line, pin_size);
	e = tpm_seal(a->tpm, q->pcrs, &secrets.payload, NAME_MAX_BYTES + pin_size, r->sealed, &size, a->why);
	r->sealed_size = e == 0 ? (uint16_t)size : 0;
	return e;
}

/* ---- unsealing ---- */

/* As a PIN file would have it: a line. */
static int to_page(const uint8_t *pin, size_t size, int *fd)
{
	struct secret_memory page;
	int e = secret_page_create(&page, fd);

	if (e != 0)
		return e;
	memcpy(page.base, pin, size);
	((uint8_t *)page.base)[size] = '\n';
	secret_page_detach(&page);
	return 0;
}

static int unseal(struct asked *a, const struct msg_tp_request *q, int *page_fd)
{
	size_t size = 0;
	int e = tpm_unseal(a->tpm, q->sealed, q->sealed_size, secrets.unsealed, &size, a->why);

	if (e != 0)
		return e;
	if (size <= NAME_MAX_BYTES || memcmp(secrets.unsealed, q->kek, strlen(q->kek) + 1) != 0) {
		snprintf(a->why, sizeof a->why, "what was sealed is the PIN of another KEK");
		return ERR_CORRUPT;
	}
	e = to_page(secrets.unsealed + NAME_MAX_BYTES, size - NAME_MAX_BYTES, page_fd);
	if (e != 0)
		snprintf(a->why, sizeof a->why, "no locked memory for the PIN: raise RLIMIT_MEMLOCK (LimitMEMLOCK=)");
	return e;
}

/* ---- one question ---- */

static int look(struct asked *a, const struct msg_tp_request *q, struct msg_tp_reply *r)
{
	struct tpm_facts facts;
	int e = tpm_look(a->tpm, q->pcrs, &facts, a->why);

	_Static_assert(sizeof facts.kind == sizeof r->kind && sizeof facts.bank == sizeof r->bank, "they fit");
	memcpy(r->kind, facts.kind, sizeof r->kind);
	memcpy(r->bank, facts.bank, sizeof r->bank);
	r->zero = facts.zero;
	return e;
}

static int count(struct asked *a, const struct msg_tp_request *q, struct msg_tp_reply *r)
{
	int e = ERR_EXISTS;

	r->index = q->index;
	if (q->verb == TP_COUNTER_READ)
		return tpm_counter_read(a->tpm, q->index, &r->counter, a->why);
	if (q->verb == TP_COUNTER_STEP)
		return tpm_counter_step(a->tpm, q->index, q->to, &r->counter, a->why);
	for (uint32_t i = 0; i < COUNTER_TRIES && e == ERR_EXISTS; i++) {
		r->index = q->index + i;
		e = tpm_counter_make(a->tpm, r->index, &r->counter, a->why);
	}
	return e;
}

static int do_it(struct asked *a, const struct msg_tp_request *q, int fd, struct msg_tp_reply *r, int *page_fd)
{
	if (a->tpm == NULL)
		return a->open_error;
	switch ((enum tp_verb)q->verb) {
	case TP_LOOK:
		return look(a, q, r);
	case TP_SEAL:
		return seal(a, q, fd, r);
	case TP_UNSEAL:
		return unseal(a, q, page_fd);
	case TP_COUNTER_MAKE:
	case TP_COUNTER_READ:
	case TP_COUNTER_STEP:
		return count(a, q, r);
	case TP_VERB_COUNT:
		break;
	}
	return ERR_PROTOCOL;
}

_Noreturn static void answer(struct asked *a, const struct message *m, int fd)
{
	struct message out;
	int page_fd = -1, e;

	message_init(&out, MSG_TP_REPLY, m->nonce);
	e = do_it(a, &m->body.tp_request, fd, &out.body.tp_reply, &page_fd);
	out.body.tp_reply.error = e;
	if (e != 0)
		snprintf(out.body.tp_reply.text, sizeof out.body.tp_reply.text, "%s", a->why[0] != '\0' ? a->why : error_text(e));
	leave(a, channel_send(&a->supervisor, &out, &page_fd, page_fd >= 0 ? 1 : 0) == 0 ? 0 : 70);
}

_Noreturn static void serve(struct asked *a)
{
	struct pollfd p = { .fd = SUPERVISOR_FD, .events = POLLIN };
	struct message m;
	int fds[CHANNEL_FDS_MAX], r;
	unsigned count = 0;

	do {
		poll(&p, 1, -1);
		r = channel_receive(&a->supervisor, &m, fds, &count, NULL);
	} while (r == ERR_BUSY);
	if (r == 0)
		leave(a, 0);
	if (r < 0 || m.type != MSG_TP_REQUEST)
		fatal("the supervisor's channel: %s", error_text(r < 0 ? r : ERR_PROTOCOL));
	answer(a, &m, count == 1 ? fds[0] : -1);
}

static void say_hello(struct asked *a)
{
	struct message m;

	message_init(&m, MSG_HELLO, 0);
	snprintf(m.body.hello.version, sizeof m.body.hello.version, "%s", FALLGATE_VERSION);
	m.body.hello.pid = (int32_t)getpid();
	if (channel_send(&a->supervisor, &m, NULL, 0) != 0)
		leave(a, 0);
}

static const char *read_arguments(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("fallgate-tpm %s\n", FALLGATE_VERSION);
		exit(0);
	}
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		printf("usage: fallgate-tpm WHERE\nStarted by fallgated with a channel on descriptor 3. See fallgate-tpm(8).\n");
		exit(0);
	}
	if (argc == 2 && tpm_where_good(argv[1]))
		return argv[1];
	fprintf(stderr, "fallgate-tpm: no way to a TPM was named that this build has; see fallgate-tpm --help\n");
	exit(error_exit_code(ERR_USAGE));
}

int main(int argc, char **argv)
{
	struct asked a = { .tpm = NULL };
	const char *where;

	log_open("fallgate-tpm", LOG_LEVEL_INFO);
	if (sandbox_harden() != 0)
		fatal("this kernel cannot take away privileges (no_new_privs, dumpable, core limit)");
	where = read_arguments(argc, argv);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
		fatal("this kernel cannot tie this process to the supervisor's life");
	channel_init(&a.supervisor, SUPERVISOR_FD, ROLE_TPM, ROLE_SUPERVISOR);
	if (mlock(&secrets, sizeof secrets) != 0)
		fatal("no locked memory for the PIN: raise RLIMIT_MEMLOCK (LimitMEMLOCK=)");
	a.open_error = tpm_open(&a.tpm, where, a.why);
	if (sandbox_enter(SANDBOX_TPM) != 0)
		fatal("the seccomp filter cannot be entered; this kernel needs CONFIG_SECCOMP_FILTER");
	say_hello(&a);
	serve(&a);
}
