/* libcoap's client, with waits that end. Bodies in blocks and Echo demands are libcoap's doing (COAP_BLOCK_USE_LIBCOAP). */
#include "remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <coap3/coap.h>

#include "base/bytes.h"
#include "base/error.h"
#include "mgmt/address.h"

#include "credentials.h"

enum {
	HANDSHAKE_SECONDS = 5,
	KEEPALIVE_SECONDS = 5,
	BODY_MAX = 1 << 20,
	FORMAT_CBOR = 60,
};

struct remote {
	coap_context_t *context;
	coap_session_t *session;
	char address[64];
	char identity[IDENTITY_MAX_BYTES];
	bool closed, unheard; /* unheard: the port is shut, or keep-alives were not answered */
	bool arrived, no_memory;
	struct answer answer;
	remote_change *on_change;
	void *context_of_change;
	bool stop;
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static struct remote *remote_of(const coap_session_t *session)
{
	return coap_get_app_data(coap_session_get_context(session));
}

/* ---- what libcoap tells ---- */

static int on_event(coap_session_t *session, const coap_event_t event)
{
	struct remote *r = remote_of(session);

	switch ((int)event) {
	case COAP_EVENT_DTLS_CLOSED:
	case COAP_EVENT_DTLS_ERROR:
		r->closed = true;
		break;
	case COAP_EVENT_KEEPALIVE_FAILURE:
		r->unheard = true;
		break;
	default:
		break;
	}
	return 0;
}

static void on_nack(coap_session_t *session, const coap_pdu_t *sent, const coap_nack_reason_t reason, const coap_mid_t mid)
{
	struct remote *r = remote_of(session);

	(void)sent;
	(void)mid;
	if (reason == COAP_NACK_ICMP_ISSUE || reason == COAP_NACK_NOT_DELIVERABLE || reason == COAP_NACK_TOO_MANY_RETRIES)
		r->unheard = true;
	else
		r->closed = true;
}

static bool keep_answer(struct remote *r, const coap_pdu_t *received)
{
	size_t size = 0, offset, total;
	const uint8_t *data = NULL;

	free(r->answer.body);
	r->answer = (struct answer){ .code = (uint8_t)coap_pdu_get_code(received) };
	if (!coap_get_data_large(received, &size, &data, &offset, &total) || size == 0)
		return true;
	if (size > BODY_MAX)
		return false;
	r->answer.body = malloc(size);
	if (r->answer.body == NULL)
		return false;
	memcpy(r->answer.body, data, size);
	r->answer.size = size;
	return true;
}

static coap_response_t on_response(coap_session_t *session, const coap_pdu_t *sent, const coap_pdu_t *received,
				   const coap_mid_t mid)
{
	struct remote *r = remote_of(session);

	(void)sent;
	(void)mid;
	r->no_memory = !keep_answer(r, received);
	r->arrived = true;
	if (r->on_change != NULL && !r->no_memory && !r->on_change(r->context_of_change, &r->answer))
		r->stop = true;
	return COAP_RESPONSE_OK;
}

/* ---- opening ---- */

/* libcoap with mbedTLS tells of no finished handshake. */
static bool is_connected(const struct remote *r)
{
	return coap_session_get_state(r->session) == COAP_SESSION_STATE_ESTABLISHED;
}

static bool has_arrived(const struct remote *r)
{
	return r->arrived;
}

/* Until it is so, the session is over, or the time is. */
static bool wait_for(struct remote *r, bool (*is_so)(const struct remote *), unsigned seconds)
{
	uint64_t end = now_ms() + seconds * 1000ull;
	uint64_t now;

	while (!is_so(r) && !r->closed && !r->unheard && (now = now_ms()) < end)
		if (coap_io_process(r->context, (uint32_t)(end - now < 200 ? end - now : 200)) < 0)
			break;
	return is_so(r);
}

static int say_no_answer(const struct remote *r, unsigned seconds, char *text, size_t size)
{
	if (r->unheard)
		snprintf(text, size, "nothing answers at %s: is the agent running?", r->address);
	else
		snprintf(text, size, "no answer from %s in %u s: is the agent running?", r->address, seconds);
	return ERR_TIMEOUT;
}

static int start_session(struct remote *r, const struct credentials *c, char *text, size_t size)
{
	coap_dtls_cpsk_t psk = { .version = COAP_DTLS_CPSK_SETUP_VERSION };
	struct sockaddr_storage address;
	coap_address_t server;
	socklen_t length;

	if (address_parse(&address, &length, c->address) != 0) {
		snprintf(text, size, "the agent's address '%s' in the credentials is not ADDRESS:PORT in numbers", c->address);
		return ERR_CONFIG;
	}
	coap_address_init(&server);
	memcpy(&server.addr, &address, length);
	server.size = length;
	psk.psk_info.identity = (coap_bin_const_t){ .length = strlen(c->identity), .s = (const uint8_t *)c->identity };
	psk.psk_info.key = (coap_bin_const_t){ .length = sizeof c->key, .s = c->key };
	r->session = coap_new_client_session_psk2(r->context, NULL, &server, COAP_PROTO_DTLS, &psk);
	if (r->session != NULL)
		return 0;
	snprintf(text, size, "no session with %s could be started", c->address);
	return ERR_IO;
}

static void be_silent(coap_log_t level, const char *line)
{
	(void)level;
	(void)line;
}

static int start_context(struct remote *r)
{
	coap_startup();
	coap_set_log_handler(be_silent);
	coap_set_log_level(COAP_LOG_EMERG);
	coap_dtls_set_log_level(COAP_LOG_EMERG);
	r->context = coap_new_context(NULL);
	if (r->context == NULL)
		return ERR_NOMEM;
	coap_set_app_data(r->context, r);
	coap_context_set_block_mode(r->context, COAP_BLOCK_USE_LIBCOAP | COAP_BLOCK_SINGLE_BODY);
	coap_register_event_handler(r->context, on_event);
	coap_register_nack_handler(r->context, on_nack);
	coap_register_response_handler(r->context, on_response);
	return 0;
}

int remote_open(struct remote **out, const struct credentials *c, char *text, size_t size)
{
	struct remote *r = calloc(1, sizeof *r);
	int error = r == NULL ? ERR_NOMEM : 0;

	*out = r;
	if (error == 0) {
		snprintf(r->address, sizeof r->address, "%s", c->address);
		snprintf(r->identity, sizeof r->identity, "%s", c->identity);
		error = start_context(r);
	}
	if (error != 0) {
		snprintf(text, size, "%s", error_text(error));
		return error;
	}
	error = start_session(r, c, text, size);
	if (error != 0)
		return error;
	if (wait_for(r, is_connected, HANDSHAKE_SECONDS))
		return 0;
	if (!r->closed)
		return say_no_answer(r, HANDSHAKE_SECONDS, text, size);
	snprintf(text, size, "the agent at %s does not accept the identity '%s' with this key; enroll it anew at the console",
		 r->address, r->identity);
	return ERR_DENIED;
}

void remote_close(struct remote *r)
{
	if (r == NULL)
		return;
	if (r->session != NULL)
		coap_session_release(r->session);
	if (r->context != NULL)
		coap_free_context(r->context);
	coap_cleanup();
	free(r->answer.body);
	free(r);
}

/* ---- asking ---- */

static void add_path(coap_optlist_t **options, const char *path)
{
	while (*path != '\0') {
		size_t n = strcspn(path, "/");

		coap_insert_optlist(options, coap_new_optlist(COAP_OPTION_URI_PATH, n, (const uint8_t *)path));
		path += n + (path[n] == '/');
	}
}

static void add_if_match(coap_optlist_t **options, uint64_t seq)
{
	uint8_t bytes[8];
	size_t skip = 0;

	put_be64(bytes, seq);
	while (skip < 7 && bytes[skip] == 0)
		skip++;
	coap_insert_optlist(options, coap_new_optlist(COAP_OPTION_IF_MATCH, 8 - skip, bytes + skip));
}

static void add_uint(coap_optlist_t **options, uint16_t number, unsigned value)
{
	uint8_t bytes[4];

	coap_insert_optlist(options, coap_new_optlist(number, coap_encode_var_safe(bytes, sizeof bytes, value), bytes));
}

static bool send_question(struct remote *r, const struct question *q, bool observe)
{
	coap_pdu_t *pdu = coap_new_pdu(COAP_MESSAGE_CON, (coap_pdu_code_t)q->method, r->session);
	coap_optlist_t *options = NULL;
	uint8_t token[8];
	size_t size;

	if (pdu == NULL)
		return false;
	coap_session_new_token(r->session, &size, token);
	coap_add_token(pdu, size, token);
	add_path(&options, q->path);
	if (q->has_if_match)
		add_if_match(&options, q->if_match);
	if (observe)
		add_uint(&options, COAP_OPTION_OBSERVE, COAP_OBSERVE_ESTABLISH);
	if (q->body_size > 0)
		add_uint(&options, COAP_OPTION_CONTENT_FORMAT, FORMAT_CBOR);
	coap_add_optlist_pdu(pdu, &options);
	coap_delete_optlist(options);
	if (q->body_size > 0)
		coap_add_data(pdu, q->body_size, q->body);
	return coap_send(r->session, pdu) != COAP_INVALID_MID;
}

static int say_ended(const struct remote *r, char *text, size_t size)
{
	snprintf(text, size, "the agent at %s ended the session: it stopped, or the identity '%s' was removed", r->address,
		 r->identity);
	return ERR_DENIED;
}

int remote_ask(struct remote *r, const struct question *q, struct answer *a, char *text, size_t size)
{
	r->arrived = false;
	*a = (struct answer){ 0 };
	if (!send_question(r, q, false)) {
		snprintf(text, size, "the request to %s could not be sent", r->address);
		return ERR_IO;
	}
	if (!wait_for(r, has_arrived, q->seconds))
		return r->closed ? say_ended(r, text, size) : say_no_answer(r, q->seconds, text, size);
	if (r->no_memory) {
		snprintf(text, size, "the answer of %s is too large", r->address);
		return ERR_NOMEM;
	}
	*a = r->answer;
	r->answer = (struct answer){ 0 };
	return 0;
}

int remote_watch(struct remote *r, const char *path, remote_change *on_change, void *context, char *text, size_t size)
{
	struct question q = { .method = COAP_REQUEST_GET, .path = path };

	r->on_change = on_change;
	r->context_of_change = context;
	r->arrived = false;
	coap_context_set_keepalive(r->context, KEEPALIVE_SECONDS);
	if (!send_question(r, &q, true)) {
		snprintf(text, size, "the request to %s could not be sent", r->address);
		return ERR_IO;
	}
	if (!wait_for(r, has_arrived, HANDSHAKE_SECONDS) && !r->closed)
		return say_no_answer(r, HANDSHAKE_SECONDS, text, size);
	while (!r->stop && !r->closed && !r->unheard)
		if (coap_io_process(r->context, 1000) < 0)
			break;
	if (r->stop)
		return 0;
	return r->closed ? say_ended(r, text, size) : say_no_answer(r, KEEPALIVE_SECONDS, text, size);
}
