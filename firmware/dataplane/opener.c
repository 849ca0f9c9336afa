/* The thread that opens a volume. */
#include "opener.h"

#include <stdint.h>
#include <unistd.h>

#include "base/error.h"

static void *open_volume(void *context)
{
	struct opener *o = context;
	uint64_t one = 1;

	o->error = volume_open(&o->volume, o->dev, o->ring, &o->options, o->why, sizeof o->why);
	atomic_store(&o->done, true);
	if (write(o->wake_fd, &one, sizeof one) < 0)
		return NULL; /* the counter is full: it is raised */
	return NULL;
}

int opener_start(struct opener *o)
{
	o->volume = NULL;
	o->error = 0;
	o->why[0] = '\0';
	o->options.kcv = o->kcv;
	atomic_store(&o->done, false);
	return pthread_create(&o->thread, NULL, open_volume, o) == 0 ? 0 : ERR_NOMEM;
}

int opener_join(struct opener *o)
{
	pthread_join(o->thread, NULL);
	return o->error;
}
