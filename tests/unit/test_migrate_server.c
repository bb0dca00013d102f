/*
 * Migrations on a real server. Every run is a process of its own, so that it can be made to die at
 * a fault point, and so that ten can start at once.
 */
#include "migrate/migrate.h"

#include "sys/file.h"
#include "sys/stop.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster.h"

struct outcome {
    bool ok;
    int applied;
    struct error err;
};

static struct cluster cluster;
static struct outcome *outcomes; /* shared with the children */
static char dir[64];
static char log_path[100];
static char dbname[32];
static PGconn *client;

static const struct migrate_options defaults = {.dbname = dbname,
                                                .run = "test",
                                                .history_table = "ops.\"History\"",
                                                .transaction = MIGRATE_EACH};

static int start(void **state)
{
    (void) state;
    outcomes = mmap(NULL, 16 * sizeof *outcomes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                    -1, 0);
    return outcomes == MAP_FAILED ? -1 : cluster_start(&cluster);
}

static int stop(void **state)
{
    (void) state;
    cluster_stop(&cluster);
    return 0;
}

static int make_database(void **state)
{
    static int number;
    char sql[64];
    (void) state;
    PGconn *admin = cluster_client(&cluster, "postgres", "test");
    snprintf(dbname, sizeof dbname, "m%d", ++number);
    snprintf(sql, sizeof sql, "CREATE DATABASE %s", dbname);
    int rc = *cluster_sql(admin, sql) ? -1 : 0;
    PQfinish(admin);
    client = cluster_client(&cluster, dbname, "test");
    cluster_sql(client, "SET client_min_messages = warning");
    snprintf(dir, sizeof dir, "/tmp/pgcutover-run-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(log_path, sizeof log_path, "%s/log.jsonl", dir);
    return rc;
}

static int drop_database(void **state)
{
    struct error err = {0};
    (void) state;
    PQfinish(client);
    return file_remove_tree(dir, &err) ? 0 : -1;
}

static void put(const char *name, const char *text)
{
    char path[200];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_true(file_replace(path, text, strlen(text), 0644, &err));
}

static void sql(const char *text)
{
    if (*cluster_sql(client, text))
        fail_msg("%s: %s", text, PQerrorMessage(client));
}

static void assert_value(const char *query, const char *expected)
{
    PGresult *res = PQexec(client, query);
    if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
        fail_msg("%s: %s", query, PQerrorMessage(client));
    if (strcmp(PQgetvalue(res, 0, 0), expected) != 0)
        fail_msg("%s: \"%s\", not \"%s\"", query, PQgetvalue(res, 0, 0), expected);
    PQclear(res);
}

/* The child's part. Its exit status says nothing: it may be told to die. */
static void work(struct outcome *out, const struct migrate_options *given, const char *fault)
{
    struct migrate_options o = *given;
    struct migration_list l = {0};
    o.conninfo = cluster.conninfo;
    o.log_path = log_path;
    if (fault)
        setenv("PGCUTOVER_FAULT", fault, 1);
    out->ok = migrate_list(dir, &l, &out->err) && migrate_run(&l, &o, &out->applied, &out->err);
    migrate_list_release(&l);
}

static pid_t launch(struct outcome *out, const struct migrate_options *o, const char *fault)
{
    memset(out, 0, sizeof *out);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(out, o, fault);
        exit(0); /* not _exit: leaks are looked for */
    }
    return pid;
}

static struct outcome run(const struct migrate_options *o, const char *fault)
{
    int status = 0;
    waitpid(launch(&outcomes[0], o, fault), &status, 0);
    if (!fault)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return outcomes[0];
}

static void assert_runs(const struct migrate_options *o, int applied)
{
    struct outcome out = run(o, NULL);
    if (!out.ok)
        fail_msg("%s | %s | %s", out.err.message, out.err.detail, out.err.hint);
    assert_int_equal(out.applied, applied);
}

static struct error assert_fails(const struct migrate_options *o, const char *message)
{
    struct outcome out = run(o, NULL);
    assert_false(out.ok);
    assert_int_equal(out.err.code, ERR_MIGRATION);
    if (strcmp(out.err.message, message) != 0)
        fail_msg("\"%s\" (%s)", out.err.message, out.err.detail);
    return out.err;
}

static void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" has no \"%s\"", text, part);
}

static void test_runs_once(void **state)
{
    struct strbuf text = {0};
    struct error err = {0};
    (void) state;
    put("V1__a.sql",
        "CREATE TABLE t (a int);\nDO $$ BEGIN RAISE NOTICE 'hello \"you\"'; END $$;\n");
    put("V2__b.sql", "INSERT INTO t VALUES (1), (2);SELECT 1;");
    put("R__v.sql", "CREATE OR REPLACE VIEW v AS SELECT a FROM t;");
    assert_runs(&defaults, 3);
    assert_runs(&defaults, 0);
    assert_value("SELECT count(*) FROM t", "2");
    assert_value("SELECT string_agg(version || name || statements, ',' ORDER BY applied_at) FROM "
                 "ops.\"History\"",
                 "1a2,2b2,R__vv1");
    assert_value("SELECT count(*) FROM pgcutover.migration_statement", "0");
    put("R__v.sql", "CREATE OR REPLACE VIEW v AS SELECT a, 2 AS b FROM t;");
    assert_runs(&defaults, 1);
    assert_value("SELECT b FROM v LIMIT 1", "2");
    assert_true(file_read(log_path, &text, 1 << 20, &err));
    assert_contains(strbuf_cstr(&text), "\"notice\":\"hello \\\"you\\\"\"");
    assert_contains(strbuf_cstr(&text), "\"rows\":2,\"tag\":\"INSERT 0 2\"");
    strbuf_release(&text);
}

static void test_ten_at_once(void **state)
{
    pid_t pids[10];
    int applied = 0;
    (void) state;
    put("V1__a.sql", "CREATE TABLE t (a int); SELECT pg_sleep(0.3);");
    put("V2__b.sql", "INSERT INTO t SELECT generate_series(1, 10); SELECT pg_sleep(0.2)");
    put("V3__c.sql", "CREATE INDEX CONCURRENTLY i ON t (a);");
    for (int i = 0; i < 10; i++)
        pids[i] = launch(&outcomes[i], &defaults, NULL);
    for (int i = 0; i < 10; i++) {
        waitpid(pids[i], NULL, 0);
        if (!outcomes[i].ok)
            fail_msg("%d: %s", i, outcomes[i].err.message);
        applied += outcomes[i].applied;
    }
    assert_int_equal(applied, 3);
    assert_value("SELECT count(*) FROM t", "10");
    assert_value("SELECT count(*) FROM ops.\"History\"", "3");
}

static void test_error_names_line(void **state)
{
    (void) state;
    put("V1__a.sql", "CREATE TABLE t (a int);\n");
    put("V2__b.sql", "INSERT INTO t VALUES (1);\n\n-- \xc3\xa9\nINSERT INTO t\n  SELECT "
                     "'\xc3\xa9\xc3\xa9'::text,\n    b\nFROM t;\n");
    struct error err = assert_fails(&defaults, "V2__b.sql:6: column \"b\" does not exist");
    assert_string_equal(err.sqlstate, "42703");
    assert_contains(err.detail, "statement (SQLSTATE 42703): INSERT INTO t SELECT");
    assert_contains(err.hint, "rolled back");
    assert_value("SELECT count(*) FROM t", "0");
    put("V2__b.sql",
        "INSERT INTO t VALUES (1);\n\n DO\n$$\nBEGIN\n  PERFORM 1;\n  PERFORM 1/0;\nEND $$;\n");
    err = assert_fails(&defaults, "V2__b.sql:7: division by zero");
    put("V2__b.sql", "INSERT INTO t VALUES (2);");
    assert_runs(&defaults, 1);
    assert_value("SELECT sum(a) FROM t", "2");
}

static void test_deferred(void **state)
{
    (void) state;
    put("V1__a.sql", "CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO t "
                     "VALUES (1), (1);");
    struct error err = assert_fails(
        &defaults,
        "V1__a.sql:2: COMMIT: duplicate key value violates unique constraint \"t_a_key\"");
    assert_contains(err.detail, "Key (a)=(1) already exists.");
    assert_string_equal(err.sqlstate, "23505");
}

static void test_refusals(void **state)
{
    (void) state;
    put("V1__a.sql", "SELECT 1;");
    put("V3__c.sql", "SELECT 3;");
    assert_runs(&defaults, 2);
    put("V2__b.sql", "SELECT 2;");
    assert_fails(&defaults,
                 "V2__b.sql was never run, but version 3 (V3__c.sql), which comes after it, was");
    char path[200];
    snprintf(path, sizeof path, "%s/V2__b.sql", dir);
    unlink(path);
    put("V3__c.sql", "SELECT 4;");
    struct error err =
        assert_fails(&defaults, "V3__c.sql was changed after it was run (as V3__c.sql)");
    assert_contains(err.detail, "SHA-256 then ");
}

/* Dies at each point in turn; what is there afterwards is the same. */
static void test_dies_and_resumes(void **state)
{
    static const char *const faults[] = {
        "migrate.statement=die@1",       "migrate.statement=die@3",
        "migrate.statement=die@6",       "migrate.before-history=die@1",
        "migrate.before-history=die@2",  "migrate.after-commit=die@1",
        "migrate.after-commit=die@2",    "migrate.after-statement=die@4",
        "migrate.after-statement=die@7", "migrate.statement=die@8",
        "migrate.after-statement=die@8"};
    (void) state;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        put("V1__a.sql", "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n");
        put("V2__b.sql",
            "-- pgcutover:no-transaction\nSET search_path = s1, public;\n"
            "INSERT INTO t VALUES (2);\nBEGIN;\nINSERT INTO t VALUES (3);\nCREATE TABLE u (a "
            "int);\n"
            "COMMIT;\nCREATE INDEX CONCURRENTLY i ON t (a);\nINSERT INTO u VALUES (4);\n");
        sql("CREATE SCHEMA s1");
        struct outcome out = run(&defaults, faults[i]);
        assert_false(out.ok);
        out = run(&defaults, NULL);
        if (!out.ok)
            fail_msg("%s: %s | %s", faults[i], out.err.message, out.err.detail);
        assert_value("SELECT string_agg(a::text, ',' ORDER BY a) FROM t", "1,2,3");
        assert_value("SELECT string_agg(a::text, ',') FROM s1.u", "4");
        assert_value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass", "t");
        assert_value("SELECT count(*) FROM ops.\"History\"", "2");
        assert_value("SELECT count(*) FROM pgcutover.migration_statement", "0");
        sql("DROP SCHEMA s1, ops, pgcutover CASCADE; DROP TABLE t");
    }
}

static void test_concurrent_index(void **state)
{
    (void) state;
    put("V1__a.sql", "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1);");
    put("V2__b.sql", "INSERT INTO t VALUES (5);\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "
                     "\"U\" ON t (a);\n"
                     "INSERT INTO t VALUES (6);\n");
    struct error err = assert_fails(&defaults, "V2__b.sql:2: could not create unique index \"U\"");
    assert_contains(err.detail, "Key (a)=(1) is duplicated.");
    assert_value("SELECT indisvalid FROM pg_index WHERE indexrelid = '\"U\"'::regclass", "f");
    assert_value("SELECT string_agg(n || state, ',' ORDER BY n) FROM pgcutover.migration_statement",
                 "1done,2failed");
    sql("DELETE FROM t WHERE ctid = '(0,1)'");
    assert_runs(&defaults, 1);
    assert_value("SELECT indisvalid FROM pg_index WHERE indexrelid = '\"U\"'::regclass", "t");
    assert_value("SELECT string_agg(a::text, ',' ORDER BY a) FROM t", "1,5,6");
}

static void test_finished_part_changed(void **state)
{
    (void) state;
    put("V1__a.sql", "-- pgcutover:no-transaction\nCREATE TABLE t (a int);\nSELECT 1/0;\n");
    assert_fails(&defaults, "V1__a.sql:3: division by zero");
    put("V1__a.sql", "-- pgcutover:no-transaction\nCREATE TABLE t (a bigint);\nSELECT 1;\n");
    assert_fails(&defaults,
                 "V1__a.sql: statement 1 was run in an earlier try, and was changed since");
    put("V1__a.sql", "-- pgcutover:no-transaction\nCREATE TABLE t (a int);\nSELECT 1;\n");
    assert_runs(&defaults, 1);
}

static void test_unknown_call(void **state)
{
    (void) state;
    sql("CREATE TABLE t (a int); CREATE PROCEDURE p() LANGUAGE plpgsql AS "
        "'begin insert into t values (1); commit; end'");
    put("V1__a.sql", "-- pgcutover:no-transaction\nCALL p();\nSELECT 1;");
    run(&defaults, "migrate.after-statement=die@1");
    struct error err = assert_fails(
        &defaults, "V1__a.sql:2: the run ended while this statement was running, and it "
                   "commits by itself: how far it came isn't known");
    assert_contains(err.hint, "version = '1' AND n = 1");
    sql("UPDATE pgcutover.migration_statement SET state = 'done' WHERE version = '1' AND n = 1");
    assert_runs(&defaults, 1);
    assert_value("SELECT count(*) FROM t", "1");
}

static void test_own_transactions(void **state)
{
    (void) state;
    put("0001_a.up.sql", "BEGIN;\nCREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\nCOMMIT;\n");
    put("0002_b.up.sql",
        "BEGIN;\nINSERT INTO t VALUES (2);\nINSERT INTO t VALUES (1/0);\nCOMMIT;\n");
    assert_fails(&defaults, "0002_b.up.sql:3: division by zero");
    assert_value("SELECT count(*) FROM t", "1");
    assert_value("SELECT count(*) FROM pgcutover.migration_statement", "0");
    put("0002_b.up.sql", "BEGIN;\nINSERT INTO t VALUES (2);\n");
    assert_fails(&defaults, "0002_b.up.sql: the file ends with its transaction open");
    put("0002_b.up.sql", "BEGIN;\nINSERT INTO t VALUES (2);\nCOMMIT;");
    assert_runs(&defaults, 1);
    assert_value("SELECT count(*) FROM t", "2");
}

static void test_all_or_none(void **state)
{
    struct migrate_options all = defaults;
    struct migrate_options none = defaults;
    (void) state;
    all.transaction = MIGRATE_ALL;
    none.transaction = MIGRATE_NONE;
    put("V1__a.sql", "CREATE TABLE t (a int);");
    put("V2__b.sql", "INSERT INTO t VALUES (1); SELECT 1/0;");
    assert_fails(&all, "V2__b.sql:1: division by zero");
    assert_value("SELECT to_regclass('t') IS NULL", "t");
    put("V2__b.sql", "CREATE INDEX CONCURRENTLY i ON t (a);");
    assert_fails(&all,
                 "V2__b.sql can't run inside a transaction, and transaction = all demands it");
    put("V2__b.sql", "INSERT INTO t VALUES (1); SELECT 1/0;");
    assert_fails(&none, "V2__b.sql:1: division by zero");
    assert_value("SELECT count(*) FROM t", "1");
    put("V2__b.sql", "INSERT INTO t VALUES (1); SELECT 1;");
    assert_runs(&none, 1);
    assert_value("SELECT count(*) FROM t", "1");
    put("V3__c.sql", "INSERT INTO t VALUES (3);");
    put("V4__d.sql", "INSERT INTO t VALUES (4);");
    assert_runs(&all, 2);
    assert_value("SELECT count(*) FROM t", "3");
}

/* No file inherits from the one before, and a role that can't write to our tables is no hindrance.
 */
static void test_roles(void **state)
{
    (void) state;
    sql("CREATE ROLE owner_of_m; CREATE SCHEMA app AUTHORIZATION owner_of_m");
    put("V1__a.sql", "SET ROLE owner_of_m;\nSET search_path = app;\nCREATE TABLE t (a int);\n");
    put("V2__b.sql",
        "SELECT 1/(CASE WHEN current_user = 'owner_of_m' OR current_setting('search_path') = 'app' "
        "THEN 0 ELSE 1 END);\n");
    put("V3__c.sql", "-- pgcutover:no-transaction\nSET ROLE owner_of_m;\nSET search_path = app;\n"
                     "CREATE TABLE u (a int);\nBEGIN;\nINSERT INTO u VALUES (1);\nCREATE TABLE w "
                     "(a int);\nCOMMIT;\n"
                     "CREATE INDEX CONCURRENTLY i ON u (a);\nSELECT 1/0;\n");
    assert_fails(&defaults, "V3__c.sql:10: division by zero");
    put("V3__c.sql", "-- pgcutover:no-transaction\nSET ROLE owner_of_m;\nSET search_path = app;\n"
                     "CREATE TABLE u (a int);\nBEGIN;\nINSERT INTO u VALUES (1);\nCREATE TABLE w "
                     "(a int);\nCOMMIT;\n"
                     "CREATE INDEX CONCURRENTLY i ON u (a);\nCREATE TABLE x (a int);\n");
    assert_runs(&defaults, 1);
    assert_value("SELECT string_agg(relname || pg_get_userbyid(relowner), ',' ORDER BY relname) "
                 "FROM pg_class "
                 "WHERE relnamespace = 'app'::regnamespace",
                 "iowner_of_m,towner_of_m,uowner_of_m,wowner_of_m,xowner_of_m");
    assert_value("SELECT count(*) FROM ops.\"History\"", "3");
}

static void test_read_only_default(void **state)
{
    char text[100];
    (void) state;
    snprintf(text, sizeof text, "ALTER DATABASE %s SET default_transaction_read_only = on", dbname);
    sql(text);
    put("V1__a.sql", "CREATE TABLE t (a int);");
    assert_runs(&defaults, 1);
}

static void test_lock_lost_inside(void **state)
{
    (void) state;
    put("V1__a.sql", "SELECT pg_advisory_unlock_all();");
    put("V2__b.sql", "DISCARD ALL;");
    put("V3__c.sql", "CREATE TABLE t (a int);");
    assert_runs(&defaults, 3);
}

static void test_lock_timeout(void **state)
{
    struct migrate_options o = defaults;
    (void) state;
    o.lock_timeout_us = 200000;
    sql("CREATE TABLE t (a int)");
    sql("BEGIN; LOCK t");
    put("V1__a.sql", "SELECT 1;\nALTER TABLE t ADD b int;");
    struct error err = assert_fails(&o, "V1__a.sql:2: canceling statement due to lock timeout");
    assert_string_equal(err.sqlstate, "55P03");
    sql("ROLLBACK");
    assert_runs(&o, 1);
}

static void *stop_soon(void *arg)
{
    (void) arg;
    clock_sleep_ms(300);
    stop_request("the test says so");
    return NULL;
}

static void test_stop(void **state)
{
    (void) state;
    put("V1__a.sql", "CREATE TABLE t (a int); SELECT pg_sleep(30);");
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        memset(&outcomes[0], 0, sizeof outcomes[0]);
        pthread_create(&thread, NULL, stop_soon, NULL);
        work(&outcomes[0], &defaults, NULL);
        exit(0); /* not _exit: leaks are looked for */
    }
    waitpid(pid, NULL, 0);
    assert_false(outcomes[0].ok);
    assert_int_equal(outcomes[0].err.code, ERR_STOPPED);
    assert_value("SELECT to_regclass('t') IS NULL", "t");
    put("V1__a.sql", "CREATE TABLE t (a int);");
    assert_runs(&defaults, 1);
}

static void test_command(void **state)
{
    struct migrate_options o = defaults;
    struct error err = {0};
    (void) state;
    o.conninfo = cluster.conninfo;
    o.log_path = log_path;
    assert_true(
        migrate_command("psql -X -q -v ON_ERROR_STOP=1 -c 'CREATE TABLE t (a int)'", &o, &err));
    assert_value("SELECT count(*) FROM t", "0");
    assert_false(migrate_command("psql -X -q -v ON_ERROR_STOP=1 -c 'SELECT nonsense'", &o, &err));
    assert_int_equal(err.code, ERR_MIGRATION);
    assert_contains(err.detail, "column \"nonsense\" does not exist");
}

#define DB(test) cmocka_unit_test_setup_teardown(test, make_database, drop_database)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DB(test_runs_once),         DB(test_ten_at_once),
        DB(test_error_names_line),  DB(test_deferred),
        DB(test_refusals),          DB(test_dies_and_resumes),
        DB(test_concurrent_index),  DB(test_finished_part_changed),
        DB(test_unknown_call),      DB(test_own_transactions),
        DB(test_all_or_none),       DB(test_roles),
        DB(test_read_only_default), DB(test_lock_lost_inside),
        DB(test_lock_timeout),      DB(test_stop),
        DB(test_command),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
