/*
 * batch_exec.c - a group's steps, executed: in rounds, the first step of every table, then the
 * second. Within a round all deletes come first, then updates, then inserts, across tables: a row
 * that moves from one partition to another is a delete in one table of the source and an insert in
 * the other, and both may be one table of the target.
 */
#include "batch_private.h"

#include <stdlib.h>

enum phase { PHASE_DELETE, PHASE_UPDATE, PHASE_INSERT, PHASES };

/* A row in the order in which its statement has it. */
struct item {
    const struct mask *mask;
    size_t mask_at;
    uint64_t place;
    const struct row *row;
};

/* Neighbours in an index stay neighbours, and short numbers come before longer ones. */
static uint64_t place_of(const struct map_table *mt, const struct row *row)
{
    if (mt->nsource_key == 0)
        return 0;
    const struct pgo_value *v = &row->key[mt->source_key[0]];
    uint64_t place = v->len < 255 ? v->len : 255;
    for (uint32_t i = 0; i < 7; i++)
        place = place << 8 | (i < v->len ? (unsigned char) v->data[i] : 0);
    return place;
}

static int by_place(const void *a, const void *b)
{
    const struct item *x = a;
    const struct item *y = b;

    if (x->mask_at != y->mask_at)
        return x->mask_at < y->mask_at ? -1 : 1;
    return (x->place > y->place) - (x->place < y->place);
}

static bool takes_part(const struct row *row, enum phase phase)
{
    switch (phase) {
    case PHASE_DELETE:
        return row->state == ROW_DELETE || row->state == ROW_REPLACE;
    case PHASE_UPDATE:
        return row->state == ROW_UPDATE;
    default:
        return row->state == ROW_INSERT || row->state == ROW_REPLACE;
    }
}

static size_t mask_index(const struct table *t, const struct mask *m)
{
    size_t i = 0;
    while (t->masks[i] != m)
        i++;
    return i;
}

static size_t collect(struct batch *b, struct table *t, const struct step *s, enum phase phase,
                      struct item **out)
{
    struct item *items = arena_alloc(b->arena, s->nrows * sizeof *items);
    size_t n = 0;

    for (struct row *row = s->rows; row; row = row->next) {
        if (!takes_part(row, phase))
            continue;
        struct item *item = &items[n++];
        *item = (struct item){.row = row, .place = place_of(t->mt, row)};
        if (phase == PHASE_UPDATE) {
            item->mask = table_mask(b, t, row->values, row->partial);
            item->mask_at = mask_index(t, item->mask);
        }
    }
    if (t->mt->nsource_key > 0 && n > 1)
        qsort(items, n, sizeof *items, by_place);
    *out = items;
    return n;
}

/* NULL: nothing to do for these rows, or (stale) nothing that could be done soundly. */
static const char *statement(struct table *t, enum phase phase, const struct mask *m)
{
    switch (phase) {
    case PHASE_DELETE:
        return table_delete(t);
    case PHASE_UPDATE:
        return mask_update(t, t->masks[mask_index(t, m)]);
    default:
        return table_insert(t);
    }
}

static bool run_items(struct batch *b, struct pg *pg, struct table *t, enum phase phase,
                      const struct item *items, size_t n, struct error *err)
{
    const struct mask *m = items[0].mask;
    int64_t affected = 0;

    if (m && m->stale >= 0)
        return error_set(err, ERR_CONFLICT, "a rule of %s.%s lacks a value", t->mt->source->schema,
                         t->mt->source->name);
    const char *sql = statement(t, phase, m);
    if (!sql)
        return true;
    const struct pgo_value **rows = arena_alloc(b->arena, n * sizeof(*rows));
    for (size_t i = 0; i < n; i++)
        rows[i] = phase == PHASE_DELETE ? items[i].row->key : items[i].row->values;
    bind_none(b);
    bind_rows(b, t->mt, phase == PHASE_DELETE ? t->key_columns : m ? m->present : NULL, rows, n);
    if (!batch_execute(b, pg, sql, &affected, err))
        return false;
    if (affected == (int64_t) n)
        return true;
    return error_set(err, ERR_CONFLICT, "%zu rows of %s.%s met %lld", n, t->mt->source->schema,
                     t->mt->source->name, (long long) affected);
}

static bool run_phase(struct batch *b, struct pg *pg, struct table *t, enum phase phase,
                      struct error *err)
{
    struct item *items;
    size_t n = collect(b, t, t->at, phase, &items);

    for (size_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && items[to].mask == items[from].mask;)
            to++;
        if (!run_items(b, pg, t, phase, items + from, to - from, err))
            return false;
    }
    return true;
}

static bool run_round(struct batch *b, struct pg *pg, struct error *err)
{
    for (enum phase phase = 0; phase < PHASES; phase++)
        for (struct table *t = b->first_table; t; t = t->next)
            if (t->at && t->at->nrows > 0 && !run_phase(b, pg, t, phase, err))
                return false;
    for (struct table *t = b->first_table; t; t = t->next)
        if (t->at && t->at->singles && !singles_run(b, pg, t, err))
            return false;
    return true;
}

bool sets_run(struct batch *b, struct pg *pg, struct error *err)
{
    bool more = false;

    for (struct table *t = b->first_table; t; t = t->next) {
        t->at = t->steps;
        more = true;
    }
    while (more) {
        if (!run_round(b, pg, err))
            return false;
        more = false;
        for (struct table *t = b->first_table; t; t = t->next) {
            t->at = t->at ? t->at->next : NULL;
            more = more || t->at;
        }
    }
    return true;
}
