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

    snprintf(oid, sizeof oid, "%u", c->fkey->oid);
    if (!pg_query(green, &res, PG_ANY,
                  "SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM "
                  "pg_catalog.pg_constraint k, "
                  "LATERAL pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY AS u(op, i) "
                  "JOIN pg_catalog.pg_operator o ON o.oid = u.op JOIN pg_catalog.pg_namespace n "
                  "ON n.oid = o.oprnamespace WHERE k.oid = $1::pg_catalog.oid ORDER BY u.i",
                  1, params, err))
        return false;
    if ((size_t) PQntuples(res) == c->fkey->ncolumns) {
        free(c->sql);
        c->sql = orphans_sql(c->table, c->ref_table, c->fkey, res);
    }
    PQclear(res);
    return true;
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

static bool real_kind(struct constraint_check *c, struct pg *green, bool *can, struct error *err)
{
    char oid[16];
    const char *params[] = {oid, c->unique->name};
    PGresult *res = NULL;

    *can = true;
    snprintf(oid, sizeof oid, "%u", c->table->oid);
    if (!pg_query(green, &res, PG_ANY,
                  "SELECT pg_catalog.string_agg(pg_catalog.format('a.%I OPERATOR(%I.%s) b.%I', "
                  "a.attname, n.nspname, "
                  "o.oprname, a.attname), ' AND ' ORDER BY u.i), pg_catalog.bool_or(x.indpred IS "
                  "NOT NULL) "
                  "FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_index x ON x.indexrelid = "
                  "k.conindid, "
                  "LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.conexclop)) "
                  "WITH ORDINALITY "
                  "AS u(num, op, i) JOIN pg_catalog.pg_operator o ON o.oid = u.op JOIN "
                  "pg_catalog.pg_namespace n "
                  "ON n.oid = o.oprnamespace JOIN pg_catalog.pg_attribute a ON a.attnum = u.num "
                  "WHERE k.conrelid = $1::pg_catalog.oid AND k.conname = $2 AND k.contype = 'x' "
                  "AND a.attrelid = k.conrelid GROUP BY k.oid",
                  2, params, err))
        return false;
    if (PQntuples(res) == 1 && PQgetvalue(res, 0, 1)[0] == 't') {
        event_warn("deferrable exclusion constraint \"%s\" of %s has a predicate: it isn't checked",
                   c->unique->name, c->table->sql_name);
        *can = false;
    } else if (PQntuples(res) == 1) {
        free(c->sql);
        c->sql = conflicts_sql(c, PQgetvalue(res, 0, 0));
    }
    PQclear(res);
    return true;
}

static void describe_violation(struct constraint_check *c, const PGresult *res)
{
    const int *columns = c->fkey ? c->fkey->columns : c->unique->columns;
    struct strbuf sb = {0};

    for (int row = 0; row < PQntuples(res); row++) {
        strbuf_addstr(&sb, row ? "; " : "");
        for (int k = 0; k < PQnfields(res); k++)
            strbuf_addf(&sb, "%s%s='%.200s'", k ? ", " : "",
                        cat_column_num(c->table, columns[k])->name, PQgetvalue(res, row, k));
    }
    free(c->violation);
    c->violation = strbuf_take(&sb);
}

static bool refuse(const struct constraint_check *c, struct error *err)
{
    if (c->fkey) {
        error_set(err, ERR_NOGO, "foreign key \"%s\" of %s is violated: no row in %s for %s",
                  c->fkey->name, c->table->sql_name, c->ref_table->sql_name, c->violation);
        return error_hint(err, "The source doesn't enforce this key. Correct or delete these rows "
                               "there (the change is "
                               "replayed), or take the key out of the migration, and resume.");
    }
    error_set(err, ERR_NOGO,
              "deferrable constraint \"%s\" of %s is violated by several rows with %s",
              c->unique->name, c->table->sql_name, c->violation);
    return error_hint(err, "The source doesn't enforce this. Correct these rows there (the change "
                           "is replayed), or take the "
                           "constraint out of the migration, and resume.");
}

static bool run_check(struct constraint_check *c, struct pg *green, struct error *err)
{
    int64_t began = clock_us();
    PGresult *res = NULL;
    bool can = true, ok;

    ok = c->fkey ? real_equality(c, green, err) : real_kind(c, green, &can, err);
    if (!ok || !can)
        return ok;
    ok = pg_query(green, &res, PG_ANY, c->sql, 0, NULL, err);
    if (ok && PQntuples(res) > 0) {
        describe_violation(c, res);
        ok = refuse(c, err);
    } else if (ok) {
        free(c->violation);
        c->violation = NULL;
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
        ok = run_check(&c->items[i], green, err);
        event_progress("constraints", (int64_t) i + 1, (int64_t) c->n, "objects");
    }
    pg_set_deadline(green, CLOCK_NONE);
    if (!ok && err->code == ERR_TIMEOUT)
        err->code = ERR_BUDGET;
    return ok;
}
