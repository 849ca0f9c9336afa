/* A recorder that is not ours: qemu-storage-daemon's blklogwrites writes down what a device is asked to do, in the kernel's log
 * format (dm-log-writes). The workload runs on an NBD export of the daemon's; our marks are writes to the export's last page.
 * What must hold: the device made from the log knows only what the daemon has written down. */
#ifndef TEST_VOLUME_POWERCUT_RECORDER_H
#define TEST_VOLUME_POWERCUT_RECORDER_H

#include "fakes/block_power.h"

struct recorder;

/* Starts the daemon; its device is for power_mirror. NULL: said why on stderr. */
struct recorder *recorder_start(void);
struct block *recorder_device(struct recorder *r);

/* Ends the daemon and closes its device. The log is whole. False: the daemon did not end well. */
bool recorder_stop(struct recorder *r);

/* A device of this size on which everything in the log has happened. NULL: the log is not what the format says. */
struct block *recorder_replay(struct recorder *r, uint64_t size);
void recorder_free(struct recorder *r);

#endif
