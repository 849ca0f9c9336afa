/* fallgate: the client of a Fallgate agent. It holds no data key; what it holds, its own credentials, it wipes. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"

#include "arguments.h"
#include "output.h"
#include "verbs.h"

/* --json counts for errors of the command line too. */
static bool wants_json(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--json") == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	bool json = wants_json(argc, argv);
	struct arguments a;
	char text[256];
	int code;

	code = arguments_read(&a, argc, argv, text, sizeof text);
	if (code != 0) {
		output_error(json, error_name(code), text, "", error_exit_code(code));
		return error_exit_code(code);
	}
	code = verbs_run(&a);
	if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) {
		fputs("fallgate: standard output could not be written to the end: what was asked for is done, what was said is "
		      "not whole\n",
		      stderr);
		return error_exit_code(ERR_IO);
	}
	return code;
}
