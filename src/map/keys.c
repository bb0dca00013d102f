/* keys.c - by what replay finds the row of the target that a row of the source became. */
#include "derive.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static int source_index(const struct map_table *mt, int attnum)
{
    for (size_t i = 0; i < mt->nsource; i++)
        if (mt->source_columns[i]->attnum == attnum)
            return (int) i;
    return -1;
}

/* The effective identity; under REPLICA IDENTITY FULL the primary key serves as well, since all
 * columns are sent. */
static bool derive_source_key(struct map_table *mt, struct link *link)
{
    const struct cat_table *source = mt->source;
    const int *attnums = source->key;
    size_t n = source->nkey;
    if (n == 0 && source->replident == 'f' && !source->pk_deferrable) {
        attnums = source->pk;
        n = source->npk;
    }
    mt->source_key = xcalloc(n + 1, sizeof *mt->source_key);
    for (size_t k = 0; k < n; k++) {
        int i = source_index(mt, attnums[k]);
        if (i < 0) {
            const struct cat_column *column = cat_column_num(source, attnums[k]);
            say_unresolved(
                link,
                "key column %s is generated on blue, so its values are not in the log: give the "
                "table REPLICA IDENTITY FULL, or an index of plain columns as its identity",
                column ? column->sql_name : "?");
            mt->nsource_key = 0;
            return false;
        }
        mt->source_key[mt->nsource_key++] = i;
    }
    return true;
}

static bool is_source_key(const struct map_table *mt, int source)
{
    for (size_t k = 0; k < mt->nsource_key; k++)
        if (mt->source_key[k] == source)
            return true;
    return false;
}

static int column_of(const struct map_table *mt, const struct cat_column *target)
{
    for (size_t c = 0; c < mt->ncolumns; c++)
        if (mt->columns[c].target == target)
            return (int) c;
    return -1;
}

/* A DELETE brings nothing but the source's key. */
static bool computable_from_key(const struct map_table *mt, int c)
{
    if (c < 0 || mt->columns[c].volatile_value)
        return false;
    for (size_t i = 0; i < mt->columns[c].nneeds; i++)
        if (!is_source_key(mt, mt->columns[c].needs[i]))
            return false;
    return true;
}

static bool covers_source_key(const struct map_table *mt, const int *key, size_t n)
{
    for (size_t k = 0; k < mt->nsource_key; k++) {
        bool read = false;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < mt->columns[key[i]].nneeds; j++)
                read = read || mt->columns[key[i]].needs[j] == mt->source_key[k];
        if (!read)
            return false;
    }
    return true;
}

static void set_key(struct map_table *mt, const int *key, size_t n)
{
    mt->key = xcalloc(n + 1, sizeof *mt->key);
    mt->nkey = n;
    for (size_t i = 0; i < n; i++) {
        mt->key[i] = key[i];
        mt->columns[key[i]].key_index = (int) i;
    }
}

static bool key_by_rule(struct map_table *mt, struct link *link, const struct map_rule *rule,
                        const char *const *names, struct error *err)
{
    size_t n = 0;
    int *key = xcalloc(mt->ncolumns + 1, sizeof *key);
    bool ok = true, sound = true;
    for (size_t i = 0; names[i] && ok && sound; i++) {
        const struct cat_column *target = cat_column(mt->target, names[i]);
        int c = target ? column_of(mt, target) : -1;
        if (!target) {
            ok = rule_error(err, rule, "key: no column \"%s\" in %s on green", names[i],
                            mt->target->sql_name);
            rule_hint_column(err, mt->target, names[i]);
        } else if (!computable_from_key(mt, c)) {
            sound = false;
            say_unresolved(
                link,
                "key column %s is not computed from blue's key alone, which is all that a DELETE "
                "brings: give up.%s as an expression over the key's columns",
                target->sql_name, target->name);
        } else if (n < mt->ncolumns) {
            key[n++] = c;
        }
    }
    if (ok && sound && !covers_source_key(mt, key, n)) {
        sound = false;
        say_unresolved(
            link, "key = in the playbook does not tell rows apart that blue's key tells apart: "
                  "its columns must read every column of blue's key");
    }
    if (ok && sound)
        set_key(mt, key, n);
    free(key);
    return ok;
}

/* The images of the source's key; false when one is gone. */
static bool key_by_images(struct map_table *mt, const struct link *link, int *key)
{
    for (size_t k = 0; k < mt->nsource_key; k++) {
        int image = link->image[mt->source_key[k]];
        key[k] = image < 0 ? -1 : column_of(mt, &mt->target->columns[image]);
        if (!computable_from_key(mt, key[k]) || mt->columns[key[k]].nneeds == 0)
            return false;
    }
    return covers_source_key(mt, key, mt->nsource_key);
}

/* The target's primary key, when rules make all of it from the source's key. */
static bool key_by_target(struct map_table *mt, int *key)
{
    for (size_t k = 0; k < mt->target->npk; k++) {
        const struct cat_column *column = cat_column_num(mt->target, mt->target->pk[k]);
        key[k] = column ? column_of(mt, column) : -1;
        if (!computable_from_key(mt, key[k]))
            return false;
    }
    return mt->target->npk > 0 && covers_source_key(mt, key, mt->target->npk);
}

static void say_no_key(struct map_table *mt, struct link *link)
{
    struct strbuf names = {0};
    for (size_t k = 0; k < mt->nsource_key; k++)
        strbuf_addf(&names, "%s%s", k ? ", " : "", mt->source_columns[mt->source_key[k]]->sql_name);
    say_unresolved(
        link,
        "blue's key (%s) has no image on green: under [map %s.%s] name green's columns that "
        "identify a row (key = ...), each copied or given by up.COLUMN from blue's key alone",
        strbuf_cstr(&names), mt->source->schema, mt->source->name);
    strbuf_release(&names);
}

/* All columns of a unique index are among the key's. */
static bool index_within_key(const struct map_table *mt, const struct index_info *index)
{
    for (size_t i = 0; i < index->n; i++) {
        size_t k = 0;
        while (k < mt->nkey && mt->columns[mt->key[k]].target->attnum != index->columns[i])
            k++;
        if (k == mt->nkey)
            return false;
    }
    return true;
}

static void note_indexes(struct derive *d, const struct map_table *mt, struct link *link)
{
    size_t n = 0;
    bool unique = false, leading = false;
    const struct index_info *indexes = server_indexes_of(d, mt->target->oid, &n);
    for (size_t i = 0; i < n; i++) {
        unique = unique || (indexes[i].unique && index_within_key(mt, &indexes[i]));
        for (size_t k = 0; k < mt->nkey && indexes[i].n > 0; k++)
            leading = leading || mt->columns[mt->key[k]].target->attnum == indexes[i].columns[0];
    }
    if (!unique)
        say_reason(
            link, "%s",
            leading ? "no unique index on green holds the key; replay counts the rows instead"
                    : "no index on green finds rows by the key: replay reads the whole table for "
                      "each batch of changes");
}

bool derive_key(struct derive *d, struct map_table *mt, struct link *link, struct error *err)
{
    const struct map_rule *from = NULL;
    const char *const *names = rules_key(link, &from);
    if (!derive_source_key(mt, link) || mt->nsource_key == 0)
        return true;
    if (names) {
        if (!key_by_rule(mt, link, from, names, err))
            return false;
    } else {
        size_t most = mt->nsource_key > mt->target->npk ? mt->nsource_key : mt->target->npk;
        int *key = xcalloc(most + 1, sizeof *key);
        if (key_by_images(mt, link, key))
            set_key(mt, key, mt->nsource_key);
        else if (key_by_target(mt, key))
            set_key(mt, key, mt->target->npk);
        else
            say_no_key(mt, link);
        free(key);
    }
    if (mt->nkey > 0)
        note_indexes(d, mt, link);
    return true;
}
