/* Chooses a kernel: the first in the table that this processor can run and that gives the known answers in this very process.
 * What must hold: a kernel that fails one is never returned, also not by force; the tests run once, before the first choice. */
#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "kernel.h"

enum { KERNELS_MAX = 32 };

/* Facts about this processor and this program, the same for every caller: the excuse for two variables of a file. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool passed[KERNELS_MAX];

static void test_all(void)
{
	const struct aead_kernel *const *kernels = aead_kernels();

	for (size_t i = 0; i < KERNELS_MAX && kernels[i] != NULL; i++) {
		if (!kernels[i]->usable())
			continue;
		passed[i] = aead_self_test(kernels[i]) == 0;
		if (!passed[i])
			log_error("aead: kernel %s fails its known answers and is not used: replace this processor or build",
				  kernels[i]->name);
	}
}

const struct aead_kernel *aead_kernel_by_name(const char *name)
{
	for (const struct aead_kernel *const *k = aead_kernels(); *k != NULL; k++) {
		if (strcmp((*k)->name, name) == 0)
			return *k;
	}
	return NULL;
}

const struct aead_kernel *aead_select(const char *forced)
{
	const struct aead_kernel *const *kernels = aead_kernels();

	pthread_once(&once, test_all);
	for (size_t i = 0; i < KERNELS_MAX && kernels[i] != NULL; i++) {
		if (passed[i] && (forced == NULL || strcmp(kernels[i]->name, forced) == 0))
			return kernels[i];
	}
	if (forced == NULL)
		log_error("aead: no kernel gives the known answers: nothing can be sealed with this processor or build");
	else
		log_error("aead: kernel %.32s is not in this build, or not for this processor, or fails its known answers",
			  forced);
	return NULL;
}
