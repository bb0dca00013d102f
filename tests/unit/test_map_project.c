/* The text of generated statements, from maps made by hand. That they do what they say is tested on
 * a server. */
#include "map/project.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

/* public.orders (id, total, note) -> sales.po (no, cents, remark) */
struct hand_made {
    struct cat_column from[3], to[3];
    struct cat_table target;
    const struct cat_column *source_columns[3];
    char *source_types[3];
    struct map_column columns[3];
    int needs[3], source_key[1], key[1];
    struct map_table mt;
};

static struct cat_column column(const char *name, const char *sql_name, Oid type,
                                const char *type_sql)
{
    struct cat_column c = {.type = type, .text_cast_ok = true, .has_equality = true};
    c.name = xstrdup(name);
    c.sql_name = xstrdup(sql_name);
    c.type_sql = xstrdup(type_sql);
    c.type_full = xstrdup(type_sql);
    return c;
}

static int make(void **state)
{
    struct hand_made *h = xcalloc(1, sizeof *h);
    h->from[0] = column("id", "id", 23, "integer");
    h->from[1] = column("total", "total", 1700, "numeric");
    h->from[2] = column("Note", "\"Note\"", 25, "text");
    h->to[0] = column("no", "no", 20, "bigint");
    h->to[1] = column("cents", "cents", 20, "bigint");
    h->to[2] = column("remark", "remark", 25, "text");
    h->target.sql_name = xstrdup("sales.po");
    h->target.columns = h->to;
    h->target.ncolumns = 3;
    const char *exprs[] = {"r.\"id\"", "(total * 100)::bigint", "r.\"Note\""};
    for (int i = 0; i < 3; i++) {
        h->source_columns[i] = &h->from[i];
        h->source_types[i] = h->from[i].type_sql;
        h->needs[i] = i;
        h->columns[i] = (struct map_column){.target = &h->to[i],
                                            .source = i == 1 ? NULL : &h->from[i],
                                            .expr = xstrdup(exprs[i]),
                                            .rule = i == 1,
                                            .same_type = i == 2,
                                            .settable = true,
                                            .key_index = i ? -1 : 0,
                                            .needs = &h->needs[i],
                                            .nneeds = 1};
    }
    h->mt = (struct map_table){.target = &h->target,
                               .only = true,
                               .source_columns = h->source_columns,
                               .source_types = h->source_types,
                               .nsource = 3,
                               .source_key = h->source_key,
                               .nsource_key = 1,
                               .columns = h->columns,
                               .ncolumns = 3,
                               .key = h->key,
                               .nkey = 1};
    *state = h;
    return 0;
}

static int drop(void **state)
{
    struct hand_made *h = *state;
    for (int i = 0; i < 3; i++) {
        struct cat_column *both[] = {&h->from[i], &h->to[i]};
        for (int k = 0; k < 2; k++) {
            free(both[k]->name);
            free(both[k]->sql_name);
            free(both[k]->type_sql);
            free(both[k]->type_full);
        }
        free(h->columns[i].expr);
    }
    free(h->target.sql_name);
    free(h);
    return 0;
}

static void check(struct strbuf *sb, const char *expected)
{
    assert_string_equal(strbuf_cstr(sb), expected);
    strbuf_release(sb);
}

#define ALL_ROW                                                                                    \
    "unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u(pgcutover_x0, pgcutover_x1, " \
    "pgcutover_x2, pgcutover_o), LATERAL (SELECT u.pgcutover_x0::integer AS \"id\", "              \
    "u.pgcutover_x1::numeric AS \"total\", u.pgcutover_x2::text AS \"Note\") AS r"

static void rows(void **state)
{
    struct hand_made *h = *state;
    struct strbuf sb = {0};
    bool present[3] = {true, false, true}, raw[3] = {false, false, true};
    bool want[3] = {true, false, false};
    project_rows(&sb, &h->mt, present, NULL, raw, 4);
    check(
        &sb,
        "(SELECT u.pgcutover_o AS o, (r.\"id\") AS v0, (r.\"Note\") AS v2, u.pgcutover_x2 AS raw2 "
        "FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS u(pgcutover_x0, pgcutover_x2, "
        "pgcutover_o), LATERAL (SELECT u.pgcutover_x0::integer AS \"id\", "
        "u.pgcutover_x2::text AS \"Note\") AS r) AS e");
    project_rows(&sb, &h->mt, NULL, want, NULL, 1);
    check(&sb, "(SELECT u.pgcutover_o AS o, (r.\"id\") AS v0 FROM " ALL_ROW ") AS e");
}

static void a_table_without_columns_is_one_row(void **state)
{
    struct hand_made *h = *state;
    struct strbuf sb = {0};
    h->mt.nsource = h->mt.ncolumns = 0;
    project_insert(&sb, &h->mt, NULL);
    check(
        &sb,
        "INSERT INTO sales.po OVERRIDING SYSTEM VALUE SELECT  FROM (SELECT u.pgcutover_o AS o FROM "
        "(SELECT 1::bigint) AS u(pgcutover_o), LATERAL (SELECT ) AS r) AS e ORDER BY e.o");
}

static void insert(void **state)
{
    struct hand_made *h = *state;
    struct strbuf sb = {0};
    project_insert(&sb, &h->mt, NULL);
    check(
        &sb,
        "INSERT INTO sales.po (no, cents, remark) OVERRIDING SYSTEM VALUE SELECT e.v0, e.v1, e.v2 "
        "FROM (SELECT u.pgcutover_o AS o, (r.\"id\") AS v0, ((total * 100)::bigint) AS v1, "
        "(r.\"Note\") AS v2 FROM " ALL_ROW ") AS e ORDER BY e.o");
}

static void update_leaves_out_what_was_not_sent(void **state)
{
    struct hand_made *h = *state;
    struct strbuf sb = {0};
    bool present[3] = {true, true, false}, key_only[3] = {true, false, false};
    assert_true(project_update(&sb, &h->mt, present));
    check(
        &sb,
        "UPDATE ONLY sales.po AS t SET cents = e.v1 FROM (SELECT u.pgcutover_o AS o, "
        "(r.\"id\") AS v0, ((total * 100)::bigint) AS v1 FROM unnest($1::text[], $2::text[]) WITH "
        "ORDINALITY AS u(pgcutover_x0, pgcutover_x1, pgcutover_o), LATERAL (SELECT "
        "u.pgcutover_x0::integer AS \"id\", u.pgcutover_x1::numeric AS \"total\") AS r) AS e "
        "WHERE t.no = (e.v0)::bigint");
    assert_false(project_update(&sb, &h->mt, key_only));
    assert_int_equal(sb.len, 0);
}

static void a_rule_with_half_of_what_it_reads_is_told(void **state)
{
    struct hand_made *h = *state;
    struct strbuf sb = {0};
    int both[] = {1, 2};
    bool present[3] = {true, true, false}, some = false;
    h->columns[1].needs = both;
    h->columns[1].nneeds = 2;
    assert_false(project_has_needs(&h->mt, 1, present, &some));
    assert_true(some);
    assert_true(project_has_needs(&h->mt, 0, present, &some));
    assert_false(project_has_needs(&h->mt, 2, present, &some));
    assert_false(some);
    assert_false(project_update(&sb, &h->mt, present));
    h->columns[1].nneeds = 0;
    assert_true(project_has_needs(&h->mt, 1, present, &some));
    assert_false(some);
    assert_false(project_update(&sb, &h->mt, present)); /* a constant is for INSERT */
    strbuf_release(&sb);
}

static void delete_and_rekey(void **state)
{
    struct hand_made *h = *state;
    struct strbuf sb = {0};
    bool present[3] = {true, false, true};
    h->mt.only = false;
    h->columns[0].same_type = true;
    h->columns[0].equals = (char[]){"OPERATOR(public.=)"};
    project_delete(&sb, &h->mt);
    check(&sb,
          "DELETE FROM sales.po AS t USING (SELECT u.pgcutover_o AS o, (r.\"id\") AS v0 FROM "
          "unnest($1::text[]) WITH ORDINALITY AS u(pgcutover_x0, pgcutover_o), LATERAL (SELECT "
          "u.pgcutover_x0::integer AS \"id\") AS r) AS e WHERE t.no OPERATOR(public.=) e.v0");
    project_rekey(&sb, &h->mt, present);
    check(
        &sb,
        "UPDATE sales.po AS t SET no = e.v0, remark = e.v2 FROM (SELECT u.pgcutover_o AS o, "
        "(r.\"id\") AS v0 FROM unnest($1::text[]) WITH ORDINALITY AS u(pgcutover_x0, pgcutover_o), "
        "LATERAL (SELECT u.pgcutover_x0::integer AS \"id\") AS r) AS k, (SELECT u.pgcutover_o AS "
        "o, "
        "(r.\"id\") AS v0, (r.\"Note\") AS v2 FROM unnest($2::text[], $3::text[]) WITH ORDINALITY "
        "AS "
        "u(pgcutover_x0, pgcutover_x2, pgcutover_o), LATERAL (SELECT u.pgcutover_x0::integer AS "
        "\"id\", u.pgcutover_x2::text AS \"Note\") AS r) AS e WHERE t.no OPERATOR(public.=) k.v0");
}

static void canonical_text(void **state)
{
    struct hand_made *h = *state;
    struct strbuf sb = {0};
    struct cat_column c = h->to[0];
    project_text(&sb, &c, "t.no");
    check(&sb, "((t.no)::text COLLATE pg_catalog.\"C\")");
    c.type = 16;
    project_text(&sb, &c, "t.no");
    check(&sb, "(pg_catalog.textin(pg_catalog.boolout(t.no)) COLLATE pg_catalog.\"C\")");
    c.type = 99999;
    c.text_cast_ok = false;
    project_text(&sb, &c, "x");
    check(&sb, "(CASE WHEN (x) IS NULL THEN NULL ELSE pg_catalog.format('%s', x) END COLLATE "
               "pg_catalog.\"C\")");
    project_target_text(&sb, &h->mt, 0, "e.v0");
    check(&sb, "(((e.v0)::bigint)::text COLLATE pg_catalog.\"C\")");
    project_target_text(&sb, &h->mt, 2, "e.v2");
    check(&sb, "((e.v2)::text COLLATE pg_catalog.\"C\")");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows, make, drop),
        cmocka_unit_test_setup_teardown(a_table_without_columns_is_one_row, make, drop),
        cmocka_unit_test_setup_teardown(insert, make, drop),
        cmocka_unit_test_setup_teardown(update_leaves_out_what_was_not_sent, make, drop),
        cmocka_unit_test_setup_teardown(a_rule_with_half_of_what_it_reads_is_told, make, drop),
        cmocka_unit_test_setup_teardown(delete_and_rekey, make, drop),
        cmocka_unit_test_setup_teardown(canonical_text, make, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
