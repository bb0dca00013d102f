/*
 * resume.c - files that aren't one transaction, recorded statement by statement in
 * pgcutover.migration_statement.
 *
 * What can run in a transaction does, together with its record: it is done and recorded, or
 * neither. The same is true of a transaction that the file opens itself. What can't (CREATE INDEX
 * CONCURRENTLY, CALL ...) is announced as "begun" before, and marked "done" or "failed" after:
 *
 *   none -> begun -> done     a resume goes on behind it
 *             |----> failed   a resume runs it again; the invalid index it left is dropped first
 *             '----  death    a resume finds "begun". An index that is valid counts as done; an
 *                             invalid one is dropped and made again. CALL, and DO with COMMIT, may
 *                             have worked in part, which only their author can judge: refused,
 *                             with the two ways on.
 */
#include "private.h"

#include "base/alloc.h"
#include "base/event.h"

#include <stdio.h>
#include <stdlib.h>

static bool in_transaction(const struct session *s)
{
    return PQtransactionStatus(pg_raw(s->pg)) != PQTRANS_IDLE;
}

/* Has the file changed its role? Only asked when it speaks of roles at all. */
static bool foreign_role(struct session *s, const struct script *script, struct strbuf *back,
                         bool *foreign, struct error *err)
{
    PGresult *res = NULL;

    *foreign = false;
    if (!strcasestr(script->text, "role") && !strcasestr(script->text, "authorization"))
        return true;
    if (!pg_query(s->pg, &res, 1, "SELECT pg_catalog.current_setting('role'), session_user", 0,
                  NULL, err))
        return false;
    const char *role = PQgetvalue(res, 0, 0);
    *foreign =
        strcmp(role, "none") != 0 || strcmp(PQgetvalue(res, 0, 1), PQuser(pg_raw(s->pg))) != 0;
    strbuf_addstr(back, "; SET LOCAL SESSION AUTHORIZATION ");
    pg_add_literal(back, PQgetvalue(res, 0, 1));
    strbuf_addstr(back, "; SET LOCAL ROLE ");
    pg_add_literal(back, role);
    PQclear(res);
    return true;
}

/* In the open transaction, or one of its own; as the role that we logged in as. */
static bool record(struct session *s, const struct migration *m, const struct script *script,
                   size_t n, const char *state, struct error *err)
{
    struct strbuf sql = {0};
    struct strbuf back = {0};
    bool foreign = false;
    bool open = in_transaction(s);
    bool ok = foreign_role(s, script, &back, &foreign, err);

    if (foreign)
        strbuf_addstr(&sql, "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL role TO DEFAULT; ");
    strbuf_addstr(&sql, "INSERT INTO pgcutover.migration_statement AS s (history, version, n, "
                        "checksum, state) VALUES (");
    pg_add_literal(&sql, s->history);
    strbuf_addstr(&sql, ", ");
    pg_add_literal(&sql, m->version);
    strbuf_addf(
        &sql,
        ", %zu, '%s', '%s') ON CONFLICT (history, version, n) DO UPDATE SET "
        "checksum = excluded.checksum, state = excluded.state, at = pg_catalog.clock_timestamp()",
        n + 1, script->items[n].checksum, state);
    if (foreign && open)
        strbuf_addstr(&sql, strbuf_cstr(&back));
    /* several statements in one message are one transaction; SET LOCAL ends with it */
    ok = ok && pg_exec(s->pg, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    strbuf_release(&back);
    return ok ||
           error_push(err, "%s:%d: recording that it is %s", m->file, script->items[n].line, state);
}

/* The state of statement n (from 0) in an earlier try; "" for none. */
static bool earlier_state(struct session *s, const struct migration *m, size_t n, char state[16],
                          struct error *err)
{
    char number[24];
    const char *const params[] = {s->history, m->version, number};
    char *value = NULL;

    snprintf(number, sizeof number, "%zu", n + 1);
    if (!pg_value(s->pg, &value,
                  "SELECT coalesce(pg_catalog.max(state), '') FROM pgcutover.migration_statement "
                  "WHERE history = $1 AND version = $2 AND n = $3::bigint",
                  3, params, err))
        return false;
    snprintf(state, 16, "%s", value);
    free(value);
    return true;
}

bool resume_point(struct session *s, const struct migration *m, const struct script *script,
                  size_t *finished, struct error *err)
{
    const char *const params[] = {s->history, m->version};
    PGresult *res = NULL;
    bool ok = pg_query(
        s->pg, &res, PG_ANY,
        "SELECT n, checksum FROM pgcutover.migration_statement WHERE history = $1 AND version = $2 "
        "AND state = 'done' ORDER BY n",
        2, params, err);

    *finished = 0;
    for (int i = 0; ok && i < PQntuples(res); i++) {
        size_t n = (size_t) strtoull(PQgetvalue(res, i, 0), NULL, 10);
        if (n > script->n || strcmp(script->items[n - 1].checksum, PQgetvalue(res, i, 1)) != 0) {
            ok = error_set(err, ERR_MIGRATION,
                           "%s: statement %zu was run in an earlier try, and %s since", m->file, n,
                           n > script->n ? "was taken out" : "was changed");
            error_hint(
                err,
                "Put it back as it was, and change only what stands behind it; or abort, and begin "
                "again with a new clone.");
        }
        *finished = n;
    }
    PQclear(res);
    s->done += (int64_t) *finished;
    if (ok && *finished > 0)
        event_info("%s: %zu of %zu statements were done in an earlier try; going on behind them",
                   m->file, *finished, script->n);
    return ok;
}

bool resume_settings(struct session *s, const struct migration *m, const struct script *script,
                     size_t n, struct error *err)
{
    int64_t done = s->done;
    for (size_t i = 0; i < n; i++)
        if (script->items[i].kind == STATEMENT_SESSION && !statement_run(s, m, script, i, err))
            return false;
    s->done = done; /* counted already */
    return true;
}

/* What an earlier try left of a CREATE INDEX CONCURRENTLY. */
static bool tidy_index(struct session *s, const struct migration *m, const struct statement *st,
                       bool unknown, bool *is_done, struct error *err)
{
    const char *const params[] = {st->table};
    PGresult *res = NULL;
    bool ok =
        pg_query(s->pg, &res, PG_ANY,
                 "SELECT c.relname, pg_catalog.format('%I.%I', n.nspname, c.relname), i.indisvalid "
                 "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
                 "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                 "WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relkind = 'i'",
                 1, params, err);

    *is_done = false;
    for (int i = 0; ok && i < PQntuples(res); i++) {
        const char *name = PQgetvalue(res, i, 1);
        bool same = st->index && strcmp(st->index, PQgetvalue(res, i, 0)) == 0;
        bool valid = PQgetvalue(res, i, 2)[0] == 't';
        if (same && valid && unknown) {
            event_info("%s:%d: index %s was finished before the run ended", m->file, st->line,
                       name);
            *is_done = true;
        } else if (same && !valid) {
            event_warn("%s:%d: dropping the invalid index %s that the earlier try left, and making "
                       "it again",
                       m->file, st->line, name);
            ok = pg_execf(s->pg, err, "DROP INDEX %s", name);
        } else if (!valid) {
            event_warn(
                "%s:%d: the table also has an invalid index %s; if an earlier try left it, drop it",
                m->file, st->line, name);
        }
    }
    PQclear(res);
    return ok || error_push(err, "%s:%d: looking for an invalid index", m->file, st->line);
}

static bool refuse_unknown(const struct migration *m, const struct statement *st, size_t n,
                           struct error *err)
{
    error_set(err, ERR_MIGRATION,
              "%s:%d: the run ended while this statement was running, and it commits by itself: "
              "how far it came isn't known",
              m->file, st->line);
    return error_hint(
        err,
        "If running it again is safe, on green: DELETE FROM pgcutover.migration_statement WHERE "
        "version = '%s' AND n = %zu; if it is done: UPDATE pgcutover.migration_statement SET "
        "state = 'done' WHERE version = '%s' AND n = %zu; then resume.",
        m->version, n + 1, m->version, n + 1);
}

/* A statement that can't be in one transaction with its record. */
static bool run_announced(struct session *s, const struct migration *m, const struct script *script,
                          size_t n, const char *earlier, struct error *err)
{
    const struct statement *st = &script->items[n];
    bool unknown = strcmp(earlier, "begun") == 0;
    bool is_done = false;
    struct error ignored = {0};

    if (unknown && (st->kind == STATEMENT_CALL || st->kind == STATEMENT_COMMITS))
        return refuse_unknown(m, st, n, err);
    if (*earlier && st->kind == STATEMENT_INDEX_ALONE &&
        !tidy_index(s, m, st, unknown, &is_done, err))
        return false;
    if (is_done)
        return record(s, m, script, n, "done", err);
    if (!record(s, m, script, n, "begun", err))
        return false;
    if (statement_run(s, m, script, n, err))
        return record(s, m, script, n, "done", err);
    /* the server's own answer: it is known to have failed */
    if (err->code != ERR_MIGRATION)
        return false;
    if (in_transaction(s))
        pg_rollback(s->pg);
    if (record(s, m, script, n, "failed", &ignored) && unknown && st->kind == STATEMENT_ALONE)
        error_hint(err,
                   "The earlier try may have done it. If so, on green: UPDATE "
                   "pgcutover.migration_statement SET "
                   "state = 'done' WHERE version = '%s' AND n = %zu; then resume.",
                   m->version, n + 1);
    return false;
}

/* With its record in one transaction. */
static bool run_together(struct session *s, const struct migration *m, const struct script *script,
                         size_t n, struct error *err)
{
    bool ok = pg_begin(s->pg, "", err) && statement_run(s, m, script, n, err) &&
              record(s, m, script, n, "done", err) &&
              statement_commit(s, m, script->items[n].line, err);
    if (!ok)
        pg_rollback(s->pg);
    return ok;
}

static bool run_one(struct session *s, const struct migration *m, const struct script *script,
                    size_t n, const char *earlier, struct error *err)
{
    enum statement_kind kind = script->items[n].kind;

    if (in_transaction(s) || kind == STATEMENT_TRANSACTION)
        return statement_run(s, m, script, n, err) && record(s, m, script, n, "done", err);
    if (kind == STATEMENT_PLAIN || kind == STATEMENT_SESSION)
        return run_together(s, m, script, n, err);
    return run_announced(s, m, script, n, earlier, err);
}

bool resume_run_alone(struct session *s, const struct migration *m, const struct script *script,
                      struct error *err)
{
    size_t finished = 0;
    char earlier[16] = "";
    bool ok = resume_point(s, m, script, &finished, err) &&
              (finished == script->n || earlier_state(s, m, finished, earlier, err)) &&
              resume_settings(s, m, script, finished, err);

    for (size_t n = finished; ok && n < script->n; n++)
        ok = run_one(s, m, script, n, n == finished ? earlier : "", err);
    if (ok && in_transaction(s)) {
        ok = error_set(err, ERR_MIGRATION, "%s: the file ends with its transaction open", m->file);
        error_hint(err, "End it with COMMIT, or take its BEGIN out; what it did was rolled back.");
    }
    if (!ok)
        pg_rollback(s->pg);
    return ok;
}
