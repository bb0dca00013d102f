/* quote.c - names, literals and arrays for generated SQL; fields of results. */
#include "private.h"

#include "base/wire.h"

#include <stdlib.h>
#include <string.h>

void pg_add_ident(struct strbuf *sb, const char *name)
{
    strbuf_addch(sb, '"');
    for (const char *p = name; *p; p++) {
        if (*p == '"')
            strbuf_addch(sb, '"');
        strbuf_addch(sb, *p);
    }
    strbuf_addch(sb, '"');
}

/* Server encodings never have ASCII bytes inside a character, and ours is the server's or UTF-8. */
void pg_add_literal(struct strbuf *sb, const char *text)
{
    if (strchr(text, '\\'))
        strbuf_addstr(sb, " E");
    strbuf_addch(sb, '\'');
    for (const char *p = text; *p; p++) {
        if (*p == '\'' || *p == '\\')
            strbuf_addch(sb, *p);
        strbuf_addch(sb, *p);
    }
    strbuf_addch(sb, '\'');
}

/* array_recv: dimensions, has-null flag, element type; for each dimension length and lower bound;
 * elements. */
void pg_text_array(struct strbuf *sb, size_t n, const char *const *values, const int *lens)
{
    bool nulls = false;

    strbuf_reset(sb);
    for (size_t i = 0; i < n; i++)
        nulls = nulls || !values[i];
    wire_put_u32(sb, n ? 1 : 0);
    wire_put_u32(sb, nulls ? 1 : 0);
    wire_put_u32(sb, 25); /* text */
    if (!n)
        return;
    wire_put_u32(sb, (uint32_t) n);
    wire_put_u32(sb, 1);
    for (size_t i = 0; i < n; i++) {
        if (!values[i]) {
            wire_put_u32(sb, UINT32_MAX);
            continue;
        }
        wire_put_u32(sb, (uint32_t) lens[i]);
        strbuf_add(sb, values[i], (size_t) lens[i]);
    }
}

void add_oid_array(struct strbuf *sb, const Oid *oids, size_t n)
{
    strbuf_addch(sb, '{');
    for (size_t i = 0; i < n; i++)
        strbuf_addf(sb, "%s%u", i ? "," : "", oids[i]);
    strbuf_addch(sb, '}');
}

const char *res_text(const PGresult *res, int row, int col)
{
    return PQgetvalue(res, row, col);
}

int64_t res_int(const PGresult *res, int row, int col)
{
    return strtoll(PQgetvalue(res, row, col), NULL, 10);
}

Oid res_oid(const PGresult *res, int row, int col)
{
    return (Oid) strtoul(PQgetvalue(res, row, col), NULL, 10);
}

bool res_bool(const PGresult *res, int row, int col)
{
    return PQgetvalue(res, row, col)[0] == 't';
}

char res_char(const PGresult *res, int row, int col)
{
    return PQgetvalue(res, row, col)[0];
}

lsn_t res_lsn(const PGresult *res, int row, int col)
{
    lsn_t lsn = 0;

    return lsn_parse(PQgetvalue(res, row, col), &lsn) ? lsn : 0;
}

void copy_text(char *to, size_t size, const char *from)
{
    size_t len = strnlen(from ? from : "", size - 1);

    memcpy(to, from ? from : "", len);
    to[len] = '\0';
}
