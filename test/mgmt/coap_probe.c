/* A DTLS client made of lines, for tests: one session, requests from standard input, every answer as a line, nothing repeated or
 * completed behind the test's back (an Echo demand is shown, not obeyed).
 *
 *   coap_probe ADDRESS IDENTITY HEXKEY, then lines: METHOD PATH [observe] [if-match=HEX] [echo=HEX] [ct=N] [accept=N] [block1=N]
 *   [body=HEX] [query=TEXT] | wait MILLISECONDS. Answers: reply|notify code=C.DD ct=N etag=HEX echo=HEX body=HEX
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <coap3/coap.h>

#include "base/error.h"
#include "mgmt/address.h"

static coap_context_t *context;
static coap_session_t *session;
static uint64_t observed; /* the token of the last observation */
static uint64_t last_token;
static bool closed;

static size_t unhex(uint8_t *out, size_t size, const char *hex)
{
	size_t n = 0;

	while (n < size && sscanf(hex + 2 * n, "%2hhx", &out[n]) == 1)
		n++;
	return n;
}

static void print_hex(const char *name, const uint8_t *bytes, size_t size)
{
	printf(" %s=", name);
	for (size_t i = 0; i < size; i++)
		printf("%02x", bytes[i]);
}

static void print_option(const char *name, const coap_pdu_t *pdu, coap_option_num_t number)
{
	coap_opt_iterator_t at;
	coap_opt_t *option = coap_check_option(pdu, number, &at);

	if (option != NULL)
		print_hex(name, coap_opt_value(option), coap_opt_length(option));
}

static coap_response_t on_response(coap_session_t *s, const coap_pdu_t *sent, const coap_pdu_t *received, const coap_mid_t mid)
{
	coap_bin_const_t t = coap_pdu_get_token(received);
	unsigned code = coap_pdu_get_code(received);
	const uint8_t *data;
	uint64_t token = 0;
	size_t size;

	(void)s;
	(void)sent;
	(void)mid;
	for (size_t i = 0; i < t.length && i < 8; i++)
		token = token << 8 | t.s[i];
	printf("%s code=%u.%02u", observed == token && last_token != token ? "notify" : "reply", code >> 5, code & 31);
	if (observed == token)
		last_token = 0;
	print_option("ct", received, COAP_OPTION_CONTENT_FORMAT);
	print_option("etag", received, COAP_OPTION_ETAG);
	print_option("echo", received, COAP_OPTION_ECHO);
	print_option("block2", received, COAP_OPTION_BLOCK2);
	print_option("observe", received, COAP_OPTION_OBSERVE);
	if (coap_get_data(received, &size, &data))
		print_hex("body", data, size);
	putchar('\n');
	return COAP_RESPONSE_OK;
}

static int on_event(coap_session_t *s, const coap_event_t event)
{
	(void)s;
	if ((event == COAP_EVENT_DTLS_CLOSED || event == COAP_EVENT_DTLS_ERROR) && !closed) {
		closed = true;
		puts("closed");
	}
	return 0;
}

static void on_nack(coap_session_t *s, const coap_pdu_t *sent, const coap_nack_reason_t reason, const coap_mid_t mid)
{
	(void)s;
	(void)sent;
	(void)mid;
	printf("nack %d\n", (int)reason);
}

static int method_of(const char *name)
{
	static const char *const names[] = { "", "GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "IPATCH" };

	for (int i = 1; i < 8; i++)
		if (strcmp(name, names[i]) == 0)
			return i;
	return 0;
}

static void add_uint(coap_optlist_t **list, uint16_t number, unsigned value)
{
	uint8_t bytes[4];

	coap_insert_optlist(list, coap_new_optlist(number, coap_encode_var_safe(bytes, sizeof bytes, value), bytes));
}

static void add_path(coap_optlist_t **list, char *path)
{
	char *rest = path;
	char *segment;

	while ((segment = strsep(&rest, "/")) != NULL)
		coap_insert_optlist(list, coap_new_optlist(COAP_OPTION_URI_PATH, strlen(segment), (uint8_t *)segment));
}

static void send_line(int method, char *line)
{
	coap_pdu_t *pdu = coap_new_pdu(COAP_MESSAGE_CON, (coap_pdu_code_t)method, session);
	coap_optlist_t *options = NULL;
	uint8_t bytes[1024], body[1024], token[8];
	size_t size, body_size = 0, token_size;
	bool has_body = false;
	char *at = strtok(line, " ");

	coap_session_new_token(session, &token_size, token);
	coap_add_token(pdu, token_size, token);
	last_token = 0;
	for (size_t i = 0; i < token_size; i++)
		last_token = last_token << 8 | token[i];
	add_path(&options, at);
	while ((at = strtok(NULL, " ")) != NULL) {
		const char *value = strchr(at, '=') == NULL ? "" : strchr(at, '=') + 1;

		if (strcmp(at, "observe") == 0) {
			add_uint(&options, COAP_OPTION_OBSERVE, COAP_OBSERVE_ESTABLISH);
			observed = last_token;
		} else if (strncmp(at, "if-match=", 9) == 0) {
			size = unhex(bytes, sizeof bytes, value);
			coap_insert_optlist(&options, coap_new_optlist(COAP_OPTION_IF_MATCH, size, bytes));
		} else if (strncmp(at, "echo=", 5) == 0) {
			size = unhex(bytes, sizeof bytes, value);
			coap_insert_optlist(&options, coap_new_optlist(COAP_OPTION_ECHO, size, bytes));
		} else if (strncmp(at, "ct=", 3) == 0) {
			add_uint(&options, COAP_OPTION_CONTENT_FORMAT, (unsigned)atoi(value));
		} else if (strncmp(at, "accept=", 7) == 0) {
			add_uint(&options, COAP_OPTION_ACCEPT, (unsigned)atoi(value));
		} else if (strncmp(at, "block1=", 7) == 0) {
			add_uint(&options, COAP_OPTION_BLOCK1, (unsigned)atoi(value));
		} else if (strncmp(at, "block2=", 7) == 0) {
			add_uint(&options, COAP_OPTION_BLOCK2, (unsigned)atoi(value));
		} else if (strncmp(at, "query=", 6) == 0) {
			coap_insert_optlist(&options,
					    coap_new_optlist(COAP_OPTION_URI_QUERY, strlen(value), (const uint8_t *)value));
		} else if (strncmp(at, "body=", 5) == 0) {
			body_size = unhex(body, sizeof body, value);
			has_body = true;
		}
	}
	coap_add_optlist_pdu(pdu, &options);
	coap_delete_optlist(options);
	if (has_body)
		coap_add_data(pdu, body_size, body);
	if (coap_send(session, pdu) == COAP_INVALID_MID)
		puts("not-sent");
}

static void do_line(char *line)
{
	size_t n = strcspn(line, " ");
	int method;

	if (line[n] == '\0')
		return;
	line[n] = '\0';
	method = method_of(line);
	if (method != 0)
		send_line(method, line + n + 1);
}

static void serve_lines(void)
{
	struct pollfd p[2] = { { .fd = 0, .events = POLLIN }, { .fd = coap_context_get_coap_fd(context), .events = POLLIN } };
	static char buffer[8192];
	size_t used = 0;

	for (;;) {
		char *end;
		ssize_t n;

		coap_io_process(context, COAP_IO_NO_WAIT);
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return;
		if (p[0].revents == 0)
			continue;
		n = read(0, buffer + used, sizeof buffer - used - 1);
		if (n <= 0)
			return;
		used += (size_t)n;
		buffer[used] = '\0';
		while ((end = strchr(buffer, '\n')) != NULL) {
			*end = '\0';
			do_line(buffer);
			used -= (size_t)(end + 1 - buffer);
			memmove(buffer, end + 1, used + 1);
		}
	}
}

int main(int argc, char **argv)
{
	coap_dtls_cpsk_t psk = { .version = COAP_DTLS_CPSK_SETUP_VERSION };
	struct sockaddr_storage address;
	coap_address_t server;
	socklen_t size;
	uint8_t key[64];

	if (argc != 4 || address_parse(&address, &size, argv[1]) != 0) {
		fputs("coap_probe: ADDRESS IDENTITY HEXKEY\n", stderr);
		return error_exit_code(ERR_USAGE);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	coap_startup();
	coap_set_log_level(COAP_LOG_EMERG);
	context = coap_new_context(NULL);
	coap_register_response_handler(context, on_response);
	coap_register_event_handler(context, on_event);
	coap_register_nack_handler(context, on_nack);
	coap_address_init(&server);
	memcpy(&server.addr, &address, size);
	server.size = size;
	psk.psk_info.identity = (coap_bin_const_t){ strlen(argv[2]), (const uint8_t *)argv[2] };
	psk.psk_info.key = (coap_bin_const_t){ unhex(key, sizeof key, argv[3]), key };
	session = coap_new_client_session_psk2(context, NULL, &server, COAP_PROTO_DTLS, &psk);
	if (session == NULL) {
		puts("no-session");
		return 1;
	}
	serve_lines();
	coap_session_release(session);
	coap_free_context(context);
	coap_cleanup();
	return 0;
}
