/* What must hold of any gate table, as functions that walk one and name the first breach: for the real table, and to see that
 * damaged copies are caught. */
#ifndef TEST_REVOCATION_PROPERTIES_H
#define TEST_REVOCATION_PROPERTIES_H

#include "revocation/table.h"

/* NULL, or one line that names the property and the pair that broke it (valid until the next call). */
const char *properties_breach(gate_rows table);

#endif
