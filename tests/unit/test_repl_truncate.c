/* TRUNCATE on green: where its foreign keys forbid it, where its tables are cut otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/event.h"
#include "replay_pair.h"

static struct cluster cluster;

static const char schema[] =
    "CREATE TABLE customer (id int PRIMARY KEY, v text);"
    "CREATE TABLE orders (id serial PRIMARY KEY, customer int);"
    "CREATE TABLE journal (id int PRIMARY KEY, v text);"
    "CREATE TABLE north (id int PRIMARY KEY, v text); CREATE TABLE south (LIKE north INCLUDING "
    "ALL);"
    "CREATE TABLE part (id int, k text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);"
    "CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');"
    "CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b');"
    "CREATE TABLE anew (id int, k text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);"
    "CREATE TABLE anew_a PARTITION OF anew FOR VALUES IN ('a');"
    "CREATE TABLE anew_b PARTITION OF anew FOR VALUES IN ('b');"
    "INSERT INTO customer SELECT i, 'c' FROM generate_series(1, 50) i;"
    "INSERT INTO orders (customer) SELECT i FROM generate_series(1, 50) i;"
    "INSERT INTO journal SELECT i, 'j' FROM generate_series(1, 50) i;"
    "INSERT INTO north SELECT i, 'n' FROM generate_series(1, 50) i;"
    "INSERT INTO south SELECT i, 's' FROM generate_series(51, 90) i;"
    "INSERT INTO part SELECT i, chr(97 + i % 2) FROM generate_series(1, 50) i;"
    "INSERT INTO anew SELECT i, chr(97 + i % 2) FROM generate_series(1, 50) i;";

/* journal stays what it was, as one partition of several; what comes later goes to the other */
static const char migration[] =
    "ALTER TABLE orders ADD CONSTRAINT bought FOREIGN KEY (customer) REFERENCES customer;"
    "ALTER TABLE journal RENAME TO journal_old;"
    "CREATE TABLE journal (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    "ALTER TABLE journal ATTACH PARTITION journal_old FOR VALUES FROM (0) TO (1000);"
    "CREATE TABLE journal_new PARTITION OF journal FOR VALUES FROM (1000) TO (2000);"
    "CREATE TABLE sides (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    "ALTER TABLE sides ATTACH PARTITION north FOR VALUES FROM (0) TO (51);"
    "ALTER TABLE sides ATTACH PARTITION south FOR VALUES FROM (51) TO (100);"
    "CREATE TABLE anew_now (id int, k text, PRIMARY KEY (id, k)) PARTITION BY HASH (id);"
    "CREATE TABLE anew_0 PARTITION OF anew_now FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    "CREATE TABLE anew_1 PARTITION OF anew_now FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
    "INSERT INTO anew_now SELECT * FROM anew; DROP TABLE anew;"
    "ALTER TABLE anew_now RENAME TO anew;";

struct told {
    int times;
    char text[300];
};

static void hear(void *ctx, const struct event *ev)
{
    struct told *told = ctx;

    if (ev->kind != EVENT_INFO || !ev->text || !strstr(ev->text, "carried out as DELETE"))
        return;
    told->times++;
    snprintf(told->text, sizeof told->text, "%s", ev->text);
}

static void one_by_one_under_a_new_foreign_key(void **state)
{
    struct pair *p = pair_open(&cluster, schema, migration, NULL, 0, 0);
    struct told told = {0};

    (void) state;
    event_subscribe(hear, &told);
    sql(p->blue, "INSERT INTO customer VALUES (51, 'new'); TRUNCATE customer RESTART IDENTITY; "
                 "INSERT INTO customer VALUES (7, 'after')");
    sql(p->blue, "BEGIN; INSERT INTO orders (customer) VALUES (7); TRUNCATE orders; TRUNCATE "
                 "customer; INSERT INTO customer VALUES (8, 'x'); COMMIT");
    sql(p->blue, "INSERT INTO orders (customer) VALUES (8)");
    pair_sync(p);
    event_unsubscribe(hear, &told);
    same(p, "SELECT id, v FROM customer", "SELECT id, v FROM customer");
    same(p, "SELECT id, customer FROM orders", "SELECT id, customer FROM orders");
    is(p->green, "SELECT count(*) FROM customer", "1");
    assert_int_equal(told.times, 1);
    assert_non_null(strstr(told.text, "TRUNCATE of public.customer"));
    assert_true(
        touched_whole(p->changed, map_by_name(&p->map, "public", "customer")->index, false));
    /* both at once is what green allows */
    sql(p->blue, "TRUNCATE customer, orders; INSERT INTO customer VALUES (9, 'y')");
    pair_sync(p);
    is(p->green, "SELECT count(*) FROM orders", "0");
    same(p, "SELECT id, v FROM customer", "SELECT id, v FROM customer");
    pair_close(p);
}

static void a_table_that_became_partitioned(void **state)
{
    struct pair *p = pair_open(&cluster, schema, migration, NULL, 0, 0);

    (void) state;
    sql(p->blue, "INSERT INTO journal VALUES (1500, 'later')");
    pair_sync(p);
    is(p->green, "SELECT count(*) FROM journal_new", "1");
    sql(p->blue, "TRUNCATE journal; INSERT INTO journal VALUES (3, 'x'), (1501, 'y')");
    sql(p->blue, "TRUNCATE part_a; INSERT INTO part VALUES (100, 'a')");
    sql(p->blue, "TRUNCATE anew; INSERT INTO anew VALUES (100, 'a'), (101, 'b')");
    pair_sync(p);
    same(p, "SELECT id, v FROM journal", "SELECT id, v FROM journal");
    same(p, "SELECT tableoid::regclass, id, k FROM part",
         "SELECT tableoid::regclass, id, k FROM part");
    is(p->green, "SELECT count(*) > 10 FROM part_b", "t");
    same(p, "SELECT id, k FROM anew", "SELECT id, k FROM anew");
    /* the two that became one go together */
    sql(p->blue, "TRUNCATE north, south; INSERT INTO south VALUES (1, 'x')");
    pair_sync(p);
    is(p->green, "SELECT string_agg(id::text, ' ') FROM sides", "1");
    pair_close(p);
}

static void others_rows_stop_it(void **state)
{
    static const char *const texts[] = {"TRUNCATE north", "TRUNCATE anew_a"};
    struct error err = {0};

    (void) state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct pair *p = pair_open(&cluster, schema, migration, NULL, 0, 0);
        sql(p->blue, texts[i]);
        pair_wait_failed(p, &err);
        assert_int_equal(err.code, ERR_CONFLICT);
        assert_non_null(strstr(err.message, "can't be replayed"));
        is(p->green, "SELECT count(*) FROM sides", "90");
        is(p->green, "SELECT count(*) FROM anew", "50");
        pair_close(p);
    }
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
        cmocka_unit_test(one_by_one_under_a_new_foreign_key),
        cmocka_unit_test(a_table_that_became_partitioned),
        cmocka_unit_test(others_rows_stop_it),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
