/* A build without GPIO lines. */
#include "tamper_kind.h"

#include <stdio.h>

#include "base/error.h"

static int open_line(struct tamper *t, const char *place, char *why, size_t why_size)
{
	(void)t;
	(void)place;
	snprintf(why, why_size, "this agent is built without GPIO lines (CONFIG_TAMPER_GPIO); build it with");
	return ERR_UNSUPPORTED;
}

/* A line that is not there says nothing good. */
static bool active(struct tamper *t)
{
	(void)t;
	return true;
}

const struct tamper_kind tamper_gpio = { "gpio", true, tamper_path_good, open_line, active };
