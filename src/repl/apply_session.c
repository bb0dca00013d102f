/*
 * apply_session.c - the session on the target: alone, with its origin, and made again when it is
 * lost.
 *
 * A connection may be lost while the server still works on our COMMIT. A second session that read
 * the progress row then would replay what the first is about to commit. So a session holds an
 * advisory lock as long as it lives; the next one ends it, waits for the lock, and only then reads
 * the row.
 */
#include "apply_private.h"

#include "base/event.h"
#include "pg/facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORIGIN_SIZE 256
#define CLAIM_POLL_MS 10
#define BACKOFF_FIRST_MS 100
#define BACKOFF_LAST_MS 5000
#define LOCK_KEY "pg_catalog.hashtextextended('pgcutover apply ' || $1, 0)"

/*
 * Rows come from a parameter of unknown length, and the statements' plans are kept: as estimated
 * for ten rows, they must be right for any table that grows meanwhile. That is one look into the
 * key's index for each row.
 */
static const char settings[] = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = "
                               "off; SET enable_hashjoin = off; "
                               "SET enable_mergejoin = off; SET jit = off";

static bool end_holder(struct apply *a, struct error *err)
{
    const char *params[] = {a->o.run};
    static const char sql[] =
        "SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l, "
        "(SELECT " LOCK_KEY
        " AS k) h WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted "
        "AND l.database = (SELECT oid FROM pg_catalog.pg_database "
        "WHERE datname = pg_catalog.current_database()) "
        "AND l.classid::bigint = ((h.k >> 32) & 4294967295) "
        "AND l.objid::bigint = (h.k & 4294967295)";
    return pg_query(a->pg, NULL, PG_ANY, sql, 1, params, err);
}

static bool claim(struct apply *a, struct error *err)
{
    const char *params[] = {a->o.run};

    for (bool first = true; !atomic_load(&a->stop); first = false) {
        char *got = NULL;
        if (!pg_value(a->pg, &got, "SELECT pg_catalog.pg_try_advisory_lock(" LOCK_KEY ")", 1,
                      params, err))
            return false;
        bool ours = got[0] == 't';
        free(got);
        if (ours)
            return true;
        if (first && !end_holder(a, err))
            return false;
        clock_sleep_ms(CLAIM_POLL_MS);
    }
    return error_set(err, ERR_STOPPED, "replay was asked to stop");
}

/* Origins are the cluster's, and only one session may use one; blue and green may be in one
 * cluster. */
static void origin_name(const char *run, const struct pg_identity *target, char name[ORIGIN_SIZE])
{
    snprintf(name, ORIGIN_SIZE, "pgcutover_%s_%u", run, (unsigned) target->database_oid);
}

bool origin_is_ours(const char *run, const char *name)
{
    size_t len = strlen(run);

    if (strncmp(name, "pgcutover_", 10) != 0 || strncmp(name + 10, run, len) != 0 ||
        name[10 + len] != '_')
        return false;
    const char *oid = name + 10 + len + 1;
    return oid[0] && oid[strspn(oid, "0123456789")] == '\0';
}

/* A clone that was dropped without an abort left its origin: they are few (max_replication_slots),
 * and nobody else would ever drop it. */
static bool drop_orphans(struct apply *a, struct error *err)
{
    return pg_query(
        a->pg, NULL, PG_ANY,
        "SELECT pg_catalog.pg_replication_origin_drop(roname) FROM "
        "pg_catalog.pg_replication_origin WHERE roname ~ '^pgcutover_.*_[0-9]{1,10}$' AND "
        "pg_catalog.substring(roname, '[0-9]+$')::bigint NOT IN (SELECT oid::bigint FROM "
        "pg_catalog.pg_database)",
        0, NULL, err);
}

/* Without it the other direction's capture would take our writes for clients' ones, so that is
 * said. */
static bool set_origin(struct apply *a, struct error *err)
{
    char name[ORIGIN_SIZE];
    const char *params[] = {name};
    struct error e = {0};

    origin_name(a->o.run, &a->identity, name);
    if (drop_orphans(a, &e) &&
        pg_query(a->pg, NULL, PG_ANY,
                 "SELECT pg_catalog.pg_replication_origin_create($1) "
                 "WHERE pg_catalog.pg_replication_origin_oid($1) IS NULL",
                 1, params, &e) &&
        pg_query(a->pg, NULL, PG_ANY, "SELECT pg_catalog.pg_replication_origin_session_setup($1)",
                 1, params, &e))
        return true;
    if (strcmp(e.sqlstate, "42501") != 0) {
        *err = e;
        return false;
    }
    if (!a->warned_origin)
        event_warn("replay runs without a replication origin: %s; a way back can't tell its writes "
                   "from clients' ones",
                   e.message);
    a->warned_origin = true;
    return true;
}

bool apply_drop_origin(struct pg *pg, const char *run, struct error *err)
{
    char name[ORIGIN_SIZE];
    const char *params[] = {name};
    struct pg_identity target = {0};

    if (!pg_identify(pg, &target, err))
        return false;
    origin_name(run, &target, name);
    return pg_query(pg, NULL, PG_ANY,
                    "SELECT pg_catalog.pg_replication_origin_drop(roname) "
                    "FROM pg_catalog.pg_replication_origin WHERE roname = $1",
                    1, params, err);
}

static bool same_target(struct apply *a, struct error *err)
{
    struct pg_identity now = {0};

    if (!pg_identify(a->pg, &now, err))
        return false;
    if (a->identity.system_id == 0)
        a->identity = now;
    if (!pg_same_database(&a->identity, &now)) {
        error_set(err, ERR_VOID, "the target is another database than before");
        return error_hint(err,
                          "Look at what the connection string leads to with `pgcutover repair`.");
    }
    return true;
}

static bool set_up(struct apply *a, lsn_t *commit_lsn, lsn_t *end_lsn, struct error *err)
{
    bool found = false;

    pg_set_stoppable(a->pg, false);
    *commit_lsn = *end_lsn = 0;
    return same_target(a, err) && claim(a, err) && pg_exec(a->pg, settings, err) &&
           set_origin(a, err) && progress_get(a->pg, a->o.run, commit_lsn, end_lsn, &found, err);
}

bool session_open(struct apply *a, lsn_t *commit_lsn, lsn_t *end_lsn, struct error *err)
{
    if (!pg_open(&a->pg, a->o.conninfo, a->o.dbname, PG_APPLY, a->o.run, "apply", a->o.encoding,
                 err))
        return false;
    if (!set_up(a, commit_lsn, end_lsn, err)) {
        pg_close(a->pg);
        a->pg = NULL;
        return false;
    }
    pthread_mutex_lock(&a->mutex);
    a->cancel = PQgetCancel(pg_raw(a->pg));
    pthread_mutex_unlock(&a->mutex);
    return true;
}

void session_close(struct apply *a)
{
    pthread_mutex_lock(&a->mutex);
    PQfreeCancel(a->cancel);
    a->cancel = NULL;
    pthread_mutex_unlock(&a->mutex);
    pg_rollback(a->pg);
    pg_close(a->pg);
    a->pg = NULL;
}

bool reader_start(struct apply *a, struct error *err)
{
    spool_reader_close(a->reader);
    a->reader = NULL;
    a->have = a->txn.open = false;
    return spool_reader_open(a->o.spool, a->committed, &a->reader, err);
}

/* False when asked to stop. */
static bool wait_ms(struct apply *a, int ms)
{
    int64_t until = clock_in_ms(ms);

    pthread_mutex_lock(&a->mutex);
    while (!atomic_load(&a->stop) && !clock_passed(until))
        thread_cond_wait(&a->cond, &a->mutex, until);
    pthread_mutex_unlock(&a->mutex);
    return !atomic_load(&a->stop);
}

static bool reconnect(struct apply *a, lsn_t *commit_lsn, lsn_t *end_lsn, struct error *err)
{
    int backoff = BACKOFF_FIRST_MS;
    bool warned = false;

    session_close(a);
    while (!session_open(a, commit_lsn, end_lsn, err)) {
        if (err->code == ERR_VOID || atomic_load(&a->stop))
            return false;
        /* the first try often meets our old session, still on its way out */
        if (!warned && backoff > BACKOFF_FIRST_MS) {
            event_warn("replay lost the target and tries again: %s", err->message);
            warned = true;
        }
        if (!wait_ms(a, backoff))
            return error_set(err, ERR_STOPPED, "replay was asked to stop");
        backoff = backoff * 2 < BACKOFF_LAST_MS ? backoff * 2 : BACKOFF_LAST_MS;
    }
    if (warned)
        event_info("replay has the target again");
    return true;
}

/* What became of the COMMIT that was sent, by the progress row. */
static bool settle(struct apply *a, lsn_t commit_lsn, struct error *err)
{
    char now[LSN_SIZE];
    char before[LSN_SIZE];

    if (a->committing && commit_lsn == a->pending.commit_lsn)
        return committed(a, err);
    if (commit_lsn == a->committed) {
        batch_rolled_back(a->batch);
        a->pending = (struct pending){0};
        a->committing = false;
        return true;
    }
    error_set(err, commit_lsn < a->committed ? ERR_VOID : ERR_LOCKED,
              "replay's position on the target is %s and was %s", lsn_str(now, commit_lsn),
              lsn_str(before, a->committed));
    return commit_lsn < a->committed
               ? error_hint(err,
                            "The target has lost commits that it had acknowledged (a failover?).")
               : error_hint(err, "Another process replays this run. End it, then resume.");
}

bool session_recover(struct apply *a, struct error *err)
{
    lsn_t commit_lsn = 0;
    lsn_t end_lsn = 0;
    bool found = false;

    pg_rollback(a->pg);
    if (!a->pg || pg_is_bad(a->pg) ||
        !progress_get(a->pg, a->o.run, &commit_lsn, &end_lsn, &found, err)) {
        if (!reconnect(a, &commit_lsn, &end_lsn, err))
            return false;
    }
    error_clear(err);
    return settle(a, commit_lsn, err) && reader_start(a, err);
}
