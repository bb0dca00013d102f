/* verify: full comparison of two real databases; the map is derived as in a run */
#include "verify_pair.h"

#include <sys/resource.h>

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
    sql(p.blue, "UPDATE orders SET note = 'later'"); /* than the snapshot */
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

/* 4 MB in the table are 8 MB as text; they come by pieces, wherever in the table they are */
static const char *const WIDE =
    "CREATE TABLE wide_first (id int PRIMARY KEY, v bytea);"
    "CREATE TABLE wide_last (id int PRIMARY KEY, v bytea);"
    "CREATE TABLE wide_loose (v bytea, id int);"
    "ALTER TABLE wide_first ALTER v SET STORAGE EXTERNAL;"
    "ALTER TABLE wide_last ALTER v SET STORAGE EXTERNAL;"
    "ALTER TABLE wide_loose ALTER v SET STORAGE EXTERNAL;"
    "INSERT INTO wide_first SELECT i, decode(repeat('5c', CASE WHEN i < 30 AND i % 2 = 0 THEN "
    "4194304 ELSE 3 END), 'hex') FROM generate_series(0, 2000) i;"
    "INSERT INTO wide_last SELECT i, decode(repeat('61', CASE WHEN i > 520 THEN 4194304 ELSE 3 "
    "END), 'hex') FROM generate_series(1, 560) i;"
    "INSERT INTO wide_loose SELECT decode(repeat('61', 4194304), 'hex'), i FROM "
    "generate_series(1, 5) i;";

static int64_t peak_kb(void)
{
    struct rusage usage;

    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_maxrss;
}

static void wide_rows_take_bounded_memory(void **state)
{
    struct pair p;
    int64_t before, analyzed;
    (void) state;

    pair_open(&p, WIDE, "SELECT 1", NULL, 0);
    p.o.block_rows = 5000;
    p.o.jobs = 1;
    for (size_t i = 0; i < p.blue_cat.ntables; i++) /* wide_last alone was analyzed */
        p.blue_cat.tables[i].reltuples =
            strcmp(p.blue_cat.tables[i].name, "wide_last") == 0 ? 560 : -1;
    before = peak_kb();
    expect_equal(&p);
    analyzed = peak_kb() - before;
    print_message("wide rows: %lld kB on top of %lld kB\n", (long long) analyzed,
                  (long long) before);
    assert_in_range(analyzed, 0, 400 * 1024);
    /* a fetch of all, when nothing had warned of it, is bound in parts */
    for (size_t i = 0; i < p.blue_cat.ntables; i++) {
        p.blue_cat.tables[i].reltuples = -1;
        p.blue_cat.tables[i].bytes = 0;
    }
    expect_change(&p, "UPDATE wide_last SET v = v || '\\x00' WHERE id IN (540, 500)", "wide_last",
                  0, 0, 2, "id='540'");
    pair_close(&p);
}

static void a_row_larger_than_a_part(void **state)
{
    struct pair p;
    (void) state;

    pair_open(&p,
              "CREATE TABLE huge (id int PRIMARY KEY, v text);"
              "INSERT INTO huge VALUES (1, repeat('x', 50000000)), (2, 'y')",
              "SELECT 1", NULL, 0);
    expect_equal(&p);
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wide_rows_take_bounded_memory), /* first: it measures the peak */
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
        cmocka_unit_test(a_row_larger_than_a_part),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
