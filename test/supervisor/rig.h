/* What the tests of the supervisor among children share: an agent in this process with one KEK and one volume ("main", "demo") on
 * real records, in a folder of its own, where every program that it starts is fake_child. How a child behaves is a word in the
 * file <child>.mode there, "good" unless a test puts another; what it was given and asked stands in files beside. Times are short
 * and real, and nothing moves but in run_for and until. One rig at a time. */
#ifndef TEST_SUPERVISOR_RIG_H
#define TEST_SUPERVISOR_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "supervisor/agent.h"
#include "supervisor/volume.h"

extern char dir[64];
extern struct agent *agent;
extern struct volume *volume; /* what reach, expect and attach speak of: "demo", unless a test says another */

/* The command line of such a test: FAKE_CHILD [NAMES-OF-TESTS]. False: it is not that, exit code 2. */
bool rig_begin(const char *name, int argc, char **argv);

void rig_up(const char *name); /* the KEK's and the volume's configuration may be changed until something is asked of them */
struct volume *rig_add_volume(const char *name); /* as the first is configured, with a backing store of its own */
int rig_down(void);

/* Files in the folder; one that is not there is "". */
void path_of(char path[static 200], const char *name);
void put(const char *name, const char *text);
void get(const char *name, char *out, size_t size);
bool ledger_says(const char *what); /* the writer's thread may be a moment behind */

/* Runs the loop until `there` says so, or ms have passed. */
bool until(bool (*there)(void), unsigned ms);
void run_for(unsigned ms);
bool reach(enum gate_state state, unsigned ms);
void expect(enum gate_state state, enum gate_cause cause, unsigned ms);
void attach(void);

#endif
