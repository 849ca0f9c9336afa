/* getopt_long takes "--forc" for "--force". Where an option destroys something, or will one day have a namesake, a word must be
 * spelled out: programs for people ask here after each option. */
#ifndef FALLGATE_BASE_OPTION_H
#define FALLGATE_BASE_OPTION_H

#include <getopt.h>
#include <stdbool.h>
#include <string.h>

/* Whether the option that getopt_long just returned, row `o` of its table, stands in argv under its whole name. */
static inline bool option_spelled_out(char *const *argv, const struct option *o)
{
	const char *word = argv[optind - 1];
	size_t size = strlen(o->name);

	if (o->has_arg == required_argument && word == optarg) /* --name VALUE: the name is the word before */
		word = argv[optind - 2];
	return strncmp(word, "--", 2) == 0 && strncmp(word + 2, o->name, size) == 0 &&
	       (word[2 + size] == '\0' || word[2 + size] == '=');
}

#endif
