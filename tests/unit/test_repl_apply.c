/* Changes of blue arrive on green, through the map, exactly once: from the slot to the commit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replay_shop.h"

static struct cluster cluster;

static void wait_for(PGconn *conn, const char *text)
{
    int64_t until = clock_in_ms(20000);
    bool yes = false;

    while (!yes) {
        char *got = value(conn, text);
        yes = got[0] == 't';
        free(got);
        assert_false(clock_passed(until));
        clock_sleep_ms(5);
    }
}

/* Waiting for a standby that never comes, the commit is durable and unconfirmed; then the session
 * ends. */
static void a_commit_without_an_answer_is_found_out(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
    struct error err = {0};
    const char *key = "7777";
    int len = 4;
    PGconn *admin = cluster_client(&cluster, "postgres", "admin");

    (void) state;
    check(apply_hold(p->apply, clock_in_ms(10000), &err), &err);
    sql(admin, "SET synchronous_commit = local");
    sql(p->blue, "SET synchronous_commit = local");
    sql(p->blue,
        "INSERT INTO account VALUES (7777, 'once', 1); INSERT INTO loose VALUES ('once', 1)");
    sql(admin, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    sql(admin, "SELECT pg_reload_conf()");
    wait_for(p->green,
             "SELECT setting = 'nobody' FROM pg_settings WHERE name = 'synchronous_standby_names'");
    apply_go_on(p->apply);
    wait_for(admin, "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity "
                    "WHERE application_name = 'pgcutover/test/apply' AND wait_event = 'SyncRep'");
    sql(admin, "ALTER SYSTEM RESET synchronous_standby_names");
    sql(admin, "SELECT pg_reload_conf()");
    pair_sync(p);
    all_same(p);
    is(p->green, "SELECT count(*) FROM loose WHERE line = 'once'", "1");
    assert_true(
        touched_has(p->touched, map_by_name(&p->map, "public", "account")->index, 1, &key, &len));
    assert_true(
        touched_has(p->changed, map_by_name(&p->map, "public", "account")->index, 1, &key, &len));
    PQfinish(admin);
    pair_close(p);
}

static void unique_values_are_swapped(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
    struct apply_stats stats = {0};

    (void) state;
    sql(p->blue, "BEGIN; UPDATE account SET email = 't' WHERE id = 1; UPDATE account SET email = "
                 "'m1' WHERE id = 2;"
                 "UPDATE account SET email = 'm2' WHERE id = 1; COMMIT");
    sql(p->blue, "BEGIN; UPDATE seat SET pos = 2 WHERE id = 1; UPDATE seat SET pos = 1 WHERE id = "
                 "2; COMMIT");
    pair_sync(p);
    is(p->green, "SELECT string_agg(mail, ',' ORDER BY id) FROM crm.customer WHERE id < 3",
       "m2,m1");
    all_same(p);
    apply_stats(p->apply, &stats);
    assert_true(stats.redone >= 1);
    pair_close(p);
}

static void keys_change(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
    struct apply_stats stats = {0};
    const char *key = "1001";
    int len = 4;

    (void) state;
    sql(p->blue,
        "BEGIN; UPDATE account SET id = 1001 WHERE id = 2; UPDATE account SET id = 2 WHERE id = 1;"
        "UPDATE account SET id = 1 WHERE id = 1001; UPDATE account SET note = 'z' WHERE id IN (1, "
        "2); COMMIT");
    sql(p->blue,
        "BEGIN; DELETE FROM account WHERE id = 5; INSERT INTO account VALUES (5, 'five', 5);"
        "DELETE FROM account WHERE id = 5; INSERT INTO account VALUES (5, 'm5', 55); COMMIT");
    sql(p->blue, "UPDATE pair SET b = 'new', a = a + 1000 WHERE a < 50");
    sql(p->blue, "UPDATE part SET region = 'us' WHERE region = 'eu'; UPDATE part SET region = 'eu' "
                 "WHERE id < 100");
    pair_sync(p);
    all_same(p);
    apply_stats(p->apply, &stats);
    assert_int_equal(stats.redone, 0);
    assert_true(
        touched_has(p->touched, map_by_name(&p->map, "public", "account")->index, 1, &key, &len));
    pair_close(p);
}

static void one_transaction_of_any_size(void **state)
{
    struct pair *p = shop_open(&cluster, 5000);
    struct apply_stats before = {0};
    struct apply_stats stats = {0};

    (void) state;
    apply_stats(p->apply, &before);
    sql(p->blue, "INSERT INTO pair SELECT i, 'big', 0 FROM generate_series(1, 300000) i");
    pair_sync(p);
    apply_stats(p->apply, &stats);
    is(p->green,
       "SELECT count(*) || ' ' || count(DISTINCT xmin::text) > '300000' FROM pair WHERE b = 'big'",
       "t");
    is(p->green, "SELECT count(*) FROM pair WHERE b = 'big'", "300000");
    assert_int_equal(stats.inserts - before.inserts, 300000);
    assert_true(stats.batches - before.batches <= 3);
    assert_int_equal(touched_count_table(p->touched, map_by_name(&p->map, "public", "pair")->index),
                     300000);
    pair_close(p);
}

static void truncate_as_it_was_sent(void **state)
{
    struct pair *p = shop_open(&cluster, 0);

    (void) state;
    sql(p->blue, "INSERT INTO pair VALUES (7777, 'x', 1); TRUNCATE pair, account; INSERT INTO pair "
                 "VALUES (1, 'y', 2)");
    sql(p->blue, "TRUNCATE part_eu; INSERT INTO part VALUES (1, 'eu', 'after')");
    sql(p->blue, "INSERT INTO loose VALUES ('x', 1)");
    sql(p->blue, "TRUNCATE loose RESTART IDENTITY");
    pair_sync(p);
    all_same(p);
    is(p->green, "SELECT count(*) FROM crm.customer", "0");
    is(p->green, "SELECT count(*) > 1 FROM part", "t");
    assert_true(touched_whole(p->touched, map_by_name(&p->map, "public", "account")->index, false));
    assert_true(touched_whole(p->changed, map_by_name(&p->map, "public", "account")->index, false));
    pair_close(p);
}

static lsn_t insert_one(struct pair *p, int id)
{
    char text[128];
    lsn_t lsn = 0;

    snprintf(text, sizeof text, "INSERT INTO pair VALUES (%d, 'to', 0)", id);
    sql(p->blue, text);
    char *at = value(p->blue, "SELECT pg_current_wal_insert_lsn()");
    assert_true(lsn_parse(at, &lsn));
    free(at);
    return lsn;
}

static void run_to_is_exact(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
    const char *count = "SELECT count(*) FROM pair WHERE b = 'to'";
    struct error err = {0};
    struct apply_stats stats = {0};
    lsn_t lsn[6];

    (void) state;
    check(apply_hold(p->apply, clock_in_ms(10000), &err), &err);
    for (int i = 0; i < 6; i++)
        lsn[i] = insert_one(p, i + 1);
    is(p->green, count, "0");
    check(apply_run_to(p->apply, lsn[2], clock_in_ms(10000), &err), &err);
    is(p->green, count, "3");
    check(apply_run_to(p->apply, lsn[2], clock_in_ms(10000), &err), &err);
    check(apply_run_to(p->apply, lsn[3], clock_in_ms(10000), &err), &err);
    is(p->green, count, "4");
    apply_stats(p->apply, &stats);
    assert_true(stats.held);
    assert_false(apply_run_to(p->apply, lsn[1], clock_in_ms(10000), &err));
    assert_int_equal(err.code, ERR_INTERNAL);
    assert_false(apply_wait_marker(p->apply, 1000, clock_in_ms(50), &err));
    assert_int_equal(err.code, ERR_BUDGET);
    is(p->green, count, "4");
    apply_go_on(p->apply);
    check(apply_hold(p->apply, clock_in_ms(10000), &err), &err);
    apply_go_on(p->apply);
    pair_sync(p);
    is(p->green, count, "6");
    pair_close(p);
}

/* Breaks green, writes on blue, reads the conflict, mends green, goes on. */
static void conflict(struct pair *p, const char *damage, const char *change, const char *mend,
                     const char *said, const char *state)
{
    struct error err = {0};

    sql(p->green, damage);
    sql(p->blue, "UPDATE part SET v = 'before the conflict' WHERE id = 1");
    sql(p->blue, change);
    pair_wait_failed(p, &err);
    assert_int_equal(err.code, ERR_CONFLICT);
    if (!strstr(err.message, said) || strcmp(err.sqlstate, state) != 0 ||
        !strstr(err.message, "at commit"))
        fail_msg("\"%s\" [%s] should say \"%s\" [%s]", err.message, err.sqlstate, said, state);
    assert_non_null(strstr(err.hint, "pgcutover resume"));
    sql(p->green, mend);
    pair_restart_apply(p);
    pair_sync(p);
    all_same(p);
}

static void conflicts_name_the_row(void **state)
{
    struct pair *p = shop_open(&cluster, 0);

    (void) state;
    conflict(p,
             "CREATE TABLE aside AS SELECT * FROM crm.customer WHERE id = 7; DELETE FROM "
             "crm.customer WHERE id = 7",
             "UPDATE account SET note = 'q' WHERE id BETWEEN 6 AND 8",
             "INSERT INTO crm.customer SELECT * FROM aside", "UPDATE of public.account (id = 7)",
             "");
    conflict(p, "DELETE FROM pair WHERE aa = 9", "DELETE FROM pair WHERE a = 9",
             "INSERT INTO pair VALUES (9, 'p2', 9)", "DELETE of public.pair (b = p2, a = 9)", "");
    conflict(p, "INSERT INTO pair VALUES (5000, 'dup', 0)",
             "INSERT INTO pair VALUES (5000, 'dup', 1)", "DELETE FROM pair WHERE aa = 5000",
             "INSERT of public.pair (b = dup, a = 5000)", "23505");
    conflict(p, "ALTER TABLE crm.customer ALTER note SET NOT NULL",
             "UPDATE account SET note = NULL WHERE id = 8",
             "ALTER TABLE crm.customer ALTER note DROP NOT NULL",
             "UPDATE of public.account (id = 8)", "23502");
    conflict(p, "ALTER TABLE crm.customer ALTER note TYPE varchar(10)",
             "UPDATE account SET note = 'more than ten letters' WHERE id = 8",
             "ALTER TABLE crm.customer ALTER note TYPE varchar(40)",
             "UPDATE of public.account (id = 8)", "22001");
    conflict(p, "DELETE FROM loose WHERE line = 'l1' AND n = 1",
             "DELETE FROM loose WHERE line = 'l1' AND n = 1",
             "INSERT INTO loose SELECT 'l1', 1 FROM generate_series(1, 4)",
             "DELETE of public.loose (line = l1, n = 1)", "");
    pair_close(p);
}

/* The rule needs body whenever title changes. Blue sends it only when it changed, or with the whole
 * old row. */
static void a_rule_without_its_value_stops(void **state)
{
    static struct map_up ups[] = {{.column = "both_of_them", .expr = "title || body"}};
    static const struct map_rule rules[] = {
        {.section = "public.page", .line = 1, .up = ups, .nup = 1}};
    struct pair *p = pair_open(
        &cluster,
        "CREATE TABLE page (id int PRIMARY KEY, title text, body text);"
        "ALTER TABLE page ALTER body SET STORAGE EXTERNAL;"
        "INSERT INTO page SELECT i, 't', repeat('b', 5000) FROM generate_series(1, 5) i;",
        "ALTER TABLE page ADD both_of_them text; UPDATE page SET both_of_them = title || body;"
        "ALTER TABLE page DROP title, DROP body;",
        rules, 1, 0);
    struct error err = {0};

    (void) state;
    sql(p->blue,
        "UPDATE page SET body = 'short' WHERE id = 1; UPDATE page SET title = 'new' WHERE id = 1");
    sql(p->blue, "ALTER TABLE page REPLICA IDENTITY FULL");
    sql(p->blue, "UPDATE page SET title = 'full' WHERE id = 2");
    pair_sync(p);
    same(p, "SELECT id, title || body FROM page", "SELECT id, both_of_them FROM page");
    sql(p->blue, "ALTER TABLE page REPLICA IDENTITY DEFAULT");
    sql(p->blue, "UPDATE page SET title = 'lost' WHERE id = 3");
    pair_wait_failed(p, &err);
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_non_null(strstr(err.message, "public.page (id = 3)"));
    assert_non_null(strstr(err.message, "column body"));
    assert_non_null(strstr(err.hint, "REPLICA IDENTITY FULL"));
    pair_close(p);
}

/* Begun in the middle, replay has to know relations that are told no more. */
static void the_middle_of_the_spool_is_enough(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
    struct error err = {0};
    struct touched *scanned = touched_new(p->map.ntables, 1000);
    const char *keys[] = {"3", "4", "5"};
    int len = 1;
    size_t account = map_by_name(&p->map, "public", "account")->index;

    (void) state;
    sql(p->blue, "UPDATE account SET note = 'one' WHERE id = 3");
    pair_sync(p);
    pair_restart_apply(p);
    sql(p->blue, "UPDATE account SET note = 'two' WHERE id = 4");
    pair_sync(p);
    all_same(p);
    lsn_t to = insert_one(p, 1);
    sql(p->blue, "UPDATE account SET note = 'three' WHERE id = 5");
    pair_sync(p);
    check(apply_scan_touched(p->spool, &p->map, to, scanned, &err), &err);
    assert_true(touched_has(scanned, account, 1, &keys[0], &len));
    assert_true(touched_has(scanned, account, 1, &keys[1], &len));
    assert_false(touched_has(scanned, account, 1, &keys[2], &len));
    assert_int_equal(touched_count(scanned), 3);
    touched_free(scanned);
    pair_close(p);
}

static void ddl_on_blue_stops_replay(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
    struct error err = {0};

    (void) state;
    sql(p->blue, "ALTER TABLE pair ADD extra int; INSERT INTO pair VALUES (1, 'ddl', 1, 1)");
    pair_wait_failed(p, &err);
    assert_int_equal(err.code, ERR_NOGO);
    assert_non_null(strstr(err.message, "public.pair"));
    assert_non_null(strstr(err.message, "\"extra\""));
    is(p->green, "SELECT count(*) FROM pair WHERE b = 'ddl'", "0");
    pair_close(p);
}

/* What replay of the other direction wrote doesn't come back. */
static void our_own_writing_is_passed_over(void **state)
{
    struct pair *p = shop_open(&cluster, 0);

    (void) state;
    sql(p->blue, "SELECT pg_replication_origin_create('pgcutover_test_1');"
                 "SELECT pg_replication_origin_create('pgcutover_test_1x');"
                 "SELECT pg_replication_origin_session_setup('pgcutover_test_1')");
    sql(p->blue, "INSERT INTO pair VALUES (1, 'ours', 0)");
    sql(p->blue, "SELECT pg_replication_origin_session_reset();"
                 "SELECT pg_replication_origin_session_setup('pgcutover_test_1x')");
    sql(p->blue, "INSERT INTO pair VALUES (1, 'another', 0)");
    sql(p->blue, "SELECT pg_replication_origin_session_reset();"
                 "SELECT pg_replication_origin_drop('pgcutover_test_1');"
                 "SELECT pg_replication_origin_drop('pgcutover_test_1x')");
    pair_sync(p);
    is(p->green, "SELECT string_agg(b, ',') FROM pair WHERE aa = 1 AND v = 0", "another");
    pair_close(p);
}

static void a_lone_change_does_not_wait(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
    int64_t best = INT64_MAX;

    (void) state;
    for (int i = 0; i < 20; i++) {
        int64_t n = 0, began;
        lsn_t lsn = 0;
        struct error err = {0};
        insert_one(p, i);
        began = clock_us();
        check(marker_write(p->blue_pg, RUN, &n, &lsn, &err), &err);
        check(apply_wait_marker(p->apply, n, clock_in_ms(10000), &err), &err);
        if (clock_us() - began < best)
            best = clock_us() - began;
    }
    print_message("a marker takes %lld us at best\n", (long long) best);
    assert_true(best < 50000);
    pair_close(p);
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
        cmocka_unit_test(a_commit_without_an_answer_is_found_out),
        cmocka_unit_test(unique_values_are_swapped),
        cmocka_unit_test(keys_change),
        cmocka_unit_test(one_transaction_of_any_size),
        cmocka_unit_test(truncate_as_it_was_sent),
        cmocka_unit_test(run_to_is_exact),
        cmocka_unit_test(conflicts_name_the_row),
        cmocka_unit_test(a_rule_without_its_value_stops),
        cmocka_unit_test(the_middle_of_the_spool_is_enough),
        cmocka_unit_test(ddl_on_blue_stops_replay),
        cmocka_unit_test(our_own_writing_is_passed_over),
        cmocka_unit_test(a_lone_change_does_not_wait),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
