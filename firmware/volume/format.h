/* Headers and root rings on the device: finding the better of two copies, and making a new volume. */
#ifndef FALLGATE_VOLUME_FORMAT_H
#define FALLGATE_VOLUME_FORMAT_H

#include "layout.h"

struct block;

/* Both copies as read. result[i] is 0 or why copy i is not usable (text in why[i]). Bytes stay, for MAC and repair. */
struct header_pair {
	int result[2];
	struct header header[2];
	char why[2][96];
	uint8_t bytes[2][HEADER_BYTES];
};

/* Reads both copies; B lies where A says, or at the end of the device. 0 if one is usable (*better: the one with the higher
 * sequence number), else ERR_FOREIGN, ERR_CORRUPT, ERR_RANGE, ERR_IO; why says what was found in either case. */
int headers_read(struct block *dev, struct header_pair *pair, unsigned *better, bool any_geometry, char *why, size_t why_size);

/* What volume_read_header tells of it. */
void header_info(struct volume_header_info *out, const struct header *h);

/* MAC of a header under its active generation. 0, ERR_REVOKED, ERR_NOT_FOUND (the ring lacks that generation). */
int header_mac(struct keyring *keys, uint8_t mac[static 32], uint32_t gen_no, const uint8_t bytes[static HEADER_BYTES]);

/* The newest root record that opens, among the eight of both rings; *bad counts newer ones that did not. 0, ERR_CORRUPT (none),
 * ERR_IO (neither ring can be read), ERR_REVOKED. */
int roots_read(struct block *dev, struct keyring *keys, const struct geometry *g, const uint8_t uuid[static UUID_BYTES],
	       struct root *out, unsigned *bad);

/* Writes blocks whose completion makes them durable: natively, or by a flush after them. */
int write_durably(struct block *dev, const void *in, size_t size, uint64_t at);

#endif
