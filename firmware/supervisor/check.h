/* fallgated --check: the configuration was judged; here each KEK is proven once. Nothing is changed on disk. */
#ifndef FALLGATE_SUPERVISOR_CHECK_H
#define FALLGATE_SUPERVISOR_CHECK_H

struct agent;

/* config_error: what config_load said. Prints a line per KEK. The gravest error, 0 if all is well. */
int check_run(struct agent *a, int config_error);

#endif
