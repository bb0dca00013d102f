/* piece.c - the source rows of a table, or of a run of its pages, read once and compared block by
 * block. */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

void vpiece_init(struct vpiece *p, const struct map_table *mt)
{
    *p = (struct vpiece){.table = mt, .to = -1};
    p->column_diffs = xcalloc(compare_checks(mt) + 1, sizeof *p->column_diffs);
}

void vpiece_release(struct vpiece *p)
{
    free(p->column_diffs);
    free(p->suggestion);
    strbuf_release(&p->examples);
    *p = (struct vpiece){0};
}

struct scanning {
    struct vsession *s;
    const struct vscan *scan;
    struct vpiece *p;
    bool keyless;
    bool excepts; /* some keys of this table are left out */
    bool suggested;
    struct vblock block;
    const char **key;
    int *key_lens;
};

static bool is_excepted(struct scanning *x, const PGresult *res, int row)
{
    const struct map_table *mt = x->p->table;

    if (!x->excepts)
        return false;
    for (size_t k = 0; k < mt->nsource_key; k++) {
        x->key[k] = PQgetvalue(res, row, mt->source_key[k]);
        x->key_lens[k] = PQgetlength(res, row, mt->source_key[k]);
    }
    return touched_has(x->scan->except, mt->index, mt->nsource_key, x->key, x->key_lens);
}

static void take_rows(struct scanning *x, const PGresult *res)
{
    vblock_shape(&x->block, x->p->table->nsource, (size_t) PQntuples(res));
    for (int row = 0; row < PQntuples(res); row++) {
        if (is_excepted(x, res, row))
            x->p->excepted++;
        else
            vblock_add(&x->block, res, row, 0);
    }
    x->p->rows += PQntuples(res);
}

static bool count_diff(struct scanning *x, const struct vblock *b, const struct vdiff *d,
                       struct error *err)
{
    const struct map_table *mt = x->p->table;
    struct vpiece *p = x->p;

    p->missing += d->missing;
    p->differing += !d->missing;
    for (size_t c = 0; !d->missing && c < compare_checks(mt); c++)
        p->column_diffs[c] += mask_bit(d->mask, c);
    if (p->nexamples >= x->scan->o->examples)
        return true;
    p->nexamples++;
    return vblock_example(x->s, mt, b, d, &p->examples, err);
}

static bool compare_rows(struct scanning *x, const struct vblock *b, struct error *err)
{
    const struct map_table *mt = x->p->table;
    struct vdiffs diffs = {0};
    bool ok = vblock_compare(x->s, mt, b, &diffs, err);

    for (size_t i = 0; ok && i < diffs.n; i++) {
        if (x->scan->differs)
            x->scan->differs(x->scan->ctx, mt, b, diffs.items[i].row);
        else
            ok = count_diff(x, b, &diffs.items[i], err);
        x->p->found -= diffs.items[i].missing;
    }
    x->p->found += (int64_t) b->n;
    x->p->proved += (int64_t) (b->n - diffs.n);
    if (ok && x->p->differing && !x->suggested) {
        x->suggested = true;
        ok = suggest_rule(x->s, mt, b, &diffs, &x->p->suggestion, err);
    }
    vdiffs_release(&diffs);
    return ok;
}

static bool scan_block(struct scanning *x, const PGresult *res, struct error *err)
{
    bool ok = true;

    take_rows(x, res);
    for (size_t from = 0, n; ok && from < x->block.n; from += n) {
        struct vblock part = vblock_part(&x->block, from);
        n = part.n;
        if (x->keyless)
            ok = multiset_add_block(x->s, x->p->table, &part, &x->p->multiset, err);
        else
            ok = compare_rows(x, &part, err);
    }
    if (ok && x->scan->progress)
        ok = x->scan->progress(x->scan->ctx, x->p->table, PQntuples(res), err);
    return ok;
}

bool vpiece_scan(struct vsession *s, const struct vscan *scan, struct vpiece *p, bool keyless,
                 struct error *err)
{
    const struct map_table *mt = p->table;
    struct scanning x = {.s = s, .scan = scan, .p = p, .keyless = keyless};
    struct vcursor cursor = {0};
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    x.excepts = scan->except && !keyless && touched_count_table(scan->except, mt->index) > 0;
    x.key = xcalloc(mt->nsource_key + 1, sizeof *x.key);
    x.key_lens = xcalloc(mt->nsource_key + 1, sizeof *x.key_lens);
    compare_sql_scan(&sql, mt, p->from, p->to);
    ok = vsession_scans(s, err) &&
         vcursor_open(&cursor, s->source, "pgcutover_rows", strbuf_cstr(&sql), scan->o->block_rows,
                      err) &&
         vsession_lookups(s, err);
    vcursor_expect(&cursor, mt->source);
    while (ok && (ok = vcursor_next(&cursor, &res, err)) && res) {
        ok = scan_block(&x, res, err);
        PQclear(res);
    }
    ok = ok && vcursor_close(&cursor, err);
    vblock_release(&x.block);
    strbuf_release(&sql);
    free(x.key);
    free(x.key_lens);
    return ok || error_push(err, "comparing %s", mt->source->sql_name);
}
