/* The gate's table as Promela, and Promela's steps on the gate: what stands between the model and the function. What must hold:
 * the rows come from the real table (or a copy damaged on purpose), so that the model cannot drift; what the model prints of a
 * step is compared whole with what the function does. gate_traces --promela [--damage N]      writes names and rows; the rules
 * stand in gate.pml, written a second time on purpose gate_traces --replay [--damage N] [--all-rows] < OUTPUT    compares every
 * line "STEP ..." of spin's output; the rest is passed by */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "revocation/revocation.h"
#include "revocation/table.h"

enum { EXIT_DIFFERENT = 1, EXIT_USAGE = 2 };

static struct gate_row rows[GATE_STATE_COUNT][EV_COUNT];

/* Each is a way to break the promise, and must be found by the model. */
static const struct damage {
	enum gate_state state;
	enum gate_event event;
	struct gate_row row;
} damages[] = {
	{ GATE_AVAILABLE, EV_REVOKE, { GATE_INACCESSIBLE, ACT_WRITE_LATCH | ACT_AUDIT, RULE_SET, "shut without a wipe" } },
	{ GATE_UNLOCKING, EV_REVOKE, { GATE_LOCKING, ACT_SEND_LOCK | ACT_WRITE_LATCH, RULE_SET, "its hsm lives on" } },
	{ GATE_INACCESSIBLE, EV_PROOF_GOOD, { GATE_UNLOCKING, ACT_START_UNLOCK, RULE_KEEP, "opens under a latch" } },
	{ GATE_LOCKING, EV_WIPE_DEADLINE, { GATE_LOCKING, ACT_ALARM, RULE_KEEP, "waits for ever for a wipe" } },
};

static bool damage(const char *number)
{
	unsigned long n = strtoul(number, NULL, 10);

	if (n >= sizeof damages / sizeof damages[0])
		return false;
	rows[damages[n].state][damages[n].event] = damages[n].row;
	return true;
}

/* ---- the table as Promela ---- */

static void print_name(const char *prefix, const char *name, unsigned value)
{
	printf("#define %s", prefix);
	for (; *name != '\0'; name++)
		putchar(*name == '-' ? '_' : toupper((unsigned char)*name));
	printf(" %u\n", value);
}

static void print_names(void)
{
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		print_name("G_", gate_state_name(s), s);
	for (enum gate_cause c = 0; c < CAUSE_COUNT; c++)
		print_name("C_", gate_cause_name(c), c);
	for (enum gate_event e = 0; e < EV_COUNT; e++)
		print_name("E_", gate_event_name(e), e);
	for (enum gate_rule r = RULE_UNWRITTEN + 1; r < RULE_COUNT; r++)
		print_name("R_", gate_rule_name(r), r);
	for (unsigned bit = 0; 1u << bit <= ACT_REATTACH; bit++)
		print_name("A_", gate_action_name((enum gate_action)(1u << bit)), 1u << bit);
	printf("#define CAUSES %d\n#define EVENTS %d\n#define LATCHES(c) (", CAUSE_COUNT, EV_COUNT);
	for (enum gate_cause c = 0; c < CAUSE_COUNT; c++)
		if (gate_cause_latches(c))
			printf("(c) == %u || ", c);
	printf("false)\n#define SERVES(s) (");
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		if (gate_state_serves(s))
			printf("(s) == %u || ", s);
	printf("false)\n#define HAS_KEYS(s) (");
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		if (gate_state_has_keys(s))
			printf("(s) == %u || ", s);
	printf("false)\n");
}

static void print_rows(void)
{
	printf("inline look_up(s, e)\n{\n\tif\n");
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++) {
		printf("\t:: s == %u ->\n\t\tif\n", s);
		for (enum gate_event e = 0; e < EV_COUNT; e++)
			printf("\t\t:: e == %u -> row_next = %u; row_rule = %u; row_acts = %u\n", e, rows[s][e].next,
			       rows[s][e].rule, rows[s][e].actions);
		printf("\t\tfi\n");
	}
	printf("\tfi\n}\n");
}

/* ---- steps of the model on the function ---- */

static int different(const char *line, const struct gate_step *step)
{
	fprintf(stderr, "gate_traces: the model says %s", line);
	fprintf(stderr, "gate_traces: the function says -> %u %u %d %u, actions 0x%x\n", step->next.state, step->next.cause,
		step->next.latched, step->next.latched ? step->next.latch_cause : 0, step->actions);
	return EXIT_DIFFERENT;
}

static bool as_the_model(const struct gate_step *step, const unsigned *v)
{
	return step->next.state == v[6] && step->next.cause == v[7] && step->next.latched == v[8] &&
	       (!step->next.latched || step->next.latch_cause == v[9]) && step->actions == v[10];
}

static int replay(bool all_rows)
{
	static bool seen[GATE_STATE_COUNT][EV_COUNT];
	unsigned long steps = 0, rows_seen = 0;
	char line[512];

	while (fgets(line, sizeof line, stdin) != NULL) {
		const char *at = strstr(line, "STEP ");
		unsigned v[11];
		struct gate now;
		struct gate_step step;

		if (at == NULL ||
		    sscanf(at, "STEP %u %u %u %u + %u %u -> %u %u %u %u %u", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6],
			   &v[7], &v[8], &v[9], &v[10]) != 11 ||
		    v[0] >= GATE_STATE_COUNT || v[4] >= EV_COUNT)
			continue;
		now = (struct gate){ v[0], v[1], v[2] != 0, v[3], 7 };
		step = revocation_apply((gate_rows)rows, &now, v[4], v[5]);
		if (!as_the_model(&step, v))
			return different(at, &step);
		rows_seen += !seen[v[0]][v[4]];
		seen[v[0]][v[4]] = true;
		steps++;
	}
	printf("%lu steps, %lu rows: model and function agree\n", steps, rows_seen);
	if (steps == 0 || (all_rows && rows_seen < (unsigned long)GATE_STATE_COUNT * EV_COUNT)) {
		fprintf(stderr, "gate_traces: that is not all there is\n");
		return EXIT_DIFFERENT;
	}
	return 0;
}

int main(int argc, char **argv)
{
	bool write = false, compare = false, all = false, good = argc > 1;

	memcpy(rows, revocation_table, sizeof rows);
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--promela") == 0)
			write = true;
		else if (strcmp(argv[i], "--replay") == 0)
			compare = true;
		else if (strcmp(argv[i], "--all-rows") == 0)
			all = true;
		else if (strcmp(argv[i], "--damage") == 0 && i + 1 < argc)
			good = good && damage(argv[++i]);
		else
			good = false;
	}
	if (!good || write == compare) {
		fputs("usage: gate_traces --promela [--damage N] | --replay [--damage N] [--all-rows]\n", stderr);
		return EXIT_USAGE;
	}
	if (compare)
		return replay(all);
	print_names();
	print_rows();
	return 0;
}
