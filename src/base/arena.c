#include "base/arena.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdint.h>
#include <stdlib.h>

#define ARENA_ALIGN 16
#define ARENA_FIRST_BLOCK ((size_t) 8 * 1024)
#define ARENA_LARGEST_STEP ((size_t) 1024 * 1024)

struct block {
    struct block *next;
    size_t size;
    _Alignas(ARENA_ALIGN) unsigned char data[];
};

/* Blocks of the batch are in full (the one in use first), blocks kept from earlier ones in spare.
 */
struct arena {
    struct block *full;
    struct block *spare;
    size_t at; /* offset into the block in use */
    size_t used;
    size_t keep_bytes;
    size_t step;
};

struct arena *arena_new(size_t keep_bytes)
{
    struct arena *a = xcalloc(1, sizeof *a);
    a->keep_bytes = keep_bytes;
    a->step = ARENA_FIRST_BLOCK;
    return a;
}

static void free_blocks(struct block *b)
{
    while (b) {
        struct block *next = b->next;
        free(b);
        b = next;
    }
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    free_blocks(a->full);
    free_blocks(a->spare);
    free(a);
}

static struct block *take_spare(struct arena *a, size_t size)
{
    for (struct block **at = &a->spare; *at; at = &(*at)->next) {
        struct block *b = *at;
        if (b->size >= size) {
            *at = b->next;
            return b;
        }
    }
    return NULL;
}

static struct block *new_block(struct arena *a, size_t size)
{
    size_t room = size > a->step ? size : a->step;
    if (a->step < ARENA_LARGEST_STEP)
        a->step *= 2;
    struct block *b = xmalloc(sizeof *b + room);
    b->size = room;
    return b;
}

static void add_block(struct arena *a, size_t size)
{
    struct block *b = take_spare(a, size);
    if (!b)
        b = new_block(a, size);
    b->next = a->full;
    a->full = b;
    a->at = 0;
}

/* Spare blocks stay allocated; when they don't suffice for the budget, the rest goes back to
 * malloc. */
void arena_reset(struct arena *a)
{
    struct block *all[2] = {a->full, a->spare};
    size_t kept = 0;

    a->full = a->spare = NULL;
    a->at = a->used = 0;
    for (int i = 0; i < 2; i++) {
        for (struct block *b = all[i], *next; b; b = next) {
            next = b->next;
            if (b->size > a->keep_bytes || kept > a->keep_bytes - b->size) {
                free(b);
                continue;
            }
            kept += b->size;
            b->next = a->spare;
            a->spare = b;
        }
    }
    if (kept == 0)
        a->step = ARENA_FIRST_BLOCK;
}

void *arena_alloc(struct arena *a, size_t size)
{
    if (size > SIZE_MAX / 2)
        BUG("arena allocation of %zu bytes", size);
    size_t rounded = (size + ARENA_ALIGN - 1) & ~(size_t) (ARENA_ALIGN - 1);
    if (rounded == 0)
        rounded = ARENA_ALIGN;
    if (!a->full || a->full->size - a->at < rounded)
        add_block(a, rounded);
    void *p = a->full->data + a->at;
    a->at += rounded;
    a->used += size;
    return p;
}

void *arena_dup(struct arena *a, const void *data, size_t size)
{
    void *copy = arena_alloc(a, size);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

char *arena_strndup(struct arena *a, const char *s, size_t len)
{
    char *copy = arena_alloc(a, len + 1);
    if (len > 0)
        memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

size_t arena_used(const struct arena *a)
{
    return a->used;
}
