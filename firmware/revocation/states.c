/* Writes STATES.md from the table: what each state is, every row, every cause with what lifts it, and the picture. What must
 * hold: the page has no word about the table that the table does not say; a test compares it with the committed copy. */
#include <stdio.h>

#include "revocation.h"
#include "table.h"

static void print_actions(uint32_t actions)
{
	const char *between = "";

	if (actions == ACT_NONE)
		printf("-");
	for (unsigned bit = 0; bit < 32; bit++) {
		if ((actions & 1u << bit) == 0)
			continue;
		printf("%s%s", between, gate_action_name((enum gate_action)(1u << bit)));
		between = ", ";
	}
}

static void print_state(enum gate_state s)
{
	printf("\n### %s\n\nKeys in RAM: %s. Serves: %s.\n\n", gate_state_name(s), gate_state_has_keys(s) ? "possible" : "no",
	       gate_state_serves(s) ? "yes" : "no");
	printf("| event | next | rule | actions | why |\n|---|---|---|---|---|\n");
	for (enum gate_event e = 0; e < EV_COUNT; e++) {
		const struct gate_row *row = &revocation_table[s][e];

		if (row->next == s && row->rule == RULE_KEEP && row->actions == ACT_NONE)
			continue;
		printf("| %s | %s | %s | ", gate_event_name(e), row->next == s ? "(stays)" : gate_state_name(row->next),
		       gate_rule_name(row->rule));
		print_actions(row->actions);
		printf(" | %s |\n", row->why);
	}
	printf("\nIgnored here: ");
	for (enum gate_event e = 0, n = 0; e < EV_COUNT; e++) {
		const struct gate_row *row = &revocation_table[s][e];

		if (row->next == s && row->rule == RULE_KEEP && row->actions == ACT_NONE)
			printf("%s%s (%s)", n++ ? "; " : "", gate_event_name(e), row->why);
	}
	printf(".\n");
}

static void print_causes(void)
{
	printf("\n## Causes\n\n| cause | latches | what lifts it |\n|---|---|---|\n");
	for (enum gate_cause c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++)
		printf("| %s | %s | %s |\n", gate_cause_name(c), gate_cause_latches(c) ? "yes" : "no", gate_cause_remedy(c));
}

/* One arrow a pair of states, its events on it; the arrows to FAULT are left out of the picture, as is what changes nothing. */
static void print_arrow(enum gate_state from, enum gate_state to)
{
	unsigned n = 0;

	for (enum gate_event e = 0; e < EV_COUNT; e++) {
		if (revocation_table[from][e].next != to)
			continue;
		if (n == 0)
			printf("    %s --> %s: ", gate_state_name(from), gate_state_name(to));
		printf("%s%s", n++ ? ", " : "", gate_event_name(e));
	}
	if (n > 0)
		printf("\n");
}

static void print_diagram(void)
{
	printf("\n## Picture\n\nArrows to FAULT are left out: every row that says FAULT leads there.\n\n");
	printf("```mermaid\nstateDiagram-v2\n    [*] --> LOCKED\n");
	for (enum gate_state from = 0; from < GATE_STATE_COUNT; from++)
		for (enum gate_state to = 0; to < GATE_STATE_COUNT; to++)
			if (to != from && to != GATE_FAULT)
				print_arrow(from, to);
	printf("```\n");
}

static const char intro[] =
	"A volume has one gate. Events come in, actions go out, in the order of their bits; every pair of state and event is\n"
	"written. Rules: `set` takes the event's cause, and a cause that latches latches; `later` does so unless a latch or a\n"
	"lost clock says more; `open` rules do nothing under a latch (`open-attach` starts an export that refuses); `end` leads\n"
	"to LOCKED instead if the cause is `detached`; only `restore` lifts a latch. Every change raises the gate's sequence\n"
	"number, and so does every revoke.\n\n"
	"What must hold of it is looked at three times: over every pair and everything that can be reached, on the function "
	"itself\n"
	"(`test/revocation/properties.c`); in Spin, with the data plane, its I/O, the one-shot hsm and the timers around it\n"
	"(`test/revocation/gate.pml`: a gate without keys has none anywhere, FAULT is not reached, every revoke ends wiped or\n"
	"killed); and by walks and counterexamples of the one replayed on the other.\n\n## States\n";

int main(void)
{
	printf("# The gate, state by state\n\nGenerated from `revocation.c` by `states.c` (target `states`): do not edit.\n\n");
	printf("%s", intro);
	for (enum gate_state s = 0; s < GATE_STATE_COUNT; s++)
		print_state(s);
	print_causes();
	print_diagram();
	return 0;
}
