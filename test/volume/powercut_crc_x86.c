/* CRC-32C by the processor's own instruction, for the replay, a third of whose time the table takes. The definition in layout.c
 * is made weak in the library that the power-cut programs link (powercut.cmake), and this one is used in its stead. What must
 * hold: it is the same function; powercut_device compares it with the definition, bit by bit. */
#include <nmmintrin.h>
#include <string.h>

#include "volume/layout.h"

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
	const uint8_t *p = data;
	uint64_t wide = ~crc;

	for (; size >= 8; size -= 8, p += 8) {
		uint64_t word;

		memcpy(&word, p, sizeof word);
		wide = _mm_crc32_u64(wide, word);
	}
	crc = (uint32_t)wide;
	for (; size > 0; size--, p++)
		crc = _mm_crc32_u8(crc, *p);
	return ~crc;
}
