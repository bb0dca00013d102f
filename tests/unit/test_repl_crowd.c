/* Many writers at once, and sessions that die under them: nothing is lost, nothing done twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replay_shop.h"

static struct cluster cluster;

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

static void all_that_writers_do_arrives(void **state)
{
    struct pair *p = shop_open(&cluster, 0);
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
    struct pair *p = shop_open(&cluster, 50);
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
        cmocka_unit_test(all_that_writers_do_arrives),
        cmocka_unit_test(nothing_is_lost_or_done_twice_when_sessions_die),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
