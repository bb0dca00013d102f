/*
 * suggest.c - which rule would give what the target has? Simple guesses over the source's columns,
 * each tried on the target: on rows that differ and on their neighbours that don't. A guess is only
 * that; it is proved when the comparison runs again with the rule.
 */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define SAMPLE_DIFFERING 300
#define SAMPLE_OTHERS 300
#define MAX_COLUMNS 8
#define MAX_SOURCES 32

enum kind { KIND_TEXT, KIND_NUMBER, KIND_OTHER };

/* %: the source column. The first of each kind is the plain copy. */
static const char *const TEXT_GUESSES[] = {
    "%",          "lower(%)",        "upper(%)",      "btrim(%)", "lower(btrim(%))",
    "initcap(%)", "coalesce(%, '')", "nullif(%, '')", NULL};
static const char *const NUMBER_GUESSES[] = {
    "%",    "(% * 100)::bigint", "% * 100",        "% / 100.0", "(% * 1000)::bigint", "% / 1000.0",
    "-(%)", "round(%)",          "coalesce(%, 0)", NULL};
static const char *const OTHER_GUESSES[] = {"%", NULL};
static const char *const *const GUESSES[] = {TEXT_GUESSES, NUMBER_GUESSES, OTHER_GUESSES};

static enum kind kind_of(const char *type)
{
    static const char *const texts[] = {
        "text", "character varying", "bpchar", "character", "citext", NULL};
    static const char *const numbers[] = {"smallint", "integer",          "bigint", "numeric",
                                          "real",     "double precision", "money",  NULL};

    for (size_t i = 0; texts[i]; i++)
        if (strcmp(type, texts[i]) == 0)
            return KIND_TEXT;
    for (size_t i = 0; numbers[i]; i++)
        if (strcmp(type, numbers[i]) == 0)
            return KIND_NUMBER;
    return KIND_OTHER;
}

struct sample {
    struct vblock rows; /* first those that differ */
    size_t ndiffering;
    bool *differs; /* per check: in some row of the sample */
};

static void take_sample(struct sample *sample, const struct map_table *mt, const struct vblock *b,
                        const struct vdiffs *diffs)
{
    bool *not_equal = xcalloc(b->n + 1, sizeof *not_equal);

    vblock_shape(&sample->rows, b->ncols, SAMPLE_DIFFERING + SAMPLE_OTHERS);
    sample->differs = xcalloc(compare_checks(mt) + 1, sizeof *sample->differs);
    for (size_t i = 0; i < diffs->n; i++) {
        const struct vdiff *d = &diffs->items[i];
        not_equal[d->row] = true;
        if (d->missing || sample->rows.n == SAMPLE_DIFFERING)
            continue;
        vblock_add_row(&sample->rows, b, d->row);
        for (size_t c = 0; c < compare_checks(mt); c++)
            sample->differs[c] = sample->differs[c] || mask_bit(d->mask, c);
    }
    sample->ndiffering = sample->rows.n;
    for (size_t row = 0; row < b->n && sample->rows.n < sample->ndiffering + SAMPLE_OTHERS; row++)
        if (!not_equal[row])
            vblock_add_row(&sample->rows, b, row);
    free(not_equal);
}

/* *fits: expr gives what the target has in every row of the sample. An expression that can't be
 * evaluated doesn't. */
static bool try_guess(struct vsession *s, const struct map_table *mt, const struct sample *sample,
                      const struct cat_column *column, const char *expr, bool *fits,
                      struct error *err)
{
    struct strbuf sql = {0};
    PGresult *res = NULL;
    bool ok;

    *fits = false;
    if (!pg_exec(s->target, "SAVEPOINT pgcutover_guess", err))
        return false;
    compare_sql_guess(&sql, mt, column, expr);
    ok = vsession_bound(s, s->target, strbuf_cstr(&sql), &sample->rows, &res, err);
    strbuf_release(&sql);
    if (ok)
        *fits = result_int(res, 0, 0) > 0 && result_int(res, 0, 0) == result_int(res, 0, 1);
    PQclear(res);
    if (!ok && (err->code != ERR_SQL || pg_is_bad(s->target)))
        return false;
    error_clear(err);
    return pg_exec(s->target, "ROLLBACK TO SAVEPOINT pgcutover_guess", err);
}

static char *expand(const char *guess, const char *column)
{
    const char *mark = strchr(guess, '%');

    return xstrfmt("%.*s%s%s", (int) (mark - guess), guess, column, mark + 1);
}

/* As a rule names it: bare. */
static bool guess_from(struct vsession *s, const struct map_table *mt, const struct sample *sample,
                       const struct cat_column *column, size_t source, char **found,
                       struct error *err)
{
    const char *const *guesses = GUESSES[kind_of(mt->source_types[source])];

    for (size_t i = 0; guesses[i] && !*found; i++) {
        char *expr = expand(guesses[i], mt->source_columns[source]->sql_name);
        bool fits = false, ok = try_guess(s, mt, sample, column, expr, &fits, err);
        if (fits)
            *found = xstrdup(expr);
        free(expr);
        if (!ok)
            return false;
    }
    return true;
}

/* The one value that all differing rows of the sample have; *several: there is more than one. */
static bool constant_of(struct vsession *s, const struct map_table *mt, const struct sample *sample,
                        size_t check, char **literal, bool *several, struct error *err)
{
    bool *want = xcalloc(compare_checks(mt) + 1, sizeof *want), ok;
    struct vblock b = {0};
    struct strbuf sql = {0}, text = {0};
    PGresult *res = NULL;

    want[check] = true;
    compare_sql_values(&sql, s->map, mt, want);
    vblock_shape(&b, sample->rows.ncols, sample->ndiffering);
    for (size_t row = 0; row < sample->ndiffering; row++)
        vblock_add_row(&b, &sample->rows, row);
    ok = vsession_bound(s, s->target, strbuf_cstr(&sql), &b, &res, err);
    *several = false;
    for (int row = 1; ok && row < PQntuples(res); row++)
        if (PQgetisnull(res, row, 2) != PQgetisnull(res, 0, 2) ||
            strcmp(PQgetvalue(res, row, 2), PQgetvalue(res, 0, 2)) != 0)
            *several = true;
    if (ok && !*several && PQntuples(res) > 0) {
        if (PQgetisnull(res, 0, 2))
            strbuf_addstr(&text, "NULL");
        else
            pg_add_literal(&text, PQgetvalue(res, 0, 2));
        *literal = strbuf_take(&text);
    }
    PQclear(res);
    vblock_release(&b);
    strbuf_release(&sql);
    free(want);
    return ok;
}

static int own_source(const struct map_table *mt, size_t check)
{
    for (size_t i = 0; check < mt->ncolumns && i < mt->nsource; i++)
        if (mt->source_columns[i] == mt->columns[check].source)
            return (int) i;
    return -1;
}

/* One row alone fits many constants: expressions are tried before it then. */
static bool suggest_column(struct vsession *s, const struct map_table *mt,
                           const struct sample *sample, size_t check, char **found,
                           struct error *err)
{
    const struct cat_column *column = compare_check_column(mt, check);
    char *literal = NULL;
    bool several = false, fits = false, ok;
    int own = own_source(mt, check);

    ok = constant_of(s, mt, sample, check, &literal, &several, err) &&
         (!literal || try_guess(s, mt, sample, column, literal, &fits, err));
    if (ok && fits && sample->ndiffering > 1)
        *found = xstrdup(literal);
    if (ok && !*found && own >= 0)
        ok = guess_from(s, mt, sample, column, (size_t) own, found, err);
    for (size_t i = 0; ok && !*found && i < mt->nsource && i < MAX_SOURCES; i++)
        if ((int) i != own)
            ok = guess_from(s, mt, sample, column, i, found, err);
    if (ok && !*found && fits)
        *found = xstrdup(literal);
    free(literal);
    return ok;
}

bool suggest_rule(struct vsession *s, const struct map_table *mt, const struct vblock *b,
                  const struct vdiffs *diffs, char **out, struct error *err)
{
    struct sample sample = {0};
    struct strbuf text = {0};
    int tried = 0;
    bool ok = true;

    *out = NULL;
    if (mt->nsource == 0 || mt->nkey == 0)
        return true;
    take_sample(&sample, mt, b, diffs);
    for (size_t c = 0; ok && sample.ndiffering && c < compare_checks(mt) && tried < MAX_COLUMNS;
         c++) {
        char *found = NULL;
        if (!sample.differs[c])
            continue;
        tried++;
        ok = suggest_column(s, mt, &sample, c, &found, err);
        if (found)
            strbuf_addf(&text, "up.%s = %s\n", compare_check_column(mt, c)->name, found);
        free(found);
    }
    if (ok && text.len)
        *out = strbuf_take(&text);
    strbuf_release(&text);
    vblock_release(&sample.rows);
    free(sample.differs);
    return ok;
}
