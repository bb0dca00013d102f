#include "migrate/script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct script parse(const char *text, bool numbered)
{
    struct script s;
    struct error err = {0};
    if (!script_parse(&s, "f.sql", text, strlen(text), numbered, &err))
        fail_msg("%s (%s)", err.message, err.detail);
    return s;
}

static void assert_statement(const struct script *s, size_t n, int line, const char *text)
{
    assert_true(n < s->n);
    assert_int_equal(s->items[n].line, line);
    assert_int_equal(s->items[n].len, strlen(text));
    assert_memory_equal(s->text + s->items[n].offset, text, strlen(text));
}

static void assert_refused(const char *text, bool numbered, const char *message, const char *hint)
{
    struct script s;
    struct error err = {0};
    assert_false(script_parse(&s, "f.sql", text, strlen(text), numbered, &err));
    assert_int_equal(err.code, ERR_MIGRATION);
    assert_string_equal(err.message, message);
    if (!strstr(err.hint, hint))
        fail_msg("hint: %s", err.hint);
}

static void test_split(void **state)
{
    (void) state;
    struct script s =
        parse("-- one; two\n"
              "SELECT ';' AS \"a;b\", E'it\\'s; so', $$;$$;;\n"
              "/* outer /* inner; */ still; */\n"
              "  CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$\n"
              "BEGIN\n"
              "  RETURN 1; -- $$ ;\n"
              "END $body$;\n"
              "CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;\n"
              "\n"
              "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2);\n"
              "SELECT U&'d\\0061t;a', '\xc3\xa9;' -- end\n",
              false);
    assert_int_equal(s.n, 5);
    assert_statement(&s, 0, 2, "SELECT ';' AS \"a;b\", E'it\\'s; so', $$;$$");
    assert_statement(
        &s, 1, 4,
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$\nBEGIN\n  RETURN 1; -- $$ ;\n"
        "END $body$");
    assert_statement(
        &s, 2, 8,
        "CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END");
    assert_statement(&s, 3, 10, "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)");
    assert_int_equal(s.items[4].line, 11);
    assert_false(s.must_be_alone || s.own_transactions || s.marked_no_transaction);
    script_release(&s);
}

static void test_crlf_and_mark(void **state)
{
    (void) state;
    struct script s = parse("\xef\xbb\xbfSELECT 1;\r\n\r\nSELECT 2;\r\n", false);
    assert_int_equal(s.n, 2);
    assert_statement(&s, 1, 3, "SELECT 2");
    script_release(&s);
}

static void test_syntax_error(void **state)
{
    (void) state;
    assert_refused("SELECT '\xc3\xa9\xc3\xa9\xc3\xa9\n';\n\nCREATE TABEL t();\n", false,
                   "f.sql:4: syntax error at or near \"TABEL\"", "Mend");
    assert_refused("SELECT 1;\nSELECT 'abc;\n", false,
                   "f.sql:2: unterminated quoted string at or near \"'abc;\n\"", "Mend");
    assert_refused("INSERT INTO ${schema}.t VALUES (1);", false,
                   "f.sql:1: syntax error at or near \"$\"", "Placeholders");
    assert_refused("", false, "f.sql: the file has no statement", "Delete");
    assert_refused("-- nothing\n;;\n", false, "f.sql: the file has no statement", "Delete");
}

static void test_psql(void **state)
{
    (void) state;
    assert_refused("SELECT 1;\n\\connect other\n", false,
                   "f.sql:2: \"\\connect other\" is a command of psql, not SQL", "psql");
    assert_refused("SELECT 1;\nCOPY t (a, b) FROM stdin;\n1\t2\n3\t4;x\n\\.\n", false,
                   "f.sql:3: data of a COPY FROM stdin can't stand in a migration file", "INSERT");
    assert_refused("SELECT 1;\n\ncopy t from STDIN", false,
                   "f.sql:3: COPY FROM stdin can't stand in a migration file", "INSERT");
    /* inside a string a backslash is one */
    struct script s = parse("SELECT '\n\\connect x';COPY t FROM '/tmp/x';", false);
    assert_int_equal(s.n, 2);
    script_release(&s);
}

static void test_sections(void **state)
{
    (void) state;
    struct script s =
        parse("-- a\n-- migrate:up transaction:false\nCREATE TABLE t();\n\n-- migrate:down\n"
              "DROP TABLE t;\n",
              true);
    assert_int_equal(s.n, 1);
    assert_statement(&s, 0, 3, "CREATE TABLE t()");
    assert_true(s.marked_no_transaction);
    assert_true(s.sections);
    script_release(&s);
    s = parse("CREATE TABLE t();", true);
    assert_false(s.sections);
    script_release(&s);
    assert_refused("-- migrate:down\nDROP TABLE t;", true,
                   "f.sql:1: \"-- migrate:down\" without \"-- migrate:up\" before it", "");
    assert_refused("-- +goose Up\nSELECT 1;\n-- +goose Down\nSELECT 2;", true,
                   "f.sql:1: the file is written for goose", "command");
}

static void test_no_transaction_mark(void **state)
{
    (void) state;
    struct script s = parse("/* x */\n --  pgcutover:no-transaction\nSELECT 1;", false);
    assert_true(s.marked_no_transaction);
    script_release(&s);
    s = parse("SELECT 1;\n-- pgcutover:no-transaction\nSELECT 2;", false);
    assert_false(s.marked_no_transaction);
    script_release(&s);
    s = parse("-- pgcutover:no-transaction-please\nSELECT 1;", false);
    assert_false(s.marked_no_transaction);
    script_release(&s);
}

static void test_kinds(void **state)
{
    (void) state;
    static const struct {
        const char *sql;
        enum statement_kind kind;
    } cases[] = {
        {"CREATE INDEX i ON t (a)", STATEMENT_PLAIN},
        {"CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", STATEMENT_INDEX_ALONE},
        {"/* x */ create index concurrently on s.\"T x\" (a)", STATEMENT_INDEX_ALONE},
        {"DROP INDEX CONCURRENTLY i", STATEMENT_ALONE},
        {"DROP INDEX i", STATEMENT_PLAIN},
        {"REINDEX TABLE t", STATEMENT_PLAIN},
        {"REINDEX (CONCURRENTLY) TABLE t", STATEMENT_ALONE},
        {"REINDEX (CONCURRENTLY false) TABLE t", STATEMENT_PLAIN},
        {"REINDEX SCHEMA s", STATEMENT_ALONE},
        {"VACUUM t", STATEMENT_ALONE},
        {"VACUUM (ANALYZE) t", STATEMENT_ALONE},
        {"ANALYZE t", STATEMENT_PLAIN},
        {"CLUSTER", STATEMENT_ALONE},
        {"CLUSTER t USING i", STATEMENT_PLAIN},
        {"ALTER SYSTEM SET work_mem = 1", STATEMENT_ALONE},
        {"ALTER TABLE t DETACH PARTITION p CONCURRENTLY", STATEMENT_ALONE},
        {"ALTER TABLE t DETACH PARTITION p", STATEMENT_PLAIN},
        {"ALTER TYPE e ADD VALUE 'x'", STATEMENT_PLAIN},
        {"CREATE DATABASE d", STATEMENT_ALONE},
        {"DISCARD ALL", STATEMENT_ALONE},
        {"BEGIN", STATEMENT_TRANSACTION},
        {"END", STATEMENT_TRANSACTION},
        {"ROLLBACK TO SAVEPOINT a", STATEMENT_TRANSACTION},
        {"SET search_path = a", STATEMENT_SESSION},
        {"SET ROLE r", STATEMENT_SESSION},
        {"SET LOCAL search_path = a", STATEMENT_PLAIN},
        {"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", STATEMENT_PLAIN},
        {"RESET search_path", STATEMENT_SESSION},
        {"SELECT pg_catalog.set_config('search_path', '', false)", STATEMENT_SESSION},
        {"CALL p()", STATEMENT_CALL},
        {"DO $$ BEGIN PERFORM 1; END $$", STATEMENT_PLAIN},
        {"DO $$ BEGIN UPDATE t SET committed = true; END $$", STATEMENT_PLAIN},
        {"DO $$ BEGIN LOOP UPDATE t SET a = 1; Commit ; END LOOP; END $$", STATEMENT_COMMITS},
        {"INSERT INTO vacuum VALUES ('VACUUM; BEGIN;')", STATEMENT_PLAIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct script s = parse(cases[i].sql, false);
        if (s.n != 1 || s.items[0].kind != cases[i].kind)
            fail_msg("%s: %zu statements, kind %d", cases[i].sql, s.n, (int) s.items[0].kind);
        script_release(&s);
    }
}

static void test_index_names(void **state)
{
    (void) state;
    struct script s = parse(
        "CREATE INDEX CONCURRENTLY \"I x\" ON s.\"T\"\"x\" (a); CREATE INDEX CONCURRENTLY ON t (a)",
        false);
    assert_string_equal(s.items[0].index, "I x");
    assert_string_equal(s.items[0].table, "\"s\".\"T\"\"x\"");
    assert_null(s.items[1].index);
    assert_string_equal(s.items[1].table, "\"t\"");
    assert_true(s.must_be_alone && s.items[0].builds_index);
    script_release(&s);
}

static void test_excerpt(void **state)
{
    (void) state;
    struct strbuf sb = {0};
    struct script s = parse("SELECT  1,\n\t  2, '\xc3\xa9\xc3\xa9'", false);
    script_excerpt(&s, &s.items[0], 100, &sb);
    assert_string_equal(strbuf_cstr(&sb), "SELECT 1, 2, '\xc3\xa9\xc3\xa9'");
    strbuf_reset(&sb);
    script_excerpt(&s, &s.items[0], 15, &sb);
    assert_string_equal(strbuf_cstr(&sb), "SELECT 1, 2, '\xc3\xa9...");
    script_release(&s);
    strbuf_release(&sb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),        cmocka_unit_test(test_crlf_and_mark),
        cmocka_unit_test(test_syntax_error), cmocka_unit_test(test_psql),
        cmocka_unit_test(test_sections),     cmocka_unit_test(test_no_transaction_mark),
        cmocka_unit_test(test_kinds),        cmocka_unit_test(test_index_names),
        cmocka_unit_test(test_excerpt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
