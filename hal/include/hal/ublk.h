/* The kernel's ublk driver: what a server of a block device sees of it, and what the broker does that makes such devices. Each is
 * a table of operations, so that what is built on them is tested where there is no driver. What must hold: a ring that was made
 * here can do nothing but what these operations need (it is made disabled, with an allow-list, and enabled before the walls come
 * up), for no seccomp filter sees what a ring does; nothing that the kernel says is used unchecked as an index. Linux 6.8 or
 * later. */
#ifndef HAL_UBLK_H
#define HAL_UBLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	UBLK_QUEUES = 4,            /* at most */
	UBLK_DEPTH = 64,            /* requests of a queue in flight: the kernel's tags */
	UBLK_IO_BYTES = 512 * 1024, /* of one read or write, at most */
	UBLK_SECTOR = 512,
};

/* ---- a server ---- */

enum ublk_op { UBLK_READ, UBLK_WRITE, UBLK_FLUSH, UBLK_DISCARD, UBLK_ZEROES, UBLK_OP_COUNT };

struct ublk_request {
	unsigned op; /* enum ublk_op, or UBLK_OP_COUNT: none that is known */
	bool fua;
	bool keep; /* zeroes: the space stays allocated */
	uint64_t at, size;
};

struct ublk_queue;

/* fetch, wait and answer: the queue's own thread only. The others: any thread, for a tag that wait gave out and that was not
 * answered yet. */
struct ublk_queue_ops {
	/* The kernel hears that every tag of the queue is free. 0, ERR_BUSY (another server has it), ERR_IO. */
	int (*fetch)(struct ublk_queue *q);
	/* Hands what was answered to the kernel, then waits. How many tags have a request now (0: woken), or ERR_IO: the device
	 * is being taken away, or the ring is broken. */
	int (*wait)(struct ublk_queue *q, uint16_t *tags, unsigned max);
	void (*answer)(struct ublk_queue *q, uint16_t tag, int32_t result); /* bytes done, or a negative errno */
	void (*request)(struct ublk_queue *q, uint16_t tag, struct ublk_request *out);
	int (*pull)(struct ublk_queue *q, uint16_t tag, void *buf, size_t size);       /* a write's data. 0 or ERR_IO */
	int (*push)(struct ublk_queue *q, uint16_t tag, const void *buf, size_t size); /* a read's */
	void (*wake)(struct ublk_queue *q);                                            /* any thread: wait returns */
};

struct ublk_queue {
	const struct ublk_queue_ops *ops;
	unsigned depth;
};

/* Opens /dev/ublkcN and makes its queues, ready to fetch. For the life of the process. 0, ERR_NOT_FOUND, ERR_DENIED, ERR_BUSY,
 * ERR_UNSUPPORTED (no io_uring), ERR_NOMEM, ERR_IO; logged. Before the sandbox. */
int ublk_server_open(struct ublk_queue *queues[UBLK_QUEUES], uint32_t device, unsigned count, unsigned depth);

/* ---- the broker ---- */

enum ublk_verb {
	UBLK_INFO,       /* *info of the device */
	UBLK_ADD,        /* a device as *info says; its number comes back in it */
	UBLK_PARAMETERS, /* as *shape says */
	UBLK_START,      /* waits until every queue of the server was fetched, then the block device appears; pid */
	UBLK_RENEW,   /* START_USER_RECOVERY: the next server may open; ERR_BUSY while the kernel is not done with the last one */
	UBLK_GO_ON,   /* END_USER_RECOVERY: waits as START does; pid */
	UBLK_STOP,    /* the block device goes; what waits fails */
	UBLK_DELETE,  /* the device goes; its number is free when its last user has closed it */
	UBLK_SETTING, /* writes *setting to setting_fd, a file of sysfs: waits until the queue is idle */
	UBLK_VERB_COUNT
};

struct ublk_info {
	uint32_t device;
	uint16_t queues, depth;
	bool recover;  /* requests outlive their server */
	uint64_t mark; /* the kernel keeps it for whoever made the device */
};

struct ublk_shape {
	uint64_t size;
	bool read_only;
	bool volatile_cache; /* flushes and FUA come */
};

/* One command: stays where it is from begin until next gave it back. */
struct ublk_command {
	enum ublk_verb verb;
	struct ublk_info info;
	struct ublk_shape shape;
	int32_t pid;
	int setting_fd;
	char setting[8];
	int error;         /* 0 or an ERR_*; ERR_TIMEOUT: cancelled */
	int errnum;        /* what the kernel said, for the log; 0: nothing */
	uint64_t block[8]; /* what kernel and process exchange meanwhile */
};

struct ublk_control;

struct ublk_control_ops {
	int (*begin)(struct ublk_control *c, struct ublk_command *command); /* 0 or ERR_BUSY. Never waits */
	void (*cancel)(struct ublk_control *c, struct ublk_command *command);
	struct ublk_command *(*next)(struct ublk_control *c); /* one that is done, or NULL. Now and then, for begin's sake too */
	int (*fd)(const struct ublk_control *c);              /* readable: next has something */
};

struct ublk_control {
	const struct ublk_control_ops *ops;
};

/* Opens /dev/ublk-control and its ring, for the life of the process. 0, ERR_NOT_FOUND (no driver), ERR_DENIED, ERR_UNSUPPORTED,
 * ERR_NOMEM; logged. Before the sandbox. */
int ublk_control_open(struct ublk_control **out);

const char *ublk_verb_name(enum ublk_verb verb); /* for the log: "add", ... */

#endif
