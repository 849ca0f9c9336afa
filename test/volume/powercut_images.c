/* See powercut_images.h. Which points are written out depends on their hashes alone: two runs choose the same. */
#include "powercut_images.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/hash.h"

enum { SCRATCH_SECTORS = 512 };

struct images {
	const char *dir;
	FILE *index;
	unsigned long one_in, left, number;
	const struct world *world;
	struct block *damaged;
	char point[200];
};

static void give_up(const char *what, const char *path)
{
	fprintf(stderr, "powercut: cannot %s %s: choose another --images directory\n", what, path);
	exit(2);
}

struct images *images_new(const char *dir, unsigned long points, unsigned long count)
{
	struct images *m = calloc(1, sizeof *m);
	char path[1024];

	if (m == NULL)
		abort();
	m->dir = dir;
	m->left = count;
	m->one_in = count == 0 || points / count == 0 ? 1 : points / count;
	snprintf(path, sizeof path, "%s/index.jsonl", dir);
	m->index = fopen(path, "wx");
	if (m->index == NULL)
		give_up("create", path);
	return m;
}

void images_free(struct images *m)
{
	if (m == NULL)
		return;
	if (fclose(m->index) != 0)
		give_up("write", m->dir);
	free(m);
}

bool images_due(const struct images *m, uint64_t hash, unsigned long point)
{
	(void)point;
	return m != NULL && m->left > 0 && (hash >> 17) % m->one_in == 0;
}

static void write_raw(const struct images *m, struct block *image, const char *name)
{
	char path[1024];
	uint8_t page[POWER_PAGE];
	int fd;

	snprintf(path, sizeof path, "%s/%s", m->dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)image->size) != 0)
		give_up("create", path);
	for (uint32_t i = 0; i < image->size / POWER_PAGE; i++) {
		if (power_blank(image, i))
			continue;
		power_peek(image, page, sizeof page, i * (uint64_t)POWER_PAGE);
		if (pwrite(fd, page, sizeof page, (off_t)i * POWER_PAGE) != (ssize_t)sizeof page)
			give_up("write", path);
	}
	close(fd);
}

static void write_hex(FILE *f, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		fprintf(f, "%02x", bytes[i]);
}

/* found: all sectors; bad[i]: sector i was an error. found NULL: the volume was refused. */
static void write_line(struct images *m, const char *name, const char *kind, const uint8_t *found, const bool *bad)
{
	uint8_t digest[HASH_BYTES];

	fprintf(m->index, "{\"image\": \"%s\", \"kind\": \"%s\", \"point\": \"%s\", \"dek\": \"", name, kind, m->point);
	write_hex(m->index, m->world->payload, DEK_BYTES);
	fprintf(m->index, "\", \"sectors\": ");
	for (uint32_t i = 0; i < m->world->sectors && found != NULL; i++) {
		const struct hash_part part = { found + i * (size_t)SECTOR_BYTES, SECTOR_BYTES };

		hash_sha256(digest, &part, 1);
		fprintf(m->index, i == 0 ? "[\"" : ", \"");
		if (bad != NULL && bad[i])
			fprintf(m->index, "error");
		else
			write_hex(m->index, digest, sizeof digest);
		fprintf(m->index, "\"");
	}
	fprintf(m->index, found == NULL ? "\"refused\"}\n" : "]}\n");
}

/* --- damage ------------------------------------------------------------------------------------------------------------- */

/* A few pages that hold something become noise, zeroes, another page, or lose a bit. */
static void damage(struct block *image, struct dice *d)
{
	uint32_t pages = (uint32_t)(image->size / POWER_PAGE);
	uint8_t page[POWER_PAGE];

	for (uint64_t n = 1 + dice_below(d, 3); n > 0; n--) {
		uint32_t at = (uint32_t)dice_below(d, pages), other = (uint32_t)dice_below(d, pages);

		while (power_blank(image, at))
			at = (at + 1) % pages;
		while (power_blank(image, other) || other == at)
			other = (other + 1) % pages;
		power_peek(image, page, sizeof page, at * (uint64_t)POWER_PAGE);
		switch (dice_below(d, 4)) {
		case 0:
			page[dice_below(d, sizeof page)] ^= (uint8_t)(1u << dice_below(d, 8));
			break;
		case 1:
			memset(page, 0, sizeof page);
			break;
		case 2:
			dice_bytes(d, page, sizeof page);
			break;
		default:
			power_peek(image, page, sizeof page, other * (uint64_t)POWER_PAGE);
			break;
		}
		power_poke(image, at, page);
	}
}

static void copy_image(struct images *m, struct block *image)
{
	uint8_t page[POWER_PAGE];

	m->damaged = power_new(image->size);
	for (uint32_t i = 0; i < image->size / POWER_PAGE; i++)
		if (!power_blank(image, i)) {
			power_peek(image, page, sizeof page, i * (uint64_t)POWER_PAGE);
			power_poke(m->damaged, i, page);
		}
}

static void look_at_damaged(struct images *m)
{
	struct session s = { 0 };
	bool bad[SCRATCH_SECTORS] = { false }, opened = session_open(&s, m->world, m->damaged) == 0;
	uint8_t *found = calloc(m->world->sectors, SECTOR_BYTES);
	char name[80];

	if (found == NULL || m->world->sectors > SCRATCH_SECTORS)
		abort();
	for (uint32_t i = 0; opened && i < m->world->sectors; i++)
		bad[i] = volume_read(s.volume, found + i * (size_t)SECTOR_BYTES, SECTOR_BYTES, i * (uint64_t)SECTOR_BYTES) != 0;
	session_kill(&s, m->damaged);
	session_free(&s);
	snprintf(name, sizeof name, "%06lu-damaged.img", m->number);
	write_line(m, name, "damaged", opened ? found : NULL, bad);
	if (opened) {
		snprintf(name, sizeof name, "%06lu-damaged-recovered.img", m->number);
		write_raw(m, m->damaged, name);
		write_line(m, name, "damaged-recovered", found, bad);
	}
	free(found);
}

/* --- one point ---------------------------------------------------------------------------------------------------------- */

void images_begin(struct images *m, struct block *image, const struct world *w, const char *point)
{
	struct dice d = dice_new(m->number ^ UINT64_C(0x64616D616765));
	char name[80];

	m->number++;
	m->left--;
	m->world = w;
	snprintf(m->point, sizeof m->point, "%.199s", point);
	snprintf(name, sizeof name, "%06lu-cut.img", m->number);
	write_raw(m, image, name);
	copy_image(m, image);
	damage(m->damaged, &d);
	snprintf(name, sizeof name, "%06lu-damaged.img", m->number);
	write_raw(m, m->damaged, name);
}

void images_end(struct images *m, struct block *image, const uint8_t *found)
{
	char name[80];

	snprintf(name, sizeof name, "%06lu-cut.img", m->number);
	write_line(m, name, "cut", found, NULL);
	snprintf(name, sizeof name, "%06lu-recovered.img", m->number);
	write_raw(m, image, name);
	write_line(m, name, "recovered", found, NULL);
	look_at_damaged(m);
	m->damaged->ops->close(m->damaged);
	m->damaged = NULL;
}
