/* The build without filters, for sanitizers, which make system calls that no profile allows. The posture says "none". */
#include <hal/sandbox.h>

int sandbox_enter(enum sandbox_profile profile)
{
	(void)profile;
	return 0;
}

const char *sandbox_kind(void)
{
	return "none";
}
