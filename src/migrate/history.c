/* history.c - what ran already, and the lock that lets one at a time look and act. */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"
#include "sys/stop.h"

#include <stdio.h>
#include <stdlib.h>

#define LOCK_POLL_MS 200

static int64_t lock_key(void)
{
    static const char name[] = "pgcutover migrate";
    uint8_t sum[SHA256_SIZE];
    uint64_t key = 0;

    sha256(name, sizeof name - 1, sum);
    for (size_t i = 0; i < 8; i++)
        key = key << 8 | sum[i];
    return (int64_t) key;
}

static void say_who_holds(struct session *s, int64_t key)
{
    char high[24], low[24];
    const char *const params[] = {high, low};
    struct error ignored = {0};
    char *who = NULL;

    snprintf(high, sizeof high, "%u", (unsigned) ((uint64_t) key >> 32));
    snprintf(low, sizeof low, "%u", (unsigned) ((uint64_t) key & 0xffffffff));
    if (pg_value(s->pg, &who,
                 "SELECT coalesce(pg_catalog.max(pg_catalog.format('pid %s, %s', a.pid, "
                 "a.application_name)), '') "
                 "FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid) "
                 "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid = "
                 "$1::oid "
                 "AND l.objid = $2::oid AND l.database = (SELECT oid FROM pg_catalog.pg_database "
                 "WHERE datname = pg_catalog.current_database())",
                 2, params, &ignored))
        event_info("another session migrates this database (%s); waiting for it to end",
                   *who ? who : "unknown");
    free(who);
}

/*
 * Polled, not waited for: a session that waits inside pg_advisory_lock() holds a snapshot, and the
 * CREATE INDEX CONCURRENTLY of the lock's holder would wait for that snapshot's end (TRAPS 49).
 */
bool migrate_lock(struct session *s, struct error *err)
{
    int64_t key = lock_key();
    char text[24];
    const char *const params[] = {text};
    bool said = false;

    snprintf(text, sizeof text, "%lld", (long long) key);
    for (;;) {
        char *got = NULL;
        if (!pg_value(s->pg, &got, "SELECT pg_catalog.pg_try_advisory_lock($1::bigint)", 1, params,
                      err))
            return error_push(err, "lock of the migrations");
        bool mine = strcmp(got, "t") == 0;
        free(got);
        if (mine)
            return true;
        if (!said)
            say_who_holds(s, key);
        said = true;
        if (!stop_check(err))
            return false;
        clock_sleep_ms(LOCK_POLL_MS);
    }
}

/* "schema.table" with each part plain or in double quotes; without a schema it is pgcutover. */
static bool split_name(const char *text, struct strbuf parts[2], size_t *n)
{
    bool quoted = false;
    *n = 0;
    for (const char *p = text; *p; p++) {
        if (*p == '"' && quoted && p[1] == '"')
            strbuf_addch(&parts[*n], *p++);
        else if (*p == '"')
            quoted = !quoted;
        else if (*p == '.' && !quoted && *n == 0)
            *n = 1;
        else if (*p == '.' && !quoted)
            return false;
        else
            strbuf_addch(&parts[*n], *p);
    }
    ++*n;
    return !quoted && parts[0].len > 0 && (*n == 1 || parts[1].len > 0);
}

bool history_install(struct session *s, struct error *err)
{
    struct strbuf parts[2] = {{0}, {0}};
    struct strbuf sql = {0};
    struct strbuf name = {0};
    size_t n = 0;
    bool ok = split_name(s->o->history_table, parts, &n);

    if (!ok) {
        error_set(err, ERR_MIGRATION, "\"%s\" is no name of a history table", s->o->history_table);
        error_hint(err, "Write the playbook's [migrations] history_table as schema.table.");
        goto out;
    }
    pg_add_ident(&name, n == 2 ? strbuf_cstr(&parts[0]) : "pgcutover");
    strbuf_addf(&sql, "CREATE SCHEMA IF NOT EXISTS pgcutover; CREATE SCHEMA IF NOT EXISTS %s; ",
                strbuf_cstr(&name));
    strbuf_addch(&name, '.');
    pg_add_ident(&name, strbuf_cstr(&parts[n - 1]));
    s->history = strbuf_take(&name);
    strbuf_addf(
        &sql,
        "CREATE TABLE IF NOT EXISTS %s (version text PRIMARY KEY, name text NOT NULL, file text "
        "NOT NULL, "
        "checksum text NOT NULL, statements bigint NOT NULL, elapsed_ms bigint NOT NULL, run text, "
        "applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()); "
        "CREATE TABLE IF NOT EXISTS pgcutover.migration_statement (history text NOT NULL, "
        "version text NOT NULL, n bigint NOT NULL, checksum text NOT NULL, state text NOT NULL, "
        "at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), PRIMARY KEY (history, "
        "version, n))",
        s->history);
    /* said at every start: "already exists, skipping" is of no interest to anybody */
    ok = pg_exec(s->pg, "SET client_min_messages = warning", err) &&
         pg_exec(s->pg, strbuf_cstr(&sql), err) && pg_exec(s->pg, "RESET client_min_messages", err);
    if (!ok)
        error_push(err, "history table %s", s->history);
out:
    strbuf_release(&parts[0]);
    strbuf_release(&parts[1]);
    strbuf_release(&name);
    strbuf_release(&sql);
    return ok;
}

bool history_read(struct session *s, struct error *err)
{
    PGresult *res = NULL;
    char *sql = xstrfmt("SELECT version, file, checksum FROM %s", s->history);
    bool ok = pg_query(s->pg, &res, PG_ANY, sql, 0, NULL, err);

    for (int i = 0; ok && i < PQntuples(res); i++) {
        struct applied *a = VEC_ADD(s->applied, s->napplied, s->capapplied);
        a->version = xstrdup(PQgetvalue(res, i, 0));
        a->file = xstrdup(PQgetvalue(res, i, 1));
        a->checksum = xstrdup(PQgetvalue(res, i, 2));
    }
    PQclear(res);
    free(sql);
    return ok || error_push(err, "history table %s", s->history);
}

const struct applied *history_find(const struct session *s, const char *version)
{
    for (size_t i = 0; i < s->napplied; i++)
        if (migrate_compare_versions(s->applied[i].version, version) == 0)
            return &s->applied[i];
    return NULL;
}

static const struct applied *newest(const struct session *s)
{
    const struct applied *best = NULL;
    for (size_t i = 0; i < s->napplied; i++) {
        const struct applied *a = &s->applied[i];
        if (a->version[0] != 'R' &&
            (!best || migrate_compare_versions(a->version, best->version) > 0))
            best = a;
    }
    return best;
}

bool history_check(const struct session *s, const struct migration_list *l, struct error *err)
{
    const struct applied *last = newest(s);

    for (size_t i = 0; i < l->n; i++) {
        const struct migration *m = &l->items[i];
        const struct applied *a = history_find(s, m->version);
        if (m->repeatable)
            continue;
        if (a && strcmp(a->checksum, m->checksum) != 0) {
            error_set(err, ERR_MIGRATION, "%s was changed after it was run (as %s)", m->file,
                      a->file);
            error_detail(err, "SHA-256 then %s, now %s", a->checksum, m->checksum);
            return error_hint(
                err, "Put the file back as it was and make the change in a new one; or abort, and "
                     "begin again with a new clone.");
        }
        if (!a && last && migrate_compare_versions(m->version, last->version) < 0) {
            error_set(err, ERR_MIGRATION,
                      "%s was never run, but version %s (%s), which comes after it, was", m->file,
                      last->version, last->file);
            return error_hint(err, "Give the file a version above %s.", last->version);
        }
    }
    return true;
}

bool history_add(struct session *s, const struct migration *m, int64_t elapsed_us,
                 struct error *err)
{
    char statements[24], ms[24];
    const char *const params[] = {m->version, m->name, m->file,  m->checksum,
                                  statements, ms,      s->o->run};
    const char *const key[] = {s->history, m->version};
    char *sql = xstrfmt(
        "INSERT INTO %s AS h (version, name, file, checksum, statements, elapsed_ms, run) VALUES "
        "($1, $2, $3, $4, $5::bigint, $6::bigint, $7) ON CONFLICT (version) DO UPDATE SET "
        "name = excluded.name, file = excluded.file, checksum = excluded.checksum, "
        "statements = excluded.statements, elapsed_ms = excluded.elapsed_ms, run = excluded.run, "
        "applied_at = pg_catalog.clock_timestamp() WHERE h.version LIKE 'R%%'",
        s->history);
    PGresult *res = NULL;

    snprintf(statements, sizeof statements, "%zu", m->nstatements);
    snprintf(ms, sizeof ms, "%lld", (long long) (elapsed_us / 1000));
    /* a file may have left the session with another role */
    bool ok = pg_exec(s->pg, "RESET SESSION AUTHORIZATION; RESET ROLE", err) &&
              pg_query(s->pg, &res, PG_ANY, sql, 7, params, err);
    if (ok && strcmp(PQcmdTuples(res), "1") != 0)
        ok = error_set(err, ERR_MIGRATION, "version %s is in %s already", m->version, s->history);
    ok = ok &&
         pg_query(s->pg, NULL, PG_ANY,
                  "DELETE FROM pgcutover.migration_statement WHERE history = $1 AND version = $2",
                  2, key, err);
    PQclear(res);
    free(sql);
    return ok || error_push(err, "%s: history table %s", m->file, s->history);
}

void history_release(struct session *s)
{
    for (size_t i = 0; i < s->napplied; i++) {
        free(s->applied[i].version);
        free(s->applied[i].file);
        free(s->applied[i].checksum);
    }
    free(s->applied);
    free(s->history);
}
