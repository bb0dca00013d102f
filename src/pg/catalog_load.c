/* catalog_load.c - a handful of set-based queries in one snapshot. */
#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static struct cat_table *find(struct catalog *cat, Oid oid)
{
    return (struct cat_table *) (uintptr_t) catalog_table_oid(cat, oid);
}

/* "1 2 3", as array_to_string and int2vector print it */
static int *numbers(const char *text, size_t *n)
{
    int *list = NULL;
    size_t cap = 0;

    *n = 0;
    while (*text) {
        char *end;
        long value = strtol(text, &end, 10);
        if (end == text)
            break;
        *VEC_ADD(list, *n, cap) = (int) value;
        for (text = end; *text == ' '; text++)
            ;
    }
    return list;
}

static bool load_tables(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    const char *sql =
        "SELECT c.oid, coalesce(i.inhparent, 0), coalesce(pg_catalog.pg_partition_root(c.oid), "
        "c.oid)::oid, "
        "n.nspname, c.relname, pg_catalog.quote_ident(n.nspname), "
        "pg_catalog.quote_ident(c.relname), c.relkind, "
        "c.relpersistence, c.relispartition, c.relreplident, c.reltuples, "
        "coalesce(pg_catalog.pg_table_size(c.oid), 0), e.objid IS NOT NULL "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhseqno = 1 "
        "LEFT JOIN pg_catalog.pg_depend e ON e.classid = "
        "'pg_catalog.pg_class'::pg_catalog.regclass "
        "AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e' "
        "WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND " USER_NAMESPACE
        " ORDER BY c.oid";

    if (!pg_query(pg, &res, PG_ANY, sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        struct cat_table *t = VEC_ADD(cat->tables, cat->ntables, cat->captables);
        t->oid = res_oid(res, r, 0);
        t->parent = res_oid(res, r, 1);
        t->root = res_oid(res, r, 2);
        t->schema = xstrdup(res_text(res, r, 3));
        t->name = xstrdup(res_text(res, r, 4));
        t->sql_schema = xstrdup(res_text(res, r, 5));
        t->sql_name = xstrfmt("%s.%s", res_text(res, r, 5), res_text(res, r, 6));
        t->relkind = res_char(res, r, 7);
        t->persistence = res_char(res, r, 8);
        t->is_partition = res_bool(res, r, 9);
        t->replident = res_char(res, r, 10);
        t->reltuples = strtod(res_text(res, r, 11), NULL);
        t->bytes = res_int(res, r, 12);
        t->in_extension = res_bool(res, r, 13);
        t->unique_indexes = xcalloc(1, sizeof *t->unique_indexes);
        cat->foreign_tables += t->relkind == 'f' ? 1 : 0;
    }
    PQclear(res);
    return true;
}

/*
 * One row a type that a column has. base: what is under the domains. A cast to text is the output
 * function when pg_cast has none (I/O conversion), or a binary-coercible one, but for xml, whose
 * output drops the declaration. Arrays, composites and domains have equality when all their parts
 * have.
 */
static const char types_cte[] =
    "WITH RECURSIVE used(t) AS (SELECT DISTINCT a.atttypid FROM pg_catalog.pg_attribute a "
    "JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = "
    "c.relnamespace "
    "WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND " USER_NAMESPACE
    "), "
    "dom(root, t, nn) AS (SELECT u.t, u.t, y.typtype = 'd' AND y.typnotnull FROM used u "
    "JOIN pg_catalog.pg_type y ON y.oid = u.t UNION ALL SELECT d.root, y.typbasetype, b.typtype = "
    "'d' AND "
    "b.typnotnull FROM dom d JOIN pg_catalog.pg_type y ON y.oid = d.t JOIN pg_catalog.pg_type b "
    "ON b.oid = y.typbasetype WHERE y.typtype = 'd'), "
    "parts(root, t) AS (SELECT u.t, u.t FROM used u UNION SELECT p.root, x.t FROM parts p "
    "JOIN pg_catalog.pg_type y ON y.oid = p.t CROSS JOIN LATERAL ("
    "SELECT y.typbasetype AS t WHERE y.typtype = 'd' UNION ALL "
    "SELECT y.typelem WHERE y.typcategory = 'A' AND y.typelem <> 0 AND y.typlen = -1 UNION ALL "
    "SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE y.typtype = 'c' AND a.attrelid = "
    "y.typrelid "
    "AND a.attnum > 0 AND NOT a.attisdropped) x), "
    "leaf AS (SELECT t, y.typtype IN ('d', 'c', 'e', 'r', 'm') OR (y.typcategory = 'A' AND "
    "y.typelem <> 0 AND "
    "y.typlen = -1) OR EXISTS (SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON "
    "m.oid = o.opcmethod "
    "WHERE o.opcdefault AND m.amname IN ('btree', 'hash') AND (o.opcintype = t OR EXISTS (SELECT "
    "FROM "
    "pg_catalog.pg_cast k WHERE k.castsource = t AND k.casttarget = o.opcintype AND k.castmethod = "
    "'b' AND "
    "k.castcontext = 'i'))) AS ok FROM (SELECT DISTINCT t FROM parts) q JOIN pg_catalog.pg_type y "
    "ON y.oid = q.t), "
    "eq AS (SELECT p.root, bool_and(l.ok) AS ok FROM parts p JOIN leaf l ON l.t = p.t GROUP BY "
    "p.root), "
    "base AS (SELECT d.root, max(d.t::int8) FILTER (WHERE y.typtype <> 'd') AS t, bool_or(d.nn) AS "
    "nn FROM dom d "
    "JOIN pg_catalog.pg_type y ON y.oid = d.t GROUP BY d.root), "
    "types AS (SELECT b.root AS oid, b.nn, eq.ok AS equality, b.t <> 142 AND NOT EXISTS (SELECT "
    "FROM "
    "pg_catalog.pg_cast k WHERE k.castsource = b.t::oid AND k.casttarget = 25 AND k.castmethod = "
    "'f') AS text_ok, "
    "pg_catalog.format_type(b.root, -1) AS name, y.typlen FROM base b JOIN eq ON eq.root = b.root "
    "JOIN pg_catalog.pg_type y ON y.oid = b.root) ";

static bool load_columns(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    struct strbuf sql = {0};
    struct cat_table *t = NULL;
    size_t cap = 0;
    bool ok;

    strbuf_addstr(&sql, types_cte);
    strbuf_addstr(
        &sql,
        "SELECT a.attrelid, a.attnum, a.attname, pg_catalog.quote_ident(a.attname), a.atttypid, "
        "y.name, "
        "CASE WHEN a.atttypmod < 0 THEN y.name ELSE pg_catalog.format_type(a.atttypid, "
        "a.atttypmod) END, "
        "a.attnotnull OR y.nn, a.attgenerated, a.attidentity, CASE WHEN a.attgenerated = '' THEN "
        "pg_catalog.pg_get_expr(d.adbin, d.adrelid) END, a.attstorage, y.typlen, y.text_ok, "
        "y.equality "
        "FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN types y ON y.oid = "
        "a.atttypid "
        "LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND "
        "a.atthasdef "
        "WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') "
        "AND " USER_NAMESPACE " ORDER BY a.attrelid, a.attnum");
    ok = pg_query(pg, &res, PG_ANY, strbuf_cstr(&sql), 0, NULL, err);
    strbuf_release(&sql);
    for (int r = 0; ok && r < PQntuples(res); r++) {
        struct cat_column *c;
        Oid oid = res_oid(res, r, 0);
        if (!t || t->oid != oid) {
            t = find(cat, oid);
            cap = 0;
        }
        if (!t)
            continue;
        c = VEC_ADD(t->columns, t->ncolumns, cap);
        c->attnum = (int) res_int(res, r, 1);
        c->name = xstrdup(res_text(res, r, 2));
        c->sql_name = xstrdup(res_text(res, r, 3));
        c->type = res_oid(res, r, 4);
        c->type_sql = xstrdup(res_text(res, r, 5));
        c->type_full = xstrdup(res_text(res, r, 6));
        c->not_null = res_bool(res, r, 7);
        c->generated = res_char(res, r, 8);
        c->identity = res_char(res, r, 9);
        c->has_default = !PQgetisnull(res, r, 10);
        c->default_sql = c->has_default ? xstrdup(res_text(res, r, 10)) : NULL;
        c->storage = res_char(res, r, 11);
        c->typlen = (int) res_int(res, r, 12);
        c->toastable = c->storage != 'p' && c->typlen < 0;
        c->text_cast_ok = res_bool(res, r, 13);
        c->has_equality = res_bool(res, r, 14);
    }
    PQclear(res);
    return ok;
}

/*
 * RelationGetIndexList in the server's relcache.c: an index can be the replica identity when it is
 * valid, unique, immediate and has no predicate; then the primary key serves 'd', and the one
 * marked indisreplident serves 'i'. ALTER TABLE ... REPLICA IDENTITY USING INDEX wants, besides, no
 * expressions and only NOT NULL columns.
 */
static bool load_indexes(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    const char *sql =
        "SELECT i.indrelid, pg_catalog.quote_ident(n.nspname) || '.' || "
        "pg_catalog.quote_ident(x.relname), "
        "i.indisprimary, i.indimmediate, i.indisreplident, i.indisvalid AND i.indimmediate AND "
        "i.indpred IS NULL, "
        "i.indexprs IS NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid "
        "= i.indrelid AND "
        "a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND NOT a.attnotnull), "
        "pg_catalog.array_to_string((i.indkey::int2[])[0:i.indnkeyatts - 1], ' ') "
        "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid "
        "JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid "
        "= c.relnamespace "
        "WHERE i.indisunique AND c.relkind IN ('r', 'p') AND " USER_NAMESPACE
        " ORDER BY i.indrelid, i.indexrelid";

    if (!pg_query(pg, &res, PG_ANY, sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        struct cat_table *t = find(cat, res_oid(res, r, 0));
        const char *index = res_text(res, r, 1);
        bool primary = res_bool(res, r, 2), chosen = res_bool(res, r, 4),
             usable = res_bool(res, r, 5);
        size_t n = 0;
        if (!t)
            continue;
        if (primary) {
            t->pk = numbers(res_text(res, r, 7), &t->npk);
            t->pk_deferrable = !res_bool(res, r, 3);
        }
        if (chosen && t->replident == 'i' && !t->replident_index)
            t->replident_index = xstrdup(index);
        if (usable && ((primary && t->replident == 'd') || (chosen && t->replident == 'i')) &&
            !t->key)
            t->key = numbers(res_text(res, r, 7), &t->nkey);
        if (!usable || primary || !res_bool(res, r, 6))
            continue;
        while (t->unique_indexes[n])
            n++;
        t->unique_indexes = xrealloc(t->unique_indexes, (n + 2) * sizeof *t->unique_indexes);
        t->unique_indexes[n] = xstrdup(index);
        t->unique_indexes[n + 1] = NULL;
    }
    PQclear(res);
    return true;
}

static bool load_constraints(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    const char *sql =
        "SELECT k.contype, k.oid, k.conname, k.conrelid, k.confrelid, "
        "pg_catalog.array_to_string(k.conkey, ' '), "
        "pg_catalog.array_to_string(k.confkey, ' '), k.confdeltype, k.confupdtype, k.convalidated, "
        "k.condeferrable, "
        "k.conparentid <> 0 FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = "
        "k.conrelid "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE (k.contype = 'f' OR "
        "(k.contype IN ('p', 'u', 'x') AND k.condeferrable)) AND " USER_NAMESPACE " ORDER BY k.oid";

    if (!pg_query(pg, &res, PG_ANY, sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        if (res_char(res, r, 0) != 'f') {
            struct cat_unique *u = VEC_ADD(cat->deferrable, cat->ndeferrable, cat->capdeferrable);
            u->name = xstrdup(res_text(res, r, 2));
            u->table = res_oid(res, r, 3);
            u->columns = numbers(res_text(res, r, 5), &u->ncolumns);
            continue;
        }
        struct cat_foreign_key *f = VEC_ADD(cat->fkeys, cat->nfkeys, cat->capfkeys);
        size_t nref = 0;
        f->oid = res_oid(res, r, 1);
        f->name = xstrdup(res_text(res, r, 2));
        f->table = res_oid(res, r, 3);
        f->ref_table = res_oid(res, r, 4);
        f->columns = numbers(res_text(res, r, 5), &f->ncolumns);
        f->ref_columns = numbers(res_text(res, r, 6), &nref);
        f->on_delete = res_char(res, r, 7);
        f->on_update = res_char(res, r, 8);
        f->validated = res_bool(res, r, 9);
        f->deferrable = res_bool(res, r, 10);
        f->inherited = res_bool(res, r, 11);
    }
    PQclear(res);
    return true;
}

static bool load_sequences(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    const char *sql =
        "SELECT c.oid, n.nspname, c.relname, pg_catalog.quote_ident(n.nspname) || '.' || "
        "pg_catalog.quote_ident(c.relname), s.seqincrement, s.seqstart, s.seqmin, s.seqmax, "
        "pg_catalog.pg_sequence_last_value(c.oid) FROM pg_catalog.pg_sequence s "
        "JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid "
        "= c.relnamespace "
        "WHERE " USER_NAMESPACE " ORDER BY c.oid";

    if (!pg_query(pg, &res, PG_ANY, sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        struct cat_sequence *s = VEC_ADD(cat->sequences, cat->nsequences, cat->capsequences);
        s->oid = res_oid(res, r, 0);
        s->schema = xstrdup(res_text(res, r, 1));
        s->name = xstrdup(res_text(res, r, 2));
        s->sql_name = xstrdup(res_text(res, r, 3));
        s->increment = res_int(res, r, 4);
        s->start = res_int(res, r, 5);
        s->min = res_int(res, r, 6);
        s->max = res_int(res, r, 7);
        s->has_value = !PQgetisnull(res, r, 8);
        s->last_value = res_int(res, r, 8);
    }
    PQclear(res);
    return true;
}

/* Owned: a serial's sequence depends on its column automatically, an identity's internally. The
 * kind is looked up, not joined: where the catalog has no statistics, as right after a restore, a
 * join is planned for one sequence and takes seconds with thousands. */
static bool load_feeds(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    const char *sql =
        "SELECT f.t, f.a, f.s FROM (SELECT d.refobjid AS t, d.refobjsubid AS a, d.objid AS s "
        "FROM pg_catalog.pg_depend d WHERE d.classid = "
        "'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = "
        "'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0 AND d.deptype IN "
        "('a', 'i') UNION SELECT v.adrelid, v.adnum, d.refobjid FROM pg_catalog.pg_attrdef v "
        "JOIN pg_catalog.pg_depend d ON d.classid = "
        "'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = v.oid AND d.refclassid = "
        "'pg_catalog.pg_class'::pg_catalog.regclass) f WHERE (SELECT c.relkind FROM "
        "pg_catalog.pg_class c WHERE c.oid = f.s) = 'S' ORDER BY 1, 2, 3";

    if (!pg_query(pg, &res, PG_ANY, sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        struct cat_feed *f;
        if (!find(cat, res_oid(res, r, 0)) || !catalog_sequence_oid(cat, res_oid(res, r, 2)))
            continue;
        f = VEC_ADD(cat->feeds, cat->nfeeds, cat->capfeeds);
        f->table = res_oid(res, r, 0);
        f->attnum = (int) res_int(res, r, 1);
        f->sequence = res_oid(res, r, 2);
    }
    PQclear(res);
    return true;
}

static bool load_rest(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    const char *sql = "SELECT (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata), (SELECT "
                      "count(*) FROM pg_catalog.pg_class c "
                      "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = "
                      "'m' AND " USER_NAMESPACE "), "
                      "pg_catalog.pg_encoding_to_char(encoding) FROM pg_catalog.pg_database "
                      "WHERE datname = pg_catalog.current_database()";

    if (!pg_query(pg, &res, 1, sql, 0, NULL, err))
        return false;
    cat->large_objects = res_int(res, 0, 0);
    cat->matviews = res_int(res, 0, 1);
    copy_text(cat->encoding, sizeof cat->encoding, res_text(res, 0, 2));
    PQclear(res);
    return pg_identify(pg, &cat->identity, err) && catalog_fingerprint(pg, cat->fingerprint, err);
}

bool catalog_load(struct pg *pg, struct catalog *out, struct error *err)
{
    bool own = !pg_in_transaction(pg);
    bool ok;

    memset(out, 0, sizeof *out);
    if (own && !pg_begin(pg, "ISOLATION LEVEL REPEATABLE READ, READ ONLY", err))
        return false;
    ok = load_tables(pg, out, err) && load_columns(pg, out, err) && load_indexes(pg, out, err) &&
         load_constraints(pg, out, err) && load_sequences(pg, out, err) &&
         load_feeds(pg, out, err) && load_rest(pg, out, err) && (!own || pg_commit(pg, err));
    if (!ok) {
        if (own)
            pg_rollback(pg);
        catalog_release(out);
        error_push(err, "reading the catalog");
    }
    return ok;
}

bool catalog_refresh_sequences(struct pg *pg, struct catalog *cat, struct error *err)
{
    PGresult *res = NULL;
    size_t next = 0;
    const char *sql = "SELECT seqrelid, pg_catalog.pg_sequence_last_value(seqrelid) FROM "
                      "pg_catalog.pg_sequence s "
                      "JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid "
                      "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                      "WHERE " USER_NAMESPACE " ORDER BY 1";

    if (!pg_query(pg, &res, PG_ANY, sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        Oid oid = res_oid(res, r, 0);
        while (next < cat->nsequences && cat->sequences[next].oid < oid)
            next++;
        if (next < cat->nsequences && cat->sequences[next].oid == oid) {
            cat->sequences[next].has_value = !PQgetisnull(res, r, 1);
            cat->sequences[next].last_value = res_int(res, r, 1);
        }
    }
    PQclear(res);
    return true;
}
