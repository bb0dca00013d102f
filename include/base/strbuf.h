/*
 * strbuf.h - the one string builder. Always NUL-terminated, may hold any bytes.
 * A zeroed struct strbuf is an empty one. data is NULL-safe through strbuf_cstr().
 * Growing past STRBUF_CEILING is a BUG: PostgreSQL's largest field is 1 GB.
 */
#ifndef PGCUTOVER_BASE_STRBUF_H
#define PGCUTOVER_BASE_STRBUF_H

#include "base/error.h"

#include <stddef.h>

#define STRBUF_CEILING ((size_t) 0x7fffffff)

struct strbuf {
    char *data;
    size_t len;
    size_t cap;
};

void strbuf_reserve(struct strbuf *sb, size_t extra);
void strbuf_add(struct strbuf *sb, const void *data, size_t len);
void strbuf_addstr(struct strbuf *sb, const char *s);
void strbuf_addch(struct strbuf *sb, char c);
void strbuf_addf(struct strbuf *sb, const char *fmt, ...) PRINTF(2, 3);
void strbuf_addv(struct strbuf *sb, const char *fmt, va_list ap);
void strbuf_reset(struct strbuf *sb);   /* empty, keeps the memory */
void strbuf_release(struct strbuf *sb); /* frees, leaves it empty and usable */
char *strbuf_take(
    struct strbuf *sb); /* caller owns the string (never NULL); sb is empty afterwards */
const char *strbuf_cstr(const struct strbuf *sb); /* "" when empty */

/* xmalloc'd printf */
char *xstrfmt(const char *fmt, ...) PRINTF(1, 2);

#endif
