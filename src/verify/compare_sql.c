/* compare_sql.c - see compare_sql.h. Aliases: e projected source rows, r typed source rows, s
 * source, t target. */
#include "verify/compare_sql.h"

#include "base/alloc.h"
#include "map/project.h"

#include <stdlib.h>
#include <string.h>

#define C_COLLATION " COLLATE pg_catalog.\"C\""

size_t compare_checks(const struct map_table *mt)
{
    return mt->ncolumns + mt->nrest;
}

const struct cat_column *compare_check_column(const struct map_table *mt, size_t check)
{
    return check < mt->ncolumns ? mt->columns[check].target : mt->rest[check - mt->ncolumns].target;
}

void compare_sql_target(struct strbuf *sb, const struct map_table *mt, const char *alias)
{
    strbuf_addf(sb, "%s%s AS %s", mt->only ? "ONLY " : "", mt->target->sql_name, alias);
}

void compare_sql_source(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                        const char *alias)
{
    const struct cat_table *root = NULL;

    if (mt->source->root != mt->source->oid)
        root = catalog_table_oid(map->source, mt->source->root);
    if (root)
        strbuf_addf(sb, "%s AS %s", root->sql_name, alias);
    else
        strbuf_addf(sb, "ONLY %s AS %s", mt->source->sql_name, alias);
}

static int source_index(const struct map_table *mt, const struct cat_column *column)
{
    for (size_t i = 0; column && i < mt->nsource; i++)
        if (mt->source_columns[i]->attnum == column->attnum)
            return (int) i;
    return -1;
}

/* Servers before 12 write floats with 17 digits, later ones with as few as it takes. */
static bool same_text_output(const struct map *map)
{
    int a = map->source->identity.version / 10000, b = map->target->identity.version / 10000;

    return a == b || (a >= 12 && b >= 12);
}

/* The source's own text can stand for the expected value: which source column, or -1. char(5) and
 * char(10) or numeric(6,2) and numeric(6,4) write the same value differently, so the type modifiers
 * must agree too. */
static int raw_index(const struct map *map, const struct map_table *mt, const struct map_column *c)
{
    if (!c->same_type || c->rule || c->volatile_value || !c->source || !same_text_output(map))
        return -1;
    if (strcmp(c->source->type_full, c->target->type_full) != 0)
        return -1;
    return source_index(mt, c->source);
}

static void add_found(struct strbuf *sb, const struct cat_column *column, const char *alias)
{
    char *x = xstrfmt("%s.%s", alias, column->sql_name);

    project_text(sb, column, x);
    free(x);
}

/* ROW(NULL) IS NULL is true and yet no null value: num_nulls() looks at the value itself. */
static void add_presence(struct strbuf *sb, const char *x)
{
    strbuf_addf(sb, "CASE pg_catalog.num_nulls(%s) WHEN 0 THEN 'some value' END", x);
}

/* A volatile value that may not be NULL has nothing that could differ, and its rule (nextval) isn't
 * called. */
static bool is_compared(const struct map_table *mt, size_t check)
{
    if (check < mt->ncolumns)
        return !mt->columns[check].volatile_value || !mt->columns[check].target->not_null;
    switch (mt->rest[check - mt->ncolumns].kind) {
    case MAP_REST_NULL:
        return true;
    case MAP_REST_CONSTANT:
        return mt->rest[check - mt->ncolumns].expect != NULL;
    case MAP_REST_VOLATILE:
    case MAP_REST_GENERATED:
        break;
    }
    return false;
}

static void add_expected(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                         size_t check)
{
    const struct cat_column *target = compare_check_column(mt, check);
    char *x;

    if (check >= mt->ncolumns) {
        const struct map_rest *rest = &mt->rest[check - mt->ncolumns];
        if (rest->kind == MAP_REST_NULL) {
            strbuf_addstr(sb, "NULL::pg_catalog.text" C_COLLATION);
            return;
        }
        x = xstrfmt("CAST((%s) AS %s)", rest->expect, target->type_full);
        project_text(sb, target, x);
    } else if (mt->columns[check].volatile_value) {
        x = xstrfmt("e.v%zu", check);
        add_presence(sb, x);
    } else if (raw_index(map, mt, &mt->columns[check]) >= 0) {
        x = xstrfmt("e.raw%d", raw_index(map, mt, &mt->columns[check]));
        strbuf_addf(sb, "%s" C_COLLATION, x);
    } else {
        x = xstrfmt("e.v%zu", check);
        project_target_text(sb, mt, check, x);
    }
    free(x);
}

static void add_actual(struct strbuf *sb, const struct map_table *mt, size_t check)
{
    const struct cat_column *target = compare_check_column(mt, check);

    if (check < mt->ncolumns && mt->columns[check].volatile_value) {
        char *x = xstrfmt("t.%s", target->sql_name);
        add_presence(sb, x);
        free(x);
        return;
    }
    add_found(sb, target, "t");
}

static void add_check(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                      size_t check)
{
    strbuf_addch(sb, '(');
    add_expected(sb, map, mt, check);
    strbuf_addstr(sb, " IS DISTINCT FROM ");
    add_actual(sb, mt, check);
    strbuf_addch(sb, ')');
}

/* The FROM item e with the values that keys and checks need, and nothing else. */
static void add_rows(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                     bool keys)
{
    bool *want = xcalloc(mt->ncolumns + 1, sizeof *want),
         *raw = xcalloc(mt->nsource + 1, sizeof *raw);

    for (size_t i = 0; i < mt->ncolumns; i++) {
        int r = raw_index(map, mt, &mt->columns[i]);
        if (r >= 0)
            raw[r] = true;
        else
            want[i] = is_compared(mt, i);
    }
    for (size_t k = 0; keys && k < mt->nkey; k++)
        want[mt->key[k]] = true;
    project_rows(sb, mt, NULL, want, raw, 1);
    free(want);
    free(raw);
}

static void add_pairs(struct strbuf *sb, const struct map *map, const struct map_table *mt)
{
    strbuf_addstr(sb, " FROM ");
    add_rows(sb, map, mt, true);
    strbuf_addstr(sb, " LEFT JOIN ");
    compare_sql_target(sb, mt, "t");
    strbuf_addstr(sb, " ON ");
    project_key_match(sb, mt, "t", "e");
}

/* Found by the typed equality of a type in which equal values have one text form: there is nothing
 * left to compare. */
static bool proved_by_join(const struct map *map, const struct map_table *mt, size_t check)
{
    static const Oid exact[] = {20 /* int8 */, 21 /* int2 */, 23 /* int4 */, 2950 /* uuid */};
    const struct map_column *c = check < mt->ncolumns ? &mt->columns[check] : NULL;

    if (!c || c->key_index < 0 || raw_index(map, mt, c) < 0)
        return false;
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        if (c->target->type == exact[i])
            return true;
    return false;
}

void compare_sql_differs(struct strbuf *sb, const struct map *map, const struct map_table *mt)
{
    size_t n = compare_checks(mt);

    strbuf_addstr(sb, "SELECT e.o, t.tableoid IS NULL, ARRAY[");
    for (size_t i = 0; i < n; i++) {
        strbuf_addstr(sb, i ? ", " : "");
        if (is_compared(mt, i) && !proved_by_join(map, mt, i))
            add_check(sb, map, mt, i);
        else
            strbuf_addstr(sb, "false");
    }
    strbuf_addstr(sb, "]::pg_catalog.bool[]");
    add_pairs(sb, map, mt);
    strbuf_addstr(sb, " WHERE t.tableoid IS NULL");
    for (size_t i = 0; i < n; i++) {
        if (!is_compared(mt, i) || proved_by_join(map, mt, i))
            continue;
        strbuf_addstr(sb, " OR ");
        add_check(sb, map, mt, i);
    }
}

void compare_sql_values(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                        const bool *want)
{
    strbuf_addstr(sb, "SELECT e.o");
    for (size_t i = 0; i < compare_checks(mt); i++) {
        if (!want[i] || !is_compared(mt, i))
            continue;
        strbuf_addstr(sb, ", ");
        add_expected(sb, map, mt, i);
        strbuf_addstr(sb, ", ");
        add_actual(sb, mt, i);
    }
    add_pairs(sb, map, mt);
}

void compare_sql_keys(struct strbuf *sb, const struct map_table *mt)
{
    bool *present = xcalloc(mt->nsource + 1, sizeof *present),
         *want = xcalloc(mt->ncolumns + 1, sizeof *want);

    for (size_t k = 0; k < mt->nsource_key; k++)
        present[mt->source_key[k]] = true;
    for (size_t k = 0; k < mt->nkey; k++)
        want[mt->key[k]] = true;
    project_rows(sb, mt, present, want, NULL, 1);
    free(present);
    free(want);
}

void compare_sql_present(struct strbuf *sb, const struct map_table *mt)
{
    strbuf_addstr(sb, "SELECT e.o, t.tableoid, t.ctid FROM ");
    compare_sql_keys(sb, mt);
    strbuf_addstr(sb, " JOIN ");
    compare_sql_target(sb, mt, "t");
    strbuf_addstr(sb, " ON ");
    project_key_match(sb, mt, "t", "e");
}

static void add_source_columns(struct strbuf *sb, const struct map_table *mt)
{
    for (size_t i = 0; i < mt->nsource; i++)
        strbuf_addf(sb, "%ss.%s", i ? ", " : "", mt->source_columns[i]->sql_name);
}

void compare_sql_scan(struct strbuf *sb, const struct map_table *mt, int64_t from, int64_t to)
{
    strbuf_addstr(sb, "SELECT ");
    add_source_columns(sb, mt);
    strbuf_addf(sb, " FROM ONLY %s AS s", mt->source->sql_name);
    if (from > 0 || to >= 0)
        strbuf_addf(sb, " WHERE s.ctid >= '(%lld,0)'", (long long) from);
    if (to >= 0)
        strbuf_addf(sb, " AND s.ctid < '(%lld,0)'", (long long) to);
}

/* unnest($1::text[], ...) WITH ORDINALITY AS k(x0, ..., o), with or without parameters' columns
 * joined to s. */
static void add_bound_keys(struct strbuf *sb, size_t n)
{
    strbuf_addstr(sb, "unnest(");
    for (size_t i = 0; i < n; i++)
        strbuf_addf(sb, "%s$%zu::pg_catalog.text[]", i ? ", " : "", i + 1);
    strbuf_addstr(sb, ") WITH ORDINALITY AS k(");
    for (size_t i = 0; i < n; i++)
        strbuf_addf(sb, "x%zu, ", i);
    strbuf_addstr(sb, "o)");
}

/* The map knows where the target has its types' equality; copied types live in the same schema on
 * the source. */
static void add_source_key_match(struct strbuf *sb, const struct map_table *mt)
{
    for (size_t k = 0; k < mt->nsource_key; k++) {
        const struct cat_column *column = mt->source_columns[mt->source_key[k]];
        const struct map_column *c = k < mt->nkey ? &mt->columns[mt->key[k]] : NULL;
        const char *equals =
            c && c->same_type && c->source == column && c->equals ? c->equals : "=";
        strbuf_addf(sb, " %s s.%s %s k.x%zu::%s", k ? "AND" : "ON", column->sql_name, equals, k,
                    column->type_sql);
    }
}

void compare_sql_fetch(struct strbuf *sb, const struct map *map, const struct map_table *mt)
{
    strbuf_addstr(sb, "SELECT k.o, ");
    add_source_columns(sb, mt);
    strbuf_addstr(sb, " FROM ");
    add_bound_keys(sb, mt->nsource_key);
    strbuf_addstr(sb, " JOIN ");
    compare_sql_source(sb, map, mt, "s");
    add_source_key_match(sb, mt);
}

bool compare_key_is_plain(const struct map_table *mt)
{
    if (mt->nkey == 0 || mt->nkey != mt->nsource_key)
        return false;
    for (size_t k = 0; k < mt->nkey; k++)
        if (mt->columns[mt->key[k]].source != mt->source_columns[mt->source_key[k]])
            return false;
    return true;
}

void compare_sql_target_keys(struct strbuf *sb, const struct map_table *mt)
{
    strbuf_addstr(sb, "SELECT ");
    for (size_t k = 0; k < mt->nkey; k++) {
        strbuf_addstr(sb, k ? ", " : "");
        add_found(sb, mt->columns[mt->key[k]].target, "t");
    }
    strbuf_addstr(sb, " FROM ");
    compare_sql_target(sb, mt, "t");
}

void compare_sql_unknown(struct strbuf *sb, const struct map *map, const struct map_table *mt)
{
    strbuf_addstr(sb, "SELECT k.o");
    for (size_t k = 0; k < mt->nkey; k++) {
        const struct cat_column *column = mt->columns[mt->key[k]].source;
        char *x = xstrfmt("k.x%zu::%s", k, column->type_sql);
        strbuf_addstr(sb, ", ");
        project_text(sb, column, x);
        free(x);
    }
    strbuf_addstr(sb, " FROM ");
    add_bound_keys(sb, mt->nkey);
    strbuf_addstr(sb, " LEFT JOIN ");
    compare_sql_source(sb, map, mt, "s");
    add_source_key_match(sb, mt);
    strbuf_addstr(sb, " WHERE s.tableoid IS NULL");
}

/* hashtextextended() wants a collation that is known; the array's output quotes, so that no two
 * rows are alike. */
static void add_hash(struct strbuf *sb, int seed)
{
    strbuf_addf(sb, "pg_catalog.hashtextextended(q.x" C_COLLATION ", %d)", seed);
}

static void add_multiset_head(struct strbuf *sb, enum multiset_want want, bool source)
{
    strbuf_addstr(sb, "SELECT ");
    switch (want) {
    case MULTISET_SUMS:
        strbuf_addstr(sb, "pg_catalog.count(*), pg_catalog.sum(");
        add_hash(sb, 1);
        strbuf_addstr(sb, "), pg_catalog.sum(");
        add_hash(sb, 20260203);
        strbuf_addch(sb, ')');
        break;
    case MULTISET_HASHES:
        strbuf_addstr(sb, source ? "q.o, " : "");
        add_hash(sb, 1);
        break;
    case MULTISET_ROWS:
        strbuf_addstr(sb, "q.x");
        break;
    }
    strbuf_addstr(sb, source ? " FROM (SELECT e.o, " : " FROM (SELECT ");
}

static void add_row_text(struct strbuf *sb, const struct map *map, const struct map_table *mt)
{
    strbuf_addstr(sb, "(ARRAY[NULL");
    for (size_t i = 0; i < compare_checks(mt); i++) {
        if (!is_compared(mt, i))
            continue;
        strbuf_addstr(sb, ", ");
        if (map)
            add_expected(sb, map, mt, i);
        else
            add_actual(sb, mt, i);
    }
    strbuf_addstr(sb, "]::pg_catalog.text[])::pg_catalog.text AS x FROM ");
}

void multiset_sql_source(struct strbuf *sb, const struct map *map, const struct map_table *mt,
                         enum multiset_want want)
{
    add_multiset_head(sb, want, true);
    add_row_text(sb, map, mt);
    add_rows(sb, map, mt, false);
    strbuf_addstr(sb, ") AS q");
}

void multiset_sql_target(struct strbuf *sb, const struct map_table *mt, enum multiset_want want)
{
    add_multiset_head(sb, want, false);
    add_row_text(sb, NULL, mt);
    compare_sql_target(sb, mt, "t");
    strbuf_addstr(sb, ") AS q");
    if (want == MULTISET_ROWS) {
        strbuf_addstr(sb, " WHERE ");
        add_hash(sb, 1);
        strbuf_addstr(sb, " = ANY ($1::pg_catalog.int8[])");
    }
}

void multiset_sql_own(struct strbuf *sb, const struct map_table *mt)
{
    add_multiset_head(sb, MULTISET_SUMS, false);
    strbuf_addstr(sb, "(ARRAY[NULL");
    for (size_t i = 0; i < mt->ncolumns; i++) {
        const struct cat_column *column = mt->columns[i].source;
        char *x = xstrfmt("t.%s", column->sql_name);

        strbuf_addstr(sb, ", ");
        project_text(sb, column, x);
        free(x);
    }
    strbuf_addf(sb, "]::pg_catalog.text[])::pg_catalog.text AS x FROM ONLY %s AS t) AS q",
                mt->source->sql_name);
}

static void add_typed_rows(struct strbuf *sb, const struct map_table *mt)
{
    strbuf_addstr(sb, "(SELECT ");
    for (size_t i = 0; i < mt->nsource; i++)
        strbuf_addf(sb, "k.x%zu::%s AS %s, ", i, mt->source_types[i],
                    mt->source_columns[i]->sql_name);
    strbuf_addstr(sb, "k.o AS pgcutover_o FROM ");
    add_bound_keys(sb, mt->nsource);
    strbuf_addstr(sb, ") AS r");
}

/* Rules may say bare column names, so the source row stands alone where they are evaluated. */
void compare_sql_guess(struct strbuf *sb, const struct map_table *mt,
                       const struct cat_column *column, const char *expr)
{
    strbuf_addstr(sb, "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE ");
    project_text(sb, column, "e.guess");
    strbuf_addstr(sb, " IS NOT DISTINCT FROM ");
    add_found(sb, column, "t");
    strbuf_addf(sb, ") FROM (SELECT CAST((%s) AS %s) AS guess", expr, column->type_full);
    for (size_t k = 0; k < mt->nkey; k++)
        strbuf_addf(sb, ", (%s) AS v%d", mt->columns[mt->key[k]].expr, mt->key[k]);
    strbuf_addstr(sb, " FROM ");
    add_typed_rows(sb, mt);
    strbuf_addstr(sb, ") AS e JOIN ");
    compare_sql_target(sb, mt, "t");
    strbuf_addstr(sb, " ON ");
    project_key_match(sb, mt, "t", "e");
}
