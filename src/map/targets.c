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

static Oid *oids_of(const struct catalog *cat)
{
    Oid *oids = xcalloc(cat->nsequences + 1, sizeof *oids);
    for (size_t i = 0; i < cat->nsequences; i++)
        oids[i] = cat->sequences[i].oid;
    qsort(oids, cat->nsequences, sizeof *oids, compare_oids);
    return oids;
}

static void add_pair(struct derive *d, Oid source, Oid target)
{
    struct map_sequence *pair =
        VEC_ADD(d->map->sequences, d->map->nsequences, d->map->capsequences);
    pair->source = source;
    pair->target = target;
}

/* What was restored from it, or else what has its name. */
static void pair_by_name(struct derive *d)
{
    const struct cat_sequence **before = sequences_by_name(d->before);
    const struct cat_sequence **green = sequences_by_name(d->green);
    for (size_t i = 0; i < d->blue->nsequences; i++) {
        const struct cat_sequence *s = &d->blue->sequences[i];
        const struct cat_sequence *was = find_sequence(before, d->before->nsequences, s);
        const struct cat_sequence *now = find_sequence(green, d->green->nsequences, s);
        if (was && catalog_sequence_oid(d->green, was->oid))
            now = was;
        add_pair(d, s->oid, now ? now->oid : 0);
    }
    free(before);
    free(green);
}

/* The sequences of one column of a table: where it is partitioned, those that its own default names
 * and, apart, those of the partition. */
struct feeds {
    const struct cat_feed *root, *leaf;
    size_t nroot, nleaf;
};

static struct feeds feeds_of(const struct catalog *cat, const struct cat_table *root,
                             const struct cat_table *leaf, const char *column)
{
    struct feeds f = {0};
    const struct cat_column *c = cat_column(root, column);
    if (c)
        f.root = catalog_feeds(cat, root->oid, c->attnum, &f.nroot);
    c = leaf && leaf != root ? cat_column(leaf, column) : NULL;
    if (c)
        f.leaf = catalog_feeds(cat, leaf->oid, c->attnum, &f.nleaf);
    return f;
}

/* The column of blue whose very values the target gets, by a rule that is a name or a cast, too;
 * NULL: they are computed. */
static const struct cat_column *values_from(const struct map_table *mt, const struct map_column *c)
{
    if (!c->rule)
        return c->source;
    size_t name = strspn(c->expr, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789_$.:\"\n");
    return c->nneeds == 1 && !c->expr[name] ? mt->source_columns[c->needs[0]] : NULL;
}

static void pair_feeds(struct derive *d, const struct cat_feed *from, size_t nfrom,
                       const struct cat_feed *to, size_t nto)
{
    for (size_t i = 0; i < nfrom; i++)
        for (size_t k = 0; k < nto; k++)
            add_pair(d, from[i].sequence, to[k].sequence);
}

/* A table that was rebuilt, or a serial that became an identity, has another sequence, of any
 * name: it goes on where the one behind blue's column stopped. */
static void pair_by_column(struct derive *d, const struct map_table *mt, const struct map_column *c)
{
    const struct cat_column *source = values_from(mt, c);
    struct feeds to = feeds_of(d->green, mt->target, mt->target_leaf, c->target->name);
    if (!source || (to.nroot == 0 && to.nleaf == 0))
        return;
    struct feeds from = feeds_of(d->blue, root_of(d->blue, mt->source), mt->source, source->name);
    if (from.nroot)
        pair_feeds(d, from.root, from.nroot, to.root, to.nroot);
    else
        pair_feeds(d, from.leaf, from.nleaf, to.root, to.nroot);
    if (from.nleaf)
        pair_feeds(d, from.leaf, from.nleaf, to.leaf, to.nleaf);
    else
        pair_feeds(d, from.root, from.nroot, to.leaf, to.nleaf);
}

static int compare_pairs(const void *a, const void *b)
{
    const struct map_sequence *x = a, *y = b;
    if (x->source != y->source)
        return x->source < y->source ? -1 : 1;
    return x->target < y->target ? -1 : x->target > y->target;
}

/* Each pair once; "gone on green" only where nothing takes over. */
static void tidy_pairs(struct map *map)
{
    struct map_sequence *list = map->sequences;
    size_t kept = 0;
    if (map->nsequences)
        qsort(list, map->nsequences, sizeof *list, compare_pairs);
    for (size_t i = 0; i < map->nsequences; i++) {
        bool last = i + 1 == map->nsequences || list[i + 1].source != list[i].source;
        if (list[i].target == 0 ? last : !kept || compare_pairs(&list[kept - 1], &list[i]) != 0)
            list[kept++] = list[i];
    }
    map->nsequences = kept;
}

/* What the notes about sequences that nothing moves go by. */
struct uncarried {
    Oid *before, *targets; /* sorted: restored from blue, and paired */
    bool *told;            /* per green->feeds: a partitioned table has one for all its leaves */
};

static void note_uncarried(struct derive *d, struct uncarried *u, const struct cat_feed *feeds,
                           size_t n, const struct map_column *c, struct link *link)
{
    for (size_t i = 0; i < n; i++) {
        Oid oid = feeds[i].sequence;
        const struct cat_sequence *s = catalog_sequence_oid(d->green, oid);
        bool *told = &u->told[&feeds[i] - d->green->feeds];
        if (*told || !s ||
            bsearch(&oid, u->before, d->before->nsequences, sizeof oid, compare_oids) ||
            bsearch(&oid, u->targets, d->map->nsequences, sizeof oid, compare_oids))
            continue;
        *told = true;
        if (c->rule)
            say_reason(
                link,
                "sequence %s feeds %s on green, but a rule makes its values: it is not carried",
                s->sql_name, c->target->sql_name);
        else
            say_reason(link, "sequence %s feeds %s on green and nothing on blue: it is not carried",
                       s->sql_name, c->target->sql_name);
    }
}

static void note_all_uncarried(struct derive *d)
{
    struct map *map = d->map;
    struct uncarried u = {.before = oids_of(d->before),
                          .targets = xcalloc(map->nsequences + 1, sizeof(Oid)),
                          .told = xcalloc(d->green->nfeeds + 1, sizeof(bool))};
    for (size_t i = 0; i < map->nsequences; i++)
        u.targets[i] = map->sequences[i].target;
    qsort(u.targets, map->nsequences, sizeof *u.targets, compare_oids);
    for (size_t i = 0; i < map->ntables; i++) {
        const struct map_table *mt = &map->tables[i];
        for (size_t c = 0; mt->target && c < mt->ncolumns; c++) {
            const struct map_column *column = &mt->columns[c];
            struct feeds f = feeds_of(d->green, mt->target, mt->target_leaf, column->target->name);
            note_uncarried(d, &u, f.root, f.nroot, column, &d->links[i]);
            note_uncarried(d, &u, f.leaf, f.nleaf, column, &d->links[i]);
        }
    }
    free(u.before);
    free(u.targets);
    free(u.told);
}

void derive_sequences(struct derive *d)
{
    pair_by_name(d);
    for (size_t i = 0; i < d->map->ntables; i++)
        for (size_t c = 0; d->map->tables[i].target && c < d->map->tables[i].ncolumns; c++)
            pair_by_column(d, &d->map->tables[i], &d->map->tables[i].columns[c]);
    tidy_pairs(d->map);
    note_all_uncarried(d);
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
