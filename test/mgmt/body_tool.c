/* The codec as a filter, so that another CBOR implementation can be held against it: a line of hexadecimal in, "good HEX"
 * (encoded again) or "bad WHY" out. */
#include <stdio.h>
#include <string.h>

#include "mgmt/body.h"

enum { BYTES_MAX = 65536, ITEMS = 4096 };

static uint8_t in[BYTES_MAX], out[BYTES_MAX];
static char line[2 * BYTES_MAX + 2];
static struct body_item items[ITEMS];

static void answer(size_t size)
{
	struct body b = { .items = items, .room = ITEMS };
	struct body_out o;
	int n;

	if (body_decode(&b, in, size) != 0) {
		printf("bad %s\n", b.fault);
		return;
	}
	body_begin(&o, out, sizeof out);
	body_put_item(&o, &b, items);
	n = body_finish(&o);
	printf("good ");
	for (int i = 0; i < n; i++)
		printf("%02x", out[i]);
	putchar('\n');
}

int main(void)
{
	while (fgets(line, sizeof line, stdin) != NULL) {
		size_t n = 0;

		while (n < sizeof in && sscanf(line + 2 * n, "%2hhx", &in[n]) == 1)
			n++;
		answer(n);
		fflush(stdout);
	}
	return 0;
}
