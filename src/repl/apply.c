/*
 * apply.c - the thread, and what others may ask of it.
 *
 * A step of the thread: at a boundary between source transactions it looks whether it is to stop
 * there; it reads a record; it takes it. When the spool has nothing more right now, what was
 * gathered is committed at once. So a lone small transaction doesn't wait for others, and a backlog
 * is replayed in large batches; nothing is tuned.
 */
#include "apply_private.h"

#include "base/alloc.h"
#include "sys/stop.h"

#include <stdlib.h>

#define IDLE_WAIT_MS 10
#define TRIM_EVERY_MS 1000
#define WAIT_SLICE_MS 50
#define CANCEL_EVERY_MS 100
#define DEFAULT_CHANGES 20000
#define DEFAULT_BYTES (INT64_C(16) * 1024 * 1024)
#define RESTART_SLEEP_MS 20

static bool trim(struct apply *a, struct error *err)
{
    if (!clock_passed(a->next_trim_us))
        return true;
    a->next_trim_us = clock_in_ms(TRIM_EVERY_MS);
    return a->committed == 0 || spool_trim(a->o.spool, a->committed, err);
}

static void set_idle(struct apply *a, bool idle)
{
    pthread_mutex_lock(&a->mutex);
    a->stats.idle = idle;
    pthread_mutex_unlock(&a->mutex);
}

/* Everything is committed. Held until somebody says otherwise; a request that was changed meanwhile
 * wins. */
static void stay_held(struct apply *a, enum apply_mode mode, lsn_t to)
{
    pthread_mutex_lock(&a->mutex);
    if (a->mode == mode && (mode != MODE_TO || a->to == to)) {
        a->mode = MODE_HOLD;
        while (a->mode == MODE_HOLD && !atomic_load(&a->stop)) {
            if (!a->stats.held)
                pthread_cond_broadcast(&a->cond);
            a->stats.held = true; /* also after "go on" and "hold" in one breath */
            thread_cond_wait(&a->cond, &a->mutex, CLOCK_NONE);
        }
        a->stats.held = false;
    }
    pthread_mutex_unlock(&a->mutex);
}

static bool fetch(struct apply *a, int timeout_ms, struct error *err)
{
    switch (spool_next(a->reader, timeout_ms, &a->record, err)) {
    case SPOOL_GOT:
        a->have = true;
        return true;
    case SPOOL_EMPTY:
        return true;
    default:
        return false;
    }
}

/* Is every transaction that commits below `to` gathered? */
static bool reached(struct apply *a, lsn_t to, bool *yes, struct error *err)
{
    lsn_t position = 0;

    if (a->have && !record_position(a, &position, err))
        return false;
    *yes = a->have ? position >= to : a->end >= to && !a->pending.any;
    return true;
}

static bool step_between(struct apply *a, struct error *err)
{
    pthread_mutex_lock(&a->mutex);
    enum apply_mode mode = a->mode;
    lsn_t to = a->to;
    pthread_mutex_unlock(&a->mutex);

    if (!a->have && mode != MODE_HOLD && !fetch(a, a->pending.any ? 0 : IDLE_WAIT_MS, err))
        return false;
    bool here = mode == MODE_HOLD;
    if (mode == MODE_TO && !reached(a, to, &here, err))
        return false;
    if (here) {
        if (!commit_pending(a, err))
            return false;
        stay_held(a, mode, to);
        return true;
    }
    if (!a->have)
        return commit_pending(a, err) && (set_idle(a, true), trim(a, err));
    if (a->stats.idle)
        set_idle(a, false);
    return take_record(a, err) && (a->pending.any || trim(a, err));
}

/* Inside a source transaction: the spool holds all of it. */
static bool step_inside(struct apply *a, struct error *err)
{
    if (!a->have && !fetch(a, IDLE_WAIT_MS, err))
        return false;
    return !a->have || take_record(a, err);
}

static bool go_on_after(struct apply *a, struct error *err)
{
    switch (batch_trouble(a->pg, err)) {
    case BATCH_TRANSIENT:
        clock_sleep_ms(RESTART_SLEEP_MS);
        return session_recover(a, err);
    case BATCH_LOST:
        return session_recover(a, err);
    default:
        return false;
    }
}

static void *apply_main(void *arg)
{
    struct apply *a = arg;
    struct error err = {0};
    bool ok = true;

    while (ok && !atomic_load(&a->stop)) {
        ok = a->txn.open ? step_inside(a, &err) : step_between(a, &err);
        if (!ok && !atomic_load(&a->stop))
            ok = go_on_after(a, &err);
    }
    session_close(a);
    batch_rolled_back(a->batch);
    pthread_mutex_lock(&a->mutex);
    if (!ok && !atomic_load(&a->stop)) {
        a->stats.failed = true;
        a->error = err;
        error_push(&a->error, "replay");
    }
    a->ended = true;
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->mutex);
    return NULL;
}

static struct apply *apply_new(const struct apply_options *o)
{
    struct apply *a = xcalloc(1, sizeof *a);

    a->o = *o;
    a->o.conninfo = xstrdup(o->conninfo);
    a->o.dbname = xstrdup(o->dbname);
    a->o.run = xstrdup(o->run);
    a->o.encoding = xstrdup(o->encoding);
    a->o.marker_schema = xstrdup(o->marker_schema ? o->marker_schema : "pgcutover");
    if (a->o.batch_changes <= 0)
        a->o.batch_changes = DEFAULT_CHANGES;
    if (a->o.batch_bytes <= 0)
        a->o.batch_bytes = DEFAULT_BYTES;
    pthread_mutex_init(&a->mutex, NULL);
    thread_cond_init(&a->cond);
    a->batch = batch_new(o->map, (size_t) a->o.batch_bytes * 2);
    a->relations = relations_new(o->map, a->o.marker_schema);
    a->scratch = arena_new(1024 * 1024);
    return a;
}

static void apply_free(struct apply *a)
{
    spool_reader_close(a->reader);
    batch_free(a->batch);
    relations_free(a->relations);
    arena_free(a->scratch);
    pthread_mutex_destroy(&a->mutex);
    pthread_cond_destroy(&a->cond);
    free((char *) a->o.conninfo);
    free((char *) a->o.dbname);
    free((char *) a->o.run);
    free((char *) a->o.encoding);
    free((char *) a->o.marker_schema);
    free(a);
}

bool apply_start(struct apply **out, const struct apply_options *o, struct error *err)
{
    struct apply *a = apply_new(o);
    lsn_t end = 0;

    *out = NULL;
    if (!session_open(a, &a->committed, &end, err) || !reader_start(a, err))
        goto failed;
    a->end = a->stats.end_lsn = end;
    a->stats.commit_lsn = a->committed;
    if (!thread_start(&a->thread, "apply", apply_main, a, err))
        goto failed;
    *out = a;
    return true;
failed:
    session_close(a);
    apply_free(a);
    return false;
}

/* A statement that is running, or waits for a lock, is cancelled, again and again until the thread
 * sees it. */
void apply_stop(struct apply *a)
{
    PGcancel *cancel = NULL;
    char text[256];

    if (!a)
        return;
    pthread_mutex_lock(&a->mutex);
    atomic_store(&a->stop, true);
    pthread_cond_broadcast(&a->cond);
    while (!a->ended) {
        if (thread_cond_wait(&a->cond, &a->mutex, clock_in_ms(CANCEL_EVERY_MS)))
            continue;
        if (a->cancel) {
            PQfreeCancel(cancel);
            cancel = a->cancel;
            a->cancel = NULL;
        }
        pthread_mutex_unlock(&a->mutex);
        if (cancel)
            PQcancel(cancel, text, (int) sizeof text);
        pthread_mutex_lock(&a->mutex);
    }
    pthread_mutex_unlock(&a->mutex);
    PQfreeCancel(cancel);
    pthread_join(a->thread, NULL);
    apply_free(a);
}

void apply_stats(struct apply *a, struct apply_stats *out)
{
    pthread_mutex_lock(&a->mutex);
    *out = a->stats;
    pthread_mutex_unlock(&a->mutex);
}

bool apply_error(struct apply *a, struct error *err)
{
    pthread_mutex_lock(&a->mutex);
    bool failed = a->stats.failed;
    if (failed)
        *err = a->error;
    pthread_mutex_unlock(&a->mutex);
    return !failed;
}

/* With the mutex: sleeps once. False when waiting is over: failed, stopped, out of time. */
static bool wait_once(struct apply *a, const char *what, int64_t deadline_us, struct error *err)
{
    int64_t slice = clock_in_ms(WAIT_SLICE_MS);

    if (a->stats.failed) {
        *err = a->error;
        return false;
    }
    if (a->ended)
        return error_set(err, ERR_STOPPED, "replay has ended");
    if (!stop_check(err))
        return false;
    if (clock_passed(deadline_us))
        return error_set(err, ERR_BUDGET, "replay did not %s in time", what);
    thread_cond_wait(&a->cond, &a->mutex, slice < deadline_us ? slice : deadline_us);
    return true;
}

static void set_mode(struct apply *a, enum apply_mode mode, lsn_t to)
{
    a->mode = mode;
    a->to = to;
    a->stats.held = a->stats.held && mode == MODE_HOLD;
    pthread_cond_broadcast(&a->cond);
}

bool apply_hold(struct apply *a, int64_t deadline_us, struct error *err)
{
    bool ok = true;

    pthread_mutex_lock(&a->mutex);
    set_mode(a, MODE_HOLD, 0);
    while (ok && !(a->stats.held && !a->stats.failed))
        ok = wait_once(a, "come to a hold", deadline_us, err);
    if (!ok)
        set_mode(a, MODE_RUN, 0);
    pthread_mutex_unlock(&a->mutex);
    return ok;
}

bool apply_run_to(struct apply *a, lsn_t lsn, int64_t deadline_us, struct error *err)
{
    char here[LSN_SIZE];
    char there[LSN_SIZE];
    bool ok = true;

    pthread_mutex_lock(&a->mutex);
    if (a->stats.commit_lsn >= lsn)
        ok = error_set(err, ERR_INTERNAL, "replay can't go to %s, it is at %s already",
                       lsn_str(there, lsn), lsn_str(here, a->stats.commit_lsn));
    if (ok)
        set_mode(a, MODE_TO, lsn);
    while (ok && !(a->stats.held && !a->stats.failed))
        ok = wait_once(a, "come to its position", deadline_us, err);
    if (!ok)
        set_mode(a, MODE_HOLD, 0);
    pthread_mutex_unlock(&a->mutex);
    return ok;
}

void apply_go_on(struct apply *a)
{
    pthread_mutex_lock(&a->mutex);
    set_mode(a, MODE_RUN, 0);
    pthread_mutex_unlock(&a->mutex);
}

bool apply_wait_marker(struct apply *a, int64_t n, int64_t deadline_us, struct error *err)
{
    bool ok = true;

    pthread_mutex_lock(&a->mutex);
    while (ok && a->stats.marker < n)
        ok = wait_once(a, "see the marker", deadline_us, err);
    pthread_mutex_unlock(&a->mutex);
    return ok;
}
