/* What a group of changes becomes: sets, barriers, values that were left out. No server is needed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "repl/batch.h"

/* Two tables by hand: item(id, name, body) with a key, log(line, at) without one. */
static struct cat_column item_columns[] = {
    {.attnum = 1, .name = "id", .sql_name = "id", .type = 23, .type_sql = "integer"},
    {.attnum = 2, .name = "name", .sql_name = "name", .type = 25, .type_sql = "text"},
    {.attnum = 3, .name = "body", .sql_name = "body", .type = 25, .type_sql = "text"},
};
static struct cat_column log_columns[] = {
    {.attnum = 1, .name = "line", .sql_name = "line", .type = 25, .type_sql = "text"},
    {.attnum = 2, .name = "at", .sql_name = "at", .type = 25, .type_sql = "text"},
};
static struct cat_table tables[] = {
    {.oid = 100, .schema = "public", .name = "item", .sql_name = "public.item", .relkind = 'r'},
    {.oid = 200, .schema = "public", .name = "log", .sql_name = "public.log", .relkind = 'r'},
    {.oid = 300, .schema = "public", .name = "lost", .sql_name = "public.lost", .relkind = 'r'},
    {.oid = 400, .schema = "public", .name = "gone", .sql_name = "public.gone", .relkind = 'r'},
};
static const struct cat_column *item_source[] = {&item_columns[0], &item_columns[1],
                                                 &item_columns[2]};
static const struct cat_column *log_source[] = {&log_columns[0], &log_columns[1]};
static int item_key[] = {0};
static struct catalog source = {.tables = tables, .ntables = 4};
static struct map_table map_tables[] = {
    {.index = 0,
     .source = &tables[0],
     .target = &tables[0],
     .source_columns = item_source,
     .nsource = 3,
     .source_key = item_key,
     .nsource_key = 1},
    {.index = 1,
     .source = &tables[1],
     .target = &tables[1],
     .source_columns = log_source,
     .nsource = 2},
    {.index = 2,
     .source = &tables[2],
     .unresolved = "nobody knows",
     .source_columns = log_source,
     .nsource = 2},
    {.index = 3, .source = &tables[3], .skipped = true},
};
static struct map map = {.source = &source, .target = &source, .tables = map_tables, .ntables = 4};

struct fixture {
    struct batch *batch;
    struct relations *relations;
    lsn_t lsn;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->batch = batch_new(&map, 1 << 20);
    f->relations = relations_new(&map, "pgcutover");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    batch_free(f->batch);
    relations_free(f->relations);
    free(f);
    return 0;
}

/* "1,a,NULL,?" */
static struct pgo_tuple tuple(struct fixture *f, const char *text)
{
    struct arena *arena = batch_arena(f->batch);
    struct pgo_tuple t = {.values = arena_alloc(arena, 8 * sizeof(struct pgo_value))};

    while (true) {
        size_t len = strcspn(text, ",");
        struct pgo_value *v = &t.values[t.n++];
        *v = (struct pgo_value){
            .kind = 't', .data = arena_strndup(arena, text, len), .len = (uint32_t) len};
        if (strncmp(text, "NULL", len) == 0 && len == 4)
            v->kind = 'n';
        else if (strncmp(text, "?", len) == 0 && len == 1)
            v->kind = 'u';
        if (!text[len])
            return t;
        text += len + 1;
    }
}

static bool change(struct fixture *f, uint32_t oid, enum pgo_type type, char old_kind,
                   const char *old_row, const char *new_row, struct error *err)
{
    struct pgo_message m = {.type = type, .relation = oid, .old_kind = old_kind};
    const struct relation *r;

    if (old_row)
        m.old_row = tuple(f, old_row);
    if (new_row)
        m.new_row = tuple(f, new_row);
    return relations_find(f->relations, oid, &r, err) && batch_add(f->batch, r, &m, ++f->lsn, err);
}

static void item(struct fixture *f, enum pgo_type type, char old_kind, const char *old_row,
                 const char *new_row)
{
    struct error err = {0};
    if (!change(f, 100, type, old_kind, old_row, new_row, &err))
        fail_msg("%s", err.message);
}

static void log_line(struct fixture *f, enum pgo_type type, const char *old_row,
                     const char *new_row)
{
    struct error err = {0};
    if (!change(f, 200, type, old_row ? 'O' : '\0', old_row, new_row, &err))
        fail_msg("%s", err.message);
}

static void assert_steps(struct fixture *f, const char *expected)
{
    struct strbuf sb = {0};
    batch_describe(&sb, f->batch);
    assert_string_equal(strbuf_cstr(&sb), expected);
    strbuf_release(&sb);
}

static void insert_then_update_is_an_insert(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_INSERT, 0, NULL, "1,a,long");
    item(f, PGO_UPDATE, 0, NULL, "1,b,?");
    assert_steps(f, "item: I(1,b,long)\n");
    assert_int_equal(batch_changes(f->batch), 2);
}

static void updates_merge_and_keep_what_is_unchanged(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_UPDATE, 0, NULL, "1,a,long");
    item(f, PGO_UPDATE, 0, NULL, "1,b,?");
    item(f, PGO_UPDATE, 0, NULL, "2,c,?");
    item(f, PGO_UPDATE, 0, NULL, "2,NULL,?");
    assert_steps(f, "item: U(1,b,long) U(2,NULL,?)\n");
}

static void null_is_not_unchanged(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_UPDATE, 0, NULL, "1,a,NULL");
    item(f, PGO_UPDATE, 0, NULL, "1,b,?");
    assert_steps(f, "item: U(1,b,NULL)\n");
}

static void deletes_end_what_was_before(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_UPDATE, 0, NULL, "1,a,x");
    item(f, PGO_DELETE, 'K', "1,NULL,NULL", NULL);
    item(f, PGO_INSERT, 0, NULL, "2,a,x");
    item(f, PGO_DELETE, 'K', "2,NULL,NULL", NULL);
    item(f, PGO_INSERT, 0, NULL, "3,a,x");
    item(f, PGO_DELETE, 'K', "3,NULL,NULL", NULL);
    item(f, PGO_INSERT, 0, NULL, "3,b,y");
    assert_steps(f, "item: D(1) -(2) I(3,b,y)\n");
}

static void delete_then_insert_stays_both(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_DELETE, 'K', "1,NULL,NULL", NULL);
    item(f, PGO_INSERT, 0, NULL, "1,a,x");
    item(f, PGO_DELETE, 'K', "2,NULL,NULL", NULL);
    item(f, PGO_INSERT, 0, NULL, "2,a,x");
    item(f, PGO_UPDATE, 0, NULL, "2,b,?");
    item(f, PGO_DELETE, 'K', "3,NULL,NULL", NULL);
    item(f, PGO_INSERT, 0, NULL, "3,a,x");
    item(f, PGO_DELETE, 'K', "3,NULL,NULL", NULL);
    assert_steps(f, "item: R(1,a,x) R(2,b,x) D(3)\n");
}

static void what_cannot_follow_is_left_to_the_server(void **state)
{
    static const struct {
        enum pgo_type first, second;
    } odd[] = {{PGO_INSERT, PGO_INSERT},
               {PGO_UPDATE, PGO_INSERT},
               {PGO_DELETE, PGO_UPDATE},
               {PGO_DELETE, PGO_DELETE}};
    struct fixture *f = *state;

    for (size_t i = 0; i < 4; i++) {
        struct strbuf sb = {0};
        item(f, odd[i].first, odd[i].first == PGO_DELETE ? 'K' : 0,
             odd[i].first == PGO_DELETE ? "1,NULL,NULL" : NULL,
             odd[i].first == PGO_DELETE ? NULL : "1,a,x");
        item(f, odd[i].second, odd[i].second == PGO_DELETE ? 'K' : 0,
             odd[i].second == PGO_DELETE ? "1,NULL,NULL" : NULL,
             odd[i].second == PGO_DELETE ? NULL : "1,a,x");
        batch_describe(&sb, f->batch);
        assert_int_equal(strncmp(strbuf_cstr(&sb), "one by one\n", 11), 0);
        strbuf_release(&sb);
        batch_rolled_back(f->batch);
        assert_int_equal(batch_changes(f->batch), 0);
    }
}

static void a_key_that_changes_is_a_barrier(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_UPDATE, 0, NULL, "1,a,x");
    item(f, PGO_UPDATE, 'K', "1,NULL,NULL", "2,a,?");
    item(f, PGO_UPDATE, 'K', "2,NULL,NULL", "3,a,?");
    item(f, PGO_UPDATE, 0, NULL, "3,b,?");
    log_line(f, PGO_INSERT, NULL, "l,1");
    assert_steps(f, "item: U(1,a,x)\n"
                    "item: k(1>2,a,?) k(2>3,a,?)\n"
                    "item: U(3,b,?)\n"
                    "log: I(l,1)\n");
}

static void a_full_old_row_gives_key_and_unchanged_values(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_UPDATE, 'O', "1,a,long", "1,b,?");
    item(f, PGO_UPDATE, 'O', "2,a,long", "3,b,?");
    item(f, PGO_DELETE, 'O', "4,a,long", NULL);
    assert_steps(f, "item: U(1,b,long)\nitem: k(2>3,b,long)\nitem: D(4)\n");
}

/* A key kept out of line is sent as unchanged, and in the old tuple. */
static void a_key_that_was_not_sent_is_the_old_one(void **state)
{
    struct fixture *f = *state;
    item(f, PGO_UPDATE, 'K', "1,NULL,NULL", "?,b,?");
    assert_steps(f, "item: U(1,b,?)\n");
}

static void without_a_key_changes_keep_their_order(void **state)
{
    struct fixture *f = *state;
    log_line(f, PGO_INSERT, NULL, "a,1");
    log_line(f, PGO_INSERT, NULL, "a,1");
    log_line(f, PGO_UPDATE, "a,1", "b,1");
    log_line(f, PGO_DELETE, "a,1", NULL);
    log_line(f, PGO_INSERT, NULL, "c,NULL");
    /* what hits a row that its step makes waits for the next; what hits none may be in any order */
    assert_steps(f, "log: I(a,1) I(a,1)\nlog: I(c,NULL) u(a,1>b,1) d(a,1)\n");
}

static void many_keys_find_their_rows(void **state)
{
    struct fixture *f = *state;
    struct strbuf sb = {0};
    char row[64];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5000; i++) {
            snprintf(row, sizeof row, "%d,%d,x", i, round);
            item(f, PGO_UPDATE, 0, NULL, row);
        }
    }
    assert_int_equal(batch_changes(f->batch), 15000);
    batch_describe(&sb, f->batch);
    size_t rows = 0;
    for (const char *p = strbuf_cstr(&sb); (p = strstr(p, "U(")); p++)
        rows++;
    assert_int_equal(rows, 5000);
    assert_null(strstr(strbuf_cstr(&sb), ",1,x"));
    assert_non_null(strstr(strbuf_cstr(&sb), "U(4999,2,x)"));
    strbuf_release(&sb);
}

static void keys_are_handed_over_old_and_new(void **state)
{
    struct fixture *f = *state;
    struct touched *touched = touched_new(4, 100);
    const char *keys[] = {"1", "2", "3", "4"};
    int len = 1;

    item(f, PGO_UPDATE, 0, NULL, "1,a,x");
    item(f, PGO_UPDATE, 'K', "2,NULL,NULL", "3,a,?");
    log_line(f, PGO_INSERT, NULL, "a,1");
    batch_pass(f->batch, touched);
    for (int i = 0; i < 3; i++)
        assert_true(touched_has(touched, 0, 1, &keys[i], &len));
    assert_false(touched_has(touched, 0, 1, &keys[3], &len));
    assert_int_equal(touched_count(touched), 3);
    assert_true(touched_whole(touched, 1, false));
    assert_false(touched_whole(touched, 0, false));
    assert_int_equal(batch_changes(f->batch), 0);
    touched_free(touched);
}

static void an_unresolved_table_is_a_conflict(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    assert_false(change(f, 300, PGO_INSERT, 0, NULL, "a,1", &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_non_null(strstr(err.message, "public.lost"));
    assert_string_equal(err.detail, "nobody knows");
}

static void odd_rows_are_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    assert_false(change(f, 100, PGO_INSERT, 0, NULL, "1,a", &err));
    assert_int_equal(err.code, ERR_PROTOCOL);
    assert_false(change(f, 100, PGO_INSERT, 0, NULL, "1,a,?", &err));
    assert_false(change(f, 100, PGO_INSERT, 0, NULL, "NULL,a,x", &err));
    assert_false(change(f, 200, PGO_DELETE, 0, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_PROTOCOL);
}

static struct pgo_message relation_message(const char *name, uint16_t n, struct pgo_column *columns)
{
    return (struct pgo_message){.type = PGO_RELATION,
                                .relation = 777,
                                .schema = "public",
                                .name = name,
                                .ncolumns = n,
                                .columns = columns};
}

static void a_relation_is_matched_by_names(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    const struct relation *r;
    struct pgo_column columns[] = {{.name = "body", .type = 25},
                                   {.key = true, .name = "id", .type = 23},
                                   {.name = "name", .type = 25}};
    struct pgo_message m = relation_message("item", 3, columns);

    assert_true(relations_learn(f->relations, &m, &err));
    assert_true(relations_find(f->relations, 777, &r, &err));
    assert_ptr_equal(r->mt, &map_tables[0]);
    assert_true(change(f, 777, PGO_INSERT, 0, NULL, "long,1,a", &err));
    assert_steps(f, "item: I(1,a,long)\n");
}

static void ddl_on_the_source_stops(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct pgo_column columns[] = {{.key = true, .name = "id", .type = 23},
                                   {.name = "name", .type = 25},
                                   {.name = "body", .type = 25},
                                   {.name = "extra", .type = 25}};
    struct pgo_message more = relation_message("item", 4, columns);
    struct pgo_message fewer = relation_message("item", 2, columns);
    struct pgo_message other = relation_message("items", 3, columns);
    struct pgo_message skipped = relation_message("gone", 3, columns);

    assert_false(relations_learn(f->relations, &more, &err));
    assert_int_equal(err.code, ERR_NOGO);
    assert_non_null(strstr(err.message, "\"extra\""));
    assert_false(relations_learn(f->relations, &fewer, &err));
    assert_non_null(strstr(err.message, "\"body\""));
    assert_false(relations_learn(f->relations, &other, &err));
    assert_non_null(strstr(err.message, "public.items"));
    columns[1].type = 1043;
    struct pgo_message retyped = relation_message("item", 3, columns);
    assert_false(relations_learn(f->relations, &retyped, &err));
    assert_non_null(strstr(err.message, "\"name\""));
    assert_true(relations_learn(f->relations, &skipped, &err));
}

static void the_marker_is_what_the_map_does_not_know(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    const struct relation *r;

    assert_true(relations_find(f->relations, 999, &r, &err));
    assert_int_equal(r->kind, RELATION_MARKER);
    assert_true(relations_find(f->relations, 400, &r, &err));
    assert_int_equal(r->kind, RELATION_SKIPPED);
    assert_true(relations_find(f->relations, 100, &r, &err));
    assert_int_equal(r->kind, RELATION_TABLE);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(insert_then_update_is_an_insert),
        TEST(updates_merge_and_keep_what_is_unchanged),
        TEST(null_is_not_unchanged),
        TEST(deletes_end_what_was_before),
        TEST(delete_then_insert_stays_both),
        TEST(what_cannot_follow_is_left_to_the_server),
        TEST(a_key_that_changes_is_a_barrier),
        TEST(a_full_old_row_gives_key_and_unchanged_values),
        TEST(a_key_that_was_not_sent_is_the_old_one),
        TEST(without_a_key_changes_keep_their_order),
        TEST(many_keys_find_their_rows),
        TEST(keys_are_handed_over_old_and_new),
        TEST(an_unresolved_table_is_a_conflict),
        TEST(odd_rows_are_refused),
        TEST(a_relation_is_matched_by_names),
        TEST(ddl_on_the_source_stops),
        TEST(the_marker_is_what_the_map_does_not_know),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
