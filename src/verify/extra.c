/* extra.c - target rows that no source row reached. Counts say whether there are any, keys say
 * which. */
#include "private.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOKUP_ROWS 5000

/* A physical row: a row that moved between leaves is touched in both, and must be counted once. */
struct place {
    Oid table;
    unsigned block, offset;
};
struct places {
    struct place *items;
    size_t n, cap;
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->table != y->table)
        return x->table < y->table ? -1 : 1;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int64_t distinct_places(struct places *p)
{
    int64_t n = 0;

    if (p->n)
        qsort(p->items, p->n, sizeof *p->items, by_place);
    for (size_t i = 0; i < p->n; i++)
        n += i == 0 || by_place(&p->items[i - 1], &p->items[i]) != 0;
    return n;
}

static bool find_places(struct vsession *s, const struct map_table *mt, const struct vblock *keys,
                        struct places *found, struct error *err)
{
    struct vblock b = {0};
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    vblock_key_columns(&b, mt, keys);
    compare_sql_present(&sql, mt);
    ok = vsession_bound(s, s->target, strbuf_cstr(&sql), &b, &res, err);
    for (int row = 0; ok && row < PQntuples(res); row++) {
        struct place *p = VEC_ADD(found->items, found->n, found->cap);
        p->table = (Oid) result_int(res, row, 1);
        if (sscanf(PQgetvalue(res, row, 2), "(%u,%u)", &p->block, &p->offset) != 2)
            ok = error_set(err, ERR_PROTOCOL, "a ctid reads \"%s\"", PQgetvalue(res, row, 2));
    }
    PQclear(res);
    strbuf_release(&sql);
    vblock_release(&b);
    return ok;
}

/* The target rows of all keys that were left out, those that the source has no more included. */
static bool places_of_excepted(struct vsession *s, struct touched *except,
                               const struct map_table *mt, struct places *found, struct error *err)
{
    struct touched_batch batch = {0};
    struct vblock keys = {0};
    bool ok = true;

    touched_copy(except, mt->index, &batch);
    for (size_t from = 0; ok && from < batch.n; from += LOOKUP_ROWS) {
        vblock_shape(&keys, batch.nkey, LOOKUP_ROWS);
        for (size_t i = from; i < batch.n && i < from + LOOKUP_ROWS; i++)
            vblock_add_texts(&keys, batch.values + i * batch.nkey, batch.lens + i * batch.nkey);
        ok = find_places(s, mt, &keys, found, err);
    }
    touched_batch_release(&batch);
    vblock_release(&keys);
    return ok;
}

bool vgroup_count(struct vsession *s, struct touched *except, const struct vgroup *g, int64_t *rows,
                  int64_t *extra, struct error *err)
{
    const struct map_table *first = &s->map->tables[g->tables[0]];
    struct strbuf sql = {0};
    struct places excepted = {0};
    PGresult *res = NULL;
    bool ok;

    strbuf_addstr(&sql, "SELECT pg_catalog.count(*) FROM ");
    compare_sql_target(&sql, first, "t");
    ok = vsession_scans(s, err) && pg_query(s->target, &res, 1, strbuf_cstr(&sql), 0, NULL, err);
    *rows = ok ? result_int(res, 0, 0) : 0;
    ok = ok && vsession_lookups(s, err);
    for (size_t i = 0; ok && except && i < g->ntables; i++)
        ok = places_of_excepted(s, except, &s->map->tables[g->tables[i]], &excepted, err);
    *extra = *rows - g->found - distinct_places(&excepted);
    free(excepted.items);
    PQclear(res);
    strbuf_release(&sql);
    return ok;
}

bool vgroup_key_is_plain(const struct map *map, const struct vgroup *g)
{
    const struct map_table *first = &map->tables[g->tables[0]];

    for (size_t i = 0; i < g->ntables; i++) {
        const struct map_table *mt = &map->tables[g->tables[i]];
        if (!compare_key_is_plain(mt) || mt->nkey != first->nkey)
            return false;
        for (size_t k = 0; k < mt->nkey; k++)
            if (mt->columns[mt->key[k]].target->attnum !=
                first->columns[first->key[k]].target->attnum)
                return false;
    }
    return true;
}

static bool source_relation_seen(const struct map *map, const struct vgroup *g, size_t i)
{
    Oid root = map->tables[g->tables[i]].source->root;

    for (size_t j = 0; j < i; j++)
        if (map->tables[g->tables[j]].source->root == root)
            return true;
    return false;
}

/* keys becomes those of its rows that relation i of the group doesn't have, as the source writes
 * them; they live in *res. A key that can't be a value of the source's type ends the search: *odd.
 */
static bool keep_unknown(struct vsession *s, const struct map_table *mt, struct vblock *keys,
                         PGresult **res, bool *odd, struct error *err)
{
    struct strbuf sql = {0};
    PGresult *unknown = NULL;
    bool ok;

    compare_sql_unknown(&sql, s->map, mt);
    if (!pg_exec(s->source, "SAVEPOINT pgcutover_keys", err)) {
        strbuf_release(&sql);
        return false;
    }
    ok = vsession_bound(s, s->source, strbuf_cstr(&sql), keys, &unknown, err);
    strbuf_release(&sql);
    if (!ok && strncmp(err->sqlstate, "22", 2) == 0) {
        *odd = true;
        error_clear(err);
        return pg_exec(s->source, "ROLLBACK TO SAVEPOINT pgcutover_keys", err);
    }
    if (!ok || !pg_exec(s->source, "RELEASE SAVEPOINT pgcutover_keys", err)) {
        PQclear(unknown);
        return false;
    }
    keys->n = 0;
    for (int row = 0; row < PQntuples(unknown); row++)
        vblock_add(keys, unknown, row, 1);
    PQclear(*res);
    *res = unknown;
    return true;
}

static bool is_excepted(struct touched *except, const struct map *map, const struct vgroup *g,
                        const struct vblock *keys, size_t row)
{
    size_t nkey = keys->ncols;
    const char **values = xcalloc(nkey + 1, sizeof *values);
    int *lens = xcalloc(nkey + 1, sizeof *lens);
    bool found = false;

    for (size_t k = 0; k < nkey; k++) {
        values[k] = keys->values[k * keys->cap + row];
        lens[k] = keys->lens[k * keys->cap + row];
    }
    for (size_t i = 0; except && !found && i < g->ntables; i++)
        found = touched_has(except, map->tables[g->tables[i]].index, nkey, values, lens);
    free(values);
    free(lens);
    return found;
}

struct extras {
    const struct vgroup *g;
    struct touched *except;
    extra_fn *fn;
    void *ctx;
    bool over;
};

static bool extras_in_block(struct vsession *s, struct extras *x, PGresult **res, struct error *err)
{
    const struct map_table *first = &s->map->tables[x->g->tables[0]];
    struct vblock keys = {0};
    bool odd = false, ok = true;

    vblock_shape(&keys, first->nkey, (size_t) PQntuples(*res));
    for (int row = 0; row < PQntuples(*res); row++)
        vblock_add(&keys, *res, row, 0);
    for (size_t i = 0; ok && !odd && keys.n && i < x->g->ntables; i++)
        if (!source_relation_seen(s->map, x->g, i))
            ok = keep_unknown(s, &s->map->tables[x->g->tables[i]], &keys, res, &odd, err);
    x->over = x->over || odd;
    for (size_t row = 0; ok && !x->over && row < keys.n; row++)
        if (!is_excepted(x->except, s->map, x->g, &keys, row) && !x->fn(x->ctx, first, &keys, row))
            x->over = true;
    vblock_release(&keys);
    return ok;
}

bool vgroup_extras(struct vsession *s, const struct verify_options *o, struct touched *except,
                   const struct vgroup *g, extra_fn *fn, void *ctx, struct error *err)
{
    struct extras x = {.g = g, .except = except, .fn = fn, .ctx = ctx};
    struct vcursor cursor = {0};
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    if (!vgroup_key_is_plain(s->map, g))
        return true;
    compare_sql_target_keys(&sql, &s->map->tables[g->tables[0]]);
    ok =
        vsession_scans(s, err) &&
        vcursor_open(&cursor, s->target, "pgcutover_keys", strbuf_cstr(&sql), o->block_rows, err) &&
        vsession_lookups(s, err);
    while (ok && !x.over && (ok = vcursor_next(&cursor, &res, err)) && res) {
        ok = extras_in_block(s, &x, &res, err);
        PQclear(res);
        res = NULL;
    }
    ok = ok && vcursor_close(&cursor, err);
    strbuf_release(&sql);
    return ok;
}
