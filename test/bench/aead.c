/* The AEAD bench: every contender, one process, one thread, round after round in turn, medians beside bests. The rows are engines
 * of this project against peers; a row that cannot be measured here is there with the reason. What must hold: all in one case do
 * the same work on the same bytes; what a case needs beforehand (sectors to open) is made outside its time; an engine or peer
 * that gets a tag wrong ends the bench. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "contender.h"

enum {
	CONTENDERS_MAX = 24,
	ROUNDS_MAX = 101,
	HOT_SECTORS = 16,
	STREAM_SECTORS = 65536,
	SLOW_SECTORS = 4096, /* of a stream, another part each round */
	HOT_NANOSECONDS = 1500000,
};

enum direction { SEAL, OPEN };
enum place { HOT, STREAM, IN_PLACE };

static const struct bench_case {
	const char *name;
	enum direction direction;
	enum place place;
	int rounds;
} cases[] = {
	{ "seal-hot", SEAL, HOT, 61 },      { "open-hot", OPEN, HOT, 61 },         { "seal-stream", SEAL, STREAM, 9 },
	{ "open-stream", OPEN, STREAM, 9 }, { "seal-inplace", SEAL, IN_PLACE, 9 }, { "open-inplace", OPEN, IN_PLACE, 9 },
};

static const char *const engines[] = { "vaes512", "vaes256", "aesni", "aesni_sse", "armv8", "portable" };
static const char *const peers[] = { "ipsec-mb-avx512", "ipsec-mb-avx2", "ipsec-mb-sse", "openssl", "openssl-xts",
				     "gnutls",          "libsodium",     "mbedtls",      "memcpy",  "ctr-vaes512" };

/* What the project means to reach. */
static const struct bar {
	const char *engine, *peer, *bench_case;
	double ratio;
} bars[] = {
	{ "vaes512", "ipsec-mb-avx512", "seal-hot", 1.05 },
	{ "vaes512", "ipsec-mb-avx512", "open-hot", 1.05 },
	{ "vaes512", "ipsec-mb-avx512", "seal-inplace", 1.4 },
	{ "vaes512", "ipsec-mb-avx512", "open-inplace", 1.4 },
	{ "vaes512", "openssl", "seal-hot", 3.0 },
	{ "vaes512", "openssl", "open-hot", 3.0 },
	{ "vaes512", "ctr-vaes512", "seal-hot", 0.90 },
	{ "vaes512", "ctr-vaes512", "open-hot", 0.90 },
	{ "vaes256", "ipsec-mb-avx512", "seal-hot", 0.78 },
	{ "vaes256", "ipsec-mb-avx512", "open-hot", 0.82 },
	{ "vaes256", "ipsec-mb-avx2", "seal-hot", 1.5 },
	{ "vaes256", "ipsec-mb-avx2", "open-hot", 1.5 },
	{ "aesni", "ipsec-mb-avx512", "seal-hot", 0.41 },
	{ "aesni", "ipsec-mb-avx512", "open-hot", 0.42 },
	{ "aesni", "ipsec-mb-sse", "seal-hot", 1.15 },
	{ "aesni", "ipsec-mb-sse", "open-hot", 1.15 },
	{ "aesni", "openssl", "seal-hot", 1.3 },
	{ "aesni", "openssl", "open-hot", 1.3 },
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* GB/s of one contender in one case. */
struct result {
	const char *reason; /* why there is none */
	size_t repeats;     /* of the hot sectors in one round */
	double median, best;
};

struct bench {
	uint8_t *plain;  /* STREAM_SECTORS */
	uint8_t *sealed; /* the same */
	uint8_t *tags;
	uint8_t aad[BENCH_AAD];
	const struct contender *reference; /* makes what is to be opened: the first that is ready */
	const char *reasons[CONTENDERS_MAX];
	struct result results[COUNT(cases)][CONTENDERS_MAX];
	uint64_t nonce;
	double gigahertz; /* as measured, highest */
	size_t count;
};

/* Nanoseconds of this thread on a processor: what others take from it on a busy machine does not count. */
static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "bench: %s\n", what);
	exit(1);
}

/* A chain of additions, one a cycle: the clock while nothing else runs on this core. */
static double clock_rate(void)
{
	enum { STEPS = 20000 };
	const uint64_t start = now();
	uint64_t x = 1;

	for (int i = 0; i < STEPS; i += 10) {
#define ADD                                                                                                                      \
	x += 3;                                                                                                                  \
	__asm__ volatile("" : "+r"(x));
		ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD
#undef ADD
	}
	return STEPS / (double)(now() - start);
}

static uint8_t *allocate(size_t size)
{
	uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("no memory: 520 MiB are needed");
	return p;
}

static size_t sectors_of(const struct bench_case *b, const struct contender *c)
{
	if (b->place == HOT)
		return HOT_SECTORS;
	return c->slow ? SLOW_SECTORS : STREAM_SECTORS;
}

/* The sectors that a contender gets in a round. Each seal has nonces of its own; what is opened was sealed with the nonce that is
 * the sector's number. */
static struct job job_of(struct bench *b, const struct bench_case *k, const struct contender *c, int round)
{
	const size_t sectors = sectors_of(k, c);
	const size_t parts = k->place == HOT ? 1 : STREAM_SECTORS / sectors;
	const size_t from = (size_t)round % parts * sectors;
	struct job job = { .tags = b->tags + from * BENCH_TAG, .aad = b->aad, .first_nonce = from, .sectors = sectors };
	uint8_t *plain = b->plain + from * BENCH_SECTOR;
	uint8_t *sealed = b->sealed + from * BENCH_SECTOR;

	job.in = k->direction == OPEN && k->place != IN_PLACE ? sealed : plain;
	job.out = k->direction == SEAL && k->place != IN_PLACE ? sealed : plain;
	return job;
}

static void once(struct bench *b, const struct bench_case *k, const struct contender *c, struct job *job)
{
	if (k->direction == OPEN) {
		if (c->open(c, job) != 0)
			die("a contender refuses what another sealed");
		return;
	}
	job->first_nonce = b->nonce;
	b->nonce += job->sectors;
	c->seal(c, job);
}

static uint64_t spend(struct bench *b, const struct bench_case *k, const struct contender *c, struct job *job, size_t repeats)
{
	const uint64_t start = now();

	for (size_t i = 0; i < repeats; i++)
		once(b, k, c, job);
	return now() - start;
}

/* How often the hot sectors go into one round; asking the clock each time would cost the fastest most. */
static size_t repeats_of(struct bench *b, const struct bench_case *k, const struct contender *c)
{
	struct job job = job_of(b, k, c, 0);
	size_t repeats = 1;

	if (k->place != HOT)
		return 1;
	while (spend(b, k, c, &job, repeats) < HOT_NANOSECONDS / 2)
		repeats *= 2;
	return repeats;
}

/* GB/s of one round. In place, what is to be opened is sealed again beforehand. */
static double measure(struct bench *b, const struct bench_case *k, const struct contender *c, size_t repeats, int round)
{
	struct job job = job_of(b, k, c, round);

	if (k->direction == OPEN && k->place == IN_PLACE)
		b->reference->seal(b->reference, &job);
	if (k->place == HOT)
		once(b, k, c, &job);
	return (double)(repeats * job.sectors * BENCH_SECTOR) / (double)spend(b, k, c, &job, repeats);
}

static int ascending(const void *a, const void *b)
{
	const double x = *(const double *)a;
	const double y = *(const double *)b;

	return (x > y) - (x < y);
}

static void conclude(struct result *r, double *rates, int rounds)
{
	qsort(rates, (size_t)rounds, sizeof *rates, ascending);
	r->median = rates[rounds / 2];
	r->best = rates[rounds - 1];
}

/* What the case opens: the whole stream, by the reference. */
static void seal_stream(struct bench *b)
{
	const struct job job = { b->plain, b->sealed, b->tags, b->aad, 0, STREAM_SECTORS };

	b->reference->seal(b->reference, &job);
}

static void run_case(struct bench *b, size_t which)
{
	static double rates[CONTENDERS_MAX][ROUNDS_MAX];
	const struct bench_case *k = &cases[which];

	if (k->direction == OPEN)
		seal_stream(b);
	for (size_t i = 0; i < b->count; i++) {
		b->results[which][i].reason = b->reasons[i];
		if (b->reasons[i] == NULL && k->place == IN_PLACE && contenders[i]->not_in_place)
			b->results[which][i].reason = "nothing to do in place";
		if (b->results[which][i].reason == NULL)
			b->results[which][i].repeats = repeats_of(b, k, contenders[i]);
	}
	for (int round = 0; round < k->rounds; round++) {
		const double rate = clock_rate();

		if (rate > b->gigahertz)
			b->gigahertz = rate;
		/* another one begins each time: who comes after whom must not count */
		for (size_t n = 0; n < b->count; n++) {
			const size_t i = (n + (size_t)round) % b->count;

			if (b->results[which][i].reason == NULL)
				rates[i][round] = measure(b, k, contenders[i], b->results[which][i].repeats, round);
		}
	}
	for (size_t i = 0; i < b->count; i++) {
		if (b->results[which][i].reason == NULL)
			conclude(&b->results[which][i], rates[i], k->rounds);
	}
}

static const struct result *result_of(const struct bench *b, size_t which, const char *name)
{
	static const struct result absent = {
		.reason = "its library was not there when this was built: tools/install-packages bench"
	};

	for (size_t i = 0; i < b->count; i++) {
		if (strcmp(contenders[i]->name, name) == 0)
			return &b->results[which][i];
	}
	return &absent;
}

static void print_machine(const struct bench *b)
{
	char line[256] = "";
	FILE *f = fopen("/proc/cpuinfo", "re");

	while (f != NULL && fgets(line, sizeof line, f) != NULL && strncmp(line, "model name", 10) != 0 &&
	       strncmp(line, "CPU part", 8) != 0)
		;
	if (f != NULL)
		fclose(f);
	line[strcspn(line, "\n")] = '\0';
	printf("processor  %s, %ld online, %.2f GHz measured\n", strchr(line, ':') != NULL ? strchr(line, ':') + 2 : "unknown",
	       sysconf(_SC_NPROCESSORS_ONLN), b->gigahertz);
	printf("compiler   %s\nflags      %s\n", BENCH_COMPILER, BENCH_FLAGS);
	printf("work       sectors of %d bytes, %d of associated data, a fresh nonce each, one key schedule, one thread\n",
	       BENCH_SECTOR, BENCH_AAD);
	printf("hot        %d sectors; stream and in place: %d MiB (slow ones: a part of %d MiB a round)\n", HOT_SECTORS,
	       STREAM_SECTORS / 256, SLOW_SECTORS / 256);
}

static bool is_engine(const char *name)
{
	for (size_t i = 0; i < COUNT(engines); i++) {
		if (strcmp(engines[i], name) == 0)
			return true;
	}
	return false;
}

static void print_rates(const struct bench *b, size_t which)
{
	printf("\n%-16s %10s %10s %8s   (%d rounds in turn)\n", cases[which].name, "GB/s", "best", "cyc/B", cases[which].rounds);
	for (size_t i = 0; i < b->count; i++) {
		const struct result *r = &b->results[which][i];

		if (r->reason != NULL)
			printf("  %-14s %10s   %s\n", contenders[i]->name, "-", r->reason);
		else
			printf("  %-14s %10.3f %10.3f %8.3f%s\n", contenders[i]->name, r->median, r->best,
			       b->gigahertz / r->median, is_engine(contenders[i]->name) ? "  *" : "");
	}
}

static void print_ratios(const struct bench *b, size_t which)
{
	printf("  %-12s", "ratio to");
	for (size_t p = 0; p < COUNT(peers); p++)
		printf(" %11.11s", strncmp(peers[p], "ipsec-mb-", 9) == 0 ? peers[p] + 6 : peers[p]);
	printf("\n");
	for (size_t e = 0; e < COUNT(engines); e++) {
		const struct result *mine = result_of(b, which, engines[e]);

		if (mine->reason != NULL)
			continue;
		printf("  %-12s", engines[e]);
		for (size_t p = 0; p < COUNT(peers); p++) {
			const struct result *peer = result_of(b, which, peers[p]);

			if (peer->reason != NULL)
				printf(" %11s", "-");
			else
				printf(" %11.3f", mine->median / peer->median);
		}
		printf("\n");
	}
}

static size_t case_of(const char *name)
{
	size_t i = 0;

	while (strcmp(cases[i].name, name) != 0)
		i++;
	return i;
}

static void print_bars(const struct bench *b)
{
	printf("\n%-10s %-16s %-13s %8s %8s\n", "bar", "to", "case", "wanted", "reached");
	for (size_t i = 0; i < COUNT(bars); i++) {
		const struct result *mine = result_of(b, case_of(bars[i].bench_case), bars[i].engine);
		const struct result *peer = result_of(b, case_of(bars[i].bench_case), bars[i].peer);
		const double ratio = mine->reason == NULL && peer->reason == NULL ? mine->median / peer->median : 0;

		printf("%-10s %-16s %-13s %8.2f ", bars[i].engine, bars[i].peer, bars[i].bench_case, bars[i].ratio);
		if (ratio == 0)
			printf("%8s\n", "-");
		else
			printf("%8.3f%s\n", ratio, ratio >= bars[i].ratio ? "" : "  missed");
	}
}

static void write_row(FILE *f, const struct bench *b, size_t which, const char *engine, const char *peer)
{
	const struct result *mine = result_of(b, which, engine);
	const struct result *other = result_of(b, which, peer);
	const char *reason = mine->reason != NULL ? mine->reason : other->reason;

	fprintf(f, "{\"bench\": \"aead\", \"case\": \"%s\", \"engine\": \"%s\", \"peer\": \"%s\", ", cases[which].name, engine,
		peer);
	if (reason != NULL)
		fprintf(f, "\"ratio\": null, ");
	else
		fprintf(f, "\"ratio\": %.4f, ", mine->median / other->median);
	fprintf(f, "\"unit\": \"GB/s\", ");
	if (mine->reason == NULL)
		fprintf(f, "\"value\": %.4f, ", mine->median);
	else
		fprintf(f, "\"value\": null, ");
	if (other->reason == NULL)
		fprintf(f, "\"peer_value\": %.4f", other->median);
	else
		fprintf(f, "\"peer_value\": null");
	if (reason != NULL)
		fprintf(f, ", \"reason\": \"%s: %s\"", mine->reason != NULL ? engine : peer, reason);
	fprintf(f, "}");
}

static void write_json(const struct bench *b, const char *path)
{
	FILE *f = fopen(path, "we");
	const char *separator = "[\n";

	if (f == NULL)
		die("the file for --json cannot be written");
	for (size_t which = 0; which < COUNT(cases); which++) {
		for (size_t e = 0; e < COUNT(engines); e++) {
			for (size_t p = 0; p < COUNT(peers); p++) {
				fputs(separator, f);
				write_row(f, b, which, engines[e], peers[p]);
				separator = ",\n";
			}
		}
	}
	fputs("\n]\n", f);
	if (ferror(f) != 0 || fclose(f) != 0)
		die("the file for --json cannot be written");
}

static void prepare(struct bench *b)
{
	uint8_t key[BENCH_KEY];

	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (uint8_t)(37 * i + 11);
	b->plain = allocate((size_t)STREAM_SECTORS * BENCH_SECTOR);
	b->sealed = allocate((size_t)STREAM_SECTORS * BENCH_SECTOR);
	b->tags = allocate((size_t)STREAM_SECTORS * BENCH_TAG);
	b->nonce = UINT64_C(1) << 32; /* beyond those of what is opened */
	for (b->count = 0; contenders[b->count] != NULL; b->count++) {
		const struct contender *c = contenders[b->count];

		if (b->count == CONTENDERS_MAX)
			die("too many contenders");
		b->reasons[b->count] = c->prepare(c, key);
		if (b->reasons[b->count] == NULL && b->reference == NULL)
			b->reference = c;
	}
}

int main(int argc, char **argv)
{
	static struct bench b;
	const char *json = NULL;

	if (argc == 3 && strcmp(argv[1], "--json") == 0)
		json = argv[2];
	else if (argc != 1)
		die("usage: tools/bench aead [--json FILE]");
	prepare(&b);
	for (size_t which = 0; which < COUNT(cases); which++)
		run_case(&b, which);
	print_machine(&b);
	for (size_t which = 0; which < COUNT(cases); which++) {
		print_rates(&b, which);
		print_ratios(&b, which);
	}
	print_bars(&b);
	if (json != NULL)
		write_json(&b, json);
	return 0;
}
