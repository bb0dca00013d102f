/* verify_pair.h - two real databases with a schema, a migration on one of them, and the map between
 * them. */
#ifndef PGCUTOVER_TESTS_VERIFY_PAIR_H
#define PGCUTOVER_TESTS_VERIFY_PAIR_H

#include "base/alloc.h"
#include "base/clock.h"
#include "map/map.h"
#include "verify/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster.h"

static struct cluster cluster;
static int databases;

#define OK(call)                                                                                   \
    do {                                                                                           \
        struct error err = {0};                                                                    \
        if (!(call))                                                                               \
            fail_msg("%s: %s (%s) %s", #call, err.message, err.detail, err.context);               \
    } while (0)

struct pair {
    char blue_name[32], green_name[32];
    PGconn *blue, *green; /* clients */
    struct pg *blue_pg, *green_pg;
    struct catalog blue_cat, before, green_cat;
    struct map map;
    struct touched *touched;
    struct verify_options o;
};

static inline void sql(PGconn *conn, const char *text)
{
    PGresult *res = PQexec(conn, text);

    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(conn));
    PQclear(res);
}

static inline void make_database(const char *name)
{
    PGconn *conn = cluster_client(&cluster, "postgres", "setup");
    char text[100];

    snprintf(text, sizeof text, "CREATE DATABASE %s", name);
    sql(conn, text);
    PQfinish(conn);
}

static inline void open_side(const char *name, const char *schema, PGconn **client, struct pg **pg)
{
    make_database(name);
    *client = cluster_client(&cluster, name, "client");
    sql(*client, "SET client_min_messages = warning");
    sql(*client, schema);
    OK(pg_open(pg, cluster.conninfo, name, PG_PLAIN, "t", "test", NULL, &err));
}

/* schema runs on both sides, migration on green; rules are laid over what is derived */
static inline void pair_open(struct pair *p, const char *schema, const char *migration,
                             const struct map_rule *rules, size_t nrules)
{
    *p = (struct pair){0};
    databases++;
    snprintf(p->blue_name, sizeof p->blue_name, "blue%d", databases);
    snprintf(p->green_name, sizeof p->green_name, "green%d", databases);
    open_side(p->blue_name, schema, &p->blue, &p->blue_pg);
    open_side(p->green_name, schema, &p->green, &p->green_pg);
    OK(catalog_load(p->blue_pg, &p->blue_cat, &err));
    OK(catalog_load(p->green_pg, &p->before, &err));
    sql(p->green, migration);
    OK(catalog_load(p->green_pg, &p->green_cat, &err));
    OK(map_derive(&p->map, &p->blue_cat, &p->before, &p->green_cat, rules, nrules, p->green_pg,
                  &err));
    if (map_unresolved(&p->map)) {
        struct strbuf sb = {0};
        map_print(&sb, &p->map, true);
        fail_msg("%s", strbuf_cstr(&sb));
    }
    p->touched = touched_new(p->map.ntables, 100000);
    p->o = (struct verify_options){
        .run = "t",
        .map = &p->map,
        .source = {.conninfo = cluster.conninfo, .dbname = p->blue_name},
        .target = {.conninfo = cluster.conninfo, .dbname = p->green_name},
        .jobs = 2,
        .block_rows = 7,
        .examples = 5,
    };
}

static inline void pair_close(struct pair *p)
{
    touched_free(p->touched);
    map_release(&p->map);
    catalog_release(&p->blue_cat);
    catalog_release(&p->before);
    catalog_release(&p->green_cat);
    pg_close(p->blue_pg);
    pg_close(p->green_pg);
    PQfinish(p->blue);
    PQfinish(p->green);
}

static inline struct verify_result full(struct pair *p)
{
    struct verify_result r;

    OK(verify_full(&p->o, &r, &err));
    return r;
}

static inline struct verify_table *table_in(struct verify_result *r, const char *name)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (strcmp(r->tables[i].table->source->name, name) == 0)
            return &r->tables[i];
    fail_msg("no table %s", name);
    return NULL;
}

static inline void expect_equal(struct pair *p)
{
    struct verify_result r = full(p);
    struct strbuf sb = {0};

    verify_describe(&sb, &p->map, &r);
    if (r.differing || r.unproved)
        fail_msg("%s", strbuf_cstr(&sb));
    for (size_t i = 0; i < r.ntables; i++)
        assert_int_equal(r.tables[i].proved, r.tables[i].source_rows);
    strbuf_release(&sb);
    verify_result_release(&r);
}

static inline void expect_text(const char *text, const char *wanted)
{
    if (!text || !strstr(text, wanted))
        fail_msg("\"%s\" is not in: %s", wanted, text ? text : "NULL");
}

/* after sql on green: exactly these counts for the table, and the column named */
static inline void expect_change(struct pair *p, const char *on_green, const char *table,
                                 int missing, int extra, int differing, const char *column)
{
    struct verify_result r;
    struct verify_table *vt;
    struct strbuf sb = {0};

    sql(p->green, "BEGIN; SET session_replication_role = replica");
    sql(p->green, on_green);
    sql(p->green, "COMMIT");
    r = full(p);
    vt = table_in(&r, table);
    verify_describe(&sb, &p->map, &r);
    if (vt->missing != missing || vt->extra != extra || vt->differing != differing ||
        r.differing != missing + extra + differing)
        fail_msg("%s: expected %d missing, %d extra, %d differing:\n%s", on_green, missing, extra,
                 differing, strbuf_cstr(&sb));
    assert_int_equal(vt->proved, vt->source_rows - missing - differing);
    if (column)
        expect_text(strbuf_cstr(&sb), column);
    strbuf_release(&sb);
    verify_result_release(&r);
}

static const char *const SHOP = "CREATE TABLE orders (id int PRIMARY KEY, status text, total "
                                "numeric(10,2), note varchar(20), qty int, code char(4));"
                                "INSERT INTO orders SELECT i, CASE i % 2 WHEN 0 THEN 'Open' ELSE "
                                "'Paid' END, i / 4.0, 'n' || i, i, 'c' || i % 7"
                                " FROM generate_series(1, 100) i;"
                                "CREATE TABLE log (at timestamptz, what text); INSERT INTO log "
                                "SELECT '2024-01-01', 'w' || i % 10 FROM"
                                " generate_series(1, 50) i;";
static const char *const SHOP_MIGRATION =
    "CREATE SCHEMA sales; ALTER TABLE orders RENAME TO purchase; ALTER TABLE purchase SET SCHEMA "
    "sales;"
    "ALTER TABLE sales.purchase RENAME COLUMN note TO remark; ALTER TABLE sales.purchase ALTER qty "
    "TYPE bigint;"
    "ALTER TABLE sales.purchase ALTER code TYPE char(6);"
    "ALTER TABLE sales.purchase ADD state text NOT NULL DEFAULT 'new', ADD seen timestamptz "
    "DEFAULT clock_timestamp(),"
    " ADD later text; ALTER TABLE sales.purchase ADD total_cents bigint;"
    "UPDATE sales.purchase SET total_cents = (total * 100)::bigint; ALTER TABLE sales.purchase "
    "DROP total;"
    "ALTER TABLE log RENAME what TO event; ALTER TABLE log ADD level int DEFAULT 3;";
static const struct map_up CENTS[] = {{"total_cents", "(total * 100)::bigint"}};
static const struct map_rule SHOP_RULES[] = {
    {.section = "public.orders", .up = (struct map_up *) (uintptr_t) CENTS, .nup = 1}};

static inline void touch(struct pair *p, const char *table, const char *key)
{
    const char *values[] = {key};
    const int lens[] = {(int) strlen(key)};

    for (size_t i = 0; i < p->map.ntables; i++)
        if (strcmp(p->map.tables[i].source->name, table) == 0)
            touched_add(p->touched, i, 1, values, lens);
}

static inline void touch_whole(struct pair *p, const char *table)
{
    for (size_t i = 0; i < p->map.ntables; i++)
        if (strcmp(p->map.tables[i].source->name, table) == 0)
            touched_add_whole(p->touched, i);
}

static inline int start(void **state)
{
    (void) state;
    return cluster_start(&cluster);
}

static inline int stop(void **state)
{
    (void) state;
    cluster_stop(&cluster);
    return 0;
}

#endif
