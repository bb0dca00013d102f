#include "sys/thread.h"

#include "base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <time.h>

bool thread_start(pthread_t *thread, const char *name, void *(*fn)(void *), void *arg,
                  struct error *err)
{
    sigset_t all;
    sigset_t before;
    char cut[16]; /* pthread_setname_np(3): 16 bytes with the NUL */

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return error_set_errno(err, rc, "could not start thread \"%s\"", name);
    snprintf(cut, sizeof cut, "%.15s", name);
    pthread_setname_np(*thread, cut);
    return true;
}

void thread_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_us)
{
    if (deadline_us == CLOCK_NONE)
        return pthread_cond_wait(cond, mutex) == 0;
    struct timespec ts = {.tv_sec = deadline_us / 1000000,
                          .tv_nsec = (long) (deadline_us % 1000000) * 1000};
    return pthread_cond_timedwait(cond, mutex, &ts) == 0;
}
