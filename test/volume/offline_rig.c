/* See offline_rig.h. */
#include "offline_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"

static void say(void *context, enum offline_severity severity, const char *text)
{
	static const char *const names[] = { "note", "mended", "repairable", "loss" };
	struct seen *s = context;

	assert_true(severity <= OFFLINE_LOSS);
	assert_true(strlen(text) <= 200);
	for (const char *c = text; *c != '\0'; c++)
		assert_true(*c >= ' ' && *c <= '~');
	if (s->used + strlen(text) + 16 < sizeof s->text)
		s->used += (size_t)sprintf(s->text + s->used, "%s: %s\n", names[severity], text);
}

static bool progress(void *context, uint64_t done, uint64_t total)
{
	struct seen *s = context;

	assert_true(done <= total && done >= s->done);
	s->done = done;
	s->total = total;
	s->steps++;
	if (s->stop_at == 0 || s->steps < s->stop_at)
		return true;
	if (s->shut != NULL)
		keyring_wipe(s->shut);
	return s->shut != NULL;
}

int verb_do(struct rig *g, enum offline_verb verb, struct verb_run *v)
{
	const struct offline_sink sink = { .context = &v->seen, .say = say, .progress = progress };
	const struct offline_options options = {
		.accept_loss = v->consent,
		.repair = v->repair,
		.kcv = v->with_key ? g->kcv : NULL,
		.dump_at = v->dump_at == 0 ? UINT64_MAX : v->dump_at - 1,
		.output_fd = v->output_fd == 0 ? -1 : v->output_fd,
		.map_fd = v->map_fd == 0 ? -1 : v->map_fd,
		.input_fd = v->input_fd == 0 ? -1 : v->input_fd,
		.test_geometry = g->options.test_geometry,
	};
	struct keyring *keys = NULL;
	uint8_t kcv[KCV_BYTES];
	int r;

	if (v->with_key)
		keys = rig_ring(g->payload, g->uuid, 1, kcv);
	memset(&v->seen, 0, sizeof v->seen);
	v->seen.stop_at = v->stop_at;
	v->seen.shut = v->shut ? keys : NULL;
	if (v->input_fd > 0)
		assert_int_equal(lseek(v->input_fd, 0, SEEK_SET), 0);
	r = volume_offline(verb, g->dev, keys, &options, &sink, &v->result, v->why, sizeof v->why);
	if (keys != NULL)
		keyring_destroy(keys);
	assert_true(strlen(v->why) < sizeof v->why);
	return r;
}

void verb_must(struct rig *g, enum offline_verb verb, struct verb_run *v, int expected)
{
	int r = verb_do(g, verb, v);

	if (r != expected)
		print_error("%s: %d (%s)\n%s", offline_needs[verb].name, r, v->why, v->seen.text);
	assert_int_equal(r, expected);
}

void sector_fill(uint8_t *out, uint64_t lba, uint32_t version)
{
	rig_noise(out, SECTOR_BYTES, lba * 16 + version);
}

void sector_write(struct rig *g, uint64_t lba, uint32_t version)
{
	uint8_t data[SECTOR_BYTES];

	sector_fill(data, lba, version);
	assert_int_equal(volume_write(g->volume, data, sizeof data, lba * SECTOR_BYTES, false), 0);
}

int sector_read(struct rig *g, uint64_t lba, uint32_t version)
{
	uint8_t got[SECTOR_BYTES], expect[SECTOR_BYTES];
	int r = volume_read(g->volume, got, sizeof got, lba * SECTOR_BYTES);

	sector_fill(expect, lba, version);
	if (r == 0)
		assert_memory_equal(got, expect, sizeof got);
	return r;
}

void offline_make(struct rig *g)
{
	rig_format(g, OFFLINE_SECTORS * (uint64_t)SECTOR_BYTES);
	g->options.stepped = true;
	g->options.dirty_nodes_max = 64;
	rig_must_open(g);
	for (uint64_t lba = 0; lba < OFFLINE_WRITTEN; lba++)
		sector_write(g, lba, 1);
	sector_write(g, OFFLINE_FAR, 1);
	rig_close(g);
}

struct geometry offline_geometry(struct rig *g)
{
	struct geometry out;

	(void)g;
	assert_int_equal(geometry_compute(&out, OFFLINE_SECTORS, geometry_log_blocks(OFFLINE_SECTORS),
					  volume_backing_size(OFFLINE_SECTORS * (uint64_t)SECTOR_BYTES)),
			 0);
	return out;
}

void destroy(struct rig *g, uint64_t at, uint64_t size)
{
	uint8_t noise[SECTOR_BYTES];

	for (uint64_t done = 0; done < size; done += sizeof noise) {
		rig_noise(noise, sizeof noise, at + done);
		block_memory_poke(g->dev, noise, sizeof noise, at + done);
	}
}

void flip_bit(struct rig *g, uint64_t at, unsigned bit)
{
	uint8_t byte;

	block_memory_peek(g->dev, &byte, 1, at);
	byte = (uint8_t)(byte ^ 1u << bit);
	block_memory_poke(g->dev, &byte, 1, at);
}

int file_in_memory(void)
{
	int fd = memfd_create("offline", MFD_CLOEXEC);

	assert_true(fd > 0);
	return fd;
}

size_t file_bytes(int fd, void *out, size_t room)
{
	ssize_t n = pread(fd, out, room, 0);

	assert_true(n >= 0);
	return (size_t)n;
}
