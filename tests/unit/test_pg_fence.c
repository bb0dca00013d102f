/* The fence and the guard against writers that don't cooperate. */
#include "cluster.h"

#include "pg/facts.h"
#include "pg/fence.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <cmocka.h>

static struct cluster cluster;
static struct error err;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s: %s [%s] (%s) %s", #call, err.message, err.sqlstate, err.context,         \
                     err.detail);                                                                  \
    } while (0)
#define SQL(conn, sql, state) assert_string_equal(cluster_sql((conn), (sql)), (state))

struct side {
    PGconn *app;
    struct pg *l, *control;
    struct catalog cat;
    struct fence_options o;
};

static struct pg *ours(const char *dbname, const char *worker)
{
    struct pg *pg = NULL;

    OK(pg_open(&pg, cluster.conninfo, dbname, PG_PLAIN, "r1", worker, NULL, &err));
    return pg;
}

static const char tables_sql[] =
    "CREATE TABLE a (id serial PRIMARY KEY, v text); CREATE TABLE b (id serial PRIMARY KEY, v "
    "text);"
    "CREATE TABLE \"Odd \"\"one\" (x int); CREATE UNLOGGED TABLE u (x int);"
    "CREATE TABLE root (k int, v text) PARTITION BY RANGE (k);"
    "CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);"
    "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE "
    "far (a int) SERVER s;"
    "INSERT INTO a (v) VALUES ('1'); INSERT INTO b (v) VALUES ('1')";

static void side_open(struct side *s, const char *name, int budget_ms)
{
    PGconn *admin = cluster_client(&cluster, "postgres", "admin");
    char sql[200];

    memset(s, 0, sizeof *s);
    snprintf(sql, sizeof sql, "DROP DATABASE IF EXISTS %s WITH (FORCE)", name);
    SQL(admin, sql, "");
    snprintf(sql, sizeof sql, "CREATE DATABASE %s", name);
    SQL(admin, sql, "");
    PQfinish(admin);
    s->app = cluster_client(&cluster, name, "app");
    SQL(s->app, tables_sql, "");
    s->l = ours(name, "lock");
    s->control = ours(name, "control");
    OK(facts_install(s->control, "r1", &err));
    OK(arbiter_arm(s->control, "r1", &err));
    OK(catalog_load(s->control, &s->cat, &err));
    s->o = (struct fence_options){.run = "r1",
                                  .deadline_us = clock_in_ms(budget_ms),
                                  .lock_timeout_ms = 2000,
                                  .deadlock_timeout_ms = 20,
                                  .idle_limit_ms = 30000};
}

static void side_close(struct side *s)
{
    catalog_release(&s->cat);
    pg_close(s->l);
    pg_close(s->control);
    PQfinish(s->app);
}

static enum fence_state standing(struct side *s)
{
    enum fence_state now = FENCE_NONE;

    OK(fence_state(s->control, &now, &err));
    return now;
}

static void fence_through_its_states(void **state)
{
    static const char *const writes[] = {
        "INSERT INTO a (v) VALUES ('2')",
        "UPDATE a SET v = '3'",
        "DELETE FROM b",
        "TRUNCATE a, b",
        "INSERT INTO \"Odd \"\"one\" VALUES (1)",
        "INSERT INTO u VALUES (1)",
        "INSERT INTO root VALUES (1)",
        "INSERT INTO leaf VALUES (1)",
        "COPY a FROM PROGRAM 'echo 100'",
        "SET default_transaction_read_only = off; INSERT INTO a (v) VALUES ('4')"};
    struct side s;
    struct pg *apply = NULL;
    enum fence_decision decision = FENCE_UNKNOWN;
    char print[40], arbiter[32];

    (void) state;
    side_open(&s, "states", 5000);
    OK(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    OK(fence_triggers(s.l, &s.cat, &err));
    OK(catalog_fingerprint(s.l, print, &err));
    assert_string_equal(print, s.cat.fingerprint);
    SQL(s.app, "SELECT count(*) FROM a", "");
    SQL(s.app, "SET lock_timeout = 100; INSERT INTO a (v) VALUES ('x')", "55P03");
    assert_int_equal(standing(&s), FENCE_NONE);
    OK(fence_leftovers(s.control, &s.o, &err));
    OK(fence_commit(s.l, "r1", &decision, &err));
    assert_int_equal(decision, FENCE_COMMITTED);
    OK(arbiter_read(s.control, "r1", arbiter, &err));
    assert_string_equal(arbiter, "committing");
    assert_int_equal(standing(&s), FENCE_CLOSED);
    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++)
        if (strcmp(cluster_sql(s.app, writes[i]), "25006") != 0)
            fail_msg("%s: %s", writes[i], PQerrorMessage(s.app));
    OK(pg_open(&apply, cluster.conninfo, "states", PG_APPLY, "r1", "apply", NULL, &err));
    OK(pg_exec(apply, "INSERT INTO public.a (v) VALUES ('ours')", &err));
    pg_close(apply);
    assert_false(facts_uninstall(s.control, "r1", &err)); /* would lift the fence */
    OK(fence_open(s.control, &err));
    assert_int_equal(standing(&s), FENCE_OPEN);
    SQL(s.app, "INSERT INTO a (v) VALUES ('2'); INSERT INTO leaf VALUES (1)", "");
    OK(fence_close(s.control, &err));
    assert_int_equal(standing(&s), FENCE_CLOSED);
    SQL(s.app, "INSERT INTO a (v) VALUES ('2')", "25006");
    OK(fence_open(s.control, &err));
    OK(fence_install(s.l, s.control, &s.cat, &s.o, &err)); /* over triggers that stand already */
    assert_int_equal(standing(&s), FENCE_CLOSED);
    OK(fence_drop(s.control, clock_in_ms(5000), &err));
    assert_int_equal(standing(&s), FENCE_NONE);
    OK(fence_drop(s.control, clock_in_ms(5000), &err));
    OK(fence_open(s.control, &err));
    assert_false(fence_close(s.control, &err));
    SQL(s.app, "INSERT INTO a (v) VALUES ('2')", "");
    OK(facts_uninstall(s.control, "r1", &err));
    side_close(&s);
}

struct writer {
    pthread_t thread;
    const char *sql;
    char dbname[32];
    atomic_bool *stop;
    int committed, refused, other;
};

static void *write_on(void *arg)
{
    struct writer *w = arg;
    PGconn *conn = cluster_client(&cluster, w->dbname, "writer");

    while (!atomic_load(w->stop)) {
        const char *code = cluster_sql(conn, w->sql);
        if (strcmp(code, "") == 0)
            w->committed++;
        else if (strcmp(code, "25006") == 0)
            w->refused++;
        else
            w->other++;
        if (code[0])
            cluster_sql(conn, "ROLLBACK");
        usleep(10000);
    }
    PQfinish(conn);
    return NULL;
}

/* Opposite orders, transactions that sleep between their tables: we are the victim, never a client.
 */
static void writers_in_every_order(void **state)
{
    static const char *const loads[] = {
        "BEGIN; UPDATE a SET v = 'w'; SELECT pg_sleep(0.01); INSERT INTO b (v) VALUES ('w'); "
        "COMMIT",
        "BEGIN; INSERT INTO b (v) VALUES ('w'); SELECT pg_sleep(0.01); INSERT INTO a (v) VALUES "
        "('w'); COMMIT",
        "INSERT INTO leaf VALUES (3); INSERT INTO root VALUES (4)",
        "BEGIN; SELECT nextval('a_id_seq'); INSERT INTO \"Odd \"\"one\" VALUES (1); COMMIT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; INSERT INTO u VALUES (1)"};
    struct side s;
    struct writer writers[5];
    atomic_bool halt = false;
    enum fence_decision decision = FENCE_UNKNOWN;
    char *before = NULL, *after = NULL;
    const char *count = "SELECT (SELECT count(*) FROM public.a) + (SELECT count(*) FROM public.b) "
                        "+ (SELECT count(*) FROM "
                        "public.leaf) + (SELECT count(*) FROM public.u) + (SELECT count(*) FROM "
                        "public.\"Odd \"\"one\")";
    int64_t begin;

    (void) state;
    side_open(&s, "busy", 15000);
    /* UPDATE a of all rows would make the writers deadlock with each other */
    for (size_t i = 0; i < 5; i++) {
        writers[i] = (struct writer){.sql = loads[i], .stop = &halt};
        snprintf(writers[i].dbname, sizeof writers[i].dbname, "busy");
    }
    writers[0].sql = "BEGIN; INSERT INTO a (v) VALUES ('w'); SELECT pg_sleep(0.01); INSERT INTO b "
                     "(v) VALUES ('w'); COMMIT";
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
    clock_sleep_ms(300);
    begin = clock_us();
    OK(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    print_message("locked among writers in %lld ms\n", (long long) (clock_us() - begin) / 1000);
    OK(fence_triggers(s.l, &s.cat, &err));
    OK(fence_leftovers(s.control, &s.o, &err));
    OK(pg_value(s.control, &before, count, 0, NULL, &err));
    clock_sleep_ms(100);
    OK(fence_commit(s.l, "r1", &decision, &err));
    assert_int_equal(decision, FENCE_COMMITTED);
    clock_sleep_ms(200);
    atomic_store(&halt, true);
    for (size_t i = 0; i < 5; i++) {
        pthread_join(writers[i].thread, NULL);
        print_message("writer %zu: %d committed, %d refused, %d other\n", i, writers[i].committed,
                      writers[i].refused, writers[i].other);
        assert_true(writers[i].committed > 0);
        assert_true(writers[i].refused > 0);
        assert_int_equal(writers[i].other, 0);
    }
    OK(pg_value(s.control, &after, count, 0, NULL, &err));
    assert_string_equal(before, after); /* nothing leaked */
    free(before);
    free(after);
    side_close(&s);
}

static void budget_names_who_holds(void **state)
{
    struct side s;
    int64_t begin;

    (void) state;
    side_open(&s, "held", 400);
    SQL(s.app, "BEGIN; INSERT INTO b (v) VALUES ('held')", "");
    s.o.deadline_us = clock_in_ms(400);
    begin = clock_us();
    assert_false(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    assert_true(clock_us() - begin < 2000000);
    assert_int_equal(err.code, ERR_BUDGET);
    assert_non_null(strstr(err.message, "public.b"));
    assert_non_null(strstr(err.detail, "application \"app\""));
    assert_non_null(strstr(err.detail, "public.b"));
    SQL(s.app, "PREPARE TRANSACTION 'p1'", "");
    s.o.lock_timeout_ms = 100;
    s.o.deadline_us = clock_in_ms(400);
    assert_false(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    assert_int_equal(err.code, ERR_BUDGET);
    assert_non_null(strstr(err.detail, "prepared transaction"));
    s.o.deadline_us = clock_in_ms(100);
    assert_false(fence_leftovers(s.control, &s.o, &err));
    assert_non_null(strstr(err.detail, "p1"));
    SQL(s.app, "ROLLBACK PREPARED 'p1'", "");
    s.o.deadline_us = clock_in_ms(3000);
    OK(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    pg_rollback(s.l);
    /* an xid alone */
    SQL(s.app, "BEGIN; SELECT txid_current()", "");
    s.o.deadline_us = clock_in_ms(100);
    assert_false(fence_leftovers(s.control, &s.o, &err));
    assert_non_null(strstr(err.detail, "app"));
    SQL(s.app, "COMMIT", "");
    s.o.deadline_us = clock_in_ms(1000);
    OK(fence_leftovers(s.control, &s.o, &err));
    side_close(&s);
}

static void revoked_first_is_not_committed(void **state)
{
    struct side s;
    enum fence_decision decision = FENCE_UNKNOWN;
    bool won = false;

    (void) state;
    side_open(&s, "raced", 5000);
    OK(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    OK(fence_triggers(s.l, &s.cat, &err));
    OK(arbiter_swap(s.control, "r1", "armed", "revoked", &won, &err));
    assert_true(won);
    OK(fence_commit(s.l, "r1", &decision, &err));
    assert_int_equal(decision, FENCE_REVOKED);
    assert_int_equal(standing(&s), FENCE_NONE);
    SQL(s.app, "INSERT INTO a (v) VALUES ('2')", "");
    /* a dead holder frees the writers, and has decided nothing */
    OK(arbiter_arm(s.control, "r1", &err));
    s.o.deadline_us = clock_in_ms(5000);
    OK(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    OK(fence_triggers(s.l, &s.cat, &err));
    OK(pg_execf(s.control, &err, "SELECT pg_terminate_backend(%d)", pg_pid(s.l)));
    SQL(s.app, "SET lock_timeout = '5s'; INSERT INTO a (v) VALUES ('2')", "");
    OK(fence_commit(s.l, "r1", &decision, &err));
    assert_int_equal(decision, FENCE_REVOKED);
    assert_int_equal(standing(&s), FENCE_NONE);
    side_close(&s);
}

/* The dead man's switch: a holder that says nothing more is ended by the server. */
static void silent_holder_is_ended(void **state)
{
    struct side s;
    enum fence_decision decision = FENCE_UNKNOWN;

    (void) state;
    side_open(&s, "silent", 5000);
    s.o.idle_limit_ms = 300;
    OK(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    SQL(s.app, "SET lock_timeout = '5s'; INSERT INTO a (v) VALUES ('2')", "");
    OK(fence_commit(s.l, "r1", &decision, &err));
    assert_int_equal(decision, FENCE_REVOKED);
    side_close(&s);
}

static void many_tables_lock_quickly(void **state)
{
    struct side s;
    int64_t begin, locked, done;

    (void) state;
    side_open(&s, "many", 20000);
    SQL(s.app,
        "DO $$BEGIN FOR i IN 1..2000 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v "
        "text)', i); END "
        "LOOP; END$$",
        "");
    catalog_release(&s.cat);
    OK(catalog_load(s.control, &s.cat, &err));
    s.o.deadline_us = clock_in_ms(20000);
    begin = clock_us();
    OK(fence_lock(s.l, s.control, &s.cat, &s.o, &err));
    locked = clock_us();
    OK(fence_triggers(s.l, &s.cat, &err));
    done = clock_us();
    print_message("%zu tables: locks %lld ms, triggers %lld ms\n", s.cat.ntables,
                  (long long) (locked - begin) / 1000, (long long) (done - locked) / 1000);
    pg_rollback(s.l);
    assert_true(done - begin < 5000000); /* far above what it takes: machines are slow sometimes */
    side_close(&s);
}

static void sessions_are_ended(void **state)
{
    struct side s;
    int ended = 0;

    (void) state;
    side_open(&s, "ended", 1000);
    OK(fence_end_sessions(s.control, &ended, &err));
    assert_int_equal(ended, 1);
    OK(pg_ping(s.l, &err));
    assert_string_not_equal(cluster_sql(s.app, "SELECT 1"), "");
    side_close(&s);
}

static void guard_lets_temporary_things_pass(void **state)
{
    static const char *const allowed[] = {
        "CREATE TEMP TABLE t1 (a int)",
        "SELECT 1 AS x INTO TEMP t2",
        "CREATE TEMP TABLE t3 (id serial PRIMARY KEY, v text)",
        "CREATE INDEX ON t3 (v)",
        "ALTER TABLE t3 ADD COLUMN z int DEFAULT 4",
        "ALTER TABLE t3 DROP COLUMN z",
        "BEGIN; CREATE TEMP TABLE t4 (a int) ON COMMIT DROP; INSERT INTO t4 VALUES (1); COMMIT",
        "CREATE TEMP VIEW v1 AS SELECT * FROM t1",
        "CREATE TEMP SEQUENCE s1",
        ("CREATE TRIGGER tr BEFORE UPDATE ON t1 FOR EACH ROW EXECUTE FUNCTION "
         "suppress_redundant_updates_trigger()"),
        "DROP TRIGGER tr ON t1",
        "DROP TABLE t3",
        "DROP TABLE t1 CASCADE",
        "CREATE TEMP TABLE t5 AS SELECT 1",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DISCARD TEMP",
        "REFRESH MATERIALIZED VIEW mv",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY mv",
        "REINDEX TABLE a",
        "REINDEX TABLE CONCURRENTLY a",
        "VACUUM a",
        "ANALYZE",
        "INSERT INTO a (v) VALUES ('x')",
        "TRUNCATE u"};
    static const char *const refused[] = {
        "CREATE TABLE n (a int)",
        "ALTER TABLE a ADD COLUMN z int",
        "ALTER TABLE a DROP COLUMN v",
        "DROP TABLE b",
        "CREATE INDEX ON a (v)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP MATERIALIZED VIEW mv",
        "SELECT 1 AS x INTO n",
        "CREATE SCHEMA n",
        "CREATE TYPE e AS ENUM ('a')",
        "ALTER TABLE a RENAME TO c",
        "GRANT SELECT ON a TO PUBLIC",
        "DROP SCHEMA public CASCADE",
        ("CREATE TRIGGER tr BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION "
         "suppress_redundant_updates_trigger()"),
        "CREATE TEMP TABLE t9 (a int); CREATE TABLE n (a int)",
        "ALTER TABLE a REPLICA IDENTITY FULL"};
    struct side s;
    struct pg *plain = NULL;
    PGresult *res;
    bool made = false, there = false;

    (void) state;
    side_open(&s, "guarded", 5000);
    SQL(s.app, "CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x; CREATE UNIQUE INDEX ON mv (x)", "");
    OK(guard_install(s.control, "r1", &made, &err));
    OK(guard_install(s.control, "r1", &made, &err));
    assert_true(made);
    OK(guard_exists(s.control, "r1", &there, &err));
    assert_true(there);
    OK(guard_exists(s.control, "r2", &there, &err));
    assert_false(there);
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (cluster_sql(s.app, allowed[i])[0])
            fail_msg("%s: %s", allowed[i], PQerrorMessage(s.app));
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strcmp(cluster_sql(s.app, refused[i]), "55000") != 0)
            fail_msg("%s: %s", refused[i], PQerrorMessage(s.app));
    res = PQexec(s.app, "CREATE TABLE n (a int)");
    assert_non_null(strstr(PQresultErrorMessage(res), "run \"r1\""));
    assert_non_null(strstr(PQresultErrorMessage(res), "pgcutover abort r1"));
    PQclear(res);
    OK(pg_exec(s.control, "CREATE TABLE public.ours (a int PRIMARY KEY); DROP TABLE public.ours",
               &err));
    OK(catalog_fingerprint(s.control, (char[40]){0}, &err));
    SQL(s.app, "CREATE ROLE poor LOGIN", "");
    OK(pg_open(&plain, cluster.conninfo, "guarded", PG_PLAIN, "r9", "x", NULL, &err));
    OK(guard_drop(s.control, "r1", &err));
    OK(guard_drop(s.control, "r1", &err));
    OK(guard_exists(s.control, "r1", &there, &err));
    assert_false(there);
    OK(pg_exec(plain,
               "GRANT CREATE ON DATABASE guarded TO poor; GRANT ALL ON SCHEMA pgcutover TO poor; "
               "SET ROLE poor",
               &err));
    OK(guard_install(plain, "r9", &made, &err));
    assert_false(made);
    SQL(s.app, "CREATE TABLE n (a int)", "");
    pg_close(plain);
    side_close(&s);
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
        cmocka_unit_test(fence_through_its_states),
        cmocka_unit_test(writers_in_every_order),
        cmocka_unit_test(budget_names_who_holds),
        cmocka_unit_test(revoked_first_is_not_committed),
        cmocka_unit_test(silent_holder_is_ended),
        cmocka_unit_test(many_tables_lock_quickly),
        cmocka_unit_test(sessions_are_ended),
        cmocka_unit_test(guard_lets_temporary_things_pass),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
