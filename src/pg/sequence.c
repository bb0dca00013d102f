/* sequence.c - carrying sequences over. */
#include "private.h"
#include "pg/sequence.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

/* Where a sequence stands: nextval gives value + increment after a call, value itself before the
 * first. */
struct position {
    int64_t value;
    int64_t increment;
    int64_t min, max;
    bool called;
};

static int64_t next_value(struct position p)
{
    int64_t next = p.value;

    if (p.called && __builtin_add_overflow(p.value, p.increment, &next))
        return p.increment < 0 ? INT64_MIN : INT64_MAX;
    return next;
}

static bool further(struct position a, struct position b)
{
    return b.increment > 0 ? next_value(a) > next_value(b) : next_value(a) < next_value(b);
}

/* Half of what is left when the gap doesn't fit: at the very limit the next nextval would fail. */
static int64_t push_to(const struct cat_sequence *s, int64_t gap)
{
    int64_t from = s->has_value ? s->last_value : s->start;
    int64_t limit = s->increment < 0 ? s->min : s->max;
    __int128 room = s->increment < 0 ? (__int128) from - limit : (__int128) limit - from;
    __int128 step = room <= gap ? room / 2 : gap;

    return (int64_t) (s->increment < 0 ? from - step : from + step);
}

static bool set_all(struct pg *pg, struct strbuf *oids, struct strbuf *values,
                    struct strbuf *called, struct error *err)
{
    const char *params[3];

    strbuf_addch(oids, '}');
    strbuf_addch(values, '}');
    strbuf_addch(called, '}');
    params[0] = strbuf_cstr(oids);
    params[1] = strbuf_cstr(values);
    params[2] = strbuf_cstr(called);
    return pg_query(
        pg, NULL, PG_ANY,
        "SELECT pg_catalog.setval(o::pg_catalog.regclass, v, c) FROM unnest($1::oid[], $2::int8[], "
        "$3::bool[]) AS u(o, v, c)",
        3, params, err);
}

static void add_setting(struct strbuf *oids, struct strbuf *values, struct strbuf *called, Oid oid,
                        int64_t value, bool is_called)
{
    const char *separator = oids->len ? "," : "{";

    strbuf_addf(oids, "%s%u", separator, oid);
    strbuf_addf(values, "%s%lld", separator, (long long) value);
    strbuf_addf(called, "%s%c", separator, is_called ? 't' : 'f');
}

static bool read_uncalled(struct pg *pg, const Oid *oids, struct position *out, const bool *unknown,
                          size_t n, struct error *err);

/* pg_sequence_last_value says nothing of a sequence that wasn't called since its start was set. */
static bool read_positions(struct pg *pg, const Oid *oids, struct position *out, size_t n,
                           struct error *err)
{
    struct strbuf list = {0};
    PGresult *res = NULL;
    bool *unknown = xcalloc(n + 1, sizeof *unknown);
    const char *params[1];
    bool ok, any = false;

    add_oid_array(&list, oids, n);
    params[0] = strbuf_cstr(&list);
    ok = pg_query(
        pg, &res, PG_ANY,
        "SELECT u.i - 1, s.seqincrement, pg_catalog.pg_sequence_last_value(s.seqrelid), s.seqmin, "
        "s.seqmax FROM pg_catalog.unnest($1::oid[]) WITH ORDINALITY AS u(o, i) JOIN "
        "pg_catalog.pg_sequence s ON "
        "s.seqrelid = u.o",
        1, params, err);
    strbuf_release(&list);
    if (ok && (size_t) PQntuples(res) != n)
        ok = error_set(err, ERR_SQL, "%zu of %zu sequences are gone on %s",
                       n - (size_t) PQntuples(res), n, pg->where);
    for (int r = 0; ok && r < PQntuples(res); r++) {
        size_t i = (size_t) res_int(res, r, 0);
        out[i].increment = res_int(res, r, 1);
        out[i].called = !PQgetisnull(res, r, 2);
        out[i].value = res_int(res, r, 2);
        out[i].min = res_int(res, r, 3);
        out[i].max = res_int(res, r, 4);
        unknown[i] = !out[i].called;
        any = any || unknown[i];
    }
    PQclear(res);
    ok = ok && (!any || read_uncalled(pg, oids, out, unknown, n, err));
    free(unknown);
    return ok;
}

static bool read_uncalled(struct pg *pg, const Oid *oids, struct position *out, const bool *unknown,
                          size_t n, struct error *err)
{
    struct strbuf list = {0}, sql = {0};
    PGresult *names = NULL, *res = NULL;
    const char *params[1];
    bool ok;

    add_oid_array(&list, oids, n);
    params[0] = strbuf_cstr(&list);
    ok = pg_query(
        pg, &names, (int) n,
        "SELECT pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(c.relname) FROM "
        "pg_catalog.unnest($1::oid[]) WITH ORDINALITY AS u(o, i) JOIN pg_catalog.pg_class c ON "
        "c.oid = u.o "
        "JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace ORDER BY u.i",
        1, params, err);
    strbuf_release(&list);
    for (size_t i = 0; ok && i < n; i++)
        if (unknown[i])
            strbuf_addf(&sql, "%sSELECT %zu, last_value, is_called FROM %s",
                        sql.len ? " UNION ALL " : "", i, res_text(names, (int) i, 0));
    PQclear(names);
    ok = ok && pg_query(pg, &res, PG_ANY, strbuf_cstr(&sql), 0, NULL, err);
    for (int r = 0; ok && r < PQntuples(res); r++) {
        size_t i = (size_t) res_int(res, r, 0);
        out[i].value = res_int(res, r, 1);
        out[i].called = res_bool(res, r, 2);
    }
    strbuf_release(&sql);
    PQclear(res);
    return ok;
}

/* From the catalog's values and never backwards: doing it again after a crash doesn't push twice.
 */
bool sequence_push(struct pg *green, const struct catalog *green_cat, int64_t gap,
                   struct error *err)
{
    size_t n = green_cat->nsequences;
    Oid *oids = xcalloc(n + 1, sizeof *oids);
    struct position *now = xcalloc(n + 1, sizeof *now);
    struct strbuf a = {0}, b = {0}, c = {0};
    bool ok;

    for (size_t i = 0; i < n; i++)
        oids[i] = green_cat->sequences[i].oid;
    ok = n == 0 || read_positions(green, oids, now, n, err);
    for (size_t i = 0; ok && i < n; i++) {
        const struct cat_sequence *s = &green_cat->sequences[i];
        struct position to = {.value = push_to(s, gap), .increment = s->increment, .called = true};
        if (further(to, now[i]))
            add_setting(&a, &b, &c, s->oid, to.value, true);
    }
    ok = ok && (a.len == 0 || set_all(green, &a, &b, &c, err));
    strbuf_release(&a);
    strbuf_release(&b);
    strbuf_release(&c);
    free(oids);
    free(now);
    return ok || error_push(err, "pushing sequences ahead");
}

static int by_target(const void *a, const void *b)
{
    Oid x = ((const struct sequence_pair *) a)->target,
        y = ((const struct sequence_pair *) b)->target;

    return x < y ? -1 : x > y;
}

/* Where the target must stand so that its next value is none that the source gave out. With another
 * increment the value alone won't do: one that counts by 50 gave out all up to the next. */
static struct position arrival(struct position from, struct position to)
{
    struct position at = to;
    int64_t next = next_value(from);

    at.value = from.value;
    at.called = from.called;
    if (from.increment != to.increment && next >= to.min && next <= to.max) {
        at.value = next;
        at.called = false;
    }
    return at;
}

/* from: of the n sources of one target. */
static bool furthest(const struct position *from, size_t n, struct position to,
                     struct position *best)
{
    bool moves = false;

    *best = to;
    for (size_t i = 0; i < n; i++) {
        struct position at = arrival(from[i], to);
        /* a migration that turned a sequence round has chosen its own range */
        bool same_way = (from[i].increment > 0) == (to.increment > 0);
        if (!same_way || !further(at, *best))
            continue;
        *best = at;
        moves = true;
    }
    return moves;
}

bool sequence_carry(struct pg *source, struct pg *target, const struct sequence_pair *pairs,
                    size_t n, int *moved, struct error *err)
{
    struct sequence_pair *sorted = xcalloc(n + 1, sizeof *sorted);
    Oid *from_oids = xcalloc(n + 1, sizeof *from_oids), *to_oids = xcalloc(n + 1, sizeof *to_oids);
    struct position *from = xcalloc(n + 1, sizeof *from), *to = xcalloc(n + 1, sizeof *to);
    struct strbuf a = {0}, b = {0}, c = {0};
    bool ok;

    *moved = 0;
    for (size_t i = 0; i < n; i++)
        sorted[i] = pairs[i];
    qsort(sorted, n, sizeof *sorted, by_target);
    for (size_t i = 0; i < n; i++) {
        from_oids[i] = sorted[i].source;
        to_oids[i] = sorted[i].target;
    }
    ok = n == 0 || (read_positions(source, from_oids, from, n, err) &&
                    read_positions(target, to_oids, to, n, err));
    for (size_t i = 0, end; ok && i < n; i = end) {
        struct position best;
        for (end = i + 1; end < n && to_oids[end] == to_oids[i];)
            end++;
        if (!furthest(&from[i], end - i, to[i], &best))
            continue;
        add_setting(&a, &b, &c, to_oids[i], best.value, best.called);
        ++*moved;
    }
    ok = ok && (a.len == 0 || set_all(target, &a, &b, &c, err));
    strbuf_release(&a);
    strbuf_release(&b);
    strbuf_release(&c);
    free(sorted);
    free(from_oids);
    free(to_oids);
    free(from);
    free(to);
    return ok || error_push(err, "carrying sequences over");
}
