/* group.c - a target table with every source table that feeds it: where counts must agree. */
#include "private.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

static int by_target(const void *a, const void *b)
{
    const struct map_table *x = *(const struct map_table *const *) a,
                           *y = *(const struct map_table *const *) b;

    if (x->target->oid != y->target->oid)
        return x->target->oid < y->target->oid ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

struct vgroup *vgroups_new(const struct map *map, size_t *n, int **of)
{
    const struct map_table **sorted = xcalloc(map->ntables + 1, sizeof *sorted);
    struct vgroup *groups = NULL;
    size_t nsorted = 0, cap = 0;

    *n = 0;
    *of = xcalloc(map->ntables + 1, sizeof **of);
    for (size_t i = 0; i < map->ntables; i++) {
        (*of)[i] = -1;
        if (!map->tables[i].skipped && map->tables[i].target)
            sorted[nsorted++] = &map->tables[i];
    }
    if (nsorted)
        qsort(sorted, nsorted, sizeof *sorted, by_target);
    for (size_t i = 0; i < nsorted; i++) {
        const struct map_table *mt = sorted[i];
        struct vgroup *g = *n ? &groups[*n - 1] : NULL;
        if (!g || g->target->oid != mt->target->oid) {
            g = VEC_ADD(groups, *n, cap);
            g->target = mt->target;
        }
        *VEC_ADD(g->tables, g->ntables, g->captables) = mt->index;
        g->keyless = g->keyless || mt->nkey == 0;
        (*of)[mt->index] = (int) (*n - 1);
    }
    free(sorted);
    return groups;
}

void vgroups_free(struct vgroup *groups, size_t n, int *of)
{
    for (size_t i = 0; i < n; i++)
        free(groups[i].tables);
    free(groups);
    free(of);
}

void verify_table_init(struct verify_table *vt, const struct map_table *mt)
{
    *vt = (struct verify_table){.table = mt, .target_rows = -1};
    vt->compared = !mt->skipped && mt->target;
    vt->column_diffs = xcalloc(compare_checks(mt) + 1, sizeof *vt->column_diffs);
}

void verify_table_release(struct verify_table *vt)
{
    free(vt->column_diffs);
    free(vt->examples);
    free(vt->suggestion);
    *vt = (struct verify_table){0};
}

static void append(char **text, const char *more)
{
    char *all = xstrfmt("%s%s", *text ? *text : "", more);

    free(*text);
    *text = all;
}

void verify_table_merge(struct verify_table *vt, struct vpiece *p, int64_t elapsed_us)
{
    vt->source_rows += p->rows;
    vt->proved += p->proved;
    vt->excepted += p->excepted;
    vt->missing += p->missing;
    vt->differing += p->differing;
    vt->elapsed_us += elapsed_us;
    for (size_t c = 0; c < compare_checks(vt->table); c++)
        vt->column_diffs[c] += p->column_diffs[c];
    if (p->examples.len)
        append(&vt->examples, strbuf_cstr(&p->examples));
    if (p->suggestion && !vt->suggestion) {
        vt->suggestion = p->suggestion;
        p->suggestion = NULL;
    }
}

struct extra_examples {
    struct strbuf text;
    int left;
};

static bool add_extra_example(void *ctx, const struct map_table *mt, const struct vblock *keys,
                              size_t row)
{
    struct extra_examples *x = ctx;

    strbuf_addf(&x->text, "%s has a row that %s doesn't have: ", mt->target->sql_name,
                mt->source->sql_name);
    describe_key(&x->text, mt, keys, row, true);
    strbuf_addch(&x->text, '\n');
    return --x->left > 0;
}

static bool finish_keyed(struct vsession *s, const struct vscan *scan, const struct vgroup *g,
                         struct verify_table *first, struct error *err)
{
    struct extra_examples x = {.left = scan->o->examples};
    int64_t extra = 0;
    bool ok = vgroup_count(s, scan->except, g, &first->target_rows, &extra, err);

    if (ok && extra < 0) {
        char *text = xstrfmt("%lld source rows share a row of %s with another one\n",
                             (long long) -extra, g->target->sql_name);
        first->missing -= extra;
        append(&first->examples, text);
        free(text);
    } else if (ok && extra > 0) {
        first->extra = extra;
        if (scan->o->examples > 0)
            ok = vgroup_extras(s, scan->o, scan->except, g, add_extra_example, &x, err);
        append(&first->examples, strbuf_cstr(&x.text));
    }
    strbuf_release(&x.text);
    return ok;
}

/* Too many rows to say which: the numbers alone. */
static void count_unknown(const struct vgroup *g, struct verify_table *first)
{
    int64_t more = g->source.rows - first->target_rows;

    first->missing = more > 0 ? more : 0;
    first->extra = more < 0 ? -more : 0;
    first->differing = more == 0;
    append(&first->examples,
           "the rows differ as a whole; there are too many of them, and no key, to say which\n");
}

static bool finish_keyless(struct vsession *s, const struct vscan *scan, const struct vgroup *g,
                           struct verify_table *tables, struct error *err)
{
    struct verify_table *first = &tables[g->tables[0]];
    struct multiset target = {0};
    bool known = false;

    if (!multiset_of_target(s, first->table, &target, err))
        return false;
    first->target_rows = target.rows;
    if (multiset_equal(&g->source, &target)) {
        for (size_t i = 0; i < g->ntables; i++)
            tables[g->tables[i]].proved = tables[g->tables[i]].source_rows;
        return true;
    }
    if (!multiset_explain(s, scan->o, g, tables, &known, err))
        return false;
    if (!known)
        count_unknown(g, first);
    return true;
}

bool vgroup_finish(struct vsession *s, const struct vscan *scan, struct vgroup *g,
                   struct verify_table *tables, struct error *err)
{
    struct verify_table *first = &tables[g->tables[0]];
    int64_t began = clock_us();
    bool ok = true;

    if (g->excepted) {
        for (size_t i = 0; i < g->ntables; i++) {
            struct verify_table *vt = &tables[g->tables[i]];
            vt->excepted = vt->source_rows;
            vt->proved = vt->missing = vt->extra = vt->differing = 0;
            free(vt->examples);
            vt->examples = NULL;
        }
    } else if (g->keyless) {
        ok = finish_keyless(s, scan, g, tables, err);
    } else {
        ok = finish_keyed(s, scan, g, first, err);
    }
    first->elapsed_us += clock_us() - began;
    return ok || error_push(err, "comparing %s", g->target->sql_name);
}

void vgroup_add(struct vgroup *g, const struct vpiece *p)
{
    g->found += p->found;
    g->source.rows += p->multiset.rows;
    for (int i = 0; i < 2; i++)
        g->source.sum[i] += p->multiset.sum[i];
}

bool vgroup_compare(struct vsession *s, const struct vscan *scan, struct vgroup *g,
                    struct verify_table *tables, struct error *err)
{
    bool ok = true;

    g->found = 0;
    g->source = (struct multiset){0};
    for (size_t i = 0; ok && i < g->ntables; i++) {
        struct verify_table *vt = &tables[g->tables[i]];
        struct vpiece p;
        int64_t began = clock_us();
        vpiece_init(&p, vt->table);
        ok = vpiece_scan(s, scan, &p, g->keyless, err);
        vgroup_add(g, &p);
        verify_table_merge(vt, &p, clock_us() - began);
        vpiece_release(&p);
    }
    return ok && vgroup_finish(s, scan, g, tables, err);
}
