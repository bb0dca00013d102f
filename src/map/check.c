/*
 * check.c - rules and defaults shown to the server before anything relies on them.
 *
 * All of it happens inside the transaction of map_derive, which is rolled back: temporary objects
 * never stay. Statements that may fail stand between savepoints.
 */
#include "derive.h"

#include "base/alloc.h"
#include "map/project.h"

#include <stdlib.h>
#include <string.h>

/* The statement's own fault, not the connection's, the server's or the time's. */
static bool is_statements_fault(const struct error *err)
{
    static const char *const others[] = {"08", "25", "40", "53", "55", "57", "58", "XX"};
    if (err->code != ERR_SQL)
        return false;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strncmp(err->sqlstate, others[i], 2) == 0)
            return false;
    return true;
}

enum attempt { ATTEMPT_OK, ATTEMPT_REFUSED, ATTEMPT_BROKEN };

/* Runs sql and takes its effects back. REFUSED: *err says why; BROKEN: *err is to be returned. */
static enum attempt try_sql(struct pg *pg, const char *sql, int nparams, const char *const *params,
                            struct error *err)
{
    struct error undo = {0};
    if (!pg_exec(pg, "SAVEPOINT pgcutover_try", err))
        return ATTEMPT_BROKEN;
    bool ok = pg_query(pg, NULL, PG_ANY, sql, nparams, params, err);
    if (!ok && !is_statements_fault(err))
        return ATTEMPT_BROKEN;
    if (!pg_exec(pg, "ROLLBACK TO SAVEPOINT pgcutover_try; RELEASE SAVEPOINT pgcutover_try",
                 &undo)) {
        *err = undo;
        return ATTEMPT_BROKEN;
    }
    return ok ? ATTEMPT_OK : ATTEMPT_REFUSED;
}

/* EXPLAIN with an empty array for each parameter: parsed, typed and planned, and not executed. */
static enum attempt try_plan(struct pg *pg, const char *statement, size_t nparams,
                             struct error *err)
{
    const char **params = xcalloc(nparams + 1, sizeof *params);
    char *sql = xstrfmt("EXPLAIN (COSTS OFF) %s", statement);
    for (size_t i = 0; i < nparams; i++)
        params[i] = "{}";
    enum attempt result = try_sql(pg, sql, (int) nparams, params, err);
    free(sql);
    free(params);
    return result;
}

/*
 * A generated column takes only immutable expressions: "generation expression is not immutable" is
 * 42P17. What fails for another reason counts as not constant: then its values are not compared,
 * which is the safe side.
 */
static bool check_default(struct derive *d, struct map_rest *rest, struct error *err)
{
    struct error refused = {0};
    char *sql =
        xstrfmt("CREATE TEMPORARY TABLE pgcutover_default (c %s GENERATED ALWAYS AS (%s) STORED)",
                rest->target->type_full, rest->expect);
    enum attempt result = try_sql(d->pg, sql, 0, NULL, &refused);
    free(sql);
    if (result == ATTEMPT_BROKEN) {
        *err = refused;
        return false;
    }
    if (result == ATTEMPT_OK)
        rest->kind = MAP_REST_CONSTANT;
    return true;
}

bool check_defaults(struct derive *d, struct map_table *mt, struct error *err)
{
    for (size_t i = 0; i < mt->nrest; i++)
        if (mt->rest[i].expect && !check_default(d, &mt->rest[i], err))
            return error_push(err, "default of %s.%s", mt->target->sql_name,
                              mt->rest[i].target->sql_name);
    return true;
}

/* The server's words about a rule, as the playbook's fault. */
static bool refuse_rule(struct error *err, const struct map_rule *rule, const char *column,
                        const struct error *server)
{
    struct error said = *server;
    rule_error(err, rule, "up.%s: %s", column, said.message);
    memcpy(err->sqlstate, said.sqlstate, sizeof err->sqlstate);
    if (said.detail[0])
        error_detail(err, "%s", said.detail);
    if (said.hint[0])
        return error_hint(err, "%s", said.hint);
    return error_hint(
        err, "The expression stands over one row of blue's table, with its columns as names; "
             "functions need their schema, since search_path is empty.");
}

static const struct map_rule *rule_of(struct derive *d, const struct link *link,
                                      const struct map_column *column)
{
    const struct map_rule *from = NULL;
    rules_up(d, link, column->target->name, &from);
    return from;
}

static void add_need(struct map_column *column, int source)
{
    size_t i = 0;
    while (i < column->nneeds && column->needs[i] < source)
        i++;
    if (i < column->nneeds && column->needs[i] == source)
        return;
    column->needs = xrealloc(column->needs, (column->nneeds + 1) * sizeof *column->needs);
    memmove(column->needs + i + 1, column->needs + i, (column->nneeds - i) * sizeof *column->needs);
    column->needs[i] = source;
    column->nneeds++;
}

/*
 * What a temporary view over a temporary table depends on. pg_depend has the columns that the
 * expression names; a use of the whole row leaves no entry of its own there, but it is a Var with
 * varattno 0 in the view's rule.
 */
static const char depends_sql[] =
    "SELECT CASE WHEN d.refobjid = 'pg_temp.pgcutover_row'::pg_catalog.regclass "
    "THEN d.refobjsubid ELSE 0 END, CASE WHEN d.refobjid <> "
    "'pg_temp.pgcutover_row'::pg_catalog.regclass "
    "THEN d.refobjid::pg_catalog.regclass::text END, "
    "pg_catalog.strpos(w.ev_action::text, ':varattno 0 ') > 0 "
    "FROM pg_catalog.pg_rewrite w LEFT JOIN pg_catalog.pg_depend d "
    "ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid "
    "AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> w.ev_class "
    "WHERE w.ev_class = 'pg_temp.pgcutover_rule'::pg_catalog.regclass ORDER BY 2, 1";

static bool read_needs(struct derive *d, struct map_table *mt, struct link *link,
                       struct map_column *column, struct error *err)
{
    PGresult *res = NULL;
    const char *last = "";
    if (!pg_query(d->pg, &res, PG_ANY, depends_sql, 0, NULL, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        int number = (int) strtol(PQgetvalue(res, r, 0), NULL, 10);
        const char *other = PQgetvalue(res, r, 1);
        if (number > 0 && (size_t) number <= mt->nsource)
            add_need(column, number - 1);
        for (size_t i = 0; PQgetvalue(res, r, 2)[0] == 't' && i < mt->nsource; i++)
            add_need(column, (int) i);
        if (other[0] && strcmp(other, last) != 0) {
            last = other;
            say_reason(link,
                       "up.%s reads %s: a change there changes no row that was replayed before it",
                       column->target->name, other);
        }
    }
    PQclear(res);
    return true;
}

/* CASE takes no more than one expression; WHERE refuses aggregates and set-returning functions,
 * which would not give one value a row. */
static bool check_rule(struct derive *d, struct map_table *mt, struct link *link,
                       struct map_column *column, struct error *err)
{
    struct error server = {0};
    char *sql =
        xstrfmt("CREATE TEMPORARY VIEW pgcutover_rule (c) AS SELECT CASE WHEN true THEN (%s) END "
                "FROM pg_temp.pgcutover_row AS r WHERE ((%s)) IS NULL",
                column->expr, column->expr);
    bool ok = pg_query(d->pg, NULL, PG_ANY, sql, 0, NULL, &server);
    free(sql);
    if (!ok && !is_statements_fault(&server)) {
        *err = server;
        return false;
    }
    if (!ok)
        return refuse_rule(err, rule_of(d, link, column), column->target->name, &server);
    return read_needs(d, mt, link, column, err) &&
           pg_exec(d->pg, "DROP VIEW pg_temp.pgcutover_rule", err);
}

bool check_needs(struct derive *d, struct map_table *mt, struct link *link, struct error *err)
{
    struct strbuf sql = {0};
    bool any = false;
    for (size_t c = 0; c < mt->ncolumns; c++)
        any = any || mt->columns[c].rule;
    if (!any)
        return true;
    strbuf_addstr(&sql, "SAVEPOINT pgcutover_needs; CREATE TEMPORARY TABLE pgcutover_row (");
    for (size_t i = 0; i < mt->nsource; i++) {
        strbuf_addstr(&sql, i ? ", " : "");
        pg_add_ident(&sql, mt->source_columns[i]->name);
        strbuf_addf(&sql, " %s", mt->source_types[i]);
    }
    strbuf_addstr(&sql, ")");
    bool ok = pg_exec(d->pg, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    for (size_t c = 0; c < mt->ncolumns && ok; c++)
        if (mt->columns[c].rule)
            ok = check_rule(d, mt, link, &mt->columns[c], err);
    return ok &&
           pg_exec(d->pg,
                   "ROLLBACK TO SAVEPOINT pgcutover_needs; RELEASE SAVEPOINT pgcutover_needs", err);
}

static enum attempt try_column(struct derive *d, struct map_table *mt, size_t c, struct error *err)
{
    struct strbuf sql = {0};
    bool *want = xcalloc(mt->ncolumns, sizeof *want);
    want[c] = true;
    strbuf_addf(&sql, "INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT e.v%zu FROM ",
                mt->target->sql_name, mt->columns[c].target->sql_name, c);
    project_rows(&sql, mt, NULL, want, NULL, 1);
    enum attempt result = try_plan(d->pg, strbuf_cstr(&sql), mt->nsource, err);
    strbuf_release(&sql);
    free(want);
    return result;
}

/* What doesn't go by assignment (42804) is cast explicitly, as USING did in the migration. */
static bool check_type(struct derive *d, struct map_table *mt, struct link *link, size_t c,
                       struct error *err)
{
    struct map_column *column = &mt->columns[c];
    struct error server = {0};
    enum attempt result = try_column(d, mt, c, &server);
    if (result == ATTEMPT_REFUSED && strcmp(server.sqlstate, "42804") == 0) {
        char *cast = xstrfmt("(%s)::%s", column->expr, column->target->type_sql);
        free(column->expr);
        column->expr = cast;
        result = try_column(d, mt, c, &server);
    }
    if (result == ATTEMPT_BROKEN) {
        *err = server;
        return false;
    }
    if (result == ATTEMPT_OK)
        return true;
    if (column->rule)
        return refuse_rule(err, rule_of(d, link, column), column->target->name, &server);
    say_unresolved(link,
                   "column %s, %s on blue and %s on green: %s; add up.%s = ... under [map %s.%s]",
                   column->target->sql_name, column->source->type_full, column->target->type_full,
                   server.message, column->target->name, mt->source->schema, mt->source->name);
    return true;
}

bool check_types(struct derive *d, struct map_table *mt, struct link *link, struct error *err)
{
    for (size_t c = 0; c < mt->ncolumns; c++)
        if ((mt->columns[c].rule || !mt->columns[c].same_type) && !check_type(d, mt, link, c, err))
            return false;
    return true;
}

static bool check_statement(struct derive *d, struct link *link, const struct strbuf *sql,
                            size_t nparams, struct error *err)
{
    struct error server = {0};
    enum attempt result = try_plan(d->pg, strbuf_cstr(sql), nparams, &server);
    if (result == ATTEMPT_BROKEN)
        *err = server;
    if (result == ATTEMPT_REFUSED)
        say_unresolved(link, "green refuses a statement of replay: %s (%s)", server.message,
                       server.sqlstate);
    return result != ATTEMPT_BROKEN;
}

static void statement_of(struct strbuf *sql, const struct map_table *mt, int which, size_t *nparams)
{
    *nparams = mt->nsource;
    switch (which) {
    case 0:
        project_insert(sql, mt, NULL);
        break;
    case 1:
        if (mt->nkey > 0) {
            project_update(sql, mt, NULL);
        } else {
            *nparams = 2 * mt->nsource;
            project_update_row(sql, mt, NULL);
        }
        break;
    case 2:
        if (mt->nkey > 0) {
            *nparams = mt->nsource_key;
            project_delete(sql, mt);
        } else {
            project_delete_row(sql, mt);
        }
        break;
    default:
        if (mt->nkey > 0) {
            *nparams = mt->nsource_key + mt->nsource;
            project_rekey(sql, mt, NULL);
        }
    }
}

bool check_statements(struct derive *d, struct map_table *mt, struct link *link, struct error *err)
{
    for (int which = 0; which < 4 && !link->unresolved.len; which++) {
        struct strbuf sql = {0};
        size_t nparams = 0;
        statement_of(&sql, mt, which, &nparams);
        bool ok = !sql.len || check_statement(d, link, &sql, nparams, err);
        strbuf_release(&sql);
        if (!ok)
            return error_push(err, "statements for %s", mt->target->sql_name);
    }
    return true;
}
