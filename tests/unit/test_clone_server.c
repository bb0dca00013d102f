/* A database of odd things, dumped at a snapshot and restored: equal to its source, but for what is
 * ours. */
#include "clone/archive.h"

#include "base/alloc.h"
#include "base/event.h"
#include "pg/facts.h"
#include "pg/fence.h"
#include "sys/file.h"
#include "sys/process.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster.h"

#define PASSWORD "p'a\\s\"s w=o$rd"
#define PASSWORD_IN_CONNINFO "'p\\'a\\\\s\"s w=o$rd'"

static struct cluster cluster;
static char conninfo[400];
static char dir[64], archive[100], log_path[100];

static const char *const odd_things[] = {
    "CREATE ROLE owner_of_public",
    "ALTER SCHEMA public OWNER TO owner_of_public",
    "CREATE EXTENSION hstore",
    "CREATE SCHEMA \"Odd Schema\"",
    "CREATE DOMAIN \"Odd Schema\".positive AS int NOT NULL CHECK (VALUE > 0)",
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'Hap py')",
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE TABLE \"Odd Schema\".\"T \"\"x\"\"\" (\"Col 1\" int GENERATED ALWAYS AS IDENTITY "
    "PRIMARY KEY, "
    "\"select\" \"Odd Schema\".positive, twice int GENERATED ALWAYS AS (\"select\" * 2) STORED, m "
    "mood, p pair, "
    "arr int[], n numeric, f float8, ts timestamptz, j jsonb, r int4range, h hstore, b bytea, c "
    "char(5), "
    "EXCLUDE USING gist (r WITH &&))",
    "INSERT INTO \"Odd Schema\".\"T \"\"x\"\"\" (\"select\", m, p, arr, n, f, ts, j, r, h, b, c) "
    "VALUES "
    "(7, 'Hap py', ROW(1, 'a,\"b'), '{1,NULL,3}', 'NaN', 0.30000000000000004, 'infinity', '{\"a\": "
    "[1, null]}', "
    "'[1,5)', 'a=>1', '\\x00ff0a5c', 'x'), "
    "(8, 'sad', NULL, '{}', 1.00, '-Infinity', '2024-02-29 12:34:56.789+03', 'null', 'empty', "
    "NULL, '', ''), "
    "(9, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "
    "(SELECT decode(repeat(md5('x'), 500000), 'hex')), NULL)",
    "CREATE TABLE orders (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE "
    "(at)",
    "CREATE TABLE orders_23 PARTITION OF orders FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
    "CREATE TABLE orders_24 PARTITION OF orders FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') "
    "PARTITION BY LIST (id)",
    "CREATE TABLE orders_24_rest PARTITION OF orders_24 DEFAULT",
    "INSERT INTO orders SELECT g, '2023-12-01'::date + g % 60, 'n' || g FROM generate_series(1, "
    "2000) g",
    "CREATE INDEX ON orders (lower(note)) WHERE id > 5",
    "CREATE TABLE lines (id bigserial PRIMARY KEY, order_id int, at date, "
    "FOREIGN KEY (order_id, at) REFERENCES orders ON DELETE CASCADE DEFERRABLE)",
    "INSERT INTO lines (order_id, at) SELECT id, at FROM orders WHERE id < 100",
    "CREATE TABLE nothing ()",
    "INSERT INTO nothing SELECT FROM generate_series(1, 3)",
    "CREATE TABLE \"two\nlines\" (a int)",
    "CREATE UNLOGGED TABLE u AS SELECT 1 AS a",
    "CREATE TABLE parent (a int); CREATE TABLE child (b int) INHERITS (parent)",
    "INSERT INTO child VALUES (1, 2)",
    "CREATE VIEW v AS SELECT id, count(*) FROM orders GROUP BY id",
    "CREATE MATERIALIZED VIEW mv AS SELECT * FROM v WHERE id < 10",
    "CREATE SEQUENCE s INCREMENT -3 MINVALUE -1000 MAXVALUE 5 START 5",
    "SELECT nextval('s'), nextval('s')",
    "CREATE STATISTICS st ON id, order_id FROM lines",
    "ALTER TABLE parent ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON parent USING (a > 0)",
    "CREATE FUNCTION on_change() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end'",
    "CREATE TRIGGER t AFTER INSERT ON lines FOR EACH ROW EXECUTE FUNCTION on_change()",
    "COMMENT ON TABLE lines IS 'it''s; a comment'",
    "CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end'",
    "CREATE EVENT TRIGGER \"Their own\" ON ddl_command_end EXECUTE FUNCTION on_ddl()",
    "SELECT lo_from_bytea(4711, '\\xdeadbeef')",
    "CREATE PUBLICATION pub FOR TABLE lines",
    "GRANT SELECT ON lines TO PUBLIC",
    NULL};

static void assert_ok(bool ok, const struct error *err)
{
    if (!ok)
        fail_msg("%s | %s | %s", err->message, err->detail, err->hint);
}

static void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" has no \"%s\"", text, part);
}

static void must(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(res);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQerrorMessage(conn));
    PQclear(res);
}

static char *value(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);
    if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
        fail_msg("%s: %s", sql, PQerrorMessage(conn));
    char *text = xstrdup(PQgetvalue(res, 0, 0));
    PQclear(res);
    return text;
}

static void assert_same(PGconn *a, PGconn *b, const char *sql)
{
    char *x = value(a, sql);
    char *y = value(b, sql);
    if (strcmp(x, y) != 0)
        fail_msg("%s: \"%.300s\", not \"%.300s\"", sql, y, x);
    free(x);
    free(y);
}

static void assert_value(PGconn *conn, const char *sql, const char *expected)
{
    char *text = value(conn, sql);
    if (strcmp(text, expected) != 0)
        fail_msg("%s: \"%s\"", sql, text);
    free(text);
}

static int start(void **state)
{
    (void) state;
    if (cluster_start(&cluster) != 0)
        return -1;
    PGconn *admin = cluster_client(&cluster, "postgres", "test");
    must(admin, "CREATE ROLE \"clone user\" SUPERUSER LOGIN PASSWORD 'x'");
    PQfinish(admin);
    snprintf(conninfo, sizeof conninfo, "host=%s port=%d user='clone user' password=%s",
             cluster.dir, cluster.port, PASSWORD_IN_CONNINFO);
    return 0;
}

static int stop(void **state)
{
    (void) state;
    cluster_stop(&cluster);
    return 0;
}

static int make_dir(void **state)
{
    (void) state;
    snprintf(dir, sizeof dir, "/tmp/pgcutover-clone-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(archive, sizeof archive, "%s/archive", dir);
    snprintf(log_path, sizeof log_path, "%s/log", dir);
    return 0;
}

static int remove_dir(void **state)
{
    struct error err = {0};
    (void) state;
    return file_remove_tree(dir, &err) ? 0 : -1;
}

static PGconn *connect_to(const char *name)
{
    char *quoted = xstrdup("");
    for (const char *p = name; *p; p++) {
        char *longer = xstrfmt("%s%s%c", quoted, *p == '\'' ? "\\" : "", *p);
        free(quoted);
        quoted = longer;
    }
    char *info = xstrfmt("%s dbname='%s'", cluster.conninfo, quoted);
    PGconn *conn = PQconnectdb(info);
    assert_int_equal(PQstatus(conn), CONNECTION_OK);
    free(info);
    free(quoted);
    return conn;
}

static PGconn *make_database(const char *name)
{
    char sql[100];
    PGconn *admin = cluster_client(&cluster, "postgres", "test");
    snprintf(sql, sizeof sql, "DROP DATABASE IF EXISTS \"%s\" WITH (FORCE)", name);
    must(admin, "SET client_min_messages = warning");
    must(admin, sql);
    snprintf(sql, sizeof sql, "CREATE DATABASE \"%s\"", name);
    must(admin, sql);
    PQfinish(admin);
    return connect_to(name);
}

static struct archive_options options(const char *dbname)
{
    return (struct archive_options){.conninfo = conninfo,
                                    .dbname = dbname,
                                    .run = "test",
                                    .dir = archive,
                                    .log_path = log_path,
                                    .jobs = 2,
                                    .server_version = 150000,
                                    .total_bytes = 50000000};
}

/* Looks at every process's command line, as any user of the host could. */
struct spy {
    pthread_t thread;
    atomic_bool ending;
    int tools; /* sightings of pg_dump and pg_restore */
    int secrets;
};

static void look(struct spy *spy, const char *pid)
{
    char path[300], text[4096];
    snprintf(path, sizeof path, "/proc/%s/cmdline", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    spy->tools += memmem(text, n, "/pg_dump", 8) || memmem(text, n, "/pg_restore", 11);
    spy->secrets += memmem(text, n, PASSWORD, strlen(PASSWORD)) || memmem(text, n, "w=o$rd", 6);
}

static void *spy_thread(void *arg)
{
    struct spy *spy = arg;
    while (!atomic_load(&spy->ending)) {
        DIR *d = opendir("/proc");
        for (struct dirent *e; d && (e = readdir(d)) != NULL;)
            if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
                look(spy, e->d_name);
        closedir(d);
        usleep(5000);
    }
    return NULL;
}

struct seen {
    int dump, restore, data, analyze;
};

static void on_event(void *ctx, const struct event *ev)
{
    struct seen *seen = ctx;
    if (ev->kind != EVENT_PROGRESS || !ev->object)
        return;
    assert_true(ev->total == 0 || ev->done <= ev->total);
    seen->dump += strcmp(ev->object, "dump") == 0;
    seen->restore += strcmp(ev->object, "restore") == 0;
    seen->data += strcmp(ev->object, "restore data") == 0;
    seen->analyze += strcmp(ev->object, "analyze") == 0;
}

static char *schema_of(const char *dbname)
{
    struct error err = {0};
    struct strbuf out = {0};
    struct strbuf kept = {0};
    char *path = NULL;
    char *info = xstrfmt("%s dbname='%s'", cluster.conninfo, dbname);
    assert_ok(process_find_pg_tool("pg_dump", 15, &path, &err), &err);
    const char *argv[] = {path, "-s", "--no-publications", "--exclude-schema=pgcutover", "-d",
                          info, NULL};
    struct process_options o = {.argv = argv, .out = &out, .out_ceiling = 1 << 24};
    assert_ok(process_run(&o, &err), &err);
    for (const char *line = strbuf_cstr(&out); *line;) {
        size_t len = strcspn(line, "\n");
        if (line[0] != '\\' && strncmp(line, "--", 2) != 0)
            strbuf_add(&kept, line, len + 1);
        line += len + 1;
    }
    strbuf_release(&out);
    free(path);
    free(info);
    return strbuf_take(&kept);
}

static PGconn *make_source(const char *name)
{
    PGconn *blue = make_database(name);
    for (size_t i = 0; odd_things[i]; i++)
        must(blue, odd_things[i]);
    return blue;
}

static void install_ours(const char *name, PGconn *blue)
{
    struct error err = {0};
    struct pg *pg = NULL;
    bool made = false;
    must(blue, "CREATE SCHEMA pgcutover; CREATE FUNCTION pgcutover.fence() RETURNS trigger "
               "LANGUAGE plpgsql AS "
               "'begin raise exception ''fenced''; end'");
    must(
        blue,
        "CREATE TRIGGER pgcutover_fence BEFORE INSERT ON lines EXECUTE FUNCTION pgcutover.fence()");
    must(blue, "CREATE TRIGGER pgcutover_fence BEFORE INSERT ON orders EXECUTE FUNCTION "
               "pgcutover.fence()");
    assert_ok(pg_open(&pg, cluster.conninfo, name, PG_PLAIN, "Test run", "x", NULL, &err), &err);
    assert_ok(facts_install(pg, "Test run", &err), &err);
    assert_ok(guard_install(pg, "Test run", &made, &err), &err);
    assert_true(made);
    pg_close(pg);
}

static void drop_ours(const char *name, PGconn *blue)
{
    struct error err = {0};
    struct pg *pg = NULL;
    assert_ok(pg_open(&pg, cluster.conninfo, name, PG_PLAIN, "Test run", "x", NULL, &err), &err);
    assert_ok(guard_drop(pg, "Test run", &err), &err);
    pg_close(pg);
    must(blue, "DROP TRIGGER pgcutover_fence ON lines");
    must(blue, "DROP TRIGGER pgcutover_fence ON orders");
}

static void compare(PGconn *blue, PGconn *green)
{
    static const char *const tables[] = {"\"Odd Schema\".\"T \"\"x\"\"\"",
                                         "orders",
                                         "lines",
                                         "nothing",
                                         "u",
                                         "child",
                                         "mv",
                                         "orders_24_rest"};
    must(blue, "SET extra_float_digits = 3");
    must(green, "SET extra_float_digits = 3");
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        char sql[300];
        snprintf(sql, sizeof sql,
                 "SELECT count(*) || md5(coalesce(string_agg(x::text, '|' ORDER BY x::text), '')) "
                 "FROM (SELECT t FROM %s t) x",
                 tables[i]);
        assert_same(blue, green, sql);
    }
    assert_same(blue, green, "SELECT last_value || is_called::text FROM s");
    assert_same(blue, green, "SELECT encode(lo_get(4711), 'hex')");
    assert_same(blue, green, "SELECT last_value FROM lines_id_seq");
}

static void test_equal(void **state)
{
    struct error err = {0};
    struct spy spy = {0};
    struct seen seen = {0};
    (void) state;
    PGconn *blue = make_source("blue = 'it'");
    PGconn *green = make_database("green = it");
    install_ours("blue = 'it'", blue);

    must(blue, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    char *snapshot = value(blue, "SELECT pg_export_snapshot()");
    PGconn *writer = connect_to("blue = 'it'");
    must(writer, "INSERT INTO parent VALUES (77)"); /* behind the snapshot */

    event_subscribe(on_event, &seen);
    pthread_create(&spy.thread, NULL, spy_thread, &spy);
    struct archive_options o = options("blue = 'it'");
    o.snapshot = snapshot;
    assert_false(archive_exists(archive));
    assert_ok(archive_dump(&o, &err), &err);
    assert_true(archive_exists(archive));
    o.dbname = "green = it";
    o.snapshot = NULL;
    assert_ok(
        pg_open(&o.watch, cluster.conninfo, "green = it", PG_PLAIN, "test", "watch", NULL, &err),
        &err);
    assert_ok(archive_restore(&o, &err), &err);
    pg_close(o.watch);
    atomic_store(&spy.ending, true);
    pthread_join(spy.thread, NULL);
    event_unsubscribe(on_event, &seen);

    assert_true(spy.tools > 0);
    assert_int_equal(spy.secrets, 0);
    assert_true(seen.dump > 0 && seen.restore > 0 && seen.data > 0 && seen.analyze > 5);
    must(blue, "COMMIT");
    assert_value(blue, "SELECT count(*) FROM parent WHERE a = 77", "1");
    assert_value(green, "SELECT count(*) FROM parent WHERE a = 77", "0");
    must(blue, "DELETE FROM parent WHERE a = 77");
    compare(blue, green);
    assert_value(green, "SELECT string_agg(evtname, ',') FROM pg_event_trigger", "Their own");
    assert_value(green, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgcutover'", "0");
    assert_value(green, "SELECT count(*) FROM pg_publication", "0");
    assert_value(green, "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'public'",
                 "owner_of_public");
    assert_value(green,
                 "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm', 'p') AND "
                 "relnamespace::regnamespace::text "
                 "IN ('public', '\"Odd Schema\"') AND reltuples < 0",
                 "0");
    drop_ours("blue = 'it'", blue);
    char *x = schema_of("blue = \\'it\\'");
    char *y = schema_of("green = it");
    assert_string_equal(x, y);
    free(x);
    free(y);
    free(snapshot);
    PQfinish(writer);
    PQfinish(blue);
    PQfinish(green);
}

static void test_one_job_compressed(void **state)
{
    struct error err = {0};
    (void) state;
    PGconn *blue = make_database("b2");
    PGconn *green = make_database("g2");
    must(blue,
         "CREATE TABLE t AS SELECT g AS a, md5(g::text) AS b FROM generate_series(1, 1000) g");
    must(green, "ALTER DATABASE g2 SET default_transaction_read_only = on");
    struct archive_options o = options("b2");
    o.jobs = 1;
    o.compress = true;
    assert_ok(archive_dump(&o, &err), &err);
    o.dbname = "g2";
    assert_false(archive_dump(&o, &err)); /* never over one that is there */
    assert_contains(err.message, "exists already");
    assert_ok(archive_restore(&o, &err), &err);
    assert_same(blue, green, "SELECT md5(string_agg(t::text, '|' ORDER BY a)) FROM t");
    PQfinish(blue);
    PQfinish(green);
}

static void test_violated_constraint(void **state)
{
    struct error err = {0};
    (void) state;
    PGconn *blue = make_database("b3");
    PGconn *green = make_database("g3");
    must(blue, "CREATE SCHEMA s; CREATE TABLE s.p (id int PRIMARY KEY); "
               "CREATE TABLE s.c (id int PRIMARY KEY, p int CONSTRAINT c_of_p REFERENCES s.p)");
    must(blue, "SET session_replication_role = replica; INSERT INTO s.c VALUES (1, 99)");
    struct archive_options o = options("b3");
    assert_ok(archive_dump(&o, &err), &err);
    o.dbname = "g3";
    assert_false(archive_restore(&o, &err));
    assert_int_equal(err.code, ERR_CHILD);
    assert_contains(err.message, "FK CONSTRAINT c c_of_p");
    assert_contains(err.message,
                    "insert or update on table \"c\" violates foreign key constraint \"c_of_p\"");
    assert_contains(err.detail, "Key (p)=(99) is not present in table \"p\".");
    assert_contains(err.detail, "ALTER TABLE ONLY s.c");
    assert_contains(err.hint, "Blue itself holds rows");
    assert_true(archive_exists(archive));
    PQfinish(blue);
    PQfinish(green);
}

static void test_bad_data(void **state)
{
    struct error err = {0};
    (void) state;
    PGconn *blue = make_database("b4");
    PGconn *green = make_database("g4");
    /* its table is read by the check, and comes after it */
    must(blue, "CREATE TABLE a (x int); CREATE FUNCTION ok(int) RETURNS bool LANGUAGE plpgsql AS "
               "'begin return (select count(*) from public.z) > 0; end'; CREATE TABLE z (x int); "
               "INSERT INTO z VALUES (1); ALTER TABLE a ADD CONSTRAINT a_ok CHECK (ok(x)); INSERT "
               "INTO a VALUES (1); "
               "DELETE FROM z");
    struct archive_options o = options("b4");
    assert_ok(archive_dump(&o, &err), &err);
    o.dbname = "g4";
    assert_false(archive_restore(&o, &err));
    assert_contains(err.message, "new row for relation \"a\" violates check constraint \"a_ok\"");
    PQfinish(blue);
    PQfinish(green);
}

static void test_dump_fails(void **state)
{
    struct error err = {0};
    (void) state;
    PGconn *blue = make_database("b5");
    struct archive_options o = options("b5");
    o.snapshot = "00000003-00000001-1";
    assert_false(archive_dump(&o, &err));
    assert_int_equal(err.code, ERR_CHILD);
    assert_contains(err.hint, "exported the snapshot has ended");
    assert_false(archive_exists(archive));
    assert_false(file_exists(archive));
    assert_false(archive_restore(&o, &err));
    assert_contains(err.message, "holds no whole archive");
    o.snapshot = NULL;
    assert_ok(archive_dump(&o, &err), &err); /* what the failure left is no hindrance */
    PQfinish(blue);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(test_equal),    IN_DIR(test_one_job_compressed), IN_DIR(test_violated_constraint),
        IN_DIR(test_bad_data), IN_DIR(test_dump_fails),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
