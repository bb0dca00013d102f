/*
 * fence.c - stopping writes, and proving that they stopped.
 *
 * Locks first. Each table has a LOCK statement of its own, all of them in one message: the number
 * of answers tells at which table it ended. A deadlock or a timeout makes that table the first of
 * the next try, so that the others are not held while it is waited for.
 *
 * The server looks for a deadlock once, deadlock_timeout after a wait began. A cycle that closes
 * later would be found by the client that closed it, whose transaction would fail. So while L
 * waits, the control connection looks every few milliseconds whether one that we wait for waits for
 * us, and then it is L that gives way.
 *
 * Clients that take the same tables in opposite orders leave no order in which we could wait:
 * holding either table, we are in the way of one of them. After some deadlocks L therefore waits
 * for nothing for a while and takes all tables in a moment when nobody holds any (NOWAIT), then
 * waits again.
 */
#include "pg/fence.h"
#include "pg/facts.h"

#include "private.h"

#include "base/alloc.h"
#include "base/fault.h"
#include "sys/stop.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_LOOK_MS 15 /* under the 20 ms after which a deadlock ends the wait */
#define NEXT_LOOK_MS 40
#define DEADLOCKS_TO_RUSH 2
#define RUSH_MS 200
#define LEFTOVERS_MARGIN_US 50000 /* so that the last look still has time to name them */

/* LOCK TABLE takes no foreign tables; CREATE TRIGGER locks those by itself. */
static bool lockable(const struct cat_table *t)
{
    return t->relkind == 'r' || t->relkind == 'p';
}

struct lock_try {
    const struct fence_options *o;
    const struct cat_table **order;
    size_t n;
    bool deadlock_timeout;
    int deadlocks;          /* since the last rush */
    int64_t rush_until_us;  /* until then with NOWAIT */
    struct strbuf blockers; /* seen while we waited: afterwards nobody blocks us any more */
};

static int remaining_ms(int64_t deadline_us)
{
    int64_t left = deadline_us == CLOCK_NONE ? INT32_MAX : (deadline_us - clock_us() + 999) / 1000;

    return left <= 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int) left;
}

static bool is_rush(const struct lock_try *t)
{
    return !clock_passed(t->rush_until_us);
}

/* Returns how many statements stand before the first LOCK. */
static size_t build_locks(struct strbuf *sql, const struct lock_try *t)
{
    int left = remaining_ms(t->o->deadline_us);
    int timeout =
        t->o->lock_timeout_ms > 0 && t->o->lock_timeout_ms < left ? t->o->lock_timeout_ms : left;

    strbuf_reset(sql);
    strbuf_addf(
        sql,
        "BEGIN; SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %lld;",
        timeout > 0 ? timeout : 1, (long long) t->o->idle_limit_ms);
    if (t->deadlock_timeout)
        strbuf_addf(sql, "SET LOCAL deadlock_timeout = %d;", t->o->deadlock_timeout_ms);
    for (size_t i = 0; i < t->n; i++)
        strbuf_addf(sql, "LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE%s;", t->order[i]->sql_name,
                    is_rush(t) ? " NOWAIT" : "");
    return t->deadlock_timeout ? 4 : 3;
}

/* True when one of them waits for us in turn. */
static bool look_at_blockers(struct pg *control, int pid, struct strbuf *out)
{
    PGresult *res = NULL;
    bool cycle = false;
    struct error ignored = {0};
    char *text = xstrfmt("%d", pid);
    const char *params[] = {text};
    const char *sql = "SELECT b.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), "
                      "coalesce(pg_catalog.host(a.client_addr), 'local'), coalesce(a.state, ''), "
                      "coalesce((extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) * "
                      "1000000)::int8, 0), "
                      "(SELECT l.relation::pg_catalog.regclass FROM pg_catalog.pg_locks l WHERE "
                      "l.pid = $1::int AND NOT l.granted "
                      "AND l.locktype = 'relation' LIMIT 1), "
                      "coalesce(pg_catalog.left(pg_catalog.regexp_replace(a.query, '\\s+', "
                      "' ', 'g'), 120), ''), (SELECT pg_catalog.string_agg(gid, ', ') FROM "
                      "pg_catalog.pg_prepared_xacts "
                      "WHERE database = pg_catalog.current_database()), $1::int = ANY "
                      "(pg_catalog.pg_blocking_pids(b.pid)) "
                      "FROM (SELECT DISTINCT pid FROM "
                      "pg_catalog.unnest(pg_catalog.pg_blocking_pids($1::int)) AS u(pid)) b "
                      "LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid LIMIT 8";

    if (pg_query(control, &res, PG_ANY, sql, 1, params, &ignored) && PQntuples(res) > 0) {
        strbuf_reset(out);
        for (int r = 0; r < PQntuples(res); r++) {
            char age[CLOCK_HUMAN_SIZE];
            cycle = cycle || res_bool(res, r, 9);
            clock_human(age, res_int(res, r, 5));
            if (out->len)
                strbuf_addch(out, '\n');
            if (res_int(res, r, 0) == 0)
                strbuf_addf(out, "table %s, held by a prepared transaction (%s)",
                            res_text(res, r, 6), res_text(res, r, 8));
            else
                strbuf_addf(out,
                            "table %s, held by pid %s, user %s, application \"%s\", client %s, %s, "
                            "open for %s: %s",
                            res_text(res, r, 6), res_text(res, r, 0), res_text(res, r, 1),
                            res_text(res, r, 2), res_text(res, r, 3), res_text(res, r, 4), age,
                            res_text(res, r, 7));
        }
    }
    PQclear(res);
    free(text);
    return cycle;
}

static bool over_budget(const struct lock_try *t, size_t at, struct error *err)
{
    if (at < t->n)
        error_set(err, ERR_BUDGET, "table %s could not be locked within the budget",
                  t->order[at]->sql_name);
    else
        error_set(err, ERR_BUDGET, "the tables could not be locked within the budget");
    error_detail(err, "%s", strbuf_cstr(&t->blockers));
    return error_hint(
        err, "Nothing is held any more. Wait for the sessions named, or end them, then go again.");
}

static void move_to_front(struct lock_try *t, size_t at)
{
    const struct cat_table *waited = t->order[at];

    memmove(&t->order[1], &t->order[0], at * sizeof *t->order);
    t->order[0] = waited;
}

enum outcome { LOCKED, AGAIN, FAILED };

static enum outcome try_locks(struct pg *l, struct pg *control, struct lock_try *t,
                              struct error *err)
{
    struct strbuf sql = {0};
    struct pg_call call = {0};
    size_t before = build_locks(&sql, t), at = 0;
    int64_t look = clock_in_ms(FIRST_LOOK_MS);
    bool over = false, late = false, cycle = false, rush = is_rush(t);

    if (clock_passed(t->o->deadline_us) || !pg_start(l, strbuf_cstr(&sql), err)) {
        strbuf_release(&sql);
        if (clock_passed(t->o->deadline_us))
            over_budget(t, 0, err);
        return FAILED;
    }
    strbuf_release(&sql);
    while (!over) {
        over = pg_pump(l, &call, look < t->o->deadline_us ? look : t->o->deadline_us);
        late = !over && clock_passed(t->o->deadline_us);
        if (!over && !late && !(l->stoppable && stop_requested())) {
            cycle = look_at_blockers(control, pg_pid(l), &t->blockers);
            look = clock_in_ms(NEXT_LOOK_MS);
            if (!cycle)
                continue;
        }
        if (!over) {
            over = true;
            (void) pg_cancel(l, &call);
        }
    }
    at = call.completed > before ? call.completed - before : 0;
    if (!call.failed && !pg_is_bad(l)) {
        pg_call_release(&call);
        return LOCKED;
    }
    *err = call.error;
    pg_call_release(&call);
    pg_rollback(l);
    if (!late && l->stoppable && !stop_check(err))
        return FAILED;
    if (late) {
        over_budget(t, at, err);
        return FAILED;
    }
    cycle = cycle && strcmp(err->sqlstate, "57014") == 0;
    if (!cycle && strcmp(err->sqlstate, "40P01") != 0 && strcmp(err->sqlstate, "55P03") != 0)
        return FAILED;
    if (rush) {
        clock_sleep_ms(1 + (int) (clock_us() % 3));
        return AGAIN;
    }
    if (at < t->n)
        move_to_front(t, at);
    if (strcmp(err->sqlstate, "55P03") != 0 && ++t->deadlocks >= DEADLOCKS_TO_RUSH) {
        t->deadlocks = 0;
        t->rush_until_us = clock_in_ms(RUSH_MS);
    }
    if (strcmp(err->sqlstate, "55P03") == 0) { /* let the writers that queued behind us breathe */
        int breath = 50 + (int) (clock_us() % 50);
        if (remaining_ms(t->o->deadline_us) <= breath) {
            over_budget(t, 0, err);
            return FAILED;
        }
        clock_sleep_ms(breath);
    }
    return AGAIN;
}

bool fence_lock(struct pg *l, struct pg *control, const struct catalog *cat,
                const struct fence_options *o, struct error *err)
{
    struct lock_try t = {.o = o, .order = xcalloc(cat->ntables + 1, sizeof *t.order)};
    enum outcome outcome = AGAIN;

    if (pg_in_transaction(l))
        BUG("fence_lock inside a transaction");
    for (size_t i = 0; i < cat->ntables; i++)
        if (lockable(&cat->tables[i]))
            t.order[t.n++] = &cat->tables[i];
    t.deadlock_timeout = o->deadlock_timeout_ms > 0 && pg_may_set_deadlock_timeout(l);
    while (outcome == AGAIN) {
        error_clear(err);
        outcome = try_locks(l, control, &t, err);
    }
    free(t.order);
    strbuf_release(&t.blockers);
    return outcome == LOCKED || error_push(err, "locking %zu tables on %s", t.n, l->where);
}

/* The word after "pgcutover:" is what fence_state reads. */
static void add_function(struct strbuf *sql, const char *run, bool closed)
{
    struct strbuf body = {0}, text = {0};

    if (closed) {
        strbuf_addf(&text, "writes are stopped here: this database is being moved%s%s",
                    run ? " by pgcutover run " : "", run ? run : "");
        strbuf_addstr(
            &body,
            "BEGIN /* pgcutover:closed */ RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = ");
        pg_add_literal(&body, strbuf_cstr(&text));
        strbuf_addstr(&body, ", HINT = 'Connect again and retry: the application is about to be "
                             "pointed elsewhere.'; END");
    } else {
        strbuf_addstr(&body, "BEGIN /* pgcutover:open */ RETURN NULL; END");
    }
    strbuf_addstr(
        sql, "CREATE OR REPLACE FUNCTION pgcutover.fence() RETURNS trigger LANGUAGE plpgsql AS ");
    pg_add_literal(sql, strbuf_cstr(&body));
    strbuf_release(&body);
    strbuf_release(&text);
}

static bool has_trigger(const PGresult *res, int *next, Oid oid)
{
    while (*next < PQntuples(res) && res_oid(res, *next, 0) < oid)
        ++*next;
    return *next < PQntuples(res) && res_oid(res, *next, 0) == oid;
}

/* A trigger for statements on a partitioned table is not copied to its partitions, which can be
 * written directly. */
bool fence_triggers(struct pg *l, const struct catalog *cat, struct error *err)
{
    struct strbuf sql = {0};
    PGresult *res = NULL;
    int next = 0;
    bool ok;

    if (!pg_query(l, &res, PG_ANY,
                  "SELECT tgrelid FROM pg_catalog.pg_trigger WHERE tgname = '" FENCE_TRIGGER
                  "' ORDER BY tgrelid",
                  0, NULL, err))
        return false;
    strbuf_addstr(&sql, pg_quiet_ddl(l));
    strbuf_addstr(&sql, "CREATE SCHEMA IF NOT EXISTS pgcutover; ");
    add_function(&sql, l->run, true);
    strbuf_addch(&sql, ';');
    for (size_t i = 0; i < cat->ntables; i++) {
        const struct cat_table *t = &cat->tables[i];
        bool truncate = t->relkind != 'f' || pg_version(l) >= 160000;
        if (has_trigger(res, &next, t->oid))
            continue;
        strbuf_addf(&sql,
                    "CREATE TRIGGER " FENCE_TRIGGER " BEFORE INSERT OR UPDATE OR DELETE%s ON %s "
                    "FOR EACH STATEMENT EXECUTE FUNCTION pgcutover.fence();",
                    truncate ? " OR TRUNCATE" : "", t->sql_name);
    }
    PQclear(res);
    if (*pg_quiet_ddl(l))
        strbuf_addstr(&sql, "SET LOCAL session_replication_role = origin");
    ok = pg_exec(l, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    return ok || error_push(err, "making the fence's triggers on %s", l->where);
}

static bool leftovers_once(struct pg *control, const char *run, struct strbuf *out,
                           struct error *err)
{
    char prefix[64];
    const char *params[] = {prefix};
    PGresult *res = NULL;
    const char *sql =
        "WITH own AS (SELECT pg_catalog.array_agg(pid) AS pids FROM pg_catalog.pg_stat_activity "
        "WHERE "
        "pg_catalog.starts_with(application_name, $1)) "
        "SELECT 'prepared transaction \"' || gid || '\" of ' || owner FROM "
        "pg_catalog.pg_prepared_xacts "
        "WHERE database = pg_catalog.current_database() UNION ALL "
        "SELECT 'pid ' || a.pid || ', user ' || coalesce(a.usename, '') || ', application \"' || "
        "coalesce(a.application_name, '') || '\", client ' || "
        "coalesce(pg_catalog.host(a.client_addr), 'local') || ', ' || "
        "coalesce(a.state, '') || ', open since ' || coalesce(a.xact_start::text, '?') "
        "FROM pg_catalog.pg_stat_activity a, own WHERE a.datid = (SELECT oid FROM "
        "pg_catalog.pg_database WHERE datname = "
        "pg_catalog.current_database()) AND a.backend_type <> 'autovacuum worker' AND "
        "a.pid <> pg_catalog.pg_backend_pid() AND NOT coalesce(a.pid = ANY (own.pids), false) AND "
        "EXISTS (SELECT FROM "
        "pg_catalog.pg_locks l WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND "
        "l.granted AND "
        "l.pid = a.pid) AND NOT coalesce(pg_catalog.pg_blocking_pids(a.pid) && own.pids, false)";

    pg_own_prefix(control, run, prefix);
    strbuf_reset(out);
    if (!pg_query(control, &res, PG_ANY, sql, 1, params, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++)
        strbuf_addf(out, "%s%s", r ? "\n" : "", res_text(res, r, 0));
    PQclear(res);
    return true;
}

bool fence_leftovers(struct pg *control, const struct fence_options *o, struct error *err)
{
    struct strbuf found = {0};
    bool ok = false;

    while (leftovers_once(control, o->run, &found, err)) {
        ok = found.len == 0;
        if (ok)
            break;
        if (clock_passed(o->deadline_us - LEFTOVERS_MARGIN_US)) {
            error_set(err, ERR_BUDGET, "transactions that may have written are still open on %s",
                      control->where);
            error_detail(err, "%s", strbuf_cstr(&found));
            error_hint(err, "End them (ROLLBACK PREPARED or COMMIT PREPARED, "
                            "pg_terminate_backend), then go again.");
            break;
        }
        clock_sleep_ms(5);
    }
    strbuf_release(&found);
    return ok;
}

/* The COMMIT is neither cancelled nor given a deadline: only its own answer, or the arbiter's row,
 * tells. */
static bool commit_locked(struct pg *l, enum fence_decision *out, struct error *err)
{
    PGresult *res = NULL;
    bool ok;

    *out = FENCE_UNKNOWN;
    if (!FAULT("fence.before-commit", err)) {
        *out = FENCE_REVOKED;
        pg_rollback(l);
        return false;
    }
    ok = pg_exec_undisturbed(l, "COMMIT", &res, err);
    if (ok)
        *out = strcmp(PQcmdStatus(res), "COMMIT") == 0 ? FENCE_COMMITTED : FENCE_REVOKED;
    else if (!pg_is_bad(l))
        *out = FENCE_REVOKED; /* an error that the server told us about has rolled back */
    PQclear(res);
    if (*out == FENCE_UNKNOWN)
        return error_push(err, "committing the fence");
    return FAULT("fence.after-commit", err);
}

bool fence_commit(struct pg *l, const char *run, enum fence_decision *out, struct error *err)
{
    bool won = false;

    *out = FENCE_REVOKED;
    if (pg_is_bad(l) || PQtransactionStatus(l->conn) != PQTRANS_INTRANS) {
        pg_rollback(l);
        return true;
    }
    if (!arbiter_swap(l, run, "armed", "committing", &won, err) || !won) {
        pg_rollback(l); /* before COMMIT was sent nothing can have been committed */
        error_clear(err);
        return true;
    }
    return commit_locked(l, out, err);
}

bool fence_install(struct pg *pg, struct pg *control, const struct catalog *cat,
                   const struct fence_options *o, struct error *err)
{
    if (!fence_lock(pg, control, cat, o, err))
        return false;
    if (fence_triggers(pg, cat, err) && pg_commit(pg, err))
        return true;
    pg_rollback(pg);
    return false;
}

bool fence_state(struct pg *pg, enum fence_state *out, struct error *err)
{
    char *value = NULL;
    const char *sql =
        "SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgname = "
        "'" FENCE_TRIGGER "' AND t.tgfoid = p.oid) THEN 'none' WHEN p.prosrc LIKE "
        "'%pgcutover:open%' THEN 'open' ELSE 'closed' END "
        "FROM (SELECT 1) one LEFT JOIN pg_catalog.pg_proc p ON p.oid = "
        "pg_catalog.to_regproc('pgcutover.fence')";

    if (!pg_value(pg, &value, sql, 0, NULL, err))
        return false;
    *out = strcmp(value, "none") == 0   ? FENCE_NONE
           : strcmp(value, "open") == 0 ? FENCE_OPEN
                                        : FENCE_CLOSED;
    free(value);
    return true;
}

static bool replace_function(struct pg *pg, bool closed, struct error *err)
{
    struct strbuf sql = {0};
    enum fence_state state = FENCE_NONE;
    bool ok;

    if (!fence_state(pg, &state, err))
        return false;
    if (state == FENCE_NONE && !closed)
        return true;
    if (state == FENCE_NONE) {
        error_set(err, ERR_SQL, "no fence stands on %s that could be closed", pg->where);
        return error_hint(err, "Its triggers were dropped; look with pgcutover repair.");
    }
    strbuf_addstr(&sql, pg_quiet_ddl(pg));
    add_function(&sql, pg->run, closed);
    if (*pg_quiet_ddl(pg))
        strbuf_addstr(&sql, "; SET LOCAL session_replication_role = origin");
    ok = pg_exec(pg, strbuf_cstr(&sql), err);
    strbuf_release(&sql);
    return ok || error_push(err, "%s the fence on %s", closed ? "closing" : "opening", pg->where);
}

bool fence_open(struct pg *pg, struct error *err)
{
    return replace_function(pg, false, err);
}

bool fence_close(struct pg *pg, struct error *err)
{
    return replace_function(pg, true, err);
}

/* DROP TRIGGER takes an ACCESS EXCLUSIVE lock: a table at a time, never for long. */
bool fence_drop(struct pg *pg, int64_t deadline_us, struct error *err)
{
    PGresult *res = NULL;
    bool ok = true;

    if (!pg_query(pg, &res, PG_ANY,
                  "SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || "
                  "pg_catalog.quote_ident(c.relname) "
                  "FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid "
                  "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = "
                  "'" FENCE_TRIGGER
                  "' AND t.tgfoid = pg_catalog.to_regproc('pgcutover.fence') ORDER BY c.oid",
                  0, NULL, err))
        return false;
    for (int r = 0; ok && r < PQntuples(res); r++) {
        char *sql = xstrfmt("DROP TRIGGER IF EXISTS " FENCE_TRIGGER " ON %s", res_text(res, r, 1));
        ok = pg_ddl_on(pg, res_oid(res, r, 0), sql, 200, deadline_us, err);
        free(sql);
    }
    PQclear(res);
    ok = ok && pg_ddl(pg, "DROP FUNCTION IF EXISTS pgcutover.fence()", DDL_LOCK_TIMEOUT_MS,
                      deadline_us, err);
    return ok || error_push(err, "dropping the fence on %s", pg->where);
}

bool fence_end_sessions(struct pg *control, int *ended, struct error *err)
{
    char prefix[64];
    const char *params[] = {prefix};
    PGresult *res = NULL;

    *ended = 0;
    pg_own_prefix(control, NULL, prefix);
    if (!pg_query(control, &res, PG_ANY,
                  "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = "
                  "pg_catalog.current_database() AND "
                  "backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() AND NOT "
                  "coalesce(pg_catalog.starts_with(application_name, $1), false)",
                  1, params, err))
        return false;
    for (int r = 0; r < PQntuples(res); r++) {
        struct error ignored = {0};
        char *value = NULL;
        const char *pid[] = {res_text(res, r, 0)};
        /* one by one: a superuser's session that we may not end must not save the others */
        if (pg_value(control, &value, "SELECT pg_catalog.pg_terminate_backend($1::int)", 1, pid,
                     &ignored))
            *ended += value[0] == 't' ? 1 : 0;
        free(value);
    }
    PQclear(res);
    return !pg_is_bad(control) ||
           error_set(err, ERR_CONNECT, "lost the connection to %s", control->where);
}
