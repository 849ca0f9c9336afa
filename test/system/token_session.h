/* A login to a test token, for the small tools that do to it on purpose what the agent never does. Every failure ends the program
 * with one line. */
#ifndef FALLGATE_TEST_SYSTEM_TOKEN_SESSION_H
#define FALLGATE_TEST_SYSTEM_TOKEN_SESSION_H

#include <stddef.h>

#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>

struct token_session {
	CK_FUNCTION_LIST *module;
	CK_SESSION_HANDLE session;
	P11KitUri *uri;
};

/* A read-write session on the token that the URI names, logged in with the PIN in a file. */
void token_open(struct token_session *t, const char *module, const char *uri, const char *pin_file);
void token_close(struct token_session *t);

/* At most `size` bytes of a file; how many. */
size_t token_read_file(const char *path, void *out, size_t size);

_Noreturn void token_fail(const char *what, CK_RV rv);
void token_must(const char *what, CK_RV rv);

#endif
