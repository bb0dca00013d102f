#include "pg/trigger.h"

#include "base/alloc.h"
#include "pg/facts.h"
#include "private.h"

#include <stdlib.h>
#include <string.h>

/* A partition's copy of its root's trigger goes with the root; pg_trigger.tgparentid came with 13.
 */
#define LOUD_SQL(whole)                                                                            \
    "SELECT pg_catalog.format('ALTER TABLE %I.%I DISABLE TRIGGER %I', n.nspname, c.relname, "      \
    "t.tgname), pg_catalog.format('ALTER TABLE %I.%I ENABLE %s TRIGGER %I', n.nspname, "           \
    "c.relname, CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, t.tgname) "            \
    "FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid "                \
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "                                    \
    "WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND t.tgname <> '" FENCE_TRIGGER       \
    "' AND n.nspname NOT IN ('pgcutover', 'pg_catalog', 'information_schema')" whole " ORDER BY 1"
static const char loud_sql[] = LOUD_SQL(" AND t.tgparentid = 0");
static const char loud_sql_12[] = LOUD_SQL("");

static bool silence_all(struct pg *pg, const char *run, const PGresult *res, struct error *err)
{
    struct strbuf back = {0};
    char *before = NULL;
    bool ok = pg_begin(pg, "", err) && fact_get(pg, run, "silenced", &before, err);

    strbuf_addstr(&back, before ? before : "");
    for (int r = 0; ok && r < PQntuples(res); r++) {
        strbuf_addf(&back, "%s;", res_text(res, r, 1));
        ok = pg_exec(pg, res_text(res, r, 0), err);
    }
    ok = ok && fact_set(pg, run, "silenced", strbuf_cstr(&back), err) && pg_commit(pg, err);
    if (!ok)
        pg_rollback(pg);
    free(before);
    strbuf_release(&back);
    return ok;
}

bool triggers_silence(struct pg *pg, const char *run, int *silenced, struct error *err)
{
    PGresult *res = NULL;
    bool ok =
        pg_query(pg, &res, PG_ANY, pg_version(pg) >= 130000 ? loud_sql : loud_sql_12, 0, NULL, err);

    if (!ok)
        return false;
    *silenced = PQntuples(res);
    ok = *silenced == 0 || silence_all(pg, run, res, err);
    PQclear(res);
    return ok || error_push(err, "triggers that fire for replay");
}

bool triggers_restore(struct pg *pg, const char *run, struct error *err)
{
    char *back = NULL;
    bool ok = fact_get(pg, run, "silenced", &back, err);

    if (ok && back && *back)
        ok = (pg_begin(pg, "", err) && pg_exec(pg, back, err) &&
              fact_set(pg, run, "silenced", "", err) && pg_commit(pg, err)) ||
             (pg_rollback(pg), error_push(err, "putting triggers back"));
    free(back);
    return ok;
}

static const char names_sql[] =
    "SELECT n.nspname || '.' || c.relname || ': trigger ' || t.tgname FROM pg_catalog.pg_trigger t "
    "JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = "
    "c.relnamespace "
    "WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgname <> '" FENCE_TRIGGER "' "
    "AND NOT c.relispartition AND n.nspname NOT IN ('pgcutover', 'pg_catalog', "
    "'information_schema') ORDER BY 1";

bool triggers_new(struct pg *blue, struct pg *green, char **list, struct error *err)
{
    PGresult *there = NULL, *here = NULL;
    struct strbuf out = {0};
    bool ok = pg_query(blue, &there, PG_ANY, names_sql, 0, NULL, err) &&
              pg_query(green, &here, PG_ANY, names_sql, 0, NULL, err);

    for (int g = 0; ok && g < PQntuples(here); g++) {
        bool known = false;

        for (int b = 0; !known && b < PQntuples(there); b++)
            known = strcmp(res_text(there, b, 0), res_text(here, g, 0)) == 0;
        if (!known)
            strbuf_addf(&out, "%s%s", out.len ? "\n" : "", res_text(here, g, 0));
    }
    PQclear(there);
    PQclear(here);
    *list = strbuf_take(&out);
    return ok;
}

bool table_has_rows(struct pg *pg, const char *sql_name, bool *yes, struct error *err)
{
    char *sql = xstrfmt("SELECT EXISTS (SELECT FROM %s)", sql_name), *value = NULL;
    bool ok = pg_value(pg, &value, sql, 0, NULL, err);

    *yes = ok && value[0] == 't';
    free(value);
    free(sql);
    return ok;
}
