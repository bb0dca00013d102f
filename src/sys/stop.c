#include "sys/stop.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* A lock-free atomic pointer may be touched in a signal handler (C11 7.14.1.1). */
static _Atomic(const char *) reason;
static atomic_int interrupts;
_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "lock-free atomics");

static void on_signal(int sig)
{
    switch (sig) {
    case SIGINT:
        if (atomic_fetch_add(&interrupts, 1) > 0)
            _exit(error_exit_status(ERR_STOPPED));
        stop_request("interrupted from the keyboard");
        break;
    case SIGHUP:
        stop_request("the terminal went away");
        break;
    default:
        stop_request("asked to end by a signal");
        break;
    }
}

void stop_catch_signals(void)
{
    struct sigaction catch = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    sigemptyset(&catch.sa_mask);
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGINT, &catch, NULL);
    sigaction(SIGTERM, &catch, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    /* started under nohup(1): leave it so */
    struct sigaction old;
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &catch, NULL);
}

/* The first reason stands. */
void stop_request(const char *why)
{
    const char *none = NULL;
    atomic_compare_exchange_strong(&reason, &none, why);
}

bool stop_requested(void)
{
    return atomic_load_explicit(&reason, memory_order_acquire) != NULL;
}

const char *stop_reason(void)
{
    return atomic_load(&reason);
}

bool stop_check(struct error *err)
{
    const char *why = stop_reason();
    return !why || error_set(err, ERR_STOPPED, "stopped: %s", why);
}

void stop_clear(void)
{
    atomic_store(&interrupts, 0);
    atomic_store(&reason, NULL);
}
