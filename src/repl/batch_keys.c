/* batch_keys.c - keys of what was flushed, kept until the commit: only then may they be compared.
 */
#include "base/alloc.h"
#include "batch_private.h"

/* A transaction that changes more than this lets its tables be compared as a whole. */
#define KEYS_CEILING ((size_t) 128 * 1024 * 1024)

void keys_whole(struct batch *b, struct table *t)
{
    if (t->whole)
        return;
    t->whole = true;
    *VEC_ADD(b->keys.whole, b->keys.nwhole, b->keys.capwhole) = t;
}

static void add_key(struct batch *b, struct table *t, const struct pgo_value *row)
{
    const struct map_table *mt = t->mt;
    struct arena *arena = b->keys.arena;

    if (t->whole)
        return;
    if (arena_used(arena) > KEYS_CEILING) {
        keys_whole(b, t);
        return;
    }
    struct key_entry *k = arena_alloc(arena, sizeof *k);
    *k = (struct key_entry){.next = b->keys.first, .mt = mt};
    k->values = arena_alloc(arena, mt->nsource_key * sizeof(*k->values));
    k->lens = arena_alloc(arena, mt->nsource_key * sizeof *k->lens);
    for (size_t i = 0; i < mt->nsource_key; i++) {
        const struct pgo_value *v = &row[mt->source_key[i]];
        k->values[i] = arena_strndup(arena, v->data, v->len);
        k->lens[i] = (int) v->len;
    }
    b->keys.first = k;
}

static void gather_step(struct batch *b, struct table *t, const struct step *s)
{
    for (const struct row *row = s->rows; row; row = row->next)
        add_key(b, t, row->key);
    for (const struct change *c = s->singles; c; c = c->next_single) {
        add_key(b, t, c->key);
        add_key(b, t, c->row);
    }
}

void keys_gather(struct batch *b)
{
    for (struct table *t = b->first_table; t; t = t->next) {
        if (t->mt->nsource_key == 0)
            keys_whole(b, t);
        for (const struct step *s = t->steps; s && !t->whole; s = s->next)
            gather_step(b, t, s);
    }
}

static void add_to(const struct batch *b, struct touched *set)
{
    for (const struct key_entry *k = b->keys.first; set && k; k = k->next)
        touched_add(set, k->mt->index, k->mt->nsource_key, k->values, k->lens);
    for (size_t i = 0; set && i < b->keys.nwhole; i++)
        touched_add_whole(set, b->keys.whole[i]->mt->index);
}

void keys_hand_over(struct batch *b, struct touched *touched, struct touched *changed)
{
    add_to(b, touched);
    add_to(b, changed);
    keys_forget(b);
}

void keys_forget(struct batch *b)
{
    for (size_t i = 0; i < b->keys.nwhole; i++)
        b->keys.whole[i]->whole = false;
    b->keys.nwhole = 0;
    b->keys.first = NULL;
    arena_reset(b->keys.arena);
}
