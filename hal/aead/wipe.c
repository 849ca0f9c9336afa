/* What all kernels share at the edges of a run: the check of lengths, the verdict on a tag, the wipe of the stack. */
#include <string.h>

#include "base/log.h"
#include "kernel.h"

void aead_check_lengths(const struct aead_item *items, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (items[i].size > AEAD_SIZE_MAX || items[i].aad_size > AEAD_AAD_MAX)
			fatal("aead: a message of %zu bytes with %zu of associated data is longer than GCM allows", items[i].size,
			      items[i].aad_size);
	}
}

/* The three below are noinline so that the verdict ends in a branch here: folded together they become `item->good = good`, and
 * each kernel that asks item->good branches on a secret again, as the check of constant time sees it. */
__attribute__((noinline)) static void accept_item(struct aead_item *item)
{
	item->good = true;
}

__attribute__((noinline)) static void refuse_item(struct aead_item *item)
{
	item->good = false;
	if (item->size > 0)
		explicit_bzero(item->out, item->size);
}

__attribute__((noinline)) size_t aead_conclude(struct aead_item *items, size_t count)
{
	size_t bad = 0;

	for (size_t i = 0; i < count; i++) {
		if (items[i].good) {
			accept_item(&items[i]);
		} else {
			refuse_item(&items[i]);
			bad++;
		}
	}
	return bad;
}

typedef uint8_t part __attribute__((vector_size(16), aligned(1), may_alias));

enum { STRIDE = 4 * sizeof(part) };

_Static_assert(AEAD_STACK_ONE % STRIDE == 0 && AEAD_STACK_MAX % STRIDE == 0, "the wipe ends where the frames do");

/* noinline: its frame must lie where the inner functions' frames lay. Stores of its own, because whoever comes next need not wait
 * for them, as for those of a memset; what hides the pointer keeps the compiler from making them one. */
__attribute__((noinline)) void aead_wipe_stack(size_t size)
{
	uint8_t frames[AEAD_STACK_MAX];
	part *at = (part *)(frames + AEAD_STACK_MAX - size);

	for (size_t i = 0; i < size / STRIDE; i++) {
		__asm__ volatile("" : "+r"(at) : : "memory");
		at[0] = at[1] = at[2] = at[3] = (part){ 0 };
		at += 4;
	}
	__asm__ volatile("" : : "r"(frames) : "memory");
}
