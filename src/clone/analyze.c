/*
 * analyze.c - statistics for the whole clone: the largest tables first, by as many sessions as
 * there are jobs. pg_restore makes none, and a planner without them would make green look slow at
 * the worst moment.
 */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"
#include "sys/thread.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct work {
    const struct archive_options *o;
    PGresult *tables; /* read only, once the threads run */
    int count;
    atomic_int next;
    atomic_int finished;
    atomic_bool failed;
};

struct worker {
    struct work *work;
    int number;
    pthread_t thread;
    bool started;
    bool ok;
    struct error err;
};

/* ANALYZE of a partitioned table covers its partitions, of whatever depth: they have no turn of
 * their own. */
static const char tables_sql[] =
    "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) "
    "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' "
    "AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgcutover') "
    "ORDER BY CASE WHEN c.relkind = 'p' THEN (SELECT "
    "coalesce(pg_catalog.sum(pg_catalog.pg_table_size(t.relid)), 0) "
    "FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf) ELSE "
    "pg_catalog.pg_table_size(c.oid) END DESC, "
    "c.oid";

static bool analyze_one(struct pg *pg, const char *table, struct error *err)
{
    if (pg_execf(pg, err, "ANALYZE %s", table))
        return true;
    return error_push(err, "ANALYZE %s", table);
}

static bool work_through(struct worker *w)
{
    struct work *work = w->work;
    char name[32];
    struct pg *pg = NULL;

    snprintf(name, sizeof name, "analyze-%d", w->number);
    bool ok = pg_open(&pg, work->o->conninfo, work->o->dbname, PG_PLAIN, work->o->run, name, NULL,
                      &w->err);
    while (ok && !atomic_load(&work->failed)) {
        int i = atomic_fetch_add(&work->next, 1);
        if (i >= work->count)
            break;
        ok = analyze_one(pg, PQgetvalue(work->tables, i, 0), &w->err);
        if (ok)
            event_progress("analyze", atomic_fetch_add(&work->finished, 1) + 1, work->count,
                           "tables");
    }
    pg_close(pg);
    return ok;
}

static void *worker_thread(void *arg)
{
    struct worker *w = arg;
    w->ok = work_through(w);
    if (!w->ok)
        atomic_store(&w->work->failed, true);
    return NULL;
}

/* The first failure that isn't only the echo of a stop is the one to tell. */
static bool run_workers(struct work *work, int jobs, struct error *err)
{
    struct worker *workers = xcalloc((size_t) jobs, sizeof *workers);
    bool ok = true;

    for (int i = 0; i < jobs && ok; i++) {
        workers[i].work = work;
        workers[i].number = i + 1;
        ok = thread_start(&workers[i].thread, "analyze", worker_thread, &workers[i], err);
        workers[i].started = ok;
    }
    if (!ok)
        atomic_store(&work->failed, true);
    for (int i = 0; i < jobs; i++) {
        if (!workers[i].started)
            continue;
        pthread_join(workers[i].thread, NULL);
        if (ok && !workers[i].ok) {
            *err = workers[i].err;
            ok = false;
        }
    }
    free(workers);
    return ok;
}

bool clone_analyze(const struct archive_options *o, struct error *err)
{
    struct work work = {.o = o};
    struct pg *own = NULL;
    struct pg *pg = o->watch;
    bool ok = true;

    if (!pg || pg_is_bad(pg)) {
        ok = pg_open(&own, o->conninfo, o->dbname, PG_PLAIN, o->run, "analyze", NULL, err);
        pg = own;
    }
    ok = ok && pg_query(pg, &work.tables, PG_ANY, tables_sql, 0, NULL, err);
    if (ok) {
        work.count = PQntuples(work.tables);
        int jobs = o->jobs > 0 ? o->jobs : 1;
        ok = work.count == 0 || run_workers(&work, jobs < work.count ? jobs : work.count, err);
    }
    PQclear(work.tables);
    pg_close(own);
    return ok;
}
