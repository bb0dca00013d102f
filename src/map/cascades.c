/* cascades.c - foreign keys that green has and blue doesn't, whose actions replay's sessions don't
 * carry out. */
#include "derive.h"

#include "base/alloc.h"

#include <stdlib.h>

static bool acts(char action)
{
    return action == 'c' || action == 'n' || action == 'd';
}

/* A column of a blue table as an attnum of the green one; 0 when it is gone. */
static int follow_attnum(const struct cat_table *blue, const struct cat_table *before,
                         const struct cat_table *green, int attnum)
{
    const struct cat_column *c = cat_column_num(blue, attnum), *was;
    if (!c)
        return 0;
    was = before && before->oid == green->oid ? cat_column(before, c->name) : NULL;
    c = was ? cat_column_num(green, was->attnum) : cat_column(green, c->name);
    return c ? c->attnum : 0;
}

/* A key's columns are pairs, in any order. */
static bool same_columns(const struct cat_foreign_key *green, const int *columns,
                         const int *ref_columns, size_t n)
{
    if (n != green->ncolumns)
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < n &&
               (green->columns[k] != columns[i] || green->ref_columns[k] != ref_columns[i]))
            k++;
        if (k == n)
            return false;
    }
    return true;
}

/* One foreign key of blue, and where its two tables are on green. */
struct known_key {
    const struct cat_foreign_key *key;
    const struct cat_table *from, *from_before, *from_now;
    const struct cat_table *to, *to_before, *to_now;
};

static struct known_key *known_keys(struct derive *d)
{
    struct known_key *list = xcalloc(d->blue->nfkeys + 1, sizeof *list);
    for (size_t i = 0; i < d->blue->nfkeys; i++) {
        struct known_key *k = &list[i];
        k->key = &d->blue->fkeys[i];
        k->from = catalog_table_oid(d->blue, k->key->table);
        k->to = catalog_table_oid(d->blue, k->key->ref_table);
        if (k->from && k->to) {
            k->from_now = green_of(d, k->from, &k->from_before);
            k->to_now = green_of(d, k->to, &k->to_before);
        }
    }
    return list;
}

/* An action that was added to an old key counts as new: blue did not carry it out. */
static bool same_key(const struct known_key *blue, const struct cat_foreign_key *green)
{
    const struct cat_foreign_key *f = blue->key;
    if (!blue->from_now || !blue->to_now || blue->from_now->oid != green->table ||
        blue->to_now->oid != green->ref_table || f->ncolumns != green->ncolumns ||
        f->on_delete != green->on_delete || f->on_update != green->on_update)
        return false;
    int *columns = xcalloc(f->ncolumns + 1, sizeof *columns);
    int *ref_columns = xcalloc(f->ncolumns + 1, sizeof *ref_columns);
    for (size_t k = 0; k < f->ncolumns; k++) {
        columns[k] = follow_attnum(blue->from, blue->from_before, blue->from_now, f->columns[k]);
        ref_columns[k] = follow_attnum(blue->to, blue->to_before, blue->to_now, f->ref_columns[k]);
    }
    bool same = same_columns(green, columns, ref_columns, f->ncolumns);
    free(columns);
    free(ref_columns);
    return same;
}

static bool blue_has(struct derive *d, const struct known_key *known,
                     const struct cat_foreign_key *green)
{
    for (size_t i = 0; i < d->blue->nfkeys; i++)
        if (same_key(&known[i], green))
            return true;
    return false;
}

static const char *action_name(const struct cat_foreign_key *f)
{
    char action = acts(f->on_delete) ? f->on_delete : f->on_update;
    if (acts(f->on_delete))
        return action == 'c'   ? "ON DELETE CASCADE"
               : action == 'n' ? "ON DELETE SET NULL"
                               : "ON DELETE SET DEFAULT";
    return action == 'c'   ? "ON UPDATE CASCADE"
           : action == 'n' ? "ON UPDATE SET NULL"
                           : "ON UPDATE SET DEFAULT";
}

void derive_cascades(struct derive *d)
{
    struct known_key *known = known_keys(d);
    for (size_t i = 0; i < d->green->nfkeys; i++) {
        const struct cat_foreign_key *f = &d->green->fkeys[i];
        if (f->inherited || (!acts(f->on_delete) && !acts(f->on_update)) || blue_has(d, known, f))
            continue;
        for (size_t k = 0; k < d->map->ntables; k++) {
            const struct map_table *mt = &d->map->tables[k];
            if (mt->target && !mt->skipped &&
                (mt->target->oid == f->table ||
                 (mt->target_leaf && mt->target_leaf->oid == f->table)))
                say_reason(
                    &d->links[k],
                    "new foreign key \"%s\" %s: replay does not carry it out, it checks the rows "
                    "and stops where they violate it",
                    f->name, action_name(f));
        }
    }
    free(known);
}
