/* session.c - a pair of connections, blocks of rows bound as arrays, and cursors of bounded memory.
 */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (8 << 20) /* what a fetch should bring, from the largest row seen so far */
/* What is bound at once: libpq moves all that it has yet to send after each packet that it sent, so
 * large messages cost their square. */
#define PART_BYTES ((size_t) BLOCK_BYTES)
#define MESSAGE_BYTES ((size_t) 0x3fffffff) /* what the server takes at once: MaxAllocSize */
#define FIRST_FETCH 200

void vblock_shape(struct vblock *b, size_t ncols, size_t cap)
{
    if (cap < 1)
        cap = 1;
    if (ncols > b->ncols || cap > b->cap) {
        cap = cap > b->cap ? cap : b->cap;
        b->values = xrealloc(b->values, (ncols + 1) * cap * sizeof *b->values);
        b->lens = xrealloc(b->lens, (ncols + 1) * cap * sizeof *b->lens);
        b->cap = cap;
    }
    b->ncols = ncols;
    b->n = 0;
}

void vblock_add(struct vblock *b, const PGresult *res, int row, int first_field)
{
    for (size_t c = 0; c < b->ncols; c++) {
        int field = first_field + (int) c;
        bool null = PQgetisnull(res, row, field);
        b->values[c * b->cap + b->n] = null ? NULL : PQgetvalue(res, row, field);
        b->lens[c * b->cap + b->n] = null ? 0 : PQgetlength(res, row, field);
    }
    b->n++;
}

void vblock_add_row(struct vblock *b, const struct vblock *from, size_t row)
{
    for (size_t c = 0; c < b->ncols; c++) {
        b->values[c * b->cap + b->n] = from->values[c * from->cap + row];
        b->lens[c * b->cap + b->n] = from->lens[c * from->cap + row];
    }
    b->n++;
}

struct vblock vblock_part(const struct vblock *b, size_t from)
{
    struct vblock part = {.cap = b->cap, .ncols = b->ncols};
    size_t bytes = 0, to = from;

    while (to < b->n) {
        for (size_t c = 0; c < b->ncols; c++)
            bytes += (size_t) b->lens[c * b->cap + to] + 4;
        if (to > from && bytes > PART_BYTES)
            break;
        to++;
    }
    part.n = to - from;
    part.values = b->values ? b->values + from : NULL;
    part.lens = b->lens ? b->lens + from : NULL;
    return part;
}

void vblock_add_texts(struct vblock *b, char *const *values, const int *lens)
{
    for (size_t c = 0; c < b->ncols; c++) {
        b->values[c * b->cap + b->n] = values[c];
        b->lens[c * b->cap + b->n] = lens[c];
    }
    b->n++;
}

void vblock_key_columns(struct vblock *b, const struct map_table *mt, const struct vblock *keys)
{
    size_t c = 0;

    vblock_shape(b, mt->nsource_key, keys->n);
    for (int column = 0; column < (int) mt->nsource; column++) {
        for (size_t k = 0; k < mt->nsource_key; k++) {
            if (mt->source_key[k] != column)
                continue;
            memcpy(b->values + c * b->cap, keys->values + k * keys->cap,
                   keys->n * sizeof *b->values);
            memcpy(b->lens + c * b->cap, keys->lens + k * keys->cap, keys->n * sizeof *b->lens);
            c++;
        }
    }
    b->n = keys->n;
}

void vblock_release(struct vblock *b)
{
    free(b->values);
    free(b->lens);
    *b = (struct vblock){0};
}

bool vsession_open(struct vsession *s, const struct verify_options *o, const char *worker,
                   struct error *err)
{
    *s = (struct vsession){.map = o->map};
    return pg_open(&s->source, o->source.conninfo, o->source.dbname, PG_PLAIN, o->run, worker,
                   o->encoding, err) &&
           pg_open(&s->target, o->target.conninfo, o->target.dbname, PG_PLAIN, o->run, worker,
                   o->encoding, err);
}

static bool begin_side(struct pg *pg, const struct verify_side *side, const char *mode,
                       struct error *err)
{
    struct strbuf sql = {0};
    bool ok;

    if (!pg_begin(pg, mode, err))
        return false;
    if (!side->snapshot)
        return true;
    strbuf_addstr(&sql, "SET TRANSACTION SNAPSHOT ");
    pg_add_literal(&sql, side->snapshot);
    ok = pg_exec(pg, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    return ok || error_push(err, "importing snapshot %s", side->snapshot);
}

/* The target's isn't READ ONLY: a rule may call what draws a number. Nothing is ever committed
 * there. */
bool vsession_begin(struct vsession *s, const struct verify_options *o, struct error *err)
{
    s->tuned = false;
    return begin_side(s->source, &o->source, "ISOLATION LEVEL REPEATABLE READ READ ONLY", err) &&
           begin_side(s->target, &o->target, "ISOLATION LEVEL REPEATABLE READ", err);
}

void vsession_end(struct vsession *s)
{
    pg_rollback(s->source);
    pg_rollback(s->target);
    s->tuned = false; /* ROLLBACK took the SETs back */
}

void vsession_close(struct vsession *s)
{
    if (s->source)
        vsession_end(s);
    pg_close(s->source);
    pg_close(s->target);
    vsession_unbind(s);
    *s = (struct vsession){0};
}

void vsession_unbind(struct vsession *s)
{
    for (size_t i = 0; i < s->nparams; i++)
        strbuf_release(&s->arrays[i]);
    free(s->arrays);
    free(s->params);
    s->arrays = NULL;
    s->params = NULL;
    s->nparams = 0;
}

/*
 * A block is joined to its table by one index lookup for each row. The planner doesn't know how
 * long the arrays are (a generic plan takes ten) nor, right after a load, how large the table is,
 * and a sequential scan for every block would make the whole quadratic. With no usable index it
 * still finds the hash join: the cheaper of two disabled ways once a rescan can't be materialised
 * away.
 */
static const char *const LOOKUPS =
    "SET enable_seqscan = off; SET enable_hashjoin = off; SET "
    "enable_mergejoin = off; SET enable_material = off; "
    "SET plan_cache_mode = force_generic_plan; SET "
    "max_parallel_workers_per_gather = 0; SET jit = off; SET work_mem = '64MB'";
static const char *const SCANS =
    "RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_material; "
    "RESET plan_cache_mode; RESET max_parallel_workers_per_gather; SET jit = off; RESET work_mem";

static bool tune(struct vsession *s, bool scanning, struct error *err)
{
    const char *sql = scanning ? SCANS : LOOKUPS;

    if (s->tuned && s->scanning == scanning)
        return true;
    s->tuned = false;
    if (!pg_exec(s->source, sql, err) || !pg_exec(s->target, sql, err))
        return false;
    s->tuned = true;
    s->scanning = scanning;
    return true;
}

bool vsession_lookups(struct vsession *s, struct error *err)
{
    return tune(s, false, err);
}

bool vsession_scans(struct vsession *s, struct error *err)
{
    return tune(s, true, err);
}

/* As pg_text_array writes it. */
static size_t array_bytes(const struct vblock *b, size_t column)
{
    size_t bytes = 20;

    for (size_t row = 0; row < b->n; row++)
        bytes += (size_t) b->lens[column * b->cap + row] + 4;
    return bytes;
}

static bool fits_a_message(const struct vblock *b, struct error *err)
{
    size_t bytes = 1024;

    for (size_t c = 0; c < b->ncols; c++)
        bytes += array_bytes(b, c) + 8;
    if (bytes <= MESSAGE_BYTES)
        return true;
    return error_set(err, ERR_FULL, "%zu row%s of %zu bytes as text: a server takes 1 GB at once",
                     b->n, b->n == 1 ? "" : "s", bytes);
}

bool vsession_bound(struct vsession *s, struct pg *pg, const char *sql, const struct vblock *b,
                    PGresult **out, struct error *err)
{
    bool ok;

    *out = NULL;
    if (!fits_a_message(b, err))
        return false;
    if (b->ncols > s->nparams) {
        s->arrays = xrealloc(s->arrays, b->ncols * sizeof *s->arrays);
        s->params = xrealloc(s->params, b->ncols * sizeof *s->params);
        memset(s->arrays + s->nparams, 0, (b->ncols - s->nparams) * sizeof *s->arrays);
        s->nparams = b->ncols;
    }
    for (size_t c = 0; c < b->ncols; c++) {
        strbuf_reset(&s->arrays[c]);
        strbuf_reserve(&s->arrays[c], array_bytes(b, c));
        pg_text_array(&s->arrays[c], b->n, b->values + c * b->cap, b->lens + c * b->cap);
        s->params[c] = (struct pg_param){
            .data = strbuf_cstr(&s->arrays[c]), .len = (int) s->arrays[c].len, .binary = 1};
    }
    ok = pg_prepared(pg, out, sql, (int) b->ncols, s->params, err);
    for (size_t c = 0; c < b->ncols; c++)
        if (s->arrays[c].cap > PART_BYTES)
            strbuf_release(&s->arrays[c]);
    return ok;
}

int64_t result_int(const PGresult *res, int row, int field)
{
    return strtoll(PQgetvalue(res, row, field), NULL, 10);
}

bool vcursor_open(struct vcursor *c, struct pg *pg, const char *name, const char *sql,
                  int block_rows, struct error *err)
{
    int64_t limit = block_rows > 0 ? block_rows : 5000;

    *c = (struct vcursor){.pg = pg, .name = name, .limit = limit};
    c->next = 1;
    c->open = pg_execf(pg, err, "DECLARE %s NO SCROLL CURSOR FOR %s", name, sql);
    return c->open;
}

static int64_t clamp(int64_t n, int64_t low, int64_t high)
{
    return n < low ? low : n > high ? high : n;
}

/* Text may be twice as long as what is stored: bytea. Where the average row isn't known, a table
 * that fits a block as a whole can't have many wide ones. */
void vcursor_expect(struct vcursor *c, const struct cat_table *t)
{
    int64_t first = clamp(FIRST_FETCH, 1, c->limit);
    double text = (double) t->bytes * 2;

    if (t->reltuples >= 1) {
        double fit = BLOCK_BYTES / (text / t->reltuples + 1);
        c->wide_limit = fit < (double) c->limit ? clamp((int64_t) fit, 1, c->limit) : c->limit;
        c->wide_rows = (int64_t) t->reltuples;
        c->next = clamp(c->wide_limit, 1, first);
    } else if (text <= BLOCK_BYTES) {
        c->next = first;
    }
}

/* How many rows like the largest of these fit a block; a step up is at most fourfold. The average
 * row holds it down too, as the wide ones may all come at the end, until there were more rows than
 * it was the average of. */
static int64_t next_fetch(const struct vcursor *c, const PGresult *res)
{
    int64_t largest = 1, rows;

    for (int row = 0; row < PQntuples(res); row++) {
        int64_t bytes = 0;
        for (int field = 0; field < PQnfields(res); field++)
            bytes += PQgetlength(res, row, field) + 8;
        largest = bytes > largest ? bytes : largest;
    }
    rows = BLOCK_BYTES / largest;
    if (rows > c->next * 4)
        rows = c->next * 4;
    if (c->wide_limit && c->seen <= c->wide_rows && rows > c->wide_limit)
        rows = c->wide_limit;
    return clamp(rows, 1, c->limit);
}

bool vcursor_next(struct vcursor *c, PGresult **res, struct error *err)
{
    char *sql = xstrfmt("FETCH %lld FROM %s", (long long) c->next, c->name);
    bool ok = pg_query(c->pg, res, PG_ANY, sql, 0, NULL, err);

    free(sql);
    if (!ok)
        return false;
    if (PQntuples(*res) == 0) {
        PQclear(*res);
        *res = NULL;
        return true;
    }
    c->seen += PQntuples(*res);
    c->next = next_fetch(c, *res);
    return true;
}

bool vcursor_close(struct vcursor *c, struct error *err)
{
    if (!c->open)
        return true;
    c->open = false;
    return pg_execf(c->pg, err, "CLOSE %s", c->name);
}
