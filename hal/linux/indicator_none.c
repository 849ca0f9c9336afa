/* A build without indicators. */
#include <hal/indicator.h>

#include <stdio.h>
#include <string.h>

#include "base/error.h"

int indicator_open(struct indicator **out, const char *where, char *why, size_t why_size)
{
	(void)where;
	*out = NULL;
	snprintf(why, why_size, "this agent is built without indicators (CONFIG_INDICATOR); build it with");
	return ERR_UNSUPPORTED;
}

bool indicator_where_good(const char *where)
{
	return (strncmp(where, "led:", 4) == 0 || strncmp(where, "console:/dev/", 13) == 0) && strstr(where, "..") == NULL;
}

void indicator_show(struct indicator *i, enum indicator_state state, const char *text)
{
	(void)i;
	(void)state;
	(void)text;
}

void indicator_close(struct indicator *i)
{
	(void)i;
}
