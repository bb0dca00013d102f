/* constraint_run.c - running the checks, with the operators that the constraints themselves use. */
#include "constraints.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/event.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* search_path is empty: "=" of a type outside pg_catalog (citext) would quietly be another one, of
 * text. */
static bool real_equality(struct constraint_check *c, struct pg *green, struct error *err)
{
    char oid[16];
    const char *params[] = {oid};
    PGresult *res = NULL;
    size_t n = c->fkey->ncolumns;

    snprintf(oid, sizeof oid, "%u", c->fkey->oid);
    if (!pg_query(green, &res, PG_ANY,
                  "SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname), "
                  "pg_catalog.format('OPERATOR(%I.%s)', pn.nspname, po.oprname) FROM "
                  "pg_catalog.pg_constraint k, LATERAL ROWS FROM (pg_catalog.unnest(k.conpfeqop), "
                  "pg_catalog.unnest(k.conppeqop)) WITH ORDINALITY AS u(op, parent, i) "
                  "JOIN pg_catalog.pg_operator o ON o.oid = u.op JOIN pg_catalog.pg_namespace n "
                  "ON n.oid = o.oprnamespace JOIN pg_catalog.pg_operator po ON po.oid = u.parent "
                  "JOIN pg_catalog.pg_namespace pn ON pn.oid = po.oprnamespace "
                  "WHERE k.oid = $1::pg_catalog.oid ORDER BY u.i",
                  1, params, err))
        return false;
    if ((size_t) PQntuples(res) == n) {
        c->child_equals = xcalloc(n + 1, sizeof *c->child_equals);
        c->parent_equals = xcalloc(n + 1, sizeof *c->parent_equals);
        for (size_t k = 0; k < n; k++) {
            c->child_equals[k] = xstrdup(PQgetvalue(res, (int) k, 0));
            c->parent_equals[k] = xstrdup(PQgetvalue(res, (int) k, 1));
        }
        free(c->sql);
        c->sql = orphans_sql(c);
    }
    PQclear(res);
    return true;
}

/* An index that one of the columns leads. */
static bool look_for_index(struct constraint_check *c, struct pg *green, struct error *err)
{
    struct strbuf columns = {0};
    char oid[16], *found = NULL;
    const char *params[2];
    bool ok;

    snprintf(oid, sizeof oid, "%u", c->table->oid);
    for (size_t k = 0; k < c->fkey->ncolumns; k++)
        strbuf_addf(&columns, "%s%d", k ? "," : "{", c->fkey->columns[k]);
    strbuf_addch(&columns, '}');
    params[0] = oid;
    params[1] = strbuf_cstr(&columns);
    ok = pg_value(green, &found,
                  "SELECT EXISTS (SELECT FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON "
                  "i.oid = x.indexrelid JOIN pg_catalog.pg_am m ON m.oid = i.relam WHERE "
                  "x.indrelid = $1::pg_catalog.oid AND x.indisvalid AND x.indpred IS NULL AND "
                  "m.amname IN ('btree', 'hash') AND x.indkey[0] = ANY ($2::int2[]))",
                  2, params, err);
    c->indexed = ok && found[0] == 't';
    free(found);
    strbuf_release(&columns);
    return ok;
}

/* What two rows that exclude each other look like, from the constraint's operators. */
static char *conflicts_sql(const struct constraint_check *c, const char *condition)
{
    struct strbuf sb = {0};
    const char *only = c->table->relkind == 'p' ? "" : "ONLY ";

    strbuf_addstr(&sb, "SELECT ");
    for (size_t k = 0; k < c->unique->ncolumns; k++)
        strbuf_addf(&sb, "%sa.%s", k ? ", " : "",
                    cat_column_num(c->table, c->unique->columns[k])->sql_name);
    strbuf_addf(&sb,
                " FROM %s%s AS a JOIN %s%s AS b ON %s AND (a.tableoid, a.ctid) <> (b.tableoid, "
                "b.ctid) LIMIT %d",
                only, c->table->sql_name, only, c->table->sql_name, condition, CONSTRAINT_SHOWN);
    return strbuf_take(&sb);
}

/* What rows a and b that violate it have to do with each other: the operators of an exclusion
 * constraint, or the equality of the unique index's operator classes. */
static bool real_conflict(struct constraint_check *c, struct pg *green, struct error *err)
{
    char oid[16];
    const char *params[] = {oid, c->unique->name};
    PGresult *res = NULL;

    snprintf(oid, sizeof oid, "%u", c->table->oid);
    if (!pg_query(
            green, &res, PG_ANY,
            "SELECT pg_catalog.string_agg(pg_catalog.format('a.%I OPERATOR(%I.%s) b.%I', "
            "a.attname, n.nspname, o.oprname, a.attname), ' AND ' ORDER BY u.i), "
            "pg_catalog.bool_or(x.indpred IS NOT NULL), pg_catalog.bool_or(k.contype = 'x') "
            "FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_index x ON x.indexrelid = "
            "k.conindid CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), "
            "pg_catalog.unnest(k.conexclop), pg_catalog.unnest(x.indclass::pg_catalog.oid[])) "
            "WITH ORDINALITY AS u(num, op, class, i) JOIN pg_catalog.pg_opclass c ON c.oid = "
            "u.class LEFT JOIN pg_catalog.pg_amop e ON e.amopfamily = c.opcfamily AND "
            "e.amoplefttype = c.opcintype AND e.amoprighttype = c.opcintype AND e.amopstrategy = "
            "3 AND k.contype <> 'x' JOIN pg_catalog.pg_operator o ON o.oid = COALESCE(u.op, "
            "e.amopopr) JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace "
            "JOIN pg_catalog.pg_attribute a ON a.attnum = u.num WHERE k.conrelid = "
            "$1::pg_catalog.oid AND k.conname = $2 AND a.attrelid = k.conrelid GROUP BY k.oid",
            2, params, err))
        return false;
    if (PQntuples(res) == 1 && PQgetvalue(res, 0, 1)[0] == 't') {
        event_warn("deferrable exclusion constraint \"%s\" of %s has a predicate: it isn't checked",
                   c->unique->name, c->table->sql_name);
        c->impossible = true;
    } else if (PQntuples(res) == 1) {
        c->conflict = xstrdup(PQgetvalue(res, 0, 0));
        if (PQgetvalue(res, 0, 2)[0] == 't') {
            free(c->sql);
            c->sql = conflicts_sql(c, c->conflict);
        }
    }
    PQclear(res);
    return true;
}

bool constraint_prepare(struct constraint_check *c, struct pg *green, struct error *err)
{
    if (!c->ready)
        c->ready = c->fkey ? real_equality(c, green, err) && look_for_index(c, green, err)
                           : real_conflict(c, green, err);
    return c->ready || error_push(err, "checking %s", c->fkey ? c->fkey->name : c->unique->name);
}

char *constraint_found(const struct constraint_check *c, const PGresult *res)
{
    const int *columns = c->fkey ? c->fkey->columns : c->unique->columns;
    struct strbuf sb = {0};

    for (int row = 0; row < PQntuples(res); row++) {
        strbuf_addstr(&sb, row ? "; " : "");
        for (int k = 0; k < PQnfields(res); k++)
            strbuf_addf(&sb, "%s%s='%.200s'", k ? ", " : "",
                        cat_column_num(c->table, columns[k])->name, PQgetvalue(res, row, k));
    }
    return strbuf_take(&sb);
}

bool constraint_refuse(const struct constraint_check *c, const char *found, struct error *err)
{
    if (c->fkey) {
        error_set(err, ERR_NOGO, "foreign key \"%s\" of %s is violated: no row in %s for %s",
                  c->fkey->name, c->table->sql_name, c->ref_table->sql_name, found);
        return error_hint(err, "The source doesn't enforce this key. Correct or delete these rows "
                               "there (the change is "
                               "replayed), or take the key out of the migration, and resume.");
    }
    error_set(err, ERR_NOGO,
              "deferrable constraint \"%s\" of %s is violated by several rows with %s",
              c->unique->name, c->table->sql_name, found);
    return error_hint(err, "The source doesn't enforce this. Correct these rows there (the change "
                           "is replayed), or take the "
                           "constraint out of the migration, and resume.");
}

bool constraint_check_run(struct constraint_check *c, struct pg *green, struct error *err)
{
    int64_t began = clock_us();
    PGresult *res = NULL;
    bool ok;

    if (!constraint_prepare(c, green, err))
        return false;
    if (c->impossible)
        return true;
    ok = pg_query(green, &res, PG_ANY, c->sql, 0, NULL, err);
    if (ok) {
        free(c->violation);
        c->violation = PQntuples(res) > 0 ? constraint_found(c, res) : NULL;
        ok = !c->violation || constraint_refuse(c, c->violation, err);
    }
    c->elapsed_us = clock_us() - began;
    PQclear(res);
    return ok || error_push(err, "checking %s", c->fkey ? c->fkey->name : c->unique->name);
}

bool constraint_checks_run(struct constraint_checks *c, struct pg *green, int64_t deadline_us,
                           struct error *err)
{
    bool ok = true;

    pg_set_deadline(green, deadline_us);
    for (size_t i = 0; ok && i < c->n; i++) {
        ok = constraint_check_run(&c->items[i], green, err);
        event_progress("constraints", (int64_t) i + 1, (int64_t) c->n, "objects");
    }
    pg_set_deadline(green, CLOCK_NONE);
    if (!ok && err->code == ERR_TIMEOUT)
        err->code = ERR_BUDGET;
    return ok;
}
