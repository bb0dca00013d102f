/*
 * tail_whole.c - tables that changed as a whole: truncated, overflowed, or without a key.
 *
 * While replay runs, a keyed one is read from end to end and what differs becomes keys, which later
 * passes compare again: a row that changes meanwhile is touched anyway. Tables without a key wait
 * for the final comparison.
 */
#include "tail.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/human.h"

#include <stdlib.h>

#define PASS_US                                                                                    \
    5000000.0 /* what one table may take of a pass: the pause waits for a pass to end              \
               */
#define COUNT_BYTES_PER_US 300.0

static double table_rows(const struct map_table *mt)
{
    const struct cat_table *t = mt->source;

    return t->reltuples > 0 ? t->reltuples : (double) t->bytes / 100;
}

static double group_rows(const struct verifier *v, const struct vgroup *g)
{
    double rows = 0;

    for (size_t i = 0; i < g->ntables; i++)
        rows += table_rows(&v->o.map->tables[g->tables[i]]);
    return rows;
}

static bool group_is_whole(struct verifier *v, const struct vgroup *g, bool clear)
{
    bool whole = false;

    for (size_t i = 0; i < g->ntables; i++)
        if (touched_whole(v->touched, g->tables[i], clear))
            whole = true;
    return whole;
}

static void set_whole(struct verifier *v, const struct vgroup *g)
{
    for (size_t i = 0; i < g->ntables; i++)
        touched_add_whole(v->touched, g->tables[i]);
}

static void touch(void *ctx, const struct map_table *mt, const struct vblock *b, size_t row,
                  bool only_key)
{
    struct verifier *v = ctx;
    const char **values = xcalloc(mt->nsource_key + 1, sizeof *values);
    int *lens = xcalloc(mt->nsource_key + 1, sizeof *lens);

    for (size_t k = 0; k < mt->nsource_key; k++) {
        size_t c = only_key ? k : (size_t) mt->source_key[k];
        values[k] = b->values[c * b->cap + row];
        lens[k] = b->lens[c * b->cap + row];
    }
    touched_add(v->touched, mt->index, mt->nsource_key, values, lens);
    free(values);
    free(lens);
}

static void touch_row(void *ctx, const struct map_table *mt, const struct vblock *b, size_t row)
{
    touch(ctx, mt, b, row, false);
}

static bool touch_extra(void *ctx, const struct map_table *mt, const struct vblock *keys,
                        size_t row)
{
    touch(ctx, mt, keys, row, true);
    return true;
}

static bool group_to_keys(struct verifier *v, const struct vgroup *g, struct error *err)
{
    struct vscan scan = {.o = &v->o, .differs = touch_row, .ctx = v};
    bool ok = vsession_begin(&v->s, &v->o, err);

    for (size_t i = 0; ok && i < g->ntables; i++) {
        struct vpiece p;
        vpiece_init(&p, &v->o.map->tables[g->tables[i]]);
        ok = vpiece_scan(&v->s, &scan, &p, false, err);
        vpiece_release(&p);
    }
    ok = ok && vgroup_extras(&v->s, &v->o, NULL, g, touch_extra, v, err);
    vsession_end(&v->s);
    return ok;
}

/* A TRUNCATE of a table that the map skips. */
static void forget_skipped(struct verifier *v)
{
    for (size_t i = 0; i < v->o.map->ntables; i++)
        if (v->group_of[i] < 0)
            touched_whole(v->touched, i, true);
}

bool tail_whole_pass(struct verifier *v, struct error *err)
{
    bool ok = true;

    if (touched_whole_count(v->touched) == 0)
        return true;
    forget_skipped(v);
    for (size_t i = 0; ok && i < v->ngroups; i++) {
        struct vgroup *g = &v->groups[i];
        if (g->keyless || !group_is_whole(v, g, false) || !vgroup_key_is_plain(v->o.map, g) ||
            group_rows(v, g) * v->us_per_row * 2 > PASS_US)
            continue;
        group_is_whole(v, g, true);
        ok = group_to_keys(v, g, err);
        if (!ok)
            set_whole(v, g);
    }
    return ok;
}

double tail_whole_estimate_us(struct verifier *v)
{
    double us = 0;

    if (touched_whole_count(v->touched) == 0)
        return 0;
    for (size_t i = 0; i < v->ngroups; i++)
        if (group_is_whole(v, &v->groups[i], false))
            us += group_rows(v, &v->groups[i]) * v->us_per_row;
    return us;
}

static bool compare_group(struct verifier *v, struct vgroup *g, struct verify_table *tables,
                          int64_t *compared, int64_t *differing, struct strbuf *text,
                          struct error *err)
{
    struct vscan scan = {.o = &v->o};
    int64_t began = clock_us(), rows = 0, differ = 0;
    bool ok;

    for (size_t i = 0; i < g->ntables; i++)
        verify_table_init(&tables[g->tables[i]], &v->o.map->tables[g->tables[i]]);
    ok = vsession_begin(&v->s, &v->o, err) && vgroup_compare(&v->s, &scan, g, tables, err);
    vsession_end(&v->s);
    for (size_t i = 0; i < g->ntables; i++) {
        struct verify_table *vt = &tables[g->tables[i]];
        int64_t n = vt->missing + vt->extra + vt->differing;
        rows += vt->source_rows;
        differ += n;
        if (ok && n)
            describe_table(text, vt);
        verify_table_release(vt);
    }
    if (!ok)
        return false;
    if (rows > 1000)
        v->us_per_row += 0.5 * ((double) (clock_us() - began) / (double) rows - v->us_per_row);
    *compared += rows - (differ < rows ? differ : rows);
    *differing += differ;
    if (!differ)
        group_is_whole(v, g, true);
    return true;
}

/* A table without a key that the map leaves as it is needs no row sent anywhere. */
static bool same_without_rows(struct verifier *v, struct vgroup *g, int64_t *compared, bool *same,
                              struct error *err)
{
    const struct map_table *mt = &v->o.map->tables[g->tables[0]];
    int64_t rows = 0;

    *same = false;
    if (!g->keyless || g->ntables != 1 || !mt->identical || mt->ncolumns == 0)
        return true;
    if (!multiset_same_by_servers(&v->s, mt, same, &rows, err))
        return false;
    if (*same) {
        *compared += rows;
        group_is_whole(v, g, true);
    }
    return true;
}

static bool count_rows(struct pg *pg, const char *from, int64_t *rows, struct error *err)
{
    char *sql = xstrfmt("SELECT pg_catalog.count(*) FROM %s", from);
    PGresult *res = NULL;
    bool ok = pg_query(pg, &res, 1, sql, 0, NULL, err);

    if (ok)
        *rows += result_int(res, 0, 0);
    PQclear(res);
    free(sql);
    return ok;
}

/* No time for the rows: at least their number. */
static bool count_group(struct verifier *v, const struct vgroup *g, int64_t *differing,
                        struct strbuf *text, struct error *err)
{
    struct strbuf from = {0};
    int64_t source = 0, target = 0;
    bool ok = vsession_scans(&v->s, err);

    compare_sql_target(&from, &v->o.map->tables[g->tables[0]], "t");
    ok = ok && count_rows(v->s.target, strbuf_cstr(&from), &target, err);
    for (size_t i = 0; ok && i < g->ntables; i++) {
        strbuf_reset(&from);
        strbuf_addf(&from, "ONLY %s", v->o.map->tables[g->tables[i]].source->sql_name);
        ok = count_rows(v->s.source, strbuf_cstr(&from), &source, err);
    }
    if (ok && source != target) {
        *differing += source > target ? source - target : target - source;
        strbuf_addf(text, "%s has %lld rows, the source %lld\n", g->target->sql_name,
                    (long long) target, (long long) source);
    }
    strbuf_release(&from);
    return ok;
}

static double group_bytes(const struct verifier *v, const struct vgroup *g)
{
    double bytes = 0;

    for (size_t i = 0; i < g->ntables; i++)
        bytes += (double) v->o.map->tables[g->tables[i]].source->bytes;
    return bytes;
}

bool tail_whole_final(struct verifier *v, int64_t deadline_us, int64_t *compared,
                      int64_t *differing, struct strbuf *text, struct strbuf *notes,
                      struct error *err)
{
    struct verify_table *tables;
    bool ok = true;

    if (touched_whole_count(v->touched) == 0)
        return true;
    forget_skipped(v);
    tables = xcalloc(v->o.map->ntables + 1, sizeof *tables);
    for (size_t i = 0; ok && i < v->ngroups; i++) {
        struct vgroup *g = &v->groups[i];
        double left = deadline_us == CLOCK_NONE ? 1e18 : (double) (deadline_us - clock_us());
        char rows[HUMAN_SIZE];
        if (!group_is_whole(v, g, false))
            continue;
        if (group_rows(v, g) * v->us_per_row <= left * 0.7) {
            bool same = false;
            ok = same_without_rows(v, g, compared, &same, err) &&
                 (same || compare_group(v, g, tables, compared, differing, text, err));
            continue;
        }
        strbuf_addf(notes, "%s%s (%s rows", notes->len ? ", " : "", g->target->sql_name,
                    human_count(rows, (int64_t) group_rows(v, g)));
        if (group_bytes(v, g) / COUNT_BYTES_PER_US < left / 2) {
            ok = count_group(v, g, differing, text, err);
            strbuf_addstr(notes, ", counted only)");
        } else {
            strbuf_addstr(notes, ", not even counted)");
        }
    }
    free(tables);
    return ok;
}
