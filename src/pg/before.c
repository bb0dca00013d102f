/* before.c - the picture of green right before its migrations, kept in green itself. */
#include "pg/facts.h"

#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

/* Rows are gathered as text arrays, one per field, and unnested side by side by the server. */
#define FIELDS 6

struct rows {
    char **values[FIELDS];
    size_t n[FIELDS], cap[FIELDS];
};

static void put(struct rows *rows, int field, char *value)
{
    *VEC_ADD(rows->values[field], rows->n[field], rows->cap[field]) = value;
}

static bool insert(struct pg *pg, const char *sql, struct rows *rows, int fields, struct error *err)
{
    struct strbuf arrays[FIELDS] = {{0}};
    struct pg_param params[FIELDS] = {{0}};
    bool ok;

    for (int f = 0; f < fields; f++) {
        int *lens = xcalloc(rows->n[f] + 1, sizeof *lens);
        for (size_t i = 0; i < rows->n[f]; i++)
            lens[i] = (int) strlen(rows->values[f][i]);
        pg_text_array(&arrays[f], rows->n[f], (const char *const *) rows->values[f], lens);
        params[f] = (struct pg_param){arrays[f].data, (int) arrays[f].len, 1, 1009 /* text[] */};
        free(lens);
    }
    ok = pg_prepared(pg, NULL, sql, fields, params, err);
    for (int f = 0; f < fields; f++) {
        strbuf_release(&arrays[f]);
        for (size_t i = 0; i < rows->n[f]; i++)
            free(rows->values[f][i]);
        free(rows->values[f]);
    }
    return ok;
}

static bool save_relations(struct pg *green, const struct catalog *cat, struct error *err)
{
    struct rows rows = {0};

    /* a row that says that the picture was taken, of an empty database too */
    put(&rows, 0, xstrdup("0"));
    put(&rows, 1, xstrdup(""));
    put(&rows, 2, xstrdup(""));
    put(&rows, 3, xstrdup("-"));
    for (size_t i = 0; i < cat->ntables; i++) {
        const struct cat_table *t = &cat->tables[i];
        put(&rows, 0, xstrfmt("%u", t->oid));
        put(&rows, 1, xstrdup(t->schema));
        put(&rows, 2, xstrdup(t->name));
        put(&rows, 3, xstrfmt("%c", t->relkind));
    }
    for (size_t i = 0; i < cat->nsequences; i++) {
        put(&rows, 0, xstrfmt("%u", cat->sequences[i].oid));
        put(&rows, 1, xstrdup(cat->sequences[i].schema));
        put(&rows, 2, xstrdup(cat->sequences[i].name));
        put(&rows, 3, xstrdup("S"));
    }
    return insert(
        green,
        "INSERT INTO pgcutover.before_relation (oid, schema, name, kind) SELECT o::oid, s, n, k "
        "FROM unnest($1, $2, $3, $4) AS u(o, s, n, k)",
        &rows, 4, err);
}

static bool save_columns(struct pg *green, const struct catalog *cat, struct error *err)
{
    struct rows rows = {0};

    for (size_t i = 0; i < cat->ntables; i++) {
        for (size_t k = 0; k < cat->tables[i].ncolumns; k++) {
            const struct cat_column *c = &cat->tables[i].columns[k];
            put(&rows, 0, xstrfmt("%u", cat->tables[i].oid));
            put(&rows, 1, xstrfmt("%d", c->attnum));
            put(&rows, 2, xstrdup(c->name));
            put(&rows, 3, xstrfmt("%u", c->type));
            put(&rows, 4, xstrdup(c->type_sql));
            put(&rows, 5, xstrdup(c->type_full));
        }
    }
    return insert(
        green,
        "INSERT INTO pgcutover.before_column (relation, attnum, name, type, type_sql, type_full) "
        "SELECT r::oid, a::int, n, t::oid, s, f FROM unnest($1, $2, $3, $4, $5, $6) "
        "AS u(r, a, n, t, s, f)",
        &rows, 6, err);
}

bool catalog_save_before(struct pg *green, const struct catalog *now, struct error *err)
{
    bool own = !pg_in_transaction(green);
    bool ok;

    if (own && !pg_begin(green, "", err))
        return false;
    ok =
        facts_create_schema(green, err) &&
        pg_exec(green, "DELETE FROM pgcutover.before_column; DELETE FROM pgcutover.before_relation",
                err) &&
        save_relations(green, now, err) && save_columns(green, now, err) &&
        (!own || pg_commit(green, err));
    if (!ok && own)
        pg_rollback(green);
    return ok;
}

static void add_relation(struct catalog *out, const PGresult *res, int r)
{
    if (res_char(res, r, 3) == 'S') {
        struct cat_sequence *s = VEC_ADD(out->sequences, out->nsequences, out->capsequences);
        s->oid = res_oid(res, r, 0);
        s->schema = xstrdup(res_text(res, r, 1));
        s->name = xstrdup(res_text(res, r, 2));
        s->sql_name = xstrfmt("%s.%s", res_text(res, r, 4), res_text(res, r, 5));
        return;
    }
    struct cat_table *t = VEC_ADD(out->tables, out->ntables, out->captables);
    t->oid = res_oid(res, r, 0);
    t->schema = xstrdup(res_text(res, r, 1));
    t->name = xstrdup(res_text(res, r, 2));
    t->sql_schema = xstrdup(res_text(res, r, 4));
    t->sql_name = xstrfmt("%s.%s", res_text(res, r, 4), res_text(res, r, 5));
    t->relkind = res_char(res, r, 3);
}

bool catalog_load_before(struct pg *green, struct catalog *out, bool *found, struct error *err)
{
    PGresult *res = NULL;
    struct cat_table *t = NULL;
    size_t cap = 0;
    bool there = false;

    memset(out, 0, sizeof *out);
    *found = false;
    if (!facts_installed(green, &there, err))
        return false;
    if (!there)
        return true;
    if (!pg_query(green, &res, PG_ANY,
                  "SELECT oid, schema, name, kind, pg_catalog.quote_ident(schema), "
                  "pg_catalog.quote_ident(name) "
                  "FROM pgcutover.before_relation ORDER BY oid",
                  0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        if (res_char(res, r, 3) == '-')
            *found = true;
        else
            add_relation(out, res, r);
    }
    PQclear(res);
    if (!pg_query(green, &res, PG_ANY,
                  "SELECT relation, attnum, name, type, type_sql, type_full, "
                  "pg_catalog.quote_ident(name) "
                  "FROM pgcutover.before_column ORDER BY relation, attnum",
                  0, NULL, err)) {
        catalog_release(out);
        return false;
    }
    for (int r = 0; r < PQntuples(res); r++) {
        struct cat_column *c;
        if (!t || t->oid != res_oid(res, r, 0)) {
            t = (struct cat_table *) (uintptr_t) catalog_table_oid(out, res_oid(res, r, 0));
            cap = 0;
        }
        if (!t)
            continue;
        c = VEC_ADD(t->columns, t->ncolumns, cap);
        c->attnum = (int) res_int(res, r, 1);
        c->name = xstrdup(res_text(res, r, 2));
        c->type = res_oid(res, r, 3);
        c->type_sql = xstrdup(res_text(res, r, 4));
        c->type_full = xstrdup(res_text(res, r, 5));
        c->sql_name = xstrdup(res_text(res, r, 6));
    }
    PQclear(res);
    return true;
}
