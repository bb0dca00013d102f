/* verify: constraints that replay doesn't enforce, for changed keys alone, and the thread that
 * checks them in full beside replay */
#include "verify_pair.h"

#include "steps/recheck.h"

#include <pthread.h>

static const char *const TWO =
    "CREATE TABLE customer (id int PRIMARY KEY, code text UNIQUE);"
    "CREATE TABLE orders (id int PRIMARY KEY, customer int, code text, pos int);"
    "INSERT INTO customer SELECT i, 'c' || i FROM generate_series(1, 20) i;"
    "INSERT INTO orders SELECT i, i % 20 + 1, 'c' || i % 20 + 1, i FROM generate_series(1, 50) i;";
static const char *const FK =
    "ALTER TABLE orders ADD CONSTRAINT new_fk FOREIGN KEY (customer) REFERENCES customer";
static const char *const FK_WITH_INDEX =
    "CREATE INDEX ON orders (customer);"
    "ALTER TABLE orders ADD CONSTRAINT new_fk FOREIGN KEY (customer) REFERENCES customer";

/* As replay does it. */
static void on_green(struct pair *p, const char *text)
{
    sql(p->green, "SET session_replication_role = replica");
    sql(p->green, text);
}

static void checks_open(struct pair *p, struct constraint_checks *c, size_t n)
{
    OK(constraint_checks_derive(c, &p->map, &err));
    assert_int_equal(c->n, n);
    OK(constraint_checks_run(c, p->green_pg, CLOCK_NONE, &err));
}

static void holds(struct pair *p, struct constraint_checks *c)
{
    OK(constraint_checks_run_changed(c, p->green_pg, &p->map, p->touched, clock_in_ms(20000),
                                     &err));
}

static void violated(struct pair *p, struct constraint_checks *c, const char *name,
                     const char *values)
{
    struct error no = {0};

    assert_false(constraint_checks_run_changed(c, p->green_pg, &p->map, p->touched,
                                               clock_in_ms(20000), &no));
    if (no.code != ERR_NOGO)
        fail_msg("%s (%s)", no.message, no.detail);
    expect_text(no.message, name);
    expect_text(no.message, values);
}

static struct constraint_backlog backlog(struct pair *p, struct constraint_checks *c)
{
    struct constraint_backlog b;

    constraint_checks_backlog(c, &p->map, p->touched, &b);
    return b;
}

static void an_orphan_came_with_a_child(void **state)
{
    struct pair p;
    struct constraint_checks c;
    (void) state;

    pair_open(&p, TWO, FK, NULL, 0);
    checks_open(&p, &c, 1);
    on_green(&p, "INSERT INTO orders VALUES (100, 77), (101, NULL), (102, 5)");
    touch(&p, "orders", "101");
    touch(&p, "orders", "102");
    touch(&p, "orders", "4000");
    holds(&p, &c); /* keys that weren't touched aren't looked at */
    touch(&p, "orders", "100");
    violated(&p, &c,
             "foreign key \"new_fk\" of public.orders is violated: no row in public.customer",
             "customer='77'");
    assert_int_equal(touched_count(p.touched), 4);
    on_green(&p, "UPDATE orders SET customer = 1 WHERE id = 100");
    holds(&p, &c);
    on_green(&p, "UPDATE orders SET customer = 78 WHERE id = 102");
    violated(&p, &c, "\"new_fk\"", "customer='78'");
    constraint_checks_release(&c);
    pair_close(&p);
}

static void a_parent_went(const char *migration, bool indexed)
{
    struct pair p;
    struct constraint_checks c;

    pair_open(&p, TWO, migration, NULL, 0);
    checks_open(&p, &c, 1);
    assert_int_equal(c.items[0].indexed, indexed);
    assert_int_equal(constraint_check_costly(&c.items[0], &p.map) == NULL, indexed);
    touch(&p, "customer", "3");
    touch(&p, "customer", "7");
    holds(&p, &c);
    on_green(&p, "DELETE FROM customer WHERE id = 7");
    violated(&p, &c, "\"new_fk\"", "customer='7'");
    on_green(&p, "DELETE FROM orders WHERE customer = 7");
    holds(&p, &c);
    /* its key changed: old and new are touched */
    on_green(&p, "UPDATE customer SET id = 99 WHERE id = 3");
    touch(&p, "customer", "99");
    violated(&p, &c, "\"new_fk\"", "customer='3'");
    on_green(&p, "UPDATE orders SET customer = 99 WHERE customer = 3");
    holds(&p, &c);
    constraint_checks_release(&c);
    pair_close(&p);
}

static void a_parent_went_with_an_index(void **state)
{
    (void) state;
    a_parent_went(FK_WITH_INDEX, true);
}

static void a_parent_went_without_an_index(void **state)
{
    (void) state;
    a_parent_went(FK, false);
}

static void other_columns_than_the_key(void **state)
{
    struct pair p;
    struct constraint_checks c;
    (void) state;

    pair_open(&p, TWO,
              "ALTER TABLE orders ADD CONSTRAINT by_code FOREIGN KEY (code) REFERENCES customer "
              "(code)",
              NULL, 0);
    checks_open(&p, &c, 1);
    expect_text(constraint_check_costly(&c.items[0], &p.map), "other columns than the key");
    on_green(&p, "UPDATE customer SET code = 'new' WHERE id = 5");
    touch(&p, "orders", "1");
    assert_int_equal(backlog(&p, &c).full, 0);
    holds(&p, &c);
    touch(&p, "customer", "5");
    assert_int_equal(backlog(&p, &c).full, 1);
    violated(&p, &c, "\"by_code\"", "code='c5'");
    constraint_checks_release(&c);
    pair_close(&p);
}

/* The child's rows come from leaves, its key by a rule, and the parent's, too. */
static void partitions_and_keys_by_rule(void **state)
{
    static const struct map_up ups[] = {{"id", "id + 1000"}};
    const struct map_rule rules[] = {
        {.section = "public.customer", .up = (struct map_up *) (uintptr_t) ups, .nup = 1},
    };
    struct pair p;
    struct constraint_checks c;
    (void) state;

    pair_open(&p,
              "CREATE TABLE customer (id int PRIMARY KEY);"
              "INSERT INTO customer SELECT i FROM generate_series(1, 20) i;"
              "CREATE TABLE orders (day int, id text, customer int, PRIMARY KEY (day, id)) "
              "PARTITION BY RANGE (day);"
              "CREATE TABLE o1 PARTITION OF orders FOR VALUES FROM (0) TO (10);"
              "CREATE TABLE o2 PARTITION OF orders FOR VALUES FROM (10) TO (20);"
              "INSERT INTO orders SELECT i % 20, 'x', 1 + i FROM generate_series(0, 19) i",
              "UPDATE customer SET id = id + 1000; UPDATE orders SET customer = customer + 1000;"
              "ALTER TABLE orders ADD CONSTRAINT new_fk FOREIGN KEY (customer) REFERENCES customer",
              rules, 1);
    checks_open(&p, &c, 1);
    for (size_t i = 0; i < p.map.ntables; i++) {
        const char *key[] = {"12", "it's \"x\""};
        if (strcmp(p.map.tables[i].source->name, "o2") == 0)
            touched_add(p.touched, i, 2, key, (const int[]){2, 8});
    }
    holds(&p, &c);
    on_green(&p, "INSERT INTO orders VALUES (12, 'it''s \"x\"', 5)");
    violated(&p, &c, "foreign key \"new_fk\" of public.orders", "customer='5'");
    on_green(&p, "UPDATE orders SET customer = 1005 WHERE id <> 'x'");
    holds(&p, &c);
    on_green(&p, "DELETE FROM customer WHERE id = 1007");
    touch(&p, "customer", "8");
    holds(&p, &c);
    touch(&p, "customer", "7");
    violated(&p, &c, "foreign key \"new_fk\" of public.orders", "customer='1007'");
    constraint_checks_release(&c);
    pair_close(&p);
}

/* A foreign key of one partition alone, and one to a partition. */
static void keys_of_single_partitions(void **state)
{
    struct pair p;
    struct constraint_checks c;
    (void) state;

    pair_open(&p,
              "CREATE TABLE customer (id int PRIMARY KEY) PARTITION BY RANGE (id);"
              "CREATE TABLE c1 PARTITION OF customer FOR VALUES FROM (0) TO (10);"
              "CREATE TABLE c2 PARTITION OF customer FOR VALUES FROM (10) TO (20);"
              "INSERT INTO customer SELECT i FROM generate_series(1, 19) i;"
              "CREATE TABLE orders (id int PRIMARY KEY, customer int) PARTITION BY RANGE (id);"
              "CREATE TABLE o1 PARTITION OF orders FOR VALUES FROM (0) TO (10);"
              "CREATE TABLE o2 PARTITION OF orders FOR VALUES FROM (10) TO (20);"
              "INSERT INTO orders SELECT i, i FROM generate_series(1, 19) i",
              "ALTER TABLE o2 ADD CONSTRAINT one FOREIGN KEY (customer) REFERENCES c2", NULL, 0);
    checks_open(&p, &c, 1);
    on_green(&p, "UPDATE orders SET customer = 99 WHERE id = 5; UPDATE orders SET customer = 3 "
                 "WHERE id = 12");
    touch(&p, "o1", "5");
    holds(&p, &c);
    touch(&p, "o2", "12");
    violated(&p, &c, "foreign key \"one\" of public.o2", "customer='3'");
    on_green(&p,
             "UPDATE orders SET customer = 13 WHERE id = 12; DELETE FROM customer WHERE id = 15");
    holds(&p, &c);
    touch(&p, "c2", "15");
    violated(&p, &c, "foreign key \"one\" of public.o2", "customer='15'");
    constraint_checks_release(&c);
    pair_close(&p);
}

static void deferrable_constraints(void **state)
{
    struct pair p;
    struct constraint_checks c;
    (void) state;

    pair_open(&p, TWO,
              "ALTER TABLE orders ADD CONSTRAINT pos_once UNIQUE (pos, code) DEFERRABLE;"
              "ALTER TABLE orders ADD during int4range; UPDATE orders SET during = "
              "int4range(id * 10, id * 10 + 10);"
              "ALTER TABLE orders ADD CONSTRAINT apart EXCLUDE USING gist (during WITH &&) "
              "DEFERRABLE",
              NULL, 0);
    checks_open(&p, &c, 2);
    on_green(&p, "UPDATE orders SET pos = 2, code = 'c3' WHERE id IN (2, 4)");
    touch(&p, "orders", "9");
    holds(&p, &c);
    touch(&p, "orders", "4");
    violated(&p, &c,
             "deferrable constraint \"pos_once\" of public.orders is violated by several rows",
             "pos='2', code='c3'");
    on_green(&p, "UPDATE orders SET pos = NULL WHERE id = 4");
    holds(&p, &c);
    on_green(&p, "UPDATE orders SET during = '[85,95)' WHERE id = 9");
    violated(&p, &c, "\"apart\" of public.orders", "during='[8");
    constraint_checks_release(&c);
    pair_close(&p);
}

static void what_keys_cannot_say_is_checked_in_full(void **state)
{
    struct pair p;
    struct constraint_checks c;
    (void) state;

    pair_open(&p, TWO, FK_WITH_INDEX, NULL, 0);
    checks_open(&p, &c, 1);
    on_green(&p, "DELETE FROM customer WHERE id = 7");
    holds(&p, &c);
    touch_whole(&p, "customer"); /* TRUNCATE, an overflow */
    assert_int_equal(backlog(&p, &c).full, 1);
    violated(&p, &c, "\"new_fk\"", "customer='7'");
    touched_clear(p.touched);
    touch_whole(&p, "orders");
    violated(&p, &c, "\"new_fk\"", "customer='7'");
    constraint_checks_release(&c);
    pair_close(&p);
}

static void nothing_changed_nothing_asked(void **state)
{
    atomic_bool interrupt = true;
    struct pair p;
    struct constraint_checks c;
    struct error no = {0};
    (void) state;

    pair_open(&p, TWO, FK, NULL, 0);
    sql(p.green, "CREATE TABLE other (id int PRIMARY KEY)");
    checks_open(&p, &c, 1);
    pg_set_interrupt(p.green_pg, &interrupt); /* any statement fails now */
    holds(&p, &c);
    OK(constraint_checks_run_changed(&c, p.green_pg, &p.map, NULL, CLOCK_NONE, &err));
    touch(&p, "orders", "1");
    assert_false(constraint_checks_run_changed(&c, p.green_pg, &p.map, p.touched, CLOCK_NONE, &no));
    assert_int_equal(no.code, ERR_BUDGET);
    pg_set_interrupt(p.green_pg, NULL);
    holds(&p, &c);
    constraint_checks_release(&c);
    pair_close(&p);
}

static long long number(PGconn *conn, const char *text)
{
    PGresult *res = PQexec(conn, text);
    long long n;

    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(conn));
    n = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    PQclear(res);
    return n;
}

/* A large table is read by index alone, though the server knows nothing about its size. */
static void no_table_is_read_from_end_to_end(void **state)
{
    struct pair p;
    struct constraint_checks c;
    int64_t began;
    char key[16];
    (void) state;

    pair_open(&p,
              "CREATE TABLE customer (id int PRIMARY KEY);"
              "CREATE TABLE orders (id int PRIMARY KEY, customer int, pos int)",
              "CREATE INDEX ON orders (customer);"
              "ALTER TABLE orders ADD CONSTRAINT new_fk FOREIGN KEY (customer) REFERENCES customer;"
              "ALTER TABLE orders ADD CONSTRAINT pos_once UNIQUE (pos) DEFERRABLE;"
              "ALTER TABLE orders SET (autovacuum_enabled = off);"
              "ALTER TABLE customer SET (autovacuum_enabled = off)",
              NULL, 0);
    on_green(&p, "INSERT INTO customer SELECT generate_series(1, 50000);"
                 "INSERT INTO orders SELECT i, i % 40000 + 1, i FROM generate_series(1, 200000) i;"
                 "DELETE FROM customer WHERE id > 49000");
    checks_open(&p, &c, 2);
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof key, "%d", i * 30);
        touch(&p, "orders", key);
        snprintf(key, sizeof key, "%d", 50000 - i);
        touch(&p, "customer", key);
    }
    OK(pg_exec(p.green_pg, "SELECT pg_catalog.pg_stat_force_next_flush()", &err));
    OK(pg_exec(p.green_pg, "SELECT 1", &err));
    sql(p.green, "SELECT pg_stat_reset()");
    began = clock_us();
    holds(&p, &c);
    print_message("10,000 changed keys: %.1f ms; in full: %.1f ms and %.1f ms\n",
                  (double) (clock_us() - began) / 1000, (double) c.items[0].elapsed_us / 1000,
                  (double) c.items[1].elapsed_us / 1000);
    OK(pg_exec(p.green_pg, "SELECT pg_catalog.pg_stat_force_next_flush()", &err));
    OK(pg_exec(p.green_pg, "SELECT 1", &err));
    assert_int_equal(number(p.green, "SELECT sum(seq_tup_read) FROM pg_stat_user_tables"), 0);
    assert_true(number(p.green, "SELECT sum(idx_scan) FROM pg_stat_user_tables") >= 10000);
    on_green(&p, "DELETE FROM customer WHERE id = 30000; INSERT INTO orders VALUES (0, 1, 777)");
    violated(&p, &c, "\"pos_once\"", "pos='777'");
    on_green(&p, "DELETE FROM orders WHERE id = 0");
    holds(&p, &c);
    touch(&p, "customer", "30000");
    violated(&p, &c, "\"new_fk\"", "customer='30000'");
    OK(pg_exec(p.green_pg, "SELECT pg_catalog.pg_stat_force_next_flush()", &err));
    OK(pg_exec(p.green_pg, "SELECT 1", &err));
    assert_true(number(p.green, "SELECT sum(seq_tup_read) FROM pg_stat_user_tables") < 1000000);
    constraint_checks_release(&c);
    pair_close(&p);
}

/* ---- the thread ---- */

struct scene {
    struct pair p;
    struct cutover c;
    struct recheck *r;
};

static void scene_open(struct scene *s)
{
    *s = (struct scene){0};
    pair_open(&s->p, TWO, FK, NULL, 0);
    s->c.map = s->p.map;
    s->c.changed = s->p.touched;
    s->c.green.name = "green";
    s->c.green.conninfo = cluster.conninfo;
    s->c.green.dbname = s->p.green_name;
    snprintf(s->c.names.run, sizeof s->c.names.run, "t");
    checks_open(&s->p, &s->c.checks, 1);
    OK(recheck_start(&s->r, &s->c, &err));
}

static void scene_close(struct scene *s)
{
    recheck_stop(s->r);
    constraint_checks_release(&s->c.checks);
    pair_close(&s->p);
}

static void full_runs_forget_what_changed_before(void **state)
{
    struct scene s;
    struct constraint_backlog b;
    int64_t until = clock_in_ms(20000);
    (void) state;

    scene_open(&s);
    touch(&s.p, "orders", "1");
    touch(&s.p, "orders", "2");
    recheck_backlog(s.r, &b);
    assert_int_equal(b.keys, 2);
    recheck_want(s.r);
    do {
        recheck_backlog(s.r, &b);
        clock_sleep_ms(5);
    } while (b.keys && !clock_passed(until));
    assert_int_equal(b.keys, 0);
    OK(recheck_error(s.r, &err));
    scene_close(&s);
}

/* A statement that waits is cancelled, and what it was about isn't forgotten. */
static void a_pause_cancels_a_full_run(void **state)
{
    struct scene s;
    struct constraint_backlog b;
    int64_t until = clock_in_ms(20000), began;
    (void) state;

    scene_open(&s);
    touch(&s.p, "orders", "1");
    sql(s.p.green, "BEGIN; LOCK orders IN ACCESS EXCLUSIVE MODE");
    recheck_want(s.r);
    while (touched_count(s.p.touched) > 0 && !clock_passed(until))
        clock_sleep_ms(5);
    assert_int_equal(touched_count(s.p.touched), 0);
    touch(&s.p, "orders", "2");
    recheck_backlog(s.r, &b);
    assert_int_equal(b.keys, 2);
    began = clock_us();
    recheck_pause(s.r);
    assert_true(clock_us() - began < 2000000);
    assert_int_equal(touched_count(s.p.touched), 2);
    OK(recheck_error(s.r, &err));
    sql(s.p.green, "COMMIT");
    recheck_want(s.r);
    clock_sleep_ms(300);
    assert_int_equal(touched_count(s.p.touched), 2); /* paused */
    recheck_go_on(s.r);
    while (touched_count(s.p.touched) > 0 && !clock_passed(until))
        clock_sleep_ms(5);
    assert_int_equal(touched_count(s.p.touched), 0);
    scene_close(&s);
}

static void what_a_second_run_finds_too_is_an_error(void **state)
{
    struct scene s;
    struct error found = {0};
    int64_t until = clock_in_ms(20000), began = clock_us();
    (void) state;

    scene_open(&s);
    on_green(&s.p, "INSERT INTO orders VALUES (100, 77)");
    touch(&s.p, "orders", "100");
    recheck_want(s.r);
    while (recheck_error(s.r, &found) && !clock_passed(until))
        clock_sleep_ms(10);
    assert_int_equal(found.code, ERR_NOGO);
    expect_text(found.message, "customer='77'");
    assert_true(clock_us() - began >= 2000000);
    recheck_pause(s.r); /* of a thread that has ended: at once */
    assert_int_equal(touched_count(s.p.touched), 1);
    scene_close(&s);
}

static void what_was_mended_meanwhile_is_none(void **state)
{
    struct scene s;
    struct error found = {0};
    int64_t until = clock_in_ms(20000);
    (void) state;

    scene_open(&s);
    on_green(&s.p, "INSERT INTO orders VALUES (100, 77)");
    touch(&s.p, "orders", "100");
    sql(s.p.green, "BEGIN; LOCK orders IN ACCESS EXCLUSIVE MODE; COMMIT");
    recheck_want(s.r);
    while (touched_count(s.p.touched) > 0 && !clock_passed(until))
        clock_sleep_ms(1);
    clock_sleep_ms(500); /* the first run is over by far, the second isn't due */
    on_green(&s.p, "UPDATE orders SET customer = 1 WHERE id = 100");
    while (touched_count(s.p.touched) > 0 && !clock_passed(until))
        clock_sleep_ms(10);
    assert_int_equal(touched_count(s.p.touched), 0);
    if (!recheck_error(s.r, &found))
        fail_msg("%s", found.message);
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_orphan_came_with_a_child),
        cmocka_unit_test(a_parent_went_with_an_index),
        cmocka_unit_test(a_parent_went_without_an_index),
        cmocka_unit_test(other_columns_than_the_key),
        cmocka_unit_test(partitions_and_keys_by_rule),
        cmocka_unit_test(keys_of_single_partitions),
        cmocka_unit_test(deferrable_constraints),
        cmocka_unit_test(what_keys_cannot_say_is_checked_in_full),
        cmocka_unit_test(nothing_changed_nothing_asked),
        cmocka_unit_test(no_table_is_read_from_end_to_end),
        cmocka_unit_test(full_runs_forget_what_changed_before),
        cmocka_unit_test(a_pause_cancels_a_full_run),
        cmocka_unit_test(what_a_second_run_finds_too_is_an_error),
        cmocka_unit_test(what_was_mended_meanwhile_is_none),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
