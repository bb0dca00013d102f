/* The capture's interface and its thread: connect, stream, and again after a fault that may pass.
 */
#include "repl/capture_internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BACKOFF_FIRST_MS 100
#define BACKOFF_LAST_MS 5000
#define WARN_EVERY_MS 60000

void capture_show_stats(struct capture *c)
{
    pthread_mutex_lock(&c->mutex);
    c->shown = c->stats;
    pthread_mutex_unlock(&c->mutex);
}

/* Sleeps, or returns at once when the thread is to stop. */
static void pause_for(const struct capture *c, int ms)
{
    struct pollfd fd = {.fd = c->wake, .events = POLLIN};
    int64_t deadline = clock_in_ms(ms);

    while (!atomic_load(&c->stopping) && !clock_passed(deadline))
        if (poll(&fd, 1, clock_poll_ms(deadline)) < 0 && errno != EINTR)
            return;
}

/* A fault is told at first and then once a minute, and so is its end. */
struct trouble {
    int backoff_ms;
    int64_t next_warning; /* 0: none yet */
    bool told;
};

static void tell(struct capture *c, struct trouble *t, const struct error *err)
{
    if (err->code == ERR_STOPPED || !clock_passed(t->next_warning))
        return;
    event_warn("capture from %s is interrupted and will be tried again: %s%s%s", c->where,
               err->message, err->hint[0] ? " - " : "", err->hint);
    t->next_warning = clock_in_ms(WARN_EVERY_MS);
    t->told = true;
}

static enum capture_outcome session(struct capture *c, struct trouble *t, struct error *err)
{
    struct error ignored = {0};
    enum capture_outcome rc = capture_connect(c, err);

    if (rc == CAPTURE_GO) {
        int64_t transactions = c->stats.transactions;
        int64_t began = clock_us();
        if (t->told)
            event_info("capture from %s goes on", c->where);
        t->told = false;
        c->stats.reconnects += c->was_connected;
        c->stats.connected = c->was_connected = true;
        capture_show_stats(c);
        rc = capture_stream(c, err);
        /* one that breaks as soon as it is made is not tried ten times a second */
        if (c->stats.transactions > transactions || clock_us() - began > BACKOFF_LAST_MS * 1000)
            *t = (struct trouble){.backoff_ms = BACKOFF_FIRST_MS};
    }
    if (rc != CAPTURE_RETRY && c->conn)
        capture_goodbye(c);
    spool_abandon(c->spool);
    /* a failure makes the spool refuse what comes next, which will tell */
    if (!spool_sync(c->spool, &ignored))
        error_clear(&ignored);
    pg_close(c->pg);
    c->pg = NULL;
    c->conn = NULL;
    c->stats.connected = false;
    return rc;
}

static void *capture_main(void *arg)
{
    struct capture *c = arg;
    struct trouble trouble = {.backoff_ms = BACKOFF_FIRST_MS};
    struct error err = {0};
    enum capture_outcome rc = CAPTURE_RETRY;

    while (rc == CAPTURE_RETRY && !atomic_load(&c->stopping)) {
        error_clear(&err);
        rc = session(c, &trouble, &err);
        capture_show_stats(c);
        if (rc != CAPTURE_RETRY)
            break;
        tell(c, &trouble, &err);
        pause_for(c, trouble.backoff_ms);
        trouble.backoff_ms =
            trouble.backoff_ms * 2 < BACKOFF_LAST_MS ? trouble.backoff_ms * 2 : BACKOFF_LAST_MS;
    }
    if (rc == CAPTURE_FATAL) {
        error_push(&err, "capture from %s, slot \"%s\"", c->where, c->slot);
        pthread_mutex_lock(&c->mutex);
        c->error = err;
        c->stats.failed = c->shown.failed = true;
        pthread_mutex_unlock(&c->mutex);
    }
    return NULL;
}

static void release(struct capture *c)
{
    if (c->wake >= 0)
        close(c->wake);
    arena_free(c->arena);
    pthread_mutex_destroy(&c->mutex);
    free(c->conninfo);
    free(c->dbname);
    free(c->run);
    free(c->worker);
    free(c->slot);
    free(c->publication);
    free(c->encoding);
    free(c->where);
    free(c);
}

bool capture_start(struct capture **out, const struct capture_options *o, struct error *err)
{
    struct capture *c = xcalloc(1, sizeof *c);

    *out = NULL;
    c->conninfo = xstrdup(o->conninfo);
    c->dbname = xstrdup(o->dbname);
    c->run = xstrdup(o->run);
    c->worker = xstrdup(o->worker);
    c->slot = xstrdup(o->slot);
    c->publication = xstrdup(o->publication);
    c->encoding = xstrdup(o->encoding);
    c->where = pg_conninfo_describe(o->conninfo);
    c->identity = o->identity;
    c->start = o->start;
    c->spool = o->spool;
    c->arena = arena_new((size_t) 64 * 1024);
    pthread_mutex_init(&c->mutex, NULL);
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake < 0)
        error_set_errno(err, errno, "could not make an eventfd");
    else if (thread_start(&c->thread, "capture", capture_main, c, err)) {
        *out = c;
        return true;
    }
    release(c);
    return false;
}

void capture_stop(struct capture *c)
{
    if (!c)
        return;
    atomic_store(&c->stopping, true);
    if (eventfd_write(c->wake, 1) != 0)
        BUG("eventfd: %s", strerror(errno));
    pthread_join(c->thread, NULL);
    release(c);
}

void capture_stats(struct capture *c, struct capture_stats *out)
{
    pthread_mutex_lock(&c->mutex);
    *out = c->shown;
    pthread_mutex_unlock(&c->mutex);
}

bool capture_error(struct capture *c, struct error *err)
{
    pthread_mutex_lock(&c->mutex);
    bool failed = c->shown.failed;
    if (failed)
        *err = c->error;
    pthread_mutex_unlock(&c->mutex);
    return !failed;
}

void capture_confirm(struct capture *c, enum capture_confirm how)
{
    atomic_store(&c->how, (int) how);
}

void capture_set_applied(struct capture *c, lsn_t lsn)
{
    lsn_t before = atomic_load(&c->applied);
    while (before < lsn && !atomic_compare_exchange_weak(&c->applied, &before, lsn))
        continue;
}
