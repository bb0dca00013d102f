/* project.c - the FROM item that takes source rows through the map, and replay's statements over
 * it. */
#include "map/project.h"

#include "base/alloc.h"
#include "pg/conn.h"

#include <stdlib.h>

static bool *flags(size_t n)
{
    return xcalloc(n + 1, sizeof(bool));
}

static bool is_present(const bool *present, size_t i)
{
    return !present || present[i];
}

bool project_has_needs(const struct map_table *mt, size_t c, const bool *present, bool *some)
{
    const struct map_column *col = &mt->columns[c];
    size_t found = 0;
    for (size_t i = 0; i < col->nneeds; i++)
        if (is_present(present, (size_t) col->needs[i]))
            found++;
    if (some)
        *some = found > 0;
    return found == col->nneeds;
}

/* unnest($1::text[], ...) AS u(...), and over it r, the typed row */
static void add_source_row(struct strbuf *sb, const struct map_table *mt, const bool *present,
                           int first_param)
{
    struct strbuf arrays = {0}, names = {0}, typed = {0};
    int param = first_param;
    for (size_t i = 0; i < mt->nsource; i++) {
        if (!is_present(present, i))
            continue;
        strbuf_addf(&arrays, "%s$%d::text[]", arrays.len ? ", " : "", param++);
        strbuf_addf(&names, "pgcutover_x%zu, ", i);
        strbuf_addf(&typed, "%su.pgcutover_x%zu::%s AS ", typed.len ? ", " : "", i,
                    mt->source_types[i]);
        pg_add_ident(&typed, mt->source_columns[i]->name);
    }
    if (arrays.len)
        strbuf_addf(sb, "unnest(%s) WITH ORDINALITY AS u(%spgcutover_o)", strbuf_cstr(&arrays),
                    strbuf_cstr(&names));
    else
        strbuf_addstr(sb, "(SELECT 1::bigint) AS u(pgcutover_o)");
    strbuf_addstr(sb, ", LATERAL (SELECT ");
    strbuf_addstr(sb, strbuf_cstr(&typed));
    strbuf_addstr(sb, ") AS r");
    strbuf_release(&arrays);
    strbuf_release(&names);
    strbuf_release(&typed);
}

static void add_rows(struct strbuf *sb, const struct map_table *mt, const bool *present,
                     const bool *want, const bool *raw, int first_param, const char *alias)
{
    strbuf_addstr(sb, "(SELECT u.pgcutover_o AS o");
    for (size_t c = 0; c < mt->ncolumns; c++)
        if (want ? want[c] : project_has_needs(mt, c, present, NULL))
            strbuf_addf(sb, ", (%s) AS v%zu", mt->columns[c].expr, c);
    for (size_t i = 0; raw && i < mt->nsource; i++)
        if (raw[i])
            strbuf_addf(sb, ", u.pgcutover_x%zu AS raw%zu", i, i);
    strbuf_addstr(sb, " FROM ");
    add_source_row(sb, mt, present, first_param);
    strbuf_addf(sb, ") AS %s", alias);
}

void project_rows(struct strbuf *sb, const struct map_table *mt, const bool *present,
                  const bool *want, const bool *raw, int first_param)
{
    add_rows(sb, mt, present, want, raw, first_param, "e");
}

void project_key_match(struct strbuf *sb, const struct map_table *mt, const char *t, const char *e)
{
    for (size_t k = 0; k < mt->nkey; k++) {
        const struct map_column *col = &mt->columns[mt->key[k]];
        strbuf_addf(sb, "%s%s.%s %s ", k ? " AND " : "", t, col->target->sql_name,
                    col->equals ? col->equals : "=");
        if (col->same_type)
            strbuf_addf(sb, "%s.v%d", e, mt->key[k]);
        else
            strbuf_addf(sb, "(%s.v%d)::%s", e, mt->key[k], col->target->type_sql);
    }
}

static const char *only(const struct map_table *mt)
{
    return mt->only ? "ONLY " : "";
}

/* Which columns an UPDATE sets; rekey: those of the key, too. The number of them. */
static size_t settable_columns(const struct map_table *mt, const bool *present, bool rekey,
                               bool *set)
{
    size_t n = 0;
    for (size_t c = 0; c < mt->ncolumns; c++) {
        bool some = false;
        bool all = project_has_needs(mt, c, present, &some);
        set[c] = all && some && (rekey || mt->columns[c].key_index < 0);
        n += set[c];
    }
    return n;
}

/* GENERATED ALWAYS AS IDENTITY takes a value from INSERT alone. */
static bool sets_identity(const struct map_table *mt, const bool *set)
{
    for (size_t c = 0; c < mt->ncolumns; c++)
        if (set[c] && !mt->columns[c].settable)
            return true;
    return false;
}

static void add_set_list(struct strbuf *sb, const struct map_table *mt, const bool *set)
{
    const char *between = "";
    for (size_t c = 0; c < mt->ncolumns; c++) {
        if (!set[c])
            continue;
        strbuf_addf(sb, "%s%s = e.v%zu", between, mt->columns[c].target->sql_name, c);
        between = ", ";
    }
}

static bool *key_columns(const struct map_table *mt)
{
    bool *key = flags(mt->ncolumns);
    for (size_t k = 0; k < mt->nkey; k++)
        key[mt->key[k]] = true;
    return key;
}

static bool *key_present(const struct map_table *mt)
{
    bool *present = flags(mt->nsource);
    for (size_t k = 0; k < mt->nsource_key; k++)
        present[mt->source_key[k]] = true;
    return present;
}

void project_insert(struct strbuf *sb, const struct map_table *mt, const bool *present)
{
    struct strbuf names = {0}, values = {0};
    bool *want = flags(mt->ncolumns);
    for (size_t c = 0; c < mt->ncolumns; c++) {
        want[c] = project_has_needs(mt, c, present, NULL);
        if (!want[c])
            continue;
        strbuf_addf(&names, "%s%s", names.len ? ", " : "", mt->columns[c].target->sql_name);
        strbuf_addf(&values, "%se.v%zu", values.len ? ", " : "", c);
    }
    strbuf_addf(sb, "INSERT INTO %s", mt->target->sql_name);
    if (names.len)
        strbuf_addf(sb, " (%s)", strbuf_cstr(&names));
    strbuf_addf(sb, " OVERRIDING SYSTEM VALUE SELECT %s FROM ", strbuf_cstr(&values));
    add_rows(sb, mt, present, want, NULL, 1, "e");
    strbuf_addstr(sb, " ORDER BY e.o");
    free(want);
    strbuf_release(&names);
    strbuf_release(&values);
}

/* UPDATE can't give an ALWAYS identity column a value, so the row is taken out and put in again;
 * what the statement doesn't carry comes from the row that was there. hit: what finds t, after
 * DELETE FROM. */
static void add_reinsert(struct strbuf *sb, const struct map_table *mt, const bool *present,
                         const bool *set, int first_param, const char *hit, const char *joined)
{
    struct strbuf names = {0}, values = {0};
    for (size_t i = 0; i < mt->target->ncolumns; i++) {
        const struct cat_column *target = &mt->target->columns[i];
        if (target->generated)
            continue;
        size_t c = 0;
        while (c < mt->ncolumns && (mt->columns[c].target != target || !set[c]))
            c++;
        strbuf_addf(&names, "%s%s", names.len ? ", " : "", target->sql_name);
        if (c < mt->ncolumns)
            strbuf_addf(&values, "%se.v%zu", values.len ? ", " : "", c);
        else
            strbuf_addf(&values, "%sd.%s", values.len ? ", " : "", target->sql_name);
    }
    strbuf_addf(sb, "WITH d AS (DELETE FROM %s%s AS t USING %s", only(mt), mt->target->sql_name,
                hit);
    strbuf_addf(sb, ") INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM d, ",
                mt->target->sql_name, strbuf_cstr(&names), strbuf_cstr(&values));
    add_rows(sb, mt, present, set, NULL, first_param, "e");
    strbuf_addstr(sb, joined);
    strbuf_release(&names);
    strbuf_release(&values);
}

/* DELETE's part of add_reinsert when rows are found by their key, whose arrays start at
 * first_param. */
static void add_hit_by_key(struct strbuf *sb, const struct map_table *mt, const bool *present,
                           int first_param)
{
    bool *key = key_columns(mt);
    add_rows(sb, mt, present, key, NULL, first_param, "k");
    strbuf_addstr(sb, " WHERE ");
    project_key_match(sb, mt, "t", "k");
    strbuf_addstr(sb, " RETURNING k.o AS pgcutover_o, t.*");
    free(key);
}

bool project_update(struct strbuf *sb, const struct map_table *mt, const bool *present)
{
    bool *set = flags(mt->ncolumns);
    size_t n = settable_columns(mt, present, false, set);
    if (n > 0 && sets_identity(mt, set)) {
        struct strbuf hit = {0};
        add_hit_by_key(&hit, mt, present, 1);
        add_reinsert(sb, mt, present, set, 1, strbuf_cstr(&hit), " WHERE d.pgcutover_o = e.o");
        strbuf_release(&hit);
    } else if (n > 0) {
        strbuf_addf(sb, "UPDATE %s%s AS t SET ", only(mt), mt->target->sql_name);
        add_set_list(sb, mt, set);
        strbuf_addstr(sb, " FROM ");
        for (size_t k = 0; k < mt->nkey; k++)
            set[mt->key[k]] = true;
        add_rows(sb, mt, present, set, NULL, 1, "e");
        strbuf_addstr(sb, " WHERE ");
        project_key_match(sb, mt, "t", "e");
    }
    free(set);
    return n > 0;
}

void project_delete(struct strbuf *sb, const struct map_table *mt)
{
    bool *present = key_present(mt), *key = key_columns(mt);
    strbuf_addf(sb, "DELETE FROM %s%s AS t USING ", only(mt), mt->target->sql_name);
    add_rows(sb, mt, present, key, NULL, 1, "e");
    strbuf_addstr(sb, " WHERE ");
    project_key_match(sb, mt, "t", "e");
    free(present);
    free(key);
}

void project_rekey(struct strbuf *sb, const struct map_table *mt, const bool *present)
{
    bool *set = flags(mt->ncolumns), *key = key_columns(mt), *old = key_present(mt);
    int first = (int) mt->nsource_key + 1;
    settable_columns(mt, present, true, set);
    if (sets_identity(mt, set)) {
        struct strbuf hit = {0};
        add_hit_by_key(&hit, mt, old, 1);
        add_reinsert(sb, mt, present, set, first, strbuf_cstr(&hit), "");
        strbuf_release(&hit);
    } else {
        strbuf_addf(sb, "UPDATE %s%s AS t SET ", only(mt), mt->target->sql_name);
        add_set_list(sb, mt, set);
        strbuf_addstr(sb, " FROM ");
        add_rows(sb, mt, old, key, NULL, 1, "k");
        strbuf_addstr(sb, ", ");
        add_rows(sb, mt, present, set, NULL, first, "e");
        strbuf_addstr(sb, " WHERE ");
        project_key_match(sb, mt, "t", "k");
    }
    free(set);
    free(key);
    free(old);
}

/* A predicate that an index can serve, where the value bound is not null. The planner sees the
 * parameter's value and drops the half that doesn't apply. */
static void add_indexable(struct strbuf *sb, const struct map_table *mt, const struct map_column *c)
{
    int i = c->needs[0];
    strbuf_addf(sb, " AND (($%d::text[])[1] IS NULL OR x.%s %s ($%d::text[])[1]::%s)", i + 1,
                c->target->sql_name, c->equals ? c->equals : "=", i + 1, mt->source_types[i]);
}

/* One physical row of those that equal the old row, bound as $1...: ctid, and tableoid where ctid
 * alone says nothing. */
static void add_one_row(struct strbuf *sb, const struct map_table *mt)
{
    bool *want = flags(mt->ncolumns);
    for (size_t c = 0; c < mt->ncolumns; c++)
        want[c] = mt->columns[c].nneeds > 0 && !mt->columns[c].volatile_value;
    strbuf_addf(sb, "(SELECT x.ctid AS tid, x.tableoid AS rel FROM %s%s AS x, ", only(mt),
                mt->target->sql_name);
    add_rows(sb, mt, NULL, want, NULL, 1, "e");
    strbuf_addstr(sb, " WHERE true");
    for (size_t c = 0; c < mt->ncolumns; c++) {
        const struct map_column *col = &mt->columns[c];
        if (!want[c])
            continue;
        char *column = xstrfmt("x.%s", col->target->sql_name), *value = xstrfmt("e.v%zu", c);
        if (col->indexed && col->same_type && !col->rule && col->target->has_equality)
            add_indexable(sb, mt, col);
        strbuf_addstr(sb, " AND ");
        project_text(sb, col->target, column);
        strbuf_addstr(sb, " IS NOT DISTINCT FROM ");
        project_target_text(sb, mt, c, value);
        free(column);
        free(value);
    }
    strbuf_addstr(sb, " LIMIT 1) AS one");
    free(want);
}

static void add_one_match(struct strbuf *sb, const struct map_table *mt)
{
    strbuf_addstr(sb, " WHERE t.ctid = one.tid");
    if (!mt->only)
        strbuf_addstr(sb, " AND t.tableoid = one.rel");
}

bool project_update_row(struct strbuf *sb, const struct map_table *mt, const bool *present)
{
    bool *set = flags(mt->ncolumns);
    int first = (int) mt->nsource + 1;
    size_t n = settable_columns(mt, present, false, set);
    if (n > 0 && sets_identity(mt, set)) {
        struct strbuf hit = {0};
        add_one_row(&hit, mt);
        add_one_match(&hit, mt);
        strbuf_addstr(&hit, " RETURNING t.*");
        add_reinsert(sb, mt, present, set, first, strbuf_cstr(&hit), "");
        strbuf_release(&hit);
    } else if (n > 0) {
        strbuf_addf(sb, "UPDATE %s%s AS t SET ", only(mt), mt->target->sql_name);
        add_set_list(sb, mt, set);
        strbuf_addstr(sb, " FROM ");
        add_one_row(sb, mt);
        strbuf_addstr(sb, ", ");
        add_rows(sb, mt, present, set, NULL, first, "e");
        add_one_match(sb, mt);
    }
    free(set);
    return n > 0;
}

void project_delete_row(struct strbuf *sb, const struct map_table *mt)
{
    strbuf_addf(sb, "DELETE FROM %s%s AS t USING ", only(mt), mt->target->sql_name);
    add_one_row(sb, mt);
    add_one_match(sb, mt);
}
