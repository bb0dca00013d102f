/* tail_keys.c - a batch of keys on both sides: the source's rows are fetched by key and compared as
 * in a scan; keys that the source doesn't have must not be on the target either. */
#include "tail.h"

#include "base/alloc.h"

#include <stdlib.h>

struct lookup {
    const struct map_table *mt;
    struct vblock keys;
    PGresult *fetched;
    size_t *key_of; /* per fetched row */
    bool *found;    /* per key: the source has it */
    bool *differs;  /* the caller's */
    uint64_t *rows; /* the caller's */
    struct strbuf *examples;
    int *left;
};

static bool wants_example(const struct lookup *x)
{
    return x->examples && *x->left > 0 && (*x->left)--;
}

static bool compare_found(struct verifier *v, struct lookup *x, struct error *err)
{
    struct vblock b = {0};
    struct vdiffs diffs = {0};
    int n = PQntuples(x->fetched);
    bool ok;

    x->key_of = xcalloc((size_t) n + 1, sizeof *x->key_of);
    vblock_shape(&b, x->mt->nsource, (size_t) n);
    for (int row = 0; row < n; row++) {
        x->key_of[row] = (size_t) result_int(x->fetched, row, 0) - 1;
        x->found[x->key_of[row]] = true;
        vblock_add(&b, x->fetched, row, 1);
        for (int i = 1; i < PQnfields(x->fetched); i++)
            x->rows[x->key_of[row]] = misses_hash(
                x->rows[x->key_of[row]] + (uint64_t) PQgetisnull(x->fetched, row, i),
                PQgetvalue(x->fetched, row, i), (size_t) PQgetlength(x->fetched, row, i));
    }
    ok = vblock_compare(&v->s, x->mt, &b, &diffs, err);
    for (size_t i = 0; ok && i < diffs.n; i++) {
        x->differs[x->key_of[diffs.items[i].row]] = true;
        if (wants_example(x))
            ok = vblock_example(&v->s, x->mt, &b, &diffs.items[i], x->examples, err);
    }
    vdiffs_release(&diffs);
    vblock_release(&b);
    return ok;
}

/* A row that moved to another table of the same target (an archive that was merged back) is there
 * rightly. Keys of b that some other source of the group has are taken off; key_of follows. */
static bool drop_known_elsewhere(struct verifier *v, const struct map_table *mt, struct vblock *b,
                                 size_t *key_of, struct error *err)
{
    const struct vgroup *g = &v->groups[v->group_of[mt->index]];
    bool ok = true;

    if (g->ntables < 2 || !vgroup_key_is_plain(v->o.map, g))
        return true;
    for (size_t i = 0; ok && b->n && i < g->ntables; i++) {
        const struct map_table *other = &v->o.map->tables[g->tables[i]];
        struct strbuf sql = {0};
        struct vblock rest = {0};
        PGresult *res = NULL;
        if (other->source->root == mt->source->root)
            continue;
        compare_sql_unknown(&sql, v->o.map, other);
        ok = vsession_bound(&v->s, v->s.source, strbuf_cstr(&sql), b, &res, err);
        vblock_shape(&rest, b->ncols, b->n);
        for (int row = 0; ok && row < PQntuples(res); row++) {
            size_t old = (size_t) result_int(res, row, 0) - 1;
            key_of[rest.n] = key_of[old];
            vblock_add_row(&rest, b, old);
        }
        if (ok) {
            struct vblock swap = *b;
            *b = rest;
            rest = swap;
        }
        vblock_release(&rest);
        PQclear(res);
        strbuf_release(&sql);
    }
    return ok;
}

static bool compare_absent(struct verifier *v, struct lookup *x, struct error *err)
{
    struct vblock gone = {0}, present = {0}, bound = {0};
    size_t *key_of = xcalloc(x->keys.n + 1, sizeof *key_of),
           *present_of = xcalloc(x->keys.n + 1, sizeof *present_of);
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok = true;

    vblock_shape(&gone, x->keys.ncols, x->keys.n);
    for (size_t i = 0; i < x->keys.n; i++) {
        if (x->found[i])
            continue;
        key_of[gone.n] = i;
        vblock_add_row(&gone, &x->keys, i);
    }
    if (gone.n) {
        vblock_key_columns(&bound, x->mt, &gone);
        compare_sql_present(&sql, x->mt);
        ok = vsession_bound(&v->s, v->s.target, strbuf_cstr(&sql), &bound, &res, err);
    }
    vblock_shape(&present, x->keys.ncols, x->keys.n);
    for (int row = 0; ok && res && row < PQntuples(res) && present.n < x->keys.n; row++) {
        size_t i = (size_t) result_int(res, row, 0) - 1;
        present_of[present.n] = key_of[i];
        vblock_add_row(&present, &gone, i);
    }
    ok = ok && drop_known_elsewhere(v, x->mt, &present, present_of, err);
    for (size_t i = 0; ok && i < present.n; i++) {
        x->differs[present_of[i]] = true;
        if (!wants_example(x))
            continue;
        describe_key(x->examples, x->mt, &present, i, true);
        strbuf_addf(x->examples, ": still in %s, gone from the source\n", x->mt->target->sql_name);
    }
    PQclear(res);
    strbuf_release(&sql);
    vblock_release(&gone);
    vblock_release(&present);
    vblock_release(&bound);
    free(key_of);
    free(present_of);
    return ok;
}

bool tail_compare_keys(struct verifier *v, const struct map_table *mt,
                       const struct touched_batch *keys, bool *differs, uint64_t *rows,
                       struct strbuf *examples, int *left, struct error *err)
{
    struct lookup x = {
        .mt = mt, .differs = differs, .rows = rows, .examples = examples, .left = left};
    struct strbuf sql = {0};
    bool ok;

    vblock_shape(&x.keys, keys->nkey, keys->n);
    for (size_t i = 0; i < keys->n; i++)
        vblock_add_texts(&x.keys, keys->values + i * keys->nkey, keys->lens + i * keys->nkey);
    x.found = xcalloc(keys->n + 1, sizeof *x.found);
    compare_sql_fetch(&sql, v->o.map, mt);
    ok = vsession_lookups(&v->s, err) &&
         vsession_bound(&v->s, v->s.source, strbuf_cstr(&sql), &x.keys, &x.fetched, err) &&
         compare_found(v, &x, err) && compare_absent(v, &x, err);
    PQclear(x.fetched);
    vblock_release(&x.keys);
    free(x.key_of);
    free(x.found);
    strbuf_release(&sql);
    return ok || error_push(err, "comparing keys of %s", mt->source->sql_name);
}
