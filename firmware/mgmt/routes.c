/* One handler for every path and method. A request that the supervisor has to answer becomes a row of state->pending and a
 * libcoap async; libcoap hands the same request in again when the answer came or the time is over. */
#include "routes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <coap3/coap.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/entropy.h"
#include "ipc/channel.h"
#include "ipc/message.h"

#include "body.h"
#include "problem.h"
#include "roles.h"

enum {
	FORMAT_CBOR = 60,
	REQUEST_BODY_MAX = 256,
	REQUEST_ITEMS_MAX = 8,
	ECHO_BYTES = 8,
	PATH_ROOM = NAME_MAX_BYTES + 32,
	CODE_CREATED = 0x41,
	CODE_CHANGED = 0x44,
	CODE_CONTENT = 0x45,
	CODE_BAD_REQUEST = 0x80,
	CODE_UNAUTHORIZED = 0x81,
	CODE_METHOD_NOT_ALLOWED = 0x85,
	CODE_NOT_ACCEPTABLE = 0x86,
	CODE_PRECONDITION_FAILED = 0x8c,
	CODE_TOO_LARGE = 0x8d,
	CODE_UNSUPPORTED_FORMAT = 0x8f,
	CODE_INTERNAL = 0xa0,
	CODE_UNAVAILABLE = 0xa3,
};

static const uint64_t second_ns = 1000000000;
static const uint64_t silent_after_ns = 5 * 1000000000ull;
static const uint64_t echo_life_ns = 10 * 1000000000ull;
static const uint64_t echo_renew_ns = 5 * 1000000000ull;

/* How long the supervisor may take. Attaching waits for the HSM (10 s in UNLOCKING), detaching for the disk, and so does revoking
 * with its answer, not with its deed (5 s). */
static const unsigned answer_seconds[MG_VERB_COUNT] = {
	[MG_CREATE] = 120, [MG_ATTACH] = 20, [MG_DETACH] = 20, [MG_REVOKE] = 8, [MG_RESTORE] = 20,
};

static const char *const verb_names[MG_VERB_COUNT] = {
	[MG_CREATE] = "create", [MG_ATTACH] = "attach", [MG_DETACH] = "detach", [MG_REVOKE] = "revoke", [MG_RESTORE] = "restore",
};

/* A session that has asked for something. */
struct peer {
	struct peer *next;
	coap_session_t *session;
	bool over;        /* its credential went or changed, or it closed: routes_sweep ends it */
	uint64_t echo_ns; /* when the value was made; 0: none yet */
	uint8_t echo[ECHO_BYTES];
};

struct exchange {
	struct mgmt *m;
	coap_resource_t *resource;
	coap_session_t *session;
	const coap_pdu_t *request;
	const coap_string_t *query;
	coap_pdu_t *response;
	struct peer *peer;
	enum role role;
	char identity[IDENTITY_MAX_BYTES];
	struct target target;
	bool has_if_match;
	uint64_t if_match;
	bool force;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * second_ns + (uint64_t)t.tv_nsec;
}

/* ---- sessions ---- */

/* libcoap with mbedTLS tells of no finished handshake: a session becomes a peer with its first request. */
static struct peer *peer_of(struct mgmt *m, coap_session_t *session)
{
	struct peer *p = coap_session_get_app_data(session);

	if (p != NULL)
		return p;
	p = calloc(1, sizeof *p);
	if (p == NULL)
		return NULL;
	p->session = session;
	p->next = m->peers;
	m->peers = p;
	coap_session_set_app_data(session, p);
	return p;
}

static void peer_gone(struct mgmt *m, coap_session_t *session)
{
	struct peer *p = coap_session_get_app_data(session);
	struct peer **at = &m->peers;

	if (p == NULL)
		return;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	coap_session_set_app_data(session, NULL);
	explicit_bzero(p, sizeof *p);
	free(p);
}

static void peer_closed(coap_session_t *session)
{
	struct peer *p = coap_session_get_app_data(session);

	if (p != NULL)
		p->over = true;
}

/* ---- replies ---- */

/* A sequence number as an opaque option: big-endian, no leading zeroes, one byte for 0. */
static size_t put_seq(uint8_t out[static 8], uint64_t seq)
{
	uint8_t all[8];
	size_t skip = 0;

	put_be64(all, seq);
	while (skip < 7 && all[skip] == 0)
		skip++;
	memcpy(out, all + skip, 8 - skip);
	return 8 - skip;
}

static bool get_seq(uint64_t *out, const uint8_t *in, size_t size)
{
	if (size == 0 || size > 8 || (size > 1 && in[0] == 0))
		return false;
	*out = 0;
	for (size_t i = 0; i < size; i++)
		*out = *out << 8 | in[i];
	return true;
}

static void add_etag(coap_pdu_t *response, uint64_t seq)
{
	uint8_t value[8];
	size_t size = put_seq(value, seq);

	coap_add_option(response, COAP_OPTION_ETAG, size, value);
}

static void set_code(struct exchange *x, uint8_t code)
{
	coap_pdu_set_code(x->response, (coap_pdu_code_t)code);
}

/* A body that fits one datagram: every reply but those to GET. */
static void reply_small(struct exchange *x, uint8_t code, int size)
{
	uint8_t format = FORMAT_CBOR;

	if (size < 0) {
		set_code(x, CODE_INTERNAL);
		return;
	}
	set_code(x, code);
	coap_add_option(x->response, COAP_OPTION_CONTENT_FORMAT, 1, &format);
	coap_add_data(x->response, (size_t)size, x->m->body);
}

static void refuse_as(struct exchange *x, uint8_t code, int error, const char *text)
{
	reply_small(x, code, render_problem(x->m->body, sizeof x->m->body, error, text));
}

static void refuse(struct exchange *x, int error, const char *text)
{
	refuse_as(x, problem_code(error), error, text);
}

static void release_copy(coap_session_t *session, void *copy)
{
	(void)session;
	free(copy);
}

/* A reply to GET or a notification: of any size, block-wise where it must be. libcoap keeps the copy until it is through. */
static void reply_content(struct exchange *x, int size, const uint64_t *seq)
{
	uint8_t *copy = size < 0 ? NULL : malloc((size_t)size);

	if (copy == NULL) {
		set_code(x, CODE_INTERNAL);
		return;
	}
	memcpy(copy, x->m->body, (size_t)size);
	set_code(x, CODE_CONTENT);
	if (seq != NULL && *seq == 0)
		add_etag(x->response, 0);
	coap_add_data_large_response(x->resource, x->session, x->request, x->response, x->query, FORMAT_CBOR, -1,
				     seq == NULL ? 0 : *seq, (size_t)size, copy, release_copy, copy);
}

/* ---- reading ---- */

/* The supervisor says something every two seconds. What is older than silent_after_ns is shown with its age: nobody should take
 * the last words of one that hangs for news. */
static uint64_t silence(const struct mgmt *m)
{
	uint64_t age = now_ns() - m->state.heard_ns;

	return age > silent_after_ns ? age : 0;
}

static void serve_status(struct exchange *x)
{
	if (!x->m->state.agent_known) {
		refuse_as(x, CODE_UNAVAILABLE, ERR_BUSY, "the agent is starting");
		return;
	}
	x->m->state.silent_ns = silence(x->m);
	reply_content(x, render_status(x->m->body, sizeof x->m->body, &x->m->state), NULL);
	x->m->state.silent_ns = 0; /* what is compared for observers has no age */
}

static void serve_get(struct exchange *x, const struct msg_mg_volume *v)
{
	struct mgmt *m = x->m;

	switch (x->target.resource) {
	case RESOURCE_STATUS:
		serve_status(x);
		break;
	case RESOURCE_VOLUMES:
		reply_content(x, render_volumes(m->body, sizeof m->body, &m->state), NULL);
		break;
	case RESOURCE_POSTURE:
		reply_content(x, render_posture(m->body, sizeof m->body, &m->state), NULL);
		break;
	case RESOURCE_VOLUME:
		reply_content(x, render_volume(m->body, sizeof m->body, v, silence(m)), &v->gate_seq);
		break;
	case RESOURCE_STATE:
		reply_content(x, render_gate(m->body, sizeof m->body, v), &v->gate_seq);
		break;
	case RESOURCE_ATTACH:
	case RESOURCE_DETACH:
	case RESOURCE_REVOKE:
	case RESOURCE_RESTORE:
	case RESOURCE_REVOKE_ALL:
	case RESOURCE_COUNT:
	default:
		refuse_as(x, CODE_METHOD_NOT_ALLOWED, ERR_UNSUPPORTED, "this resource is not for reading");
		break;
	}
}

/* ---- requests for the supervisor ---- */

/* Every key of a request's map has to be one that is known: a misspelt "force" must not pass for its absence. */
static bool keys_known(const struct body *b, bool create)
{
	uint64_t known = 0;

	known += create && body_find(b, b->items, "name") != NULL;
	known += create && body_find(b, b->items, "force") != NULL;
	return b->items[0].number == known;
}

/* POST bodies: create takes {name, force?}, the others nothing or an empty map. */
static bool read_body(struct exchange *x, bool create)
{
	struct body_item items[REQUEST_ITEMS_MAX];
	struct body b = { .items = items, .room = REQUEST_ITEMS_MAX };
	const struct body_item *force;
	const uint8_t *data = NULL;
	size_t size = 0;

	if (!coap_get_data(x->request, &size, &data))
		size = 0;
	if (size > REQUEST_BODY_MAX) {
		refuse_as(x, CODE_TOO_LARGE, ERR_USAGE, "the request's body is too large");
		return false;
	}
	if (size == 0 && !create)
		return true;
	if (body_decode(&b, data, size) != 0) {
		char text[TEXT_MAX_BYTES];

		snprintf(text, sizeof text, "the request's body is not as it must be: %s", b.fault);
		refuse_as(x, CODE_BAD_REQUEST, ERR_USAGE, text);
		return false;
	}
	force = body_find(&b, items, "force");
	if (items[0].type != BODY_MAP || !keys_known(&b, create) || (force != NULL && !body_bool(force, &x->force))) {
		refuse_as(x, CODE_BAD_REQUEST, ERR_USAGE,
			  create ? "the body must be a map of name (text) and, if wished, force (bool)"
				 : "this request takes no body");
		return false;
	}
	if (create && (!body_text(body_find(&b, items, "name"), x->target.volume, sizeof x->target.volume) ||
		       !message_name_good(x->target.volume))) {
		refuse_as(x, CODE_BAD_REQUEST, ERR_USAGE,
			  "a volume's name is a lower-case letter or digit and up to 30 of a-z 0-9 _ -");
		return false;
	}
	return true;
}

static bool read_if_match(struct exchange *x)
{
	coap_opt_iterator_t at;
	coap_opt_filter_t only;
	coap_opt_t *option;

	coap_option_filter_clear(&only);
	coap_option_filter_set(&only, COAP_OPTION_IF_MATCH);
	coap_option_iterator_init(x->request, &at, &only);
	option = coap_option_next(&at);
	if (option == NULL)
		return true;
	x->has_if_match = get_seq(&x->if_match, coap_opt_value(option), coap_opt_length(option));
	return x->has_if_match && coap_option_next(&at) == NULL;
}

/* The gate's number as this process knows it; the supervisor compares once more. */
static bool precondition_holds(struct exchange *x, const struct msg_mg_volume *v)
{
	char text[TEXT_MAX_BYTES];

	if (!x->has_if_match) {
		refuse_as(x, CODE_PRECONDITION_FAILED, ERR_STATE,
			  "this needs If-Match with the gate's seq, the ETag of its state");
		return false;
	}
	if (x->if_match == v->gate_seq)
		return true;
	snprintf(text, sizeof text, "the gate of %s moved on: its seq is %llu, not %llu", v->name,
		 (unsigned long long)v->gate_seq, (unsigned long long)x->if_match);
	refuse_as(x, CODE_PRECONDITION_FAILED, ERR_STATE, text);
	return false;
}

static bool echo_fresh(const struct exchange *x)
{
	coap_opt_iterator_t at;
	coap_opt_t *option = coap_check_option(x->request, COAP_OPTION_ECHO, &at);

	if (option == NULL || x->peer->echo_ns == 0 || coap_opt_length(option) != ECHO_BYTES)
		return false;
	if (now_ns() - x->peer->echo_ns > echo_life_ns)
		return false;
	return compare_secret(coap_opt_value(option), x->peer->echo, ECHO_BYTES) == 0;
}

/* 4.01 with an Echo value (RFC 9175): the client sends the request again with it. */
static void ask_for_echo(struct exchange *x)
{
	struct peer *p = x->peer;

	if (p->echo_ns == 0 || now_ns() - p->echo_ns > echo_renew_ns) {
		if (entropy_fill(p->echo, sizeof p->echo) != 0) {
			p->echo_ns = 0;
			refuse(x, ERR_UNSUPPORTED, "the agent's machine has no random numbers");
			return;
		}
		p->echo_ns = now_ns();
	}
	coap_add_option(x->response, COAP_OPTION_ECHO, sizeof p->echo, p->echo);
	refuse_as(x, CODE_UNAUTHORIZED, ERR_STATE, "send the request again with this answer's Echo value");
}

static int send_request(struct exchange *x, const struct pending *p)
{
	struct message message;
	struct msg_mg_request *r = &message.body.mg_request;

	message_init(&message, MSG_MG_REQUEST, 0);
	r->id = p->id;
	r->verb = p->verb;
	r->role = (uint8_t)x->role;
	memcpy(r->identity, x->identity, sizeof r->identity);
	memcpy(r->volume, x->target.volume, sizeof r->volume);
	r->has_if_match = x->has_if_match;
	r->if_match = x->if_match;
	r->force = x->force;
	return channel_send(x->m->channel, &message, NULL, 0);
}

/* Sends the question and leaves: the empty acknowledgement goes out, the reply follows as a message of its own. */
static void ask_supervisor(struct exchange *x)
{
	struct pending *p = state_pending_add(&x->m->state);
	uint8_t verb = resource_row(x->target.resource)->verb;

	if (p == NULL) {
		refuse_as(x, CODE_UNAVAILABLE, ERR_BUSY, "too many requests wait for the agent");
		return;
	}
	p->verb = verb;
	p->has_if_match = x->has_if_match;
	p->if_match = x->if_match;
	p->owner = x->session;
	memcpy(p->volume, x->target.volume, sizeof p->volume);
	memcpy(p->identity, x->identity, sizeof p->identity);
	p->ticket = coap_register_async(x->session, x->request, answer_seconds[verb] * COAP_TICKS_PER_SECOND);
	if (p->ticket == NULL) {
		state_pending_free(p);
		refuse(x, ERR_NOMEM, "");
		return;
	}
	coap_async_set_app_data(p->ticket, p);
	if (send_request(x, p) != 0) {
		coap_free_async(x->session, p->ticket);
		state_pending_free(p);
		refuse_as(x, CODE_UNAVAILABLE, ERR_BUSY, "the supervisor does not take requests at the moment");
	}
}

static void serve_post(struct exchange *x, const struct msg_mg_volume *v)
{
	const struct resource_row *row = resource_row(x->target.resource);

	if (row->guarded && !precondition_holds(x, v))
		return;
	if (row->guarded && !echo_fresh(x)) {
		ask_for_echo(x);
		return;
	}
	ask_supervisor(x);
}

/* ---- the second half of a request: answered, or out of time ---- */

static void log_outcome(const struct pending *p, int error)
{
	char identity[IDENTITY_MAX_BYTES];

	log_notice("%s of %s by '%s': %s", verb_names[p->verb], p->volume[0] == '\0' ? "all volumes" : p->volume,
		   log_printable(identity, sizeof identity, p->identity), error == 0 ? "done" : error_text(error));
}

static void add_location(struct exchange *x, const char *name)
{
	coap_add_option(x->response, COAP_OPTION_LOCATION_PATH, 7, (const uint8_t *)"volumes");
	coap_add_option(x->response, COAP_OPTION_LOCATION_PATH, strlen(name), (const uint8_t *)name);
}

static void reply_answer(struct exchange *x, const struct pending *p)
{
	bool moved = p->has_if_match && p->reply.gate_seq != p->if_match;

	if (p->reply.error == 0) {
		if (p->volume[0] != '\0')
			add_etag(x->response, p->reply.gate_seq);
		if (p->verb == MG_CREATE)
			add_location(x, p->volume);
		reply_small(x, p->verb == MG_CREATE ? CODE_CREATED : CODE_CHANGED, render_done(x->m->body, sizeof x->m->body, p));
	} else if (p->reply.error == ERR_STATE && moved) {
		refuse_as(x, CODE_PRECONDITION_FAILED, ERR_STATE, p->reply.text);
	} else {
		refuse(x, p->reply.error, p->reply.text);
	}
}

static void finish_pending(struct exchange *x, struct pending *p)
{
	if (p->answered) {
		log_outcome(p, p->reply.error);
		reply_answer(x, p);
	} else {
		log_outcome(p, ERR_TIMEOUT);
		refuse(x, ERR_TIMEOUT, "the supervisor did not answer in time; whether it was done is in the state");
	}
	state_pending_free(p);
}

/* ---- every request ---- */

/* The credential may have gone, or got another key, since the handshake: what counts is what is known now. */
static void identify(struct exchange *x)
{
	const coap_bin_const_t *identity = coap_session_get_psk_identity(x->session);
	const coap_bin_const_t *key = coap_session_get_psk_key(x->session);

	x->peer = peer_of(x->m, x->session);
	x->role = USER_NONE;
	if (x->peer == NULL || x->peer->over || identity == NULL || identity->length >= sizeof x->identity || key == NULL)
		return;
	if (!credentials_key_is(&x->m->credentials, identity->s, identity->length, key->s, key->length))
		return;
	x->role = credentials_role(&x->m->credentials, identity->s, identity->length);
	memcpy(x->identity, identity->s, identity->length);
}

/* True if this identity may do that; else the refusal is made. */
static bool permitted(struct exchange *x, unsigned method)
{
	switch (roles_permit(x->role, method, x->target.resource)) {
	case PERMIT_YES:
		return true;
	case PERMIT_NO_IDENTITY:
		refuse_as(x, CODE_UNAUTHORIZED, ERR_DENIED, "this identity is not enrolled any more");
		return false;
	case PERMIT_NO_METHOD:
		refuse_as(x, CODE_METHOD_NOT_ALLOWED, ERR_UNSUPPORTED, "this resource does not take that method");
		return false;
	case PERMIT_NO_RIGHT:
	default: {
		char text[TEXT_MAX_BYTES];

		snprintf(text, sizeof text, "the role %s has no right to do that", role_name(x->role));
		refuse(x, ERR_DENIED, text);
		return false;
	}
	}
}

static bool target_found(struct exchange *x)
{
	coap_string_t *path = coap_get_uri_path(x->request);
	int error = path == NULL ? ERR_NOT_FOUND : roles_path(&x->target, (const char *)path->s, path->length);

	coap_delete_string(path);
	if (error == ERR_USAGE)
		refuse_as(x, CODE_BAD_REQUEST, ERR_USAGE, "this is not a volume's name");
	else if (error != 0)
		refuse(x, ERR_NOT_FOUND, "there is no such resource; /.well-known/core lists them");
	return error == 0;
}

static unsigned uint_option(const coap_pdu_t *request, coap_option_num_t number, unsigned otherwise)
{
	coap_opt_iterator_t at;
	coap_opt_t *option = coap_check_option(request, number, &at);

	return option == NULL ? otherwise : coap_decode_var_bytes(coap_opt_value(option), coap_opt_length(option));
}

static bool options_good(struct exchange *x, unsigned method)
{
	coap_opt_iterator_t at;

	if (uint_option(x->request, COAP_OPTION_ACCEPT, FORMAT_CBOR) != FORMAT_CBOR)
		refuse_as(x, CODE_NOT_ACCEPTABLE, ERR_UNSUPPORTED, "there is only application/cbor, content format 60");
	else if (uint_option(x->request, COAP_OPTION_CONTENT_FORMAT, FORMAT_CBOR) != FORMAT_CBOR)
		refuse_as(x, CODE_UNSUPPORTED_FORMAT, ERR_UNSUPPORTED, "bodies are application/cbor, content format 60");
	else if (coap_check_option(x->request, COAP_OPTION_BLOCK1, &at) != NULL)
		refuse_as(x, CODE_TOO_LARGE, ERR_USAGE, "requests are not taken block by block");
	else if (x->query != NULL)
		refuse_as(x, CODE_BAD_REQUEST, ERR_USAGE, "resources take no query");
	else if (method == METHOD_POST && !read_if_match(x))
		refuse_as(x, CODE_BAD_REQUEST, ERR_USAGE,
			  "If-Match takes one sequence number, big-endian, without leading zeroes");
	else
		return true;
	return false;
}

/* The volume a request names must be one of the configured ones. */
static bool volume_found(struct exchange *x, const struct msg_mg_volume **v)
{
	char text[TEXT_MAX_BYTES];

	*v = NULL;
	if (x->target.volume[0] == '\0' ||
	    x->target.resource == RESOURCE_VOLUMES) /* to be created: the supervisor looks for its file */
		return true;
	*v = state_volume(&x->m->state, x->target.volume);
	if (*v != NULL)
		return true;
	snprintf(text, sizeof text, "no volume %s is configured", x->target.volume);
	refuse(x, ERR_NOT_FOUND, text);
	return false;
}

static void serve_exchange(struct exchange *x)
{
	unsigned method = coap_pdu_get_code(x->request);
	const struct msg_mg_volume *v;

	identify(x);
	if (x->role == USER_NONE) {
		refuse_as(x, CODE_UNAUTHORIZED, ERR_DENIED, "this identity is not enrolled any more");
		return;
	}
	if (!target_found(x) || !permitted(x, method) || !options_good(x, method))
		return;
	if (method == METHOD_POST && !read_body(x, x->target.resource == RESOURCE_VOLUMES))
		return;
	if (!volume_found(x, &v))
		return;
	if (method == METHOD_POST)
		serve_post(x, v);
	else
		serve_get(x, v);
}

static void serve(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request, const coap_string_t *query,
		  coap_pdu_t *response)
{
	struct exchange x = { .m = coap_resource_get_userdata(resource),
			      .resource = resource,
			      .session = session,
			      .request = request,
			      .query = query,
			      .response = response };
	coap_async_t *waiting = coap_find_async(session, coap_pdu_get_token(request));

	if (waiting != NULL && coap_async_get_app_data(waiting) != NULL)
		finish_pending(&x, coap_async_get_app_data(waiting));
	else
		serve_exchange(&x);
}

/* ---- resources ---- */

static void add_attribute(coap_resource_t *r, const char *name, const char *value)
{
	char quoted[64];
	int n = snprintf(quoted, sizeof quoted, "\"%s\"", value);

	coap_add_attr(r, coap_make_str_const(name), coap_new_str_const((const uint8_t *)quoted, (size_t)n),
		      COAP_ATTR_FLAGS_RELEASE_VALUE);
}

static void answer_every_method(coap_resource_t *r, struct mgmt *m)
{
	for (int method = METHOD_GET; method <= METHOD_IPATCH; method++)
		coap_register_request_handler(r, (coap_request_t)method, serve);
	coap_resource_set_userdata(r, m);
}

/* The row's path with the name in the place of its '*'. */
static size_t make_path(char out[static PATH_ROOM], enum resource resource, const char *name)
{
	const char *pattern = resource_row(resource)->path;
	const char *star = strchr(pattern, '*');
	int n;

	if (star == NULL)
		n = snprintf(out, PATH_ROOM, "%s", pattern);
	else
		n = snprintf(out, PATH_ROOM, "%.*s%s%s", (int)(star - pattern), pattern, name, star + 1);
	return (size_t)n;
}

static int add_resource(struct mgmt *m, enum resource resource, const char *name)
{
	const struct resource_row *row = resource_row(resource);
	char path[PATH_ROOM];
	size_t size = make_path(path, resource, name);
	coap_resource_t *r;

	r = coap_resource_init(coap_new_str_const((const uint8_t *)path, size), COAP_RESOURCE_FLAGS_RELEASE_URI);
	if (r == NULL)
		return ERR_NOMEM;
	answer_every_method(r, m);
	coap_resource_set_get_observable(r, row->observable);
	coap_add_attr(r, coap_make_str_const("ct"), coap_make_str_const("60"), 0);
	add_attribute(r, "title", row->title);
	coap_add_resource(m->coap, r);
	return 0;
}

static coap_resource_t *find_resource(struct mgmt *m, enum resource resource, const char *name)
{
	char path[PATH_ROOM];
	coap_str_const_t key = { .length = make_path(path, resource, name), .s = (const uint8_t *)path };

	return coap_get_resource_from_uri_path(m->coap, &key);
}

static bool of_volumes(enum resource r)
{
	return strchr(resource_row(r)->path, '*') != NULL;
}

static void add_volume(struct mgmt *m, const char *name)
{
	for (int r = 0; r < RESOURCE_COUNT; r++)
		if (of_volumes((enum resource)r) && add_resource(m, (enum resource)r, name) != 0)
			log_error("no memory for the resources of volume %s: they answer, but cannot be observed", name);
}

static void drop_volume(struct mgmt *m, const char *name)
{
	for (int r = 0; r < RESOURCE_COUNT; r++) {
		coap_resource_t *resource = of_volumes((enum resource)r) ? find_resource(m, (enum resource)r, name) : NULL;

		if (resource != NULL)
			coap_delete_resource(m->coap, resource);
	}
	state_drop_volume(&m->state, name);
}

static void notify(struct mgmt *m, enum resource resource, const char *name)
{
	coap_resource_t *r = find_resource(m, resource, name);

	if (r != NULL)
		coap_resource_notify_observers(r, NULL);
}

/* ---- the supervisor's messages ---- */

static bool same_body(const struct mgmt *m, int before, int after)
{
	return before >= 0 && before == after && memcmp(m->before, m->body, (size_t)after) == 0;
}

static void tell_volume(struct mgmt *m, const struct msg_mg_volume *v)
{
	const struct msg_mg_volume *old = state_volume(&m->state, v->name);
	int before = old == NULL ? -1 : render_gate(m->before, sizeof m->before, old);
	bool same = old != NULL && same_body(m, before, render_gate(m->body, sizeof m->body, v));
	int error;

	before = render_status(m->before, sizeof m->before, &m->state);
	error = state_put_volume(&m->state, v);
	if (error != 0) {
		log_error("volume %s cannot be shown to the network: %s", v->name, error_text(error));
		return;
	}
	if (old == NULL)
		add_volume(m, v->name);
	if (!same)
		notify(m, RESOURCE_STATE, v->name);
	if (!same_body(m, before, render_status(m->body, sizeof m->body, &m->state)))
		notify(m, RESOURCE_STATUS, "");
}

static void tell_agent(struct mgmt *m, const struct msg_mg_agent *agent)
{
	int before = m->state.agent_known ? render_status(m->before, sizeof m->before, &m->state) : -1;

	m->state.agent = *agent;
	m->state.agent_known = true;
	if (!same_body(m, before, render_status(m->body, sizeof m->body, &m->state)))
		notify(m, RESOURCE_STATUS, "");
}

static void tell_reply(struct mgmt *m, const struct msg_mg_reply *reply)
{
	struct pending *p = state_pending_find(&m->state, reply->id);

	if (p == NULL) {
		log_info("a reply of the supervisor came too late");
		return;
	}
	p->reply = *reply;
	p->answered = true;
	coap_async_trigger(p->ticket);
}

/* Sessions of an identity whose credential goes or changes end: its owner shakes hands again with what is valid now. */
static void tell_credential(struct mgmt *m, const struct msg_mg_credential *c)
{
	int error = credentials_put(&m->credentials, c);
	size_t size = strlen(c->identity);

	if (error != 0)
		log_error("a credential cannot be kept: %s", error_text(error));
	for (struct peer *p = m->peers; p != NULL; p = p->next) {
		const coap_bin_const_t *identity = coap_session_get_psk_identity(p->session);

		if (identity == NULL || (identity->length == size && memcmp(identity->s, c->identity, size) == 0))
			p->over = true;
	}
}

void routes_tell(struct mgmt *m, const struct message *message)
{
	m->state.heard_ns = now_ns();
	switch (message->type) {
	case MSG_MG_VOLUME:
		tell_volume(m, &message->body.mg_volume);
		break;
	case MSG_MG_GONE:
		drop_volume(m, message->body.mg_gone.name);
		notify(m, RESOURCE_STATUS, "");
		break;
	case MSG_MG_AGENT:
		tell_agent(m, &message->body.mg_agent);
		break;
	case MSG_MG_REPLY:
		tell_reply(m, &message->body.mg_reply);
		break;
	case MSG_MG_CREDENTIAL:
		tell_credential(m, &message->body.mg_credential);
		break;
	default:
		fatal("the supervisor sent message %u, which is not for this process", message->type);
	}
}

/* ---- how sessions end ---- */

static int on_event(coap_session_t *session, const coap_event_t event)
{
	struct mgmt *m = coap_get_app_data(coap_session_get_context(session));

	if (event == COAP_EVENT_DTLS_CLOSED || event == COAP_EVENT_DTLS_ERROR)
		peer_closed(session);
	else if (event == COAP_EVENT_SERVER_SESSION_DEL)
		peer_gone(m, session);
	return 0;
}

/* Nobody is left to answer. */
static void forget_requests(struct mgmt *m, coap_session_t *session)
{
	for (unsigned i = 0; i < STATE_PENDING_MAX; i++) {
		struct pending *p = &m->state.pending[i];

		if (p->id == 0 || p->owner != session)
			continue;
		coap_free_async(session, p->ticket);
		state_pending_free(p);
	}
}

bool routes_sweep(struct mgmt *m)
{
	bool any = false;

	for (struct peer *p = m->peers; p != NULL; p = p->next) {
		if (!p->over)
			continue;
		forget_requests(m, p->session);
		if (coap_session_get_state(p->session) == COAP_SESSION_STATE_NONE)
			continue; /* libcoap frees it in the next round */
		coap_session_disconnected(p->session, COAP_NACK_TLS_FAILED);
		any = true;
	}
	return any;
}

/* ---- start and end ---- */

int routes_start(struct mgmt *m)
{
	coap_resource_t *others = coap_resource_unknown_init2(serve, 0);

	if (others == NULL)
		return ERR_NOMEM;
	answer_every_method(others, m);
	coap_add_resource(m->coap, others);
	for (int r = 0; r < RESOURCE_COUNT; r++)
		if (!of_volumes((enum resource)r) && add_resource(m, (enum resource)r, "") != 0)
			return ERR_NOMEM;
	coap_set_app_data(m->coap, m);
	coap_register_event_handler(m->coap, on_event);
	return 0;
}

void routes_stop(struct mgmt *m)
{
	state_free(&m->state);
	credentials_wipe(&m->credentials);
	explicit_bzero(m->body, sizeof m->body);
}
