/* tools/bench volume: what the engine makes a device do, as counts: bytes written and flushes for each of the client's, by load
 * and by memory preset, beside what volume_format promised on paper; then recovery of a full log, and formatting. The device is
 * memory that counts; sectors of data are counted and thrown away where nobody reads them. What must stay true: the counts do not
 * depend on the machine or on time (the engine is stepped, the loads have seeds); only the times of recovery and formatting
 * do. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/block.h"
#include "volume/layout.h"
#include "volume/volume.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

static void must(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench volume: %s: %s\n", what, error_text(r));
	exit(1);
}

/* ---- a device that counts ---- */

static struct {
	struct block block, *under;
	uint64_t data_from, data_to; /* thrown away in between */
	uint64_t written, flushes, reads;
} counter;

static int count_read(struct block *b, void *out, size_t size, uint64_t at)
{
	(void)b;
	counter.reads += size;
	return counter.under->ops->read(counter.under, out, size, at);
}

static int count_write(struct block *b, const void *in, size_t size, uint64_t at)
{
	(void)b;
	counter.written += size;
	return at >= counter.data_from && at < counter.data_to ? 0 : counter.under->ops->write(counter.under, in, size, at);
}

/* A write that is durable at once is a write and a flush of the device's cache, as far as it goes. */
static int count_write_fua(struct block *b, const void *in, size_t size, uint64_t at)
{
	counter.flushes++;
	return count_write(b, in, size, at);
}

static int count_flush(struct block *b)
{
	(void)b;
	counter.flushes++;
	return 0;
}

static int count_discard(struct block *b, uint64_t size, uint64_t at)
{
	(void)b;
	(void)size;
	(void)at;
	return ERR_UNSUPPORTED;
}

static void count_close(struct block *b)
{
	(void)b;
	counter.under->ops->close(counter.under);
}

static struct block *device(uint64_t client)
{
	static const struct block_ops ops = {
		.read = count_read,
		.write = count_write,
		.flush = count_flush,
		.discard = count_discard,
		.close = count_close,
		.write_fua = count_write_fua,
	};
	int fd = memfd_create("volume", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)volume_backing_size(client)) != 0) {
		perror("bench volume: a sparse file in memory");
		exit(1);
	}
	memset(&counter, 0, sizeof counter);
	must(block_open_fd(&counter.under, fd), "opening the device");
	counter.block = *counter.under;
	counter.block.ops = &ops;
	return &counter.block;
}

/* ---- a volume on it ---- */

static const uint8_t uuid[UUID_BYTES] = { 'b', 'e', 'n', 'c', 'h' };

static struct keyring *ring(void)
{
	uint8_t payload[DEK_PAYLOAD_BYTES] = { 7 }, kcv[KCV_BYTES];
	struct keyring *k;

	keyring_bind(payload + DEK_BYTES, uuid, 1);
	must(keyring_create(&k, 64, NULL), "a key ring");
	keyring_set_deadlines(k, UINT64_MAX, UINT64_MAX);
	must(keyring_load(k, kcv, payload, uuid, 1), "loading the key");
	return k;
}

static void format(struct block *dev, struct keyring *k, uint64_t client)
{
	struct volume_format f = { .size = client, .label = "bench", .now = 1 };

	memcpy(f.uuid, uuid, sizeof f.uuid);
	f.slot.type = KEK_SLOT_AES_KW;
	f.slot.gen_no = 1;
	f.slot.wrapped_size = 56;
	must(volume_format(dev, k, &f), "formatting");
}

static struct volume *open_volume(struct block *dev, struct keyring *k, enum volume_preset preset)
{
	const struct volume_options o = { .preset = preset, .stepped = true };
	struct volume *v;
	char why[200];
	int r = volume_open(&v, dev, k, &o, why, sizeof why);

	if (r < 0)
		fprintf(stderr, "bench volume: %s\n", why);
	must(r, "opening");
	return v;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Nobody reads the data of these loads: what goes to its region is counted, and that is all. */
static void throw_away(uint64_t client)
{
	struct geometry g;
	uint64_t sectors = client / SECTOR_BYTES;

	must(geometry_compute(&g, sectors, geometry_log_blocks(sectors), counter.block.size), "the geometry");
	counter.data_from = g.data_off;
	counter.data_to = g.data_off + client;
}

/* ---- rows ---- */

static FILE *json;

static void row(const char *name, const char *preset, const char *unit, double value, double paper)
{
	static unsigned rows;

	if (json == NULL)
		return;
	fprintf(json,
		"%s\n {\"bench\": \"volume\", \"case\": \"%s\", \"engine\": \"fallgate\", \"preset\": \"%s\", \"peer\": \"paper\", ",
		rows++ ? "," : "", name, preset);
	if (paper > 0)
		fprintf(json, "\"ratio\": %.3f, \"unit\": \"%s\", \"value\": %.4f, \"peer_value\": %.2f}", value / paper, unit,
			value, paper);
	else
		fprintf(json,
			"\"ratio\": null, \"reason\": \"the paper gives none\", \"unit\": \"%s\", \"value\": %.4f, \"peer_value\": null}",
			unit, value);
}

/* ---- loads ---- */

enum { QUARTER = 4 };

struct load {
	const char *name;
	uint64_t client, range; /* the volume, and how much of it is written */
	size_t size;
	unsigned count[2]; /* requests, by preset: past the first checkpoints */
	unsigned flush_every;
	double paper[2]; /* bytes written for each of the client's: volume_format's table at P = 128 Ki and 1 Mi */
};

static const struct load loads[] = {
	{ "sequential-128k", 64 * GIB, 64 * GIB, 131072, { 60000, 300000 }, 512, { 1.02, 1.02 } },
	{ "random-4k-in-100M", 64 * GIB, 100 * MIB, 4096, { 300000, 300000 }, 4096, { 0, 0 } },
	{ "random-4k-in-10G", 64 * GIB, 10 * GIB, 4096, { 60000, 200000 }, 4096, { 1.27, 1.04 } },
	{ "random-4k-in-100G", 128 * GIB, 100 * GIB, 4096, { 60000, 200000 }, 4096, { 1.84, 1.32 } },
	{ "random-4k-in-1T", TIB, TIB, 4096, { 60000, 200000 }, 4096, { 1.99, 1.88 } },
	{ "sync-4k-q1-in-100M", 64 * GIB, 100 * MIB, 4096, { 60000, 60000 }, 1, { 2.0, 2.0 } },
};

static const char *const preset_names[] = { [VOLUME_BOARD] = "board", [VOLUME_SERVER] = "server" };
static const uint64_t held_of[] = { [VOLUME_BOARD] = 8 * MIB, [VOLUME_SERVER] = 64 * MIB };

static void run(const struct load *l, enum volume_preset preset)
{
	uint8_t *data = aligned_alloc(SECTOR_BYTES, l->size);
	uint64_t draw = 1, at = 0, bytes = 0, held = 0, client_flushes = 0;
	struct block *dev = device(l->client);
	struct keyring *k = ring();
	struct volume_stats stats;
	struct volume *v;
	double amplification, flushes;

	if (data == NULL)
		must(ERR_NOMEM, "a buffer");
	memset(data, 5, l->size);
	format(dev, k, l->client);
	v = open_volume(dev, k, preset);
	throw_away(l->client);
	counter.written = counter.flushes = 0;
	for (unsigned i = 0; i < l->count[preset]; i++) {
		draw = draw * UINT64_C(6364136223846793005) + 1442695040888963407;
		at = l->size > SECTOR_BYTES ? (at + l->size) % l->range : (draw >> 16) % (l->range / SECTOR_BYTES) * SECTOR_BYTES;
		must(volume_write(v, data, l->size, at, false), "writing");
		bytes += l->size;
		held += l->size;
		if (held >= held_of[preset] / QUARTER) { /* as the volume's own thread does */
			must(volume_step(v), "a step");
			held = 0;
		}
		if (i % l->flush_every != l->flush_every - 1)
			continue;
		must(volume_flush(v), "a flush");
		client_flushes++;
		held = 0;
	}
	volume_stats(v, &stats);
	amplification = (double)counter.written / (double)bytes;
	flushes = (double)counter.flushes / (double)client_flushes;
	printf("%-20s %-7s %10.3f", l->name, preset_names[preset], amplification);
	if (l->paper[preset] > 0)
		printf("%9.2f", l->paper[preset]);
	else
		printf("%9s", "-");
	printf("%16.2f %14" PRIu64 "\n", flushes, stats.checkpoints);
	row(l->name, preset_names[preset], "bytes written per byte", amplification, l->paper[preset]);
	row(l->name, preset_names[preset], "device flushes and durable writes per client flush", flushes, 0);
	must(volume_close(v), "closing");
	keyring_destroy(k);
	dev->ops->close(dev);
	free(data);
}

/* ---- recovery and formatting ---- */

static uint64_t status_kib(const char *name)
{
	char line[128];
	uint64_t value = 0;
	FILE *f = fopen("/proc/self/status", "r");

	while (f != NULL && fgets(line, sizeof line, f) != NULL)
		if (strncmp(line, name, strlen(name)) == 0)
			value = strtoull(line + strlen(name), NULL, 10);
	if (f != NULL)
		fclose(f);
	return value;
}

static void reset_peak(void)
{
	FILE *f = fopen("/proc/self/clear_refs", "w");

	if (f != NULL) {
		fputs("5\n", f);
		fclose(f);
	}
}

/* As many entries as a preset lets the log gather before a checkpoint, in a hot set that never asks for one sooner; then the
 * program is gone without a close. */
static void recover(enum volume_preset preset)
{
	static const unsigned entries[] = { [VOLUME_BOARD] = 131072 - 4096, [VOLUME_SERVER] = 1048576 - 4096 };
	const uint64_t client = 256 * GIB, hot = 100 * MIB;
	static uint8_t data[SECTOR_BYTES];
	struct block *dev = device(client);
	struct keyring *k = ring();
	struct volume *v;
	struct volume_stats stats;
	uint64_t draw = 1, resident, peak, cut, wiped;
	double took;

	format(dev, k, client);
	v = open_volume(dev, k, preset);
	for (unsigned i = 0; i < entries[preset]; i++) {
		draw = draw * UINT64_C(6364136223846793005) + 1442695040888963407;
		must(volume_write(v, data, sizeof data, (draw >> 16) % (hot / SECTOR_BYTES) * SECTOR_BYTES, false), "writing");
	}
	must(volume_flush(v), "a flush");
	volume_lock_keys(v, &cut, &wiped);
	(void)volume_close(v);
	keyring_destroy(k);
	k = ring();
	counter.reads = counter.written = 0;
	resident = status_kib("VmRSS:");
	reset_peak();
	took = seconds();
	v = open_volume(dev, k, preset);
	took = seconds() - took;
	peak = status_kib("VmHWM:");
	volume_stats(v, &stats);
	printf("recovery             %-7s %" PRIu64
	       " entries in %.3f s, %.1f MiB read, %.1f MiB written, %.1f MiB of memory more than before\n",
	       preset_names[preset], stats.recovered, took, (double)counter.reads / (double)MIB,
	       (double)counter.written / (double)MIB, (double)(peak > resident ? peak - resident : 0) / 1024);
	row("recovery-full-log", preset_names[preset], "entries", (double)stats.recovered, 0);
	row("recovery-full-log", preset_names[preset], "s", took, 0);
	row("recovery-full-log", preset_names[preset], "MiB of memory", (double)(peak > resident ? peak - resident : 0) / 1024,
	    0);
	must(volume_close(v), "closing");
	keyring_destroy(k);
	dev->ops->close(dev);
}

static void formatting(uint64_t client, const char *name)
{
	struct block *dev = device(client);
	struct keyring *k = ring();
	double took = seconds();

	format(dev, k, client);
	took = seconds() - took;
	printf("format               %-7s %.1f ms, %.0f KiB written, %" PRIu64 " flushes and durable writes\n", name, took * 1e3,
	       (double)counter.written / 1024, counter.flushes);
	row("format", name, "ms", took * 1e3, 0);
	row("format", name, "bytes", (double)counter.written, 0);
	keyring_destroy(k);
	dev->ops->close(dev);
}

int main(int count, char **arguments)
{
	if (count == 3 && strcmp(arguments[1], "--json") == 0)
		json = fopen(arguments[2], "w");
	if (count != 1 && json == NULL) {
		fprintf(stderr, "bench volume: usage: bench_volume [--json FILE], a file that can be written\n");
		return 2;
	}
	if (json != NULL)
		fputc('[', json);
	printf("%-20s %-7s %10s %8s %16s %14s\n", "load", "memory", "written", "paper", "flushes/flush", "checkpoints");
	for (enum volume_preset preset = VOLUME_BOARD; preset <= VOLUME_SERVER; preset++)
		for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++)
			run(&loads[i], preset);
	recover(VOLUME_BOARD);
	recover(VOLUME_SERVER);
	formatting(GIB, "1G");
	formatting(16 * TIB, "16T");
	if (json != NULL) {
		fputs("\n]\n", json);
		return fclose(json) == 0 ? 0 : 1;
	}
	return 0;
}
