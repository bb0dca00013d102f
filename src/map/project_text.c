/* project_text.c - values as canonical text, the one form in which the two sides are compared. */
#include "map/project.h"

#include <stdlib.h>
#include <string.h>

#define OID_VARCHAR 1043
#define OID_BPCHAR 1042

/* Casts to text that are not the type's output function: true for t, blanks cut, an address without
 * its mask. https://www.postgresql.org/docs/15/sql-createcast.html: an I/O conversion is only what
 * no cast replaces. */
static const struct {
    Oid type;
    const char *out; /* NULL: the cast is binary */
} known_types[] = {
    {16, "boolout"},   {18, "charout"},           {19, "nameout"},
    {25, NULL},        {142, "xml_out"},          {650, "cidr_out"},
    {869, "inet_out"}, {OID_BPCHAR, "bpcharout"}, {OID_VARCHAR, NULL},
};

static void add_plain_text(struct strbuf *sb, const struct cat_column *col, const char *x)
{
    for (size_t i = 0; i < sizeof known_types / sizeof *known_types; i++) {
        if (known_types[i].type != col->type)
            continue;
        if (known_types[i].out)
            strbuf_addf(sb, "pg_catalog.textin(pg_catalog.%s(%s))", known_types[i].out, x);
        else
            strbuf_addf(sb, "(%s)::text", x);
        return;
    }
    if (col->text_cast_ok)
        strbuf_addf(sb, "(%s)::text", x);
    else /* format() calls the output function of whatever it is given, but makes '' of NULL */
        strbuf_addf(sb, "CASE WHEN (%s) IS NULL THEN NULL ELSE pg_catalog.format('%%s', %s) END", x,
                    x);
}

void project_text(struct strbuf *sb, const struct cat_column *col, const char *x)
{
    strbuf_addstr(sb, "(");
    add_plain_text(sb, col, x);
    strbuf_addstr(sb, " COLLATE pg_catalog.\"C\")");
}

/* n of "character varying(n)"; 0: no limit, or not a type that an explicit cast cuts (TRAPS 64) */
static long length_limit(const struct cat_column *col)
{
    if (col->type != OID_VARCHAR && col->type != OID_BPCHAR)
        return 0;
    const char *paren = strchr(col->type_full, '(');
    return paren ? strtol(paren + 1, NULL, 10) : 0;
}

void project_target_text(struct strbuf *sb, const struct map_table *mt, size_t c, const char *x)
{
    const struct map_column *mc = &mt->columns[c];
    const struct cat_column *col = mc->target;
    if (mc->same_type) {
        project_text(sb, col, x);
        return;
    }
    long limit = length_limit(col);
    strbuf_addstr(sb, "(");
    if (limit > 0)
        strbuf_addf(sb,
                    "CASE WHEN pg_catalog.char_length(pg_catalog.rtrim((%s)::text)) > %ld"
                    " THEN (%s)::text ELSE ",
                    x, limit, x);
    char *cast = xstrfmt("(%s)::%s", x, col->type_full);
    add_plain_text(sb, col, cast);
    free(cast);
    if (limit > 0)
        strbuf_addstr(sb, " END");
    strbuf_addstr(sb, " COLLATE pg_catalog.\"C\")");
}
