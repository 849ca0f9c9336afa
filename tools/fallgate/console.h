/* The agent's console: a socket in its run directory, for root and the agent's own user on the machine itself. */
#ifndef FALLGATE_CONSOLE_H
#define FALLGATE_CONSOLE_H

#include <stddef.h>

struct msg_con_reply;
struct msg_con_request;

/* A connection to it: a descriptor, or ERR_* with one clear line in text. */
int console_open(const char *run_dir, char *text, size_t size);

/* One request, one reply. 0 (then reply->error says what the agent says), or ERR_* with one clear line in text. Wipe the reply.
 */
int console_ask(const char *run_dir, const struct msg_con_request *request, struct msg_con_reply *reply, char *text, size_t size);

/* Likewise: the PIN that fd gives is sealed for this KEK. */
int console_seal_pin(const char *run_dir, const char *kek, int fd, struct msg_con_reply *reply, char *text, size_t size);

#endif
