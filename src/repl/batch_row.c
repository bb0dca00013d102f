/* batch_row.c - a change out of a message, and what a set does to one key. */
#include "base/alloc.h"
#include "batch_private.h"

#include <stdlib.h>

#define FIRST_SLOTS 256

static bool odd_value(const struct map_table *mt, const char *what, struct error *err)
{
    return error_set(err, ERR_PROTOCOL, "a change of %s.%s has %s", mt->source->schema,
                     mt->source->name, what);
}

static bool has_unchanged(const struct pgo_value *row, size_t n)
{
    for (size_t j = 0; j < n; j++)
        if (row[j].kind == 'u')
            return true;
    return false;
}

/* row with its unchanged values taken from `from`, where that has them (all, or the columns of
 * only). */
static const struct pgo_value *filled(struct batch *b, const struct table *t,
                                      const struct pgo_value *row, const struct pgo_value *from,
                                      const bool *only)
{
    size_t n = t->mt->nsource;
    struct pgo_value *copy = arena_dup(b->arena, row, n * sizeof *copy);

    for (size_t j = 0; j < n; j++)
        if (copy[j].kind == 'u' && (!only || only[j]))
            copy[j] = from[j];
    return copy;
}

static bool same_value(const struct pgo_value *a, const struct pgo_value *b)
{
    return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

static bool same_key(const struct map_table *mt, const struct pgo_value *a,
                     const struct pgo_value *b)
{
    if (a == b)
        return true;
    for (size_t i = 0; i < mt->nsource_key; i++)
        if (!same_value(&a[mt->source_key[i]], &b[mt->source_key[i]]))
            return false;
    return true;
}

static bool check_key(const struct map_table *mt, const struct pgo_value *row, struct error *err)
{
    for (size_t i = 0; i < mt->nsource_key; i++)
        if (row[mt->source_key[i]].kind != 't')
            return odd_value(mt, "a key without a value", err);
    return true;
}

static bool fill_update(struct batch *b, struct change *c, const struct table *t,
                        const struct pgo_value *old, char old_kind, struct error *err)
{
    const struct map_table *mt = t->mt;

    c->op = OP_UPDATE;
    c->key = old ? old : c->row;
    if (old && has_unchanged(c->row, mt->nsource))
        c->row = filled(b, t, c->row, old, old_kind == 'O' ? NULL : t->key_columns);
    c->partial = has_unchanged(c->row, mt->nsource);
    if (!check_key(mt, c->key, err) || !check_key(mt, c->row, err))
        return false;
    if (!same_key(mt, c->key, c->row))
        c->op = OP_REKEY;
    return true;
}

bool change_fill(struct batch *b, struct change *c, const struct relation *r,
                 const struct pgo_message *m, struct error *err)
{
    const struct map_table *mt = r->mt;
    const struct table *t = batch_table(b, mt);
    const struct pgo_value *old = NULL;

    if (m->old_kind && !relation_row(r, &m->old_row, b->arena, &old, err))
        return false;
    if (m->type != PGO_DELETE && !relation_row(r, &m->new_row, b->arena, &c->row, err))
        return false;
    c->old = m->old_kind == 'O' ? old : NULL;
    if (mt->nsource_key == 0 && m->type != PGO_INSERT && !c->old)
        return odd_value(mt, "no old row, and the table has no key", err);
    switch (m->type) {
    case PGO_INSERT:
        c->op = OP_INSERT;
        c->key = c->row;
        if (has_unchanged(c->row, mt->nsource))
            return odd_value(mt, "a new row with a value left out", err);
        return check_key(mt, c->key, err);
    case PGO_UPDATE:
        return fill_update(b, c, t, old, m->old_kind, err);
    case PGO_DELETE:
        c->op = OP_DELETE;
        c->key = old;
        return old ? check_key(mt, old, err) : odd_value(mt, "no old key", err);
    default:
        BUG("message '%c' is no change of a row", (char) m->type);
    }
}

uint64_t batch_mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15ULL;
    return h ^ (h >> 29);
}

static uint64_t hash_key(const struct map_table *mt, const struct pgo_value *row)
{
    uint64_t h = mt->index + 1;

    for (size_t i = 0; i < mt->nsource_key; i++) {
        const struct pgo_value *v = &row[mt->source_key[i]];
        const char *p = v->data;
        size_t left = v->len;
        for (; left >= 8; p += 8, left -= 8) {
            uint64_t word;
            memcpy(&word, p, 8);
            h = batch_mix(h, word);
        }
        uint64_t tail = 0;
        if (left > 0)
            memcpy(&tail, p, left);
        h = batch_mix(h, tail ^ ((uint64_t) v->len << 56));
    }
    return h;
}

static void grow_slots(struct batch *b)
{
    struct slot *old = b->slots;
    size_t nold = b->nslots;

    b->nslots = nold ? nold * 2 : FIRST_SLOTS;
    b->slots = xcalloc(b->nslots, sizeof *b->slots);
    for (size_t i = 0; i < nold; i++) {
        if (old[i].epoch != b->epoch)
            continue;
        size_t at = old[i].row->hash & (b->nslots - 1);
        while (b->slots[at].epoch == b->epoch)
            at = (at + 1) & (b->nslots - 1);
        b->slots[at] = old[i];
    }
    free(old);
}

static struct row *new_row(struct batch *b, struct step *s, const struct change *c)
{
    struct row *row = arena_alloc(b->arena, sizeof *row);

    *row = (struct row){.step = s, .key = c->key};
    if (s->last_row)
        s->last_row->next = row;
    else
        s->rows = row;
    s->last_row = row;
    s->nrows++;
    return row;
}

/* The row of c's key in the table's open set. Rows of closed sets are in the hash and never match.
 */
static struct row *find_row(struct batch *b, struct table *t, const struct change *c)
{
    uint64_t hash = hash_key(t->mt, c->key);

    if ((b->used + 1) * 2 > b->nslots)
        grow_slots(b);
    size_t at = hash & (b->nslots - 1);
    for (; b->slots[at].epoch == b->epoch; at = (at + 1) & (b->nslots - 1)) {
        struct row *row = b->slots[at].row;
        if (row->hash == hash && row->step == t->last && same_key(t->mt, row->key, c->key))
            return row;
    }
    struct row *row = new_row(b, t->last, c);
    row->hash = hash;
    b->slots[at] = (struct slot){b->epoch, row};
    b->used++;
    return row;
}

/* ROW_NONE: can't follow. */
static const enum row_state next_state[][3] = {
    /*                OP_INSERT    OP_UPDATE    OP_DELETE */
    [ROW_NONE] = {ROW_INSERT, ROW_UPDATE, ROW_DELETE},
    [ROW_INSERT] = {ROW_NONE, ROW_INSERT, ROW_NOTHING},
    [ROW_UPDATE] = {ROW_NONE, ROW_UPDATE, ROW_DELETE},
    [ROW_DELETE] = {ROW_REPLACE, ROW_NONE, ROW_NONE},
    [ROW_REPLACE] = {ROW_NONE, ROW_REPLACE, ROW_DELETE},
    [ROW_NOTHING] = {ROW_INSERT, ROW_NONE, ROW_NONE},
};

/* c's own row is completed as well: done one by one it has the same values, only fewer unknown. */
void row_apply(struct batch *b, struct table *t, struct change *c)
{
    bool keyed = t->mt->nsource_key > 0;
    struct row *row = keyed ? find_row(b, t, c) : new_row(b, t->last, c);
    enum row_state next = next_state[row->state][c->op];

    if (next == ROW_NONE) {
        b->odd = true;
        return;
    }
    if (c->partial && row->state != ROW_NONE) {
        c->row = filled(b, t, c->row, row->values, NULL);
        c->partial = has_unchanged(c->row, t->mt->nsource);
    }
    row->state = next;
    row->values = c->row;
    row->partial = c->partial;
}

void rows_forget(struct batch *b)
{
    b->epoch++;
    b->used = 0;
}
