/*
 * full.c - every table at one LSN. Threads with two sessions each take pieces (a table, or a run of
 * a large one's heap pages) from one list; the one that brings a group's last piece in compares the
 * group's counts.
 */
#include "private.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "base/fault.h"
#include "sys/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_PAGES 8192 /* 64 MB: smaller tables are read in one piece */
#define PROGRESS_US 250000

struct part {
    size_t table;
    int64_t from, to;
    double weight;
};

struct job {
    const struct verify_options *o;
    struct verify_table *tables;
    struct vgroup *groups;
    size_t ngroups;
    int *group_of;
    struct part *parts;
    size_t nparts, capparts, next;
    int64_t *done; /* rows compared so far, per table */
    int64_t all_done, all_expected, shown_us;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int ready; /* threads that have imported their snapshots */
    bool failed;
    struct error error; /* the first one */
};

static void fail(struct job *job, const struct error *err)
{
    pthread_mutex_lock(&job->mutex);
    if (!job->failed)
        job->error = *err;
    job->failed = true;
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->mutex);
}

static int64_t expected_rows(const struct map_table *mt)
{
    return mt->source->reltuples > 0 ? (int64_t) mt->source->reltuples : 0;
}

static bool progress(void *ctx, const struct map_table *mt, int64_t rows, struct error *err)
{
    struct job *job = ctx;
    int64_t table_done, all_done, now = clock_us();
    bool show, failed;

    pthread_mutex_lock(&job->mutex);
    table_done = job->done[mt->index] += rows;
    all_done = job->all_done += rows;
    show = now - job->shown_us > PROGRESS_US;
    if (show)
        job->shown_us = now;
    failed = job->failed;
    pthread_mutex_unlock(&job->mutex);
    if (failed)
        return error_set(err, ERR_STOPPED, "another thread of the comparison failed");
    if (!show)
        return true;
    event_progress(mt->source->sql_name, table_done, expected_rows(mt), "rows");
    event_progress("verify", all_done, job->all_expected, "rows");
    return true;
}

static bool count_only(struct vsession *s, struct vpiece *p, struct error *err)
{
    char *sql = xstrfmt("SELECT pg_catalog.count(*) FROM ONLY %s", p->table->source->sql_name);
    PGresult *res = NULL;
    bool ok = vsession_scans(s, err) && pg_query(s->source, &res, 1, sql, 0, NULL, err);

    if (ok)
        p->rows = result_int(res, 0, 0);
    PQclear(res);
    free(sql);
    return ok;
}

/* At most the asked number of examples, however many pieces brought some. */
static void keep_examples(struct verify_table *vt, int examples)
{
    char *end = vt->examples;

    for (int i = 0; end && i < examples; i++) {
        end = strchr(end, '\n');
        end = end ? end + 1 : NULL;
    }
    if (end)
        *end = '\0';
}

/* TRUNCATE and rewrites don't heed snapshots: a table that one came over since ours was taken reads
 * as empty. pg_class is read by the snapshot, the function sees what is. */
static bool is_rewritten(struct pg *pg, Oid table, bool *yes, struct error *err)
{
    char oid[16], *value = NULL;
    const char *params[] = {oid};

    snprintf(oid, sizeof oid, "%u", table);
    if (!pg_value(pg, &value,
                  "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE (c.oid = "
                  "$1::pg_catalog.oid OR c.oid IN (SELECT t.relid FROM "
                  "pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) t)) AND "
                  "c.relfilenode <> 0 AND c.relfilenode IS DISTINCT FROM "
                  "pg_catalog.pg_relation_filenode(c.oid))",
                  1, params, err))
        return false;
    *yes = *yes || value[0] == 't';
    free(value);
    return true;
}

/* Back to the savepoint, which lets go of the table's lock on blue: kept for the whole comparison
 * it would make a TRUNCATE there wait for hours, and deadlock with one of several tables. */
static bool leave_part(struct vsession *s, struct error *err)
{
    s->tuned = false; /* the SETs go too */
    return pg_exec(s->source,
                   "ROLLBACK TO SAVEPOINT pgcutover_part; RELEASE SAVEPOINT pgcutover_part", err);
}

static bool do_part(struct vsession *s, struct job *job, const struct part *part, struct error *err)
{
    struct vscan scan = {.o = job->o, .except = job->o->except, .progress = progress, .ctx = job};
    struct vgroup *g = &job->groups[job->group_of[part->table]];
    struct verify_table *vt = &job->tables[part->table];
    int64_t began = clock_us();
    struct vpiece p;
    bool ok, last, rewritten = false;

    vpiece_init(&p, vt->table);
    p.from = part->from;
    p.to = part->to;
    ok = pg_exec(s->source, "SAVEPOINT pgcutover_part", err) &&
         (g->excepted ? count_only(s, &p, err) : vpiece_scan(s, &scan, &p, g->keyless, err)) &&
         is_rewritten(s->source, vt->table->source->oid, &rewritten, err) &&
         is_rewritten(s->target, g->target->oid, &rewritten, err) && leave_part(s, err);
    pthread_mutex_lock(&job->mutex);
    g->excepted |=
        rewritten; /* replay takes such a table for changed as a whole: the tail has it */
    vgroup_add(g, &p);
    verify_table_merge(vt, &p, clock_us() - began);
    keep_examples(vt, job->o->examples);
    last = --g->pieces_left == 0;
    pthread_mutex_unlock(&job->mutex);
    vpiece_release(&p);
    if (!ok && strcmp(err->sqlstate, "22P02") == 0 && !err->hint[0]) {
        const struct map_table *mt = vt->table;
        err->code = ERR_NOGO;
        error_hint(err,
                   "Blue holds a value that green's type no longer takes. Where the migrations "
                   "renamed an enum's value, say up.COLUMN = replace(COLUMN::text, 'old', "
                   "'new')::schema.type under [map %s.%s], then resume with --playbook FILE.",
                   mt->source->schema, mt->source->name);
    }
    return ok && (!last || (pg_exec(s->source, "SAVEPOINT pgcutover_part", err) &&
                            vgroup_finish(s, &scan, g, job->tables, err) && leave_part(s, err)));
}

static bool next_part(struct job *job, struct part *out)
{
    bool some;

    pthread_mutex_lock(&job->mutex);
    some = !job->failed && job->next < job->nparts;
    if (some)
        *out = job->parts[job->next++];
    pthread_mutex_unlock(&job->mutex);
    return some;
}

static void *work(void *arg)
{
    struct job *job = arg;
    struct vsession s = {0};
    struct error err = {0};
    struct part part;
    bool ok = vsession_open(&s, job->o, "verify", &err) && vsession_begin(&s, job->o, &err) &&
              FAULT("verify.ready", &err);

    if (ok) {
        pthread_mutex_lock(&job->mutex);
        job->ready++;
        pthread_cond_broadcast(&job->changed);
        pthread_mutex_unlock(&job->mutex);
    }
    while (ok && next_part(job, &part))
        ok = do_part(&s, job, &part, &err);
    if (!ok)
        fail(job, &err);
    vsession_close(&s);
    return NULL;
}

/* Large tables are cut where the server can read a run of pages (TID range scans: 14). Sizes as of
 * now: the last piece has no end. */
static bool table_pages(struct pg *source, const struct map_table *mt, int64_t *pages,
                        struct error *err)
{
    char oid[16], *value = NULL;
    const char *params[] = {oid};

    snprintf(oid, sizeof oid, "%u", mt->source->oid);
    if (!pg_value(source, &value,
                  "SELECT coalesce(pg_catalog.pg_relation_size($1::pg_catalog.oid), 0) / "
                  "pg_catalog.current_setting('block_size')::pg_catalog.int8",
                  1, params, err))
        return false;
    *pages = strtoll(value, NULL, 10);
    free(value);
    return true;
}

static void add_part(struct job *job, size_t table, int64_t from, int64_t to, double weight)
{
    *VEC_ADD(job->parts, job->nparts, job->capparts) =
        (struct part){.table = table, .from = from, .to = to, .weight = weight};
    job->groups[job->group_of[table]].pieces_left++;
}

static bool add_table(struct job *job, struct pg *source, size_t table, struct error *err)
{
    const struct map_table *mt = &job->o->map->tables[table];
    int64_t pages = 0, step;
    bool cut = job->o->jobs > 1 && mt->source->bytes > (int64_t) PIECE_PAGES * 8192 &&
               pg_version(source) >= 140000 && !job->groups[job->group_of[table]].excepted;

    if (cut && !table_pages(source, mt, &pages, err))
        return false;
    if (pages <= PIECE_PAGES) {
        add_part(job, table, 0, -1, (double) mt->source->bytes);
        return true;
    }
    step = pages / (job->o->jobs * 4);
    step = step < PIECE_PAGES ? PIECE_PAGES : step;
    for (int64_t from = 0; from < pages; from += step)
        add_part(job, table, from, from + step < pages ? from + step : -1, (double) step * 8192);
    return true;
}

static int heaviest_first(const void *a, const void *b)
{
    const struct part *x = a, *y = b;

    return x->weight > y->weight ? -1 : x->weight < y->weight;
}

/* What replay or a TRUNCATE changed as a whole can't be told from what the migration did. */
static bool is_excepted(const struct job *job, const struct vgroup *g)
{
    struct touched *except = job->o->except;

    for (size_t i = 0; except && i < g->ntables; i++)
        if (touched_whole(except, g->tables[i], false) ||
            (g->keyless && touched_count_table(except, g->tables[i]) > 0))
            return true;
    return false;
}

static bool plan(struct job *job, struct error *err)
{
    const struct verify_options *o = job->o;
    struct pg *source = NULL;
    bool ok = pg_open(&source, o->source.conninfo, o->source.dbname, PG_PLAIN, o->run, "verify",
                      o->encoding, err);

    job->groups = vgroups_new(o->map, &job->ngroups, &job->group_of);
    for (size_t i = 0; i < job->ngroups; i++)
        job->groups[i].excepted = is_excepted(job, &job->groups[i]);
    for (size_t i = 0; ok && i < o->map->ntables; i++) {
        verify_table_init(&job->tables[i], &o->map->tables[i]);
        job->all_expected += expected_rows(&o->map->tables[i]);
        if (job->group_of[i] >= 0)
            ok = add_table(job, source, i, err);
    }
    if (job->nparts)
        qsort(job->parts, job->nparts, sizeof *job->parts, heaviest_first);
    pg_close(source);
    return ok;
}

static void wait_ready(struct job *job, int threads)
{
    bool all;

    pthread_mutex_lock(&job->mutex);
    while (job->ready < threads && !job->failed)
        pthread_cond_wait(&job->changed, &job->mutex);
    all = job->ready == threads;
    pthread_mutex_unlock(&job->mutex);
    if (all && job->o->ready)
        job->o->ready(job->o->ctx);
}

static void run_threads(struct job *job)
{
    int wanted = job->o->jobs > 0 ? job->o->jobs : 1, started = 0;
    pthread_t *threads;
    struct error err = {0};

    if ((size_t) wanted > job->nparts)
        wanted = job->nparts ? (int) job->nparts : 1;
    threads = xcalloc((size_t) wanted, sizeof *threads);
    while (started < wanted) {
        if (!thread_start(&threads[started], "verify", work, job, &err)) {
            fail(job, &err);
            break;
        }
        started++;
    }
    if (started == wanted)
        wait_ready(job, wanted);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    free(threads);
}

static void add_up(struct verify_result *r)
{
    for (size_t i = 0; i < r->ntables; i++) {
        const struct verify_table *vt = &r->tables[i];
        r->rows += vt->source_rows;
        r->differing += vt->missing + vt->extra + vt->differing;
        r->unproved += vt->compared && vt->source_rows > 0 && vt->proved == 0;
    }
}

bool verify_full(const struct verify_options *o, struct verify_result *out, struct error *err)
{
    struct job job = {.o = o};

    *out = (struct verify_result){.ntables = o->map->ntables};
    out->tables = xcalloc(out->ntables + 1, sizeof *out->tables);
    job.tables = out->tables;
    job.done = xcalloc(out->ntables + 1, sizeof *job.done);
    pthread_mutex_init(&job.mutex, NULL);
    pthread_cond_init(&job.changed, NULL);
    if (plan(&job, &job.error))
        run_threads(&job);
    else
        job.failed = true;
    add_up(out);
    if (!job.failed)
        event_progress("verify", out->rows, out->rows, "rows");
    pthread_cond_destroy(&job.changed);
    pthread_mutex_destroy(&job.mutex);
    vgroups_free(job.groups, job.ngroups, job.group_of);
    free(job.parts);
    free(job.done);
    if (job.failed) {
        verify_result_release(out);
        *err = job.error;
    }
    return !job.failed;
}

void verify_result_release(struct verify_result *r)
{
    for (size_t i = 0; i < r->ntables; i++)
        verify_table_release(&r->tables[i]);
    free(r->tables);
    *r = (struct verify_result){0};
}
