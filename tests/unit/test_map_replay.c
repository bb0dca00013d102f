/* The generated statements, executed on green against real rows. */
#include "map_world.h"

#define RULE(name, ...)                                                                            \
    {                                                                                              \
        .section = name, .line = 7, __VA_ARGS__                                                    \
    }
#define UP(...)                                                                                    \
    .up = (struct map_up[]){__VA_ARGS__},                                                          \
    .nup = sizeof((struct map_up[]){__VA_ARGS__}) / sizeof(struct map_up)

/* All of a table as text, in order of its columns. */
static void assert_rows(struct world *w, const char *table, const char *expected)
{
    char *sql = xstrfmt(
        "SELECT pg_catalog.string_agg(t::text, ' ' ORDER BY t::text COLLATE \"C\") FROM %s AS t",
        table);
    assert_green(w, sql, expected);
    free(sql);
}

static const struct map_table *resolved(struct world *w, const char *name)
{
    const struct map_table *mt = world_table(w, name);
    if (mt->unresolved)
        fail_msg("%s", mt->unresolved);
    return mt;
}

static void a_table_through_its_life(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    bool without_note[4] = {true, true, false, true};
    world_migrate(
        w, NULL, "CREATE TABLE t (id int PRIMARY KEY, total numeric(10,2), note text, old int)",
        "ALTER TABLE t RENAME TO po; ALTER TABLE po ALTER id TYPE bigint; ALTER TABLE po DROP old;"
        "ALTER TABLE po ADD cents int; ALTER TABLE po DROP total; ALTER TABLE po RENAME note TO "
        "remark;"
        "ALTER TABLE po ADD up text GENERATED ALWAYS AS (upper(remark)) STORED;"
        "ALTER TABLE po ADD at timestamptz NOT NULL DEFAULT '2020-01-01'");
    const struct map_rule rule = RULE("public.t", UP({"cents", "(total * 100)::bigint"}));
    world_derive(w, &rule, 1);
    const struct map_table *mt = resolved(w, "t");
    project_insert(&sql, mt, NULL);
    assert_int_equal(
        APPLY(w, &sql, "{1,2,3}", "{1.5,NULL,0.01}", "{a,NULL,\"c,\\\"\"}", "{9,9,NULL}"), 3);
    assert_rows(w, "public.po",
                "(1,a,150,A,\"2020-01-01 00:00:00+00\") (2,,,,\"2020-01-01 00:00:00+00\") "
                "(3,\"c,\"\"\",1,\"C,\"\"\",\"2020-01-01 00:00:00+00\")");
    assert_true(project_update(&sql, mt, without_note));
    assert_int_equal(APPLY(w, &sql, "{3,1,77}", "{NULL,2,3}", "{1,1,1}"),
                     2); /* 77 is not there: counted */
    assert_rows(w, "public.po",
                "(1,a,200,A,\"2020-01-01 00:00:00+00\") (2,,,,\"2020-01-01 00:00:00+00\") "
                "(3,\"c,\"\"\",,\"C,\"\"\",\"2020-01-01 00:00:00+00\")");
    project_rekey(&sql, mt, without_note);
    assert_int_equal(APPLY(w, &sql, "{1}", "{10}", "{7}", "{1}"), 1);
    project_delete(&sql, mt);
    assert_int_equal(APPLY(w, &sql, "{2,3,4}"), 2);
    assert_rows(w, "public.po", "(10,a,700,A,\"2020-01-01 00:00:00+00\")");
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{10}", "{1}", "{x}", "{1}"), -1);
    assert_string_equal(w->err.sqlstate, "23505");
}

/* TRAPS 64: assignment raises where an explicit cast to varchar(3) would cut. */
static void lengths_are_checked_by_assignment(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    world_migrate(
        w, NULL, "CREATE TABLE t (id int PRIMARY KEY, v varchar(10), c char(2), n numeric(6,3))",
        "ALTER TABLE t ALTER v TYPE varchar(3), ALTER c TYPE char(4), ALTER n TYPE numeric(6,1)");
    world_derive(w, NULL, 0);
    const struct map_table *mt = resolved(w, "t");
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{1}", "{abcd}", "{a}", "{1}"), -1);
    assert_string_equal(w->err.sqlstate, "22001");
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{1,2}", "{abc,\"ab  \"}", "{\"a \",NULL}", "{1.26,NaN}"), 2);
    assert_rows(w, "public.t", "(1,abc,\"a   \",1.3) (2,\"ab \",,NaN)");
}

/* What the target would hold, as text, is what it holds; a value that is too long is not cut to
 * look equal. */
static void texts_agree(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    world_migrate(
        w, NULL,
        "CREATE TABLE t (id int PRIMARY KEY, v varchar(10), c char(2), n numeric(6,3), b bool, i "
        "inet,"
        "o \"char\", f float8, x xml, ts timestamptz, by bytea, nm name, s text)",
        "ALTER TABLE t ALTER v TYPE varchar(3), ALTER c TYPE char(4), ALTER n TYPE numeric(6,1),"
        "ALTER b TYPE text, ALTER ts TYPE timestamp(0), ALTER s TYPE char(3) USING left(s, 3)");
    world_derive(w, NULL, 0);
    const struct map_table *mt = resolved(w, "t");
    const char *row[] = {"{1,2}",
                         "{\"abc  \",NULL}",
                         "{a,NULL}",
                         "{1.26,NULL}",
                         "{t,NULL}",
                         "{10.0.0.1,NULL}",
                         "{q,NULL}",
                         "{0.30000000000000004,NULL}",
                         "{\"<?xml version=\\\"1.0\\\"?><a/>\",NULL}",
                         "{\"2024-03-02 01:02:03.6+00\",NULL}",
                         "{\"\\\\\\\\x00ff\",NULL}",
                         "{nm,NULL}",
                         "{ab,NULL}"};
    const char *longer[13];
    project_insert(&sql, mt, NULL);
    assert_int_equal(world_apply(w, &sql, 13, row), 2);
    for (int pass = 0; pass < 2; pass++) {
        strbuf_addstr(&sql, "SELECT pg_catalog.concat(e.o, ':'");
        for (size_t c = 0; c < mt->ncolumns; c++) {
            char *v = xstrfmt("e.v%zu", c), *t = xstrfmt("t.%s", mt->columns[c].target->sql_name);
            strbuf_addf(&sql, ", CASE WHEN ");
            project_target_text(&sql, mt, c, v);
            strbuf_addstr(&sql, " IS DISTINCT FROM ");
            project_text(&sql, mt->columns[c].target, t);
            strbuf_addf(&sql, " THEN ' %s' END", mt->columns[c].target->name);
            free(v);
            free(t);
        }
        strbuf_addstr(&sql, ") FROM ");
        project_rows(&sql, mt, NULL, NULL, NULL, 1);
        strbuf_addstr(&sql, " JOIN public.t AS t ON ");
        project_key_match(&sql, mt, "t", "e");
        strbuf_addstr(&sql, " ORDER BY e.o");
        PGresult *res = NULL;
        memcpy(longer, row, sizeof longer);
        if (pass) {
            longer[1] = "{abcde,NULL}";
            longer[12] = "{abcd,NULL}";
        }
        if (!pg_query(w->pg, &res, 2, strbuf_cstr(&sql), 13, longer, &w->err))
            fail_msg("%s", w->err.message);
        assert_string_equal(PQgetvalue(res, 0, 0), pass ? "1: v s" : "1:");
        assert_string_equal(PQgetvalue(res, 1, 0), "2:");
        PQclear(res);
        strbuf_release(&sql);
    }
    assert_green(w, "SELECT (pg_catalog.textin(pg_catalog.boolout(true)))", "t");
}

static void enums_and_casts(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    world_migrate(
        w, NULL,
        "CREATE TYPE st AS ENUM ('new', 'paid'); CREATE TABLE t (id int PRIMARY KEY, s text, e st)",
        "CREATE TYPE st2 AS ENUM ('fresh', 'paid', 'none'); ALTER TABLE t ALTER s TYPE st2 USING "
        "'none',"
        "ALTER e TYPE st2 USING (CASE e::text WHEN 'new' THEN 'fresh' ELSE e::text END)::st2;"
        "DROP TYPE st; ALTER TYPE st2 RENAME TO st");
    const struct map_rule rule =
        RULE("public.t", UP({"s", "'none'"}, {"e", "CASE e WHEN 'new' THEN 'fresh' ELSE e END"}));
    world_derive(w, &rule, 1);
    const struct map_table *mt = resolved(w, "t");
    assert_string_equal(mt->source_types[2], "text");
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{1,2}", "{x,y}", "{new,paid}"), 2);
    assert_rows(w, "public.t", "(1,none,fresh) (2,none,paid)");
    /* the constant is INSERT's alone */
    world_sql(w->green, "UPDATE t SET s = 'paid'");
    assert_true(project_update(&sql, mt, NULL));
    assert_int_equal(APPLY(w, &sql, "{1}", "{x}", "{paid}"), 1);
    assert_rows(w, "public.t", "(1,paid,paid) (2,paid,paid)");
}

static void identity_always(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    bool id_and_a[3] = {true, true, false};
    world_migrate(w, NULL,
                  "CREATE TABLE t (id int PRIMARY KEY, a text, n int NOT NULL); CREATE TABLE k (n "
                  "int, a text)",
                  "ALTER TABLE t ALTER id ADD GENERATED ALWAYS AS IDENTITY; ALTER TABLE t ADD g "
                  "text GENERATED ALWAYS "
                  "AS (a || n) STORED, ADD u int DEFAULT 5; "
                  "ALTER TABLE k ALTER n SET NOT NULL, ALTER n ADD GENERATED ALWAYS AS IDENTITY");
    world_derive(w, NULL, 0);
    const struct map_table *mt = resolved(w, "t");
    assert_false(mt->columns[0].settable);
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{5,6}", "{a,b}", "{1,2}"), 2);
    world_sql(w->green, "UPDATE t SET u = 7");
    assert_true(project_update(&sql, mt, NULL));
    assert_int_equal(APPLY(w, &sql, "{6}", "{bb}", "{3}"), 1);
    project_rekey(&sql, mt, id_and_a);
    assert_int_equal(APPLY(w, &sql, "{5}", "{50}", "{aa}"), 1);
    project_rekey(&sql, mt, id_and_a);
    assert_int_equal(APPLY(w, &sql, "{5}", "{51}", "{aa}"), 0);
    assert_rows(w, "public.t", "(50,aa,1,aa1,7) (6,bb,3,bb3,7)");
    /* the column is no key here, and the table has none */
    mt = resolved(w, "k");
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{1,1,2}", "{x,x,y}"), 3);
    assert_true(project_update_row(&sql, mt, NULL));
    assert_int_equal(APPLY(w, &sql, "{1}", "{x}", "{9}", "{z}"), 1);
    assert_rows(w, "public.k", "(1,x) (2,y) (9,z)");
}

static void an_identity_that_is_no_key_changes(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    world_migrate(w, NULL, "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, a text)",
                  "ALTER TABLE t ALTER n ADD GENERATED ALWAYS AS IDENTITY; ALTER TABLE t ADD u int "
                  "DEFAULT 5");
    world_derive(w, NULL, 0);
    const struct map_table *mt = resolved(w, "t");
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{1,2,3}", "{1,2,3}", "{a,b,c}"), 3);
    world_sql(w->green, "UPDATE t SET u = id");
    assert_true(project_update(&sql, mt, NULL));
    assert_int_equal(APPLY(w, &sql, "{3,1,8}", "{30,10,80}", "{cc,aa,ee}"), 2);
    assert_rows(w, "public.t", "(1,10,aa,1) (2,2,b,2) (3,30,cc,3)");
}

static void without_a_key_one_row_is_hit(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    world_migrate(
        w, NULL, "CREATE TABLE t (a int, b text, f float8); CREATE TABLE p (a int, b text)",
        "CREATE INDEX ON t (a); ALTER TABLE t ADD c int DEFAULT 1; ALTER TABLE t RENAME b TO bb;"
        "DROP TABLE p; CREATE TABLE p (b text, a bigint) PARTITION BY LIST (a);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR "
        "VALUES IN (2)");
    world_derive(w, NULL, 0);
    const struct map_table *mt = resolved(w, "t");
    assert_true(mt->columns[0].indexed);
    assert_false(mt->columns[1].indexed);
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{1,1,NULL,NULL}", "{x,x,NULL,y}", "{NaN,NaN,-0,0}"), 4);
    project_delete_row(&sql, mt);
    assert_int_equal(APPLY(w, &sql, "{1}", "{x}", "{NaN}"), 1);
    project_delete_row(&sql, mt);
    assert_int_equal(APPLY(w, &sql, "{NULL}", "{NULL}", "{0}"), 0); /* -0 is another value */
    assert_true(project_update_row(&sql, mt, NULL));
    assert_int_equal(APPLY(w, &sql, "{NULL}", "{NULL}", "{-0}", "{3}", "{z}", "{1}"), 1);
    assert_rows(w, "public.t", "(,y,0,1) (1,x,NaN,1) (3,z,1,1)");
    mt = resolved(w, "p");
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{1,1,2,2}", "{x,x,x,x}"), 4);
    assert_true(project_update_row(&sql, mt, NULL));
    assert_int_equal(APPLY(w, &sql, "{1}", "{x}", "{2}", "{moved}"), 1);
    project_delete_row(&sql, mt);
    assert_int_equal(APPLY(w, &sql, "{2}", "{x}"), 1);
    assert_rows(w, "public.p", "(moved,2) (x,1) (x,2)");
}

static void odd_names_types_and_many_columns(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0}, schema = {0};
    strbuf_addstr(&schema, "CREATE TABLE wide (id int PRIMARY KEY");
    for (int i = 1; i < 1600; i++)
        strbuf_addf(&schema, ", c%d int", i);
    strbuf_addstr(&schema, "); CREATE TYPE \"My Type\" AS (a int, b text); CREATE TABLE \"T t\" "
                           "(\"select\" int PRIMARY KEY,"
                           "\"A \"\"b\" \"My Type\"[], u int, o int, pgcutover int, r int4range); "
                           "CREATE TABLE nothing ()");
    world_migrate(w, NULL, schema.data,
                  "ALTER TABLE wide ALTER c9 TYPE bigint; ALTER TABLE \"T t\" RENAME u TO x;"
                  "ALTER TYPE \"My Type\" RENAME TO \"Your Type\"; ALTER TABLE \"T t\" ADD z text;"
                  "ALTER TABLE nothing ADD a int DEFAULT 3");
    strbuf_release(&schema);
    const struct map_rule rule = RULE("public.T t", UP({"z", "u + o + \"select\" || r::text"}));
    world_derive(w, &rule, 1);
    const struct map_table *mt = resolved(w, "T t");
    project_insert(&sql, mt, NULL);
    assert_int_equal(
        APPLY(w, &sql, "{1}", "{\"{\\\"(1,x)\\\"}\"}", "{2}", "{3}", "{4}", "{\"[1,5)\"}"), 1);
    assert_rows(w, "public.\"T t\"", "(1,\"{\"\"(1,x)\"\"}\",2,3,4,\"[1,5)\",\"6[1,5)\")");
    mt = resolved(w, "wide");
    const char *arrays[1600];
    for (int i = 0; i < 1600; i++)
        arrays[i] = i ? "{NULL,3}" : "{1,2}";
    project_insert(&sql, mt, NULL);
    assert_int_equal(world_apply(w, &sql, 1600, arrays), 2);
    assert_green(w, "SELECT id || '/' || c9 || '/' || c1599 FROM public.wide WHERE c1 IS NOT NULL",
                 "2/3/3");
    mt = resolved(w, "nothing");
    project_insert(&sql, mt, NULL);
    assert_int_equal(world_apply(w, &sql, 0, NULL), 1);
    project_insert(&sql, mt, NULL);
    assert_int_equal(world_apply(w, &sql, 0, NULL), 1);
    project_delete_row(&sql, mt);
    assert_int_equal(world_apply(w, &sql, 0, NULL), 1);
    assert_rows(w, "public.nothing", "(3)");
}

/* An equality outside search_path (citext's lives in public) is named with its schema, and its
 * index is used. */
static void equality_of_an_extension(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    world_migrate(w, NULL,
                  "CREATE EXTENSION citext; CREATE DOMAIN mail AS citext; CREATE TABLE t (m mail "
                  "PRIMARY KEY, a int)",
                  "ALTER TABLE t RENAME a TO b");
    world_derive(w, NULL, 0);
    const struct map_table *mt = resolved(w, "t");
    assert_string_equal(mt->columns[0].equals, "OPERATOR(public.=)");
    assert_null(mt->columns[1].equals);
    project_insert(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{A,b}", "{1,2}"), 2);
    project_rekey(&sql, mt, NULL);
    assert_int_equal(APPLY(w, &sql, "{a}", "{AA}", "{3}"), 1);
    world_sql(w->green,
              "INSERT INTO t SELECT i::text, i FROM generate_series(1, 5000) AS i; ANALYZE t");
    strbuf_addstr(&sql, "EXPLAIN ");
    project_delete(&sql, mt);
    PGresult *res = NULL;
    const char *keys[] = {"{AA}"};
    assert_true(pg_query(w->pg, &res, PG_ANY, sql.data, 1, keys, &w->err));
    bool index = false;
    for (int i = 0; i < PQntuples(res); i++)
        index = index || strstr(PQgetvalue(res, i, 0), "Index Cond");
    assert_true(index);
    PQclear(res);
    strbuf_release(&sql);
}

/* Rows bound in any number keep their order: what a default draws from a sequence is drawn in it.
 */
static void order_is_kept(void **state)
{
    struct world *w = *state;
    struct strbuf sql = {0};
    world_migrate(w, NULL, "CREATE TABLE t (id int PRIMARY KEY)", "ALTER TABLE t ADD n serial");
    world_derive(w, NULL, 0);
    project_insert(&sql, resolved(w, "t"), NULL);
    assert_int_equal(APPLY(w, &sql, "{9,3,7,1}"), 4);
    assert_green(w, "SELECT pg_catalog.string_agg(id::text, ',' ORDER BY n) FROM public.t",
                 "9,3,7,1");
}

#define WORLD(f) cmocka_unit_test_setup_teardown(f, world_new, world_drop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD(a_table_through_its_life),
        WORLD(lengths_are_checked_by_assignment),
        WORLD(texts_agree),
        WORLD(enums_and_casts),
        WORLD(identity_always),
        WORLD(an_identity_that_is_no_key_changes),
        WORLD(without_a_key_one_row_is_hit),
        WORLD(odd_names_types_and_many_columns),
        WORLD(equality_of_an_extension),
        WORLD(order_is_kept),
    };
    return cmocka_run_group_tests(tests, world_cluster_start, world_cluster_stop);
}
