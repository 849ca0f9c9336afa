/* `fallgate-dataplane serve`: the serving process of a volume whose export is ublk. */
#ifndef FALLGATE_DATAPLANE_SERVE_H
#define FALLGATE_DATAPLANE_SERVE_H

/* argv: name=NAME device=N queues=Q depth=D hold=yes|no, each once. Returns an exit code if it could not begin; else never. */
int serve_run(int channel_fd, int count, char **arguments);

#endif
