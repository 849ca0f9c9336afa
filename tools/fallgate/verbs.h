/* What each verb does. */
#ifndef FALLGATE_VERBS_H
#define FALLGATE_VERBS_H

struct arguments;

/* The exit code. */
int verbs_run(const struct arguments *a);

#endif
