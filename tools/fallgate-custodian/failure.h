/* How a command of the custodian's tool fails: one line on standard error with what, where and what to do, and the exit code that
 * goes with it. */
#ifndef CUSTODIAN_FAILURE_H
#define CUSTODIAN_FAILURE_H

/* Prints "fallgate-custodian: ..." and returns error, so that callers say `return fail(ERR_X, ...)`. */
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A PKCS#11 code: its name, its usual cause, the remedy. `what` says what was being done. Returns the ERR_* that fits. */
int fail_ckr(unsigned long ckr, const char *what);

#endif
