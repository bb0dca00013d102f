/*
 * project_set.c - statements that hit many rows of a table without a key at once. Which physical
 * rows: each old row bound is paired with another one of the target's rows that equal it, by their
 * number among equals. One pass over the table for all of them, where one by one each would cost a
 * pass of its own.
 */
#include "map/project.h"

#include "base/alloc.h"

#include <stdlib.h>

/* The mapped columns of a row as one text: a record's, which keeps NULL and '' apart. */
static void add_image(struct strbuf *sb, const struct map_table *mt, const bool *want, bool target)
{
    bool first = true;

    strbuf_addstr(sb, "ROW(");
    for (size_t c = 0; c < mt->ncolumns; c++) {
        char *x;

        if (!want[c])
            continue;
        strbuf_addstr(sb, first ? "" : ", ");
        first = false;
        x = target ? xstrfmt("x.%s", mt->columns[c].target->sql_name) : xstrfmt("e.v%zu", c);
        if (target)
            project_text(sb, mt->columns[c].target, x);
        else
            project_target_text(sb, mt, c, x);
        free(x);
    }
    strbuf_addstr(sb, ")::text");
}

static bool *compared_columns(const struct map_table *mt)
{
    bool *want = xcalloc(mt->ncolumns + 1, sizeof *want);

    for (size_t c = 0; c < mt->ncolumns; c++)
        want[c] = mt->columns[c].nneeds > 0 && !mt->columns[c].volatile_value;
    return want;
}

static const char *only(const struct map_table *mt)
{
    return mt->only ? "ONLY " : "";
}

/* WITH ... one(o, tid, rel): the physical row for each old row bound as $1... */
static void add_pairs(struct strbuf *sb, const struct map_table *mt)
{
    bool *want = compared_columns(mt);

    strbuf_addstr(sb, "WITH old AS MATERIALIZED (SELECT e.o, ");
    add_image(sb, mt, want, false);
    strbuf_addstr(sb, " AS img FROM ");
    project_rows(sb, mt, NULL, want, NULL, 1);
    strbuf_addstr(sb, "), want AS (SELECT o, img, pg_catalog.row_number() OVER (PARTITION BY img "
                      "ORDER BY o) AS rn FROM old), have AS (SELECT tid, rel, img, "
                      "pg_catalog.row_number() OVER (PARTITION BY img) AS rn FROM (SELECT x.ctid "
                      "AS tid, x.tableoid AS rel, ");
    add_image(sb, mt, want, true);
    strbuf_addf(sb, " AS img FROM %s%s AS x OFFSET 0) AS y WHERE img IN (SELECT img FROM old)), ",
                only(mt), mt->target->sql_name);
    strbuf_addstr(sb, "one AS (SELECT want.o, have.tid, have.rel FROM want JOIN have "
                      "ON have.img = want.img AND have.rn = want.rn) ");
    free(want);
}

static void add_hit(struct strbuf *sb, const struct map_table *mt)
{
    strbuf_addstr(sb, " WHERE t.ctid = one.tid");
    if (!mt->only)
        strbuf_addstr(sb, " AND t.tableoid = one.rel");
}

void project_delete_rows(struct strbuf *sb, const struct map_table *mt)
{
    add_pairs(sb, mt);
    strbuf_addf(sb, "DELETE FROM %s%s AS t USING one", only(mt), mt->target->sql_name);
    add_hit(sb, mt);
}

bool project_update_rows(struct strbuf *sb, const struct map_table *mt, const bool *present)
{
    bool *set = xcalloc(mt->ncolumns + 1, sizeof *set);
    struct strbuf list = {0};
    bool possible = true;

    for (size_t c = 0; c < mt->ncolumns; c++) {
        const struct map_column *col = &mt->columns[c];

        set[c] = col->nneeds > 0 && project_has_needs(mt, c, present, NULL);
        possible = possible && (!set[c] || col->settable);
        if (set[c])
            strbuf_addf(&list, "%s%s = e.v%zu", list.len ? ", " : "", col->target->sql_name, c);
    }
    possible = possible && list.len > 0;
    if (possible) {
        add_pairs(sb, mt);
        strbuf_addf(sb, "UPDATE %s%s AS t SET %s FROM one, ", only(mt), mt->target->sql_name,
                    strbuf_cstr(&list));
        project_rows(sb, mt, present, set, NULL, (int) mt->nsource + 1);
        add_hit(sb, mt);
        strbuf_addstr(sb, " AND e.o = one.o");
    }
    strbuf_release(&list);
    free(set);
    return possible;
}
