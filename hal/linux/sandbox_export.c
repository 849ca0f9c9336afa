/* Build tool: prints every filter of sandbox_profiles.c as a C array of BPF instructions for the architecture named. Runs on the
 * machine that builds, links libseccomp, and is not part of the image. Usage: sandbox-export x86_64 > sandbox_filters.h */
#include "sandbox_profiles.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t arch;

static _Noreturn void stop(const char *table, const char *what, int result)
{
	fprintf(stderr, "sandbox-export: filter %s: %s: %s\n", table, what, strerror(result < 0 ? -result : result));
	exit(1);
}

static void add(scmp_filter_ctx ctx, const struct sandbox_table *t, const struct sandbox_rule *rule, const char *name)
{
	bool optional = name[0] == '?';
	int number = seccomp_syscall_resolve_name_arch(arch, name + optional);
	int r;

	if (number == __NR_SCMP_ERROR && !optional)
		stop(t->name, name, ENOSYS);
	/* Negative: this architecture has no such call, and nothing to forbid. */
	if (number < 0 || rule->action == t->otherwise)
		return;
	/* libseccomp takes the number of the machine it runs on and translates it. */
	number = seccomp_syscall_resolve_name(name + optional);
	r = seccomp_rule_add_exact_array(ctx, rule->action, number, rule->with_arg, &rule->arg);
	if (r != 0)
		stop(t->name, name, r);
}

static void add_all(scmp_filter_ctx ctx, const struct sandbox_table *t, const struct sandbox_rule *rule)
{
	char names[256];
	char *rest = NULL;

	if (strlen(rule->names) >= sizeof names)
		stop(t->name, rule->names, E2BIG);
	strcpy(names, rule->names);
	for (char *name = strtok_r(names, " ", &rest); name != NULL; name = strtok_r(NULL, " ", &rest))
		add(ctx, t, rule, name);
}

static void print_filter(scmp_filter_ctx ctx, const struct sandbox_table *t)
{
	FILE *f = tmpfile();
	struct sock_filter i;
	int r;

	if (f == NULL)
		stop(t->name, "a temporary file", errno);
	r = seccomp_export_bpf(ctx, fileno(f));
	if (r != 0)
		stop(t->name, "export", r);
	rewind(f);
	printf("\nstatic const struct sock_filter filter_%s[] = {\n", t->name);
	while (fread(&i, sizeof i, 1, f) == 1)
		printf("\t{ 0x%02x, %u, %u, 0x%08x },\n", i.code, i.jt, i.jf, i.k);
	printf("};\n");
	fclose(f);
}

static void export_table(const struct sandbox_table *t)
{
	scmp_filter_ctx ctx = seccomp_init(t->otherwise);
	int r;

	if (ctx == NULL)
		stop(t->name, "seccomp_init", ENOMEM);
	r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (r == 0 && arch != seccomp_arch_native()) {
		r = seccomp_arch_add(ctx, arch);
		if (r == 0)
			r = seccomp_arch_remove(ctx, seccomp_arch_native());
	}
	if (r == 0)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree: most calls are decided in 8 steps */
	if (r != 0)
		stop(t->name, "set up", r);
	for (size_t g = 0; g < sizeof t->groups / sizeof t->groups[0]; g++)
		for (size_t i = 0; i < t->groups[g].count; i++)
			add_all(ctx, t, &t->groups[g].rules[i]);
	print_filter(ctx, t);
	seccomp_release(ctx);
}

int main(int argc, char **argv)
{
	arch = argc == 2 ? seccomp_arch_resolve_name(argv[1]) : 0;
	if (arch == 0) {
		fprintf(stderr, "usage: sandbox-export ARCHITECTURE > sandbox_filters.h\n");
		return 2;
	}
	printf("/* Made by hal/linux/sandbox_export.c from sandbox_profiles.c for %s. */\n", argv[1]);
	for (size_t i = 0; i < sandbox_table_count; i++)
		export_table(&sandbox_tables[i]);
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
