#include "base/alloc.h"

#include "base/error.h"

#include <stdlib.h>

static void *checked(void *p, size_t size)
{
    if (!p && size > 0)
        BUG("out of memory: %zu bytes", size);
    return p;
}

void *xmalloc(size_t size)
{
    size = size ? size : 1;
    return checked(malloc(size), size);
}

void *xcalloc(size_t count, size_t size)
{
    if (count == 0 || size == 0)
        count = size = 1;
    return checked(calloc(count, size), size);
}

void *xrealloc(void *p, size_t size)
{
    size = size ? size : 1;
    return checked(realloc(p, size), size);
}

char *xstrdup(const char *s)
{
    return s ? xstrndup(s, strlen(s)) : NULL;
}

char *xstrndup(const char *s, size_t len)
{
    len = strnlen(s, len);
    char *copy = xmalloc(len + 1);
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

void *vec_grow(void *items, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return items;
    size_t wanted = *cap ? *cap * 2 : 8;
    if (wanted < need)
        wanted = need;
    size_t bytes;
    if (__builtin_mul_overflow(wanted, size, &bytes))
        BUG("array of %zu elements of %zu bytes", wanted, size);
    *cap = wanted;
    return xrealloc(items, bytes);
}
