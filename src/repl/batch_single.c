/*
 * batch_single.c - changes that are no set by their keys: key changes, and whatever hits rows of a
 * table without a key. The latter cost a search each. Where an index serves that search, one by one
 * is best; where it is a pass over the table, many are gathered into one pass. Which of the two is
 * measured as it goes.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "batch_private.h"

#include <stdlib.h>

#define SLOW_US 1000
#define WORTH_A_PASS 4
#define FIRST_IMAGES 64

/* The session looks rows up by key and has these off; a pass over the table wants them. */
static const char pass_settings[] = "SET enable_hashjoin = on; SET enable_seqscan = on";
static const char key_settings[] = "SET enable_hashjoin = off; SET enable_seqscan = off";

static uint64_t hash_row(const struct map_table *mt, const struct pgo_value *row)
{
    uint64_t h = 1;

    for (size_t j = 0; j < mt->nsource; j++) {
        h = batch_mix(h, (uint64_t) (unsigned char) row[j].kind << 32 | row[j].len);
        for (uint32_t i = 0; row[j].kind == 't' && i < row[j].len; i++)
            h = batch_mix(h, (unsigned char) row[j].data[i]);
    }
    return h ? h : 1;
}

static size_t image_slot(const struct images *m, uint64_t hash)
{
    size_t at = hash & (m->cap - 1);

    while (m->slots[at] && m->slots[at] != hash)
        at = (at + 1) & (m->cap - 1);
    return at;
}

bool images_have(const struct step *s, const struct map_table *mt, const struct pgo_value *row)
{
    return s->made.n > 0 && s->made.slots[image_slot(&s->made, hash_row(mt, row))] != 0;
}

static void images_grow(struct batch *b, struct images *m)
{
    struct images old = *m;

    m->cap = old.cap ? old.cap * 2 : FIRST_IMAGES;
    m->slots = arena_alloc(b->arena, m->cap * sizeof *m->slots);
    memset(m->slots, 0, m->cap * sizeof *m->slots);
    for (size_t i = 0; i < old.cap; i++)
        if (old.slots[i])
            m->slots[image_slot(m, old.slots[i])] = old.slots[i];
}

void images_add(struct batch *b, struct step *s, const struct map_table *mt,
                const struct pgo_value *row)
{
    uint64_t hash = hash_row(mt, row);
    size_t at;

    if ((s->made.n + 1) * 2 > s->made.cap)
        images_grow(b, &s->made);
    at = image_slot(&s->made, hash);
    s->made.n += s->made.slots[at] == 0;
    s->made.slots[at] = hash;
}

static bool run_pass(struct batch *b, struct pg *pg, const struct map_table *mt, const char *sql,
                     size_t n, struct error *err)
{
    int64_t affected = 0;

    if (!pg_exec(pg, pass_settings, err) || !batch_execute(b, pg, sql, &affected, err) ||
        !pg_exec(pg, key_settings, err))
        return false;
    if (affected == (int64_t) n)
        return true;
    return error_set(err, ERR_CONFLICT, "%zu rows of %s.%s met %lld", n, mt->source->schema,
                     mt->source->name, (long long) affected);
}

/* Those of the changes from first on that one statement can take: the deletes (m NULL), or the
 * updates that carry the columns of m. */
static size_t choose(struct batch *b, struct table *t, struct change *first, const struct mask *m,
                     const struct pgo_value **old, const struct pgo_value **new)
{
    size_t n = 0;

    for (struct change *c = first; c; c = c->next_single) {
        if ((c->op == OP_DELETE) != (m == NULL) || (m && table_mask(b, t, c->row, c->partial) != m))
            continue;
        old[n] = c->old;
        new[n++] = c->row;
    }
    return n;
}

/* *possible false: some update can't be said as one of many; nothing was done. */
static bool run_passes(struct batch *b, struct pg *pg, struct table *t, struct change *first,
                       size_t count, bool *possible, struct error *err)
{
    const struct pgo_value **old = arena_alloc(b->arena, count * sizeof(*old));
    const struct pgo_value **new = arena_alloc(b->arena, count * sizeof(*new));
    size_t n;

    for (struct change *c = first; c; c = c->next_single)
        if (c->op == OP_UPDATE) {
            struct mask *m = table_mask(b, t, c->row, c->partial);

            *possible = *possible && m->stale < 0 && mask_update_rows(t, m);
        }
    if (!*possible)
        return true;
    n = choose(b, t, first, NULL, old, new);
    bind_none(b);
    bind_rows(b, t->mt, NULL, old, n);
    if (n > 0 && !run_pass(b, pg, t->mt, table_delete_rows(t), n, err))
        return false;
    for (size_t i = 0; i < t->nmasks; i++) {
        struct mask *m = t->masks[i];

        n = choose(b, t, first, m, old, new);
        bind_none(b);
        bind_rows(b, t->mt, NULL, old, n);
        bind_rows(b, t->mt, m->present, new, n);
        if (n > 0 && !run_pass(b, pg, t->mt, mask_update_rows(t, m), n, err))
            return false;
    }
    return true;
}

static size_t count_from(const struct change *c)
{
    size_t n = 0;

    for (; c; c = c->next_single)
        n++;
    return n;
}

bool singles_run(struct batch *b, struct pg *pg, struct table *t, struct error *err)
{
    size_t left = count_from(t->at->singles);
    bool possible = t->mt->nsource_key == 0 && t->mt->nsource > 0;

    for (struct change *c = t->at->singles; c; c = c->next_single, left--) {
        int64_t began = clock_us(), took;

        if (possible && t->single_us > SLOW_US && left >= WORTH_A_PASS) {
            if (!run_passes(b, pg, t, c, left, &possible, err))
                return false;
            if (possible)
                return true;
        }
        if (!change_run(b, pg, c, err))
            return false;
        took = clock_us() - began;
        t->single_us = t->single_us ? (t->single_us * 3 + took) / 4 : took;
    }
    return true;
}
