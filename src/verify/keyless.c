/*
 * keyless.c - tables without a key, compared as multisets.
 *
 * Both sides' hashes are computed by the target, the source's rows having gone through the map:
 * hashes of two servers can't be compared (TRAPS 59). Two sums of independent 64-bit hashes and the
 * count: rows that differ and give the same sums by chance are out of the question, and whoever
 * could construct them owns the database anyway.
 */
#include "private.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPLAIN_ROWS 8000000 /* hashes in memory: 12 bytes each */

/* sum(bigint) is a numeric without fraction */
static __int128 parse_sum(const char *text)
{
    bool minus = *text == '-';
    __int128 value = 0;

    for (text += minus; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (*text - '0');
    return minus ? -value : value;
}

static void add_sums(struct multiset *sum, const PGresult *res, int64_t times)
{
    sum->rows += result_int(res, 0, 0) * times;
    for (int i = 0; i < 2; i++)
        sum->sum[i] += parse_sum(PQgetvalue(res, 0, 1 + i)) * times;
}

/* A table without columns binds nothing, and its rows are all the same one. */
bool multiset_add_block(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                        struct multiset *sum, struct error *err)
{
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    if (b->n == 0)
        return true;
    multiset_sql_source(&sql, s->map, mt, MULTISET_SUMS);
    ok = vsession_bound(s, s->target, strbuf_cstr(&sql), b, &res, err);
    if (ok)
        add_sums(sum, res, mt->nsource == 0 ? (int64_t) b->n : 1);
    PQclear(res);
    strbuf_release(&sql);
    return ok;
}

bool multiset_of_target(struct vsession *s, const struct map_table *mt, struct multiset *sum,
                        struct error *err)
{
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    multiset_sql_target(&sql, mt, MULTISET_SUMS);
    ok = vsession_scans(s, err) && pg_query(s->target, &res, 1, strbuf_cstr(&sql), 0, NULL, err);
    if (ok)
        add_sums(sum, res, 1);
    PQclear(res);
    strbuf_release(&sql);
    return ok;
}

bool multiset_equal(const struct multiset *a, const struct multiset *b)
{
    return a->rows == b->rows && a->sum[0] == b->sum[0] && a->sum[1] == b->sum[1];
}

/* Equal sums from both servers say that the tables are equal; unequal ones may come of servers that
 * hash differently, and say nothing. */
bool multiset_same_by_servers(struct vsession *s, const struct map_table *mt, bool *same,
                              int64_t *rows, struct error *err)
{
    struct multiset here = {0}, there = {0};
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    multiset_sql_own(&sql, mt);
    ok = pg_query(s->source, &res, 1, strbuf_cstr(&sql), 0, NULL, err);
    if (ok)
        add_sums(&there, res, 1);
    PQclear(res);
    strbuf_release(&sql);
    ok = ok && multiset_of_target(s, mt, &here, err);
    *same = ok && multiset_equal(&here, &there);
    *rows = there.rows;
    return ok;
}

/* The target's row hashes, sorted; used[i] counts at the first of equal ones how many found a
 * source row. */
struct hashes {
    int64_t *items;
    uint32_t *used;
    size_t n, cap;
};

static int by_value(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static bool load_hashes(struct vsession *s, const struct map_table *mt, struct hashes *h,
                        struct error *err)
{
    struct strbuf sql = {0};
    struct vcursor cursor = {0};
    PGresult *res = NULL;
    bool ok;

    multiset_sql_target(&sql, mt, MULTISET_HASHES);
    ok = vcursor_open(&cursor, s->target, "pgcutover_hashes", strbuf_cstr(&sql), 20000, err);
    while (ok && (ok = vcursor_next(&cursor, &res, err)) && res) {
        for (int row = 0; row < PQntuples(res); row++)
            *VEC_ADD(h->items, h->n, h->cap) = result_int(res, row, 0);
        PQclear(res);
    }
    ok = ok && vcursor_close(&cursor, err);
    strbuf_release(&sql);
    if (h->n)
        qsort(h->items, h->n, sizeof *h->items, by_value);
    h->used = xcalloc(h->n + 1, sizeof *h->used);
    return ok;
}

static size_t first_at_least(const struct hashes *h, int64_t value)
{
    size_t low = 0, high = h->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (h->items[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t run_length(const struct hashes *h, size_t at)
{
    size_t n = 0;

    while (at + n < h->n && h->items[at + n] == h->items[at])
        n++;
    return n;
}

static bool take_hash(struct hashes *h, int64_t value)
{
    size_t at = first_at_least(h, value);

    if (at == h->n || h->items[at] != value)
        return false;
    if (at + h->used[at] >= h->n || h->items[at + h->used[at]] != value)
        return false;
    h->used[at]++;
    return true;
}

static void describe_row(struct strbuf *out, const struct map_table *mt, const struct vblock *b,
                         size_t row)
{
    strbuf_addch(out, '(');
    for (size_t c = 0; c < b->ncols && c < 8; c++) {
        strbuf_addf(out, "%s%s=", c ? ", " : "", mt->source_columns[c]->name);
        describe_value(out, b->values[c * b->cap + row]);
    }
    strbuf_addf(out, "%s): no such row, or not as many, in %s\n", b->ncols > 8 ? ", ..." : "",
                mt->target->sql_name);
}

static bool missing_in_block(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                             struct hashes *h, struct verify_table *vt, int examples,
                             struct strbuf *text, struct error *err)
{
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    multiset_sql_source(&sql, s->map, mt, MULTISET_HASHES);
    ok = vsession_bound(s, s->target, strbuf_cstr(&sql), b, &res, err);
    strbuf_release(&sql);
    for (int row = 0; ok && row < PQntuples(res); row++) {
        int64_t times = mt->nsource == 0 ? (int64_t) b->n : 1;
        for (int64_t i = 0; i < times; i++) {
            if (take_hash(h, result_int(res, row, 1)))
                continue;
            if (vt->missing++ < examples)
                describe_row(text, mt, b, (size_t) result_int(res, row, 0) - 1);
        }
    }
    PQclear(res);
    return ok;
}

static bool missing_in_table(struct vsession *s, const struct verify_options *o,
                             const struct map_table *mt, struct hashes *h, struct verify_table *vt,
                             struct strbuf *text, struct error *err)
{
    struct strbuf sql = {0};
    struct vcursor cursor = {0};
    struct vblock b = {0};
    PGresult *res = NULL;
    bool ok;

    compare_sql_scan(&sql, mt, 0, -1);
    ok = vcursor_open(&cursor, s->source, "pgcutover_rows", strbuf_cstr(&sql), o->block_rows, err);
    while (ok && (ok = vcursor_next(&cursor, &res, err)) && res) {
        vblock_shape(&b, mt->nsource, (size_t) PQntuples(res));
        for (int row = 0; row < PQntuples(res); row++)
            vblock_add(&b, res, row, 0);
        ok = missing_in_block(s, mt, &b, h, vt, o->examples, text, err);
        PQclear(res);
    }
    ok = ok && vcursor_close(&cursor, err);
    vblock_release(&b);
    strbuf_release(&sql);
    return ok;
}

static bool describe_extra(struct vsession *s, const struct map_table *mt,
                           const struct strbuf *wanted, int examples, struct strbuf *text,
                           struct error *err)
{
    struct pg_param param = {.data = strbuf_cstr(wanted), .len = (int) wanted->len};
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    multiset_sql_target(&sql, mt, MULTISET_ROWS);
    strbuf_addf(&sql, " LIMIT %d", examples);
    ok = pg_prepared(s->target, &res, strbuf_cstr(&sql), 1, &param, err);
    for (int row = 0; ok && row < PQntuples(res); row++) {
        strbuf_addf(text,
                    "%s has a row, or more of them, that %s doesn't have: ", mt->target->sql_name,
                    mt->source->sql_name);
        describe_value(text, PQgetvalue(res, row, 0));
        strbuf_addch(text, '\n');
    }
    PQclear(res);
    strbuf_release(&sql);
    return ok;
}

static bool count_extra(struct vsession *s, const struct verify_options *o,
                        const struct map_table *mt, const struct hashes *h, struct verify_table *vt,
                        struct strbuf *text, struct error *err)
{
    struct strbuf wanted = {0};
    int shown = 0;
    bool ok = true;

    strbuf_addch(&wanted, '{');
    for (size_t at = 0, n; at < h->n; at += n) {
        n = run_length(h, at);
        if (h->used[at] == n)
            continue;
        vt->extra += (int64_t) (n - h->used[at]);
        if (shown < o->examples)
            strbuf_addf(&wanted, "%s%lld", shown++ ? "," : "", (long long) h->items[at]);
    }
    strbuf_addch(&wanted, '}');
    if (shown)
        ok = describe_extra(s, mt, &wanted, o->examples, text, err);
    strbuf_release(&wanted);
    return ok;
}

static void append_examples(struct verify_table *vt, const struct strbuf *text)
{
    char *all = xstrfmt("%s%s", vt->examples ? vt->examples : "", strbuf_cstr(text));

    free(vt->examples);
    vt->examples = all;
}

bool multiset_explain(struct vsession *s, const struct verify_options *o, const struct vgroup *g,
                      struct verify_table *tables, bool *known, struct error *err)
{
    const struct map_table *first = tables[g->tables[0]].table;
    struct hashes h = {0};
    struct strbuf text = {0};
    bool ok;

    *known = tables[g->tables[0]].target_rows + g->source.rows <= EXPLAIN_ROWS;
    if (!*known)
        return true;
    ok = vsession_scans(s, err) && load_hashes(s, first, &h, err);
    for (size_t i = 0; ok && i < g->ntables; i++) {
        struct verify_table *vt = &tables[g->tables[i]];
        strbuf_reset(&text);
        ok = missing_in_table(s, o, vt->table, &h, vt, &text, err);
        vt->proved = vt->source_rows - vt->missing;
        append_examples(vt, &text);
    }
    strbuf_reset(&text);
    ok = ok && count_extra(s, o, first, &h, &tables[g->tables[0]], &text, err);
    append_examples(&tables[g->tables[0]], &text);
    free(h.items);
    free(h.used);
    strbuf_release(&text);
    return ok;
}
