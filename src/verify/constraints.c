/*
 * constraints.c - what sessions with session_replication_role = replica don't enforce: foreign keys
 * and deferrable uniqueness (TRAPS 57). What the source enforces over the very same values needs no
 * check: rows that are equal satisfy it too. Everything else is looked for by query.
 * https://www.postgresql.org/docs/15/sql-createtable.html
 */
#include "constraints.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"
#include "map/project.h"

#include <stdlib.h>
#include <string.h>

static bool feeds(const struct map_table *mt, Oid target)
{
    return !mt->skipped && mt->target && (mt->target->oid == target || mt->target->root == target);
}

/* The number that the target column has into which the source's column goes unchanged, or 0. table:
 * where attnum counts, the leaf itself or its root. */
static int image_of(const struct map *map, const struct map_table *mt, Oid table, int attnum,
                    Oid target)
{
    const struct cat_table *from = catalog_table_oid(map->source, table),
                           *to = catalog_table_oid(map->target, target);
    const struct cat_column *column = from ? cat_column_num(from, attnum) : NULL, *image;

    for (size_t i = 0; column && to && i < mt->ncolumns; i++) {
        const struct map_column *c = &mt->columns[i];
        if (c->rule || c->volatile_value || !c->source ||
            strcmp(c->source->name, column->name) != 0)
            continue;
        image = cat_column(to, c->target->name);
        if (image)
            return image->attnum;
    }
    return 0;
}

static bool constrains(const struct map_table *mt, Oid table)
{
    return mt->source->oid == table || mt->source->root == table;
}

static bool refers_through(const struct map *map, const struct cat_foreign_key *blue,
                           const struct cat_foreign_key *green)
{
    bool some = false;

    for (size_t i = 0; i < map->ntables; i++) {
        const struct map_table *mt = &map->tables[i];
        if (!constrains(mt, blue->ref_table))
            continue;
        if (!feeds(mt, green->ref_table))
            return false;
        some = true;
        for (size_t k = 0; k < blue->ncolumns; k++)
            if (image_of(map, mt, blue->ref_table, blue->ref_columns[k], green->ref_table) !=
                green->ref_columns[k])
                return false;
    }
    return some;
}

static bool same_columns(const struct map *map, const struct map_table *mt,
                         const struct cat_foreign_key *blue, const struct cat_foreign_key *green)
{
    if (blue->ncolumns != green->ncolumns)
        return false;
    for (size_t k = 0; k < blue->ncolumns; k++)
        if (image_of(map, mt, blue->table, blue->columns[k], green->table) != green->columns[k])
            return false;
    return true;
}

static bool source_enforces(const struct map *map, const struct map_table *mt,
                            const struct cat_foreign_key *green)
{
    for (size_t i = 0; i < map->source->nfkeys; i++) {
        const struct cat_foreign_key *blue = &map->source->fkeys[i];
        if (blue->validated && constrains(mt, blue->table) && same_columns(map, mt, blue, green) &&
            refers_through(map, blue, green))
            return true;
    }
    return false;
}

/* Every table that feeds the target must bring its own key of the kind. */
static bool is_image(const struct map *map, const struct cat_foreign_key *green)
{
    bool some = false;

    for (size_t i = 0; i < map->ntables; i++) {
        if (!feeds(&map->tables[i], green->table))
            continue;
        if (!source_enforces(map, &map->tables[i], green))
            return false;
        some = true;
    }
    return some;
}

void constraint_add_from(struct strbuf *sb, const struct cat_table *t, const char *alias)
{
    strbuf_addf(sb, "%s%s AS %s", t->relkind == 'p' ? "" : "ONLY ", t->sql_name, alias);
}

void constraint_add_shown(struct strbuf *sb, const struct cat_table *t, const int *columns,
                          size_t n, const char *alias)
{
    for (size_t k = 0; k < n; k++) {
        const struct cat_column *c = cat_column_num(t, columns[k]);
        char *x = xstrfmt("%s.%s", alias, c->sql_name);
        strbuf_addstr(sb, k ? ", " : "");
        project_text(sb, c, x);
        free(x);
    }
}

/* MATCH SIMPLE: a NULL among the columns, and nothing is asked. */
void constraint_add_orphaned(struct strbuf *sb, const struct constraint_check *check)
{
    const struct cat_foreign_key *fk = check->fkey;

    for (size_t k = 0; k < fk->ncolumns; k++)
        strbuf_addf(sb, "c.%s IS NOT NULL AND ",
                    cat_column_num(check->table, fk->columns[k])->sql_name);
    strbuf_addstr(sb, "NOT EXISTS (SELECT FROM ");
    constraint_add_from(sb, check->ref_table, "p");
    for (size_t k = 0; k < fk->ncolumns; k++)
        strbuf_addf(sb, " %s p.%s %s c.%s", k ? "AND" : "WHERE",
                    cat_column_num(check->ref_table, fk->ref_columns[k])->sql_name,
                    check->child_equals ? check->child_equals[k] : "=",
                    cat_column_num(check->table, fk->columns[k])->sql_name);
    strbuf_addch(sb, ')');
}

char *orphans_sql(const struct constraint_check *check)
{
    struct strbuf sb = {0};

    strbuf_addstr(&sb, "SELECT ");
    constraint_add_shown(&sb, check->table, check->fkey->columns, check->fkey->ncolumns, "c");
    strbuf_addstr(&sb, " FROM ");
    constraint_add_from(&sb, check->table, "c");
    strbuf_addstr(&sb, " WHERE ");
    constraint_add_orphaned(&sb, check);
    strbuf_addf(&sb, " LIMIT %d", CONSTRAINT_SHOWN);
    return strbuf_take(&sb);
}

static char *duplicates_sql(const struct cat_table *t, const struct cat_unique *u)
{
    struct strbuf sb = {0}, names = {0};

    for (size_t k = 0; k < u->ncolumns; k++)
        strbuf_addf(&names, "%st.%s", k ? ", " : "", cat_column_num(t, u->columns[k])->sql_name);
    strbuf_addstr(&sb, "SELECT ");
    constraint_add_shown(&sb, t, u->columns, u->ncolumns, "t");
    strbuf_addstr(&sb, " FROM ");
    constraint_add_from(&sb, t, "t");
    for (size_t k = 0; k < u->ncolumns; k++)
        strbuf_addf(&sb, " %s t.%s IS NOT NULL", k ? "AND" : "WHERE",
                    cat_column_num(t, u->columns[k])->sql_name);
    strbuf_addf(&sb, " GROUP BY %s HAVING pg_catalog.count(*) > 1 LIMIT %d", strbuf_cstr(&names),
                CONSTRAINT_SHOWN);
    strbuf_release(&names);
    return strbuf_take(&sb);
}

static bool known_columns(const struct cat_table *t, const int *columns, size_t n)
{
    for (size_t k = 0; k < n; k++)
        if (!cat_column_num(t, columns[k]))
            return false;
    return n > 0;
}

static bool derive_foreign_keys(struct constraint_checks *out, const struct map *map,
                                struct error *err)
{
    for (size_t i = 0; i < map->target->nfkeys; i++) {
        const struct cat_foreign_key *fk = &map->target->fkeys[i];
        const struct cat_table *child = catalog_table_oid(map->target, fk->table),
                               *parent = catalog_table_oid(map->target, fk->ref_table);
        struct constraint_check *check;
        if (fk->inherited || !fk->validated || is_image(map, fk))
            continue;
        if (!child || !parent || !known_columns(child, fk->columns, fk->ncolumns) ||
            !known_columns(parent, fk->ref_columns, fk->ncolumns))
            return error_set(err, ERR_INTERNAL,
                             "foreign key \"%s\" names a table or column that isn't in the catalog",
                             fk->name);
        check = VEC_ADD(out->items, out->n, out->cap);
        check->fkey = fk;
        check->table = child;
        check->ref_table = parent;
        check->sql = orphans_sql(check);
    }
    return true;
}

static bool same_set(const struct map *map, const struct map_table *mt,
                     const struct cat_unique *blue, const struct cat_unique *green)
{
    if (blue->ncolumns != green->ncolumns)
        return false;
    for (size_t k = 0; k < green->ncolumns; k++) {
        bool found = false;
        for (size_t j = 0; j < blue->ncolumns; j++)
            found = found || image_of(map, mt, blue->table, blue->columns[j], green->table) ==
                                 green->columns[k];
        if (!found)
            return false;
    }
    return true;
}

/* One source table alone, with the same uniqueness, deferrable there too. */
static bool unique_is_image(const struct map *map, const struct cat_unique *green)
{
    const struct map_table *only = NULL;
    size_t roots = 0;

    for (size_t i = 0; i < map->ntables; i++) {
        if (!feeds(&map->tables[i], green->table))
            continue;
        roots += !only || only->source->root != map->tables[i].source->root;
        only = &map->tables[i];
    }
    for (size_t i = 0; roots == 1 && i < map->source->ndeferrable; i++) {
        const struct cat_unique *blue = &map->source->deferrable[i];
        if ((only->source->root == blue->table || only->source->oid == blue->table) &&
            (only->source->root == only->source->oid || blue->table == only->source->root) &&
            same_set(map, only, blue, green))
            return true;
    }
    return false;
}

/* A partition's copy of its root's constraint. */
static bool is_partition_copy(const struct map *map, const struct cat_unique *u,
                              const struct cat_table *t)
{
    const struct cat_table *root =
        t->root != t->oid ? catalog_table_oid(map->target, t->root) : NULL;

    for (size_t i = 0; root && i < map->target->ndeferrable; i++) {
        const struct cat_unique *other = &map->target->deferrable[i];
        size_t same = 0;
        if (other->table != root->oid || other->ncolumns != u->ncolumns)
            continue;
        for (size_t k = 0; k < u->ncolumns; k++) {
            const struct cat_column *a = cat_column_num(root, other->columns[k]),
                                    *b = cat_column_num(t, u->columns[k]);
            same += a && b && strcmp(a->name, b->name) == 0;
        }
        if (same == u->ncolumns)
            return true;
    }
    return false;
}

bool constraint_checks_derive(struct constraint_checks *out, const struct map *map,
                              struct error *err)
{
    *out = (struct constraint_checks){0};
    if (!derive_foreign_keys(out, map, err)) {
        constraint_checks_release(out);
        return false;
    }
    for (size_t i = 0; i < map->target->ndeferrable; i++) {
        const struct cat_unique *u = &map->target->deferrable[i];
        const struct cat_table *t = catalog_table_oid(map->target, u->table);
        struct constraint_check *check;
        if (!t || !known_columns(t, u->columns, u->ncolumns)) {
            event_warn("deferrable constraint \"%s\" is over an expression: it isn't checked",
                       u->name);
            continue;
        }
        if (is_partition_copy(map, u, t) || unique_is_image(map, u))
            continue;
        check = VEC_ADD(out->items, out->n, out->cap);
        check->unique = u;
        check->table = t;
        check->sql = duplicates_sql(t, u);
    }
    return true;
}

void constraint_checks_release(struct constraint_checks *c)
{
    for (size_t i = 0; i < c->n; i++) {
        struct constraint_check *check = &c->items[i];
        for (size_t k = 0; check->child_equals && k < check->fkey->ncolumns; k++) {
            free(check->child_equals[k]);
            free(check->parent_equals[k]);
        }
        free(check->child_equals);
        free(check->parent_equals);
        free(check->conflict);
        free(check->sql);
        free(check->violation);
    }
    free(c->items);
    *c = (struct constraint_checks){0};
}
