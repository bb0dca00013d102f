/* server.c - what only green's server knows of types, operators and indexes: a query each for the
 * whole map. */
#include "derive.h"

#include "base/alloc.h"

#include <stdlib.h>

const char *oid_texts_find(const struct oid_texts *texts, Oid oid)
{
    size_t low = 0, high = texts->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (texts->items[mid].oid < oid)
            low = mid + 1;
        else
            high = mid;
    }
    return low < texts->n && texts->items[low].oid == oid ? texts->items[low].text : NULL;
}

static Oid oid_of(const PGresult *res, int row, int column)
{
    return (Oid) strtoul(PQgetvalue(res, row, column), NULL, 10);
}

/* Rows of (oid, text) in order of oid; param: an oid[] as text, or NULL. */
static bool read_oid_texts(struct derive *d, struct oid_texts *out, const char *sql,
                           const char *param, struct error *err)
{
    PGresult *res = NULL;
    if (!pg_query(d->pg, &res, PG_ANY, sql, param ? 1 : 0, &param, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        struct oid_text *item = VEC_ADD(out->items, out->n, out->cap);
        item->oid = oid_of(res, r, 0);
        item->text = xstrdup(PQgetvalue(res, r, 1));
    }
    PQclear(res);
    return true;
}

static int compare_oids(const void *a, const void *b)
{
    Oid x = *(const Oid *) a, y = *(const Oid *) b;
    return x < y ? -1 : x > y;
}

struct oids {
    Oid *items;
    size_t n, cap;
};

/* "{1,2,3}", each once; the list is freed */
static char *take_array(struct oids *list)
{
    struct strbuf sb = {0};
    if (list->n)
        qsort(list->items, list->n, sizeof *list->items, compare_oids);
    strbuf_addch(&sb, '{');
    for (size_t i = 0; i < list->n; i++)
        if (i == 0 || list->items[i] != list->items[i - 1])
            strbuf_addf(&sb, "%s%u", i ? "," : "", list->items[i]);
    strbuf_addch(&sb, '}');
    free(list->items);
    *list = (struct oids){0};
    return strbuf_take(&sb);
}

/* The types that columns had before the migrations, under the names that they have now. */
bool server_read_types(struct derive *d, struct error *err)
{
    struct oids list = {0};
    for (size_t i = 0; i < d->before->ntables; i++)
        for (size_t k = 0; k < d->before->tables[i].ncolumns; k++)
            *VEC_ADD(list.items, list.n, list.cap) = d->before->tables[i].columns[k].type;
    char *array = take_array(&list);
    bool ok =
        read_oid_texts(d, &d->types,
                       "SELECT t.oid, pg_catalog.format_type(t.oid, -1) FROM pg_catalog.pg_type t "
                       "WHERE t.oid = ANY ($1::pg_catalog.oid[]) ORDER BY t.oid",
                       array, err);
    free(array);
    if (ok)
        ok = read_oid_texts(d, &d->config_tables,
                            "SELECT DISTINCT c, '' FROM pg_catalog.pg_extension e, "
                            "pg_catalog.unnest(e.extconfig) AS c ORDER BY c",
                            NULL, err);
    if (ok)
        ok = read_oid_texts(d, &d->enums,
                            "SELECT t.oid, '' FROM pg_catalog.pg_type t LEFT JOIN "
                            "pg_catalog.pg_type e ON e.oid = t.typelem WHERE t.typtype = 'e' OR "
                            "e.typtype = 'e' ORDER BY t.oid",
                            NULL, err);
    return ok && read_oid_texts(d, &d->domain_defaults,
                                "SELECT t.oid, pg_catalog.pg_get_expr(t.typdefaultbin, 0) FROM "
                                "pg_catalog.pg_type t WHERE t.typtype = 'd' AND "
                                "t.typdefaultbin IS NOT NULL ORDER BY t.oid",
                                NULL, err);
}

/* Equality that an empty search_path doesn't find (citext's): without its schema the server would
 * take another one, which neither means the same nor is in the index. */
bool server_read_operators(struct derive *d, struct error *err)
{
    struct oids list = {0};
    for (size_t i = 0; i < d->map->ntables; i++)
        for (size_t k = 0; k < d->map->tables[i].ncolumns; k++)
            *VEC_ADD(list.items, list.n, list.cap) = d->map->tables[i].columns[k].target->type;
    char *array = take_array(&list);
    bool ok = read_oid_texts(
        d, &d->equals,
        "WITH RECURSIVE b AS (SELECT t.oid AS root, t.oid, t.typtype, t.typbasetype "
        "FROM pg_catalog.pg_type t WHERE t.oid = ANY ($1::pg_catalog.oid[]) "
        "UNION ALL SELECT b.root, t.oid, t.typtype, t.typbasetype "
        "FROM b JOIN pg_catalog.pg_type t ON b.typtype = 'd' AND t.oid = b.typbasetype) "
        "SELECT DISTINCT ON (b.root) b.root, 'OPERATOR(' || pg_catalog.quote_ident(n.nspname) || "
        "'.' || "
        "o.oprname || ')' FROM b JOIN pg_catalog.pg_opclass c ON c.opcintype = b.oid AND "
        "c.opcdefault "
        "JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree' "
        "JOIN pg_catalog.pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype "
        "AND a.amoprighttype = c.opcintype AND a.amopstrategy = 3 "
        "JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr "
        "JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace "
        "WHERE n.nspname <> 'pg_catalog' ORDER BY b.root",
        array, err);
    free(array);
    return ok;
}

static void parse_columns(struct index_info *info, const char *text)
{
    size_t cap = 0;
    char *end = NULL;
    for (long n = strtol(text, &end, 10); end != text; n = strtol(text, &end, 10)) {
        *VEC_ADD(info->columns, info->n, cap) = (int) n;
        text = end;
    }
}

bool server_read_indexes(struct derive *d, struct error *err)
{
    struct oids list = {0};
    PGresult *res = NULL;
    for (size_t i = 0; i < d->map->ntables; i++)
        if (d->map->tables[i].target)
            *VEC_ADD(list.items, list.n, list.cap) = d->map->tables[i].target->oid;
    char *array = take_array(&list);
    const char *param = array;
    bool ok = pg_query(
        d->pg, &res, PG_ANY,
        "SELECT i.indrelid, i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL, "
        "pg_catalog.array_to_string((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1], ' ') "
        "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_catalog.pg_am m ON m.oid = c.relam WHERE i.indisvalid AND i.indpred IS NULL "
        "AND m.amname IN ('btree', 'hash') AND i.indrelid = ANY ($1::pg_catalog.oid[]) "
        "ORDER BY i.indrelid, i.indexrelid",
        1, &param, err);
    free(array);
    for (int r = 0; ok && r < PQntuples(res); r++) {
        struct index_info *info = VEC_ADD(d->indexes, d->nindexes, d->capindexes);
        info->table = oid_of(res, r, 0);
        info->unique = PQgetvalue(res, r, 1)[0] == 't';
        parse_columns(info, PQgetvalue(res, r, 2));
    }
    PQclear(res);
    return ok;
}

const struct index_info *server_indexes_of(const struct derive *d, Oid table, size_t *n)
{
    size_t low = 0, high = d->nindexes;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (d->indexes[mid].table < table)
            low = mid + 1;
        else
            high = mid;
    }
    *n = 0;
    while (low + *n < d->nindexes && d->indexes[low + *n].table == table)
        (*n)++;
    return d->indexes + low;
}
