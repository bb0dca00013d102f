/*
 * touched.c - sets of keys, one a table: a ring of keys in the order in which they came, and over
 * it an open-addressing hash table (linear probing, deletion by shifting back) whose slots hold
 * positions in the ring. Oldest keys are taken first, so that one that differs and is put back
 * waits behind all others.
 */
#include "map/touched.h"

#include "base/alloc.h"

#include <pthread.h>
#include <stdlib.h>

#define BYTES_PER_KEY 128 /* what a key may hold on average before memory counts as full */

struct key {
    uint64_t hash;
    uint32_t size; /* of data */
    uint32_t nkey;
    char data[]; /* per column: length, bytes, NUL */
};

struct set {
    struct key **ring; /* key number s is ring[s & (cap - 1)], for first <= s < first + n */
    uint64_t *slots;   /* key number + 1; 0: free. twice as many as cap */
    uint64_t first;
    size_t n, cap;
    size_t bytes;
    bool whole;
};

struct touched {
    pthread_mutex_t mutex;
    struct set *sets;
    size_t ntables;
    size_t max_keys, max_bytes;
    size_t keys, bytes, whole;
};

struct touched *touched_new(size_t ntables, size_t max_keys)
{
    struct touched *t = xcalloc(1, sizeof *t);
    pthread_mutex_init(&t->mutex, NULL);
    t->sets = xcalloc(ntables + 1, sizeof *t->sets);
    t->ntables = ntables;
    t->max_keys = max_keys;
    t->max_bytes = max_keys > SIZE_MAX / BYTES_PER_KEY ? SIZE_MAX : max_keys * BYTES_PER_KEY;
    return t;
}

static struct set *set_of(struct touched *t, size_t table)
{
    if (table >= t->ntables)
        BUG("table %zu of %zu", table, t->ntables);
    return &t->sets[table];
}

static struct key **at(const struct set *s, uint64_t number)
{
    return &s->ring[number & (s->cap - 1)];
}

static void empty(struct touched *t, struct set *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(*at(s, s->first + i));
    free(s->ring);
    free(s->slots);
    t->keys -= s->n;
    t->bytes -= s->bytes;
    *s = (struct set){.whole = s->whole};
}

void touched_free(struct touched *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->ntables; i++)
        empty(t, &t->sets[i]);
    pthread_mutex_destroy(&t->mutex);
    free(t->sets);
    free(t);
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static struct key *make_key(size_t nkey, const char *const *values, const int *lens)
{
    size_t size = 0;
    for (size_t i = 0; i < nkey; i++)
        size += sizeof(uint32_t) + (size_t) lens[i] + 1;
    struct key *key = xmalloc(sizeof *key + size);
    char *p = key->data;
    for (size_t i = 0; i < nkey; i++) {
        uint32_t len = (uint32_t) lens[i];
        memcpy(p, &len, sizeof len);
        memcpy(p + sizeof len, values[i], len);
        p[sizeof len + len] = '\0';
        p += sizeof len + len + 1;
    }
    key->size = (uint32_t) size;
    key->nkey = (uint32_t) nkey;
    key->hash = hash_bytes(14695981039346656037u, key->data, size);
    key->hash ^= key->hash >> 29;
    return key;
}

/* The slot that holds an equal key, or the free one where it would go. cap is not 0. */
static size_t find_slot(const struct set *s, const struct key *key)
{
    size_t mask = s->cap * 2 - 1, i = key->hash & mask;
    for (; s->slots[i]; i = (i + 1) & mask) {
        const struct key *other = *at(s, s->slots[i] - 1);
        if (other->hash == key->hash && other->size == key->size &&
            memcmp(other->data, key->data, key->size) == 0)
            break;
    }
    return i;
}

static void grow(struct set *s)
{
    struct set bigger = {.first = 0, .n = s->n, .bytes = s->bytes, .whole = s->whole};
    bigger.cap = s->cap ? s->cap * 2 : 64;
    bigger.ring = xcalloc(bigger.cap, sizeof(struct key *));
    bigger.slots = xcalloc(bigger.cap * 2, sizeof *bigger.slots);
    for (size_t i = 0; i < s->n; i++) {
        struct key *key = *at(s, s->first + i);
        *at(&bigger, i) = key;
        bigger.slots[find_slot(&bigger, key)] = i + 1;
    }
    free(s->ring);
    free(s->slots);
    *s = bigger;
}

/* Frees slot i: keys behind it move up where their way from home led past it. */
static void free_slot(struct set *s, size_t i)
{
    size_t mask = s->cap * 2 - 1, next = i;
    s->slots[i] = 0;
    for (;;) {
        next = (next + 1) & mask;
        if (!s->slots[next])
            return;
        size_t home = (*at(s, s->slots[next] - 1))->hash & mask;
        if (((next - home) & mask) < ((next - i) & mask))
            continue;
        s->slots[i] = s->slots[next];
        s->slots[next] = 0;
        i = next;
    }
}

static struct key *take_first(struct touched *t, struct set *s)
{
    struct key *key = *at(s, s->first);
    free_slot(s, find_slot(s, key));
    s->first++;
    s->n--;
    s->bytes -= key->size;
    t->keys--;
    t->bytes -= key->size;
    return key;
}

static void make_whole(struct touched *t, struct set *s)
{
    empty(t, s);
    t->whole += !s->whole;
    s->whole = true;
}

/* Out of room: the table with the most keys is the one whose keys say least and weigh most. */
static void overflow(struct touched *t)
{
    struct set *most = &t->sets[0];
    for (size_t i = 1; i < t->ntables; i++)
        if (t->sets[i].bytes > most->bytes ||
            (t->sets[i].bytes == most->bytes && t->sets[i].n > most->n))
            most = &t->sets[i];
    make_whole(t, most);
}

/* Takes key over. */
static void add(struct touched *t, struct set *s, struct key *key)
{
    if (s->whole || (s->cap && s->slots[find_slot(s, key)])) {
        free(key);
        return;
    }
    if (s->n == s->cap)
        grow(s);
    s->slots[find_slot(s, key)] = s->first + s->n + 1;
    *at(s, s->first + s->n) = key;
    s->n++;
    s->bytes += key->size;
    t->keys++;
    t->bytes += key->size;
    while (t->keys > t->max_keys || t->bytes > t->max_bytes)
        overflow(t);
}

void touched_add(struct touched *t, size_t table, size_t nkey, const char *const *values,
                 const int *lens)
{
    struct key *key = make_key(nkey, values, lens);
    pthread_mutex_lock(&t->mutex);
    add(t, set_of(t, table), key);
    pthread_mutex_unlock(&t->mutex);
}

void touched_add_whole(struct touched *t, size_t table)
{
    pthread_mutex_lock(&t->mutex);
    make_whole(t, set_of(t, table));
    pthread_mutex_unlock(&t->mutex);
}

bool touched_has(struct touched *t, size_t table, size_t nkey, const char *const *values,
                 const int *lens)
{
    struct key *key = make_key(nkey, values, lens);
    pthread_mutex_lock(&t->mutex);
    const struct set *s = set_of(t, table);
    bool found = s->whole || (s->cap && s->slots[find_slot(s, key)]);
    pthread_mutex_unlock(&t->mutex);
    free(key);
    return found;
}

static void batch_start(struct touched_batch *out, size_t n, size_t nkey)
{
    *out = (struct touched_batch){.nkey = nkey};
    if (n == 0)
        return;
    out->values = xcalloc(n * nkey + 1, sizeof *out->values);
    out->lens = xcalloc(n * nkey + 1, sizeof *out->lens);
}

static void batch_add(struct touched_batch *out, const struct key *key)
{
    const char *p = key->data;
    if (key->nkey != out->nkey)
        BUG("keys of %u and %zu columns in one table", key->nkey, out->nkey);
    for (size_t i = 0; i < out->nkey; i++) {
        uint32_t len;
        memcpy(&len, p, sizeof len);
        char *value = xmalloc((size_t) len + 1);
        memcpy(value, p + sizeof len, (size_t) len + 1);
        out->values[out->n * out->nkey + i] = value;
        out->lens[out->n * out->nkey + i] = (int) len;
        p += sizeof len + len + 1;
    }
    out->n++;
}

void touched_take(struct touched *t, size_t table, size_t max, struct touched_batch *out)
{
    pthread_mutex_lock(&t->mutex);
    struct set *s = set_of(t, table);
    size_t n = s->n < max ? s->n : max;
    batch_start(out, n, n ? (*at(s, s->first))->nkey : 0);
    while (out->n < n) {
        struct key *key = take_first(t, s);
        batch_add(out, key);
        free(key);
    }
    if (s->n == 0)
        empty(t, s);
    pthread_mutex_unlock(&t->mutex);
}

void touched_copy(struct touched *t, size_t table, struct touched_batch *out)
{
    pthread_mutex_lock(&t->mutex);
    const struct set *s = set_of(t, table);
    batch_start(out, s->n, s->n ? (*at(s, s->first))->nkey : 0);
    for (size_t i = 0; i < s->n; i++)
        batch_add(out, *at(s, s->first + i));
    pthread_mutex_unlock(&t->mutex);
}

void touched_put_back(struct touched *t, size_t table, const struct touched_batch *b, size_t i)
{
    touched_add(t, table, b->nkey, (const char *const *) b->values + i * b->nkey,
                b->lens + i * b->nkey);
}

void touched_batch_release(struct touched_batch *b)
{
    for (size_t i = 0; i < b->n * b->nkey; i++)
        free(b->values[i]);
    free(b->values);
    free(b->lens);
    *b = (struct touched_batch){0};
}

bool touched_whole(struct touched *t, size_t table, bool clear)
{
    pthread_mutex_lock(&t->mutex);
    struct set *s = set_of(t, table);
    bool whole = s->whole;
    if (clear && whole) {
        s->whole = false;
        t->whole--;
    }
    pthread_mutex_unlock(&t->mutex);
    return whole;
}

size_t touched_count(struct touched *t)
{
    pthread_mutex_lock(&t->mutex);
    size_t n = t->keys;
    pthread_mutex_unlock(&t->mutex);
    return n;
}

size_t touched_count_table(struct touched *t, size_t table)
{
    pthread_mutex_lock(&t->mutex);
    size_t n = set_of(t, table)->n;
    pthread_mutex_unlock(&t->mutex);
    return n;
}

size_t touched_whole_count(struct touched *t)
{
    pthread_mutex_lock(&t->mutex);
    size_t n = t->whole;
    pthread_mutex_unlock(&t->mutex);
    return n;
}

void touched_clear(struct touched *t)
{
    pthread_mutex_lock(&t->mutex);
    for (size_t i = 0; i < t->ntables; i++) {
        empty(t, &t->sets[i]);
        t->sets[i].whole = false;
    }
    t->whole = 0;
    pthread_mutex_unlock(&t->mutex);
}

void touched_move(struct touched *from, struct touched *to)
{
    for (size_t i = 0; i < from->ntables; i++) {
        pthread_mutex_lock(&from->mutex);
        struct set moved = *set_of(from, i);
        from->keys -= moved.n;
        from->bytes -= moved.bytes;
        from->whole -= moved.whole;
        from->sets[i] = (struct set){0};
        pthread_mutex_unlock(&from->mutex);

        pthread_mutex_lock(&to->mutex);
        if (moved.whole)
            make_whole(to, set_of(to, i));
        for (size_t k = 0; k < moved.n; k++)
            add(to, set_of(to, i), *at(&moved, moved.first + k));
        pthread_mutex_unlock(&to->mutex);
        free(moved.ring);
        free(moved.slots);
    }
}
