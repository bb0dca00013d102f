/* [map ...] sections laid over the derived map, and what is said of those that can't be right. */
#include "map_world.h"

#define RULE(name, ...)                                                                            \
    {                                                                                              \
        .section = name, .line = 7, __VA_ARGS__                                                    \
    }
#define UP(...)                                                                                    \
    .up = (struct map_up[]){__VA_ARGS__},                                                          \
    .nup = sizeof((struct map_up[]){__VA_ARGS__}) / sizeof(struct map_up)
#define LIST(...)                                                                                  \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }
#define COUNT(a) (sizeof(a) / sizeof *(a))

static void rules_set_and_override(void **state)
{
    struct world *w = *state;
    world_migrate(
        w, NULL,
        "CREATE TABLE t (id int PRIMARY KEY, total numeric(10,2), status text, a text, b text)",
        "CREATE TYPE st AS ENUM ('new', 'paid'); ALTER TABLE t DROP total, ADD cents bigint NOT "
        "NULL;"
        "ALTER TABLE t ALTER status TYPE st USING 'new'; ALTER TABLE t ADD full_name text NOT NULL;"
        "ALTER TABLE t ADD token uuid DEFAULT gen_random_uuid(), ADD whole jsonb, ADD k int "
        "DEFAULT 5");
    const struct map_rule rules[] = {
        RULE("public.t",
             UP({"cents", "(total * 100)::bigint;\n"}, {"status", "'new'"},
                {"full_name", "a || ' ' || r.b -- both"}, {"whole", "to_jsonb(r)"}),
             .volatiles = LIST("token", "k", "a")),
    };
    world_derive(w, rules, COUNT(rules));
    assert_shape(w, "t", "public.t",
                 "id<-id status<-!('new')::public.st a<-?a b<-b cents<-!(total * 100)::bigint "
                 "full_name<-!a || ' ' || r.b -- both\n whole<-!to_jsonb(r) | token:V k:V");
    const struct map_table *mt = world_table(w, "t");
    assert_int_equal(mt->columns[1].nneeds, 0);
    assert_int_equal(mt->columns[4].nneeds, 1);
    assert_int_equal(mt->columns[4].needs[0], 1);
    assert_int_equal(mt->columns[5].nneeds, 2);
    assert_int_equal(mt->columns[5].needs[0], 3);
    assert_int_equal(mt->columns[5].needs[1], 4);
    assert_int_equal(mt->columns[6].nneeds, 5);
    assert_true(mt->wants_full);
    struct strbuf sb = {0};
    map_print(&sb, &w->map, false);
    assert_has(sb.data, "rule        full_name <- a || ' ' || r.b -- both\n");
    assert_has(sb.data, "REPLICA IDENTITY FULL");
    strbuf_release(&sb);
}

/* A whole row beside a column of its own has no entry in pg_depend for the others. */
static void needs_of_a_whole_row(void **state)
{
    struct world *w = *state;
    world_migrate(
        w, NULL, "CREATE TABLE t (id int PRIMARY KEY, a int, b int)",
        "CREATE TABLE lookup (k int, v int); ALTER TABLE t ADD x text, ADD y int, ADD z int");
    const struct map_rule rule =
        RULE("public.t",
             UP({"x", "r::text || a"}, {"y", "(SELECT l.v FROM public.lookup l WHERE l.k = b)"},
                {"z", "(SELECT max(q) FROM unnest(ARRAY[a, id]) AS q)"}));
    world_derive(w, &rule, 1);
    const struct map_table *mt = world_table(w, "t");
    assert_int_equal(mt->columns[3].nneeds, 3);
    assert_int_equal(mt->columns[4].nneeds, 1);
    assert_int_equal(mt->columns[4].needs[0], 2);
    assert_int_equal(mt->columns[5].nneeds, 2);
    assert_has(mt->reason, "up.y reads public.lookup");
    assert_false(mt->wants_full); /* nothing of t can be out of line */
}

static void keys_by_rule(void **state)
{
    struct world *w = *state;
    world_migrate(
        w, NULL,
        "CREATE TABLE a (id int PRIMARY KEY, x int); CREATE TABLE b (id int PRIMARY KEY, x int);"
        "CREATE TABLE c (id int PRIMARY KEY, x int); CREATE TABLE d (p int, q int, PRIMARY KEY (p, "
        "q))",
        "ALTER TABLE a DROP id, ADD uid text PRIMARY KEY; ALTER TABLE b DROP id, ADD uid text, ADD "
        "src text;"
        "ALTER TABLE c DROP id, ADD uid text NOT NULL; ALTER TABLE d DROP q");
    const struct map_rule rules[] = {
        RULE("public.a", UP({"uid", "'a-' || id"})),
        RULE("public.b", UP({"uid", "id"}, {"src", "'b'"}), .key = LIST("src", "uid")),
        RULE("public.c", UP({"uid", "id || '-' || x"}), .key = LIST("uid")),
        RULE("public.d", .key = LIST("p")),
    };
    world_derive(w, rules, COUNT(rules));
    /* a: green's primary key is made of blue's, so nothing need be said */
    assert_int_equal(world_table(w, "a")->nkey, 1);
    assert_string_equal(world_table(w, "a")->columns[world_table(w, "a")->key[0]].target->name,
                        "uid");
    assert_int_equal(world_table(w, "b")->nkey, 2);
    assert_int_equal(world_table(w, "b")->columns[world_table(w, "b")->key[0]].nneeds, 0);
    assert_has(world_table(w, "c")->unresolved, "not computed from blue's key alone");
    assert_has(world_table(w, "d")->unresolved, "does not tell rows apart");
}

static void tables_by_rule(void **state)
{
    struct world *w = *state;
    world_migrate(
        w, NULL,
        "CREATE SCHEMA t1; CREATE SCHEMA t2; CREATE TABLE t1.log (id int PRIMARY KEY, a int);"
        "CREATE TABLE t2.log (id int PRIMARY KEY, a int); CREATE TABLE old (id int PRIMARY KEY, a "
        "int);"
        "CREATE TABLE junk (id int PRIMARY KEY)",
        "ALTER TABLE t1.log ADD b int NOT NULL; ALTER TABLE t2.log ADD b int NOT NULL;"
        "CREATE TABLE new (a int, id int PRIMARY KEY); DROP TABLE old;");
    const struct map_rule rules[] = {
        RULE("t2.log", UP({"b", "a * 2"})),
        RULE("*.log", UP({"b", "a"})),
        RULE("public.old", .table = "public.new"),
        RULE("public.junk", .skip = true),
    };
    world_derive(w, rules, COUNT(rules));
    assert_string_equal(map_by_name(&w->map, "t1", "log")->columns[2].expr, "a");
    assert_string_equal(map_by_name(&w->map, "t2", "log")->columns[2].expr, "a * 2");
    assert_shape(w, "old", "public.new", "a<-a id<-id");
    assert_has(world_table(w, "old")->reason, "by the playbook");
    assert_true(world_table(w, "junk")->skipped);
    assert_false(world_table(w, "old")->shared);
    assert_int_equal(w->map.nnew_tables, 0);
}

static void two_tables_into_one(void **state)
{
    struct world *w = *state;
    world_migrate(
        w, NULL,
        "CREATE TABLE a (id int PRIMARY KEY, x int);"
        "CREATE TABLE b (id int PRIMARY KEY, x int)",
        "ALTER TABLE a ADD src text; UPDATE a SET src = 'a'; ALTER TABLE a DROP CONSTRAINT "
        "a_pkey, ADD PRIMARY KEY (src, id); DROP TABLE b");
    const struct map_rule rules[] = {
        RULE("public.a", UP({"src", "'a'"}), .key = LIST("src", "id")),
        RULE("public.b", UP({"src", "'b'"}), .key = LIST("src", "id"), .table = "public.a"),
    };
    world_derive(w, rules, COUNT(rules));
    assert_shape(w, "a", "public.a", "id<-id x<-x src<-!'a'");
    assert_shape(w, "b", "public.a", "id<-id x<-x src<-!'b'");
    assert_true(world_table(w, "a")->shared);
    assert_true(world_table(w, "b")->shared);
    assert_has(world_table(w, "b")->reason, "public.a goes to the same table");
}

static void wrong(struct world *w, struct map_rule rule, const char *message, const char *hint)
{
    error_clear(&w->err);
    if (world_try_derive(w, &rule, 1))
        fail_msg("taken, instead of: %s", message);
    assert_int_equal(w->err.code, ERR_PLAYBOOK);
    assert_has(w->err.message, "playbook line 7: [map ");
    assert_has(w->err.message, message);
    assert_has(w->err.hint, hint);
    assert_int_equal(w->map.ntables, 0);
}

static void wrong_rules_are_named(void **state)
{
    struct world *w = *state;
    world_migrate(w, NULL,
                  "CREATE TABLE orders (id int PRIMARY KEY, total int, g int GENERATED ALWAYS AS "
                  "(id) STORED);"
                  "CREATE TABLE gone (id int PRIMARY KEY)",
                  "DROP TABLE gone; ALTER TABLE orders ADD cents int");
    wrong(w, (struct map_rule) RULE("public.order", .skip = true), "did you mean \"public.orders\"",
          "");
    wrong(w, (struct map_rule) RULE("*.order", .skip = true), "did you mean \"*.orders\"", "");
    wrong(w, (struct map_rule) RULE("public.orders", .table = "public.order"),
          "no table \"public.order\" on green, did you mean", "");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cent", "total"})),
          "no column \"cent\" in public.orders on green", "\"cents\"");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"g", "total"})), "up.g: green computes",
          "");
    wrong(w, (struct map_rule) RULE("public.orders", .key = LIST("idd")), "key: no column \"idd\"",
          "\"id\"");
    wrong(w, (struct map_rule) RULE("public.orders", .volatiles = LIST("nope")),
          "volatile: no column \"nope\"", "");
    wrong(w, (struct map_rule) RULE("public.gone", UP({"id", "id"})),
          "up.id: the table has nowhere to go", "skip = yes");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cents", "totl * 100"})),
          "up.cents: column \"totl\" does not exist", "");
    assert_string_equal(w->err.sqlstate, "42703");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cents", "total *"})),
          "up.cents: syntax error", "");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cents", "1), (2"})), "up.cents: ", "");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cents", "unnest(ARRAY[1, 2])"})),
          "up.cents: set-returning", "");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cents", "count(*)"})),
          "up.cents: aggregate", "");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cents", "'{1}'::int[]"})),
          "up.cents: ", "");
    assert_string_equal(w->err.sqlstate, "42846");
    wrong(w, (struct map_rule) RULE("public.orders", UP({"cents", "1 / 0"})),
          "up.cents: division by zero", "");
}

static void replica_identity_full_before_green_exists(void **state)
{
    struct world *w = *state;
    Oid *oids = NULL;
    world_migrate(
        w, NULL,
        "CREATE TABLE a (id int, note text, x int); CREATE TABLE b (id int, note text, x int);"
        "CREATE TABLE c (id int, note text, x int); CREATE TABLE d (id int, \"Note\" text, x int);"
        "CREATE TABLE e (id int, x int); CREATE TABLE f (id int, note text, x int)",
        "SELECT 1");
    const struct map_rule rules[] = {
        RULE("public.a",
             UP({"n", "upper(note)"}, {"m", "x * id"})), /* one column alone: not needed */
        RULE("public.b", UP({"n", "NOTE || r.x"})),
        RULE("public.c", UP({"n", "r::text"})),
        RULE("public.d", UP({"n", "concat(\"Note\", x)"})),
        RULE("public.e", UP({"n", "to_jsonb(r.*)"})),
        RULE("public.f", UP({"n", "note || x"}), .skip = true),
    };
    assert_true(map_rules_need_full(&w->blue_cat, rules, COUNT(rules), &oids, &w->err));
    const char *names[4] = {NULL};
    for (int i = 0; oids[i]; i++) {
        assert_true(i < 3);
        names[i] = catalog_table_oid(&w->blue_cat, oids[i])->name;
    }
    assert_string_equal(names[0], "b");
    assert_string_equal(names[1], "c");
    assert_string_equal(names[2], "d");
    assert_null(names[3]);
    free(oids);
    const struct map_rule bad = RULE("public.aa", .skip = true);
    assert_false(map_rules_need_full(&w->blue_cat, &bad, 1, &oids, &w->err));
    assert_int_equal(w->err.code, ERR_PLAYBOOK);
    assert_null(oids);
    assert_true(map_rules_need_full(&w->blue_cat, NULL, 0, &oids, &w->err));
    assert_int_equal(oids[0], 0);
    free(oids);
}

#define WORLD(f) cmocka_unit_test_setup_teardown(f, world_new, world_drop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD(rules_set_and_override),
        WORLD(needs_of_a_whole_row),
        WORLD(keys_by_rule),
        WORLD(tables_by_rule),
        WORLD(two_tables_into_one),
        WORLD(wrong_rules_are_named),
        WORLD(replica_identity_full_before_green_exists),
    };
    return cmocka_run_group_tests(tests, world_cluster_start, world_cluster_stop);
}
