/* Threads beside a program's own: no signal is ever delivered to one, and none is waited for longer than its starter wants. */
#ifndef FALLGATE_BASE_THREAD_H
#define FALLGATE_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

int thread_start(pthread_t *out, void *(*body)(void *), void *context); /* 0, or what pthread_create says */
bool thread_joined_within(pthread_t thread, unsigned ms); /* false: it goes on, and is the caller's to join or detach */
struct timespec thread_deadline(unsigned ms);             /* from now, on CLOCK_MONOTONIC */

#endif
