/* One parser for the network process and the client. */
#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static int parse_port(in_port_t *out, const char *text)
{
	char *end;
	unsigned long port;

	if (strspn(text, "0123456789") != strlen(text) || text[0] == '\0' || strlen(text) > 5)
		return ERR_USAGE;
	port = strtoul(text, &end, 10);
	if (*end != '\0' || port == 0 || port > 65535)
		return ERR_USAGE;
	*out = htons((in_port_t)port);
	return 0;
}

int address_parse(struct sockaddr_storage *out, socklen_t *size, const char *text)
{
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;
	struct sockaddr_in *four = (struct sockaddr_in *)out;
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN];
	size_t host_size;

	memset(out, 0, sizeof *out);
	if (colon == NULL)
		return ERR_USAGE;
	host_size = (size_t)(colon - text);
	if (host_size > 2 && text[0] == '[' && colon[-1] == ']' && host_size - 2 < sizeof host) {
		memcpy(host, text + 1, host_size - 2);
		host[host_size - 2] = '\0';
		six->sin6_family = AF_INET6;
		*size = sizeof *six;
		return inet_pton(AF_INET6, host, &six->sin6_addr) == 1 ? parse_port(&six->sin6_port, colon + 1) : ERR_USAGE;
	}
	if (host_size >= sizeof host)
		return ERR_USAGE;
	memcpy(host, text, host_size);
	host[host_size] = '\0';
	four->sin_family = AF_INET;
	*size = sizeof *four;
	return inet_pton(AF_INET, host, &four->sin_addr) == 1 ? parse_port(&four->sin_port, colon + 1) : ERR_USAGE;
}
