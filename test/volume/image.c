/* One volume whose every byte is known: fixed key, fixed salts, fixed script. Its digest is the format's seal: if it changes, the
 * format changed, and SPEC.md's version with it. With a path as argument the image is written there too, for check_image.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

#include "hal/entropy.h"

enum { SECTORS = 10201 };

static const char *image_path;

/* Stands in for the kernel's: the linker takes this one. Bytes count up across the whole run. */
int entropy_fill(void *out, size_t size)
{
	static uint8_t next;
	uint8_t *p = out;

	for (size_t i = 0; i < size; i++)
		p[i] = next++;
	return 0;
}

static void write_pattern(struct rig *g, uint64_t lba, size_t sectors, uint8_t first)
{
	uint8_t *data = malloc(sectors * SECTOR_BYTES);

	for (size_t i = 0; i < sectors * SECTOR_BYTES; i++)
		data[i] = (uint8_t)(first + i / SECTOR_BYTES + i * 3);
	assert_int_equal(volume_write(g->volume, data, sectors * SECTOR_BYTES, lba * SECTOR_BYTES, false), 0);
	free(data);
}

static void dump(struct rig *g, const char *path)
{
	uint8_t page[SECTOR_BYTES], blank[SECTOR_BYTES] = { 0 };
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), (off_t)g->dev->size), 0);
	for (uint64_t at = 0; at < g->dev->size; at += sizeof page) {
		block_memory_peek(g->dev, page, sizeof page, at);
		if (memcmp(page, blank, sizeof page) == 0)
			continue;
		assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
		assert_int_equal(fwrite(page, sizeof page, 1, f), 1);
	}
	assert_int_equal(fclose(f), 0);
}

static void the_image_is_known_to_the_byte(void **state)
{
	static const uint8_t known[32] = {
		0x8E, 0x48, 0xAA, 0xC2, 0x8E, 0xBD, 0xDA, 0xDE, 0xB9, 0x69, 0x15, 0x63, 0x52, 0x17, 0x12, 0xCF,
		0x2A, 0x1C, 0xCA, 0x9B, 0x4F, 0x98, 0x3C, 0xAC, 0x57, 0x20, 0x49, 0x57, 0x8E, 0x24, 0x48, 0x8D,
	};
	uint8_t digest[32];
	struct rig g;

	(void)state;
	rig_format(&g, SECTORS * (uint64_t)SECTOR_BYTES);
	g.options.stepped = true;
	rig_must_open(&g);
	write_pattern(&g, 0, 3, 1);
	write_pattern(&g, 98, 300, 2);
	write_pattern(&g, SECTORS - 1, 1, 3);
	assert_int_equal(volume_zero(g.volume, 100 * SECTOR_BYTES, 200 * SECTOR_BYTES, false, false), 0);
	assert_int_equal(volume_flush(g.volume), 0);
	rig_close(&g);
	rig_must_open(&g);
	write_pattern(&g, 1, 1, 4);
	assert_int_equal(volume_write(g.volume, "half", 4, 5 * SECTOR_BYTES + 100, false), 0);
	rig_close(&g);
	block_memory_digest(g.dev, digest);
	if (image_path != NULL)
		dump(&g, image_path);
	for (size_t i = 0; i < 32 && memcmp(digest, known, 32) != 0; i++)
		print_message("0x%02X, ", digest[i]);
	assert_memory_equal(digest, known, sizeof digest);
	rig_free(&g);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_image_is_known_to_the_byte),
	};

	image_path = argc > 1 ? argv[1] : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
