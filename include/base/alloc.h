/*
 * alloc.h - memory that is there or the program ends. A release tool that can't get a few kilobytes
 * has no better answer than to die at once: every state of ours survives kill -9 (the journal,
 * DESIGN 8).
 */
#ifndef PGCUTOVER_BASE_ALLOC_H
#define PGCUTOVER_BASE_ALLOC_H

#include <stddef.h>
#include <string.h>

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size); /* overflow-checked */
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s); /* NULL gives NULL */
char *xstrndup(const char *s, size_t len);

/*
 * Growable arrays: a pointer, a count and a capacity side by side.
 *     struct table *tables; size_t ntables, captables;
 *     *VEC_ADD(x->tables, x->ntables, x->captables) = (struct table){...};
 * VEC_ADD returns a pointer to a new zeroed element at the end.
 */
void *vec_grow(void *items, size_t *cap, size_t need, size_t size);
#define VEC_ADD(items, count, cap)                                                                 \
    ((items) = vec_grow((items), &(cap), (count) + 1, sizeof *(items)),                            \
     memset(&(items)[(count)], 0, sizeof *(items)), &(items)[(count)++])

#endif
