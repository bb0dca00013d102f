/* Changes of blue arrive on green, through the map, exactly once: on a real cluster, from slot to
 * commit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replay_pair.h"

static struct cluster cluster;

static const char schema[] =
    "CREATE TABLE account (id int PRIMARY KEY, email text UNIQUE, balance numeric NOT NULL, note "
    "varchar(40), "
    " big text, stamp timestamptz DEFAULT now());"
    "CREATE TABLE pair (a int, b text, v int, PRIMARY KEY (b, a));"
    "CREATE TABLE loose (line text, n int);"
    "ALTER TABLE loose REPLICA IDENTITY FULL;"
    "CREATE TABLE part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST "
    "(region);"
    "CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');"
    "CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');"
    "CREATE TABLE gone (id int PRIMARY KEY, v int);"
    "CREATE TABLE seat (id int PRIMARY KEY, pos int, UNIQUE (pos) DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE \"Odd \"\"Name\" (\"Key\" text PRIMARY KEY, \"select\" float8, b bytea, j jsonb, "
    "a int[], "
    " always int GENERATED ALWAYS AS IDENTITY, twice float8 GENERATED ALWAYS AS (\"select\" * 2) "
    "STORED);"
    "INSERT INTO account SELECT i, 'm' || i, i, 'n', repeat(md5(i::text), 300) FROM "
    "generate_series(1, 300) i;"
    "INSERT INTO pair SELECT i, 'p' || i % 7, i FROM generate_series(1, 200) i;"
    "INSERT INTO loose SELECT 'l' || i % 5, i % 3 FROM generate_series(1, 60) i;"
    "INSERT INTO part SELECT i, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 'v' FROM "
    "generate_series(1, 200) i;"
    "INSERT INTO seat SELECT i, i FROM generate_series(1, 100) i;";

static const char migration[] =
    "CREATE SCHEMA crm; ALTER TABLE account RENAME TO customer; ALTER TABLE customer SET SCHEMA "
    "crm;"
    "ALTER TABLE crm.customer RENAME email TO mail;"
    "ALTER TABLE crm.customer ADD cents bigint;"
    "UPDATE crm.customer SET cents = (balance * 100)::bigint; ALTER TABLE crm.customer DROP "
    "balance;"
    "ALTER TABLE pair ALTER v TYPE bigint; ALTER TABLE pair RENAME a TO aa;"
    "DROP TABLE gone;";

static struct map_up ups[] = {{.column = "cents", .expr = "(balance * 100)::bigint"}};
static const struct map_rule rules[] = {
    {.section = "public.account", .line = 1, .up = ups, .nup = 1}};

static struct pair *open_pair(int batch_changes)
{
    return pair_open(&cluster, schema, migration, rules, 1, batch_changes);
}

static void all_same(struct pair *p)
{
    same(p, "SELECT id, email, (balance * 100)::bigint, note, md5(big), stamp FROM account",
         "SELECT id, mail, cents, note, md5(big), stamp FROM crm.customer");
    same(p, "SELECT a, b, v FROM pair", "SELECT aa, b, v FROM pair");
    same(p, "SELECT line, n FROM loose", "SELECT line, n FROM loose");
    same(p, "SELECT tableoid::regclass, id, region, v FROM part",
         "SELECT tableoid::regclass, id, region, v FROM part");
    same(p, "SELECT id, pos FROM seat", "SELECT id, pos FROM seat");
    same(p, "SELECT * FROM \"Odd \"\"Name\"", "SELECT * FROM \"Odd \"\"Name\"");
}

/* Writers */

struct writer {
    pthread_t thread;
    struct pair *pair;
    int number;
    int64_t until;
    int64_t statements;
};

/* What clients do. %1$d: a number of the writer's own, %2$d and %3$d: rows that all share. */
static const char *const work[] = {
    "INSERT INTO account VALUES (%1$d, 'w%1$d', %2$d.25, 'new')",
    "UPDATE account SET balance = balance + 1 WHERE id = %2$d",
    "UPDATE account SET note = NULL WHERE id BETWEEN %2$d AND %2$d + 5",
    "UPDATE account SET big = repeat(md5('%1$d'), 250), balance = %3$d WHERE id = %2$d",
    "UPDATE account SET id = %1$d, note = 'moved' WHERE id = (SELECT max(id) FROM account)",
    "DELETE FROM account WHERE id = (SELECT max(id) FROM account WHERE id > 300)",
    "BEGIN; DELETE FROM account WHERE id = %2$d; INSERT INTO account VALUES (%2$d, 'again%2$d', "
    "1); COMMIT",
    "BEGIN; UPDATE account SET email = 'tmp' || id WHERE id = %2$d;"
    "UPDATE account SET email = 'x%1$d' WHERE id = %3$d; UPDATE account SET email = 'y%1$d' WHERE "
    "id = %2$d; COMMIT",
    "BEGIN; UPDATE account SET note = 'lost' WHERE id = %2$d; ROLLBACK",
    "BEGIN; SAVEPOINT s; DELETE FROM pair WHERE a = %2$d; ROLLBACK TO s; UPDATE pair SET v = v + 1 "
    "WHERE a = %2$d;"
    "COMMIT",
    "INSERT INTO pair VALUES (%1$d, 'k', NULL)",
    "UPDATE pair SET b = b || 'z' WHERE a = %2$d AND length(b) < 20",
    "DELETE FROM pair WHERE a = %2$d",
    "INSERT INTO loose VALUES ('l%2$d', %3$d %% 4), ('l%2$d', %3$d %% 4), (NULL, NULL)",
    "UPDATE loose SET n = n + 1 WHERE ctid = (SELECT ctid FROM loose WHERE n < 50 LIMIT 1)",
    "DELETE FROM loose WHERE ctid = (SELECT ctid FROM loose LIMIT 1)",
    "UPDATE part SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END, v = v || 'm' "
    "WHERE id BETWEEN %2$d AND %2$d + 3 AND length(v) < 200",
    "INSERT INTO part VALUES (%1$d, 'eu', 'new')",
    "DELETE FROM part WHERE id = %3$d AND region = 'eu'",
    "INSERT INTO gone VALUES (%1$d, 1)",
    "BEGIN; UPDATE seat SET pos = -pos - 1 WHERE id = %2$d %% 50 + 1;"
    "UPDATE seat SET pos = -pos - 1 WHERE id = %2$d %% 50 + 1; COMMIT",
    "INSERT INTO \"Odd \"\"Name\" VALUES ('k%1$d, \"q\"', 'NaN', '\\x00ff5c27', '{\"a\": [1, "
    "null]}', '{1,NULL,3}')",
    "UPDATE \"Odd \"\"Name\" SET \"select\" = 0.1 + random(), a = '{}' "
    "WHERE \"Key\" = (SELECT max(\"Key\") FROM \"Odd \"\"Name\")",
    "BEGIN; UPDATE account SET balance = 0 WHERE id > 250; DELETE FROM loose WHERE n = 3; COMMIT",
};
#define NWORK (sizeof work / sizeof *work)

static void *write_away(void *arg)
{
    struct writer *w = arg;
    PGconn *conn = cluster_client(w->pair->cluster, w->pair->blue_name, "writer");
    unsigned seed = (unsigned) w->number * 7919U + 17;
    char text[1024];

    for (int i = 0; !clock_passed(w->until); i++) {
        int own = w->number * 1000000 + i;
        const char *format = work[(size_t) rand_r(&seed) % NWORK];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-extra-args"
        snprintf(text, sizeof text, format, own, rand_r(&seed) % 300 + 1, rand_r(&seed) % 300 + 1);
#pragma GCC diagnostic pop
        if (cluster_sql(conn, text)[0])
            cluster_sql(conn, "ROLLBACK"); /* two writers met */
        w->statements++;
    }
    PQfinish(conn);
    return NULL;
}

#define WRITERS 3

static int64_t start_writers(struct pair *p, struct writer *writers, int ms)
{
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.pair = p, .number = i + 1, .until = clock_in_ms(ms)};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_away, &writers[i]), 0);
    }
    return writers[0].until;
}

static void join_writers(struct writer *writers)
{
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_true(writers[i].statements > 20);
    }
}

/* Tests */

static void all_that_writers_do_arrives(void **state)
{
    struct pair *p = open_pair(0);
    struct writer writers[WRITERS];
    struct apply_stats stats = {0};

    (void) state;
    start_writers(p, writers, 3000);
    join_writers(writers);
    pair_sync(p);
    all_same(p);
    apply_stats(p->apply, &stats);
    assert_true(stats.inserts > 0 && stats.updates > 0 && stats.deletes > 0 && stats.skipped > 0);
    assert_true(stats.transactions > stats.batches);
    assert_true(touched_count(p->touched) > 100);
    pair_close(p);
}

/* The server ends replay's session at any moment; now and then replay itself ends and begins again.
 */
static void nothing_is_lost_or_done_twice_when_sessions_die(void **state)
{
    struct pair *p = open_pair(50);
    struct writer writers[WRITERS];
    PGconn *killer = cluster_client(&cluster, p->green_name, "killer");
    int64_t until = start_writers(p, writers, 4000);
    unsigned seed = 5;
    int kills = 0;

    (void) state;
    while (!clock_passed(until)) {
        clock_sleep_ms(20 + rand_r(&seed) % 120);
        char *n = value(
            killer,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'pgcutover/test/apply' AND datname = current_database()");
        kills += atoi(n);
        free(n);
        if (kills % 10 == 9)
            pair_restart_apply(p);
    }
    join_writers(writers);
    pair_sync(p);
    all_same(p);
    assert_true(kills > 5);
    PQfinish(killer);
    pair_close(p);
}

static void unique_values_are_swapped(void **state)
{
    struct pair *p = open_pair(0);
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
    struct pair *p = open_pair(0);
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
    assert_true(
        touched_has(p->touched, map_by_name(&p->map, "public", "account")->index, 1, &key, &len));
    pair_close(p);
}

static void one_transaction_of_any_size(void **state)
{
    struct pair *p = open_pair(5000);
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
    struct pair *p = open_pair(0);

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
    struct pair *p = open_pair(0);
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
    struct pair *p = open_pair(0);

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

/* Begun in the middle, replay has to know relations that are told no more. */
static void the_middle_of_the_spool_is_enough(void **state)
{
    struct pair *p = open_pair(0);
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
    struct pair *p = open_pair(0);
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
    struct pair *p = open_pair(0);

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
    struct pair *p = open_pair(0);
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

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_writers_do_arrives),
        cmocka_unit_test(nothing_is_lost_or_done_twice_when_sessions_die),
        cmocka_unit_test(unique_values_are_swapped),
        cmocka_unit_test(keys_change),
        cmocka_unit_test(one_transaction_of_any_size),
        cmocka_unit_test(truncate_as_it_was_sent),
        cmocka_unit_test(run_to_is_exact),
        cmocka_unit_test(conflicts_name_the_row),
        cmocka_unit_test(the_middle_of_the_spool_is_enough),
        cmocka_unit_test(ddl_on_blue_stops_replay),
        cmocka_unit_test(our_own_writing_is_passed_over),
        cmocka_unit_test(a_lone_change_does_not_wait),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
