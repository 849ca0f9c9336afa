/* The kernel under test is named by the program's one argument. What must hold: no test falls back to another kernel. */
#ifndef TEST_HAL_AEAD_KERNEL_ARGUMENT_H
#define TEST_HAL_AEAD_KERNEL_ARGUMENT_H

#include <stdio.h>
#include <stdlib.h>

#include "hal/aead.h"

static inline const struct aead_kernel *kernel_argument(int argc, char **argv)
{
	const struct aead_kernel *kernel = argc == 2 ? aead_kernel_by_name(argv[1]) : NULL;

	if (kernel == NULL) {
		fprintf(stderr, "usage: %s KERNEL; this build has:", argv[0]);
		for (const struct aead_kernel *const *k = aead_kernels(); *k != NULL; k++)
			fprintf(stderr, " %s", (*k)->name);
		fprintf(stderr, "\n");
		exit(2);
	}
	if (!kernel->usable()) {
		printf("skipped: %s needs instructions that this processor, or the valgrind it runs under, does not have\n",
		       kernel->name);
		exit(77);
	}
	return kernel;
}

#endif
