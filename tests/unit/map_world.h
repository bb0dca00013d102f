/*
 * map_world.h - two databases on a cluster, blue and green, for tests of the map: green is made as
 * a restore makes it (the same names, other numbers), its picture taken, migrated, and the map
 * derived.
 */
#ifndef PGCUTOVER_TESTS_MAP_WORLD_H
#define PGCUTOVER_TESTS_MAP_WORLD_H

#include "map/map.h"
#include "map/project.h"

#include "base/alloc.h"
#include "cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct world {
    char blue_name[16], green_name[16];
    PGconn *blue, *green;
    struct pg *pg; /* green's */
    struct catalog blue_cat, before, green_cat;
    struct map map;
    struct error err;
};

static struct cluster world_cluster;

static inline int world_cluster_start(void **state)
{
    (void) state;
    return cluster_start(&world_cluster);
}

static inline int world_cluster_stop(void **state)
{
    (void) state;
    cluster_stop(&world_cluster);
    return 0;
}

static inline void world_sql(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(res);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        fail_msg("%s\n%s", PQerrorMessage(conn), sql);
    PQclear(res);
}

static inline void world_catalog(const char *dbname, struct catalog *out)
{
    struct pg *pg = NULL;
    struct error err = {0};
    if (!pg_open(&pg, world_cluster.conninfo, dbname, PG_PLAIN, "test", "map", NULL, &err) ||
        !catalog_load(pg, out, &err))
        fail_msg("%s", err.message);
    pg_close(pg);
}

static inline int world_new(void **state)
{
    static int number;
    struct world *w = xcalloc(1, sizeof *w);
    char sql[64];
    /* databases of their own for each test: dropping one costs a checkpoint */
    snprintf(w->blue_name, sizeof w->blue_name, "blue%d", ++number);
    snprintf(w->green_name, sizeof w->green_name, "green%d", number);
    PGconn *admin = cluster_client(&world_cluster, "postgres", "test");
    snprintf(sql, sizeof sql, "CREATE DATABASE %s", w->blue_name);
    world_sql(admin, sql);
    snprintf(sql, sizeof sql, "CREATE DATABASE %s", w->green_name);
    world_sql(admin, sql);
    PQfinish(admin);
    w->blue = cluster_client(&world_cluster, w->blue_name, "test");
    w->green = cluster_client(&world_cluster, w->green_name, "test");
    world_sql(w->blue, "SET client_min_messages = error");
    world_sql(w->green, "SET client_min_messages = error");
    /* other oids on green */
    world_sql(w->green, "CREATE TABLE noise (a int, b text, c serial); DROP TABLE noise");
    if (!pg_open(&w->pg, world_cluster.conninfo, w->green_name, PG_APPLY, "test", "map", NULL,
                 &w->err))
        fail_msg("%s", w->err.message);
    *state = w;
    return 0;
}

static inline int world_drop(void **state)
{
    struct world *w = *state;
    pg_close(w->pg);
    PQfinish(w->blue);
    PQfinish(w->green);
    map_release(&w->map);
    catalog_release(&w->blue_cat);
    catalog_release(&w->before);
    catalog_release(&w->green_cat);
    free(w);
    return 0;
}

/* Both sides have schema; blue's tables went through only_blue first, so that their attnums differ.
 */
static inline void world_migrate(struct world *w, const char *only_blue, const char *schema,
                                 const char *migration)
{
    bool found = false;
    struct catalog now = {0};
    world_sql(w->blue, schema);
    if (only_blue)
        world_sql(w->blue, only_blue);
    world_sql(w->green, schema);
    world_catalog(w->green_name, &now);
    if (!catalog_save_before(w->pg, &now, &w->err) ||
        !catalog_load_before(w->pg, &w->before, &found, &w->err))
        fail_msg("%s", w->err.message);
    assert_true(found);
    catalog_release(&now);
    world_sql(w->green, migration);
    world_catalog(w->blue_name, &w->blue_cat);
    world_catalog(w->green_name, &w->green_cat);
}

static inline bool world_try_derive(struct world *w, const struct map_rule *rules, size_t n)
{
    bool ok =
        map_derive(&w->map, &w->blue_cat, &w->before, &w->green_cat, rules, n, w->pg, &w->err);
    /* nothing of ours stays on green, and the session is as it was */
    PGresult *res = PQexec(w->green, "SELECT count(*) FROM pg_class WHERE relname ~ '^pgcutover_'");
    assert_string_equal(PQgetvalue(res, 0, 0), "0");
    PQclear(res);
    assert_int_equal(PQtransactionStatus(pg_raw(w->pg)), PQTRANS_IDLE);
    return ok;
}

static inline void world_derive(struct world *w, const struct map_rule *rules, size_t n)
{
    if (!world_try_derive(w, rules, n))
        fail_msg("%s\n%s\n%s", w->err.context, w->err.message, w->err.detail);
}

static inline const struct map_table *world_table(struct world *w, const char *name)
{
    const struct map_table *mt = map_by_name(&w->map, "public", name);
    if (!mt)
        fail_msg("no table %s in the map", name);
    return mt;
}

/* "id<-id total_cents<-!(total * 100) note<-~r.x | created:V": ! a rule, ~ a cast, ? volatile; then
 * rest columns with N C V G. */
static inline void world_shape(const struct map_table *mt, struct strbuf *sb)
{
    for (size_t c = 0; c < mt->ncolumns; c++) {
        const struct map_column *col = &mt->columns[c];
        strbuf_addf(sb, "%s%s<-%s%s%s", c ? " " : "", col->target->name,
                    col->volatile_value ? "?" : "",
                    col->rule        ? "!"
                    : col->same_type ? ""
                                     : "~",
                    col->source ? col->source->name : col->expr);
    }
    for (size_t i = 0; i < mt->nrest; i++)
        strbuf_addf(sb, "%s%s:%c", i ? " " : " | ", mt->rest[i].target->name,
                    "NCVG"[mt->rest[i].kind]);
}

static inline void assert_shape(struct world *w, const char *table, const char *target,
                                const char *shape)
{
    struct strbuf sb = {0};
    const struct map_table *mt = world_table(w, table);
    assert_null(mt->unresolved);
    assert_non_null(mt->target);
    assert_string_equal(mt->target->sql_name, target);
    world_shape(mt, &sb);
    assert_string_equal(strbuf_cstr(&sb), shape);
    strbuf_release(&sb);
}

static inline void assert_has(const char *text, const char *part)
{
    if (!text || !strstr(text, part))
        fail_msg("\"%s\" is not in \"%s\"", part, text ? text : "(null)");
}

/* A statement of the map, with arrays as text; the rows affected, or -1 and the SQLSTATE in err. */
static inline int64_t world_apply(struct world *w, struct strbuf *sql, int n,
                                  const char *const *arrays)
{
    PGresult *res = NULL;
    int64_t affected = -1;
    error_clear(&w->err);
    if (pg_query(w->pg, &res, PG_ANY, strbuf_cstr(sql), n, arrays, &w->err))
        affected = strtoll(PQcmdTuples(res), NULL, 10);
    PQclear(res);
    strbuf_release(sql);
    return affected;
}

#define APPLY(w, sql, ...)                                                                         \
    world_apply(w, sql, (int) (sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)),       \
                (const char *const[]){__VA_ARGS__})

/* The one value of a query on green, under the pinned settings. */
static inline void assert_green(struct world *w, const char *query, const char *expected)
{
    char *got = NULL;
    if (!pg_value(w->pg, &got, query, 0, NULL, &w->err))
        fail_msg("%s\n%s", w->err.message, query);
    assert_string_equal(got, expected);
    free(got);
}

#endif
