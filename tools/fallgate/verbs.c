/* Verbs for the agent over CoAP, verbs for its console, and the one that runs another program. What must hold: a key that was
 * read or received is wiped on every way out; what failed is said in one line with what to do. */
#include "verbs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "ipc/message.h"
#include "mgmt/body.h"
#include "mgmt/problem.h"

#include "arguments.h"
#include "console.h"
#include "credentials.h"
#include "identify.h"
#include "output.h"
#include "pin.h"
#include "remote.h"
#include "volume.h"

enum {
	GET = 1,
	POST = 2,
	CLASS_SUCCESS = 2,
	ITEMS_MAX = 16384,
	TEXT_ROOM = 512,
	READ_SECONDS = 5,
	PATH_ROOM = 64,
};

static const char default_run_dir[] = "/run/fallgate";
static const char default_config[] = "/etc/fallgate/fallgate.conf";

/* How a verb's POST goes out. The times are the agent's own limits and a little more. */
struct order {
	const char *suffix; /* of volumes/NAME */
	bool guarded;       /* If-Match with the gate's present seq */
	unsigned seconds;
};

static const struct order orders[VERB_COUNT] = {
	[VERB_CREATE] = { .seconds = 125 },
	[VERB_ATTACH] = { .suffix = "/attach", .guarded = true, .seconds = 25 },
	[VERB_DETACH] = { .suffix = "/detach", .seconds = 25 },
	[VERB_REVOKE] = { .suffix = "/revoke", .seconds = 15 },
	[VERB_RESTORE] = { .suffix = "/restore", .guarded = true, .seconds = 25 },
};

/* A connected verb and its last decoded answer. */
struct session {
	const struct arguments *a;
	struct remote *remote;
	struct answer answer;
	struct body body;
	char text[TEXT_ROOM];
};

static int fail(const struct arguments *a, int error, const char *text)
{
	output_error(a->json, error_name(error), text[0] == '\0' ? error_text(error) : text,
		     text[0] == '\0' ? problem_remedy(error) : "", error_exit_code(error));
	return error_exit_code(error);
}

/* ---- the agent ---- */

static int decode(struct session *s)
{
	int error = s->answer.size == 0 ? ERR_PROTOCOL : body_decode(&s->body, s->answer.body, s->answer.size);

	if (error != 0)
		snprintf(s->text, sizeof s->text, "the agent's answer %u.%02u is not as it must be: %s", s->answer.code >> 5,
			 s->answer.code & 31, s->answer.size == 0 ? "it is empty" : s->body.fault);
	return error;
}

/* Says an answer that is a refusal; the exit code is the agent's. */
static int fail_with_answer(struct session *s)
{
	char error[64] = "", text[TEXT_MAX_BYTES + 64] = "", remedy[TEXT_MAX_BYTES] = "";
	uint64_t code = 0;

	body_text(body_find(&s->body, s->body.items, "error"), error, sizeof error);
	body_text(body_find(&s->body, s->body.items, "text"), text, sizeof text);
	body_text(body_find(&s->body, s->body.items, "remedy"), remedy, sizeof remedy);
	body_uint(body_find(&s->body, s->body.items, "exit"), &code);
	if (error[0] == '\0' || code < 2 || code > 63) {
		snprintf(s->text, sizeof s->text, "the agent answered %u.%02u without saying why", s->answer.code >> 5,
			 s->answer.code & 31);
		return fail(s->a, ERR_PROTOCOL, s->text);
	}
	output_error(s->a->json, error, text, remedy, (int)code);
	return (int)code;
}

/* 0: a success that is decoded; else it is said, and this is the exit code. */
static int ask(struct session *s, const struct question *q)
{
	int error;

	free(s->answer.body);
	error = remote_ask(s->remote, q, &s->answer, s->text, sizeof s->text);
	if (error == 0)
		error = decode(s);
	if (error != 0)
		return fail(s->a, error, s->text);
	return s->answer.code >> 5 == CLASS_SUCCESS ? 0 : fail_with_answer(s);
}

static int get(struct session *s, const char *path)
{
	struct question q = { .method = GET, .path = path, .seconds = READ_SECONDS };

	return ask(s, &q);
}

static void volume_path(char out[static PATH_ROOM], const char *name, const char *suffix)
{
	snprintf(out, PATH_ROOM, "volumes/%s%s", name, suffix);
}

static int show(struct session *s, const char *path, void (*print)(const struct body *))
{
	int code = get(s, path);

	if (code != 0)
		return code;
	if (s->a->json)
		output_json(&s->body);
	else
		print(&s->body);
	return 0;
}

/* The gate is shut, but the disk does not know it: done, and yet not done. No error of the table has this code. */
enum { EXIT_NOT_DURABLE = 34 };

static bool is_durable(const struct body *b)
{
	const struct body_item *durable = body_find(b, b->items, "durable");
	bool yes = true;

	return durable == NULL || !body_bool(durable, &yes) || yes;
}

static int give_order(struct session *s, struct question *q)
{
	int code = ask(s, q);

	if (code != 0)
		return code;
	if (s->a->json)
		output_json(&s->body);
	else
		output_done(&s->body, verb_name(s->a->verb), s->a->name);
	return is_durable(&s->body) ? 0 : EXIT_NOT_DURABLE;
}

static int run_order(struct session *s)
{
	const struct order *o = &orders[s->a->verb];
	char path[PATH_ROOM] = "revoke", state[PATH_ROOM];
	struct question q = { .method = POST, .path = path, .seconds = o->seconds };

	if (s->a->name != NULL)
		volume_path(path, s->a->name, o->suffix);
	if (o->guarded) {
		int code;

		volume_path(state, s->a->name, "/state");
		code = get(s, state);
		if (code != 0)
			return code;
		if (!body_uint(body_find(&s->body, s->body.items, "gate_seq"), &q.if_match))
			return fail(s->a, ERR_PROTOCOL,
				    "the agent's state has no gate_seq; are client and agent of one release?");
		q.has_if_match = true;
	}
	return give_order(s, &q);
}

static int run_create(struct session *s)
{
	uint8_t bytes[128];
	struct body_out o;
	struct question q = { .method = POST, .path = "volumes", .body = bytes, .seconds = orders[VERB_CREATE].seconds };

	body_begin(&o, bytes, sizeof bytes);
	body_map_open(&o);
	body_pair_text(&o, "name", s->a->name);
	if (s->a->force)
		body_pair_bool(&o, "force", true);
	body_map_close(&o);
	q.body_size = (size_t)body_finish(&o);
	return give_order(s, &q);
}

/* ---- watching ---- */

struct watched {
	char name[NAME_MAX_BYTES];
	char state[32], cause[32];
	uint64_t seq;
};

struct watching {
	struct session *s;
	int code;
	struct watched *known;
	size_t count;
};

static struct watched *known_volume(struct watching *w, const char *name)
{
	struct watched *larger;

	for (size_t i = 0; i < w->count; i++)
		if (strcmp(w->known[i].name, name) == 0)
			return &w->known[i];
	larger = realloc(w->known, (w->count + 1) * sizeof *larger);
	if (larger == NULL)
		return NULL;
	w->known = larger;
	memset(&larger[w->count], 0, sizeof *larger);
	snprintf(larger[w->count].name, sizeof larger->name, "%s", name);
	return &larger[w->count++];
}

/* True if this volume is new or not what it was. */
static bool has_changed(struct watching *w, const struct body_item *v)
{
	const struct body *b = &w->s->body;
	struct watched now = { 0 };
	struct watched *before;

	body_text(body_find(b, v, "name"), now.name, sizeof now.name);
	body_text(body_find(b, v, "state"), now.state, sizeof now.state);
	body_text(body_find(b, v, "cause"), now.cause, sizeof now.cause);
	body_uint(body_find(b, v, "gate_seq"), &now.seq);
	before = known_volume(w, now.name);
	if (before == NULL || memcmp(before, &now, sizeof now) == 0)
		return false;
	*before = now;
	return true;
}

static void print_changes(struct watching *w)
{
	const struct body *b = &w->s->body;
	const struct body_item *list = body_find(b, b->items, "volumes");
	const struct body_item *at;

	if (list == NULL) {
		output_change(b, b->items);
		return;
	}
	at = body_first(list);
	for (uint64_t i = 0; list->type == BODY_ARRAY && i < list->number; i++) {
		if (has_changed(w, at))
			output_change(b, at);
		at = body_behind(b, at);
	}
}

static bool on_change(void *context, const struct answer *answer)
{
	struct watching *w = context;

	w->s->answer = *answer;
	if (decode(w->s) != 0) {
		w->code = fail(w->s->a, ERR_PROTOCOL, w->s->text);
		return false;
	}
	if (answer->code >> 5 != CLASS_SUCCESS) {
		w->code = fail_with_answer(w->s);
		return false;
	}
	if (w->s->a->json)
		output_json(&w->s->body);
	else
		print_changes(w);
	return !ferror(stdout);
}

static int run_watch(struct session *s, const char *path)
{
	struct watching w = { .s = s };
	int error = remote_watch(s->remote, path, on_change, &w, s->text, sizeof s->text);

	s->answer = (struct answer){ 0 }; /* it is remote.c's */
	free(w.known);
	return error != 0 ? fail(s->a, error, s->text) : w.code;
}

static int run_status(struct session *s)
{
	char path[PATH_ROOM] = "status";

	if (s->a->name != NULL)
		volume_path(path, s->a->name, s->a->watch ? "/state" : "");
	if (s->a->watch)
		return run_watch(s, path);
	return show(s, path, s->a->name == NULL ? output_status : output_volume);
}

static int run_connected(struct session *s)
{
	switch (s->a->verb) {
	case VERB_STATUS:
		return run_status(s);
	case VERB_VOLUMES:
		return show(s, "volumes", output_volumes);
	case VERB_POSTURE:
		return show(s, "posture", output_posture);
	case VERB_CREATE:
		return run_create(s);
	case VERB_ATTACH:
	case VERB_DETACH:
	case VERB_REVOKE:
	case VERB_RESTORE:
		return run_order(s);
	case VERB_HELP:
	case VERB_VERSION:
	case VERB_ENROLL:
	case VERB_REMOVE:
	case VERB_STOP:
	case VERB_SEAL_PIN:
	case VERB_ACCEPT_ROLLBACK:
	case VERB_CONFIG_CHECK:
	case VERB_VOLUME_IDENTIFY:
	case VERB_VOLUME_CHECK:
	case VERB_VOLUME_SCRUB:
	case VERB_VOLUME_DUMP:
	case VERB_VOLUME_REPAIR_HEADER:
	case VERB_VOLUME_REPAIR_LOG:
	case VERB_VOLUME_SALVAGE:
	case VERB_VOLUME_HEADER_BACKUP:
	case VERB_VOLUME_HEADER_RESTORE:
	case VERB_COUNT:
	default:
		return fail(s->a, ERR_USAGE, "this verb does not go over the network");
	}
}

static int connect_with(struct session *s)
{
	char path[CREDENTIALS_PATH_MAX];
	struct credentials c;
	int error = credentials_path(path, s->a->credentials, s->text, sizeof s->text);

	if (error == 0)
		error = credentials_load(&c, path, s->text, sizeof s->text);
	if (error != 0)
		return error;
	error = remote_open(&s->remote, &c, s->text, sizeof s->text);
	explicit_bzero(&c, sizeof c);
	return error;
}

static int run_remote(const struct arguments *a)
{
	struct session s = { .a = a };
	int error, code;

	s.body.items = calloc(ITEMS_MAX, sizeof *s.body.items);
	s.body.room = ITEMS_MAX;
	if (s.body.items == NULL)
		return fail(a, ERR_NOMEM, "");
	error = connect_with(&s);
	code = error == 0 ? run_connected(&s) : fail(a, error, s.text);
	remote_close(s.remote);
	free(s.answer.body);
	free(s.body.items);
	return code;
}

/* ---- the console ---- */

/* 0, or the exit code of what was said. */
static int judge_reply(const struct arguments *a, int error, const struct msg_con_reply *reply, bool of_volumes, const char *text)
{
	if (error != 0)
		return fail(a, error, text);
	if (reply->error == 0)
		return 0;
	/* only a revoke is about volumes, of which the remedies speak */
	output_error(a->json, error_name(reply->error), reply->text[0] == '\0' ? error_text(reply->error) : reply->text,
		     of_volumes ? problem_remedy(reply->error) : "", error_exit_code(reply->error));
	return error_exit_code(reply->error);
}

static int ask_console(const struct arguments *a, const struct msg_con_request *request, struct msg_con_reply *reply)
{
	char text[TEXT_ROOM] = "";
	int error = console_ask(a->run_dir == NULL ? default_run_dir : a->run_dir, request, reply, text, sizeof text);

	return judge_reply(a, error, reply, request->verb == CON_REVOKE, text);
}

static int run_seal_pin(const struct arguments *a)
{
	struct msg_con_reply reply = { 0 };
	char text[TEXT_ROOM] = "";
	int fd = pin_descriptor(a->name, a->pin_file, text, sizeof text), code;

	if (fd < 0)
		return fail(a, fd, text);
	code = console_seal_pin(a->run_dir == NULL ? default_run_dir : a->run_dir, a->name, fd, &reply, text, sizeof text);
	close(fd);
	code = judge_reply(a, code, &reply, false, text);
	if (code == 0)
		output_told(a->json, verb_name(a->verb), reply.text);
	return code;
}

static int save_enrolled(const struct arguments *a, const struct msg_con_reply *reply, const char *path)
{
	char text[CREDENTIALS_PATH_MAX + 2 * TEXT_MAX_BYTES];
	struct credentials c = { 0 };
	int error;

	snprintf(c.address, sizeof c.address, "%s", reply->coap_address);
	snprintf(c.identity, sizeof c.identity, "%s", a->name);
	memcpy(c.key, reply->psk, sizeof c.key);
	error = credentials_save(&c, path, a->force, text, sizeof text);
	explicit_bzero(&c, sizeof c);
	if (error != 0)
		return fail(a, error, text);
	snprintf(text, sizeof text, "%s '%s' %s; the credentials are in %s", a->role, a->name, reply->text, path);
	output_told(a->json, verb_name(a->verb), text);
	return 0;
}

/* The place is looked at first: a key that nobody could keep must not be made. */
static int run_enroll(const struct arguments *a)
{
	struct msg_con_request request = { .verb = CON_ENROLL, .role = (uint8_t)a->role_number };
	char path[CREDENTIALS_PATH_MAX], text[CREDENTIALS_PATH_MAX + 128] = "";
	struct msg_con_reply reply = { 0 };
	int error = credentials_path(path, a->out, text, sizeof text);
	int code;

	if (error == 0)
		error = credentials_check_place(path, a->force, text, sizeof text);
	if (error != 0)
		return fail(a, error, text);
	snprintf(request.identity, sizeof request.identity, "%s", a->name);
	code = ask_console(a, &request, &reply);
	if (code == 0)
		code = save_enrolled(a, &reply, path);
	explicit_bzero(&reply, sizeof reply);
	return code;
}

static int run_console(const struct arguments *a, enum con_verb verb, const char *done)
{
	struct msg_con_request request = { .verb = (uint8_t)verb };
	struct msg_con_reply reply = { 0 };
	int code;

	if (verb == CON_REMOVE && snprintf(request.identity, sizeof request.identity, "%s", a->name) >= IDENTITY_MAX_BYTES)
		return fail(a, ERR_USAGE, "an identity has at most 63 bytes");
	if ((verb == CON_REVOKE || verb == CON_ACCEPT_ROLLBACK) && a->name != NULL)
		snprintf(request.volume, sizeof request.volume, "%s", a->name);
	code = ask_console(a, &request, &reply);
	if (code == 0)
		output_told(a->json, verb_name(a->verb), reply.text[0] == '\0' ? done : reply.text);
	if (code == 0 && verb == CON_REVOKE && !reply.durable)
		code = EXIT_NOT_DURABLE;
	explicit_bzero(&reply, sizeof reply);
	return code;
}

enum { STATUS_BYTES = 16384, STATUS_PAGES = 256 };

/* An answer has room for a few volumes: asked on, behind the last that it told of, until there are no more. */
static int run_console_status(const struct arguments *a)
{
	struct msg_con_request request = { .verb = CON_STATUS };
	struct msg_con_reply reply = { 0 };
	char all[STATUS_BYTES] = "";
	int code = ask_console(a, &request, &reply);

	for (int i = 0; code == 0 && reply.text[0] != '\0' && i < STATUS_PAGES; i++) {
		const char *last = reply.text;

		for (const char *at = strstr(last, "; "); at != NULL; at = strstr(last, "; "))
			last = at + 2;
		snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", all[0] != '\0' ? "; " : "", reply.text);
		snprintf(request.volume, sizeof request.volume, "%.*s", (int)strcspn(last, " "), last);
		if (strcmp(reply.text, "no volumes") == 0 || !message_name_good(request.volume))
			break;
		code = ask_console(a, &request, &reply);
	}
	if (code == 0)
		output_told(a->json, verb_name(a->verb), all);
	return code;
}

/* ---- another program ---- */

/* fallgated beside this program, then in the sbin beside its folder, then where the shell would find it. */
static int run_config_check(const struct arguments *a)
{
	const char *config = a->config == NULL ? default_config : a->config;
	char *argv[] = { (char *)"fallgated", (char *)"--check", (char *)"--config", (char *)config, NULL };
	static const char *const places[] = { "fallgated", "../sbin/fallgated" };
	char self[PATH_MAX], path[PATH_MAX + 32], text[TEXT_ROOM];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	char *slash;

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	for (size_t i = 0; slash != NULL && i < 2; i++) {
		snprintf(path, sizeof path, "%.*s%s", (int)(slash - self + 1), self, places[i]);
		execv(path, argv);
	}
	execvp("fallgated", argv);
	snprintf(text, sizeof text, "fallgated cannot be run (%s): is it installed beside this program, or in PATH?",
		 strerror(errno));
	return fail(a, ERR_NOT_FOUND, text);
}

static int run_identify(const struct arguments *a)
{
	char why[TEXT_ROOM] = "";
	int error = identify(a->name, why, sizeof why);

	return error == 0 ? 0 : fail(a, error, why);
}

int verbs_run(const struct arguments *a)
{
	switch (a->verb) {
	case VERB_HELP:
		fputs(arguments_help, stdout);
		return 0;
	case VERB_VERSION:
		puts("fallgate " FALLGATE_VERSION);
		return 0;
	case VERB_ENROLL:
		return run_enroll(a);
	case VERB_REMOVE:
		return run_console(a, CON_REMOVE, "the identity is removed and its sessions are ended");
	case VERB_ACCEPT_ROLLBACK:
		return run_console(a, CON_ACCEPT_ROLLBACK, "accepted");
	case VERB_SEAL_PIN:
		return run_seal_pin(a);
	case VERB_STOP:
		return run_console(a, CON_STOP, "the agent stops");
	case VERB_CONFIG_CHECK:
		return run_config_check(a);
	case VERB_VOLUME_IDENTIFY:
		return run_identify(a);
	case VERB_VOLUME_CHECK:
	case VERB_VOLUME_SCRUB:
	case VERB_VOLUME_DUMP:
	case VERB_VOLUME_REPAIR_HEADER:
	case VERB_VOLUME_REPAIR_LOG:
	case VERB_VOLUME_SALVAGE:
	case VERB_VOLUME_HEADER_BACKUP:
	case VERB_VOLUME_HEADER_RESTORE:
		return volume_run(a);
	case VERB_REVOKE:
		if (a->local)
			return run_console(a, CON_REVOKE, "revoked");
		return run_remote(a);
	case VERB_STATUS:
		if (a->local)
			return run_console_status(a);
		return run_remote(a);
	case VERB_VOLUMES:
	case VERB_POSTURE:
	case VERB_CREATE:
	case VERB_ATTACH:
	case VERB_DETACH:
	case VERB_RESTORE:
	case VERB_COUNT:
	default:
		return run_remote(a);
	}
}
