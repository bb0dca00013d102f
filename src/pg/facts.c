/* facts.c - schema pgcutover. */
#include "pg/facts.h"

#include "private.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define INSTALL_KEY                                                                                \
    "8098991000000000001" /* two installs at once must not race for the catalogs' unique indexes   \
                           */
#define RUN_KEY "8098991000000000002"

/* Every table has a primary key: without one a publication FOR ALL TABLES of somebody else's would
 * make our own UPDATEs fail. */
static const char schema_sql[] =
    "SELECT pg_catalog.pg_advisory_xact_lock(" INSTALL_KEY ");"
    "CREATE SCHEMA IF NOT EXISTS pgcutover;"
    "CREATE TABLE IF NOT EXISTS pgcutover.fact (run text, key text, value text NOT NULL, PRIMARY "
    "KEY (run, key));"
    "CREATE TABLE IF NOT EXISTS pgcutover.arbiter (run text PRIMARY KEY, state text NOT NULL "
    "CHECK (state IN ('armed', 'committing', 'revoked')), at timestamptz NOT NULL DEFAULT "
    "pg_catalog.clock_timestamp());"
    "CREATE TABLE IF NOT EXISTS pgcutover.marker (run text PRIMARY KEY, n bigint NOT NULL);"
    "CREATE TABLE IF NOT EXISTS pgcutover.progress (run text, worker text, commit_lsn pg_lsn NOT "
    "NULL, "
    "end_lsn pg_lsn NOT NULL, PRIMARY KEY (run, worker));"
    "CREATE TABLE IF NOT EXISTS pgcutover.saved_identity (run text, relation oid, schema text NOT "
    "NULL, "
    "name text NOT NULL, replident \"char\" NOT NULL, index_name text, PRIMARY KEY (run, "
    "relation));"
    "CREATE TABLE IF NOT EXISTS pgcutover.before_relation (oid oid PRIMARY KEY, schema text NOT "
    "NULL, "
    "name text NOT NULL, kind \"char\" NOT NULL);"
    "CREATE TABLE IF NOT EXISTS pgcutover.before_column (relation oid, attnum int, name text NOT "
    "NULL, "
    "type oid NOT NULL, type_sql text NOT NULL, type_full text NOT NULL, PRIMARY KEY (relation, "
    "attnum))";

bool facts_create_schema(struct pg *pg, struct error *err)
{
    /* several statements in one message are one transaction, which the advisory lock lives as long
     * as */
    char *sql = xstrfmt("%s%s%s", pg_quiet_ddl(pg), schema_sql,
                        *pg_quiet_ddl(pg) ? "; SET LOCAL session_replication_role = origin" : "");
    bool ok = pg_exec(pg, sql, err);

    free(sql);
    return ok;
}

bool facts_install(struct pg *pg, const char *run, struct error *err)
{
    bool own = !pg_in_transaction(pg);
    bool ok;

    if (own && !pg_begin(pg, "", err))
        return false;
    ok = facts_create_schema(pg, err) &&
         pg_query(
             pg, NULL, PG_ANY,
             "INSERT INTO pgcutover.marker (run, n) VALUES ($1, 0) ON CONFLICT (run) DO NOTHING", 1,
             &run, err) &&
         (!own || pg_commit(pg, err));
    if (!ok && own)
        pg_rollback(pg);
    return ok || error_push(err, "making schema pgcutover");
}

bool facts_installed(struct pg *pg, bool *yes, struct error *err)
{
    char *value = NULL;

    if (!pg_value(pg, &value,
                  "SELECT pg_catalog.to_regclass('pgcutover.before_column') IS NOT NULL", 0, NULL,
                  err))
        return false;
    *yes = value[0] == 't';
    free(value);
    return true;
}

static bool schema_is_in_use(struct pg *pg, bool *used, struct error *err)
{
    char *value = NULL;
    const char *sql =
        "SELECT EXISTS (SELECT FROM pgcutover.fact) OR EXISTS (SELECT FROM pgcutover.marker) OR "
        "EXISTS (SELECT FROM pgcutover.arbiter) OR EXISTS (SELECT FROM pgcutover.progress) OR "
        "EXISTS (SELECT FROM pgcutover.saved_identity)";

    if (!pg_value(pg, &value, sql, 0, NULL, err))
        return false;
    *used = value[0] == 't';
    free(value);
    return true;
}

/* Dropping the schema would take the fence along, silently. */
static bool fence_stands(struct pg *pg, bool *stands, struct error *err)
{
    char *value = NULL;

    if (!pg_value(pg, &value,
                  "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = '" FENCE_TRIGGER
                  "' AND tgfoid = pg_catalog.to_regproc('pgcutover.fence'))",
                  0, NULL, err))
        return false;
    *stands = value[0] == 't';
    free(value);
    return true;
}

/* What was not put back yet is known from here alone. */
static bool identities_are_back(struct pg *pg, const char *run, struct error *err)
{
    char *left = NULL;
    bool ok = pg_value(pg, &left, "SELECT count(*) FROM pgcutover.saved_identity WHERE run = $1", 1,
                       &run, err);

    if (ok && strcmp(left, "0") != 0) {
        error_set(err, ERR_SQL,
                  "%s replica identities are not put back yet, schema pgcutover is kept", left);
        ok = error_hint(err, "Type the command again when their tables can be locked.");
    }
    free(left);
    return ok;
}

bool facts_uninstall(struct pg *pg, const char *run, struct error *err)
{
    static const char *const tables[] = {"fact", "arbiter", "marker", "progress", "saved_identity"};
    bool there = false, used = false, stands = false;

    if (!facts_installed(pg, &there, err))
        return false;
    if (!there)
        return true;
    if (!fence_stands(pg, &stands, err))
        return false;
    if (stands) {
        error_set(err, ERR_SQL, "the fence's triggers still stand, schema pgcutover is kept");
        return error_hint(err, "Drop the fence first: pgcutover abort, or pgcutover finish.");
    }
    if (!identities_are_back(pg, run, err))
        return false;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        char *sql = xstrfmt("DELETE FROM pgcutover.%s WHERE run = $1", tables[i]);
        bool ok = pg_query(pg, NULL, PG_ANY, sql, 1, &run, err);
        free(sql);
        if (!ok)
            return false;
    }
    if (!schema_is_in_use(pg, &used, err))
        return false;
    return used || pg_ddl(pg, "DROP SCHEMA IF EXISTS pgcutover CASCADE", DDL_LOCK_TIMEOUT_MS,
                          clock_in_ms(DDL_DEADLINE_MS), err);
}

bool fact_set(struct pg *pg, const char *run, const char *key, const char *value, struct error *err)
{
    const char *params[] = {run, key, value};

    return pg_query(pg, NULL, PG_ANY,
                    "INSERT INTO pgcutover.fact (run, key, value) VALUES ($1, $2, $3) "
                    "ON CONFLICT (run, key) DO UPDATE SET value = excluded.value",
                    3, params, err);
}

bool fact_get(struct pg *pg, const char *run, const char *key, char **value, struct error *err)
{
    const char *params[] = {run, key};
    PGresult *res = NULL;
    bool there = false;

    *value = NULL;
    if (!facts_installed(pg, &there, err))
        return false;
    if (!there)
        return true;
    if (!pg_query(pg, &res, PG_ANY, "SELECT value FROM pgcutover.fact WHERE run = $1 AND key = $2",
                  2, params, err))
        return false;
    if (PQntuples(res) == 1)
        *value = xstrdup(PQgetvalue(res, 0, 0));
    PQclear(res);
    return true;
}

bool arbiter_arm(struct pg *pg, const char *run, struct error *err)
{
    return pg_query(pg, NULL, PG_ANY,
                    "INSERT INTO pgcutover.arbiter (run, state) VALUES ($1, 'armed') ON CONFLICT "
                    "(run) DO UPDATE SET "
                    "state = 'armed', at = pg_catalog.clock_timestamp()",
                    1, &run, err);
}

bool arbiter_swap(struct pg *pg, const char *run, const char *from, const char *to, bool *won,
                  struct error *err)
{
    const char *params[] = {run, from, to};
    PGresult *res = NULL;
    bool there = false;

    *won = false;
    if (!facts_installed(pg, &there, err))
        return false;
    if (!there)
        return true;
    if (!pg_query(pg, &res, PG_ANY,
                  "UPDATE pgcutover.arbiter SET state = $3, at = pg_catalog.clock_timestamp() "
                  "WHERE run = $1 AND state = $2",
                  3, params, err))
        return false;
    *won = strcmp(PQcmdTuples(res), "1") == 0;
    PQclear(res);
    return true;
}

bool arbiter_forget(struct pg *pg, const char *run, struct error *err)
{
    return pg_query(pg, NULL, PG_ANY, "DELETE FROM pgcutover.arbiter WHERE run = $1", 1, &run, err);
}

bool arbiter_read(struct pg *pg, const char *run, char state[32], struct error *err)
{
    PGresult *res = NULL;
    bool there = false;

    state[0] = '\0';
    if (!facts_installed(pg, &there, err))
        return false;
    if (!there)
        return true;
    if (!pg_query(pg, &res, PG_ANY, "SELECT state FROM pgcutover.arbiter WHERE run = $1", 1, &run,
                  err))
        return false;
    if (PQntuples(res) == 1)
        copy_text(state, 32, PQgetvalue(res, 0, 0));
    PQclear(res);
    return true;
}

bool marker_write(struct pg *pg, const char *run, int64_t *n, lsn_t *lsn, struct error *err)
{
    PGresult *res = NULL;
    char *text = NULL;
    bool ok;

    if (pg_in_transaction(pg))
        BUG("marker_write inside a transaction: its position would say nothing");
    if (!pg_query(pg, &res, PG_ANY,
                  "UPDATE pgcutover.marker SET n = n + 1 WHERE run = $1 RETURNING n", 1, &run, err))
        return false;
    if (PQntuples(res) != 1) {
        PQclear(res);
        error_set(err, ERR_SQL, "no marker row of run \"%s\" on %s", run, pg->where);
        return error_hint(err, "Schema pgcutover was changed by hand; look with pgcutover repair.");
    }
    *n = res_int(res, 0, 0);
    PQclear(res);
    ok = pg_value(pg, &text, "SELECT pg_catalog.pg_current_wal_insert_lsn()", 0, NULL, err) &&
         (lsn_parse(text, lsn) || error_set(err, ERR_PROTOCOL, "\"%s\" is no LSN", text));
    free(text);
    return ok;
}

bool progress_get(struct pg *pg, const char *run, lsn_t *commit_lsn, lsn_t *end_lsn, bool *found,
                  struct error *err)
{
    PGresult *res = NULL;
    bool there = false;

    *found = false;
    *commit_lsn = *end_lsn = 0;
    if (!facts_installed(pg, &there, err))
        return false;
    if (!there)
        return true;
    if (!pg_query(pg, &res, PG_ANY,
                  "SELECT commit_lsn, end_lsn FROM pgcutover.progress WHERE run = $1 AND worker = "
                  "'apply'",
                  1, &run, err))
        return false;
    if (PQntuples(res) == 1) {
        *found = true;
        *commit_lsn = res_lsn(res, 0, 0);
        *end_lsn = res_lsn(res, 0, 1);
    }
    PQclear(res);
    return true;
}

bool progress_set(struct pg *pg, const char *run, lsn_t commit_lsn, lsn_t end_lsn,
                  struct error *err)
{
    char commit_text[LSN_SIZE], end_text[LSN_SIZE];
    struct pg_param params[] = {{.data = run},
                                {.data = lsn_str(commit_text, commit_lsn)},
                                {.data = lsn_str(end_text, end_lsn)}};

    return pg_prepared(pg, NULL,
                       "INSERT INTO pgcutover.progress (run, worker, commit_lsn, end_lsn) VALUES "
                       "($1, 'apply', $2, $3) "
                       "ON CONFLICT (run, worker) DO UPDATE SET commit_lsn = excluded.commit_lsn, "
                       "end_lsn = excluded.end_lsn",
                       3, params, err);
}

bool progress_clear(struct pg *pg, const char *run, struct error *err)
{
    return pg_query(pg, NULL, PG_ANY, "DELETE FROM pgcutover.progress WHERE run = $1", 1, &run,
                    err);
}

bool run_lock(struct pg *pg, struct error *err)
{
    PGresult *res = NULL;
    char *value = NULL;
    bool got;

    if (!pg_value(pg, &value, "SELECT pg_catalog.pg_try_advisory_lock(" RUN_KEY ")", 0, NULL, err))
        return false;
    got = value[0] == 't';
    free(value);
    if (got)
        return true;
    if (!pg_query(pg, &res, PG_ANY,
                  "SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), "
                  "coalesce(pg_catalog.host(a.client_addr), 'local') FROM pg_catalog.pg_locks l "
                  "LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = "
                  "'advisory' AND l.granted "
                  "AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = "
                  "pg_catalog.current_database()) AND l.objsubid = 1 AND (l.classid::int8 << 32 | "
                  "l.objid::int8) = " RUN_KEY,
                  0, NULL, err))
        return false;
    error_set(err, ERR_LOCKED, "another run of pgcutover works on %s", pg->where);
    if (PQntuples(res) > 0)
        error_detail(err, "pid %s, %s, user %s, from %s", res_text(res, 0, 0), res_text(res, 0, 1),
                     res_text(res, 0, 2), res_text(res, 0, 3));
    PQclear(res);
    return error_hint(err, "Wait for it, or look where it stands with pgcutover status.");
}
