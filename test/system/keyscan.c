/* keyscan: looks for key material in other processes: every mapping, and the registers of every thread. What must hold: what
 * could not be read is never called clean (exit 2); every thread is let go by hand; it prints where, and which label, never the
 * bytes.
 *
 *   keyscan [--inject] [--no-registers] PID... < PATTERNS     "HEX LABEL" a line; prints "PID LABEL WHERE"
 *   keyscan --file FILE... < PATTERNS                         core files and dumps of a whole guest's RAM: "FILE LABEL OFFSET"
 *   keyscan --derive < KEY > PATTERNS                         see keyscan.h
 * Exit: 0 clean, 1 something was found, 2 something could not be read (and nothing was found), 64 usage.
 * --inject reads secret memory by having the process write it into a memfd (x86-64 and aarch64). */
#include "keyscan.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, PIECE = 8, PAGE = 4096, EXIT_FOUND = 1, EXIT_BLIND = 2, EXIT_USAGE = 64 };

struct piece {
	uint64_t value;
	uint32_t label; /* 0: free */
};

struct patterns {
	uint8_t filter[131072]; /* one bit for each of 2^20 hashes: answers nearly every offset from a near cache */
	struct piece *table;
	size_t mask, used;
	char **labels;
	size_t label_count;
};

/* ---- patterns ---- */

static uint64_t hash_of(uint64_t v)
{
	return v * 0x9e3779b97f4a7c15u;
}

bool hex_parse(const char *text, uint8_t *out, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		unsigned byte;

		if (!isxdigit((unsigned char)text[2 * i]) || !isxdigit((unsigned char)text[2 * i + 1]) ||
		    sscanf(text + 2 * i, "%2x", &byte) != 1)
			return false;
		out[i] = (uint8_t)byte;
	}
	return text[2 * size] == '\0' || isspace((unsigned char)text[2 * size]);
}

/* Words like 0 or 2^128's top half are in every process: a piece must look like key material to count. */
static bool telling(const uint8_t *piece)
{
	unsigned distinct = 0;

	for (int i = 0; i < PIECE; i++) {
		bool seen = false;

		for (int j = 0; j < i; j++)
			seen = seen || piece[j] == piece[i];
		distinct += !seen;
	}
	return distinct >= 4;
}

static void insert(struct patterns *p, uint64_t value, uint32_t label)
{
	uint64_t h = hash_of(value);
	size_t i = (size_t)(h >> 20) & p->mask;

	while (p->table[i].label != 0 && p->table[i].value != value)
		i = (i + 1) & p->mask;
	if (p->table[i].label != 0)
		return;
	p->table[i] = (struct piece){ .value = value, .label = label };
	p->filter[h >> 47] = (uint8_t)(p->filter[h >> 47] | 1u << (h >> 44 & 7));
	p->used++;
}

static void grow(struct patterns *p)
{
	struct piece *old = p->table;
	size_t count = old != NULL ? p->mask + 1 : 0;

	p->mask = count > 0 ? 2 * count - 1 : 4095;
	p->table = calloc(p->mask + 1, sizeof *p->table);
	if (p->table == NULL)
		abort();
	p->used = 0;
	for (size_t i = 0; i < count; i++)
		if (old[i].label != 0)
			insert(p, old[i].value, old[i].label);
	free(old);
}

static void add_pattern(struct patterns *p, const uint8_t *bytes, size_t size, const char *label)
{
	p->labels = realloc(p->labels, (p->label_count + 1) * sizeof *p->labels);
	if (p->labels == NULL || (p->labels[p->label_count] = strdup(label)) == NULL)
		abort();
	p->label_count++;
	for (size_t at = 0; at + PIECE <= size; at += PIECE) {
		uint64_t value;

		if (!telling(bytes + at))
			continue;
		if (p->table == NULL || p->used * 4 > p->mask)
			grow(p);
		memcpy(&value, bytes + at, sizeof value);
		insert(p, value, (uint32_t)p->label_count);
	}
}

static bool add_line(struct patterns *p, char *line)
{
	char *space = strpbrk(line, " \t");
	size_t digits = space != NULL ? (size_t)(space - line) : 0;
	uint8_t bytes[512];

	if (digits < 2 * PIECE || digits % 2 != 0 || digits / 2 > sizeof bytes || !hex_parse(line, bytes, digits / 2))
		return false;
	space[strcspn(space, "\n")] = '\0';
	add_pattern(p, bytes, digits / 2, space + 1);
	return true;
}

struct patterns *patterns_read(FILE *in, size_t *count)
{
	struct patterns *p = calloc(1, sizeof *p);
	char line[2048];
	unsigned number = 0;

	if (p == NULL)
		abort();
	while (fgets(line, sizeof line, in) != NULL) {
		number++;
		if (!add_line(p, line)) {
			fprintf(stderr, "keyscan: line %u of the patterns is not \"HEX LABEL\" with 8 to 512 bytes\n", number);
			patterns_free(p);
			return NULL;
		}
	}
	*count = p->used;
	return p;
}

void patterns_free(struct patterns *p)
{
	for (size_t i = 0; i < p->label_count; i++)
		free(p->labels[i]);
	free(p->labels);
	free(p->table);
	free(p);
}

void patterns_scan(const struct patterns *p, const uint8_t *data, size_t size, patterns_hit *hit, void *context)
{
	for (size_t at = 0; at + PIECE <= size; at++) {
		uint64_t value, h;

		memcpy(&value, data + at, sizeof value);
		h = hash_of(value);
		if ((p->filter[h >> 47] >> (h >> 44 & 7) & 1) == 0)
			continue;
		for (size_t i = (size_t)(h >> 20) & p->mask; p->table[i].label != 0; i = (i + 1) & p->mask)
			if (p->table[i].value == value)
				hit(context, p->labels[p->table[i].label - 1], at);
	}
}

/* ---- one process ---- */

struct mapping {
	uint64_t from, to;
	bool readable;
	bool file; /* pages may exist that this process has not touched */
	char name[256];
};

struct search {
	const struct patterns *patterns;
	struct tracee *tracee;
	pid_t pid;
	int mem, pagemap;
	bool inject;
	const char *where; /* what is being scanned, for the report */
	uint64_t base;
	const char *last_label; /* one line a label and mapping is enough */
	size_t found, blind;
	uint64_t first_page; /* of the window into pagemap */
	size_t window;
	uint64_t entries[4096];
};

static void report(void *context, const char *label, size_t at)
{
	struct search *s = context;

	s->found++;
	if (s->last_label == label)
		return;
	s->last_label = label;
	printf("%d %s %s+0x%" PRIx64 "\n", (int)s->pid, label, s->where, s->base + at);
}

static void scan_registers(void *context, const char *where, const uint8_t *data, size_t size)
{
	struct search *s = context;

	s->where = where;
	s->base = 0;
	s->last_label = NULL;
	patterns_scan(s->patterns, data, size, report, s);
}

static bool parse_mapping(const char *line, struct mapping *m)
{
	char rights[8];
	unsigned long inode;
	int n = 0;

	memset(m, 0, sizeof *m);
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %lu %n", &m->from, &m->to, rights, &inode, &n) != 4)
		return false;
	m->readable = rights[0] == 'r';
	m->file = inode != 0;
	snprintf(m->name, sizeof m->name, "%s", line + n);
	m->name[strcspn(m->name, "\n")] = '\0';
	return true;
}

/* The kernel's own pages in every process: clock data, no memory of it. */
static bool is_kernels(const struct mapping *m)
{
	return strncmp(m->name, "[vvar", 5) == 0 || strcmp(m->name, "[vsyscall]") == 0;
}

static bool is_secret(const struct mapping *m)
{
	return strstr(m->name, "secretmem") != NULL;
}

static bool page_entry(struct search *s, uint64_t page, uint64_t *entry)
{
	if (page < s->first_page || page >= s->first_page + s->window) {
		ssize_t n = pread(s->pagemap, s->entries, sizeof s->entries, (off_t)(page * sizeof *entry));

		s->first_page = page;
		s->window = n > 0 ? (size_t)n / sizeof *entry : 0;
	}
	if (s->window == 0)
		return false;
	*entry = s->entries[page - s->first_page];
	return true;
}

/* True if the page has no content yet: reading it would only make zeroes. */
static bool page_untouched(struct search *s, const struct mapping *m, uint64_t address)
{
	uint64_t entry;

	return !m->file && page_entry(s, address / PAGE, &entry) && (entry >> 62 & 3) == 0;
}

static void say_blind(struct search *s, const struct mapping *m, uint64_t address, const char *why)
{
	s->blind++;
	fprintf(stderr, "keyscan: process %d: 0x%" PRIx64 " of %s cannot be read: %s\n", (int)s->pid, address,
		m->name[0] != '\0' ? m->name : "an anonymous mapping", why);
}

/* How many bytes from `from` on have content, at most `most`; 0: skip a page. */
static size_t present_run(struct search *s, const struct mapping *m, uint64_t from, size_t most)
{
	size_t run = 0;

	while (run < most && !page_untouched(s, m, from + run))
		run += PAGE;
	return run < most ? run : most;
}

/* Chunks overlap by a piece less one byte, so that nothing hides on a boundary; a gap of untouched pages hides nothing. */
static void scan_plain(struct search *s, const struct mapping *m)
{
	static uint8_t buffer[CHUNK];

	s->where = m->name[0] != '\0' ? m->name : "anonymous";
	s->last_label = NULL;
	for (uint64_t at = m->from; at < m->to;) {
		size_t most = m->to - at < CHUNK ? (size_t)(m->to - at) : CHUNK;
		size_t size = present_run(s, m, at, most);
		ssize_t n;

		if (size == 0) {
			at = at / PAGE * PAGE + PAGE;
			continue;
		}
		n = pread(s->mem, buffer, size, (off_t)at);
		if (n <= 0) {
			say_blind(s, m, at, strerror(errno));
			return;
		}
		s->base = at;
		patterns_scan(s->patterns, buffer, (size_t)n, report, s);
		at += (uint64_t)n;
		if (at < m->to && (size_t)n >= PIECE && present_run(s, m, at, 1) > 0)
			at -= PIECE - 1;
	}
}

static void scan_secret(struct search *s, const struct mapping *m)
{
	size_t size = (size_t)(m->to - m->from);
	uint8_t *copy;

	if (!s->inject || s->tracee == NULL) {
		say_blind(s, m, m->from, "secret memory: use --inject");
		return;
	}
	copy = malloc(size);
	if (copy == NULL || tracee_read_secret(s->tracee, m->from, size, m->readable, copy) != 0) {
		say_blind(s, m, m->from, "the process could not be made to write it out");
	} else {
		s->where = "secretmem";
		s->base = m->from;
		s->last_label = NULL;
		patterns_scan(s->patterns, copy, size, report, s);
		explicit_bzero(copy, size);
	}
	free(copy);
}

static int open_proc(pid_t pid, const char *what)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fprintf(stderr, "keyscan: %s: %s\n", path, strerror(errno));
	return fd;
}

/* The list is read whole before anything is injected: that changes it. */
static struct mapping *read_maps(pid_t pid, size_t *count)
{
	struct mapping *maps = NULL;
	char line[1024];
	int fd = open_proc(pid, "maps");
	FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;

	*count = 0;
	while (f != NULL && fgets(line, sizeof line, f) != NULL) {
		maps = realloc(maps, (*count + 1) * sizeof *maps);
		if (maps == NULL)
			abort();
		if (parse_mapping(line, &maps[*count]) && !is_kernels(&maps[*count]))
			(*count)++;
	}
	if (f != NULL)
		fclose(f);
	return maps;
}

static void scan_memory(struct search *s)
{
	size_t count;
	struct mapping *maps = read_maps(s->pid, &count);

	s->mem = open_proc(s->pid, "mem");
	s->pagemap = open_proc(s->pid, "pagemap");
	s->window = 0;
	if (count == 0 || s->mem < 0 || s->pagemap < 0)
		s->blind++;
	for (size_t i = 0; s->mem >= 0 && i < count; i++) {
		if (is_secret(&maps[i]))
			scan_secret(s, &maps[i]);
		else
			scan_plain(s, &maps[i]);
	}
	close(s->mem);
	close(s->pagemap);
	free(maps);
}

static void scan_process(struct search *s, bool registers)
{
	if (registers || s->inject) {
		s->tracee = tracee_stop(s->pid);
		if (s->tracee == NULL)
			s->blind++;
	}
	if (registers && s->tracee != NULL)
		s->blind += tracee_registers(s->tracee, scan_registers, s);
	scan_memory(s);
	if (s->tracee != NULL)
		tracee_release(s->tracee);
	s->tracee = NULL;
}

/* ---- one file ---- */

struct file_search {
	const char *name;
	uint64_t base;
	unsigned found;
};

static void report_in_file(void *context, const char *label, size_t at)
{
	struct file_search *f = context;

	f->found++;
	printf("%s %s 0x%" PRIx64 "\n", f->name, label, f->base + at);
}

/* Chunks overlap as in scan_plain. False: the file could not be read to its end. */
static bool scan_file(const struct patterns *p, const char *name, unsigned *found)
{
	static uint8_t buffer[CHUNK];
	struct file_search f = { .name = name };
	size_t kept = 0;
	ssize_t n = -1;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && (n = read(fd, buffer + kept, sizeof buffer - kept)) > 0) {
		size_t size = kept + (size_t)n;

		patterns_scan(p, buffer, size, report_in_file, &f);
		kept = size < PIECE - 1 ? size : PIECE - 1;
		f.base += size - kept;
		memmove(buffer, buffer + size - kept, kept);
	}
	if (n != 0 || f.base + kept == 0)
		fprintf(stderr, "keyscan: %s: %s\n", name, n != 0 ? strerror(errno) : "it is empty: nothing was searched");
	if (fd >= 0)
		close(fd);
	*found += f.found;
	return n == 0 && f.base + kept > 0;
}

static int scan_files(const struct patterns *p, char **names, int count)
{
	unsigned found = 0, blind = 0;

	for (int i = 0; i < count; i++)
		blind += !scan_file(p, names[i], &found);
	return found > 0 ? EXIT_FOUND : blind > 0 ? EXIT_BLIND : 0;
}

static int usage(void)
{
	fputs("usage: keyscan [--inject] [--no-registers] PID... < PATTERNS\n       keyscan --file FILE... < PATTERNS\n"
	      "       keyscan --derive < KEY\n",
	      stderr);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	static struct search s;
	bool registers = true, files = false;
	size_t pieces;
	struct patterns *p;
	int i = 1;

	if (argc == 2 && strcmp(argv[1], "--derive") == 0)
		return keyscan_derive(stdin, stdout) == 0 ? 0 : EXIT_BLIND;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--inject") == 0)
			s.inject = true;
		else if (strcmp(argv[i], "--no-registers") == 0)
			registers = false;
		else if (strcmp(argv[i], "--file") == 0)
			files = true;
		else
			return usage();
	}
	if (i == argc)
		return usage();
	p = patterns_read(stdin, &pieces);
	if (p == NULL || pieces == 0) {
		fputs("keyscan: no pattern to look for: that would find every process clean\n", stderr);
		return EXIT_USAGE;
	}
	s.patterns = p;
	if (files)
		return scan_files(p, argv + i, argc - i);
	for (; i < argc; i++) {
		char *end;

		s.pid = (pid_t)strtol(argv[i], &end, 10);
		if (*end != '\0' || s.pid <= 0)
			return usage();
		scan_process(&s, registers);
	}
	patterns_free(p);
	return s.found > 0 ? EXIT_FOUND : s.blind > 0 ? EXIT_BLIND : 0;
}
