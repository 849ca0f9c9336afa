/* The one-shot that does one job on a volume that nobody serves: check, scrub, dump, repair-log, salvage, header-restore, with
 * the volume's key (volume/offline.h does the work). What must hold: it lives under the same orders and deadlines as a serving
 * dataplane, and an order, a deadline, the end of the supervisor or of the client ends in wiped keys without waiting for a disk;
 * MSG_DP_WIPED goes out the moment the keys are gone, MSG_DP_JOB_DONE after it, once; plaintext goes to the output descriptor and
 * nowhere else; the supervisor is told counts and one line, everything else goes to the client's pipe.
 *
 * The pipe, one line each: "p DONE TOTAL" (bytes of work), or a letter, a space and a text of at most 200 printable ASCII
 * characters: n a note, m mended, r repairable, l lost (enum offline_severity). Progress that the pipe does not take is dropped,
 * a finding waits. */
#ifndef FALLGATE_DATAPLANE_OFFLINE_H
#define FALLGATE_DATAPLANE_OFFLINE_H

/* fd: the channel to the supervisor, taken over. Returns the exit code, or ends the process. */
int offline_run(int fd);

#endif
