/* misses.c - a bounded table of keys that keep differing. Open addressing; full means no new key is
 * counted. */
#include "tail.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <stdlib.h>

#define SLOTS ((size_t) 1 << 16)
#define SUSPICIOUS 3
#define SPACING_US 1500000 /* replay has long passed a row that has been the same for so long */

static uint64_t mix(uint64_t h, const void *data, size_t len)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 1099511628211u; /* FNV-1a */
    return h;
}

uint64_t misses_hash(uint64_t before, const void *data, size_t len)
{
    return mix(mix(before, &len, sizeof len), data, len);
}

static uint64_t hash_key(size_t table, size_t nkey, char *const *values, const int *lens)
{
    uint64_t h = mix(14695981039346656037u, &table, sizeof table);

    for (size_t k = 0; k < nkey; k++) {
        h = mix(h, &lens[k], sizeof lens[k]);
        h = mix(h, values[k], (size_t) lens[k]);
    }
    return h ? h : 1;
}

static size_t slot_of(const struct misses *m, uint64_t hash)
{
    size_t i = hash & (SLOTS - 1);

    while (m->items[i].hash && m->items[i].hash != hash)
        i = (i + 1) & (SLOTS - 1);
    return i;
}

void misses_add(struct misses *m, size_t table, size_t nkey, char *const *values, const int *lens,
                uint64_t row)
{
    int64_t now = clock_us();
    uint64_t hash = hash_key(table, nkey, values, lens);
    struct miss *item;

    if (!m->items)
        m->items = xcalloc(SLOTS, sizeof *m->items);
    item = &m->items[slot_of(m, hash)];
    if (!item->hash) {
        if (m->n >= SLOTS / 4 * 3)
            return;
        item->hash = hash;
        m->n++;
    }
    if (item->count > 0 && item->row == row) {
        if (now - item->at_us < SPACING_US)
            return;
    } else {
        m->suspicious -= item->count >= SUSPICIOUS;
        item->count = 0;
    }
    item->row = row;
    item->at_us = now;
    if (++item->count == SUSPICIOUS)
        m->suspicious++;
}

/* What stood behind the freed slot moves up, so that a search still finds it. */
static void close_gap(struct misses *m, size_t gap)
{
    for (size_t i = (gap + 1) & (SLOTS - 1); m->items[i].hash; i = (i + 1) & (SLOTS - 1)) {
        size_t home = m->items[i].hash & (SLOTS - 1);
        if (((i - home) & (SLOTS - 1)) < ((i - gap) & (SLOTS - 1)))
            continue;
        m->items[gap] = m->items[i];
        m->items[i] = (struct miss){0};
        gap = i;
    }
}

void misses_forget(struct misses *m, size_t table, size_t nkey, char *const *values,
                   const int *lens)
{
    size_t i;

    if (!m->n)
        return;
    i = slot_of(m, hash_key(table, nkey, values, lens));
    if (!m->items[i].hash)
        return;
    m->suspicious -= m->items[i].count >= SUSPICIOUS;
    m->items[i] = (struct miss){0};
    m->n--;
    close_gap(m, i);
}

void misses_release(struct misses *m)
{
    free(m->items);
    *m = (struct misses){0};
}
