/*
 * replay_pair.h - blue and green in one cluster, with capture, spool and replay between them, for
 * tests. pair_open makes both databases: green is a copy of blue that was migrated; from then on
 * blue's changes arrive.
 */
#ifndef PGCUTOVER_TESTS_REPLAY_PAIR_H
#define PGCUTOVER_TESTS_REPLAY_PAIR_H

#include "cluster.h"

#include "map/map.h"
#include "map/touched.h"
#include "pg/facts.h"
#include "pg/slot.h"
#include "repl/apply.h"
#include "repl/capture.h"
#include "sys/file.h"

#define RUN "test"

struct pair {
    const struct cluster *cluster;
    char blue_name[32], green_name[32], slot[32], spool_dir[128];
    PGconn *blue, *green; /* clients */
    struct pg *blue_pg;   /* ours: markers */
    struct catalog blue_cat, before, green_cat;
    struct map map;
    struct spool *spool;
    struct capture *capture;
    struct touched *touched, *changed;
    struct apply *apply;
    int batch_changes;
};

static inline void check(bool ok, const struct error *err)
{
    if (!ok)
        fail_msg("%s: %s: %s [%s] %s", err->context, error_code_name(err->code), err->message,
                 err->sqlstate, err->detail);
}

static inline void sql(PGconn *conn, const char *text)
{
    PGresult *res = PQexec(conn, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%.300s: %s", text, PQresultErrorMessage(res));
    PQclear(res);
}

/* One value; the caller frees. */
static inline char *value(PGconn *conn, const char *text)
{
    PGresult *res = PQexec(conn, text);
    if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
        fail_msg("%.300s: %s", text, PQresultErrorMessage(res));
    char *out = strdup(PQgetvalue(res, 0, 0));
    PQclear(res);
    return out;
}

static inline void is(PGconn *conn, const char *text, const char *expected)
{
    char *got = value(conn, text);
    assert_string_equal(got, expected);
    free(got);
}

/* Rows that either side has more of than the other, as text. */
static inline void same(struct pair *p, const char *blue_query, const char *green_query)
{
    char text[2048];
    const char *form = "SELECT coalesce(string_agg(x::text, E'\\n' ORDER BY x::text COLLATE "
                       "\"C\"), '') FROM (%s) x";

    snprintf(text, sizeof text, form, blue_query);
    char *b = value(p->blue, text);
    snprintf(text, sizeof text, form, green_query);
    char *g = value(p->green, text);
    if (strcmp(b, g) != 0) {
        size_t i = 0;
        while (b[i] && b[i] == g[i])
            i++;
        size_t from = i > 150 ? i - 150 : 0;
        fail_msg("%s differs at byte %zu of %zu and %zu:\nblue  %.400s\ngreen %.400s", blue_query,
                 i, strlen(b), strlen(g), b + from, g + from);
    }
    free(b);
    free(g);
}

static inline void pair_start_apply(struct pair *p)
{
    struct error err = {0};
    struct apply_options o = {.conninfo = p->cluster->conninfo,
                              .dbname = p->green_name,
                              .run = RUN,
                              .encoding = p->blue_cat.encoding,
                              .map = &p->map,
                              .spool = p->spool,
                              .touched = p->touched,
                              .changed = p->changed,
                              .marker_schema = "pgcutover",
                              .batch_changes = p->batch_changes,
                              .batch_bytes = 0};
    check(apply_start(&p->apply, &o, &err), &err);
}

static inline void pair_start_capture(struct pair *p)
{
    struct error err = {0};
    struct slot_snapshot snapshot = {0};
    struct pg *walsender = NULL;

    check(pg_open(&walsender, p->cluster->conninfo, p->blue_name, PG_WALSENDER, RUN, "slot", NULL,
                  &err),
          &err);
    check(publication_create(p->blue_pg, "pgcutover_test", &p->blue_cat, &err), &err);
    check(slot_create(walsender, p->blue_pg, p->slot, false, &snapshot, &err), &err);
    pg_close(walsender);
    struct capture_options o = {.conninfo = p->cluster->conninfo,
                                .dbname = p->blue_name,
                                .run = RUN,
                                .worker = "capture",
                                .slot = p->slot,
                                .publication = "pgcutover_test",
                                .identity = p->blue_cat.identity,
                                .start = snapshot.consistent_point,
                                .spool = p->spool};
    check(capture_start(&p->capture, &o, &err), &err);
}

static inline void pair_catalogs(struct pair *p, const char *migration,
                                 const struct map_rule *rules, size_t nrules)
{
    struct error err = {0};
    struct pg *pg = NULL;

    check(pg_open(&pg, p->cluster->conninfo, p->green_name, PG_PLAIN, RUN, "test", NULL, &err),
          &err);
    check(facts_install(pg, RUN, &err), &err);
    check(catalog_load(pg, &p->before, &err), &err);
    sql(p->green, migration);
    check(catalog_load(pg, &p->green_cat, &err), &err);
    check(catalog_load(p->blue_pg, &p->blue_cat, &err), &err);
    check(map_derive(&p->map, &p->blue_cat, &p->before, &p->green_cat, rules, nrules, pg, &err),
          &err);
    pg_close(pg);
}

static inline struct pair *pair_open(const struct cluster *c, const char *schema,
                                     const char *migration, const struct map_rule *rules,
                                     size_t nrules, int batch_changes)
{
    static int number;
    struct pair *p = calloc(1, sizeof *p);
    struct error err = {0};
    char text[256];

    p->cluster = c;
    p->batch_changes = batch_changes;
    number++;
    snprintf(p->blue_name, sizeof p->blue_name, "blue%d", number);
    snprintf(p->green_name, sizeof p->green_name, "green%d", number);
    snprintf(p->slot, sizeof p->slot, "pgcutover_test%d", number);
    snprintf(p->spool_dir, sizeof p->spool_dir, "/tmp/pgcutover-spool-%d-%d", (int) getpid(),
             number);
    PGconn *admin = cluster_client(c, "postgres", "test");
    snprintf(text, sizeof text, "CREATE DATABASE %s", p->blue_name);
    sql(admin, text);
    p->blue = cluster_client(c, p->blue_name, "client");
    sql(p->blue, schema);
    PQfinish(p->blue);
    snprintf(text, sizeof text, "CREATE DATABASE %s TEMPLATE %s", p->green_name, p->blue_name);
    sql(admin, text);
    PQfinish(admin);
    p->blue = cluster_client(c, p->blue_name, "client");
    p->green = cluster_client(c, p->green_name, "client");
    check(pg_open(&p->blue_pg, c->conninfo, p->blue_name, PG_PLAIN, RUN, "test", NULL, &err), &err);
    check(facts_install(p->blue_pg, RUN, &err), &err);
    pair_catalogs(p, migration, rules, nrules);
    check(spool_open(&p->spool, p->spool_dir, INT64_C(4) << 30, &err), &err);
    p->touched = touched_new(p->map.ntables, 1000000);
    p->changed = touched_new(p->map.ntables, 1000000);
    pair_start_capture(p);
    pair_start_apply(p);
    return p;
}

static inline void pair_close(struct pair *p)
{
    struct error err = {0};

    apply_stop(p->apply);
    capture_stop(p->capture);
    spool_close(p->spool);
    if (!slot_drop(p->blue_pg, p->slot, &err) || !spool_remove(p->spool_dir, &err))
        fprintf(stderr, "pair_close: %s\n", err.message);
    touched_free(p->touched);
    touched_free(p->changed);
    map_release(&p->map);
    catalog_release(&p->blue_cat);
    catalog_release(&p->before);
    catalog_release(&p->green_cat);
    pg_close(p->blue_pg);
    PQfinish(p->blue);
    PQfinish(p->green);
    free(p);
}

/* Until all that blue has committed is on green. */
static inline void pair_sync(struct pair *p)
{
    struct error err = {0};
    int64_t n = 0;
    lsn_t lsn = 0;

    check(marker_write(p->blue_pg, RUN, &n, &lsn, &err), &err);
    if (!apply_wait_marker(p->apply, n, clock_in_ms(60000), &err)) {
        struct error captured = {0};
        check(capture_error(p->capture, &captured), &captured);
        check(false, &err);
    }
}

/* Until replay has failed; its error. */
static inline void pair_wait_failed(struct pair *p, struct error *err)
{
    struct apply_stats stats = {0};
    for (int64_t until = clock_in_ms(20000); !stats.failed && !clock_passed(until);) {
        clock_sleep_ms(5);
        apply_stats(p->apply, &stats);
    }
    assert_true(stats.failed);
    assert_false(apply_error(p->apply, err));
}

static inline void pair_restart_apply(struct pair *p)
{
    apply_stop(p->apply);
    p->apply = NULL;
    pair_start_apply(p);
}

#endif
