/* SIGABRT's handler. abort() lets the signal through whatever mask the thread has. */
#include "fault.h"

#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "control.h"

/* Where glibc leaves the last words of an abort, for debuggers. The next abort's take their place, and it unmaps those. */
struct last_words {
	unsigned size;
	char text[];
};

/* A signal handler is given no context: the process has one control thread, and this is it. */
static struct {
	struct control *control;
	struct last_words *_Atomic *words; /* NULL: this libc keeps none */
	struct last_words *taken;          /* by the last who aborted; they stay mapped */
	atomic_flag taking;
} watched = { .taking = ATOMIC_FLAG_INIT };

/* Taken from where they lie, that the next thread to fail does not unmap them under the reader. Whoever finds none has failed at
 * the same moment as the one who took the last: those are his. */
static const char *take_words(void)
{
	struct last_words *words;

	if (watched.words == NULL)
		return "";
	while (atomic_flag_test_and_set(&watched.taking))
		;
	words = atomic_exchange(watched.words, NULL);
	if (words != NULL)
		watched.taken = words;
	words = watched.taken;
	atomic_flag_clear(&watched.taking);
	return words != NULL ? words->text : "";
}

static bool only_a_lost_client(const char *words)
{
	return strstr(words, "raw_send_socket: Assertion") != NULL && control_client_stuck(watched.control) <= FAULT_PARKED_MAX;
}

static void on_abort(int number)
{
	const char *words = take_words();

	(void)number;
	if (!only_a_lost_client(words))
		control_fault(watched.control, strstr(words, "Assertion") != NULL);
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
