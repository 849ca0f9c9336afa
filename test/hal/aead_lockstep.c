/* One kernel in constant time, for instructions that valgrind lacks: the same work twice, one instruction at a time, with nothing
 * different but the secrets, must go through the same instructions with the same addresses.
 * What must hold: what is compared is the program as it was compiled, on this processor; every branch and every address counts,
 * in the kernel and in what it calls; the leaks planted here are all found, so that silence means something. */
#include <setjmp.h>
#include <signal.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <cmocka.h>

#include "hal/aead.h"

#include "aead_kernel_argument.h"

enum { TEXT = 4096 };

struct secrets {
	uint8_t key[AEAD_KEY_BYTES];
	uint8_t text[2][TEXT];
};

struct task {
	void (*work)(const struct task *t);
	size_t size, aad_size;
	bool spoil;
};

enum finding { NOTHING, A_BRANCH, AN_ADDRESS };

static const struct aead_kernel *kernel;
static struct secrets secrets;
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t master[AEAD_KEY_STATE_MAX];
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t subkey[AEAD_KEY_STATE_MAX];

/* --- what memory an instruction touches -------------------------------------------------------------------------------- */

enum { NO_MEMORY = 0, ALL = 0xffff, GATHER = 0x10000, RSP = 1 << 4, RSI_RDI = 3 << 6 };

/* An instruction as far as its ModRM byte. */
struct shape {
	const uint8_t *modrm;
	uint8_t map, opcode;            /* map 0: one byte; 1: 0F; 2: 0F 38; 3: 0F 3A, and so for VEX and EVEX */
	unsigned base_high, index_high; /* 8, or 0 */
};

static const uint8_t *skip_prefixes(const uint8_t *p)
{
	while (*p == 0x66 || *p == 0x67 || *p == 0xf2 || *p == 0xf3 || *p == 0xf0 || (*p & 0xe7) == 0x26 || *p == 0x64 ||
	       *p == 0x65)
		p++;
	return p;
}

static struct shape shape_of(const uint8_t *p)
{
	struct shape s = { .map = 0 };

	p = skip_prefixes(p);
	if (*p == 0xc5)
		return (struct shape){ .map = 1, .opcode = p[2], .modrm = p + 3 };
	if (*p == 0xc4 || *p == 0x62) {
		s.base_high = p[1] & 0x20 ? 0 : 8;
		s.index_high = p[1] & 0x40 ? 0 : 8;
		s.map = *p == 0xc4 ? p[1] & 0x1f : p[1] & 0x07;
		p += *p == 0xc4 ? 3 : 4;
	} else {
		if ((*p & 0xf0) == 0x40) {
			s.base_high = *p & 1 ? 8 : 0;
			s.index_high = *p & 2 ? 8 : 0;
			p++;
		}
		if (*p == 0x0f) {
			s.map = p[1] == 0x38 ? 2 : p[1] == 0x3a ? 3 : 1;
			p += s.map == 1 ? 1 : 2;
		}
	}
	s.opcode = p[0];
	s.modrm = p + 1;
	return s;
}

/* One-byte opcodes with a ModRM byte: bit o % 8 of byte o / 8. */
static const uint8_t with_modrm[32] = {
	0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x08, 0x0a, 0x00, 0x00,
	0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xc3, 0x00, 0x0f, 0xff, 0x00, 0x00, 0xc0, 0xc0,
};

/* Registers in addresses that the opcode implies: the stack's, those of string instructions. */
static unsigned implied_registers(const struct shape *s)
{
	const uint8_t o = s->opcode;

	if (s->map != 0)
		return NO_MEMORY;
	if ((o >= 0xa4 && o <= 0xa7) || (o >= 0xaa && o <= 0xaf))
		return RSI_RDI;
	if ((o >= 0x50 && o <= 0x5f) || o == 0xe8 || o == 0xc3 || o == 0xc9 || o == 0x68 || o == 0x6a || o == 0xff)
		return RSP;
	return NO_MEMORY;
}

static bool has_modrm(const struct shape *s)
{
	const uint8_t o = s->opcode;

	if (s->map == 0)
		return with_modrm[o / 8] >> o % 8 & 1;
	return s->map != 1 || !((o >= 0x80 && o <= 0x8f) || (o >= 0xc8 && o <= 0xcf) || o == 0x05 || o == 0x0b || o == 0x31 ||
				o == 0x77 || o == 0xa2);
}

/* LEA and the long NOP only look like it. */
static bool touches_nothing(const struct shape *s)
{
	return (s->map == 0 && s->opcode == 0x8d) || (s->map == 1 && (s->opcode == 0x1f || s->opcode == 0x1e));
}

/* The general registers that make up the address of what the instruction reads or writes, as bits. */
static unsigned address_registers(const uint8_t *instruction)
{
	const struct shape s = shape_of(instruction);
	const unsigned implied = implied_registers(&s);
	const unsigned mod = has_modrm(&s) ? s.modrm[0] >> 6 : 3;
	const unsigned rm = s.modrm[0] & 7;
	unsigned registers = implied;

	if (mod == 3 || touches_nothing(&s))
		return implied;
	/* gathers and scatters take addresses from vectors, where nobody looks */
	if (s.map == 2 && ((s.opcode >= 0x90 && s.opcode <= 0x93) || (s.opcode >= 0xa0 && s.opcode <= 0xa3)))
		return GATHER;
	if (rm != 4)
		return mod == 0 && rm == 5 ? implied : implied | 1u << (rm | s.base_high);
	if (mod != 0 || (s.modrm[1] & 7) != 5)
		registers |= 1u << ((s.modrm[1] & 7) | s.base_high);
	if ((s.modrm[1] >> 3 & 7) != 4 || s.index_high != 0)
		registers |= 1u << ((s.modrm[1] >> 3 & 7) | s.index_high);
	return registers;
}

/* --- one instruction at a time ------------------------------------------------------------------------------------------ */

enum { REGISTERS = 16, STEPS_MAX = 200000, TRAP_FLAG = 0x100 };

/* The registers before an instruction, in the processor's order. */
struct step {
	uint64_t at;
	uint64_t registers[REGISTERS];
};

struct trace {
	size_t count;
	struct step steps[STEPS_MAX];
};

static struct trace traces[2];
static struct trace *volatile tracing;

static void on_step(int signal, siginfo_t *unused, void *context)
{
	static const int order[REGISTERS] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	const greg_t *now = ((const ucontext_t *)context)->uc_mcontext.gregs;
	struct trace *t = tracing;

	(void)signal;
	(void)unused;
	if (t->count == STEPS_MAX)
		abort();
	t->steps[t->count].at = (uint64_t)now[REG_RIP];
	for (int i = 0; i < REGISTERS; i++)
		t->steps[t->count].registers[i] = (uint64_t)now[order[i]];
	t->count++;
}

/* On a stack of its own: the work's is left as the work leaves it. */
static void catch_steps(void)
{
	static uint8_t stack[65536];
	const stack_t other = { .ss_sp = stack, .ss_size = sizeof stack };
	struct sigaction action = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	assert_int_equal(sigaltstack(&other, NULL), 0);
	assert_int_equal(sigaction(SIGTRAP, &action, NULL), 0);
}

/* Past the red zone, where the compiler may have something below the stack pointer. */
static inline __attribute__((always_inline)) void set_trap_flag(uint64_t flag)
{
	__asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\torq %0, (%%rsp)\n\tpopfq\n\t"
			 "lea 128(%%rsp), %%rsp" ::"r"(flag)
			 : "memory", "cc");
}

static uint64_t seed = 0x9e3779b97f4a7c15;

static void fill_secrets(void)
{
	uint8_t *bytes = (uint8_t *)&secrets;

	for (size_t i = 0; i < sizeof secrets; i++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		bytes[i] = (uint8_t)(seed >> 24);
	}
}

__attribute__((noinline)) static void record(const struct task *t, struct trace *trace)
{
	fill_secrets();
	trace->count = 0;
	tracing = trace;
	set_trap_flag(TRAP_FLAG);
	t->work(t);
	set_trap_flag(0);
}

static enum finding compare(const struct step *a, const struct step *b)
{
	unsigned differing = 0;

	if (a->at != b->at)
		return A_BRANCH;
	for (unsigned i = 0; i < REGISTERS; i++)
		differing |= (unsigned)(a->registers[i] != b->registers[i]) << i;
	return address_registers((const uint8_t *)a->at) & (differing | GATHER) ? AN_ADDRESS : NOTHING;
}

/* The first difference between two runs, and after how many steps; NOTHING if there is none. */
static enum finding go(const struct task *t, size_t *steps)
{
	enum finding found = NOTHING;

	/* in a loop, so that both come from the same place; what is done only once is done first */
	t->work(t);
	for (int i = 0; i < 2; i++)
		record(t, &traces[i]);
	for (*steps = 0; *steps < traces[0].count && *steps < traces[1].count && found == NOTHING; ++*steps)
		found = compare(&traces[0].steps[*steps], &traces[1].steps[*steps]);
	if (found == NOTHING && traces[0].count != traces[1].count)
		return A_BRANCH;
	return found;
}

/* --- the work ----------------------------------------------------------------------------------------------------------- */

static void expand_keys(const struct task *t)
{
	static const uint8_t salt[AEAD_SALT_BYTES] = "a salt bytes";

	(void)t;
	kernel->expand(master, secrets.key);
	aead_xaes_subkey(kernel, subkey, master, salt);
}

static bool as_expected = true;

static void seal_and_open(const struct task *t)
{
	static const uint8_t aad[256];
	static uint8_t tags[2][AEAD_TAG_BYTES], elsewhere[TEXT];
	struct aead_item items[2];

	kernel->expand(subkey, secrets.key);
	for (size_t i = 0; i < 2; i++)
		items[i] = (struct aead_item){ .out = i == 0 ? elsewhere : secrets.text[i],
					       .in = secrets.text[i],
					       .size = t->size / (i + 1),
					       .tag = tags[i],
					       .aad = aad,
					       .aad_size = t->aad_size };
	kernel->seal_run(subkey, items, 2);
	tags[0][3] ^= t->spoil;
	for (size_t i = 0; i < 2; i++)
		items[i].in = items[i].out;
	kernel->open_run(subkey, items, 2);
	as_expected = as_expected && items[1].good && items[0].good == !t->spoil;
}

/* Volatile, so that each is a branch or a load in the program as it is in the source. */
static volatile unsigned counted;

static void branch_on_the_key(const struct task *t)
{
	(void)t;
	for (size_t i = 0; i < AEAD_KEY_BYTES; i++) {
		if (secrets.key[i] & 1)
			counted = counted + 1;
	}
}

static void look_up_by_the_text(const struct task *t)
{
	static volatile uint8_t table[256];

	(void)t;
	counted = table[secrets.text[0][5]];
}

/* What the kernel derived is as secret as what it was given. */
static void branch_on_the_state(const struct task *t)
{
	expand_keys(t);
	for (size_t i = 16; i < 48; i++) {
		if (subkey[i] & 1)
			counted = counted + 1;
	}
}

static void no_branch_and_no_address_from_a_secret(void **unused)
{
	static const struct task tasks[] = {
		{ expand_keys, 0, 0, false },      { seal_and_open, 0, 0, false },    { seal_and_open, 17, 6, false },
		{ seal_and_open, 500, 70, false }, { seal_and_open, 1100, 48, true }, { seal_and_open, TEXT, 48, false },
	};
	size_t all = 0;

	(void)unused;
	for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++) {
		size_t steps;
		const enum finding found = go(&tasks[i], &steps);

		if (found != NOTHING)
			fail_msg("%s: task %zu, after %zu instructions: %s depends on a secret", kernel->name, i, steps,
				 found == A_BRANCH ? "a branch" : "an address");
		assert_true(as_expected);
		all += steps;
	}
	print_message("%s: %zu instructions in step\n", kernel->name, all);
	assert_true(all > 1000);
}

static void planted_leaks_are_found(void **unused)
{
	size_t steps;

	(void)unused;
	assert_int_equal(go(&(struct task){ .work = branch_on_the_key }, &steps), A_BRANCH);
	assert_int_equal(go(&(struct task){ .work = look_up_by_the_text }, &steps), AN_ADDRESS);
	assert_int_equal(go(&(struct task){ .work = branch_on_the_state }, &steps), A_BRANCH);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_branch_and_no_address_from_a_secret),
		cmocka_unit_test(planted_leaks_are_found),
	};

	kernel = kernel_argument(argc, argv);
	catch_steps();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
