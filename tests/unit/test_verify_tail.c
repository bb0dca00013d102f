/* verify: the tail of changed keys, and constraints that replay doesn't enforce */
#include "base/clock.h"
#include "verify_pair.h"

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
    /* three times, some time apart, with the source's rows as they were */
    for (int64_t deadline = clock_in_ms(20000); stats.suspicious < 2 && !clock_passed(deadline);) {
        stats = pass(v);
        clock_sleep_ms(50);
    }
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

/* the key's columns in another order than the table's; both directions of a bind must agree on it
 */
static void keys_of_several_columns_keep_their_order(void **state)
{
    struct pair p;
    struct verifier *v;
    const char *keys[][2] = {{"0.50", "k2"}, {"0.75", "k3"}, {"9.00", "never"}};
    const int lens[] = {4, 2};
    int64_t compared;
    char *text;
    (void) state;

    pair_open(&p,
              "CREATE TABLE two_keys (b text, a numeric(8,2), v text, PRIMARY KEY (a, b));"
              "INSERT INTO two_keys SELECT 'k' || i, i / 4.0, 'v' FROM generate_series(1, 30) i",
              "SELECT 1", NULL, 0);
    OK(verifier_open(&v, &p.o, p.touched, &err));
    sql(p.blue, "DELETE FROM two_keys WHERE b = 'k2'");
    touched_add(p.touched, 0, 2, keys[0], lens);
    touched_add(p.touched, 0, 2, keys[1], lens);
    touched_add(p.touched, 0, 2, keys[2], (const int[]){4, 5});
    assert_int_equal(final(v, &compared, &text), 1);
    assert_int_equal(compared, 2);
    expect_text(text, "a='0.50', b='k2': still in public.two_keys");
    free(text);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tail_is_compared_until_it_is_equal),
        cmocka_unit_test(keys_of_several_columns_keep_their_order),
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
