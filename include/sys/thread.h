/* thread.h - a named thread with a result, and a condition that waits on the monotonic clock. */
#ifndef PGCUTOVER_SYS_THREAD_H
#define PGCUTOVER_SYS_THREAD_H

#include "base/error.h"

#include <pthread.h>
#include <stdint.h>

/* Starts fn(arg) with all signals blocked (the main thread takes them). */
bool thread_start(pthread_t *thread, const char *name, void *(*fn)(void *), void *arg,
                  struct error *err) WARN_UNUSED;
void thread_cond_init(pthread_cond_t *cond); /* CLOCK_MONOTONIC */
/* false when the deadline passed */
bool thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_us);

#endif
