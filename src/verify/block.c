/* block.c - one block of source rows against the target: what differs, and how to say so. */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN_VALUE 60
#define SHOWN_COLUMNS 6

bool mask_bit(const char *mask, size_t check)
{
    return mask[1 + 2 * check] == 't'; /* {t,f,f} */
}

void vdiffs_release(struct vdiffs *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->items[i].mask);
    free(d->items);
    *d = (struct vdiffs){0};
}

static int by_row(const void *a, const void *b)
{
    const struct vdiff *x = a, *y = b;

    return x->row < y->row ? -1 : x->row > y->row;
}

/* Two target rows with one key answer twice; a source row still counts once. */
static void keep_first(struct vdiffs *d)
{
    size_t kept = 0;

    if (d->n)
        qsort(d->items, d->n, sizeof *d->items, by_row);
    for (size_t i = 0; i < d->n; i++) {
        if (kept && d->items[kept - 1].row == d->items[i].row)
            free(d->items[i].mask);
        else
            d->items[kept++] = d->items[i];
    }
    d->n = kept;
}

static bool compare_part(struct vsession *s, const char *sql, const struct vblock *b, size_t first,
                         struct vdiffs *out, struct error *err)
{
    PGresult *res = NULL;
    bool ok = vsession_bound(s, s->target, sql, b, &res, err);

    for (int row = 0; ok && row < PQntuples(res); row++) {
        struct vdiff *d = VEC_ADD(out->items, out->n, out->cap);
        d->row = first + (size_t) result_int(res, row, 0) - 1;
        d->missing = PQgetvalue(res, row, 1)[0] == 't';
        d->mask = xstrdup(PQgetvalue(res, row, 2));
    }
    PQclear(res);
    return ok;
}

bool vblock_compare(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                    struct vdiffs *out, struct error *err)
{
    struct strbuf sql = {0};
    bool ok = true;

    *out = (struct vdiffs){0};
    if (b->n == 0)
        return true;
    compare_sql_differs(&sql, s->map, mt);
    for (size_t from = 0, n; ok && from < b->n; from += n) {
        struct vblock part = vblock_part(b, from);
        n = part.n;
        ok = compare_part(s, strbuf_cstr(&sql), &part, from, out, err);
    }
    keep_first(out);
    strbuf_release(&sql);
    return ok;
}

void describe_value(struct strbuf *out, const char *value)
{
    size_t len, cut;

    if (!value) {
        strbuf_addstr(out, "NULL");
        return;
    }
    len = cut = strlen(value);
    if (len > SHOWN_VALUE)
        for (cut = SHOWN_VALUE; cut > 0 && ((unsigned char) value[cut] & 0xC0) == 0x80;)
            cut--;
    strbuf_addch(out, '\'');
    for (size_t i = 0; i < cut; i++)
        if (value[i] == '\n')
            strbuf_addstr(out, "\\n");
        else
            strbuf_addch(out, (unsigned char) value[i] < ' ' ? '?' : value[i]);
    if (cut < len)
        strbuf_addf(out, "... (%zu bytes)", len);
    strbuf_addch(out, '\'');
}

void describe_key(struct strbuf *out, const struct map_table *mt, const struct vblock *b,
                  size_t row, bool only_key)
{
    for (size_t k = 0; k < mt->nsource_key; k++) {
        size_t c = only_key ? k : (size_t) mt->source_key[k];
        strbuf_addf(out, "%s%s=", k ? ", " : "", mt->source_columns[mt->source_key[k]]->name);
        describe_value(out, b->values[c * b->cap + row]);
    }
}

static bool *wanted_checks(const struct map_table *mt, const char *mask, size_t *n)
{
    bool *want = xcalloc(compare_checks(mt) + 1, sizeof *want);

    *n = 0;
    for (size_t i = 0; i < compare_checks(mt) && *n < SHOWN_COLUMNS; i++) {
        want[i] = mask_bit(mask, i);
        *n += want[i];
    }
    return want;
}

static void add_values(struct strbuf *out, const struct map_table *mt, const bool *want,
                       const PGresult *res)
{
    int field = 1;
    const char *sep = "";

    for (size_t i = 0; i < compare_checks(mt); i++) {
        if (!want[i])
            continue;
        strbuf_addf(out, "%s%s expected ", sep, compare_check_column(mt, i)->name);
        describe_value(out, PQgetisnull(res, 0, field) ? NULL : PQgetvalue(res, 0, field));
        strbuf_addstr(out, ", found ");
        describe_value(out, PQgetisnull(res, 0, field + 1) ? NULL : PQgetvalue(res, 0, field + 1));
        field += 2;
        sep = "; ";
    }
}

bool vblock_example(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                    const struct vdiff *d, struct strbuf *out, struct error *err)
{
    struct vblock one = {0};
    struct strbuf sql = {0};
    PGresult *res = NULL;
    size_t n;
    bool *want = NULL, ok = true;

    describe_key(out, mt, b, d->row, false);
    if (d->missing) {
        strbuf_addf(out, ": no such row in %s\n", mt->target->sql_name);
        return true;
    }
    want = wanted_checks(mt, d->mask, &n);
    compare_sql_values(&sql, s->map, mt, want);
    vblock_shape(&one, b->ncols, 1);
    vblock_add_row(&one, b, d->row);
    ok = vsession_bound(s, s->target, strbuf_cstr(&sql), &one, &res, err);
    strbuf_addstr(out, ": ");
    if (ok && PQntuples(res) > 0)
        add_values(out, mt, want, res);
    strbuf_addch(out, '\n');
    PQclear(res);
    vblock_release(&one);
    strbuf_release(&sql);
    free(want);
    return ok;
}
