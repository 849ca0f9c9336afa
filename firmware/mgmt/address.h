/* Numeric "127.0.0.1:5684" and "[::1]:5684": no names, since revoking must work without a DNS. */
#ifndef FALLGATE_MGMT_ADDRESS_H
#define FALLGATE_MGMT_ADDRESS_H

#include <sys/socket.h>

/* 0 or ERR_USAGE. */
int address_parse(struct sockaddr_storage *out, socklen_t *size, const char *text);

#endif
