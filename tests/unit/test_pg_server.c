/* Connections, catalog, slots, facts, sequences and databases against a server of the test's own.
 */
#include "cluster.h"

#include "pg/facts.h"
#include "pg/fence.h"
#include "pg/sequence.h"
#include "pg/server.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
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

static PGconn *fresh(const char *name)
{
    char sql[200];
    PGconn *admin = cluster_client(&cluster, "postgres", "admin");

    snprintf(sql, sizeof sql, "DROP DATABASE IF EXISTS \"%s\" WITH (FORCE)", name);
    SQL(admin, sql, "");
    snprintf(sql, sizeof sql, "CREATE DATABASE \"%s\"", name);
    SQL(admin, sql, "");
    PQfinish(admin);
    return cluster_client(&cluster, name, "app");
}

static struct pg *ours(const char *dbname, enum pg_kind kind)
{
    struct pg *pg = NULL;

    OK(pg_open(&pg, cluster.conninfo, dbname, kind, "r1", "test", NULL, &err));
    return pg;
}

static void is_value(struct pg *pg, const char *sql, const char *want)
{
    char *value = NULL;

    OK(pg_value(pg, &value, sql, 0, NULL, &err));
    assert_string_equal(value, want);
    free(value);
}

static void sessions_are_pinned(void **state)
{
    PGconn *app = fresh("pinned");
    struct pg *pg;

    (void) state;
    SQL(app, "ALTER DATABASE pinned SET extra_float_digits = 0", "");
    SQL(app, "ALTER DATABASE pinned SET datestyle = 'SQL, DMY'", "");
    SQL(app, "ALTER DATABASE pinned SET search_path = public, pg_catalog", "");
    SQL(app, "ALTER DATABASE pinned SET default_transaction_read_only = on", "");
    SQL(app, "ALTER DATABASE pinned SET client_encoding = 'LATIN1'", "");
    for (int kind = PG_PLAIN; kind <= PG_APPLY; kind++) {
        pg = ours("pinned", (enum pg_kind) kind);
        is_value(pg, "SELECT 0.1::float8 + 0.2::float8", "0.30000000000000004");
        is_value(pg, "SELECT '2024-02-03'::date", "2024-02-03");
        is_value(pg, "SHOW search_path", "");
        is_value(pg, "SHOW transaction_read_only", "off");
        is_value(pg, "SHOW client_encoding", "UTF8");
        is_value(pg, "SHOW application_name", "pgcutover/r1/test");
        is_value(pg, "SHOW idle_session_timeout", "0");
        is_value(pg, "SHOW session_replication_role", kind == PG_APPLY ? "replica" : "origin");
        pg_close(pg);
    }
    pg = ours("pinned", PG_MIGRATE);
    is_value(pg, "SHOW search_path", "public, pg_catalog");
    pg_close(pg);
    PQfinish(app);
}

static void options_of_the_conninfo_are_kept(void **state)
{
    struct pg *pg = NULL;
    char conninfo[400];

    (void) state;
    snprintf(conninfo, sizeof conninfo, "%s options='-c work_mem=123kB -c my.own=x'",
             cluster.conninfo);
    OK(pg_open(&pg, conninfo, NULL, PG_PLAIN, NULL, "w", NULL, &err));
    is_value(pg, "SHOW work_mem", "123kB");
    is_value(pg, "SHOW my.own", "x");
    is_value(pg, "SHOW search_path", "");
    pg_close(pg);
    assert_false(pg_open(&pg, cluster.conninfo, "nowhere", PG_PLAIN, NULL, "w", NULL, &err));
    assert_int_equal(err.code, ERR_CONNECT);
    assert_string_equal(err.sqlstate, "3D000");
}

static void deadlines_cancel(void **state)
{
    struct pg *pg = ours("postgres", PG_PLAIN);
    int64_t begin = clock_us();
    struct pg_param param = {.data = "7"};
    PGresult *res = NULL;

    (void) state;
    pg_set_deadline(pg, clock_in_ms(150));
    assert_false(pg_exec(pg, "SELECT pg_sleep(20)", &err));
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_true(clock_us() - begin < 3000000);
    assert_false(pg_is_bad(pg));
    assert_false(pg_exec(pg, "SELECT 1", &err)); /* still past it */
    pg_set_deadline(pg, CLOCK_NONE);
    OK(pg_ping(pg, &err));
    for (int i = 0; i < 3; i++) {
        OK(pg_prepared(pg, &res, "SELECT $1::int + 1", 1, &param, &err));
        assert_string_equal(PQgetvalue(res, 0, 0), "8");
        PQclear(res);
    }
    assert_false(pg_exec(pg, "SELECT 1; SELECT 1/0; SELECT 2", &err));
    assert_string_equal(err.sqlstate, "22012");
    assert_false(pg_query(pg, &res, 1, "SELECT 1 WHERE false", 0, NULL, &err));
    assert_int_equal(err.code, ERR_PROTOCOL);
    OK(pg_begin(pg, "", &err));
    assert_false(pg_exec(pg, "SELECT 1/0", &err));
    assert_false(pg_commit(pg, &err)); /* answered ROLLBACK */
    is_value(pg, "SELECT 1", "1");
    assert_false(pg_execf(pg, &err, "SELECT pg_terminate_backend(%d)", pg_pid(pg)));
    assert_int_equal(err.code, ERR_CONNECT);
    assert_true(pg_is_bad(pg));
    pg_rollback(pg);
    pg_close(pg);
}

static const char odd_sql[] =
    "CREATE SCHEMA \"Odd Schema\"; CREATE SCHEMA \"select\";"
    "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN nn AS int NOT NULL; CREATE DOMAIN flag "
    "AS bool;"
    "CREATE DOMAIN nn2 AS nn; CREATE TYPE pair AS (a int, b point);"
    "CREATE TABLE \"Odd Schema\".\"Mixed \"\"Case\" (\"Id\" int PRIMARY KEY, \"user\" text);"
    "CREATE TABLE \"select\".\"table\" (a int NOT NULL, b int, c int NOT NULL);"
    "CREATE UNIQUE INDEX part_ix ON \"select\".\"table\" (a) WHERE b > 0;"
    "CREATE UNIQUE INDEX expr_ix ON \"select\".\"table\" ((a + 1));"
    "CREATE UNIQUE INDEX null_ix ON \"select\".\"table\" (b);"
    "CREATE UNIQUE INDEX \"Good ix\" ON \"select\".\"table\" (c, a) INCLUDE (b);"
    "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v text, UNIQUE (v) DEFERRABLE);"
    "CREATE TABLE types (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, twice int "
    "GENERATED ALWAYS AS (n * 2) "
    "STORED, m mood DEFAULT 'ok', d nn2, f flag, b bool, c char(3), i inet, ci cidr, na name, x "
    "xml, v varchar(5), "
    "num numeric(5,2), j json, jb jsonb, p pair, ar text[], pts point[], oc \"char\", pl text, ts "
    "timestamptz);"
    "ALTER TABLE types ALTER COLUMN pl SET STORAGE PLAIN; ALTER TABLE types DROP COLUMN ts;"
    "CREATE TABLE root (k int, v text) PARTITION BY RANGE (k);"
    "CREATE TABLE mid PARTITION OF root FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (k);"
    "CREATE TABLE leaf PARTITION OF mid FOR VALUES FROM (0) TO (5);"
    "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (e text) INHERITS (parent);"
    "CREATE TABLE zero ();"
    "CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);"
    "CREATE TABLE chosen (a int NOT NULL, b int NOT NULL); CREATE UNIQUE INDEX chosen_ix ON chosen "
    "(b, a);"
    "ALTER TABLE chosen REPLICA IDENTITY USING INDEX chosen_ix;"
    "CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;"
    "CREATE TABLE full_one (a int PRIMARY KEY); ALTER TABLE full_one REPLICA IDENTITY FULL;"
    "CREATE TABLE lost (a int NOT NULL); CREATE UNIQUE INDEX lost_ix ON lost (a);"
    "ALTER TABLE lost REPLICA IDENTITY USING INDEX lost_ix; DROP INDEX lost_ix;"
    "CREATE TABLE refers (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE, "
    "q int REFERENCES full_one ON UPDATE SET NULL DEFERRABLE);"
    "CREATE SEQUENCE \"Seq\" INCREMENT -3 START -5; SELECT nextval('\"Seq\"'), lo_create(0);"
    "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE "
    "far (a int) SERVER s;"
    "CREATE MATERIALIZED VIEW mv AS SELECT 1 AS one; CREATE TEMP TABLE tmp (a int)";

static const struct cat_column *column(const struct cat_table *t, const char *name)
{
    const struct cat_column *c = cat_column(t, name);

    assert_non_null(c);
    return c;
}

static const struct cat_table *table(const struct catalog *cat, const char *name)
{
    const struct cat_table *t = catalog_table(cat, "public", name);

    assert_non_null(t);
    return t;
}

static void check_keys(const struct catalog *cat)
{
    const struct cat_table *t = catalog_table(cat, "Odd Schema", "Mixed \"Case");

    assert_non_null(t);
    assert_string_equal(t->sql_name, "\"Odd Schema\".\"Mixed \"\"Case\"");
    assert_string_equal(cat_column(t, "user")->sql_name, "\"user\"");
    assert_int_equal(t->nkey, 1);
    t = catalog_table(cat, "select", "table");
    assert_int_equal(t->nkey + t->npk, 0);
    assert_string_equal(t->unique_indexes[0], "\"select\".\"Good ix\"");
    assert_null(t->unique_indexes[1]);
    t = table(cat, "deferred");
    assert_int_equal(t->npk, 1);
    assert_true(t->pk_deferrable);
    assert_int_equal(t->nkey, 0);
    t = table(cat, "chosen");
    assert_int_equal(t->nkey, 2);
    assert_int_equal(t->key[0], 2);
    assert_string_equal(t->replident_index, "public.chosen_ix");
    assert_int_equal(table(cat, "nothing")->nkey, 0);
    assert_int_equal(table(cat, "full_one")->nkey, 0);
    assert_int_equal(table(cat, "lost")->nkey, 0);
    assert_int_equal(table(cat, "lost")->replident, 'i');
    assert_int_equal(table(cat, "child")->parent, table(cat, "parent")->oid);
    assert_int_equal(table(cat, "child")->nkey, 0);
    assert_int_equal(table(cat, "leaf")->root, table(cat, "root")->oid);
    assert_int_equal(table(cat, "leaf")->parent, table(cat, "mid")->oid);
    assert_int_equal(table(cat, "child")->root, table(cat, "child")->oid);
    assert_int_equal(table(cat, "zero")->ncolumns, 0);
    assert_int_equal(table(cat, "unlogged")->persistence, 'u');
    assert_int_equal(table(cat, "far")->relkind, 'f');
    assert_null(catalog_table(cat, "public", "tmp"));
}

static void check_columns(const struct catalog *cat)
{
    const struct cat_table *t = table(cat, "types");
    static const char *const no_cast[] = {"f", "b", "c", "i", "ci", "na", "x", "oc"};
    static const char *const cast[] = {"id", "m", "d", "v", "num", "j", "jb", "p", "ar", "pl"};
    static const char *const no_equality[] = {"x", "j", "p", "pts"};

    for (size_t i = 0; i < sizeof no_cast / sizeof *no_cast; i++)
        assert_false(column(t, no_cast[i])->text_cast_ok);
    for (size_t i = 0; i < sizeof cast / sizeof *cast; i++)
        assert_true(column(t, cast[i])->text_cast_ok);
    for (size_t i = 0; i < sizeof no_equality / sizeof *no_equality; i++)
        assert_false(column(t, no_equality[i])->has_equality);
    assert_true(column(t, "ar")->has_equality && column(t, "v")->has_equality &&
                column(t, "m")->has_equality);
    assert_true(column(t, "ci")->has_equality && column(t, "d")->has_equality);
    assert_int_equal(column(t, "id")->identity, 'a');
    assert_int_equal(column(t, "twice")->generated, 's');
    assert_false(column(t, "twice")->has_default);
    assert_true(column(t, "n")->has_default);
    assert_string_equal(column(t, "m")->default_sql, "'ok'::public.mood");
    assert_true(column(t, "d")->not_null);
    assert_false(column(t, "v")->not_null);
    assert_string_equal(column(t, "num")->type_sql, "numeric");
    assert_string_equal(column(t, "num")->type_full, "numeric(5,2)");
    assert_string_equal(column(t, "v")->type_sql, "character varying");
    assert_true(column(t, "v")->toastable);
    assert_false(column(t, "pl")->toastable);
    assert_null(cat_column(t, "ts"));
    assert_non_null(cat_column_num(t, column(t, "pl")->attnum));
}

static void fingerprint_is(struct pg *pg, const char *was, bool same)
{
    char now[40];

    OK(catalog_fingerprint(pg, now, &err));
    assert_int_equal(strcmp(was, now) == 0, same);
}

static void catalogs_of_odd_tables(void **state)
{
    PGconn *app = fresh("odd");
    struct pg *pg = ours("odd", PG_PLAIN);
    struct catalog cat, before;
    bool found = false;
    static const char *const harmless[] = {"ANALYZE",
                                           "REINDEX TABLE CONCURRENTLY parent",
                                           "SELECT nextval('\"Seq\"')",
                                           "ALTER TABLE parent REPLICA IDENTITY FULL",
                                           "INSERT INTO parent VALUES (77)",
                                           "REFRESH MATERIALIZED VIEW mv",
                                           "VACUUM FULL parent"};
    static const char *const ddl[] = {
        "ALTER TABLE parent ADD COLUMN x int",
        "ALTER TYPE mood ADD VALUE 'fine'",
        "ALTER TABLE parent ADD CHECK (x > 0)",
        "CREATE INDEX ON parent (x)",
        "ALTER TABLE parent ALTER x SET DEFAULT 4",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "CREATE TABLE new_one ()",
        "ALTER TABLE parent RENAME x TO y",
        "ALTER DOMAIN flag SET NOT NULL",
        "ALTER SEQUENCE \"Seq\" INCREMENT 5"};

    (void) state;
    SQL(app, odd_sql, "");
    OK(catalog_load(pg, &cat, &err));
    check_keys(&cat);
    check_columns(&cat);
    assert_int_equal(cat.nfkeys, 2);
    assert_int_equal(cat.fkeys[0].on_delete, 'c');
    assert_int_equal(cat.fkeys[1].on_update, 'n');
    assert_true(cat.fkeys[1].deferrable);
    assert_int_equal(cat.ndeferrable, 2);
    assert_int_equal(cat.large_objects, 1);
    assert_int_equal(cat.matviews, 1);
    assert_int_equal(cat.foreign_tables, 1);
    assert_string_equal(cat.encoding, "UTF8");
    assert_int_equal(catalog_sequence(&cat, "public", "Seq")->last_value, -5);
    assert_int_equal(catalog_sequence(&cat, "public", "Seq")->increment, -3);
    SQL(app, "SELECT nextval('\"Seq\"')", "");
    OK(catalog_refresh_sequences(pg, &cat, &err));
    assert_int_equal(catalog_sequence(&cat, "public", "Seq")->last_value, -8);

    OK(catalog_load_before(pg, &before, &found, &err));
    assert_false(found);
    OK(catalog_save_before(pg, &cat, &err));
    OK(catalog_save_before(pg, &cat, &err));
    OK(catalog_load_before(pg, &before, &found, &err));
    assert_true(found);
    assert_int_equal(before.ntables, cat.ntables);
    assert_int_equal(before.nsequences, cat.nsequences);
    assert_int_equal(table(&before, "types")->ncolumns, table(&cat, "types")->ncolumns);
    assert_string_equal(column(table(&before, "types"), "num")->type_full, "numeric(5,2)");
    catalog_release(&before);

    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        SQL(app, harmless[i], "");
        fingerprint_is(pg, cat.fingerprint, true);
    }
    for (size_t i = 0; i < sizeof ddl / sizeof *ddl; i++) {
        char was[40];
        OK(catalog_fingerprint(pg, was, &err));
        SQL(app, ddl[i], "");
        fingerprint_is(pg, was, false);
    }
    catalog_release(&cat);
    pg_close(pg);
    PQfinish(app);
}

static void many_tables_load_quickly(void **state)
{
    PGconn *app = fresh("many");
    struct pg *pg = ours("many", PG_PLAIN);
    struct catalog cat;
    char print[40];
    int64_t begin, loaded;

    (void) state;
    SQL(app,
        "DO $$BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, "
        "a text, b int "
        "DEFAULT 3, c numeric, d jsonb)', i); END LOOP; END$$",
        "");
    begin = clock_us();
    OK(catalog_load(pg, &cat, &err));
    loaded = clock_us();
    OK(catalog_fingerprint(pg, print, &err));
    print_message("500 tables: catalog %lld ms, fingerprint %lld ms\n",
                  (long long) (loaded - begin) / 1000, (long long) (clock_us() - loaded) / 1000);
    assert_int_equal(cat.ntables, 500);
    assert_int_equal(cat.nsequences, 500);
    assert_true(clock_us() - begin < 3000000);
    catalog_release(&cat);
    pg_close(pg);
    PQfinish(app);
}

static void identities_come_back_exactly(void **state)
{
    PGconn *app = fresh("ident");
    struct pg *pg = ours("ident", PG_PLAIN);
    struct catalog cat, after;
    Oid full[2] = {0, 0};
    int changed = 0;

    (void) state;
    SQL(app, odd_sql, "");
    OK(facts_install(pg, "r1", &err));
    OK(catalog_load(pg, &cat, &err));
    full[0] = table(&cat, "chosen")->oid;
    OK(identity_fix(pg, "r1", &cat, full, &changed, &err));
    /* table, deferred, leaf, child, zero, nothing, lost and chosen */
    assert_int_equal(changed, 8);
    OK(identity_fix(pg, "r1", &cat, full, &changed, &err)); /* the old catalog: saved values stay */
    OK(catalog_load(pg, &after, &err));
    assert_int_equal(table(&after, "leaf")->replident, 'f');
    assert_int_equal(table(&after, "root")->replident, 'd');
    assert_int_equal(table(&after, "chosen")->replident, 'f');
    assert_int_equal(catalog_table(&after, "select", "table")->replident, 'i');
    assert_int_equal(catalog_table(&after, "select", "table")->nkey, 2);
    assert_string_equal(after.fingerprint, cat.fingerprint);
    OK(identity_fix(pg, "r1", &after, full, &changed, &err));
    assert_int_equal(changed, 0);
    catalog_release(&after);

    OK(publication_create(pg, "pub1", &cat, &err));
    OK(publication_create(pg, "pub1", &cat, &err));
    is_value(pg,
             "SELECT count(*) FROM pg_catalog.pg_publication_tables WHERE tablename IN "
             "('unlogged', 'far', 'root')",
             "0");
    is_value(pg,
             "SELECT count(*) FROM pg_catalog.pg_publication_tables WHERE tablename IN ('leaf', "
             "'marker', 'Mixed "
             "\"Case', 'child')",
             "4");
    SQL(app,
        "ALTER PUBLICATION pub1 DROP TABLE leaf; INSERT INTO root VALUES (1, 'a'); UPDATE root SET "
        "v = 'b'",
        "");
    OK(publication_create(pg, "pub1", &cat, &err));
    SQL(app, "UPDATE root SET v = 'c'; UPDATE deferred SET v = 'x'; DELETE FROM nothing", "");
    OK(publication_drop(pg, "pub1", &err));
    OK(publication_drop(pg, "pub1", &err));

    OK(identity_restore(pg, "r1", &err));
    OK(catalog_load(pg, &after, &err));
    for (size_t i = 0; i < cat.ntables; i++) {
        if (strcmp(cat.tables[i].name, "lost") == 0)
            continue; /* its index is gone: NOTHING has the same effect */
        assert_int_equal(after.tables[i].replident, cat.tables[i].replident);
        assert_int_equal(after.tables[i].nkey, cat.tables[i].nkey);
    }
    assert_int_equal(table(&after, "lost")->replident, 'n');
    is_value(pg, "SELECT count(*) FROM pgcutover.saved_identity", "0");
    OK(identity_restore(pg, "r1", &err));
    catalog_release(&after);
    catalog_release(&cat);
    pg_close(pg);
    PQfinish(app);
}

static void slots_and_their_blockers(void **state)
{
    PGconn *app = fresh("slots");
    PGconn *elsewhere = cluster_client(&cluster, "postgres", "sleeper");
    struct pg *control = ours("slots", PG_PLAIN), *sender = ours("slots", PG_WALSENDER);
    struct slot_snapshot snap;
    struct slot_info info;

    (void) state;
    SQL(elsewhere, "BEGIN; SELECT txid_current()", "");
    pg_set_deadline(sender, clock_in_ms(400));
    assert_false(slot_create(sender, control, "pgcutover_s", false, &snap, &err));
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_non_null(strstr(err.detail, "sleeper"));
    OK(slot_read(control, "pgcutover_s", &info, &err));
    assert_false(info.exists);
    SQL(elsewhere, "COMMIT", "");
    pg_set_deadline(sender, clock_in_ms(5000));
    OK(slot_create(sender, control, "pgcutover_s", false, &snap, &err));
    assert_true(snap.consistent_point != 0);
    assert_true(snap.snapshot[0] != '\0');
    SQL(app, "CREATE TABLE later ()", "");
    OK(pg_begin(control, "ISOLATION LEVEL REPEATABLE READ", &err));
    OK(pg_execf(control, &err, "SET TRANSACTION SNAPSHOT '%s'", snap.snapshot));
    is_value(control, "SELECT count(*) FROM pg_catalog.pg_class WHERE relname = 'later'", "0");
    pg_rollback(control);
    OK(slot_read(control, "pgcutover_s", &info, &err));
    assert_true(info.exists && !info.active);
    assert_string_equal(info.plugin, "pgoutput");
    OK(slot_drop(control, "pgcutover_s", &err));
    OK(slot_drop(control, "pgcutover_s", &err));
    OK(slot_create_plain(control, "pgcutover_p", &err));
    OK(pg_exec(
        sender,
        "START_REPLICATION SLOT pgcutover_p LOGICAL 0/0 (proto_version '1', publication_names 'x')",
        &err));
    OK(slot_read(control, "pgcutover_p", &info, &err));
    assert_true(info.active);
    OK(slot_drop(control, "pgcutover_p", &err)); /* our own reader is ended first */
    OK(slot_read(control, "pgcutover_p", &info, &err));
    assert_false(info.exists);
    pg_close(sender);
    pg_close(control);
    PQfinish(elsewhere);
    PQfinish(app);
}

static void *install(void *arg)
{
    struct error mine = {0};
    struct pg *pg = NULL;
    bool ok = pg_open(&pg, cluster.conninfo, "facts", PG_PLAIN, "r1", arg, NULL, &mine) &&
              facts_install(pg, "r1", &mine);

    if (!ok)
        print_message("install: %s\n", mine.message);
    pg_close(pg);
    return ok ? arg : NULL;
}

static void facts_and_arbiter(void **state)
{
    PGconn *app = fresh("facts");
    struct pg *pg = ours("facts", PG_PLAIN), *other = ours("facts", PG_PLAIN);
    pthread_t threads[4];
    char *value = NULL, arbiter[32];
    bool yes = true, won = false;
    int64_t n = 0, m = 0;
    lsn_t lsn = 0, lsn2 = 0, end = 0;

    (void) state;
    OK(facts_installed(pg, &yes, &err));
    assert_false(yes);
    OK(fact_get(pg, "r1", "step", &value, &err));
    assert_null(value);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, install, (void *) (uintptr_t) "w"), 0);
    for (int i = 0; i < 4; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        assert_non_null(result);
    }
    OK(fact_set(pg, "r1", "step", "dump", &err));
    OK(fact_set(pg, "r1", "step", "it's \\ here", &err));
    OK(fact_get(pg, "r1", "step", &value, &err));
    assert_string_equal(value, "it's \\ here");
    free(value);
    OK(arbiter_read(pg, "r1", arbiter, &err));
    assert_string_equal(arbiter, "");
    OK(arbiter_arm(pg, "r1", &err));
    OK(arbiter_swap(pg, "r1", "armed", "committing", &won, &err));
    assert_true(won);
    OK(arbiter_swap(other, "r1", "armed", "revoked", &won, &err));
    assert_false(won);
    OK(arbiter_arm(pg, "r1", &err));
    OK(arbiter_read(pg, "r1", arbiter, &err));
    assert_string_equal(arbiter, "armed");
    OK(marker_write(pg, "r1", &n, &lsn, &err));
    OK(marker_write(pg, "r1", &m, &lsn2, &err));
    assert_true(m == n + 1 && lsn2 > lsn);
    OK(progress_get(pg, "r1", &lsn, &end, &yes, &err));
    assert_false(yes);
    OK(progress_set(pg, "r1", 0x100000015u, 0x100000020u, &err));
    OK(progress_set(pg, "r1", 0x100000016u, 0x100000021u, &err));
    OK(progress_get(pg, "r1", &lsn, &end, &yes, &err));
    assert_true(yes && lsn == 0x100000016u && end == 0x100000021u);
    OK(progress_clear(pg, "r1", &err));
    OK(run_lock(pg, &err));
    assert_false(run_lock(other, &err));
    assert_int_equal(err.code, ERR_LOCKED);
    assert_non_null(strstr(err.detail, "pgcutover/r1/test"));
    OK(facts_install(pg, "r2", &err));
    OK(facts_uninstall(pg, "r2", &err));
    OK(facts_installed(pg, &yes, &err));
    assert_true(yes);
    OK(facts_uninstall(pg, "r1", &err));
    OK(facts_installed(pg, &yes, &err));
    assert_false(yes);
    OK(facts_uninstall(pg, "r1", &err));
    pg_close(pg);
    pg_close(other);
    PQfinish(app);
}

static void sequences_are_carried(void **state)
{
    PGconn *source = fresh("seqs"), *target = fresh("seqt");
    struct pg *s = ours("seqs", PG_PLAIN), *t = ours("seqt", PG_PLAIN);
    struct catalog from, to;
    struct sequence_pair pairs[6];
    int moved = 0;
    const char *make =
        "CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE small AS smallint; "
        "CREATE SEQUENCE ahead; CREATE SEQUENCE restarted; CREATE SEQUENCE fresh INCREMENT 10";

    (void) state;
    SQL(source, make, "");
    SQL(target, make, "");
    SQL(source,
        "SELECT setval('up', 50), setval('down', -70), setval('small', 300), setval('ahead', 5), "
        "setval('restarted', 900, false)",
        "");
    SQL(target, "SELECT setval('up', 20), setval('down', -30), setval('ahead', 99)", "");
    OK(catalog_load(s, &from, &err));
    OK(catalog_load(t, &to, &err));
    for (size_t i = 0; i < 6; i++)
        pairs[i] = (struct sequence_pair){from.sequences[i].oid, to.sequences[i].oid};
    OK(sequence_carry(s, t, pairs, 6, &moved, &err));
    assert_int_equal(moved, 4);
    is_value(t, "SELECT nextval('public.up')", "51");
    is_value(t, "SELECT nextval('public.down')", "-71");
    is_value(t, "SELECT nextval('public.small')", "301");
    is_value(t, "SELECT nextval('public.ahead')", "100");
    is_value(t, "SELECT nextval('public.restarted')", "900");
    is_value(t, "SELECT nextval('public.fresh')", "1");
    OK(sequence_carry(s, t, pairs, 6, &moved, &err));
    assert_int_equal(moved, 0);
    catalog_release(&to);
    OK(catalog_load(t, &to, &err));
    OK(sequence_push(t, &to, 1000000, &err));
    OK(sequence_push(t, &to, 1000000, &err)); /* again after a crash: no further */
    is_value(t, "SELECT nextval('public.up')", "1000052");
    is_value(t, "SELECT nextval('public.down')", "-1000072");
    is_value(t, "SELECT nextval('public.small') BETWEEN 301 AND 32766", "t");
    catalog_release(&from);
    catalog_release(&to);
    pg_close(s);
    pg_close(t);
    PQfinish(source);
    PQfinish(target);
}

static void servers_and_databases(void **state)
{
    PGconn *app = fresh("blue");
    struct pg *blue = ours("blue", PG_PLAIN), *green;
    struct server_facts facts;
    bool exists = true, own = true;
    char *text = NULL;

    (void) state;
    SQL(app, "DROP ROLE IF EXISTS clerk; CREATE ROLE clerk; GRANT CREATE ON SCHEMA public TO clerk",
        "");
    SQL(app, odd_sql, "");
    SQL(app, "ALTER DATABASE blue SET search_path = '$user', \"Odd Schema\", public", "");
    SQL(app, "ALTER DATABASE blue SET default_transaction_read_only = on", "");
    SQL(app, "ALTER ROLE clerk IN DATABASE blue SET app.tenant = 'it''s, me'", "");
    SQL(app, "ALTER TABLE refers ADD CONSTRAINT unproved CHECK (id > 0) NOT VALID", "");
    OK(server_facts_read(blue, &facts, &err));
    assert_true(facts.superuser && facts.event_triggers_ok && facts.user_objects > 10);
    assert_string_equal(facts.wal_level, "logical");
    assert_int_equal(facts.unlogged_tables, 1);
    assert_int_equal(facts.invalid_constraints, 1);
    assert_int_equal(facts.other_slots + facts.subscriptions + facts.event_triggers, 0);
    OK(server_tables_unlogged(blue, &text, &err));
    assert_string_equal(text, "public.unlogged");
    free(text);
    OK(server_constraints_not_valid(blue, &text, &err));
    assert_string_equal(text, "unproved on public.refers");
    free(text);
    OK(server_database_exists(cluster.conninfo, "Green", &exists, &own, "r1", &err));
    assert_false(exists);
    OK(server_create_database(cluster.conninfo, "Green", blue, "r1", &err));
    OK(server_create_database(cluster.conninfo, "Green", blue, "r1", &err)); /* ours already */
    OK(server_database_exists(cluster.conninfo, "Green", &exists, &own, "r1", &err));
    assert_true(exists && own);
    green = ours("Green", PG_PLAIN);
    is_value(
        green,
        "SELECT string_agg(coalesce(setrole::regrole::text, '') || c, ' ' ORDER BY c) FROM "
        "pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, "
        "unnest(setconfig) c WHERE datname = 'Green'",
        "clerkapp.tenant=it's, me -default_transaction_read_only=on -search_path=\"$user\", \"Odd "
        "Schema\", public");
    OK(server_facts_read(green, &facts, &err));
    assert_int_equal(facts.user_objects, 0);
    OK(server_missing_roles(blue, green, &text, &err));
    assert_string_equal(text, "");
    free(text);
    OK(server_missing_extensions(blue, green, &text, &err));
    assert_string_equal(text, "");
    free(text);
    SQL(app, "SET default_transaction_read_only = off", "");
    assert_false(server_empty_database(green, "r1", &err)); /* not known as the run's */
    OK(facts_install(green, "r1", &err));
    OK(pg_exec(green, "SET search_path = public", &err));
    OK(pg_exec(green, odd_sql, &err));
    OK(pg_exec(green, "GRANT CREATE ON SCHEMA public TO clerk", &err));
    OK(server_empty_database(green, "r1", &err));
    OK(server_facts_read(green, &facts, &err));
    assert_int_equal(facts.user_objects, 0);
    is_value(green, "SELECT has_schema_privilege('clerk', 'public', 'CREATE')", "t");
    assert_false(server_drop_database(cluster.conninfo, "blue", "r1", &err));
    assert_false(server_drop_database(cluster.conninfo, "Green", "r2", &err));
    OK(server_drop_database(cluster.conninfo, "Green", "r1",
                            &err)); /* although green is still connected */
    OK(server_drop_database(cluster.conninfo, "Green", "r1", &err));
    pg_close(green);
    pg_close(blue);
    PQfinish(app);
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
        cmocka_unit_test(sessions_are_pinned),
        cmocka_unit_test(options_of_the_conninfo_are_kept),
        cmocka_unit_test(deadlines_cancel),
        cmocka_unit_test(catalogs_of_odd_tables),
        cmocka_unit_test(many_tables_load_quickly),
        cmocka_unit_test(identities_come_back_exactly),
        cmocka_unit_test(slots_and_their_blockers),
        cmocka_unit_test(facts_and_arbiter),
        cmocka_unit_test(sequences_are_carried),
        cmocka_unit_test(servers_and_databases),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
