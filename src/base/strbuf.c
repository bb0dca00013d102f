#include "base/strbuf.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>

void strbuf_reserve(struct strbuf *sb, size_t extra)
{
    if (extra >= STRBUF_CEILING - sb->len)
        BUG("string of %zu and %zu bytes is over the ceiling", sb->len, extra);
    size_t need = sb->len + extra + 1;
    if (need <= sb->cap)
        return;
    size_t cap = sb->cap ? sb->cap * 2 : 64;
    if (cap > STRBUF_CEILING)
        cap = STRBUF_CEILING;
    if (cap < need)
        cap = need;
    sb->data = xrealloc(sb->data, cap);
    sb->cap = cap;
    sb->data[sb->len] = '\0';
}

void strbuf_add(struct strbuf *sb, const void *data, size_t len)
{
    strbuf_reserve(sb, len);
    if (len > 0)
        memcpy(sb->data + sb->len, data, len);
    sb->len += len;
    sb->data[sb->len] = '\0';
}

void strbuf_addstr(struct strbuf *sb, const char *s)
{
    strbuf_add(sb, s, strlen(s));
}

void strbuf_addch(struct strbuf *sb, char c)
{
    if (sb->len + 1 >= sb->cap)
        strbuf_reserve(sb, 1);
    sb->data[sb->len++] = c;
    sb->data[sb->len] = '\0';
}

void strbuf_addf(struct strbuf *sb, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    strbuf_addv(sb, fmt, ap);
    va_end(ap);
}

void strbuf_addv(struct strbuf *sb, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    strbuf_reserve(sb, 0);
    int len = vsnprintf(sb->data + sb->len, sb->cap - sb->len, fmt, ap);
    if (len < 0)
        BUG("format \"%s\" failed", fmt);
    if ((size_t) len >= sb->cap - sb->len) {
        sb->data[sb->len] = '\0';
        strbuf_reserve(sb, (size_t) len);
        vsnprintf(sb->data + sb->len, sb->cap - sb->len, fmt, again);
    }
    sb->len += (size_t) len;
    va_end(again);
}

void strbuf_reset(struct strbuf *sb)
{
    sb->len = 0;
    if (sb->data)
        sb->data[0] = '\0';
}

void strbuf_release(struct strbuf *sb)
{
    free(sb->data);
    *sb = (struct strbuf){0};
}

char *strbuf_take(struct strbuf *sb)
{
    strbuf_reserve(sb, 0);
    char *data = sb->data;
    *sb = (struct strbuf){0};
    return data;
}

const char *strbuf_cstr(const struct strbuf *sb)
{
    return sb->data ? sb->data : "";
}

char *xstrfmt(const char *fmt, ...)
{
    struct strbuf sb = {0};
    va_list ap;
    va_start(ap, fmt);
    strbuf_addv(&sb, fmt, ap);
    va_end(ap);
    return strbuf_take(&sb);
}
