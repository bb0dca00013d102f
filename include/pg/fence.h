/*
 * fence.h - what stops writes on one side and proves that they stopped (FLIP.md 6.3 to 6.8).
 *
 * lock+trigger: one transaction, L, locks every table in SHARE ROW EXCLUSIVE (adaptive order, we
 * are the deadlock victim), creates a BEFORE ... FOR EACH STATEMENT trigger on each of them (leaf
 * partitions included) and stays uncommitted. Until fence_commit the death of L's session frees
 * everything. fence_commit swaps the arbiter row armed -> committing inside L and commits: that
 * makes the fence durable and is the decision.
 *
 * States of a side (fence_state): NONE no triggers; CLOSED triggers raise 25006; OPEN triggers are
 * there but the function lets everything pass (fence_open, one statement), until fence_drop removed
 * them. Sessions with session_replication_role = replica (ours) pass through.
 */
#ifndef PGCUTOVER_PG_FENCE_H
#define PGCUTOVER_PG_FENCE_H

#include "pg/slot.h"

enum fence_state { FENCE_NONE, FENCE_CLOSED, FENCE_OPEN };

struct fence_options {
    const char *run;
    int64_t deadline_us;     /* of the whole operation: the pause's budget */
    int lock_timeout_ms;     /* of one try */
    int deadlock_timeout_ms; /* 20: we are the victim, never a client; ignored when not allowed to
                                set it */
    int64_t idle_limit_ms;   /* idle_in_transaction_session_timeout of L: the dead man's switch */
};

/* BEGIN and the locks. On success L is open and holds them; on failure it is rolled back.
 * ERR_BUDGET, with the blockers (pid, user, client, table) as detail, when the deadline passes. */
bool fence_lock(struct pg *l, struct pg *control, const struct catalog *cat,
                const struct fence_options *o, struct error *err) WARN_UNUSED;
/* The triggers, in L. function pgcutover.fence() is made closed in L as well. */
bool fence_triggers(struct pg *l, const struct catalog *cat, struct error *err) WARN_UNUSED;
/* No prepared transaction in this database, no foreign session with an assigned xid; waits up to
 * the deadline. Sessions that wait for our own locks are passed over: they can only fail once the
 * triggers stand. */
bool fence_leftovers(struct pg *control, const struct fence_options *o,
                     struct error *err) WARN_UNUSED;

enum fence_decision {
    FENCE_COMMITTED, /* the swap and the COMMIT were acknowledged */
    FENCE_REVOKED,   /* the arbiter had been revoked, or L was dead: rolled back, nothing done */
    FENCE_UNKNOWN    /* the connection broke around COMMIT: ask arbiter_read on a new one */
};
/* True when it is decided (*out COMMITTED or REVOKED); false, with err, for UNKNOWN. */
bool fence_commit(struct pg *l, const char *run, enum fence_decision *out,
                  struct error *err) WARN_UNUSED;

/* Locks, triggers and commit in one go, for a side that serves nobody (green after its migrations).
 */
bool fence_install(struct pg *pg, struct pg *control, const struct catalog *cat,
                   const struct fence_options *o, struct error *err) WARN_UNUSED;
bool fence_open(struct pg *pg,
                struct error *err) WARN_UNUSED; /* let writes pass: CREATE OR REPLACE FUNCTION */
bool fence_close(struct pg *pg,
                 struct error *err) WARN_UNUSED; /* the opposite; for triggers that still stand */
bool fence_drop(struct pg *pg, int64_t deadline_us,
                struct error *err) WARN_UNUSED; /* triggers, per table with retries */
bool fence_state(struct pg *pg, enum fence_state *out, struct error *err) WARN_UNUSED;
/* Before the pause: a new session's first look into the catalogs and first PL/pgSQL cost
 * milliseconds. */
bool fence_warm(struct pg *l, struct error *err) WARN_UNUSED;
/* How many tables of cat lack an enabled fence trigger: 0 when the fence covers all. */
bool fence_gaps(struct pg *pg, const struct catalog *cat, size_t *gaps,
                struct error *err) WARN_UNUSED;
/* Client sessions of this database that aren't ours: count, and end them (best effort). */
bool fence_end_sessions(struct pg *control, int *ended, struct error *err) WARN_UNUSED;

/* The event trigger that refuses DDL outside pg_temp while the run is on, naming the run (TRAPS 62:
 * temporary tables, SELECT INTO TEMP, REFRESH MATERIALIZED VIEW go on). Our own sessions pass
 * (application_name "pgcutover/<run>/..."). Needs superuser: *made is false (no error) when we may
 * not. */
bool guard_install(struct pg *pg, const char *run, bool *made, struct error *err) WARN_UNUSED;
bool guard_drop(struct pg *pg, const char *run, struct error *err) WARN_UNUSED;
bool guard_exists(struct pg *pg, const char *run, bool *yes, struct error *err) WARN_UNUSED;

#endif
