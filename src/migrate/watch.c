/*
 * watch.c - how far an index build is, asked twice a second from a session and a thread of its own.
 * It is for people only: when it fails it goes silent, and never fails a migration. Between polls
 * it holds no transaction.
 */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"
#include "sys/thread.h"

#include <stdio.h>
#include <stdlib.h>

#define POLL_MS 500
#define ANSWER_MS 5000

struct watch {
    const struct migrate_options *o;
    int pid;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool ending;
    char what[128]; /* "" while nothing runs */
    struct pg *pg;  /* the thread's */
};

static bool report(struct watch *w, const char *what, struct error *err)
{
    char pid[16];
    const char *const params[] = {pid};
    PGresult *res = NULL;

    snprintf(pid, sizeof pid, "%d", w->pid);
    pg_set_deadline(w->pg, clock_in_ms(ANSWER_MS));
    if (!pg_query(w->pg, &res, PG_ANY,
                  "SELECT phase, greatest(blocks_done, 0), greatest(blocks_total, 0), "
                  "greatest(tuples_done, 0), "
                  "greatest(tuples_total, 0) FROM pg_catalog.pg_stat_progress_create_index WHERE "
                  "pid = $1::int",
                  1, params, err))
        return false;
    if (PQntuples(res) > 0) {
        /* the scan counts blocks, the sort and the load count tuples */
        bool blocks = strtoll(PQgetvalue(res, 0, 2), NULL, 10) > 0;
        char *object = xstrfmt("index %s", what);
        event_emit(&(struct event){.kind = EVENT_PROGRESS,
                                   .object = object,
                                   .text = PQgetvalue(res, 0, 0),
                                   .done = strtoll(PQgetvalue(res, 0, blocks ? 1 : 3), NULL, 10),
                                   .total = strtoll(PQgetvalue(res, 0, blocks ? 2 : 4), NULL, 10),
                                   .unit = blocks ? "blocks" : "rows"});
        free(object);
    }
    PQclear(res);
    return true;
}

static void *watch_thread(void *arg)
{
    struct watch *w = arg;
    struct error ignored = {0};
    bool ok = true;

    pthread_mutex_lock(&w->mutex);
    while (!w->ending && ok) {
        /* woken by a new statement: whatever ends within the time isn't worth a look */
        if (thread_cond_wait(&w->changed, &w->mutex,
                             w->what[0] ? clock_in_ms(POLL_MS) : CLOCK_NONE) ||
            w->ending || !w->what[0])
            continue;
        char before[sizeof w->what];
        memcpy(before, w->what, sizeof before);
        pthread_mutex_unlock(&w->mutex);
        if (!w->pg)
            ok = pg_open(&w->pg, w->o->conninfo, w->o->dbname, PG_PLAIN, w->o->run,
                         "migrate-progress", NULL, &ignored);
        ok = ok && report(w, before, &ignored);
        pthread_mutex_lock(&w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    pg_close(w->pg);
    return NULL;
}

struct watch *watch_start(const struct migrate_options *o, int pid)
{
    struct watch *w = xcalloc(1, sizeof *w);
    struct error ignored = {0};

    w->o = o;
    w->pid = pid;
    pthread_mutex_init(&w->mutex, NULL);
    thread_cond_init(&w->changed);
    if (thread_start(&w->thread, "migrate-watch", watch_thread, w, &ignored))
        return w;
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->changed);
    free(w);
    return NULL;
}

void watch_set(struct watch *w, const char *what)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    snprintf(w->what, sizeof w->what, "%s", what ? what : "");
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

void watch_stop(struct watch *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    w->ending = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->changed);
    free(w);
}
