/* For processors whose vector registers this build's code does not use: the compiler was given none, so there is nothing to
 * clear. */
#include "hal/aead.h"

void aead_clear_registers(void)
{
}
