/* derive.c - the whole of a map: every table in turn, then what concerns all of them. */
#include "derive.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static void say(struct strbuf *sb, const char *fmt, va_list ap) PRINTF(2, 0);
static void say(struct strbuf *sb, const char *fmt, va_list ap)
{
    if (sb->len)
        strbuf_addch(sb, '\n');
    strbuf_addv(sb, fmt, ap);
}

void say_reason(struct link *link, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(&link->reason, fmt, ap);
    va_end(ap);
}

void say_unresolved(struct link *link, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(&link->unresolved, fmt, ap);
    va_end(ap);
}

static void start(struct derive *d)
{
    struct map *map = d->map;
    map->source = d->blue;
    map->target = d->green;
    map->tables = xcalloc(d->blue->ntables + 1, sizeof *map->tables);
    d->links = xcalloc(d->blue->ntables + 1, sizeof *d->links);
    d->used = xcalloc(d->nrules + 1, sizeof *d->used);
    d->matched = xcalloc(d->nrules + 1, sizeof *d->matched);
    d->tried = xcalloc(d->nrules + 1, sizeof *d->tried);
    for (size_t i = 0; i < d->nrules; i++)
        d->used[i] = xcalloc(d->rules[i].nup + 1, sizeof **d->used);
    name_index_build(&d->before_names, d->before);
    name_index_build(&d->green_names, d->green);
    for (size_t i = 0; i < d->blue->ntables; i++) {
        if (d->blue->tables[i].relkind != 'r')
            continue;
        map->tables[map->ntables].index = map->ntables;
        map->tables[map->ntables++].source = &d->blue->tables[i];
    }
}

static void free_texts(struct oid_texts *texts)
{
    for (size_t i = 0; i < texts->n; i++)
        free(texts->items[i].text);
    free(texts->items);
}

static void finish(struct derive *d)
{
    for (size_t i = 0; i < d->map->ntables; i++) {
        struct link *link = &d->links[i];
        free(link->rules);
        free(link->image);
        strbuf_release(&link->reason);
        strbuf_release(&link->unresolved);
    }
    for (size_t i = 0; i < d->nrules; i++)
        free(d->used[i]);
    for (size_t i = 0; i < d->nindexes; i++)
        free(d->indexes[i].columns);
    free_texts(&d->types);
    free_texts(&d->enums);
    free_texts(&d->domain_defaults);
    free_texts(&d->config_tables);
    free_texts(&d->equals);
    free(d->indexes);
    free(d->links);
    free(d->used);
    free(d->matched);
    free(d->tried);
    free(d->before_names.tables);
    free(d->green_names.tables);
}

static bool derive_tables(struct derive *d, struct error *err)
{
    struct map *map = d->map;
    if (!server_read_types(d, err))
        return false;
    for (size_t i = 0; i < map->ntables; i++)
        if (!derive_target(d, &map->tables[i], &d->links[i], err))
            return false;
    if (!server_read_indexes(d, err))
        return false;
    for (size_t i = 0; i < map->ntables; i++) {
        struct map_table *mt = &map->tables[i];
        if (mt->target &&
            (!derive_columns(d, mt, &d->links[i], err) || !derive_key(d, mt, &d->links[i], err)))
            return error_push(err, "map of %s", mt->source->sql_name);
    }
    if (!rules_check_columns(d, err) || !server_read_operators(d, err))
        return false;
    for (size_t i = 0; i < map->ntables; i++) {
        struct map_table *mt = &map->tables[i];
        if (!mt->target)
            continue;
        derive_summary(d, mt, &d->links[i]);
        if (!mt->identical && !check_statements(d, mt, &d->links[i], err))
            return false;
    }
    return true;
}

/* Several source tables into one are no mistake as long as their keys stay apart; people should
 * know. */
static void note_shared_targets(struct derive *d)
{
    for (size_t i = 0; i < d->map->ntables; i++) {
        struct map_table *a = &d->map->tables[i];
        for (size_t k = 0; k < d->map->ntables && a->target && d->links[i].by_name; k++) {
            struct map_table *b = &d->map->tables[k];
            if (b->target != a->target ||
                root_of(d->blue, a->source) == root_of(d->blue, b->source))
                continue;
            a->shared = b->shared = true;
            say_reason(&d->links[i], "%s goes to the same table", b->source->sql_name);
        }
    }
}

bool map_derive(struct map *out, const struct catalog *blue, const struct catalog *green_before,
                const struct catalog *green, const struct map_rule *rules, size_t nrules,
                struct pg *green_pg, struct error *err)
{
    struct derive d = {.map = out,
                       .blue = blue,
                       .before = green_before,
                       .green = green,
                       .rules = rules,
                       .nrules = nrules,
                       .pg = green_pg};
    memset(out, 0, sizeof *out);
    if (!rules_check_tables(blue, rules, nrules, err) || !pg_begin(green_pg, "", err))
        return false;
    start(&d);
    bool ok = derive_tables(&d, err);
    pg_rollback(green_pg);
    if (ok) {
        derive_sequences(&d);
        derive_new_tables(&d);
        derive_cascades(&d);
        note_shared_targets(&d);
        for (size_t i = 0; i < out->ntables; i++) {
            struct link *link = &d.links[i];
            struct map_table *mt = &out->tables[i];
            mt->reason = link->reason.len ? strbuf_take(&link->reason) : NULL;
            mt->unresolved = link->unresolved.len ? strbuf_take(&link->unresolved) : NULL;
            mt->identical = mt->identical && !mt->unresolved;
        }
    }
    finish(&d);
    if (!ok)
        map_release(out);
    return ok;
}

static void release_table(struct map_table *mt)
{
    for (size_t c = 0; c < mt->ncolumns; c++) {
        free(mt->columns[c].expr);
        free(mt->columns[c].needs);
        free(mt->columns[c].equals);
    }
    for (size_t i = 0; i < mt->nrest; i++)
        free(mt->rest[i].expect);
    for (size_t i = 0; i < mt->nsource; i++)
        free(mt->source_types[i]);
    free(mt->columns);
    free(mt->rest);
    free(mt->source_types);
    free(mt->source_columns);
    free(mt->source_key);
    free(mt->key);
    free(mt->reason);
    free(mt->unresolved);
}

void map_release(struct map *m)
{
    for (size_t i = 0; i < m->ntables; i++)
        release_table(&m->tables[i]);
    free(m->tables);
    free(m->sequences);
    free(m->new_tables);
    memset(m, 0, sizeof *m);
}

size_t map_unresolved(const struct map *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->ntables; i++)
        n += m->tables[i].unresolved != NULL;
    return n;
}

const struct map_table *map_by_name(const struct map *m, const char *schema, const char *name)
{
    for (size_t i = 0; i < m->ntables; i++)
        if (strcmp(m->tables[i].source->name, name) == 0 &&
            strcmp(m->tables[i].source->schema, schema) == 0)
            return &m->tables[i];
    return NULL;
}
