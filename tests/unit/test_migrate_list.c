#include "migrate/migrate.h"
#include "sys/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
    (void) state;
    snprintf(dir, sizeof dir, "/tmp/pgcutover-list-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    struct error err = {0};
    (void) state;
    return file_remove_tree(dir, &err) ? 0 : -1;
}

static void put(const char *name, const char *text)
{
    char path[200];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_true(file_replace(path, text, strlen(text), 0644, &err));
}

static struct migration_list list(void)
{
    struct migration_list l;
    struct error err = {0};
    if (!migrate_list(dir, &l, &err))
        fail_msg("%s", err.message);
    return l;
}

static void assert_refused(const char *message)
{
    struct migration_list l;
    struct error err = {0};
    assert_false(migrate_list(dir, &l, &err));
    assert_int_equal(err.code, ERR_MIGRATION);
    if (!strstr(err.message, message))
        fail_msg("%s", err.message);
    assert_int_equal(l.n, 0);
}

static void assert_item(const struct migration_list *l, size_t i, const char *version,
                        const char *name, const char *file)
{
    assert_true(i < l->n);
    assert_string_equal(l->items[i].version, version);
    assert_string_equal(l->items[i].name, name);
    assert_string_equal(l->items[i].file, file);
}

static void test_flyway(void **state)
{
    (void) state;
    put("V10__ten.sql", "SELECT 10;");
    put("V2__two.sql", "SELECT 2;");
    put("V1_10__c.sql", "SELECT 1;");
    put("V1_9__b.sql", "SELECT 1; SELECT 2;");
    put("V1__a__b.sql", "CREATE INDEX CONCURRENTLY i ON t (a)");
    put("R__views.sql", "SELECT 'view';");
    put("U2__two.sql", "DROP TABLE t;");
    put("README.md", "no SQL");
    put("V2__two.sql.conf", "executeInTransaction=false\n");
    struct migration_list l = list();
    assert_int_equal(l.n, 6);
    assert_item(&l, 0, "1", "a__b", "V1__a__b.sql");
    assert_item(&l, 1, "1.9", "b", "V1_9__b.sql");
    assert_item(&l, 2, "1.10", "c", "V1_10__c.sql");
    assert_item(&l, 3, "2", "two", "V2__two.sql");
    assert_item(&l, 4, "10", "ten", "V10__ten.sql");
    assert_item(&l, 5, "R__views", "views", "R__views.sql");
    assert_true(l.items[0].no_transaction && l.items[3].no_transaction &&
                !l.items[1].no_transaction);
    assert_true(l.items[5].repeatable);
    assert_int_equal(l.items[1].nstatements, 2);
    /* printf 'SELECT 10;' | sha256sum */
    assert_string_equal(l.items[4].checksum,
                        "7510ac2d3839abb00501a87ab8f322480d834271227b9db6e764531bef02c683");
    migrate_list_release(&l);
}

static void test_golang(void **state)
{
    (void) state;
    put("0002_b.up.sql", "SELECT 1;");
    put("0010_c.up.sql", "SELECT 1;");
    put("0001_a.up.sql", "BEGIN; SELECT 1; COMMIT;");
    put("0001_a.down.sql", "this is not looked at");
    struct migration_list l = list();
    assert_int_equal(l.n, 3);
    assert_item(&l, 0, "0001", "a", "0001_a.up.sql");
    assert_item(&l, 2, "0010", "c", "0010_c.up.sql");
    assert_true(l.items[0].own_transactions && l.items[0].no_transaction);
    migrate_list_release(&l);
}

static void test_dbmate_and_describe(void **state)
{
    (void) state;
    struct strbuf sb = {0};
    struct error err = {0};
    put("20260101120000_a.sql",
        "-- migrate:up\nCREATE TABLE\n t();\n-- migrate:down\nDROP TABLE t;\n");
    put("20251231000000_b.sql", "-- migrate:up transaction:false\nSELECT 1;SELECT 2;\n");
    struct migration_list l = list();
    assert_int_equal(l.n, 2);
    assert_item(&l, 0, "20251231000000", "b", "20251231000000_b.sql");
    assert_true(l.items[0].no_transaction && !l.items[1].no_transaction);
    assert_true(migrate_describe(&l, &sb, &err));
    assert_string_equal(strbuf_cstr(&sb),
                        "20251231000000_b.sql: not in a transaction of its own\n"
                        "20251231000000_b.sql:2: SELECT 1\n20251231000000_b.sql:2: SELECT 2\n"
                        "20260101120000_a.sql:2: CREATE TABLE t()\n");
    put("20260101120000_a.sql", "-- migrate:up\nSELECT 3;");
    strbuf_reset(&sb);
    assert_false(migrate_describe(&l, &sb, &err));
    assert_non_null(strstr(err.message, "was changed while the run was on"));
    strbuf_release(&sb);
    migrate_list_release(&l);
}

static void test_twice(void **state)
{
    (void) state;
    put("V1__a.sql", "SELECT 1;");
    put("V01_0__b.sql", "SELECT 1;");
    assert_refused("have the same version");
}

static void test_mixture(void **state)
{
    (void) state;
    put("0001_a.up.sql", "SELECT 1;");
    put("V2__b.sql", "SELECT 1;");
    assert_refused("V2__b.sql: named in Flyway's");
}

static void test_unknown_name(void **state)
{
    (void) state;
    put("V1__a.sql", "SELECT 1;");
    put("afterMigrate.sql", "SELECT 1;");
    assert_refused("afterMigrate.sql: the name fits none");
}

static void test_subdirectory(void **state)
{
    char path[200];
    struct error err = {0};
    (void) state;
    put("V1__a.sql", "SELECT 1;");
    snprintf(path, sizeof path, "%s/more", dir);
    assert_true(file_make_dir(path, &err));
    put("more/V2__b.sql", "SELECT 1;");
    assert_refused("more/V2__b.sql: subdirectories");
}

static void test_java(void **state)
{
    (void) state;
    put("V1__a.sql", "SELECT 1;");
    put("V2__b.java", "class b {}");
    assert_refused("V2__b.java: a migration that isn't SQL");
}

static void test_empty(void **state)
{
    (void) state;
    assert_refused("has no migrations");
    put("V1__a.sql", "-- later\n");
    assert_refused("V1__a.sql: the file has no statement");
}

static void test_versions(void **state)
{
    (void) state;
    assert_true(migrate_compare_versions("1.9", "1.10") < 0);
    assert_true(migrate_compare_versions("2", "10") < 0);
    assert_int_equal(migrate_compare_versions("1", "01.0.0"), 0);
    assert_true(migrate_compare_versions("1.0.1", "1") > 0);
    assert_true(migrate_compare_versions("99999999999999999999999", "100000000000000000000000") <
                0);
    assert_true(migrate_compare_versions("R__a", "5") > 0);
    assert_true(migrate_compare_versions("R__a", "R__b") < 0);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(test_flyway),
        IN_DIR(test_golang),
        IN_DIR(test_dbmate_and_describe),
        IN_DIR(test_twice),
        IN_DIR(test_mixture),
        IN_DIR(test_unknown_name),
        IN_DIR(test_subdirectory),
        IN_DIR(test_java),
        IN_DIR(test_empty),
        cmocka_unit_test(test_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
