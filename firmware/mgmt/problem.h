/* What goes wrong, as others see it: each error's CoAP code and the one line that says what to do about it. Shared by the network
 * process (problem bodies) and the command line client (its own errors), so that both say the same. */
#ifndef FALLGATE_MGMT_PROBLEM_H
#define FALLGATE_MGMT_PROBLEM_H

#include <stdint.h>

/* class << 5 | detail, e.g. 4.04 is 0x84; 2.04 for no error; 5.00 for an unknown one. */
uint8_t problem_code(int error);

/* One clause without a full stop; empty for no error. Never NULL. */
const char *problem_remedy(int error);

#endif
