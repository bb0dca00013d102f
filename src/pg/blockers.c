/* blockers.c - who stands in the way, and DDL that gives way. */
#include "private.h"

#include "base/alloc.h"
#include "sys/stop.h"

#include <stdlib.h>
#include <string.h>

const char *pg_quiet_ddl(struct pg *pg)
{
    const char *super = PQparameterStatus(pg->conn, "is_superuser");

    return super && strcmp(super, "on") == 0 ? "SET LOCAL session_replication_role = replica; "
                                             : "";
}

bool pg_may_set_deadlock_timeout(struct pg *pg)
{
    const char *super = PQparameterStatus(pg->conn, "is_superuser");
    struct error ignored = {0};
    char *value = NULL;
    bool may = super && strcmp(super, "on") == 0;

    if (!may && pg_version(pg) >= 150000 &&
        pg_value(pg, &value, "SELECT pg_catalog.has_parameter_privilege('deadlock_timeout', 'SET')",
                 0, NULL, &ignored))
        may = value[0] == 't';
    free(value);
    return may;
}

/*
 * A transaction with an xid holds an exclusive lock on it, which pg_locks shows to everybody;
 * pg_stat_activity hides most of other users' sessions from those who lack pg_monitor.
 */
bool pg_blockers(struct pg *pg, int64_t min_age_us, struct pg_blocker **out, size_t *n,
                 struct error *err)
{
    PGresult *res = NULL;
    char *age = xstrfmt("%lld", (long long) min_age_us);
    const char *params[] = {age};
    size_t cap = 0;
    bool ok;
    const char *sql =
        "SELECT * FROM (SELECT a.pid, coalesce(a.usename, ''), coalesce(a.datname, ''), "
        "coalesce(a.application_name, ''), coalesce(pg_catalog.host(a.client_addr), 'local'), "
        "coalesce(a.state, ''), "
        "coalesce((extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) * "
        "1000000)::int8, -1) AS age, "
        "coalesce(pg_catalog.regexp_replace(a.query, '\\s+', ' ', 'g'), '') FROM "
        "pg_catalog.pg_stat_activity a "
        "WHERE a.pid <> pg_catalog.pg_backend_pid() AND NOT "
        "coalesce(pg_catalog.starts_with(a.application_name, "
        "'pgcutover/'), false) AND ((a.xact_start IS NOT NULL AND (a.backend_xid IS NOT NULL OR "
        "a.backend_xmin IS NOT "
        "NULL)) OR EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'transactionid' "
        "AND l.pid = a.pid AND "
        "l.granted AND l.mode = 'ExclusiveLock')) "
        "UNION ALL SELECT 0, p.owner, p.database, p.gid, '', 'prepared', "
        "(extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared) * 1000000)::int8, '' "
        "FROM pg_catalog.pg_prepared_xacts p) q WHERE age < 0 OR age >= $1::int8 ORDER BY age DESC "
        "LIMIT 100";

    *out = NULL;
    *n = 0;
    ok = pg_query(pg, &res, PG_ANY, sql, 1, params, err);
    for (int r = 0; ok && r < PQntuples(res); r++) {
        struct pg_blocker *b = VEC_ADD(*out, *n, cap);
        b->pid = (int) res_int(res, r, 0);
        copy_text(b->user, sizeof b->user, res_text(res, r, 1));
        copy_text(b->database, sizeof b->database, res_text(res, r, 2));
        copy_text(b->application, sizeof b->application, res_text(res, r, 3));
        copy_text(b->client, sizeof b->client, res_text(res, r, 4));
        copy_text(b->state, sizeof b->state, res_text(res, r, 5));
        b->age_us = res_int(res, r, 6);
        copy_text(b->query, sizeof b->query, res_text(res, r, 7));
    }
    PQclear(res);
    free(age);
    return ok;
}

void pg_blockers_describe(struct strbuf *sb, const struct pg_blocker *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct pg_blocker *b = &list[i];
        char age[CLOCK_HUMAN_SIZE] = "?";
        if (b->age_us >= 0)
            clock_human(age, b->age_us);
        if (sb->len)
            strbuf_addch(sb, '\n');
        if (b->pid == 0)
            strbuf_addf(sb, "prepared transaction \"%s\" of %s in %s, %s old", b->application,
                        b->user, b->database, age);
        else
            strbuf_addf(
                sb,
                "pid %d, user %s, database %s, application \"%s\", client %s, %s, open for %s: %s",
                b->pid, b->user, b->database, b->application, b->client, b->state, age, b->query);
    }
}

void pg_lock_holders(struct pg *pg, Oid relation, struct strbuf *out)
{
    PGresult *res = NULL;
    struct error ignored = {0};
    char *oid = xstrfmt("%u", relation);
    const char *params[] = {oid};
    const char *sql =
        "SELECT DISTINCT ON (a.xact_start, l.pid) coalesce(l.pid, 0), coalesce(a.usename, ''), "
        "coalesce(a.application_name, ''), coalesce(pg_catalog.host(a.client_addr), 'local'), "
        "coalesce(a.state, ''), "
        "coalesce((extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) * "
        "1000000)::int8, 0), "
        "l.relation::pg_catalog.regclass::text, l.mode FROM pg_catalog.pg_locks l "
        "LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid JOIN pg_catalog.pg_class c ON "
        "c.oid = l.relation "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE l.locktype = 'relation' "
        "AND l.granted AND "
        "c.relkind IN ('r', 'p', 'm', 'f') AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() "
        "AND "
        "($1::oid = 0 OR l.relation = $1::oid) AND " USER_NAMESPACE
        " ORDER BY a.xact_start NULLS FIRST, l.pid, l.relation LIMIT 5";

    if (pg_query(pg, &res, PG_ANY, sql, 1, params, &ignored)) {
        for (int r = 0; r < PQntuples(res); r++) {
            char age[CLOCK_HUMAN_SIZE];
            clock_human(age, res_int(res, r, 5));
            strbuf_addf(
                out,
                "%s%s%s, user %s, application \"%s\", client %s, %s, open for %s, holds %s on %s",
                out->len ? "\n" : "", res_int(res, r, 0) ? "pid " : "prepared transaction, pid ",
                res_text(res, r, 0), res_text(res, r, 1), res_text(res, r, 2), res_text(res, r, 3),
                res_text(res, r, 4), age, res_text(res, r, 7), res_text(res, r, 6));
        }
    }
    PQclear(res);
    free(oid);
}

/* One message is one transaction and one round trip. */
bool pg_ddl_on(struct pg *pg, Oid relation, const char *sql, int lock_timeout_ms,
               int64_t deadline_us, struct error *err)
{
    struct strbuf whole = {0}, holders = {0};
    bool ok = false;

    if (pg_in_transaction(pg))
        BUG("pg_ddl inside a transaction");
    strbuf_addf(&whole, "BEGIN; SET LOCAL lock_timeout = %d; ", lock_timeout_ms);
    if (pg_may_set_deadlock_timeout(pg))
        strbuf_addstr(&whole, "SET LOCAL deadlock_timeout = 20; ");
    strbuf_addstr(&whole, pg_quiet_ddl(pg));
    strbuf_addf(&whole, "%s; COMMIT", sql);
    for (;;) {
        ok = pg_exec(pg, strbuf_cstr(&whole), err);
        if (ok)
            break;
        strbuf_reset(&holders);
        pg_rollback(pg);
        if (strcmp(err->sqlstate, "55P03") != 0 && strcmp(err->sqlstate, "40P01") != 0)
            break;
        pg_lock_holders(pg, relation, &holders);
        if (clock_passed(deadline_us)) {
            error_set(err, ERR_TIMEOUT, "a lock on %s could not be had in time", pg->where);
            error_detail(err, "%s", strbuf_cstr(&holders));
            error_hint(err, "End the sessions named, or wait for them, and try again.");
            break;
        }
        if (pg->stoppable && !stop_check(err))
            break;
        error_clear(err);
        clock_sleep_ms(100); /* those who queued behind us go first */
    }
    strbuf_release(&whole);
    strbuf_release(&holders);
    return ok;
}

bool pg_ddl(struct pg *pg, const char *sql, int lock_timeout_ms, int64_t deadline_us,
            struct error *err)
{
    return pg_ddl_on(pg, 0, sql, lock_timeout_ms, deadline_us, err);
}
