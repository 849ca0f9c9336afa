/* fallgate-hsm: the process that loads a vendor's PKCS#11 module. Few verbs: open, probe, unwrap, wrap, close. It may hang or
 * crash at any time: the supervisor kills it at its deadline and waits for nobody. What must hold: walls before the first byte
 * from outside; a message that is wrong, or comes at the wrong moment, ends the process; a one-shot process answers one ticket.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "hal/sandbox.h"
#include "hal/secret_memory.h"
#include "ipc/channel.h"
#include "ipc/message.h"
#include "kek.h"
#include "probe.h"
#include "unwrap.h"

enum { SUPERVISOR_FD = 3, DATAPLANE_FD = 4 };

struct hsm {
	struct channel supervisor;
	struct channel dataplane; /* one-shot only */
	bool one_shot;
	bool open; /* the last OPEN was good */
	struct kek kek;
	struct ticket_halves halves;
	uint64_t ticket_nonce, page_nonce;
	int page_fd;
};

_Noreturn static void leave(struct hsm *h, int code)
{
	kek_close(&h->kek);
	_exit(code);
}

/* A supervisor that does not take an answer is gone or sick: both end this process. */
static void answer(struct hsm *h, struct channel *to, const struct message *m)
{
	if (channel_send(to, m, NULL, 0) != 0) {
		log_error("%s does not take an answer; this process ends",
			  to == &h->supervisor ? "the supervisor" : "the dataplane");
		leave(h, 70);
	}
}

/* ---- open, probe ---- */

static void fill_opened(struct msg_hsm_opened *o, const struct kek *k, const struct report *r)
{
	o->verdict = (uint8_t)r->verdict;
	o->type = (uint8_t)k->key.type;
	o->bits = (uint16_t)k->key.bits;
	o->modulus_size = k->key.modulus_size;
	o->exponent_size = k->key.exponent_size;
	memcpy(o->modulus, k->key.modulus, sizeof o->modulus);
	memcpy(o->exponent, k->key.exponent, sizeof o->exponent);
	memcpy(o->label, k->key.label, sizeof o->label);
	memcpy(o->id, k->key.id, sizeof o->id);
	o->id_size = k->key.id_size;
	memcpy(o->token_label, k->info.label, sizeof o->token_label);
	memcpy(o->token_serial, k->info.serial, sizeof o->token_serial);
	memcpy(o->start_date, r->start_date, sizeof o->start_date);
	memcpy(o->end_date, r->end_date, sizeof o->end_date);
	o->login_refused = r->login_refused;
	o->software_token = k->info.software;
	memcpy(o->text, r->text, sizeof o->text);
}

static void do_open(struct hsm *h, const struct message *m, const int *fds, unsigned count)
{
	struct message out;
	struct report r;

	kek_open(&h->kek, &m->body.hsm_open, count == 1 ? fds[0] : -1, &r);
	message_init(&out, MSG_HSM_OPENED, m->nonce);
	fill_opened(&out.body.hsm_opened, &h->kek, &r);
	h->open = r.verdict == VERDICT_GOOD;
	if (!h->open)
		kek_close(&h->kek);
	answer(h, &h->supervisor, &out);
}

static void do_probe(struct hsm *h, const struct message *m)
{
	struct message out;

	message_init(&out, MSG_HSM_VERDICT, m->nonce);
	if (!probe_run(&h->kek, &m->body.hsm_probe, &out.body.hsm_verdict))
		fatal("the supervisor's probe does not fit the type of the key");
	answer(h, &h->supervisor, &out);
	secret_wipe(&out, sizeof out);
}

/* ---- one data key ---- */

static void take_ticket(struct hsm *h, const struct message *m)
{
	if (!h->one_shot || h->halves.has_ticket)
		fatal("a ticket that this process was not started for");
	h->halves.has_ticket = true;
	h->halves.ticket_wraps = m->type == MSG_HSM_WRAP;
	h->halves.ticket = m->body.hsm_ticket;
	h->ticket_nonce = m->nonce;
}

static void take_page(struct hsm *h, const struct message *m, int fd, const struct channel_peer *sender)
{
	if (h->halves.has_page)
		fatal("a second transfer page");
	h->halves.has_page = true;
	h->halves.page_wraps = m->type == MSG_PAGE_WRAP;
	h->halves.page = m->body.page;
	h->halves.sender = *sender;
	h->page_nonce = m->nonce;
	h->page_fd = fd;
}

_Noreturn static void act_on_ticket(struct hsm *h)
{
	const char *difference = halves_differ(&h->halves);
	struct message done, verdict;

	if (difference != NULL)
		fatal("the two halves of a ticket differ (%s): nothing is unwrapped", difference);
	message_init(&done, MSG_PAGE_DONE, h->page_nonce);
	message_init(&verdict, MSG_HSM_VERDICT, h->ticket_nonce);
	if (unwrap_run(&h->kek, &h->halves, h->page_fd, &done.body.page_done, &verdict.body.hsm_verdict) != 0)
		fatal("the dataplane's page is not a transfer page: nothing is unwrapped");
	answer(h, &h->dataplane, &done);
	answer(h, &h->supervisor, &verdict);
	leave(h, 0);
}

/* ---- the loop ---- */

/* Which message is allowed when: open at any time, the rest on an open key. */
static void dispatch(struct hsm *h, const struct message *m, const int *fds, unsigned count)
{
	const struct message_row *row = message_row(m->type);

	if (m->type == MSG_HSM_OPEN && !h->halves.has_ticket) {
		do_open(h, m, fds, count);
		return;
	}
	if (m->type == MSG_HSM_CLOSE)
		leave(h, 0);
	if (!h->open)
		fatal("the supervisor sent %s before a key is open", row != NULL ? row->name : "an unknown message");
	if (m->type == MSG_HSM_PROBE)
		do_probe(h, m);
	else if (m->type == MSG_HSM_UNWRAP || m->type == MSG_HSM_WRAP)
		take_ticket(h, m);
	else
		fatal("the supervisor sent %s at the wrong moment", row != NULL ? row->name : "an unknown message");
}

static void serve_supervisor(struct hsm *h)
{
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count = 0;
	int r = channel_receive(&h->supervisor, &m, fds, &count, NULL);

	if (r == ERR_BUSY)
		return;
	if (r == 0)
		leave(h, 0); /* the supervisor is gone */
	if (r < 0)
		fatal("the supervisor's channel: %s", error_text(r));
	dispatch(h, &m, fds, count);
}

static void serve_dataplane(struct hsm *h)
{
	struct channel_peer sender;
	struct message m;
	int fds[CHANNEL_FDS_MAX];
	unsigned count = 0;
	int r = channel_receive(&h->dataplane, &m, fds, &count, &sender);

	if (r == ERR_BUSY)
		return;
	if (r == 0) {
		log_notice("the dataplane left before its key was unwrapped");
		leave(h, 1);
	}
	if (r < 0 || count != 1)
		fatal("the dataplane's channel: %s", error_text(r < 0 ? r : ERR_PROTOCOL));
	take_page(h, &m, fds[0], &sender);
}

_Noreturn static void serve(struct hsm *h)
{
	struct pollfd polled[2] = { { .fd = SUPERVISOR_FD, .events = POLLIN }, { .fd = DATAPLANE_FD, .events = POLLIN } };
	nfds_t count = h->one_shot ? 2 : 1;

	for (;;) {
		if (h->halves.has_ticket && h->halves.has_page)
			act_on_ticket(h);
		if (poll(polled, count, -1) < 0)
			continue; /* EINTR */
		if (polled[0].revents != 0)
			serve_supervisor(h);
		if (count == 2 && polled[1].revents != 0)
			serve_dataplane(h);
	}
}

static void say_hello(struct hsm *h)
{
	struct message m;

	message_init(&m, MSG_HELLO, 0);
	snprintf(m.body.hello.version, sizeof m.body.hello.version, "%s", FALLGATE_VERSION);
	m.body.hello.pid = (int32_t)getpid();
	answer(h, &h->supervisor, &m);
}

/* 0 or 1: --one-shot or not. Anything else has been answered here. */
static int read_arguments(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("fallgate-hsm %s\n", FALLGATE_VERSION);
		exit(0);
	}
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		printf("usage: fallgate-hsm [--one-shot]\n"
		       "Started by fallgated with a channel on descriptor 3 (and 4 with --one-shot). See fallgate-hsm(8).\n");
		exit(0);
	}
	if (argc == 2 && strcmp(argv[1], "--one-shot") == 0)
		return 1;
	if (argc == 1)
		return 0;
	fprintf(stderr, "fallgate-hsm: unknown argument; see fallgate-hsm --help\n");
	exit(error_exit_code(ERR_USAGE));
}

int main(int argc, char **argv)
{
	struct hsm h = { .page_fd = -1 };

	log_open("fallgate-hsm", LOG_LEVEL_INFO);
	if (sandbox_harden() != 0)
		fatal("this kernel cannot take away privileges (no_new_privs, dumpable, core limit)");
	h.one_shot = read_arguments(argc, argv) == 1;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
		fatal("this kernel cannot tie this process to the supervisor's life");
	kek_init(&h.kek);
	channel_init(&h.supervisor, SUPERVISOR_FD, ROLE_HSM, ROLE_SUPERVISOR);
	if (h.one_shot)
		channel_init(&h.dataplane, DATAPLANE_FD, ROLE_HSM, ROLE_DATAPLANE);
	if (sandbox_enter(SANDBOX_HSM) != 0)
		fatal("the seccomp filter cannot be entered; this kernel needs CONFIG_SECCOMP_FILTER");
	say_hello(&h);
	serve(&h);
}
