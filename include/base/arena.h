/*
 * arena.h - memory for one batch, let go all at once. Blocks are kept on reset up to keep_bytes, so
 * a long replay doesn't churn malloc. Not thread-safe: one owner.
 */
#ifndef PGCUTOVER_BASE_ARENA_H
#define PGCUTOVER_BASE_ARENA_H

#include <stddef.h>

struct arena;

struct arena *arena_new(size_t keep_bytes);
void arena_free(struct arena *a);
void arena_reset(struct arena *a);
void *arena_alloc(struct arena *a, size_t size); /* 16-byte aligned, not zeroed */
void *arena_dup(struct arena *a, const void *data, size_t size);
char *arena_strndup(struct arena *a, const char *s, size_t len); /* NUL-terminated copy */
size_t arena_used(const struct arena *a); /* bytes handed out since the last reset */

#endif
