/*
 * targets.c - which table of green takes a table of blue.
 *
 * Blue's table is found by name in green as it was before the migrations, and followed by its oid
 * to green as it is now: renames and SET SCHEMA keep it. Only where the oid is gone do names count
 * again, and that is said.
 */
#include "derive.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static int compare_names(const void *a, const void *b)
{
    const struct cat_table *x = *(const struct cat_table *const *) a;
    const struct cat_table *y = *(const struct cat_table *const *) b;
    int order = strcmp(x->schema, y->schema);
    return order ? order : strcmp(x->name, y->name);
}

void name_index_build(struct name_index *index, const struct catalog *cat)
{
    index->tables = xcalloc(cat->ntables + 1, sizeof *index->tables);
    index->n = cat->ntables;
    for (size_t i = 0; i < cat->ntables; i++)
        index->tables[i] = &cat->tables[i];
    qsort(index->tables, index->n, sizeof *index->tables, compare_names);
}

const struct cat_table *name_index_find(const struct name_index *index, const char *schema,
                                        const char *name)
{
    size_t low = 0, high = index->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct cat_table *t = index->tables[mid];
        int order = strcmp(schema, t->schema);
        if (order == 0)
            order = strcmp(name, t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

const struct cat_table *root_of(const struct catalog *cat, const struct cat_table *t)
{
    if (!t->is_partition || t->root == 0 || t->root == t->oid)
        return t;
    const struct cat_table *root = catalog_table_oid(cat, t->root);
    return root ? root : t;
}

static const struct cat_table *named_on_green(const struct derive *d, const struct cat_table *t)
{
    const struct cat_table *found = name_index_find(&d->green_names, t->schema, t->name);
    return found && found->relkind != 'f' ? found : NULL;
}

/* The table of green that has the oid of blue's table as it was restored. */
static const struct cat_table *followed(const struct derive *d, const struct cat_table *blue,
                                        const struct cat_table **before)
{
    *before = name_index_find(&d->before_names, blue->schema, blue->name);
    return *before ? catalog_table_oid(d->green, (*before)->oid) : NULL;
}

const struct cat_table *green_of(const struct derive *d, const struct cat_table *blue,
                                 const struct cat_table **before)
{
    const struct cat_table *t = followed(d, blue, before);
    return t ? t : named_on_green(d, blue);
}

static void set_target(struct derive *d, struct map_table *mt, const struct cat_table *table)
{
    mt->target = root_of(d->green, table);
    mt->target_leaf = table->relkind == 'r' ? table : NULL;
    mt->only = mt->target->relkind == 'r';
}

/* The playbook names the target: attnums help where it is the same table, or its partitioned one,
 * under any name. */
static void target_by_rule(struct derive *d, struct map_table *mt, struct link *link,
                           const struct cat_table *named)
{
    const struct cat_table *before = NULL;
    const struct cat_table *leaf = followed(d, mt->source, &before);
    set_target(d, mt, named);
    link->before = before;
    if (leaf && root_of(d->green, leaf) == mt->target) {
        link->after = leaf;
        set_target(d, mt, leaf);
        return;
    }
    const struct cat_table *root = root_of(d->blue, mt->source);
    if (root != mt->source) {
        const struct cat_table *root_before = NULL;
        if (followed(d, root, &root_before) == mt->target) {
            link->before = root_before;
            link->after = mt->target;
            return;
        }
    }
    link->after = mt->target;
    link->by_name = true;
    say_reason(link, "sent to %s by the playbook; columns matched by name", mt->target->sql_name);
}

/* A partition that is gone while its partitioned table is there in some form. */
static void target_of_lost_partition(struct derive *d, struct map_table *mt, struct link *link)
{
    const struct cat_table *before = NULL, *root = root_of(d->blue, mt->source);
    const struct cat_table *kept = followed(d, root, &before);
    if (kept) {
        say_unresolved(
            link,
            "the partition is gone from %s: if its rows were dropped, say skip = yes under "
            "[map %s.%s]; if other partitions took them, say table = %s.%s there",
            kept->sql_name, mt->source->schema, mt->source->name, kept->schema, kept->name);
        return;
    }
    const struct cat_table *anew = named_on_green(d, root);
    if (!anew) {
        mt->skipped = true;
        say_reason(link, "dropped by the migrations, with %s", root->sql_name);
        return;
    }
    set_target(d, mt, anew);
    mt->target_leaf = NULL;
    link->after = mt->target;
    link->by_name = true;
    say_reason(link, "%s was made anew with other partitions; columns matched by name",
               mt->target->sql_name);
}

static void derived_target(struct derive *d, struct map_table *mt, struct link *link)
{
    const struct cat_table *after = followed(d, mt->source, &link->before);
    if (!link->before) {
        say_unresolved(
            link,
            "green had no table of this name before the migrations: the clone is older than "
            "the table; clone again, or say skip = yes under [map %s.%s]",
            mt->source->schema, mt->source->name);
        return;
    }
    if (after) {
        link->after = after;
        set_target(d, mt, after);
        if (mt->target == after && strcmp(mt->target->schema, mt->source->schema) == 0 &&
            strcmp(mt->target->name, mt->source->name) != 0)
            say_reason(link, "renamed to %s", mt->target->sql_name);
        else if (mt->target == after && strcmp(mt->target->schema, mt->source->schema) != 0)
            say_reason(link, "moved to %s", mt->target->sql_name);
        return;
    }
    after = named_on_green(d, mt->source);
    if (after) {
        link->after = after;
        link->by_name = true;
        set_target(d, mt, after);
        say_reason(link, "rebuilt under its name; columns matched by name");
        return;
    }
    if (root_of(d->blue, mt->source) != mt->source) {
        target_of_lost_partition(d, mt, link);
        return;
    }
    mt->skipped = true;
    say_reason(link, "dropped by the migrations");
}

static bool is_config_table(const struct derive *d, const struct cat_table *blue)
{
    const struct cat_table *before = NULL, *now = green_of(d, blue, &before);
    return now && oid_texts_find(&d->config_tables, now->oid);
}

bool derive_target(struct derive *d, struct map_table *mt, struct link *link, struct error *err)
{
    const struct map_rule *from = NULL;
    if (mt->source->persistence == 'u') {
        mt->skipped = true;
        say_reason(link, "unlogged: its changes are not in the log");
        link->after = followed(d, mt->source, &link->before);
        return true;
    }
    rules_find(d, link, mt->source);
    if (link->skip_rule) {
        mt->skipped = true;
        say_reason(link, "skip = yes in the playbook");
        link->after = green_of(d, mt->source, &link->before);
        return true;
    }
    if (mt->source->in_extension && link->nrules == 0 && !is_config_table(d, mt->source)) {
        mt->skipped = true;
        say_reason(link, "belongs to an extension, which keeps it on each side itself");
        link->after = green_of(d, mt->source, &link->before);
        return true;
    }
    const char *text = rules_table(link, &from);
    if (text) {
        const struct cat_table *named = NULL;
        if (!rules_find_target(d, from, text, mt->source, &named, err))
            return false;
        target_by_rule(d, mt, link, named);
    } else {
        derived_target(d, mt, link);
    }
    if (!mt->target)
        return true;
    if (mt->target->relkind == 'f') {
        say_unresolved(link, "%s is a foreign table: say table = under [map %s.%s], or skip = yes",
                       mt->target->sql_name, mt->source->schema, mt->source->name);
        mt->target = NULL;
        return true;
    }
    if (mt->target->relkind == 'p' && root_of(d->blue, mt->source) == mt->source)
        say_reason(link, "rows go to the partitioned table %s", mt->target->sql_name);
    for (size_t i = 0; i < link->nrules; i++)
        d->tried[link->rules[i] - d->rules] = mt->target;
    return true;
}

static int compare_sequences(const void *a, const void *b)
{
    const struct cat_sequence *x = *(const struct cat_sequence *const *) a;
    const struct cat_sequence *y = *(const struct cat_sequence *const *) b;
    int order = strcmp(x->schema, y->schema);
    return order ? order : strcmp(x->name, y->name);
}

static const struct cat_sequence **sequences_by_name(const struct catalog *cat)
{
    const struct cat_sequence **list = xcalloc(cat->nsequences + 1, sizeof(void *));
    for (size_t i = 0; i < cat->nsequences; i++)
        list[i] = &cat->sequences[i];
    qsort(list, cat->nsequences, sizeof(void *), compare_sequences);
    return list;
}

static const struct cat_sequence *find_sequence(const struct cat_sequence **list, size_t n,
                                                const struct cat_sequence *name)
{
    const struct cat_sequence **found = bsearch(&name, list, n, sizeof(void *), compare_sequences);
    return found ? *found : NULL;
}

static int compare_oids(const void *a, const void *b)
{
    Oid x = *(const Oid *) a, y = *(const Oid *) b;
    return x < y ? -1 : x > y;
}

void derive_sequences(struct derive *d)
{
    const struct cat_sequence **before = sequences_by_name(d->before);
    const struct cat_sequence **green = sequences_by_name(d->green);
    Oid *oids = xcalloc(d->green->nsequences + 1, sizeof *oids);
    for (size_t i = 0; i < d->green->nsequences; i++)
        oids[i] = d->green->sequences[i].oid;
    qsort(oids, d->green->nsequences, sizeof *oids, compare_oids);
    for (size_t i = 0; i < d->blue->nsequences; i++) {
        const struct cat_sequence *s = &d->blue->sequences[i];
        const struct cat_sequence *was = find_sequence(before, d->before->nsequences, s);
        const struct cat_sequence *now = find_sequence(green, d->green->nsequences, s);
        struct map_sequence *pair =
            VEC_ADD(d->map->sequences, d->map->nsequences, d->map->capsequences);
        pair->source = s->oid;
        if (was && bsearch(&was->oid, oids, d->green->nsequences, sizeof *oids, compare_oids))
            pair->target = was->oid;
        else if (now)
            pair->target = now->oid;
    }
    free(before);
    free(green);
    free(oids);
}

static int compare_pointers(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const void *const *) a, y = (uintptr_t) * (const void *const *) b;
    return x < y ? -1 : x > y;
}

void derive_new_tables(struct derive *d)
{
    size_t n = 0;
    const struct cat_table **fed = xcalloc(d->map->ntables * 2 + 1, sizeof *fed);
    for (size_t i = 0; i < d->map->ntables; i++) {
        if (d->map->tables[i].target)
            fed[n++] = d->map->tables[i].target;
        if (d->links[i].after) /* skipped ones: not new, for all that */
            fed[n++] = root_of(d->green, d->links[i].after);
    }
    qsort(fed, n, sizeof *fed, compare_pointers);
    for (size_t i = 0; i < d->green->ntables; i++) {
        const struct cat_table *t = &d->green->tables[i];
        if (t->relkind == 'f' || t->is_partition || strcmp(t->schema, "pgcutover") == 0 ||
            bsearch(&t, fed, n, sizeof *fed, compare_pointers))
            continue;
        *VEC_ADD(d->map->new_tables, d->map->nnew_tables, d->map->capnew_tables) = t;
    }
    free(fed);
}
