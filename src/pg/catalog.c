/* catalog.c - the catalog as a value: finding things in it, letting it go. Reading is in
 * catalog_load.c. */
#include "pg/catalog.h"

#include <stdlib.h>
#include <string.h>

static void release_table(struct cat_table *t)
{
    for (size_t i = 0; i < t->ncolumns; i++) {
        struct cat_column *c = &t->columns[i];
        free(c->name);
        free(c->sql_name);
        free(c->type_sql);
        free(c->type_full);
        free(c->default_sql);
    }
    for (size_t i = 0; t->unique_indexes && t->unique_indexes[i]; i++)
        free(t->unique_indexes[i]);
    free(t->unique_indexes);
    free(t->columns);
    free(t->schema);
    free(t->name);
    free(t->sql_name);
    free(t->sql_schema);
    free(t->replident_index);
    free(t->pk);
    free(t->key);
}

void catalog_release(struct catalog *cat)
{
    for (size_t i = 0; i < cat->ntables; i++)
        release_table(&cat->tables[i]);
    for (size_t i = 0; i < cat->nsequences; i++) {
        free(cat->sequences[i].schema);
        free(cat->sequences[i].name);
        free(cat->sequences[i].sql_name);
    }
    for (size_t i = 0; i < cat->nfkeys; i++) {
        free(cat->fkeys[i].name);
        free(cat->fkeys[i].columns);
        free(cat->fkeys[i].ref_columns);
    }
    for (size_t i = 0; i < cat->ndeferrable; i++) {
        free(cat->deferrable[i].name);
        free(cat->deferrable[i].columns);
    }
    free(cat->tables);
    free(cat->sequences);
    free(cat->feeds);
    free(cat->fkeys);
    free(cat->deferrable);
    memset(cat, 0, sizeof *cat);
}

const struct cat_table *catalog_table(const struct catalog *cat, const char *schema,
                                      const char *name)
{
    for (size_t i = 0; i < cat->ntables; i++)
        if (strcmp(cat->tables[i].name, name) == 0 && strcmp(cat->tables[i].schema, schema) == 0)
            return &cat->tables[i];
    return NULL;
}

/* tables are in order of their oids */
const struct cat_table *catalog_table_oid(const struct catalog *cat, Oid oid)
{
    size_t low = 0, high = cat->ntables;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (cat->tables[mid].oid < oid)
            low = mid + 1;
        else
            high = mid;
    }
    return low < cat->ntables && cat->tables[low].oid == oid ? &cat->tables[low] : NULL;
}

const struct cat_sequence *catalog_sequence(const struct catalog *cat, const char *schema,
                                            const char *name)
{
    for (size_t i = 0; i < cat->nsequences; i++)
        if (strcmp(cat->sequences[i].name, name) == 0 &&
            strcmp(cat->sequences[i].schema, schema) == 0)
            return &cat->sequences[i];
    return NULL;
}

/* in order of their oids, as the tables are */
const struct cat_sequence *catalog_sequence_oid(const struct catalog *cat, Oid oid)
{
    size_t low = 0, high = cat->nsequences;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (cat->sequences[mid].oid < oid)
            low = mid + 1;
        else
            high = mid;
    }
    return low < cat->nsequences && cat->sequences[low].oid == oid ? &cat->sequences[low] : NULL;
}

const struct cat_feed *catalog_feeds(const struct catalog *cat, Oid table, int attnum, size_t *n)
{
    size_t low = 0, high = cat->nfeeds;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct cat_feed *f = &cat->feeds[mid];
        if (f->table < table || (f->table == table && f->attnum < attnum))
            low = mid + 1;
        else
            high = mid;
    }
    for (high = low; high < cat->nfeeds && cat->feeds[high].table == table &&
                     cat->feeds[high].attnum == attnum;)
        high++;
    *n = high - low;
    return *n ? &cat->feeds[low] : NULL;
}

const struct cat_column *cat_column(const struct cat_table *t, const char *name)
{
    for (size_t i = 0; i < t->ncolumns; i++)
        if (strcmp(t->columns[i].name, name) == 0)
            return &t->columns[i];
    return NULL;
}

const struct cat_column *cat_column_num(const struct cat_table *t, int attnum)
{
    for (size_t i = 0; i < t->ncolumns; i++)
        if (t->columns[i].attnum == attnum)
            return &t->columns[i];
    return NULL;
}
