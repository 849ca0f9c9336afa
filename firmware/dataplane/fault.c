/* SIGABRT's handler. abort() lets the signal through whatever mask the thread has. */
#include "fault.h"

#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "control.h"

/* Where glibc leaves the last words of an abort, for debuggers. */
struct last_words {
	unsigned size;
	char text[];
};

/* A signal handler is given no context: the process has one control thread, and this is it. */
static struct {
	struct control *control;
	struct last_words **words; /* NULL: this libc keeps none */
} watched;

static bool says(const char *what)
{
	return watched.words != NULL && *watched.words != NULL && strstr((*watched.words)->text, what) != NULL;
}

static bool only_a_lost_client(void)
{
	return says("raw_send_socket: Assertion") && control_client_stuck(watched.control) <= FAULT_PARKED_MAX;
}

static void on_abort(int number)
{
	(void)number;
	if (!only_a_lost_client())
		control_fault(watched.control, says("Assertion"));
	for (;;)
		poll(NULL, 0, -1); /* until the process ends */
}

void fault_watch(struct control *c)
{
	struct sigaction action = { .sa_handler = on_abort };

	watched.control = c;
	watched.words = dlsym(RTLD_DEFAULT, "__abort_msg");
	sigfillset(&action.sa_mask);
	sigaction(SIGABRT, &action, NULL);
}
