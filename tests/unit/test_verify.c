/* verify, against two real databases: the map is derived as in a run */
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

static void sql(PGconn *conn, const char *text)
{
    PGresult *res = PQexec(conn, text);

    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(conn));
    PQclear(res);
}

static void make_database(const char *name)
{
    PGconn *conn = cluster_client(&cluster, "postgres", "setup");
    char text[100];

    snprintf(text, sizeof text, "CREATE DATABASE %s", name);
    sql(conn, text);
    PQfinish(conn);
}

static void open_side(const char *name, const char *schema, PGconn **client, struct pg **pg)
{
    make_database(name);
    *client = cluster_client(&cluster, name, "client");
    sql(*client, "SET client_min_messages = warning");
    sql(*client, schema);
    OK(pg_open(pg, cluster.conninfo, name, PG_PLAIN, "t", "test", NULL, &err));
}

/* schema runs on both sides, migration on green; rules are laid over what is derived */
static void pair_open(struct pair *p, const char *schema, const char *migration,
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

static void pair_close(struct pair *p)
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

static struct verify_result full(struct pair *p)
{
    struct verify_result r;

    OK(verify_full(&p->o, &r, &err));
    return r;
}

static struct verify_table *table_in(struct verify_result *r, const char *name)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (strcmp(r->tables[i].table->source->name, name) == 0)
            return &r->tables[i];
    fail_msg("no table %s", name);
    return NULL;
}

static void expect_equal(struct pair *p)
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

static void expect_text(const char *text, const char *wanted)
{
    if (!text || !strstr(text, wanted))
        fail_msg("\"%s\" is not in: %s", wanted, text ? text : "NULL");
}

/* after sql on green: exactly these counts for the table, and the column named */
static void expect_change(struct pair *p, const char *on_green, const char *table, int missing,
                          int extra, int differing, const char *column)
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

static const char *const TYPES =
    "CREATE SCHEMA \"Sch\"; CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"', 'happy');"
    "CREATE DOMAIN positive AS int CHECK (value > 0); CREATE TYPE pair AS (a int, b text);"
    "CREATE TABLE \"Sch\".\"All \"\"types\" (\"Id\" int PRIMARY KEY, n numeric, n2 numeric(12,4),"
    " f4 real, f8 float8, c char(5), vc varchar(10), t text, b bool, ip inet, ci cidr, j json,"
    " jb jsonb, ia int[], ta text[], m mood, ma mood[], d positive, r int4range, tr tstzrange, by "
    "bytea,"
    " ts timestamp, tz timestamptz, da date, ti time, iv interval, u uuid, p pair, x xml, mo money,"
    " pt point, bi bit(3), vb varbit, na name, \"user\" text, tv tsvector, ma8 macaddr, o oid,"
    " ch \"char\", lq pg_lsn, g int GENERATED ALWAYS AS (\"Id\" * 2) STORED);"
    "INSERT INTO \"Sch\".\"All \"\"types\" VALUES (1, 1.00, 1.5, 0.1, 0.30000000000000004, 'ab', "
    "'vc ',"
    " E'line\\nbreak \\\\ \"q\" ''s', true, '10.0.0.1/8', '10.0.0.0/8', '{\"a\" : 1}', "
    "'{\"b\":[1,2]}',"
    " '{{1,2},{3,NULL}}', '{\"a,b\",\"NULL\",NULL,\"\"}', 'it''s \"ok\"', '{sad,happy}', 7, "
    "'[1,5)',"
    " '[2024-01-01 00:00+00,)', '\\x00ff0a5c', 'infinity', '2024-02-03 04:05:06.789+02', "
    "'-infinity',"
    " '23:59:59.999999', '1 year 2 mons -3 days 04:05:06', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',"
    " '(1,\"x,y\")', '<a>b</a>', '12.34', '(1.5,-2)', '101', '10101', 'n', 'kw', 'fat cat',"
    " '08:00:2b:01:02:03', 42, 'z', '0/15D8');"
    "INSERT INTO \"Sch\".\"All \"\"types\" (\"Id\", n, n2, f4, f8, c, ia, ta, p, by, jb) VALUES "
    "(2, 'NaN', 'NaN',"
    " 'NaN', '-Infinity', '', '{}', '{}', '(,)', '', 'null'), (3, 1e-30, 0, '-0', 1e308, '     ', "
    "'[0:1]={1,2}',"
    " '{}', NULL, NULL, NULL);"
    "INSERT INTO \"Sch\".\"All \"\"types\" (\"Id\") SELECT generate_series(4, 40);"
    "CREATE TABLE two_keys (b text, a numeric(8,2), v text, PRIMARY KEY (a, b));"
    "INSERT INTO two_keys SELECT 'k' || i, i / 4.0, 'v' FROM generate_series(1, 30) i;"
    "CREATE TABLE part (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);"
    "CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);"
    "CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (10) TO (20);"
    "INSERT INTO part SELECT i, i % 20, 'p' || i FROM generate_series(1, 50) i;"
    "CREATE TABLE keyless (a int, b text); INSERT INTO keyless SELECT i % 5, nullif('x' || i % 3, "
    "'x0')"
    " FROM generate_series(1, 40) i; CREATE TABLE no_columns (); INSERT INTO no_columns DEFAULT "
    "VALUES;"
    "INSERT INTO no_columns DEFAULT VALUES; CREATE TABLE parent (id int PRIMARY KEY, v text);"
    "CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (parent); CREATE TABLE empty (id "
    "int PRIMARY KEY);"
    "INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (1, 'c', 2), (2, 'd', NULL);";

static void equal_databases_are_equal(void **state)
{
    struct pair p;
    (void) state;

    pair_open(&p, TYPES, "SELECT 1", NULL, 0);
    expect_equal(&p);
    p.o.jobs = 1;
    p.o.block_rows = 5000;
    expect_equal(&p);
    pair_close(&p);
}

static void each_changed_value_is_found(void **state)
{
    /* a value that is as near as the type allows, and the table's row back afterwards */
    static const struct {
        const char *column, *value;
    } changes[] = {
        {"n", "1.0"},
        {"n2", "1.5001"},
        {"f4", "0.10000001"},
        {"f8", "0.3"},
        {"c", "'ac'"},
        {"vc", "'vc'"},
        {"t", "'line'"},
        {"b", "false"},
        {"ip", "'10.0.0.1/16'"},
        {"ci", "'10.0.0.0/9'"},
        {"j", "'{\"a\": 1}'"},
        {"jb", "'{\"b\":[1,2.0]}'"},
        {"ia", "'{1,2,3,NULL}'"},
        {"ta", "'{\"a,b\",\"NULL\",NULL,NULL}'"},
        {"m", "'sad'"},
        {"ma", "'{happy,sad}'"},
        {"d", "8"},
        {"r", "'[1,6)'"},
        {"tr", "'(2024-01-01,)'"},
        {"by", "'\\x00ff0a5d'"},
        {"ts", "NULL"},
        {"tz", "'2024-02-03 04:05:06.788+02'"},
        {"da", "'infinity'"},
        {"ti", "'24:00'"},
        {"iv", "'1 year 2 mons -3 days 04:05:07'"},
        {"u", "NULL"},
        {"p", "'(1,\"x, y\")'"},
        {"x", "'<a>c</a>'"},
        {"mo", "'12.35'"},
        {"pt", "'(1.5,-2.0000000001)'"},
        {"bi", "'100'"},
        {"vb", "'101010'"},
        {"na", "'N'"},
        {"user", "'kw '"},
        {"tv", "'cat'"},
        {"ma8", "NULL"},
        {"o", "43"},
        {"ch", "'y'"},
        {"lq", "'0/15D9'"},
    };
    struct pair p;
    char text[300], back[400], named[64];
    (void) state;

    pair_open(&p, TYPES, "SELECT 1", NULL, 0);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        snprintf(text, sizeof text,
                 "CREATE TEMP TABLE saved AS SELECT \"%s\" AS v FROM \"Sch\".\"All \"\"types\" "
                 "WHERE \"Id\" = 1;"
                 "UPDATE \"Sch\".\"All \"\"types\" SET \"%s\" = %s WHERE \"Id\" = 1",
                 changes[i].column, changes[i].column, changes[i].value);
        snprintf(back, sizeof back,
                 "UPDATE \"Sch\".\"All \"\"types\" SET \"%s\" = (SELECT v FROM saved) WHERE \"Id\" "
                 "= 1; DROP TABLE saved",
                 changes[i].column);
        snprintf(named, sizeof named, "%s expected", changes[i].column);
        expect_change(&p, text, "All \"types", 0, 0, 1, named);
        sql(p.green, back);
    }
    /* NULL and the empty value, in both directions */
    expect_change(&p, "UPDATE \"Sch\".\"All \"\"types\" SET t = '' WHERE \"Id\" = 40",
                  "All \"types", 0, 0, 1, "t expected NULL, found ''");
    sql(p.green, "UPDATE \"Sch\".\"All \"\"types\" SET t = NULL WHERE \"Id\" = 40");
    expect_change(&p, "UPDATE \"Sch\".\"All \"\"types\" SET p = NULL WHERE \"Id\" = 2",
                  "All \"types", 0, 0, 1, "p expected '(,)', found NULL");
    sql(p.green, "UPDATE \"Sch\".\"All \"\"types\" SET p = '(,)' WHERE \"Id\" = 2");
    expect_equal(&p);
    pair_close(&p);
}

static void missing_and_extra_rows_are_found(void **state)
{
    struct pair p;
    (void) state;

    pair_open(&p, TYPES, "SELECT 1", NULL, 0);
    expect_change(&p, "DELETE FROM two_keys WHERE a = 2.5", "two_keys", 1, 0, 0,
                  "a='2.50', b='k10'");
    sql(p.green, "INSERT INTO two_keys VALUES ('k10', 2.5, 'v')");
    expect_change(&p, "INSERT INTO two_keys VALUES ('new', 2.5, 'v')", "two_keys", 0, 1, 0,
                  "a='2.50', b='new'");
    expect_change(&p, "DELETE FROM two_keys WHERE b = 'k1'", "two_keys", 1, 1, 0, "'new'");
    sql(p.green,
        "DELETE FROM two_keys WHERE b = 'new'; INSERT INTO two_keys VALUES ('k1', 0.25, 'v')");
    /* partitions: extra rows are counted once, at the first leaf; a row in the wrong leaf differs
     */
    expect_change(&p, "INSERT INTO part VALUES (99, 15, 'x')", "part_a", 0, 1, 0,
                  "id='99', k='15'");
    sql(p.green, "DELETE FROM part WHERE id = 99");
    expect_change(&p, "UPDATE part SET v = 'other' WHERE id = 11", "part_b", 0, 0, 1,
                  "v expected 'p11', found 'other'");
    sql(p.green, "UPDATE part SET v = 'p11' WHERE id = 11");
    /* inheritance: the parent's own rows and the child's are two tables */
    expect_change(&p, "UPDATE ONLY parent SET v = 'z'", "parent", 0, 0, 1,
                  "v expected 'p', found 'z'");
    sql(p.green, "UPDATE ONLY parent SET v = 'p'");
    expect_change(&p, "INSERT INTO empty VALUES (1)", "empty", 0, 1, 0, "id='1'");
    sql(p.green, "TRUNCATE empty");
    expect_equal(&p);
    pair_close(&p);
}

static void tables_without_a_key_are_multisets(void **state)
{
    struct pair p;
    (void) state;

    pair_open(&p, TYPES, "SELECT 1", NULL, 0);
    /* one of several identical rows less, and one of others more */
    expect_change(
        &p,
        "DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 1 AND b = 'x1')",
        "keyless", 1, 0, 0, "(a='1', b='x1'): no such row, or not as many");
    expect_change(&p, "INSERT INTO keyless VALUES (4, NULL)", "keyless", 1, 1, 0,
                  "has a row, or more of them");
    sql(p.green, "DELETE FROM keyless WHERE ctid = (SELECT max(ctid) FROM keyless); INSERT INTO "
                 "keyless VALUES (1, 'x1')");
    expect_change(&p, "INSERT INTO no_columns DEFAULT VALUES", "no_columns", 0, 1, 0, NULL);
    sql(p.green, "DELETE FROM no_columns WHERE ctid = (SELECT max(ctid) FROM no_columns)");
    expect_equal(&p);
    pair_close(&p);
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

static void mapped_tables_are_compared_through_the_map(void **state)
{
    struct pair p;
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    expect_equal(&p);
    expect_change(&p, "UPDATE sales.purchase SET total_cents = total_cents + 1 WHERE id = 17",
                  "orders", 0, 0, 1, "total_cents expected '425', found '426'");
    sql(p.green, "UPDATE sales.purchase SET total_cents = 425 WHERE id = 17");
    expect_change(&p, "UPDATE sales.purchase SET remark = 'N17' WHERE id = 17", "orders", 0, 0, 1,
                  "remark expected 'n17', found 'N17'");
    sql(p.green, "UPDATE sales.purchase SET remark = 'n17' WHERE id = 17");
    expect_change(&p, "UPDATE log SET level = 4 WHERE ctid = (SELECT min(ctid) FROM log)", "log", 1,
                  1, 0, NULL);
    sql(p.green, "UPDATE log SET level = 3");
    /* by clock: only green's, never compared */
    sql(p.green, "UPDATE sales.purchase SET seen = '2000-01-01'");
    expect_equal(&p);
    pair_close(&p);
}

/* the migration did what the map doesn't know: a suggestion says what it may have been */
static void a_backfill_is_found_and_guessed(void **state)
{
    struct pair p;
    struct verify_result r;
    struct verify_table *vt;
    struct strbuf sb = {0};
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    sql(p.green,
        "UPDATE sales.purchase SET state = lower(status), later = 'x''y', remark = upper(remark)");
    r = full(&p);
    vt = table_in(&r, "orders");
    verify_describe(&sb, &p.map, &r);
    assert_int_equal(vt->differing, 100);
    assert_int_equal(vt->proved, 0);
    assert_int_equal(r.unproved, 1);
    expect_text(vt->suggestion, "up.state = lower(status)\n");
    expect_text(vt->suggestion, "up.later = 'x''y'\n");
    expect_text(vt->suggestion, "up.remark = upper(note)\n");
    expect_text(strbuf_cstr(&sb), "[map public.orders]");
    expect_text(strbuf_cstr(&sb), "column state differs in 100 rows");
    strbuf_release(&sb);
    verify_result_release(&r);
    pair_close(&p);
}

static void touch(struct pair *p, const char *table, const char *key)
{
    const char *values[] = {key};
    const int lens[] = {(int) strlen(key)};

    for (size_t i = 0; i < p->map.ntables; i++)
        if (strcmp(p->map.tables[i].source->name, table) == 0)
            touched_add(p->touched, i, 1, values, lens);
}

static void touch_whole(struct pair *p, const char *table)
{
    for (size_t i = 0; i < p->map.ntables; i++)
        if (strcmp(p->map.tables[i].source->name, table) == 0)
            touched_add_whole(p->touched, i);
}

static void the_proof_leaves_changed_keys_out(void **state)
{
    struct pair p;
    struct verify_result r;
    struct verify_table *vt;
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    sql(p.blue,
        "UPDATE orders SET status = 'Gone' WHERE id = 5; DELETE FROM orders WHERE id IN (6, 7);"
        "INSERT INTO orders (id) VALUES (1000); UPDATE orders SET id = 2000 WHERE id = 8");
    for (const char *const *key =
             (const char *const[]){"5", "6", "7", "8", "1000", "2000", "3000", NULL};
         *key; key++)
        touch(&p, "orders", *key);
    p.o.except = p.touched;
    r = full(&p);
    vt = table_in(&r, "orders");
    assert_int_equal(r.differing, 0);
    assert_int_equal(vt->excepted, 3);
    assert_int_equal(vt->proved, 96);
    verify_result_release(&r);
    /* what is not left out is still found */
    expect_change(&p, "SELECT 1", "log", 0, 0, 0, NULL);
    sql(p.green, "INSERT INTO sales.purchase (id) VALUES (77777)");
    r = full(&p);
    vt = table_in(&r, "orders");
    assert_int_equal(vt->extra, 1);
    expect_text(vt->examples, "id='77777'");
    verify_result_release(&r);
    sql(p.green, "DELETE FROM sales.purchase WHERE id IN (77777, 50)");
    /* a table without a key, once written to, can't be proved */
    sql(p.blue, "INSERT INTO log VALUES (now(), 'new')");
    touch_whole(&p, "log");
    r = full(&p);
    assert_int_equal(table_in(&r, "orders")->missing, 1);
    assert_int_equal(table_in(&r, "log")->proved, 0);
    assert_int_equal(table_in(&r, "log")->excepted, 51);
    assert_int_equal(r.differing, 1);
    assert_int_equal(r.unproved, 1);
    verify_result_release(&r);
    pair_close(&p);
}

static void rows_that_moved_between_leaves_are_excepted_once(void **state)
{
    struct pair p;
    struct verify_result r;
    size_t a = 0, b = 0;
    (void) state;

    pair_open(&p, TYPES, "SELECT 1", NULL, 0);
    /* with the same key in both: the leaves' own primary key is only id */
    for (size_t i = 0; i < p.map.ntables; i++) {
        a = strcmp(p.map.tables[i].source->name, "part_a") == 0 ? i : a;
        b = strcmp(p.map.tables[i].source->name, "part_b") == 0 ? i : b;
    }
    sql(p.blue, "UPDATE part SET k = 15 WHERE id = 1");
    for (int i = 0; i < 2; i++) {
        const char *old[] = {"1", "1"}, *new[] = {"1", "15"};
        const int lens[] = {1, 1}, new_lens[] = {1, 2};
        touched_add(p.touched, i ? b : a, 2, old, lens);
        touched_add(p.touched, i ? b : a, 2, new, new_lens);
    }
    p.o.except = p.touched;
    r = full(&p);
    assert_int_equal(r.differing, 0);
    assert_int_equal(table_in(&r, "part_b")->excepted, 1);
    verify_result_release(&r);
    pair_close(&p);
}

struct snapshots {
    struct pair *p;
    int called;
};

static void change_afterwards(void *ctx)
{
    struct snapshots *s = ctx;

    s->called++;
    sql(s->p->blue, "DELETE FROM orders WHERE id < 50");
    sql(s->p->green, "UPDATE sales.purchase SET state = 'changed'");
}

static char *export_snapshot(PGconn *conn)
{
    PGresult *res;
    char *name;

    sql(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    res = PQexec(conn, "SELECT pg_export_snapshot()");
    name = xstrdup(PQgetvalue(res, 0, 0));
    PQclear(res);
    return name;
}

static void snapshots_are_imported_by_all_sessions(void **state)
{
    struct pair p;
    struct snapshots s = {.p = &p};
    PGconn *blue, *green;
    char *names[2];
    struct verify_result r;
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    blue = cluster_client(&cluster, p.blue_name, "exporter");
    green = cluster_client(&cluster, p.green_name, "exporter");
    p.o.source.snapshot = names[0] = export_snapshot(blue);
    p.o.target.snapshot = names[1] = export_snapshot(green);
    p.o.ready = change_afterwards;
    p.o.ctx = &s;
    r = full(&p);
    assert_int_equal(s.called, 1);
    assert_int_equal(r.differing, 0);
    assert_int_equal(table_in(&r, "orders")->proved, 100);
    verify_result_release(&r);
    PQfinish(blue);
    PQfinish(green);
    free(names[0]);
    free(names[1]);
    pair_close(&p);
}

static void a_snapshot_that_is_gone_is_an_error(void **state)
{
    struct pair p;
    struct verify_result r;
    struct error no = {0};
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    p.o.target.snapshot = "00000003-00000001-1";
    assert_false(verify_full(&p.o, &r, &no));
    expect_text(no.context, "importing snapshot");
    p.o.target.snapshot = NULL;
    sql(p.green, "DROP TABLE log");
    assert_false(verify_full(&p.o, &r, &no));
    assert_string_equal(no.sqlstate, "42P01");
    pair_close(&p);
}

static struct verifier_stats pass(struct verifier *v)
{
    struct verifier_stats stats;

    OK(verifier_pass(v, 100000, &stats, &err));
    return stats;
}

static int64_t final(struct verifier *v, int64_t *compared, char **text)
{
    int64_t differing = -1;

    OK(verifier_final(v, clock_in_ms(20000), compared, &differing, text, &err));
    return differing;
}

static void the_tail_is_compared_until_it_is_equal(void **state)
{
    struct pair p;
    struct verifier *v;
    struct verifier_stats stats;
    int64_t compared;
    char *text;
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    OK(verifier_open(&v, &p.o, p.touched, &err));
    /* replay has not come to it yet: a change, a deletion, a new row */
    sql(p.blue, "UPDATE orders SET status = 'Late' WHERE id = 5; DELETE FROM orders WHERE id = 6;"
                "INSERT INTO orders (id) VALUES (1000)");
    for (const char *const *key = (const char *const[]){"4", "5", "6", "1000", "9999", NULL}; *key;
         key++)
        touch(&p, "orders", *key);
    stats = pass(v);
    assert_int_equal(stats.compared, 2);
    assert_int_equal(stats.waiting, 3);
    assert_int_equal(stats.suspicious, 0);
    sql(p.green, "UPDATE sales.purchase SET status = 'Late' WHERE id = 5");
    pass(v);
    stats = pass(v);
    assert_int_equal(stats.waiting, 2);
    assert_int_equal(stats.suspicious, 2);
    assert_true(verifier_estimate_us(v) > 0);
    assert_int_equal(final(v, &compared, &text), 2);
    expect_text(text, "id='6': still in sales.purchase, gone from the source");
    expect_text(text, "id='1000': no such row in sales.purchase");
    free(text);
    sql(p.green,
        "DELETE FROM sales.purchase WHERE id = 6; INSERT INTO sales.purchase (id) VALUES (1000)");
    assert_int_equal(final(v, &compared, &text), 0);
    assert_int_equal(compared, 2);
    assert_null(text);
    stats = pass(v);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.suspicious, 0);
    assert_int_equal(stats.compared, 5);
    verifier_close(v);
    pair_close(&p);
}

static void a_lost_connection_is_opened_again(void **state)
{
    struct pair p;
    struct verifier *v;
    struct verifier_stats stats;
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    OK(verifier_open(&v, &p.o, p.touched, &err));
    touch(&p, "orders", "5");
    sql(p.green, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name "
                 "LIKE '%verify-tail%'");
    stats = pass(v);
    assert_int_equal(stats.waiting, 1);
    stats = pass(v);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.compared, 1);
    verifier_close(v);
    pair_close(&p);
}

static void whole_tables_end_in_the_final_comparison(void **state)
{
    struct pair p;
    struct verifier *v;
    struct verifier_stats stats;
    int64_t compared, differing;
    char *text;
    struct error no = {0};
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    OK(verifier_open(&v, &p.o, p.touched, &err));
    touch_whole(&p, "log");
    touch_whole(&p, "orders");
    sql(p.green, "UPDATE sales.purchase SET status = 'x' WHERE id = 3; INSERT INTO sales.purchase "
                 "(id) VALUES (555)");
    stats = pass(v); /* the keyed one becomes keys */
    assert_int_equal(stats.whole, 1);
    assert_int_equal(stats.waiting, 2);
    sql(p.green, "UPDATE log SET event = 'odd' WHERE ctid = (SELECT min(ctid) FROM log)");
    assert_int_equal(final(v, &compared, &text), 4);
    expect_text(text, "id='555': still in");
    expect_text(text, "public.log");
    free(text);
    sql(p.green, "UPDATE sales.purchase SET status = 'Paid' WHERE id = 3; DELETE FROM "
                 "sales.purchase WHERE id = 555;"
                 "UPDATE log SET event = 'w1' WHERE event = 'odd'");
    assert_int_equal(final(v, &compared, &text), 0);
    assert_int_equal(compared, 52);
    assert_null(text);
    assert_int_equal(pass(v).whole, 0);
    /* the time is over */
    touch(&p, "orders", "7");
    assert_false(verifier_final(v, clock_us() - 1, &compared, &differing, &text, &no));
    assert_int_equal(no.code, ERR_BUDGET);
    assert_int_equal(touched_count(p.touched), 1);
    verifier_close(v);
    pair_close(&p);
}

static void a_row_may_move_between_leaves(void **state)
{
    struct pair p;
    struct verifier *v;
    size_t a = 0, b = 0;
    int64_t compared;
    char *text;
    (void) state;

    pair_open(&p,
              "CREATE TABLE part (id int, k int, at int, PRIMARY KEY (id, k, at)) PARTITION BY "
              "RANGE (at);"
              "CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);"
              "CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (10) TO (20);"
              "INSERT INTO part VALUES (1, 1, 5);"
              "CREATE TABLE live (id int PRIMARY KEY, v text); CREATE TABLE old (id int PRIMARY "
              "KEY, v text);"
              "INSERT INTO live VALUES (1, 'x')",
              "SELECT 1", NULL, 0);
    OK(verifier_open(&v, &p.o, p.touched, &err));
    for (size_t i = 0; i < p.map.ntables; i++) {
        a = strcmp(p.map.tables[i].source->name, "part_a") == 0 ? i : a;
        b = strcmp(p.map.tables[i].source->name, "part_b") == 0 ? i : b;
    }
    sql(p.blue, "UPDATE part SET at = 15");
    sql(p.green, "UPDATE part SET at = 15");
    for (int i = 0; i < 2; i++) {
        const char *old[] = {"1", "1", "5"}, *new[] = {"1", "1", "15"};
        const int old_lens[] = {1, 1, 1}, new_lens[] = {1, 1, 2};
        touched_add(p.touched, i ? a : b, 3, old, old_lens);
        touched_add(p.touched, i ? a : b, 3, new, new_lens);
    }
    assert_int_equal(final(v, &compared, &text), 0);
    assert_int_equal(compared, 4);
    verifier_close(v);
    pair_close(&p);
}

/* two tables become one, and a row moves from one to the other */
static void merged_tables_are_counted_together(void **state)
{
    static const struct map_rule rules[] = {{.section = "public.old", .table = "public.live"}};
    struct pair p;
    struct verifier *v;
    int64_t compared;
    char *text;
    (void) state;

    pair_open(&p,
              "CREATE TABLE live (id int PRIMARY KEY, v text); CREATE TABLE old (id int PRIMARY "
              "KEY, v text);"
              "INSERT INTO live SELECT i, 'l' || i FROM generate_series(1, 20) i;"
              "INSERT INTO old SELECT i, 'o' || i FROM generate_series(21, 50) i",
              "INSERT INTO live SELECT * FROM old; DROP TABLE old", rules, 1);
    expect_equal(&p);
    expect_change(&p, "INSERT INTO live VALUES (60, 'x')", "live", 0, 1, 0, "id='60'");
    sql(p.green, "DELETE FROM live WHERE id = 60");
    sql(p.blue, "DELETE FROM live WHERE id = 3; INSERT INTO old VALUES (3, 'l3'); DELETE FROM live "
                "WHERE id = 4");
    OK(verifier_open(&v, &p.o, p.touched, &err));
    touch(&p, "live", "3");
    touch(&p, "old", "3");
    touch(&p, "live", "4");
    assert_int_equal(final(v, &compared, &text), 1);
    expect_text(text, "id='4': still in public.live");
    assert_int_equal(compared, 2);
    free(text);
    verifier_close(v);
    pair_close(&p);
}

/* a table that is too large for what is left of the pause is counted, and said */
static void what_there_is_no_time_for_is_said(void **state)
{
    struct pair p;
    struct verifier *v;
    int64_t compared, differing;
    char *text;
    (void) state;

    pair_open(&p, SHOP, SHOP_MIGRATION, SHOP_RULES, 1);
    for (size_t i = 0; i < p.blue_cat.ntables; i++)
        p.blue_cat.tables[i].reltuples = 1e9;
    OK(verifier_open(&v, &p.o, p.touched, &err));
    touch_whole(&p, "log");
    sql(p.green, "UPDATE log SET event = 'odd'");
    OK(verifier_final(v, clock_in_ms(20000), &compared, &differing, &text, &err));
    assert_int_equal(differing, 0);
    expect_text(text, "not confirmed row by row: public.log (1,000,000,000 rows, counted only)");
    free(text);
    sql(p.green, "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log)");
    OK(verifier_final(v, clock_in_ms(20000), &compared, &differing, &text, &err));
    assert_int_equal(differing, 1);
    expect_text(text, "public.log has 49 rows, the source 50");
    free(text);
    verifier_close(v);
    pair_close(&p);
}

static void constraints_that_replay_does_not_enforce(void **state)
{
    struct pair p;
    struct constraint_checks checks;
    struct error no = {0};
    (void) state;

    pair_open(&p,
              "CREATE TABLE customer (id int PRIMARY KEY); CREATE TABLE orders (id int PRIMARY "
              "KEY, customer int,"
              " line int REFERENCES customer, pos int); INSERT INTO customer VALUES (1);"
              "INSERT INTO orders VALUES (1, 1, 1, 1), (2, 1, 1, 2), (3, NULL, 1, NULL)",
              "ALTER TABLE orders ADD CONSTRAINT new_fk FOREIGN KEY (customer) REFERENCES customer;"
              "ALTER TABLE orders RENAME line TO row; ALTER TABLE orders ADD CONSTRAINT pos_once "
              "UNIQUE (pos)"
              " DEFERRABLE INITIALLY DEFERRED",
              NULL, 0);
    OK(constraint_checks_derive(&checks, &p.map, &err));
    assert_int_equal(checks.n, 2); /* not the one that blue has */
    OK(constraint_checks_run(&checks, p.green_pg, CLOCK_NONE, &err));
    sql(p.green, "SET session_replication_role = replica; INSERT INTO orders VALUES (4, 77, 1, 9)");
    assert_false(constraint_checks_run(&checks, p.green_pg, CLOCK_NONE, &no));
    assert_int_equal(no.code, ERR_NOGO);
    expect_text(no.message, "\"new_fk\"");
    expect_text(no.message, "customer='77'");
    sql(p.green, "UPDATE orders SET customer = 1, pos = 2 WHERE id = 4");
    assert_false(constraint_checks_run(&checks, p.green_pg, CLOCK_NONE, &no));
    assert_int_equal(no.code, ERR_NOGO);
    expect_text(no.message, "\"pos_once\"");
    expect_text(no.message, "pos='2'");
    constraint_checks_release(&checks);
    pair_close(&p);
}

static void exclusion_constraints_are_checked_too(void **state)
{
    struct pair p;
    struct constraint_checks checks;
    struct error no = {0};
    (void) state;

    pair_open(&p,
              "CREATE TABLE booking (id int PRIMARY KEY, during int4range); INSERT INTO booking "
              "VALUES (1, '[1,5)')",
              "ALTER TABLE booking ADD CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&) "
              "DEFERRABLE",
              NULL, 0);
    OK(constraint_checks_derive(&checks, &p.map, &err));
    assert_int_equal(checks.n, 1);
    OK(constraint_checks_run(&checks, p.green_pg, CLOCK_NONE, &err));
    sql(p.green, "SET session_replication_role = replica; INSERT INTO booking VALUES (2, '[4,6)')");
    assert_false(constraint_checks_run(&checks, p.green_pg, CLOCK_NONE, &no));
    expect_text(no.message, "\"no_overlap\"");
    constraint_checks_release(&checks);
    pair_close(&p);
}

static int start(void **state)
{
    (void) state;
    return cluster_start(&cluster);
}

static int stop(void **state)
{
    (void) state;
    cluster_stop(&cluster);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_databases_are_equal),
        cmocka_unit_test(each_changed_value_is_found),
        cmocka_unit_test(missing_and_extra_rows_are_found),
        cmocka_unit_test(tables_without_a_key_are_multisets),
        cmocka_unit_test(mapped_tables_are_compared_through_the_map),
        cmocka_unit_test(a_backfill_is_found_and_guessed),
        cmocka_unit_test(the_proof_leaves_changed_keys_out),
        cmocka_unit_test(rows_that_moved_between_leaves_are_excepted_once),
        cmocka_unit_test(snapshots_are_imported_by_all_sessions),
        cmocka_unit_test(a_snapshot_that_is_gone_is_an_error),
        cmocka_unit_test(the_tail_is_compared_until_it_is_equal),
        cmocka_unit_test(a_lost_connection_is_opened_again),
        cmocka_unit_test(whole_tables_end_in_the_final_comparison),
        cmocka_unit_test(a_row_may_move_between_leaves),
        cmocka_unit_test(merged_tables_are_counted_together),
        cmocka_unit_test(what_there_is_no_time_for_is_said),
        cmocka_unit_test(constraints_that_replay_does_not_enforce),
        cmocka_unit_test(exclusion_constraints_are_checked_too),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
